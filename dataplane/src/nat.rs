//! NAT bindings: which external address and port an inside one has.
//!
//! Mapping is endpoint-independent unless configured otherwise (RFC 4787 REQ-1): all sessions of one inside address and
//! port share one binding, and it lives as long as the last of them. An unknown packet to an external address and port
//! finds the binding by these, and who may send to it is for its filter to say (`nat/filter.rs`).
//!
//! A pool's ports are given out one by one, in blocks, or by arithmetic (`nat/allocate.rs`).

mod addresses;
mod allocate;
mod binding;
mod blocks;
mod change;
mod deterministic;
mod events;
mod external;
mod filter;
mod fixed;
mod hosts;
mod layout;
mod lease;
mod renew;
mod resting;
mod restore;
mod saved;
mod steps;
mod subscribers;

use std::net::Ipv4Addr;

use self::allocate::Found;
pub use self::binding::Binding;
use self::binding::{Key, key, space};
use self::blocks::{Blocks, Rests};
pub use self::change::Change;
pub use self::deterministic::Deterministic;
use self::events::Recorder;
pub use self::events::{Event, EventKind, EventReader, NatLog};
pub use self::external::Share;
use self::external::{External, Wish};
use self::filter::Permits;
pub use self::fixed::{StaticNat, StaticTable};
use self::hosts::Hosts;
pub use self::layout::Layout;
use self::layout::Way;
use self::lease::Leases;
pub use self::lease::{Ask, Filters, LeaseFacts, Nonce, Peers, Refusal};
use self::resting::Resting;
pub use self::restore::Restore;
pub use self::steps::{Begun, Name, Wanted};
use self::subscribers::Subscribers;
pub use self::subscribers::{BlockRow, Opener, SubscriberRow};
use crate::clock::Nanos;
use crate::session::NONE;
use crate::snapshot::{Allocation, NONE16, NatBehavior, NatFiltering, Pool, Snapshot};
use crate::stage::owner::Owners;
use crate::table::hash::{HashTable, Secret};
use crate::table::index::Index;
use crate::verdict::DropReason;

/// The bindings of one worker, and the external ports that they take.
pub struct Nat {
    bindings: HashTable<Key, Binding>,
    /// The bindings by their external ends.
    by_external: Index,
    permits: Permits,
    /// Hosts of NAT64.
    hosts: Hosts,
    leases: Leases,
    externals: Vec<External>,
    /// Where the pools' addresses lie in `externals`.
    layout: Layout,
    share: Share,
    blocks: Blocks,
    resting: Resting,
    subscribers: Subscribers,
    recorder: Recorder,
    now: Nanos,
    random: u64,
    seed: u64,
    secret: Secret,
}

impl Nat {
    /// Takes the memory for as many bindings as there may be sessions. The ports of forwards are taken from the start.
    pub fn new(snapshot: &Snapshot) -> Self {
        let layout = Layout::default().next(snapshot);
        let share = Share::default();
        let room = |is_needed: bool| if is_needed { snapshot.sizes.sessions } else { 1 };
        let capacity = room(!snapshot.pools.is_empty());
        let mut blocks = Blocks::new(room(layout.has_blocks));
        blocks.adopt(&mut Rests::new(&layout.rests));
        Self {
            bindings: HashTable::with_capacity(capacity, snapshot.seed),
            by_external: Index::with_capacity(capacity),
            permits: Permits::new(room(layout.filters_by_address()), snapshot.seed),
            hosts: Hosts::new(room(layout.has_nat64()), snapshot),
            leases: Leases::new(layout.has_leases, snapshot),
            externals: External::all(&layout, &share),
            share,
            blocks,
            resting: Resting::new(layout.rest_room(snapshot), snapshot.seed),
            subscribers: Subscribers::new(room(layout.has_accounts), snapshot.seed),
            recorder: Recorder::new(snapshot.nat_log),
            layout,
            now: 0,
            random: snapshot.seed,
            seed: snapshot.seed,
            secret: Secret::new(snapshot.seed),
        }
    }

