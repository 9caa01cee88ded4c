//! Leases: bindings that inside hosts have asked for (PCP, NAT-PMP), each for a time of its own, with sessions or without.
//! Whoever its filters name may send to such a binding (RFC 6887 11).

use super::binding::{Binding, space};
use super::external::Wish;
use super::{Nat, Wanted};
use crate::clock::{Nanos, SECOND};
use crate::saved::{Record, Writer};
use crate::session::NONE;
use crate::snapshot::{Allocation, Pool, PortChoice, Snapshot};
use crate::table::hash::HashTable;
use crate::verdict::DropReason;

/// Most leases of a worker.
const MOST: u32 = 65_536;
/// Remote peers that a lease is limited to, at most.
const FILTERS: usize = 4;

/// A name that a lease's host alone knows.
pub type Nonce = [u8; 12];

/// Remote peers: those of a prefix, by a port or by all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// An address of the prefix.
    pub address: u32,
    /// The prefix's bits.
    pub mask: u32,
    /// Their port; 0 for all.
    pub port: u16,
}

/// Who may send to a lease's binding: all, if there is no filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    peers: [Peers; FILTERS],
    count: u8,
}

impl Filters {
    fn peers(&self) -> &[Peers] {
        self.peers.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// Lets these in, too. False if there are as many as there may be.
    pub fn add(&mut self, peers: Peers) -> bool {
        if self.peers().contains(&peers) {
            return true;
        }
        let Some(place) = self.peers.get_mut(usize::from(self.count)) else { return false };
        *place = peers;
        self.count += 1;
        true
    }

    /// Whether a remote address and port may send.
    pub fn admit(&self, (address, port): (u32, u16)) -> bool {
        let is_of = |p: &Peers| (address ^ p.address) & p.mask == 0 && (p.port == 0 || p.port == port);
        self.count == 0 || self.peers().iter().any(is_of)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease {
    until: Nanos,
    nonce: Nonce,
    filters: Filters,
    /// It keeps the mapping of conversations, and was not asked for by itself.
    is_for_peers: bool,
    /// The host's next lease, or [`NONE`].
    next: u32,
    /// The configuration under which it was last looked at.
    generation: u32,
}

impl Lease {
    /// One that [`Leases::save`] has written, with the index that its binding had.
    pub(super) fn read(record: &mut Record<'_>, generation: u32) -> (u32, Self) {
        let (binding, until) = (record.u32(), record.u64());
        let nonce = std::array::from_fn(|_| record.u8());
        let is_for_peers = record.u8() != 0;
        let mut filters = Filters::default();
        for _ in 0..record.u8() {
            filters.add(Peers { address: record.u32(), mask: record.u32(), port: record.u16() });
        }
        (binding, Self { until, nonce, filters, is_for_peers, next: NONE, generation })
    }
}

/// What a host has.
#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    first: u32,
    count: u32,
}

/// The leases of one worker.
pub(super) struct Leases {
    /// By their bindings' indices.
    table: HashTable<u32, Lease>,
    /// By inside addresses.
    holders: HashTable<u32, Holder>,
    /// Where the sweep is.
    at: u32,
    swept: Nanos,
}

impl Leases {
    /// Room for as many as a worker may have, if hosts may ask at all.
    pub(super) fn new(has_some: bool, snapshot: &Snapshot) -> Self {
        let room = if has_some { snapshot.sizes.sessions.min(MOST) } else { 1 };
        let seed = snapshot.seed.rotate_left(8);
        Self {
            table: HashTable::with_capacity(room, seed),
            holders: HashTable::with_capacity(room, seed),
            at: 0,
            swept: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.holders.bytes()
    }

    fn of(&self, binding: u32) -> Option<&Lease> {
        self.table.value(self.table.find(&binding)?)
    }

    /// Whether the lease of a binding lets a remote address and port in.
    pub(super) fn admit(&self, binding: u32, remote: (u32, u16), now: Nanos) -> bool {
        self.of(binding).is_some_and(|lease| lease.until > now && lease.filters.admit(remote))
    }

    /// Writes a section's records.
    pub(super) fn save(&self, writer: &mut Writer) {
        for (_, &binding, lease) in self.table.iter() {
            writer.record(|fields| {
                fields.u32(binding).u64(lease.until);
                lease.nonce.iter().for_each(|&byte| _ = fields.u8(byte));
                fields.u8(lease.is_for_peers.into()).u8(lease.filters.count);
                for Peers { address, mask, port } in lease.filters.peers() {
                    fields.u32(*address).u32(*mask).u16(*port);
                }
            });
        }
    }

    fn count_of(&self, inside: u32) -> u32 {
        self.holders.find(&inside).and_then(|at| self.holders.value(at)).map_or(0, |holder| holder.count)
    }

    /// Adds a lease. False if there is no room.
    pub(super) fn insert(&mut self, binding: u32, inside: u32, mut lease: Lease) -> bool {
        let holder = match self.holders.find(&inside) {
            Some(holder) => holder,
            None => match self.holders.insert(inside, Holder { first: NONE, count: 0 }) {
                Ok(holder) => holder,
                Err(_) => return false,
            },
        };
        let Some(held) = self.holders.value_mut(holder) else { return false };
        lease.next = held.first;
        match self.table.insert(binding, lease) {
            Ok(index) => {
                *held = Holder { first: index, count: held.count + 1 };
                true
            }
            Err(_) => {
                if held.count == 0 {
                    self.holders.remove(holder);
                }
                false
            }
        }
    }

    fn remove(&mut self, binding: u32, inside: u32) {
        let Some(index) = self.table.find(&binding) else { return };
        let Some((_, lease)) = self.table.remove(index) else { return };
        let Some(holder) = self.holders.find(&inside) else { return };
        let Some(held) = self.holders.value_mut(holder) else { return };
        held.count = held.count.saturating_sub(1);
        if held.count == 0 {
            self.holders.remove(holder);
            return;
        }
        if held.first == index {
            held.first = lease.next;
            return;
        }
        let mut at = held.first;
        while let Some(before) = self.table.value_mut(at) {
            if before.next == index {
                before.next = lease.next;
                return;
            }
            at = before.next;
        }
    }
}

/// What a host asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Index of the pool.
    pub pool: u16,
    /// Inside address and port.
    pub inside: (u32, u16),
    /// TCP or UDP.
    pub protocol: u8,
    /// The external address and port that would be welcome; 0 for any.
    pub suggested: (u32, u16),
    /// These or none.
    pub is_exact: bool,
    /// The lease's name.
    pub nonce: Nonce,
    /// How long, nanoseconds.
    pub lifetime: Nanos,
    /// Whether filters that there are go.
    pub clears_filters: bool,
    /// Filters that are added.
    pub filters: Filters,
    /// How many leases a host may have.
    pub most: u32,
    /// The configuration's generation.
    pub generation: u32,
}

/// Why a host does not get what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is a lease by another name, for so many nanoseconds.
    Another(Nanos),
    /// It has as much as it may.
    Quota,
    /// There is no port, or no room.
    NoRoom,
    /// It cannot be that external address and port.
    NotThat,
    /// More filters than there may be.
    TooManyFilters,
}

/// A lease, as it is looked at now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseFacts {
    /// Index of its binding.
    pub binding: u32,
    /// Its end.
    pub until: Nanos,
    /// The configuration under which it was last looked at.
    pub generation: u32,
}

