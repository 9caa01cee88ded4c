//! Three-colour meters: single rate (RFC 2697) and two rates (RFC 2698), colour-blind and colour-aware.
//!
//! What many meters have in common is a profile; what each has of its own is half a cache line. Exact, as [`super::meter`] is: a
//! nanosecond earns as many units as the rate has bits per second, and a bit costs 10^9. Without branches, as the colour
//! of a packet is what no predictor can know.

use super::meter::Rate;
use super::select::{least, select};

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
    pub fn meter(&self, now_ns: u64) -> SingleRateMeter {
        SingleRateMeter { last: now_ns, committed: self.committed_burst, excess: self.excess_burst }
    }
}

/// A single-rate three-colour meter.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct SingleRateMeter {
    /// The latest time seen, in nanoseconds.
    last: u64,
    committed: u64,
    excess: u64,
}

impl SingleRateMeter {
    /// The colour of a packet of so many bytes at the time `now_ns`, in nanoseconds, with the profile that the meter was
    /// made of. `before` is the packet's colour from a meter ahead; green for a colour-blind meter. Time that runs
    /// backwards earns nothing until it has caught up.
    #[inline(always)]
    pub fn color(&mut self, profile: &SingleRate, now_ns: u64, bytes: u16, before: Color) -> Color {
        let earned = profile.committed.earned(now_ns.saturating_sub(self.last));
        let (filled, cost) = (self.committed + earned, u64::from(bytes) * BYTE);
        let committed = least(filled, profile.committed_burst);
        // What the committed bucket cannot hold goes to the other.
        let excess = least(self.excess + (filled - committed), profile.excess_burst);
        let green = (before == Color::Green) & (committed >= cost);
        let yellow = (before != Color::Red) & !green & (excess >= cost);
        self.last = self.last.max(now_ns);
        self.committed = select(green, committed.wrapping_sub(cost), committed);
        self.excess = select(yellow, excess.wrapping_sub(cost), excess);
        Color::choose(green, yellow)
    }
}

/// Rates and bursts of two-rate meters.
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
    pub fn meter(&self, now_ns: u64) -> TwoRateMeter {
        TwoRateMeter { last: now_ns, committed: self.committed_burst, peak: self.peak_burst }
    }
}

/// A two-rate three-colour meter.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct TwoRateMeter {
    /// The latest time seen, in nanoseconds.
    last: u64,
    committed: u64,
    peak: u64,
}

