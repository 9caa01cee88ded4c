//! Three-colour meters: single rate (RFC 2697), two rates (RFC 2698) and two rates side by side (RFC 4115), colour-blind and
//! colour-aware.
//!
//! What many meters have in common is a profile; what each has of its own is half a cache line. Exact, as [`super::meter`] is: a
//! nanosecond earns as many units as the rate has bits per second, and a bit costs 10^9. Without branches, as the colour
//! of a packet is what no predictor can know.

use super::meter::Rate;
use super::select::{least, select};

pub mod model;

/// What a byte costs.
const BYTE: u64 = 8_000_000_000;
/// The largest burst in units, so that two of them and what a nanosecond earns can be added.
const DEEPEST: u64 = 1 << 61;

/// What a meter says of a packet; and what one ahead of it said, for a colour-aware meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Color {
    /// Within the committed burst.
    Green = 0,
    /// Beyond that, within the excess or peak burst.
    Yellow = 1,
    /// Beyond both.
    Red = 2,
}

impl Color {
    /// Without a branch.
    #[inline(always)]
    fn choose(green: bool, yellow: bool) -> Self {
        select(green, Self::Green, select(yellow, Self::Yellow, Self::Red))
    }
}

/// A rate in units a nanosecond, and the time after which more earns nothing.
#[derive(Clone, Copy, Debug)]
struct Earning {
    rate: u64,
    /// Nanoseconds.
    longest: u64,
}

impl Earning {
    /// At a rate, into buckets of so many units in all.
    fn new(rate: Rate, depth: u64) -> Self {
        let rate = rate.bits_per_second.min(DEEPEST);
        Self { rate, longest: depth.checked_div(rate).map_or(0, |time| time + 1) }
    }

    #[inline(always)]
    fn earned(&self, elapsed: u64) -> u64 {
        elapsed.min(self.longest) * self.rate
    }
}

fn units(bytes: u64) -> u64 {
    bytes.saturating_mul(BYTE).min(DEEPEST)
}

/// What one meter has of its own: two buckets of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(32))]
pub struct Buckets {
    /// The latest time seen, in nanoseconds.
    last: u64,
    /// Of the committed rate.
    committed: u64,
    /// Of the excess, or of the peak rate.
    second: u64,
}

impl Buckets {
    /// Takes a packet out of the first bucket that may give it, once both have earned. Green counts in one bucket only.
    #[inline(always)]
    fn take_from_one(
        &mut self,
        now_ns: u64,
        [committed, excess]: [u64; 2],
        bytes: u16,
        before: Color,
    ) -> Color {
        let cost = u64::from(bytes) * BYTE;
        let green = (before == Color::Green) & (committed >= cost);
        let yellow = (before != Color::Red) & !green & (excess >= cost);
        self.last = self.last.max(now_ns);
        self.committed = select(green, committed.wrapping_sub(cost), committed);
        self.second = select(yellow, excess.wrapping_sub(cost), excess);
        Color::choose(green, yellow)
    }
}

/// Rates and bursts of single-rate meters.
#[derive(Clone, Copy, Debug)]
pub struct SingleRate {
    committed: Earning,
    committed_burst: u64,
    excess_burst: u64,
}

impl SingleRate {
    /// CIR, and CBS and EBS in bytes (RFC 2697, 2). Bursts above 288,230,376 bytes count as that, and rates above
    /// 2^61 bits per second too.
    #[must_use]
    pub fn new(committed: Rate, committed_burst: u64, excess_burst: u64) -> Self {
        let (committed_burst, excess_burst) = (units(committed_burst), units(excess_burst));
        let committed = Earning::new(committed, committed_burst + excess_burst);
        Self { committed, committed_burst, excess_burst }
    }

    /// A meter whose buckets are full at the time `now_ns`.
    #[must_use]
    pub fn meter(&self, now_ns: u64) -> Buckets {
        Buckets { last: now_ns, committed: self.committed_burst, second: self.excess_burst }
    }

