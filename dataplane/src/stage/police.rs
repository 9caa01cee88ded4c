//! Police: token buckets. Which ones a flow is measured by is chosen at its first packet; each packet asks them.
//!
//! Limits see the inside's addresses: before source NAT, after destination NAT, in both directions. A packet passes if
//! the limit of its ingress and that of its egress interface both let it; what the second refuses, the first has counted.
//!
//! Exits: drops.

use sluice_pkt::parse::L3;

use super::{Decision, FirstPackets, addresses4, addresses6, reversed, tuple};
use crate::burst::Burst;
use crate::session::NO_LIMIT;
use crate::shard::Shard;
use crate::snapshot::{Limit, Snapshot};
use crate::table::classifier::{Address, Rule, Tuple};
use crate::table::meter::Meter;
use crate::verdict::DropReason;

/// The buckets of one worker, in the order of the snapshot's limits.
#[derive(Debug)]
pub struct Meters(Vec<Meter>);

impl Meters {
    /// Every bucket full.
    pub fn new(snapshot: &Snapshot) -> Self {
        Self(snapshot.limits.iter().map(|limit| Meter::new(limit.rate, limit.burst)).collect())
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
        let limits = burst.actions[i].limits;
        if limits == [NO_LIMIT; 2] {
            continue;
        }
        let bytes = burst.bytes(i).len();
        let passed = limits.iter().all(|&limit| limit == NO_LIMIT || pass(shard, limit, burst.now, bytes));
        if !passed {
            burst.drop(i, DropReason::RateLimited);
        }
    }
}

#[inline]
fn pass(shard: &mut Shard, limit: u8, now: u64, bytes: usize) -> bool {
    let limit = usize::from(limit);
    let (Some(meter), Some(count)) = (shard.meters.0.get_mut(limit), shard.counters.limits.get_mut(limit))
    else {
        return true;
    };
    let passed = meter.allow(now, bytes as u32);
    if passed {
        count.passed.add(bytes)
    } else {
        count.dropped.add(bytes)
    }
    passed
}
