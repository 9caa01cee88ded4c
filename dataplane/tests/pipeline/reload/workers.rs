//! Another configuration for several workers, which adopt it one after the other.

use std::net::Ipv4Addr;
use std::sync::Arc;

use sluice_dataplane::adopt::{Adopter, Settled, hand_over};
use sluice_dataplane::clock::{MILLISECOND, SECOND};
use sluice_dataplane::nat::Deterministic;
use sluice_dataplane::snapshot::{Allocation, LocalUse, PortBlocks, Snapshot};
use sluice_dataplane::table::classifier::{Classifier, PortRange, Rule};
use sluice_dataplane::verdict::DropReason;
use sluice_dataplane::worker::Worker;

use crate::fleet::Fleet;
use crate::lab::{HOST6, HOSTS, LAN, LAN_REJECT, LAN_SMTP, POOL, SERVER, SERVER6, WAN, any, host, snapshot};
use crate::packets::{End, ends, frame, udp, udp6};

const WORKERS: usize = 4;

fn fleet() -> (Fleet, Vec<Adopter>) {
    fleet_of(snapshot())
}

fn fleet_of(snapshot: Snapshot) -> (Fleet, Vec<Adopter>) {
    let mut fleet = Fleet::new(snapshot, WORKERS);
    let adopters = fleet.workers.iter_mut().filter_map(Worker::adopter).collect();
    (fleet, adopters)
}

pub(super) fn begin(fleet: &Fleet, adopters: &mut [Adopter], change: impl FnOnce(&mut Snapshot)) {
    let mut next = Snapshot::clone(fleet.workers[0].snapshot());
    next.generation += 1;
    change(&mut next);
    assert!(hand_over(adopters, &Arc::new(next)).is_some());
}

pub(super) fn settle(fleet: &mut Fleet, adopters: &mut [Adopter]) -> Settled {
    let mut all = vec![None; adopters.len()];
    for _ in 0..1000 {
        fleet.now += MILLISECOND;
        fleet.settle();
        for (adopter, settled) in adopters.iter_mut().zip(&mut all) {
            *settled = settled.or_else(|| adopter.settled());
        }
        if let Some(all) = all.iter().copied().collect::<Option<Vec<Settled>>>() {
            return Settled {
                kept: all.iter().map(|s| s.kept).sum(),
                ended: all.iter().map(|s| s.ended).sum(),
            };
        }
    }
    panic!("not settled within a second");
}

/// 40 sessions with NAT, and their external ends, with copies of both directions at all workers.
fn sessions(fleet: &mut Fleet) -> Vec<(End, End)> {
    let mut outside = Vec::new();
    for n in 2..42u8 {
        let from = (host(n), 4000 + u16::from(n));
        let (_, out) = fleet.forward(LAN, &udp(from, (SERVER, 53 + u16::from(n % 2)), b"question"));
        outside.push((from, ends(&out).0));
    }
    all_live(fleet, &outside);
    outside
}

fn all_live(fleet: &mut Fleet, outside: &[(End, End)]) {
    for worker in 0..WORKERS {
        for &(from, external) in outside {
            let server = (SERVER, 53 + from.1 % 2);
            let (port, out) = fleet.forward_at(worker, LAN, &udp(from, server, b"more"));
            assert_eq!((port, ends(&out).0), (WAN, external));
            let (port, back) = fleet.forward_at(worker, WAN, &udp(server, external, b"answer"));
            assert_eq!((port, ends(&back).1), (LAN, from));
        }
    }
}

fn copies(fleet: &Fleet) -> u32 {
    fleet.workers.iter().map(|worker| worker.shard().sessions.copies()).sum()
}

#[test]
fn the_same_configuration_again_ends_nothing_at_any_worker() {
    let (mut fleet, mut adopters) = fleet();
    let outside = sessions(&mut fleet);
    fleet.forward(LAN, &udp6((HOST6, 1), (SERVER6, 2), b"question"));
    for _ in 0..5 {
        begin(&fleet, &mut adopters, |_| ());
        assert_eq!(settle(&mut fleet, &mut adopters), Settled { kept: 41, ended: 0 });
        assert_eq!(copies(&fleet), 0, "they are asked for anew");
        all_live(&mut fleet, &outside);
        assert!(copies(&fleet) > 0);
    }
    assert_eq!((fleet.sessions(), fleet.bindings(), fleet.counters().sessions_created), (41, 40, 41));
    fleet.close();
}

