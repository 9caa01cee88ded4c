//! Several workers: packets are handled where they arrive, in both directions, whatever the NIC does.

mod shared;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use sluice_dataplane::clock::{MILLISECOND, SECOND};
use sluice_dataplane::crossing::PATIENCE;
use sluice_dataplane::session::State;
use sluice_dataplane::verdict::DropReason;

use crate::fleet::Fleet;
use crate::lab::{GATEWAY_LAN, HOST6, LAN, Out, POOL, SERVER, SERVER6, TRUNK, WAN, WEB, host, snapshot};
use crate::packets::{
    self, ACK, End, FIN, Ip, SYN, ends, error, frame, network, ping, pong, tcp, udp, udp_segment, udp6,
};

const CLIENT: End = (Ipv4Addr::new(192, 168, 1, 9), 4000);
const SERVICE: End = (SERVER, 53);

fn fleet(workers: usize) -> Fleet {
    Fleet::new(snapshot(), workers)
}

/// What a UDP packet over IPv4 carries.
fn payload(ip: &[u8]) -> &[u8] {
    &ip[28..]
}

#[test]
fn sessions_work_both_ways_wherever_their_packets_arrive() {
    for workers in [2, 3, 4, 7, 16] {
        let mut fleet = fleet(workers);
        let mut outside = Vec::new();
        for n in 2..41u8 {
            let from = (host(n), 4000 + u16::from(n));
            let (port, out) = fleet.forward(LAN, &udp(from, SERVICE, b"question"));
            let external = ends(&out).0;
            assert!(port == WAN && POOL.contains(&external.0) && ends(&out).1 == SERVICE);
            outside.push((from, external));
        }
        for _ in 0..6 {
            for &(from, external) in &outside {
                let (port, back) = fleet.forward(WAN, &udp(SERVICE, external, b"answer"));
                assert_eq!((port, ends(&back).1), (LAN, from));
                let (_, again) = fleet.forward(LAN, &udp(from, SERVICE, b"more"));
                assert_eq!(ends(&again).0, external);
                assert_eq!(packets::checksums_are_right(&again), (true, true));
            }
        }
        // Mapping is endpoint-independent, whoever is asked.
        for &(from, external) in &outside {
            let (_, out) = fleet.forward(LAN, &udp(from, (Ipv4Addr::new(198, 51, 100, 8), 99), b"else"));
            assert_eq!(ends(&out).0, external);
        }
        assert_eq!((fleet.sessions(), fleet.bindings()), (78, 39));
        fleet.close();
    }
}

#[test]
fn every_kind_of_session_works_across_workers() {
    let mut fleet = fleet(4);
    for round in 0..12u8 {
        // A port forward.
        let from = (SERVER, 7000 + u16::from(round % 3));
        let (port, inside) = fleet.forward(WAN, &tcp(from, (POOL[0], 8081), SYN, b""));
        assert_eq!((port, ends(&inside)), (LAN, (from, (WEB, 81))));
        let (port, back) = fleet.forward(LAN, &tcp((WEB, 81), from, SYN | ACK, b""));
        assert_eq!((port, ends(&back)), (WAN, ((POOL[0], 8081), from)));
        // Ping through NAT.
        let (_, out) = fleet.forward(LAN, &ping(host(5), SERVER, 77));
        let external = ends(&out).0;
        let (port, back) = fleet.forward(WAN, &pong(SERVER, external.0, external.1));
        assert_eq!((port, ends(&back).1), (LAN, (host(5), 77)));
        // Without NAT, between inside networks.
        let (dmz, guest) = ((Ipv4Addr::new(172, 16, 0, 9), 5), (host(9), 6));
        assert_eq!(fleet.forward(LAN, &udp(guest, dmz, b"x")).0, TRUNK);
        assert_eq!(fleet.forward(TRUNK, &udp(dmz, guest, b"y")).0, LAN);
        // IPv6.
        assert_eq!(fleet.forward(LAN, &udp6((HOST6, 1), (SERVER6, 2), b"x")).0, WAN);
        assert_eq!(fleet.forward(WAN, &udp6((SERVER6, 2), (HOST6, 1), b"y")).0, LAN);
    }
    assert_eq!(fleet.sessions(), 3 + 1 + 1 + 1);
    fleet.close();
}

