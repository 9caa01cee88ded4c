//! Sessions from the time of another configuration: each is decided anew from its own key, as its first packet would be,
//! and goes on if the answer is the same: it is let pass, to the same destination, by the same external address and port.
//! If not, it ends.
//!
//! Of several workers, the owner decides. One whose owner the new configuration names another ends, too: it can only be one
//! that is not translated, and its next packet makes it again there. Copies at other workers are dropped by their sweep, and
//! their next packets ask the owner.
//!
//! Packets bring their own sessions here, a few a poll, and a sweep all others ([`crate::adopt`]). Until then the old action
//! holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::parse::L3;
use sluice_pkt::{icmpv4, icmpv6, ipv4, ipv6};

use super::choice::Choice;
use super::nat::Source;
use super::route::Place;
use super::{
    Decision, Tuple4, Tuple6, acl, class, flow, guard, hairpin, lists, local6, nat, nat64, police, portless,
    prefix, route, sanity,
};
use crate::burst::{Burst, Mask};
use crate::local::neighbor::Neighbors;
use crate::session::{Direction, Family, Flow, FlowAction, FlowKey, KeyFacts, NONE, NewSession, Session};
use crate::shard::Shard;
use crate::snapshot::{AclAction, Snapshot};
use crate::table::classifier::Tuple;
use crate::verdict::Verdict;

/// Decides the sessions of these packets, whose flows have been found, as far as the poll's budget goes; all of them, if
/// another worker has asked. What is decided elsewhere stays as it is, unless it is asked for here.
pub(super) fn flows_of(burst: &Burst, mask: Mask, asked: bool, shard: &mut Shard, snapshot: &Snapshot) {
    for i in mask {
        let family = if burst.headers[i].l3 == L3::Ipv4 { Family::V4 } else { Family::V6 };
        let flow = shard.sessions.flow(family, burst.flows[i]).copied();
        let Some(flow) = flow.filter(|flow| shard.sessions.is_old(flow)) else { continue };
        if flow.is_copy() {
            if asked {
                shard.sessions.remove_copy(flow.session());
            }
            continue;
        }
        if !asked && !shard.transition.as_mut().is_some_and(|transition| transition.spend()) {
            continue;
        }
        session_anew(flow.session(), shard, snapshot);
    }
}

/// Decides those sessions of these packets anew that would leave by another interface than they did, as routes have
/// changed: the interface is part of what their answers are found by, and its rules and its NAT may be others. A copy of a
/// session is dropped, and its owner asked.
pub(super) fn rerouted(burst: &Burst, mask: Mask, shard: &mut Shard, snapshot: &Snapshot) -> Mask {
    let mut changed = Mask::NONE;
    for i in mask {
        let family = if burst.headers[i].l3 == L3::Ipv4 { Family::V4 } else { Family::V6 };
        let Some(flow) = shard.sessions.flow(family, burst.flows[i]).copied() else { continue };
        let hop = flow.action.next_hop;
        let before = if flow.is_copy() {
            shard.neighbors.who(hop).map(|(interface, _)| interface)
        } else if flow.direction() == Direction::Forward {
            let session = shard.sessions.get(flow.session());
            session.and_then(|session| {
                let key = shard.sessions.key_of(session.family_of(1), session.flows[1]);
                key.map(|key| match key {
                    FlowKey::V4(key) => KeyFacts::of4(key).1.interface,
                    FlowKey::V6(key) => KeyFacts::of6(key).1.interface,
                })
            })
        } else {
            None
        };
        let Some(before) = before else { continue };
        let dst = flow::destination_of(burst, i, &burst.actions[i]);
        let choice = route::choice(burst, i, dst).staying(shard.neighbors.who(hop));
        if !route::way(dst, choice, snapshot).is_ok_and(|(egress, _)| egress != before) {
            continue;
        }
        if flow.is_copy() {
            shard.sessions.remove_copy(flow.session());
        } else {
            session_anew(flow.session(), shard, snapshot);
        }
        changed.add(i);
    }
    changed
}

