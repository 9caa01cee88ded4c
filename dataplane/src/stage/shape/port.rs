//! The shaper of one port, at one worker.

use std::ops::Range;

use sluice_pkt::ds_field;

use super::accounts::Accounts;
use super::parts::Part;
use super::{discard, is_none, key};
use crate::arena::{Frame, FramePool};
use crate::burst::BURST;
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::counters::Counters;
use crate::port::Outbox;
use crate::snapshot::{Class, ClassRate, HostKey, NONE16, Snapshot};
use crate::table::meter::Rate;
use crate::table::shaper::{
    Cause, ClassConfig, Codel, Config, Histogram, Hosts, Kind, NodeId, Overhead, Packet, ROOT, Rates, Shaper,
    Sink, Stats, Waiting,
};
use crate::verdict::DropReason;

/// How late a worker that sleeps may come, for all the others that want its core. What a rate is worth in this time may be
/// sent at once.
const LATE: Nanos = 4 * MILLISECOND;
/// Between two samples of a class.
const SAMPLE: Nanos = SECOND;
/// Flows that have a queue at a time, for each packet that can wait.
const FLOWS: u32 = 2;

/// See the module's description.
#[derive(Debug)]
pub(super) struct PortShaper {
    pub(super) tree: Shaper<Frame>,
    /// Its classes, of the snapshot's.
    pub(super) classes: Range<usize>,
    /// By class of its own.
    pub(super) nodes: Vec<NodeId>,
    /// By class of its own: octets that have been handed out.
    pub(super) taken: Vec<u64>,
    /// By class of its own: bytes that it was given, and that have left it or were dropped.
    given: Vec<u64>,
    left: Vec<u64>,
    keys: Vec<Option<HostKey>>,
    /// Of hosts whose packets have no queue of their own.
    pub(super) accounts: Option<Box<Accounts>>,
    /// What decides whether another configuration's is the same tree.
    shape: Vec<Placed>,
    sizes: (u32, u32, Overhead),
    /// The class of its own for packets that have none.
    default: usize,
    /// Bits per second.
    rate: u64,
    /// Packets of the burst at hand.
    batch: Vec<Packet<Frame>>,
    /// By class of its own: the last two samples, the newer one second.
    samples: Vec<[Sample; 2]>,
    /// The next to be sampled.
    sampled: usize,
}

/// A class, and its parent by place.
type Placed = (Option<u16>, ClassConfig);

/// What a class had done at a time.
#[derive(Clone, Debug, Default)]
struct Sample {
    at: Nanos,
    bytes: u64,
    borrowed: u64,
    waits: Histogram,
}

/// How a class does at one worker.
#[derive(Clone, Copy, Debug)]
pub struct ClassRow {
    /// Index into [`Snapshot::classes`].
    pub class: u16,
    /// Since the start; what classes in it have done is its, too.
    pub stats: Stats,
    /// When the following began: a second or two ago.
    pub since: Nanos,
    /// Bytes sent since.
    pub bytes: u64,
    /// Of these, beyond what it is guaranteed.
    pub borrowed: u64,
    /// How long packets waited that were sent since, ns: the median.
    pub wait_p50: Option<u64>,
    /// The same: the 99th percentile.
    pub wait_p99: Option<u64>,
}

