//! Tracing: what each stage did to packets that somebody has chosen, and how many ticks the stages took.
//!
//! A worker that traces nothing pays one test a burst. A burst with a chosen packet takes the pipeline in a second copy of it,
//! made for the [`Tracer`] as its probe: the stages are the same, and so is what becomes of every packet. What was noted goes over
//! a ring with one writer and one reader; when it is full, packets go untraced, and are counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use sluice_pkt::parse::{L3, parse_head};

use crate::burst::{BURST, Burst, Mask};
use crate::clock::{Nanos, tsc};
use crate::local::neighbor::Egress;
use crate::matcher::{Program, Seen};
use crate::pipeline;
use crate::probe::Probe;
use crate::session::{FlowAction, NONE};
use crate::shard::Shard;
use crate::snapshot::{NONE16, Snapshot, Tags};
use crate::stage::{Decision, FirstPackets, flow};
use crate::steps::Step;
use crate::verdict::Verdict;

/// Traces at a time, at most.
pub const TRACES: usize = 8;
/// Bytes that are kept of a packet.
pub const HEAD: usize = 128;
/// Packets that may wait to be read.
const ROOM: usize = 256;
/// Stages whose ticks are noted for a packet.
const STAGES: usize = 32;
/// Stages of which it is noted what they did to a packet.
const STATES: usize = 20;
/// Forms of a packet that are kept: as it came, and after each stage that changed it.
const FORMS: usize = 5;

/// By which way a packet came into the pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// It was received.
    #[default]
    Received,
    /// It had waited: for a neighbour, or for the first fragment of its datagram.
    Released,
    /// It came in again, being for an external address of ours (hairpinning).
    Again,
    /// Another worker, where it was received, asks its owner.
    Asked,
    /// It came home from its owner with an answer.
    Home,
}

/// The first bytes of a packet.
#[derive(Clone, Copy)]
struct Form {
    len: u8,
    bytes: [u8; HEAD],
}

/// What is known of a packet behind a stage.
#[derive(Clone, Copy)]
struct State {
    /// The stage, an index into `costs`.
    cost: u8,
    form: u8,
    live: bool,
    known: bool,
    interface: u16,
    verdict: Verdict,
    action: FlowAction,
    decision: Option<Decision>,
    egress: Option<Egress>,
}

/// A packet with what the stages did to it.
#[derive(Clone)]
pub struct Traced {
    /// By which traces it was chosen, a bit each, in the order of [`channel`].
    pub traces: u8,
    /// When, in the worker's time.
    pub at: Nanos,
    /// The configuration that the worker went by.
    pub generation: u32,
    /// The port that it came in by.
    pub port: u16,
    /// By which way it came.
    pub origin: Origin,
    /// Its length, bytes.
    pub len: u32,
    /// Packets of its burst, which share the ticks of stages that work on all of it.
    pub burst: u8,
    costs: [(&'static str, u32); STAGES],
    costs_len: u8,
    states: [State; STATES],
    states_len: u8,
    forms: [Form; FORMS],
    forms_len: u8,
}

impl fmt::Debug for Traced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traced").field("at", &self.at).field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// A stage that a packet passed.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name, as in the pipeline.
    pub name: &'static str,
    /// Ticks of the time-stamp counter that it took.
    pub ticks: u32,
    /// Whether they are this packet's alone; if not, its burst's.
    pub alone: bool,
    /// How it left the packet, if that is noted.
    pub step: Option<Step>,
}

impl Traced {
    const NONE: Self = Self {
        traces: 0,
        at: 0,
        generation: 0,
        port: NONE16,
        origin: Origin::Received,
        len: 0,
        burst: 0,
        costs: [("", 0); STAGES],
        costs_len: 0,
        states: [State {
            cost: 0,
            form: 0,
            live: false,
            known: false,
            interface: NONE16,
            verdict: Verdict::Forward,
            action: crate::session::plain_action(NONE16),
            decision: None,
            egress: None,
        }; STATES],
        states_len: 0,
        forms: [Form { len: 0, bytes: [0; HEAD] }; FORMS],
        forms_len: 0,
    };

