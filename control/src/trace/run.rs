//! The gateway's end: tracers for the workers, and what is read from them.
//!
//! All traces of a gateway are one tracer in each worker. When one is added or ends, each worker gets another tracer; what the old
//! one had noted is read all the same. Another configuration ends no trace: which packets are wanted hangs on no rule, and
//! interfaces stay what they are. Packets are told of by the configuration that decided them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::value::{RawValue, to_raw_value};
use sluice_dataplane::matcher::Program;
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::trace::{self, TRACES, TraceReader, Traced, Wanted};

use super::{LONGEST, MOST_PACKETS, Spec, Trace, tell};
use crate::capture::filter;
use crate::capture::run::Asked;
use crate::state::State;

/// Configurations whose words are at hand: the present one, and the one before.
const GENERATIONS: usize = 2;

struct Tracing {
    id: u64,
    spec: Spec,
    program: Program,
    ends: Instant,
    running: bool,
    lost: u64,
    packets: Vec<Box<RawValue>>,
}

/// The traces of a gateway.
#[derive(Default)]
pub struct Traces {
    last: u64,
    traces: Vec<Tracing>,
    /// By worker, with how many packets of it were lost that are accounted for.
    readers: Vec<(TraceReader, u64)>,
    /// The traces of the tracers that the workers have, in their order.
    ids: Vec<u64>,
    /// Packets of a configuration that is not yet in force everywhere.
    waiting: VecDeque<(usize, Traced)>,
    snapshots: VecDeque<Arc<Snapshot>>,
}

impl Traces {
    /// A configuration is in force.
    fn see(&mut self, snapshot: &Arc<Snapshot>) {
        if self.snapshots.back().is_none_or(|last| last.generation != snapshot.generation) {
            self.snapshots.push_back(snapshot.clone());
        }
        while self.snapshots.len() > GENERATIONS {
            self.snapshots.pop_front();
        }
    }

    /// Takes in what the workers have noted. `now` is the workers' time.
    fn collect(&mut self, now: u64) {
        for (worker, (reader, lost)) in self.readers.iter_mut().enumerate() {
            while let Some(traced) = reader.take() {
                self.waiting.push_back((worker, traced));
            }
            let more = reader.lost() - std::mem::replace(lost, reader.lost());
            let ids = &self.ids;
            let running = self.traces.iter_mut().filter(|trace| ids.contains(&trace.id));
            running.for_each(|trace| trace.lost += more);
        }
        let newest = self.snapshots.back().map_or(0, |snapshot| snapshot.generation);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        for (worker, traced) in std::mem::take(&mut self.waiting) {
            let of = |snapshot: &&Arc<Snapshot>| snapshot.generation == traced.generation;
            let Some(snapshot) = self.snapshots.iter().find(of) else {
                // Of one that is long gone nothing can be told any more.
                let is_ahead = traced.generation.wrapping_sub(newest) < u32::MAX / 2;
                if is_ahead {
                    self.waiting.push_back((worker, traced));
                }
                continue;
            };
            let ago = Duration::from_nanos(now.saturating_sub(traced.at)).as_secs_f64();
            let Ok(told) = to_raw_value(&tell::tell(&traced, worker, wall - ago, snapshot)) else { continue };
            for (bit, id) in self.ids.iter().enumerate() {
                let wanted = self.traces.iter_mut().find(|trace| trace.id == *id);
                let wanted = wanted.filter(|trace| trace.packets.len() < trace.spec.count as usize);
                if let Some(trace) = wanted.filter(|_| traced.traces >> bit & 1 == 1) {
                    trace.packets.push(told.clone());
                }
            }
        }
    }

    /// Ends traces that have enough. Whether there was one.
    fn end(&mut self, now: Instant) -> bool {
        let is_over = |trace: &Tracing| trace.packets.len() >= trace.spec.count as usize || now >= trace.ends;
        let over = self.traces.iter_mut().filter(|trace| trace.running && is_over(trace));
        over.map(|trace| trace.running = false).count() > 0
    }

    fn is_running(&self) -> bool {
        self.traces.iter().any(|trace| trace.running)
    }

    fn list(&self) -> Vec<Trace> {
        let listed = |trace: &Tracing| Trace {
            id: trace.id,
            spec: trace.spec.clone(),
            running: trace.running,
            lost: trace.lost,
            packets: trace.packets.clone(),
        };
        self.traces.iter().map(listed).collect()
    }
}

