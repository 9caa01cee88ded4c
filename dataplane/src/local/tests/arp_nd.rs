//! ARP and neighbour discovery, as messages. What time does to neighbours is in `time.rs`.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr, Ipv6Packet,
    NdiscNeighborFlags, NdiscRepr,
};

use super::*;

pub(super) fn arp(operation: u16, mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = hex("ffffffffffff 020000000077 0806 0001 0800 06 04");
    frame[6..12].copy_from_slice(&mac);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame.extend([0; 18]);
    frame
}

/// A message of neighbour discovery from the host's MAC address, with a right checksum.
pub(super) fn nd(source: Ipv6Addr, destination: Ipv6Addr, hops: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let checksum = icmpv6::checksum(source, destination, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0xff, 0, 0, 1];
    frame.extend(HOST_MAC);
    frame.extend([0x86, 0xdd]);
    frame.extend(ipv6::Header::new(source, destination, ipv6::ICMPV6, hops, message.len() as u16).0);
    frame.extend(message);
    frame
}

fn message(kind: u8, flags: u8, target: Ipv6Addr, option: Option<u8>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    if let Some(option) = option {
        message.extend([option, 1]);
        message.extend(HOST_MAC);
    }
    message
}

pub(super) fn solicitation(target: Ipv6Addr) -> Vec<u8> {
    nd(HOST6, link::solicited_node(target), 255, &message(135, 0, target, Some(1)))
}

pub(super) fn advertisement(flags: u8) -> Vec<u8> {
    nd(HOST6, LAN6, 255, &message(136, flags, HOST6, Some(2)))
}

/// What smoltcp makes of a neighbour discovery message that we sent: Ethernet and IPv6 destination, and the message.
fn decode_nd(frame: &[u8]) -> ([u8; 6], Ipv6Addr, Ipv6Addr, NdiscRepr<'_>) {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    assert_eq!((ethernet.ethertype(), ethernet.src_addr().0), (EthernetProtocol::Ipv6, LAN_MAC));
    let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
    assert_eq!(ip.hop_limit(), 255);
    let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let parsed = Icmpv6Repr::parse(&source, &destination, &icmp, &ChecksumCapabilities::default());
    let Ok(Icmpv6Repr::Ndisc(message)) = parsed else { panic!("{parsed:?}") };
    (ethernet.dst_addr().0, source, destination, message)
}

#[test]
fn a_request_for_our_address_is_answered_and_learned_from() {
    let mut gateway = Gateway::settled();
    let (reason, sent) = gateway.input(LAN, &arp(1, HOST_MAC, HOST4, LAN4));
    assert_eq!((reason, gateway.counters.punted), (None, 1));
    let expected =
        "020000000077 020000000001 0806 0001 0800 06 04 0002 020000000001 c0000201 020000000077 c000024d";
    assert_eq!(only(sent), hex(expected));
    let neighbor = gateway.neighbor(HOST4).unwrap();
    assert_eq!((neighbor.state, neighbor.mac), (State::Stale, Some(Mac(HOST_MAC))));
}

#[test]
fn an_answer_carries_the_tags_that_the_request_had() {
    let mut gateway = Gateway::settled();
    let mut request = arp(1, HOST_MAC, Ipv4Addr::new(198, 51, 100, 1), NAT4);
    request.splice(12..12, hex("8100 a064"));
    let (reason, sent) = gateway.input(WAN, &request);
    assert_eq!(reason, None);
    let reply = only(sent);
    assert_eq!(reply[..18], hex("020000000077 020000000002 8100 a064 0806"));
    let arp = ArpRepr::parse(&ArpPacket::new_checked(&reply[18..]).unwrap()).unwrap();
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, .. } = arp else {
        panic!("{arp:?}");
    };
    assert_eq!(
        (operation, source_hardware_addr.0, source_protocol_addr),
        (ArpOperation::Reply, WAN_MAC, NAT4)
    );
}

#[test]
fn what_is_not_on_this_link_is_not_answered_for() {
    let mut gateway = Gateway::settled();
    for target in [WAN4, NAT4, HOST4, Ipv4Addr::new(192, 0, 2, 99)] {
        let (reason, sent) = gateway.input(LAN, &arp(1, HOST_MAC, Ipv4Addr::new(192, 0, 2, 5), target));
        assert_eq!((reason, sent), (Some(DropReason::LocalUnwanted), vec![]), "{target}");
    }
    assert_eq!(gateway.neighbors.iter().count(), 0);
}

