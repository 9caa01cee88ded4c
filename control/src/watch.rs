//! Whether the workers' loops go round, and how: stalls are noticed within 100 ms, and the figures of the last second are
//! kept for `sluice show workers`.

use std::fs;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use hdrhistogram::Histogram;
use serde::Serialize;
use sluice_dataplane::burst::BURST;
use sluice_dataplane::clock::{Clock, MILLISECOND, Nanos, SECOND, tsc};
use sluice_dataplane::counters::Reader;
use sluice_dataplane::live::Signs;
use sluice_dataplane::pulse::Turns;

use crate::gaps::{self, Gaps, Tick};

/// A worker that begins no turn for this long has stalled. A sleeping one turns every 10 ms.
const SILENCE: Nanos = 60 * MILLISECOND;
/// The least time between two tellings of a worker's stalls.
const TELL: Nanos = SECOND;
/// Between two samples.
const SAMPLE: Nanos = SECOND;

/// Whether a worker's loop goes round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It has not begun yet.
    Starting,
    /// It does.
    Running,
    /// It has not, for longer than it should ever take.
    Stalled,
}

/// How a worker's loop goes: counts since the start, and the rest over the last second or two.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vitals {
    /// Whether it goes round.
    pub state: Health,
    /// How often it stalled.
    pub stalls: u64,
    /// The longest stall.
    pub longest_stall_ms: u64,
    /// Turns of the loop.
    pub loops_per_second: u64,
    /// Packets taken from ports.
    pub packets_per_second: u64,
    /// Packets that a port gave at once, of the times that it gave any: the median.
    pub burst_p50: Option<u64>,
    /// The same: the 99th percentile.
    pub burst_p99: Option<u64>,
    /// The same: the most.
    pub burst_max: Option<u64>,
    /// Ticks of the time-stamp counter in turns that had something to do, for each packet.
    pub cycles_per_packet: Option<u64>,
    /// Share of the time in turns that had nothing to do, or asleep.
    pub idle_percent: f64,
    /// Share of the time asleep.
    pub asleep_percent: f64,
    /// Packets lent to other workers, who own their sessions.
    pub crossed_packets: u64,
    /// Their share of the packets taken from ports.
    pub crossed_percent: f64,
    /// Gaps between two polls.
    #[serde(flatten)]
    pub gaps: Gaps,
    /// All gaps since the start: how many there were of so many nanoseconds and up to an eighth more.
    pub gaps_ns: Vec<(u64, u64)>,
}

/// How a worker's loop has gone since the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loop {
    /// Whether it goes round.
    pub state: Health,
    /// How often it stalled.
    pub stalls: u64,
    /// Its turns, and what they did.
    pub turns: Turns,
    /// Packets lent to other workers, who own their sessions.
    pub crossed: u64,
}

/// The workers, watched.
pub struct Watch {
    clock: Clock,
    /// When it began, and the ticks then.
    begun: (Nanos, u64),
    tick: OnceLock<Tick>,
    workers: Mutex<Vec<Watched>>,
}

struct Watched {
    core: usize,
    signs: Signs,
    counters: Reader,
    stall: Option<Stall>,
    stalls: u64,
    longest: Nanos,
    /// When a stall was told last, and how many have not been told since.
    told: Option<Nanos>,
    untold: u64,
    /// The last two samples, the newer one second.
    samples: [Sample; 2],
}

#[derive(Clone, Copy)]
struct Sample {
    at: Nanos,
    turns: Turns,
    crossed: u64,
}

struct Stall {
    /// The last turn before it.
    since: Nanos,
    told: bool,
}

impl Watch {
    /// Of workers by their cores, which go by this clock.
    pub fn new(clock: Clock, workers: impl IntoIterator<Item = ((usize, Signs), Reader)>) -> Self {
        let begun = (clock.now(), tsc::now());
        let start = Sample { at: begun.0, turns: Turns::default(), crossed: 0 };
        let watched = |((core, signs), counters)| Watched {
            core,
            signs,
            counters,
            stall: None,
            stalls: 0,
            longest: 0,
            told: None,
            untold: 0,
            samples: [start; 2],
        };
        Self {
            clock,
            begun,
            tick: OnceLock::new(),
            workers: Mutex::new(workers.into_iter().map(watched).collect()),
        }
    }

