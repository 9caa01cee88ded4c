//! `sluice bench shaper`: what it costs to shape a packet, from when it is queued to when it may be sent.
//!
//! As a poll does it: a burst goes in, and as many packets come out. Rates are set far above what a core can do, so nothing
//! has to wait for one: the figure is that of the code and its memory, with every bucket on the way asked and charged.

use std::fmt;
use std::num::NonZeroU64;

use clap::Args;
use serde::Serialize;
use sluice_dataplane::clock::{Clock, tsc};
use sluice_dataplane::table::meter::Rate;
use sluice_dataplane::table::shaper::{
    Cause, ClassConfig, ClassError, Codel, Config, Hosts, Kind, NodeId, Packet, ROOT, Rates, Shaper, Sink,
};

use super::BenchError;
use super::run::{Progress, on_core};
use super::stages::median;
use super::table::measure::timed;
use super::table::random::Random;

/// Packets that are timed together.
const WINDOW: usize = 32_768;
/// Windows that are not counted: for caches, and for hosts and flows to be made.
const WARM_UP: usize = 16;
/// Packets that there are at least, and for each queue, besides those that stand in queues.
const POOL: usize = 32_768;
const POOL_OF_QUEUE: usize = 4;
/// Bits a second of each class: more than packets of 64 bytes at 140 million a second.
const FAST: u64 = 100_000_000_000;
const PACKET_BYTES: u32 = 64;

/// Options of `bench shaper`.
#[derive(Clone, Debug, Args)]
pub struct ShaperOptions {
    /// Queues, each a leaf with a rate of its own, which packets are for in random order
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub queues: u32,
    /// Packets that stand in each queue all the time
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=64))]
    pub standing: u32,
    /// Flows of each queue
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub flows: u32,
    /// Make the queues on demand, as those of hosts of one class
    #[arg(long)]
    pub hosts: bool,
    /// Packets that go in, and that come out, at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub burst: u16,
    /// Windows of 32,768 packets
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: u32,
    /// Seed of the order
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Core to run on; the last that this process may use, unless given
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,
}

/// The figures. The names are those of the JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct ShaperReport {
    /// Queues.
    pub queues: u32,
    /// Packets standing in each.
    pub standing: u32,
    /// Flows of each.
    pub flows: u32,
    /// Whether the queues are those of hosts.
    pub hosts: bool,
    /// Packets at a time.
    pub burst: u16,
    /// Nanoseconds to queue a packet and to take one: the median of the windows.
    pub ns_per_packet: f64,
    /// TSC cycles likewise.
    pub cycles_per_packet: f64,
    /// The part of that which queueing takes.
    pub enqueue_ns: f64,
    /// Packets that were measured.
    pub packets: u64,
    /// Milliseconds that making the shaper took.
    pub build_ms: f64,
    /// Memory of the shaper, bytes.
    pub bytes: u64,
    /// The core that it ran on.
    pub core: usize,
    /// TSC cycles per second.
    pub tsc_hz: u64,
}

