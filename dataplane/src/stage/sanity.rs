//! Sanity: packets that are refused at interfaces with protection. What hangs on the packet itself is looked at in each
//! ([`run`]); what hangs on its ends, which are those of all packets of its session, in the first one ([`first`]); and whether
//! an answer was asked for, where its session would be ([`unasked`]).
//!
//! The fast path needs none of it: TCP without ACK, and fragments, it leaves to the stages.
//!
//! Exits: drops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::parse::{Flags, Headers, L3};
use sluice_pkt::{ipv4, tcp};

use super::route::Place;
use super::{FirstPackets, acl, addresses6, fragment, lists};
use crate::burst::Burst;
use crate::shard::Shard;
use crate::snapshot::guard::{Guard, ReversePath, covers4, covers6, is_bogon};
use crate::snapshot::{Interface, Snapshot};
use crate::verdict::DropReason;

/// No link cuts datagrams smaller than this, bytes of payload: the path MTU of IPv4 is 576 bytes in practice, and that of
/// IPv6 1280.
const TINY: u16 = 256;

/// Looks at every packet that is new here.
pub fn run(burst: &mut Burst, snapshot: &Snapshot) {
    if snapshot.guards.is_empty() || snapshot.is_inner(burst.port) {
        return;
    }
    for i in burst.live {
        let Some((guard, _)) = of(burst.interfaces[i], snapshot) else { continue };
        let headers = &burst.headers[i];
        if guard.tcp_flags && has_bad_flags(headers) {
            burst.drop(i, DropReason::TcpFlags);
        } else if guard.tiny_fragments && is_tiny(burst.bytes(i), headers) {
            burst.drop(i, DropReason::FragmentTiny);
        }
    }
}

/// Looks at the ends of first packets.
pub fn first(burst: &mut Burst, first: &FirstPackets, snapshot: &Snapshot) {
    if snapshot.guards.is_empty() || snapshot.is_inner(burst.port) {
        return;
    }
    for i in first.open(burst) {
        let headers = &burst.headers[i];
        let [from, _] = &first.places[i];
        let ends = match headers.l3 {
            L3::Ipv4 => {
                let (src, dst) = first.ends4(i);
                [src, dst].map(|end| Ipv4Addr::from_bits(end).into())
            }
            _ => {
                let (src, dst) = addresses6(burst.bytes(i), headers);
                [src, dst].map(|end| Ipv6Addr::from_bits(end).into())
            }
        };
        let refused = refuses(ends, headers.protocol, headers.src_port, burst.interfaces[i], from, snapshot);
        if let Some(reason) = refused {
            burst.drop(i, reason);
        }
    }
}

/// Why a session between these ends, which the gateway would forward, may not come in by an interface. `from` is where the
/// source lies.
pub(super) fn refuses(
    [src, dst]: [IpAddr; 2],
    protocol: u8,
    src_port: u16,
    interface: u16,
    from: &Place,
    snapshot: &Snapshot,
) -> Option<DropReason> {
    let (guard, ours) = of(interface, snapshot)?;
    // These are the link's own, and go no further.
    if matches!(src, IpAddr::V6(src) if src.is_unicast_link_local()) {
        return None;
    }
    if guard.land && src == dst {
        return Some(DropReason::Land);
    }
    if guard.bogons && is_bogon(src) && !is_of_link(src, ours) {
        return Some(DropReason::Bogon);
    }
    let leads_back = match guard.reverse_path {
        ReversePath::Any => true,
        ReversePath::Loose => from.leads_back(None, snapshot),
        ReversePath::Strict => from.leads_back(Some(interface), snapshot),
    };
    if !leads_back {
        return Some(DropReason::ReversePath);
    }
    let has_ports = matches!(protocol, ipv4::TCP | ipv4::UDP);
    (guard.port_zero && has_ports && src_port == 0).then_some(DropReason::PortZero)
}

/// Looks at first packets where their session would be: those from a port of services that answer, if nobody has asked.
pub fn unasked(burst: &mut Burst, first: &FirstPackets, shard: &Shard, snapshot: &Snapshot) {
    if snapshot.guards.is_empty() || snapshot.is_inner(burst.port) {
        return;
    }
    for i in first.open(burst) {
        let headers = &burst.headers[i];
        if answers(headers.protocol, headers.src_port, burst.interfaces[i], snapshot)
            && !acl::is_established(burst, i, first, shard, snapshot)
        {
            burst.drop(i, DropReason::UnaskedAnswer);
        }
    }
}

/// Whether a packet from this port may come in by an interface only if somebody has asked for it.
pub(super) fn answers(protocol: u8, src_port: u16, interface: u16, snapshot: &Snapshot) -> bool {
    protocol == ipv4::UDP
        && of(interface, snapshot).is_some_and(|(guard, _)| guard.answers.binary_search(&src_port).is_ok())
}

fn of(interface: u16, snapshot: &Snapshot) -> Option<(&Guard, &Interface)> {
    let guard = lists::guard_of(interface, snapshot)?;
    Some((guard, snapshot.interfaces.get(usize::from(interface))?))
}

fn is_of_link(address: IpAddr, interface: &Interface) -> bool {
    match address {
        IpAddr::V4(address) => interface.v4.iter().any(|&(ours, length)| covers4(ours, length, address)),
        IpAddr::V6(address) => interface.v6.iter().any(|&(ours, length)| covers6(ours, length, address)),
    }
}

/// RFC 9293 3.10: SYN, FIN and RST exclude each other, and all but the first segment and resets acknowledge.
fn has_bad_flags(headers: &Headers) -> bool {
    const ONE_OF: u8 = tcp::SYN | tcp::FIN | tcp::RST;
    let flags = headers.tcp_flags;
    headers.protocol == ipv4::TCP
        && !headers.flags.has(Flags::LATER_FRAGMENT)
        && ((flags & ONE_OF).count_ones() > 1 || flags & (tcp::SYN | tcp::RST | tcp::ACK) == 0)
}

/// A fragment that is not the last and holds less than any link carries; or one of TCP that begins within the header
/// (RFC 3128). First fragments that hold no whole transport header are refused everywhere.
fn is_tiny(bytes: &[u8], headers: &Headers) -> bool {
    if !headers.flags.has(Flags::FRAGMENT) {
        return false;
    }
    let Some(piece) = fragment::piece(bytes, headers) else { return false };
    let within_header = (1..=2).contains(&piece.from) && headers.protocol == ipv4::TCP;
    within_header || !piece.last && piece.to - piece.from < TINY / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_no_tcp_sends() {
        let bad =
            |tcp_flags| has_bad_flags(&Headers { protocol: ipv4::TCP, tcp_flags, ..Headers::default() });
        let good =
            [tcp::SYN, tcp::SYN | tcp::ACK, tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST, tcp::RST | tcp::ACK];
        for flags in 0..64 {
            let core = flags & (tcp::SYN | tcp::FIN | tcp::RST | tcp::ACK);
            assert_eq!(bad(flags), !good.contains(&core), "{flags:#04x}");
        }
        assert!(!has_bad_flags(&Headers { protocol: ipv4::UDP, ..Headers::default() }));
    }
}
