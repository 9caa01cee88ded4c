//! NAT: what a session's first packet has its addresses changed to. Destination before the route is chosen, source
//! after. IPv4 only. Later packets are changed by `rewrite`.
//!
//! Exits: drops of what cannot be translated.

use std::net::Ipv4Addr;

use sluice_pkt::ipv4;
use sluice_pkt::parse::{Flags, Headers, L3};

use super::{FirstPackets, addresses4, sessionless};
use crate::burst::Burst;
use crate::shard::Shard;
use crate::snapshot::{Forward, Snapshot, SourceNat};
use crate::verdict::{Answer, DropReason, Verdict};

/// Finds the port forward for each first packet.
pub fn destination(burst: &Burst, first: &mut FirstPackets, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let headers = &burst.headers[i];
        if headers.l3 != L3::Ipv4 {
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
        }
    }
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
    let inside =
        |from: &[(u32, u32)]| from.is_empty() || from.iter().any(|&(a, mask)| src & mask == a & mask);
    snapshot.source_nat.iter().find(|rule| rule.out == egress && inside(&rule.from))
}

/// Binds the source of each first packet that leaves by an interface with source NAT.
pub fn source(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    if snapshot.source_nat.is_empty() {
        return;
    }
    for i in first.open(burst) {
        let headers = &burst.headers[i];
        let decision = &mut first.decisions[i];
        if headers.l3 != L3::Ipv4 {
            continue;
        }
        let Some(rule) = rule(snapshot, decision.src.0, decision.egress) else { continue };
        let Some(pool) = snapshot.pools.get(usize::from(rule.pool)) else { continue };
        let bound = match untranslatable(headers) {
            Some(reason) => Err(reason),
            None => shard.nat.bind(rule.pool, pool, decision.src, headers.protocol),
        };
        match bound {
            Ok(binding) => {
                decision.binding = binding;
                decision.src = shard.nat.get(binding).map_or(decision.src, |b| b.external);
            }
            Err(reason) if is_shortage(reason) => {
                burst.decide(i, Verdict::Reject(reason, Answer::HostUnreachable));
            }
            Err(reason) => burst.drop(i, reason),
        }
    }
}

/// Of this the sender is told (RFC 6888 REQ-11).
fn is_shortage(reason: DropReason) -> bool {
    matches!(reason, DropReason::NatPortsExhausted | DropReason::NatPortLimit | DropReason::NatSessionLimit)
}

fn untranslatable(headers: &Headers) -> Option<DropReason> {
    match headers.protocol {
        ipv4::TCP if sessionless(headers) => Some(DropReason::TcpNoSession),
        ipv4::ICMP if headers.flags.has(Flags::ICMP_ERROR) => Some(DropReason::IcmpNoSession),
        ipv4::ICMP if sessionless(headers) => Some(DropReason::NatProtocol),
        ipv4::TCP | ipv4::UDP | ipv4::ICMP => None,
        _ => Some(DropReason::NatProtocol),
    }
}