#[test]
fn what_is_for_the_gateway_itself_is_answered_where_it_arrives() {
    let mut fleet = fleet(4);
    for worker in 0..4 {
        let (port, answer) = fleet.forward_at(worker, LAN, &ping(host(5), GATEWAY_LAN, 1));
        assert_eq!((port, ends(&answer)), (LAN, ((GATEWAY_LAN, 1), (host(5), 1))));
    }
    assert_eq!(fleet.counters().crossed, 0);
    // An outsider's packet to nothing crosses at most once, and is refused as ever.
    for worker in 0..4 {
        fleet.send(worker, WAN, &frame(WAN, &udp((SERVER, 9), (POOL[1], 5301), b"")));
    }
    fleet.settle();
    assert_eq!(fleet.drops(DropReason::NatNoSession), 4);
    fleet.close();
}

/// What came out by one worker, by flow: the numbers that the packets carry, in the order in which they left.
fn numbers(out: Vec<(usize, Out)>) -> HashMap<(usize, u16), Vec<u16>> {
    let mut numbers = HashMap::<_, Vec<u16>>::new();
    for (worker, (_, frame)) in out {
        let data = payload(network(&frame));
        let word = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
        numbers.entry((worker, word(0))).or_default().push(word(2));
    }
    numbers
}

#[test]
fn order_within_a_flow_holds_while_its_record_is_being_installed() {
    let mut fleet = fleet(4);
    let mut sent = HashMap::<(usize, u16), Vec<u16>>::new();
    let mut number = 0;
    for round in 0..20 {
        for _ in 0..60 {
            // Many packets of few new flows, and a poll of some worker now and then.
            let flow = round * 12 + fleet.random(12) as u16;
            let data = [flow.to_be_bytes(), u16::to_be_bytes(number)].concat();
            let packet = udp((host((flow % 200) as u8 + 2), 4000 + flow), SERVICE, &data);
            let worker = fleet.spray(LAN, &frame(LAN, &packet));
            sent.entry((worker, flow)).or_default().push(number);
            number += 1;
            if fleet.random(8) == 0 {
                let worker = fleet.random(4);
                fleet.poll(worker);
            }
        }
        fleet.settle();
    }
    assert_eq!(numbers(fleet.collect_by_worker()), sent, "all of them, each flow in order at each worker");
    assert!(fleet.counters().parked > 20, "some had to wait");
    fleet.close();
}

#[test]
fn packets_of_a_flow_that_is_denied_keep_their_order_and_leave_no_session() {
    let mut fleet = fleet(4);
    for n in 0..40 {
        fleet.spray(LAN, &frame(LAN, &tcp((host(2), 4000 + n % 3), (SERVER, 25), SYN, b"")));
    }
    fleet.settle();
    let counters = fleet.counters();
    assert_eq!((fleet.drops(DropReason::AclDeny), fleet.sessions()), (40, 0));
    assert_eq!(counters.rules[crate::lab::LAN_SMTP].packets, 40);
    fleet.close();
}

#[test]
fn few_packets_of_a_steady_load_cross() {
    let mut fleet = fleet(4);
    let flows: Vec<End> = (0..64).map(|n| (host(n as u8 + 2), 5000 + n)).collect();
    let mut external = Vec::new();
    for &from in &flows {
        external.push(ends(&fleet.forward(LAN, &udp(from, SERVICE, b"")).1).0);
    }
    let before = fleet.counters();
    for round in 0..700 {
        for n in 0..64 {
            fleet.spray(LAN, &frame(LAN, &udp(flows[n], SERVICE, b"")));
            fleet.spray(WAN, &frame(WAN, &udp(SERVICE, external[n], b"")));
        }
        fleet.now += MILLISECOND;
        fleet.settle();
        assert_eq!(fleet.collect().len(), 128, "round {round}");
    }
    let after = fleet.counters();
    let (crossed, packets) = (after.crossed - before.crossed, after.rx() - before.rx());
    assert!(crossed * 100 < packets, "{crossed} of {packets}");
    // All that can: each direction of each session at each worker but the owner.
    assert!(crossed <= 64 * 2 * 3);
    fleet.close();
}

