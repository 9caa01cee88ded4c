//! The order of the stages: what happens to a packet, from its first byte to its last hop's MAC address.
//!
//! Each stage is one file of `stage/`, a plain function over a whole burst. A packet whose flow is known goes straight
//! from `flow` to `police`; a session's first packet is decided in between, and leaves a compiled action behind for all
//! that follow it.

use crate::burst::{Burst, Mask};
use crate::probe::Probe;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::stage::together::Groups;
use crate::stage::{
    FirstPackets, acl, class, fastpath, flow, fragment, guard, icmp_error, lists, mark, mss, nat, owner,
    parse, police, port_control, rewrite, route, sanity, sources, transmit,
};

/// Takes a received burst to its end: every packet is transmitted, held, punted or dropped, and counted as that.
/// `probe` is told of each stage; `&mut ()` where nobody asks.
pub fn run(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, probe: &mut impl Probe) {
    probe.stage("sources", || sources::run(burst, shard, snapshot));
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
        probe.around("first_packets", |probe| first_packets(burst, first, false, shard, snapshot, probe));
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
/// alone is found out for all of them at once. The rest is decided in their order, as the session that one of them makes may be
/// that of those behind it: together where it cannot be, or alone. `asked` says that another worker asks.
#[inline(never)]
fn first_packets(
    burst: &mut Burst,
    mask: Mask,
    asked: bool,
    shard: &mut Shard,
    snapshot: &Snapshot,
    probe: &mut impl Probe,
) {
    let mut first = shard.first.take().unwrap_or_default();
    decide_all(burst, mask, asked, &mut first, shard, snapshot, probe);
    shard.first = Some(first);
}

fn decide_all(
    burst: &mut Burst,
    mask: Mask,
    asked: bool,
    first: &mut FirstPackets,
    shard: &mut Shard,
    snapshot: &Snapshot,
    probe: &mut impl Probe,
) {
    let epoch = shard.neighbors.epoch();
    first.begin(asked);
    let mask = lists::run(burst, mask, shard, snapshot);
    probe.did("lists", burst);
    if !asked {
        shard.firsts.keep(burst, mask);
    }
    route::locate(burst, mask, first, snapshot);
    acl::classify(burst, mask, first, snapshot);
    let mut groups = Groups::of(mask, first, shard, snapshot);
    while groups.next(burst, first, shard, snapshot) {
        guard::run(burst, first, snapshot);
        sanity::first(burst, first, snapshot);
        probe.decided("guard", burst, first);
        icmp_error::run(burst, first, shard, snapshot);
        probe.decided("icmp_error", burst, first);
        owner::run(burst, first, shard, snapshot);
        sanity::unasked(burst, first, shard, snapshot);
        probe.decided("sanity", burst, first);
        acl::run(burst, first, shard, snapshot);
        probe.decided("acl", burst, first);
        nat::destination(burst, first, shard, snapshot);
        probe.decided("nat_destination", burst, first);
        port_control::run(burst, first, shard, snapshot);
        probe.decided("port_control", burst, first);
        route::decide(burst, first, shard, snapshot);
        lists::out(burst, first, shard, snapshot);
        sources::open(burst, first, shard, snapshot);
        flow::make_room(burst, first, shard, snapshot);
        probe.decided("route_decide", burst, first);
        nat::source(burst, first, shard, snapshot);
        probe.decided("nat_source", burst, first);
        flow::foresee_answers(burst, first, shard);
        class::decide(burst, first, snapshot);
        police::classify(burst, first, snapshot);
        probe.decided("class", burst, first);
        flow::install(burst, first, shard, snapshot);
        probe.decided("install", burst, first);
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
        probe.around("first_packets", |probe| first_packets(burst, unknown, true, shard, snapshot, probe));
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