#[test]
fn a_probe_is_answered_but_teaches_nothing() {
    let mut gateway = Gateway::settled();
    let (reason, sent) = gateway.input(LAN, &arp(1, HOST_MAC, Ipv4Addr::UNSPECIFIED, LAN4));
    assert_eq!((reason, sent.len(), gateway.neighbors.iter().count()), (None, 1, 0));
    let elsewhere = Ipv4Addr::new(10, 9, 8, 7);
    let (reason, sent) = gateway.input(LAN, &arp(1, HOST_MAC, elsewhere, LAN4));
    assert_eq!((reason, sent.len(), gateway.neighbors.iter().count()), (None, 1, 0));
}

#[test]
fn who_claims_our_address_or_no_station_is_not_believed() {
    let mut gateway = Gateway::settled();
    let multicast = [3, 0, 0, 0, 0, 1];
    for (mac, sender) in [
        (HOST_MAC, LAN4),
        (HOST_MAC, NAT4),
        (LAN_MAC, HOST4),
        (multicast, HOST4),
        ([0; 6], HOST4),
        (HOST_MAC, Ipv4Addr::new(224, 0, 0, 1)),
        (HOST_MAC, Ipv4Addr::BROADCAST),
    ] {
        for operation in [1, 2] {
            let (reason, sent) = gateway.input(LAN, &arp(operation, mac, sender, LAN4));
            assert_eq!((reason, sent), (Some(DropReason::LocalInvalid), vec![]), "{mac:?} {sender}");
        }
    }
    assert_eq!(gateway.neighbors.iter().count(), 0);
}

#[test]
fn what_is_told_to_all_changes_only_what_is_known() {
    let mut gateway = Gateway::settled();
    let (reason, _) = gateway.input(LAN, &arp(1, HOST_MAC, HOST4, HOST4));
    assert_eq!((reason, gateway.neighbor(HOST4)), (Some(DropReason::LocalUnwanted), None));
    gateway.input(LAN, &arp(1, HOST_MAC, HOST4, LAN4));
    let index = gateway.resolve(LAN, HOST4).unwrap();
    let moved = [2, 0, 0, 0, 0, 0x78];
    for operation in [1, 2] {
        let (reason, _) = gateway.input(LAN, &arp(operation, moved, HOST4, HOST4));
        assert_eq!(reason, None);
        assert_eq!(gateway.neighbors.hop(index).header[..6], moved);
    }
    // A reply that is not for us.
    let (reason, _) = gateway.input(LAN, &arp(2, HOST_MAC, HOST4, Ipv4Addr::new(192, 0, 2, 5)));
    assert_eq!(reason, Some(DropReason::LocalUnwanted));
    assert_eq!(gateway.neighbors.hop(index).header[..6], moved);
}

#[test]
fn a_solicitation_is_answered_and_learned_from() {
    let mut gateway = Gateway::settled();
    for target in [LAN6, LAN_LOCAL] {
        let (reason, sent) = gateway.input(LAN, &solicitation(target));
        assert_eq!(reason, None);
        let frame = only(sent);
        let (mac, source, destination, message) = decode_nd(&frame);
        assert_eq!((mac, source, destination), (HOST_MAC, target, HOST6));
        let NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } = message else { panic!("{message:?}") };
        assert_eq!((target_addr, lladdr.unwrap().as_bytes()), (target, &LAN_MAC[..]));
        assert!(flags.is_all());
    }
    let neighbor = gateway.neighbor(HOST6).unwrap();
    assert_eq!((neighbor.state, neighbor.mac), (State::Stale, Some(Mac(HOST_MAC))));
}

#[test]
fn duplicate_address_detection_is_answered_to_all() {
    let mut gateway = Gateway::settled();
    let dad = nd(Ipv6Addr::UNSPECIFIED, link::solicited_node(LAN6), 255, &message(135, 0, LAN6, None));
    let (reason, sent) = gateway.input(LAN, &dad);
    assert_eq!(reason, None);
    let frame = only(sent);
    let (mac, source, destination, message) = decode_nd(&frame);
    assert_eq!((mac, source, destination), ([0x33, 0x33, 0, 0, 0, 1], LAN6, link::ALL_NODES));
    let NdiscRepr::NeighborAdvert { flags, .. } = message else { panic!("{message:?}") };
    assert_eq!(flags, NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE);
    assert_eq!(gateway.neighbors.iter().count(), 0);
}

