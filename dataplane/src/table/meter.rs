//! Token buckets: bits per second for policing, packets per second for what we originate ourselves.
//!
//! Exact, without division and without remainders to carry: credit is counted in units so small that each
//! nanosecond earns a whole number of them. At R bits per second, a nanosecond earns R units and a bit costs
//! 10^9. Everything saturates, so any sequence of times and sizes is safe.

use super::select::select;

/// What a bit, and likewise a packet, costs.
const UNITS: u64 = 1_000_000_000;

/// A rate in bits per second, of the bytes that the caller chooses to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Bits per second.
    pub bits_per_second: u64,
}

/// A token bucket whose token costs `COST` units. Use [`Meter`] or [`PacketMeter`].
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct TokenBucket<const COST: u64> {
    /// Earned per nanosecond.
    rate: u64,
    /// The most that can be saved.
    depth: u64,
    credit: u64,
    /// The latest time seen, in nanoseconds.
    last: u64,
}

/// Tokens are bytes.
pub type Meter = TokenBucket<{ 8 * UNITS }>;

/// Tokens are packets.
pub type PacketMeter = TokenBucket<UNITS>;

impl Meter {
    /// A full bucket that refills at `rate` and holds `burst_bytes`. A packet larger than the burst never
    /// passes. Bursts above 2,305,843,009 bytes count as that.
    #[must_use]
    pub fn new(rate: Rate, burst_bytes: u64) -> Self {
        Self::full(rate.bits_per_second, burst_bytes)
    }
}

impl PacketMeter {
    /// A full bucket that refills at `packets_per_second` and holds `burst` packets. Bursts above
    /// 18,446,744,073 packets count as that.
    #[must_use]
    pub fn new(packets_per_second: u64, burst: u64) -> Self {
        Self::full(packets_per_second, burst)
    }
}

impl<const COST: u64> TokenBucket<COST> {
    fn full(rate: u64, burst: u64) -> Self {
        let depth = burst.min(u64::MAX / COST) * COST;
        Self { rate, depth, credit: depth, last: 0 }
    }

    /// Changes rate and burst, in tokens, from `now_ns` on. What has been earned is kept, as far as the burst holds it.
    pub fn adjust(&mut self, now_ns: u64, rate: u64, burst: u64) {
        // Earns what is due.
        self.allow(now_ns, 0);
        self.rate = rate;
        self.depth = burst.min(u64::MAX / COST) * COST;
        self.credit = self.credit.min(self.depth);
    }

    /// What has been saved, in parts of a token, and at what time in nanoseconds.
    #[must_use]
    pub fn saved(&self) -> (u64, u64) {
        (self.credit, self.last)
    }

    /// Goes on with what another bucket of the same figures had [saved](Self::saved).
    pub fn go_on(&mut self, (credit, last): (u64, u64)) {
        (self.credit, self.last) = (credit.min(self.depth), last);
    }