#[test]
fn a_tcp_connection_is_followed_wherever_its_packets_arrive() {
    let mut fleet = fleet(4);
    let (inside, server) = ((host(9), 4000), (SERVER, 443));
    let external = ends(&fleet.forward(LAN, &tcp(inside, server, SYN, b"")).1).0;
    fleet.forward(WAN, &tcp(server, external, SYN | ACK, b""));
    fleet.forward(LAN, &tcp(inside, server, ACK, b""));
    fleet.wait(3 * SECOND);
    assert_eq!(fleet.only_session().1, State::Established);
    fleet.wait(1000 * SECOND);
    assert_eq!(fleet.sessions(), 1);
    for _ in 0..8 {
        fleet.forward(LAN, &tcp(inside, server, ACK, b"data"));
        fleet.forward(WAN, &tcp(server, external, ACK, b"data"));
    }
    fleet.forward(LAN, &tcp(inside, server, FIN | ACK, b""));
    assert_eq!(fleet.only_session().1, State::Established);
    fleet.forward(WAN, &tcp(server, external, FIN | ACK, b""));
    assert_eq!(fleet.only_session().1, State::Closing);
    fleet.forward(WAN, &tcp(server, external, ACK, b""));
    fleet.wait(230 * SECOND);
    assert_eq!(fleet.sessions(), 1);
    fleet.wait(20 * SECOND);
    assert_eq!((fleet.sessions(), fleet.copies(), fleet.bindings()), (0, 0, 0));
    fleet.close();
}

#[test]
fn a_session_lives_as_long_as_any_worker_sees_its_packets() {
    let mut fleet = fleet(4);
    let external = ends(&fleet.forward_at(0, LAN, &udp(CLIENT, SERVICE, b"")).1).0;
    // Each worker gets a copy of either direction; then one alone sees packets.
    for worker in 0..4 {
        fleet.forward_at(worker, LAN, &udp(CLIENT, SERVICE, b""));
        fleet.forward_at(worker, WAN, &udp(SERVICE, external, b""));
    }
    let owner = fleet.only_session().0;
    assert_eq!(fleet.copies(), 6);
    let carrier = (owner + 1) % 4;
    for _ in 0..10 {
        fleet.wait(100 * SECOND);
        fleet.forward_at(carrier, LAN, &udp(CLIENT, SERVICE, b""));
    }
    fleet.wait(298 * SECOND);
    assert_eq!(fleet.sessions(), 1);
    let shard = fleet.workers[owner].shard();
    let session = (0..shard.sessions.slots()).find_map(|i| shard.sessions.get(i)).unwrap();
    let by_owner: u64 =
        session.flows.iter().map(|&f| u64::from(shard.sessions.v4.value(f).unwrap().packets)).sum();
    assert_eq!(
        session.packets[0] + session.packets[1] + by_owner,
        1 + 8 + 10,
        "all are counted at the owner"
    );
    fleet.wait(6 * SECOND);
    assert_eq!((fleet.sessions(), fleet.copies()), (0, 0));
    fleet.close();
}

#[test]
fn the_end_of_a_session_removes_all_copies_at_once() {
    let mut fleet = fleet(4);
    let external = ends(&fleet.forward(LAN, &udp(CLIENT, SERVICE, b"")).1).0;
    for worker in 0..4 {
        fleet.forward_at(worker, LAN, &udp(CLIENT, SERVICE, b""));
        fleet.forward_at(worker, WAN, &udp(SERVICE, external, b""));
    }
    let owner = fleet.only_session().0;
    // Idle at the carriers for less than a copy lives: packets pass to the end, at the owner alone, and then none do.
    for _ in 0..10 {
        fleet.forward_at(owner, WAN, &udp(SERVICE, external, b""));
        fleet.wait(30 * SECOND);
    }
    assert_eq!((fleet.sessions(), fleet.copies()), (1, 0), "idle copies are forgotten");
    for worker in 0..4 {
        fleet.forward_at(worker, WAN, &udp(SERVICE, external, b""));
    }
    assert_eq!(fleet.copies(), 3);
    // As if the timeout passed in one moment.
    fleet.now += 400 * SECOND;
    fleet.poll(owner);
    assert_eq!((fleet.sessions(), fleet.copies()), (0, 3));
    for worker in (0..4).filter(|&w| w != owner) {
        fleet.poll(worker);
    }
    assert_eq!(fleet.copies(), 0);
    fleet.close();
}

