//! Pools and port forwards that change under live sessions.

use std::net::Ipv4Addr;

use sluice_dataplane::snapshot::{Forward, LocalUse, NatFiltering, Pool, Snapshot};
use sluice_dataplane::verdict::DropReason;

use super::{Reloading, STRANGER, kept, settled};
use crate::lab::{LAN, POOL, SERVER, WAN, WEB, host, snapshot};
use crate::packets::{SYN, TCP, UDP, ends, tcp, udp};

/// Hosts whose external address is this one.
fn behind(gateway: &mut Reloading, address: Ipv4Addr) -> Vec<u8> {
    let mut all = Vec::new();
    for last in 20..60 {
        let (_, (external, _)) = gateway.say(LAN, (host(last), 4000), (SERVER, 53));
        if external.0 == address {
            all.push(last);
        }
    }
    all
}

fn pool(next: &mut Snapshot, addresses: &[Ipv4Addr]) {
    next.pools[0].addresses = addresses.to_vec();
    next.local4.extend(addresses.iter().map(|&address| (address, (1, LocalUse::Nat))));
}

#[test]
fn a_pool_that_shrinks_keeps_what_is_still_in_it() {
    let mut gateway = Reloading::new();
    let first = behind(&mut gateway, POOL[0]);
    let second: Vec<u8> = (20..60).filter(|last| !first.contains(last)).collect();
    assert!(!first.is_empty() && !second.is_empty());
    let outcome = gateway.reload(|next| pool(next, &POOL[1..]));
    assert_eq!(outcome, settled(second.len() as u64, first.len() as u64));
    for &last in &second {
        let (_, (external, server)) = gateway.say(LAN, (host(last), 4000), (SERVER, 53));
        assert_eq!(external, (POOL[1], gateway.port_of(last)));
        // What else the endpoint says goes by the same binding.
        assert_eq!(gateway.say(LAN, (host(last), 4000), (STRANGER, 9)).1.0, external);
        gateway.say(WAN, server, external);
    }
    for &last in &first {
        assert_eq!(gateway.say(LAN, (host(last), 4000), (SERVER, 53)).1.0.0, POOL[1]);
    }
    // It grows again, in another order: nothing ends.
    assert_eq!(gateway.reload(|next| pool(next, &[POOL[1], POOL[0]])).ended, 0);
    assert_eq!(gateway.bindings(), 40);
    gateway.lab.close();
}

impl Reloading {
    /// The external port of a host's binding for port 4000.
    fn port_of(&self, last: u8) -> u16 {
        let nat = &self.lab.worker.shard().nat;
        let of = |b: &&sluice_dataplane::nat::Binding| b.inside == (host(last).to_bits(), 4000);
        (0..nat.slots()).filter_map(|index| nat.get(index)).find(of).unwrap().external.1
    }
}

#[test]
fn an_endpoint_that_speaks_before_its_old_session_ends_gets_another_binding() {
    let mut gateway = Reloading::new();
    let first = behind(&mut gateway, POOL[0]);
    for port in 0..300 {
        gateway.say(LAN, (host(9), 5000 + port), (SERVER, 53));
    }
    gateway.hand_over(|next| pool(next, &POOL[1..]));
    // With the budget of this poll spent, a new session of an old endpoint.
    let inside = (host(*first.last().unwrap()), 4000);
    let (_, (external, _)) = gateway.say(LAN, inside, (STRANGER, 9));
    assert_eq!(external.0, POOL[1]);
    gateway.settle();
    assert_eq!(gateway.say(LAN, inside, (STRANGER, 9)).1.0, external);
    assert_eq!(gateway.say(LAN, inside, (SERVER, 53)).1.0, external, "one mapping for one endpoint");
    // Every port is given back in the end.
    gateway.reload(|next| next.source_nat.clear());
    assert_eq!((gateway.live(), gateway.bindings()), (0, 0));
    let in_use: Vec<_> = gateway.lab.worker.shard().nat.externals().collect();
    assert_eq!(in_use, [(POOL[1], [0; 3])]);
    gateway.lab.close();
}

