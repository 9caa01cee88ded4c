//! Against the RFCs' own words.

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
    let mut color = |now, bytes| profile.color(&mut meter, now, bytes, Color::Green);
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
    let mut color = |now, bytes| profile.color(&mut meter, now, bytes, Color::Green);
    assert_eq!(color(0, 1000), Color::Green);
    assert_eq!(color(0, 501), Color::Red);
    assert_eq!(color(0, 500), Color::Yellow);
    assert_eq!(color(100_000, 200), Color::Yellow);
    assert_eq!(color(200_000, 200), Color::Green);
    assert_eq!(color(200_000, 1), Color::Red);
}

#[test]
fn an_excess_rate_comes_on_top() {
    let profile = ExcessRate::new(rate(8_000_000), 1000, rate(16_000_000), 500);
    let mut meter = profile.meter(0);
    let mut color = |now, bytes, before| profile.color(&mut meter, now, bytes, before);
    assert_eq!(color(0, 600, Color::Green), Color::Green);
    assert_eq!(
        color(0, 400, Color::Yellow),
        Color::Yellow,
        "a packet that comes yellow leaves the committed rate alone"
    );
    assert_eq!(color(0, 400, Color::Green), Color::Green, "green takes from one bucket only");
    assert_eq!(color(0, 101, Color::Green), Color::Red);
    assert_eq!(color(0, 100, Color::Red), Color::Red);
    assert_eq!(color(0, 100, Color::Green), Color::Yellow);
    assert_eq!(color(1_000_000, 500, Color::Yellow), Color::Yellow);
    assert_eq!(color(1_000_000, 1000, Color::Green), Color::Green);
    assert_eq!(color(2_000_000, 1, Color::Green), Color::Green, "what overflows is lost");
}

#[test]
fn extremes_are_defined() {
    let most = SingleRate::new(rate(u64::MAX), u64::MAX, u64::MAX);
    let mut meter = most.meter(0);
    assert_eq!(most.color(&mut meter, u64::MAX, u16::MAX, Color::Green), Color::Green);
    let none = SingleRate::new(rate(0), 0, 0);
    let mut meter = none.meter(7);
    assert_eq!(none.color(&mut meter, u64::MAX, 0, Color::Green), Color::Green);
    assert_eq!(none.color(&mut meter, 0, 1, Color::Green), Color::Red);
    let peak = TwoRate::new(rate(u64::MAX), 1, rate(u64::MAX), u64::MAX);
    assert_eq!(peak.color(&mut peak.meter(0), u64::MAX, 2, Color::Green), Color::Yellow);
    assert_eq!(size_of::<Buckets>(), 32, "none lies on two lines");
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

    fn excess(&mut self, now: u64, bytes: u16, before: Color) -> Color {
        for i in 0..2 {
            let earned = (u128::from(now) - self.last) * self.rates[i];
            self.tokens[i] = (self.tokens[i] + earned).min(self.bursts[i]);
        }
        self.last = now.into();
        let cost = u128::from(bytes) * u128::from(BYTE);
        let from = match before {
            Color::Green if self.tokens[0] >= cost => 0,
            Color::Green | Color::Yellow if self.tokens[1] >= cost => 1,
            _ => return Color::Red,
        };
        self.tokens[from] -= cost;
        [Color::Green, Color::Yellow][from]
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
        let excess = ExcessRate::new(rate(rates[0]), bursts[0], rate(rates[1]), bursts[1]);
        let mut meters = [single.meter(0), two.meter(0), excess.meter(0)];
        let mut plain = [(); 3].map(|()| Plain::new(rates, bursts));
        let mut now = 0;
        for (gap, bytes, before) in packets {
            now += gap;
            let before = if aware { before } else { Color::Green };
            let [a, b, c] = &mut meters;
            let [plain_a, plain_b, plain_c] = &mut plain;
            prop_assert_eq!(single.color(a, now, bytes, before), plain_a.single(now, bytes, before));
            prop_assert_eq!(two.color(b, now, bytes, before), plain_b.two(now, bytes, before));
            prop_assert_eq!(excess.color(c, now, bytes, before), plain_c.excess(now, bytes, before));
        }
    }
}