    /// What a meter holds at the time `now_ns`.
    #[inline(always)]
    fn filled(&self, meter: &Buckets, now_ns: u64) -> [u64; 2] {
        let filled = meter.committed + self.committed.earned(now_ns.saturating_sub(meter.last));
        let committed = least(filled, self.committed_burst);
        // What the committed bucket cannot hold goes to the other.
        [committed, least(meter.second + (filled - committed), self.excess_burst)]
    }

    /// The colour of a packet of so many bytes at the time `now_ns`, in nanoseconds, by a meter that was made of this
    /// profile. `before` is the packet's colour from a meter ahead; green for a colour-blind meter. Time that runs
    /// backwards earns nothing until it has caught up.
    #[inline(always)]
    pub fn color(&self, meter: &mut Buckets, now_ns: u64, bytes: u16, before: Color) -> Color {
        meter.take_from_one(now_ns, self.filled(meter, now_ns), bytes, before)
    }
}

/// Rates and bursts of two-rate meters, whose committed rate is part of the peak rate (RFC 2698).
#[derive(Clone, Copy, Debug)]
pub struct TwoRate {
    committed: Earning,
    peak: Earning,
    committed_burst: u64,
    peak_burst: u64,
}

impl TwoRate {
    /// CIR and CBS, PIR and PBS, bursts in bytes (RFC 2698, 2). The limits are those of [`SingleRate::new`].
    #[must_use]
    pub fn new(committed: Rate, committed_burst: u64, peak: Rate, peak_burst: u64) -> Self {
        let (committed_burst, peak_burst) = (units(committed_burst), units(peak_burst));
        let (committed, peak) = (Earning::new(committed, committed_burst), Earning::new(peak, peak_burst));
        Self { committed, peak, committed_burst, peak_burst }
    }

    /// A meter whose buckets are full at the time `now_ns`.
    #[must_use]
    pub fn meter(&self, now_ns: u64) -> Buckets {
        Buckets { last: now_ns, committed: self.committed_burst, second: self.peak_burst }
    }

    /// What a meter holds at the time `now_ns`.
    #[inline(always)]
    fn filled(&self, meter: &Buckets, now_ns: u64) -> [u64; 2] {
        let elapsed = now_ns.saturating_sub(meter.last);
        [
            least(meter.committed + self.committed.earned(elapsed), self.committed_burst),
            least(meter.second + self.peak.earned(elapsed), self.peak_burst),
        ]
    }

    /// As [`SingleRate::color`].
    #[inline(always)]
    pub fn color(&self, meter: &mut Buckets, now_ns: u64, bytes: u16, before: Color) -> Color {
        let ([committed, peak], cost) = (self.filled(meter, now_ns), u64::from(bytes) * BYTE);
        let passes = (before != Color::Red) & (peak >= cost);
        let green = passes & (before == Color::Green) & (committed >= cost);
        meter.last = meter.last.max(now_ns);
        meter.committed = select(green, committed.wrapping_sub(cost), committed);
        meter.second = select(passes, peak.wrapping_sub(cost), peak);
        Color::choose(green, passes)
    }
}

/// Rates and bursts of two-rate meters, whose excess rate comes on top of the committed rate (RFC 4115).
#[derive(Clone, Copy, Debug)]
pub struct ExcessRate(TwoRate);

impl ExcessRate {
    /// CIR and CBS, EIR and EBS, bursts in bytes (RFC 4115, 2). The limits are those of [`SingleRate::new`].
    #[must_use]
    pub fn new(committed: Rate, committed_burst: u64, excess: Rate, excess_burst: u64) -> Self {
        Self(TwoRate::new(committed, committed_burst, excess, excess_burst))
    }

    /// A meter whose buckets are full at the time `now_ns`.
    #[must_use]
    pub fn meter(&self, now_ns: u64) -> Buckets {
        self.0.meter(now_ns)
    }

    /// As [`SingleRate::color`].
    #[inline(always)]
    pub fn color(&self, meter: &mut Buckets, now_ns: u64, bytes: u16, before: Color) -> Color {
        meter.take_from_one(now_ns, self.0.filled(meter, now_ns), bytes, before)
    }
}

#[cfg(test)]
#[path = "tcm/tests.rs"]
mod tests;
