//! Next hops that are not known, that fail, that are too many: what it means for packets.

use std::net::Ipv4Addr;

use sluice_dataplane::clock::{MILLISECOND, SECOND};
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::verdict::DropReason;

use crate::lab::{LAN, Lab, SERVER, TRUNK, WAN, host, snapshot, without_discovery};
use crate::packets::{arp_reply, arp_request, ends, frame, network, udp};

/// Neighbours are asked for; announcements are over.
fn asking(change: impl Fn(&mut Snapshot)) -> Lab {
    let mut snapshot = snapshot();
    snapshot.ports.iter_mut().for_each(|port| port.invent_neighbors = false);
    change(&mut snapshot);
    let mut lab = Lab::new(snapshot);
    for _ in 0..4 {
        lab.wait(SECOND);
    }
    lab.collect();
    lab
}

/// Polls until nothing comes of it any more, answering each ARP request; all that came out but ARP.
fn settle(lab: &mut Lab, absent: &[Ipv4Addr]) -> Vec<(usize, Vec<u8>)> {
    let (mut all, mut quiet) = (Vec::new(), 0);
    while quiet < 3 {
        lab.now += MILLISECOND;
        lab.poll();
        let out = lab.collect();
        quiet = if out.is_empty() { quiet + 1 } else { 0 };
        for (port, answer) in lab.arp_answers(&out) {
            if !absent.iter().any(|a| answer[28..32] == a.octets()) {
                lab.send(port, &answer);
            }
        }
        all.extend(out);
    }
    without_discovery(all)
}

fn question(n: u8) -> Vec<u8> {
    udp((host(9), 4000), (SERVER, 53), &[n])
}

#[test]
fn packets_wait_in_order_and_those_that_follow_stay_behind_them() {
    let mut lab = asking(|_| {});
    for n in 0..5 {
        lab.send(LAN, &frame(LAN, &question(n)));
    }
    lab.poll();
    assert_eq!(lab.counters().held, 5);
    lab.now += MILLISECOND;
    lab.poll();
    let requests = lab.collect();
    assert_eq!(requests.len(), 1, "one request, whatever waits");
    // The answer and more packets come in together, by the ports in this order: lan, wan.
    lab.send(LAN, &frame(LAN, &question(5)));
    lab.send(WAN, &arp_reply(&requests[0].1).unwrap());
    lab.poll();
    lab.send(LAN, &frame(LAN, &question(6)));
    lab.poll();
    lab.poll();
    let out = lab.collect();
    let numbers: Vec<u8> = out.iter().map(|(_, frame)| frame[42]).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
    lab.close();
}

#[test]
fn packets_of_a_later_port_stay_behind_those_that_waited() {
    let mut lab = asking(|_| {});
    lab.send(LAN, &frame(LAN, &question(0)));
    let out = settle(&mut lab, &[]);
    let outside = ends(network(&out[0].1)).0;
    for n in 0..3 {
        lab.send(WAN, &frame(WAN, &udp((SERVER, 53), outside, &[n])));
    }
    lab.poll();
    lab.now += MILLISECOND;
    lab.poll();
    let requests = lab.collect();
    assert_eq!((requests.len(), lab.counters().held), (1, 3));
    // The lan's port is polled first: the host's answer is there when the wan's packets come.
    lab.send(LAN, &arp_reply(&requests[0].1).unwrap());
    for n in 3..6 {
        lab.send(WAN, &frame(WAN, &udp((SERVER, 53), outside, &[n])));
    }
    lab.poll();
    lab.poll();
    let numbers: Vec<u8> = lab.collect().iter().map(|(_, frame)| frame[42]).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    lab.close();
}

#[test]
fn a_neighbour_that_does_not_answer_fails_and_recovers() {
    let mut lab = asking(|_| {});
    let absent = Ipv4Addr::new(203, 0, 113, 1);
    for n in 0..10 {
        lab.send(LAN, &frame(LAN, &question(n)));
    }
    lab.poll();
    assert_eq!((lab.counters().held, lab.drops(DropReason::NeighborQueueFull)), (8, 2));
    let mut told = Vec::new();
    for _ in 0..4 {
        told.extend(settle(&mut lab, &[absent]));
        lab.now += SECOND;
    }
    assert_eq!((lab.counters().held, lab.drops(DropReason::NeighborUnreachable)), (0, 8));
    assert_eq!(told.len(), 8);
    assert!(told.iter().all(|(port, f)| *port == LAN && network(f)[20..22] == [3, 1]));
    assert_eq!(lab.dropped(LAN, &question(0)), DropReason::NeighborUnreachable);
    lab.collect();
    lab.now += 4 * SECOND;
    lab.send(LAN, &frame(LAN, &question(77)));
    let out = settle(&mut lab, &[]);
    assert_eq!(out.iter().map(|(_, f)| f[42]).collect::<Vec<_>>(), [77]);
    lab.close();
}

