//! NAT bindings: which external address and port an inside one has.
//!
//! Mapping is endpoint-independent (RFC 4787 REQ-1): all sessions of one inside address and port share one binding, and
//! it lives as long as the last of them. Filtering is by session, that is address- and port-dependent (RFC 4787 REQ-8).

mod allocate;
mod blocks;
mod deterministic;
mod events;
mod subscribers;

use std::collections::HashMap;
use std::net::Ipv4Addr;

use sluice_pkt::ipv4;

use self::allocate::{Found, blocks};
use self::blocks::Blocks;
pub use self::deterministic::Deterministic;
use self::events::Recorder;
pub use self::events::{Change, Event, EventReader, NatLog};
use self::subscribers::Subscribers;
pub use self::subscribers::{BlockRow, SubscriberRow};
use crate::clock::Nanos;
use crate::session::NONE;
use crate::snapshot::{Allocation, Pool, Snapshot};
use crate::stage::owner::Owners;
use crate::table::bitmap::PortBitmap;
use crate::table::hash::HashTable;
use crate::verdict::DropReason;

/// One inside endpoint's external one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// Inside address and port (or echo identifier).
    pub inside: (u32, u16),
    /// External address and port (or echo identifier).
    pub external: (u32, u16),
    /// IP protocol: TCP, UDP or ICMP.
    pub protocol: u8,
    /// The pool.
    pub pool: u16,
    /// Sessions that use it.
    pub sessions: u32,
    /// Place of the external address in the pool.
    position: u32,
    /// Whose it is, where inside addresses are kept account of, or [`NONE`].
    subscriber: u32,
}

/// The ports of one external address, by protocol.
#[derive(Debug)]
struct External {
    address: Ipv4Addr,
    /// TCP, UDP, ICMP; see [`space`].
    ports: [PortBitmap; 3],
    /// Of these, how many are taken because other workers give them out.
    others: [u32; 3],
}

fn space(protocol: u8) -> Option<usize> {
    match protocol {
        ipv4::TCP => Some(0),
        ipv4::UDP => Some(1),
        ipv4::ICMP => Some(2),
        _ => None,
    }
}

/// What is given out of one pool.
struct State {
    /// Its addresses, as indices into the externals.
    externals: Vec<u32>,
    /// Its blocks, if it is given out in blocks.
    blocks: Option<Blocks>,
    /// Whether its bindings are recorded.
    records_bindings: bool,
}

/// The bindings of one worker, and the external ports that they take.
pub struct Nat {
    bindings: HashTable<[u64; 2], Binding>,
    externals: Vec<External>,
    pools: Vec<State>,
    subscribers: Subscribers,
    recorder: Recorder,
    now: Nanos,
    random: u64,
    seed: u64,
}

