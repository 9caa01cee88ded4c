//! Where the external addresses and the pools of a configuration lie in a worker's NAT. Addresses that stay keep their place
//! when another configuration comes, as bindings and blocks name it.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::binding::space;
use super::blocks::Cut;
use crate::clock::Nanos;
use crate::snapshot::{Allocation, NONE16, NatBehavior, NatFiltering, Pool, PortBlocks, Snapshot};

/// The layout of one configuration, after those before it.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub(super) slots: Vec<Slot>,
    pub(super) pools: Vec<PoolLayout>,
    pub(super) reserved: Vec<Reserved>,
    /// How long blocks rest, by their lists.
    pub(super) rests: Vec<Nanos>,
    /// Whether some pool is or was given out in blocks. They may outlive their configuration.
    pub(super) has_blocks: bool,
    /// Whether account of the inside addresses of some pool is or was kept.
    pub(super) has_accounts: bool,
    /// Whether hosts may or might ask for bindings.
    pub(super) has_leases: bool,
    /// How long ports rest.
    pub(super) rest: Nanos,
}

/// The place of an external address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) address: Ipv4Addr,
    /// Some pool has it; if not, the bindings that it still has are about to end.
    pub(super) in_use: bool,
    pub(super) way: Way,
}

/// In which way an address is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Port by port.
    Ports,
    /// In blocks.
    Blocks(Cut),
    /// Each subscriber has its ports.
    Subscribers,
}

#[derive(Clone, Debug)]
pub(super) struct PoolLayout {
    /// Its index.
    pub(super) index: u16,
    /// Names the pool in the keys of its bindings.
    pub(super) id: u16,
    /// The pools of the configuration before that had an address of this one.
    pub(super) was: Vec<u16>,
    /// Its addresses' places, in the order of the configuration.
    pub(super) order: Vec<u32>,
    /// The same in ascending order.
    members: Vec<u32>,
    pub(super) ports: (u16, u16),
    pub(super) behavior: NatBehavior,
    pub(super) allocation: Allocation,
    /// Whether account is kept of its inside addresses.
    pub(super) has_accounts: bool,
}

/// Ports of an external address that port forwards have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reserved {
    pub(super) slot: u32,
    pub(super) space: usize,
    pub(super) first: u16,
    pub(super) last: u16,
}

impl PoolLayout {
    fn is_same(&self, other: &Self) -> bool {
        let behavior = |of: &Self| (of.behavior.mapping, of.behavior.filtering, of.behavior.is_nat64);
        self.order == other.order
            && self.ports == other.ports
            && behavior(self) == behavior(other)
            && match (&self.allocation, &other.allocation) {
                (Allocation::Blocks(one), Allocation::Blocks(other)) => one.size == other.size,
                (one, other) => one == other,
            }
    }

    /// Whether this is its name, or was that of a pool of the configuration before that had an address of this one.
    pub(super) fn is_called(&self, name: u16) -> bool {
        self.id == name || self.was.contains(&name)
    }

    /// Whether it has the address at this place.
    pub(super) fn has_slot(&self, slot: u32) -> bool {
        self.members.binary_search(&slot).is_ok()
    }
}

