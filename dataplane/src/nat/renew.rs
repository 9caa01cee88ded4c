//! Another configuration for NAT that runs: which bindings live on in its pools.

use super::binding::{Inside, key, rename, space};
use super::layout::{PoolLayout, Way};
use super::{Change, Name, Nat, Wanted};
use crate::session::NONE;
use crate::snapshot::{Allocation, NONE16};

impl Nat {
    /// Takes over another configuration's pools and forwards. Bindings stay, until [`keep`](Self::keep) says no, and blocks as
    /// long as there are bindings, or until they have rested. Takes no memory, and gives none back.
    pub fn adopt(&mut self, change: &mut Change) {
        change.externals.append(&mut self.externals);
        for (slot, fresh) in &mut change.fresh {
            match (change.externals.get_mut(*slot as usize), fresh) {
                (Some(external), Some(fresh)) => std::mem::swap(external, fresh),
                (_, fresh) => change.externals.extend(fresh.take()),
            }
        }
        std::mem::swap(&mut self.externals, &mut change.externals);
        for (slot, grid) in &mut change.grids {
            if let Some(external) = self.externals.get_mut(*slot as usize) {
                std::mem::swap(&mut external.grid, grid);
            }
        }
        let freed = change.freed.iter().map(|range| (range, false));
        for (range, is_taken) in freed.chain(change.taken.iter().map(|range| (range, true))) {
            let Some(external) = self.externals.get_mut(range.slot as usize) else { continue };
            let way = change.layout.slots.get(range.slot as usize).map(|slot| slot.way);
            let ports = &mut external.ports[range.space];
            let is_mine = |port: &u16| way != Some(Way::Ports) || self.share.is_mine(*port);
            for port in (range.first..=range.last).filter(is_mine) {
                let _ = if is_taken { ports.take(port) } else { ports.give(port) };
            }
        }
        if let Some((bindings, by_external)) = &mut change.bindings {
            std::mem::swap(&mut self.bindings, bindings);
            std::mem::swap(&mut self.by_external, by_external);
        }
        if let Some(permits) = &mut change.permits {
            std::mem::swap(&mut self.permits, permits);
        }
        if let Some(hosts) = &mut change.hosts {
            std::mem::swap(&mut self.hosts, hosts);
        }
        if let Some(leases) = &mut change.leases {
            std::mem::swap(&mut self.leases, leases);
        }
        if let Some(subscribers) = &mut change.subscribers {
            std::mem::swap(&mut self.subscribers, subscribers);
        }
        if let Some(blocks) = &mut change.blocks {
            std::mem::swap(&mut self.blocks, blocks);
        }
        if let Some(resting) = &mut change.resting {
            std::mem::swap(&mut self.resting, resting);
        }
        self.blocks.adopt(&mut change.rests);
        std::mem::swap(&mut self.layout, &mut change.layout);
    }

    /// The binding that an inside endpoint has in a pool, also if it is from the time of another configuration.
    pub(super) fn known(&mut self, wanted: &Wanted<'_>) -> Option<u32> {
        let pool = self.layout.pools.get(usize::from(wanted.pool))?;
        let name = self.name(key(wanted.endpoint(pool.id), pool.behavior.mapping, wanted.remote));
        self.known_by(wanted, &name)
    }

    /// As [`known`](Self::known), by its name.
    pub(super) fn known_by(&mut self, wanted: &Wanted<'_>, name: &Name) -> Option<u32> {
        let pool = self.layout.pools.get(usize::from(wanted.pool))?;
        let key_in = |was| key(wanted.endpoint(was), pool.behavior.mapping, wanted.remote);
        if let Some(index) = self.bindings.find_hashed(&name.key, name.hash) {
            if self.is_in(index, pool) {
                return Some(index);
            }
            // Its sessions are about to end; the endpoint gets another one.
            let nobodys =
                [wanted.endpoint(NONE16).key()[0], u64::from(index) << 8 | u64::from(wanted.protocol)];
            rename(&mut self.bindings, index, nobodys);
        }
        let index = pool
            .was
            .iter()
            .find_map(|&was| self.bindings.find(&key_in(was)).filter(|&index| self.is_in(index, pool)))?;
        rename(&mut self.bindings, index, name.key);
        let pool = pool.index;
        self.account_for(index, pool);
        Some(index)
    }

    /// Whether a pool could have given out this binding, as it is.
    fn is_in(&self, index: u32, pool: &PoolLayout) -> bool {
        let Some(binding) = self.get(index) else { return false };
        let Some(space) = space(binding.protocol) else { return false };
        let (slot, port) = (binding.slot, binding.external.1);
        (binding.mapping, binding.filtering, binding.is_nat64)
            == (pool.behavior.mapping, pool.behavior.filtering, pool.behavior.is_nat64)
            && self.layout.has(pool, slot, space, port)
            && match &pool.allocation {
                Allocation::Ports => binding.block == NONE,
                Allocation::Blocks(_) => self.is_current(binding.block),
                Allocation::Deterministic(plan) => {
                    plan.block(binding.inside.0).is_some_and(|(position, (first, last))| {
                        pool.order.get(position) == Some(&slot) && (first..=last).contains(&port)
                    })
                }
            }
    }

    /// Whether a binding is one that this pool may have given out. If not, its sessions are about to end.
    pub fn is_of(&self, index: u32, pool: u16) -> bool {
        self.layout.pools.get(usize::from(pool)).is_some_and(|pool| self.is_in(index, pool))
    }

    /// Whether a session with a remote endpoint may keep its binding, now that this pool is that of the rule which applies
    /// to it. The binding is then the one for further sessions of its endpoint, if there is no other, and on its inside
    /// address's account.
    pub fn keep(&mut self, index: u32, pool: u16, remote: (u32, u16)) -> bool {
        let Some(layout) = self.layout.pools.get(usize::from(pool)).filter(|pool| self.is_in(index, pool))
        else {
            return false;
        };
        if let Some(binding) = self.get(index) {
            let now = key(Inside { pool: layout.id, ..binding.of() }, binding.mapping, remote);
            if self.bindings.find(&now).is_none() {
                rename(&mut self.bindings, index, now);
            }
        }
        self.account_for(index, pool);
        true
    }

    /// Puts a binding from before another configuration on the account that is kept in a pool now.
    pub(super) fn account_for(&mut self, index: u32, pool: u16) {
        let Some(&super::Binding { inside, .. }) = self.get(index) else { return };
        let account = self.enter(pool, inside.0).unwrap_or(NONE);
        let Some((_, binding)) = self.bindings.get_mut(index) else { return };
        let before = binding.subscriber;
        // A block goes by the account that it was given to.
        if account == before || binding.block != NONE {
            return;
        }
        binding.subscriber = account;
        let (sessions, ports) = (binding.sessions, u32::from(binding.has_port()));
        if let Some(subscriber) = self.subscribers.get_mut(account) {
            subscriber.ports += ports;
            subscriber.sessions += sessions;
        }
        if let Some(subscriber) = self.subscribers.get_mut(before) {
            subscriber.ports = subscriber.ports.saturating_sub(ports);
            subscriber.sessions = subscriber.sessions.saturating_sub(sessions);
        }
        self.leave(before);
    }
}
