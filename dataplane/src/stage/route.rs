//! Route: where a packet goes. The choice is made at the first packet (`decide`); what can change under a flow, and what
//! depends on the packet itself, is looked at for every one (`run`): TTL, MTU, the neighbour's state.
//!
//! Exits: packets to the gateway itself; packets that wait for a neighbour; drops and rejections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::icmpv4;
use sluice_pkt::parse::{Flags, L3};

use super::choice::Choice;
use super::{FirstPackets, acl, addresses4, addresses6, hairpin, local6, nat64, prefix, tuple};
use crate::burst::{BURST, Burst, Mask};
use crate::clock::Nanos;
use crate::local::neighbor::Neighbors;
use crate::session::FlowAction;
use crate::shard::Shard;
use crate::snapshot::{LocalUse, NONE16, Route, Snapshot};
use crate::table::lpm::NO_MATCH;
use crate::verdict::{Answer, DropReason, Verdict};

/// Decides for each first packet: to the gateway itself, out by an interface to a next hop, or nowhere.
pub fn decide(burst: &mut Burst, first: &mut FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let (headers, interface) = (&burst.headers[i], burst.interfaces[i]);
        let decision = &first.decisions[i];
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
        let is_changed = crosses
            || decision.forwarded
            || decision.inbound
            || !matches!(decision.prefix, prefix::Change::None);
        let place = if is_changed { Place::of(dst, snapshot) } else { first.places[i][1] };
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
            IpAddr::V4(_) => {
                let ends = [decision.src, decision.dst];
                let leaves = || hairpin::way_out(ends, headers.protocol, interface, snapshot).is_some();
                place.local4.filter(|_| !leaves())
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
            None => match first.hop_to(dst, || choice(burst, i, dst), place, snapshot, shard, burst.now) {
                Ok((egress, next_hop)) => {
                    let decision = &mut first.decisions[i];
                    (decision.egress, decision.next_hop) = (egress, next_hop);
                    continue;
                }
                Err(verdict) => verdict,
            },
        };
        burst.decide(i, verdict);
    }
}

/// Finds out what rules see of these packets, and where their ends lie.
pub fn locate(burst: &Burst, mask: Mask, first: &mut FirstPackets, snapshot: &Snapshot) {
    let (mut ends4, mut ends6) = ([[[0; 4]; 2]; BURST], [[[0; 16]; 2]; BURST]);
    let (mut v4, mut v6, mut count4, mut count6) = (Mask::NONE, Mask::NONE, 0, 0);
    for i in mask {
        let (bytes, headers) = (burst.bytes(i), &burst.headers[i]);
        if headers.l3 == L3::Ipv4 {
            let tuple = tuple(addresses4(bytes, headers), bytes, headers);
            ends4[count4] = [tuple.src.to_be_bytes(), tuple.dst.to_be_bytes()];
            first.tuples4[i] = tuple;
            v4.add(i);
            count4 += 1;
        } else {
            let (src, dst) = addresses6(bytes, headers);
            ends6[count6] = [src.to_be_bytes(), dst.to_be_bytes()];
            v6.add(i);
            count6 += 1;
        }
    }
    let mut routes = [[0; 2]; BURST];
    let (ends4, ends6) = (&ends4[..count4], &ends6[..count6]);
    look_up_ends(ends4, &mut routes, |ends, routes| match &snapshot.fib {
        Some(fib) => fib.look_up_burst4(ends, routes),
        None => snapshot.routes4.lookup_burst(ends, routes),
    });
    for ((i, ends), routes) in v4.zip(ends4).zip(routes) {
        first.places[i] = [0, 1].map(|end| Place::of4(ends[end].into(), routes[end], snapshot));
    }
    look_up_ends(ends6, &mut routes, |ends, routes| match &snapshot.fib {
        Some(fib) => fib.look_up_burst6(ends, routes),
        None => snapshot.routes6.lookup_burst(ends, routes),
    });
    for ((i, ends), routes) in v6.zip(ends6).zip(routes) {
        first.places[i] = [0, 1].map(|end| Place::of6(ends[end].into(), routes[end], snapshot));
    }
}

fn look_up_ends<const N: usize>(
    ends: &[[[u8; N]; 2]],
    routes: &mut [[u32; 2]; BURST],
    look_up: impl Fn(&[[u8; N]], &mut [u32]),
) {
    let (ends, routes) = (ends.as_flattened(), routes.as_flattened_mut());
    for (ends, routes) in ends.chunks(BURST).zip(routes.chunks_mut(BURST)) {
        look_up(ends, routes);
    }
}

/// Where an address lies, whatever packet comes from it or goes to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The interface on whose link an IPv4 address of ours lies; behind which an IPv6 one of an outside prefix does.
    ours: Option<u16>,
    /// The use of an IPv4 address of ours.
    local4: Option<LocalUse>,
    /// Its route, [`NO_MATCH`] for none.
    route: u32,
}

