//! What senders are told, and when they are told nothing.

use etherparse::{Icmpv4Type, Icmpv6Type, NetHeaders, PacketHeaders, TransportHeader};

use super::echo::{ping4, ping6};
use super::*;

const FAR4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1);

/// Type, code, the four bytes behind the checksum, and the quoted packet of an ICMP error that we sent to the host.
fn error4(frame: &[u8]) -> (u8, u8, [u8; 4], Vec<u8>) {
    let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Icmpv4(icmp))) = (packet.net, packet.transport)
    else {
        panic!("no ICMP");
    };
    assert_eq!((ip.source, ip.destination), (LAN4.octets(), HOST4.octets()));
    assert_eq!((ip.time_to_live, ip.dscp.value() << 2 | ip.ecn.value()), (64, 0xc0));
    assert_eq!((&frame[..6], &frame[6..12]), (&HOST_MAC[..], &LAN_MAC[..]));
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    let quoted = packet.payload.slice().to_vec();
    assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(&quoted));
    let head = &frame[34..42];
    (head[0], head[1], head[4..].try_into().unwrap(), quoted)
}

fn error6(frame: &[u8]) -> (u8, u8, [u8; 4], Vec<u8>) {
    let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Icmpv6(icmp))) = (packet.net, packet.transport)
    else {
        panic!("no ICMPv6");
    };
    assert_eq!((ip.source, ip.destination, ip.hop_limit), (LAN6.octets(), HOST6.octets(), 64));
    let quoted = packet.payload.slice().to_vec();
    assert_eq!(Ok(icmp.checksum), icmp.icmp_type.calc_checksum(ip.source, ip.destination, &quoted));
    let head = &frame[54..62];
    (head[0], head[1], head[4..].try_into().unwrap(), quoted)
}

#[test]
fn each_answer_has_its_type_and_code_in_both_families() {
    let mut gateway = Gateway::settled();
    let (four, six) = (udp4(HOST4, FAR4, b"data"), udp6(HOST6, FAR6, b"data"));
    let mtu = 1400u32.to_be_bytes();
    for (answer, v4, v6) in [
        (Answer::TimeExceeded, (11, 0, [0; 4]), (3, 0, [0; 4])),
        (Answer::NoRoute, (3, 0, [0; 4]), (1, 0, [0; 4])),
        (Answer::HostUnreachable, (3, 1, [0; 4]), (1, 3, [0; 4])),
        (Answer::ProtocolUnreachable, (3, 2, [0; 4]), (4, 1, [0, 0, 0, 6])),
        (Answer::PortUnreachable, (3, 3, [0; 4]), (1, 4, [0; 4])),
        (Answer::Prohibited, (3, 13, [0; 4]), (1, 1, [0; 4])),
        (Answer::TooBig(1400), (3, 4, mtu), (2, 0, mtu)),
    ] {
        let (kind, code, rest, quoted) = error4(&only(gateway.reject(LAN, &four, answer)));
        assert_eq!(((kind, code, rest), &quoted[..]), (v4, &four[14..]), "{answer:?}");
        let (kind, code, rest, quoted) = error6(&only(gateway.reject(LAN, &six, answer)));
        assert_eq!(((kind, code, rest), &quoted[..]), (v6, &six[14..]), "{answer:?}");
    }
}

#[test]
fn as_much_is_quoted_as_may_be() {
    let mut gateway = Gateway::settled();
    let four = udp4(HOST4, FAR4, &[7; 1400]);
    let error = only(gateway.reject(LAN, &four, Answer::TimeExceeded));
    assert_eq!((error.len() - 14, error4(&error).3), (576, four[14..14 + 548].to_vec()));
    let six = udp6(HOST6, FAR6, &[7; 1400]);
    let error = only(gateway.reject(LAN, &six, Answer::TimeExceeded));
    assert_eq!((error.len() - 14, error6(&error).3), (1280, six[14..14 + 1232].to_vec()));
    // Ethernet padding is not part of the packet.
    let mut padded = udp4(HOST4, FAR4, b"x");
    padded.resize(60, 0xee);
    let error = only(gateway.reject(LAN, &padded, Answer::TimeExceeded));
    assert_eq!(error4(&error).3.len(), 29);
}