#[test]
fn invalid_messages_are_not_believed() {
    let mut gateway = Gateway::settled();
    let group = link::solicited_node(LAN6);
    let ask = message(135, 0, LAN6, Some(1));
    let tell = message(136, 0x60, HOST6, Some(2));
    let mut bad_checksum = solicitation(LAN6);
    *bad_checksum.last_mut().unwrap() ^= 1;
    let mut bad_code = ask.clone();
    bad_code[1] = 1;
    let mut empty_option = ask.clone();
    empty_option[25] = 0;
    let mut group_option = ask.clone();
    group_option[26] |= 1;
    let mut long_option = ask.clone();
    long_option[25] = 2;
    let cases = [
        ("hop limit", nd(HOST6, group, 254, &ask)),
        ("checksum", bad_checksum),
        ("code", nd(HOST6, group, 255, &bad_code)),
        ("too short", nd(HOST6, group, 255, &ask[..20])),
        ("option of no length", nd(HOST6, group, 255, &empty_option)),
        ("option past the end", nd(HOST6, group, 255, &long_option)),
        ("option names a group", nd(HOST6, group, 255, &group_option)),
        ("target is a group", nd(HOST6, group, 255, &message(135, 0, group, Some(1)))),
        ("DAD with an option", nd(Ipv6Addr::UNSPECIFIED, group, 255, &ask)),
        ("DAD to us alone", nd(Ipv6Addr::UNSPECIFIED, LAN6, 255, &message(135, 0, LAN6, None))),
        ("our own source", nd(LAN6, group, 255, &ask)),
        ("advertisement, hop limit", nd(HOST6, LAN6, 1, &tell)),
        ("solicited, but to all", nd(HOST6, link::ALL_NODES, 255, &tell)),
        ("our own address advertised", nd(HOST6, LAN6, 255, &message(136, 0x20, LAN6, Some(2)))),
    ];
    for (what, frame) in cases {
        let (reason, sent) = gateway.input(LAN, &frame);
        assert_eq!((reason, sent), (Some(DropReason::LocalInvalid), vec![]), "{what}");
    }
    assert_eq!(gateway.neighbors.iter().count(), 0);
}

#[test]
fn what_concerns_others_is_unwanted() {
    let mut gateway = Gateway::settled();
    let other = "2001:db8::99".parse().unwrap();
    let router =
        |kind: u8| nd(LAN6, link::ALL_NODES, 255, &[kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for frame in
        [solicitation(other), advertisement(0x60), router(133), router(134), router(137), router(130)]
    {
        let (reason, sent) = gateway.input(LAN, &frame);
        assert_eq!((reason, sent), (Some(DropReason::LocalUnwanted), vec![]));
    }
    assert_eq!(gateway.neighbors.iter().count(), 0);
}

#[test]
fn the_override_flag_is_heeded() {
    let mut gateway = Gateway::settled();
    let index = gateway.resolve(LAN, HOST6).unwrap();
    let old = [2, 0, 0, 0, 0, 0x55];
    assert!(gateway.learn(LAN, HOST6, old, Evidence::Answer));
    assert_eq!(gateway.neighbor(HOST6).unwrap().state, State::Reachable);
    gateway.input(LAN, &advertisement(0x40));
    assert_eq!(gateway.neighbors.hop(index).header[..6], old);
    assert_eq!(gateway.neighbor(HOST6).unwrap().state, State::Stale);
    gateway.input(LAN, &advertisement(0x60));
    assert_eq!(gateway.neighbors.hop(index).header[..6], HOST_MAC);
    assert_eq!(gateway.neighbor(HOST6).unwrap().state, State::Reachable);
}

#[test]
fn an_advertisement_without_an_address_confirms_what_is_known_only() {
    let mut gateway = Gateway::settled();
    gateway.resolve(LAN, HOST6).unwrap();
    let bare = nd(HOST6, LAN6, 255, &message(136, 0x60, HOST6, None));
    assert_eq!(gateway.input(LAN, &bare).0, Some(DropReason::LocalUnwanted));
    assert_eq!(gateway.neighbor(HOST6).unwrap().state, State::Incomplete);
    assert!(gateway.learn(LAN, HOST6, HOST_MAC, Evidence::Question));
    assert_eq!(gateway.input(LAN, &bare).0, None);
    assert_eq!(gateway.neighbor(HOST6).unwrap().state, State::Reachable);
}
