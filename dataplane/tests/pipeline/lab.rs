//! A gateway between memory ports, with every feature on, in a time that the test sets.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::ProptestConfig;
use sluice_dataplane::arena::FramePool;
use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::{MemoryPeer, pair};
use sluice_dataplane::snapshot::{
    Acl, AclAction, Forward, Interface, Limit, LocalUse, Pool, PortConfig, Route, RuleInfo, Sizes, Snapshot,
    SourceNat, Tags, Timeouts,
};
use sluice_dataplane::table::classifier::{Classifier, PortRange, Rule};
use sluice_dataplane::table::lpm::Lpm;
use sluice_dataplane::table::meter::Rate;
use sluice_dataplane::verdict::DropReason;
use sluice_dataplane::worker::Worker;
use sluice_pkt::ethernet::Mac;

use crate::packets::{self, ARP, TCP, UDP};

pub(crate) const LAN: usize = 0;
pub(crate) const WAN: usize = 1;
/// Carries nothing untagged but the DMZ, and two VLANs.
pub(crate) const TRUNK: usize = 2;

pub(crate) const HOSTS: u32 = 0xc0a8_0100;
pub(crate) const GATEWAY_LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
pub(crate) const GATEWAY_WAN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub(crate) const POOL: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11)];
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const WEB: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 80);
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9);
pub(crate) const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 7);

/// Rules (indices) of the snapshot.
pub(crate) const LAN_SMTP: usize = 0;
pub(crate) const LAN_REJECT: usize = 1;
pub(crate) const LAN_DEFAULT: usize = 2;
pub(crate) const WAN_ESTABLISHED: usize = 3;
pub(crate) const WAN_WEB: usize = 4;
pub(crate) const WAN_PING: usize = 5;
pub(crate) const WAN_DEFAULT: usize = 6;

pub(crate) fn host(last: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(HOSTS + u32::from(last))
}

/// Our MAC address on a port.
pub(crate) fn mac(port: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, port as u8 + 1]
}

fn interface(name: &str, port: usize, ids: &[u16], v4: ([u8; 4], u8), v6: Option<(&str, u8)>) -> Interface {
    let mut tags = Tags { count: ids.len() as u8, ids: [0; 2] };
    tags.ids[..ids.len()].copy_from_slice(ids);
    let v6 = v6.into_iter().flat_map(|(address, length)| {
        [(address.parse().unwrap(), length), (format!("fe80::{}", port + 1).parse().unwrap(), 64)]
    });
    Interface {
        name: name.into(),
        port: port as u16,
        tags,
        mac: Mac(mac(port)),
        mtu: 1500,
        v4: vec![(v4.0.into(), v4.1)],
        v6: v6.collect(),
        acl: None,
        guard: None,
        mss: [0; 2],
    }
}

pub(crate) fn any<A: Default>(result: usize) -> Rule<A> {
    Rule {
        src: (A::default(), A::default()),
        dst: (A::default(), A::default()),
        protocol: None,
        src_port: PortRange::ANY,
        dst_port: PortRange::ANY,
        icmp_type: None,
        icmp_code: None,
        established: None,
        result: result as u32,
    }
}

fn both(rules: impl Fn() -> Vec<Rule<u32>>, default: usize) -> Acl {
    let widen = |rule: Rule<u32>| Rule {
        src: (0u128, 0u128),
        dst: (0u128, 0u128),
        protocol: rule.protocol.map(|p| if p == 1 { 58 } else { p }),
        icmp_type: rule.icmp_type.map(|_| 128),
        src_port: rule.src_port,
        dst_port: rule.dst_port,
        icmp_code: rule.icmp_code,
        established: rule.established,
        result: rule.result,
    };
    let v6 = rules().into_iter().map(widen).collect();
    Acl { name: "acl".into(), v4: Classifier::new(rules()), v6: Classifier::new(v6), default: default as u16 }
}