#[test]
fn the_sender_is_told_behind_its_tags() {
    let mut gateway = Gateway::settled();
    let mut tagged = udp4(Ipv4Addr::new(198, 51, 100, 3), FAR4, b"");
    tagged.splice(12..12, hex("8100 e064"));
    let error = only(gateway.reject(WAN, &tagged, Answer::TimeExceeded));
    assert_eq!(error[..18], hex("020000000077 020000000002 8100 e064 0800"));
    assert_eq!(error[18 + 12..18 + 16], WAN4.octets());
}

#[test]
fn who_must_not_be_told_is_not() {
    let mut gateway = Gateway::settled();
    let four = |source: &str, destination: &str| {
        udp4(source.parse().unwrap(), destination.parse().unwrap(), b"0123456789abcdef")
    };
    let six = |source: &str, destination: &str| {
        udp6(source.parse().unwrap(), destination.parse().unwrap(), b"0123456789abcdef")
    };
    let icmp4 = |kind: Icmpv4Type| {
        let builder = PacketBuilder::ethernet2(HOST_MAC, LAN_MAC).ipv4(HOST4.octets(), FAR4.octets(), 9);
        packet!(builder.icmpv4(kind), &[0; 28])
    };
    let icmp6 = |type_u8: u8| {
        let builder = PacketBuilder::ethernet2(HOST_MAC, LAN_MAC).ipv6(HOST6.octets(), FAR6.octets(), 9);
        packet!(builder.icmpv6(Icmpv6Type::Unknown { type_u8, code_u8: 0, bytes5to8: [0; 4] }), &[0; 48])
    };
    let unknown4 = |type_u8: u8| icmp4(Icmpv4Type::Unknown { type_u8, code_u8: 0, bytes5to8: [0; 4] });
    let mut later = four("192.0.2.77", "203.0.113.50");
    let mut ip = ipv4::Header::at_mut(&mut later, 14).unwrap();
    ip.set_flags_fragment(1);
    ip.fill_checksum();
    let mut group_frame = four("192.0.2.77", "203.0.113.50");
    group_frame[0] |= 1;
    let mut no_station = four("192.0.2.77", "203.0.113.50");
    no_station[6..12].fill(0);
    let cases = [
        ("unreachable", unknown4(3)),
        ("redirect", unknown4(5)),
        ("time exceeded", unknown4(11)),
        ("parameter problem", unknown4(12)),
        ("unreachable, v6", icmp6(1)),
        ("unknown error, v6", icmp6(100)),
        ("redirect, v6", icmp6(137)),
        ("later fragment", later),
        ("multicast frame", group_frame),
        ("source MAC of nobody", no_station),
        ("to everybody", four("192.0.2.77", "255.255.255.255")),
        ("to the subnet", four("192.0.2.77", "192.0.2.255")),
        ("to a group", four("192.0.2.77", "239.1.2.3")),
        ("to a group, v6", six("2001:db8::77", "ff05::1")),
        ("from nobody", four("0.0.0.0", "203.0.113.50")),
        ("from the subnet", four("192.0.2.255", "203.0.113.50")),
        ("from loopback", four("127.0.0.1", "203.0.113.50")),
        ("from a group", four("224.0.0.9", "203.0.113.50")),
        ("from the future", four("240.0.0.1", "203.0.113.50")),
        ("from us", four("192.0.2.1", "203.0.113.50")),
        ("from nobody, v6", six("::", "2001:db8:9::1")),
        ("from loopback, v6", six("::1", "2001:db8:9::1")),
        ("from a group, v6", six("ff02::1", "2001:db8:9::1")),
        ("from us, v6", six("2001:db8::1", "2001:db8:9::1")),
    ];
    for (what, frame) in cases {
        assert_eq!(gateway.reject(LAN, &frame, Answer::TimeExceeded), Vec::<Vec<u8>>::new(), "{what}");
    }
    assert_eq!(gateway.counters.icmp_suppressed, 0, "no token is taken for what is not sent");
    for ping in [ping4(HOST4, FAR4, b""), ping6(HOST6, FAR6, b"")] {
        assert_eq!(gateway.reject(LAN, &ping, Answer::TimeExceeded).len(), 1, "a ping is no error");
    }
}

