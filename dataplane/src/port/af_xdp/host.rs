//! What the XDP program leaves to the kernel by address, on a device where the kernel answers for the box.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError};

/// Addresses that NAT may share with the kernel on a device.
pub const MAX_SHARED: usize = 16;
/// As in the program.
const NOT_SHARED: u32 = u32::MAX;
const WORDS: usize = 1024;

/// Ports of an address, a bit each.
type Bits = [u64; WORDS];

/// Ports of an address that are not the kernel's, though the address is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedAddress {
    /// TCP ports, as first and last.
    pub tcp: Vec<(u16, u16)>,
    /// UDP ports.
    pub udp: Vec<(u16, u16)>,
    /// ICMP echo identifiers.
    pub icmp: Vec<(u16, u16)>,
}

impl SharedAddress {
    fn bits(&self) -> [Bits; 3] {
        [&self.tcp, &self.udp, &self.icmp].map(|ranges| {
            let mut bits = [0; WORDS];
            for port in ranges.iter().flat_map(|&(first, last)| first..=last) {
                bits[usize::from(port >> 6)] |= 1u64 << (port & 63);
            }
            bits
        })
    }
}

/// The box's own addresses, as a device's XDP program knows them, whichever device has the name at the time. They stay in
/// force when this is dropped.
#[derive(Clone)]
pub struct HostTable(Arc<Mutex<Known>>);

struct Known {
    maps: HostMaps,
    addresses: Vec<IpAddr>,
    shared: Vec<(Ipv4Addr, SharedAddress)>,
}

impl HostTable {
    pub(super) fn new(maps: HostMaps) -> Self {
        Self(Arc::new(Mutex::new(Known { maps, addresses: Vec::new(), shared: Vec::new() })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes packets to these addresses the kernel's, but for the ports of those that are shared, and packets to all others
    /// ours. Of the shared ones, [`MAX_SHARED`] count.
    ///
    /// # Errors
    /// What the kernel answers, such as for more than 4096 addresses.
    pub fn set(&self, addresses: &[IpAddr], shared: &[(Ipv4Addr, SharedAddress)]) -> Result<(), String> {
        let mut known = self.known();
        known.addresses = addresses.to_vec();
        known.shared = shared.to_vec();
        known.maps.set(addresses, shared)
    }

    /// Goes on with another program's maps, which learn what was known.
    pub(super) fn replace(&self, mut maps: HostMaps) -> Result<(), String> {
        let mut known = self.known();
        maps.set(&known.addresses, &known.shared)?;
        known.maps = maps;
        Ok(())
    }
}

/// The maps of one program.
pub(super) struct HostMaps {
    own: HashMap<MapData, [u8; 16], u32>,
    shared: Array<MapData, [Bits; 3]>,
    present: HashSet<IpAddr>,
}

impl HostMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        let missing = |name: &str| MapError::InvalidName { name: name.to_owned() };
        let own = HashMap::try_from(ebpf.take_map("own").ok_or_else(|| missing("own"))?)?;
        let shared = Array::try_from(ebpf.take_map("shared").ok_or_else(|| missing("shared"))?)?;
        Ok(Self { own, shared, present: HashSet::new() })
    }

    /// Those that another process has made, by their descriptors.
    pub(super) fn inherit(own: OwnedFd, shared: OwnedFd) -> Result<Self, MapError> {
        let own = HashMap::try_from(Map::HashMap(MapData::from_fd(own)?))?;
        let shared = Array::try_from(Map::Array(MapData::from_fd(shared)?))?;
        // So that those go that are no longer ours.
        let present = own.keys().filter_map(Result::ok).map(address).collect();
        Ok(Self { own, shared, present })
    }

    fn set(&mut self, addresses: &[IpAddr], shared: &[(Ipv4Addr, SharedAddress)]) -> Result<(), String> {
        let in_words = |error: MapError| format!("the table of own addresses: {error}");
        let shared = &shared[..shared.len().min(MAX_SHARED)];
        for (index, (_, ports)) in (0u32..).zip(shared) {
            self.shared.set(index, ports.bits(), 0).map_err(in_words)?;
        }
        for address in addresses {
            let index = shared.iter().position(|(other, _)| IpAddr::V4(*other) == *address);
            let value = index.map_or(NOT_SHARED, |index| index as u32);
            self.own.insert(key(*address), value, 0).map_err(in_words)?;
            self.present.insert(*address);
        }
        let gone: Vec<IpAddr> = self.present.iter().filter(|old| !addresses.contains(old)).copied().collect();
        for address in gone {
            self.own.remove(&key(address)).map_err(in_words)?;
            self.present.remove(&address);
        }
        Ok(())
    }
}

/// IPv4 addresses as IPv6 ones (RFC 4291 2.5.5.2).
fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// What such a [`key`] stands for.
fn address(key: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(key).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_bits() {
        let ports =
            SharedAddress { tcp: vec![(0, 0), (64, 65)], icmp: vec![(0, 65535)], ..SharedAddress::default() };
        let [tcp, udp, icmp] = ports.bits();
        assert_eq!((tcp[0], tcp[1], tcp[2..].iter().sum::<u64>()), (1, 3, 0));
        assert!(udp.iter().all(|&word| word == 0) && icmp.iter().all(|&word| word == u64::MAX));
    }

    #[test]
    fn both_families_have_keys_of_one_kind() {
        let key = |text: &str| key(text.parse().unwrap());
        assert_eq!(key("192.0.2.1"), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
        assert_eq!(key("2001:db8::1")[..4], [0x20, 0x01, 0x0d, 0xb8]);
        for text in ["192.0.2.1", "2001:db8::1"] {
            assert_eq!(address(key(text)).to_string(), text);
        }
    }
}
