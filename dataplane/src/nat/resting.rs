//! External UDP ports that rest: nobody else gets one for a while after its binding ended, as what is still sent to it would
//! reach the wrong host (RFC 6888 REQ-8).
//!
//! Only where the filter lets everybody in; elsewhere what comes late is dropped by it, and TCP is tracked.

use std::collections::VecDeque;

use sluice_pkt::ipv4;

use super::Nat;
use super::binding::Binding;
use super::external::{External, Wish};
use super::layout::Way;
use crate::clock::Nanos;
use crate::snapshot::{NatFiltering, PortChoice};
use crate::table::hash::HashTable;

/// Where UDP's ports are among those of an address.
pub(super) const UDP: usize = 1;

/// Ports whose rest a call ends at most, so that none takes long.
const AT_ONCE: usize = 64;

/// An external address and port.
pub(super) type End = (u32, u16);

fn key((address, port): End) -> u64 {
    u64::from(address) << 16 | u64::from(port)
}

/// A port that rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    /// Place of its address.
    pub(super) slot: u32,
    /// Who had it and may have it back; with NAT64 nobody, as numbers of hosts are used again.
    pub(super) inside: Option<u32>,
    /// When it ends.
    pub(super) until: Nanos,
}

/// The ports that rest.
pub(super) struct Resting {
    ports: HashTable<u64, Rest>,
    /// Oldest first. One that was taken back is still in here.
    queue: VecDeque<(End, Nanos)>,
    most: usize,
}

impl Resting {
    /// Room for so many.
    pub(super) fn new(most: u32, seed: u64) -> Self {
        Self {
            ports: HashTable::with_capacity(most.max(1), seed.rotate_left(24)),
            queue: VecDeque::with_capacity(most as usize),
            most: most as usize,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.ports.bytes() + self.queue.capacity() * size_of::<(End, Nanos)>()
    }

    /// Lets a port rest. Returns the one whose rest that cuts short, for want of room.
    pub(super) fn add(&mut self, end: End, rest: Rest) -> Option<(End, Rest)> {
        if self.most == 0 {
            return Some((end, rest));
        }
        let oldest = if self.queue.len() >= self.most { self.next() } else { None };
        self.queue.push_back((end, rest.until));
        match self.ports.find(&key(end)).and_then(|at| self.ports.value_mut(at)) {
            Some(known) => *known = rest,
            None => {
                let added = self.ports.insert(key(end), rest);
                debug_assert!(added.is_ok(), "each has a place in the queue, which is no longer");
            }
        }
        oldest
    }

    /// Those that rest, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (End, Rest)> + '_ {
        self.queue.iter().filter_map(|&(end, until)| {
            let rest = self.ports.value(self.ports.find(&key(end))?)?;
            (rest.until == until).then_some((end, *rest))
        })
    }

    fn is_due(&self, now: Nanos) -> bool {
        self.queue.front().is_some_and(|&(_, until)| until <= now)
    }

    /// Takes out the oldest place of the queue; none if its port was taken back.
    fn next(&mut self) -> Option<(End, Rest)> {
        let (end, until) = self.queue.pop_front()?;
        let at = self.ports.find(&key(end))?;
        self.ports.value(at).filter(|rest| rest.until == until)?;
        let (_, rest) = self.ports.remove(at)?;
        Some((end, rest))
    }

    /// Gives a port back to whom it was of.
    fn take_back(&mut self, end: End, inside: u32) -> bool {
        let Some(at) = self.ports.find(&key(end)) else { return false };
        let is_own = self.ports.value(at).is_some_and(|rest| rest.inside == Some(inside));
        is_own && self.ports.remove(at).is_some()
    }
}

impl Nat {
    /// Lets the port of a binding that ends rest, if it is to. False if it is free at once.
    pub(super) fn rest(&mut self, binding: &Binding) -> bool {
        let time = self.layout.rest;
        let may_be_sent_to = binding.has_served && binding.filtering == NatFiltering::EndpointIndependent;
        if !may_be_sent_to || binding.protocol != ipv4::UDP || time == 0 {
            return false;
        }
        // Those that arithmetic gives are nobody else's.
        if self.layout.slots.get(binding.slot as usize).is_some_and(|slot| slot.way == Way::Subscribers) {
            return false;
        }
        let inside = (!binding.is_nat64).then_some(binding.inside.0);
        let rest = Rest { slot: binding.slot, inside, until: self.now.saturating_add(time) };
        if let Some(external) = self.externals.get_mut(binding.slot as usize) {
            external.resting += 1;
        }
        if let Some((end, rest)) = self.resting.add(binding.external, rest) {
            self.end_rest(end, &rest);
        }
        true
    }

    /// The time is `now`: ends the rest of ports whose time is up, some at a call.
    pub(super) fn end_rests(&mut self) {
        for _ in 0..AT_ONCE {
            if !self.resting.is_due(self.now) {
                return;
            }
            if let Some((end, rest)) = self.resting.next() {
                self.end_rest(end, &rest);
            }
        }
    }

    pub(super) fn end_rest(&mut self, (address, port): End, rest: &Rest) {
        // Another configuration may have put another address there, or let a forward have the port, or a new binding.
        let is_taken = self.layout.is_reserved(rest.slot, UDP, port)
            || self.find_external((address, port), ipv4::UDP).is_some();
        let external = self.externals.get_mut(rest.slot as usize);
        if let Some(external) = external.filter(|external| external.address.to_bits() == address) {
            external.resting = external.resting.saturating_sub(1);
            if !is_taken {
                external.ports[UDP].give(port);
            }
        }
    }
}

/// Takes the port that an inside address would keep and had until lately, if it is one of the range.
pub(super) fn take_own(
    resting: &mut Resting,
    external: &mut External,
    range: (u16, u16),
    wish: &Wish,
    inside: u32,
) -> Option<u16> {
    let is_kept = wish.choice == PortChoice::Preserve && (range.0..=range.1).contains(&wish.inside);
    let may_be = is_kept && external.resting > 0;
    if !may_be || !resting.take_back((external.address.to_bits(), wish.inside), inside) {
        return None;
    }
    external.resting -= 1;
    // It was taken all the time, unless its address was gone meanwhile.
    external.ports[UDP].take(wish.inside);
    Some(wish.inside)
}

#[cfg(test)]
mod tests;
