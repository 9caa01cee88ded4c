//! Police: token buckets and meters. Which ones a flow is measured by is chosen at its first packet; each packet asks them.
//!
//! Limits see the inside's addresses: before source NAT, after destination NAT, in both directions. A packet passes if
//! the limit of its ingress and that of its egress interface both let it; what the second refuses, the first has counted.
//! A limit may be for some classes of the egress alone; the class counts in which a session is, not one that packets beyond a
//! quota leave in.
//!
//! Limits that are one bucket are asked here, and by the fast path; the others in `metered`.
//!
//! Exits: drops.

use sluice_pkt::parse::{Headers, L3};

use super::{Decision, FirstPackets, Tuple4, Tuple6, addresses4, addresses6, nat64, reversed, tuple};
use crate::burst::{Burst, Mask};
use crate::clock::Nanos;
use crate::counters::{Count, LimitCount};
use crate::session::{Ends6, FlowAction, Limits, NO_LIMIT};
use crate::shard::Shard;
use crate::snapshot::{Limit, Snapshot};
use crate::table::classifier::{Address, Rule, Tuple};
use crate::table::meter::Meter;
use crate::verdict::DropReason;

mod metered;
mod saved;
mod shares;

use self::metered::Metered;
use self::shares::Shares;

/// The limits of one worker, in the order of the snapshot's.
#[derive(Debug)]
pub struct Limiters {
    all: Vec<Limiter>,
    /// What takes the place of the bucket of those that are more, in the same order.
    metered: Vec<Option<Box<Metered>>>,
    /// Its part of each limit, where there are several workers.
    shares: Option<Box<Shares>>,
}

/// A limit's bucket and what it has decided, on one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Limiter {
    meter: Meter,
    passed: Count,
    dropped: Count,
}

impl Limiter {
    /// Bytes that it was asked about.
    fn asked(&self) -> u64 {
        self.passed.bytes + self.dropped.bytes
    }
}

impl Limiters {
    /// Every bucket full.
    pub fn new(snapshot: &Snapshot) -> Self {
        let limiter = |limit: &Limit| Limiter {
            meter: Meter::new(limit.rate, limit.burst),
            passed: Count::default(),
            dropped: Count::default(),
        };
        let metered = |limit: &Limit| Metered::new(limit, snapshot.seed).map(Box::new);
        Self {
            all: snapshot.limits.iter().map(limiter).collect(),
            metered: snapshot.limits.iter().map(metered).collect(),
            shares: None,
        }
    }

    /// Puts others in the place of these, which `fresh` holds afterwards. Those that are `kept` go on counting, and their
    /// buckets stay as they are if nothing about them has changed.
    pub fn adopt(&mut self, fresh: &mut Self, kept: &[Kept]) {
        for kept in kept {
            let [old, new] = [kept.old, kept.new].map(usize::from);
            let count = self.count(old);
            if let (Some(old), Some(new)) = (self.all.get(old), fresh.all.get_mut(new)) {
                (new.passed, new.dropped) = (count.passed, count.dropped);
                if kept.unchanged {
                    new.meter = old.meter;
                }
            }
            if let Some(Some(new)) = fresh.metered.get_mut(new) {
                let old = self.metered.get_mut(old).and_then(Option::as_mut).filter(|_| kept.unchanged);
                new.go_on(&count, old);
            }
        }
        self.carry(fresh, kept);
        std::mem::swap(self, fresh);
    }

    /// What each has decided so far.
    pub fn counts(&self) -> impl Iterator<Item = LimitCount> {
        (0..self.all.len()).map(|limit| self.count(limit))
    }

    fn count(&self, limit: usize) -> LimitCount {
        match (self.all.get(limit), self.metered.get(limit)) {
            (_, Some(Some(metered))) => metered.count(),
            (Some(&Limiter { passed, dropped, .. }), _) => LimitCount {
                passed,
                dropped,
                colors: [passed, Count::default(), dropped],
                ..LimitCount::default()
            },
            _ => LimitCount::default(),
        }
    }

    /// Whether the limits of ingress and egress let a packet of so many bytes pass.
    #[inline(always)]
    pub(super) fn pass(&mut self, [ingress, egress]: [u8; 2], now: Nanos, bytes: usize) -> bool {
        match (ingress, egress) {
            (limit, NO_LIMIT) | (NO_LIMIT, limit) => self.ask(limit, now, bytes),
            limits => self.ask_both(limits, now, bytes),
        }
    }

    #[inline(always)]
    fn ask(&mut self, limit: u8, now: Nanos, bytes: usize) -> bool {
        // `NO_LIMIT` is the index of none.
        let Some(Limiter { meter, passed, dropped }) = self.all.get_mut(usize::from(limit)) else {
            return true;
        };
        let passes = meter.allow(now, bytes as u16);
        if passes {
            passed.add(bytes)
        } else {
            dropped.add(bytes)
        }
        passes
    }

    #[inline(never)]
    fn ask_both(&mut self, (ingress, egress): (u8, u8), now: Nanos, bytes: usize) -> bool {
        self.ask(ingress, now, bytes) && self.ask(egress, now, bytes)
    }
}

/// Tokens that a limit was asked for: bytes, or packets.
fn asked(all: &[Limiter], metered: &[Option<Box<Metered>>], limit: usize) -> u64 {
    match (all.get(limit), metered.get(limit)) {
        (_, Some(Some(metered))) => metered.asked(),
        (Some(limiter), _) => limiter.asked(),
        _ => 0,
    }
}

/// A limit that another configuration has, too: its index in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Before.
    pub old: u8,
    /// From now on.
    pub new: u8,
    /// All figures are the same.
    pub unchanged: bool,
}

