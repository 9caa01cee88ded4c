//! The transport part of the pass.

use super::{Flags, Headers, L3, ParseError};
use crate::{icmpv4, icmpv6, ipv4, ipv6, tcp, udp};

/// Parses what stands at `l4_offset`, unless it is a later fragment.
#[inline]
pub(super) fn parse(head: &[u8], headers: &mut Headers) -> Result<(), ParseError> {
    if headers.flags.has(Flags::LATER_FRAGMENT) {
        return Ok(());
    }
    let l4 = usize::from(headers.l4_offset);
    let end = usize::from(headers.end);
    let packet = &head[..head.len().min(end)];
    match headers.protocol {
        ipv4::TCP => {
            let tcp = tcp::Header::at(packet, l4).ok_or(ParseError::TcpTruncated)?;
            if tcp.header_len() < tcp::LEN || l4 + tcp.header_len() > packet.len() {
                return Err(ParseError::TcpOffset);
            }
            headers.src_port = tcp.source_port();
            headers.dst_port = tcp.destination_port();
            headers.tcp_flags = tcp.flags();
            headers.flags.set(Flags::PORTS);
        }
        ipv4::UDP => {
            let udp = udp::Header::at(packet, l4).ok_or(ParseError::UdpTruncated)?;
            let len = usize::from(udp.datagram_len());
            let whole = !headers.flags.has(Flags::FRAGMENT);
            if len < udp::LEN || whole && len > end - l4 {
                return Err(ParseError::UdpLength);
            }
            headers.src_port = udp.source_port();
            headers.dst_port = udp.destination_port();
            headers.flags.set(Flags::PORTS);
            if headers.l3 == L3::Ipv4 && udp.checksum() == udp::NO_CHECKSUM {
                headers.flags.set(Flags::NO_CHECKSUM);
            }
        }
        ipv4::ICMP | ipv6::ICMPV6 if is_icmp(headers.l3, headers.protocol) => {
            let icmp = icmpv4::Header::at(packet, l4).ok_or(ParseError::IcmpTruncated)?;
            headers.icmp_type = icmp.icmp_type();
            let facts = icmp_facts(headers.l3, icmp.icmp_type(), icmp.identifier());
            headers.flags.set(facts.flags);
            headers.src_port = facts.src_port;
            headers.dst_port = facts.dst_port;
        }
        _ => {}
    }
    Ok(())
}

/// Whether `protocol` is the ICMP of that network protocol.
#[inline]
pub(super) fn is_icmp(l3: L3, protocol: u8) -> bool {
    matches!((l3, protocol), (L3::Ipv4, ipv4::ICMP) | (L3::Ipv6, ipv6::ICMPV6))
}

/// What an ICMP type means to a forwarder.
#[derive(Clone, Copy, Default)]
pub(super) struct IcmpFacts {
    pub(super) flags: Flags,
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
}

/// What a message of the type means, of which `identifier` is the fifth and sixth byte.
#[inline]
pub(super) fn icmp_facts(l3: L3, icmp_type: u8, identifier: u16) -> IcmpFacts {
    let (request, reply, error) = match l3 {
        L3::Ipv6 => (icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY, icmpv6::is_error(icmp_type)),
        _ => (icmpv4::ECHO_REQUEST, icmpv4::ECHO_REPLY, icmpv4::is_error(icmp_type)),
    };
    if icmp_type == request {
        IcmpFacts { flags: Flags::PORTS, src_port: identifier, dst_port: 0 }
    } else if icmp_type == reply {
        IcmpFacts { flags: Flags::PORTS, src_port: 0, dst_port: identifier }
    } else if error {
        IcmpFacts { flags: Flags::ICMP_ERROR, ..IcmpFacts::default() }
    } else {
        IcmpFacts::default()
    }
}
