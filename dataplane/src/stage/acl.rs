//! ACL: the rules of the ingress interface, asked about first packets as they arrived, before any translation.
//!
//! A packet of a live session that comes in by another interface than the route to its source (asymmetric routing) is
//! found by no flow, but is `established` all the same. So is one that the filter of a NAT binding lets in.
//!
//! Exits: drops and rejections.

use sluice_pkt::parse::{Headers, L3};

use super::{FirstPackets, Tuple4, Tuple6, addresses6, nat, reversed, tuple};
use crate::burst::{BURST, Burst, Mask};
use crate::session::{Flow, FlowAction, Key4, Key6, addresses, key4, key6, ports};
use crate::shard::Shard;
use crate::snapshot::{Acl, AclAction, NONE16, Snapshot};
use crate::table::classifier::{Address, Classifier, Tuple};
use crate::table::hash::HashTable;
use crate::table::key::Key;
use crate::verdict::{Answer, DropReason, Verdict};

/// Asks the rules about all these packets at once, as packets of no live session. A single one is as well asked in its turn.
pub fn classify(burst: &Burst, mask: Mask, first: &mut FirstPackets, snapshot: &Snapshot) {
    if mask.count() < 2 || snapshot.acls.is_empty() {
        return;
    }
    let (mut v4, mut v6) = (Mask::NONE, Mask::NONE);
    for i in mask {
        let is_v4 = burst.headers[i].l3 == L3::Ipv4;
        v4.add_if(i, is_v4);
        v6.add_if(i, !is_v4);
    }
    let FirstPackets { tuples4, rules, classified, .. } = first;
    let mut keep = |i: usize, rule| {
        rules[i] = rule;
        classified.add(i);
    };
    classify_family(burst, v4, snapshot, |i| tuples4[i], |acl| &acl.v4, &mut keep);
    let tuple6 = |i| {
        let (bytes, headers) = (burst.bytes(i), &burst.headers[i]);
        tuple(addresses6(bytes, headers), bytes, headers)
    };
    classify_family(burst, v6, snapshot, tuple6, |acl| &acl.v6, &mut keep);
}

fn classify_family<A: Address>(
    burst: &Burst,
    mut mask: Mask,
    snapshot: &Snapshot,
    tuple_of: impl Fn(usize) -> Tuple<A>,
    rules: impl Fn(&Acl) -> &Classifier<A>,
    mut keep: impl FnMut(usize, (u16, AclAction)),
) {
    let Some(some) = mask.clone().next() else { return };
    let (mut tuples, mut results) = ([tuple_of(some); BURST], [None; BURST]);
    // Nearly always all came in by one interface.
    while let Some(some) = mask.clone().next() {
        let interface = burst.interfaces[some];
        let alike = mask.filter(|&i| burst.interfaces[i] == interface);
        let (mut group, mut count) = (Mask::NONE, 0);
        for i in alike {
            tuples[count] = tuple_of(i);
            group.add(i);
            count += 1;
        }
        mask = mask.without(group);
        let Some(acl) = acl_of(snapshot, interface) else { continue };
        let (tuples, results) = (&tuples[..count], &mut results[..count]);
        rules(acl).lookup_burst(tuples, results);
        for (i, result) in group.zip(results) {
            keep(i, outcome(acl, *result, snapshot));
        }
    }
}

/// Runs the stage.
pub fn run(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let (bytes, headers, interface) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
        let Some(acl) = acl_of(snapshot, interface) else { continue };
        let (rule, action) = match headers.l3 {
            _ if first.classified.has(i) && !tells_established(acl, headers) => first.rules[i],
            L3::Ipv4 => {
                let mut tuple = first.tuples4[i];
                tuple.established =
                    acl.v4.tells_established() && is_established(burst, i, first, shard, snapshot);
                match first.known_rule(i, tuple.established) {
                    Some(known) => known,
                    None => decide4(snapshot, interface, &tuple),
                }
            }
            _ => {
                let mut tuple = tuple(addresses6(bytes, headers), bytes, headers);
                tuple.established =
                    acl.v6.tells_established() && is_established(burst, i, first, shard, snapshot);
                match first.known_rule(i, tuple.established) {
                    Some(known) => known,
                    None => decide6(snapshot, interface, &tuple),
                }
            }
        };
        first.decisions[i].rule = rule;
        if action != AclAction::Accept {
            count(shard, rule, burst.packet_len(i));
            burst.actions[i].rule = rule;
            burst.decide(i, verdict(action));
        }
    }
}

