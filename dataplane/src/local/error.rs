//! What senders are told of packets that died: ICMP errors and TCP resets, and when they are told nothing.

use std::net::IpAddr;

use sluice_pkt::checksum::Sum;
use sluice_pkt::parse::{Flags, L3};
use sluice_pkt::{icmpv4, icmpv6, ipv4, ipv6, tcp};

use super::emit::LinkHeader;
use super::icmp::{TTL, is_group_frame};
use super::{Context, Packet, link};
use crate::verdict::Answer;

/// The longest IPv4 error, its IP header included (RFC 1812 4.3.2.3).
const LONGEST_V4: usize = 576;
/// Precedence 6, internetwork control (RFC 1812 4.3.2.5).
const PRECEDENCE: u8 = 0xc0;

impl Context<'_> {
    /// Tells the packet's sender, if it is one to be told and the rate permits.
    pub(super) fn tell(&mut self, packet: &Packet<'_>, answer: Answer) {
        if !may_be_told(packet) || (!self.snapshot.is_inner(packet.port) && self.is_own_source(packet)) {
            return;
        }
        let Some(back) = LinkHeader::back(packet) else { return };
        if answer == Answer::PortUnreachable && packet.headers.protocol == ipv4::TCP {
            self.reset(packet, &back);
        } else if packet.headers.l3 == L3::Ipv4 {
            self.error4(packet, &back, answer);
        } else {
            self.error6(packet, &back, answer);
        }
    }

    /// Whether the packet says that we have sent it.
    fn is_own_source(&self, packet: &Packet<'_>) -> bool {
        let source: Option<IpAddr> = match packet.headers.l3 {
            L3::Ipv4 => packet.ipv4().map(|ip| ip.source().into()),
            _ => packet.ipv6().map(|ip| ip.source().into()),
        };
        source.is_none_or(|source| link::ours(self.snapshot, packet.link, source).is_some())
    }

    fn may_tell(&mut self) -> bool {
        let may = self.local.errors.allow(self.now, 1);
        self.counters.icmp_suppressed += u64::from(!may);
        may
    }

    fn error4(&mut self, packet: &Packet<'_>, back: &LinkHeader, answer: Answer) {
        let Some(ip) = packet.ipv4() else { return };
        let Some(source) = link::speaker4(self.snapshot, packet.link, ip.destination()) else { return };
        if !self.may_tell() {
            return;
        }
        let (kind, code, rest) = match answer {
            Answer::TimeExceeded => (icmpv4::TIME_EXCEEDED, icmpv4::TTL_EXCEEDED, 0),
            Answer::NoRoute => (icmpv4::UNREACHABLE, icmpv4::NET_UNREACHABLE, 0),
            Answer::HostUnreachable => (icmpv4::UNREACHABLE, icmpv4::HOST_UNREACHABLE, 0),
            Answer::PortUnreachable | Answer::NoBinding => (icmpv4::UNREACHABLE, icmpv4::PORT_UNREACHABLE, 0),
            Answer::ProtocolUnreachable => (icmpv4::UNREACHABLE, icmpv4::PROTOCOL_UNREACHABLE, 0),
            Answer::Prohibited => (icmpv4::UNREACHABLE, icmpv4::ADMIN_PROHIBITED, 0),
            Answer::TooBig(mtu) => (icmpv4::UNREACHABLE, icmpv4::FRAGMENTATION_NEEDED, mtu.into()),
        };
        let quoted = quote(packet, LONGEST_V4 - ipv4::LEN - icmpv4::LEN);
        let icmp = icmpv4::Header::new(kind, code, rest, quoted);
        let len = (icmpv4::LEN + quoted.len()) as u16;
        let mut header = ipv4::Header::new(source, ip.source(), ipv4::ICMP, TTL, len);
        header.set_dscp_ecn(PRECEDENCE);
        header.fill_checksum();
        self.originate(packet.port, back, &[&header.0, &icmp.0, quoted]);
    }

    fn error6(&mut self, packet: &Packet<'_>, back: &LinkHeader, answer: Answer) {
        let Some(ip) = packet.ipv6() else { return };
        let Some(source) = link::speaker6(self.snapshot, packet.link, ip.destination()) else { return };
        if !self.may_tell() {
            return;
        }
        let (kind, code, rest) = match answer {
            Answer::TimeExceeded => (icmpv6::TIME_EXCEEDED, icmpv6::HOP_LIMIT_EXCEEDED, 0),
            Answer::NoRoute => (icmpv6::UNREACHABLE, icmpv6::NO_ROUTE, 0),
            Answer::HostUnreachable => (icmpv6::UNREACHABLE, icmpv6::ADDRESS_UNREACHABLE, 0),
            Answer::PortUnreachable | Answer::NoBinding => (icmpv6::UNREACHABLE, icmpv6::PORT_UNREACHABLE, 0),
            Answer::ProtocolUnreachable => {
                (icmpv6::PARAMETER_PROBLEM, UNRECOGNIZED, next_header_field(packet))
            }
            Answer::Prohibited => (icmpv6::UNREACHABLE, icmpv6::ADMIN_PROHIBITED, 0),
            Answer::TooBig(mtu) => (icmpv6::PACKET_TOO_BIG, 0, mtu.into()),
        };
        let quoted = quote(packet, usize::from(ipv6::MIN_MTU) - ipv6::LEN - icmpv6::LEN);
        let icmp = icmpv6::Header::new(source, ip.source(), kind, code, rest, quoted);
        let len = (icmpv6::LEN + quoted.len()) as u16;
        let header = ipv6::Header::new(source, ip.source(), ipv6::ICMPV6, TTL, len);
        self.originate(packet.port, back, &[&header.0, &icmp.0, quoted]);
    }

    /// RFC 9293 3.10.7.1. A reset comes from the address that the segment was sent to.
    fn reset(&mut self, packet: &Packet<'_>, back: &LinkHeader) {
        let Some(segment) = tcp::Header::at(packet.transport(), 0) else { return };
        let payload = packet.headers.end.saturating_sub(packet.headers.l4_offset);
        let data = usize::from(payload).saturating_sub(segment.header_len());
        let Some(mut reset) = tcp::Header::reset(&segment, data as u32) else { return };
        if packet.headers.flags.has(Flags::FRAGMENT) || !self.may_tell() {
            return;
        }
        const LEN: u16 = tcp::LEN as u16;
        if let (L3::Ipv4, Some(ip)) = (packet.headers.l3, packet.ipv4()) {
            let header = ipv4::Header::new(ip.destination(), ip.source(), ipv4::TCP, TTL, LEN);
            reset.set_checksum(checksum(header.pseudo_header(ipv4::TCP, LEN), &reset));
            self.originate(packet.port, back, &[&header.0, &reset.0]);
        } else if let Some(ip) = packet.ipv6() {
            let header = ipv6::Header::new(ip.destination(), ip.source(), ipv4::TCP, TTL, LEN);
            reset.set_checksum(checksum(header.pseudo_header(ipv4::TCP, LEN.into()), &reset));
            self.originate(packet.port, back, &[&header.0, &reset.0]);
        }
    }
}

