//! The order of the stages: what happens to a packet, from its first byte to its last hop's MAC address.
//!
//! Each stage is one file of `stage/`, a plain function over a whole burst. A packet whose flow is known goes straight
//! from `flow` to `police`; a session's first packet is decided in between, and leaves a compiled action behind for all
//! that follow it.

use crate::burst::{Burst, Mask};
use crate::probe::Probe;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::stage::ahead::Ahead;
use crate::stage::{
    FirstPackets, acl, class, fastpath, flow, fragment, guard, icmp_error, lists, mark, mss, nat, owner,
    parse, police, port_control, rewrite, route, sanity, transmit,
};

/// Takes a received burst to its end: every packet is transmitted, held, punted or dropped, and counted as that.
/// `probe` is told of each stage; `&mut ()` where nobody asks.
pub fn run(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, probe: &mut impl Probe) {
    let admitted = probe.stage("admit", || fastpath::admit(burst, shard, snapshot));
    probe.stage("look_up", || fastpath::look_up(admitted, shard));
    probe.stage("forward", || fastpath::forward(burst, admitted, shard));
    if !snapshot.shapers.is_empty() {
        fastpath::recall(burst, admitted, shard);
    }
    probe.did("forward", burst);

    if !burst.live.is_empty() {
        stages(burst, shard, snapshot, probe);
    }
    go(burst, shard, snapshot, probe);
}

/// All that can be done with a packet, one stage after the other.
fn stages(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, probe: &mut impl Probe) {
    probe.stage("parse", || parse::run(burst, snapshot));
    probe.did("parse", burst);
    probe.stage("sanity", || sanity::run(burst, snapshot));
    probe.did("sanity", burst);
    probe.stage("fragment", || fragment::run(burst, shard, snapshot));
    probe.did("fragment", burst);

    let first = probe.stage("flow", || flow::find(burst, burst.live, shard, snapshot));
    probe.did("flow", burst);
    if !first.is_empty() {
        let decisions = &mut FirstPackets::default();
        probe.around("first_packets", |probe| first_packets(burst, first, decisions, shard, snapshot, probe));
    }
    leave(burst, shard, snapshot, probe);
}

/// What is left to do once it is known what is to be done.
fn leave(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, probe: &mut impl Probe) {
    probe.stage("route", || route::run(burst, shard));
    probe.did("route", burst);
    probe.stage("police", || police::run(burst, shard, snapshot));
    probe.did("police", burst);
    probe.stage("account", || flow::account(burst, shard));
    probe.stage("mss", || mss::run(burst, shard, snapshot));
    probe.did("mss", burst);
    probe.stage("rewrite", || rewrite::run(burst, shard, snapshot));
    probe.did("rewrite", burst);
}

/// The end, for every packet of the burst.
fn go(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, probe: &mut impl Probe) {
    if !snapshot.shapers.is_empty() {
        probe.stage("mark", || mark::run(burst, snapshot));
        probe.did("mark", burst);
    }
    probe.stage("transmit", || transmit::run(burst, shard, snapshot));
}

/// The slow path: decides what becomes of packets that belong to no flow yet. What hangs on a packet and the configuration
/// alone is found out for all of them together. The rest is decided one after the other, as the session that one of them makes
/// may be that of those behind it; but what they look at is fetched ahead.
#[inline(never)]
fn first_packets(
    burst: &mut Burst,
    mask: Mask,
    first: &mut FirstPackets,
    shard: &mut Shard,
    snapshot: &Snapshot,
    probe: &mut impl Probe,
) {
    let epoch = shard.neighbors.epoch();
    let mask = lists::run(burst, mask, shard, snapshot);
    probe.did("lists", burst);
    if !first.is_asked() {
        shard.firsts.keep(burst, mask);
    }
    route::locate(burst, mask, first, snapshot);
    acl::classify(burst, mask, first, snapshot);
    let mut ahead = Ahead::begin(burst, mask, first, shard, snapshot);
    for i in mask {
        ahead.step(burst, first, shard, snapshot);
        first.begin(i, flow::find_first(burst, i, first, shard, snapshot));
        guard::run(burst, first, snapshot);
        sanity::first(burst, first, snapshot);
        probe.decided("guard", i, burst, first);
        icmp_error::run(burst, first, shard, snapshot);
        probe.decided("icmp_error", i, burst, first);
        owner::run(burst, first, shard, snapshot);
        sanity::unasked(burst, first, shard, snapshot);
        probe.decided("sanity", i, burst, first);
        acl::run(burst, first, shard, snapshot);
        probe.decided("acl", i, burst, first);
        nat::destination(burst, first, shard, snapshot);
        probe.decided("nat_destination", i, burst, first);
        port_control::run(burst, first, shard, snapshot);
        probe.decided("port_control", i, burst, first);
        route::decide(burst, first, shard, snapshot);
        lists::out(burst, first, shard, snapshot);
        probe.decided("route_decide", i, burst, first);
        nat::source(burst, first, shard, snapshot);
        probe.decided("nat_source", i, burst, first);
        class::decide(burst, first, snapshot);
        police::classify(burst, first, snapshot);
        probe.decided("class", i, burst, first);
        flow::install(burst, first, shard, snapshot);
        probe.decided("install", i, burst, first);
    }
    if shard.neighbors.epoch() != epoch {
        flow::refresh(burst, burst.live, shard, snapshot);
    }
}

/// Decides about packets that another worker asks about. They stay in the burst, and nothing leaves here.
pub fn decide(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, probe: &mut impl Probe) {
    let unknown = probe.stage("flow", || flow::known(burst, burst.live, shard, snapshot));
    probe.did("flow", burst);
    if !unknown.is_empty() {
        let decisions = &mut FirstPackets::asked();
        probe.around("first_packets", |probe| {
            first_packets(burst, unknown, decisions, shard, snapshot, probe)
        });
    }
}

/// Takes packets to their end that have come home from their session's owner, with what is to be done with them.
pub fn resume(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, probe: &mut impl Probe) {
    let epoch = shard.neighbors.epoch();
    flow::refresh(burst, burst.live, shard, snapshot);
    if shard.neighbors.epoch() != epoch {
        flow::refresh(burst, burst.live, shard, snapshot);
    }
    leave(burst, shard, snapshot, probe);
    go(burst, shard, snapshot, probe);
}
