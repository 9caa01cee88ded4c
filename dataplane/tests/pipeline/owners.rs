//! Both directions of a session name the same owner, whatever kind of session it is.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use sluice_dataplane::snapshot::{Forward, Snapshot, SourceNat};
use sluice_dataplane::stage::owner::Owners;

use crate::lab::{HOSTS, POOL, SERVER, TRUNK, WAN, WEB, snapshot};
use crate::packets::{ICMP, TCP, UDP};

type End = (u32, u16);

/// Some address of each network that the snapshot knows.
fn address() -> impl Strategy<Value = u32> {
    prop_oneof![
        (2..250u32).prop_map(|n| HOSTS + n),
        Just(WEB.to_bits()),
        (2..250u32).prop_map(|n| 0xac10_0000 + n),
        (2..250u32).prop_map(|n| 0x0a0a_0000 + n),
        Just(SERVER.to_bits()),
        any::<u32>().prop_filter("not ours", |a| !snapshot().local4.contains_key(&(*a).into())),
    ]
}

/// The usual configuration, or one with more of NAT: on the way between inside networks, and a forward there.
fn configuration(twisted: bool) -> Snapshot {
    let mut snapshot = snapshot();
    if twisted {
        snapshot.source_nat.push(SourceNat { out: 2, from: vec![(0x0a0a_0000, 0xffff_0000)], pool: 0 });
        snapshot.forwards.push(Forward { interface: 0, ..snapshot.forwards[0] });
    }
    snapshot
}

fn egress(snapshot: &Snapshot, to: u32) -> Option<u16> {
    use sluice_dataplane::snapshot::Route;
    let route = snapshot.routes4.lookup(&to.to_be_bytes())?;
    match snapshot.routes[route as usize] {
        Route::Connected { interface } | Route::Via4 { interface, .. } | Route::Via6 { interface, .. } => {
            Some(interface)
        }
        _ => None,
    }
}

fn is_translated(snapshot: &Snapshot, from: u32, to: u32) -> bool {
    let egress = egress(snapshot, to);
    let inside = |rule: &SourceNat| rule.from.is_empty() || rule.from.iter().any(|&(a, m)| from & m == a & m);
    snapshot.source_nat.iter().any(|rule| Some(rule.out) == egress && inside(rule))
}

proptest! {
    #![proptest_config(crate::lab::cases(3000))]

    #[test]
    fn both_directions_of_a_session_meet(
        workers in 1..=8usize,
        twisted in any::<bool>(),
        (src, dst) in (address(), address()),
        (sport, dport) in (any::<u16>(), any::<u16>()),
        protocol in prop::sample::select(vec![TCP, UDP, ICMP, 47]),
        forwarded in prop::option::of((8080..=8083u16, prop::sample::select(vec![0u16, 1]))),
    ) {
        let snapshot = configuration(twisted);
        let owners = Owners::new(&snapshot, workers);
        // As parsing has it: an echo's identifier is the asker's port, and other protocols have none.
        let (sport, dport) = match protocol {
            TCP | UDP => (sport, dport),
            ICMP => (sport, 0),
            _ => (0, 0),
        };
        let forwarded = forwarded.filter(|&(_, at)| protocol == TCP && (twisted || at == 1));
        let (to, inside, ingress) = match forwarded {
            Some((port, at)) => ((POOL[0].to_bits(), port), (WEB.to_bits(), 80 + port - 8080), at),
            None => ((dst, dport), (dst, dport), egress(&snapshot, src).unwrap_or(1)),
        };
        prop_assume!(src != inside.0);
        let from: End = (src, sport);
        let owner = owners.of_flow4([from, to], protocol, ingress, &snapshot).unwrap();
        prop_assert!(usize::from(owner) < workers);
        // The answer comes to what the source was translated to, from what the destination was.
        let answered = if is_translated(&snapshot, src, inside.0) {
            // A port of the owner's blocks.
            let port = (1024..=65535).find(|&port| owners.of_port(port) == owner && port % 7 == 0).unwrap();
            (POOL[1].to_bits(), port)
        } else {
            from
        };
        if answered != from && !matches!(protocol, TCP | UDP | ICMP) {
            return Ok(());
        }
        let answering = egress(&snapshot, inside.0).unwrap_or(1);
        let reply = owners.of_flow4([inside, answered], protocol, answering, &snapshot);
        prop_assert_eq!(reply, Some(owner));
    }

    #[test]
    fn both_directions_of_a_session_of_ipv6_meet(
        workers in 1..=8usize,
        ends in prop::array::uniform2((any::<u128>(), any::<u16>())),
        protocol in any::<u8>(),
    ) {
        let snapshot = snapshot();
        let owners = Owners::new(&snapshot, workers);
        let [a, b] = ends;
        let owner = owners.of_flow6([a, b], protocol, &snapshot);
        prop_assert!(usize::from(owner) < workers);
        prop_assert_eq!(owner, owners.of_flow6([b, a], protocol, &snapshot));
    }
}

#[test]
fn a_host_behind_nat_has_one_owner_and_hosts_are_shared_out_evenly() {
    let snapshot = snapshot();
    let owners = Owners::new(&snapshot, 4);
    let mut hosts = [0; 4];
    for n in 2..250 {
        let owner = |port, dst| owners.of_flow4([(HOSTS + n, port), (dst, port)], UDP, 0, &snapshot).unwrap();
        let first = owner(1, SERVER.to_bits());
        assert!((2..50u16).all(|port| owner(port, 0x0808_0000 + u32::from(port)) == first));
        hosts[usize::from(first)] += 1;
    }
    assert!(hosts.iter().all(|&n| (40..85).contains(&n)), "{hosts:?}");
    let mut flows = [0; 4];
    for n in 0..4000u16 {
        let ends = [(0xac10_0009, n), (0x0a0a_0009, 80)];
        flows[usize::from(owners.of_flow4(ends, UDP, TRUNK as u16, &snapshot).unwrap())] += 1;
        let ends = [Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED].map(|a| (a.to_bits(), n));
        flows[usize::from(owners.of_flow6(ends, UDP, &snapshot))] += 1;
    }
    assert!(flows.iter().all(|&n| (1800..2200).contains(&n)), "{flows:?}");
}

#[test]
fn ports_are_shared_out_in_blocks_even_of_a_small_pool() {
    for (ports, workers) in [((1024, 65535), 4), ((2000, 2063), 4), ((2000, 2003), 4), ((1024, 1087), 16)] {
        let mut snapshot = snapshot();
        snapshot.pools[0].ports = ports;
        let owners = Owners::new(&snapshot, workers);
        let mut each = vec![0; workers];
        (ports.0..=ports.1).for_each(|port| each[usize::from(owners.of_port(port))] += 1);
        let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
        assert!(*least > 0 && most - least <= 64, "{ports:?} among {workers}: {each:?}");
    }
}

#[test]
fn what_can_be_of_no_session_has_no_owner() {
    let snapshot = snapshot();
    let owners = Owners::new(&snapshot, 4);
    let gateway = crate::lab::GATEWAY_WAN.to_bits();
    let from = (SERVER.to_bits(), 9);
    let owner = |to: End, protocol| owners.of_flow4([from, to], protocol, WAN as u16, &snapshot);
    assert_eq!(owner((gateway, 22), TCP), None);
    assert_eq!(owner((POOL[0].to_bits(), 80), TCP), None, "below the pool's ports");
    assert_eq!(owner((POOL[0].to_bits(), 0), 47), None);
    assert!(owner((POOL[0].to_bits(), 5000), UDP).is_some());
}
