//! The transport part of the pass.

use super::network::Ip;
use super::{Flags, L3, ParseError};
use crate::icmpv4::{self, Query};
use crate::{icmpv6, ipv4, ipv6, tcp, udp};

/// What the transport header says; the fields mean what they do in [`Headers`](super::Headers).
#[derive(Clone, Copy, Default)]
pub(super) struct Transport {
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    pub(super) tcp_flags: u8,
    pub(super) icmp_type: u8,
    pub(super) flags: Flags,
}

/// Parses what stands behind the network header, unless it is a later fragment.
#[inline(always)]
pub(super) fn parse(head: &[u8], l3: L3, ip: &Ip) -> Result<Transport, ParseError> {
    if ip.flags.has(Flags::LATER_FRAGMENT) {
        return Ok(Transport::default());
    }
    let l4 = usize::from(ip.l4_offset);
    let end = usize::from(ip.end);
    let packet = &head[..head.len().min(end)];
    match ip.protocol {
        ipv4::TCP => {
            let tcp = tcp::Header::at(packet, l4).ok_or(ParseError::TcpTruncated)?;
            if tcp.header_len() < tcp::LEN || l4 + tcp.header_len() > packet.len() {
                return Err(ParseError::TcpOffset);
            }
            Ok(Transport {
                src_port: tcp.source_port(),
                dst_port: tcp.destination_port(),
                tcp_flags: tcp.flags(),
                icmp_type: 0,
                flags: Flags::PORTS,
            })
        }
        ipv4::UDP => {
            let udp = udp::Header::at(packet, l4).ok_or(ParseError::UdpTruncated)?;
            let len = usize::from(udp.datagram_len());
            let whole = !ip.flags.has(Flags::FRAGMENT);
            if len < udp::LEN || whole && len > end - l4 {
                return Err(ParseError::UdpLength);
            }
            let mut flags = Flags::PORTS;
            if l3 == L3::Ipv4 && udp.checksum() == udp::NO_CHECKSUM {
                flags.set(Flags::NO_CHECKSUM);
            }
            let (src_port, dst_port) = (udp.source_port(), udp.destination_port());
            Ok(Transport { src_port, dst_port, flags, ..Transport::default() })
        }
        protocol if is_icmp(l3, protocol) => {
            let icmp = icmpv4::Header::at(packet, l4).ok_or(ParseError::IcmpTruncated)?;
            Ok(icmp_facts(l3, icmp.icmp_type(), icmp.identifier()))
        }
        _ => Ok(Transport::default()),
    }
}

/// Whether `protocol` is the ICMP of that network protocol.
#[inline]
pub(super) fn is_icmp(l3: L3, protocol: u8) -> bool {
    matches!((l3, protocol), (L3::Ipv4, ipv4::ICMP) | (L3::Ipv6, ipv6::ICMPV6))
}

/// What a message of the type means, of which `identifier` is the fifth and sixth byte.
#[inline]
pub(super) fn icmp_facts(l3: L3, icmp_type: u8, identifier: u16) -> Transport {
    let (query, error) = match l3 {
        L3::Ipv6 => (icmpv6_query(icmp_type), icmpv6::is_error(icmp_type)),
        _ => (icmpv4::query(icmp_type), icmpv4::is_error(icmp_type)),
    };
    let none = Transport { icmp_type, ..Transport::default() };
    // ICMPv6 has the echo alone.
    let asked = |request| if l3 == L3::Ipv6 { 0 } else { icmpv4::asked_port(request) };
    match query {
        Some(Query::Request) => {
            Transport { flags: Flags::PORTS, src_port: identifier, dst_port: asked(icmp_type), ..none }
        }
        Some(Query::Reply(request)) => {
            Transport { flags: Flags::PORTS, src_port: asked(request), dst_port: identifier, ..none }
        }
        None if error => Transport { flags: Flags::ICMP_ERROR, ..none },
        None => none,
    }
}

fn icmpv6_query(icmp_type: u8) -> Option<Query> {
    match icmp_type {
        icmpv6::ECHO_REQUEST => Some(Query::Request),
        icmpv6::ECHO_REPLY => Some(Query::Reply(icmpv6::ECHO_REQUEST)),
        _ => None,
    }
}