#[test]
fn a_scan_harms_no_flow_that_stands() {
    let mut lab = asking(|snapshot| snapshot.sizes.neighbors = 16);
    lab.send(LAN, &frame(LAN, &question(0)));
    let out = settle(&mut lab, &[]);
    let outside = ends(network(&out[0].1)).0;
    lab.send(WAN, &frame(WAN, &udp((SERVER, 53), outside, b"reply")));
    assert_eq!(settle(&mut lab, &[]).len(), 1);
    let mut scanned = 0;
    for second in 0..70u32 {
        for n in 0..40u32 {
            let target = Ipv4Addr::new(172, 16, 0, (2 + (second * 40 + n) % 250) as u8);
            lab.send(LAN, &frame(LAN, &udp((host(66), n as u16), (target, 1), b"scan")));
        }
        lab.send(LAN, &frame(LAN, &question(1)));
        lab.send(WAN, &frame(WAN, &udp((SERVER, 53), outside, b"reply")));
        lab.now += SECOND;
        lab.poll();
        let out = lab.collect();
        let passed = without_discovery(out.clone()).iter().filter(|(_, f)| network(f)[9] == 17).count();
        assert_eq!(passed, 2, "second {second}: {:?}", lab.counters().drops);
        scanned += out.iter().filter(|(port, _)| *port == TRUNK).count();
        // The neighbours of the standing flow answer when they are probed.
        for (port, answer) in lab.arp_answers(&out) {
            if port != TRUNK {
                lab.send(port, &answer);
            }
        }
        lab.poll();
    }
    assert!(scanned > 0 && lab.drops(DropReason::NeighborTableFull) > 0);
    lab.close();
}

/// The table is so small that packets of one burst push out each other's next hops: none may go to another's station.
#[test]
fn made_up_neighbours_that_push_each_other_out_mislead_no_packet() {
    let mut small = snapshot();
    small.sizes.neighbors = 8;
    let mut lab = Lab::new(small);
    for round in 0..4u64 {
        for n in 0..24u8 {
            let target = Ipv4Addr::new(172, 16, 0, 100 + (n * (2 * round as u8 + 1)) % 30);
            lab.send(LAN, &frame(LAN, &udp((host(9), 4000), (target, 53), &[n])));
        }
        lab.wait(MILLISECOND);
        let out = lab.collect();
        assert!(out.len() >= 6);
        for (port, frame) in &out {
            let to = ends(network(frame)).1.0.octets();
            assert_eq!((*port, &frame[..6]), (TRUNK, &[&[2, 0], &to[..]].concat()[..]));
        }
    }
    lab.close();
}

/// A station's answer evicts an idle next hop, a newcomer's question takes its place, and a packet for the evicted one
/// follows, all in one burst.
#[test]
fn a_next_hop_that_changes_hands_within_a_burst_misleads_no_packet() {
    let mut lab = asking(|snapshot| snapshot.sizes.neighbors = 4);
    // Room for three that are resolved: dmz hosts 1 to 3. Flows to them stand.
    let dmz = |n: u8| Ipv4Addr::new(172, 16, 0, 10 + n);
    let to = |n: u8, data: u8| udp((host(9), 4000), (dmz(n), 53), &[data]);
    for n in 1..=3 {
        lab.send(LAN, &frame(LAN, &to(n, 0)));
        assert_eq!(settle(&mut lab, &[]).len(), 1);
    }
    // They idle for over a minute, answering probes.
    for _ in 0..70 {
        lab.now += SECOND;
        settle(&mut lab, &[]);
    }
    lab.send(LAN, &frame(LAN, &to(4, 0)));
    lab.poll();
    lab.now += MILLISECOND;
    lab.poll();
    let requests = lab.collect();
    let answer = requests.iter().find_map(|(_, f)| arp_reply(f)).unwrap();
    // By one port, in one burst: the answer, a stranger's question, and packets of a tagged flow to the lan and back.
    lab.send(TRUNK, &answer);
    lab.send(
        TRUNK,
        &arp_request([2, 0x66, 0, 0, 0, 1], Ipv4Addr::new(172, 16, 0, 99), Ipv4Addr::new(172, 16, 0, 1)),
    );
    for n in 1..=3 {
        let guest = Ipv4Addr::new(10, 10, 0, 9);
        lab.send(TRUNK, &crate::packets::tagged(TRUNK, &[10], &udp((guest, 1), (dmz(n), 53), &[n])));
    }
    for (port, frame) in settle(&mut lab, &[]) {
        let to = ends(network(&frame)).1.0.octets();
        assert_eq!((port, &frame[..6]), (TRUNK, &[&[2, 0x77], &to[..]].concat()[..]));
    }
    lab.close();
}
