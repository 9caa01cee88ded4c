//! Shape: packets that leave by a port with a shaper wait there for their turn, as they are when they leave; between two
//! bursts each shaper gives what may go to its port's outbox.
//!
//! A packet's class is that of its action, its flow that of its session, its host an inside address. What the gateway sends
//! itself does not come by here: it is little, and what it is for does not wait.
//!
//! Each worker has a shaper of its own for each such port; with several, each shapes its part of the rate ([`parts`]).
//! Packets stay with the worker that received them, whose frames they are, so nothing has to come home across threads.
//!
//! Exits: drops of what finds no room, or waits too long.

mod accounts;
mod allocate;
mod key;
mod octets;
mod parts;
mod port;

use self::octets::SpentTable;
pub use self::octets::{OctetRow, Spent};
use self::parts::Parts;
pub use self::port::ClassRow;
use self::port::{PortShaper, Way};
use crate::arena::{Frame, FramePool};
use crate::burst::{BURST, Burst};
use crate::clock::Nanos;
use crate::counters::Counters;
use crate::crossing::Offered;
use crate::port::Outbox;
use crate::shard::Shard;
use crate::snapshot::{Class, NONE16, Over, Snapshot};
use crate::verdict::DropReason;

/// Places of an outbox that a shaper leaves to what the gateway sends itself.
const LEFT: usize = BURST;

/// The shapers of one worker.
#[derive(Debug, Default)]
pub struct Shapers {
    /// By port; empty if there are none at all.
    ports: Vec<Option<Box<PortShaper>>>,
    /// Its part of each rate, where there are several workers.
    parts: Option<Box<Parts>>,
    /// Whose quota is used up.
    spent: SpentTable,
    /// Free packet buffers below which queues give some up.
    low: usize,
}

impl Shapers {
    /// Those that the snapshot asks for, for one of so many workers.
    pub fn new(snapshot: &Snapshot, workers: usize) -> Self {
        let has_any = snapshot.shapers.iter().any(|shaper| shaper.rate.is_some());
        let ports = if has_any { 0..snapshot.ports.len() as u16 } else { 0..0 };
        let has_each = |class: &&Class| class.quota.each.is_some();
        let hosts = snapshot.classes.iter().filter(has_each).map(|class| class.hosts).sum();
        let shaper = |port| Some(Box::new(PortShaper::new(snapshot, snapshot.shaper_of(port)?, workers)?));
        Self {
            ports: ports.map(shaper).collect(),
            parts: None,
            spent: SpentTable::new(if has_any { snapshot.classes.len() } else { 0 }, hosts, snapshot.seed),
            low: (snapshot.sizes.frames as usize / workers.max(1) / 32).min(4 * BURST),
        }
    }

    /// Makes them the part of worker `me`: what each wants goes to `wants`.
    pub(crate) fn share(&mut self, me: usize, wants: Offered, snapshot: &Snapshot) {
        let workers = wants.len();
        *self = Self::new(snapshot, workers);
        if !self.ports.is_empty() {
            self.parts = Some(Box::new(Parts::new(me, wants, snapshot)));
        }
    }

    /// Whether packets wait before they leave by this port.
    #[inline(always)]
    pub fn has(&self, port: u16) -> bool {
        self.ports.get(usize::from(port)).is_some_and(Option::is_some)
    }

    /// Packets that wait.
    pub fn held(&self) -> u64 {
        self.all().map(|shaper| u64::from(shaper.len())).sum()
    }

    /// When one may be sent.
    pub fn next_due(&self, outboxes: &[Outbox]) -> Nanos {
        let shapers = self.ports.iter().zip(outboxes);
        let due = |(shaper, outbox): (&Option<Box<PortShaper>>, &Outbox)| {
            // A port that takes nothing is asked again by and by.
            shaper.as_ref().filter(|_| outbox.room() > LEFT).map(|shaper| shaper.next_due())
        };
        shapers.filter_map(due).min().unwrap_or(Nanos::MAX)
    }