    /// The workers' counters are to be read from these from now on.
    pub fn adopt(&self, counters: &[Reader]) {
        for (worker, counters) in self.workers().iter_mut().zip(counters) {
            worker.counters = counters.clone();
        }
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time on the workers' clock.
    pub fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// What a tick of the time-stamp counter is, by the first seconds.
    pub fn tick(&self) -> Tick {
        if let Some(tick) = self.tick.get() {
            return *tick;
        }
        let (time, ticks) =
            (self.now().saturating_sub(self.begun.0), tsc::now().saturating_sub(self.begun.1));
        let tick = Tick { nanoseconds: time as f64 / ticks.max(1) as f64 };
        if time >= 2 * SECOND { *self.tick.get_or_init(|| tick) } else { tick }
    }

    /// Looks at every worker; to be called every 20 ms. Returns what there is to say.
    pub fn look(&self) -> Vec<String> {
        let now = self.clock.now();
        let mut workers = self.workers();
        workers.iter_mut().enumerate().filter_map(|(index, worker)| worker.look(index, now)).collect()
    }

    /// Whether each worker has begun a turn of its loop at this time or later.
    pub fn all_turned_since(&self, time: Nanos) -> bool {
        self.workers().iter().all(|worker| worker.signs.heartbeat.last() >= time)
    }

    /// How each worker's loop has gone since the start.
    pub fn loops(&self) -> Vec<Loop> {
        let now = self.clock.now();
        let of = |worker: &Watched| {
            let Sample { turns, crossed, .. } = worker.sample(now);
            Loop { state: worker.state(), stalls: worker.stalls, turns, crossed }
        };
        self.workers().iter().map(of).collect()
    }

    /// How each worker's loop goes.
    pub fn vitals(&self) -> Vec<Vitals> {
        let now = self.clock.now();
        let tick = self.tick();
        self.workers().iter().map(|worker| worker.vitals(now, tick)).collect()
    }
}

impl Watched {
    fn look(&mut self, index: usize, now: Nanos) -> Option<String> {
        if now.saturating_sub(self.samples[1].at) >= SAMPLE {
            self.samples = [self.samples[1], self.sample(now)];
        }
        let beat = self.signs.heartbeat.last();
        let silent = now.saturating_sub(beat);
        if beat == 0 {
            return None;
        }
        match &mut self.stall {
            None if silent <= SILENCE => return None,
            None => {
                self.stalls += 1;
                self.stall = Some(Stall { since: beat, told: false });
            }
            // It may have turned between two looks, and stalled again.
            Some(stall) if beat == stall.since || silent > SILENCE => {}
            Some(stall) => {
                let length = beat.saturating_sub(stall.since);
                self.longest = self.longest.max(length);
                let told = stall.told;
                self.stall = None;
                self.untold += u64::from(!told);
                let milliseconds = length / MILLISECOND;
                return told.then(|| {
                    format!("worker {index}: goes on, after {milliseconds} ms without a turn of its loop")
                });
            }
        }
        let stall = self.stall.as_mut()?;
        self.longest = self.longest.max(now - stall.since);
        if stall.told || self.told.is_some_and(|told| now - told < TELL) {
            return None;
        }
        stall.told = true;
        self.told = Some(now);
        let before = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            count => format!("; {count} more stalls since the last that was told"),
        };
        let (core, thread) = (self.core, self.signs.pulse.thread());
        Some(format!(
            "worker {index}: no turn of its loop for {} ms on core {core}: {}{before}",
            (now - stall.since) / MILLISECOND,
            why(core, thread)
        ))
    }

    fn sample(&self, now: Nanos) -> Sample {
        Sample { at: now, turns: self.signs.pulse.turns(), crossed: self.counters.read().crossed }
    }

    fn state(&self) -> Health {
        match &self.stall {
            _ if self.signs.heartbeat.last() == 0 => Health::Starting,
            None => Health::Running,
            Some(_) => Health::Stalled,
        }
    }

    fn vitals(&self, now: Nanos, tick: Tick) -> Vitals {
        let (before, sample) = (&self.samples[0], self.sample(now));
        let turns = sample.turns.since(&before.turns);
        let crossed = sample.crossed.saturating_sub(before.crossed);
        let time = now.saturating_sub(before.at).max(1);
        let per_second = |count: u64| (u128::from(count) * u128::from(SECOND) / u128::from(time)) as u64;
        let ticks = (turns.busy + turns.idle).max(1);
        let percent = |part: u64, whole: u64| (part as f64 / whole as f64 * 1e4).round() / 100.0;
        let bursts = histogram(&turns);
        let of_bursts = |value: fn(&Histogram<u64>) -> u64| bursts.as_ref().map(value);
        Vitals {
            state: self.state(),
            stalls: self.stalls,
            longest_stall_ms: self.longest / MILLISECOND,
            loops_per_second: per_second(turns.turns),
            packets_per_second: per_second(turns.packets),
            burst_p50: of_bursts(|bursts| bursts.value_at_quantile(0.5)),
            burst_p99: of_bursts(|bursts| bursts.value_at_quantile(0.99)),
            burst_max: of_bursts(|bursts| bursts.max()),
            cycles_per_packet: turns.busy.checked_div(turns.packets),
            idle_percent: percent(turns.idle, ticks),
            asleep_percent: percent(turns.asleep, ticks),
            crossed_packets: sample.crossed,
            crossed_percent: percent(crossed, turns.packets.max(1)),
            gaps: Gaps::of(&turns, tick),
            gaps_ns: gaps::rows(&sample.turns, tick),
        }
    }
}

/// The bursts of which there were any; none if there were none.
fn histogram(turns: &Turns) -> Option<Histogram<u64>> {
    let mut histogram = Histogram::new_with_max(BURST as u64, 2).ok()?;
    for (packets, &count) in (0..).zip(&turns.bursts) {
        if packets > 0 && count > 0 {
            let _ = histogram.record_n(packets, count);
        }
    }
    (!histogram.is_empty()).then_some(histogram)
}

