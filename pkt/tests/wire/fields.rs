//! What a packet says, as named numbers, so that readers with different types can be compared.

use sluice_pkt::parse::{Flags, Headers, L3, ParseError, parse};
use sluice_pkt::{arp, ethernet, icmpv4, icmpv6, ipv4, ipv6, tcp, udp};
use std::collections::BTreeMap;

/// Field names with their values.
pub(crate) type Fields = BTreeMap<&'static str, u128>;

/// Big-endian bytes as a number.
pub(crate) fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// What Sluice reads: the parser's `Headers` and every accessor at its offsets.
pub(crate) fn sluice(frame: &[u8]) -> Result<(Headers, Fields), ParseError> {
    let headers = parse(frame)?;
    let l3 = usize::from(headers.l3_offset);
    let l4 = usize::from(headers.l4_offset);
    let link = ethernet::Header::at(frame, 0).unwrap();
    let mut fields = Fields::from([
        ("ethernet.destination", number(&link.destination().0)),
        ("ethernet.source", number(&link.source().0)),
        ("vlan.tags", headers.tags.into()),
        ("l3", headers.l3 as u128),
        ("l3.offset", headers.l3_offset.into()),
    ]);
    for (name, tci) in ["vlan.outer", "vlan.inner"].into_iter().zip(&headers.tci[..headers.tags.into()]) {
        fields.insert(name, u128::from(*tci));
    }
    match headers.l3 {
        L3::Other => return Ok((headers, fields)),
        L3::Arp => {
            let arp = arp::Header::at(frame, l3).unwrap();
            fields.extend([
                ("arp.operation", u128::from(arp.operation())),
                ("arp.sender.mac", number(&arp.sender_mac().0)),
                ("arp.sender", arp.sender_address().to_bits().into()),
                ("arp.target.mac", number(&arp.target_mac().0)),
                ("arp.target", arp.target_address().to_bits().into()),
            ]);
            return Ok((headers, fields));
        }
        L3::Ipv4 => {
            let ip = ipv4::Header::at(frame, l3).unwrap();
            fields.extend([
                ("ip.traffic_class", u128::from(ip.dscp_ecn())),
                ("ip.len", ip.total_len().into()),
                ("ip.header_len", ip.header_len() as u128),
                ("ip.identification", ip.identification().into()),
                ("ip.dont_fragment", ip.dont_fragment().into()),
                ("ip.more_fragments", ip.more_fragments().into()),
                ("ip.fragment_offset", ip.fragment_offset().into()),
                ("ip.checksum", ip.checksum().into()),
                ("ip.source", ip.source().to_bits().into()),
                ("ip.destination", ip.destination_bits().into()),
            ]);
        }
        L3::Ipv6 => {
            let ip = ipv6::Header::at(frame, l3).unwrap();
            fields.extend([
                ("ip.traffic_class", u128::from(ip.traffic_class())),
                ("ip.flow_label", ip.flow_label().into()),
                ("ip.len", ip.payload_len().into()),
                ("ip.source", ip.source().to_bits()),
                ("ip.destination", ip.destination_bits()),
            ]);
        }
    }
    fields.extend([
        ("ip.ttl", u128::from(headers.ttl)),
        ("ip.protocol", headers.protocol.into()),
        ("ip.fragment", headers.flags.has(Flags::FRAGMENT).into()),
        ("ip.later_fragment", headers.flags.has(Flags::LATER_FRAGMENT).into()),
        ("l4.offset", headers.l4_offset.into()),
        ("end", headers.end.into()),
    ]);
    if headers.flags.has(Flags::LATER_FRAGMENT) {
        return Ok((headers, fields));
    }
    match (headers.l3, headers.protocol) {
        (_, ipv4::TCP) => {
            let tcp = tcp::Header::at(frame, l4).unwrap();
            fields.extend([
                ("source_port", u128::from(headers.src_port)),
                ("destination_port", headers.dst_port.into()),
                ("tcp.sequence", tcp.sequence().into()),
                ("tcp.acknowledgment", tcp.acknowledgment().into()),
                ("tcp.header_len", tcp.header_len() as u128),
                ("tcp.flags", headers.tcp_flags.into()),
                ("tcp.window", tcp.window().into()),
                ("tcp.checksum", tcp.checksum().into()),
                ("tcp.urgent", tcp.urgent().into()),
            ]);
        }
        (_, ipv4::UDP) => {
            let udp = udp::Header::at(frame, l4).unwrap();
            fields.extend([
                ("source_port", u128::from(headers.src_port)),
                ("destination_port", headers.dst_port.into()),
                ("udp.len", udp.datagram_len().into()),
                ("udp.checksum", udp.checksum().into()),
            ]);
        }
        (L3::Ipv4, ipv4::ICMP) => {
            let icmp = icmpv4::Header::at(frame, l4).unwrap();
            fields.extend([
                ("icmp.type", u128::from(headers.icmp_type)),
                ("icmp.code", icmp.code().into()),
                ("icmp.checksum", icmp.checksum().into()),
                ("icmp.rest", icmp.rest().into()),
            ]);
        }
        (L3::Ipv6, ipv6::ICMPV6) => {
            let icmp = icmpv6::Header::at(frame, l4).unwrap();
            fields.extend([
                ("icmp.type", u128::from(headers.icmp_type)),
                ("icmp.code", icmp.code().into()),
                ("icmp.checksum", icmp.checksum().into()),
                ("icmp.rest", icmp.rest().into()),
            ]);
        }
        _ => {}
    }
    Ok((headers, fields))
}
