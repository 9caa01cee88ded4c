//! ICMP errors: one about a packet of a live session goes where that session's packets go, its quotation translated as
//! the packet was (RFC 5508 4.2, RFC 1191). It never refreshes the session (RFC 5508 REQ-6).
//!
//! The quoted packet went the other way, so its tuple reversed is that of the flow which the error travels with. An error
//! that is not addressed to the quoted packet's source is about nothing that its receiver sent, and passes no ACL unasked.
//!
//! The error is translated when it leaves ([`translate`], called by `rewrite`): it may have to wait for a neighbour first,
//! and then comes this way again, as it came.
//!
//! Exits: errors about no session stay first packets; errors whose quotation is forged are dropped there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::checksum::{Delta, Sum};
use sluice_pkt::parse::{Flags, Headers, L3, Quoted, parse_quoted};
use sluice_pkt::{icmpv4, ipv4, ipv6, tcp, udp};

use super::{FirstPackets, acl, addresses4, addresses6, nat64, prefix, redecide, route};
use crate::burst::Burst;
use crate::session::{Ends6, Family, FlowAction, Limits, addresses, key4, key6, ports};
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict};

/// Runs the stage.
pub fn run(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    for i in first.open(burst) {
        if !burst.headers[i].flags.has(Flags::ICMP_ERROR) {
            continue;
        }
        let headers = burst.headers[i];
        let Some(quoted) = burst
            .bytes(i)
            .get(usize::from(headers.l4_offset) + icmpv4::LEN..usize::from(headers.end))
            .and_then(|quotation| parse_quoted(quotation, headers.l3))
        else {
            continue;
        };
        let found = match headers.l3 {
            L3::Ipv4 => find4(burst, i, &quoted, shard, snapshot),
            _ => find6(burst, i, &quoted, shard, snapshot),
        };
        let Some((action, ends6)) = found else { continue };
        burst.ends6[i] = ends6;
        // RFC 5508 REQ-3. Prefix translation leaves wrong ones wrong.
        if action.is(FlowAction::NAT)
            && !action.is(FlowAction::SOURCE6)
            && !action.is(FlowAction::DESTINATION6)
            && !checksum_is_right(burst, i)
        {
            burst.drop(i, DropReason::IcmpChecksum);
            continue;
        }
        first.end(i);
        if action.is(FlowAction::DENY | FlowAction::REJECT) {
            acl::count(shard, action.rule, burst.packet_len(i));
            burst.drop(i, DropReason::AclDeny);
            continue;
        }
        let crosses = FlowAction::TO_V4 | FlowAction::TO_V6;
        if action.flags & crosses != 0 && !nat64::rewrite::has_counterpart(burst.bytes(i), &headers) {
            burst.drop(i, DropReason::Nat64Icmp);
            continue;
        }
        let prefixed = action.flags & (FlowAction::SOURCE6 | FlowAction::DESTINATION6 | crosses);
        let flags = if action.is(FlowAction::NAT) { FlowAction::QUOTATION | prefixed } else { 0 };
        let dst = match headers.l3 {
            _ if action.flags & crosses != 0 => match nat64::destination_of(&action, &ends6) {
                Some(dst) => dst,
                None => continue,
            },
            L3::Ipv4 => IpAddr::V4(action.new.destination()),
            _ => IpAddr::V6(prefix::destination_of(&action, burst.bytes(i), &headers)),
        };
        match first.next_hop(dst, route::choice(burst, i, dst), snapshot, shard, burst.now) {
            Ok((_, next_hop)) => {
                burst.actions[i] = FlowAction { next_hop, flags, ..action }.limited(Limits::NONE);
            }
            Err(Verdict::Drop(reason) | Verdict::Reject(reason, _)) => burst.drop(i, reason),
            Err(verdict) => burst.decide(i, verdict),
        }
    }
}

