//! What several workers have together: the neighbours that they know, and the rates of limits.

use std::net::Ipv4Addr;

use sluice_dataplane::clock::{MILLISECOND, SECOND};
use sluice_dataplane::snapshot::{ColorAction, Per, Policer};
use sluice_dataplane::table::meter::Rate;
use sluice_dataplane::table::tcm::model::Model;
use sluice_dataplane::verdict::DropReason;

use super::{CLIENT, SERVICE};
use crate::fleet::Fleet;
use crate::lab::{LAN, Out, TRUNK, host, snapshot};
use crate::packets::{arp_reply, arp_request, frame, udp};

/// Neighbours are asked for; announcements are over.
fn asking(workers: usize) -> Fleet {
    let mut snapshot = snapshot();
    snapshot.ports.iter_mut().for_each(|port| port.invent_neighbors = false);
    let mut fleet = Fleet::new(snapshot, workers);
    fleet.settle();
    let announced = fleet.collect().len();
    for _ in 0..4 {
        fleet.wait(SECOND);
    }
    assert_eq!(announced + fleet.collect().len(), announced * 3, "one worker announces, three times");
    fleet
}

#[test]
fn a_neighbour_is_asked_for_once_whoever_wants_it_and_known_to_all() {
    let mut fleet = asking(4);
    let dmz = |n: u8| Ipv4Addr::new(172, 16, 0, n);
    for n in 10..20 {
        for worker in 0..4 {
            fleet.send(worker, LAN, &frame(LAN, &udp((host(9), 4000), (dmz(n), 53), &[n])));
        }
        fleet.settle();
        let requests = fleet.collect();
        assert_eq!(requests.len(), 1, "one request for all");
        // The answer arrives anywhere.
        fleet.spray(TRUNK, &arp_reply(&requests[0].1).unwrap());
        fleet.settle();
        let out = fleet.collect();
        assert_eq!(out.len(), 4, "it was the answer for all who waited");
        assert!(out.iter().all(|(_, frame)| frame[..6] == [0x02, 0x77, 172, 16, 0, n]));
    }
    // Probed by one, a minute later.
    let mut requests = 0;
    for _ in 0..70 {
        fleet.wait(SECOND);
        let out = fleet.collect();
        requests += out.len();
        for (port, frame) in out {
            fleet.spray(port, &arp_reply(&frame).unwrap());
        }
    }
    assert_eq!(requests, 10, "each is probed once");
    for n in 10..20 {
        for worker in 0..4 {
            let (port, _) = fleet.forward_at(worker, LAN, &udp((host(9), 4000), (dmz(n), 53), &[n]));
            assert_eq!(port, TRUNK);
        }
    }
    fleet.close();
}

#[test]
fn a_neighbour_that_does_not_answer_fails_for_all_and_is_asked_once_a_second() {
    let mut fleet = asking(4);
    let gone = Ipv4Addr::new(172, 16, 0, 66);
    for worker in 0..4 {
        fleet.send(worker, LAN, &frame(LAN, &udp((host(9), 4000), (gone, 53), b"")));
        fleet.wait(SECOND / 2);
    }
    let requests = |out: &[Out]| out.iter().filter(|(port, _)| *port == TRUNK).count();
    let first = requests(&fleet.collect());
    assert!((2..=3).contains(&first), "{first}");
    fleet.wait(2 * SECOND);
    assert_eq!(first + requests(&fleet.collect()), 3);
    assert_eq!(fleet.drops(DropReason::NeighborUnreachable), 4);
    fleet.close();
}

#[test]
fn who_is_heard_at_one_worker_is_known_to_all() {
    let mut fleet = asking(4);
    let station = Ipv4Addr::new(172, 16, 0, 77);
    fleet.spray(TRUNK, &arp_request([2, 0x66, 0, 0, 0, 1], station, Ipv4Addr::new(172, 16, 0, 1)));
    fleet.settle();
    assert_eq!(fleet.collect().len(), 1, "one reply");
    for worker in 0..4 {
        fleet.send(worker, LAN, &frame(LAN, &udp((host(9), 4000), (station, 53), b"")));
    }
    fleet.settle();
    let out = fleet.collect();
    assert_eq!(out.len(), 4);
    assert!(out.iter().all(|(_, frame)| frame[..6] == [2, 0x66, 0, 0, 0, 1]));
    fleet.close();
}

