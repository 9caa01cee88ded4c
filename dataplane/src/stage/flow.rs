//! Flow: finds each packet's flow and its compiled action; installs a session for a decided first packet; counts.
//!
//! Exits: first packets to the slow path; drops where a session finds no room.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::checksum::Delta;
use sluice_pkt::ipv4;
use sluice_pkt::parse::{Flags, Headers, L3};
use sluice_pkt::tcp;

use super::{Decision, FirstPackets, acl, addresses4, addresses6, reversed, route, sessionless, tuple};
use crate::burst::{BURST, Burst, Mask};
use crate::session::{Family, Flow, FlowAction, Key4, Key6, NONE, NewSession, key4, key6, ticks};
use crate::shard::Shard;
use crate::snapshot::{AclAction, NONE16, Snapshot};
use crate::table::hash::HashTable;
use crate::table::key::Key;
use crate::verdict::DropReason;

const OPENS_OR_ENDS: u8 = tcp::SYN | tcp::FIN | tcp::RST;

/// Looks these packets up. Returns those that belong to no session (ICMP errors among them, which are about one).
pub fn find(burst: &mut Burst, mask: Mask, shard: &mut Shard, snapshot: &Snapshot) -> Mask {
    shard.sessions.stamp = shard.neighbors.epoch();
    let (mut v6, mut errors) = (Mask::NONE, Mask::NONE);
    for i in mask {
        burst.flows[i] = NONE;
        let headers = &burst.headers[i];
        v6.add_if(i, headers.l3 != L3::Ipv4);
        errors.add_if(i, headers.flags.has(Flags::ICMP_ERROR));
    }
    let v6 = v6.without(errors);
    let v4 = mask.without(errors).without(v6);
    let stamp = shard.sessions.stamp;
    let mut first = errors;
    for found in [
        look_up(burst, v4, &shard.sessions.v4, stamp, key_of4),
        look_up(burst, v6, &shard.sessions.v6, stamp, key_of6),
    ] {
        first = first.or(found.unknown);
        for i in found.opens_or_ends {
            follow_tcp(burst, i, shard);
        }
        if !found.stale.is_empty() {
            refresh(burst, found.stale, shard, snapshot);
        }
    }
    first
}

#[inline]
fn key_of4(bytes: &[u8], headers: &Headers, interface: u16) -> Key4 {
    let (src, dst) = addresses4(bytes, headers);
    key4(src, dst, (headers.src_port, headers.dst_port), headers.protocol, interface)
}

#[inline]
fn key_of6(bytes: &[u8], headers: &Headers, interface: u16) -> Key6 {
    let (src, dst) = addresses6(bytes, headers);
    key6(src, dst, (headers.src_port, headers.dst_port), headers.protocol, interface)
}

/// What a look-up tells of the packets.
#[derive(Default)]
struct Found {
    /// They belong to no flow.
    unknown: Mask,
    /// The next hop of their flow must be chosen anew.
    stale: Mask,
    /// They carry SYN, FIN or RST.
    opens_or_ends: Mask,
}

