//! ACL: the rules of the ingress interface, asked about first packets as they arrived, before any translation.
//!
//! A packet of a live session that comes in by another interface than the route to its source (asymmetric routing) is
//! found by no flow, but is `established` all the same. So is one that the filter of a NAT binding lets in.
//!
//! Exits: drops and rejections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::parse::L3;

use super::route::expected_interface;
use super::{FirstPackets, Tuple4, Tuple6, addresses4, addresses6, nat, reversed, tuple};
use crate::burst::Burst;
use crate::session::{Flow, FlowAction, Key4, Key6, addresses, key4, key6, ports};
use crate::shard::Shard;
use crate::snapshot::{AclAction, NONE16, Snapshot};
use crate::table::classifier::Tuple;
use crate::table::hash::HashTable;
use crate::table::key::Key;
use crate::verdict::{Answer, DropReason, Verdict};

/// Runs the stage.
pub fn run(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let (bytes, headers, interface) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
        let (rule, action) = match headers.l3 {
            L3::Ipv4 => {
                let mut tuple = tuple(addresses4(bytes, headers), bytes, headers);
                let ends = [tuple.src, tuple.dst].map(|end| Ipv4Addr::from_bits(end).into());
                tuple.established = is_known(&shard.sessions.v4, interface, ends, &tuple, snapshot, flow4);
                let ends = [(tuple.src, tuple.src_port), (tuple.dst, tuple.dst_port)];
                tuple.established |= nat::admitted(ends, headers, interface, &shard.nat, snapshot).is_some();
                decide4(snapshot, interface, &tuple)
            }
            _ => {
                let mut tuple = tuple(addresses6(bytes, headers), bytes, headers);
                let ends = [tuple.src, tuple.dst].map(|end| Ipv6Addr::from_bits(end).into());
                tuple.established = is_known(&shard.sessions.v6, interface, ends, &tuple, snapshot, flow6);
                decide6(snapshot, interface, &tuple)
            }
        };
        first.decisions[i].rule = rule;
        if action != AclAction::Accept {
            count(shard, rule, burst.packet_len(i));
            burst.decide(i, verdict(action));
        }
    }
}

/// The key by which packets with this tuple that come in by an interface are found.
pub(super) fn flow4(tuple: &Tuple4, interface: u16) -> Key4 {
    let ports = ports(tuple.src_port, tuple.dst_port);
    key4(addresses(tuple.src, tuple.dst), ports, tuple.protocol, interface)
}

/// As [`flow4`].
pub(super) fn flow6(tuple: &Tuple6, interface: u16) -> Key6 {
    let ports = ports(tuple.src_port, tuple.dst_port);
    key6(tuple.src, tuple.dst, ports, tuple.protocol, interface)
}

/// Whether a packet that is of no flow where it came in is of a live session all the same.
fn is_known<A: Copy, K: Key + Default>(
    flows: &HashTable<K, Flow>,
    interface: u16,
    ends: [IpAddr; 2],
    tuple: &Tuple<A>,
    snapshot: &Snapshot,
    key: impl Fn(&Tuple<A>, u16) -> K,
) -> bool {
    evidence(interface, ends, tuple, snapshot, key).iter().any(|(key, is_answer)| {
        let flow = key.and_then(|key| flows.find(&key)).and_then(|index| flows.value(index));
        flow.is_some_and(|flow| counts(flow, *is_answer))
    })
}

/// Whether the flow of [`evidence`] is what it looks like: a translated flow's answers are other packets.
pub(super) fn counts(flow: &Flow, is_answer: bool) -> bool {
    !is_answer || !flow.action.is(FlowAction::NAT)
}

/// The flows by which a packet with this tuple may be known although there is none where it comes in: its own, coming in
/// by the way to its source; and that of its answers (true), coming in by the way to its destination.
pub(super) fn evidence<A: Copy, K>(
    interface: u16,
    [source, destination]: [IpAddr; 2],
    tuple: &Tuple<A>,
    snapshot: &Snapshot,
    key: impl Fn(&Tuple<A>, u16) -> K,
) -> [(Option<K>, bool); 2] {
    let usual = expected_interface(source, snapshot).filter(|&usual| usual != interface);
    let answers = expected_interface(destination, snapshot);
    [(usual.map(|at| key(tuple, at)), false), (answers.map(|at| key(&reversed(tuple), at)), true)]
}

/// The verdict on a packet that a rule does not accept.
pub(super) fn verdict(action: AclAction) -> Verdict {
    match action {
        AclAction::Accept => Verdict::Forward,
        AclAction::Drop => Verdict::Drop(DropReason::AclDeny),
        AclAction::Reject => Verdict::Reject(DropReason::AclDeny, Answer::Prohibited),
    }
}

/// Counts a hit of a rule.
#[inline]
pub(super) fn count(shard: &mut Shard, rule: u16, bytes: usize) {
    if let Some(hits) = shard.counters.rules.get_mut(usize::from(rule)) {
        hits.add(bytes);
    }
}

/// What the ACL of an interface says about an IPv4 packet, and by which rule.
pub(super) fn decide4(snapshot: &Snapshot, interface: u16, tuple: &Tuple4) -> (u16, AclAction) {
    decide(snapshot, interface, |acl| acl.v4.lookup(tuple))
}

/// What the ACL of an interface says about an IPv6 packet, and by which rule.
pub(super) fn decide6(snapshot: &Snapshot, interface: u16, tuple: &Tuple6) -> (u16, AclAction) {
    decide(snapshot, interface, |acl| acl.v6.lookup(tuple))
}

fn decide(
    snapshot: &Snapshot,
    interface: u16,
    lookup: impl Fn(&crate::snapshot::Acl) -> Option<u32>,
) -> (u16, AclAction) {
    let acl = snapshot.interfaces.get(usize::from(interface)).and_then(|i| i.acl);
    let Some(acl) = acl.and_then(|acl| snapshot.acls.get(usize::from(acl))) else {
        return (NONE16, AclAction::Accept);
    };
    let rule = lookup(acl).map_or(acl.default, |rule| rule as u16);
    let action = snapshot.rules.get(usize::from(rule)).map_or(AclAction::Drop, |rule| rule.action);
    (rule, action)
}