    /// Its first bytes as it came in.
    pub fn came(&self) -> &[u8] {
        self.form(0)
    }

    /// Its first bytes when the stages were through with it.
    pub fn left(&self) -> &[u8] {
        self.form(self.forms_len.saturating_sub(1))
    }

    fn form(&self, index: u8) -> &[u8] {
        let form = self.forms.get(usize::from(index)).filter(|_| index < self.forms_len);
        form.and_then(|form| form.bytes.get(..form.len.into())).unwrap_or_default()
    }

    /// The stages that it passed, in order.
    pub fn stages(&self) -> Vec<Stage> {
        let states = self.states.get(..self.states_len.into()).unwrap_or_default();
        let costs = self.costs.iter().take(self.costs_len.into()).enumerate();
        let stage = |(at, &(name, ticks)): (usize, &(&'static str, u32))| {
            let state = states.iter().find(|state| usize::from(state.cost) == at);
            let step = state.map(|state| Step {
                stage: name,
                live: state.live,
                verdict: state.verdict,
                interface: state.interface,
                action: state.action,
                decision: state.decision,
                egress: state.egress,
                known: state.known,
                bytes: self.form(state.form).to_vec(),
            });
            Stage { name, ticks, alone: state.is_some_and(|state| state.decision.is_some()), step }
        };
        costs.map(stage).collect()
    }

    fn cost(&mut self, name: &'static str, ticks: u32) {
        if let Some(place) = self.costs.get_mut(usize::from(self.costs_len)) {
            *place = (name, ticks);
            self.costs_len += 1;
        }
    }

    /// Whether the stages were still at work on it when it was looked at last.
    fn is_live(&self) -> bool {
        let last = usize::from(self.states_len).checked_sub(1);
        last.is_none_or(|last| self.states[last].live)
    }

    /// Keeps the packet's bytes, if they are others now.
    fn keep_form(&mut self, bytes: &[u8]) {
        let head = bytes.get(..HEAD).unwrap_or(bytes);
        if head.is_empty() || (self.forms_len > 0 && self.left() == head) {
            return;
        }
        if let Some(place) = self.forms.get_mut(usize::from(self.forms_len)) {
            place.len = head.len() as u8;
            place.bytes.iter_mut().zip(head).for_each(|(to, &from)| *to = from);
            self.forms_len += 1;
        }
    }

    fn note(&mut self, burst: &Burst, i: usize, decision: Option<Decision>, is_looked_up: bool) {
        self.keep_form(burst.bytes(i));
        let state = State {
            cost: self.costs_len.saturating_sub(1),
            form: self.forms_len.saturating_sub(1),
            live: burst.live.has(i),
            known: is_looked_up && burst.flows[i] != NONE,
            interface: burst.interfaces[i],
            verdict: burst.verdicts[i],
            action: burst.actions[i],
            decision,
            egress: burst.ready.has(i).then_some(burst.egress[i]),
        };
        if let Some(place) = self.states.get_mut(usize::from(self.states_len)) {
            *place = state;
            self.states_len += 1;
        }
    }
}

/// Packets that are wanted, and how many.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which.
    pub program: Program,
    /// How many at most.
    pub left: u32,
}

/// The worker's end.
pub struct Tracer {
    wanted: Vec<Wanted>,
    /// Never locked, as whoever has the tracer has it alone; but a ring for tracers wants them to be `Sync`.
    ring: Mutex<HeapProd<Traced>>,
    lost: Arc<AtomicU64>,
    /// The chosen packets of the burst that is under way, in the places that they have in it.
    under_way: Vec<Traced>,
    chosen: Mask,
    /// Whether the stages have looked flows up.
    looked_up: bool,
    /// When the stage before was through with a first packet.
    mark: u64,
}

/// The reader's end.
pub struct TraceReader {
    ring: HeapCons<Traced>,
    lost: Arc<AtomicU64>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// Makes the two ends, for up to [`TRACES`] traces.
pub fn channel(wanted: Vec<Wanted>) -> (Box<Tracer>, TraceReader) {
    with_room(wanted, ROOM)
}

fn with_room(mut wanted: Vec<Wanted>, room: usize) -> (Box<Tracer>, TraceReader) {
    let (ring, reader) = HeapRb::new(room).split();
    let lost = Arc::new(AtomicU64::new(0));
    wanted.truncate(TRACES);
    let tracer = Tracer {
        wanted,
        ring: Mutex::new(ring),
        lost: lost.clone(),
        under_way: vec![Traced::NONE; BURST],
        chosen: Mask::NONE,
        looked_up: false,
        mark: 0,
    };
    (Box::new(tracer), TraceReader { ring: reader, lost })
}

impl TraceReader {
    /// The next packet, oldest first.
    pub fn take(&mut self) -> Option<Traced> {
        self.ring.try_pop()
    }