impl Nat {
    /// Leases the binding of an inside endpoint, which is made if there is none, or renews its lease. Returns the external
    /// address and port.
    ///
    /// # Errors
    /// See [`Refusal`]; then all is as it was.
    pub fn lease(&mut self, ask: &Ask, of: &Pool) -> Result<(u32, u16), Refusal> {
        let Ask { pool, inside, protocol, .. } = *ask;
        let wanted = Wanted { pool, of, inside, remote: (0, 0), protocol };
        let mut known = self.known(&wanted);
        if let Some(over) = known.filter(|&index| self.lease_left(index) == Some(0)) {
            self.end_lease(over);
            known = self.known(&wanted);
        }
        let held = known.and_then(|index| self.leases.of(index)).copied();
        // What keeps a conversation's is no mapping of its own: another may take its place.
        let before = held.filter(|lease| !lease.is_for_peers);
        if let Some(other) = before.filter(|lease| lease.nonce != ask.nonce) {
            return Err(Refusal::Another(other.until.saturating_sub(self.now)));
        }
        let mut filters =
            before.map(|lease| lease.filters).filter(|_| !ask.clears_filters).unwrap_or_default();
        if !ask.filters.peers().iter().all(|&peers| filters.add(peers)) {
            return Err(Refusal::TooManyFilters);
        }
        if held.is_none() && self.leases.count_of(ask.inside.0) >= ask.most {
            return Err(Refusal::Quota);
        }
        let index = match known {
            Some(index) => index,
            None => self.bind_for(ask, (0, 0), of)?,
        };
        let external = self.get(index).map_or((0, 0), |binding| binding.external);
        let (address, port) = ask.suggested;
        if ask.is_exact && (address != 0 && address != external.0 || port != 0 && port != external.1) {
            self.drop_unused(index);
            return Err(Refusal::NotThat);
        }
        self.put_lease(index, ask, filters, self.now.saturating_add(ask.lifetime), false)?;
        Ok(external)
    }