/// Decides the session of a flow, whatever the budget. True if it was outdated: the flow may be another now, or gone.
pub(super) fn flow_anew(family: Family, index: u32, shard: &mut Shard, snapshot: &Snapshot) -> bool {
    let flow = shard.sessions.flow(family, index).copied();
    let Some(flow) = flow.filter(|flow| shard.sessions.is_old(flow)) else { return false };
    if flow.is_copy() {
        shard.sessions.remove_copy(flow.session());
    } else {
        session_anew(flow.session(), shard, snapshot);
    }
    true
}

/// Whether a packet's session is still to be decided. Its old action then holds for this packet, with the indices that
/// rules and limits have now, and by the old next hop as long as that means the same.
pub(super) fn hold_old(burst: &mut Burst, i: usize, shard: &mut Shard, snapshot: &Snapshot) -> bool {
    let family = if burst.headers[i].l3 == L3::Ipv4 { Family::V4 } else { Family::V6 };
    let Some(&flow) = shard.sessions.flow(family, burst.flows[i]) else { return false };
    let Some(transition) = &shard.transition else { return false };
    if !shard.sessions.is_old(&flow) {
        return false;
    }
    let mut action = transition.translate(flow.action);
    if !transition.is_next_hop_true(flow.stamp, shard.neighbors.epoch()) {
        let dst = flow::destination_of(burst, i, &action);
        let choice = route::choice(burst, i, dst).staying(shard.neighbors.who(action.next_hop));
        match route::next_hop(dst, choice, snapshot, &mut shard.neighbors, burst.now) {
            Ok((_, next_hop)) => action.next_hop = next_hop,
            Err(verdict) => burst.decide(i, verdict),
        }
    }
    burst.actions[i] = action;
    true
}

/// Decides a session anew: it goes on under the present configuration, or ends. True if it goes on.
pub fn session_anew(index: u32, shard: &mut Shard, snapshot: &Snapshot) -> bool {
    reconsider(index, shard, snapshot).is_ok()
}

/// As [`session_anew`]: how the session goes on, or why it has ended.
///
/// # Errors
/// It ends.
pub fn reconsider(index: u32, shard: &mut Shard, snapshot: &Snapshot) -> Result<Goes, Why> {
    let Some(session) = shard.sessions.get(index).copied() else { return Err(Why::Gone) };
    let new = again(index, &session, shard, snapshot, true);
    let kept = new.and_then(|(new, way)| {
        if !shard.sessions.renew(index, &new) {
            return Err(Why::Answers);
        }
        if new.binding != session.binding {
            shard.sessions.unbind(index, &mut shard.nat);
        }
        Ok(Goes { way, answers: new.actions[1] })
    });
    if kept.is_err() {
        shard.sessions.end(index, &mut shard.nat, &mut shard.counters);
        shard.counters.sessions_ended_by_policy += 1;
    }
    if let Some(transition) = &mut shard.transition {
        transition.count(kept.is_ok());
    }
    kept
}

/// What would come of a session, which stays as it is.
///
/// # Errors
/// It would end.
pub fn consider(index: u32, shard: &mut Shard, snapshot: &Snapshot) -> Result<Goes, Why> {
    let session = shard.sessions.get(index).copied().ok_or(Why::Gone)?;
    let (new, way) = again(index, &session, shard, snapshot, true)?;
    Ok(Goes { way, answers: new.actions[1] })
}

/// How a session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goes {
    /// The interface by which it leaves, and its next hop there; none for the destination itself.
    pub way: (u16, Option<IpAddr>),
    /// What is done to its answers.
    pub answers: FlowAction,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no such session any more.
    Gone,
    /// Nobody forwards between its ends.
    Ends,
    /// The guard of this interface refuses it.
    Guard(u16),
    /// Of several workers, another one owns it.
    Owner,
    /// This rule does not let it pass.
    Denied(u16),
    /// No route leads to its destination.
    Route,
    /// It would lead to another destination, or to the gateway itself.
    Destination,
    /// It would leave by this interface with another source, or with another port.
    Source(u16),
    /// Its answers could not be told from those of another session.
    Answers,
}

/// A session as it would be made now, with its way out.
type Again = Result<(NewSession<FlowKey>, (u16, Option<IpAddr>)), Why>;

