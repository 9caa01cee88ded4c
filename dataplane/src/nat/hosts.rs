//! Hosts of IPv6 behind NAT64, by a number each, so that bindings have one form: the number stands in the place of an inside
//! IPv4 address. A host has its number as long as it has a binding or an account.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Binding, Nat};
use crate::snapshot::Snapshot;
use crate::table::hash::HashTable;
use crate::verdict::DropReason;

/// The hosts that have bindings or accounts, and how many of both each has.
pub(super) struct Hosts(HashTable<[u64; 2], u32>);

impl Hosts {
    /// Room for as many as there may be sessions, if there is NAT64 at all.
    pub(super) fn new(room: u32, snapshot: &Snapshot) -> Self {
        Self(HashTable::with_capacity(room, snapshot.seed ^ 0x6464))
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// A binding or an account more, or one less; the last one frees the number.
    pub(super) fn count(&mut self, number: u32, up: bool) {
        let Some(bindings) = self.0.value_mut(number) else { return };
        *bindings = if up { bindings.saturating_add(1) } else { bindings.saturating_sub(1) };
        if *bindings == 0 {
            self.0.remove(number);
        }
    }
}

fn key(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}

impl Nat {
    /// The number of a host, which has it from now on; without a binding it must be given back ([`forget_host`](Self::forget_host)).
    pub fn host(&mut self, address: u128) -> Result<u32, DropReason> {
        match self.hosts.0.find(&key(address)) {
            Some(number) => Ok(number),
            None => self.hosts.0.insert(key(address), 0).map_err(|_| DropReason::SessionTableFull),
        }
    }

    /// The number goes, if the host has nothing.
    pub fn forget_host(&mut self, number: u32) {
        if self.hosts.0.value(number) == Some(&0) {
            self.hosts.0.remove(number);
        }
    }

    /// The address of a host that has a number.
    pub fn address_of(&self, number: u32) -> Option<u128> {
        let ([high, low], _) = self.hosts.0.get(number)?;
        Some(u128::from(*high) << 64 | u128::from(*low))
    }

    /// The inside address of a binding, of either family.
    pub(super) fn inside_address(&self, binding: &Binding) -> IpAddr {
        self.address_in(binding.inside.0, binding.is_nat64)
    }

    /// The address that a number stands for: an IPv4 address, or that of a host of NAT64.
    pub(super) fn address_in(&self, number: u32, is_nat64: bool) -> IpAddr {
        match is_nat64 {
            true => Ipv6Addr::from_bits(self.address_of(number).unwrap_or_default()).into(),
            false => Ipv4Addr::from_bits(number).into(),
        }
    }

    /// Inside address and port of a binding of NAT64; `None` for one of IPv4.
    pub fn inside6(&self, binding: u32) -> Option<(u128, u16)> {
        let binding = self.get(binding).filter(|binding| binding.is_nat64)?;
        Some((self.address_of(binding.inside.0)?, binding.inside.1))
    }
}