/// Every feature on; neighbours are made up, so that packets need not wait for them.
pub(crate) fn snapshot() -> Snapshot {
    let interfaces = vec![
        interface("lan", LAN, &[], ([192, 168, 1, 1], 24), Some(("2001:db8:1::1", 64))),
        interface("wan", WAN, &[], ([203, 0, 113, 2], 24), Some(("2001:db8:ff::2", 64))),
        interface("dmz", TRUNK, &[], ([172, 16, 0, 1], 24), Some(("2001:db8:2::1", 64))),
        interface("guest", TRUNK, &[10], ([10, 10, 0, 1], 24), None),
        interface("deep", TRUNK, &[100, 200], ([10, 20, 0, 1], 24), None),
    ];
    let mut snapshot = Snapshot {
        ports: ["lan", "wan", "trunk"].iter().map(|name| port(name)).collect(),
        icmp_per_second: 1000,
        seed: 0x5eed,
        sizes: Sizes { sessions: 1024, neighbors: 256, fragments: 64, frames: 1000 },
        timeouts: Timeouts { fragment: 15 * SECOND, ..Timeouts::default() },
        ..Snapshot::default()
    };
    for (i, interface) in interfaces.iter().enumerate() {
        for &(address, _) in &interface.v4 {
            snapshot.local4.insert(address, (i as u16, LocalUse::Interface));
        }
        for &(address, _) in interface.v6.iter().filter(|(a, _)| !a.is_unicast_link_local()) {
            snapshot.local6.insert(address, (i as u16, LocalUse::Interface));
        }
    }
    snapshot.local4.extend(POOL.map(|address| (address, (1, LocalUse::Nat))));
    snapshot.interfaces = interfaces;
    routes(&mut snapshot);
    acls(&mut snapshot);
    snapshot.pools.push(Pool { addresses: POOL.to_vec(), ports: (1024, 65535), ..Pool::default() });
    snapshot.source_nat.push(SourceNat { out: 1, from: vec![(HOSTS, 0xffff_ff00)], pool: 0 });
    snapshot.forwards.push(forward(TCP, (8080, 8083), 80));
    snapshot.forwards.push(forward(UDP, (5300, 5300), 53));
    snapshot.limits.push(limit(WAN, true, 4_000_000_000));
    snapshot.limits.push(limit(WAN, false, 8_000_000_000));
    snapshot
}

fn port(name: &str) -> PortConfig {
    PortConfig {
        name: name.into(),
        complete_checksums: false,
        any_mac: false,
        invent_neighbors: true,
        host_is_kernel: false,
    }
}

fn limit(interface: usize, egress: bool, bits_per_second: u64) -> Limit {
    Limit {
        name: "limit".into(),
        interface: interface as u16,
        egress,
        v4: vec![any(0)],
        v6: vec![any(0)],
        classes: Vec::new(),
        rate: Rate { bits_per_second },
        burst: 100_000_000,
        policer: None,
    }
}

fn forward(protocol: u8, ports: (u16, u16), to_port: u16) -> Forward {
    Forward { interface: 1, protocol, address: POOL[0], ports, to: WEB, to_port }
}

fn routes(snapshot: &mut Snapshot) {
    let gateway = Ipv4Addr::new(203, 0, 113, 1);
    let gateway6 = "2001:db8:ff::1".parse().unwrap();
    snapshot.routes = (0..5).map(|interface| Route::Connected { interface }).collect();
    snapshot.routes.push(Route::Via4 { interface: 1, gateway });
    snapshot.routes.push(Route::Via6 { interface: 1, gateway: gateway6 });
    snapshot.routes.push(Route::Blackhole);
    snapshot.routes.push(Route::Unreachable);
    let mut four = vec![([0; 4], 0, 5), ([198, 18, 0, 0], 16, 7), ([198, 19, 0, 0], 16, 8)];
    let mut six = vec![([0; 16], 0, 6)];
    for (i, interface) in snapshot.interfaces.iter().enumerate() {
        four.extend(interface.v4.iter().map(|(a, length)| (a.octets(), *length, i as u32)));
        six.extend(interface.v6.iter().map(|(a, length)| (a.octets(), *length, i as u32)));
    }
    snapshot.routes4 = Lpm::build(four).unwrap();
    snapshot.routes6 = Lpm::build(six).unwrap();
}

fn acls(snapshot: &mut Snapshot) {
    use AclAction::{Accept, Drop, Reject};
    let actions = [Drop, Reject, Accept, Accept, Accept, Accept, Drop];
    snapshot.rules = actions
        .iter()
        .map(|&action| RuleInfo { acl: "acl".into(), name: "rule".into(), text: String::new(), action })
        .collect();
    let port = |port| PortRange { first: port, last: port };
    let lan = move || {
        vec![
            Rule { protocol: Some(TCP), dst_port: port(25), ..any(LAN_SMTP) },
            Rule { protocol: Some(UDP), dst_port: port(137), ..any(LAN_REJECT) },
        ]
    };
    let wan = || {
        vec![
            Rule { established: Some(true), ..any(WAN_ESTABLISHED) },
            Rule { dst_port: PortRange { first: 5300, last: 8083 }, ..any(WAN_WEB) },
            Rule { protocol: Some(1), icmp_type: Some(8), ..any(WAN_PING) },
        ]
    };
    snapshot.acls = vec![both(lan, LAN_DEFAULT), both(wan, WAN_DEFAULT)];
    snapshot.interfaces[0].acl = Some(0);
    snapshot.interfaces[1].acl = Some(1);
}