/// The packets that open a session with this key. Only queries open one of ICMP.
fn opening<A>((src, dst): (A, A), facts: &KeyFacts) -> Tuple<A> {
    let icmp = match facts.protocol {
        ipv4::ICMP => Some((icmpv4::asked_type(facts.ports.1), 0)),
        ipv6::ICMPV6 => Some((icmpv6::ECHO_REQUEST, 0)),
        _ => None,
    };
    Tuple {
        src,
        dst,
        protocol: facts.protocol,
        src_port: facts.ports.0,
        dst_port: facts.ports.1,
        has_ports: matches!(facts.protocol, ipv4::TCP | ipv4::UDP),
        icmp,
        established: false,
    }
}

/// The session as its first packet would make it now, or why it would make none, or one that leads elsewhere. `ask`
/// whether others count that are as old: they are decided first.
fn again(index: u32, session: &Session, shard: &mut Shard, snapshot: &Snapshot, ask: bool) -> Again {
    match session.family {
        Family::V4 => again4(index, session, shard, snapshot, ask),
        Family::V6 => again6(index, session, shard, snapshot, ask),
    }
}

fn again4(index: u32, session: &Session, shard: &mut Shard, snapshot: &Snapshot, ask: bool) -> Again {
    let (&key, &Flow { action: old, .. }) = shard.sessions.v4.get(session.flows[0]).ok_or(Why::Gone)?;
    let ([src, dst], facts) = KeyFacts::of4(key);
    let mut first: Tuple4 = opening((src, dst), &facts);
    // One that hairpins came from ourselves.
    let hairpins = hairpin::is_external((first.src, first.src_port), facts.protocol, snapshot)
        && route::expected_interface(Ipv4Addr::from_bits(first.src).into(), snapshot)
            == Some(facts.interface);
    let are_local = [first.src, first.dst].map(|end| snapshot.local4.contains_key(&Ipv4Addr::from_bits(end)));
    if guard::check4((first.src, first.dst), are_local, hairpins, snapshot) != Verdict::Forward {
        return Err(Why::Ends);
    }
    let ends = [first.src, first.dst].map(|end| Ipv4Addr::from_bits(end).into());
    if !hairpins && is_refused(ends, &facts, snapshot) {
        return Err(Why::Guard(facts.interface));
    }
    if let Some(crossing) = &shard.crossing {
        let ends = [(first.src, first.src_port), (first.dst, first.dst_port)];
        let owner = crossing.owners().of_flow4(ends, facts.protocol, facts.interface, snapshot);
        if owner.is_some_and(|owner| owner != crossing.me()) {
            return Err(Why::Owner);
        }
    }
    let ends = ends.map(|end| route::expected_interface(end, snapshot));
    let evidence = acl::evidence(facts.interface, ends, &first, acl::flow4);
    first.established = evidence.into_iter().any(|(key, is_answer)| {
        let find = |shard: &Shard| {
            let flow = shard.sessions.v4.value(shard.sessions.v4.find(&key?)?)?;
            (is_other(flow, index) && acl::counts(flow, is_answer)).then_some(*flow)
        };
        is_still_live(&find, shard, snapshot, ask)
    });
    let inbound = session.is_inbound() && nat::is_given_out(session.binding, &shard.nat, snapshot);
    first.established |= inbound;
    if !hairpins && !first.established && is_unasked(&facts, snapshot) {
        return Err(Why::Guard(facts.interface));
    }
    let (rule, verdict) = acl::decide4(snapshot, facts.interface, &first);
    if verdict != AclAction::Accept {
        return Err(Why::Denied(rule));
    }
    let mut decision = Decision { rule, ..Decision::NONE };
    decision.src = (first.src, first.src_port);
    decision.dst = (first.dst, first.dst_port);
    let mut forwards = snapshot.forwards.iter();
    if let Some(forward) = forwards.find(|f| nat::forwards(f, facts.interface, decision.dst, facts.protocol))
    {
        decision.dst = nat::forwarded(forward, decision.dst.1);
        decision.forwarded = true;
    } else if let Some(inside) = nat::behind(facts.interface, first.dst, snapshot) {
        decision.dst.0 = inside;
        decision.forwarded = true;
    } else if inbound && session.crosses {
        return again46(index, session, key, &first, decision, shard, snapshot);
    } else if inbound {
        if shard.nat.inside6(session.binding).is_some() {
            return Err(Why::Destination);
        }
        decision.dst = shard.nat.get(session.binding).ok_or(Why::Destination)?.inside;
        (decision.binding, decision.inbound) = (session.binding, true);
    }
    let is_elsewhere = decision.forwarded || inbound || {
        let ends = [decision.src, decision.dst];
        hairpin::way_out(ends, facts.protocol, facts.interface, snapshot).is_some()
    };
    let dst = Ipv4Addr::from_bits(decision.dst.0);
    if (dst, decision.dst.1) != (old.new.destination(), old.new.destination_port())
        || !is_elsewhere && snapshot.local4.contains_key(&dst)
    {
        return Err(Why::Destination);
    }
    let current = shard.neighbors.who(old.next_hop);
    let choice = |dst| {
        let src = Ipv4Addr::from_bits(first.src).into();
        Choice::of(src, dst, facts.ports, facts.protocol).staying(current)
    };
    let way = egress(dst.into(), choice(dst.into()), snapshot)?;
    decision.egress = way.0;
    if lists::refuses(dst.into(), decision.egress, snapshot) {
        return Err(Why::Guard(decision.egress));
    }
    if !decision.inbound && !source_again(session, &facts, old, &mut decision, shard, snapshot) {
        return Err(Why::Source(decision.egress));
    }
    // Another source than before is another session to the far end.
    let is_same = decision.src == (old.new.source().to_bits(), old.new.source_port());
    // Without ports it is by its addresses alone that it is the same: static NAT may go on with what a pool began.
    let needs_none = decision.binding == NONE && portless::is_portless(facts.protocol);
    if session.binding != decision.binding && !needs_none || !is_same || session.crosses {
        return Err(Why::Source(decision.egress));
    }
    decision.dscp = session.dscp;
    class::choose4(&mut decision, facts.interface, snapshot, first);
    police::choose4(&mut decision, facts.interface, snapshot, first);
    Ok((flow::compile4(key, &first, &decision, snapshot).any(), way))
}