impl PortShaper {
    /// For one of so many workers. `None` if nothing waits at the port.
    pub(super) fn new(snapshot: &Snapshot, index: usize, workers: usize) -> Option<Self> {
        let shaper = snapshot.shapers.get(index)?;
        let rate = shaper.rate?;
        let classes = snapshot.classes_of(index);
        let of_port = snapshot.classes.get(classes.clone())?;
        // Another configuration may ask for more than there is.
        let most = shaper.frames.min(snapshot.sizes.frames / 2);
        let slots = (most / workers.max(1) as u32).max(BURST as u32);
        let interfaces = snapshot.interfaces.iter().filter(|interface| interface.port == shaper.port);
        let mtu = interfaces.map(|interface| interface.mtu).max().unwrap_or(1500);
        let overhead = Overhead {
            bytes: shaper.overhead.bytes.into(),
            least: shaper.overhead.least.into(),
            atm: shaper.overhead.atm,
        };
        let mut tree = Shaper::new(&Config {
            rates: bursting(None, Some(rate), 0),
            overhead,
            mtu: overhead.wire(u32::from(mtu) + crate::arena::MAX_LINK_HEADER as u32),
            classes: of_port.len() as u32,
            hosts: of_port.iter().filter(|class| class.per.is_some()).map(|class| class.hosts).sum(),
            flows: slots.saturating_mul(FLOWS),
            slots,
            seed: snapshot.seed,
        });
        let mut nodes = Vec::new();
        let mut shape = Vec::new();
        for (place, class) in of_port.iter().enumerate() {
            let holds = of_port.iter().any(|other| other.parent == Some((classes.start + place) as u16));
            let parent = class.parent.and_then(|parent| usize::from(parent).checked_sub(classes.start));
            let parent = parent.and_then(|parent| nodes.get(parent).copied()).unwrap_or(ROOT);
            let config = configured(class, holds, slots / (2 * of_port.len() as u32));
            nodes.push(tree.add_class(parent, &config).ok()?);
            shape.push((class.parent.map(|parent| parent - classes.start as u16), config));
        }
        let counted = of_port.iter().filter(|class| class.per.is_none()).map(|class| class.hosts).sum();
        let accounts = || Box::new(Accounts::new(counted, snapshot.sizes.frames, snapshot.seed));
        Some(Self {
            tree,
            taken: vec![0; nodes.len()],
            given: vec![0; nodes.len()],
            left: vec![0; nodes.len()],
            samples: vec![Default::default(); nodes.len()],
            sampled: 0,
            keys: of_port.iter().map(|class| class.per.map(|(key, _)| key).or(class.accounts)).collect(),
            accounts: (counted > 0).then(accounts),
            default: usize::from(shaper.default).checked_sub(classes.start)?,
            nodes,
            shape,
            sizes: (slots, counted, overhead),
            classes,
            rate: rate.bits_per_second,
            batch: Vec::with_capacity(BURST),
        })
    }

    pub(super) fn len(&self) -> u32 {
        self.tree.len() + self.batch.len() as u32
    }