/// A worker, and the other ends of its ports.
pub(crate) struct Lab {
    pub(crate) worker: Worker,
    pub(crate) peers: Vec<MemoryPeer>,
    pub(crate) now: Nanos,
}

/// A frame that came out: the port and the bytes.
pub(crate) type Out = (usize, Vec<u8>);

impl Lab {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self::with_rings(snapshot, 256)
    }

    pub(crate) fn with_rings(snapshot: Snapshot, packets: usize) -> Self {
        let (mut ports, mut peers) = (Vec::<Box<dyn Port>>::new(), Vec::new());
        for _ in &snapshot.ports {
            let (port, peer) = pair(packets);
            ports.push(Box::new(port));
            peers.push(peer);
        }
        let pool = FramePool::shareable(snapshot.sizes.frames).unwrap();
        Self { worker: Worker::new(Arc::new(snapshot), ports, pool), peers, now: 1000 * SECOND }
    }

    /// Puts a frame on its way; it comes in by the next poll.
    pub(crate) fn send(&mut self, port: usize, frame: &[u8]) {
        assert!(self.peers[port].inject(0, frame), "the ring is full");
    }

    /// One poll, after which every packet must be accounted for.
    pub(crate) fn poll(&mut self) -> usize {
        let work = self.worker.poll(self.now);
        let counters = self.counters();
        assert!(counters.conserved(), "{counters:?}");
        work
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters { held: self.worker.held(), ..self.worker.shard().counters.clone() }
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.worker.shard().counters.drops[reason as usize]
    }

    pub(crate) fn wait(&mut self, time: Nanos) {
        self.now += time;
        self.poll();
    }

    /// What has come out of all ports, in order by port.
    pub(crate) fn collect(&mut self) -> Vec<Out> {
        let mut out = Vec::new();
        for (port, peer) in self.peers.iter_mut().enumerate() {
            out.extend(std::iter::from_fn(|| peer.collect()).map(|(_, frame)| (port, frame)));
        }
        out
    }

    /// Sends one IP packet (behind an Ethernet header to the gateway) and returns what comes out at once.
    pub(crate) fn pass(&mut self, port: usize, ip: &[u8]) -> Vec<Out> {
        self.send(port, &packets::frame(port, ip));
        self.poll();
        self.collect()
    }

    /// Sends one IP packet of which one is to come of it; the port and the IP packet.
    #[track_caller]
    pub(crate) fn forward(&mut self, port: usize, ip: &[u8]) -> (usize, Vec<u8>) {
        let before = self.counters().drops;
        let mut out = self.pass(port, ip);
        let after = self.counters().drops;
        let dropped = DropReason::ALL.iter().filter(|&&r| after[r as usize] > before[r as usize]);
        let dropped: Vec<_> = dropped.collect();
        assert_eq!((out.len(), dropped), (1, vec![]), "one packet comes out");
        let (port, frame) = out.remove(0);
        (port, packets::network(&frame).to_vec())
    }

    /// Sends one IP packet that is to be dropped; the reason. What the gateway answers is left to be collected.
    #[track_caller]
    pub(crate) fn dropped(&mut self, port: usize, ip: &[u8]) -> DropReason {
        let before = self.counters().drops;
        self.send(port, &packets::frame(port, ip));
        self.poll();
        let after = self.counters().drops;
        let changed = |r: &&DropReason| after[**r as usize] > before[**r as usize];
        *DropReason::ALL.iter().find(changed).expect("a drop")
    }

    /// The answer to each ARP request among these frames, as if all stations were there.
    pub(crate) fn arp_answers(&mut self, frames: &[Out]) -> Vec<Out> {
        frames.iter().filter_map(|(port, frame)| Some((*port, packets::arp_reply(frame)?))).collect()
    }

    pub(crate) fn close(mut self) -> Counters {
        let (counters, closed) = self.worker.close(self.now);
        assert_eq!(closed.frames, closed.home, "every frame is home");
        assert!(counters.conserved() && counters.held == 0);
        counters
    }
}

/// So many cases of a property, the same on each run.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let rng_seed = proptest::test_runner::RngSeed::Fixed(1);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..Default::default() }
}

/// Frames that are neither ARP nor neighbour discovery.
pub(crate) fn without_discovery(frames: Vec<Out>) -> Vec<Out> {
    let talk = |frame: &[u8]| {
        let kind = u16::from_be_bytes([frame[12], frame[13]]);
        kind == ARP || kind == 0x86dd && frame[20] == 58 && (133..=137).contains(&frame[54])
    };
    frames.into_iter().filter(|(_, frame)| !talk(frame)).collect()
}