/// Code of parameter problem: unrecognised next header.
const UNRECOGNIZED: u8 = 1;

fn checksum(pseudo: Sum, reset: &tcp::Header<[u8; tcp::LEN]>) -> u16 {
    pseudo.add_bytes(&reset.0).checksum()
}

/// As much of the packet as fits into so many bytes.
fn quote<'a>(packet: &Packet<'a>, room: usize) -> &'a [u8] {
    let network = packet.network();
    network.get(..room).unwrap_or(network)
}

/// Whether the packet is one whose sender may be told: no error or redirect itself, no later fragment, sent by and to one
/// station only (RFC 1122 3.2.2, RFC 1812 4.3.2.7, RFC 4443 2.4(e)).
fn may_be_told(packet: &Packet<'_>) -> bool {
    let headers = packet.headers;
    let sent_by_one = packet.ethernet().is_some_and(|ethernet| ethernet.source().is_unicast());
    if headers.flags.has(Flags::LATER_FRAGMENT) || is_group_frame(packet) || !sent_by_one {
        return false;
    }
    let kind = headers.icmp_type;
    match headers.l3 {
        L3::Ipv4 => packet.ipv4().is_some_and(|ip| {
            let (source, destination) = (ip.source(), ip.destination());
            !(headers.protocol == ipv4::ICMP && (icmpv4::is_error(kind) || kind == icmpv4::REDIRECT))
                && icmpv4::may_be_told(source)
                && !link::is_broadcast(packet.link, source.into())
                && !destination.is_multicast()
                && !link::is_broadcast(packet.link, destination.into())
        }),
        L3::Ipv6 => packet.ipv6().is_some_and(|ip| {
            let (source, destination) = (ip.source(), ip.destination());
            // Types under 128 are errors, those that nobody has defined yet among them.
            !(headers.protocol == ipv6::ICMPV6 && (kind < 128 || kind == icmpv6::REDIRECT))
                && !source.is_unspecified()
                && !source.is_loopback()
                && !source.is_multicast()
                && !destination.is_multicast()
        }),
        L3::Arp | L3::Other => false,
    }
}

/// Where in the IPv6 packet the number of the protocol stands that nobody takes, in bytes.
fn next_header_field(packet: &Packet<'_>) -> u32 {
    let network = packet.network();
    let end = usize::from(packet.headers.l4_offset.saturating_sub(packet.headers.l3_offset));
    let (mut field, mut at) = (ipv6::NEXT_HEADER, ipv6::LEN);
    while at < end {
        let kind = network.get(field).copied().unwrap_or(0);
        let units = usize::from(network.get(at + 1).copied().unwrap_or(0));
        field = at;
        at += match kind {
            ipv6::FRAGMENT => ipv6::fragment::LEN,
            ipv6::AH => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
    }
    field as u32
}
