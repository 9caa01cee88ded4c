//! Mappings that hosts ask for, by one worker and by several.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::{PortControl, Snapshot};
use sluice_dataplane::verdict::DropReason;
use sluice_pkt::pcp::{self, Header, map, peer};

use crate::fleet::Fleet;
use crate::lab::{GATEWAY_LAN, GATEWAY_WAN, LAN, Lab, SERVER, WAN, host, snapshot};
use crate::packets::{End, UDP, ends, udp};

/// The usual gateway, whose hosts may ask.
pub(crate) fn controlled() -> Snapshot {
    let port_control =
        PortControl { rules: vec![0], min_lifetime: 120, max_lifetime: 7200, max_mappings: 32 };
    Snapshot { port_control, ..snapshot() }
}

/// A host's request for a mapping of a UDP port, as an IP packet.
pub(crate) fn request(from: Ipv4Addr, port: u16, lifetime: u32) -> Vec<u8> {
    let mut header = Header([0; pcp::LEN]);
    header.set_version(pcp::VERSION);
    header.set_opcode_field(pcp::MAP);
    header.set_lifetime(lifetime);
    header.set_client(pcp::mapped(from));
    let mut map = map::Map([0; map::LEN]);
    map.set_nonce([5; 12]);
    map.set_protocol(UDP);
    map.set_internal_port(port);
    udp((from, 40_000 + port % 100), (GATEWAY_LAN, pcp::PORT), &[&header.0[..], &map.0].concat())
}

/// Result, lifetime, and external end that a response says.
pub(crate) fn response(ip: &[u8]) -> (u8, u32, End) {
    let header = Header::at(ip, 28).unwrap();
    let map = map::Map::at(ip, 28 + pcp::LEN).unwrap();
    let external = map.external().to_ipv4_mapped().unwrap();
    (header.result(), header.lifetime(), (external, map.external_port()))
}

#[test]
fn whoever_sends_to_a_mapping_comes_in_and_is_answered() {
    let mut lab = Lab::new(controlled());
    let (port, out) = lab.forward(LAN, &request(host(9), 6000, 600));
    assert_eq!((port, ends(&out).0), (LAN, (GATEWAY_LAN, pcp::PORT)));
    let (result, lifetime, external) = response(&out);
    assert_eq!((result, lifetime), (0, 600));
    let (port, out) = lab.forward(WAN, &udp((SERVER, 53), external, b"hello"));
    assert_eq!((port, ends(&out)), (LAN, ((SERVER, 53), (host(9), 6000))));
    let (port, out) = lab.forward(LAN, &udp((host(9), 6000), (SERVER, 53), b"hello"));
    assert_eq!((port, ends(&out)), (WAN, (external, (SERVER, 53))));
    // Long after the host has last said something, but within the lifetime, sessions live as long as any.
    lab.wait(500 * SECOND);
    lab.forward(WAN, &udp((SERVER, 54), external, b"again"));
    lab.wait(50 * SECOND);
    assert_eq!(lab.worker.shard().sessions.live(), 1);
    lab.wait(60 * SECOND);
    assert_eq!(lab.dropped(WAN, &udp((SERVER, 55), external, b"late")), DropReason::NatFiltered);
    lab.wait(400 * SECOND);
    assert_eq!(lab.worker.shard().nat.live(), 0);
    lab.close();
}

/// proves: RFC 6887 12
#[test]
fn the_far_end_of_a_conversation_comes_in_long_after_it_fell_silent() {
    let mut lab = Lab::new(controlled());
    let (_, out) = lab.forward(LAN, &udp((host(9), 6000), (SERVER, 53), b"hello"));
    let external = ends(&out).0;
    let mut asked = request(host(9), 6000, 7200)[28..].to_vec();
    asked[pcp::OPCODE_FIELD] = pcp::PEER;
    let mut peer = peer::Peer([0; peer::LEN]);
    peer.set_port(53);
    peer.set_address(pcp::mapped(SERVER));
    asked.extend(peer.0);
    let (_, out) = lab.forward(LAN, &udp((host(9), 40_000), (GATEWAY_LAN, pcp::PORT), &asked));
    assert_eq!(response(&out), (0, 7200, external));
    assert_eq!((out.len() - 28, &out[28 + pcp::LEN + map::LEN..]), (asked.len(), &peer.0[..]));
    lab.wait(3600 * SECOND);
    assert_eq!(lab.worker.shard().sessions.live(), 0);
    let (_, out) = lab.forward(WAN, &udp((SERVER, 53), external, b"still there?"));
    assert_eq!(ends(&out).1, (host(9), 6000));
    assert_eq!(
        lab.dropped(WAN, &udp((Ipv4Addr::new(192, 0, 2, 9), 53), external, b"")),
        DropReason::NatFiltered
    );
    lab.close();
}

