//! Neighbours of a port where the kernel alone speaks ARP and ND.

use super::*;
use crate::local::mirror::{self, Known, MirrorControl, Wanted};

fn gateway() -> (Gateway, MirrorControl) {
    let mut snapshot = snapshot();
    snapshot.ports[usize::from(LAN)].host_is_kernel = true;
    let mut gateway = Gateway::with(snapshot);
    let (mirror, control) = mirror::channel();
    gateway.local.set_mirror(mirror);
    (gateway, control)
}

fn known(address: Ipv4Addr, mac: [u8; 6], confirmed: bool) -> Known {
    Known { interface: LAN, address: address.into(), mac: Mac(mac), confirmed }
}

#[test]
fn nothing_is_announced_or_asked_on_the_link() {
    let (mut gateway, mut control) = gateway();
    gateway.resolve(LAN, HOST4).unwrap();
    for _ in 0..10 {
        gateway.tick();
        gateway.now += SECOND;
    }
    assert!(gateway.sent(LAN).is_empty());
    assert!(!gateway.sent(WAN).is_empty(), "the other port announces its own");
    let asked: Vec<Wanted> = std::iter::from_fn(|| control.wanted()).collect();
    assert_eq!(asked, [Wanted { interface: LAN, address: HOST4.into() }; 3]);
    assert_eq!(gateway.neighbor(HOST4).unwrap().state, State::Failed);
}

#[test]
fn what_the_kernel_knows_lets_packets_go() {
    let (mut gateway, mut control) = gateway();
    let index = gateway.resolve(LAN, HOST4).unwrap();
    assert_eq!(gateway.hold(index, WAN, &tagged_udp()), None);
    gateway.tick();
    assert!(control.wanted().is_some());
    assert!(control.tell(known(HOST4, HOST_MAC, true)));
    gateway.tick();
    let row = gateway.neighbor(HOST4).unwrap();
    assert_eq!((row.state, row.mac), (State::Reachable, Some(Mac(HOST_MAC))));
    assert!(gateway.neighbors.is_ready());
}

#[test]
fn what_the_kernel_only_remembers_is_stale_and_a_new_mac_is_taken() {
    let (mut gateway, mut control) = gateway();
    gateway.resolve(LAN, HOST4).unwrap();
    control.tell(known(HOST4, HOST_MAC, false));
    gateway.tick();
    assert_eq!(gateway.neighbor(HOST4).unwrap().state, State::Stale);
    let moved = [2, 0, 0, 0, 0, 0x78];
    control.tell(known(HOST4, moved, true));
    gateway.tick();
    let row = gateway.neighbor(HOST4).unwrap();
    assert_eq!((row.state, row.mac), (State::Reachable, Some(Mac(moved))));
}

#[test]
fn neighbors_that_nobody_asked_for_and_addresses_that_are_no_stations_are_left_alone() {
    let (mut gateway, mut control) = gateway();
    control.tell(known(HOST4, HOST_MAC, true));
    gateway.resolve(LAN, Ipv4Addr::new(192, 0, 2, 78)).unwrap();
    for mac in [[0xff; 6], [1, 0, 0, 0, 0, 1], LAN_MAC] {
        control.tell(known(Ipv4Addr::new(192, 0, 2, 78), mac, true));
    }
    control.tell(Known { interface: 99, ..known(HOST4, HOST_MAC, true) });
    gateway.tick();
    assert!(gateway.neighbor(HOST4).is_none());
    assert_eq!(gateway.neighbor(Ipv4Addr::new(192, 0, 2, 78)).unwrap().state, State::Incomplete);
}

/// To the host, from the WAN, in its VLAN.
fn tagged_udp() -> Vec<u8> {
    let mut frame = udp4(Ipv4Addr::new(198, 51, 100, 1), HOST4, b"waits");
    frame.splice(12..12, [0x81, 0, 0, 100]);
    frame
}
