//! New sessions beside those that stand: so many a second are made, live for a moment, and end.
//!
//! Time is virtual here, so that a run is the same on every machine: packets of standing sessions come at a fixed rate, and
//! new ones at the rate that was asked for. What each kind costs is timed apart: their bursts take turns.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use sluice_dataplane::clock::{MILLISECOND, Nanos, SECOND, tsc};
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::{LoopCounters, LoopPort, Traffic};
use sluice_dataplane::probe::Probe;

use super::gateway::{LAN, WAN};
use super::options::PipelineOptions;
use super::run::{Bench, pieces};
use super::stages::median;
use super::traffic;

/// Packets of standing sessions a second, in virtual time.
const STANDING_PER_SECOND: u64 = 10_000_000;
/// Packets of new sessions that come together.
const TOGETHER: u64 = 64;
/// For how long a session lives without a packet, at least.
const TIMEOUT: Nanos = 500 * MILLISECOND;
/// Seconds' worth of new sessions for which there is room: as long as one lives at most, and some more.
const ROOM: u64 = 3;

/// How long sessions live without a packet: the standing ones get one more often.
pub(super) fn timeout(options: &PipelineOptions) -> Nanos {
    TIMEOUT.max(u64::from(options.flows) * 4 * SECOND / STANDING_PER_SECOND)
}

/// How many new sessions there are at once, at most: there are headers for so many.
pub(super) fn room(options: &PipelineOptions) -> u64 {
    let per_second = u64::from(options.new_flows_per_second.unwrap_or(0));
    per_second * (ROOM - 1) + per_second * timeout(options).div_ceil(MILLISECOND) / 1000
}

/// What new sessions cost, and what they make others cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct NewFlows {
    /// New sessions a second, in virtual time.
    pub per_second: u32,
    /// Packets a second of the standing sessions, in virtual time.
    pub standing_packets_per_second: u64,
    /// Sessions that were made while it was measured.
    pub made: u64,
    /// Sessions that ended meanwhile.
    pub ended: u64,
    /// Sessions at the end, the standing ones among them.
    pub live: u64,
    /// Nanoseconds for a new session's packet, which makes it.
    pub first_packet_ns: f64,
    /// Nanoseconds of upkeep for each session that ended, beyond what upkeep takes where none is made.
    pub end_ns: f64,
    /// TSC cycles per packet of the standing sessions, without upkeep, before any new session.
    pub standing_cycles_alone: f64,
    /// The same with new sessions beside them.
    pub standing_cycles_beside: f64,
    /// By how many percent the second is more than the first.
    pub slowdown_percent: f64,
}

impl fmt::Display for NewFlows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} new sessions a second beside {} packets:",
            self.per_second, self.standing_packets_per_second
        )?;
        writeln!(f, "{:>10.0} ns for a new session's packet", self.first_packet_ns)?;
        writeln!(f, "{:>10.0} ns for its end", self.end_ns)?;
        writeln!(
            f,
            "{:>10.2} cycles per packet of standing sessions, {:.2} before ({:+.1} %)",
            self.standing_cycles_beside, self.standing_cycles_alone, self.slowdown_percent
        )
    }
}

/// Takes the time of the worker's own duties, which the polls of either kind contain.
#[derive(Default)]
struct Upkeep {
    cycles: u64,
}

impl Probe for Upkeep {
    #[inline(always)]
    fn stage<R>(&mut self, name: &'static str, stage: impl FnOnce() -> R) -> R {
        if name != "upkeep" {
            return stage();
        }
        let start = tsc::now();
        let result = stage();
        self.cycles += tsc::now().saturating_sub(start);
        result
    }
}

/// The source of new sessions: the ports that take the places of the others for a poll.
struct Source {
    ports: [Box<dyn Port>; 2],
    counters: Arc<LoopCounters>,
    per_second: u64,
    /// What is owed, in packets times nanoseconds a second.
    owed: u64,
}

/// Cycles of some polls, and packets.
#[derive(Clone, Copy, Default)]
struct Cost {
    cycles: u64,
    packets: u64,
}

impl Cost {
    fn per_packet(self) -> f64 {
        self.cycles as f64 / self.packets.max(1) as f64
    }
}

/// What a stretch of traffic took.
#[derive(Default)]
struct Stretch {
    standing: Vec<f64>,
    first: Vec<f64>,
    upkeep: Cost,
    made: u64,
}