/// What the kernel says of a thread that does not go on.
fn why(core: usize, thread: u32) -> String {
    let read =
        |what: &str| fs::read_to_string(format!("/proc/self/task/{thread}/{what}")).unwrap_or_default();
    let stat = read("stat");
    // The name before it may have spaces and brackets.
    match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
        Some('R') => format!(
            "its thread {thread} is ready to run, so something else has the core; `ps -eLo psr,pcpu,comm --sort=-pcpu \
             | grep '^ *{core} '` lists what runs there, and `isolcpus={core}` keeps it away"
        ),
        Some('T' | 't') => format!("its thread {thread} is stopped, by a signal or a debugger"),
        Some('D' | 'S') => {
            let at = read("wchan");
            format!("its thread {thread} waits in the kernel ({at}); `dmesg` may say what for")
        }
        _ => format!("its thread {thread} is not there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use sluice_dataplane::arena::FramePool;
    use sluice_dataplane::probe::Probe;
    use sluice_dataplane::pulse::{self, Meter};
    use sluice_dataplane::snapshot::Snapshot;
    use sluice_dataplane::worker::Worker;

    const TICK: Tick = Tick { nanoseconds: 0.5 };

    fn watched() -> (Worker, Meter, Watched) {
        let worker =
            Worker::new(Arc::new(Snapshot::default()), Vec::new(), FramePool::new(1, false).unwrap());
        let (meter, pulse) = pulse::channel();
        let signs = Signs { heartbeat: worker.heartbeat(), pulse };
        let watch = Watch::new(Clock::Virtual(0), [((3, signs), worker.reader())]);
        (worker, meter, watch.workers.into_inner().unwrap().pop().unwrap())
    }

    #[test]
    fn a_stall_is_told_once_and_so_is_its_end() {
        let (mut polls, _meter, mut worker) = watched();
        assert_eq!(worker.look(0, SECOND), None);
        assert_eq!(worker.vitals(SECOND, TICK).state, Health::Starting);
        let at = |ms: u64| 10 * SECOND + ms * MILLISECOND;
        polls.poll(at(0));
        assert_eq!(worker.look(0, at(60)), None);
        let said = worker.look(0, at(61)).unwrap();
        assert!(said.starts_with("worker 0: no turn of its loop for 61 ms on core 3: its thread "), "{said}");
        assert_eq!((worker.look(0, at(81)), worker.vitals(at(81), TICK).state), (None, Health::Stalled));
        polls.poll(at(240));
        let said = worker.look(0, at(250)).unwrap();
        assert_eq!(said, "worker 0: goes on, after 240 ms without a turn of its loop");
        let vitals = worker.vitals(at(250), TICK);
        assert_eq!((vitals.state, vitals.stalls, vitals.longest_stall_ms), (Health::Running, 1, 240));
    }

    #[test]
    fn a_worker_that_stalls_all_the_time_is_told_once_a_second() {
        let (mut polls, _meter, mut worker) = watched();
        let mut said = Vec::new();
        for ms in 0..3000u64 {
            let now = 10 * SECOND + ms * MILLISECOND;
            if ms % 100 == 0 {
                polls.poll(now);
            }
            if ms % 20 == 10 {
                said.extend(worker.look(1, now));
            }
        }
        let stalls: Vec<&String> = said.iter().filter(|line| line.contains("no turn")).collect();
        assert_eq!((stalls.len(), said.len(), worker.stalls), (3, 6, 30), "{said:#?}");
        assert!(stalls[1].ends_with("; 9 more stalls since the last that was told"), "{}", stalls[1]);
    }

    #[test]
    fn figures_are_of_the_last_second() {
        let (mut polls, mut meter, mut worker) = watched();
        polls.poll(SECOND / 2);
        for _ in 0..98 {
            meter.burst(8);
        }
        meter.burst(64);
        meter.burst(64);
        meter.turn(true);
        assert_eq!(worker.look(0, SECOND / 2), None);
        let vitals = worker.vitals(SECOND / 2, TICK);
        assert_eq!((vitals.loops_per_second, vitals.packets_per_second), (2, 2 * (98 * 8 + 128)));
        assert_eq!((vitals.burst_p50, vitals.burst_p99, vitals.burst_max), (Some(8), Some(64), Some(64)));
        assert_eq!(vitals.idle_percent, 0.0);
        assert!(vitals.gaps.gap_max_us.is_some() && vitals.gaps_ns.len() == 1);
        for second in 1..4 {
            polls.poll(second * SECOND);
            assert_eq!(worker.look(0, second * SECOND), None);
        }
        meter.slept();
        meter.turn(false);
        let vitals = worker.vitals(4 * SECOND, TICK);
        assert_eq!((vitals.packets_per_second, vitals.burst_p50, vitals.cycles_per_packet), (0, None, None));
        assert!(vitals.idle_percent == 100.0 && vitals.asleep_percent > 0.0);
    }
}
