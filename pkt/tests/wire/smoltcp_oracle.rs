//! The same fields, read by `smoltcp::wire`.

use crate::fields::{Fields, number};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, Icmpv4Packet, Icmpv6Packet, IpProtocol, Ipv4Packet,
    Ipv6ExtHeader, Ipv6FragmentHeader, Ipv6Packet, TcpPacket, UdpPacket,
};

/// What `smoltcp::wire` reads, or `None` if it refuses the frame.
///
/// It is a kit of readers for one header each; what follows what is put together here. It knows no VLAN tags: they are
/// taken off before.
pub(crate) fn read(frame: &[u8]) -> Option<Fields> {
    let link = EthernetFrame::new_checked(frame).ok()?;
    let mut fields = Fields::from([
        ("ethernet.destination", number(link.dst_addr().as_bytes())),
        ("ethernet.source", number(link.src_addr().as_bytes())),
        ("l3", 0),
    ]);
    let mut names = ["vlan.outer", "vlan.inner", "third tag"].into_iter();
    let mut at = 14;
    let mut ethertype = u16::from(link.ethertype());
    while matches!(ethertype, 0x8100 | 0x88a8 | 0x9100) {
        let tag = frame.get(at..at + 4)?;
        let Some(name) = names.next() else { break };
        fields.insert(name, number(&tag[..2]));
        ethertype = number(&tag[2..]) as u16;
        at += 4;
    }
    fields.extend([("vlan.tags", (at as u128 - 14) / 4), ("l3.offset", at as u128)]);
    let packet = &frame[at..];
    match ethertype {
        0x0806 => arp(packet, fields),
        0x0800 => ipv4(packet, at, fields),
        0x86dd => ipv6(packet, at, fields),
        _ => Some(fields),
    }
}

fn arp(packet: &[u8], mut fields: Fields) -> Option<Fields> {
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?
    else {
        return None;
    };
    let operation = match operation {
        ArpOperation::Request => 1,
        ArpOperation::Reply => 2,
        ArpOperation::Unknown(number) => number,
    };
    fields.extend([
        ("l3", 1),
        ("arp.operation", u128::from(operation)),
        ("arp.sender.mac", number(source_hardware_addr.as_bytes())),
        ("arp.sender", source_protocol_addr.to_bits().into()),
        ("arp.target.mac", number(target_hardware_addr.as_bytes())),
        ("arp.target", target_protocol_addr.to_bits().into()),
    ]);
    Some(fields)
}

fn ipv4(packet: &[u8], at: usize, mut fields: Fields) -> Option<Fields> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    if ip.version() != 4 || !ip.verify_checksum() {
        return None;
    }
    let later = ip.frag_offset() != 0;
    let l4 = usize::from(ip.header_len());
    fields.extend([
        ("l3", 2),
        ("ip.traffic_class", u128::from(ip.dscp()) << 2 | u128::from(ip.ecn())),
        ("ip.len", ip.total_len().into()),
        ("ip.header_len", ip.header_len().into()),
        ("ip.identification", ip.ident().into()),
        ("ip.dont_fragment", ip.dont_frag().into()),
        ("ip.more_fragments", ip.more_frags().into()),
        ("ip.fragment_offset", ip.frag_offset().into()),
        ("ip.checksum", ip.checksum().into()),
        ("ip.source", ip.src_addr().to_bits().into()),
        ("ip.destination", ip.dst_addr().to_bits().into()),
        ("ip.ttl", ip.hop_limit().into()),
        ("ip.protocol", u8::from(ip.next_header()).into()),
        ("ip.fragment", (later || ip.more_frags()).into()),
        ("ip.later_fragment", later.into()),
        ("l4.offset", (at + l4) as u128),
        ("end", at as u128 + u128::from(ip.total_len())),
    ]);
    if !later && ip.next_header() == IpProtocol::Icmp {
        icmpv4(ip.payload(), &mut fields)?;
    }
    transport(ip.payload(), ip.next_header(), &mut fields)
}

