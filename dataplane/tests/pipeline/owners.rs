//! Both directions of a session name the same owner, whatever kind of session it is.

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use proptest::prelude::*;
use sluice_dataplane::nat::{StaticNat, StaticTable};
use sluice_dataplane::snapshot::{Exemption, Forward, LocalUse, Snapshot, SourceNat};
use sluice_dataplane::stage::owner::Owners;

use crate::lab::{HOSTS, POOL, SERVER, TRUNK, WAN, WEB, snapshot};
use crate::packets::{ICMP, TCP, UDP};

type End = (u32, u16);

const GRE: u8 = 47;
/// Hosts with an external address of their own, and that of the first.
const STATIC: u32 = HOSTS + 200;
const STATIC_OUTSIDE: u32 = 0xcb00_71c8;
/// Whereto NAT is off.
const EXEMPT: (u32, u32) = (0x0808_0000, 0xffff_0000);

/// Made once: the cases only read them.
static PLAIN: LazyLock<Snapshot> = LazyLock::new(snapshot);
static CONFIGURATIONS: LazyLock<[Snapshot; 2]> = LazyLock::new(|| [false, true].map(configured));

/// Some address of each network that the snapshot knows.
fn address() -> impl Strategy<Value = u32> {
    prop_oneof![
        (2..250u32).prop_map(|n| HOSTS + n),
        Just(WEB.to_bits()),
        (2..250u32).prop_map(|n| 0xac10_0000 + n),
        (2..250u32).prop_map(|n| 0x0a0a_0000 + n),
        Just(SERVER.to_bits()),
        (0..8u32).prop_map(|n| STATIC + n),
        (0..8u32).prop_map(|n| EXEMPT.0 + n),
        any::<u32>().prop_filter("not ours", |a| !PLAIN.local4.contains_key(&(*a).into())),
    ]
}

/// See [`configured`].
fn configuration(twisted: bool) -> &'static Snapshot {
    &CONFIGURATIONS[usize::from(twisted)]
}

