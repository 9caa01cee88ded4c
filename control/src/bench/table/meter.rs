//! Meters.

use std::hint::black_box;

use clap::Args;
use sluice_dataplane::arena::{HugePages, HugeVec};
use sluice_dataplane::clock::Clock;
use sluice_dataplane::table::meter::{Meter, Rate};
use sluice_dataplane::table::prefetch::prefetch_at;
use sluice_dataplane::table::tcm::{Buckets, Color, SingleRate, TwoRate};

use super::measure::{Case, Row, in_turn, judge, plainly, timed};
use super::random::Random;
use super::{Common, TableError};

/// Packets of one way through the data.
const PACKETS: usize = 1 << 18;
/// Ways through the data in a round, so that the bursts are used up and packets of each colour come.
const REPEAT: usize = 64;
/// How many meters ahead of its use one is fetched.
const AHEAD: usize = 16;
/// Half of what 150 million packets of 780 bytes a second are, in bits, for all meters together.
const RATE: u64 = 480_000_000_000;
const BURST_BYTES: u64 = 64_000;
/// Between the bursts of the untimed way through, whose time is virtual: 64 packets at 150 million a second.
const STEP_NS: u64 = 430;

/// Options of `meter`.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Meters, asked in random order
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,65536")]
    pub meters: Vec<u32>,
    #[command(flatten)]
    pub common: Common,
}

/// A kind of meter: its answer is 2 for green, or for a packet that passes, 1 for yellow, 0 for red.
trait Metered: Copy {
    type Meter: Copy;
    const NAME: &'static str;
    fn new(rate: u64) -> (Self, Self::Meter);
    fn ask(&self, meter: &mut Self::Meter, now: u64, bytes: u16) -> u8;
}

/// Bits a second; a byte's rate is an eighth.
fn rate(bits_per_second: u64) -> Rate {
    Rate { bits_per_second }
}

fn answer(color: Color) -> u8 {
    2 - color as u8
}

impl Metered for SingleRate {
    type Meter = Buckets;
    const NAME: &'static str = "srTCM (RFC 2697)";

    fn new(bits: u64) -> (Self, Buckets) {
        let profile = Self::new(rate(bits), BURST_BYTES, BURST_BYTES);
        (profile, profile.meter(0))
    }

    #[inline(always)]
    fn ask(&self, meter: &mut Buckets, now: u64, bytes: u16) -> u8 {
        answer(self.color(meter, now, bytes, Color::Green))
    }
}

impl Metered for TwoRate {
    type Meter = Buckets;
    const NAME: &'static str = "trTCM (RFC 2698)";

    fn new(bits: u64) -> (Self, Buckets) {
        let profile = Self::new(rate(bits), BURST_BYTES, rate(bits + bits / 2), BURST_BYTES);
        (profile, profile.meter(0))
    }

    #[inline(always)]
    fn ask(&self, meter: &mut Buckets, now: u64, bytes: u16) -> u8 {
        answer(self.color(meter, now, bytes, Color::Green))
    }
}

/// A bucket that keeps its rate itself.
#[derive(Clone, Copy)]
struct OneBucket;

impl Metered for OneBucket {
    type Meter = Meter;
    const NAME: &'static str = "token bucket";

    fn new(bits: u64) -> (Self, Meter) {
        (Self, Meter::new(rate(bits), BURST_BYTES))
    }

    #[inline(always)]
    fn ask(&self, meter: &mut Meter, now: u64, bytes: u16) -> u8 {
        u8::from(meter.allow(now, bytes)) * 2
    }
}

pub(super) fn measure(options: &Options) -> Result<Vec<Row>, TableError> {
    let mut rows = Vec::new();
    for &meters in &options.meters {
        if meters == 0 {
            return Err(TableError::Nothing("meters"));
        }
        let mut random = Random(options.common.seed);
        let packets: Vec<(u32, u16)> = (0..PACKETS)
            .map(|_| (random.below(meters.into()) as u32, 64 + random.below(1437) as u16))
            .collect();
        let cases = vec![
            case::<SingleRate>(&options.common, meters, &packets)?,
            case::<TwoRate>(&options.common, meters, &packets)?,
            case::<OneBucket>(&options.common, meters, &packets)?,
        ];
        rows.append(&mut in_turn(options.common.rounds, cases));
    }
    Ok(rows)
}

