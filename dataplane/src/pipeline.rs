//! The order of the stages: what happens to a packet, from its first byte to its last hop's MAC address.
//!
//! Each stage is one file of `stage/`, a plain function over a whole burst. A packet whose flow is known goes straight
//! from `flow` to `police`; a session's first packet is decided in between, and leaves a compiled action behind for all
//! that follow it.

use crate::burst::{Burst, Mask};
use crate::probe::Probe;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::stage::{
    FirstPackets, acl, fastpath, flow, fragment, guard, icmp_error, nat, parse, police, rewrite, route,
    transmit,
};

/// Takes a received burst to its end: every packet is transmitted, held, punted or dropped, and counted as that.
/// `probe` is told of each stage; `&mut ()` where nobody asks.
pub fn run(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, probe: &mut impl Probe) {
    let admitted = probe.stage("admit", || fastpath::admit(burst, shard, snapshot));
    probe.stage("look_up", || fastpath::look_up(admitted, shard));
    probe.stage("forward", || fastpath::forward(burst, admitted, shard));

    if !burst.live.is_empty() {
        stages(burst, shard, snapshot, probe);
    }
    probe.stage("transmit", || transmit::run(burst, shard, snapshot));
}

/// All that can be done with a packet, one stage after the other.
fn stages(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, probe: &mut impl Probe) {
    probe.stage("parse", || parse::run(burst, snapshot));
    probe.stage("fragment", || fragment::run(burst, shard, snapshot));

    let first = probe.stage("flow", || flow::find(burst, burst.live, shard, snapshot));
    if !first.is_empty() {
        probe.stage("first_packets", || first_packets(burst, first, shard, snapshot));
    }

    probe.stage("route", || route::run(burst, shard));
    probe.stage("police", || police::run(burst, shard, snapshot));
    probe.stage("account", || flow::account(burst, shard));
    probe.stage("rewrite", || rewrite::run(burst, shard));
}

/// The slow path: decides what becomes of packets that belong to no flow yet. One after the other, as the session that
/// one of them makes may be that of those behind it.
#[inline(never)]
fn first_packets(burst: &mut Burst, mask: Mask, shard: &mut Shard, snapshot: &Snapshot) {
    let first = &mut FirstPackets::default();
    let epoch = shard.neighbors.epoch();
    for i in mask {
        first.begin(flow::find(burst, Mask::one(i), shard, snapshot));
        guard::run(burst, first, snapshot);
        icmp_error::run(burst, first, shard, snapshot);
        acl::run(burst, first, shard, snapshot);
        nat::destination(burst, first, snapshot);
        route::decide(burst, first, shard, snapshot);
        nat::source(burst, first, shard, snapshot);
        police::classify(burst, first, snapshot);
        flow::install(burst, first, shard, snapshot);
    }
    if shard.neighbors.epoch() != epoch {
        flow::refresh(burst, burst.live, shard, snapshot);
    }
}