#[test]
fn sessions_live_on_while_workers_go_by_different_configurations() {
    let (mut fleet, mut adopters) = fleet();
    let outside = sessions(&mut fleet);
    for _ in 0..8 {
        let before = fleet.counters().drops;
        begin(&fleet, &mut adopters, |next| next.pools[0].addresses.reverse());
        // They adopt in any order, amid packets.
        let mut sent = 0;
        for &(from, external) in &outside {
            fleet.spray(LAN, &frame(LAN, &udp(from, (SERVER, 53 + from.1 % 2), b"more")));
            fleet.spray(WAN, &frame(WAN, &udp((SERVER, 53 + from.1 % 2), external, b"answer")));
            sent += 2;
            let worker = fleet.random(WORKERS);
            fleet.poll(worker);
        }
        assert_eq!(settle(&mut fleet, &mut adopters), Settled { kept: 40, ended: 0 });
        assert_eq!((fleet.collect().len(), &fleet.counters().drops), (sent, &before));
    }
    all_live(&mut fleet, &outside);
    assert_eq!((fleet.sessions(), fleet.counters().sessions_created), (40, 40));
    fleet.close();
}

#[test]
fn what_ends_ends_at_all_workers() {
    let (mut fleet, mut adopters) = fleet();
    let outside = sessions(&mut fleet);
    begin(&fleet, &mut adopters, |next| {
        let port = |port| PortRange { first: port, last: port };
        let smtp = Rule { protocol: Some(6), dst_port: port(25), ..any(LAN_SMTP) };
        let dns = Rule { dst_port: port(53), ..any(LAN_REJECT) };
        next.acls[0].v4 = Classifier::new(vec![smtp, dns]);
    });
    assert_eq!(settle(&mut fleet, &mut adopters), Settled { kept: 20, ended: 20 });
    assert_eq!((fleet.sessions(), fleet.bindings(), fleet.counters().sessions_ended_by_policy), (20, 20, 20));
    let (live, ended): (Vec<_>, Vec<_>) = outside.into_iter().partition(|(from, _)| from.1 % 2 == 1);
    all_live(&mut fleet, &live);
    for worker in 0..WORKERS {
        for (from, external) in &ended {
            fleet.send(worker, LAN, &frame(LAN, &udp(*from, (SERVER, 53), b"more")));
            fleet.send(worker, WAN, &frame(WAN, &udp((SERVER, 53), *external, b"answer")));
        }
    }
    fleet.settle();
    assert_eq!(fleet.drops(DropReason::AclDeny), 2 * 20 * WORKERS as u64);
    fleet.close();
}

#[test]
fn a_new_pool_is_shared_out_among_the_workers() {
    let (mut fleet, mut adopters) = fleet();
    sessions(&mut fleet);
    let address = [203, 0, 113, 99].into();
    begin(&fleet, &mut adopters, |next| {
        next.pools[0].addresses = vec![address];
        next.local4.insert(address, (1, sluice_dataplane::snapshot::LocalUse::Nat));
    });
    assert_eq!(settle(&mut fleet, &mut adopters), Settled { kept: 0, ended: 40 });
    let mut taken = std::collections::HashSet::new();
    let mut outside = Vec::new();
    for n in 2..42u8 {
        // All by one port, which one of them at most can keep.
        let from = (host(n), 6001);
        let (_, out) = fleet.forward(LAN, &udp(from, (SERVER, 54), b"question"));
        assert!(ends(&out).0.0 == address && taken.insert(ends(&out).0), "no port is given out twice");
        outside.push((from, ends(&out).0));
    }
    all_live(&mut fleet, &outside);
    assert!(!POOL.contains(&address));
    fleet.close();
}

/// Of blocks and of subscribers' ports, too, each has the owner that it had, in whatever pool.
#[test]
fn ports_of_subscribers_keep_their_owners_in_a_pool_that_grows() {
    let plan = |addresses| {
        let plan = Deterministic::new(&[(HOSTS, 0xffff_ff00)], addresses, (2048, 10_239), 64).unwrap();
        Allocation::Deterministic(plan)
    };
    let blocks = Allocation::Blocks(PortBlocks { size: 64, most: 4, hold: 120 * SECOND });
    let third = Ipv4Addr::new(203, 0, 113, 250);
    for (before, after) in [(blocks.clone(), blocks), (plan(2), plan(3))] {
        let mut snapshot = snapshot();
        snapshot.pools[0].ports = (2048, 10_239);
        snapshot.pools[0].allocation = before;
        let (mut fleet, mut adopters) = fleet_of(snapshot);
        let outside = sessions(&mut fleet);
        begin(&fleet, &mut adopters, |next| {
            next.pools[0].addresses = vec![POOL[0], POOL[1], third];
            next.pools[0].allocation = after;
            next.local4.insert(third, (1, LocalUse::Nat));
        });
        assert_eq!(settle(&mut fleet, &mut adopters), Settled { kept: 40, ended: 0 });
        all_live(&mut fleet, &outside);
        for &((address, _), external) in &outside {
            let (_, out) = fleet.forward(LAN, &udp((address, 5000), (SERVER, 53), b"question"));
            let (other, _) = ends(&out);
            assert_eq!((other.0, (other.1 - 2048) / 64), (external.0, (external.1 - 2048) / 64));
            fleet.forward(WAN, &udp((SERVER, 53), other, b"answer"));
        }
        assert_eq!((fleet.sessions(), fleet.bindings()), (80, 80));
        fleet.close();
    }
}