impl FirstPackets {
    /// What [`classify`] has found out about a packet.
    fn known_rule(&self, i: usize, is_established: bool) -> Option<(u16, AclAction)> {
        (self.classified.has(i) && !is_established).then_some(self.rules[i])
    }
}

fn tells_established(acl: &Acl, headers: &Headers) -> bool {
    match headers.l3 {
        L3::Ipv4 => acl.v4.tells_established(),
        _ => acl.v6.tells_established(),
    }
}

/// Whether it is asked which packets that come in like this one are of a live session.
pub(super) fn asks_established(headers: &Headers, interface: u16, snapshot: &Snapshot) -> bool {
    acl_of(snapshot, interface).is_some_and(|acl| tells_established(acl, headers))
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

/// Whether a first packet is of a live session all the same, or let in by a NAT binding.
pub(super) fn is_established(
    burst: &Burst,
    i: usize,
    first: &FirstPackets,
    shard: &Shard,
    snapshot: &Snapshot,
) -> bool {
    let (bytes, headers, interface) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
    let ways = first.places[i].map(|place| place.interface(snapshot));
    if headers.l3 != L3::Ipv4 {
        let tuple = tuple(addresses6(bytes, headers), bytes, headers);
        return is_known(&shard.sessions.v6, interface, ways, &tuple, flow6);
    }
    let tuple = &first.tuples4[i];
    let ends = [(tuple.src, tuple.src_port), (tuple.dst, tuple.dst_port)];
    is_known(&shard.sessions.v4, interface, ways, tuple, flow4)
        || first.places[i][1].is_local4()
            && nat::admitted(ends, headers, interface, &shard.nat, snapshot).is_some()
}

/// Whether a packet that is of no flow where it came in is of a live session all the same.
fn is_known<A: Copy, K: Key + Default>(
    flows: &HashTable<K, Flow>,
    interface: u16,
    ways: [Option<u16>; 2],
    tuple: &Tuple<A>,
    key: impl Fn(&Tuple<A>, u16) -> K,
) -> bool {
    evidence(interface, ways, tuple, key).iter().any(|(key, is_answer)| {
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
    [to_source, answers]: [Option<u16>; 2],
    tuple: &Tuple<A>,
    key: impl Fn(&Tuple<A>, u16) -> K,
) -> [(Option<K>, bool); 2] {
    let usual = to_source.filter(|&usual| usual != interface);
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

fn decide(snapshot: &Snapshot, interface: u16, lookup: impl Fn(&Acl) -> Option<u32>) -> (u16, AclAction) {
    match acl_of(snapshot, interface) {
        Some(acl) => outcome(acl, lookup(acl), snapshot),
        None => (NONE16, AclAction::Accept),
    }
}

fn acl_of(snapshot: &Snapshot, interface: u16) -> Option<&Acl> {
    let acl = snapshot.interfaces.get(usize::from(interface))?.acl?;
    snapshot.acls.get(usize::from(acl))
}

/// The rule that a look-up found, or the default one, and what it says.
fn outcome(acl: &Acl, found: Option<u32>, snapshot: &Snapshot) -> (u16, AclAction) {
    let rule = found.map_or(acl.default, |rule| rule as u16);
    let action = snapshot.rules.get(usize::from(rule)).map_or(AclAction::Drop, |rule| rule.action);
    (rule, action)
}
