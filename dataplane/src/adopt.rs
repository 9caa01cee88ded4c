//! Another configuration for a worker that runs. Control makes all that it needs ([`Adopter::hand_over`]); between two
//! bursts the worker takes it in, without taking memory or giving any back; what the old one had goes back with it, for
//! control to free.
//!
//! Sessions go on: each is decided anew under the new configuration, at its next packet or by a sweep that gets through all
//! of them within a second, and ends only if that does not let it pass as it was ([`crate::stage::redecide`]). Until then
//! its old action holds. Only then may another configuration follow, so that there are never more than two.
//!
//! Ports, interfaces and the sizes of tables are what they were; so are their indices. Those of rules, limits and classes
//! may be others, and are translated for as long as there are old actions.

pub(crate) mod carry;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ringbuf::traits::{Consumer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

use crate::clock::{Nanos, SECOND, tsc};
use crate::counters::{self, Count, Counters, LimitCount, Publisher, Reader};
use crate::crossing::Offered;
use crate::session::{FlowAction, Limits, NO_LIMIT};
use crate::shard::Shard;
use crate::snapshot::{NONE16, Snapshot};
use crate::stage::police::{Kept, Limiters};
use crate::stage::redecide;
use crate::stage::shape::{self, Shapers};
use crate::stage::sources::{self, SourceRates};
use crate::{crossing, local, nat};

/// Sessions that packets may have decided between two polls.
const PER_POLL: u32 = 16;
/// How long the sweep takes, if the worker is polled often enough.
const SWEEP: Nanos = SECOND / 2;
/// Sessions that the sweep decides in a poll, at least and at most.
const SWEPT: (u64, u64) = (8, 64);
/// Places of sessions that it looks at for each that it may decide.
const EXAMINED: u64 = 16;
/// Places of neighbours that it looks at in a poll.
const NEIGHBORS: u32 = 32;
/// Rules whose hits are carried on in a poll.
const RULES: usize = 512;

/// Another configuration on its way to a worker, and what it replaced on its way back.
pub struct Adoption {
    snapshot: Arc<Snapshot>,
    rules: Vec<Count>,
    /// For each old rule the hits that its new one starts with: those that had been published.
    known: Vec<Count>,
    limits: Vec<LimitCount>,
    limiters: Limiters,
    shapers: Shapers,
    sources: SourceRates,
    /// Which guards' rates go on, by their places before and after.
    kept_guards: Vec<(usize, usize)>,
    nat: nat::Change,
    local: local::Change,
    published: (Publisher, Reader),
    /// For each old rule the new one, or [`NONE16`].
    rule_of: Vec<u16>,
    /// For each old limit the new one, or [`NO_LIMIT`].
    limit_of: Vec<u8>,
    /// Of each new limit, whether packets that it is asked about are [`FlowAction::METERED`].
    is_metered: Vec<bool>,
    /// For each old class the new one, or [`NONE16`].
    class_of: Vec<u16>,
    kept_limits: Vec<Kept>,
    /// For each old list the new one of its name; beyond all lists if there is none.
    list_of: Vec<usize>,
    progress: Progress,
}

/// How far a worker has come with the sessions that it had.
#[derive(Debug, Default)]
struct Progress {
    /// The neighbours' epochs before, and right after.
    epochs: [u32; 2],
    /// Sessions that packets may have decided until the next poll.
    budget: u32,
    /// The next rule whose hits are to be carried on.
    rules: Option<usize>,
    /// The next place of a session, and where those end that are from before.
    at: u32,
    end: u32,
    last: Nanos,
    neighbors: Option<u32>,
    copies: Option<u32>,
    settled: Settled,
}

/// What became of the sessions that there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// They go on.
    pub kept: u64,
    /// The new configuration does not allow them, or would have given them another mapping.
    pub ended: u64,
}