impl Place {
    pub(super) const NOWHERE: Self = Self { ours: None, local4: None, route: NO_MATCH };

    pub(super) fn of(address: IpAddr, snapshot: &Snapshot) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let route = snapshot.look_up4(&v4.octets());
                Self::of4(v4, route.unwrap_or(NO_MATCH), snapshot)
            }
            IpAddr::V6(v6) => {
                let route = snapshot.look_up6(&v6.octets());
                Self::of6(v6, route.unwrap_or(NO_MATCH), snapshot)
            }
        }
    }

    #[inline]
    fn of4(address: Ipv4Addr, route: u32, snapshot: &Snapshot) -> Self {
        let local = snapshot.local4.get(&address);
        Self { ours: local.map(|&(at, _)| at), local4: local.map(|&(_, usage)| usage), route }
    }

    fn of6(address: Ipv6Addr, route: u32, snapshot: &Snapshot) -> Self {
        Self { ours: prefix::interface_of(address, snapshot), local4: None, route }
    }

    /// Whether it is an IPv4 address of ours.
    pub(super) fn is_local4(&self) -> bool {
        self.local4.is_some()
    }

    /// The interface by which packets from there are expected, as it is the way to it; the first of several.
    pub(super) fn interface(&self, snapshot: &Snapshot) -> Option<u16> {
        let route = match snapshot.way(self.route).map(|way| way.route) {
            Some(Route::Several { first, .. }) => snapshot.way(first).map(|way| way.route),
            route => route,
        };
        self.ours.or_else(|| match route? {
            Route::Connected { interface }
            | Route::Via4 { interface, .. }
            | Route::Via6 { interface, .. } => Some(interface),
            Route::Blackhole | Route::Unreachable | Route::Prohibited | Route::Several { .. } => None,
        })
    }

    /// As [`interface`](Self::interface), if it is the way of all packets to there.
    pub(super) fn sole_interface(&self, snapshot: &Snapshot) -> Option<u16> {
        let is_one = !matches!(snapshot.way(self.route)?.route, Route::Several { .. });
        self.interface(snapshot).filter(|_| is_one)
    }

    /// The route, if whatever goes by it has the same next hop.
    #[inline]
    fn gateway_route(&self, snapshot: &Snapshot) -> Option<u32> {
        let route = snapshot.way(self.route)?.route;
        let is_one = matches!(route, Route::Via4 { .. } | Route::Via6 { .. });
        (is_one && self.ours.is_none()).then_some(self.route)
    }

    /// Whether a route leads there: out by this interface, if one is named, be it one of several.
    pub(super) fn leads_back(&self, interface: Option<u16>, snapshot: &Snapshot) -> bool {
        let leads = |route: &Route| match *route {
            Route::Connected { interface: egress }
            | Route::Via4 { interface: egress, .. }
            | Route::Via6 { interface: egress, .. } => interface.is_none_or(|interface| interface == egress),
            Route::Blackhole | Route::Unreachable | Route::Prohibited | Route::Several { .. } => false,
        };
        match snapshot.way(self.route).map(|way| way.route) {
            Some(Route::Several { first, count }) => (first..)
                .take(count.into())
                .filter_map(|index| snapshot.way(index))
                .any(|way| leads(&way.route)),
            Some(route) => leads(&route),
            None => false,
        }
    }

    /// Egress interface and address of the next hop to the address, which is `dst`, or the verdict on packets that go there.
    /// The next hop to an address of our own, where it is not for the gateway itself, are we.
    fn way(
        &self,
        dst: IpAddr,
        choice: Choice,
        snapshot: &Snapshot,
    ) -> Result<(u16, Option<IpAddr>), Verdict> {
        const NO_ROUTE: Verdict = Verdict::Reject(DropReason::NoRoute, Answer::NoRoute);
        if let Some(outside) = self.ours {
            return Ok((outside, None));
        }
        match choice.resolve(self.route, dst, snapshot).ok_or(NO_ROUTE)? {
            Route::Connected { interface } => Ok((interface, Some(dst))),
            Route::Via4 { interface, gateway } => Ok((interface, Some(gateway.into()))),
            Route::Via6 { interface, gateway } => Ok((interface, Some(gateway.into()))),
            Route::Blackhole => Err(Verdict::Drop(DropReason::Blackhole)),
            Route::Unreachable => Err(Verdict::Reject(DropReason::NoRoute, Answer::HostUnreachable)),
            Route::Prohibited => Err(Verdict::Reject(DropReason::NoRoute, Answer::Prohibited)),
            Route::Several { .. } => Err(NO_ROUTE),
        }
    }
}