#[test]
fn pools_that_merge_and_part_keep_their_sessions() {
    let mut snapshot = snapshot();
    let rule = |from: u32, mask, pool| sluice_dataplane::snapshot::SourceNat {
        out: 1,
        from: vec![(from, mask)],
        pool,
    };
    let (low, high) = (host(0).to_bits(), host(128).to_bits());
    snapshot.pools = POOL
        .map(|address| Pool { addresses: vec![address], ports: (1024, 65535), ..Pool::default() })
        .to_vec();
    let parted = vec![rule(low, 0xffff_ff80, 0), rule(high, 0xffff_ff80, 1)];
    snapshot.source_nat = parted.clone();
    let apart = snapshot.pools.clone();
    let mut gateway = Reloading::of(snapshot);
    let mut mapped = Vec::new();
    for last in (2..=250).step_by(3) {
        mapped.push((last, gateway.say(LAN, (host(last), 4000), (SERVER, 53))));
    }
    let all = mapped.len() as u64;
    let same = |gateway: &mut Reloading| {
        for (last, mapped) in &mapped {
            assert_eq!(gateway.say(LAN, (host(*last), 4000), (SERVER, 53)), *mapped);
            assert_eq!(gateway.say(LAN, (host(*last), 4000), (STRANGER, 53)).1.0, mapped.1.0);
        }
    };
    let merged = gateway.reload(|next| {
        next.pools = vec![Pool { addresses: POOL.to_vec(), ports: (1024, 65535), ..Pool::default() }];
        next.source_nat = vec![rule(low, 0xffff_ff00, 0)];
    });
    assert_eq!(merged, kept(all));
    same(&mut gateway);
    let outcome = gateway.reload(|next| (next.pools, next.source_nat) = (apart, parted));
    assert_eq!(outcome, kept(2 * all));
    same(&mut gateway);
    gateway.lab.close();
}

#[test]
fn nat_that_comes_or_goes_ends_what_it_would_map_otherwise() {
    let mut without = snapshot();
    let (pools, rules) = (std::mem::take(&mut without.pools), std::mem::take(&mut without.source_nat));
    let mut gateway = Reloading::of(without);
    let inside = (host(9), 4000);
    assert_eq!(gateway.say(LAN, inside, (SERVER, 53)).1.0, inside);
    for port in 0..40 {
        gateway.say(WAN, (SERVER, 7000 + port), (POOL[0], 5300));
    }
    let outcome = gateway.reload(|next| (next.pools, next.source_nat) = (pools, rules));
    assert_eq!(outcome, settled(40, 1));
    for port in 0..100 {
        assert!(POOL.contains(&gateway.say(LAN, (host(9), 4000 + port), (SERVER, 53)).1.0.0));
    }
    assert_eq!(gateway.bindings(), 100);
    assert_eq!(gateway.reload(|next| next.source_nat.clear()), settled(40, 100));
    assert_eq!(gateway.say(LAN, inside, (SERVER, 53)).1.0, inside);
    gateway.lab.close();
}

#[test]
fn a_forward_that_leads_elsewhere_ends_its_sessions() {
    let mut gateway = Reloading::new();
    let dns = gateway.say(WAN, (SERVER, 7), (POOL[0], 5300));
    let (_, web) = gateway.lab.forward(WAN, &tcp((SERVER, 7), (POOL[0], 8080), SYN, b""));
    assert_eq!((dns.1.1, ends(&web).1), ((WEB, 53), (WEB, 80)));
    let retarget = |next: &mut Snapshot| next.forwards[0].to = host(81);
    assert_eq!(gateway.reload(retarget), settled(1, 1));
    let (_, web) = gateway.lab.forward(WAN, &tcp((SERVER, 7), (POOL[0], 8080), SYN, b""));
    assert_eq!(ends(&web).1, (host(81), 80));
    // By other public ports to the same place: the sessions of those that stay stay.
    assert_eq!(
        gateway.reload(|next| (next.forwards[0].ports, next.forwards[0].to_port) = ((8079, 8080), 79)),
        kept(2)
    );
    assert_eq!(gateway.reload(|next| next.forwards.clear()), settled(0, 2));
    let dns = udp((SERVER, 7), (POOL[0], 5300), b"question");
    assert_eq!(gateway.lab.dropped(WAN, &dns), DropReason::NatNoSession);
    gateway.lab.close();
}