impl Adoption {
    fn new(adopter: &Adopter, snapshot: Arc<Snapshot>, [offered, wants]: [&Offered; 2]) -> Self {
        let Adopter { snapshot: old, layout, worker, workers, share, .. } = adopter;
        let mut counters = Counters::new(&snapshot);
        let (known, rule_of) = (adopter.reader.read().rules, carry::rules(&old.rules, &snapshot.rules));
        for (hits, &new) in known.iter().zip(&rule_of) {
            if let Some(carried) = counters.rules.get_mut(usize::from(new)) {
                *carried = *hits;
            }
        }
        let mut limiters = Limiters::new(&snapshot);
        let mut shapers = Shapers::new(&snapshot, *workers);
        if *workers > 1 {
            limiters.share(*worker, offered.clone());
            shapers.share(*worker, wants.clone(), &snapshot);
        }
        Self {
            limiters,
            shapers,
            sources: SourceRates::of(&snapshot, *workers),
            kept_guards: sources::kept(&old.guards, &snapshot.guards),
            nat: nat::Change::new(layout, layout.next(&snapshot), &snapshot, share),
            local: local::Change::new(old, &snapshot, *worker, *workers),
            published: counters::channel(&counters),
            rule_of,
            known,
            limit_of: carry::limits(&old.limits, &snapshot.limits),
            is_metered: snapshot.limits.iter().map(|limit| limit.policer.is_some()).collect(),
            class_of: carry::classes(old, &snapshot),
            kept_limits: carry::kept_limits(&old.limits, &snapshot.limits),
            list_of: carry::lists(&old.lists.names, &snapshot.lists.names),
            rules: counters.rules,
            limits: counters.limits,
            progress: Progress::default(),
            snapshot,
        }
    }

    /// An action from before, with the indices that its rule, its limits and its class have now.
    pub(crate) fn translate(&self, action: FlowAction) -> FlowAction {
        let rule = self.rule_of.get(usize::from(action.rule)).copied().unwrap_or(NONE16);
        let of =
            action.limits.map(|limit| self.limit_of.get(usize::from(limit)).copied().unwrap_or(NO_LIMIT));
        let metered = of.iter().any(|&limit| self.is_metered.get(usize::from(limit)) == Some(&true));
        let class = self.class_of.get(usize::from(action.class)).copied().unwrap_or(NONE16);
        FlowAction { rule, class, ..action }.limited(Limits { of, metered })
    }

    /// Whether the next hop of an action from before, last found true at `stamp`, still means the same neighbour.
    pub(crate) fn is_next_hop_true(&self, stamp: u32, epoch: u32) -> bool {
        self.progress.epochs == [stamp, epoch]
    }

    /// Takes one from the budget. False if it is spent.
    pub(crate) fn spend(&mut self) -> bool {
        let left = self.progress.budget.checked_sub(1);
        self.progress.budget = left.unwrap_or(0);
        left.is_some()
    }

    /// Notes that a session has been decided.
    pub(crate) fn count(&mut self, kept: bool) {
        let settled = &mut self.progress.settled;
        *if kept { &mut settled.kept } else { &mut settled.ended } += 1;
    }

    /// The worker's state becomes that of the new configuration, and what it had is in here.
    fn begin(
        &mut self,
        shard: &mut Shard,
        snapshot: &mut Arc<Snapshot>,
        published: &mut (Publisher, Reader),
        now: Nanos,
    ) {
        std::mem::swap(snapshot, &mut self.snapshot);
        std::mem::swap(published, &mut self.published);
        let counters = &mut shard.counters;
        let blocked = std::mem::take(&mut counters.blocked);
        for (hits, &new) in blocked.iter().zip(&self.list_of) {
            if let Some(carried) = counters.blocked.get_mut(new) {
                *carried = *hits;
            }
        }
        std::mem::swap(&mut counters.rules, &mut self.rules);
        std::mem::swap(&mut counters.limits, &mut self.limits);
        shard.limiters.adopt(&mut self.limiters, &self.kept_limits);
        shard.sources.adopt(&mut self.sources, &self.kept_guards);
        shape::adopt(&mut self.shapers, &self.class_of, now, shard);
        shard.nat.adopt(&mut self.nat);
        shard.local.adopt(&mut self.local);
        let before = shard.neighbors.epoch();
        shard.neighbors.renew();
        shard.sessions.policy = snapshot.generation;
        self.progress = Progress {
            epochs: [before, shard.neighbors.epoch()],
            end: shard.sessions.slots(),
            last: now,
            rules: Some(0),
            neighbors: Some(0),
            copies: Some(0),
            ..Progress::default()
        };
    }
}