impl Nat {
    /// Takes the memory for as many bindings as there may be sessions. The ports of forwards are taken from the start.
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut externals: Vec<External> = Vec::new();
        let mut indices: HashMap<Ipv4Addr, u32> = HashMap::new();
        let mut index_of = |address: Ipv4Addr| {
            *indices.entry(address).or_insert_with(|| {
                let ports = [PortBitmap::new(), PortBitmap::new(), PortBitmap::new()];
                externals.push(External { address, ports, others: [0; 3] });
                (externals.len() - 1) as u32
            })
        };
        let state = |pool: &Pool| State {
            externals: pool.addresses.iter().map(|&address| index_of(address)).collect(),
            blocks: blocks(pool, |_| true),
            records_bindings: snapshot.nat_log.has_bindings(&pool.allocation),
        };
        let pools = snapshot.pools.iter().map(state).collect::<Vec<State>>();
        for forward in &snapshot.forwards {
            let external = indices.get(&forward.address).and_then(|&i| externals.get_mut(i as usize));
            if let (Some(external), Some(space)) = (external, space(forward.protocol)) {
                (forward.ports.0..=forward.ports.1).for_each(|port| _ = external.ports[space].take(port));
            }
        }
        let capacity = if pools.is_empty() { 1 } else { snapshot.sizes.sessions };
        let bindings = HashTable::with_capacity(capacity, snapshot.seed);
        Self {
            bindings,
            externals,
            pools,
            subscribers: Subscribers::new(snapshot),
            recorder: Recorder::new(snapshot.nat_log),
            now: 0,
            random: snapshot.seed,
            seed: snapshot.seed,
        }
    }

    /// Gives out the ports and blocks only that are worker `me`'s, from now on. There must be no binding yet.
    pub fn share(&mut self, me: u8, owners: &Owners, snapshot: &Snapshot) {
        // By external address, the ranges of ports that are given out one by one.
        let mut single: Vec<Vec<(u16, u16)>> = self.externals.iter().map(|_| Vec::new()).collect();
        for (state, pool) in self.pools.iter_mut().zip(&snapshot.pools) {
            state.blocks = blocks(pool, |number| owners.of_block(number) == me);
            for &external in state.externals.iter().filter(|_| pool.allocation == Allocation::Ports) {
                single[external as usize].push(pool.ports);
            }
        }
        for (external, single) in self.externals.iter_mut().zip(single) {
            for (ports, others) in external.ports.iter_mut().zip(&mut external.others) {
                for port in (0..=u16::MAX).filter(|&port| owners.of_port(port) != me) {
                    if single.iter().any(|&(first, last)| (first..=last).contains(&port)) {
                        ports.take(port);
                    }
                    // Those of forwards are counted by one worker.
                    *others += u32::from(ports.is_taken(port));
                }
            }
        }
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
        let blocks = self.pools.iter().flat_map(|pool| &pool.blocks).map(Blocks::bytes).sum::<usize>();
        self.bindings.bytes()
            + self.externals.len() * (size_of::<External>() + 3 * PortBitmap::BYTES)
            + self.subscribers.bytes()
            + blocks
    }

    /// The binding at `index`.
    pub fn get(&self, index: u32) -> Option<&Binding> {
        self.bindings.get(index).map(|(_, binding)| binding)
    }

    /// How far indices of bindings go.
    pub fn slots(&self) -> u32 {
        self.bindings.slots()
    }

    /// The external addresses, each with the ports in use for TCP, UDP and ICMP.
    pub fn externals(&self) -> impl Iterator<Item = (Ipv4Addr, [u32; 3])> + '_ {
        self.externals
            .iter()
            .map(|e| (e.address, [0, 1, 2].map(|i: usize| e.ports[i].in_use() - e.others[i])))
    }

    /// The time is `now`: gives back blocks whose time is up.
    pub fn keep(&mut self, now: Nanos) {
        self.now = now;
        for pool in 0..self.pools.len() {
            while let Some((number, at)) =
                self.pools[pool].blocks.as_ref().and_then(|blocks| blocks.expired(now))
            {
                self.give_block(pool as u16, number, at);
            }
        }
    }

    /// The binding (its index) of an inside endpoint in a pool: the one that it has, or a new one, which keeps its port
    /// where that is free (RFC 4787 REQ-3) and has a random one otherwise (RFC 6056). The address is the same for all of
    /// an inside address's bindings while it has free ports (paired pooling, RFC 4787 REQ-2).
    ///
    /// It is for a new session. A new binding has none yet: [`hold`](Self::hold) and [`release`](Self::release) count them.
    pub fn bind(
        &mut self,
        pool: u16,
        of: &Pool,
        inside: (u32, u16),
        protocol: u8,
    ) -> Result<u32, DropReason> {
        let space = space(protocol).ok_or(DropReason::NatProtocol)?;
        let key = [u64::from(inside.0) << 32 | u64::from(inside.1) << 16 | u64::from(pool), protocol.into()];
        if let Some(index) = self.bindings.find(&key) {
            let subscriber = self.get(index).map_or(NONE, |binding| binding.subscriber);
            self.subscribers.admit_session(subscriber, of)?;
            return Ok(index);
        }
        let subscriber = self.subscribers.enter(pool, of, inside.0)?;
        let bound = self
            .subscribers
            .admit_session(subscriber, of)
            .and_then(|()| self.subscribers.admit_port(subscriber, of))
            .and_then(|()| self.find_port(pool, of, inside, space, subscriber))
            .and_then(|found| self.insert(key, inside, protocol, pool, found, subscriber));
        if bound.is_err() {
            self.subscribers.leave(subscriber);
        }
        bound
    }

    fn insert(
        &mut self,
        key: [u64; 2],
        inside: (u32, u16),
        protocol: u8,
        pool: u16,
        Found { position, port }: Found,
        subscriber: u32,
    ) -> Result<u32, DropReason> {
        let external = (self.external_mut(pool, position).map_or(0, |e| e.address.to_bits()), port);
        let binding = Binding { inside, external, protocol, pool, sessions: 0, position, subscriber };
        if let Some(subscriber) = self.subscribers.get_mut(subscriber) {
            subscriber.ports += 1;
        }
        match self.bindings.insert(key, binding) {
            Ok(index) => {
                self.record_binding(&binding, Change::BindingCreated);
                Ok(index)
            }
            Err(_) => {
                self.give_port(&binding);
                Err(DropReason::SessionTableFull)
            }
        }
    }

    /// Counts a session that uses the binding.
    pub fn hold(&mut self, index: u32) {
        if let Some((_, binding)) = self.bindings.get_mut(index) {
            binding.sessions += 1;
            if let Some(subscriber) = self.subscribers.get_mut(binding.subscriber) {
                subscriber.sessions += 1;
            }
        }
    }

    /// Takes a session off the binding's count; the last one ends it and frees its port. Harmless for [`NONE`].
    pub fn release(&mut self, index: u32) {
        if index == NONE {
            return;
        }
        let Some((_, binding)) = self.bindings.get_mut(index) else { return };
        if binding.sessions > 0 {
            binding.sessions -= 1;
            if let Some(subscriber) = self.subscribers.get_mut(binding.subscriber) {
                subscriber.sessions = subscriber.sessions.saturating_sub(1);
            }
        }
        self.drop_unused(index);
    }

    /// Ends a binding that no session uses: one that was made for a packet which then came to nothing.
    pub fn drop_unused(&mut self, index: u32) {
        let Some((_, binding)) = self.bindings.get(index) else { return };
        if binding.sessions > 0 {
            return;
        }
        let binding = *binding;
        self.bindings.remove(index);
        self.record_binding(&binding, Change::BindingReleased);
        self.give_port(&binding);
        self.subscribers.leave(binding.subscriber);
    }

    fn give_port(&mut self, binding: &Binding) {
        let space = space(binding.protocol);
        if let (Some(external), Some(space)) = (self.external_mut(binding.pool, binding.position), space) {
            external.ports[space].give(binding.external.1);
        }
        if let Some(subscriber) = self.subscribers.get_mut(binding.subscriber) {
            subscriber.ports = subscriber.ports.saturating_sub(1);
        }
        if let Some(blocks) = self.blocks_mut(binding.pool) {
            let number = blocks.number(binding.position, binding.external.1);
            self.release_block_port(binding.pool, number);
        }
    }

    fn record_binding(&mut self, binding: &Binding, change: Change) {
        let pool = self.pools.get(usize::from(binding.pool));
        if pool.is_some_and(|pool| pool.records_bindings) {
            self.recorder.record(Event {
                at: self.now,
                change,
                protocol: binding.protocol,
                inside: Ipv4Addr::from_bits(binding.inside.0),
                inside_port: binding.inside.1,
                external: Ipv4Addr::from_bits(binding.external.0),
                ports: (binding.external.1, binding.external.1),
            });
        }
    }

    /// The inside address at an index, if account is kept of one there.
    pub fn subscriber(&self, index: u32) -> Option<SubscriberRow> {
        self.subscribers.row(index)
    }

    /// How far indices of inside addresses go.
    pub fn subscriber_slots(&self) -> u32 {
        self.subscribers.slots()
    }
}

#[cfg(test)]
mod tests;
