//! What neighbours are found by, and their listing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::ethernet::Mac;

use super::{Neighbors, State};
use crate::clock::Nanos;

/// Interface and family, and the address in two words.
pub(super) type NeighborKey = [u64; 3];

pub(super) fn key(interface: u16, address: IpAddr) -> NeighborKey {
    match address {
        IpAddr::V4(v4) => [u64::from(interface) << 8 | 4, 0, v4.to_bits().into()],
        IpAddr::V6(v6) => [u64::from(interface) << 8 | 6, (v6.to_bits() >> 64) as u64, v6.to_bits() as u64],
    }
}

/// The key of ourselves for packets of a family, as those at the other end of an interface's link see us.
pub(super) fn key_of_ourselves(interface: u16, is_ipv4: bool) -> NeighborKey {
    [u64::from(interface) << 8 | if is_ipv4 { 0 } else { 2 }, 0, 0]
}

fn is_ourselves(key: &NeighborKey) -> bool {
    key[0] & 0xff < 4
}

pub(super) fn interface_of(key: &NeighborKey) -> u16 {
    (key[0] >> 8) as u16
}

pub(super) fn address_of(key: &NeighborKey) -> IpAddr {
    match key[0] & 0xff {
        0 | 4 => Ipv4Addr::from_bits(key[2] as u32).into(),
        _ => Ipv6Addr::from_bits(u128::from(key[1]) << 64 | u128::from(key[2])).into(),
    }
}

/// A neighbour, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// On whose link.
    pub interface: u16,
    /// Its IP address.
    pub address: IpAddr,
    /// Its MAC address, if known.
    pub mac: Option<Mac>,
    /// How much is known of it.
    pub state: State,
    /// When that was last confirmed.
    pub since: Nanos,
    /// Packets that wait for it.
    pub held: u8,
}

impl Neighbors {
    /// Who has this index: interface and address.
    #[inline]
    pub fn who(&self, index: u16) -> Option<(u16, IpAddr)> {
        let (key, _) = self.table.get(index.into())?;
        (!is_ourselves(key)).then(|| (interface_of(key), address_of(key)))
    }

    /// All neighbours.
    pub fn iter(&self) -> impl Iterator<Item = Neighbor> + '_ {
        let others = self.table.iter().filter(|(_, key, _)| !is_ourselves(key));
        others.map(|(_, key, entry)| Neighbor {
            interface: interface_of(key),
            address: address_of(key),
            mac: entry.state.is_resolved().then_some(entry.mac),
            state: entry.state,
            since: entry.since,
            held: entry.held,
        })
    }
}