/// Goes on with the hits of some rules from before, by what had not been published yet. Returns where to go on.
fn carry_rules(adoption: &Adoption, from: usize, counters: &mut Counters) -> Option<usize> {
    let Adoption { rules, known, rule_of, .. } = adoption;
    let end = from.saturating_add(RULES);
    for ((hits, known), &new) in rules.iter().zip(known).zip(rule_of).take(end).skip(from) {
        if let Some(carried) = counters.rules.get_mut(usize::from(new)) {
            carried.packets += hits.packets.saturating_sub(known.packets);
            carried.bytes += hits.bytes.saturating_sub(known.bytes);
        }
    }
    (end < rules.len()).then_some(end)
}

/// What another worker has decided by the configuration of generation `policy`, for one that goes by `present`: rules,
/// limits and classes that it cannot know are none.
pub(crate) fn localize(
    action: FlowAction,
    policy: u32,
    present: u32,
    transition: Option<&Adoption>,
) -> FlowAction {
    match transition {
        _ if policy == present => action,
        Some(transition) if transition.snapshot.generation == policy => transition.translate(action),
        _ => FlowAction { rule: NONE16, class: NONE16, ..action }.limited(Limits::NONE),
    }
}

/// A worker's end.
pub struct Adoptions {
    prepared: HeapCons<Box<Adoption>>,
    spent: HeapProd<Box<Adoption>>,
    adopted: Arc<AtomicU32>,
    took: Arc<AtomicU64>,
}

/// Control's end, which knows what the worker has.
pub struct Adopter {
    prepared: HeapProd<Box<Adoption>>,
    spent: HeapCons<Box<Adoption>>,
    adopted: Arc<AtomicU32>,
    took: Arc<AtomicU64>,
    snapshot: Arc<Snapshot>,
    /// Of the counters of what it runs.
    reader: Reader,
    layout: nat::Layout,
    worker: usize,
    workers: usize,
    share: nat::Share,
    under_way: bool,
}

/// Both ends, for a worker that runs this snapshot and publishes its counters to `reader`.
pub fn channel(snapshot: &Arc<Snapshot>, shard: &Shard, reader: Reader) -> (Adoptions, Adopter) {
    let (hand, prepared) = HeapRb::new(1).split();
    let (back, spent) = HeapRb::new(1).split();
    let (adopted, took) = (Arc::new(AtomicU32::new(snapshot.generation)), Arc::default());
    let adopter = Adopter {
        prepared: hand,
        spent,
        adopted: adopted.clone(),
        took: Arc::clone(&took),
        snapshot: snapshot.clone(),
        reader,
        layout: shard.nat.layout().clone(),
        worker: 0,
        workers: 1,
        share: nat::Share::default(),
        under_way: false,
    };
    (Adoptions { prepared, spent: back, adopted, took }, adopter)
}

/// Makes all that workers need for another configuration, and hands it over to each: `adopters` are those of all workers,
/// in their order. Their counters are to be read from the returned readers once all have adopted it. `None`, and nothing
/// done, while one of them is busy with the last one.
///
/// The snapshot has another generation, and ports, interfaces (but for their addresses, MTUs and ACLs), sizes, seed and log of
/// NAT of the one before. With several workers, an external address that stays is given out in the way that it was.
pub fn hand_over(adopters: &mut [Adopter], snapshot: &Arc<Snapshot>) -> Option<Vec<Reader>> {
    if adopters.iter().any(|adopter| adopter.under_way) {
        return None;
    }
    let workers = adopters.len();
    let offered = crossing::offered(workers, snapshot.limits.len());
    let wants = crossing::offered(workers, snapshot.classes.len());
    let one = |adopter: &mut Adopter| adopter.hand_over(snapshot.clone(), [&offered, &wants]);
    adopters.iter_mut().map(one).collect()
}

