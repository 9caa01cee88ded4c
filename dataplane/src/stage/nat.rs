//! NAT: what a session's first packet has its addresses changed to. Destination before the route is chosen, source
//! after. IPv4; what IPv6 has is in [`super::prefix`]. Later packets are changed by `rewrite`.
//!
//! Exits: drops of what cannot be translated.

use std::net::Ipv4Addr;

use sluice_pkt::ipv4;
use sluice_pkt::parse::{Flags, Headers, L3};
use sluice_pkt::tcp::{ACK, FIN, RST, SYN};

use super::{Decision, FirstPackets, hairpin, nat64, portless, prefix, sessionless};
use crate::burst::Burst;
use crate::nat::{Binding, Nat, Opener, Wanted};
use crate::shard::Shard;
use crate::snapshot::{Forward, Pool, Snapshot, SourceNat};
use crate::verdict::{Answer, DropReason, Verdict};

/// Finds the port forward for each first packet, or the binding of source NAT that it is for.
pub fn destination(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let headers = &burst.headers[i];
        if headers.l3 != L3::Ipv4 {
            prefix::destination(burst, i, first, snapshot);
            nat64::destination(burst, i, first, snapshot);
            continue;
        }
        let (tuple, decision) = (&first.tuples4[i], &mut first.decisions[i]);
        decision.src = (tuple.src, headers.src_port);
        decision.dst = (tuple.dst, headers.dst_port);
        let interface = burst.interfaces[i];
        let dst = decision.dst;
        let mut all = snapshot.forwards.iter();
        if let Some(forward) = all.find(|f| forwards(f, interface, dst, headers.protocol)) {
            decision.dst = forwarded(forward, dst.1);
            decision.forwarded = true;
            continue;
        }
        let ends = [decision.src, dst];
        if !first.places[i][1].is_local4() {
            continue;
        }
        if let Some(inside) = behind(interface, dst.0, snapshot) {
            decision.dst.0 = inside;
            decision.forwarded = true;
            if let Some(reason) = unchangeable(headers) {
                burst.drop(i, reason);
            }
            continue;
        }
        if let Some(binding) = admitted(ends, &burst.headers[i], interface, &shard.nat, snapshot) {
            if let Err(reason) = admit_session(binding, &mut shard.nat, snapshot) {
                burst.drop(i, reason);
                continue;
            }
            (decision.binding, decision.inbound) = (binding, true);
            match nat64::inbound(binding, decision.src, &shard.nat, snapshot) {
                Some(Ok(ends)) => {
                    decision.cross = nat64::Cross::ToV6;
                    burst.ends6[i] = ends;
                }
                Some(Err(reason)) => burst.drop(i, reason),
                None => decision.dst = shard.nat.get(binding).map_or(dst, |binding| binding.inside),
            }
        } else if let Some(verdict) = refused(burst, i, ends, shard, snapshot) {
            burst.decide(i, verdict);
        }
    }
}

/// The binding that an unknown packet is for, if it may open a session there: if its filter lets it in, and it comes by
/// the interface on whose link the external address lies. For ACLs it is then `established`.
pub(super) fn admitted(
    [src, dst]: [(u32, u16); 2],
    headers: &Headers,
    interface: u16,
    nat: &Nat,
    snapshot: &Snapshot,
) -> Option<u32> {
    let opens = headers.protocol == ipv4::UDP || is_syn(headers);
    let (outside, _) = snapshot.local4.get(&Ipv4Addr::from_bits(dst.0))?;
    if !opens || *outside != interface {
        return None;
    }
    let binding = nat.find_external(dst, headers.protocol)?;
    (nat.admits(binding, src) && is_given_out(binding, nat, snapshot)).then_some(binding)
}

/// Whether a rule still gives a binding to its inside endpoint. After a reload there may be others, which are about to end.
pub(super) fn is_given_out(binding: u32, nat: &Nat, snapshot: &Snapshot) -> bool {
    pool_of(binding, nat, snapshot).is_some()
}

/// The pool from which a rule gives a binding to its inside endpoint.
fn pool_of(binding: u32, nat: &Nat, snapshot: &Snapshot) -> Option<u16> {
    if let Some((host, _)) = nat.inside6(binding) {
        return nat64::pool_of(binding, host, nat, snapshot);
    }
    let &Binding { inside, .. } = nat.get(binding)?;
    let gives = |rule: &&SourceNat| is_from(rule, inside.0) && nat.is_of(binding, rule.pool);
    snapshot.source_nat.iter().find(gives).map(|rule| rule.pool)
}

/// Whether somebody outside may open a session to a binding, by the limits of its inside address (RFC 6888 REQ-5).
fn admit_session(binding: u32, nat: &mut Nat, snapshot: &Snapshot) -> Result<(), DropReason> {
    let pool = pool_of(binding, nat, snapshot).and_then(|pool| snapshot.pools.get(usize::from(pool)));
    match pool.filter(|pool| pool.has_limits()) {
        Some(pool) => nat.admit_session(binding, pool, Opener::Outside),
        None => Ok(()),
    }
}