/// Whether the message is what its sender wrote, as far as one piece of it tells.
fn checksum_is_right(burst: &Burst, i: usize) -> bool {
    let (bytes, headers) = (burst.bytes(i), &burst.headers[i]);
    let message = bytes.get(headers.l4_offset.into()..headers.end.into());
    let pseudo = match headers.l3 {
        L3::Ipv4 => Sum::default(),
        _ => {
            let len = headers.end.saturating_sub(headers.l4_offset);
            let ip = ipv6::Header::at(bytes, headers.l3_offset.into());
            ip.map_or_else(Sum::default, |ip| ip.pseudo_header(headers.protocol, len.into()))
        }
    };
    headers.flags.has(Flags::FRAGMENT)
        || message.is_none_or(|message| pseudo.add_bytes(message).fold() == 0xffff)
}

/// The action of the flow that an error travels with. It may come in by another interface than the session's packets, as
/// any router on the way may send it.
fn find4(
    burst: &Burst,
    i: usize,
    quoted: &Quoted,
    shard: &mut Shard,
    snapshot: &Snapshot,
) -> Option<(FlowAction, Ends6)> {
    let bytes = burst.bytes(i);
    let at = usize::from(burst.headers[i].l4_offset) + icmpv4::LEN;
    let ip = ipv4::Header::at(bytes, at)?;
    if !quoted.ip_checksum_ok || ip.source_bits() != addresses4(bytes, &burst.headers[i]).1 {
        return None;
    }
    let (src, dst) = (ip.destination_bits(), ip.source_bits());
    let ports = ports(quoted.dst_port, quoted.src_port);
    interfaces(burst.interfaces[i], Ipv4Addr::from_bits(src).into(), snapshot).find_map(|interface| {
        let key = key4(addresses(src, dst), ports, quoted.protocol, interface);
        let mut flow = shard.sessions.v4.find(&key)?;
        if shard.transition.is_some() && redecide::flow_anew(Family::V4, flow, shard, snapshot) {
            flow = shard.sessions.v4.find(&key)?;
        }
        let flow = shard.sessions.v4.value(flow)?;
        let crosses = flow.action.is(FlowAction::TO_V6);
        Some((flow.action, if crosses { shard.sessions.ends6(flow)? } else { Ends6::default() }))
    })
}

fn find6(
    burst: &Burst,
    i: usize,
    quoted: &Quoted,
    shard: &mut Shard,
    snapshot: &Snapshot,
) -> Option<(FlowAction, Ends6)> {
    let bytes = burst.bytes(i);
    let at = usize::from(burst.headers[i].l4_offset) + icmpv4::LEN;
    let ip = ipv6::Header::at(bytes, at)?;
    if ip.source().to_bits() != addresses6(bytes, &burst.headers[i]).1 {
        return None;
    }
    let (src, dst) = (ip.destination_bits(), ip.source_bits());
    let ports = ports(quoted.dst_port, quoted.src_port);
    interfaces(burst.interfaces[i], Ipv6Addr::from_bits(src).into(), snapshot).find_map(|interface| {
        let key = key6(src, dst, ports, quoted.protocol, interface);
        let mut flow = shard.sessions.v6.find(&key)?;
        if shard.transition.is_some() && redecide::flow_anew(Family::V6, flow, shard, snapshot) {
            flow = shard.sessions.v6.find(&key)?;
        }
        shard.sessions.v6.value(flow).map(|flow| (flow.action, Ends6::default()))
    })
}

/// Where the flow that an error travels with may come in: as the error did, or by the way to its source.
fn interfaces(this: u16, source: IpAddr, snapshot: &Snapshot) -> impl Iterator<Item = u16> {
    let usual = route::expected_interface(source, snapshot).filter(|&usual| usual != this);
    std::iter::once(this).chain(usual)
}