fn case<'a, M: Metered + 'a>(
    common: &Common,
    meters: u32,
    packets: &'a [(u32, u16)],
) -> Result<Case<'a>, TableError> {
    let bits = RATE / u64::from(meters);
    let (build_ms, (profile, table)) = timed(|| {
        let (profile, meter) = M::new(bits);
        let mut table = HugeVec::new_in(HugePages);
        table.resize(meters as usize, meter);
        (profile, table)
    });
    let mut row = Row {
        table: "meter",
        case: M::NAME.into(),
        entries: meters.into(),
        burst: common.burst,
        build_ms,
        bytes: (table.len() * size_of::<M>()) as u64,
        ..Row::default()
    };
    let burst = usize::from(common.burst);
    let time = |number: usize| (number / burst) as u64 * STEP_NS;
    let mut virtual_table = table.clone();
    let found: Vec<_> = packets
        .iter()
        .enumerate()
        .map(|(number, &(meter, bytes))| {
            u64::from(profile.ask(&mut virtual_table[meter as usize], time(number), bytes))
        })
        .collect();
    let mut plain = Plain::new(M::NAME, bits, meters);
    let wanted = plainly(common.check, packets.len(), |number| {
        let (meter, bytes) = packets[number];
        plain.ask(meter as usize, time(number), bytes)
    });
    judge(&mut row, &found, wanted.as_deref())?;
    row.hits = found.iter().filter(|&&answer| answer == 2).count() as u64;

    let (clock, mut table) = (Clock::monotonic(), table);
    let run = move |start: usize, end: usize| {
        let mut colors = 0;
        for packets in packets[start..end].chunks(burst) {
            let now = clock.now();
            for &(meter, _) in packets.iter().take(AHEAD) {
                prefetch_at(&table, meter as usize);
            }
            for (number, &(meter, bytes)) in packets.iter().enumerate() {
                if let Some(&(meter, _)) = packets.get(number + AHEAD) {
                    prefetch_at(&table, meter as usize);
                }
                if let Some(meter) = table.get_mut(meter as usize) {
                    colors += u64::from(profile.ask(meter, now, bytes));
                }
            }
        }
        black_box(colors);
    };
    Ok(Case { row, repeat: REPEAT, run: Box::new(run) })
}

/// The RFCs word by word, in 128 bits: two buckets, of which a token bucket uses one.
struct Plain {
    kind: &'static str,
    /// Bits a second into each bucket.
    rates: [u128; 2],
    meters: Vec<(u64, [u128; 2])>,
}

/// A byte in the units of which a nanosecond earns as many as the rate has bits a second.
const BYTE: u128 = 8_000_000_000;

impl Plain {
    fn new(kind: &'static str, bits: u64, meters: u32) -> Self {
        let full = u128::from(BURST_BYTES) * BYTE;
        let rates = [bits.into(), (bits + bits / 2).into()];
        Self { kind, rates, meters: vec![(0, [full; 2]); meters as usize] }
    }

    fn ask(&mut self, meter: usize, now: u64, bytes: u16) -> u64 {
        let full = u128::from(BURST_BYTES) * BYTE;
        let (last, [first, second]) = &mut self.meters[meter];
        let elapsed = u128::from(now - *last);
        *last = now;
        let cost = u128::from(bytes) * BYTE;
        let earned = elapsed * self.rates[0];
        let over = (*first + earned).saturating_sub(full);
        *first = full.min(*first + earned);
        if self.kind == TwoRate::NAME {
            *second = full.min(*second + elapsed * self.rates[1]);
            if *second < cost {
                return 0;
            }
            *second -= cost;
        } else if self.kind == SingleRate::NAME {
            *second = full.min(*second + over);
        }
        if *first >= cost {
            *first -= cost;
            return 2;
        }
        if self.kind == SingleRate::NAME {
            if *second < cost {
                return 0;
            }
            *second -= cost;
            return 1;
        }
        u64::from(self.kind == TwoRate::NAME)
    }
}