/// Looks a destination up: egress interface and index of the next hop, or the verdict on packets that go there.
pub(super) fn next_hop(
    dst: IpAddr,
    choice: Choice,
    snapshot: &Snapshot,
    neighbors: &mut Neighbors,
    now: Nanos,
) -> Result<(u16, u16), Verdict> {
    let (egress, neighbor) = way(dst, choice, snapshot)?;
    let next_hop = neighbor_at((egress, neighbor), dst.is_ipv4(), snapshot, neighbors, now)?;
    Ok((egress, next_hop))
}

/// The index of a neighbour, or of ourselves, on an interface's link.
fn neighbor_at(
    (egress, neighbor): (u16, Option<IpAddr>),
    is_ipv4: bool,
    snapshot: &Snapshot,
    neighbors: &mut Neighbors,
    now: Nanos,
) -> Result<u16, Verdict> {
    let next_hop = match neighbor {
        Some(neighbor) => neighbors.resolve(snapshot, egress, neighbor, now),
        None => neighbors.ourselves(snapshot, egress, is_ipv4, now),
    };
    next_hop.map_err(|reason| match reason {
        DropReason::NeighborUnreachable => Verdict::Reject(reason, Answer::HostUnreachable),
        _ => Verdict::Drop(reason),
    })
}

/// A neighbour that was found for one packet of a burst, and so is for others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    way: (u16, IpAddr),
    /// The route by which all go there.
    by_gateway: Option<u32>,
    next_hop: u16,
    /// As long as indices mean the same.
    epoch: u32,
}

impl FirstPackets {
    /// As [`next_hop`], but whoever asks for another worker does not ask for neighbours: that one will.
    pub(super) fn next_hop(
        &mut self,
        dst: IpAddr,
        choice: Choice,
        snapshot: &Snapshot,
        shard: &mut Shard,
        now: Nanos,
    ) -> Result<(u16, u16), Verdict> {
        self.hop_to(dst, || choice, Place::of(dst, snapshot), snapshot, shard, now)
    }

    /// As [`next_hop`](Self::next_hop), to a destination of which it is known where it lies.
    fn hop_to(
        &mut self,
        dst: IpAddr,
        choice: impl FnOnce() -> Choice,
        place: Place,
        snapshot: &Snapshot,
        shard: &mut Shard,
        now: Nanos,
    ) -> Result<(u16, u16), Verdict> {
        let neighbors = &mut shard.neighbors;
        let by_gateway = place.gateway_route(snapshot);
        if let Some(last) = self.last_hop.filter(|_| by_gateway.is_some()) {
            if last.by_gateway == by_gateway && last.epoch == neighbors.epoch() {
                return Ok((last.way.0, last.next_hop));
            }
        }
        let (egress, neighbor) = place.way(dst, choice(), snapshot)?;
        if self.asked {
            if neighbor.is_some_and(|neighbor| Neighbors::is_broadcast(snapshot, egress, neighbor)) {
                return Err(Verdict::Drop(DropReason::Multicast));
            }
            return Ok((egress, NONE16));
        }
        let epoch = neighbors.epoch();
        if let (Some(last), Some(neighbor)) = (self.last_hop, neighbor) {
            if last.way == (egress, neighbor) && last.epoch == epoch {
                return Ok((egress, last.next_hop));
            }
        }
        let next_hop = neighbor_at((egress, neighbor), dst.is_ipv4(), snapshot, neighbors, now)?;
        let epoch = neighbors.epoch();
        self.last_hop =
            neighbor.map(|neighbor| Found { way: (egress, neighbor), by_gateway, next_hop, epoch });
        Ok((egress, next_hop))
    }
}

/// Egress interface and address of the next hop to a destination, or the verdict on packets that go there: see [`Place::way`].
pub(super) fn way(
    dst: IpAddr,
    choice: Choice,
    snapshot: &Snapshot,
) -> Result<(u16, Option<IpAddr>), Verdict> {
    Place::of(dst, snapshot).way(dst, choice, snapshot)
}

/// What a packet's flow, which leads to `dst`, chooses among several ways by.
pub(super) fn choice(burst: &Burst, i: usize, dst: IpAddr) -> Choice {
    let (bytes, headers) = (burst.bytes(i), &burst.headers[i]);
    let src = match headers.l3 {
        L3::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits(addresses4(bytes, headers).0)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(addresses6(bytes, headers).0)),
    };
    Choice::of(src, dst, (headers.src_port, headers.dst_port), headers.protocol)
}

/// The interface by which packets from this address are expected, as it is the way to it.
pub(super) fn expected_interface(source: IpAddr, snapshot: &Snapshot) -> Option<u16> {
    Place::of(source, snapshot).interface(snapshot)
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
