//! Route: where a packet goes. The choice is made at the first packet (`decide`); what can change under a flow, and what
//! depends on the packet itself, is looked at for every one (`run`): TTL, MTU, the neighbour's state.
//!
//! Exits: packets to the gateway itself; packets that wait for a neighbour; drops and rejections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::icmpv4;
use sluice_pkt::parse::{Flags, L3};

use super::{FirstPackets, acl, addresses6, hairpin, local6, nat64, prefix};
use crate::burst::Burst;
use crate::clock::Nanos;
use crate::local::neighbor::Neighbors;
use crate::session::FlowAction;
use crate::shard::Shard;
use crate::snapshot::{LocalUse, NONE16, Route, Snapshot};
use crate::verdict::{Answer, DropReason, Verdict};

/// Decides for each first packet: to the gateway itself, out by an interface to a next hop, or nowhere.
pub fn decide(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let (headers, interface) = (&burst.headers[i], burst.interfaces[i]);
        let decision = first.decisions[i];
        let crosses = decision.cross != nat64::Cross::No;
        let dst = match headers.l3 {
            L3::Ipv4 => match decision.cross {
                nat64::Cross::ToV6 => IpAddr::V6(Ipv6Addr::from_bits(burst.ends6[i].dst)),
                _ => IpAddr::V4(Ipv4Addr::from_bits(decision.dst.0)),
            },
            _ if crosses => IpAddr::V4(Ipv4Addr::from_bits(decision.dst.0)),
            _ => {
                let ends = decision.prefix.apply(addresses6(burst.bytes(i), headers));
                IpAddr::V6(Ipv6Addr::from_bits(ends.1))
            }
        };
        let local = match dst {
            _ if crosses && headers.l3 == L3::Ipv4 => None,
            IpAddr::V4(dst) if crosses => {
                if nat64::is_ours((dst.to_bits(), decision.dst.1), headers.protocol, snapshot) {
                    burst.reject(i, DropReason::NatNoSession, Answer::NoRoute);
                    continue;
                }
                None
            }
            IpAddr::V4(_) if decision.forwarded || decision.inbound => None,
            IpAddr::V4(dst) => {
                let ends = [decision.src, decision.dst];
                let leaves = || hairpin::way_out(ends, headers.protocol, interface, snapshot).is_some();
                snapshot.local4.get(&dst).filter(|_| !leaves()).map(|&(_, usage)| usage)
            }
            IpAddr::V6(dst) => local6(snapshot, interface, dst.to_bits()).then_some(LocalUse::Interface),
        };
        let verdict = match local {
            Some(LocalUse::Nat) if headers.icmp_type != icmpv4::ECHO_REQUEST => {
                Verdict::Drop(DropReason::NatNoSession)
            }
            Some(_) => {
                acl::count(shard, decision.rule, burst.packet_len(i));
                Verdict::Local
            }
            None if headers.ttl <= 1 => Verdict::Reject(DropReason::TtlExpired, Answer::TimeExceeded),
            None => match first.next_hop(dst, snapshot, &mut shard.neighbors, burst.now) {
                Ok((egress, next_hop)) => {
                    first.decisions[i].egress = egress;
                    first.decisions[i].next_hop = next_hop;
                    continue;
                }
                Err(verdict) => verdict,
            },
        };
        burst.decide(i, verdict);
    }
}

/// Looks a destination up: egress interface and index of the next hop, or the verdict on packets that go there.
pub(super) fn next_hop(
    dst: IpAddr,
    snapshot: &Snapshot,
    neighbors: &mut Neighbors,
    now: Nanos,
) -> Result<(u16, u16), Verdict> {
    let (egress, neighbor) = way(dst, snapshot)?;
    let next_hop = match neighbor {
        Some(neighbor) => neighbors.resolve(snapshot, egress, neighbor, now),
        None => neighbors.ourselves(snapshot, egress, dst.is_ipv4(), now),
    };
    let next_hop = next_hop.map_err(|reason| match reason {
        DropReason::NeighborUnreachable => Verdict::Reject(reason, Answer::HostUnreachable),
        _ => Verdict::Drop(reason),
    })?;
    Ok((egress, next_hop))
}

