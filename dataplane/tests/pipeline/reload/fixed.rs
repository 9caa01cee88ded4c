//! Static NAT, exemptions, protocols without ports and hairpins that change under live sessions.

use std::net::Ipv4Addr;

use sluice_dataplane::nat::{StaticNat, StaticTable};
use sluice_dataplane::snapshot::{Exemption, LocalUse, NatFiltering, Snapshot};
use sluice_dataplane::verdict::DropReason;

use super::nat::behaving;
use super::workers::{begin, settle};
use super::{Reloading, STRANGER, kept, settled};
use crate::fleet::Fleet;
use crate::lab::{LAN, POOL, SERVER, WAN, WEB, host, snapshot};
use crate::packets::{ACK, Ip, SYN, ends, frame, tcp, udp};

const GRE: u8 = 47;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);

/// One host has an external address of its own.
fn fixed(next: &mut Snapshot, inside: Ipv4Addr, outside: Ipv4Addr) {
    let entry =
        StaticNat { interface: 1, inside: inside.to_bits(), outside: outside.to_bits(), mask: u32::MAX };
    next.statics = StaticTable::new([entry]);
    next.local4.insert(outside, (1, LocalUse::Nat));
}

fn gre(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    Ip::new(src, dst, GRE).packet(b"tunnelled")
}

fn addresses(ip: &[u8]) -> (Ipv4Addr, Ipv4Addr) {
    let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
    (address(12), address(16))
}

#[test]
fn sessions_of_static_nat_end_with_its_address() {
    let mut snapshot = snapshot();
    snapshot.interfaces[WAN].acl = None;
    fixed(&mut snapshot, host(9), OUTSIDE);
    let mut gateway = Reloading::of(snapshot);
    assert_eq!(gateway.say(LAN, (host(9), 4000), (SERVER, 53)).1.0, (OUTSIDE, 4000));
    assert_eq!(gateway.say(WAN, (STRANGER, 7), (OUTSIDE, 80)).1.1, (host(9), 80));
    gateway.say(LAN, (host(8), 4000), (SERVER, 53));
    gateway.lab.forward(LAN, &gre(host(9), SERVER));
    assert_eq!(gateway.reload(|_| ()), kept(4));
    assert_eq!(gateway.say(WAN, (SERVER, 53), (OUTSIDE, 4000)).1.1, (host(9), 4000));
    // The same host by another address; the one with a binding stays.
    let moved = Ipv4Addr::new(203, 0, 113, 31);
    assert_eq!(gateway.reload(|next| fixed(next, host(9), moved)), settled(1, 3));
    assert_eq!(gateway.say(LAN, (host(9), 4000), (SERVER, 53)).1.0, (moved, 4000));
    // The same address for another host.
    assert_eq!(gateway.say(WAN, (STRANGER, 7), (moved, 80)).1.1, (host(9), 80));
    assert_eq!(gateway.reload(|next| fixed(next, host(10), moved)), settled(1, 2));
    assert_eq!(gateway.say(WAN, (STRANGER, 7), (moved, 80)).1.1, (host(10), 80));
    // None: source NAT again, and nobody behind the address.
    assert_eq!(gateway.reload(|next| next.statics = StaticTable::default()), settled(1, 1));
    let (_, (external, _)) = gateway.say(LAN, (host(10), 4000), (SERVER, 53));
    assert!(POOL.contains(&external.0));
    assert_eq!(gateway.lab.dropped(WAN, &udp((STRANGER, 7), (moved, 80), b"")), DropReason::NatNoSession);
    gateway.lab.close();
}

#[test]
fn an_exemption_ends_what_was_translated_and_the_other_way_round() {
    let mut gateway = Reloading::new();
    let exempt = |next: &mut Snapshot| {
        let to = vec![(SERVER.to_bits(), u32::MAX)];
        next.exemptions =
            vec![Exemption { out: 1, from: vec![], to, protocols: vec![17], to_ports: vec![(53, 53)] }];
    };
    let inside = (host(9), 4000);
    gateway.say(LAN, inside, (SERVER, 53));
    gateway.say(LAN, inside, (SERVER, 54));
    assert_eq!(gateway.reload(exempt), settled(1, 1));
    assert_eq!(gateway.say(LAN, inside, (SERVER, 53)).1.0, inside);
    assert_ne!(gateway.say(LAN, inside, (SERVER, 54)).1.0, inside);
    assert_eq!(gateway.reload(|_| ()), kept(2));
    assert_eq!(gateway.reload(|next| next.exemptions.clear()), settled(1, 1));
    assert_ne!(gateway.say(LAN, inside, (SERVER, 53)).1.0, inside);
    gateway.lab.close();
}

