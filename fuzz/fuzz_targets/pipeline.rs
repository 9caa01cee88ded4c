//! Packets, answers to what was sent, and steps of time through a whole worker over ports in memory. Packets are right,
//! then perhaps bent. Every packet stays accounted for, every frame comes home, what leaves parses, and as long as
//! nothing is bent all of its checksums are right.

#![no_main]

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use sluice_control::config;
use sluice_dataplane::arena::FramePool;
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::{MemoryPeer, pair};
use sluice_dataplane::snapshot::{Sizes, Snapshot};
use sluice_dataplane::worker::Worker;
use sluice_fuzz::{CONFIG, Choices, Packet, answer, bend, mend, transport_is_right};
use sluice_pkt::parse::parse;

const FRAMES: u32 = 128;
/// Room of a port's rings, packets.
const RING: usize = 48;
/// How many sent packets are kept for answers.
const SENT: usize = 16;
const START: u64 = 1_700_000_000_000_000_000;

/// With neighbours made up, and with neighbours that must answer.
static SNAPSHOTS: LazyLock<[Arc<Snapshot>; 2]> = LazyLock::new(|| {
    let (config, _) = config::load_str("gateway.toml", CONFIG).unwrap_or_else(|report| panic!("{report}"));
    [true, false].map(|lenient| {
        let mut snapshot = config::compile(&config, &[]);
        snapshot.sizes = Sizes { sessions: 24, neighbors: 16, fragments: 16, frames: FRAMES };
        for port in &mut snapshot.ports {
            port.any_mac = lenient;
            port.invent_neighbors = lenient;
        }
        Arc::new(snapshot)
    })
});

struct Gateway {
    worker: Worker,
    peers: Vec<MemoryPeer>,
    now: u64,
    bent: bool,
    /// What was sent last, with the port, for answers.
    sent: VecDeque<(usize, Vec<u8>)>,
}

impl Gateway {
    fn new(lenient: bool) -> Self {
        let snapshot = SNAPSHOTS[usize::from(!lenient)].clone();
        let (ports, peers): (Vec<_>, Vec<_>) = snapshot.ports.iter().map(|_| pair(RING)).unzip();
        let ports = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
        let pool = FramePool::new(FRAMES, false).expect("a quarter of a megabyte");
        Self {
            worker: Worker::new(snapshot, ports, pool),
            peers,
            now: START,
            bent: false,
            sent: VecDeque::new(),
        }
    }

    fn poll(&mut self) {
        self.worker.poll(self.now);
        self.worker.publish(self.now);
        assert!(self.worker.reader().read().conserved());
    }

    fn collect(&mut self) {
        for (port, peer) in self.peers.iter_mut().enumerate() {
            while let Some((_, bytes)) = peer.collect() {
                let headers = parse(&bytes).unwrap_or_else(|error| panic!("{error:?} leaves: {bytes:02x?}"));
                assert_eq!(usize::from(headers.end), bytes.len(), "{headers:?}");
                assert!(self.bent || transport_is_right(&bytes, &headers), "{headers:?} {bytes:02x?}");
                self.sent.push_front((port, bytes));
                self.sent.truncate(SENT);
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let mut gateway = Gateway::new(choices.byte() & 1 == 0);
    while choices.more() {
        match choices.byte() {
            step @ 0..48 => {
                gateway.now = gateway.now.saturating_add(1 << step);
                gateway.poll();
            }
            48..64 => gateway.collect(),
            64..112 => {
                let which = usize::from(choices.byte());
                if let Some((port, sent)) = gateway.sent.get(which % gateway.sent.len().max(1))
                    && let Some(bytes) = answer(sent, &mut choices)
                {
                    gateway.peers[*port].inject(gateway.now, &bytes);
                }
            }
            how => {
                let mut packet = Packet::new(&mut choices);
                if how >= 160 {
                    gateway.bent = true;
                    bend(&mut packet.bytes, &mut choices);
                    mend(&mut packet.bytes);
                }
                gateway.peers[packet.port].inject(gateway.now, &packet.bytes);
            }
        }
    }
    gateway.poll();
    gateway.collect();
    let (counters, closed) = gateway.worker.close(gateway.now);
    assert!(counters.conserved() && counters.held == 0);
    assert_eq!(closed.home, closed.frames);
});
