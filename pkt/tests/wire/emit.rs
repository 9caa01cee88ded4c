//! What the builders write, as `smoltcp::wire` and `etherparse` read it.

use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::{arp, icmpv4, icmpv6, ipv4, ipv6, parse, tcp, vlan};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv4Message, Icmpv4Packet, Icmpv6Message,
    Icmpv6Packet, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
};
use std::net::{Ipv4Addr, Ipv6Addr};

const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
const THEM: Mac = Mac([2, 0, 0, 0, 0, 2]);
const US4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THEM4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const US6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const THEM6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2);

fn arp_repr(operation: ArpOperation, source: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> ArpRepr {
    ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source.0.0),
        source_protocol_addr: source.1,
        target_hardware_addr: EthernetAddress(target.0.0),
        target_protocol_addr: target.1,
    }
}

#[test]
fn arp_request_and_reply() {
    let read = |bytes: [u8; 28]| ArpRepr::parse(&ArpPacket::new_checked(&bytes[..]).unwrap()).unwrap();
    let request = arp::Header::request(US, US4, THEM4);
    assert_eq!(read(request.0), arp_repr(ArpOperation::Request, (US, US4), (Mac::default(), THEM4)));
    let reply = arp::Header::reply(US, US4, THEM, THEM4);
    assert_eq!(read(reply.0), arp_repr(ArpOperation::Reply, (US, US4), (THEM, THEM4)));
}

#[test]
fn ip_headers() {
    let v4 = ipv4::Header::new(US4, THEM4, ipv4::UDP, 64, 12);
    let bytes = [&v4.0[..], &[0; 12]].concat();
    let packet = Ipv4Packet::new_checked(&bytes[..]).unwrap();
    let repr = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap();
    assert_eq!((repr.src_addr, repr.dst_addr, repr.hop_limit, repr.payload_len), (US4, THEM4, 64, 12));
    assert!(packet.dont_frag());

    let v6 = ipv6::Header::new(US6, THEM6, ipv4::TCP, 255, 20);
    let bytes = [&v6.0[..], &[0; 20]].concat();
    let repr = Ipv6Repr::parse(&Ipv6Packet::new_checked(&bytes[..]).unwrap()).unwrap();
    assert_eq!((repr.src_addr, repr.dst_addr, repr.hop_limit, repr.payload_len), (US6, THEM6, 255, 20));
}

#[test]
fn icmp_errors() {
    let quoted =
        [&ipv4::Header::new(THEM4, US4, ipv4::UDP, 1, 8).0[..], &[0, 53, 0, 53, 0, 8, 0, 0, 9]].concat();
    let header = icmpv4::Header::new(icmpv4::UNREACHABLE, icmpv4::FRAGMENTATION_NEEDED, 1400, &quoted);
    assert_eq!((header.mtu(), header.rest()), (1400, 1400));
    let bytes = [&header.0[..], &quoted].concat();
    let packet = Icmpv4Packet::new_checked(&bytes[..]).unwrap();
    assert!(packet.verify_checksum());
    assert_eq!((packet.msg_type(), packet.msg_code()), (Icmpv4Message::DstUnreachable, 4));

    let quoted =
        [&ipv6::Header::new(THEM6, US6, ipv4::UDP, 1, 8).0[..], &[0, 53, 0, 53, 0, 8, 0, 0]].concat();
    let header = icmpv6::Header::new(US6, THEM6, icmpv6::PACKET_TOO_BIG, 0, 1280, &quoted);
    let bytes = [&header.0[..], &quoted].concat();
    let packet = Icmpv6Packet::new_checked(&bytes[..]).unwrap();
    assert!(packet.verify_checksum(&US6, &THEM6));
    assert_eq!((packet.msg_type(), packet.pkt_too_big_mtu()), (Icmpv6Message::PktTooBig, 1280));
}

#[test]
fn echo_replies_carry_identifier_and_sequence_back() {
    let data = b"odd";
    let request = icmpv4::Header::new(icmpv4::ECHO_REQUEST, 0, 0x1234_0007, data);
    let reply = icmpv4::Header::echo_reply(&request, data);
    let bytes = [&reply.0[..], data].concat();
    let packet = Icmpv4Packet::new_checked(&bytes[..]).unwrap();
    assert!(packet.verify_checksum());
    assert_eq!(
        (packet.msg_type(), packet.echo_ident(), packet.echo_seq_no()),
        (Icmpv4Message::EchoReply, 0x1234, 7)
    );

    let request = icmpv6::Header::new(THEM6, US6, icmpv6::ECHO_REQUEST, 0, 0x1234_0007, data);
    let reply = icmpv6::Header::echo_reply(US6, THEM6, &request, data);
    let bytes = [&reply.0[..], data].concat();
    let packet = Icmpv6Packet::new_checked(&bytes[..]).unwrap();
    assert!(packet.verify_checksum(&US6, &THEM6));
    assert_eq!(
        (packet.msg_type(), packet.echo_ident(), packet.echo_seq_no()),
        (Icmpv6Message::EchoReply, 0x1234, 7)
    );
}

#[test]
fn resets() {
    let mut syn = tcp::Header([0; tcp::LEN]);
    syn.set_source_port(40_000);
    syn.set_destination_port(80);
    syn.set_sequence(u32::MAX);
    syn.set_acknowledgment(77);
    syn.set_header_len(20);
    syn.set_flags(tcp::SYN);
    let reset = tcp::Header::reset(&syn, 0).unwrap();
    assert_eq!((reset.source_port(), reset.destination_port(), reset.header_len()), (80, 40_000, 20));
    assert_eq!((reset.flags(), reset.sequence(), reset.acknowledgment()), (tcp::RST | tcp::ACK, 0, 0));

    syn.set_flags(tcp::ACK | tcp::PSH);
    let reset = tcp::Header::reset(&syn, 5).unwrap();
    assert_eq!((reset.flags(), reset.sequence(), reset.acknowledgment()), (tcp::RST, 77, 0));

    syn.set_flags(tcp::FIN);
    assert_eq!(tcp::Header::reset(&syn, 5).unwrap().acknowledgment(), 5);
    syn.set_flags(tcp::RST);
    assert_eq!(tcp::Header::reset(&syn, 0), None);
}

#[test]
fn a_whole_frame_with_tags_reads_back() {
    let mut frame = vec![0; 22];
    assert_eq!(vlan::emit(&mut frame, THEM, US, &[7, vlan::tci(3, true, 9)], ethernet::IPV4), Some(22));
    let message = icmpv4::Header::new(icmpv4::TIME_EXCEEDED, icmpv4::TTL_EXCEEDED, 0, &[]);
    frame.extend(ipv4::Header::new(US4, THEM4, ipv4::ICMP, 64, 8).0);
    frame.extend(message.0);
    let headers = parse::parse(&frame).unwrap();
    assert_eq!((headers.tags, headers.tci), (2, [7, 0x7009]));
    assert!(headers.flags.has(parse::Flags::ICMP_ERROR));
    let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
    assert_eq!(packet.vlan_ids().iter().map(|id| id.value()).collect::<Vec<_>>(), [7, 9]);
}
