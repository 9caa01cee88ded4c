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

fn error(frame: &[u8]) -> ParseError {
    parse(frame).unwrap_err()
}

/// The frame with one byte changed.
fn with(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    frame
}

#[test]
fn arp_errors() {
    let mac = Mac([2; 6]);
    let good = frame(&[], ethernet::ARP, &crate::arp::Header::request(mac, A4, B4).0);
    assert_eq!(parse(&good).unwrap().l3, L3::Arp);
    assert_eq!(error(&good[..41]), ParseError::ArpMalformed);
    for at in [15, 16, 18, 19] {
        assert_eq!(error(&with(good.clone(), at, 9)), ParseError::ArpMalformed);
    }
}

#[test]
fn ipv4_errors() {
    let good = ipv4_with(&[], ipv4::UDP, &UDP, |_| {});
    assert_eq!(error(&good[..33]), ParseError::Ipv4Truncated);
    assert_eq!(error(&good[..45]), ParseError::Ipv4TotalLength);
    assert_eq!(error(&with(good.clone(), 14, 0x55)), ParseError::Ipv4Version);
    assert_eq!(error(&with(good.clone(), 14, 0x44)), ParseError::Ipv4HeaderLength);
    assert_eq!(error(&with(good.clone(), 14, 0x4f)), ParseError::Ipv4Truncated);
    assert_eq!(error(&with(good.clone(), 17, 19)), ParseError::Ipv4TotalLength);
    assert_eq!(error(&with(good, 22, 63)), ParseError::Ipv4Checksum);
}

#[test]
fn ipv4_options_are_walked() {
    let flags =
        |options: &[u8]| parse(&ipv4_with(options, ipv4::UDP, &UDP, |_| {})).map(|headers| headers.flags);
    let plain = Flags(Flags::PORTS.0 | Flags::DONT_FRAGMENT.0 | Flags::OPTIONS.0);
    let routed = Flags(plain.0 | Flags::SOURCE_ROUTE.0);
    assert_eq!(flags(&[148, 4, 0, 0]), Ok(plain));
    assert_eq!(flags(&[1, 1, 131, 3, 4, 0, 0, 0]), Ok(routed));
    assert_eq!(flags(&[137, 7, 4, 192, 0, 2, 9, 0]), Ok(routed));
    // Behind the end of the list nothing counts.
    assert_eq!(flags(&[0, 131, 77, 0]), Ok(plain));
    for options in [[148, 0, 0, 0], [148, 1, 0, 0], [148, 5, 0, 0], [1, 1, 1, 148]] {
        assert_eq!(flags(&options), Err(ParseError::Ipv4Options));
    }
}

#[test]
fn ipv4_fragments() {
    const MORE: u8 = 0x20;
    let first = ipv4_with(&[], ipv4::UDP, &[&UDP[..], &[0; 4]].concat(), |ip| ip[6] = MORE);
    let headers = parse(&first).unwrap();
    assert!(headers.flags.has(Flags::FRAGMENT) && headers.flags.has(Flags::PORTS));
    assert!(!headers.flags.has(Flags::LATER_FRAGMENT) && !headers.flags.has(Flags::DONT_FRAGMENT));

    let last = ipv4_with(&[], ipv4::TCP, &[1, 2, 3], |ip| ip[6..8].copy_from_slice(&[0, 1]));
    let headers = parse(&last).unwrap();
    assert_eq!(headers.flags, Flags(Flags::FRAGMENT.0 | Flags::LATER_FRAGMENT.0));
    assert_eq!((headers.protocol, headers.l4_offset, headers.src_port), (ipv4::TCP, 34, 0));

    let odd = ipv4_with(&[], ipv4::UDP, &UDP, |ip| ip[6] = MORE);
    let empty = ipv4_with(&[], ipv4::UDP, &[], |ip| ip[6] = MORE);
    // 8191 units of 8 are 65,528; with 20 bytes of header there is no room even for one byte.
    let beyond = ipv4_with(&[], ipv4::UDP, &[1], |ip| ip[6..8].copy_from_slice(&[0x1f, 0xff]));
    for malformed in [odd, empty, beyond] {
        assert_eq!(error(&malformed), ParseError::FragmentMalformed);
    }
    let edge =
        |len| ipv4_with(&[], ipv4::UDP, &vec![0; len], |ip| ip[6..8].copy_from_slice(&8180u16.to_be_bytes()));
    assert!(parse(&edge(65_535 - 20 - 8180 * 8)).is_ok());
    assert_eq!(error(&edge(65_536 - 20 - 8180 * 8)), ParseError::FragmentMalformed);
}

