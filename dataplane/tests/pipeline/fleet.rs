//! Several workers over memory ports, polled by turns in one thread, in a time that the test sets.

use std::sync::Arc;

use sluice_dataplane::arena::FramePool;
use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::crossing;
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::{MemoryPeer, pair};
use sluice_dataplane::session::State;
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::verdict::DropReason;
use sluice_dataplane::worker::Worker;

use crate::lab::Out;
use crate::packets::{self, network};

pub(crate) struct Fleet {
    pub(crate) workers: Vec<Worker>,
    /// By worker, then by port.
    peers: Vec<Vec<MemoryPeer>>,
    pub(crate) now: Nanos,
    random: u64,
}

impl Fleet {
    pub(crate) fn new(snapshot: Snapshot, count: usize) -> Self {
        let snapshot = Arc::new(snapshot);
        let (mut workers, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (mut ports, mut ends) = (Vec::<Box<dyn Port>>::new(), Vec::new());
            for _ in &snapshot.ports {
                let (port, end) = pair(512);
                ports.push(Box::new(port));
                ends.push(end);
            }
            let pool = FramePool::shareable(snapshot.sizes.frames).unwrap();
            workers.push(Worker::new(snapshot.clone(), ports, pool));
            peers.push(ends);
        }
        crossing::connect(&mut workers);
        Self { workers, peers, now: 1000 * SECOND, random: 7 }
    }

    /// A number below `n`, the same on each run.
    pub(crate) fn random(&mut self, n: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % n
    }

    pub(crate) fn send(&mut self, worker: usize, port: usize, frame: &[u8]) {
        assert!(self.peers[worker][port].inject(0, frame), "the ring is full");
    }

    /// To any worker, as a NIC would that knows nothing of flows.
    pub(crate) fn spray(&mut self, port: usize, frame: &[u8]) -> usize {
        let worker = self.random(self.workers.len());
        self.send(worker, port, frame);
        worker
    }

    pub(crate) fn poll(&mut self, worker: usize) -> usize {
        let work = self.workers[worker].poll(self.now);
        let counters = self.counters_of(worker);
        assert!(counters.conserved(), "worker {worker}: {counters:?}");
        work
    }

    /// Polls these workers by turns until none has anything to do.
    pub(crate) fn settle_among(&mut self, workers: &[usize]) {
        for _ in 0..1000 {
            if workers.iter().map(|&worker| self.poll(worker)).sum::<usize>() == 0 {
                return;
            }
        }
        panic!("they never come to rest");
    }

    pub(crate) fn settle(&mut self) {
        let all: Vec<usize> = (0..self.workers.len()).collect();
        self.settle_among(&all);
    }

    /// Lets time pass in steps of a tenth of a second, so that the workers keep up.
    pub(crate) fn wait(&mut self, time: Nanos) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + SECOND / 10).min(end);
            self.settle();
        }
    }

    /// What has come out, in order by worker and port.
    pub(crate) fn collect_by_worker(&mut self) -> Vec<(usize, Out)> {
        let mut out = Vec::new();
        for (worker, peers) in self.peers.iter_mut().enumerate() {
            for (port, peer) in peers.iter_mut().enumerate() {
                out.extend(std::iter::from_fn(|| peer.collect()).map(|(_, frame)| (worker, (port, frame))));
            }
        }
        out
    }

    pub(crate) fn collect(&mut self) -> Vec<Out> {
        self.collect_by_worker().into_iter().map(|(_, out)| out).collect()
    }

    /// Sends an IP packet to one worker, of which one packet is to come; its port, and the IP packet.
    #[track_caller]
    pub(crate) fn forward_at(&mut self, worker: usize, port: usize, ip: &[u8]) -> (usize, Vec<u8>) {
        let before = self.counters().drops;
        self.send(worker, port, &packets::frame(port, ip));
        self.settle();
        let mut out = self.collect_by_worker();
        let after = self.counters().drops;
        let dropped = DropReason::ALL.iter().filter(|&&r| after[r as usize] > before[r as usize]);
        assert_eq!((out.len(), dropped.collect::<Vec<_>>()), (1, vec![]), "one packet comes out");
        let (by, (port, frame)) = out.remove(0);
        assert_eq!(by, worker, "it leaves by the worker where it came in");
        (port, network(&frame).to_vec())
    }

    /// The same, to any worker.
    #[track_caller]
    pub(crate) fn forward(&mut self, port: usize, ip: &[u8]) -> (usize, Vec<u8>) {
        let worker = self.random(self.workers.len());
        self.forward_at(worker, port, ip)
    }

    pub(crate) fn counters_of(&self, worker: usize) -> Counters {
        let worker = &self.workers[worker];
        Counters { held: worker.held(), ..worker.shard().counters.clone() }
    }

    pub(crate) fn counters(&self) -> Counters {
        let mut sum = self.counters_of(0);
        for worker in 1..self.workers.len() {
            sum.merge(self.counters_of(worker));
        }
        assert!(sum.conserved(), "{sum:?}");
        sum
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.counters().drops[reason as usize]
    }

    pub(crate) fn sessions(&self) -> u32 {
        self.workers.iter().map(|worker| worker.shard().sessions.live()).sum()
    }

    pub(crate) fn copies(&self) -> u32 {
        self.workers.iter().map(|worker| worker.shard().sessions.copies()).sum()
    }

    pub(crate) fn bindings(&self) -> u32 {
        self.workers.iter().map(|worker| worker.shard().nat.live()).sum()
    }

    /// The worker that has the only session, and where that stands.
    pub(crate) fn only_session(&self) -> (usize, State) {
        let mut all = Vec::new();
        for (index, worker) in self.workers.iter().enumerate() {
            let sessions = &worker.shard().sessions;
            let live = (0..sessions.slots()).filter_map(|i| sessions.get(i));
            all.extend(live.map(|session| (index, sessions.state(session))));
        }
        assert_eq!(all.len(), 1);
        all[0]
    }

    pub(crate) fn close(mut self) -> Counters {
        for _ in 0..10 {
            let drained =
                self.workers.iter_mut().filter_map(|worker| worker.drain(self.now).then_some(())).count();
            if drained == self.workers.len() {
                break;
            }
        }
        let mut sum: Option<Counters> = None;
        for worker in &mut self.workers {
            let (counters, closed) = worker.close(self.now);
            assert_eq!(closed.frames, closed.home, "every frame is home");
            assert!(counters.conserved() && counters.held == 0, "{counters:?}");
            match &mut sum {
                Some(sum) => sum.merge(counters),
                None => sum = Some(counters),
            }
        }
        sum.unwrap()
    }
}