#[test]
fn a_session_without_ports_keeps_its_external_address_while_that_is_in_the_pool() {
    for workers in [1, 4] {
        let mut fleet = Fleet::new(snapshot(), workers);
        let mut adopters: Vec<_> = fleet.workers.iter_mut().filter_map(|worker| worker.adopter()).collect();
        let mut mapped = Vec::new();
        for last in 20..40u8 {
            let remote = Ipv4Addr::new(198, 51, 100, last);
            let (_, out) = fleet.forward(LAN, &gre(host(last), remote));
            mapped.push((host(last), addresses(&out).0, remote));
        }
        let second = mapped.iter().filter(|(_, external, _)| *external == POOL[1]).count() as u64;
        assert!((1..20).contains(&second));
        begin(&fleet, &mut adopters, |next| next.pools[0].addresses.reverse());
        assert_eq!(settle(&mut fleet, &mut adopters), kept(20), "it is the same pool in another order");
        begin(&fleet, &mut adopters, |next| next.pools[0].addresses = vec![POOL[1]]);
        assert_eq!(settle(&mut fleet, &mut adopters), settled(second, 20 - second));
        for (inside, external, remote) in mapped.iter().filter(|(_, external, _)| *external == POOL[1]) {
            let (_, back) = fleet.forward(WAN, &gre(*remote, *external));
            assert_eq!(addresses(&back), (*remote, *inside));
        }
        for (inside, _, remote) in &mapped {
            assert_eq!(addresses(&fleet.forward(LAN, &gre(*inside, *remote)).1), (POOL[1], *remote));
        }
        assert_eq!(fleet.sessions(), 20);
        begin(&fleet, &mut adopters, |next| next.source_nat.clear());
        assert_eq!(settle(&mut fleet, &mut adopters), settled(0, 20));
        fleet.close();
    }
}

#[test]
fn static_nat_goes_on_with_what_a_pool_began_without_ports() {
    let mut gateway = Reloading::of(snapshot());
    let inside = host(9);
    let (_, out) = gateway.lab.forward(LAN, &gre(inside, SERVER));
    let external = addresses(&out).0;
    assert_eq!(gateway.lab.worker.shard().nat.live(), 1);
    let other = POOL.into_iter().find(|&address| address != external).unwrap();
    let moved = |next: &mut Snapshot, to| {
        next.pools[0].addresses.retain(|&address| address != to);
        fixed(next, inside, to);
    };
    assert_eq!(gateway.reload(|next| moved(next, external)), kept(1));
    assert_eq!(gateway.lab.worker.shard().nat.live(), 0, "its binding is gone with the pool");
    let (_, back) = gateway.lab.forward(WAN, &gre(SERVER, external));
    assert_eq!(addresses(&back), (SERVER, inside));
    assert_eq!(addresses(&gateway.lab.forward(LAN, &gre(inside, SERVER)).1), (external, SERVER));
    // With another address it would be another session to the far end.
    let elsewhere = gateway.reload(|next| {
        next.pools[0].addresses = vec![external];
        fixed(next, inside, other);
    });
    assert_eq!(elsewhere, settled(0, 1));
    assert_eq!(addresses(&gateway.lab.forward(LAN, &gre(inside, SERVER)).1), (other, SERVER));
    gateway.lab.close();
}

