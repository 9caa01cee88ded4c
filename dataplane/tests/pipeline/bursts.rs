//! Packets that come in together.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::SourceNat;
use sluice_dataplane::verdict::DropReason;

use crate::lab::{GATEWAY_LAN, LAN, Lab, Out, SERVER, TRUNK, WAN, host, snapshot};
use crate::packets::{self, End, Ip, SYN, ends, frame, network, ping, tagged, tcp, udp, udp6};

const DMZ: End = (Ipv4Addr::new(172, 16, 0, 5), 1000);
const GUEST: End = (Ipv4Addr::new(10, 10, 0, 6), 2000);

#[test]
fn packets_of_one_new_flow_in_one_burst_make_one_session() {
    let mut lab = Lab::new(snapshot());
    for n in 0..64u8 {
        lab.send(LAN, &frame(LAN, &udp((host(9), 4000), (SERVER, 53), &[n])));
    }
    assert_eq!(lab.poll(), 64);
    let out = lab.collect();
    assert_eq!(out.len(), 64);
    let source = ends(network(&out[0].1)).0;
    for (n, (port, frame)) in out.iter().enumerate() {
        assert_eq!((*port, ends(network(frame)).0, frame[42]), (WAN, source, n as u8));
    }
    let shard = lab.worker.shard();
    assert_eq!((shard.sessions.live(), shard.nat.live(), shard.counters.sessions_created), (1, 1, 1));
    lab.close();
}

/// Both ends of two VLANs on one port may begin at once.
#[test]
fn packets_both_ways_in_one_burst_share_a_session() {
    for dont_fragment in [false, true] {
        let mut lab = Lab::new(snapshot());
        let packet = |from: End, to: End| {
            let ip = Ip { dont_fragment, ..Ip::new(from.0, to.0, packets::UDP) };
            ip.packet(&packets::udp_segment(from, to, b"hello"))
        };
        lab.send(TRUNK, &tagged(TRUNK, &[], &packet(DMZ, GUEST)));
        lab.send(TRUNK, &tagged(TRUNK, &[10], &packet(GUEST, DMZ)));
        lab.poll();
        let out = lab.collect();
        assert_eq!(out.len(), 2, "{:?}", lab.counters().drops);
        assert_eq!((out[0].1[12], out[1].1[12]), (0x81, 8));
        assert_eq!(out[1].1[..6], [2, 0, 172, 16, 0, 5]);
        assert_eq!(lab.worker.shard().sessions.live(), 1);
        lab.close();
    }
}

#[test]
fn a_binding_that_no_session_came_to_use_is_given_back() {
    let mut snapshot = snapshot();
    snapshot.source_nat.push(SourceNat { out: 2, from: vec![], pool: 0 });
    let mut lab = Lab::new(snapshot);
    // The second packet is bound before it turns out to be the first one's reply.
    lab.send(TRUNK, &tagged(TRUNK, &[], &udp(DMZ, GUEST, b"hello")));
    lab.send(TRUNK, &tagged(TRUNK, &[10], &udp(GUEST, DMZ, b"hello")));
    lab.poll();
    assert_eq!((lab.worker.shard().sessions.live(), lab.worker.shard().nat.live()), (1, 0));
    lab.close();
}

#[test]
fn a_burst_mixes_everything() {
    let mut lab = Lab::new(snapshot());
    let known = udp((host(9), 4000), (SERVER, 53), b"known");
    lab.forward(LAN, &known);
    let before = lab.counters();
    for n in 0..8u16 {
        lab.send(LAN, &frame(LAN, &known));
        lab.send(LAN, &frame(LAN, &tcp((host(9), 5000 + n), (SERVER, 443), SYN, b"")));
        lab.send(LAN, &frame(LAN, &udp6((crate::lab::HOST6, n), (crate::lab::SERVER6, 53), b"six")));
        lab.send(LAN, &packets::arp_request([2, 9, 9, 9, 9, n as u8], host(100 + n as u8), GATEWAY_LAN));
        lab.send(LAN, &[n as u8; 20]);
        lab.send(LAN, &frame(LAN, &ping(host(9), GATEWAY_LAN, n)));
        lab.send(LAN, &frame(LAN, &tcp((host(9), 6000), (SERVER, 25), SYN, b"")));
        lab.send(LAN, &frame(LAN, &known[..19]));
    }
    assert_eq!(lab.poll(), 64);
    let out = lab.collect();
    let count = |port: usize| out.iter().filter(|(p, _)| *p == port).count();
    assert_eq!((count(WAN), count(LAN)), (24, 16));
    let after = lab.counters();
    assert_eq!((after.punted - before.punted, after.originated - before.originated), (16, 16));
    let dropped = |reason: DropReason| after.drops[reason as usize];
    assert_eq!(dropped(DropReason::AclDeny), 8);
    assert_eq!(dropped(DropReason::Ipv4Truncated), 8);
    assert_eq!(dropped(DropReason::NotOurMac) + dropped(DropReason::EtherTypeUnknown), 8);
    assert_eq!(lab.worker.shard().sessions.live(), 1 + 8 + 8);
    lab.close();
}