/// As [`again4`], for one that came from outside to a binding of NAT64.
fn again46(
    index: u32,
    session: &Session,
    key: crate::session::Key4,
    first: &Tuple4,
    mut decision: Decision,
    shard: &Shard,
    snapshot: &Snapshot,
) -> Again {
    let ends = nat64::inbound(session.binding, decision.src, &shard.nat, snapshot);
    let ends = ends.and_then(Result::ok).ok_or(Why::Destination)?;
    decision.cross = nat64::Cross::ToV6;
    let flow = shard.sessions.v4.value(session.flows[0]).filter(|flow| flow.session() == index);
    let flow = flow.ok_or(Why::Gone)?;
    if shard.sessions.ends6(flow) != Some(ends) {
        return Err(Why::Destination);
    }
    let (src, dst) = (Ipv4Addr::from_bits(first.src).into(), Ipv6Addr::from_bits(ends.dst).into());
    let facts = KeyFacts::of4(key).1;
    let choice = Choice::of(src, dst, facts.ports, facts.protocol);
    let way = egress(dst, choice.staying(shard.neighbors.who(flow.action.next_hop)), snapshot)?;
    decision.egress = way.0;
    if lists::refuses(dst, decision.egress, snapshot) {
        return Err(Why::Guard(decision.egress));
    }
    (decision.binding, decision.inbound) = (session.binding, true);
    let interface = KeyFacts::of4(key).1.interface;
    decision.dscp = session.dscp;
    class::choose46(&mut decision, interface, snapshot, first, ends);
    police::choose46(&mut decision, interface, snapshot, *first, ends);
    Ok((flow::compile46(key, first, ends, &decision, snapshot).any(), way))
}