#[inline]
fn look_up<K: Key + Default>(
    burst: &mut Burst,
    mask: Mask,
    table: &HashTable<K, Flow>,
    stamp: u32,
    key_of: impl Fn(&[u8], &Headers, u16) -> K,
) -> Found {
    let mut result = Found::default();
    if mask.is_empty() {
        return result;
    }
    let mut keys = [K::default(); BURST];
    let mut hashes = [0; BURST];
    let mut found = [NONE; BURST];
    let count = mask.count().min(BURST);
    for ((i, key), hash) in mask.zip(&mut keys).zip(&mut hashes) {
        *key = key_of(burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
        *hash = table.hash(key);
    }
    table.find_batch(&keys[..count], &hashes[..count], &mut found[..count]);
    for (i, &index) in mask.zip(&found) {
        let Some(flow) = table.value(index) else {
            result.unknown.add(i);
            continue;
        };
        burst.flows[i] = index;
        burst.actions[i] = flow.action;
        result.stale.add_if(i, flow.stamp != stamp);
        result.opens_or_ends.add_if(i, burst.headers[i].tcp_flags & OPENS_OR_ENDS != 0);
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
    let family = if headers.l3 == L3::Ipv4 { Family::V4 } else { Family::V6 };
    if let Some(flow) = shard.sessions.flow(family, burst.flows[i]) {
        let (session, direction) = (flow.session(), flow.direction());
        shard.sessions.follow_tcp(session, direction, headers.tcp_flags);
    }
}

/// Chooses the next hop of flows anew, as the index that they hold may mean another neighbour by now.
pub fn refresh(burst: &mut Burst, stale: Mask, shard: &mut Shard, snapshot: &Snapshot) {
    shard.sessions.stamp = shard.neighbors.epoch();
    for i in stale.and(burst.live) {
        let headers = burst.headers[i];
        let dst = match headers.l3 {
            L3::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits(burst.actions[i].dst)),
            _ => IpAddr::V6(Ipv6Addr::from_bits(addresses6(burst.bytes(i), &headers).1)),
        };
        match route::next_hop(dst, snapshot, &mut shard.neighbors, burst.now) {
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

/// Makes a session for each first packet that has come through; those that open none get an action of their own.
pub fn install(burst: &mut Burst, first: &FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let headers = burst.headers[i];
        let decision = &first.decisions[i];
        if sessionless(&headers) {
            burst.actions[i] = forward_action(burst.bytes(i), &headers, decision);
        } else if headers.l3 == L3::Ipv4 {
            install4(burst, i, decision, shard, snapshot);
        } else {
            install6(burst, i, decision, shard, snapshot);
        }
    }
}

fn install4(burst: &mut Burst, i: usize, decision: &Decision, shard: &mut Shard, snapshot: &Snapshot) {
    let (bytes, headers, ingress) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
    let key = key_of4(bytes, headers, ingress);
    let original = tuple(addresses4(bytes, headers), bytes, headers);
    let mut leaving = original;
    (leaving.src, leaving.src_port) = decision.src;
    (leaving.dst, leaving.dst_port) = decision.dst;
    let mut returning = reversed(&leaving);
    returning.established = true;
    let (rule, action) = acl::decide4(snapshot, decision.egress, &returning);

    let forward = forward_action(bytes, headers, decision);
    let reply = FlowAction {
        src: original.dst,
        dst: original.src,
        src_port: original.dst_port,
        dst_port: original.src_port,
        l3: -forward.l3,
        l4: -forward.l4,
        rule,
        limits: decision.limits[1],
        flags: forward.flags | denial(action),
        next_hop: NONE16,
    };
    let ports = (returning.src_port, returning.dst_port);
    let new = NewSession {
        keys: [key, key4(returning.src, returning.dst, ports, headers.protocol, decision.egress)],
        actions: [forward, reply],
        protocol: headers.protocol,
        binding: decision.binding,
    };
    create(burst, i, &new, shard);
}

fn install6(burst: &mut Burst, i: usize, decision: &Decision, shard: &mut Shard, snapshot: &Snapshot) {
    let (bytes, headers, ingress) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
    let key = key_of6(bytes, headers, ingress);
    let mut returning = reversed(&tuple(addresses6(bytes, headers), bytes, headers));
    returning.established = true;
    let (rule, action) = acl::decide6(snapshot, decision.egress, &returning);
    let forward = forward_action(bytes, headers, decision);
    let reply =
        FlowAction { next_hop: NONE16, rule, limits: decision.limits[1], flags: denial(action), ..forward };
    let ports = (returning.src_port, returning.dst_port);
    let new = NewSession {
        keys: [key, key6(returning.src, returning.dst, ports, headers.protocol, decision.egress)],
        actions: [forward, reply],
        protocol: headers.protocol,
        binding: NONE,
    };
    create(burst, i, &new, shard);
}

fn create<K>(burst: &mut Burst, i: usize, new: &NewSession<K>, shard: &mut Shard)
where
    K: crate::session::Table<Key = K> + Key,
{
    // A session may take the place of one whose answers are the same packets, as that is the same conversation by another
    // way; but one that is not translated never that of one which is: it is forged, or goes past NAT.
    let answers = K::of(&mut shard.sessions);
    let rival = answers.find(&new.keys[1]).and_then(|flow| answers.value(flow));
    if rival.is_some_and(|flow| flow.action.is(FlowAction::NAT)) && !new.actions[0].is(FlowAction::NAT) {
        return burst.drop(i, DropReason::SessionConflict);
    }
    shard.nat.hold(new.binding);
    match shard.sessions.create(new, burst.now, &mut shard.nat, &mut shard.counters) {
        Some(flow) => {
            burst.flows[i] = flow;
            burst.actions[i] = new.actions[0];
        }
        None => {
            shard.nat.release(new.binding);
            burst.drop(i, DropReason::SessionTableFull);
        }
    }
}

fn denial(action: AclAction) -> u16 {
    match action {
        AclAction::Accept => 0,
        AclAction::Drop => FlowAction::DENY,
        AclAction::Reject => FlowAction::REJECT,
    }
}

/// Compiles what is done to packets that go the way of the first one.
fn forward_action(bytes: &[u8], headers: &Headers, decision: &Decision) -> FlowAction {
    let mut action = crate::session::plain_action(decision.next_hop);
    action.rule = decision.rule;
    action.limits = decision.limits[0];
    if headers.l3 != L3::Ipv4 {
        return action;
    }
    let (src, dst) = addresses4(bytes, headers);
    (action.src, action.src_port) = decision.src;
    (action.dst, action.dst_port) = decision.dst;
    let ports =
        Delta::of_u16(headers.src_port, action.src_port) + Delta::of_u16(headers.dst_port, action.dst_port);
    action.l3 = Delta::of_u32(src, action.src) + Delta::of_u32(dst, action.dst);
    // Of these three ICMP alone has no pseudo-header in its checksum.
    action.l4 = if headers.protocol == ipv4::ICMP { ports } else { action.l3 + ports };
    if decision.forwarded || decision.binding != NONE {
        action.flags |= FlowAction::NAT;
    }
    action
}

/// Counts what goes on: the flow's packets and bytes, its time of last use, the hits of its ACL rule.
pub fn account(burst: &Burst, shard: &mut Shard) {
    let now = ticks(burst.now);
    for i in burst.live {
        let bytes = burst.bytes(i).len();
        acl::count(shard, burst.actions[i].rule, bytes);
        if let Some(flow) = flow_mut(shard, &burst.headers[i], burst.flows[i]) {
            flow.packets = flow.packets.saturating_add(1);
            flow.bytes += bytes as u64;
            flow.last_seen = now;
        }
    }
}