#[test]
fn errors_have_a_rate() {
    let mut gateway = Gateway::with(Snapshot { icmp_per_second: 10, ..snapshot() });
    let packet = udp4(HOST4, FAR4, b"");
    let told = |gateway: &mut Gateway| {
        (0..30).filter(|_| !gateway.reject(LAN, &packet, Answer::NoRoute).is_empty()).count()
    };
    assert_eq!((told(&mut gateway), gateway.counters.icmp_suppressed), (10, 20));
    gateway.now += SECOND / 2;
    assert_eq!(told(&mut gateway), 5);
    let mut silent = Gateway::with(Snapshot { icmp_per_second: 0, ..snapshot() });
    assert_eq!(told(&mut silent), 0);
}

#[test]
fn nobody_listens_on_the_gateway() {
    let mut gateway = Gateway::settled();
    let (reason, sent) = gateway.input(LAN, &udp4(HOST4, LAN4, b"query"));
    assert_eq!(reason, Some(DropReason::LocalUnwanted));
    assert_eq!(error4(&only(sent)).1, 3);
    assert_eq!(error6(&only(gateway.input(LAN, &udp6(HOST6, LAN6, b"query")).1)).1, 4);
    // A NAT address has no services to refuse.
    assert_eq!(gateway.input(LAN, &udp4(HOST4, NAT4, b"query")), (Some(DropReason::LocalUnwanted), vec![]));
    let mut bad = udp4(HOST4, LAN4, b"query");
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(gateway.input(LAN, &bad), (Some(DropReason::LocalInvalid), vec![]));
    let mut without = udp4(HOST4, LAN4, b"query");
    without[40..42].fill(0);
    assert_eq!(gateway.input(LAN, &without).1.len(), 1, "UDP over IPv4 may leave its checksum out");
}

#[test]
fn a_checksum_that_hardware_was_to_finish_is_no_error() {
    let mut snapshot = snapshot();
    snapshot.ports[0].complete_checksums = true;
    let mut gateway = Gateway::with(snapshot);
    let mut partial = udp4(HOST4, LAN4, b"query");
    let sum = ipv4::Header::at(&partial, 14).unwrap().pseudo_header(ipv4::UDP, 13).fold();
    partial[40..42].copy_from_slice(&sum.to_be_bytes());
    let (reason, sent) = gateway.input(LAN, &partial);
    assert_eq!((reason, sent.len()), (Some(DropReason::LocalUnwanted), 1));
}