/// As [`again4`], for one from inside that leaves as IPv4.
fn again64(
    session: &Session,
    key: crate::session::Key6,
    first: &Tuple6,
    rule: u16,
    shard: &mut Shard,
    snapshot: &Snapshot,
) -> Again {
    let &Flow { action: old, .. } = shard.sessions.v6.value(session.flows[0]).ok_or(Why::Gone)?;
    let dst = nat64::target(first.dst, snapshot).and_then(Result::ok).ok_or(Why::Destination)?;
    let protocol = nat64::protocol4(first.protocol);
    let mut decision = Decision { rule, dst: (dst, first.dst_port), ..Decision::NONE };
    let address = Ipv4Addr::from_bits(dst);
    if address != old.new.destination() || nat64::is_ours(decision.dst, protocol, snapshot) {
        return Err(Why::Destination);
    }
    let src = Ipv6Addr::from_bits(first.src).into();
    let facts = KeyFacts::of6(key).1;
    let choice = Choice::of(src, address.into(), facts.ports, facts.protocol);
    let choice = choice.staying(shard.neighbors.who(old.next_hop));
    let way = egress(address.into(), choice, snapshot)?;
    decision.egress = way.0;
    if lists::refuses(address.into(), decision.egress, snapshot) {
        return Err(Why::Guard(decision.egress));
    }
    let nat64 =
        nat64::rule(snapshot, (first.src, first.dst), decision.egress).ok_or(Why::Source(decision.egress))?;
    let may = shard.nat.keep(session.binding, nat64.pool, decision.dst);
    let binding = shard.nat.get(session.binding).filter(|_| may).ok_or(Why::Source(decision.egress))?;
    (decision.binding, decision.src) = (session.binding, binding.external);
    let interface = KeyFacts::of6(key).1.interface;
    decision.dscp = session.dscp;
    class::choose64(&mut decision, interface, snapshot, first);
    police::choose64(&mut decision, interface, snapshot, *first);
    Ok((flow::compile64(key, first, &decision, snapshot).any(), way))
}

/// Finds what the source becomes when it leaves, as it would for the first packet. False if it cannot be what it was.
fn source_again(
    session: &Session,
    facts: &KeyFacts,
    old: FlowAction,
    decision: &mut Decision,
    shard: &mut Shard,
    snapshot: &Snapshot,
) -> bool {
    let ends = [decision.src, decision.dst];
    match nat::source_of(ends, facts.protocol, decision.egress, snapshot) {
        Source::Kept => {}
        Source::Static(outside) => (decision.src.0, decision.rewritten) = (outside, true),
        Source::Pool(pool) if portless::is_portless(facts.protocol) => {
            let external = old.new.source();
            let of = snapshot.pools.get(usize::from(pool));
            if !of.is_some_and(|of| portless::may_keep(external, of, snapshot)) {
                return false;
            }
            shard.nat.keep_address(session.binding, pool);
            (decision.src.0, decision.rewritten) = (external.to_bits(), true);
            decision.binding = session.binding;
        }
        Source::Pool(pool) => {
            let may = shard.nat.keep(session.binding, pool, decision.dst);
            let Some(binding) = shard.nat.get(session.binding).filter(|_| may) else { return false };
            (decision.binding, decision.src) = (session.binding, binding.external);
        }
    }
    true
}

