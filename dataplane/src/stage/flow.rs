//! Flow: finds each packet's flow and its compiled action; installs a session for a decided first packet; counts.
//!
//! Exits: first packets to the slow path; drops where a session finds no room.

use std::net::IpAddr;

use sluice_pkt::parse::{Flags, Headers, L3};
use sluice_pkt::translation::{End, Translation};
use sluice_pkt::{ipv4, tcp};

use super::{
    Decision, FirstPackets, Tuple4, Tuple6, acl, addresses4, addresses6, nat64, prefix, redecide, reversed,
    route, sessionless, tuple,
};
use crate::burst::{Burst, Mask};
use crate::crossing;
use crate::session::{
    Batch, Ends6, Evicted, Family, Flow, FlowAction, FlowKey, Key4, Key6, NONE, NewSession, Segment,
    SessionKey, addresses, key4, key6, plain_action, ports, ticks,
};
use crate::shard::Shard;
use crate::snapshot::{AclAction, NONE16, Snapshot};
use crate::table::hash::HashTable;
use crate::table::key::Key;
use crate::verdict::{Answer, DropReason};

const OPENS_OR_ENDS: u8 = tcp::SYN | tcp::FIN | tcp::RST;

/// Looks these packets up. Returns those that belong to no session (ICMP errors among them, which are about one).
pub fn find(burst: &mut Burst, mask: Mask, shard: &mut Shard, snapshot: &Snapshot) -> Mask {
    let found = look_up_all(burst, mask, false, shard, snapshot);
    if !found.stale.is_empty() {
        refresh(burst, found.stale, shard, snapshot);
    }
    found.unknown
}

/// As [`find`], for packets about which another worker asks: their next hop is its affair.
pub fn known(burst: &mut Burst, mask: Mask, shard: &mut Shard, snapshot: &Snapshot) -> Mask {
    look_up_all(burst, mask, true, shard, snapshot).unknown
}

/// Looks a first packet up again, as one before it may have made its session. Whether it is still one.
pub fn find_first(
    burst: &mut Burst,
    i: usize,
    first: &FirstPackets,
    shard: &mut Shard,
    snapshot: &Snapshot,
) -> bool {
    if shard.transition.is_none() && is_still_unknown(&burst.headers[i], i, shard) {
        shard.sessions.stamp = shard.neighbors.epoch();
        return true;
    }
    let find = if first.asked { known } else { find };
    !find(burst, Mask::one(i), shard, snapshot).is_empty()
}

/// Whether no session has been made meanwhile that may be the packet's: most often its bucket alone says so.
fn is_still_unknown(headers: &Headers, i: usize, shard: &Shard) -> bool {
    let Shard { sessions, batch4, batch6, .. } = shard;
    match headers.l3 {
        _ if headers.flags.has(Flags::ICMP_ERROR) => true,
        L3::Ipv4 => batch4.is_absent(i, &sessions.v4),
        _ => batch6.is_absent(i, &sessions.v6),
    }
}

/// ICMP errors count as unknown.
fn look_up_all(burst: &mut Burst, mask: Mask, asked: bool, shard: &mut Shard, snapshot: &Snapshot) -> Found {
    let stamp = shard.neighbors.epoch();
    shard.sessions.stamp = stamp;
    let (mut v6, mut errors) = (Mask::NONE, Mask::NONE);
    for i in mask {
        let headers = &burst.headers[i];
        v6.add_if(i, headers.l3 != L3::Ipv4);
        errors.add_if(i, headers.flags.has(Flags::ICMP_ERROR));
    }
    errors.for_each(|i| burst.flows[i] = NONE);
    let v6 = v6.without(errors);
    let v4 = mask.without(errors).without(v6);
    let sessions = &shard.sessions;
    let found = look_up(burst, v4, &sessions.v4, &mut shard.batch4, stamp, key_of4);
    let mut found = found.or(look_up(burst, v6, &sessions.v6, &mut shard.batch6, stamp, key_of6));
    let is_changing = shard.transition.is_some() || snapshot.fib.is_some();
    if is_changing && !found.stale.is_empty() {
        // A session that is decided anew may end, or its flows lie elsewhere from then on.
        let mut stale = found.stale;
        if shard.transition.is_some() {
            redecide::flows_of(burst, stale, asked, shard, snapshot);
        } else {
            stale = redecide::rerouted(burst, stale, shard, snapshot);
        }
        let sessions = &shard.sessions;
        let again = look_up(burst, stale.and(v4), &sessions.v4, &mut shard.batch4, stamp, key_of4);
        let again = again.or(look_up(burst, stale.and(v6), &sessions.v6, &mut shard.batch6, stamp, key_of6));
        found = found.without(stale).or(again);
    }
    for i in found.followed {
        follow_tcp(burst, i, shard);
    }
    for i in found.to_v6 {
        let flow = shard.sessions.flow(Family::V4, burst.flows[i]);
        burst.ends6[i] = flow.and_then(|flow| shard.sessions.ends6(flow)).unwrap_or_default();
    }
    found.unknown = found.unknown.or(errors);
    found
}

