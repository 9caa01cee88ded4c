//! Where the external addresses and the pools of a configuration lie in a worker's NAT, and what of that another
//! configuration changes. Addresses that stay keep their place, as bindings name it.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::filter::Permits;
use super::{External, Key, Share, space};
use crate::snapshot::{NONE16, NatBehavior, NatFiltering, Pool, Snapshot};
use crate::table::hash::HashTable;
use crate::table::index::Index;

/// The layout of one configuration, after those before it.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub(super) slots: Vec<Slot>,
    pub(super) pools: Vec<PoolLayout>,
    reserved: Vec<Reserved>,
}

/// The place of an external address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) address: Ipv4Addr,
    /// Some pool has it; if not, the bindings that it still has are about to end.
    pub(super) in_use: bool,
}

#[derive(Clone, Debug)]
pub(super) struct PoolLayout {
    /// Names the pool in the keys of its bindings.
    pub(super) id: u16,
    /// The pools of the configuration before that had an address of this one.
    pub(super) was: Vec<u16>,
    /// Its addresses' places, in the order of the configuration.
    pub(super) order: Vec<u32>,
    /// The same in ascending order.
    members: Vec<u32>,
    ports: (u16, u16),
    pub(super) behavior: NatBehavior,
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
        self.order == other.order && self.ports == other.ports && behavior(self) == behavior(other)
    }
}

impl Layout {
    /// The layout for another configuration that takes the place of this one's.
    pub fn next(&self, snapshot: &Snapshot) -> Self {
        let places = self.places(&snapshot.pools);
        let slots = places.slots;
        let mut pools: Vec<PoolLayout> = Vec::with_capacity(snapshot.pools.len());
        for pool in &snapshot.pools {
            let order: Vec<u32> =
                pool.addresses.iter().filter_map(|address| places.of.get(address).copied()).collect();
            let mut members = order.clone();
            members.sort_unstable();
            let (id, was) = (NONE16, Vec::new());
            let Pool { ports, behavior, .. } = *pool;
            pools.push(PoolLayout { id, was, order, members, ports, behavior });
        }
        self.name(&mut pools);
        let reserved = reserved(snapshot, &places.of);
        Self { slots, pools, reserved }
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
            let fresh = Slot { address, in_use: true };
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
        pool.members.binary_search(&slot).is_ok()
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

    /// Whether some pool is of NAT64.
    pub(super) fn has_nat64(&self) -> bool {
        self.pools.iter().any(|pool| pool.behavior.is_nat64)
    }

    /// All that port forwards have.
    pub(super) fn reserved(&self) -> &[Reserved] {
        &self.reserved
    }
}

struct Places {
    slots: Vec<Slot>,
    of: HashMap<Ipv4Addr, u32>,
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

/// All that a worker's NAT needs for another configuration, made beforehand. What it no longer needs is in here
/// afterwards.
pub struct Change {
    pub(super) layout: Layout,
    /// Room for as many as the layout has.
    pub(super) externals: Vec<External>,
    /// Addresses that are new, by their places.
    pub(super) fresh: Vec<(u32, Option<External>)>,
    /// Ports that no forward has any more.
    pub(super) freed: Vec<Reserved>,
    /// Ports that a forward now has.
    pub(super) taken: Vec<Reserved>,
    /// For the first pool.
    pub(super) bindings: Option<(HashTable<Key, super::Binding>, Index)>,
    /// For the first pool that filters by address.
    pub(super) permits: Option<Permits>,
    /// For the first pool of NAT64.
    pub(super) hosts: Option<super::Hosts>,
}

impl Change {
    /// What takes a worker from one layout to the next, which is that of the snapshot.
    pub fn new(old: &Layout, layout: Layout, snapshot: &Snapshot, share: &Share) -> Self {
        let is_fresh =
            |at: usize| old.slots.get(at).is_none_or(|slot| slot.address != layout.slots[at].address);
        let fresh = (0..layout.slots.len()).filter(|&at| is_fresh(at)).map(|at| {
            let mut external = External::new(layout.slots[at].address);
            external.share(share);
            (at as u32, Some(external))
        });
        let fresh = fresh.collect();
        let without = |some: &[Reserved], others: &[Reserved]| {
            some.iter().filter(|r| others.binary_search(r).is_err()).copied().collect()
        };
        let first = old.pools.is_empty() && !layout.pools.is_empty();
        let first_permits = !old.filters_by_address() && layout.filters_by_address();
        let first_hosts = !old.has_nat64() && layout.has_nat64();
        let (room, seed) = (snapshot.sizes.sessions, snapshot.seed);
        Self {
            externals: Vec::with_capacity(layout.slots.len()),
            fresh,
            freed: without(&old.reserved, &layout.reserved),
            taken: without(&layout.reserved, &old.reserved),
            bindings: first.then(|| (HashTable::with_capacity(room, seed), Index::with_capacity(room))),
            permits: first_permits.then(|| Permits::new(room, seed)),
            hosts: first_hosts.then(|| super::Hosts::new(room, snapshot)),
            layout,
        }
    }