/// As [`again4`].
fn again6(index: u32, session: &Session, shard: &mut Shard, snapshot: &Snapshot, ask: bool) -> Again {
    let (&key, &Flow { action: old, .. }) = shard.sessions.v6.get(session.flows[0]).ok_or(Why::Gone)?;
    let ([src, dst], facts) = KeyFacts::of6(key);
    let mut first: Tuple6 = opening((src, dst), &facts);
    let icmp = first.icmp.map(|(kind, _)| kind);
    if guard::check6((first.src, first.dst), icmp, facts.interface, snapshot) != Verdict::Forward
        || local6(snapshot, facts.interface, first.dst)
    {
        return Err(Why::Ends);
    }
    let ends = [first.src, first.dst].map(|end| Ipv6Addr::from_bits(end).into());
    if is_refused(ends, &facts, snapshot) {
        return Err(Why::Guard(facts.interface));
    }
    let ends = ends.map(|end| route::expected_interface(end, snapshot));
    let evidence = acl::evidence(facts.interface, ends, &first, acl::flow6);
    first.established = evidence.into_iter().any(|(key, is_answer)| {
        let find = |shard: &Shard| {
            let flow = shard.sessions.v6.value(shard.sessions.v6.find(&key?)?)?;
            (is_other(flow, index) && acl::counts(flow, is_answer)).then_some(*flow)
        };
        is_still_live(&find, shard, snapshot, ask)
    });
    if !first.established && is_unasked(&facts, snapshot) {
        return Err(Why::Guard(facts.interface));
    }
    let (rule, verdict) = acl::decide6(snapshot, facts.interface, &first);
    if verdict != AclAction::Accept {
        return Err(Why::Denied(rule));
    }
    let owner = |shard: &Shard| {
        let crossing = shard.crossing.as_ref()?;
        let ends = [(first.src, first.src_port), (first.dst, first.dst_port)];
        Some(crossing.owners().of_flow6(ends, facts.protocol, snapshot) == crossing.me())
    };
    if owner(shard) == Some(false) {
        return Err(Why::Owner);
    }
    if session.crosses {
        return again64(session, key, &first, rule, shard, snapshot);
    }
    if nat64::target(first.dst, snapshot).is_some() {
        return Err(Why::Destination);
    }
    let ends = (first.src, first.dst);
    let mut change = prefix::change_in(ends, facts.interface, snapshot).map_err(|_| Why::Destination)?;
    let (src, dst) =
        (Ipv6Addr::from_bits(first.src).into(), Ipv6Addr::from_bits(change.apply(ends).1).into());
    let choice = Choice::of(src, dst, facts.ports, facts.protocol);
    let way = egress(dst, choice.staying(shard.neighbors.who(old.next_hop)), snapshot)?;
    let egress = way.0;
    if lists::refuses(dst, egress, snapshot) {
        return Err(Why::Guard(egress));
    }
    if change == prefix::Change::None {
        change = prefix::change_out(first.src, egress, snapshot).map_err(|_| Why::Source(egress))?;
    }
    let (new, flags) = change.compile();
    if new != old.new || flags & !old.flags != 0 {
        return Err(if matches!(change, prefix::Change::Destination(_)) {
            Why::Destination
        } else {
            Why::Source(egress)
        });
    }
    let mut decision = Decision { rule, egress, prefix: change, ..Decision::NONE };
    decision.dscp = session.dscp;
    class::choose6(&mut decision, facts.interface, snapshot, &first);
    police::choose6(&mut decision, facts.interface, snapshot, &first);
    Ok((flow::compile6(key, &first, &decision, snapshot).any(), way))
}

/// Whether the guard of its interface refuses a session between these ends.
fn is_refused(ends: [IpAddr; 2], facts: &KeyFacts, snapshot: &Snapshot) -> bool {
    !snapshot.guards.is_empty() && {
        let from = Place::of(ends[0], snapshot);
        sanity::refuses(ends, facts.protocol, facts.ports.0, facts.interface, &from, snapshot).is_some()
            || lists::refuses(ends[0], facts.interface, snapshot)
    }
}

/// Whether the guard of its interface lets a session in only if it is the answer to another.
fn is_unasked(facts: &KeyFacts, snapshot: &Snapshot) -> bool {
    sanity::answers(facts.protocol, facts.ports.0, facts.interface, snapshot)
}

/// Whether a flow is not this session's own.
fn is_other(flow: &Flow, session: u32) -> bool {
    flow.is_copy() || flow.session() != session
}

/// Whether there is such a session, which makes another one `established`, and it may go on itself. Of two that would only
/// be let pass because of each other, neither is.
fn is_still_live(
    find: &impl Fn(&Shard) -> Option<Flow>,
    shard: &mut Shard,
    snapshot: &Snapshot,
    ask: bool,
) -> bool {
    let Some(flow) = find(shard) else { return false };
    // Of one that is another worker's it is not known whether it may go on; its end would be told.
    if flow.is_copy() || !shard.sessions.is_outdated(flow.session()) {
        return true;
    }
    let session = flow.session();
    let Some(known) = shard.sessions.get(session).copied().filter(|_| ask) else { return false };
    again(session, &known, shard, snapshot, false).is_ok()
}

/// The interface and the next hop by which packets to this address leave, if they do.
fn egress(dst: IpAddr, choice: Choice, snapshot: &Snapshot) -> Result<(u16, Option<IpAddr>), Why> {
    let (egress, neighbor) = route::way(dst, choice, snapshot).map_err(|_| Why::Route)?;
    let is_broadcast = neighbor.is_some_and(|neighbor| Neighbors::is_broadcast(snapshot, egress, neighbor));
    if is_broadcast { Err(Why::Route) } else { Ok((egress, neighbor)) }
}
