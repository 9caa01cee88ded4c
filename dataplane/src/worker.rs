//! The worker: polls its ports, takes each burst through the pipeline, and keeps what is due with time.
//!
//! Whoever drives it hands the time in: the thread of a live gateway from its clock, a replay from the captures.

mod handover;

use std::sync::Arc;

use crate::adopt::{self, Adopter, Adoptions};
use crate::arena::FramePool;
use crate::burst::{BURST, Burst};
use crate::clock::{MILLISECOND, Nanos};
use crate::counters::{Counters, Publisher, Reader, channel};
use crate::crossing::{self, Crossing, Heartbeat, Offered, Statuses};
use crate::firsts::Firsts;
use crate::inspect::{self, Inspected, Inspector};
use crate::local::mirror::{self, MirrorControl};
use crate::nat::EventReader;
use crate::port::{Port, Refused};
use crate::probe::Probe;
use crate::recorder::Recorder;
use crate::sample::{self, SampleReader, Sampler};
use crate::session::{FlowReader, ReportTimes};
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::stage::fragment;
use crate::stage::owner::Owners;
use crate::stage::sources::SourceRates;
use crate::stage::{port_control, shape, syn};
use crate::trace::{self, Origin};
use crate::verdict::DropReason;

use self::handover::Aside;
pub use self::handover::HandOverError;

/// How often it is looked in a poll for what comes in again.
const AGAIN: usize = 3;
/// How often counters are published.
const PUBLISH: Nanos = 10 * MILLISECOND;

/// One worker: its ports, its shard, and the configuration that it goes by.
pub struct Worker {
    snapshot: Arc<Snapshot>,
    ports: Vec<Box<dyn Port>>,
    shard: Shard,
    burst: Box<Burst>,
    counters: (Publisher, Reader),
    adoptions: Adoptions,
    adopter: Option<Adopter>,
    inspected: Inspected,
    inspector: Option<Inspector>,
    published: Nanos,
    sampler: Option<Box<Sampler>>,
    route_epoch: u32,
    index: usize,
    statuses: Statuses,
    /// When it began to drain.
    draining: Option<Nanos>,
    /// What waited when it was handed over.
    aside: Vec<Aside>,
}

