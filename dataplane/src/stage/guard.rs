//! Guard: packets that no gateway may forward, and those that are for the gateway by their very nature. It looks at
//! first packets only, as an address that was fit for a session stays so.
//!
//! Exits: neighbour discovery and pings of "all nodes" to the gateway itself; drops.

use std::net::{Ipv4Addr, Ipv6Addr};

use sluice_pkt::parse::L3;
use sluice_pkt::{icmpv6, ipv6};

use super::{FirstPackets, addresses6, local6};
use crate::burst::Burst;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict};

/// Runs the stage.
pub fn run(burst: &mut Burst, first: &FirstPackets, snapshot: &Snapshot) {
    for i in first.open(burst) {
        let (bytes, headers, interface) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
        let verdict = match headers.l3 {
            L3::Ipv4 => {
                let are_local = first.places[i].map(|place| place.is_local4());
                check4(first.ends4(i), are_local, snapshot.is_inner(burst.port), snapshot)
            }
            _ => {
                let icmp = (headers.protocol == ipv6::ICMPV6).then_some(headers.icmp_type);
                check6(addresses6(bytes, headers), icmp, interface, snapshot)
            }
        };
        if verdict != Verdict::Forward {
            burst.decide(i, verdict);
        }
    }
}

/// RFC 1812 5.3.7, RFC 1122 3.2.1.3, RFC 3927 7, RFC 2644. `are_local` says of either address whether it is one of the
/// gateway's, and `is_ours` whether the gateway itself sends it.
pub(super) fn check4(
    (src, dst): (u32, u32),
    are_local: [bool; 2],
    is_ours: bool,
    snapshot: &Snapshot,
) -> Verdict {
    let (src, dst) = (Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst));
    let nowhere = |a: Ipv4Addr| a.octets()[0] == 0 || a.is_loopback();
    if dst.is_multicast() || dst.is_broadcast() || is_subnet_broadcast(dst, snapshot) {
        return Verdict::Drop(DropReason::Multicast);
    }
    if nowhere(src)
        || src.octets()[0] >= 224
        || is_subnet_broadcast(src, snapshot)
        || (!is_ours && are_local[0])
    {
        return Verdict::Drop(DropReason::SourceInvalid);
    }
    if nowhere(dst) || dst.octets()[0] >= 240 {
        return Verdict::Drop(DropReason::DestinationInvalid);
    }
    if !are_local[1] {
        if dst.is_link_local() {
            return Verdict::Drop(DropReason::DestinationInvalid);
        }
        if src.is_link_local() {
            return Verdict::Drop(DropReason::SourceInvalid);
        }
    }
    Verdict::Forward
}

fn is_subnet_broadcast(address: Ipv4Addr, snapshot: &Snapshot) -> bool {
    // The two lowest bits, at least, are those of the host.
    if address.to_bits() & 3 != 3 {
        return false;
    }
    let subnets = snapshot.interfaces.iter().flat_map(|i| &i.v4);
    subnets.filter(|&&(_, len)| len < 31).any(|&(ours, len)| {
        let host = u32::MAX.checked_shr(len.into()).unwrap_or(0);
        address.to_bits() == ours.to_bits() | host
    })
}

/// RFC 4291 2.5 and 2.7. Neighbour discovery passes whatever the ACL says (RFC 4890 4.4.1).
pub(super) fn check6(
    (src, dst): (u128, u128),
    icmp: Option<u8>,
    interface: u16,
    snapshot: &Snapshot,
) -> Verdict {
    let (from, to) = (Ipv6Addr::from_bits(src), Ipv6Addr::from_bits(dst));
    let ours = local6(snapshot, interface, dst);
    let discovery = icmp.is_some_and(|kind| (icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT).contains(&kind));
    if from.is_multicast() || from.is_loopback() || from.to_ipv4_mapped().is_some() {
        return Verdict::Drop(DropReason::SourceInvalid);
    }
    if discovery && (ours || to.is_multicast()) {
        return Verdict::Local;
    }
    let all_nodes = to == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    if to.is_multicast() && !(all_nodes && icmp == Some(icmpv6::ECHO_REQUEST)) {
        return Verdict::Drop(DropReason::Multicast);
    }
    if from.is_unspecified() || snapshot.local6.contains_key(&from) {
        return Verdict::Drop(DropReason::SourceInvalid);
    }
    if all_nodes {
        return Verdict::Local;
    }
    if ours {
        return Verdict::Forward;
    }
    if to.is_unspecified() || to.is_loopback() || to.is_unicast_link_local() || to.to_ipv4_mapped().is_some()
    {
        return Verdict::Drop(DropReason::DestinationInvalid);
    }
    if from.is_unicast_link_local() {
        return Verdict::Drop(DropReason::SourceInvalid);
    }
    Verdict::Forward
}