/// The key of the flow that a packet belongs to.
pub(crate) fn key(bytes: &[u8], headers: &Headers, interface: u16) -> FlowKey {
    match headers.l3 {
        L3::Ipv4 => FlowKey::V4(key_of4(bytes, headers, interface)),
        _ => FlowKey::V6(key_of6(bytes, headers, interface)),
    }
}

#[inline]
pub(super) fn key_of4(bytes: &[u8], headers: &Headers, interface: u16) -> Key4 {
    let (src, dst) = addresses4(bytes, headers);
    key4(addresses(src, dst), ports(headers.src_port, headers.dst_port), headers.protocol, interface)
}

#[inline]
pub(super) fn key_of6(bytes: &[u8], headers: &Headers, interface: u16) -> Key6 {
    let (src, dst) = addresses6(bytes, headers);
    key6(src, dst, ports(headers.src_port, headers.dst_port), headers.protocol, interface)
}

/// What a look-up tells of the packets.
#[derive(Default)]
struct Found {
    /// They belong to no flow.
    unknown: Mask,
    /// The next hop of their flow must be chosen anew.
    stale: Mask,
    /// TCP that opens or ends, or is watched.
    followed: Mask,
    /// They leave as IPv6, and came as IPv4.
    to_v6: Mask,
}

impl Found {
    fn without(self, mask: Mask) -> Self {
        Self {
            unknown: self.unknown.without(mask),
            stale: self.stale.without(mask),
            followed: self.followed.without(mask),
            to_v6: self.to_v6.without(mask),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            unknown: self.unknown.or(other.unknown),
            stale: self.stale.or(other.stale),
            followed: self.followed.or(other.followed),
            to_v6: self.to_v6.or(other.to_v6),
        }
    }
}

fn look_up<K: Key>(
    burst: &mut Burst,
    mask: Mask,
    table: &HashTable<K, Flow>,
    batch: &mut Batch<K>,
    stamp: u32,
    key_of: impl Fn(&[u8], &Headers, u16) -> K,
) -> Found {
    for i in mask {
        batch.begin(i, key_of(burst.bytes(i), &burst.headers[i], burst.interfaces[i]), table);
    }
    batch.candidates(mask, table);
    let mut result = Found::default();
    for i in mask {
        let Some((index, flow)) = batch.confirm(i, table) else {
            burst.flows[i] = NONE;
            result.unknown.add(i);
            continue;
        };
        burst.flows[i] = index;
        burst.actions[i] = flow.action;
        result.stale.add_if(i, flow.stamp != stamp);
        let followed = burst.headers[i].tcp_flags & OPENS_OR_ENDS != 0 || flow.action.is(FlowAction::WATCH);
        result.followed.add_if(i, followed);
        result.to_v6.add_if(i, flow.action.is(FlowAction::TO_V6));
    }
    result
}

fn flow_mut<'a>(shard: &'a mut Shard, headers: &Headers, index: u32) -> Option<&'a mut Flow> {
    match headers.l3 {
        L3::Ipv4 => shard.sessions.v4.value_mut(index),
        _ => shard.sessions.v6.value_mut(index),
    }
}

