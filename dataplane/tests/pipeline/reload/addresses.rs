//! Addresses of our own that move, and what the links are told of it.

use std::net::Ipv4Addr;

use sluice_dataplane::clock::SECOND;
use sluice_dataplane::snapshot::{LocalUse, Snapshot};
use sluice_dataplane::verdict::DropReason;

use super::{Reloading, kept, settled};
use crate::lab::{GATEWAY_WAN, LAN, SERVER, WAN, host, snapshot, without_discovery};
use crate::packets::{ARP, arp_request, network, ping, udp};

const STATION: [u8; 6] = [2, 0x77, 0, 0, 0, 1];
const NEW: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

/// Neighbours are asked for; the inside is translated to the wan's own address.
fn own_address() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.ports.iter_mut().for_each(|port| port.invent_neighbors = false);
    snapshot.pools[0].addresses = vec![GATEWAY_WAN];
    snapshot.local4.retain(|_, (_, usage)| *usage == LocalUse::Interface);
    snapshot.forwards.clear();
    snapshot
}

fn move_address(next: &mut Snapshot) {
    next.interfaces[1].v4 = vec![(NEW, 24)];
    next.local4.remove(&GATEWAY_WAN);
    next.local4.insert(NEW, (1, LocalUse::Interface));
    next.pools[0].addresses = vec![NEW];
}

/// Who is announced by these frames.
fn announced(frames: &[(usize, Vec<u8>)]) -> Vec<Ipv4Addr> {
    let gratuitous = |frame: &[u8]| frame[12..14] == ARP.to_be_bytes() && frame[28..32] == frame[38..42];
    let address = |frame: &[u8]| Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]);
    frames.iter().filter(|(_, f)| gratuitous(f)).map(|(_, f)| address(f)).collect()
}

impl Reloading {
    fn run(&mut self, seconds: u64) -> Vec<(usize, Vec<u8>)> {
        let mut out = Vec::new();
        for _ in 0..seconds * 10 {
            self.lab.wait(SECOND / 10);
            let frames = self.lab.collect();
            for (port, answer) in self.lab.arp_answers(&frames) {
                self.lab.send(port, &answer);
            }
            out.extend(frames);
        }
        out
    }

    fn answers_for(&mut self, address: Ipv4Addr) -> bool {
        self.lab.send(WAN, &arp_request(STATION, Ipv4Addr::new(203, 0, 113, 1), address));
        self.lab.poll();
        let frames = self.lab.collect();
        frames
            .iter()
            .any(|(port, frame)| *port == WAN && frame[12..14] == ARP.to_be_bytes() && frame[21] == 2)
    }
}

#[test]
fn an_address_that_moves_is_announced_and_answered_and_the_old_one_is_not() {
    let mut gateway = Reloading::of(own_address());
    gateway.run(5);
    assert!(gateway.answers_for(GATEWAY_WAN) && !gateway.answers_for(NEW));
    gateway.lab.send(LAN, &crate::packets::frame(LAN, &udp((host(9), 4000), (SERVER, 53), b"question")));
    let out = without_discovery(gateway.run(2));
    assert_eq!(out.iter().filter(|(port, _)| *port == WAN).count(), 1);
    assert_eq!(gateway.live(), 1);

    assert_eq!(gateway.reload(move_address), settled(0, 1));
    let mut told = announced(&gateway.lab.collect());
    told.extend(announced(&gateway.run(5)));
    assert_eq!(told, [NEW; 3], "three times, and nothing else");
    assert!(gateway.answers_for(NEW) && !gateway.answers_for(GATEWAY_WAN));
    let (_, out) = gateway.lab.forward(LAN, &udp((host(9), 4000), (SERVER, 53), b"question"));
    assert_eq!(out[12..16], NEW.octets());
    let pong = gateway.lab.pass(WAN, &ping(SERVER, NEW, 7));
    assert_eq!((pong.len(), network(&pong[0].1)[20]), (1, 0));
    gateway.lab.close();
}

#[test]
fn neighbours_of_a_subnet_that_is_gone_are_forgotten() {
    let mut gateway = Reloading::of(own_address());
    gateway.run(5);
    let guest = Ipv4Addr::new(172, 16, 0, 50);
    gateway.lab.send(LAN, &crate::packets::frame(LAN, &udp((host(9), 4000), (guest, 53), b"question")));
    gateway.lab.send(LAN, &crate::packets::frame(LAN, &udp((host(9), 4001), (SERVER, 53), b"question")));
    gateway.run(2);
    let known = |gateway: &Reloading| {
        let mut all: Vec<_> = gateway.lab.worker.shard().neighbors.iter().map(|n| n.address).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(known(&gateway), [guest, Ipv4Addr::new(203, 0, 113, 1)]);
    let outcome = gateway.reload(|next| {
        next.interfaces[2].v4 = vec![([172, 17, 0, 1].into(), 24)];
        next.routes4.insert([172, 16, 0, 0], 24, 8).unwrap();
    });
    assert_eq!(outcome, settled(1, 1));
    assert_eq!(known(&gateway), [Ipv4Addr::new(203, 0, 113, 1)]);
    gateway.lab.close();
}

#[test]
fn another_mtu_and_another_icmp_rate_hold_at_once() {
    let mut gateway = Reloading::new();
    let long = udp((host(9), 4000), (SERVER, 53), &[0; 1400]);
    assert_eq!(gateway.lab.pass(LAN, &long).len(), 1);
    let outcome = gateway.reload(|next| {
        next.interfaces[1].mtu = 1000;
        next.icmp_per_second = 2;
    });
    assert_eq!(outcome, kept(1));
    assert_eq!(gateway.lab.pass(LAN, &long).len(), 2, "in fragments");
    for id in 0..5 {
        gateway.lab.pass(WAN, &ping(SERVER, GATEWAY_WAN, id));
    }
    assert_eq!(gateway.lab.counters().icmp_suppressed, 3);
    gateway.lab.close();
}

/// As on an uplink whose lease has run out, and before the first one.
#[test]
fn without_an_address_nat_drops_and_says_so_and_goes_on_when_one_comes() {
    let mut gateway = Reloading::of(own_address());
    gateway.run(1);
    let ask = udp((host(9), 4000), (SERVER, 53), b"question");
    gateway.lab.send(LAN, &crate::packets::frame(LAN, &ask));
    gateway.run(1);
    assert_eq!(gateway.live(), 1);
    let gone = |next: &mut Snapshot| {
        next.interfaces[1].v4.clear();
        next.local4.remove(&GATEWAY_WAN);
        next.pools[0].addresses.clear();
    };
    assert_eq!(gateway.reload(gone), settled(0, 1), "its address is nobody's");
    gateway.run(1);
    assert_eq!(gateway.lab.dropped(LAN, &ask), DropReason::NatNoAddress);
    let told = without_discovery(gateway.lab.collect());
    assert!(
        matches!(&told[..], [(LAN, frame)] if network(frame)[20..22] == [3, 0]),
        "no way to that network"
    );
    assert_eq!(gateway.lab.dropped(LAN, &ping(host(9), SERVER, 7)), DropReason::NatNoAddress);
    assert_eq!((gateway.live(), gateway.lab.worker.shard().nat.live()), (0, 0));

    assert_eq!(gateway.reload(move_address), settled(0, 0));
    gateway.run(5);
    let (_, out) = gateway.lab.forward(LAN, &ask);
    assert_eq!(out[12..16], NEW.octets());
    gateway.lab.close();
}