/// Translates an error: its addresses as a packet of the flow, and the quoted packet, which went the other way, back to
/// what its sender sent.
pub(super) fn translate(bytes: &mut [u8], headers: &Headers, action: &FlowAction) {
    let l4 = usize::from(headers.l4_offset);
    let at = l4 + icmpv4::LEN;
    let message = l4..usize::from(headers.end);
    let Some(quoted) = bytes.get(at..message.end).and_then(|bytes| parse_quoted(bytes, L3::Ipv4)) else {
        return;
    };
    let untranslated = bytes.get(message.clone()).map_or(0, |message| Sum::of(message).fold());
    // The quoted packet: its source is the flow's destination.
    let Some(mut ip) = ipv4::Header::at_mut(bytes, at) else { return };
    let before = (ip.source_bits(), ip.destination_bits());
    let (flow_src, flow_dst) = (action.new.source(), action.new.destination());
    ip.set_source(flow_dst);
    ip.set_destination(flow_src);
    let (flow_src, flow_dst) = (flow_src.to_bits(), flow_dst.to_bits());
    let addresses = Delta::of_u32(before.0, flow_dst) + Delta::of_u32(before.1, flow_src);
    let checksum = ip.checksum();
    ip.set_checksum(addresses.apply(checksum));
    if !quoted.flags.has(Flags::LATER_FRAGMENT) {
        let ports = (action.new.destination_port(), action.new.source_port());
        quoted_transport(bytes, at + usize::from(quoted.l4_offset), &quoted, ports, addresses);
    }
    // The error itself. Where the flow's source is translated, the error's is hidden behind it too, be it the host's own
    // or that of an inside router on the way (RFC 5508 REQ-5); an outside router's stays.
    let Some(mut ip) = ipv4::Header::at_mut(bytes, headers.l3_offset.into()) else { return };
    let (src, dst) = (ip.source_bits(), ip.destination_bits());
    let new_src = if before.1 == flow_src { src } else { flow_src };
    ip.set_source(new_src.into());
    ip.set_destination(flow_dst.into());
    let delta = Delta::of_u32(src, new_src) + Delta::of_u32(dst, flow_dst);
    let checksum = ip.checksum();
    ip.set_checksum(delta.apply(checksum));
    // The ICMP checksum covers the whole quotation. What was wrong stays wrong, and the message may be a first fragment.
    let translated = bytes.get(message).map_or(0, |message| Sum::of(message).fold());
    if let Some(mut icmp) = icmpv4::Header::at_mut(bytes, l4) {
        let checksum = icmp.checksum();
        icmp.set_checksum(Delta::of_u16(untranslated, translated).apply(checksum));
    }
}

fn quoted_transport(bytes: &mut [u8], at: usize, quoted: &Quoted, ports: (u16, u16), addresses: Delta) {
    let change = Delta::of_u16(quoted.src_port, ports.0) + Delta::of_u16(quoted.dst_port, ports.1);
    let mut put = |offset: usize, value: u16| {
        if let Some(field) = bytes.get_mut(at + offset..).and_then(|rest| rest.first_chunk_mut()) {
            *field = value.to_be_bytes();
        }
    };
    match quoted.protocol {
        ipv4::TCP | ipv4::UDP => {
            put(tcp::SOURCE_PORT, ports.0);
            put(tcp::DESTINATION_PORT, ports.1);
        }
        ipv4::ICMP => match icmpv4::query(quoted.icmp_type) {
            Some(icmpv4::Query::Request) => put(icmpv4::IDENTIFIER, ports.0),
            Some(icmpv4::Query::Reply(_)) => put(icmpv4::IDENTIFIER, ports.1),
            None => return,
        },
        ipv4::DCCP | ipv4::UDP_LITE => {}
        _ => return,
    }
    let field = match quoted.protocol {
        ipv4::TCP => tcp::CHECKSUM,
        ipv4::ICMP => icmpv4::CHECKSUM,
        _ => udp::CHECKSUM,
    };
    let is_known = matches!(quoted.protocol, ipv4::TCP | ipv4::UDP | ipv4::ICMP);
    if is_known && quoted.l4_checksum.is_none() {
        return;
    }
    if let Some(field) = bytes.get_mut(at + field..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        let old = u16::from_be_bytes(*field);
        let new = match quoted.protocol {
            ipv4::TCP | ipv4::DCCP => (addresses + change).apply(old),
            ipv4::UDP | ipv4::UDP_LITE => (addresses + change).apply_udp(old),
            _ => change.apply(old),
        };
        *field = new.to_be_bytes();
    }
}