fn follow_tcp(burst: &Burst, i: usize, shard: &mut Shard) {
    let headers = &burst.headers[i];
    if headers.protocol != ipv4::TCP || headers.flags.has(Flags::LATER_FRAGMENT) {
        return;
    }
    let header = tcp::Header::at(burst.bytes(i), headers.l4_offset.into());
    let segment = Segment { flags: headers.tcp_flags, sequence: header.map_or(0, |tcp| tcp.sequence()) };
    let family = if headers.l3 == L3::Ipv4 { Family::V4 } else { Family::V6 };
    if let Some(flow) = shard.sessions.flow(family, burst.flows[i]) {
        let (session, direction) = (flow.session(), flow.direction());
        if flow.is_copy() {
            return crossing::follow_tcp(session, segment, shard);
        }
        shard.sessions.follow_tcp(session, direction, segment);
    }
}

/// Where a packet goes when it leaves.
pub(super) fn destination_of(burst: &Burst, i: usize, action: &FlowAction) -> IpAddr {
    if let Some(dst) = nat64::destination_of(action, &burst.ends6[i]) {
        return dst;
    }
    match burst.headers[i].l3 {
        L3::Ipv4 => IpAddr::V4(action.new.destination()),
        _ => IpAddr::V6(prefix::destination_of(action, burst.bytes(i), &burst.headers[i])),
    }
}

/// Chooses the next hop of flows anew, as the index that they hold may mean another neighbour by now.
pub fn refresh(burst: &mut Burst, stale: Mask, shard: &mut Shard, snapshot: &Snapshot) {
    shard.sessions.stamp = shard.neighbors.epoch();
    for i in stale.and(burst.live) {
        if shard.transition.is_some() && redecide::hold_old(burst, i, shard, snapshot) {
            continue;
        }
        let headers = burst.headers[i];
        let dst = destination_of(burst, i, &burst.actions[i]);
        let current = shard.neighbors.who(burst.actions[i].next_hop);
        let choice = route::choice(burst, i, dst).staying(current);
        match route::next_hop(dst, choice, snapshot, &mut shard.neighbors, burst.now) {
            Ok((_, next_hop)) => {
                burst.actions[i].next_hop = next_hop;
                let stamp = shard.sessions.stamp;
                if let Some(flow) = flow_mut(shard, &headers, burst.flows[i]) {
                    flow.action.next_hop = next_hop;
                    flow.stamp = stamp;
                }
            }
            Err(verdict) => burst.decide(i, verdict),
        }
    }
}

/// Starts to fetch where the flows of the answers are to lie, whose keys are known now.
pub fn foresee_answers(burst: &Burst, first: &mut FirstPackets, shard: &Shard) {
    for i in first.open(burst) {
        let (headers, decision) = (&burst.headers[i], &first.decisions[i]);
        if decision.cross != nat64::Cross::No {
            continue;
        }
        first.foreseen[i].answers = if headers.l3 == L3::Ipv4 {
            let table = &shard.sessions.v4;
            let hash = table.hash(&answers4(decision, headers.protocol));
            table.prefetch_bucket(hash);
            hash
        } else {
            let table = &shard.sessions.v6;
            let (src, dst) = decision.prefix.apply(addresses6(burst.bytes(i), headers));
            let ports = ports(headers.dst_port, headers.src_port);
            let hash = table.hash(&key6(dst, src, ports, headers.protocol, decision.egress));
            table.prefetch_bucket(hash);
            hash
        };
    }
}

/// The key of the flow of the answers to a packet that leaves like this.
fn answers4(decision: &Decision, protocol: u8) -> Key4 {
    let (src, dst) = (decision.src, decision.dst);
    key4(addresses(dst.0, src.0), ports(dst.1, src.1), protocol, decision.egress)
}

/// Where as many sessions are live as may be, has one give way to that of a first packet, if sessions may: before NAT takes
/// anything for it, which has no more room than the sessions. One that comes to a binding takes nothing; and the one that gives
/// way might be all that holds the binding.
pub fn make_room(burst: &mut Burst, first: &FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    if !snapshot.evicts || !shard.sessions.is_full() {
        return;
    }
    for i in first.open(burst) {
        if sessionless(&burst.headers[i]) || first.decisions[i].inbound {
            continue;
        }
        let Shard { sessions, nat, counters, .. } = shard;
        sessions.make_room(nat, counters);
        if let Some(evicted) = sessions.take_evicted() {
            forget(burst, evicted);
        }
    }
}

