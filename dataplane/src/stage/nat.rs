//! NAT: what a session's first packet has its addresses changed to. Destination before the route is chosen, source
//! after. IPv4; what IPv6 has is in [`super::prefix`]. Later packets are changed by `rewrite`.
//!
//! Exits: drops of what cannot be translated.

use std::net::Ipv4Addr;

use sluice_pkt::ipv4;
use sluice_pkt::parse::{Flags, Headers, L3};
use sluice_pkt::tcp::{ACK, FIN, RST, SYN};

use super::{FirstPackets, addresses4, hairpin, nat64, prefix, sessionless};
use crate::burst::Burst;
use crate::nat::{Binding, Nat};
use crate::shard::Shard;
use crate::snapshot::{Forward, Snapshot, SourceNat};
use crate::verdict::{Answer, DropReason, Verdict};

/// Finds the port forward for each first packet, or the binding of source NAT that it is for.
pub fn destination(burst: &mut Burst, first: &mut FirstPackets, shard: &Shard, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let headers = &burst.headers[i];
        if headers.l3 != L3::Ipv4 {
            prefix::destination(burst, i, first, snapshot);
            nat64::destination(burst, i, first, snapshot);
            continue;
        }
        let (src, dst) = addresses4(burst.bytes(i), headers);
        let decision = &mut first.decisions[i];
        decision.src = (src, headers.src_port);
        decision.dst = (dst, headers.dst_port);
        let interface = burst.interfaces[i];
        let dst = decision.dst;
        let mut all = snapshot.forwards.iter();
        if let Some(forward) = all.find(|f| forwards(f, interface, dst, headers.protocol)) {
            decision.dst = forwarded(forward, dst.1);
            decision.forwarded = true;
            continue;
        }
        let ends = [decision.src, dst];
        if !snapshot.local4.contains_key(&Ipv4Addr::from_bits(dst.0)) {
            continue;
        }
        if let Some(binding) = admitted(ends, &burst.headers[i], interface, &shard.nat, snapshot) {
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
    (nat.admits(binding, src.0) && is_given_out(binding, nat, snapshot)).then_some(binding)
}

/// Whether a rule still gives a binding to its inside endpoint. After a reload there may be others, which are about to end.
pub(super) fn is_given_out(binding: u32, nat: &Nat, snapshot: &Snapshot) -> bool {
    let Some(&Binding { inside, .. }) = nat.get(binding) else { return false };
    if let Some((host, _)) = nat.inside6(binding) {
        return nat64::is_given_out(binding, host, nat, snapshot);
    }
    snapshot.source_nat.iter().any(|rule| is_from(rule, inside.0) && nat.is_of(binding, rule.pool))
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

/// The rule by which packets from this address are translated when they leave by this interface.
pub(super) fn rule(snapshot: &Snapshot, src: u32, egress: u16) -> Option<&SourceNat> {
    snapshot.source_nat.iter().find(|rule| rule.out == egress && is_from(rule, src))
}

fn is_from(rule: &SourceNat, src: u32) -> bool {
    rule.from.is_empty() || rule.from.iter().any(|&(a, mask)| src & mask == a & mask)
}

/// Binds the source of each first packet that leaves by an interface with source NAT.
pub fn source(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    if snapshot.source_nat.is_empty() && snapshot.prefixes.is_empty() && snapshot.nat64.is_empty() {
        return;
    }
    for i in first.open(burst) {
        let headers = &burst.headers[i];
        if headers.l3 != L3::Ipv4 {
            match first.decisions[i].cross {
                nat64::Cross::ToV4 => nat64::source(burst, i, first, shard, snapshot),
                _ => prefix::source(burst, i, first, snapshot),
            }
            continue;
        }
        let decision = &mut first.decisions[i];
        // A session has one binding.
        if decision.inbound {
            continue;
        }
        let Some(rule) = rule(snapshot, decision.src.0, decision.egress) else { continue };
        let Some(pool) = snapshot.pools.get(usize::from(rule.pool)) else { continue };
        let bound = match untranslatable(headers) {
            Some(reason) => Err(reason),
            None => shard.nat.bind(rule.pool, pool, decision.src, decision.dst, headers.protocol),
        };
        match bound {
            Ok(binding) => {
                decision.binding = binding;
                decision.src = shard.nat.get(binding).map_or(decision.src, |b| b.external);
            }
            // RFC 5508 REQ-8.
            Err(reason @ (DropReason::NatPortsExhausted | DropReason::SessionTableFull)) => {
                burst.reject(i, reason, Answer::Prohibited);
            }
            Err(reason) => burst.drop(i, reason),
        }
    }
}

/// Whether NAT can tell sessions of this protocol apart.
pub(super) fn is_translatable(protocol: u8) -> bool {
    matches!(protocol, ipv4::TCP | ipv4::UDP | ipv4::ICMP)
}

fn untranslatable(headers: &Headers) -> Option<DropReason> {
    match headers.protocol {
        ipv4::TCP if sessionless(headers) => Some(DropReason::TcpNoSession),
        ipv4::ICMP if headers.flags.has(Flags::ICMP_ERROR) => Some(DropReason::IcmpNoSession),
        ipv4::ICMP if sessionless(headers) => Some(DropReason::NatProtocol),
        protocol if is_translatable(protocol) => None,
        _ => Some(DropReason::NatProtocol),
    }
}
