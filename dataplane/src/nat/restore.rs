//! Bindings of a worker that runs, made again in NAT elsewhere, so that another configuration can be tried with them.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::binding::space;
use super::layout::PoolLayout;
use super::{Binding, Nat};
use crate::session::NONE;
use crate::snapshot::{Allocation, NONE16};

/// What has been made again so far.
#[derive(Debug, Default)]
pub struct Restore {
    /// The places of external addresses.
    places: HashMap<Ipv4Addr, u32>,
    /// Bindings by external end, protocol and inside address.
    bindings: HashMap<((u32, u16), u8, u128), u32>,
    /// Blocks by the place of their address and their number.
    blocks: HashMap<(u32, u32), u32>,
}

impl Restore {
    /// For NAT that has no binding yet, of the configuration by which the other one goes.
    pub fn new(nat: &Nat) -> Self {
        let slots = (0..).zip(&nat.layout.slots).filter(|(_, slot)| slot.in_use);
        let places = slots.map(|(place, slot)| (slot.address, place)).collect();
        Self { places, ..Self::default() }
    }

    /// The binding like this one of another worker, made if it is not there yet; `host` is its inside address with NAT64.
    /// None if there is no room.
    pub fn binding(&mut self, like: &Binding, host: Option<u128>, nat: &mut Nat) -> Option<u32> {
        let who = host.unwrap_or(like.inside.0.into());
        let name = (like.external, like.protocol, who);
        if let Some(&index) = self.bindings.get(&name) {
            return Some(index);
        }
        let number = match host {
            Some(host) => nat.host(host).ok()?,
            None => like.inside.0,
        };
        let place = self.places.get(&Ipv4Addr::from_bits(like.external.0)).copied();
        let mut binding = Binding {
            inside: (number, like.inside.1),
            pool: NONE16,
            slot: place.filter(|_| like.has_port()).unwrap_or(NONE),
            block: NONE,
            subscriber: NONE,
            sessions: 0,
            is_recorded: false,
            is_leased: false,
            ..*like
        };
        let mut allocation = Allocation::Ports;
        if let Some((place, space)) = place.zip(space(like.protocol)) {
            let port = like.external.1;
            let is_it = |pool: &&PoolLayout| {
                (pool.behavior.mapping, pool.behavior.filtering, pool.behavior.is_nat64)
                    == (like.mapping, like.filtering, like.is_nat64)
                    && nat.layout.has(pool, place, space, port)
            };
            if let Some(pool) = nat.layout.pools.iter().find(is_it) {
                (binding.pool, allocation) = (pool.id, pool.allocation.clone());
                let index = pool.index;
                binding.subscriber = nat.enter(index, number).unwrap_or(NONE);
            }
            if let Some(external) = nat.externals.get_mut(place as usize) {
                external.ports[space].take(port);
            }
            if let Allocation::Blocks(cut) = &allocation {
                let first = nat.layout.pools.iter().find(|pool| pool.id == binding.pool)?.ports.0;
                let number = u32::from(port.saturating_sub(first)) / cut.size.max(1);
                binding.block = self.block(place, number, port, binding.subscriber, nat).unwrap_or(NONE);
            }
        }
        // Under no name by which anybody looks for one; who keeps it gives it the right one.
        let ends = u64::from(like.external.0) << 32 | u64::from(like.external.1) << 16;
        let key = [u64::from(number) << 32 | u64::from(NONE16), ends | 0x8000 | u64::from(like.protocol)];
        let index = nat.insert(nat.name(key), binding, &allocation).ok()?;
        self.bindings.insert(name, index);
        Some(index)
    }

    fn block(&mut self, place: u32, number: u32, port: u16, subscriber: u32, nat: &mut Nat) -> Option<u32> {
        let index = match self.blocks.get(&(place, number)) {
            Some(&index) => index,
            None => {
                let slot = nat.layout.slots.get(place as usize)?;
                let account = nat.subscribers.get_mut(subscriber)?;
                let index = nat.blocks.put((place, slot), port, (subscriber, account.first_block))?;
                (account.first_block, account.blocks) = (index, account.blocks + 1);
                self.blocks.insert((place, number), index);
                index
            }
        };
        nat.blocks.hold_port(index);
        Some(index)
    }
}