impl State {
    /// Begins a trace, and returns its number. Words that are wrong are no failure, but the answer.
    ///
    /// # Errors
    /// A worker does not answer, or there are too many traces.
    pub fn trace_add(&self, spec: Spec) -> Result<Asked<u64>, String> {
        if !(1..=MOST_PACKETS).contains(&spec.count) || !(1..=LONGEST).contains(&spec.seconds) {
            let words =
                format!("a trace ends after 1 to {MOST_PACKETS} packets, and within 1 to {LONGEST} seconds");
            return Ok(Err(words));
        }
        let program = match filter::parse(&spec.matching, &self.snapshot()) {
            Ok(program) if program.asks_for_egress() => {
                let words =
                    "`out` cannot be asked for: packets are chosen as they come in, when it is not known yet";
                return Ok(Err(words.to_owned()));
            }
            Ok(program) => program,
            Err(words) => return Ok(Err(words)),
        };
        let mut traces = self.traces();
        self.take_in(&mut traces);
        if traces.traces.len() >= TRACES {
            return Err(format!("there are {TRACES} traces already; `sluice trace clear` forgets them"));
        }
        traces.last += 1;
        let id = traces.last;
        let ends = Instant::now() + Duration::from_secs(spec.seconds);
        let (running, lost, packets) = (true, 0, Vec::new());
        traces.traces.push(Tracing { id, spec, program, ends, running, lost, packets });
        if let Err(words) = self.equip(&mut traces) {
            traces.traces.retain(|trace| trace.id != id);
            return Err(words);
        }
        Ok(Ok(id))
    }

    /// The traces with what they have found.
    ///
    /// # Errors
    /// None so far.
    pub fn trace_show(&self) -> Result<Vec<Trace>, String> {
        let mut traces = self.traces();
        self.take_in(&mut traces);
        Ok(traces.list())
    }

    /// Ends a trace, or all of them, and forgets what was found. Returns how many.
    ///
    /// # Errors
    /// A worker does not answer, or there is no such trace.
    pub fn trace_clear(&self, id: Option<u64>) -> Result<Asked<usize>, String> {
        let mut traces = self.traces();
        self.take_in(&mut traces);
        let before = traces.traces.len();
        traces.traces.retain(|trace| id.is_some_and(|id| id != trace.id));
        let gone = before - traces.traces.len();
        if let Some(id) = id.filter(|_| gone == 0) {
            return Ok(Err(format!("there is no trace {id}; `sluice trace show` lists them")));
        }
        self.equip(&mut traces)?;
        Ok(Ok(gone))
    }

    /// Takes in what was traced, and ends traces that are over; to be called now and then.
    pub fn collect_traces(&self) {
        let Some(mut traces) = self.try_traces().filter(|traces| !traces.readers.is_empty()) else { return };
        self.take_in(&mut traces);
    }

    fn take_in(&self, traces: &mut Traces) {
        traces.see(&self.snapshot());
        traces.collect(self.watch().now());
        let is_idle = !traces.readers.is_empty() && !traces.is_running();
        if traces.end(Instant::now()) || is_idle {
            // Those that are over want nothing any more; if a worker does not take that now, it will.
            let _ = self.equip(traces);
        }
    }

    /// Gives the workers a tracer for the traces that go on.
    fn equip(&self, traces: &mut Traces) -> Result<(), String> {
        let running = || traces.traces.iter().filter(|trace| trace.running);
        let wanted = |trace: &Tracing| Wanted {
            program: trace.program.clone(),
            left: trace.spec.count.saturating_sub(trace.packets.len() as u32),
        };
        let (ids, wanted): (Vec<u64>, Vec<Wanted>) = running().map(|trace| (trace.id, wanted(trace))).unzip();
        let mut readers = Vec::new();
        let taken = self.set_tracers(|| {
            if wanted.is_empty() {
                return None;
            }
            let (tracer, reader) = trace::channel(wanted.clone());
            readers.push((reader, 0));
            Some(tracer)
        });
        // What the old ones noted until now is by the old order.
        traces.collect(self.watch().now());
        (traces.readers, traces.ids) = (readers, ids);
        if taken.is_err() {
            // Some have it and some have not: none is to.
            let _ = self.set_tracers(|| None);
            traces.traces.iter_mut().for_each(|trace| trace.running = false);
            traces.readers.clear();
        }
        if traces.readers.is_empty() {
            traces.snapshots.clear();
            traces.waiting.clear();
        }
        taken
    }
}
