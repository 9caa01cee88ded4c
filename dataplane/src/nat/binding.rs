//! What a binding is, and what it is found by.

use sluice_pkt::ipv4;

use crate::snapshot::{NatFiltering, NatMapping};
use crate::table::hash::{HashTable, Secret};

/// What has a binding: an inside address and port (or echo identifier), with the pool and protocol that it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) address: u32,
    pub(super) port: u16,
    pub(super) pool: u16,
    pub(super) protocol: u8,
}

impl Inside {
    pub(super) const fn key(&self) -> [u64; 2] {
        let low = (self.port as u64) << 16 | self.pool as u64;
        [(self.address as u64) << 32 | low, self.protocol as u64]
    }
}

/// One inside endpoint's external one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// Inside address and port (or echo identifier). With NAT64 the host's number ([`Nat::address_of`](super::Nat::address_of)) for its address.
    pub inside: (u32, u16),
    /// Its inside is of IPv6.
    pub is_nat64: bool,
    /// External address and port (or echo identifier).
    pub external: (u32, u16),
    /// IP protocol. Where it is none of TCP, UDP and ICMP, the binding is of addresses alone, and its ports are 0.
    pub protocol: u8,
    /// Which sessions share it.
    pub mapping: NatMapping,
    /// Who may send to it.
    pub filtering: NatFiltering,
    /// Sessions that use it.
    pub sessions: u32,
    /// When one of them last had a packet from inside, as of the last sweep, in [`ticks`](crate::session::ticks).
    pub last_outbound: Option<u32>,
    /// The name of the pool that it was made for.
    pub(super) pool: u16,
    /// Place of the external address.
    pub(super) slot: u32,
    /// The block that the port is of, or [`NONE`](crate::session::NONE).
    pub(super) block: u32,
    /// The account of the inside address, or [`NONE`](crate::session::NONE).
    pub(super) subscriber: u32,
    /// Whether its beginning was recorded; then its end is.
    pub(super) is_recorded: bool,
    /// Whether its inside host has asked for it, for a time.
    pub is_leased: bool,
    /// Whether it has had a session or a lease, so that somebody may send to it.
    pub(super) has_served: bool,
}

impl Binding {
    pub(super) fn of(&self) -> Inside {
        let ((address, port), Self { pool, protocol, .. }) = (self.inside, *self);
        Inside { address, port, pool, protocol }
    }

    /// Whether it takes an external port (or echo identifier).
    pub fn has_port(&self) -> bool {
        space(self.protocol).is_some()
    }

    pub(super) fn external_hash(external: (u32, u16), protocol: u8, secret: &Secret) -> u64 {
        secret.hash(&[u64::from(external.0) << 32 | u64::from(external.1) << 8 | u64::from(protocol)])
    }
}

/// What a binding is found by: inside address and port and the pool's name; protocol, and the remote address and port where
/// the mapping depends on them.
pub(super) type Key = [u64; 2];

pub(super) fn key(inside: Inside, mapping: NatMapping, remote: (u32, u16)) -> Key {
    let [a, b] = inside.key();
    match mapping {
        NatMapping::EndpointIndependent => [a, b],
        NatMapping::AddressAndPortDependent => [a, b | u64::from(remote.1) << 16 | u64::from(remote.0) << 32],
    }
}

/// Which of an external address's three sets of ports a protocol takes from.
pub(super) fn space(protocol: u8) -> Option<usize> {
    match protocol {
        ipv4::TCP => Some(0),
        ipv4::UDP => Some(1),
        ipv4::ICMP => Some(2),
        _ => None,
    }
}

/// Gives a binding another key. Its index stays, as the table fills the slot first that was freed last.
pub(super) fn rename(bindings: &mut HashTable<Key, Binding>, index: u32, key: Key) {
    if let Some((_, binding)) = bindings.remove(index) {
        let again = bindings.insert(key, binding);
        debug_assert_eq!(again, Ok(index));
    }
}