/// Two sessions for each hairpin: from inside to the external end, and from there back in.
#[test]
fn hairpins_live_on_or_end_as_one() {
    for workers in [1, 4] {
        let mut snapshot = behaving(NatFiltering::EndpointIndependent);
        snapshot.interfaces[WAN].acl = None;
        fixed(&mut snapshot, host(9), OUTSIDE);
        let mut fleet = Fleet::new(snapshot, workers);
        let mut adopters: Vec<_> = fleet.workers.iter_mut().filter_map(|worker| worker.adopter()).collect();
        // To a mapping.
        let (a, b) = ((host(20), 4000), (host(21), 5000));
        let external =
            |fleet: &mut Fleet, end| ends(&fleet.forward(LAN, &udp(end, (SERVER, 53), b"who am I?")).1).0;
        let (a_external, b_external) = (external(&mut fleet, a), external(&mut fleet, b));
        let speak = |fleet: &mut Fleet| {
            let (port, out) = fleet.forward(LAN, &udp(a, b_external, b"hello"));
            assert_eq!((port, ends(&out)), (LAN, (a_external, b)));
            let (port, out) = fleet.forward(LAN, &udp(b, a_external, b"hello"));
            assert_eq!((port, ends(&out)), (LAN, (b_external, a)));
        };
        speak(&mut fleet);
        // To a forward.
        let (client, public) = ((host(22), 6000), (POOL[0], 8080));
        let (_, syn) = fleet.forward(LAN, &tcp(client, public, SYN, b""));
        let client_external = ends(&syn).0;
        let connect = |fleet: &mut Fleet| {
            let (_, out) = fleet.forward(LAN, &tcp((WEB, 80), client_external, SYN | ACK, b""));
            assert_eq!(ends(&out), (public, client));
            let (_, out) = fleet.forward(LAN, &tcp(client, public, ACK, b"data"));
            assert_eq!(ends(&out), (client_external, (WEB, 80)));
        };
        connect(&mut fleet);
        // To a static address, with and without ports.
        let to_fixed = |fleet: &mut Fleet| {
            let (_, out) = fleet.forward(LAN, &udp(a, (OUTSIDE, 53), b"question"));
            assert_eq!(ends(&out), (a_external, (host(9), 53)));
            let (_, out) = fleet.forward(LAN, &udp((host(9), 53), a_external, b"answer"));
            assert_eq!(ends(&out), ((OUTSIDE, 53), a));
            let (_, out) = fleet.forward(LAN, &gre(host(23), OUTSIDE));
            let (external, inside) = addresses(&out);
            assert_eq!(inside, host(9));
            let (_, out) = fleet.forward(LAN, &gre(host(9), external));
            assert_eq!(addresses(&out), (OUTSIDE, host(23)));
        };
        to_fixed(&mut fleet);
        let all = u64::from(fleet.sessions());
        assert_eq!(
            all,
            2 + 2 + 2 + 4,
            "a and b to the server; to each other; to the forward; to the static address"
        );
        for _ in 0..3 {
            begin(&fleet, &mut adopters, |_| ());
            assert_eq!(settle(&mut fleet, &mut adopters), kept(all));
            speak(&mut fleet);
            connect(&mut fleet);
            to_fixed(&mut fleet);
            assert_eq!(u64::from(fleet.sessions()), all);
        }
        // Amid packets, half of the workers already by the next configuration.
        begin(&fleet, &mut adopters, |_| ());
        for worker in 0..workers.div_ceil(2) {
            fleet.poll(worker);
        }
        speak(&mut fleet);
        to_fixed(&mut fleet);
        assert_eq!(settle(&mut fleet, &mut adopters), kept(all));
        // The static address goes: both halves of what went there end.
        begin(&fleet, &mut adopters, |next| next.statics = StaticTable::default());
        assert_eq!(settle(&mut fleet, &mut adopters), settled(all - 4, 4));
        speak(&mut fleet);
        connect(&mut fleet);
        // The forward goes, then the pool.
        begin(&fleet, &mut adopters, |next| next.forwards.clear());
        // The port is one of the pool's again, so that the way out stays; nobody is behind it.
        assert_eq!(settle(&mut fleet, &mut adopters), settled(5, 1));
        let before = fleet.drops(DropReason::NatNoSession);
        fleet.spray(LAN, &frame(LAN, &tcp(client, public, ACK, b"data")));
        fleet.settle();
        assert_eq!(fleet.drops(DropReason::NatNoSession), before + 1);
        fleet.collect();
        speak(&mut fleet);
        begin(&fleet, &mut adopters, |next| {
            let address = Ipv4Addr::new(203, 0, 113, 99);
            next.pools[0].addresses = vec![address];
            next.local4.insert(address, (1, LocalUse::Nat));
        });
        assert_eq!(settle(&mut fleet, &mut adopters), settled(0, 5));
        assert_eq!((fleet.sessions(), fleet.bindings()), (0, 0));
        fleet.close();
    }
}
