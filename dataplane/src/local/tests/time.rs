//! What time brings about: requests, probes, failures, announcements.

use super::arp_nd::{advertisement, arp};
use super::*;
use crate::clock::MILLISECOND;

/// Lets time pass in steps, and collects what is sent by a port, and when (in milliseconds from now).
fn pass(gateway: &mut Gateway, time: Nanos, port: u16) -> Vec<(u64, Vec<u8>)> {
    let start = gateway.now;
    let mut sent = Vec::new();
    while gateway.now < start + time {
        gateway.tick();
        let at = (gateway.now - start) / MILLISECOND;
        sent.extend(gateway.sent(port).into_iter().map(|frame| (at, frame)));
        gateway.now += 50 * MILLISECOND;
    }
    sent
}

fn times(sent: &[(u64, Vec<u8>)]) -> Vec<u64> {
    sent.iter().map(|(at, _)| *at).collect()
}

fn drops(gateway: &Gateway, reason: DropReason) -> u64 {
    gateway.counters.drops[reason as usize]
}

#[test]
fn three_tries_then_the_senders_of_what_waits_are_told() {
    let mut gateway = Gateway::settled();
    let target = Ipv4Addr::new(198, 51, 100, 1);
    let index = gateway.resolve(WAN, target).unwrap();
    let packet = udp4(HOST4, target, b"waits");
    for n in 0..10 {
        let expected = (n >= 8).then_some(DropReason::NeighborQueueFull);
        assert_eq!(gateway.hold(index, LAN, &packet), expected);
    }
    assert_eq!((gateway.neighbors.held(), gateway.neighbor(target).unwrap().held), (8, 8));
    let sent = pass(&mut gateway, 2950 * MILLISECOND, WAN);
    assert_eq!(times(&sent), [0, 1000, 2000]);
    let expected = hex(
        "ffffffffffff 020000000002 8100 0064 0806 0001 0800 06 04 0001 020000000002 c6336402 000000000000 c6336401",
    );
    assert!(sent.iter().all(|(_, frame)| *frame == expected));
    assert_eq!(drops(&gateway, DropReason::NeighborUnreachable), 0);

    gateway.now += 50 * MILLISECOND;
    gateway.tick();
    assert_eq!((drops(&gateway, DropReason::NeighborUnreachable), gateway.neighbors.held()), (8, 0));
    let told = gateway.sent(LAN);
    assert_eq!(told.len(), 8);
    assert!(told.iter().all(|frame| frame[34..36] == [3, 1] && frame[42..] == packet[14..]));

    // Refused for three seconds, then asked for again.
    assert_eq!(gateway.resolve(WAN, target), Err(DropReason::NeighborUnreachable));
    assert_eq!(gateway.hold(index, LAN, &packet), Some(DropReason::NeighborUnreachable));
    assert!(pass(&mut gateway, 3 * SECOND, WAN).is_empty());
    assert_eq!(gateway.hold(index, LAN, &packet), None);
    assert_eq!(times(&pass(&mut gateway, 4 * SECOND, WAN)), [0, 1000, 2000]);
}

#[test]
fn ipv6_neighbours_are_solicited() {
    let mut gateway = Gateway::settled();
    let index = gateway.resolve(LAN, HOST6).unwrap();
    let sent = pass(&mut gateway, 4 * SECOND, LAN);
    assert_eq!(times(&sent), [0, 1000, 2000]);
    let frame = &sent[0].1;
    assert_eq!(frame[..14], hex("3333ff123456 020000000001 86dd"));
    assert_eq!(frame[14..54], ipv6::Header::new(LAN6, link::solicited_node(HOST6), 58, 255, 32).0);
    assert_eq!(
        (frame[54], &frame[62..78], &frame[78..]),
        (135, &HOST6.octets()[..], &hex("0101 020000000001")[..])
    );
    assert_eq!(icmpv6::checksum(LAN6, link::solicited_node(HOST6), &frame[54..]), 0);
    assert!(!gateway.neighbors.hop(index).resolved);
}