    /// The layout that it leads to.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Forward;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, last)
    }

    fn snapshot(pools: &[&[u8]]) -> Snapshot {
        let pool = |list: &&[u8]| Pool {
            addresses: list.iter().map(|&last| address(last)).collect(),
            ports: (1024, 65535),
            behavior: NatBehavior::default(),
        };
        Snapshot { pools: pools.iter().map(pool).collect(), ..Snapshot::default() }
    }

    fn order(layout: &Layout, pool: usize) -> Vec<u32> {
        layout.pools[pool].order.clone()
    }

    #[test]
    fn addresses_keep_their_places_and_leave_them_one_configuration_later() {
        let first = Layout::default().next(&snapshot(&[&[1, 2, 3]]));
        let second = first.next(&snapshot(&[&[4, 3]]));
        assert_eq!(order(&second, 0), [3, 2], "bindings of 1 and 2 may still be there");
        let third = second.next(&snapshot(&[&[5, 4, 2]]));
        assert_eq!(order(&third, 0), [0, 3, 1], "2 comes back to its place, 5 takes that of 1");
        assert_eq!(third.slots.len(), 4);
        let change = Change::new(&second, third.clone(), &snapshot(&[]), &Share::default());
        assert_eq!(change.fresh.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0]);
        assert!(change.bindings.is_none());
    }

    #[test]
    fn a_pool_that_is_as_it_was_keeps_its_name_wherever_it_stands() {
        let first = Layout::default().next(&snapshot(&[&[1, 2], &[3]]));
        assert_eq!((first.pools[0].id, first.pools[1].id), (0, 1));
        let second = first.next(&snapshot(&[&[9], &[3], &[1]]));
        let names = |layout: &Layout| layout.pools.iter().map(|p| (p.id, p.was.clone())).collect::<Vec<_>>();
        assert_eq!(names(&second), [(2, vec![]), (1, vec![]), (3, vec![0])]);
        let third = second.next(&snapshot(&[&[9, 3, 1]]));
        assert_eq!(names(&third), [(0, vec![2, 1, 3])]);
        let mut narrow = snapshot(&[&[9, 3, 1]]);
        narrow.pools[0].ports.1 = 2000;
        assert_eq!(names(&third.next(&narrow)), [(1, vec![0])]);
    }

    #[test]
    fn ports_of_forwards_are_ranges_without_overlap() {
        let forward = |interface, protocol, ports| Forward {
            interface,
            protocol,
            address: address(1),
            ports,
            to: address(200),
            to_port: 80,
        };
        let mut one = snapshot(&[&[1, 2]]);
        one.forwards =
            vec![forward(0, 6, (8080, 8090)), forward(1, 6, (8085, 8095)), forward(0, 17, (53, 53))];
        let layout = Layout::default().next(&one);
        assert_eq!(layout.reserved.len(), 2);
        for (space, port, held) in [
            (0, 8079, false),
            (0, 8080, true),
            (0, 8095, true),
            (0, 8096, false),
            (1, 53, true),
            (1, 8080, false),
        ] {
            assert_eq!(layout.is_reserved(0, space, port), held, "{space} {port}");
            assert!(!layout.is_reserved(1, space, port));
        }
        let mut two = one.clone();
        two.forwards.remove(0);
        let change = Change::new(&layout, layout.next(&two), &two, &Share::default());
        let range = |r: &Reserved| (r.first, r.last);
        assert_eq!(change.freed.iter().map(range).collect::<Vec<_>>(), [(8080, 8095)]);
        assert_eq!(change.taken.iter().map(range).collect::<Vec<_>>(), [(8085, 8095)]);
    }
}