    /// Takes `tokens` (bytes, or packets) at the time `now_ns`; `false`, and nothing taken, where there are not
    /// so many. Time that runs backwards earns nothing until it has caught up. Without a branch: which packets
    /// pass is what no predictor can know.
    #[inline(always)]
    pub fn allow(&mut self, now_ns: u64, tokens: u16) -> bool {
        let earned = now_ns.saturating_sub(self.last).saturating_mul(self.rate);
        let credit = self.credit.saturating_add(earned);
        let credit = select(credit < self.depth, credit, self.depth);
        let cost = u64::from(tokens) * COST;
        let passes = credit >= cost;
        self.credit = select(passes, credit.wrapping_sub(cost), credit);
        self.last = self.last.max(now_ns);
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3600 * SECOND;

    #[test]
    fn starts_full_and_refills_at_the_rate() {
        // 8 Mbit/s is a byte per microsecond.
        let mut meter = Meter::new(Rate { bits_per_second: 8_000_000 }, 1500);
        assert!(meter.allow(5, 1500));
        assert!(!meter.allow(5, 1));
        assert!(!meter.allow(1004, 1));
        assert!(meter.allow(1005, 1));
        assert!(!meter.allow(1005, 1));
        assert!(meter.allow(HOUR, 1500));
        assert!(!meter.allow(HOUR, 1), "a long pause saves no more than the burst");
        let mut meter = PacketMeter::new(1 << 32, 1);
        assert!(meter.allow(0, 1));
        assert!(
            meter.allow(1 << 32, 1),
            "a pause whose product with the rate wraps to nothing still refills"
        );
    }

    #[test]
    fn a_refusal_takes_nothing_and_zero_rate_and_burst_are_defined() {
        let mut meter = Meter::new(Rate { bits_per_second: 8 }, 100);
        assert!(!meter.allow(0, 101));
        assert!(meter.allow(0, 100));
        let mut never = Meter::new(Rate { bits_per_second: u64::MAX }, 0);
        assert!(!never.allow(u64::MAX, 1));
        assert!(never.allow(u64::MAX, 0));
        let mut once = PacketMeter::new(0, 1);
        assert!(once.allow(0, 1));
        assert!(!once.allow(u64::MAX, 1));
    }

    #[test]
    fn a_bucket_that_is_changed_keeps_what_it_has_earned() {
        let mut meter = PacketMeter::new(1000, 10);
        assert!(meter.allow(0, 10));
        // Five earned at the old rate.
        meter.adjust(5_000_000, 2000, 4);
        assert!(
            meter.allow(5_000_000, 4) && !meter.allow(5_000_000, 1),
            "one was too many for the new burst"
        );
        assert!(!meter.allow(5_400_000, 1) && meter.allow(5_500_000, 1));
        meter.adjust(5_500_000, 2000, 100);
        assert!(!meter.allow(5_500_000, 1), "more room is no credit");
    }

    #[test]
    fn time_that_goes_back_and_forth_mints_nothing() {
        let mut meter = PacketMeter::new(1000, 10);
        assert!(meter.allow(HOUR, 10));
        for _ in 0..1000 {
            assert!(!meter.allow(0, 1));
            assert!(!meter.allow(HOUR, 1));
        }
        assert!(meter.allow(HOUR + 1_000_000, 1));
        assert!(meter.allow(u64::MAX, 10));
        assert!(!meter.allow(u64::MAX, 1));
    }

    #[test]
    fn huge_bursts_and_sizes_saturate() {
        let mut meter = Meter::new(Rate { bits_per_second: u64::MAX }, u64::MAX);
        let largest = Meter::new(Rate { bits_per_second: u64::MAX }, 2_305_843_009);
        assert_eq!((meter.depth, meter.credit), (largest.depth, largest.depth));
        let left = meter.credit - 65_535 * 8 * UNITS;
        assert!(meter.allow(0, u16::MAX) && meter.credit == left);
        assert!(meter.allow(u64::MAX, 0) && meter.credit == largest.depth);
    }

    /// The same bucket in tokens held as a fraction over the units of a second, at 128 bits.
    struct Oracle {
        rate: u128,
        depth: u128,
        level: u128,
        last: u128,
        cost: u128,
    }

    impl Oracle {
        fn allow(&mut self, now: u128, tokens: u128) -> bool {
            self.level = self.depth.min(self.level + (now - self.last) * self.rate);
            self.last = now;
            let passes = self.level >= tokens * self.cost;
            if passes {
                self.level -= tokens * self.cost;
            }
            passes
        }
    }

    fn rates() -> impl Strategy<Value = u64> {
        prop_oneof![
            8..1000u64,
            1_000..100_000_000u64,
            100_000_000..=400_000_000_000u64,
            Just(400_000_000_000)
        ]
    }

    /// Gaps that matter at some rate: from none to hours.
    fn gaps() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 0..100u64, 0..10_000u64, 0..10_000_000u64, 0..SECOND, 0..3 * HOUR]
    }

    proptest! {
        #![proptest_config(crate::table::cases(200))]

        #[test]
        fn decides_as_exact_arithmetic_does(
            rate in rates(),
            burst in 0..2_000_000_000u64,
            packets in prop::collection::vec((gaps(), 0..=9216u16), 0..300),
        ) {
            let mut meter = Meter::new(Rate { bits_per_second: rate }, burst);
            let depth = u128::from(burst) * 8_000_000_000;
            let mut oracle =
                Oracle { rate: rate.into(), depth, level: depth, last: 0, cost: 8_000_000_000 };
            let mut now = 0;
            for (gap, bytes) in packets {
                now += gap;
                prop_assert_eq!(meter.allow(now, bytes), oracle.allow(now.into(), bytes.into()));
            }
        }

        /// What passes in any interval is at most rate * interval + burst, and under a load that never lets up
        /// it is at least that, less one packet.
        #[test]
        fn a_saturating_load_gets_its_rate_to_within_one_packet(
            rate in rates(), burst_packets in 2..10u64, bytes in 64..=9000u16, jitter in 1..1000u64,
        ) {
            let burst = burst_packets * u64::from(bytes);
            let mut meter = Meter::new(Rate { bits_per_second: rate }, burst);
            let packet_ns = u128::from(bytes) * 8_000_000_000 / u128::from(rate);
            // Less often than once a packet's time would not be a load that never lets up.
            let step = (packet_ns as u64 / 3).min(packet_ns as u64 * jitter / 1000).max(1);
            let (mut now, mut passed) = (0u64, 0u128);
            for _ in 0..2000 {
                while meter.allow(now, bytes) {
                    passed += u128::from(bytes);
                }
                let most = u128::from(now) * u128::from(rate) / 8_000_000_000 + u128::from(burst);
                prop_assert!(passed <= most, "{passed} of at most {most} bytes");
                prop_assert!(passed + u128::from(bytes) > most, "{passed} of {most} bytes");
                now += step;
            }
        }
    }
}