#[test]
fn what_waits_goes_on_when_the_neighbour_answers() {
    let mut gateway = Gateway::settled();
    let target = Ipv4Addr::new(192, 0, 2, 50);
    let index = gateway.resolve(LAN, target).unwrap();
    let (from_wan, from_lan) = (udp4(NAT4, target, b"from wan"), udp4(HOST4, target, b"from lan"));
    for (port, packet) in [(WAN, &from_wan), (WAN, &from_wan), (LAN, &from_lan), (WAN, &from_wan)] {
        let mut packet = packet.clone();
        if port == WAN {
            packet.splice(12..12, hex("8100 0064"));
        }
        assert_eq!(gateway.hold(index, port, &packet), None);
    }
    let epoch = gateway.neighbors.epoch();
    assert!(!gateway.neighbors.is_ready());
    assert_eq!(gateway.input(LAN, &arp(2, HOST_MAC, target, LAN4)).0, None);

    let hop = *gateway.neighbors.hop(index);
    assert_eq!((hop.resolved, hop.egress.port, hop.egress.interface, hop.egress.mtu), (true, LAN, LAN, 1500));
    assert_eq!(hop.header[..hop.egress.header_len.into()], hex("020000000077 020000000001 0800"));
    assert_eq!(gateway.neighbors.epoch(), epoch, "an answer changes no index");
    let mut burst = Burst::default();
    for (port, count) in [(WAN, 2), (LAN, 1), (WAN, 1)] {
        assert!(gateway.neighbors.is_ready());
        gateway.neighbors.release(&mut burst);
        assert_eq!((burst.port, burst.len()), (port, count));
        for i in 0..count {
            assert_eq!(burst.bytes(i).ends_with(b"from lan"), port == LAN);
            let frame = burst.take(i).unwrap();
            gateway.pool.give(frame);
            gateway.counters.dropped(DropReason::Shutdown, 1);
        }
        burst.clear();
    }
    assert!(!gateway.neighbors.is_ready() && gateway.neighbors.held() == 0);
    gateway.check();
}

#[test]
fn next_hops_carry_the_tags_of_their_interface() {
    let mut gateway = Gateway::settled();
    let gateway_address = Ipv4Addr::new(198, 51, 100, 1);
    let index = gateway.resolve(WAN, gateway_address).unwrap();
    assert!(gateway.learn(WAN, gateway_address, HOST_MAC, Evidence::Answer));
    let hop = gateway.neighbors.hop(index);
    assert_eq!(hop.header[..hop.egress.header_len.into()], hex("020000000077 020000000002 8100 0064 0800"));
    assert_eq!((size_of::<neighbor::NextHop>(), gateway.neighbors.hop(9999).resolved), (32, false));
}

#[test]
fn neighbours_in_use_are_probed_each_minute_by_unicast() {
    let mut gateway = Gateway::settled();
    let index = gateway.resolve(LAN, HOST4).unwrap();
    gateway.resolve(LAN, HOST6).unwrap();
    gateway.learn(LAN, HOST4, HOST_MAC, Evidence::Answer);
    gateway.learn(LAN, HOST6, HOST_MAC, Evidence::Answer);
    let sent = pass(&mut gateway, 60 * SECOND + 50 * MILLISECOND, LAN);
    assert_eq!(times(&sent), [60_000, 60_000]);
    assert!(sent.iter().all(|(_, frame)| frame[..6] == HOST_MAC));
    assert_eq!(sent[1].1[38..54], HOST6.octets(), "to the neighbour's own address");
    assert_eq!(gateway.neighbor(HOST4).unwrap().state, State::Probe);
    assert!(gateway.neighbors.hop(index).resolved, "packets go on meanwhile");
    gateway.input(LAN, &arp(2, HOST_MAC, HOST4, LAN4));
    gateway.input(LAN, &advertisement(0x60));
    assert_eq!(gateway.neighbor(HOST4).unwrap().state, State::Reachable);

    // Nobody answers any more.
    let sent = pass(&mut gateway, 64 * SECOND, LAN);
    assert_eq!(times(&sent), [60_000, 60_000, 61_000, 61_000, 62_000, 62_000]);
    assert_eq!(gateway.neighbor(HOST4).unwrap().state, State::Failed);
    assert!(!gateway.neighbors.hop(index).resolved);
    // It comes back and says so.
    gateway.input(LAN, &arp(1, HOST_MAC, HOST4, HOST4));
    assert!(gateway.neighbors.hop(index).resolved);
}

#[test]
fn who_was_only_overheard_is_probed_once_it_is_used() {
    let mut gateway = Gateway::settled();
    gateway.learn(LAN, HOST4, HOST_MAC, Evidence::Question);
    assert!(pass(&mut gateway, 120 * SECOND, LAN).is_empty());
    gateway.resolve(LAN, HOST4).unwrap();
    gateway.resolve(LAN, HOST4).unwrap();
    assert_eq!(times(&pass(&mut gateway, 5500 * MILLISECOND, LAN)), [5000]);
}

