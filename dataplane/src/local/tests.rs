//! A gateway with two interfaces and one replayed port, and what it answers.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;

use super::*;
use crate::clock::SECOND;
use crate::snapshot::{PortConfig, Sizes};
use sluice_pkt::parse::parse;

mod answers;
mod arp_nd;
mod echo;
mod fuzz;
mod mirror;
mod port_control;
mod scan;
mod time;

pub(super) const LAN: u16 = 0;
pub(super) const WAN: u16 = 1;
pub(super) const REPLAY: u16 = 2;
pub(super) const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(super) const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
pub(super) const LAN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
pub(super) const WAN4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub(super) const NAT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub(super) const LAN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(super) const LAN_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(super) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
pub(super) const START: Nanos = 100 * SECOND;

fn interface(port: u16, tags: Tags, mac: [u8; 6], v4: (Ipv4Addr, u8), v6: Vec<(Ipv6Addr, u8)>) -> Interface {
    Interface {
        name: format!("i{port}"),
        port,
        tags,
        mac: Mac(mac),
        mtu: 1500,
        v4: vec![v4],
        v6,
        acl: None,
        guard: None,
        mss: [0; 2],
    }
}

pub(super) fn snapshot() -> Snapshot {
    let port = |name: &str| PortConfig {
        name: name.into(),
        complete_checksums: false,
        any_mac: false,
        invent_neighbors: name == "replay",
        host_is_kernel: name == "host",
    };
    let wan_local = "fe80::2".parse().unwrap();
    let replay4 = Ipv4Addr::new(203, 0, 113, 1);
    let owned = LocalUse::Interface;
    Snapshot {
        ports: vec![port("lan"), port("wan"), port("replay")],
        interfaces: vec![
            interface(0, Tags::default(), LAN_MAC, (LAN4, 24), vec![(LAN_LOCAL, 64), (LAN6, 64)]),
            interface(1, Tags { count: 1, ids: [100, 0] }, WAN_MAC, (WAN4, 28), vec![(wan_local, 64)]),
            interface(2, Tags::default(), [2, 0, 0, 0, 0, 3], (replay4, 24), vec![]),
        ],
        local4: HashMap::from_iter([
            (LAN4, (LAN, owned)),
            (WAN4, (WAN, owned)),
            (NAT4, (WAN, LocalUse::Nat)),
            (replay4, (REPLAY, owned)),
        ]),
        local6: HashMap::from_iter([(LAN6, (LAN, owned))]),
        icmp_per_second: 1000,
        sizes: Sizes { neighbors: 64, frames: 256, ..Sizes::default() },
        ..Snapshot::default()
    }
}

pub(super) struct Gateway {
    pub(super) pool: FramePool,
    pub(super) outboxes: Vec<Outbox>,
    pub(super) counters: Counters,
    pub(super) neighbors: Neighbors,
    pub(super) local: Local,
    pub(super) snapshot: Snapshot,
    pub(super) now: Nanos,
    burst: Burst,
}

impl Gateway {
    pub(super) fn new() -> Self {
        Self::with(snapshot())
    }

    pub(super) fn with(snapshot: Snapshot) -> Self {
        Self {
            pool: FramePool::new(snapshot.sizes.frames, false).unwrap(),
            outboxes: snapshot.ports.iter().map(|_| Outbox::new(128)).collect(),
            counters: Counters::new(&snapshot),
            neighbors: Neighbors::new(&snapshot),
            local: Local::new(&snapshot),
            snapshot,
            now: START,
            burst: Burst::default(),
        }
    }

    /// A gateway that has made its announcements.
    pub(super) fn settled() -> Self {
        let mut gateway = Self::new();
        for _ in 0..3 {
            gateway.tick();
            gateway.sent(LAN);
            gateway.sent(WAN);
            gateway.now += SECOND;
        }
        gateway
    }

