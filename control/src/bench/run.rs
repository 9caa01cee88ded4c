//! The run: sessions are made, then measured, then measured once more stage by stage.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use sluice_dataplane::arena::FramePool;
use sluice_dataplane::clock::{Clock, Nanos, SECOND, tsc};
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::{LoopCounters, LoopPort, Traffic};
use sluice_dataplane::probe::Probe;
use sluice_dataplane::verdict::DropReason;
use sluice_dataplane::worker::Worker;

use super::churn::{self, PLACES};
use super::gateway::{self, LAN, WAN};
use super::observed::Observed;
use super::options::{Feature, PipelineOptions};
use super::report::Report;
use super::stages::{Stages, median};
use super::{BenchError, traffic};

/// Packet buffers; as few as this stay in the L2 cache.
const FRAMES: u32 = 512;
/// The most packets of the pass that times stages.
const STAGED: u64 = 4_000_000;
/// A pass is timed in pieces, at most so many. Its figure is their median: what the kernel or other processes took from
/// the core falls into a few of them.
const PIECES: u64 = 20_000;
/// Packets that a piece has at least: a hundred bursts.
const PIECE: u64 = 6400;

/// Measures the pipeline on a thread of its own, pinned to one core.
///
/// # Errors
/// An option that is out of range, a core that cannot be had, or a run in which packets were lost.
pub fn pipeline(options: &PipelineOptions) -> Result<Report, BenchError> {
    options.check()?;
    on_core(options.core, |core| measure(options, core))
}

