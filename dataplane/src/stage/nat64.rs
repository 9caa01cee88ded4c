//! NAT64 (RFC 6146): IPv6 hosts speak with IPv4 ones, whose addresses stand in a prefix (RFC 6052). Their bindings are
//! NAT's own; a session has one flow of each family. What a packet becomes is [`rewrite`]'s affair.
//!
//! A first packet from inside is of IPv6: ACL and ingress limit see it as that, route and egress limit as what it becomes.
//! One from outside finds a binding as with NAT between IPv4 addresses. A packet to an external address of ours hairpins
//! as those of IPv4 do ([`super::hairpin`]), in its IPv4 form.
//!
//! Exits: drops and rejections of what cannot be translated.

pub(super) mod rewrite;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::nat64::Embedding;
use sluice_pkt::parse::{Flags, Headers};
use sluice_pkt::{icmpv4, ipv4, ipv6, tcp};

use super::{Decision, FirstPackets, Tuple4, Tuple6, addresses6, guard, hairpin, sessionless};
use crate::burst::Burst;
use crate::nat::Nat;
use crate::session::{Ends6, FlowAction};
use crate::shard::Shard;
use crate::snapshot::{Nat64, Snapshot};
use crate::verdict::{Answer, DropReason, Verdict};

/// Which family a packet leaves as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cross {
    /// Its own.
    #[default]
    No,
    /// IPv6 becomes IPv4, with the decision's ends.
    ToV4,
    /// IPv4 becomes IPv6, with the burst's ends for it.
    ToV6,
}

/// The longest IPv4 packet that may be cut on its way, being made of one of IPv6: one that an IPv6 link surely carried
/// (RFC 7915 5.1).
pub(super) const CUT_UP_TO: u16 = ipv6::MIN_MTU - 20;

/// What an ICMP protocol number is in the other family.
pub(super) const fn protocol4(protocol: u8) -> u8 {
    if protocol == ipv6::ICMPV6 { ipv4::ICMP } else { protocol }
}

/// As [`protocol4`].
pub(super) const fn protocol6(protocol: u8) -> u8 {
    if protocol == ipv4::ICMP { ipv6::ICMPV6 } else { protocol }
}

/// A first packet of IPv6 as it leaves: as IPv4, with the decision's ends.
pub(super) fn leaving4(arrives: &Tuple6, decision: &Decision) -> Tuple4 {
    let ((src, src_port), (dst, dst_port)) = (decision.src, decision.dst);
    let icmp = arrives.icmp.map(|_| (icmpv4::ECHO_REQUEST, 0));
    let (protocol, has_ports) = (protocol4(arrives.protocol), arrives.has_ports);
    Tuple4 { src, dst, protocol, src_port, dst_port, has_ports, icmp, established: false }
}

/// A first packet of IPv4 as it leaves: as IPv6, with these ends.
pub(super) fn leaving6(arrives: &Tuple4, Ends6 { src, dst, ports: (src_port, dst_port) }: Ends6) -> Tuple6 {
    let (protocol, has_ports) = (protocol6(arrives.protocol), arrives.has_ports);
    Tuple6 { src, dst, protocol, src_port, dst_port, has_ports, icmp: None, established: false }
}

/// The prefix of NAT64 that an address has.
pub(super) fn embedding(address: u128, snapshot: &Snapshot) -> Option<Embedding> {
    snapshot.nat64.iter().map(|rule| rule.embedding).find(|embedding| embedding.covers(address))
}

/// The IPv4 address that a packet from inside is for. `None` if NAT64 has nothing to do with it.
pub(super) fn target(dst: u128, snapshot: &Snapshot) -> Option<Result<u32, DropReason>> {
    let embedding = embedding(dst, snapshot)?;
    let Some(address) = embedding.extract(dst).filter(|&address| embedding.may_hold(address)) else {
        return Some(Err(DropReason::Nat64Address));
    };
    // From an address that is fit: this is about the destination alone.
    const ANYBODY: u32 = 0x0101_0101;
    let is_local = snapshot.local4.contains_key(&Ipv4Addr::from_bits(address));
    match guard::check4((ANYBODY, address), [false, is_local], true, snapshot) {
        Verdict::Forward => Some(Ok(address)),
        _ => Some(Err(DropReason::Nat64Address)),
    }
}

/// Whether a packet from inside to an IPv4 address of our own goes out and comes in again.
pub(super) fn hairpins(dst: (u32, u16), protocol: u8, snapshot: &Snapshot) -> bool {
    let Some(&(outside, _)) = snapshot.local4.get(&Ipv4Addr::from_bits(dst.0)) else { return false };
    let is_forwarded = || snapshot.forwards.iter().any(|f| super::nat::forwards(f, outside, dst, protocol));
    if super::nat::static_inside(dst.0, snapshot).is_some() {
        return true;
    }
    matches!(protocol, ipv4::TCP | ipv4::UDP) && (hairpin::is_pooled(dst, snapshot) || is_forwarded())
}

