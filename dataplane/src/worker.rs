//! The worker: polls its ports, takes each burst through the pipeline, and keeps what is due with time.
//!
//! Whoever drives it hands the time in: the thread of a live gateway from its clock, a replay from the captures.

use std::sync::Arc;

use crate::arena::FramePool;
use crate::burst::Burst;
use crate::clock::{MILLISECOND, Nanos};
use crate::counters::{Counters, Publisher, Reader, channel};
use crate::inspect::{self, Inspected, Inspector};
use crate::local::mirror::{self, MirrorControl};
use crate::pipeline;
use crate::port::{Port, Refused};
use crate::probe::Probe;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::verdict::DropReason;

/// How often counters are published.
const PUBLISH: Nanos = 10 * MILLISECOND;

/// One worker: its ports, its shard, and the configuration that it goes by.
pub struct Worker {
    snapshot: Arc<Snapshot>,
    ports: Vec<Box<dyn Port>>,
    shard: Shard,
    burst: Box<Burst>,
    publisher: Publisher,
    reader: Reader,
    inspected: Inspected,
    inspector: Option<Inspector>,
    published: Nanos,
}

/// What became of a worker's frames when it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Frames in all.
    pub frames: u32,
    /// Frames that are home.
    pub home: u32,
}

impl Worker {
    /// A worker over ports in the order of the snapshot's, with the frames that they use.
    pub fn new(snapshot: Arc<Snapshot>, ports: Vec<Box<dyn Port>>, pool: FramePool) -> Self {
        let shard = Shard::new(&snapshot, pool);
        let (publisher, reader) = channel(&shard.counters);
        let (inspected, inspector) = inspect::channel();
        Self {
            snapshot,
            ports,
            shard,
            burst: Box::default(),
            publisher,
            reader,
            inspected,
            inspector: Some(inspector),
            published: 0,
        }
    }

    /// The end by which it is told of neighbours on ports where the kernel alone speaks ARP and ND.
    pub fn mirror(&mut self) -> MirrorControl {
        let (mirror, control) = mirror::channel();
        self.shard.local.set_mirror(mirror);
        control
    }

    /// The end from which its tables are listed; there is one.
    pub fn inspector(&mut self) -> Option<Inspector> {
        self.inspector.take()
    }

    /// Where others read this worker's counters.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// The configuration.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The worker's state, for listings between bursts.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The ports, for what a driver asks them (the next arrival, descriptors to sleep on).
    pub fn ports(&mut self) -> &mut [Box<dyn Port>] {
        &mut self.ports
    }

    /// Does what is due at `now`, then takes one burst from each port to its end. Returns how many packets came in, or
    /// that there is more to do all the same.
    pub fn poll(&mut self, now: Nanos) -> usize {
        self.poll_probed(now, &mut ())
    }

    /// As [`poll`](Self::poll), with a probe that is told of each stage and of the worker's own duties.
    pub fn poll_probed(&mut self, now: Nanos, probe: &mut impl Probe) -> usize {
        probe.stage("upkeep", || self.keep(now));
        let mut work = 0;
        for index in 0..self.ports.len() {
            work += self.receive(index, now, probe);
        }
        probe.stage("hand_over", || self.flush(now));
        work + usize::from(self.inspected.serve(&self.shard, now))
    }

    /// When the worker has something to do even if no packet comes; it may lie in the past.
    pub fn next_due(&self) -> Nanos {
        self.shard.neighbors.next_due().min(self.shard.local.next_due())
    }

    fn receive(&mut self, index: usize, now: Nanos, probe: &mut impl Probe) -> usize {
        let Self { burst, ports, shard, snapshot, .. } = self;
        burst.now = now;
        burst.port = index as u16;
        let refused = ports[index].receive(now, &mut shard.pool, burst);
        let count = burst.len();
        probe.burst(count);
        let rx = &mut shard.counters.ports[index].rx;
        rx.packets += count as u64;
        rx.bytes += burst.wire_bytes();
        if refused != Refused::default() {
            refuse(refused, index, &mut shard.counters);
        }
        if count > 0 {
            pipeline::run(burst, shard, snapshot, probe);
            burst.clear();
        }
        self.release(now);
        count
    }

    /// Packets whose neighbour has answered go on, ahead of all that come in after the answer.
    fn release(&mut self, now: Nanos) {
        let Self { burst, shard, snapshot, .. } = self;
        while shard.neighbors.is_ready() {
            burst.now = now;
            shard.neighbors.release(burst);
            pipeline::run(burst, shard, snapshot, &mut ());
            burst.clear();
        }
    }

    /// What is due with time, ahead of the packets: ageing, the gateway's own messages, publication.
    fn keep(&mut self, now: Nanos) {
        let Self { shard, snapshot, .. } = self;
        shard.sessions.sweep(now, &snapshot.timeouts, &mut shard.nat, &mut shard.counters);
        shard.local(snapshot, now).tick();
        if now.saturating_sub(self.published) >= PUBLISH {
            self.publish(now);
        }
    }

    /// Packets that wait, for a neighbour or in an outbox.
    pub fn held(&self) -> u64 {
        self.shard.neighbors.held()
            + self.shard.outboxes.iter().map(|outbox| outbox.len() as u64).sum::<u64>()
    }

    /// Publishes the counters as they are.
    pub fn publish(&mut self, now: Nanos) {
        self.published = now;
        let held = self.held();
        let shard = &mut self.shard;
        shard.counters.held = held;
        shard.counters.sessions = shard.sessions.live().into();
        shard.counters.bindings = shard.nat.live().into();
        for (published, count) in shard.counters.limits.iter_mut().zip(shard.limiters.counts()) {
            *published = count;
        }
        self.publisher.publish(&mut shard.counters);
    }

    /// Hands what waits to the ports.
    fn flush(&mut self, now: Nanos) {
        let shard = &mut self.shard;
        for (index, port) in self.ports.iter_mut().enumerate() {
            let sent = port.transmit(now, &mut shard.pool, &mut shard.outboxes[index]);
            let tx = &mut shard.counters.ports[index].tx;
            tx.packets += sent.packets;
            tx.bytes += sent.bytes;
        }
    }

    /// Ends it: what still waits is dropped and counted, the ports give back their frames, the last counters are
    /// published and returned.
    pub fn close(&mut self, now: Nanos) -> (Counters, Closed) {
        self.flush(now);
        let shard = &mut self.shard;
        while let Some(frame) = shard.neighbors.drain() {
            shard.counters.dropped(DropReason::Shutdown, 1);
            shard.pool.give(frame);
        }
        for outbox in &mut shard.outboxes {
            for frame in outbox.take(usize::MAX) {
                shard.counters.dropped(DropReason::Shutdown, 1);
                shard.pool.give(frame);
            }
        }
        for port in &mut self.ports {
            port.close(&mut shard.pool);
        }
        let closed = Closed { frames: shard.pool.count(), home: shard.pool.free() as u32 };
        self.publish(now);
        (self.shard.counters.clone(), closed)
    }
}

fn refuse(refused: Refused, port: usize, counters: &mut Counters) {
    let packets = refused.too_long + refused.truncated + refused.no_frame;
    counters.ports[port].rx.packets += packets;
    counters.ports[port].rx.bytes += refused.bytes;
    counters.dropped(DropReason::FrameTooLong, refused.too_long);
    counters.dropped(DropReason::CaptureTruncated, refused.truncated);
    counters.dropped(DropReason::NoFrame, refused.no_frame);
}