    /// Where addresses and pools lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Gives out the ports and blocks only that are worker `me`'s, from now on. There must be no binding yet.
    pub fn share(&mut self, me: u8, owners: &Owners) {
        self.share = Share::new(me, owners);
        self.externals = External::all(&self.layout, &self.share);
    }

    /// Its part of the ports.
    pub fn share_of(&self) -> Share {
        self.share
    }

    /// The end from which is read what becomes of blocks and bindings; from now on it is recorded, if it is to be.
    pub fn events(&mut self) -> EventReader {
        self.recorder.connect()
    }

    /// Records made for logs since the start, and how many of them were lost.
    pub fn recorded(&self) -> (u64, u64) {
        (self.recorder.recorded, self.recorder.lost)
    }

    /// Bindings that are live.
    pub fn live(&self) -> u32 {
        self.bindings.len()
    }

    /// Memory of the bindings, bytes.
    pub fn bytes(&self) -> usize {
        self.bindings.bytes()
            + self.by_external.bytes()
            + self.permits.bytes()
            + self.hosts.bytes()
            + self.leases.bytes()
            + self.externals.iter().map(External::bytes).sum::<usize>()
            + self.subscribers.bytes()
            + self.blocks.bytes()
            + self.resting.bytes()
    }

    /// The binding at `index`.
    pub fn get(&self, index: u32) -> Option<&Binding> {
        self.bindings.get(index).map(|(_, binding)| binding)
    }

    /// How far indices of bindings go.
    pub fn slots(&self) -> u32 {
        self.bindings.slots()
    }