fn is_syn(headers: &Headers) -> bool {
    headers.protocol == ipv4::TCP && headers.tcp_flags & (SYN | ACK | RST | FIN) == SYN
}

/// What becomes of a packet from outside to an external port that no session and no filter lets in. `None` if it is no such
/// packet.
fn refused(
    burst: &Burst,
    i: usize,
    [src, dst]: [(u32, u16); 2],
    shard: &Shard,
    snapshot: &Snapshot,
) -> Option<Verdict> {
    let (headers, interface) = (&burst.headers[i], burst.interfaces[i]);
    if !matches!(headers.protocol, ipv4::TCP | ipv4::UDP)
        || !hairpin::is_pooled(dst, snapshot)
        || hairpin::way_out([src, dst], headers.protocol, interface, snapshot).is_some()
    {
        return None;
    }
    if is_syn(headers) {
        return Some(Verdict::HoldSyn);
    }
    if shard.nat.find_external(dst, headers.protocol).is_some() {
        return Some(Verdict::Drop(DropReason::NatFiltered));
    }
    // The gateway's own stack does not speak with itself.
    let inner = snapshot.is_inner(burst.port);
    inner.then_some(Verdict::Reject(DropReason::NatNoSession, Answer::NoBinding))
}

/// Whether a port forward is for packets to this address and port.
pub(super) fn forwards(forward: &Forward, interface: u16, dst: (u32, u16), protocol: u8) -> bool {
    forward.interface == interface
        && forward.protocol == protocol
        && forward.address == Ipv4Addr::from_bits(dst.0)
        && (forward.ports.0..=forward.ports.1).contains(&dst.1)
}

/// Where a port forward sends packets to one of its ports.
pub(super) fn forwarded(forward: &Forward, port: u16) -> (u32, u16) {
    (forward.to.to_bits(), forward.to_port + (port - forward.ports.0))
}

/// The inside address that static NAT has for packets which come in by an interface for this one.
pub(super) fn behind(interface: u16, outside: u32, snapshot: &Snapshot) -> Option<u32> {
    static_inside(outside, snapshot).filter(|&(at, _)| at == interface).map(|(_, inside)| inside)
}

/// The host that has an external address by static NAT, and the interface on whose link that is. A prefix may have us in it.
pub(super) fn static_inside(outside: u32, snapshot: &Snapshot) -> Option<(u16, u32)> {
    let is_host = |&(_, inside): &(u16, u32)| !snapshot.local4.contains_key(&Ipv4Addr::from_bits(inside));
    snapshot.statics.inside_of(outside).filter(is_host)
}

/// What becomes of the source of packets that leave by an interface.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// It stays.
    Kept,
    /// It becomes this address, its port stays.
    Static(u32),
    /// It becomes an address and port of this pool, by its index.
    Pool(u16),
}

impl Source {
    pub(super) const fn is_changed(&self) -> bool {
        !matches!(self, Self::Kept)
    }
}

/// What becomes of the source of packets between these ends that leave by this interface.
pub(super) fn source_of(ends: [(u32, u16); 2], protocol: u8, egress: u16, snapshot: &Snapshot) -> Source {
    let [(src, _), _] = ends;
    let rule = || rule_of(src, egress, snapshot);
    let source = match snapshot.statics.outside_of(egress, src) {
        Some(outside) => Source::Static(outside),
        None => rule().map_or(Source::Kept, |rule| Source::Pool(rule.pool)),
    };
    let is_exempt = || snapshot.exemptions.iter().any(|exemption| exemption.covers(ends, protocol, egress));
    if source.is_changed() && is_exempt() { Source::Kept } else { source }
}

/// The rule of source NAT for a source that leaves by an interface.
pub(super) fn rule_of(src: u32, egress: u16, snapshot: &Snapshot) -> Option<&SourceNat> {
    snapshot.source_nat.iter().find(|rule| rule.out == egress && is_from(rule, src))
}

fn is_from(rule: &SourceNat, src: u32) -> bool {
    rule.from.is_empty() || rule.from.iter().any(|&(a, mask)| src & mask == a & mask)
}

/// Binds the source of each first packet that leaves by an interface with source NAT.
pub fn source(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    let has_some = !snapshot.source_nat.is_empty() || !snapshot.statics.is_empty();
    if !has_some && snapshot.prefixes.is_empty() && snapshot.nat64.is_empty() {
        return;
    }
    begin(burst, first, shard, snapshot);
    for i in first.open(burst) {
        let headers = &burst.headers[i];
        let decision = &mut first.decisions[i];
        if headers.l3 != L3::Ipv4 {
            match decision.cross {
                nat64::Cross::ToV4 => nat64::source(burst, i, first, shard, snapshot),
                _ => prefix::source(burst, i, first, snapshot),
            }
            continue;
        }
        // A session has one binding.
        if decision.inbound {
            continue;
        }
        let foreseen = &first.foreseen[i];
        let ends = [decision.src, decision.dst];
        let source = match foreseen.source {
            Some((egress, source)) if egress == decision.egress => source,
            _ => source_of(ends, headers.protocol, decision.egress, snapshot),
        };
        match source {
            Source::Kept => {}
            Source::Static(outside) => {
                (decision.src.0, decision.rewritten) = (outside, true);
                if let Some(reason) = unchangeable(headers) {
                    burst.drop(i, reason);
                }
            }
            Source::Pool(pool) => {
                let Some(of) = snapshot.pools.get(usize::from(pool)) else { continue };
                let bound = match (foreseen.begun, foreseen.name) {
                    (Some(begun), Some(name)) => {
                        let wanted = wanted(pool, of, headers, decision);
                        shard.nat.finish(&wanted, &name, begun).map(|binding| take(binding, decision, shard))
                    }
                    _ => bind(pool, of, headers, decision, shard, snapshot),
                };
                if let Err(reason) = bound {
                    refuse(burst, i, reason, of);
                }
            }
        }
    }
}