/// What a limit of 8 Mbit/s lets pass in two seconds of load that is shared out by these weights.
fn passed(weights: [usize; 4], policer: Option<Policer>) -> f64 {
    let mut snapshot = snapshot();
    snapshot.limits[0].rate = Rate { bits_per_second: 8_000_000 };
    snapshot.limits[0].burst = 20_000;
    snapshot.limits[0].policer = policer;
    let mut fleet = Fleet::new(snapshot, 4);
    for worker in 0..4 {
        fleet.forward_at(worker, LAN, &udp(CLIENT, SERVICE, &[0; 958]));
    }
    let total: usize = weights.iter().sum();
    let (mut bytes, mut packets) = (0, 0);
    for millisecond in 0..2500 {
        fleet.now += MILLISECOND;
        for _ in 0..4 {
            // 32 Mbit/s in all.
            let at = fleet.random(total);
            let worker = (0..4).find(|&w| at < weights[..=w].iter().sum()).unwrap();
            fleet.send(worker, LAN, &frame(LAN, &udp(CLIENT, SERVICE, &[0; 958])));
        }
        fleet.settle();
        let out = fleet.collect();
        if millisecond >= 500 {
            bytes += out.iter().map(|(_, frame)| frame.len()).sum::<usize>();
            packets += out.len();
        }
    }
    assert!(packets > 0);
    fleet.close();
    bytes as f64 * 8.0 / 2.0
}

#[test]
fn a_limit_holds_for_all_workers_together_however_uneven_the_load() {
    for weights in [[1, 1, 1, 1], [1, 0, 0, 0], [8, 4, 2, 1], [0, 1, 0, 20]] {
        let rate = passed(weights, None);
        assert!((7_700_000.0..8_250_000.0).contains(&rate), "{weights:?}: {rate}");
    }
}

#[test]
fn a_policer_with_colors_holds_for_all_workers_together() {
    // Half is green; twice that passes.
    let policer = Policer {
        model: Model::ExcessRate,
        second_rate: Rate { bits_per_second: 8_000_000 },
        second_burst: 20_000,
        actions: [ColorAction::Pass, ColorAction::Pass, ColorAction::Drop],
        ..Policer::default()
    };
    for weights in [[1, 1, 1, 1], [1, 0, 0, 0], [8, 4, 2, 1]] {
        let rate = passed(weights, Some(policer));
        assert!((15_400_000.0..16_500_000.0).contains(&rate), "{weights:?}: {rate}");
    }
}

#[test]
fn a_flow_has_one_meter_whichever_worker_it_comes_in_at() {
    let policer = Policer {
        packets: true,
        actions: [ColorAction::Pass, ColorAction::Drop, ColorAction::Drop],
        per: Some(Per::Flow),
        most: 16,
        ..Policer::default()
    };
    let mut snapshot = snapshot();
    snapshot.limits[0].rate = Rate { bits_per_second: 8 };
    snapshot.limits[0].burst = 5;
    snapshot.limits[0].policer = Some(policer);
    let mut fleet = Fleet::new(snapshot, 4);
    for worker in 0..4 {
        let from = (host(9), 4000 + worker as u16);
        for _ in 0..10 {
            fleet.send(worker, LAN, &frame(LAN, &udp(from, SERVICE, b"")));
            fleet.settle();
        }
    }
    assert_eq!((fleet.collect().len(), fleet.drops(DropReason::RateLimited)), (20, 20));
    fleet.close();
}

#[test]
fn a_load_under_the_limit_passes_however_it_wanders() {
    let mut snapshot = snapshot();
    snapshot.limits[0].rate = Rate { bits_per_second: 16_000_000 };
    snapshot.limits[0].burst = 100_000;
    let mut fleet = Fleet::new(snapshot, 4);
    for step in 0..2000 {
        fleet.now += MILLISECOND;
        // 8 Mbit/s, at another worker every 100 ms.
        fleet.send(step / 100 % 4, LAN, &frame(LAN, &udp(CLIENT, SERVICE, &[0; 958])));
        fleet.settle();
    }
    assert_eq!((fleet.collect().len(), fleet.drops(DropReason::RateLimited)), (2000, 0));
    fleet.close();
}