    /// Chosen packets so far that found no room.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

/// As [`pipeline::run`], for packets that came like this; those that are wanted are traced.
#[inline]
pub fn run(
    burst: &mut Burst,
    shard: &mut Shard,
    snapshot: &Snapshot,
    origin: Origin,
    probe: &mut impl Probe,
) {
    if shard.tracer.is_some() {
        return traced(burst, shard, snapshot, origin);
    }
    pipeline::run(burst, shard, snapshot, probe);
}

/// As [`pipeline::resume`], likewise.
#[inline]
pub fn resume(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, probe: &mut impl Probe) {
    if shard.tracer.is_some() {
        return traced(burst, shard, snapshot, Origin::Home);
    }
    pipeline::resume(burst, shard, snapshot, probe);
}

/// As [`pipeline::decide`], likewise.
#[inline]
pub fn decide(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot) {
    if shard.tracer.is_some() {
        return traced(burst, shard, snapshot, Origin::Asked);
    }
    pipeline::decide(burst, shard, snapshot, &mut ());
}

#[cold]
#[inline(never)]
fn traced(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot, origin: Origin) {
    let Some(mut tracer) = shard.tracer.take() else { return };
    tracer.begin(burst, snapshot.generation, origin);
    let way = |burst: &mut Burst, shard: &mut Shard, probe: &mut Tracer| match origin {
        Origin::Home => pipeline::resume(burst, shard, snapshot, probe),
        Origin::Asked => pipeline::decide(burst, shard, snapshot, probe),
        _ => pipeline::run(burst, shard, snapshot, probe),
    };
    way(burst, shard, &mut tracer);
    tracer.end(burst, shard, snapshot);
    shard.tracer = Some(tracer);
}

impl Tracer {
    /// Chooses packets of a burst.
    fn begin(&mut self, burst: &Burst, generation: u32, origin: Origin) {
        (self.chosen, self.looked_up) = (Mask::NONE, matches!(origin, Origin::Home | Origin::Asked));
        let ring = self.ring.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut room = ring.vacant_len();
        for (i, traced) in self.under_way.iter_mut().enumerate().take(burst.len()) {
            let (bytes, len) = (burst.bytes(i), burst.packet_len(i));
            let headers = parse_head(bytes, len).unwrap_or_default();
            let seen = Seen { headers: &headers, bytes, came_by: burst.port, leaves_by: NONE16 };
            let wanted = self.wanted.iter().enumerate();
            let by = wanted.filter(|(_, wanted)| wanted.left > 0 && wanted.program.wants(&seen));
            let traces = by.fold(0, |traces, (trace, _)| traces | 1u8 << trace);
            if traces == 0 {
                continue;
            }
            if room == 0 {
                // It has one writer.
                self.lost.store(self.lost.load(Relaxed) + 1, Relaxed);
                continue;
            }
            room -= 1;
            for (trace, wanted) in self.wanted.iter_mut().enumerate() {
                wanted.left -= u32::from(traces >> trace & 1);
            }
            (traced.traces, traced.at, traced.generation) = (traces, burst.now, generation);
            (traced.port, traced.origin, traced.len) = (burst.port, origin, len as u32);
            (traced.burst, traced.costs_len) = (burst.len() as u8, 0);
            (traced.states_len, traced.forms_len) = (0, 0);
            traced.keep_form(bytes);
            self.chosen.add(i);
        }
        self.mark = tsc::now();
    }