fn ipv6(packet: &[u8], at: usize, mut fields: Fields) -> Option<Fields> {
    let ip = Ipv6Packet::new_checked(packet).ok()?;
    if ip.version() != 6 {
        return None;
    }
    let (mut rest, mut next) = (ip.payload(), ip.next_header());
    let (mut fragment, mut later) = (false, false);
    while !later {
        match next {
            IpProtocol::HopByHop | IpProtocol::Ipv6Route | IpProtocol::Ipv6Opts => {
                let header = Ipv6ExtHeader::new_checked(rest).ok()?;
                next = header.next_header();
                rest = rest.get(8 + usize::from(header.header_len()) * 8..)?;
            }
            IpProtocol::Ipv6Frag => {
                let header = Ipv6FragmentHeader::new_checked(rest.get(2..8)?).ok()?;
                later = header.frag_offset() != 0;
                fragment |= later || header.more_frags();
                next = IpProtocol::from(rest[0]);
                rest = &rest[8..];
            }
            _ => break,
        }
    }
    let end = at + ip.total_len();
    fields.extend([
        ("l3", 3),
        ("ip.traffic_class", u128::from(ip.traffic_class())),
        ("ip.flow_label", ip.flow_label().into()),
        ("ip.len", ip.payload_len().into()),
        ("ip.source", ip.src_addr().to_bits()),
        ("ip.destination", ip.dst_addr().to_bits()),
        ("ip.ttl", ip.hop_limit().into()),
        ("ip.protocol", u8::from(next).into()),
        ("ip.fragment", fragment.into()),
        ("ip.later_fragment", later.into()),
        ("l4.offset", (end - rest.len()) as u128),
        ("end", end as u128),
    ]);
    if !later && next == IpProtocol::Icmpv6 {
        icmpv6(rest, &mut fields)?;
    }
    transport(rest, next, &mut fields)
}

fn transport(payload: &[u8], protocol: IpProtocol, fields: &mut Fields) -> Option<Fields> {
    let later = fields["ip.later_fragment"] == 1;
    match protocol {
        IpProtocol::Tcp if !later => {
            let tcp = TcpPacket::new_checked(payload).ok()?;
            let bits =
                [tcp.cwr(), tcp.ece(), tcp.urg(), tcp.ack(), tcp.psh(), tcp.rst(), tcp.syn(), tcp.fin()];
            fields.extend([
                ("source_port", u128::from(tcp.src_port())),
                ("destination_port", tcp.dst_port().into()),
                ("tcp.sequence", u128::from(tcp.seq_number().0 as u32)),
                ("tcp.acknowledgment", u128::from(tcp.ack_number().0 as u32)),
                ("tcp.header_len", tcp.header_len().into()),
                ("tcp.flags", bits.into_iter().fold(0, |flags, bit| flags << 1 | u128::from(bit))),
                ("tcp.window", tcp.window_len().into()),
                ("tcp.checksum", tcp.checksum().into()),
                ("tcp.urgent", tcp.urgent_at().into()),
            ]);
        }
        IpProtocol::Udp if !later => {
            let udp = UdpPacket::new_checked(payload).ok()?;
            fields.extend([
                ("source_port", u128::from(udp.src_port())),
                ("destination_port", udp.dst_port().into()),
                ("udp.len", udp.len().into()),
                ("udp.checksum", udp.checksum().into()),
            ]);
        }
        _ => {}
    }
    Some(std::mem::take(fields))
}

fn icmpv4(message: &[u8], fields: &mut Fields) -> Option<()> {
    let icmp = Icmpv4Packet::new_checked(message).ok()?;
    let rest = u128::from(icmp.echo_ident()) << 16 | u128::from(icmp.echo_seq_no());
    fields.extend([
        ("icmp.type", u128::from(u8::from(icmp.msg_type()))),
        ("icmp.code", icmp.msg_code().into()),
        ("icmp.checksum", icmp.checksum().into()),
        ("icmp.rest", rest),
    ]);
    Some(())
}

fn icmpv6(message: &[u8], fields: &mut Fields) -> Option<()> {
    let icmp = Icmpv6Packet::new_checked(message).ok()?;
    let rest = u128::from(icmp.echo_ident()) << 16 | u128::from(icmp.echo_seq_no());
    fields.extend([
        ("icmp.type", u128::from(u8::from(icmp.msg_type()))),
        ("icmp.code", icmp.msg_code().into()),
        ("icmp.checksum", icmp.checksum().into()),
        ("icmp.rest", rest),
    ]);
    Some(())
}