impl Adopter {
    /// For worker `worker` of so many.
    pub(crate) fn of(self, worker: usize, workers: usize, share: nat::Share) -> Self {
        Self { worker, workers, share, ..self }
    }

    fn hand_over(&mut self, snapshot: Arc<Snapshot>, shared: [&Offered; 2]) -> Option<Reader> {
        let adoption = Box::new(Adoption::new(self, snapshot.clone(), shared));
        let reader = adoption.published.1.clone();
        let layout = adoption.nat.layout().clone();
        // There is room, as the worker has sent back the last one.
        self.prepared.try_push(adoption).ok()?;
        (self.snapshot, self.layout, self.under_way) = (snapshot, layout, true);
        self.reader = reader.clone();
        Some(reader)
    }

    /// The generation of the configuration by which the worker goes.
    pub fn adopted(&self) -> u32 {
        self.adopted.load(Ordering::Acquire)
    }

    /// How long the worker's own code took for adopting it, in ticks of [`tsc`](crate::clock::tsc).
    pub fn took(&self) -> u64 {
        self.took.load(Ordering::Relaxed)
    }

    /// What became of the sessions, once all of them have been decided anew; then the worker is ready for another
    /// configuration. Frees what the old one had.
    pub fn settled(&mut self) -> Option<Settled> {
        let spent = self.spent.try_pop()?;
        self.under_way = false;
        Some(spent.progress.settled)
    }
}

impl Adoptions {
    /// Takes in what control has handed over, if the worker is ready for it. Returns when it began, in ticks, if it did.
    pub fn take_in(
        &mut self,
        shard: &mut Shard,
        snapshot: &mut Arc<Snapshot>,
        published: &mut (Publisher, Reader),
        now: Nanos,
    ) -> Option<u64> {
        if shard.transition.is_some() {
            return None;
        }
        let mut adoption = self.prepared.try_pop()?;
        let begun = tsc::now();
        adoption.begin(shard, snapshot, published, now);
        shard.transition = Some(adoption);
        Some(begun)
    }

    /// What the worker goes by has been adopted, and its counters published; it began at this tick.
    pub fn has_adopted(&self, snapshot: &Snapshot, begun: u64) {
        self.took.store(tsc::now().saturating_sub(begun), Ordering::Relaxed);
        self.adopted.store(snapshot.generation, Ordering::Release);
    }

    /// Goes on with the sessions from before, by a few. Returns whether there is more to do.
    pub fn go_on(&mut self, shard: &mut Shard, snapshot: &Snapshot, now: Nanos) -> bool {
        let Some(transition) = &mut shard.transition else { return false };
        if let Some(from) = transition.progress.rules {
            transition.progress.rules = carry_rules(transition, from, &mut shard.counters);
        }
        let Progress { at, end, last, budget, neighbors, .. } = &mut transition.progress;
        *budget = PER_POLL;
        if let Some(from) = *neighbors {
            *neighbors = shard.neighbors.adopt(snapshot, from, NEIGHBORS);
        }
        let share = u64::from(*end) * now.saturating_sub(*last).min(SWEEP) / SWEEP;
        *last = now;
        let (mut left, mut at, end) = (share.clamp(SWEPT.0, SWEPT.1), *at, *end);
        let left_for_copies = left as u32;
        let examined = at.saturating_add((left * EXAMINED) as u32).min(end);
        while at < examined && left > 0 {
            if shard.sessions.is_outdated(at) {
                redecide::session_anew(at, shard, snapshot);
                left -= 1;
            }
            at += 1;
        }
        let Some(mut transition) = shard.transition.take() else { return false };
        transition.progress.at = at;
        if let Some(from) = transition.progress.copies {
            transition.progress.copies = crossing::drop_outdated(shard, from, left_for_copies);
        }
        let Progress { rules, neighbors, copies, .. } = transition.progress;
        if at < end || rules.is_some() || neighbors.is_some() || copies.is_some() {
            shard.transition = Some(transition);
            return true;
        }
        // There is room, as control takes each one back before it hands over the next.
        shard.transition = self.spent.try_push(transition).err();
        shard.transition.is_some()
    }
}