#[test]
fn a_tiny_first_fragment_hides_no_tcp_flags() {
    let tiny = ipv4_with(&[], ipv4::TCP, &tcp_segment(tcp::SYN)[..8], |ip| ip[6] = 0x20);
    assert_eq!(error(&tiny), ParseError::TcpTruncated);
}

#[test]
fn ipv6_errors() {
    let good = ipv6_with(ipv4::UDP, &UDP);
    assert_eq!(parse(&good).unwrap().end, 66);
    assert_eq!(error(&good[..53]), ParseError::Ipv6Truncated);
    assert_eq!(error(&good[..65]), ParseError::Ipv6PayloadLength);
    assert_eq!(error(&with(good, 14, 0x50)), ParseError::Ipv6Version);
    let mut jumbo = ipv6_with(ipv6::HOP_BY_HOP, &[59, 0, 0xc2, 4, 0, 1, 0, 0]);
    jumbo[19] = 0;
    assert_eq!(error(&jumbo), ParseError::Ipv6PayloadLength);
}

#[test]
fn extension_headers() {
    let flags =
        |next, chain: &[&[u8]]| parse(&ipv6_with(next, &chain.concat())).map(|headers| headers.flags.0);
    let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let routing = |next, kind, left| [next, 0, kind, left, 0, 0, 0, 0];
    let (walked, routed) = (Flags::DONT_FRAGMENT.0 | Flags::OPTIONS.0, Flags::SOURCE_ROUTE.0);
    let ports = Flags::PORTS.0;
    assert_eq!(flags(0, &[&options(60), &options(17), &UDP]), Ok(walked | ports));
    assert_eq!(flags(43, &[&routing(17, 0, 1), &UDP]), Ok(walked | ports | routed));
    assert_eq!(flags(43, &[&routing(17, 0, 0), &UDP]), Ok(walked | ports));
    assert_eq!(flags(43, &[&routing(17, 4, 1), &UDP]), Ok(walked | ports));
    let auth = [17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(flags(51, &[&auth, &UDP]), Ok(walked | ports));
    assert_eq!(flags(59, &[]), Ok(Flags::DONT_FRAGMENT.0));
    assert_eq!(flags(50, &[&UDP]), Ok(Flags::DONT_FRAGMENT.0));

    let refused = Err(ParseError::Ipv6Extension);
    assert_eq!(flags(60, &[&options(0), &options(17), &UDP]), refused);
    assert_eq!(flags(60, &[&options(17)[..7]]), refused);
    assert_eq!(flags(60, &[&[17, 1, 0, 0, 0, 0, 0, 0]]), refused);
    assert_eq!(flags(51, &[&[17, 0, 0, 0, 0, 0, 0, 0], &UDP]), refused);
    let mut eight = [[60, 0, 1, 4, 0, 0, 0, 0]; MAX_EXTENSIONS];
    eight[MAX_EXTENSIONS - 1][0] = 17;
    assert_eq!(flags(60, &[eight.as_flattened(), &UDP]), Ok(walked | ports));
    assert_eq!(flags(60, &[&options(60), eight.as_flattened(), &UDP]), refused);
}

#[test]
fn ipv6_fragments() {
    let part = |next, offset_more: u16| {
        let [high, low] = offset_more.to_be_bytes();
        [next, 0, high, low, 0, 0, 0, 1]
    };
    let packet = |first: u16, rest: &[u8]| ipv6_with(44, &[&part(17, first), rest].concat());
    let atomic = parse(&packet(0, &UDP)).unwrap();
    assert_eq!((atomic.flags.has(Flags::FRAGMENT), atomic.src_port), (false, 12345));
    let first = parse(&packet(1, &[&UDP[..], &[0; 4]].concat())).unwrap();
    assert_eq!((first.flags.has(Flags::FRAGMENT), first.src_port), (true, 12345));
    // The payload of a later fragment is not a chain, whatever the next header says.
    let later = parse(&ipv6_with(44, &[&part(60, 8)[..], &[0xff; 3]].concat())).unwrap();
    assert!(later.flags.has(Flags::LATER_FRAGMENT) && !later.flags.has(Flags::PORTS));
    assert_eq!((later.protocol, later.l4_offset), (60, 62));

    assert_eq!(error(&packet(1, &UDP)), ParseError::FragmentMalformed);
    assert_eq!(error(&packet(8, &[])), ParseError::FragmentMalformed);
    assert_eq!(error(&packet(0xfff8, &[0; 8])), ParseError::FragmentMalformed);
    let twice = ipv6_with(44, &[&part(44, 0)[..], &part(17, 0), &UDP].concat());
    assert_eq!(error(&twice), ParseError::Ipv6Extension);
}

#[test]
fn transport_errors() {
    let over = |protocol, payload: &[u8]| parse(&ipv4_with(&[], protocol, payload, |_| {}));
    let tcp = |at: usize, value| {
        let mut segment = tcp_segment(tcp::ACK);
        segment[at] = value;
        segment
    };
    assert_eq!(over(ipv4::TCP, &tcp(0, 0)[..19]), Err(ParseError::TcpTruncated));
    assert_eq!(over(ipv4::TCP, &tcp(12, 0x40)), Err(ParseError::TcpOffset));
    assert_eq!(over(ipv4::TCP, &tcp(12, 0x60)), Err(ParseError::TcpOffset));
    assert_eq!(over(ipv4::UDP, &UDP[..7]), Err(ParseError::UdpTruncated));
    for len in [0, 7, 13] {
        let mut datagram = UDP;
        datagram[5] = len;
        assert_eq!(over(ipv4::UDP, &datagram), Err(ParseError::UdpLength));
    }
    assert_eq!(over(ipv4::ICMP, &[8, 0, 0, 0, 0, 0, 0]), Err(ParseError::IcmpTruncated));
    assert_eq!(parse(&ipv6_with(ipv6::ICMPV6, &[128, 0, 0, 0, 0, 0, 0])), Err(ParseError::IcmpTruncated));
}

#[test]
fn udp_without_a_checksum() {
    let datagram = [0, 1, 0, 2, 0, 8, 0, 0];
    assert!(parse(&ipv4_with(&[], ipv4::UDP, &datagram, |_| {})).unwrap().flags.has(Flags::NO_CHECKSUM));
    assert!(!parse(&ipv6_with(ipv4::UDP, &datagram)).unwrap().flags.has(Flags::NO_CHECKSUM));
}

#[test]
fn an_echo_has_its_identifier_at_the_askers_end() {
    let message = |kind| [kind, 0, 0, 0, 0x12, 0x34, 0, 1];
    let tuple = |headers: Headers| {
        (headers.icmp_type, headers.flags.has(Flags::PORTS), headers.src_port, headers.dst_port)
    };
    let v4 = |kind| tuple(parse(&ipv4_with(&[], ipv4::ICMP, &message(kind), |_| {})).unwrap());
    let v6 = |kind| tuple(parse(&ipv6_with(ipv6::ICMPV6, &message(kind))).unwrap());
    assert_eq!([v4(8), v4(0)], [(8, true, 0x1234, 0), (0, true, 0, 0x1234)]);
    assert_eq!([v6(128), v6(129)], [(128, true, 0x1234, 0), (129, true, 0, 0x1234)]);
    assert_eq!([v4(9), v6(8)], [(9, false, 0, 0), (8, false, 0, 0)]);
    // Other queries are told apart by what stands at the other end.
    assert_eq!([v4(13), v4(14)], [(13, true, 0x1234, 13), (14, true, 13, 0x1234)]);
    assert_eq!([v4(15), v4(18)], [(15, true, 0x1234, 15), (18, true, 17, 0x1234)]);
    assert_eq!(v6(13), (13, false, 0, 0));
}

#[test]
fn which_icmp_types_are_errors() {
    let is_error = |bytes: &[u8]| parse(bytes).unwrap().flags.has(Flags::ICMP_ERROR);
    let v4 =
        (0..=255).filter(|&kind| is_error(&ipv4_with(&[], ipv4::ICMP, &[kind, 0, 0, 0, 0, 0, 0, 0], |_| {})));
    assert_eq!(v4.collect::<Vec<u8>>(), [3, 4, 11, 12]);
    let v6 = (0..=255).filter(|&kind| is_error(&ipv6_with(ipv6::ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0])));
    assert_eq!(v6.collect::<Vec<u8>>(), [1, 2, 3, 4]);
}
