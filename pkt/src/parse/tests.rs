//! Frames by hand, one property each.

use super::*;
use crate::ethernet::Mac;
use crate::{ipv4, ipv6, tcp, vlan};
use std::net::{Ipv4Addr, Ipv6Addr};

const A4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const B4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

const UDP: [u8; 12] = [0x30, 0x39, 0, 53, 0, 12, 0xab, 0xcd, 1, 2, 3, 4];

fn frame(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 22];
    let len = vlan::emit(&mut frame, Mac([2; 6]), Mac([4; 6]), tags, ethertype).unwrap();
    frame.truncate(len);
    frame.extend_from_slice(payload);
    frame
}

fn ipv4_with(options: &[u8], protocol: u8, payload: &[u8], edit: fn(&mut [u8])) -> Vec<u8> {
    let header = ipv4::Header::new(A4, B4, protocol, 64, (payload.len() + options.len()) as u16);
    let mut packet = [&header.0[..], options].concat();
    packet[0] = 0x40 | (packet.len() / 4) as u8;
    edit(&mut packet);
    packet[10..12].fill(0);
    let checksum = crate::checksum::Sum::of(&packet).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(payload);
    frame(&[], ethernet::IPV4, &packet)
}

fn ipv6_with(next: u8, payload: &[u8]) -> Vec<u8> {
    let header = ipv6::Header::new(A6, B6, next, 64, payload.len() as u16);
    frame(&[], ethernet::IPV6, &[&header.0[..], payload].concat())
}

fn tcp_segment(flags: u8) -> [u8; 20] {
    let mut tcp = tcp::Header([0; 20]);
    tcp.set_source_port(1234);
    tcp.set_destination_port(80);
    tcp.set_header_len(20);
    tcp.set_flags(flags);
    tcp.0
}

#[test]
fn udp_over_ipv4_with_padding() {
    let mut bytes = ipv4_with(&[], ipv4::UDP, &UDP, |_| {});
    bytes.resize(60, 0xee);
    let headers = parse(&bytes).unwrap();
    let expected = Headers {
        l3: L3::Ipv4,
        l3_offset: 14,
        l4_offset: 34,
        end: 46,
        protocol: ipv4::UDP,
        ttl: 64,
        flags: Flags(Flags::PORTS.0 | Flags::DONT_FRAGMENT.0),
        src_port: 12345,
        dst_port: 53,
        ..Headers::default()
    };
    assert_eq!(headers, expected);
}

#[test]
fn tags_move_the_rest_back() {
    let packet = &ipv6_with(ipv4::TCP, &tcp_segment(tcp::SYN))[14..];
    for (tags, types) in [
        (&[][..], &[][..]),
        (&[7], &[0x8100]),
        (&[7, 0xe00b], &[0x88a8, 0x8100]),
        (&[7, 8], &[0x9100, 0x88a8]),
    ] {
        let mut bytes = frame(tags, ethernet::IPV6, packet);
        for (i, ethertype) in types.iter().enumerate() {
            bytes[12 + 4 * i..][..2].copy_from_slice(&u16::to_be_bytes(*ethertype));
        }
        let headers = parse(&bytes).unwrap();
        assert_eq!(usize::from(headers.tags), tags.len());
        assert_eq!(headers.tci[..tags.len()], *tags);
        assert_eq!(usize::from(headers.l3_offset), 14 + 4 * tags.len());
        assert_eq!((headers.src_port, headers.dst_port, headers.tcp_flags), (1234, 80, tcp::SYN));
    }
}

#[test]
fn ethernet_and_vlan_errors() {
    assert_eq!(parse(&[0; 13]), Err(ParseError::Runt));
    let third = [0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0];
    assert_eq!(parse(&frame(&[], ethernet::VLAN, &third)), Err(ParseError::VlanDepth));
    assert_eq!(parse(&frame(&[], ethernet::VLAN, &third[..3])), Err(ParseError::VlanTruncated));
    assert_eq!(parse(&frame(&[], ethernet::VLAN, &third[..7])), Err(ParseError::VlanTruncated));
}

#[test]
fn llc_and_unknown_ethertypes_are_other() {
    for ethertype in [0, 100, 0x05ff, 0x0600, 0x88cc] {
        let headers = parse(&frame(&[5], ethertype, &[0; 50])).unwrap();
        assert_eq!((headers.l3, headers.tags, headers.l3_offset, headers.end), (L3::Other, 1, 18, 68));
    }
}