    pub(super) fn next_due(&self) -> Nanos {
        self.tree.next_due()
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    pub(super) fn classes(&self) -> Range<usize> {
        self.classes.clone()
    }

    /// The place of a class among its own.
    fn place(&self, class: u16) -> usize {
        let place = usize::from(class).checked_sub(self.classes.start);
        place.filter(|&place| !is_none(class) && place < self.nodes.len()).unwrap_or(self.default)
    }

    /// Whether a class of its own has accounts of hosts that have no queue.
    pub(super) fn counts_hosts(&self, place: usize) -> bool {
        let has_key = self.keys.get(place).is_some_and(Option::is_some);
        has_key && self.shape.get(place).is_some_and(|class| !has_queue_by_host(class))
    }

    /// Whose packets share a queue of a class, or have an account, if it goes by host.
    pub(super) fn host_key(&self, class: u16) -> Option<HostKey> {
        self.keys.get(self.place(class)).copied().flatten()
    }

    /// Takes a packet in, with its class, its host if that is known, and its flow; at the latest when the burst
    /// [is settled](Self::settle).
    pub(super) fn put(
        &mut self,
        (frame, class, host, flow): (Frame, u16, Option<u128>, u32),
        now: Nanos,
        way: &mut Way<'_>,
    ) {
        let place = self.place(class);
        let len = frame.len() as u32;
        let Some(&class) = self.nodes.get(place) else {
            return discard(frame, DropReason::ShaperClassFull, way.pool, way.counters);
        };
        if self.accounts.is_some() && self.counts_hosts(place) {
            if let (Some(accounts), Some(host)) = (&mut self.accounts, host) {
                accounts.begin(&frame, place as u16, host);
            }
        }
        if let Some(given) = self.given.get_mut(place) {
            *given += u64::from(len);
        }
        if self.batch.len() == self.batch.capacity() {
            self.settle(now, way);
        }
        self.batch.push(Packet { class, host: host.unwrap_or(0), flow, len, item: frame });
    }

    pub(super) fn settle(&mut self, now: Nanos, way: &mut Way<'_>) {
        if !self.batch.is_empty() {
            self.tree.enqueue_burst(
                now,
                &mut self.batch,
                &mut Leaving {
                    way,
                    left: &mut self.left,
                    accounts: &mut self.accounts,
                    overhead: self.sizes.2,
                },
            );
        }
    }

    pub(super) fn send(&mut self, now: Nanos, most: usize, way: &mut Way<'_>) -> usize {
        if self.tree.is_empty() {
            return 0;
        }
        self.tree.dequeue(
            now,
            most,
            &mut Leaving { way, left: &mut self.left, accounts: &mut self.accounts, overhead: self.sizes.2 },
        )
    }

    /// Drops a packet, because buffers are low. False if there is none that may be.
    pub(super) fn shed(&mut self, now: Nanos, way: &mut Way<'_>) -> bool {
        self.tree.shed(
            now,
            1,
            &mut Leaving { way, left: &mut self.left, accounts: &mut self.accounts, overhead: self.sizes.2 },
        ) > 0
    }

    /// Drops all that waits.
    pub(super) fn close(&mut self, now: Nanos, pool: &mut FramePool, counters: &mut Counters) {
        self.tree.drain(now, |waiting| discard(waiting.item, DropReason::Shutdown, pool, counters));
    }

    /// Takes out all that waits, which leaves the port now.
    pub(super) fn take_all(&mut self, now: Nanos, mut each: impl FnMut(Frame)) {
        let Self { tree, left, accounts, sizes: (.., overhead), .. } = self;
        tree.drain(now, |waiting| {
            let octets = overhead.wire(waiting.item.len() as u32);
            leaves(&waiting.item, waiting.class, octets.into(), accounts, left);
            each(waiting.item);
        });
    }

    /// Bytes that a class of its own was given so far, and bytes that wait there.
    pub(super) fn wish(&self, class: u16) -> Option<(u64, u64)> {
        let place = usize::from(class).checked_sub(self.classes.start)?;
        let given = *self.given.get(place)?;
        let left = *self.left.get(place)?;
        Some((given, given.saturating_sub(left)))
    }

    /// Its part of a class, or of the port, is this from now on.
    pub(super) fn set_part(&mut self, now: Nanos, class: Option<u16>, part: Part, snapshot: &Snapshot) {
        let some = |bits: u64| Some(Rate { bits_per_second: bits }).filter(|_| bits != 0 && bits != u64::MAX);
        let (node, burst) = match class {
            None => (ROOT, 0),
            Some(index) => {
                let node =
                    usize::from(index).checked_sub(self.classes.start).and_then(|at| self.nodes.get(at));
                let Some((&node, class)) = node.zip(snapshot.classes.get(usize::from(index))) else { return };
                (node, class.rate.burst.into())
            }
        };
        self.tree.set_rate(now, node, &bursting(some(part.guaranteed), some(part.max), burst));
    }

    /// How a class of its own does.
    pub(super) fn row(&self, class: u16) -> Option<ClassRow> {
        let place = usize::from(class).checked_sub(self.classes.start)?;
        let node = *self.nodes.get(place)?;
        let [older, _] = self.samples.get(place)?;
        let stats = self.tree.stats(node)?;
        let waits = self.tree.sojourns(node).since(&older.waits);
        Some(ClassRow {
            class,
            stats,
            since: older.at,
            bytes: stats.bytes.saturating_sub(older.bytes),
            borrowed: stats.borrowed_bytes.saturating_sub(older.borrowed),
            wait_p50: waits.quantile(500),
            wait_p99: waits.quantile(990),
        })
    }

    /// Goes on with the samples that [`row`](Self::row) counts from: one class a call.
    pub(super) fn sample(&mut self, now: Nanos) {
        let Some(samples) = self.samples.get_mut(self.sampled) else {
            self.sampled = 0;
            return;
        };
        if now.saturating_sub(samples[1].at) >= SAMPLE {
            let node = self.nodes.get(self.sampled).copied().unwrap_or(ROOT);
            let stats = self.tree.stats(node).unwrap_or_default();
            samples.swap(0, 1);
            samples[1] = Sample {
                at: now,
                bytes: stats.bytes,
                borrowed: stats.borrowed_bytes,
                waits: self.tree.sojourns(node),
            };
        }
        self.sampled += 1;
    }

    /// Whether its tree is that of another configuration's shaper of the port, but for rates.
    pub(super) fn is_like(&self, old: &Self, class_of: &[u16]) -> bool {
        let mapped = old.classes.clone().map(|class| class_of.get(class).copied().map(usize::from));
        let alike =
            |(new, old): (&Placed, &Placed)| new.0 == old.0 && without_rates(&new.1) == without_rates(&old.1);
        self.sizes == old.sizes
            && self.keys == old.keys
            && self.shape.len() == old.shape.len()
            && self.shape.iter().zip(&old.shape).all(alike)
            && mapped.eq(self.classes.clone().map(Some))
    }

    /// Goes on with the queues of one that is like it, at its own rates.
    pub(super) fn take_over(&mut self, old: &mut Self, now: Nanos) {
        std::mem::swap(&mut self.tree, &mut old.tree);
        std::mem::swap(&mut self.taken, &mut old.taken);
        std::mem::swap(&mut self.given, &mut old.given);
        std::mem::swap(&mut self.left, &mut old.left);
        std::mem::swap(&mut self.accounts, &mut old.accounts);
        std::mem::swap(&mut self.samples, &mut old.samples);
        std::mem::swap(&mut self.batch, &mut old.batch);
        let max = Some(Rate { bits_per_second: self.rate });
        self.tree.set_rate(now, ROOT, &bursting(None, max, 0));
        for (&node, (_, config)) in self.nodes.iter().zip(&self.shape) {
            self.tree.set_rate(now, node, &config.rates);
        }
    }

    /// Gives all that waits to the shaper of another configuration, or to the outbox.
    pub(super) fn empty(&mut self, now: Nanos, class_of: &[u16], new: Option<&mut Self>, way: &mut Way<'_>) {
        let Self { tree, nodes, classes, keys, shape, left, accounts, sizes: (.., overhead), .. } = self;
        let Some(new) = new else {
            let mut leaving = Leaving { way, left, accounts, overhead: *overhead };
            return tree.drain(now, |waiting| leaving.send(waiting.item, waiting.class));
        };
        tree.drain(now, |Waiting { class, host, flow, item }| {
            let place = nodes.iter().position(|&node| node == class);
            let class =
                place.and_then(|place| class_of.get(classes.start + place)).map_or(NONE16, |&new| new);
            let by = place.and_then(|place| keys.get(place).copied()).flatten();
            let has_queues = place.is_some_and(|place| shape.get(place).is_some_and(has_queue_by_host));
            let counted = || accounts.as_ref().and_then(|accounts| accounts.host(&item));
            // Whose it is by another key cannot be told from a packet that is translated already.
            let host = if has_queues { Some(host) } else { counted() }.filter(|_| new.host_key(class) == by);
            new.put((item, class, host, flow), now, way);
        });
        new.settle(now, way);
    }
}

fn has_queue_by_host((_, class): &Placed) -> bool {
    matches!(class.kind, Kind::Hosts(_))
}

/// A class as the tree has it.
fn configured(class: &Class, holds: bool, share: u32) -> ClassConfig {
    let kind = match &class.per {
        _ if holds => Kind::Inner,
        Some((_, each)) => Kind::Hosts(Hosts { rates: rates(each), most: class.hosts }),
        None => Kind::Leaf,
    };
    let Class { codel, .. } = class;
    ClassConfig {
        rates: rates(&class.rate),
        priority: class.priority,
        weight: class.rate.weight,
        codel: Codel { target: codel.target, interval: codel.interval, ecn: codel.ecn },
        reserved: if holds { 0 } else { share },
        ..ClassConfig::new(kind)
    }
}

fn rates(rate: &ClassRate) -> Rates {
    bursting(rate.guaranteed, rate.max, rate.burst.into())
}

/// Rates, and what may be sent at once if nothing is said of that.
fn bursting(guaranteed: Option<Rate>, max: Option<Rate>, burst: u64) -> Rates {
    let bits = [guaranteed, max].iter().flatten().map(|rate| rate.bits_per_second).max().unwrap_or(0);
    let late = (u128::from(bits) * u128::from(LATE) / u128::from(8 * SECOND)) as u64;
    Rates { guaranteed, max, burst: if burst == 0 { late } else { burst } }
}

/// What of a class cannot be changed in place.
fn without_rates(class: &ClassConfig) -> (u8, u8, u16, Codel, u32, Option<(Rates, u32)>) {
    let (kind, hosts) = match class.kind {
        Kind::Inner => (0, None),
        Kind::Leaf => (1, None),
        Kind::Hosts(Hosts { rates, most }) => (2, Some((rates, most))),
    };
    (kind, class.priority, class.weight, class.codel, class.reserved, hosts)
}

/// Where packets go from a shaper.
pub(super) struct Way<'a> {
    pub(super) outbox: &'a mut Outbox,
    pub(super) pool: &'a mut FramePool,
    pub(super) counters: &'a mut Counters,
}