impl TwoRateMeter {
    /// As [`SingleRateMeter::color`].
    #[inline(always)]
    pub fn color(&mut self, profile: &TwoRate, now_ns: u64, bytes: u16, before: Color) -> Color {
        let (elapsed, cost) = (now_ns.saturating_sub(self.last), u64::from(bytes) * BYTE);
        let committed = least(self.committed + profile.committed.earned(elapsed), profile.committed_burst);
        let peak = least(self.peak + profile.peak.earned(elapsed), profile.peak_burst);
        let passes = (before != Color::Red) & (peak >= cost);
        let green = passes & (before == Color::Green) & (committed >= cost);
        self.last = self.last.max(now_ns);
        self.committed = select(green, committed.wrapping_sub(cost), committed);
        self.peak = select(passes, peak.wrapping_sub(cost), peak);
        Color::choose(green, passes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(bits_per_second: u64) -> Rate {
        Rate { bits_per_second }
    }

    #[test]
    fn a_single_rate_fills_the_committed_bucket_first() {
        // A byte per microsecond.
        let profile = SingleRate::new(rate(8_000_000), 1000, 500);
        let mut meter = profile.meter(0);
        let mut color = |now, bytes| meter.color(&profile, now, bytes, Color::Green);
        assert_eq!(color(0, 1000), Color::Green);
        assert_eq!(color(0, 400), Color::Yellow);
        assert_eq!(color(0, 101), Color::Red);
        assert_eq!(color(0, 100), Color::Yellow, "a red packet takes nothing");
        assert_eq!(color(1_000_000, 1000), Color::Green);
        assert_eq!(color(1_000_000, 1), Color::Red, "nothing flowed over");
        assert_eq!(color(2_200_000, 1001), Color::Red);
        assert_eq!(color(2_200_000, 1000), Color::Green);
        assert_eq!(color(2_200_000, 200), Color::Yellow, "what flowed over");
        assert_eq!(color(u64::MAX, 1000), Color::Green);
        assert_eq!(color(0, 500), Color::Yellow, "time that runs backwards earns nothing");
        assert_eq!(color(u64::MAX, 1), Color::Red);
    }

    #[test]
    fn two_rates_count_green_in_both_buckets() {
        let profile = TwoRate::new(rate(8_000_000), 1000, rate(16_000_000), 1500);
        let mut meter = profile.meter(0);
        let mut color = |now, bytes| meter.color(&profile, now, bytes, Color::Green);
        assert_eq!(color(0, 1000), Color::Green);
        assert_eq!(color(0, 501), Color::Red);
        assert_eq!(color(0, 500), Color::Yellow);
        assert_eq!(color(100_000, 200), Color::Yellow);
        assert_eq!(color(200_000, 200), Color::Green);
        assert_eq!(color(200_000, 1), Color::Red);
    }

    #[test]
    fn extremes_are_defined() {
        let most = SingleRate::new(rate(u64::MAX), u64::MAX, u64::MAX);
        let mut meter = most.meter(0);
        assert_eq!(meter.color(&most, u64::MAX, u16::MAX, Color::Green), Color::Green);
        let none = SingleRate::new(rate(0), 0, 0);
        let mut meter = none.meter(7);
        assert_eq!(meter.color(&none, u64::MAX, 0, Color::Green), Color::Green);
        assert_eq!(meter.color(&none, 0, 1, Color::Green), Color::Red);
        let peak = TwoRate::new(rate(u64::MAX), 1, rate(u64::MAX), u64::MAX);
        assert_eq!(peak.meter(0).color(&peak, u64::MAX, 2, Color::Green), Color::Yellow);
        assert!(
            size_of::<SingleRateMeter>() == 32 && size_of::<TwoRateMeter>() == 32,
            "none lies on two lines"
        );
    }

    /// The RFCs' own words, in whole units of 128 bits.
    struct Plain {
        rates: [u128; 2],
        bursts: [u128; 2],
        tokens: [u128; 2],
        last: u128,
    }

    impl Plain {
        fn new(rates: [u64; 2], bursts: [u64; 2]) -> Self {
            let bursts = bursts.map(|burst| u128::from(burst) * u128::from(BYTE));
            Self { rates: rates.map(u128::from), bursts, tokens: bursts, last: 0 }
        }

        fn single(&mut self, now: u64, bytes: u16, before: Color) -> Color {
            let mut earned = (u128::from(now) - self.last) * self.rates[0];
            self.last = now.into();
            for (tokens, burst) in self.tokens.iter_mut().zip(self.bursts) {
                let taken = earned.min(burst - *tokens);
                *tokens += taken;
                earned -= taken;
            }
            let cost = u128::from(bytes) * u128::from(BYTE);
            if before == Color::Green && self.tokens[0] >= cost {
                self.tokens[0] -= cost;
                Color::Green
            } else if before != Color::Red && self.tokens[1] >= cost {
                self.tokens[1] -= cost;
                Color::Yellow
            } else {
                Color::Red
            }
        }

        fn two(&mut self, now: u64, bytes: u16, before: Color) -> Color {
            for i in 0..2 {
                let earned = (u128::from(now) - self.last) * self.rates[i];
                self.tokens[i] = (self.tokens[i] + earned).min(self.bursts[i]);
            }
            self.last = now.into();
            let cost = u128::from(bytes) * u128::from(BYTE);
            if before == Color::Red || self.tokens[1] < cost {
                return Color::Red;
            }
            self.tokens[1] -= cost;
            if before == Color::Yellow || self.tokens[0] < cost {
                return Color::Yellow;
            }
            self.tokens[0] -= cost;
            Color::Green
        }
    }

    fn rates() -> impl Strategy<Value = u64> {
        prop_oneof![0..1000u64, 1_000..100_000_000u64, 100_000_000..=400_000_000_000u64]
    }

    fn packets() -> impl Strategy<Value = Vec<(u64, u16, Color)>> {
        let gap = prop_oneof![Just(0), 0..100u64, 0..10_000u64, 0..10_000_000u64, 0..10_000_000_000_000u64];
        let color = prop_oneof![3 => Just(Color::Green), 1 => Just(Color::Yellow), 1 => Just(Color::Red)];
        prop::collection::vec((gap, 0..=9216u16, color), 0..300)
    }

    proptest! {
        #![proptest_config(crate::table::cases(300))]

        /// Every colour is that of a plain reading, which is better than within one packet.
        #[test]
        fn colors_are_those_of_a_plain_reading(
            rates in [rates(), rates()],
            bursts in prop_oneof![[0..20_000u64, 0..20_000u64], [0..200_000_000u64, 0..200_000_000u64]],
            packets in packets(),
            aware in any::<bool>(),
        ) {
            let single = SingleRate::new(rate(rates[0]), bursts[0], bursts[1]);
            let two = TwoRate::new(rate(rates[0]), bursts[0], rate(rates[1]), bursts[1]);
            let mut meters = (single.meter(0), two.meter(0));
            let mut plain = (Plain::new(rates, bursts), Plain::new(rates, bursts));
            let mut now = 0;
            for (gap, bytes, before) in packets {
                now += gap;
                let before = if aware { before } else { Color::Green };
                prop_assert_eq!(meters.0.color(&single, now, bytes, before), plain.0.single(now, bytes, before));
                prop_assert_eq!(meters.1.color(&two, now, bytes, before), plain.1.two(now, bytes, before));
            }
        }
    }
}