    /// Leases the binding of an inside endpoint for what goes between it and a remote end alone, for the time asked for or
    /// what is left of a longer one (RFC 6887 12.3). Returns the external address and port, and the time, nanoseconds. Of a
    /// mapping that the host has asked for by another name, nothing changes.
    ///
    /// # Errors
    /// See [`Refusal`]; then all is as it was.
    pub fn lease_for(
        &mut self,
        ask: &Ask,
        remote: (u32, u16),
        of: &Pool,
    ) -> Result<((u32, u16), Nanos), Refusal> {
        let Ask { pool, inside, protocol, .. } = *ask;
        let wanted = Wanted { pool, of, inside, remote, protocol };
        let mut known = self.known(&wanted);
        if let Some(over) = known.filter(|&index| self.lease_left(index) == Some(0)) {
            self.end_lease(over);
            known = self.known(&wanted);
        }
        let before = known.and_then(|index| self.leases.of(index)).copied();
        if before.is_none() && self.leases.count_of(ask.inside.0) >= ask.most {
            return Err(Refusal::Quota);
        }
        let index = match known {
            Some(index) => index,
            None => self.bind_for(ask, remote, of)?,
        };
        let external = self.get(index).map_or((0, 0), |binding| binding.external);
        let (address, port) = ask.suggested;
        let is_other = address != 0 && address != external.0 || port != 0 && port != external.1;
        if known.is_none() && is_other {
            self.drop_unused(index);
            return Err(Refusal::NotThat);
        }
        let mut until = self.now.saturating_add(ask.lifetime);
        let mut filters = Filters::default();
        if let Some(lease) = before {
            if lease.nonce != ask.nonce && !lease.is_for_peers {
                return Ok((external, lease.until.saturating_sub(self.now)));
            }
            (until, filters) = (until.max(lease.until), lease.filters);
        }
        let is_for_peers = before.is_none_or(|lease| lease.is_for_peers);
        if is_for_peers && !filters.add(Peers { address: remote.0, mask: u32::MAX, port: remote.1 }) {
            return Err(Refusal::Quota);
        }
        self.put_lease(index, ask, filters, until, is_for_peers)?;
        Ok((external, until.saturating_sub(self.now)))
    }

    /// Gives a binding its lease.
    fn put_lease(
        &mut self,
        index: u32,
        ask: &Ask,
        filters: Filters,
        until: Nanos,
        is_for_peers: bool,
    ) -> Result<(), Refusal> {
        let lease =
            Lease { until, nonce: ask.nonce, filters, is_for_peers, next: NONE, generation: ask.generation };
        let at = self.leases.table.find(&index);
        if let Some(held) = at.and_then(|at| self.leases.table.value_mut(at)) {
            *held = Lease { next: held.next, ..lease };
        } else if !self.leases.insert(index, ask.inside.0, lease) {
            self.drop_unused(index);
            return Err(Refusal::NoRoom);
        }
        if let Some((_, binding)) = self.bindings.get_mut(index) {
            binding.is_leased = true;
            binding.has_served = true;
        }
        Ok(())
    }

    fn bind_for(&mut self, ask: &Ask, remote: (u32, u16), of: &Pool) -> Result<u32, Refusal> {
        let port = if ask.suggested.1 == 0 { ask.inside.1 } else { ask.suggested.1 };
        let wish = Wish::new(PortChoice::Preserve, port, ask.protocol);
        let Ask { pool, inside, protocol, .. } = *ask;
        let wanted = Wanted { pool, of, inside, remote, protocol };
        self.bind_new(&wanted, &wish, false).map_err(|reason| match reason {
            DropReason::NatPortLimit | DropReason::NatSessionLimit => Refusal::Quota,
            _ => Refusal::NoRoom,
        })
    }