#[test]
fn only_hosts_of_the_rule_may_ask_and_only_from_their_own_link() {
    let mut lab = Lab::new(controlled());
    let to = |from: Ipv4Addr, gateway| {
        let ip = request(from, 6000, 600);
        udp((from, 40_000), (gateway, pcp::PORT), &ip[28..])
    };
    for (port, from, gateway) in [
        (WAN, SERVER, GATEWAY_WAN),
        (WAN, host(9), GATEWAY_WAN),
        (WAN, host(9), GATEWAY_LAN),
        (LAN, SERVER, GATEWAY_LAN),
        (LAN, host(9), GATEWAY_WAN),
        (LAN, host(9), Ipv4Addr::new(172, 16, 0, 1)),
    ] {
        lab.pass(port, &to(from, gateway));
        assert_eq!(lab.counters().port_control_requests, 0, "{from} at {port} to {gateway}");
    }
    assert_eq!(lab.worker.shard().nat.leased(), 0);
    // Without a rule that lets them, nobody may.
    let mut off = Lab::new(snapshot());
    assert_eq!(off.dropped(LAN, &request(host(9), 6000, 600)), DropReason::LocalUnwanted);
    [lab, off].into_iter().for_each(|lab| _ = lab.close());
}

#[test]
fn a_flood_takes_no_more_than_its_hosts_may_have() {
    let mut snapshot = controlled();
    snapshot.port_control.max_mappings = 10;
    let mut lab = Lab::new(snapshot);
    for n in 0..2000u16 {
        lab.pass(LAN, &request(host(20 + (n % 20) as u8), 5000 + n / 20, 7200));
    }
    let nat = &lab.worker.shard().nat;
    assert_eq!((nat.leased(), nat.live()), (200, 200));
    assert_eq!((lab.counters().port_control_requests, lab.counters().port_control_refused), (2000, 1800));
    lab.close();
}

/// proves: RFC 6888 REQ-9
#[test]
fn with_several_workers_the_owner_decides_and_the_answer_leaves_where_the_request_came_in() {
    for count in [2, 4] {
        let mut fleet = Fleet::new(controlled(), count);
        let mut mapped = Vec::new();
        for last in 20..60 {
            let worker = usize::from(last) % count;
            let (port, out) = fleet.forward_at(worker, LAN, &request(host(last), 6000, 600));
            let (result, _, external) = response(&out);
            assert_eq!((port, result), (LAN, 0));
            // By another worker it is the same mapping.
            let (_, again) = fleet.forward_at((worker + 1) % count, LAN, &request(host(last), 6000, 600));
            assert_eq!(response(&again).2, external);
            mapped.push((last, external));
        }
        let counters = fleet.counters();
        assert!(counters.crossed > 0 && counters.port_control_requests == 80);
        for (last, external) in mapped {
            let (_, out) = fleet.forward(WAN, &udp((SERVER, 53), external, b"hello"));
            assert_eq!(ends(&out).1, (host(last), 6000));
            // What its traffic has is what it has asked for.
            let (_, out) =
                fleet.forward(LAN, &udp((host(last), 6000), (Ipv4Addr::new(192, 0, 2, 1), 9), b""));
            assert_eq!(ends(&out).0, external);
        }
        let leased: u32 = fleet.workers.iter().map(|worker| worker.shard().nat.leased()).sum();
        assert_eq!(leased, 40);
        fleet.wait(700 * SECOND);
        assert!(fleet.workers.iter().all(|worker| worker.shard().nat.leased() == 0));
        fleet.close();
    }
}

proptest! {
    #![proptest_config(crate::lab::cases(500))]

    /// Whatever is sent there, a worker goes on; what it answers is a response, no longer than may be, and never says more than
    /// was asked.
    #[test]
    fn any_message_is_taken(
        messages in prop::collection::vec(
            (0..3u8, 0..4u8, prop::collection::vec(any::<u8>(), 0..120), any::<bool>()), 1..20),
    ) {
        let mut lab = Lab::new(controlled());
        for (version, opcode, mut message, is_client) in messages {
            for (at, byte) in message.iter_mut().zip([version, opcode]) {
                *at = byte;
            }
            if let Some(client) = message.get_mut(8..24).filter(|_| is_client) {
                client.copy_from_slice(&pcp::mapped(host(9)).octets());
            }
            let out = lab.pass(LAN, &udp((host(9), 40_000), (GATEWAY_LAN, pcp::PORT), &message));
            prop_assert!(out.len() <= 1);
            if let Some((port, frame)) = out.first() {
                let answer = &frame[42..];
                prop_assert_eq!(*port, LAN);
                prop_assert!(answer[1] & pcp::RESPONSE != 0 && answer[1] & !pcp::RESPONSE == opcode);
                prop_assert!(answer.len() <= (message.len() + 3).max(24) && answer.len() % 4 == 0);
            }
        }
        let leased = lab.worker.shard().nat.leased();
        prop_assert!(leased <= 32 && leased == lab.worker.shard().nat.live());
        lab.close();
    }
}