#[test]
fn a_replayed_port_makes_its_neighbours_up() {
    let mut gateway = Gateway::new();
    let (known, unknown) = (Ipv4Addr::new(203, 0, 113, 5), Ipv4Addr::new(203, 0, 113, 6));
    assert!(gateway.learn(REPLAY, known, HOST_MAC, Evidence::Answer));
    let index = gateway.resolve(REPLAY, known).unwrap();
    assert_eq!(gateway.neighbors.hop(index).header[..6], HOST_MAC);
    let index = gateway.resolve(REPLAY, unknown).unwrap();
    let hop = gateway.neighbors.hop(index);
    assert!(hop.resolved);
    assert_eq!(hop.header[..6], [2, 0, 203, 0, 113, 6]);
    assert!(gateway.learn(REPLAY, unknown, HOST_MAC, Evidence::Announcement));
    assert_eq!(gateway.neighbors.hop(index).header[..6], HOST_MAC);
    let six: IpAddr = "2001:db8::5".parse().unwrap();
    assert!(neighbor::invented_mac(six).is_unicast());
    assert_ne!(neighbor::invented_mac(six), neighbor::invented_mac("2001:db8::6".parse().unwrap()));
    assert!(pass(&mut gateway, 300 * SECOND, REPLAY).is_empty(), "nothing is asked, probed or announced");
    // More of them than the table holds, though not at one moment.
    for n in 0..2000u32 {
        gateway.now += 1;
        let address = Ipv4Addr::from_bits(0x0a00_0000 + n);
        let index = gateway.resolve(REPLAY, address).unwrap();
        assert_eq!(gateway.neighbors.hop(index).header[2..6], address.octets());
    }
    assert!(gateway.neighbors.iter().count() <= 64);
}

#[test]
fn our_addresses_are_announced_three_times() {
    let mut gateway = Gateway::new();
    let lan = pass(&mut gateway, 10 * SECOND, LAN);
    assert_eq!(times(&lan), [[0; 3], [1000; 3], [2000; 3]].concat());
    let expected = hex(
        "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c0000201 000000000000 c0000201",
    );
    assert_eq!(lan[0].1, expected);
    for (frame, ours) in [(&lan[1].1, LAN6), (&lan[2].1, LAN_LOCAL)] {
        assert_eq!(frame[..14], hex("333300000001 020000000001 86dd"));
        assert_eq!(frame[14..54], ipv6::Header::new(ours, link::ALL_NODES, 58, 255, 32).0);
        // Router and override; a target link-layer address.
        assert_eq!((frame[54], frame[58], &frame[62..78]), (136, 0xa0, &ours.octets()[..]));
        assert_eq!(frame[78..], hex("0201 020000000001"));
    }

    let wan = Gateway::new();
    let mut wan = wan;
    let sent = pass(&mut wan, 100 * MILLISECOND, WAN);
    let announced: Vec<_> =
        sent.iter().filter(|(_, f)| f[16..18] == [8, 6]).map(|(_, f)| &f[32..36]).collect();
    assert_eq!(announced, [WAN4.octets(), NAT4.octets()]);
}

#[test]
fn another_configuration_keeps_the_neighbours_of_links_that_stay() {
    let mut gateway = Gateway::settled();
    let stays = gateway.resolve(LAN, HOST4).unwrap();
    gateway.learn(LAN, HOST4, HOST_MAC, Evidence::Answer);
    let goes = Ipv4Addr::new(198, 51, 100, 1);
    let index = gateway.resolve(WAN, goes).unwrap();
    gateway.hold(index, LAN, &udp4(HOST4, goes, b""));
    let epoch = gateway.neighbors.epoch();
    gateway.snapshot.interfaces[0].mtu = 9000;
    gateway.snapshot.interfaces[1].tags.ids[0] = 101;
    gateway.neighbors.renew();
    assert_eq!(gateway.neighbors.adopt(&gateway.snapshot, 0, u32::MAX), None);
    assert_ne!(gateway.neighbors.epoch(), epoch);
    let hop = gateway.neighbors.hop(stays);
    assert_eq!((hop.resolved, hop.egress.mtu), (true, 9000));
    assert_eq!(gateway.neighbor(goes), None);
    gateway.tick();
    assert_eq!(drops(&gateway, DropReason::NeighborUnreachable), 1);
}

#[test]
fn a_shutdown_finds_every_frame() {
    let mut gateway = Gateway::settled();
    let known = gateway.resolve(LAN, HOST4).unwrap();
    let unknown = gateway.resolve(LAN, HOST6).unwrap();
    gateway.hold(known, LAN, &udp4(HOST4, HOST4, b""));
    gateway.hold(unknown, LAN, &udp6(HOST6, HOST6, b""));
    gateway.learn(LAN, HOST4, HOST_MAC, Evidence::Answer);
    gateway.hold(known, LAN, &udp4(HOST4, HOST4, b""));
    assert_eq!(gateway.neighbors.held(), 3);
    while let Some((_, frame)) = gateway.neighbors.drain() {
        gateway.pool.give(frame);
        gateway.counters.dropped(DropReason::Shutdown, 1);
    }
    assert_eq!((gateway.neighbors.held(), drops(&gateway, DropReason::Shutdown)), (0, 3));
    gateway.check();
}