    fn all(&self) -> impl Iterator<Item = &PortShaper> {
        self.ports.iter().flatten().map(|shaper| &**shaper)
    }

    /// How each class does that packets wait in, or in whose classes they do.
    pub fn rows(&self) -> impl Iterator<Item = ClassRow> {
        self.all().flat_map(|shaper| shaper.classes().filter_map(|class| shaper.row(class as u16)))
    }
}

/// As what a packet waits: its class, host and flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    class: u16,
    host: u128,
    flow: u32,
    /// Its quota is used up, and it is to be dropped.
    drops: bool,
}

/// As what packet `i` waits at the port that it leaves by.
#[inline(always)]
pub(super) fn turn(burst: &Burst, i: usize, shard: &Shard) -> Turn {
    let Shard { shapers: Shapers { ports, spent, .. }, sessions, .. } = shard;
    let shaper = ports.get(usize::from(burst.egress[i].port)).and_then(Option::as_ref);
    let key_of = |class| shaper.and_then(|shaper| shaper.host_key(class));
    let host_of = |class| key_of(class).map_or(0, |by| key::host(burst, i, by, sessions));
    let mut class = burst.actions[i].class;
    let mut over = spent.of_class(class);
    let mut host = host_of(class);
    if over == Over::Pass && spent.has_hosts() {
        over = spent.of_host(class, host);
    }
    if let Over::Class(other) = over {
        class = other;
        host = host_of(class);
    }
    Turn { class, host, flow: key::flow(burst, i), drops: over == Over::Drop }
}

/// Packet `i`, which is ready to leave by a port with a shaper, is to wait for its turn there.
pub(super) fn hold(burst: &mut Burst, i: usize, shard: &mut Shard) {
    let (port, now, turn) = (burst.egress[i].port, burst.now, turn(burst, i, shard));
    if let Some(frame) = burst.take(i) {
        let Shard { shapers, outboxes, pool, counters, .. } = shard;
        put(port, frame, turn, now, (shapers, outboxes, pool, counters));
    }
}

/// A piece of a packet that was cut, likewise.
pub(super) fn hold_piece(piece: Frame, port: u16, turn: Turn, now: Nanos, to: Place<'_>) {
    put(port, piece, turn, now, to);
}

/// What of a shard a packet that waits has to do with.
type Place<'a> = (&'a mut Shapers, &'a mut [Outbox], &'a mut FramePool, &'a mut Counters);

#[inline(always)]
fn put(port: u16, frame: Frame, turn: Turn, now: Nanos, to: Place<'_>) {
    let (shapers, outboxes, pool, counters) = to;
    let Turn { class, host, flow, drops } = turn;
    if drops {
        return discard(frame, DropReason::QuotaUsedUp, pool, counters);
    }
    let at = usize::from(port);
    if let (Some(Some(shaper)), Some(outbox)) = (shapers.ports.get_mut(at), outboxes.get_mut(at)) {
        shaper.put((frame, class, Some(host), flow), now, &mut Way { outbox, pool, counters });
    }
}

/// The packets of a burst are all there.
pub(super) fn settle(now: Nanos, shard: &mut Shard) {
    let Shard { shapers, outboxes, pool, counters, .. } = shard;
    for (shaper, outbox) in shapers.ports.iter_mut().zip(outboxes) {
        if let Some(shaper) = shaper {
            shaper.settle(now, &mut Way { outbox, pool, counters });
        }
    }
}

/// Gives what may leave now to the outboxes. Returns how many packets.
#[inline]
pub(crate) fn send(now: Nanos, shard: &mut Shard) -> usize {
    if shard.shapers.ports.is_empty() { 0 } else { send_all(now, shard) }
}

fn send_all(now: Nanos, shard: &mut Shard) -> usize {
    let Shard { shapers, outboxes, pool, counters, .. } = shard;
    let mut sent = 0;
    for (shaper, outbox) in shapers.ports.iter_mut().zip(outboxes) {
        if let Some(shaper) = shaper {
            let room = outbox.room().saturating_sub(LEFT);
            sent += shaper.send(now, room, &mut Way { outbox, pool, counters });
        }
    }
    sent
}