#[test]
fn a_lost_notice_is_made_good() {
    let mut large = snapshot();
    large.sizes.sessions = 4096;
    let mut fleet = Fleet::new(large, 2);
    // Sessions of one owner with copies at the other, more than notices find room for.
    let mut external = Vec::new();
    for n in 0..1600u16 {
        let from = (host(2 + (n % 100) as u8), 1000 + n);
        let (_, out) = fleet.forward(LAN, &udp(from, SERVICE, b""));
        external.push((from, ends(&out).0));
    }
    for round in 0..2 {
        for &(_, external) in &external {
            fleet.forward_at(round, WAN, &udp(SERVICE, external, b""));
        }
    }
    assert!(fleet.copies() >= 1600);
    let nat = &fleet.workers[0].shard().nat;
    let theirs = (0..nat.slots()).filter_map(|i| nat.get(i)).map(|binding| binding.external);
    let theirs: HashSet<(u32, u16)> = theirs.collect();
    external.retain(|(_, (address, port))| theirs.contains(&(address.to_bits(), *port)));
    assert!(external.len() > 600);
    // All sessions of one worker end at once, and its notices find no room: its clock runs ahead, so that the other's
    // copies are as fresh as ever.
    let now = fleet.now;
    fleet.now += 400 * SECOND;
    fleet.poll(0);
    fleet.now = now;
    assert!(fleet.counters().notices_lost > 100);
    fleet.settle();
    assert!(fleet.copies() > 100, "whose end was not told");
    // What copies still stand pass packets for a second or two at most, though they see traffic.
    for _ in 0..20 {
        for &(_, stale) in external.iter().rev().take(100) {
            fleet.send(1, WAN, &frame(WAN, &udp(SERVICE, stale, b"")));
        }
        fleet.wait(SECOND / 10);
        fleet.collect();
    }
    let refused = |fleet: &Fleet| fleet.drops(DropReason::AclDeny) + fleet.drops(DropReason::NatNoSession);
    let before = refused(&fleet);
    for &(_, stale) in external.iter().rev().take(100) {
        fleet.send(1, WAN, &frame(WAN, &udp(SERVICE, stale, b"")));
    }
    fleet.settle();
    assert_eq!(refused(&fleet), before + 100);
    fleet.wait(61 * SECOND);
    assert_eq!(fleet.copies(), 0);
    fleet.close();
}

#[test]
fn a_worker_that_stalls_blocks_nobody() {
    let mut fleet = fleet(4);
    let stalled = 3;
    let others = [0, 1, 2];
    // A session of each kind of owner, in full swing.
    let mut standing = Vec::new();
    for n in 2..61 {
        let from = (host(n), 4000);
        let (_, out) = fleet.forward_at(0, LAN, &udp(from, SERVICE, b""));
        standing.push((from, ends(&out).0));
    }
    for round in 0..40u16 {
        for &(from, _) in &standing {
            fleet.send(0, LAN, &frame(LAN, &udp(from, SERVICE, b"")));
        }
        // New ones too, some of which are the stalled one's.
        for n in 0..40u16 {
            let from = (host((n % 200) as u8 + 2), 10_000 + round * 40 + n);
            fleet.send(usize::from(n % 3), LAN, &frame(LAN, &udp(from, SERVICE, b"new")));
            fleet.send(usize::from(n % 3), LAN, &frame(LAN, &udp(from, SERVICE, b"new")));
        }
        fleet.now += 10 * MILLISECOND;
        fleet.settle_among(&others);
        let old = fleet.collect().iter().filter(|(_, frame)| payload(network(frame)).is_empty()).count();
        assert_eq!(old, standing.len(), "established flows go on");
    }
    let counters = fleet.counters();
    assert!(counters.drops[DropReason::CrossingFull as usize] > 0, "{:?}", counters.drops);
    assert!(counters.drops[DropReason::OwnerSilent as usize] > 0);
    assert!(counters.held > 0, "what is lent to it is away");
    // It comes back, late: everything is accounted for, and new sessions work again.
    fleet.now += PATIENCE;
    fleet.settle();
    assert_eq!(fleet.counters().held, 0);
    for n in 2..61 {
        fleet.forward(LAN, &udp((host(n), 4001), SERVICE, b"later"));
    }
    assert_eq!(fleet.workers[stalled].heartbeat().last(), fleet.now);
    fleet.close();
}

#[test]
fn a_worker_that_dies_keeps_only_what_was_lent_to_it() {
    let mut fleet = fleet(2);
    for n in 2..61 {
        fleet.send(0, LAN, &frame(LAN, &udp((host(n), 4000), SERVICE, b"")));
    }
    fleet.settle_among(&[0]);
    let lent = fleet.counters_of(0).held;
    assert!(lent > 10);
    assert!(!fleet.workers[0].drain(fleet.now));
    assert!(fleet.workers[0].drain(fleet.now + 200 * MILLISECOND), "it does not wait for ever");
    let (counters, closed) = fleet.workers[0].close(fleet.now);
    assert_eq!((u64::from(closed.frames - closed.home), counters.held), (lent, lent));
    assert!(counters.conserved());
    let (_, closed) = fleet.workers[1].close(fleet.now);
    assert_eq!(closed.frames, closed.home);
}

