//! Police: token buckets. Which ones a flow is measured by is chosen at its first packet; each packet asks them.
//!
//! Limits see the inside's addresses: before source NAT, after destination NAT, in both directions. A packet passes if
//! the limit of its ingress and that of its egress interface both let it; what the second refuses, the first has counted.
//!
//! Exits: drops.

use sluice_pkt::parse::L3;

use super::{Decision, FirstPackets, addresses4, addresses6, reversed, tuple};
use crate::burst::Burst;
use crate::clock::Nanos;
use crate::counters::LimitCount;
use crate::session::NO_LIMIT;
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

impl Limiters {
    /// Every bucket full.
    pub fn new(snapshot: &Snapshot) -> Self {
        let limiter = |limit: &Limit| Limiter {
            meter: Meter::new(limit.rate, limit.burst),
            count: LimitCount::default(),
        };
        Self { all: snapshot.limits.iter().map(limiter).collect(), shares: None }
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

/// Chooses the limits of each first packet's session, both ways.
pub fn classify(burst: &Burst, first: &mut FirstPackets, snapshot: &Snapshot) {
    if snapshot.limits.is_empty() {
        return;
    }
    for i in first.open(burst) {
        let (bytes, headers, ingress) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
        let decision = &mut first.decisions[i];
        if headers.l3 == L3::Ipv4 {
            let mut inside = tuple(addresses4(bytes, headers), bytes, headers);
            (inside.dst, inside.dst_port) = decision.dst;
            choose(decision, ingress, snapshot, &inside, |limit| &limit.v4);
        } else {
            let inside = tuple(addresses6(bytes, headers), bytes, headers);
            choose(decision, ingress, snapshot, &inside, |limit| &limit.v6);
        }
    }
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
