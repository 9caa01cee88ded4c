//! Tables that are full: what is refused, that what stands goes on, and that room comes back.

use std::collections::HashSet;

use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::Sizes;
use sluice_dataplane::verdict::DropReason;

use crate::lab::{LAN, Lab, SERVER, WAN, host, snapshot};
use crate::packets::{self, End, Ip, ends, frame, network, udp, udp_segment};

const TO: End = (SERVER, 53);

/// proves: RFC 6888 REQ-11
#[test]
fn nat_ports_run_out_and_come_back() {
    let mut snapshot = snapshot();
    snapshot.pools[0].ports = (2000, 2003);
    let mut lab = Lab::new(snapshot);
    let ask = |n: u16| udp((host(9), 3000 + n), TO, b"question");
    let mut external = HashSet::new();
    for n in 0..8 {
        let (_, out) = lab.forward(LAN, &ask(n));
        assert!(external.insert(ends(&out).0));
    }
    assert_eq!(lab.dropped(LAN, &ask(8)), DropReason::NatPortsExhausted);
    let told = lab.collect();
    assert_eq!((told.len(), told[0].0), (1, LAN), "its sender is told");
    assert_eq!(network(&told[0].1)[20..22], [3, 1], "host unreachable");
    // Another service for an end that is bound, another protocol, and the way back need no new port.
    lab.forward(LAN, &udp((host(9), 3000), (SERVER, 54), b"question"));
    lab.forward(LAN, &packets::tcp((host(9), 3000), TO, packets::SYN, b""));
    for &end in &external {
        lab.forward(WAN, &udp(TO, end, b"answer"));
    }
    lab.wait(302 * SECOND);
    assert_eq!(lab.worker.shard().nat.live(), 0);
    for n in 8..16 {
        assert!(external.contains(&ends(&lab.forward(LAN, &ask(n)).1).0));
    }
    lab.close();
}

#[test]
fn a_full_session_table_refuses_new_ones_only_and_recovers() {
    let mut snapshot = snapshot();
    snapshot.sizes = Sizes { sessions: 8, ..snapshot.sizes };
    let mut lab = Lab::new(snapshot);
    let ask = |n: u16| udp((host(9), 3000 + n), TO, b"question");
    for n in 0..8 {
        lab.forward(LAN, &ask(n));
    }
    for n in 8..16 {
        assert_eq!(lab.dropped(LAN, &ask(n)), DropReason::SessionTableFull);
    }
    assert_eq!((lab.worker.shard().nat.live(), lab.worker.shard().sessions.live()), (8, 8));
    lab.wait(200 * SECOND);
    for n in 0..4 {
        lab.forward(LAN, &ask(n));
    }
    lab.wait(102 * SECOND);
    assert_eq!(lab.worker.shard().sessions.live(), 4);
    // What needs no session passes a full table: here, the gateway's own answers.
    for n in 8..12 {
        lab.forward(LAN, &ask(n));
    }
    assert_eq!(lab.dropped(LAN, &ask(12)), DropReason::SessionTableFull);
    assert_eq!(lab.pass(LAN, &packets::ping(host(9), crate::lab::GATEWAY_LAN, 1)).len(), 1);
    lab.close();
}

/// Sessions that share an external end come and go, and more of them than there is room for come in one burst.
#[test]
fn bindings_are_shared_right_when_the_table_is_full() {
    let mut snapshot = snapshot();
    snapshot.sizes = Sizes { sessions: 4, ..snapshot.sizes };
    let mut lab = Lab::new(snapshot);
    for round in 0..3 {
        for n in 0..10u16 {
            lab.send(LAN, &frame(LAN, &udp((host(9), 3000 + n % 2), (SERVER, 53 + n), b"question")));
        }
        lab.poll();
        let out = lab.collect();
        let ends: HashSet<End> = out.iter().map(|(_, f)| ends(network(f)).0).collect();
        assert_eq!((out.len(), ends.len()), (4, 2), "round {round}");
        assert_eq!((lab.worker.shard().nat.live(), lab.worker.shard().sessions.live()), (2, 4));
        lab.wait(302 * SECOND);
        assert_eq!((lab.worker.shard().nat.live(), lab.worker.shard().sessions.live()), (0, 0));
    }
    lab.close();
}

#[test]
fn a_full_fragment_table_refuses_new_datagrams_only_and_recovers() {
    let mut snapshot = snapshot();
    snapshot.sizes.fragments = 4;
    let mut lab = Lab::new(snapshot);
    let from = (host(9), 4000);
    let datagram = udp_segment(from, TO, &[1; 100]);
    let part = |id: u16, at: usize, end: usize| {
        let ip = Ip { id, fragment: (at as u16, end < 108), ..Ip::new(from.0, TO.0, packets::UDP) };
        ip.packet(&datagram[at..end])
    };
    for id in 0..4 {
        lab.forward(LAN, &part(id, 0, 64));
    }
    assert_eq!(lab.dropped(LAN, &part(4, 0, 64)), DropReason::FragmentTableFull);
    assert_eq!(lab.dropped(LAN, &part(4, 64, 108)), DropReason::FragmentUnknown);
    for id in 0..4 {
        lab.forward(LAN, &part(id, 64, 108));
        lab.forward(LAN, &part(id, 0, 64));
    }
    lab.wait(16 * SECOND);
    for id in 10..14 {
        lab.forward(LAN, &part(id, 0, 64));
        lab.forward(LAN, &part(id, 64, 108));
    }
    lab.close();
}

#[test]
fn a_full_queue_drops_and_holds_and_recovers() {
    let mut lab = Lab::with_rings(snapshot(), 64);
    let ask = frame(LAN, &udp((host(9), 4000), TO, b"question"));
    for _ in 0..12 {
        (0..64).for_each(|_| lab.send(LAN, &ask));
        lab.poll();
    }
    // The ring holds 64 and the outbox 512.
    assert_eq!((lab.counters().held, lab.drops(DropReason::TransmitQueueFull)), (512, 12 * 64 - 64 - 512));
    let mut got = 0;
    for _ in 0..10 {
        got += lab.collect().len();
        lab.poll();
    }
    assert_eq!((got, lab.counters().held), (576, 0));
    (0..64).for_each(|_| lab.send(LAN, &ask));
    (0..12).for_each(|_| _ = lab.poll());
    assert_eq!(lab.collect().len(), 64);
    lab.close();
}