fn reason(cause: Cause) -> DropReason {
    match cause {
        Cause::Full | Cause::Fattest => DropReason::ShaperFull,
        Cause::Limit => DropReason::ShaperClassFull,
        Cause::Hosts => DropReason::ShaperHosts,
        Cause::Codel => DropReason::ShaperDelay,
        Cause::Shed => DropReason::ShaperFrames,
    }
}

impl Way<'_> {
    fn mark(frame: &mut Frame) -> bool {
        let l3 = key::link_len(frame.bytes());
        frame.bytes_mut().get_mut(l3..).is_some_and(ds_field::set_congested)
    }
}

/// The same, with account of what has left each class.
struct Leaving<'a, 'b> {
    way: &'a mut Way<'b>,
    left: &'a mut [u64],
    accounts: &'a mut Option<Box<Accounts>>,
    overhead: Overhead,
}

impl Leaving<'_, '_> {
    fn leaves(&mut self, frame: &Frame, node: NodeId, is_sent: bool) {
        let octets = if is_sent { self.overhead.wire(frame.len() as u32) } else { 0 };
        leaves(frame, node, octets.into(), self.accounts, self.left);
    }
}

/// Takes off a packet that waits no longer, and of which so many octets are sent.
fn leaves(frame: &Frame, node: NodeId, octets: u64, accounts: &mut Option<Box<Accounts>>, left: &mut [u64]) {
    if let Some(accounts) = accounts {
        accounts.end(frame, octets);
    }
    // Nodes are classes in their order, behind the port.
    let place = (node.0 as usize).wrapping_sub(1);
    if let Some(left) = left.get_mut(place) {
        *left += frame.len() as u64;
    }
}

impl Sink<Frame> for Leaving<'_, '_> {
    fn send(&mut self, frame: Frame, node: NodeId) {
        self.leaves(&frame, node, true);
        if let Err(frame) = self.way.outbox.push(frame) {
            discard(frame, DropReason::TransmitQueueFull, self.way.pool, self.way.counters);
        }
    }

    fn mark(&mut self, frame: &mut Frame) -> bool {
        Way::mark(frame)
    }

    fn drop(&mut self, frame: Frame, node: NodeId, cause: Cause) {
        self.leaves(&frame, node, false);
        discard(frame, reason(cause), self.way.pool, self.way.counters);
    }
}