/// Makes a session for each first packet that has come through; those that open none get an action of their own.
pub fn install(burst: &mut Burst, first: &FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let headers = burst.headers[i];
        let decision = &first.decisions[i];
        if decision.cross != nat64::Cross::No {
            install64(burst, i, decision, shard, snapshot);
        } else if sessionless(&headers) {
            burst.actions[i] = forward_action(burst.bytes(i), &headers, decision);
        } else if headers.l3 == L3::Ipv4 {
            install4(burst, i, first, shard, snapshot);
        } else {
            install6(burst, i, first, shard, snapshot);
        }
        if let Some(source) = first.decisions[i].holder {
            if let Some(flow) = flow_mut(shard, &headers, burst.flows[i]) {
                let session = flow.session();
                shard.sessions.hold_for(session, source);
            }
        }
        if first.asked {
            // Whose next hop is not looked up yet.
            let stale = shard.sessions.stamp.wrapping_sub(1);
            if let Some(flow) = flow_mut(shard, &headers, burst.flows[i]) {
                flow.stamp = stale;
            }
        }
    }
}

fn install4(burst: &mut Burst, i: usize, first: &FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    let (original, decision) = (&first.tuples4[i], &first.decisions[i]);
    let (key, hash) = shard.batch4.key(i);
    let remote = if decision.inbound { decision.src.0 } else { decision.dst.0 };
    let new = compile4(key, original, decision, snapshot);
    create(burst, i, new, [hash, first.foreseen[i].answers], (remote, decision.permit), shard);
}

/// What a decision about a packet with this key and tuple makes of its session.
pub(super) fn compile4(
    key: Key4,
    original: &Tuple4,
    decision: &Decision,
    snapshot: &Snapshot,
) -> NewSession<Key4> {
    let mut leaving = *original;
    (leaving.src, leaving.src_port) = decision.src;
    (leaving.dst, leaving.dst_port) = decision.dst;
    let mut returning = reversed(&leaving);
    returning.established = true;
    let (rule, action) = acl::decide4(snapshot, decision.egress, &returning);

    let protocol = original.protocol;
    let forward = forward_action4(original, decision);
    let reply = FlowAction {
        new: forward.new.back(ends(&reversed(original))),
        rule,
        flags: forward.flags | denial(action),
        class: decision.classes[1],
        ..plain_action(NONE16)
    }
    .limited(decision.limits[1]);
    NewSession {
        keys: [key, answers4(decision, protocol)],
        actions: [forward, reply],
        protocol,
        binding: decision.binding,
        permit: NONE,
        inbound: decision.inbound,
        dscp: decision.dscp,
    }
}

fn ends(tuple: &Tuple4) -> [End; 2] {
    [(tuple.src.into(), tuple.src_port), (tuple.dst.into(), tuple.dst_port)]
}

fn install6(burst: &mut Burst, i: usize, first: &FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    let (bytes, headers) = (burst.bytes(i), &burst.headers[i]);
    let (key, hash) = shard.batch6.key(i);
    let original = tuple(addresses6(bytes, headers), bytes, headers);
    let new = compile6(key, &original, &first.decisions[i], snapshot);
    create(burst, i, new, [hash, first.foreseen[i].answers], (0, None), shard);
}

/// As [`compile4`].
pub(super) fn compile6(
    key: Key6,
    original: &Tuple6,
    decision: &Decision,
    snapshot: &Snapshot,
) -> NewSession<Key6> {
    let ends = (original.src, original.dst);
    let mut leaving = *original;
    (leaving.src, leaving.dst) = decision.prefix.apply(ends);
    let mut returning = reversed(&leaving);
    returning.established = true;
    let (rule, action) = acl::decide6(snapshot, decision.egress, &returning);
    let protocol = original.protocol;
    let forward = forward_action6(decision);
    let (new, translated) = decision.prefix.undone(ends).compile();
    let flags = translated | denial(action);
    let reply = reply_action(new, rule, flags, decision);
    let ports = ports(returning.src_port, returning.dst_port);
    NewSession {
        keys: [key, key6(returning.src, returning.dst, ports, protocol, decision.egress)],
        actions: [forward, reply],
        protocol,
        binding: NONE,
        permit: NONE,
        inbound: false,
        dscp: decision.dscp,
    }
}