#[test]
fn a_forward_takes_its_port_from_a_binding_and_gives_it_back() {
    let mut gateway = Reloading::new();
    let narrow = |next: &mut Snapshot| pool(next, &POOL[..1]);
    gateway.reload(narrow);
    let inside = (host(9), 6000);
    assert_eq!(gateway.say(LAN, inside, (SERVER, 53)).1.0, (POOL[0], 6000));
    let forward = Forward {
        interface: 1,
        protocol: UDP,
        address: POOL[0],
        ports: (6000, 6001),
        to: WEB,
        to_port: 6000,
    };
    assert_eq!(gateway.reload(|next| next.forwards.push(forward)), settled(0, 1));
    assert_eq!(gateway.say(WAN, (SERVER, 53), (POOL[0], 6000)).1.1, (WEB, 6000));
    let (_, (external, _)) = gateway.say(LAN, inside, (SERVER, 53));
    assert!(!(6000..=6001).contains(&external.1));
    // The forward goes: its port is free again, and what came by it ends.
    assert_eq!(gateway.reload(|next| _ = next.forwards.pop()), settled(1, 1));
    assert_eq!(gateway.say(LAN, (host(8), 6000), (SERVER, 53)).1.0, (POOL[0], 6000));
    gateway.lab.close();
}

#[test]
fn addresses_come_and_go_without_a_trace() {
    let mut gateway = Reloading::new();
    let inside = (host(9), 4000);
    for round in 0..30u8 {
        let address = Ipv4Addr::new(203, 0, 113, 20 + round % 7);
        gateway.reload(|next| pool(next, &[address]));
        assert_eq!(gateway.say(LAN, inside, (SERVER, 53)).1.0, (address, 4000));
        assert_eq!(gateway.lab.forward(LAN, &tcp(inside, (SERVER, 80), SYN, b"")).0, WAN);
        assert_eq!((gateway.live(), gateway.bindings()), (2, 2));
        let in_use: Vec<_> = gateway.lab.worker.shard().nat.externals().collect();
        assert_eq!(in_use, [(address, [1, 1, 0])]);
    }
    assert_eq!(gateway.ended_by_policy(), 58);
    assert_eq!(gateway.lab.dropped(WAN, &udp((SERVER, 53), (POOL[0], 4000), b"")), DropReason::AclDeny);
    assert_eq!(TCP, 6);
    gateway.lab.close();
}

#[test]
fn sessions_from_outside_go_on_and_end_with_their_mode() {
    let mut gateway = Reloading::of(behaving(NatFiltering::EndpointIndependent));
    let inside = (host(9), 4000);
    let (_, (external, _)) = gateway.say(LAN, inside, (SERVER, 53));
    assert_eq!(gateway.say(WAN, (STRANGER, 99), external).1.1, inside);
    assert_eq!(gateway.live(), 2);
    assert_eq!(gateway.reload(|_| ()), kept(2));
    assert_eq!(gateway.say(WAN, (STRANGER, 99), external).1.1, inside);
    let outcome = gateway.reload(|next| next.pools = behaving(NatFiltering::AddressDependent).pools);
    assert_eq!(outcome, settled(0, 2));
    assert_eq!((gateway.live(), gateway.bindings()), (0, 0));
    let (_, (external, _)) = gateway.say(LAN, inside, (SERVER, 53));
    assert_eq!(gateway.say(WAN, (SERVER, 99), external).1.1, inside);
    assert_eq!(gateway.reload(|_| ()), kept(2));
    gateway.reload(|next| next.source_nat.clear());
    assert_eq!((gateway.live(), gateway.bindings()), (0, 0));
    gateway.lab.close();
}

pub(super) fn behaving(filtering: NatFiltering) -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.pools[0].behavior.filtering = filtering;
    snapshot
}