impl FirstPackets {
    /// As [`next_hop`], but whoever asks for another worker does not ask for neighbours: that one will.
    pub(super) fn next_hop(
        &self,
        dst: IpAddr,
        snapshot: &Snapshot,
        neighbors: &mut Neighbors,
        now: Nanos,
    ) -> Result<(u16, u16), Verdict> {
        if !self.asked {
            return next_hop(dst, snapshot, neighbors, now);
        }
        let (egress, neighbor) = way(dst, snapshot)?;
        if neighbor.is_some_and(|neighbor| Neighbors::is_broadcast(snapshot, egress, neighbor)) {
            return Err(Verdict::Drop(DropReason::Multicast));
        }
        Ok((egress, NONE16))
    }
}

/// Egress interface and address of the next hop to a destination, or the verdict on packets that go there. The next hop to
/// an address of our own, where it is not for the gateway itself, are we.
pub(super) fn way(dst: IpAddr, snapshot: &Snapshot) -> Result<(u16, Option<IpAddr>), Verdict> {
    const NO_ROUTE: Verdict = Verdict::Reject(DropReason::NoRoute, Answer::NoRoute);
    if let Some(outside) = ours(dst, snapshot) {
        return Ok((outside, None));
    }
    match *look_up(dst, snapshot).ok_or(NO_ROUTE)? {
        Route::Connected { interface } => Ok((interface, Some(dst))),
        Route::Via4 { interface, gateway } => Ok((interface, Some(gateway.into()))),
        Route::Via6 { interface, gateway } => Ok((interface, Some(gateway.into()))),
        Route::Blackhole => Err(Verdict::Drop(DropReason::Blackhole)),
        Route::Unreachable => Err(Verdict::Reject(DropReason::NoRoute, Answer::HostUnreachable)),
    }
}

/// The interface on whose link an IPv4 address of ours lies; behind which an IPv6 one of an outside prefix does.
fn ours(address: IpAddr, snapshot: &Snapshot) -> Option<u16> {
    match address {
        IpAddr::V4(address) => snapshot.local4.get(&address).map(|&(interface, _)| interface),
        IpAddr::V6(address) => prefix::interface_of(address, snapshot),
    }
}

/// The interface by which packets from this address are expected, as it is the way to it.
pub(super) fn expected_interface(source: IpAddr, snapshot: &Snapshot) -> Option<u16> {
    if let Some(outside) = ours(source, snapshot) {
        return Some(outside);
    }
    match *look_up(source, snapshot)? {
        Route::Connected { interface } | Route::Via4 { interface, .. } | Route::Via6 { interface, .. } => {
            Some(interface)
        }
        Route::Blackhole | Route::Unreachable => None,
    }
}

fn look_up(dst: IpAddr, snapshot: &Snapshot) -> Option<&Route> {
    let route = match dst {
        IpAddr::V4(dst) => snapshot.routes4.lookup(&dst.octets()),
        IpAddr::V6(dst) => snapshot.routes6.lookup(&dst.octets()),
    };
    snapshot.routes.get(route? as usize)
}

/// Checks every packet on its way out, while it is still as it came.
pub fn run(burst: &mut Burst, shard: &mut Shard) {
    for i in burst.live {
        let action = &burst.actions[i];
        let headers = &burst.headers[i];
        if action.is(FlowAction::DENY | FlowAction::REJECT) {
            acl::count(shard, action.rule, burst.packet_len(i));
            let reject = action.is(FlowAction::REJECT);
            burst.decide(
                i,
                acl::verdict(if reject {
                    crate::snapshot::AclAction::Reject
                } else {
                    crate::snapshot::AclAction::Drop
                }),
            );
            continue;
        }
        if headers.ttl <= 1 {
            burst.reject(i, DropReason::TtlExpired, Answer::TimeExceeded);
            continue;
        }
        let hop = shard.neighbors.hop(action.next_hop);
        if action.is(FlowAction::TO_V4) || action.is(FlowAction::TO_V6) {
            let verdict = nat64::check(burst.bytes(i), headers, action, hop.egress.mtu);
            if verdict != Verdict::Forward {
                burst.decide(i, verdict);
            } else if !hop.resolved {
                let next_hop = action.next_hop;
                burst.decide(i, Verdict::Hold(next_hop.into()));
            }
            continue;
        }
        if headers.end - headers.l3_offset > hop.egress.mtu && headers.flags.has(Flags::DONT_FRAGMENT) {
            let mtu = hop.egress.mtu;
            burst.reject(i, DropReason::PacketTooBig, Answer::TooBig(mtu));
        } else if !hop.resolved {
            let next_hop = action.next_hop;
            burst.decide(i, Verdict::Hold(next_hop.into()));
        }
    }
}