#[test]
fn what_is_lent_comes_home_at_the_end() {
    let mut fleet = fleet(4);
    for n in 0..100u8 {
        fleet.spray(LAN, &frame(LAN, &udp((host(n + 2), 4000), SERVICE, b"")));
        fleet.spray(LAN, &frame(LAN, &udp((host(n + 2), 4000), SERVICE, b"")));
    }
    for worker in 0..4 {
        fleet.poll(worker);
    }
    assert!(fleet.counters().held > 0);
    let counters = fleet.close();
    assert_eq!(counters.rx(), 200);
}

#[test]
fn fragments_find_their_first_one_at_whatever_worker() {
    let mut fleet = fleet(4);
    let data: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
    let whole = udp_segment(CLIENT, SERVICE, &data);
    let piece = |id: u16, at: usize, len: usize| {
        let more = at + len < whole.len();
        let ip = Ip { id, fragment: (at as u16, more), ..Ip::new(CLIENT.0, SERVER, packets::UDP) };
        ip.packet(&whole[at..at + len])
    };
    for id in 0..20 {
        for (at, len) in [(0, 1000), (1000, 1000), (2000, whole.len() - 2000)] {
            let worker = fleet.random(4);
            let (port, out) = fleet.forward_at(worker, LAN, &piece(id, at, len));
            assert!(port == WAN && POOL.contains(&Ipv4Addr::new(out[12], out[13], out[14], out[15])));
        }
    }
    assert_eq!(fleet.sessions(), 1);
    // Without its first one, a fragment has nowhere to go.
    for worker in 0..4 {
        fleet.send(worker, LAN, &frame(LAN, &piece(99, 1000, 1000)));
    }
    fleet.settle();
    assert_eq!((fleet.counters().held, fleet.drops(DropReason::FragmentUnknown)), (4, 0));
    fleet.wait(3 * SECOND);
    assert_eq!((fleet.counters().held, fleet.drops(DropReason::FragmentUnknown)), (0, 4));
    // Later ones, all at one worker, wait in order for the first one, which comes by another.
    for at in [1000, 1400, 1800, 2200] {
        fleet.send(1, LAN, &frame(LAN, &piece(50, at, 400)));
    }
    fleet.settle();
    assert_eq!((fleet.collect(), fleet.counters().held), (vec![], 4));
    fleet.send(0, LAN, &frame(LAN, &piece(50, 0, 1000)));
    fleet.settle();
    let offsets: Vec<u16> = fleet
        .collect()
        .iter()
        .map(|(_, f)| (u16::from_be_bytes([network(f)[6], network(f)[7]]) & 0x1fff) * 8)
        .collect();
    assert_eq!(
        (offsets.len(), &offsets.iter().copied().filter(|&at| at > 0).collect::<Vec<_>>()[..]),
        (5, &[1000, 1400, 1800, 2200][..])
    );
    fleet.close();
}

#[test]
fn icmp_errors_find_their_session_at_whatever_worker() {
    let router = Ipv4Addr::new(198, 51, 100, 254);
    let mut fleet = fleet(4);
    for n in 2..21 {
        let from = (host(n), 4000);
        let (_, outside) = fleet.forward(LAN, &udp(from, SERVICE, b"a question"));
        let external = ends(&outside).0;
        for worker in 0..4 {
            // From outside, about what the host sent.
            let (port, told) = fleet.forward_at(worker, WAN, &error(router, 3, 1, &outside, 548));
            assert_eq!((port, &told[16..20]), (LAN, &from.0.octets()[..]));
        }
        let (_, inside) = fleet.forward(WAN, &udp(SERVICE, external, b"an answer"));
        for worker in 0..4 {
            // From inside, about what came.
            let (port, told) = fleet.forward_at(worker, LAN, &error(from.0, 3, 3, &inside, 548));
            assert_eq!((port, &told[12..16]), (WAN, &external.0.octets()[..]));
        }
    }
    // About no session.
    let forged = udp((POOL[0], 40_000), SERVICE, b"never sent");
    for worker in 0..4 {
        fleet.send(worker, WAN, &frame(WAN, &error(router, 3, 1, &forged, 548)));
    }
    fleet.settle();
    assert_eq!(fleet.collect().len(), 0);
    fleet.close();
}