/// Whether an IPv4 address is one of ours and has nobody behind it for packets of NAT64.
pub(super) fn is_ours(dst: (u32, u16), protocol: u8, snapshot: &Snapshot) -> bool {
    snapshot.local4.contains_key(&Ipv4Addr::from_bits(dst.0)) && !hairpins(dst, protocol, snapshot)
}

/// Finds the IPv4 destination of a first packet of IPv6.
pub(super) fn destination(burst: &mut Burst, i: usize, first: &mut FirstPackets, snapshot: &Snapshot) {
    if snapshot.nat64.is_empty() {
        return;
    }
    let headers = &burst.headers[i];
    let (src, dst) = addresses6(burst.bytes(i), headers);
    match target(dst, snapshot) {
        None => {}
        // Nobody has such an address; it would go in circles (RFC 6146 3.5).
        Some(_) if embedding(src, snapshot).is_some() => burst.drop(i, DropReason::SourceInvalid),
        Some(Err(reason)) => burst.reject(i, reason, Answer::NoRoute),
        Some(Ok(address)) => {
            let decision = &mut first.decisions[i];
            decision.src = (0, headers.src_port);
            decision.dst = (address, headers.dst_port);
            decision.cross = Cross::ToV4;
        }
    }
}

/// The rule by which packets from a host to an address of a prefix are translated when they leave by an interface.
pub(super) fn rule(snapshot: &Snapshot, (src, dst): (u128, u128), egress: u16) -> Option<&Nat64> {
    snapshot.nat64.iter().find(|rule| rule.out == egress && rule.embedding.covers(dst) && rule.is_from(src))
}

/// Binds the source of a first packet that leaves as IPv4.
pub(super) fn source(
    burst: &mut Burst,
    i: usize,
    first: &mut FirstPackets,
    shard: &mut Shard,
    snapshot: &Snapshot,
) {
    let headers = &burst.headers[i];
    let decision = &mut first.decisions[i];
    let ends = addresses6(burst.bytes(i), headers);
    let Some(rule) = rule(snapshot, ends, decision.egress) else {
        return burst.reject(i, DropReason::Nat64NoRule, Answer::NoRoute);
    };
    let Some(pool) = snapshot.pools.get(usize::from(rule.pool)) else { return };
    if let Some(reason) = untranslatable(headers) {
        return burst.drop(i, reason);
    }
    if pool.addresses.is_empty() {
        return burst.reject(i, DropReason::NatNoAddress, Answer::NoRoute);
    }
    let protocol = protocol4(headers.protocol);
    let bound = shard.nat.host(ends.0).and_then(|host| {
        let inside = (host, headers.src_port);
        let bound = shard.nat.bind(rule.pool, pool, inside, decision.dst, protocol);
        if bound.is_err() {
            shard.nat.forget_host(host);
        }
        bound
    });
    match bound {
        Ok(binding) => {
            decision.binding = binding;
            decision.src = shard.nat.get(binding).map_or(decision.src, |b| b.external);
        }
        Err(reason) => burst.reject(i, reason, super::nat::shortage(pool)),
    }
}

fn untranslatable(headers: &Headers) -> Option<DropReason> {
    match headers.protocol {
        ipv4::TCP if sessionless(headers) => Some(DropReason::TcpNoSession),
        ipv6::ICMPV6 if headers.flags.has(Flags::ICMP_ERROR) => Some(DropReason::IcmpNoSession),
        ipv6::ICMPV6 if sessionless(headers) => Some(DropReason::NatProtocol),
        ipv4::TCP | ipv4::UDP | ipv6::ICMPV6 => None,
        _ => Some(DropReason::NatProtocol),
    }
}

/// What an IPv4 packet from outside to a binding leaves with; `None` for a binding of IPv4. The prefix may not hold every
/// sender (RFC 6052 3.1).
pub(super) fn inbound(
    binding: u32,
    src: (u32, u16),
    nat: &Nat,
    snapshot: &Snapshot,
) -> Option<Result<Ends6, DropReason>> {
    let host = nat.inside6(binding)?;
    let mut rules = snapshot.nat64.iter();
    let rule = rules.find(|rule| rule.is_from(host.0) && nat.is_of(binding, rule.pool));
    let rule = rule.filter(|rule| rule.embedding.may_hold(src.0));
    Some(rule.ok_or(DropReason::Nat64Address).map(|rule| Ends6 {
        src: rule.embedding.embed(src.0),
        dst: host.0,
        ports: (src.1, host.1),
    }))
}

