//! The same fields, read by `etherparse`.

use crate::fields::{Fields, number};
use etherparse::{
    Icmpv4Slice, Icmpv6Slice, Ipv6ExtensionSlice, LinkExtSlice, LinkSlice, NetSlice, SlicedPacket, TcpSlice,
    TransportSlice, UdpHeaderSlice, UdpSlice,
};

/// What `etherparse` reads, or `None` if it refuses the frame.
///
/// It leaves the transport header of a first fragment alone; there its transport slices are called for it.
pub(crate) fn read(frame: &[u8]) -> Option<Fields> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(LinkSlice::Ethernet2(link)) = &packet.link else { return None };
    let offset_of = |part: &[u8]| (part.as_ptr() as usize - frame.as_ptr() as usize) as u128;
    let mut fields = Fields::from([
        ("ethernet.destination", number(&link.destination())),
        ("ethernet.source", number(&link.source())),
        ("vlan.tags", packet.link_exts.len() as u128),
        ("l3", 0),
    ]);
    let mut l3_offset = 14;
    for (name, ext) in ["vlan.outer", "vlan.inner", "third tag"].into_iter().zip(&packet.link_exts) {
        match ext {
            LinkExtSlice::Vlan(tag) => {
                fields.insert(name, number(&tag.slice()[..2]));
            }
            LinkExtSlice::Macsec(_) => {
                fields.insert("macsec", 1);
            }
        }
        l3_offset += ext.header_len();
    }
    fields.insert("l3.offset", l3_offset as u128);
    let (payload, later) = match packet.net.as_ref() {
        None => return Some(fields),
        Some(NetSlice::Arp(arp)) => {
            fields.extend([
                ("l3", 1),
                ("arp.operation", u128::from(arp.operation().0)),
                ("arp.sender.mac", number(arp.sender_hw_addr())),
                ("arp.sender", number(arp.sender_protocol_addr())),
                ("arp.target.mac", number(arp.target_hw_addr())),
                ("arp.target", number(arp.target_protocol_addr())),
            ]);
            return Some(fields);
        }
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let offset = u128::from(header.fragments_offset().value()) * 8;
            fields.extend([
                ("l3", 2),
                (
                    "ip.traffic_class",
                    u128::from(header.dcp().value()) << 2 | u128::from(header.ecn().value()),
                ),
                ("ip.len", header.total_len().into()),
                ("ip.header_len", header.slice().len() as u128),
                ("ip.identification", header.identification().into()),
                ("ip.dont_fragment", header.dont_fragment().into()),
                ("ip.more_fragments", header.more_fragments().into()),
                ("ip.fragment_offset", offset),
                ("ip.checksum", header.header_checksum().into()),
                ("ip.source", number(&header.source())),
                ("ip.destination", number(&header.destination())),
                ("ip.ttl", header.ttl().into()),
            ]);
            (ip.payload().clone(), offset != 0)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            fields.extend([
                ("l3", 3),
                ("ip.traffic_class", u128::from(header.traffic_class())),
                ("ip.flow_label", header.flow_label().value().into()),
                ("ip.len", header.payload_length().into()),
                ("ip.source", number(&header.source())),
                ("ip.destination", number(&header.destination())),
                ("ip.ttl", header.hop_limit().into()),
            ]);
            let later = ip.extensions().clone().into_iter().any(|extension| {
                matches!(extension, Ipv6ExtensionSlice::Fragment(part) if part.fragment_offset().value() != 0)
            });
            (ip.payload().clone(), later)
        }
    };
    fields.extend([
        ("ip.protocol", u128::from(payload.ip_number.0)),
        ("ip.fragment", payload.fragmented.into()),
        ("ip.later_fragment", later.into()),
        ("l4.offset", offset_of(payload.payload)),
        ("end", offset_of(payload.payload) + payload.payload.len() as u128),
    ]);
    let first = payload.fragmented && !later;
    let bytes = payload.payload;
    match (packet.transport.as_ref(), payload.ip_number.0) {
        (Some(TransportSlice::Tcp(segment)), _) => tcp(segment, &mut fields),
        (Some(TransportSlice::Udp(datagram)), _) => udp(datagram, &mut fields),
        (Some(TransportSlice::Icmpv4(message)), _) => icmp(message.slice(), &mut fields),
        (Some(TransportSlice::Icmpv6(message)), _) => icmp(message.slice(), &mut fields),
        (None, 6) if first => tcp(&TcpSlice::from_slice(bytes).ok()?, &mut fields),
        // The strict slice demands the whole datagram, of which this is a piece.
        (None, 17) if first && UdpHeaderSlice::from_slice(bytes).ok()?.length() < 8 => return None,
        (None, 17) if first => udp(&UdpSlice::from_slice_lax(bytes).ok()?, &mut fields),
        (None, 1) if first => icmp(Icmpv4Slice::from_slice(bytes).ok()?.slice(), &mut fields),
        (None, 58) if first => icmp(Icmpv6Slice::from_slice(bytes).ok()?.slice(), &mut fields),
        _ => {}
    }
    Some(fields)
}

fn tcp(tcp: &TcpSlice<'_>, fields: &mut Fields) {
    let bits = [tcp.cwr(), tcp.ece(), tcp.urg(), tcp.ack(), tcp.psh(), tcp.rst(), tcp.syn(), tcp.fin()];
    fields.extend([
        ("source_port", u128::from(tcp.source_port())),
        ("destination_port", tcp.destination_port().into()),
        ("tcp.sequence", tcp.sequence_number().into()),
        ("tcp.acknowledgment", tcp.acknowledgment_number().into()),
        ("tcp.header_len", u128::from(tcp.data_offset()) * 4),
        ("tcp.flags", bits.into_iter().fold(0, |flags, bit| flags << 1 | u128::from(bit))),
        ("tcp.window", tcp.window_size().into()),
        ("tcp.checksum", tcp.checksum().into()),
        ("tcp.urgent", tcp.urgent_pointer().into()),
    ]);
}

fn udp(udp: &UdpSlice<'_>, fields: &mut Fields) {
    fields.extend([
        ("source_port", u128::from(udp.source_port())),
        ("destination_port", udp.destination_port().into()),
        ("udp.len", udp.length().into()),
        ("udp.checksum", udp.checksum().into()),
    ]);
}

fn icmp(message: &[u8], fields: &mut Fields) {
    fields.extend([
        ("icmp.type", u128::from(message[0])),
        ("icmp.code", message[1].into()),
        ("icmp.checksum", number(&message[2..4])),
        ("icmp.rest", number(&message[4..8])),
    ]);
}