/// What is due with time: the parts of several workers; packets given up while buffers are low.
#[inline]
pub(crate) fn keep(now: Nanos, shard: &mut Shard, snapshot: &Snapshot) {
    if !shard.shapers.ports.is_empty() {
        keep_all(now, shard, snapshot);
    }
}

fn keep_all(now: Nanos, shard: &mut Shard, snapshot: &Snapshot) {
    let Shard { shapers, outboxes, pool, counters, .. } = shard;
    if let Some(parts) = shapers.parts.as_mut().filter(|parts| parts.is_due(now)) {
        let ports = &mut shapers.ports;
        parts.publish(now, |class| ports.iter().flatten().find_map(|s| s.wish(class)).unwrap_or_default());
        for shaper in ports.iter_mut().flatten() {
            let (rate, classes) = (shaper.rate(), shaper.classes());
            parts.reckon(rate, classes, |class, part| shaper.set_part(now, class, part, snapshot));
        }
    }
    shapers.ports.iter_mut().flatten().for_each(|shaper| shaper.sample(now));
    for (shaper, outbox) in shapers.ports.iter_mut().zip(outboxes) {
        let Some(shaper) = shaper else { continue };
        // A packet may have several buffers, so what is missing is asked for anew.
        while pool.free() < shapers.low && shaper.shed(now, &mut Way { outbox, pool, counters }) {}
    }
}

/// Another configuration. What waits goes on waiting: in the same queues, if the classes are what they were, or in those of
/// the same name. What left by a port that is not shaped any more leaves at once. `fresh` holds what was there before.
pub(crate) fn adopt(fresh: &mut Shapers, class_of: &[u16], now: Nanos, shard: &mut Shard) {
    let Shard { shapers, outboxes, pool, counters, .. } = shard;
    for (at, outbox) in outboxes.iter_mut().enumerate() {
        let Some(old) = shapers.ports.get_mut(at).and_then(Option::as_mut) else { continue };
        let way = &mut Way { outbox, pool, counters };
        match fresh.ports.get_mut(at).and_then(Option::as_mut) {
            Some(new) if new.is_like(old, class_of) => new.take_over(old, now),
            Some(new) => {
                new.owe(old, class_of);
                old.empty(now, class_of, Some(new), way);
            }
            None => old.empty(now, class_of, None, way),
        }
    }
    let known = |over| match over {
        Over::Class(class) => match class_of.get(usize::from(class)) {
            Some(&class) if class != NONE16 => Over::Class(class),
            _ => Over::Pass,
        },
        other => other,
    };
    fresh.spent.carry(&shapers.spent, class_of, known);
    if let (Some(new), Some(old)) = (&mut fresh.parts, &shapers.parts) {
        new.carry(old, class_of);
    }
    std::mem::swap(shapers, fresh);
}

/// For the end: what waits is dropped.
pub(crate) fn close(now: Nanos, shard: &mut Shard) {
    let Shard { shapers, pool, counters, .. } = shard;
    for shaper in shapers.ports.iter_mut().flatten() {
        shaper.close(now, pool, counters);
    }
}

/// Takes out all that waits at a port, whatever its rate, for another process to send.
pub(crate) fn take_all(port: u16, now: Nanos, shard: &mut Shard, each: impl FnMut(Frame)) {
    if let Some(Some(shaper)) = shard.shapers.ports.get_mut(usize::from(port)) {
        shaper.take_all(now, each);
    }
}

/// Drops a packet and counts it.
#[cold]
fn discard(frame: Frame, reason: DropReason, pool: &mut FramePool, counters: &mut Counters) {
    counters.lost(reason, &frame, NONE16, NONE16);
    pool.give(frame);
}

/// A class that is none.
const fn is_none(class: u16) -> bool {
    class == NONE16
}