/// Chooses the limits of each first packet's session, both ways, once its classes are known.
pub fn classify(burst: &Burst, first: &mut FirstPackets, snapshot: &Snapshot) {
    if snapshot.limits.is_empty() {
        return;
    }
    for i in first.open(burst) {
        let (bytes, headers, ingress) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
        let decision = &mut first.decisions[i];
        if decision.cross != nat64::Cross::No {
            choose_crossing(decision, ingress, snapshot, (bytes, headers), burst.ends6[i]);
        } else if headers.l3 == L3::Ipv4 {
            choose4(decision, ingress, snapshot, first.tuples4[i]);
        } else {
            let inside = tuple(addresses6(bytes, headers), bytes, headers);
            choose6(decision, ingress, snapshot, &inside);
        }
    }
}

/// Chooses the limits of a session whose first packet is this one, which came in by `ingress`.
pub(super) fn choose4(decision: &mut Decision, ingress: u16, snapshot: &Snapshot, mut inside: Tuple4) {
    (inside.dst, inside.dst_port) = decision.dst;
    choose(decision, ingress, snapshot, &inside, |limit| &limit.v4);
}

/// As [`choose4`], for a session that goes from one family to the other: each interface's limits see the packets as they
/// are there.
fn choose_crossing(
    decision: &mut Decision,
    ingress: u16,
    snapshot: &Snapshot,
    (bytes, headers): (&[u8], &Headers),
    ends6: Ends6,
) {
    match decision.cross {
        nat64::Cross::ToV6 => {
            let arrives = tuple(addresses4(bytes, headers), bytes, headers);
            choose46(decision, ingress, snapshot, arrives, ends6);
        }
        _ => choose64(decision, ingress, snapshot, tuple(addresses6(bytes, headers), bytes, headers)),
    }
}

/// As [`choose4`], for a first packet of IPv4 that leaves as IPv6.
pub(super) fn choose46(
    decision: &mut Decision,
    ingress: u16,
    snapshot: &Snapshot,
    arrives: Tuple4,
    leaves: Ends6,
) {
    choose6(decision, ingress, snapshot, &nat64::leaving6(&arrives, leaves));
    let out = decision.limits;
    choose(decision, ingress, snapshot, &arrives, |limit| &limit.v4);
    decision.limits = joined(decision.limits, out, snapshot);
}

/// As [`choose4`], for a first packet of IPv6 that leaves as IPv4.
pub(super) fn choose64(decision: &mut Decision, ingress: u16, snapshot: &Snapshot, arrives: Tuple6) {
    choose(decision, ingress, snapshot, &nat64::leaving4(&arrives, decision), |limit| &limit.v4);
    let out = decision.limits;
    choose6(decision, ingress, snapshot, &arrives);
    decision.limits = joined(decision.limits, out, snapshot);
}

/// Limits chosen by what packets are where they arrive, and by what they are where they leave.
fn joined(come: [Limits; 2], out: [Limits; 2], snapshot: &Snapshot) -> [Limits; 2] {
    let of = [[come[0].of[0], out[0].of[1]], [out[1].of[0], come[1].of[1]]];
    of.map(|of| limits(of, snapshot))
}

fn limits(of: [u8; 2], snapshot: &Snapshot) -> Limits {
    let is_metered =
        |&limit: &u8| snapshot.limits.get(usize::from(limit)).is_some_and(|l| l.policer.is_some());
    Limits { of, metered: of.iter().any(is_metered) }
}

/// As [`choose4`].
pub(super) fn choose6(decision: &mut Decision, ingress: u16, snapshot: &Snapshot, inside: &Tuple6) {
    choose(decision, ingress, snapshot, inside, |limit| &limit.v6);
}

fn choose<A: Address>(
    decision: &mut Decision,
    ingress: u16,
    snapshot: &Snapshot,
    forward: &Tuple<A>,
    rules: impl Fn(&Limit) -> &[Rule<A>],
) {
    let egress = decision.egress;
    let mut chosen = [Limits::NONE; 2];
    // Limits may be many, and most are of other interfaces.
    for (limit, index) in snapshot.limits.iter().zip(0..NO_LIMIT) {
        let ways = if limit.egress { [egress, ingress] } else { [ingress, egress] };
        for (direction, chosen) in chosen.iter_mut().enumerate() {
            let place = &mut chosen.of[usize::from(limit.egress)];
            if limit.interface != ways[direction] || *place != NO_LIMIT {
                continue;
            }
            if !limit.classes.is_empty() && !limit.classes.contains(&decision.classes[direction]) {
                continue;
            }
            let fits = |tuple: &Tuple<A>| rules(limit).iter().any(|rule| rule.matches(tuple));
            let is_first = if direction == 0 { fits(forward) } else { fits(&reversed(forward)) };
            if is_first {
                *place = index;
                chosen.metered |= limit.policer.is_some();
            }
        }
    }
    decision.limits = chosen;
}

/// Asks the buckets about every packet.
pub fn run(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot) {
    if snapshot.limits.is_empty() {
        return;
    }
    let mut more = Mask::NONE;
    for i in burst.live {
        let (action, bytes) = (&burst.actions[i], burst.packet_len(i));
        if action.is(FlowAction::METERED) {
            more.add(i);
        } else if !shard.limiters.pass(action.limits, burst.now, bytes) {
            burst.drop(i, DropReason::RateLimited);
        }
    }
    if !more.is_empty() {
        metered::run(burst, more, shard, snapshot);
    }
}

#[cfg(test)]
mod tests;