/// Does `work` on a thread of its own, pinned to a core, whose number it is told.
pub(super) fn on_core<T: Send, E: From<BenchError> + Send>(
    wanted: Option<usize>,
    work: impl FnOnce(usize) -> Result<T, E> + Send,
) -> Result<T, E> {
    let run = || work(pin(wanted)?);
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Pins this thread to a core: the one given, or the last that there is, as the first has most interrupts.
fn pin(wanted: Option<usize>) -> Result<usize, BenchError> {
    let usable = core_affinity::get_core_ids().unwrap_or_default();
    let found = match wanted {
        Some(id) => usable.iter().find(|core| core.id == id),
        None => usable.last(),
    };
    match found {
        Some(&core) if core_affinity::set_for_current(core) => Ok(core.id),
        _ => Err(BenchError::Core {
            core: wanted.unwrap_or(0),
            usable: usable.iter().map(|core| core.id.to_string()).collect::<Vec<_>>().join(", "),
        }),
    }
}

fn measure(options: &PipelineOptions, core: usize) -> Result<Report, BenchError> {
    let tsc_hz = tsc::frequency();
    let snapshot = Arc::new(gateway::snapshot(options));
    let ports: Vec<Box<dyn Port>> = vec![Box::new(LoopPort::sink()), Box::new(LoopPort::sink())];
    let pool = FramePool::new(FRAMES, true)?;
    let frame_pages = pool.pages().name();
    let mut bench = Bench {
        worker: Worker::new(snapshot, ports, pool),
        clock: Clock::monotonic(),
        virtual_now: options.new_flows_per_second.map(|_| SECOND),
        made_anew: 0,
        templates: [Arc::new(traffic::templates(options)), Arc::default()],
        stride: options.headers_len(),
        frame_len: options.frame_len().into(),
        observed: None,
        is_whole: true,
    };
    if options.observed {
        bench.observed = Some(Observed::new(&mut bench.worker, options.seed));
    }
    // Records lie in the order in which sessions were made, so that measuring in the same order would flatter caches.
    let flows = u64::from(options.flows);
    let room = flows + churn::room(options);
    let filling = bench.pass("sessions", traffic::sequence(options), flows, &mut (), |_, _| ());
    let mut warming = 0;
    if options.both_directions {
        // The first reply of each looks its next hop up.
        bench.templates[1] = Arc::new(traffic::replies(&bench.worker.shard().sessions, options));
        warming = bench.pass("replies", traffic::sequence(options), 2 * flows, &mut (), |_, _| ()).packets;
    }
    let measured = bench.pass("measuring", traffic::order(options), options.packets, &mut (), |_, _| ());
    bench.is_whole = false;
    let mut stages = Stages::new();
    let staged = options.packets.min(STAGED);
    let staged = bench.pass("stages", traffic::order(options), staged, &mut stages, Stages::end_piece);

    let (new_flows, others) = match options.new_flows_per_second {
        Some(_) => {
            let (new_flows, packets) = churn::measure(&mut bench, options, tsc_hz);
            (Some(new_flows), packets)
        }
        None => (None, 0),
    };

    let shard = bench.worker.shard();
    let nat_bytes = if options.has(Feature::Nat) { shard.nat.bytes() } else { 0 };
    let session_bytes = shard.sessions.bytes();
    let unused = if options.family == 6 { shard.sessions.v4.bytes() } else { shard.sessions.v6.bytes() };
    let drops =
        bench.finish(options, filling.packets + warming + measured.packets + staged.packets + others)?;

    let ns = |cycles: f64| cycles * 1e9 / tsc_hz;
    Ok(Report {
        mpps: 1e3 / ns(measured.cycles),
        ns_per_packet: ns(measured.cycles),
        cycles_per_packet: measured.cycles,
        cycles_per_packet_mean: measured.mean,
        generator_cycles_per_packet: measured.generator,
        flows: options.flows,
        packets: measured.packets,
        stages: stages.per_packet(),
        frame_size: options.frame_size,
        features: options.features.clone(),
        acl_rules: if options.has(Feature::Acl) { options.acl_rules } else { 0 },
        order: options.order,
        seed: options.seed,
        core,
        tsc_hz: tsc_hz.round() as u64,
        first_packets_ns: ns(filling.cycles),
        bytes_per_flow: (session_bytes + nat_bytes) as f64 / room as f64,
        bytes_per_direction: (session_bytes - unused) as f64 / (2 * room) as f64,
        nat_bytes_per_flow: nat_bytes as f64 / room as f64,
        family: options.family,
        protocol: options.protocol,
        both_directions: options.both_directions,
        observed: options.observed,
        frame_pages,
        new_flows,
        drops,
        conserved: true,
    })
}

/// A worker and its traffic.
pub(super) struct Bench {
    worker: Worker,
    clock: Clock,
    /// The time, where it is virtual.
    virtual_now: Option<Nanos>,
    /// Sessions made besides those of the flows.
    pub(super) made_anew: u64,
    /// Headers of the packets that come in by the inside, and by the outside.
    templates: [Arc<Vec<u8>>; 2],
    stride: usize,
    frame_len: usize,
    observed: Option<Observed>,
    /// Whether it is not timed by stages.
    is_whole: bool,
}

/// What one way through the traffic took, in cycles per packet.
struct Pass {
    packets: u64,
    /// From a burst's arrival to its hand-over.
    cycles: f64,
    /// The same as a mean, with whatever else ran on the core.
    mean: f64,
    /// For the making of the packets.
    generator: f64,
}

/// In how many pieces a pass over so many packets is timed.
pub(super) fn pieces(packets: u64) -> u64 {
    (packets / PIECE).clamp(1, PIECES)
}

impl Bench {
    /// The worker's next poll.
    pub(super) fn poll(&mut self, probe: &mut impl Probe) {
        let now = self.virtual_now.unwrap_or_else(|| self.clock.now());
        match &mut self.observed {
            Some(Observed { meter, .. }) if self.is_whole => {
                let work = self.worker.poll_probed(now, meter);
                meter.turn(work > 0);
            }
            _ => _ = self.worker.poll_probed(now, probe),
        }
    }

    /// Lets virtual time pass.
    pub(super) fn pass_time(&mut self, time: Nanos) {
        self.virtual_now = self.virtual_now.map(|now| now + time);
    }

    /// Puts others in the places of the ports, and these in theirs.
    pub(super) fn swap(&mut self, ports: &mut [Box<dyn Port>; 2]) {
        for (place, port) in PLACES.into_iter().zip(ports) {
            std::mem::swap(&mut self.worker.ports()[place], port);
        }
    }

    /// Sessions that are live.
    pub(super) fn live(&self) -> u32 {
        self.worker.shard().sessions.live()
    }

    /// Sessions that have ended.
    pub(super) fn sessions_ended(&self) -> u64 {
        self.worker.shard().counters.sessions_ended
    }

    /// Lets the flows' packets come in by the ports, in this order, and replies likewise if there are any: so many in all.
    pub(super) fn attach(&mut self, mut order: Vec<u32>, packets: u64) -> [Arc<LoopCounters>; 2] {
        let both = !self.templates[1].is_empty();
        let shares = if both { [packets.div_ceil(2), packets / 2] } else { [packets, 0] };
        [0, 1].map(|i: usize| {
            let order = if i == 1 { std::mem::take(&mut order) } else { order.clone() };
            let headers = Arc::clone(&self.templates[i]);
            let traffic = Traffic::of(headers, self.stride, order, self.frame_len);
            let traffic = traffic.unwrap_or_default().limited_to(shares[i]);
            let port = LoopPort::new(traffic, tsc::now);
            let counters = port.counters();
            self.worker.ports()[PLACES[i]] = Box::new(port);
            counters
        })
    }

    /// Takes `packets` packets through, and calls `piece_done` with the probe and their number after each piece.
    fn pass<P: Probe>(
        &mut self,
        name: &str,
        mut order: Vec<u32>,
        packets: u64,
        probe: &mut P,
        mut piece_done: impl FnMut(&mut P, u64),
    ) -> Pass {
        let counters = self.attach(std::mem::take(&mut order), packets);
        let made = || counters.iter().map(|port| port.made()).sum::<u64>();
        let making = || counters.iter().map(|port| port.making_cycles()).sum::<u64>();

        let mut progress = Progress::new(name);
        let (mut cycles, mut generator, mut total) = (vec![], vec![], 0);
        let pieces = pieces(packets);
        for piece in 1..=pieces {
            let until = (u128::from(packets) * u128::from(piece) / u128::from(pieces)) as u64;
            let (before, making_before, start) = (made(), making(), tsc::now());
            while made() < until {
                self.poll(probe);
            }
            let elapsed = tsc::now().saturating_sub(start);
            let (packets, making) = (made() - before, making() - making_before);
            let taken = elapsed.saturating_sub(making);
            total += taken;
            cycles.push(taken as f64 / packets as f64);
            generator.push(making as f64 / packets as f64);
            piece_done(probe, packets);
            if let Some(observed) = &mut self.observed {
                observed.take();
            }
            progress.show(piece * 100 / pieces);
        }
        let packets = made();
        let mean = total as f64 / packets as f64;
        Pass { packets, cycles: median(&mut cycles), mean, generator: median(&mut generator) }
    }

    /// Ends the worker and sees to it that every packet was forwarded, as was meant. Returns how many were dropped: none.
    fn finish(mut self, options: &PipelineOptions, packets: u64) -> Result<u64, BenchError> {
        let (counters, closed) = self.worker.close(self.clock.now());
        let drops = counters.drops.iter().sum();
        if drops > 0 {
            let counts = DropReason::ALL.iter().zip(&counters.drops).filter(|&(_, &count)| count > 0);
            let reasons =
                counts.map(|(reason, count)| format!("{} {count}", reason.name())).collect::<Vec<_>>();
            return Err(BenchError::Dropped { packets: drops, reasons: reasons.join(", ") });
        }
        let sent = counters.tx() - counters.originated;
        let policed = counters.limits.iter().map(|limit| limit.passed.packets).sum();
        let hits = counters.rules.get(options.acl_rules as usize - 1).map_or(0, |rule| rule.packets);
        let if_has = |feature, count: u64| if options.has(feature) { count } else { 0 };
        let flows = u64::from(options.flows);
        equal("frames that came home", closed.home.into(), closed.frames.into())?;
        let [inside, outside] = [LAN, WAN].map(|port| counters.ports[usize::from(port)].rx.packets);
        equal("packets received", inside + outside, packets)?;
        equal("packets transmitted", sent, packets)?;
        equal("sessions made", counters.sessions_created, flows + self.made_anew)?;
        let live = counters.sessions_created - counters.sessions_ended;
        equal("NAT bindings", counters.bindings, if_has(Feature::Nat, live))?;
        if self.made_anew == 0 {
            equal("sessions that ended", counters.sessions_ended, 0)?;
        }
        equal("packets that the last rule let pass", hits, if_has(Feature::Acl, inside))?;
        equal("packets within the limit", policed, if_has(Feature::Police, inside))?;
        if counters.conserved() { Ok(drops) } else { Err(BenchError::NotConserved) }
    }
}

fn equal(what: &'static str, found: u64, expected: u64) -> Result<(), BenchError> {
    if found == expected { Ok(()) } else { Err(BenchError::Unaccounted { what, found, expected }) }
}

/// A line on the terminal, if there is one; gone when dropped.
pub(super) struct Progress<'a> {
    name: &'a str,
    terminal: Option<io::Stderr>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(name: &'a str) -> Self {
        let terminal = Some(io::stderr()).filter(IsTerminal::is_terminal);
        Self { name, terminal }
    }

    pub(super) fn show(&mut self, percent: u64) {
        if let Some(terminal) = &mut self.terminal {
            // Nothing is lost with a progress line.
            let _ = write!(terminal, "\r{}: {percent} %\x1b[K", self.name);
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            let _ = write!(terminal, "\r\x1b[K");
        }
    }
}
