//! Ping.

use etherparse::{Icmpv4Type, Icmpv6Type, NetHeaders, PacketHeaders, TransportHeader};

use super::*;

pub(super) fn ping4(source: Ipv4Addr, destination: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HOST_MAC, LAN_MAC).ipv4(source.octets(), destination.octets(), 3);
    packet!(builder.icmpv4_echo_request(0x1234, 7), data)
}

pub(super) fn ping6(source: Ipv6Addr, destination: Ipv6Addr, data: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HOST_MAC, LAN_MAC).ipv6(source.octets(), destination.octets(), 3);
    packet!(builder.icmpv6_echo_request(0x1234, 7), data)
}

#[test]
fn pings_bring_back_what_they_bring() {
    let mut gateway = Gateway::settled();
    let data: Vec<u8> = (0..1473u32).map(|i| i as u8).collect();
    for len in [0, 1, 56, 57, 1472] {
        for asked in [LAN4, WAN4, NAT4] {
            let (reason, sent) = gateway.input(LAN, &ping4(HOST4, asked, &data[..len]));
            assert_eq!(reason, None);
            let frame = only(sent);
            assert_eq!((&frame[..6], &frame[6..12]), (&HOST_MAC[..], &LAN_MAC[..]));
            let reply = PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Icmpv4(icmp))) =
                (reply.net, reply.transport)
            else {
                panic!("no ICMP");
            };
            assert_eq!((ip.source, ip.destination, ip.time_to_live), (asked.octets(), HOST4.octets(), 64));
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let Icmpv4Type::EchoReply(echo) = icmp.icmp_type else { panic!("{icmp:?}") };
            assert_eq!((echo.id, echo.seq, reply.payload.slice()), (0x1234, 7, &data[..len]));
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(&data[..len]));
        }
    }
}

#[test]
fn pings_over_ipv6_too() {
    let mut gateway = Gateway::settled();
    let link_local = "fe80::77".parse().unwrap();
    for (asker, asked, source) in [
        (HOST6, LAN6, LAN6),
        (link_local, LAN_LOCAL, LAN_LOCAL),
        (link_local, link::ALL_NODES, LAN_LOCAL),
        (HOST6, link::ALL_NODES, LAN6),
    ] {
        let (reason, sent) = gateway.input(LAN, &ping6(asker, asked, b"odd"));
        assert_eq!(reason, None);
        let frame = only(sent);
        let reply = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Icmpv6(icmp))) =
            (reply.net, reply.transport)
        else {
            panic!("no ICMPv6");
        };
        assert_eq!((ip.source, ip.destination), (source.octets(), asker.octets()));
        let Icmpv6Type::EchoReply(echo) = icmp.icmp_type else { panic!("{icmp:?}") };
        assert_eq!((echo.id, echo.seq, reply.payload.slice()), (0x1234, 7, &b"odd"[..]));
        let checksum = icmp.icmp_type.calc_checksum(ip.source, ip.destination, b"odd").unwrap();
        assert_eq!(icmp.checksum, checksum);
    }
}

#[test]
fn the_class_of_service_comes_back_without_congestion_marks() {
    let mut gateway = Gateway::settled();
    let mut ping = ping4(HOST4, LAN4, b"");
    let mut ip = ipv4::Header::at_mut(&mut ping, 14).unwrap();
    ip.set_dscp_ecn(0xb9 | 3);
    ip.fill_checksum();
    let reply = only(gateway.input(LAN, &ping).1);
    assert_eq!(reply[15], 0xb8);
}

#[test]
fn an_answer_leaves_ethernet_padding_behind() {
    let mut gateway = Gateway::settled();
    let mut ping = ping4(HOST4, LAN4, b"x");
    ping.resize(60, 0xee);
    assert_eq!(only(gateway.input(LAN, &ping).1).len(), 14 + 20 + 8 + 1);
}

#[test]
fn not_every_ping_is_answered() {
    let mut gateway = Gateway::settled();
    let broken = |mut ping: Vec<u8>| {
        *ping.last_mut().unwrap() ^= 1;
        ping
    };
    let mut broadcast_frame = ping4(HOST4, LAN4, b"abcd");
    broadcast_frame[..6].fill(0xff);
    let mut group_source = ping4(HOST4, LAN4, b"abcd");
    group_source[6] |= 1;
    let mut fragment = ping4(HOST4, LAN4, &[0; 16]);
    let mut ip = ipv4::Header::at_mut(&mut fragment, 14).unwrap();
    ip.set_flags_fragment(ipv4::MORE_FRAGMENTS);
    ip.fill_checksum();
    let reply = packet!(
        PacketBuilder::ethernet2(HOST_MAC, LAN_MAC)
            .ipv4(HOST4.octets(), LAN4.octets(), 3)
            .icmpv4_echo_reply(1, 2),
        b"abcd",
    );
    use DropReason::{LocalInvalid, LocalUnwanted};
    let group = "ff02::2".parse().unwrap();
    let cases = [
        ("checksum", broken(ping4(HOST4, LAN4, b"abcd")), LocalInvalid),
        ("checksum, v6", broken(ping6(HOST6, LAN6, b"abcd")), LocalInvalid),
        ("from everybody", ping4(Ipv4Addr::BROADCAST, LAN4, b"abcd"), LocalInvalid),
        ("from loopback", ping4(Ipv4Addr::LOCALHOST, LAN4, b"abcd"), LocalInvalid),
        ("from nobody, v6", ping6(Ipv6Addr::UNSPECIFIED, LAN6, b"abcd"), LocalInvalid),
        ("from a group's MAC", group_source, LocalInvalid),
        ("to everybody", ping4(HOST4, Ipv4Addr::BROADCAST, b"abcd"), LocalUnwanted),
        ("to the subnet", ping4(HOST4, Ipv4Addr::new(192, 0, 2, 255), b"abcd"), LocalUnwanted),
        ("to a group", ping4(HOST4, Ipv4Addr::new(224, 0, 0, 1), b"abcd"), LocalUnwanted),
        ("to a group, v6", ping6(HOST6, group, b"abcd"), LocalUnwanted),
        ("in a broadcast frame", broadcast_frame, LocalUnwanted),
        ("a fragment", fragment, LocalUnwanted),
        ("a reply", reply, LocalUnwanted),
    ];
    for (what, ping, expected) in cases {
        let (reason, sent) = gateway.input(LAN, &ping);
        assert_eq!((reason, sent), (Some(expected), vec![]), "{what}");
    }
}

#[test]
fn pings_have_a_rate_and_a_budget_of_their_own() {
    let mut gateway = Gateway::with(Snapshot { icmp_per_second: 10, ..snapshot() });
    let answered = |gateway: &mut Gateway| {
        (0..30).filter(|_| !gateway.input(LAN, &ping4(HOST4, LAN4, b"")).1.is_empty()).count()
    };
    assert_eq!(
        (answered(&mut gateway), gateway.counters.icmp_suppressed, gateway.counters.punted),
        (10, 20, 30)
    );
    assert_eq!(gateway.reject(LAN, &udp4(HOST4, NAT4, b""), Answer::TimeExceeded).len(), 1);
    gateway.now += SECOND / 2;
    assert_eq!(answered(&mut gateway), 5);
}