#[test]
fn segments_are_reset_as_rfc_9293_has_it() {
    let mut gateway = Gateway::settled();
    let four = || PacketBuilder::ethernet2(HOST_MAC, LAN_MAC).ipv4(HOST4.octets(), LAN4.octets(), 9);
    let six = || PacketBuilder::ethernet2(HOST_MAC, LAN_MAC).ipv6(HOST6.octets(), LAN6.octets(), 9);
    let cases = [
        // SYN: <SEQ=0><ACK=SEG.SEQ+SEG.LEN>
        (packet!(four().tcp(4000, 22, 1000, 1).syn(), b""), (0, 1001, true)),
        (packet!(six().tcp(4000, 22, u32::MAX, 1).syn().fin(), b"ab"), (0, 3, true)),
        // ACK: <SEQ=SEG.ACK>, and no ACK
        (packet!(four().tcp(4000, 22, 1000, 1).ack(555), b"data"), (555, 0, false)),
        (packet!(six().tcp(4000, 22, 1000, 1).syn().ack(556), b""), (556, 0, false)),
    ];
    for (segment, (sequence, acknowledgment, ack)) in cases {
        let (reason, sent) = gateway.input(LAN, &segment);
        assert_eq!(reason, Some(DropReason::LocalUnwanted));
        let frame = only(sent);
        let packet = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
        assert!(tcp.rst && tcp.ack == ack && !tcp.syn && !tcp.fin);
        assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (sequence, acknowledgment));
        assert_eq!((tcp.source_port, tcp.destination_port), (22, 4000));
        let checksum = match packet.net.unwrap() {
            NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(&ip, b"").unwrap(),
            NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(&ip, b"").unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(tcp.checksum, checksum);
    }
    let reset = packet!(four().tcp(4000, 22, 1000, 1).rst(), b"");
    assert_eq!(gateway.input(LAN, &reset), (Some(DropReason::LocalUnwanted), vec![]));
}

#[test]
fn unknown_protocols_are_refused_where_the_number_stands() {
    let mut gateway = Gateway::settled();
    let mut gre = udp4(HOST4, LAN4, &[0; 12]);
    let mut ip = ipv4::Header::at_mut(&mut gre, 14).unwrap();
    ip.set_protocol(ipv4::GRE);
    ip.fill_checksum();
    let (kind, code, ..) = error4(&only(gateway.input(LAN, &gre).1));
    assert_eq!((kind, code), (3, 2));

    // Hop-by-hop options of 8 bytes, destination options of 16, a fragment header of a whole datagram, then GRE.
    let chain = hex("3c00 0104 00000000  2c01 010c 00000000 0000000000000000  2f00 0000 00000001  00000000");
    for (skip, first, pointer) in [(0, 0, 40 + 24), (8, 60, 40 + 16), (24, 44, 40), (32, 47, 6)] {
        let payload = &chain[skip..];
        let header = ipv6::Header::new(HOST6, LAN6, first, 9, payload.len() as u16);
        let frame = [&LAN_MAC[..], &HOST_MAC, &[0x86, 0xdd], &header.0, payload].concat();
        let (reason, sent) = gateway.input(LAN, &frame);
        assert_eq!(reason, Some(DropReason::LocalUnwanted));
        let (kind, code, rest, _) = error6(&only(sent));
        assert_eq!((kind, code, u32::from_be_bytes(rest)), (4, 1, pointer));
    }
    let nothing = ipv6::Header::new(HOST6, LAN6, ipv6::NO_NEXT_HEADER, 9, 0);
    let frame = [&LAN_MAC[..], &HOST_MAC, &[0x86, 0xdd], &nothing.0].concat();
    assert_eq!(gateway.input(LAN, &frame), (Some(DropReason::LocalUnwanted), vec![]));
}

#[test]
fn a_full_outbox_and_an_empty_pool_lose_nothing_uncounted() {
    let mut gateway = Gateway::settled();
    gateway.outboxes[0] = Outbox::new(0);
    let (reason, sent) = gateway.input(LAN, &ping4(HOST4, LAN4, b""));
    assert_eq!((reason, sent.len()), (Some(DropReason::TransmitQueueFull), 0));
    assert_eq!(
        (gateway.counters.punted, gateway.counters.drops[DropReason::TransmitQueueFull as usize]),
        (1, 1)
    );

    let mut starved =
        Gateway::with(Snapshot { sizes: Sizes { frames: 1, ..Sizes::default() }, ..snapshot() });
    let (reason, sent) = starved.input(LAN, &ping4(HOST4, LAN4, b""));
    assert_eq!((reason, sent.len(), starved.counters.originated), (None, 0, 0));
}