    pub(super) fn context(&mut self) -> Context<'_> {
        Context {
            pool: &mut self.pool,
            outboxes: &mut self.outboxes,
            counters: &mut self.counters,
            neighbors: &mut self.neighbors,
            local: &mut self.local,
            snapshot: &self.snapshot,
            now: self.now,
        }
    }

    /// Puts a frame into the burst, as the parse stage would. None if it is refused, which is counted.
    fn take_in(&mut self, port: u16, bytes: &[u8]) -> bool {
        self.counters.ports[usize::from(port)].rx.add(bytes.len());
        let headers = match parse(bytes) {
            Ok(headers) => headers,
            Err(error) => {
                self.counters.dropped(error.into(), 1);
                return false;
            }
        };
        let Some(interface) = self.snapshot.interface_of(port, tags(&headers)) else {
            self.counters.dropped(DropReason::VlanUnknown, 1);
            return false;
        };
        let mut frame = self.pool.take().unwrap();
        assert!(frame.copy_from(bytes));
        self.burst.clear();
        (self.burst.now, self.burst.port) = (self.now, port);
        self.burst.push(frame).unwrap();
        (self.burst.headers[0], self.burst.interfaces[0]) = (headers, interface);
        true
    }

    /// A frame for the gateway itself comes in. Returns why it was dropped, if it was, and what is sent by that port.
    pub(super) fn input(&mut self, port: u16, bytes: &[u8]) -> (Option<DropReason>, Vec<Vec<u8>>) {
        let before = self.counters.drops.clone();
        if self.take_in(port, bytes) {
            let mut burst = std::mem::take(&mut self.burst);
            self.context().input(0, &mut burst);
            self.burst = burst;
        }
        self.check();
        let after = &self.counters.drops;
        let reason = DropReason::ALL.iter().find(|&&r| after[r as usize] > before[r as usize]).copied();
        (reason, self.sent(port))
    }

    /// A frame comes in and is rejected.
    pub(super) fn reject(&mut self, port: u16, bytes: &[u8], answer: Answer) -> Vec<Vec<u8>> {
        assert!(self.take_in(port, bytes));
        let burst = std::mem::take(&mut self.burst);
        self.context().answer(0, &burst, answer);
        self.burst = burst;
        let frame = self.burst.take(0).unwrap();
        self.pool.give(frame);
        self.counters.dropped(DropReason::AclDeny, 1);
        self.check();
        self.sent(port)
    }

    /// A frame comes in and must wait.
    pub(super) fn hold(&mut self, index: u16, port: u16, bytes: &[u8]) -> Option<DropReason> {
        assert!(self.take_in(port, bytes));
        let frame = self.burst.take(0).unwrap();
        let reason = match self.neighbors.hold(index, port, frame, self.now) {
            Ok(()) => None,
            Err((frame, reason)) => {
                self.pool.give(frame);
                self.counters.dropped(reason, 1);
                Some(reason)
            }
        };
        self.check();
        reason
    }

    pub(super) fn tick(&mut self) {
        self.context().tick();
        self.check();
    }

    /// What waits to be transmitted by the port, now transmitted.
    pub(super) fn sent(&mut self, port: u16) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for frame in self.outboxes[usize::from(port)].take(usize::MAX) {
            self.counters.ports[usize::from(port)].tx.add(frame.len());
            sent.push(frame.bytes().to_vec());
            self.pool.give(frame);
        }
        self.check();
        sent
    }

    /// No packet is lost, nor a frame.
    pub(super) fn check(&mut self) {
        let waiting = self.neighbors.held() + self.outboxes.iter().map(|o| o.len() as u64).sum::<u64>();
        self.counters.held = waiting;
        assert!(self.counters.conserved(), "{:?}", self.counters);
        assert_eq!(self.pool.free() as u64 + waiting, u64::from(self.pool.count()));
    }

    pub(super) fn resolve(&mut self, interface: u16, address: impl Into<IpAddr>) -> Result<u16, DropReason> {
        self.neighbors.resolve(&self.snapshot, interface, address.into(), self.now)
    }

    pub(super) fn learn(
        &mut self,
        interface: u16,
        address: impl Into<IpAddr>,
        mac: [u8; 6],
        evidence: Evidence,
    ) -> bool {
        let news = neighbor::News { mac: Some(Mac(mac)), evidence, overrides: true };
        self.neighbors.learn(&self.snapshot, interface, address.into(), news, self.now)
    }

    pub(super) fn neighbor(&self, address: impl Into<IpAddr>) -> Option<neighbor::Neighbor> {
        let address = address.into();
        self.neighbors.iter().find(|n| n.address == address)
    }
}

pub(super) use neighbor::{Evidence, State};

/// One frame, and no more.
pub(super) fn only(frames: Vec<Vec<u8>>) -> Vec<u8> {
    assert_eq!(frames.len(), 1);
    frames.into_iter().next().unwrap()
}

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// The packet that one of etherparse's builders makes with this payload.
macro_rules! packet {
    ($builder:expr, $data:expr $(,)?) => {{
        let mut bytes = Vec::new();
        $builder.write(&mut bytes, $data).unwrap();
        bytes
    }};
}
use packet;

/// A UDP datagram from the host on the LAN, in a frame to the gateway.
pub(super) fn udp4(source: Ipv4Addr, destination: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HOST_MAC, LAN_MAC).ipv4(source.octets(), destination.octets(), 9);
    packet!(builder.udp(5000, 53), data)
}

/// As [`udp4`].
pub(super) fn udp6(source: Ipv6Addr, destination: Ipv6Addr, data: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HOST_MAC, LAN_MAC).ipv6(source.octets(), destination.octets(), 9);
    packet!(builder.udp(5000, 53), data)
}