/// First step for those that are bound together: finds out which external port each gets, and fetches what putting it in
/// looks at.
fn begin(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let foreseen = &mut first.foreseen[i];
        let (Some((egress, Source::Pool(pool))), Some(name)) = (foreseen.source, foreseen.name) else {
            continue;
        };
        let decision = &first.decisions[i];
        let Some(of) = snapshot.pools.get(usize::from(pool)).filter(|_| egress == decision.egress) else {
            continue;
        };
        match shard.nat.begin(&wanted(pool, of, &burst.headers[i], decision), &name) {
            Ok(begun) => foreseen.begun = Some(begun),
            Err(reason) => refuse(burst, i, reason, of),
        }
    }
}

fn wanted<'a>(pool: u16, of: &'a Pool, headers: &Headers, decision: &Decision) -> Wanted<'a> {
    Wanted { pool, of, inside: decision.src, remote: decision.dst, protocol: headers.protocol }
}

/// The packet's session has this binding, which counts it.
fn take(binding: u32, decision: &mut Decision, shard: &mut Shard) {
    decision.binding = binding;
    decision.src = shard.nat.get(binding).map_or(decision.src, |b| b.external);
    decision.permit = Some(shard.nat.hold(binding, decision.dst.0, false));
}

/// A packet finds no binding in a pool.
fn refuse(burst: &mut Burst, i: usize, reason: DropReason, of: &Pool) {
    match answer(reason, of) {
        Some(answer) => burst.reject(i, reason, answer),
        None => burst.drop(i, reason),
    }
}

/// What the sender of a packet is told that gets no external address and port.
fn answer(reason: DropReason, pool: &Pool) -> Option<Answer> {
    match reason {
        DropReason::NatNoAddress => Some(Answer::NoRoute),
        _ => is_shortage(reason).then(|| shortage(pool)),
    }
}

fn is_shortage(reason: DropReason) -> bool {
    use DropReason::{
        NatPortLimit, NatPortsExhausted, NatRateLimit, NatRemoteTaken, NatSessionLimit, SessionTableFull,
    };
    let of_subscriber = matches!(reason, NatPortLimit | NatSessionLimit | NatRateLimit);
    of_subscriber || matches!(reason, NatPortsExhausted | NatRemoteTaken | SessionTableFull)
}

/// What a sender is told for whom there is no mapping (RFC 5508 REQ-8; for subscribers RFC 6888 REQ-11, with NAT64 RFC 6146
/// 3.5.1.1).
pub(super) fn shortage(pool: &Pool) -> Answer {
    let is_told_so = pool.has_subscribers() || pool.behavior.is_nat64;
    if is_told_so { Answer::HostUnreachable } else { Answer::Prohibited }
}

/// Gives a decided packet an external address and port (or identifier) of a pool; the address alone where its protocol has
/// no ports.
fn bind(
    pool: u16,
    of: &Pool,
    headers: &Headers,
    decision: &mut Decision,
    shard: &mut Shard,
    snapshot: &Snapshot,
) -> Result<(), DropReason> {
    if let Some(reason) = unchangeable(headers) {
        return Err(reason);
    }
    if of.addresses.is_empty() {
        return Err(DropReason::NatNoAddress);
    }
    if portless::is_portless(headers.protocol) {
        let flows = &shard.sessions.v4;
        let external = portless::choose(of, decision, headers.protocol, flows, snapshot)?.to_bits();
        let ends = (decision.src.0, external);
        decision.binding = shard.nat.bind_address(pool, of, ends, headers.protocol)?;
        decision.src.0 = external;
        decision.rewritten = true;
        return Ok(());
    }
    if sessionless(headers) {
        let is_tcp = headers.protocol == ipv4::TCP;
        return Err(if is_tcp { DropReason::TcpNoSession } else { DropReason::NatProtocol });
    }
    let binding = shard.nat.bind(pool, of, decision.src, decision.dst, headers.protocol)?;
    take(binding, decision, shard);
    Ok(())
}

/// Why a packet's addresses cannot change, even if its ports stay.
fn unchangeable(headers: &Headers) -> Option<DropReason> {
    if headers.flags.has(Flags::ICMP_ERROR) {
        // It would have to be translated as the packet that it quotes, which belongs to no session.
        return Some(DropReason::IcmpNoSession);
    }
    (headers.protocol == ipv4::AH).then_some(DropReason::NatAuthenticated)
}
