//! What takes a worker's NAT from one configuration to the next, made beforehand.

use super::binding::{Binding, Key};
use super::blocks::{Blocks, Grid, Rests};
use super::external::{External, Share};
use super::filter::Permits;
use super::hosts::Hosts;
use super::layout::{Layout, Reserved, Way};
use super::lease::Leases;
use super::resting::Resting;
use super::subscribers::Subscribers;
use crate::snapshot::Snapshot;
use crate::table::hash::HashTable;
use crate::table::index::Index;

/// All that a worker's NAT needs for another configuration, made beforehand. What it no longer needs is in here
/// afterwards.
pub struct Change {
    pub(super) layout: Layout,
    /// Room for as many as the layout has.
    pub(super) externals: Vec<External>,
    /// Addresses that are new, by their places.
    pub(super) fresh: Vec<(u32, Option<External>)>,
    /// The free blocks of addresses that stay and are cut otherwise, by their places.
    pub(super) grids: Vec<(u32, Option<Grid>)>,
    pub(super) rests: Rests,
    /// Ports that no forward has any more.
    pub(super) freed: Vec<Reserved>,
    /// Ports that a forward now has.
    pub(super) taken: Vec<Reserved>,
    /// For the first pool.
    pub(super) bindings: Option<(HashTable<Key, Binding>, Index)>,
    /// For the first pool that filters by address.
    pub(super) permits: Option<Permits>,
    /// For the first pool of NAT64.
    pub(super) hosts: Option<Hosts>,
    /// For the first rule whose hosts may ask for bindings.
    pub(super) leases: Option<Leases>,
    /// For the first pool that keeps account of inside addresses.
    pub(super) subscribers: Option<Subscribers>,
    /// For the first pool that is given out in blocks.
    pub(super) blocks: Option<Blocks>,
    /// For the first pool whose ports rest.
    pub(super) resting: Option<Resting>,
}

impl Change {
    /// What takes a worker from one layout to the next, which is that of the snapshot.
    pub fn new(old: &Layout, layout: Layout, snapshot: &Snapshot, share: &Share) -> Self {
        let is_fresh =
            |at: usize| old.slots.get(at).is_none_or(|slot| slot.address != layout.slots[at].address);
        let fresh = (0..layout.slots.len()).filter(|&at| is_fresh(at)).map(|at| {
            let external = External::new(&layout.slots[at], share);
            (at as u32, Some(external))
        });
        let fresh = fresh.collect();
        let cut = |way: Way| match way {
            Way::Blocks(cut) => Some(cut.since),
            _ => None,
        };
        let is_cut_otherwise =
            |at: &usize| !is_fresh(*at) && cut(old.slots[*at].way) != cut(layout.slots[*at].way);
        let grids = (0..layout.slots.len()).filter(is_cut_otherwise);
        let grids = grids.map(|at| (at as u32, Grid::of(&layout.slots[at], share))).collect();
        let without = |some: &[Reserved], others: &[Reserved]| {
            some.iter().filter(|r| others.binary_search(r).is_err()).copied().collect()
        };
        let first = old.pools.is_empty() && !layout.pools.is_empty();
        let first_accounts = !old.has_accounts && layout.has_accounts;
        let first_blocks = !old.has_blocks && layout.has_blocks;
        let first_hosts = !old.has_nat64() && layout.has_nat64();
        let first_leases = !old.has_leases && layout.has_leases;
        let first_permits = !old.filters_by_address() && layout.filters_by_address();
        let first_rest = old.rest_room(snapshot) == 0 && layout.rest_room(snapshot) > 0;
        let (room, seed) = (snapshot.sizes.sessions, snapshot.seed);
        Self {
            externals: Vec::with_capacity(layout.slots.len()),
            fresh,
            grids,
            rests: Rests::new(&layout.rests),
            freed: without(&old.reserved, &layout.reserved),
            taken: without(&layout.reserved, &old.reserved),
            bindings: first.then(|| (HashTable::with_capacity(room, seed), Index::with_capacity(room))),
            permits: first_permits.then(|| Permits::new(room, seed)),
            hosts: first_hosts.then(|| Hosts::new(room, snapshot)),
            leases: first_leases.then(|| Leases::new(true, snapshot)),
            subscribers: first_accounts.then(|| Subscribers::new(room, seed)),
            resting: first_rest.then(|| Resting::new(layout.rest_room(snapshot), seed)),
            blocks: first_blocks.then(|| Blocks::new(room)),
            layout,
        }
    }

    /// The layout that it leads to.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}
