//! Protection: what sources may do, and what gives way when the session table is full.

use sluice_dataplane::clock::{MILLISECOND, SECOND};
use sluice_dataplane::snapshot::guard::SourceLimits;
use sluice_dataplane::snapshot::{Guard, Sizes, Snapshot};
use sluice_dataplane::verdict::DropReason;

use crate::lab::{LAN, Lab, POOL, SERVER, WAN, host, snapshot};
use crate::packets::{self, ends, frame, network, udp};

fn bounded(limits: SourceLimits) -> Snapshot {
    let mut snapshot = snapshot();
    let limits = SourceLimits { prefix: [32, 64], most: 64, ..limits };
    snapshot.guards = vec![Guard { per_source: Some(limits), ..Guard::default() }];
    snapshot.interfaces[WAN].guard = Some(0);
    snapshot
}

#[test]
fn sessions_at_a_time_are_counted_exactly_and_come_back() {
    let mut lab = Lab::new(bounded(SourceLimits { sessions: 3, ..SourceLimits::default() }));
    let ask = |port: u16| udp((SERVER, port), (POOL[0], 5300), b"question");
    for _ in 0..3 {
        for port in 1..=3 {
            lab.forward(WAN, &ask(port));
        }
        assert_eq!(lab.dropped(WAN, &ask(4)), DropReason::SourceSessions);
        // Others are not it, nor are those that stand or what goes the other way.
        let other = udp((std::net::Ipv4Addr::new(198, 51, 100, 9), 4), (POOL[0], 5300), b"question");
        lab.forward(WAN, &other);
        lab.forward(WAN, &ask(1));
        lab.forward(LAN, &udp((host(9), 4000), (SERVER, 53), b"question"));
        lab.wait(302 * SECOND);
        assert_eq!(lab.worker.shard().sessions.live(), 0);
    }
    lab.close();
}

#[test]
fn packets_are_counted_whatever_way_they_take() {
    let mut lab = Lab::new(bounded(SourceLimits { packets: 10, ..SourceLimits::default() }));
    let ask = udp((SERVER, 1), (POOL[0], 5300), b"question");
    // First packet, fast path, and a fragment.
    for _ in 0..63 {
        lab.forward(WAN, &ask);
    }
    let segment = packets::udp_segment((SERVER, 1), (POOL[0], 5300), &[1; 600]);
    let ip = packets::Ip { id: 7, fragment: (0, true), ..packets::Ip::new(SERVER, POOL[0], packets::UDP) };
    lab.forward(WAN, &ip.packet(&segment[..512]));
    assert_eq!(lab.dropped(WAN, &ask), DropReason::SourceRate);
    assert_eq!(lab.dropped(WAN, &ip.packet(&segment[..512])), DropReason::SourceRate);
    // Inside there is no guard.
    for _ in 0..100 {
        lab.forward(LAN, &udp((host(9), 4000), (SERVER, 53), b"question"));
    }
    lab.wait(100 * MILLISECOND);
    lab.forward(WAN, &ask);
    assert_eq!(lab.dropped(WAN, &ask), DropReason::SourceRate);
    lab.close();
}

/// A new session takes the record of one that gives way in the same burst, of which there are packets, too.
#[test]
fn packets_of_a_session_that_gives_way_in_their_burst_go_as_they_would() {
    let mut snapshot = snapshot();
    snapshot.sizes = Sizes { sessions: 4, ..snapshot.sizes };
    snapshot.evicts = true;
    let mut lab = Lab::new(snapshot);
    let ask = |n: u16| udp((host(9), 3000 + n), (SERVER, 53), b"question");
    let mut external = Vec::new();
    for n in 0..4 {
        external.push(ends(&lab.forward(LAN, &ask(n)).1).0);
    }
    // Answers make two of them conversations.
    for &end in &external[..2] {
        lab.forward(WAN, &udp((SERVER, 53), end, b"answer"));
    }
    for round in 0..50u16 {
        for n in 0..4 {
            lab.send(LAN, &frame(LAN, &ask(n)));
        }
        for n in 0..4 {
            lab.send(LAN, &frame(LAN, &ask(10 + 4 * round + n)));
        }
        lab.poll();
        let out = lab.collect();
        let came: Vec<_> =
            out.iter().filter(|(port, _)| *port == WAN).map(|(_, f)| ends(network(f)).0).collect();
        assert_eq!(came.len(), 8, "round {round}");
        assert_eq!(came[..2], external[..2], "a conversation keeps its mapping");
        let different: std::collections::HashSet<_> = came.iter().collect();
        assert_eq!(different.len(), 8);
        assert_eq!(lab.worker.shard().sessions.live(), 4);
    }
    for &end in &external[..2] {
        lab.forward(WAN, &udp((SERVER, 53), end, b"answer"));
    }
    assert_eq!(lab.drops(DropReason::SessionTableFull), 0);
    lab.close();
}