    /// The stages are through: hands out what was noted.
    fn end(&mut self, burst: &Burst, shard: &Shard, snapshot: &Snapshot) {
        let ring = self.ring.get_mut().unwrap_or_else(PoisonError::into_inner);
        for i in self.chosen {
            let Some(traced) = self.under_way.get_mut(i) else { continue };
            if traced.states_len == 0 {
                traced.note(burst, i, None, self.looked_up);
            }
            // The fast path notes no action.
            let state = traced.states.first_mut().filter(|state| !state.known && !state.live);
            if let Some(state) = state.filter(|state| traced.costs[usize::from(state.cost)].0 == "forward") {
                let form = traced.forms.first().and_then(|form| form.bytes.get(..form.len.into()));
                if let Some(action) =
                    form.and_then(|bytes| action_of(bytes, traced.len, burst.port, shard, snapshot))
                {
                    (state.action, state.known) = (action, true);
                }
            }
            let pushed = ring.try_push(traced.clone());
            debug_assert!(pushed.is_ok(), "no more are chosen than there is room for");
        }
    }

    fn each(&mut self, mut note: impl FnMut(&mut Traced, usize)) {
        for i in self.chosen {
            if let Some(traced) = self.under_way.get_mut(i) {
                note(traced, i);
            }
        }
    }
}

/// What is done to packets of a flow that came in like this.
fn action_of(bytes: &[u8], len: u32, port: u16, shard: &Shard, snapshot: &Snapshot) -> Option<FlowAction> {
    let headers = parse_head(bytes, len as usize).ok().filter(|h| matches!(h.l3, L3::Ipv4 | L3::Ipv6))?;
    let interface = snapshot.interface_of(port, Tags::default())?;
    let key = flow::key(bytes, &headers, interface);
    shard.sessions.flow(key.family(), shard.sessions.find(&key)?).map(|flow| flow.action)
}

impl Probe for Tracer {
    fn stage<R>(&mut self, name: &'static str, stage: impl FnOnce() -> R) -> R {
        let begun = tsc::now();
        let result = stage();
        let ended = tsc::now();
        self.looked_up |= name == "flow";
        self.mark = ended;
        self.each(|traced, _| {
            let is_end = matches!(name, "mark" | "transmit");
            if traced.is_live() || is_end {
                traced.cost(name, ended.saturating_sub(begun) as u32);
            }
        });
        result
    }

    fn around<R>(&mut self, _: &'static str, stage: impl FnOnce(&mut Self) -> R) -> R {
        self.mark = tsc::now();
        stage(self)
    }

    fn did(&mut self, stage: &'static str, burst: &Burst) {
        let looked_up = self.looked_up;
        self.each(|traced, i| {
            // What the fast path leaves to the stages it has not touched.
            let is_left = stage == "forward" && burst.live.has(i);
            if traced.is_live() && !is_left || stage == "mark" && burst.ready.has(i) {
                traced.note(burst, i, None, looked_up);
            }
        });
    }

    fn decided(&mut self, stage: &'static str, burst: &Burst, first: &FirstPackets) {
        let now = tsc::now();
        // Each has its part of what they took together.
        let ticks = now.saturating_sub(self.mark) as u32 / first.group().count().max(1) as u32;
        for i in first.group().or(first.found()).and(self.chosen) {
            let Some(traced) = self.under_way.get_mut(i).filter(|traced| traced.is_live()) else { continue };
            let last = usize::from(traced.costs_len).checked_sub(1).map_or("", |last| traced.costs[last].0);
            // The stage of ICMP errors sees to those about a live session to their end.
            if first.is_turn(i) || (stage == "icmp_error" && last == "guard") {
                traced.cost(stage, ticks);
                traced.note(burst, i, first.decision(i).copied(), true);
            } else if stage == "guard" {
                // One ahead of it in the burst has made its session.
                traced.cost("flow", ticks);
                traced.note(burst, i, None, true);
            }
        }
        self.mark = tsc::now();
    }
}