impl Layout {
    /// The layout for another configuration that takes the place of this one's.
    pub fn next(&self, snapshot: &Snapshot) -> Self {
        let places = self.places(&snapshot.pools);
        let mut slots = places.slots;
        let rests = self.rests(&snapshot.pools);
        let mut pools: Vec<PoolLayout> = Vec::with_capacity(snapshot.pools.len());
        for (index, pool) in (0..).zip(&snapshot.pools) {
            let order: Vec<u32> =
                pool.addresses.iter().filter_map(|address| places.of.get(address).copied()).collect();
            let mut members = order.clone();
            members.sort_unstable();
            let (id, was) = (NONE16, Vec::new());
            for &slot in &order {
                self.give_out(&mut slots[slot as usize], slot, pool, &rests, snapshot.generation);
            }
            let &Pool { ports, behavior, .. } = pool;
            let allocation = pool.allocation.clone();
            let has_accounts = needs_accounts(pool);
            pools.push(PoolLayout {
                index,
                id,
                was,
                order,
                members,
                ports,
                behavior,
                allocation,
                has_accounts,
            });
        }
        self.name(&mut pools);
        let reserved = reserved(snapshot, &places.of);
        let in_blocks = |pool: &PoolLayout| matches!(pool.allocation, Allocation::Blocks(_));
        let has_blocks = self.has_blocks || pools.iter().any(in_blocks);
        let has_accounts = self.has_accounts || pools.iter().any(|pool| pool.has_accounts);
        let has_leases = self.has_leases || !snapshot.port_control.rules.is_empty();
        Self {
            slots,
            pools,
            reserved,
            rests,
            has_blocks,
            has_accounts,
            has_leases,
            rest: snapshot.port_rest.time,
        }
    }

    /// Notes in which way a pool gives out an address, which may be as it was.
    fn give_out(&self, slot: &mut Slot, index: u32, pool: &Pool, rests: &[Nanos], generation: u32) {
        slot.way = match pool.allocation {
            Allocation::Ports => Way::Ports,
            Allocation::Deterministic(_) => Way::Subscribers,
            Allocation::Blocks(rule @ PortBlocks { size, hold, .. }) => {
                let rest = rests.iter().position(|&other| other == hold).unwrap_or(0) as u16;
                let (first, count) = (pool.ports.0, rule.per_address(pool.ports));
                let before = self.slots.get(index as usize).filter(|before| before.address == slot.address);
                let since = match before.map(|before| before.way) {
                    Some(Way::Blocks(cut)) if (cut.first, cut.size, cut.count) == (first, size, count) => {
                        cut.since
                    }
                    _ => generation,
                };
                Way::Blocks(Cut { first, size, count, since, rest })
            }
        };
    }

    /// A list for each time that blocks are kept: those that there are, and new ones in the place of those that no pool has
    /// any more, or behind all.
    fn rests(&self, pools: &[Pool]) -> Vec<Nanos> {
        let hold = |allocation: &Allocation| match allocation {
            Allocation::Blocks(rule) => Some(rule.hold),
            _ => None,
        };
        let mut rests = self.rests.clone();
        let present: Vec<Nanos> = self.pools.iter().filter_map(|pool| hold(&pool.allocation)).collect();
        let wanted: Vec<Nanos> = pools.iter().filter_map(|pool| hold(&pool.allocation)).collect();
        for &hold in &wanted {
            if rests.contains(&hold) {
                continue;
            }
            match rests.iter_mut().find(|rest| !present.contains(rest) && !wanted.contains(rest)) {
                Some(rest) => *rest = hold,
                None => rests.push(hold),
            }
        }
        rests
    }

    /// Each address where it was, or in the place of one that no pool had any more, or behind all.
    fn places(&self, pools: &[Pool]) -> Places {
        let mut slots: Vec<Slot> = self.slots.iter().map(|slot| Slot { in_use: false, ..*slot }).collect();
        let mut of: HashMap<Ipv4Addr, u32> =
            (0..).zip(&slots).map(|(index, slot)| (slot.address, index)).collect();
        let wanted = || pools.iter().flat_map(|pool| &pool.addresses);
        for address in wanted() {
            if let Some(slot) = of.get(address).and_then(|&index| slots.get_mut(index as usize)) {
                slot.in_use = true;
            }
        }
        let mut vacant = 0..slots.len();
        for &address in wanted() {
            if of.contains_key(&address) {
                continue;
            }
            let fresh = Slot { address, in_use: true, way: Way::Ports };
            let place = vacant.find(|&at| !slots[at].in_use && !self.slots[at].in_use);
            let index = place.unwrap_or(slots.len());
            match slots.get_mut(index) {
                Some(slot) => {
                    of.remove(&slot.address);
                    *slot = fresh;
                }
                None => slots.push(fresh),
            }
            of.insert(address, index as u32);
        }
        Places { slots, of }
    }

