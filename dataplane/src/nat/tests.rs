//! What a binding is given, and what comes back.

mod lease;
mod subscribers;

use sluice_pkt::ipv4;

use super::*;
use crate::snapshot::{Forward, NatMapping, PortChoice};

const REMOTE: (u32, u16) = (99, 53);

fn nat_of(behavior: NatBehavior, ports: (u16, u16), addresses: &[u8]) -> (Nat, Pool) {
    let mut snapshot = Snapshot::default();
    let addresses = addresses.iter().map(|&last| Ipv4Addr::new(203, 0, 113, last)).collect();
    snapshot.pools.push(Pool { addresses, ports, behavior, ..Pool::default() });
    snapshot.forwards.push(Forward {
        interface: 0,
        protocol: ipv4::TCP,
        address: Ipv4Addr::new(203, 0, 113, 1),
        ports: (8080, 8081),
        to: Ipv4Addr::new(192, 168, 1, 10),
        to_port: 80,
    });
    snapshot.sizes.sessions = 128;
    (Nat::new(&snapshot), snapshot.pools[0].clone())
}

fn nat(ports: (u16, u16), addresses: &[u8]) -> (Nat, Pool) {
    nat_of(NatBehavior::default(), ports, addresses)
}

fn external(nat: &Nat, index: u32) -> (u32, u16) {
    nat.get(index).unwrap().external
}

/// proves: RFC 4787 REQ-1
#[test]
fn a_binding_is_shared_preserved_and_freed() {
    let (mut nat, pool) = nat((1024, 65535), &[1]);
    let index = nat.bind(0, &pool, (10, 5000), REMOTE, ipv4::UDP).unwrap();
    assert_eq!(external(&nat, index).1, 5000);
    let permit = nat.hold(index, REMOTE.0, false);
    assert_eq!(nat.bind(0, &pool, (10, 5000), (98, 54), ipv4::UDP), Ok(index));
    let second = nat.hold(index, 98, false);
    let other = nat.bind(0, &pool, (11, 5000), REMOTE, ipv4::UDP).unwrap();
    assert_ne!(external(&nat, other).1, 5000, "taken by another host");
    nat.drop_unused(other);
    nat.release(index, second);
    assert_eq!(nat.live(), 1);
    nat.release(index, permit);
    nat.release(NONE, NONE);
    assert_eq!((nat.live(), nat.externals().next().unwrap().1), (0, [2, 0, 0]));
}

#[test]
fn forwarded_and_low_ports_are_not_given_out() {
    let (mut nat, pool) = nat((1024, 65535), &[1]);
    for inside in [(10, 8080), (10, 8081), (10, 123)] {
        let index = nat.bind(0, &pool, inside, REMOTE, ipv4::TCP).unwrap();
        let port = external(&nat, index).1;
        assert!(port >= 1024 && !(8080..=8081).contains(&port));
    }
}

/// proves: RFC 4787 REQ-3
#[test]
fn exhaustion_is_an_error_and_passes() {
    let (mut nat, pool) = nat((2000, 2003), &[1, 2]);
    let mut bind = |i, protocol| nat.bind(0, &pool, (i, 9), REMOTE, protocol);
    let indices: Vec<u32> = (0..8).map(|i| bind(i, ipv4::UDP).unwrap()).collect();
    assert_eq!(bind(8, ipv4::UDP), Err(DropReason::NatPortsExhausted));
    assert_eq!(bind(8, ipv4::GRE), Err(DropReason::NatProtocol));
    let all: std::collections::HashSet<_> = indices.iter().map(|&i| external(&nat, i)).collect();
    assert_eq!(all.len(), 8, "no port is given out twice");
    nat.drop_unused(indices[3]);
    assert!(nat.bind(0, &pool, (8, 9), REMOTE, ipv4::UDP).is_ok());
}

/// proves: RFC 4787 REQ-2
#[test]
fn one_inside_address_keeps_one_external_address() {
    let (mut nat, pool) = nat((1024, 65535), &[1, 2, 3, 4]);
    let mut address = |port| {
        let index = nat.bind(0, &pool, (42, port), REMOTE, ipv4::UDP).unwrap();
        external(&nat, index).0
    };
    let first = address(1);
    assert!((2..50).all(|port| address(port) == first));
}