    /// The external addresses, each with the ports in use for TCP, UDP and ICMP. Of several workers, one counts the port of a
    /// forward.
    pub fn externals(&self) -> impl Iterator<Item = (Ipv4Addr, [u32; 3])> + '_ {
        let with_slot = (0..).zip(self.externals.iter().zip(&self.layout.slots));
        let in_use = with_slot.filter(|(_, (_, slot))| slot.in_use);
        in_use.map(|(at, (external, slot))| {
            let used = |space: usize| {
                let forwarded = self.layout.reserved.iter().filter(|r| (r.slot, r.space) == (at, space));
                let ports = forwarded.flat_map(|r| r.first..=r.last);
                let resting = if space == resting::UDP { external.resting } else { 0 };
                let counted = ports.filter(|&port| slot.way != Way::Ports && !self.share.is_mine(port));
                let taken = external.ports[space].in_use() - external.others[space];
                (taken - counted.count() as u32).saturating_sub(resting)
            };
            (external.address, [0, 1, 2].map(used))
        })
    }

    /// The time is `now`: gives back blocks and ports whose time is up.
    pub fn tick(&mut self, now: Nanos) {
        self.now = now;
        while let Some((block, at)) = self.blocks.expired(now) {
            self.give_block(block, at);
        }
        self.end_rests();
    }

    /// The binding that has this external address and port (or identifier).
    pub fn find_external(&self, external: (u32, u16), protocol: u8) -> Option<u32> {
        let hash = self.external_hash(external, protocol);
        self.by_external
            .find(hash, |at| self.get(at).is_some_and(|b| b.external == external && b.protocol == protocol))
    }

    /// Whether a remote address may send to a binding although no session says so (RFC 4787 REQ-8, RFC 5382 REQ-3).
    pub fn admits(&self, index: u32, remote: (u32, u16)) -> bool {
        self.get(index).is_some_and(|binding| {
            let by_filtering = match binding.filtering {
                NatFiltering::EndpointIndependent => true,
                NatFiltering::AddressDependent => self.permits.has(binding.of(), remote.0),
                NatFiltering::AddressAndPortDependent => false,
            };
            by_filtering || binding.is_leased && self.leases.admit(index, remote, self.now)
        })
    }

    /// Whether a binding of a pool may have another session (RFC 6888 REQ-4c, REQ-5): if not, which limit of its inside
    /// address says so. It counts as a new one.
    pub fn admit_session(&mut self, index: u32, of: &Pool, opener: Opener) -> Result<(), DropReason> {
        let subscriber = self.get(index).map_or(NONE, |binding| binding.subscriber);
        self.subscribers.admit_session(subscriber, of)?;
        self.subscribers.admit_new(subscriber, of, opener, self.now)
    }

    /// The binding (its index) of an inside endpoint in a pool, to send to a remote one: the one that it has, or a new one.
    /// The address is the same for all of an inside address's bindings while it has free ports (paired pooling, RFC 4787
    /// REQ-2), and no two bindings have the same port (RFC 4787 REQ-3).
    ///
    /// It is for a new session. A new binding has none yet: [`hold`](Self::hold) and [`release`](Self::release) count them.
    pub fn bind(
        &mut self,
        pool: u16,
        of: &Pool,
        inside: (u32, u16),
        remote: (u32, u16),
        protocol: u8,
    ) -> Result<u32, DropReason> {
        let wanted = Wanted { pool, of, inside, remote, protocol };
        if let Some(index) = self.known(&wanted) {
            if of.has_limits() {
                self.admit_session(index, of, Opener::Inside)?;
            }
            return Ok(index);
        }
        let wish = Wish::new(of.behavior.port_choice, inside.1, protocol);
        self.bind_new(&wanted, &wish, true)
    }

    /// A new binding, for a session or not.
    fn bind_new(&mut self, wanted: &Wanted<'_>, wish: &Wish, for_session: bool) -> Result<u32, DropReason> {
        let &Wanted { pool, of, inside, remote, protocol } = wanted;
        let space = space(protocol).ok_or(DropReason::NatProtocol)?;
        let layout = self.layout.pools.get(usize::from(pool)).ok_or(DropReason::NatPortsExhausted)?;
        let name = self.name(key(wanted.endpoint(layout.id), of.behavior.mapping, remote));
        let subscriber = self.enter(pool, inside.0)?;
        let admitted = if for_session { self.subscribers.admit_session(subscriber, of) } else { Ok(()) };
        let bound = admitted
            .and_then(|()| self.subscribers.admit_port(subscriber, of))
            .and_then(|()| self.subscribers.admit_new(subscriber, of, Opener::Inside, self.now))
            .and_then(|()| self.find_port(pool, inside.0, space, wish, subscriber))
            .and_then(|found| self.insert_new(wanted, name, found, subscriber));
        if bound.is_err() {
            self.leave(subscriber);
        }
        bound
    }

    /// A new binding that gets the port that was found for it.
    fn insert_new(
        &mut self,
        wanted: &Wanted<'_>,
        name: Name,
        Found { slot, port, block }: Found,
        subscriber: u32,
    ) -> Result<u32, DropReason> {
        let &Wanted { pool, of, inside, protocol, .. } = wanted;
        let NatBehavior { mapping, filtering, is_nat64, .. } = of.behavior;
        let address = self.externals.get(slot as usize).map_or(0, |e| e.address.to_bits());
        let binding = Binding {
            inside,
            is_nat64,
            external: (address, port),
            protocol,
            mapping,
            filtering,
            sessions: 0,
            last_outbound: None,
            pool: self.layout.pools.get(usize::from(pool)).map_or(NONE16, |pool| pool.id),
            slot,
            block,
            subscriber,
            is_recorded: false,
            is_leased: false,
            has_served: false,
        };
        self.insert(name, binding, &of.allocation)
    }

    fn insert(
        &mut self,
        name: Name,
        mut binding: Binding,
        allocation: &Allocation,
    ) -> Result<u32, DropReason> {
        binding.is_recorded = match binding.has_port() {
            true => self.recorder.wants_bindings(allocation),
            // No block tells of it.
            false => self.recorder.wants_blocks(),
        };
        let index = self.insert_unrecorded(name, binding)?;
        self.record_binding(&binding, EventKind::BindingCreated);
        Ok(index)
    }

    /// Takes a binding in, whose port is taken already.
    fn insert_unrecorded(&mut self, name: Name, binding: Binding) -> Result<u32, DropReason> {
        if let Some(subscriber) = self.subscribers.get_mut(binding.subscriber) {
            subscriber.ports += u32::from(binding.has_port());
        }
        let Ok(index) = self.bindings.insert_hashed(name.key, name.hash, binding) else {
            self.give_port(&binding);
            return Err(DropReason::SessionTableFull);
        };
        if binding.has_port() {
            let hash = self.external_hash(binding.external, binding.protocol);
            let indexed = self.by_external.insert(hash, index);
            debug_assert!(indexed, "there is room for as many as there are bindings");
        }
        if binding.is_nat64 {
            self.hosts.count(binding.inside.0, true);
        }
        Ok(index)
    }

    /// Counts a session with a remote address that uses the binding. Returns what [`release`](Self::release) wants. One from
    /// outside (`inbound`) lets its remote address in no further than it was before: it may be a lease that let it in.
    pub fn hold(&mut self, index: u32, remote: u32, inbound: bool) -> u32 {
        let Some((_, binding)) = self.bindings.get_mut(index) else { return NONE };
        binding.sessions += 1;
        binding.has_served = true;
        if let Some(subscriber) = self.subscribers.get_mut(binding.subscriber) {
            subscriber.sessions += 1;
        }
        if binding.filtering != NatFiltering::AddressDependent {
            return NONE;
        }
        let inside = binding.of();
        if inbound && !self.permits.has(inside, remote) {
            return NONE;
        }
        self.permits.add_one(inside, remote)
    }

    /// Takes a session off the binding's count; the last one ends it and frees its port. `permit` is what
    /// [`hold`](Self::hold) returned. Harmless for [`NONE`].
    pub fn release(&mut self, index: u32, permit: u32) {
        let Some((_, binding)) = self.bindings.get_mut(index) else { return };
        if binding.sessions > 0 {
            binding.sessions -= 1;
            if let Some(subscriber) = self.subscribers.get_mut(binding.subscriber) {
                subscriber.sessions = subscriber.sessions.saturating_sub(1);
            }
        }
        self.permits.drop_one(permit);
        self.drop_unused(index);
    }

    /// A session of the binding had a packet from inside at this time, in ticks.
    pub fn seen_outbound(&mut self, index: u32, at: u32) {
        let Some((_, binding)) = self.bindings.get_mut(index) else { return };
        if binding.last_outbound.is_none_or(|last| at.wrapping_sub(last) < u32::MAX / 2) {
            binding.last_outbound = Some(at);
        }
    }

    /// Ends a binding that no session uses: one that was made for a packet which then came to nothing.
    pub fn drop_unused(&mut self, index: u32) {
        let Some((_, binding)) = self.bindings.get(index) else { return };
        if lease::is_kept(binding) {
            return;
        }
        let binding = *binding;
        let (secret, bindings) = (&self.secret, &self.bindings);
        let hash = |b: &Binding| Binding::external_hash(b.external, b.protocol, secret);
        if binding.has_port() {
            self.by_external.remove(hash(&binding), index, |at| bindings.value(at).map_or(0, hash));
        }
        self.bindings.remove(index);
        self.record_binding(&binding, EventKind::BindingReleased);
        if binding.is_nat64 {
            self.hosts.count(binding.inside.0, false);
        }
        self.give_port(&binding);
        self.leave(binding.subscriber);
    }

    fn record_binding(&mut self, binding: &Binding, kind: EventKind) {
        if binding.is_recorded {
            self.recorder.record(Event {
                at: self.now,
                kind,
                protocol: binding.protocol,
                inside: self.inside_address(binding),
                inside_port: binding.inside.1,
                external: Ipv4Addr::from_bits(binding.external.0),
                ports: (binding.external.1, binding.external.1),
            });
        }
    }
}

#[cfg(test)]
mod tests;