    /// A pool that is as it was keeps its name, and so its bindings; others get new ones.
    fn name(&self, pools: &mut [PoolLayout]) {
        let mut holders: HashMap<u32, Vec<usize>> = HashMap::new();
        for (number, pool) in self.pools.iter().enumerate() {
            pool.order.iter().for_each(|&slot| holders.entry(slot).or_default().push(number));
        }
        for pool in pools.iter_mut() {
            let mut before: Vec<usize> =
                pool.order.iter().filter_map(|slot| holders.get(slot)).flatten().copied().collect();
            before.sort_unstable();
            before.dedup();
            match before.iter().find(|&&number| self.pools[number].is_same(pool)) {
                Some(&number) => pool.id = self.pools[number].id,
                None => pool.was = before.iter().map(|&number| self.pools[number].id).collect(),
            }
        }
        let mut taken: Vec<u16> = self.pools.iter().map(|pool| pool.id).collect();
        taken.sort_unstable();
        let mut free = (0..NONE16).filter(|id| taken.binary_search(id).is_err());
        for pool in pools.iter_mut().filter(|pool| pool.id == NONE16) {
            pool.id = free.next().unwrap_or(NONE16);
        }
    }

    /// Whether a pool has this external port.
    pub(super) fn has(&self, pool: &PoolLayout, slot: u32, space: usize, port: u16) -> bool {
        pool.has_slot(slot)
            && (pool.ports.0..=pool.ports.1).contains(&port)
            && !self.is_reserved(slot, space, port)
    }

    /// Whether a port forward has this external port.
    pub(super) fn is_reserved(&self, slot: u32, space: usize, port: u16) -> bool {
        let after = self.reserved.partition_point(|r| (r.slot, r.space, r.first) <= (slot, space, port));
        let before = after.checked_sub(1).and_then(|at| self.reserved.get(at));
        before.is_some_and(|r| (r.slot, r.space) == (slot, space) && port <= r.last)
    }

    /// Whether some pool asks which remote addresses its bindings have sessions with.
    pub(super) fn filters_by_address(&self) -> bool {
        self.pools.iter().any(|pool| pool.behavior.filtering == NatFiltering::AddressDependent)
    }

    /// For how many resting ports there must be room.
    pub(super) fn rest_room(&self, snapshot: &Snapshot) -> u32 {
        let is_open = |pool: &PoolLayout| pool.behavior.filtering == NatFiltering::EndpointIndependent;
        let may_rest = self.rest > 0 && self.pools.iter().any(is_open);
        if may_rest { snapshot.port_rest.most.min(snapshot.sizes.sessions) } else { 0 }
    }

    /// Whether some pool is of NAT64.
    pub(super) fn has_nat64(&self) -> bool {
        self.pools.iter().any(|pool| pool.behavior.is_nat64)
    }
}

struct Places {
    slots: Vec<Slot>,
    of: HashMap<Ipv4Addr, u32>,
}

/// Whether account is kept of the inside addresses that use a pool.
fn needs_accounts(pool: &Pool) -> bool {
    pool.has_limits() || matches!(pool.allocation, Allocation::Blocks(_))
}

/// In ascending order, without overlap.
fn reserved(snapshot: &Snapshot, places: &HashMap<Ipv4Addr, u32>) -> Vec<Reserved> {
    let mut all: Vec<Reserved> = Vec::new();
    for forward in &snapshot.forwards {
        if let (Some(&slot), Some(space)) = (places.get(&forward.address), space(forward.protocol)) {
            all.push(Reserved { slot, space, first: forward.ports.0, last: forward.ports.1 });
        }
    }
    all.sort_unstable();
    all.dedup_by(|next, kept| {
        let overlap = (next.slot, next.space) == (kept.slot, kept.space) && next.first <= kept.last;
        if overlap {
            kept.last = kept.last.max(next.last);
        }
        overlap
    });
    all
}

#[cfg(test)]
mod tests;