    /// Ends the leases of an inside address by this name: that of an inside port, or, for port 0, all of a protocol, or, for
    /// protocol 0, all. Sessions keep their bindings.
    ///
    /// # Errors
    /// The one that is meant has another name.
    pub fn end_leases(
        &mut self,
        (address, port): (u32, u16),
        protocol: u8,
        nonce: &Nonce,
    ) -> Result<(), Refusal> {
        let holder = self.leases.holders.find(&address).and_then(|at| self.leases.holders.value(at));
        let mut at = holder.map_or(NONE, |holder| holder.first);
        while let Some((&index, &lease)) = self.leases.table.get(at) {
            at = lease.next;
            let is_meant = self.get(index).is_some_and(|binding| {
                (port == 0 || binding.inside.1 == port) && (protocol == 0 || binding.protocol == protocol)
            });
            if !is_meant {
                continue;
            }
            if lease.nonce == *nonce || lease.until <= self.now {
                self.end_lease(index);
            } else if port != 0 {
                return Err(Refusal::Another(lease.until.saturating_sub(self.now)));
            }
        }
        Ok(())
    }

    /// Ends the lease of a binding, and the binding with it if it has no session.
    pub fn end_lease(&mut self, index: u32) {
        let Some((_, binding)) = self.bindings.get_mut(index) else { return };
        binding.is_leased = false;
        let inside = binding.inside.0;
        self.leases.remove(index, inside);
        self.drop_unused(index);
    }

    /// For how long a binding is leased still, in nanoseconds; none if it is not.
    pub fn lease_left(&self, index: u32) -> Option<Nanos> {
        self.get(index).filter(|binding| binding.is_leased)?;
        self.leases.of(index).map(|lease| lease.until.saturating_sub(self.now))
    }

    /// Leases that are live.
    pub fn leased(&self) -> u32 {
        self.leases.table.len()
    }

    /// How many leases are to be looked at now so that each one's turn comes once a second.
    pub fn leases_due(&mut self, now: Nanos) -> u32 {
        let slots = u64::from(self.leases.table.slots());
        let elapsed = now.saturating_sub(self.leases.swept);
        if slots == 0 || elapsed >= SECOND {
            self.leases.swept = now;
            return slots as u32;
        }
        let quota = slots * elapsed / SECOND;
        self.leases.swept += (quota * SECOND).div_ceil(slots);
        quota as u32
    }

    /// The next place where there may be a lease.
    pub fn next_lease(&mut self) -> Option<LeaseFacts> {
        let slots = self.leases.table.slots();
        let at = if self.leases.at < slots { self.leases.at } else { 0 };
        self.leases.at = at + 1;
        let (&binding, &Lease { until, generation, .. }) = self.leases.table.get(at)?;
        Some(LeaseFacts { binding, until, generation })
    }

    /// A lease is still given out under a configuration.
    pub fn confirm_lease(&mut self, index: u32, generation: u32) {
        let at = self.leases.table.find(&index);
        if let Some(lease) = at.and_then(|at| self.leases.table.value_mut(at)) {
            lease.generation = generation;
        }
    }

    /// The external address that an inside one has in a pool, or would have.
    pub fn external_of(&self, pool: u16, inside: u32) -> Option<u32> {
        let pool = self.layout.pools.get(usize::from(pool))?;
        let first = || super::allocate::places(pool, inside, self.seed).next();
        let slot = match &pool.allocation {
            Allocation::Ports => first(),
            Allocation::Deterministic(plan) => {
                plan.block(inside).and_then(|(position, _)| pool.order.get(position).copied())
            }
            Allocation::Blocks(_) => {
                let block = self.subscribers.first_block(pool, inside);
                block.and_then(|at| self.blocks.get(at)).map(|block| block.slot).or_else(first)
            }
        };
        self.externals.get(slot? as usize).map(|external| external.address.to_bits())
    }

    /// Whether a port for a protocol can be leased at all.
    pub fn can_lease(protocol: u8) -> bool {
        protocol != sluice_pkt::ipv4::ICMP && space(protocol).is_some()
    }
}

/// Whether a binding is kept although no session uses it.
pub(super) fn is_kept(binding: &Binding) -> bool {
    binding.sessions > 0 || binding.is_leased
}