/// A session with a flow of each family.
fn install64(burst: &mut Burst, i: usize, decision: &Decision, shard: &mut Shard, snapshot: &Snapshot) {
    let (bytes, headers, ingress) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
    match decision.cross {
        nat64::Cross::ToV6 => {
            let key = key_of4(bytes, headers, ingress);
            let original = tuple(addresses4(bytes, headers), bytes, headers);
            let new = compile46(key, &original, burst.ends6[i], decision, snapshot);
            let hashes = new.keys.map(|key| key.hash(&shard.sessions));
            create(burst, i, new, hashes, (decision.src.0, None), shard);
        }
        _ => {
            let key = key_of6(bytes, headers, ingress);
            let original = tuple(addresses6(bytes, headers), bytes, headers);
            let new = compile64(key, &original, decision, snapshot);
            let hashes = new.keys.map(|key| key.hash(&shard.sessions));
            create(burst, i, new, hashes, (decision.dst.0, None), shard);
        }
    }
}

/// As [`compile4`], for a first packet of IPv6 that leaves as IPv4.
pub(super) fn compile64(
    key: Key6,
    original: &Tuple6,
    decision: &Decision,
    snapshot: &Snapshot,
) -> NewSession<FlowKey> {
    let leaving = nat64::leaving4(original, decision);
    let returning = Tuple4 { established: true, ..reversed(&leaving) };
    let protocol = leaving.protocol;
    let (rule, action) = acl::decide4(snapshot, decision.egress, &returning);
    let mut forward = forward_action6(decision);
    let new = ends(&leaving);
    forward.new = Translation::new(protocol, new, new);
    forward.flags |= FlowAction::NAT | FlowAction::TO_V4;
    let flags = FlowAction::NAT | FlowAction::TO_V6 | denial(action);
    let reply = reply_action(Translation::NONE, rule, flags, decision);
    let ports = ports(returning.src_port, returning.dst_port);
    let answers = key4(addresses(returning.src, returning.dst), ports, protocol, decision.egress);
    NewSession {
        keys: [key.into(), answers.into()],
        actions: [forward, reply],
        protocol: original.protocol,
        binding: decision.binding,
        permit: NONE,
        inbound: false,
        dscp: decision.dscp,
    }
}

/// As [`compile4`], for a first packet of IPv4 that leaves as IPv6, to a binding.
pub(super) fn compile46(
    key: Key4,
    original: &Tuple4,
    leaves: Ends6,
    decision: &Decision,
    snapshot: &Snapshot,
) -> NewSession<FlowKey> {
    let returning = Tuple6 { established: true, ..reversed(&nat64::leaving6(original, leaves)) };
    let protocol = returning.protocol;
    let (rule, action) = acl::decide6(snapshot, decision.egress, &returning);
    let mut forward = forward_action6(decision);
    forward.flags |= FlowAction::NAT | FlowAction::TO_V6;
    let new = ends(&reversed(original));
    let flags = FlowAction::NAT | FlowAction::TO_V4 | denial(action);
    let new = Translation::new(original.protocol, new, new);
    let reply = reply_action(new, rule, flags, decision);
    let ports = ports(returning.src_port, returning.dst_port);
    let answers = key6(returning.src, returning.dst, ports, protocol, decision.egress);
    NewSession {
        keys: [key.into(), answers.into()],
        actions: [forward, reply],
        protocol: original.protocol,
        binding: decision.binding,
        permit: NONE,
        inbound: true,
        dscp: decision.dscp,
    }
}