/// The usual configuration, or one with more of NAT: on the way between inside networks, and a forward there.
fn configured(twisted: bool) -> Snapshot {
    let mut snapshot = snapshot();
    if twisted {
        snapshot.source_nat.push(SourceNat { out: 2, from: vec![(0x0a0a_0000, 0xffff_0000)], pool: 0 });
        snapshot.forwards.push(Forward { interface: 0, ..snapshot.forwards[0] });
    }
    let entry = StaticNat { interface: 1, inside: STATIC, outside: STATIC_OUTSIDE, mask: 0xffff_fff8 };
    snapshot.statics = StaticTable::new([entry]);
    snapshot.local4.extend((0..8).map(|n| ((STATIC_OUTSIDE + n).into(), (1, LocalUse::Nat))));
    let exemption = Exemption { out: 1, from: vec![], to: vec![EXEMPT], protocols: vec![], to_ports: vec![] };
    snapshot.exemptions.push(exemption);
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

/// An external port of a worker.
fn port_of(owners: &Owners, owner: u8) -> u16 {
    (1024..=65535).find(|&port| owners.of_port(port) == owner && port % 7 == 0).unwrap()
}

/// What a session's source becomes when it leaves by an interface, if its owner is this one.
fn translated(snapshot: &Snapshot, from: End, to: u32, protocol: u8, egress: u16, port: u16) -> End {
    let inside =
        |rule: &SourceNat| rule.from.is_empty() || rule.from.iter().any(|&(a, m)| from.0 & m == a & m);
    let is_exempt = egress == 1 && to & EXEMPT.1 == EXEMPT.0;
    let is_pooled = snapshot.source_nat.iter().any(|rule| rule.out == egress && inside(rule));
    if egress == 1 && !is_exempt && from.0 & !7 == STATIC {
        return (from.0 - STATIC + STATIC_OUTSIDE, from.1);
    }
    match protocol {
        _ if is_exempt || !is_pooled => from,
        TCP | UDP | ICMP => (POOL[1].to_bits(), port),
        _ => (POOL[1].to_bits(), 0),
    }
}

/// As parsing has it: an echo's identifier is the asker's port, and other protocols have none.
fn ports(protocol: u8, (sport, dport): (u16, u16)) -> (u16, u16) {
    match protocol {
        TCP | UDP => (sport, dport),
        ICMP => (sport, 0),
        _ => (0, 0),
    }
}

proptest! {
    #![proptest_config(crate::lab::cases(3000))]

    #[test]
    fn both_directions_of_a_session_meet(
        workers in 1..=8usize,
        twisted in any::<bool>(),
        (src, dst) in (address(), address()),
        (sport, dport) in (any::<u16>(), any::<u16>()),
        protocol in prop::sample::select(vec![TCP, UDP, ICMP, GRE]),
        forwarded in prop::option::of((8080..=8083u16, prop::sample::select(vec![0u16, 1]))),
        to_static in prop::option::of(0..8u32),
    ) {
        let snapshot = configuration(twisted);
        let owners = Owners::new(snapshot, workers);
        let (sport, dport) = ports(protocol, (sport, dport));
        let forwarded = forwarded.filter(|&(_, at)| protocol == TCP && (twisted || at == 1));
        let from_static = to_static.filter(|_| forwarded.is_none() && egress(snapshot, src) == Some(1));
        let (to, inside, ingress) = match (forwarded, from_static) {
            (Some((port, at)), _) => ((POOL[0].to_bits(), port), (WEB.to_bits(), 80 + port - 8080), at),
            (_, Some(n)) => ((STATIC_OUTSIDE + n, dport), (STATIC + n, dport), 1),
            _ => ((dst, dport), (dst, dport), egress(snapshot, src).unwrap_or(1)),
        };
        prop_assume!(src != inside.0);
        let from: End = (src, sport);
        let owner = owners.of_flow4([from, to], protocol, ingress, snapshot).unwrap();
        prop_assert!(usize::from(owner) < workers);
        // The answer comes to what the source was translated to, from what the destination was.
        let answering = egress(snapshot, inside.0).unwrap_or(1);
        let port = port_of(&owners, owner);
        let answered = translated(snapshot, from, inside.0, protocol, answering, port);
        let reply = owners.of_flow4([inside, answered], protocol, answering, snapshot);
        prop_assert_eq!(reply, Some(owner));
    }

    #[test]
    fn both_directions_of_a_session_of_ipv6_meet(
        workers in 1..=8usize,
        ends in prop::array::uniform2((any::<u128>(), any::<u16>())),
        protocol in any::<u8>(),
    ) {
        let snapshot = &*PLAIN;
        let owners = Owners::new(snapshot, workers);
        let [a, b] = ends;
        let owner = owners.of_flow6([a, b], protocol, snapshot);
        prop_assert!(usize::from(owner) < workers);
        prop_assert_eq!(owner, owners.of_flow6([b, a], protocol, snapshot));
    }
}

proptest! {
    #![proptest_config(crate::lab::cases(500))]

    #[test]
    fn both_directions_of_each_half_of_a_hairpin_meet(
        workers in 1..=8usize,
        (n, host) in (0..8u32, 2..250u32),
        (sport, dport) in any::<(u16, u16)>(),
        protocol in prop::sample::select(vec![TCP, UDP, ICMP, GRE]),
    ) {
        let snapshot = configuration(false);
        let owners = Owners::new(snapshot, workers);
        let (sport, dport) = ports(protocol, (sport, dport));
        let (from, outside, inside) = ((HOSTS + host, sport), (STATIC_OUTSIDE + n, dport), (STATIC + n, dport));
        let owner = owners.of_flow4([from, outside], protocol, 0, snapshot).unwrap();
        let external = translated(snapshot, from, outside.0, protocol, 1, port_of(&owners, owner));
        prop_assert_ne!(external, from);
        prop_assert_eq!(owners.of_flow4([outside, external], protocol, 1, snapshot), Some(owner));
        let owner = owners.of_flow4([external, outside], protocol, 1, snapshot);
        prop_assert_eq!(owners.of_flow4([inside, external], protocol, 0, snapshot), owner);
        prop_assert!(owner.is_some());
    }

    #[test]
    fn hosts_that_speak_without_ports_with_one_remote_address_have_one_owner(
        workers in 1..=8usize,
        hosts in prop::array::uniform2((2..200u32).prop_map(|n| HOSTS + n)),
        remote in any::<u32>(),
    ) {
        let snapshot = configuration(false);
        let is_ours = snapshot.local4.contains_key(&remote.into());
        prop_assume!(!is_ours && egress(snapshot, remote) == Some(1) && remote & EXEMPT.1 != EXEMPT.0);
        let owners = Owners::new(snapshot, workers);
        let owner = |host| owners.of_flow4([(host, 0), (remote, 0)], GRE, 0, snapshot);
        prop_assert_eq!(owner(hosts[0]), owner(hosts[1]));
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
    assert_eq!(owner((gateway, 0), GRE), None);
    assert!(owner((POOL[0].to_bits(), 0), GRE).is_some() && owner((POOL[0].to_bits(), 5000), UDP).is_some());
}