impl fmt::Display for ShaperReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if cfg!(debug_assertions) {
            writeln!(f, "an unoptimised build: the figures say little")?;
        }
        writeln!(
            f,
            "{} queues{} of {} flows, {} packets standing in each, bursts of {}",
            self.queues,
            if self.hosts { " of hosts" } else { "" },
            self.flows,
            self.standing,
            self.burst,
        )?;
        writeln!(
            f,
            "{:.1} ns a packet ({:.1} in, {:.1} out), {:.0} cycles; {:.1} MiB",
            self.ns_per_packet,
            self.enqueue_ns,
            self.ns_per_packet - self.enqueue_ns,
            self.cycles_per_packet,
            self.bytes as f64 / f64::from(1 << 20),
        )
    }
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ShaperBenchError {
    /// The tree cannot be made.
    #[error(transparent)]
    Class(#[from] ClassError),
    /// The core cannot be had.
    #[error(transparent)]
    Core(#[from] BenchError),
    /// Packets were dropped: the figures would be of other work.
    #[error("{0} packets were dropped or kept back")]
    Dropped(u64),
}

/// Of the size of a frame.
type Item = (NonZeroU64, u64);

/// Puts packets that were sent back to the end of the ring.
struct Ring {
    packets: Vec<u32>,
    head: usize,
    tail: usize,
    dropped: u64,
}

impl Ring {
    fn next(&mut self) -> u32 {
        let place = self.head & (self.packets.len() - 1);
        self.head += 1;
        self.packets[place]
    }
}

impl Sink<Item> for Ring {
    #[inline(always)]
    fn send(&mut self, (number, _): Item, _class: NodeId) {
        let place = self.tail & (self.packets.len() - 1);
        self.tail += 1;
        self.packets[place] = (number.get() - 1) as u32;
    }

    fn mark(&mut self, _item: &mut Item) -> bool {
        true
    }

    fn drop(&mut self, _item: Item, _class: NodeId, _cause: Cause) {
        self.dropped += 1;
    }
}

/// What a packet is of.
#[derive(Clone, Copy)]
struct Place {
    class: NodeId,
    host: u32,
    flow: u32,
}

/// Measures a shaper, on a thread pinned to one core.
///
/// # Errors
/// A core that cannot be had; packets that were lost.
pub fn shaper(options: &ShaperOptions) -> Result<ShaperReport, ShaperBenchError> {
    on_core(options.core, |core| measure(options, core))
}

fn measure(options: &ShaperOptions, core: usize) -> Result<ShaperReport, ShaperBenchError> {
    let (build_ms, made) = timed(|| tree(options));
    let (mut shaper, classes) = made?;
    let standing = (options.queues * options.standing) as usize;
    let mut random = Random(options.seed);
    let queues = u64::from(options.queues);
    let pool = POOL.max(POOL_OF_QUEUE * options.queues as usize);
    let places: Vec<Place> = (0..(standing + pool).next_power_of_two())
        .map(|number| {
            let queue = if number < standing { number as u64 % queues } else { random.below(queues) };
            let flow = random.below(options.flows.into()) as u32;
            let class = classes[if options.hosts { 0 } else { queue as usize }];
            Place { class, host: queue as u32, flow }
        })
        .collect();
    let mut ring = Ring { packets: (0..places.len() as u32).collect(), head: 0, tail: 0, dropped: 0 };
    let clock = Clock::monotonic();
    let burst = usize::from(options.burst);
    let mut packets = Vec::with_capacity(burst);
    let fill = |ring: &mut Ring, packets: &mut Vec<Packet<Item>>, count: usize| {
        packets.extend((0..count).map(|_| {
            let number = ring.next();
            let Place { class, host, flow } = places[number as usize];
            let item = (NonZeroU64::MIN.saturating_add(number.into()), 0);
            Packet { class, host: host.into(), flow, len: PACKET_BYTES, item }
        }));
    };
    let mut left = standing;
    while left > 0 {
        let count = burst.min(left);
        fill(&mut ring, &mut packets, count);
        shaper.enqueue_burst(clock.now(), &mut packets, &mut ring);
        left -= count;
    }
    let (mut both, mut queueing) = (vec![], vec![]);
    let windows = options.windows as usize;
    let mut progress = Progress::new("measuring");
    for window in 0..WARM_UP + windows {
        let (mut enqueue, start) = (0, tsc::now());
        for _ in 0..WINDOW / burst {
            fill(&mut ring, &mut packets, burst);
            let now = clock.now();
            let before = tsc::now();
            shaper.enqueue_burst(now, &mut packets, &mut ring);
            enqueue += tsc::now().saturating_sub(before);
            let given = shaper.dequeue(now, burst, &mut ring);
            if given < burst || ring.dropped > 0 {
                return Err(ShaperBenchError::Dropped(ring.dropped + (burst - given) as u64));
            }
        }
        let cycles = |taken: u64| taken as f64 / (WINDOW / burst * burst) as f64;
        if window >= WARM_UP {
            both.push(cycles(tsc::now().saturating_sub(start)));
            queueing.push(cycles(enqueue));
        }
        progress.show((window * 100 / (WARM_UP + windows)) as u64);
    }
    let cycles_per_packet = median(&mut both);
    let ns = |cycles: f64| cycles * 1e9 / tsc::frequency();
    Ok(ShaperReport {
        queues: options.queues,
        standing: options.standing,
        flows: options.flows,
        hosts: options.hosts,
        burst: options.burst,
        ns_per_packet: ns(cycles_per_packet),
        cycles_per_packet,
        enqueue_ns: ns(median(&mut queueing)),
        packets: (windows * (WINDOW / burst * burst)) as u64,
        build_ms,
        bytes: shaper.bytes() as u64,
        core,
        tsc_hz: tsc::frequency().round() as u64,
    })
}

/// A port, a class below it, and in that the queues: classes, or hosts of one.
fn tree(options: &ShaperOptions) -> Result<(Shaper<Item>, Vec<NodeId>), ClassError> {
    let rates = Rates { max: Some(Rate { bits_per_second: FAST }), ..Rates::default() };
    let standing = options.queues * options.standing;
    let mut shaper = Shaper::new(&Config {
        rates,
        classes: options.queues + 1,
        hosts: if options.hosts { options.queues } else { 0 },
        flows: options.queues * options.flows,
        slots: standing + POOL as u32,
        seed: options.seed,
        ..Config::default()
    });
    // Packets that stand are no reason to drop here.
    let codel = Codel { target: u64::MAX, interval: u64::MAX, ecn: false };
    let usual = ClassConfig { rates, codel, ..ClassConfig::new(Kind::Leaf) };
    if options.hosts {
        let kind = Kind::Hosts(Hosts { rates, most: options.queues });
        let class = shaper.add_class(ROOT, &ClassConfig { kind, ..usual })?;
        return Ok((shaper, vec![class]));
    }
    let parent = shaper.add_class(ROOT, &ClassConfig { kind: Kind::Inner, ..usual })?;
    let queues: Result<_, _> = (0..options.queues).map(|_| shaper.add_class(parent, &usual)).collect();
    Ok((shaper, queues?))
}
