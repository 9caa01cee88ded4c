//! NAT as a carrier runs it, on four workers to which packets come by chance: blocks of ports, and deterministic NAT.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use sluice_dataplane::arena::FramePool;
use sluice_dataplane::clock::SECOND;
use sluice_dataplane::counters::Counters;
use sluice_dataplane::crossing;
use sluice_dataplane::nat::{Deterministic, EventKind, EventReader, NatLog};
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::{MemoryPeer, pair};
use sluice_dataplane::snapshot::{Allocation, PortBlocks, Snapshot};
use sluice_dataplane::verdict::DropReason;
use sluice_dataplane::worker::Worker;

use crate::lab::{HOSTS, LAN, POOL, SERVER, WAN, host, snapshot};
use crate::packets::{End, ends, frame, network, udp};

const WORKERS: usize = 4;
const BLOCKS: PortBlocks = PortBlocks { size: 64, most: 2, hold: 120 * SECOND };

struct Carrier {
    workers: Vec<Worker>,
    /// By worker and port.
    peers: Vec<Vec<MemoryPeer>>,
    events: Vec<EventReader>,
    now: u64,
    chance: u64,
}

impl Carrier {
    fn new(snapshot: Snapshot) -> Self {
        let snapshot = Arc::new(snapshot);
        let (mut workers, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..WORKERS {
            let (ports, ends): (Vec<_>, Vec<_>) = snapshot.ports.iter().map(|_| pair(256)).unzip();
            let ports = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
            let pool = FramePool::new(snapshot.sizes.frames, false).unwrap();
            workers.push(Worker::new(snapshot.clone(), ports, pool));
            peers.push(ends);
        }
        crossing::connect(&mut workers);
        let events = workers.iter_mut().map(Worker::nat_events).collect();
        Self { workers, peers, events, now: 1000 * SECOND, chance: 1 }
    }

    /// Sends a packet to a worker by chance; what comes out, wherever.
    fn pass(&mut self, port: usize, ip: &[u8]) -> Vec<(usize, Vec<u8>)> {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let worker = (self.chance >> 33) as usize % WORKERS;
        assert!(self.peers[worker][port].inject(0, &frame(port, ip)));
        self.turn();
        let mut out = Vec::new();
        for peers in &mut self.peers {
            for (port, peer) in peers.iter_mut().enumerate() {
                out.extend(std::iter::from_fn(|| peer.collect()).map(|(_, f)| (port, network(&f).to_vec())));
            }
        }
        out
    }

    /// Polls until nothing is under way.
    fn turn(&mut self) {
        for _ in 0..4 {
            self.workers.iter_mut().for_each(|worker| _ = worker.poll(self.now));
        }
    }

    fn forward(&mut self, from: usize, ip: &[u8]) -> (End, End) {
        let out = self.pass(from, ip);
        assert_eq!(out.len(), 1, "one packet comes out, not {out:?}");
        ends(&out[0].1)
    }

    fn counters(&self) -> Counters {
        let mut sum = Counters { workers: 0, ..Counters::new(self.workers[0].snapshot()) };
        self.workers.iter().for_each(|worker| sum.merge(worker.shard().counters.clone()));
        sum
    }

    fn close(mut self) {
        while !self.workers.iter_mut().fold(true, |all, worker| worker.drain(self.now) & all) {}
        for worker in &mut self.workers {
            let (_, closed) = worker.close(self.now);
            assert_eq!(closed.frames, closed.home);
        }
        assert!(self.counters().conserved());
    }
}

fn with(allocation: Allocation) -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.pools[0].allocation = allocation;
    snapshot.pools[0].ports = (2000, 9999);
    snapshot.nat_log = NatLog::Blocks;
    snapshot
}