/// The pool from which a rule gives a binding to its host.
pub(super) fn pool_of(binding: u32, host: u128, nat: &Nat, snapshot: &Snapshot) -> Option<u16> {
    let gives = |rule: &&Nat64| rule.is_from(host) && nat.is_of(binding, rule.pool);
    snapshot.nat64.iter().find(gives).map(|rule| rule.pool)
}

/// The destination of a packet when it leaves, if that is in the other family.
pub(super) fn destination_of(action: &FlowAction, ends6: &Ends6) -> Option<IpAddr> {
    if action.is(FlowAction::TO_V4) {
        Some(action.new.destination().into())
    } else if action.is(FlowAction::TO_V6) {
        Some(Ipv6Addr::from_bits(ends6.dst).into())
    } else {
        None
    }
}

/// Whether a packet that is to leave in the other family can: what each packet is asked on its way out, while it is still
/// as it came. The MTU is that of the egress link.
pub(super) fn check(bytes: &[u8], headers: &Headers, action: &FlowAction, mtu: u16) -> Verdict {
    // Errors are made anew, as short as they have to be.
    if action.is(FlowAction::QUOTATION) {
        return Verdict::Forward;
    }
    let is_fragment = headers.flags.has(Flags::FRAGMENT);
    if is_fragment && matches!(headers.protocol, ipv4::ICMP | ipv6::ICMPV6) {
        return Verdict::Drop(DropReason::Nat64Fragment);
    }
    let payload = headers.end.saturating_sub(headers.l4_offset);
    if action.is(FlowAction::TO_V4) {
        if headers.flags.has(Flags::OPTIONS) && !options_may_go(bytes, headers) {
            return Verdict::Drop(DropReason::Nat64Extension);
        }
        let len = payload.saturating_add(20);
        if len > mtu && len > CUT_UP_TO && !has_fragment_header(bytes, headers) {
            let told = mtu.saturating_add(20).max(ipv6::MIN_MTU);
            return Verdict::Reject(DropReason::PacketTooBig, Answer::TooBig(told));
        }
        return Verdict::Forward;
    }
    if is_fragment && headers.flags.has(Flags::NO_CHECKSUM) {
        return Verdict::Drop(DropReason::Nat64Checksum);
    }
    let grows = if is_fragment { 28 } else { 20 };
    let len = payload.saturating_add(20 + grows);
    if len > mtu && headers.flags.has(Flags::DONT_FRAGMENT) {
        return Verdict::Reject(DropReason::PacketTooBig, Answer::TooBig(mtu.saturating_sub(grows)));
    }
    Verdict::Forward
}

/// Whether a packet has a fragment header, be it of a whole datagram.
fn has_fragment_header(bytes: &[u8], headers: &Headers) -> bool {
    headers.flags.has(Flags::OPTIONS) && fragment_header(bytes, headers).is_some()
}

/// The fragment header of an IPv6 packet, that of a whole datagram included (RFC 6946).
fn fragment_header(bytes: &[u8], headers: &Headers) -> Option<usize> {
    extensions(bytes, headers).find(|&(kind, _)| kind == ipv6::FRAGMENT).map(|(_, at)| at)
}

/// Whether the extension headers, which IPv4 has none of, may be left out: no routing header with segments left (RFC 7915
/// 5.1), and nothing that the addresses are authenticated by.
fn options_may_go(bytes: &[u8], headers: &Headers) -> bool {
    extensions(bytes, headers).all(|(kind, at)| match kind {
        ipv6::AH => false,
        ipv6::ROUTING => bytes.get(at + 3) == Some(&0),
        _ => true,
    })
}

/// The extension headers of a packet that has been parsed: the type of each, and its offset in the frame.
fn extensions<'a>(bytes: &'a [u8], headers: &Headers) -> impl Iterator<Item = (u8, usize)> + 'a {
    let l3 = usize::from(headers.l3_offset);
    let end = usize::from(headers.l4_offset);
    let mut kind = bytes.get(l3 + ipv6::NEXT_HEADER).copied().unwrap_or(ipv6::NO_NEXT_HEADER);
    let mut at = l3 + ipv6::LEN;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let this = (kind, at);
        let units = usize::from(*bytes.get(at + 1)?);
        kind = *bytes.get(at)?;
        at += match this.0 {
            ipv6::FRAGMENT => ipv6::fragment::LEN,
            ipv6::AH => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        Some(this)
    })
}

/// Bytes of a TCP header that must be quoted for its checksum to be.
const TCP_CHECKSUM_END: usize = tcp::CHECKSUM + 2;
