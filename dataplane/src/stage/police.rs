//! Police: token buckets. Which ones a flow is measured by is chosen at its first packet; each packet asks them.
//!
//! Limits see the inside's addresses: before source NAT, after destination NAT, in both directions. A packet passes if
//! the limit of its ingress and that of its egress interface both let it; what the second refuses, the first has counted.
//!
//! Exits: drops.

use sluice_pkt::parse::{Headers, L3};

use super::{Decision, FirstPackets, Tuple4, Tuple6, addresses4, addresses6, nat64, reversed, tuple};
use crate::burst::Burst;
use crate::clock::Nanos;
use crate::counters::LimitCount;
use crate::session::{Ends6, NO_LIMIT};
use crate::shard::Shard;
use crate::snapshot::{Limit, Snapshot};
use crate::table::classifier::{Address, Rule, Tuple};
use crate::table::meter::Meter;
use crate::verdict::DropReason;

mod shares;

use self::shares::Shares;

/// The limits of one worker, in the order of the snapshot's.
#[derive(Debug)]
pub struct Limiters {
    all: Vec<Limiter>,
    /// Its part of each limit, where there are several workers.
    shares: Option<Box<Shares>>,
}

/// A limit's bucket and what it has decided, on one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Limiter {
    meter: Meter,
    count: LimitCount,
}

impl Limiter {
    /// Bytes that it was asked about.
    fn asked(&self) -> u64 {
        self.count.passed.bytes + self.count.dropped.bytes
    }
}

impl Limiters {
    /// Every bucket full.
    pub fn new(snapshot: &Snapshot) -> Self {
        let limiter = |limit: &Limit| Limiter {
            meter: Meter::new(limit.rate, limit.burst),
            count: LimitCount::default(),
        };
        Self { all: snapshot.limits.iter().map(limiter).collect(), shares: None }
    }

    /// Puts others in the place of these, which `fresh` holds afterwards. Those that are `kept` go on counting, and their
    /// buckets stay as they are if nothing about them has changed.
    pub fn adopt(&mut self, fresh: &mut Self, kept: &[Kept]) {
        for kept in kept {
            let places = (self.all.get(usize::from(kept.old)), fresh.all.get_mut(usize::from(kept.new)));
            if let (Some(old), Some(new)) = places {
                new.count = old.count;
                if kept.unchanged {
                    new.meter = old.meter;
                }
            }
        }
        self.carry(fresh, kept);
        std::mem::swap(self, fresh);
    }

    /// What each has decided so far.
    pub fn counts(&self) -> impl Iterator<Item = LimitCount> {
        self.all.iter().map(|limiter| limiter.count)
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
        let Some(Limiter { meter, count }) = self.all.get_mut(usize::from(limit)) else { return true };
        let passed = meter.allow(now, bytes as u16);
        if passed {
            count.passed.add(bytes)
        } else {
            count.dropped.add(bytes)
        }
        passed
    }

    #[inline(never)]
    fn ask_both(&mut self, (ingress, egress): (u8, u8), now: Nanos, bytes: usize) -> bool {
        self.ask(ingress, now, bytes) && self.ask(egress, now, bytes)
    }
}

/// A limit that another configuration has, too: its index in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Before.
    pub old: u8,
    /// From now on.
    pub new: u8,
    /// Rate and burst are the same.
    pub unchanged: bool,
}

/// Chooses the limits of each first packet's session, both ways.
pub fn classify(burst: &Burst, first: &mut FirstPackets, snapshot: &Snapshot) {
    if snapshot.limits.is_empty() {
        return;
    }
    for i in first.open(burst) {
        let (bytes, headers, ingress) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
        let decision = &mut first.decision;
        if decision.cross != nat64::Cross::No {
            choose_crossing(decision, ingress, snapshot, (bytes, headers), burst.ends6[i]);
        } else if headers.l3 == L3::Ipv4 {
            let inside = tuple(addresses4(bytes, headers), bytes, headers);
            choose4(decision, ingress, snapshot, inside);
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
    decision.limits = joined(decision.limits, out);
}

/// As [`choose4`], for a first packet of IPv6 that leaves as IPv4.
pub(super) fn choose64(decision: &mut Decision, ingress: u16, snapshot: &Snapshot, arrives: Tuple6) {
    choose(decision, ingress, snapshot, &nat64::leaving4(&arrives, decision), |limit| &limit.v4);
    let out = decision.limits;
    choose6(decision, ingress, snapshot, &arrives);
    decision.limits = joined(decision.limits, out);
}

/// Limits chosen by what packets are where they arrive, and by what they are where they leave.
fn joined(come: [[u8; 2]; 2], out: [[u8; 2]; 2]) -> [[u8; 2]; 2] {
    [[come[0][0], out[0][1]], [out[1][0], come[1][1]]]
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
    let find = |interface: u16, egress: bool, tuple: &Tuple<A>| {
        let applies = |limit: &Limit| {
            limit.interface == interface
                && limit.egress == egress
                && rules(limit).iter().any(|rule| rule.matches(tuple))
        };
        snapshot.limits.iter().position(applies).map_or(NO_LIMIT, |i| i as u8)
    };
    let reply = reversed(forward);
    let egress = decision.egress;
    decision.limits = [
        [find(ingress, false, forward), find(egress, true, forward)],
        [find(egress, false, &reply), find(ingress, true, &reply)],
    ];
}

/// Asks the buckets about every packet.
pub fn run(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot) {
    if snapshot.limits.is_empty() {
        return;
    }
    for i in burst.live {
        let bytes = burst.packet_len(i);
        if !shard.limiters.pass(burst.actions[i].limits, burst.now, bytes) {
            burst.drop(i, DropReason::RateLimited);
        }
    }
}