/// Makes a packet's session. Where its binding does not count it yet, `remote` is with whom it is.
fn create<K: SessionKey>(
    burst: &mut Burst,
    i: usize,
    mut new: NewSession<K>,
    hashes: [u64; 2],
    (remote, permit): (u32, Option<u32>),
    shard: &mut Shard,
) {
    // A session may take the place of one whose answers are the same packets, as that is the same conversation by another
    // way; but one that is not translated never that of one which is: it is forged, or goes past NAT.
    let goes_past = || {
        let answers: FlowKey = new.keys[1].into();
        let rival = shard.sessions.find(&answers);
        let rival = rival.and_then(|flow| shard.sessions.flow(answers.family(), flow));
        rival.is_some_and(|flow| flow.action.is(FlowAction::NAT))
    };
    let may_be_taken = new.keys[1].choose(hashes[1], &shard.sessions) != NONE;
    if !new.actions[0].is(FlowAction::NAT) && may_be_taken && goes_past() {
        return burst.drop(i, DropReason::SessionConflict);
    }
    new.permit = permit.unwrap_or_else(|| shard.nat.hold(new.binding, remote, new.inbound));
    match shard.sessions.create_hashed(&new, hashes, burst.now, &mut shard.nat, &mut shard.counters) {
        Some(flow) => {
            if let Some(evicted) = shard.sessions.take_evicted() {
                forget(burst, evicted);
            }
            burst.flows[i] = flow;
            burst.actions[i] = new.actions[0];
            follow_tcp(burst, i, shard);
        }
        None => {
            shard.nat.release(new.binding, new.permit);
            full(burst, i, new.binding);
        }
    }
}

/// Packets of a session that has just given way go as it was decided; its records are others' from now on.
#[cold]
fn forget(burst: &mut Burst, evicted: [Evicted; 2]) {
    for (flow, headers) in burst.flows.iter_mut().zip(&burst.headers) {
        let family = if headers.l3 == L3::Ipv4 { Family::V4 } else { Family::V6 };
        if evicted.iter().any(|evicted| evicted.is(family, *flow)) {
            *flow = NONE;
        }
    }
}

/// RFC 5508 REQ-8: where NAT is what has no room, the sender is told.
fn full(burst: &mut Burst, i: usize, binding: u32) {
    match binding {
        NONE => burst.drop(i, DropReason::SessionTableFull),
        _ => burst.reject(i, DropReason::SessionTableFull, Answer::Prohibited),
    }
}

fn denial(action: AclAction) -> u16 {
    match action {
        AclAction::Accept => 0,
        AclAction::Drop => FlowAction::DENY,
        AclAction::Reject => FlowAction::REJECT,
    }
}

/// What is done to packets that come back. Their next hop is looked up when the first one comes.
fn reply_action(new: Translation, rule: u16, flags: u16, decision: &Decision) -> FlowAction {
    let class = decision.classes[1];
    FlowAction { new, rule, flags, class, ..plain_action(NONE16) }.limited(decision.limits[1])
}

/// Compiles what is done to packets that go the way of the first one.
fn forward_action(bytes: &[u8], headers: &Headers, decision: &Decision) -> FlowAction {
    if headers.l3 == L3::Ipv4 {
        forward_action4(&tuple(addresses4(bytes, headers), bytes, headers), decision)
    } else {
        forward_action6(decision)
    }
}

fn forward_action4(original: &Tuple4, decision: &Decision) -> FlowAction {
    let mut action = forward_action6(decision);
    let new = [decision.src, decision.dst].map(|(address, port)| (address.into(), port));
    action.new = Translation::new(original.protocol, ends(original), new);
    if decision.forwarded || decision.rewritten || decision.binding != NONE {
        action.flags |= FlowAction::NAT;
    }
    action
}

fn forward_action6(decision: &Decision) -> FlowAction {
    let mut action = plain_action(decision.next_hop);
    action.rule = decision.rule;
    action.class = decision.classes[0];
    (action.new, action.flags) = decision.prefix.compile();
    action.limited(decision.limits[0])
}

/// Counts what goes on: the flow's packets and bytes, its time of last use, the hits of its ACL rule.
pub fn account(burst: &Burst, shard: &mut Shard) {
    let now = ticks(burst.now);
    for i in burst.live {
        let bytes = burst.packet_len(i);
        acl::count(shard, burst.actions[i].rule, bytes);
        if let Some(flow) = flow_mut(shard, &burst.headers[i], burst.flows[i]) {
            flow.count(bytes, now);
        }
    }
}