/// Measures the standing sessions alone, and beside new ones. Returns how many packets it has sent, too.
pub(super) fn measure(bench: &mut Bench, options: &PipelineOptions, tsc_hz: f64) -> (NewFlows, u64) {
    let headers = Arc::new(traffic::new_templates(options));
    let order = (0..room(options) as u32).collect();
    let traffic = Traffic::of(headers, options.headers_len(), order, options.frame_len().into());
    let port = LoopPort::new(traffic.unwrap_or_default(), tsc::now);
    let counters = port.counters();
    let per_second = options.new_flows_per_second.unwrap_or(0);
    let mut source = Source {
        ports: [Box::new(port), Box::new(LoopPort::sink())],
        counters,
        per_second: per_second.into(),
        owed: 0,
    };
    let standing = bench.attach(traffic::order(options), u64::MAX);

    let mut alone = stretch(bench, &standing, None, options.packets);
    // Until as many end as are made.
    let settling = (timeout(options) + 2 * SECOND) / 1000 * (STANDING_PER_SECOND / 1_000_000);
    let settled = stretch(bench, &standing, Some(&mut source), settling);
    let ended_before = bench.sessions_ended();
    let mut beside = stretch(bench, &standing, Some(&mut source), options.packets);
    let ended = bench.sessions_ended() - ended_before;

    let packets = alone.upkeep.packets + settled.upkeep.packets + beside.upkeep.packets;
    let made = settled.made + beside.made;
    let ns = |cycles: f64| cycles * 1e9 / tsc_hz;
    let upkeep = (beside.upkeep.per_packet() - alone.upkeep.per_packet()) * beside.upkeep.packets as f64;
    let (before, after) = (median(&mut alone.standing), median(&mut beside.standing));
    let new_flows = NewFlows {
        per_second,
        standing_packets_per_second: STANDING_PER_SECOND,
        made: beside.made,
        ended,
        live: bench.live().into(),
        first_packet_ns: ns(median(&mut beside.first)),
        end_ns: ns(upkeep.max(0.0) / ended.max(1) as f64),
        standing_cycles_alone: before,
        standing_cycles_beside: after,
        slowdown_percent: (after / before - 1.0) * 100.0,
    };
    bench.made_anew += made;
    (new_flows, packets + made)
}

/// Takes so many packets of standing sessions through, and new ones as they are due.
fn stretch(
    bench: &mut Bench,
    standing: &[Arc<LoopCounters>; 2],
    mut source: Option<&mut Source>,
    packets: u64,
) -> Stretch {
    let mut result = Stretch::default();
    let mut upkeep = Upkeep::default();
    let made = |counters: &[Arc<LoopCounters>]| counters.iter().map(|port| port.made()).sum::<u64>();
    let making =
        |counters: &[Arc<LoopCounters>]| counters.iter().map(|port| port.making_cycles()).sum::<u64>();
    let mut sent = 0;
    let pieces = pieces(packets);
    for piece in 1..=pieces {
        let until = (u128::from(packets) * u128::from(piece) / u128::from(pieces)) as u64;
        let (mut old, mut new) = (Cost::default(), Cost::default());
        while sent < until {
            let before = made(standing);
            old.cycles += poll(bench, &mut upkeep, || making(standing));
            let count = made(standing) - before;
            old.packets += count;
            sent += count;
            let elapsed = count * SECOND / STANDING_PER_SECOND;
            bench.pass_time(elapsed);
            let Some(source) = source.as_deref_mut() else { continue };
            source.owed += source.per_second * elapsed;
            while source.owed >= TOGETHER * SECOND {
                let counters = std::slice::from_ref(&source.counters);
                let before = made(counters);
                bench.swap(&mut source.ports);
                new.cycles += poll(bench, &mut upkeep, || making(counters));
                bench.swap(&mut source.ports);
                let count = made(counters) - before;
                new.packets += count;
                source.owed -= TOGETHER * SECOND;
            }
        }
        result.standing.push(old.per_packet());
        if new.packets > 0 {
            result.first.push(new.per_packet());
        }
        result.made += new.packets;
    }
    result.upkeep = Cost { cycles: upkeep.cycles, packets: sent };
    result
}

/// Polls once. Returns the cycles that it took, without the making of packets and without upkeep.
fn poll(bench: &mut Bench, upkeep: &mut Upkeep, making: impl Fn() -> u64) -> u64 {
    let (before, upkeep_before, start) = (making(), upkeep.cycles, tsc::now());
    bench.poll(upkeep);
    let elapsed = tsc::now().saturating_sub(start);
    elapsed.saturating_sub(making() - before).saturating_sub(upkeep.cycles - upkeep_before)
}

/// The places of the ports, inside and outside.
pub(super) const PLACES: [usize; 2] = [LAN as usize, WAN as usize];