/// How long a worker that ends waits for its frames that others have.
const DRAIN: Nanos = 200 * MILLISECOND;

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
        let mut shard = Shard::new(&snapshot, pool);
        shard.counters.recorder = Recorder::new();
        shard.firsts = Firsts::new();
        let counters = channel(&shard.counters);
        let (adoptions, adopter) = adopt::channel(&snapshot, &shard, counters.1.clone());
        let (inspected, inspector) = inspect::channel();
        let statuses = crossing::statuses(1);
        Self {
            index: 0,
            statuses,
            draining: None,
            aside: Vec::new(),
            snapshot,
            ports,
            shard,
            burst: Box::default(),
            counters,
            adoptions,
            adopter: Some(adopter),
            inspected,
            inspector: Some(inspector),
            published: 0,
            sampler: None,
            route_epoch: 0,
        }
    }

    /// Makes it none of a gateway's, but one that tries something with a configuration of one that runs: nobody waits for what it
    /// reads there.
    #[must_use]
    pub fn apart(self) -> Self {
        Self { index: usize::MAX, ..self }
    }

    /// Makes it one of several.
    pub(crate) fn join(
        &mut self,
        index: usize,
        owners: Owners,
        crossing: Box<Crossing>,
        statuses: Statuses,
        offered: Offered,
        wants: Offered,
    ) {
        let (shard, snapshot) = (&mut self.shard, &self.snapshot);
        let workers = owners.workers();
        shard.sessions.share(snapshot);
        shard.nat.share(index as u8, &owners);
        shard.fragments.share(index as u8, owners.workers());
        shard.neighbors.share(index as u8, owners);
        shard.limiters.share(index, offered);
        shard.shapers.share(index, wants, snapshot);
        shard.sources = SourceRates::of(snapshot, workers);
        shard.local.share(snapshot, index, owners.workers());
        shard.crossing = Some(crossing);
        (self.index, self.statuses) = (index, statuses);
    }

    /// Which of several workers it is; 0 for one alone.
    pub fn index(&self) -> usize {
        self.index
    }

    /// By which others see whether it still polls.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat::new(self.statuses.clone(), self.index)
    }

    /// The end by which it is told of neighbours on ports where the kernel alone speaks ARP and ND.
    pub fn mirror(&mut self) -> MirrorControl {
        let (mirror, control) = mirror::channel();
        self.shard.local.set_mirror(mirror);
        control
    }

    /// The end from which is read what becomes of blocks and bindings. From now on it is recorded, if the configuration says
    /// so.
    pub fn nat_events(&mut self) -> EventReader {
        self.shard.nat.events()
    }

    /// The end from which is read what passes by flows; from now on it is recorded. If it is one of several workers, it must have
    /// joined them.
    pub fn flow_records(&mut self, times: ReportTimes) -> FlowReader {
        self.shard.sessions.report(times)
    }

    /// The end from which samples of packets are read, one of `every` that come in; from now on they are taken.
    pub fn samples(&mut self, every: u32, seed: u64) -> SampleReader {
        let (sampler, reader) = sample::channel(every, seed);
        self.sampler = Some(Box::new(sampler));
        reader
    }

    /// The end from which its tables are listed; there is one.
    pub fn inspector(&mut self) -> Option<Inspector> {
        self.inspector.take()
    }

    /// The end from which it is given other configurations; there is one. If it is one of several workers, it must have
    /// joined them.
    pub fn adopter(&mut self) -> Option<Adopter> {
        let adopter = self.adopter.take()?;
        Some(adopter.of(self.index, self.statuses.len(), self.shard.nat.share_of()))
    }

    /// Where others read this worker's counters, as long as it goes by this configuration.
    pub fn reader(&self) -> Reader {
        self.counters.1.clone()
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
        if let Some(status) = self.statuses.get(self.index) {
            status.beat(now);
        }
        self.shard.counters.recorder.begin(now, self.snapshot.generation);
        probe.stage("upkeep", || self.keep(now));
        let mut work = usize::from(self.adopt(now));
        if !self.aside.is_empty() {
            self.go_on(now, probe);
        }
        if self.shard.crossing.is_some() {
            self.cross(now, probe);
        }
        if self.draining.is_none() {
            for index in 0..self.ports.len() {
                work += self.receive(index, now, probe);
            }
        }
        if self.shard.outboxes.iter().skip(self.ports.len()).any(|outbox| !outbox.is_empty()) {
            self.come_in_again(now, probe);
            work += 1;
        }
        work += probe.stage("shape", || shape::send(now, &mut self.shard));
        probe.stage("hand_over", || self.flush(now));
        if self.shard.crossing.is_some() {
            work += self.tell(work, now);
        }
        work + usize::from(self.inspected.serve(&mut self.shard, now))
    }

    /// Sees to what came from other workers, ahead of new packets.
    #[inline(never)]
    fn cross(&mut self, now: Nanos, probe: &mut impl Probe) {
        let Self { burst, shard, snapshot, .. } = self;
        crossing::take_notices(shard, snapshot, now);
        burst.now = now;
        while crossing::take_answers(burst, shard) {
            trace::resume(burst, shard, snapshot, probe);
            burst.clear();
        }
        while crossing::is_ready(shard) {
            crossing::release(burst, shard);
            trace::run(burst, shard, snapshot, Origin::Released, probe);
            burst.clear();
        }
        while crossing::take_questions(burst, shard) {
            trace::decide(burst, shard, snapshot);
            crossing::answer(burst, shard);
            burst.clear();
        }
        crossing::keep(shard, snapshot, now);
        self.release(now);
    }

    /// Lets other workers know what has happened here. Returns how much there was to do with them.
    #[inline(never)]
    fn tell(&mut self, received: usize, now: Nanos) -> usize {
        crossing::tell(&mut self.shard);
        let shard = &mut self.shard;
        let Some(crossing) = &mut shard.crossing else { return 0 };
        if received > 0 && shard.sessions.copies() > 0 {
            crossing.saw_packets(now);
        }
        crossing.take_work()
    }

    /// Whether something lies on the rings for another worker, who has not taken it yet.
    pub fn has_left_for(&self, other: usize) -> bool {
        self.shard.crossing.as_ref().is_some_and(|crossing| crossing.has_left_for(other))
    }

    /// When the worker has something to do even if no packet comes; it may lie in the past.
    pub fn next_due(&self) -> Nanos {
        let shard = &self.shard;
        let crossing = shard.crossing.as_ref();
        let crossing = crossing.map_or(Nanos::MAX, |c| c.next_due(shard.sessions.next_copies()));
        let waiting = shard.neighbors.next_due().min(shard.fragments.next_due()).min(shard.syns.next_due());
        let shaped = shard.shapers.next_due(&shard.outboxes);
        waiting.min(shard.local.next_due()).min(crossing).min(shaped)
    }

    fn receive(&mut self, index: usize, now: Nanos, probe: &mut impl Probe) -> usize {
        let Self { burst, ports, shard, snapshot, sampler, .. } = self;
        burst.now = now;
        burst.port = index as u16;
        let refused = ports[index].receive(now, &mut shard.pool, burst);
        let count = burst.len();
        if let Some(sampler) = sampler {
            sampler.look(burst);
        }
        probe.burst(count);
        let rx = &mut shard.counters.ports[index].rx;
        rx.packets += count as u64;
        rx.bytes += burst.wire_bytes();
        if refused != Refused::default() {
            refuse(refused, index, &mut shard.counters);
        }
        if count > 0 {
            if let Some(tap) = &mut shard.counters.recorder.tap {
                tap.received(burst, snapshot.generation);
            }
            trace::run(burst, shard, snapshot, Origin::Received, probe);
            burst.clear();
        }
        self.release(now);
        count
    }

    /// Packets whose neighbour has answered, or whose first fragment has come, go on ahead of all that come in after.
    fn release(&mut self, now: Nanos) {
        let Self { burst, shard, snapshot, .. } = self;
        while shard.neighbors.is_ready() || shard.fragments.is_ready() {
            burst.now = now;
            if shard.neighbors.is_ready() {
                shard.neighbors.release(burst);
            } else {
                shard.fragments.release(burst);
            }
            trace::run(burst, shard, snapshot, Origin::Released, &mut ());
            burst.clear();
        }
    }

    /// What was sent to an external address of ours comes in again.
    fn come_in_again(&mut self, now: Nanos, probe: &mut impl Probe) {
        let Self { burst, shard, snapshot, ports, .. } = self;
        let inner = ports.len()..2 * ports.len();
        // An answer to one of them comes in again likewise.
        for port in std::iter::repeat_n(inner, AGAIN).flatten() {
            let waiting = shard.outboxes[port].len();
            for _ in 0..waiting.div_ceil(BURST) {
                burst.now = now;
                burst.port = port as u16;
                for frame in shard.outboxes[port].take(BURST) {
                    burst.push(frame).unwrap_or_else(|frame| shard.pool.give(frame));
                }
                trace::run(burst, shard, snapshot, Origin::Again, probe);
                burst.clear();
            }
        }
        self.release(now);
    }

    /// What is due with time, ahead of the packets: ageing, the gateway's own messages, publication.
    fn keep(&mut self, now: Nanos) {
        let Self { shard, snapshot, index, route_epoch, .. } = self;
        if let Some(fib) = &snapshot.fib {
            let epoch = fib.begin_poll(*index);
            if std::mem::replace(route_epoch, epoch) != epoch {
                shard.neighbors.renew();
            }
        }
        shard.nat.tick(now);
        shard.sessions.sweep(now, &snapshot.timeouts, &mut shard.nat, &mut shard.counters);
        port_control::keep(shard, snapshot, now);
        shard.local(snapshot, now).tick();
        syn::expire(shard, snapshot, now);
        shard.limiters.keep(now, snapshot);
        fragment::keep(shard, now);
        shape::keep(now, shard, snapshot);
        if now.saturating_sub(self.published) >= PUBLISH {
            self.publish(now);
        }
    }

    /// Takes another configuration in, between two bursts. Returns whether there are sessions left from before it.
    fn adopt(&mut self, now: Nanos) -> bool {
        let Self { adoptions, shard, snapshot, counters, .. } = self;
        if let Some(begun) = adoptions.take_in(shard, snapshot, counters, now) {
            self.publish(now);
            self.adoptions.has_adopted(&self.snapshot, begun);
        }
        self.adoptions.go_on(&mut self.shard, &self.snapshot, now)
    }

    /// Packets that wait: for a neighbour, a first fragment, another worker's answer, their turn in a shaper, or in an outbox.
    pub fn held(&self) -> u64 {
        self.shard.neighbors.held()
            + self.shard.fragments.held()
            + self.shard.syns.len() as u64
            + self.aside.len() as u64
            + self.shard.shapers.held()
            + self.shard.crossing.as_ref().map_or(0, |crossing| crossing.held())
            + self.shard.outboxes.iter().map(|outbox| outbox.len() as u64).sum::<u64>()
    }

    /// Publishes the counters as they are; of very many rules, the hits of some.
    pub fn publish(&mut self, now: Nanos) {
        self.published = now;
        self.complete();
        self.counters.0.publish(&mut self.shard.counters);
    }

    /// Adds to the counters what is counted elsewhere.
    fn complete(&mut self) {
        let held = self.held();
        let shard = &mut self.shard;
        shard.counters.held = held;
        shard.counters.sessions = shard.sessions.live().into();
        shard.counters.bindings = shard.nat.live().into();
        shard.counters.leases = shard.nat.leased().into();
        (shard.counters.nat_recorded, shard.counters.nat_unrecorded) = shard.nat.recorded();
        (shard.counters.flows_recorded, shard.counters.flows_unrecorded) = shard.sessions.reported();
        (shard.counters.samples, shard.counters.samples_lost) =
            self.sampler.as_ref().map_or((0, 0), |sampler| sampler.counts());
        shard.counters.copies = shard.sessions.copies().into();
        for (published, count) in shard.counters.limits.iter_mut().zip(shard.limiters.counts()) {
            *published = count;
        }
    }

    /// Hands what waits to the ports.
    fn flush(&mut self, now: Nanos) {
        let shard = &mut self.shard;
        for (index, port) in self.ports.iter_mut().enumerate() {
            let outbox = &mut shard.outboxes[index];
            if let Some(tap) = &mut shard.counters.recorder.tap {
                tap.leaving(index, outbox, now, self.snapshot.generation);
            }
            let sent = port.transmit(now, &mut shard.pool, outbox);
            if let Some(tap) = &mut shard.counters.recorder.tap {
                tap.left(index, outbox.len());
            }
            let tx = &mut shard.counters.ports[index].tx;
            tx.packets += sent.packets;
            tx.bytes += sent.bytes;
        }
    }

    /// Polls without receiving, before the end: true when no frame of any worker is with another, or when that took too
    /// long. All workers should be drained, each until it says so, before any is closed.
    pub fn drain(&mut self, now: Nanos) -> bool {
        let since = *self.draining.get_or_insert(now);
        self.poll(now);
        let lent = self.shard.crossing.as_ref().map_or(0, |crossing| crossing.held());
        if let Some(status) = self.statuses.get(self.index) {
            status.set_drained(lent == 0);
        }
        self.statuses.iter().all(|status| status.is_drained()) || now.saturating_sub(since) >= DRAIN
    }

    /// Ends it: what still waits is dropped and counted, the ports give back their frames, the last counters are
    /// published and returned.
    pub fn close(&mut self, now: Nanos) -> (Counters, Closed) {
        self.flush(now);
        let shard = &mut self.shard;
        shard.sessions.report_all();
        crossing::close(shard);
        shape::close(now, shard);
        while let Some((_, frame)) = shard.neighbors.drain().or_else(|| shard.fragments.drain()) {
            shard.counters.dropped(DropReason::Shutdown, 1);
            shard.pool.give(frame);
        }
        for Aside { frame, .. } in self.aside.drain(..) {
            shard.counters.dropped(DropReason::Shutdown, 1);
            shard.pool.give(frame);
        }
        while let Some((_, frame)) = shard.syns.drain() {
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
        self.published = now;
        self.complete();
        self.counters.0.publish_all(&mut self.shard.counters);
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