/// One thing that may come in by a port.
#[derive(Clone, Debug)]
enum Item {
    Udp(u8, u8, u8),
    Tcp(u8, u8, u8),
    Ping(u8, u8),
    Six(u8),
    Hop(u8),
    Reply(u8),
    Garbage(u8),
    Arp(u8),
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        6 => (0..3u8, 0..4u8, any::<u8>()).prop_map(|(h, p, d)| Item::Udp(h, p, d)),
        4 => (0..3u8, 0..4u8, 0..32u8).prop_map(|(h, p, f)| Item::Tcp(h, p, f)),
        2 => (0..3u8, 0..4u8).prop_map(|(h, i)| Item::Ping(h, i)),
        2 => (0..4u8).prop_map(Item::Six),
        1 => (0..3u8).prop_map(Item::Hop),
        4 => any::<u8>().prop_map(Item::Reply),
        1 => any::<u8>().prop_map(Item::Garbage),
        1 => (0..3u8).prop_map(Item::Arp),
    ]
}

impl Item {
    fn frame(&self, port: usize, seen: &[Vec<u8>]) -> Vec<u8> {
        let from = |h: u8, p: u8| match port {
            LAN => (host(10 + h), 4000 + u16::from(p)),
            _ => (Ipv4Addr::new(198, 51, 100, h), 8080 + u16::from(p)),
        };
        let to = |p: u8| if port == LAN { (SERVER, 53) } else { (crate::lab::POOL[0], 8080 + u16::from(p)) };
        match *self {
            Item::Udp(h, p, d) => frame(port, &udp(from(h, p), to(p), &[d; 9])),
            Item::Tcp(h, p, f) => frame(port, &tcp(from(h, p), to(p), f, b"data")),
            Item::Ping(h, i) => frame(port, &ping(from(h, 0).0, to(0).0, i.into())),
            Item::Six(p) => {
                frame(port, &udp6((crate::lab::HOST6, p.into()), (crate::lab::SERVER6, 53), b"six"))
            }
            Item::Hop(h) => {
                let ip = Ip { ttl: 1, ..Ip::new(from(h, 0).0, to(0).0, packets::UDP) };
                frame(port, &ip.packet(&packets::udp_segment(from(h, 0), to(0), b"last hop")))
            }
            Item::Reply(n) => match seen.get(usize::from(n) % seen.len().max(1)) {
                Some(ip) if ip[9] == packets::UDP => {
                    let (src, dst) = ends(ip);
                    frame(port, &udp(dst, src, b"reply"))
                }
                Some(ip) => frame(port, &packets::error(SERVER, 3, 3, ip, 60)),
                None => vec![n; 30],
            },
            Item::Garbage(n) => vec![n; usize::from(n)],
            Item::Arp(h) => packets::arp_request([2, 9, 9, 9, 9, h], host(10 + h), GATEWAY_LAN),
        }
    }
}

/// Runs batches, each of which comes in by one port, `at_once` packets a burst.
fn run(batches: &[(usize, Vec<Item>)], at_once: usize) -> (Vec<Out>, Vec<u64>) {
    let mut lab = Lab::new(snapshot());
    let mut seen: [Vec<Vec<u8>>; 2] = Default::default();
    let mut all = Vec::new();
    for (port, items) in batches {
        let frames: Vec<_> = items.iter().map(|item| item.frame(*port, &seen[*port])).collect();
        let mut out = Vec::new();
        for frames in frames.chunks(at_once) {
            frames.iter().for_each(|frame| lab.send(*port, frame));
            lab.poll();
            out.extend(lab.collect());
        }
        out.sort_by_key(|(port, _)| *port);
        for (port, frame) in &out {
            if let Some(seen) = seen.get_mut(*port) {
                if frame[12..14] == [8, 0] && matches!(network(frame)[9], packets::UDP | packets::TCP) {
                    seen.push(network(frame).to_vec());
                }
            }
        }
        all.extend(out);
        lab.now += SECOND;
    }
    (all, lab.close().drops)
}

proptest! {
    #![proptest_config(crate::lab::cases(48))]

    #[test]
    fn bursts_of_one_and_of_many_give_the_same(
        batches in prop::collection::vec((0..2usize, prop::collection::vec(item(), 1..64)), 1..6),
    ) {
        let (one, drops) = run(&batches, 1);
        prop_assert_eq!((&one, &drops), (&run(&batches, 64).0, &run(&batches, 64).1));
        prop_assert_eq!((one, drops), run(&batches, 7));
    }
}