#[test]
fn a_mapping_may_depend_on_the_remote_end() {
    let mapping = NatMapping::AddressAndPortDependent;
    let (mut nat, pool) = nat_of(NatBehavior { mapping, ..NatBehavior::default() }, (1024, 65535), &[1]);
    let mut bind = |remote| nat.bind(0, &pool, (10, 5000), remote, ipv4::UDP).unwrap();
    let indices = [bind((98, 53)), bind((99, 53)), bind((99, 54))];
    assert_eq!(indices[1], bind((99, 53)));
    let ports = indices.map(|index| external(&nat, index).1);
    assert!(ports[0] == 5000 && ports[1] != 5000 && ports[2] != 5000 && ports[1] != ports[2]);
}

/// proves: RFC 4787 REQ-4
#[test]
fn udp_keeps_parity_while_it_can() {
    let port_choice = PortChoice::Random;
    let (mut nat, pool) = nat_of(NatBehavior { port_choice, ..NatBehavior::default() }, (2000, 2019), &[1]);
    let mut port = |host, of| {
        let index = nat.bind(0, &pool, (host, of), REMOTE, ipv4::UDP).unwrap();
        external(&nat, index).1
    };
    assert!((0..10).all(|host| port(host, 2000) % 2 == 0));
    assert!(port(10, 2000) % 2 == 1, "any is better than none");
    assert!((11..20).all(|host| port(host, 2001) % 2 == 1));
}

/// proves: RFC 4787 REQ-3a
#[test]
fn ports_stay_on_their_side_of_1024_while_they_can() {
    for port_choice in [PortChoice::Preserve, PortChoice::Random] {
        let behavior = NatBehavior { port_choice, ..NatBehavior::default() };
        let (mut nat, pool) = nat_of(behavior, (1000, 1063), &[1]);
        let mut port = |host, of| {
            let index = nat.bind(0, &pool, (host, of), REMOTE, ipv4::TCP).unwrap();
            external(&nat, index).1
        };
        assert!((0..20).all(|host| port(host, 1000) < 1024));
        assert!((20..60).all(|host| port(host, 5000) >= 1024));
        assert!(port(60, 5000) < 1024, "any is better than none");
    }
}

/// proves: RFC 6888 REQ-15
#[test]
fn random_ports_are_random() {
    let port_choice = PortChoice::Random;
    let (mut nat, pool) = nat_of(NatBehavior { port_choice, ..NatBehavior::default() }, (1024, 65535), &[1]);
    let ports: Vec<u16> = (0..100)
        .map(|host| {
            let index = nat.bind(0, &pool, (host, 5000), REMOTE, ipv4::TCP).unwrap();
            external(&nat, index).1
        })
        .collect();
    let near = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 100).count();
    assert!(near < 5 && ports.iter().any(|p| p % 2 == 0) && ports.iter().any(|p| p % 2 == 1));
}

/// proves: RFC 4787 REQ-8
#[test]
fn filters_ask_for_what_they_are_named_after() {
    use NatFiltering::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    for (filtering, known, stranger) in [
        (EndpointIndependent, true, true),
        (AddressDependent, true, false),
        (AddressAndPortDependent, false, false),
    ] {
        let behavior = NatBehavior { filtering, ..NatBehavior::default() };
        let (mut nat, pool) = nat_of(behavior, (1024, 65535), &[1]);
        let index = nat.bind(0, &pool, (10, 5000), REMOTE, ipv4::UDP).unwrap();
        let permit = nat.hold(index, REMOTE.0, false);
        let external = external(&nat, index);
        assert_eq!(nat.find_external(external, ipv4::UDP), Some(index));
        assert_eq!(nat.find_external(external, ipv4::TCP), None);
        assert_eq!(
            (nat.admits(index, REMOTE), nat.admits(index, (7, 53))),
            (known, stranger),
            "{filtering:?}"
        );
        nat.release(index, permit);
        assert_eq!(nat.find_external(external, ipv4::UDP), None);
    }
}