/// Sessions of many hosts with several ports each work both ways; returns who has had which external ports.
fn talk(carrier: &mut Carrier, hosts: u8, ports: u16) -> BTreeMap<Ipv4Addr, Vec<End>> {
    let mut externals: BTreeMap<Ipv4Addr, Vec<End>> = BTreeMap::new();
    for port in 0..ports {
        for last in 10..10 + hosts {
            let inside = (host(last), 40_000 + port);
            let (outside, to) = carrier.forward(LAN, &udp(inside, (SERVER, 53), b"hello"));
            assert_eq!(to, (SERVER, 53));
            for _ in 0..2 {
                let (from, back) = carrier.forward(WAN, &udp((SERVER, 53), outside, b"answer"));
                assert_eq!((from, back), ((SERVER, 53), inside));
                let (again, _) = carrier.forward(LAN, &udp(inside, (SERVER, 53), b"more"));
                assert_eq!(again, outside);
            }
            externals.entry(inside.0).or_default().push(outside);
        }
    }
    externals
}

/// proves: RFC 6888 REQ-2
/// proves: RFC 6888 REQ-14
#[test]
fn blocks_are_one_hosts_alone_on_four_workers() {
    let mut carrier = Carrier::new(with(Allocation::Blocks(BLOCKS)));
    let externals = talk(&mut carrier, 40, 5);
    let mut blocks: BTreeMap<(Ipv4Addr, u16), Ipv4Addr> = BTreeMap::new();
    for (inside, ends) in &externals {
        for (address, port) in ends {
            assert_eq!(*address, ends[0].0, "paired");
            let block = (*address, (port - 2000) / 64);
            assert_eq!(*blocks.entry(block).or_insert(*inside), *inside, "another host's block");
        }
    }
    assert_eq!(blocks.len(), 40, "five ports fit into one block each");
    let events: Vec<_> =
        carrier.events.iter_mut().flat_map(|reader| std::iter::from_fn(|| reader.take())).collect();
    assert_eq!(events.len(), 40, "a record a block");
    for event in events {
        assert_eq!(event.kind, EventKind::BlockAllocated);
        let block = (event.external, (event.ports.0 - 2000) / 64);
        assert_eq!(blocks[&block], event.inside);
    }
    carrier.close();
}

/// proves: RFC 7422 2
#[test]
fn deterministic_ports_are_found_by_arithmetic_on_four_workers() {
    let plan = Deterministic::new(&[(HOSTS, 0xffff_ff00)], 2, (2000, 9999), 60).unwrap();
    let mut carrier = Carrier::new(with(Allocation::Deterministic(plan.clone())));
    for (inside, ends) in talk(&mut carrier, 60, 4) {
        let (position, (first, last)) = plan.block(inside.to_bits()).unwrap();
        for (address, port) in ends {
            assert_eq!(address, POOL[position]);
            assert!((first..=last).contains(&port));
            assert_eq!(plan.subscriber(position, port), Some(inside.to_bits()));
        }
    }
    assert!(carrier.events.iter_mut().all(|reader| reader.take().is_none()), "nothing need be logged");
    carrier.close();
}

/// proves: RFC 6888 REQ-4
/// proves: RFC 6888 REQ-11
#[test]
fn a_subscriber_over_its_limit_is_told_on_four_workers() {
    let mut snapshot = with(Allocation::Blocks(BLOCKS));
    (snapshot.pools[0].max_ports, snapshot.pools[0].max_sessions) = (3, 4);
    let mut carrier = Carrier::new(snapshot);
    for port in 0..3 {
        carrier.forward(LAN, &udp((host(10), 40_000 + port), (SERVER, 53), b"hello"));
    }
    let over = |carrier: &mut Carrier, port, to| {
        let out = carrier.pass(LAN, &udp((host(10), port), (SERVER, to), b"hello"));
        assert_eq!((out.len(), out[0].0, out[0].1[9], &out[0].1[20..22]), (1, LAN, 1, &[3u8, 1][..]));
    };
    over(&mut carrier, 40_003, 53);
    carrier.forward(LAN, &udp((host(10), 40_000), (SERVER, 54), b"hello"));
    over(&mut carrier, 40_000, 55);
    let drops = carrier.counters().drops;
    assert_eq!(drops[DropReason::NatPortLimit as usize], 1);
    assert_eq!(drops[DropReason::NatSessionLimit as usize], 1);
    carrier.forward(LAN, &udp((host(11), 40_000), (SERVER, 53), b"hello"));
    carrier.close();
}
