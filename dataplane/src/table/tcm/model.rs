//! A policer's figures, whichever model they are of, and what asks its meters.

use super::{Buckets, Color, ExcessRate, SingleRate, TwoRate};
use crate::table::meter::Rate;

/// Which RFC a meter goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// RFC 2697: one rate; what overflows the first bucket fills the second. With an excess burst of 0, a plain token
    /// bucket, which knows green and red.
    #[default]
    SingleRate,
    /// RFC 2698: the second rate is the peak, of which the first is part.
    TwoRate,
    /// RFC 4115: the second rate comes on top of the first.
    ExcessRate,
}

/// Rates and bursts of a policer. Tokens are bytes; or packets, if each packet is counted as one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// What they mean.
    pub model: Model,
    /// CIR, and PIR or EIR, in bits (eighths of a token) per second. A single rate has no second one.
    pub rates: [Rate; 2],
    /// CBS, and EBS or PBS, in tokens.
    pub bursts: [u64; 2],
}

/// [`Figures`] made ready to be asked.
#[derive(Clone, Copy, Debug)]
pub enum Profile {
    /// RFC 2697.
    SingleRate(SingleRate),
    /// RFC 2698.
    TwoRate(TwoRate),
    /// RFC 4115.
    ExcessRate(ExcessRate),
}

impl Figures {
    /// Makes them ready.
    #[must_use]
    pub fn profile(&self) -> Profile {
        let ([first, second], [committed, other]) = (self.rates, self.bursts);
        match self.model {
            Model::SingleRate => Profile::SingleRate(SingleRate::new(first, committed, other)),
            Model::TwoRate => Profile::TwoRate(TwoRate::new(first, committed, second, other)),
            Model::ExcessRate => Profile::ExcessRate(ExcessRate::new(first, committed, second, other)),
        }
    }

    /// The rate that is never exceeded for long, in bits per second.
    #[must_use]
    pub fn most(&self) -> u64 {
        let [first, second] = self.rates.map(|rate| rate.bits_per_second);
        match self.model {
            Model::SingleRate => first,
            Model::TwoRate => second,
            Model::ExcessRate => first.saturating_add(second),
        }
    }

    /// The part of these figures that goes with `part` of `whole`; of each burst that there is, at least `least` tokens.
    #[must_use]
    pub fn part(&self, part: u64, whole: u64, least: u64) -> Self {
        let of = |n: u64| (u128::from(n) * u128::from(part) / u128::from(whole.max(1))) as u64;
        Self {
            model: self.model,
            rates: self.rates.map(|rate| Rate { bits_per_second: of(rate.bits_per_second) }),
            bursts: self.bursts.map(|burst| of(burst).max(least).min(burst)),
        }
    }
}

impl Profile {
    /// A meter whose buckets are full at the time `now_ns`.
    #[must_use]
    pub fn meter(&self, now_ns: u64) -> Buckets {
        match self {
            Self::SingleRate(profile) => profile.meter(now_ns),
            Self::TwoRate(profile) => profile.meter(now_ns),
            Self::ExcessRate(profile) => profile.meter(now_ns),
        }
    }

    /// As [`SingleRate::color`].
    #[inline]
    pub fn color(&self, meter: &mut Buckets, now_ns: u64, tokens: u16, before: Color) -> Color {
        match self {
            Self::SingleRate(profile) => profile.color(meter, now_ns, tokens, before),
            Self::TwoRate(profile) => profile.color(meter, now_ns, tokens, before),
            Self::ExcessRate(profile) => profile.color(meter, now_ns, tokens, before),
        }
    }

    /// What a meter's buckets lack at the time `now_ns`, in all, in units of which a token is 8 * 10^9. A meter that lacks
    /// nothing is as good as new.
    #[inline]
    #[must_use]
    pub fn lacks(&self, meter: &Buckets, now_ns: u64) -> u64 {
        let (full, [first, second]) = match self {
            Self::SingleRate(profile) => (profile.meter(0), profile.filled(meter, now_ns)),
            Self::TwoRate(profile) => (profile.meter(0), profile.filled(meter, now_ns)),
            Self::ExcessRate(ExcessRate(profile)) => (profile.meter(0), profile.filled(meter, now_ns)),
        };
        (full.committed - first) + (full.second - second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABIT: Rate = Rate { bits_per_second: 8_000_000 };

    #[test]
    fn a_meter_lacks_what_was_taken_until_it_is_earned() {
        for model in [Model::SingleRate, Model::TwoRate, Model::ExcessRate] {
            let figures = Figures { model, rates: [MEGABIT; 2], bursts: [1000, 500] };
            let profile = figures.profile();
            let mut meter = profile.meter(0);
            assert_eq!(profile.lacks(&meter, 0), 0);
            assert_eq!(profile.color(&mut meter, 0, 400, Color::Green), Color::Green);
            let taken = if model == Model::TwoRate { 800 } else { 400 };
            assert_eq!(profile.lacks(&meter, 0), taken * 8_000_000_000, "{model:?}");
            assert_eq!(profile.lacks(&meter, 399_000) > 0, profile.lacks(&meter, 400_000) == 0);
        }
    }

    #[test]
    fn parts_make_the_whole_and_leave_a_burst_for_a_packet() {
        let figures = Figures { model: Model::TwoRate, rates: [MEGABIT; 2], bursts: [8000, 500] };
        let part = figures.part(1, 4, 3000);
        assert_eq!(part.rates.map(|rate| rate.bits_per_second), [2_000_000; 2]);
        assert_eq!(part.bursts, [3000, 500], "never more than the whole");
        assert_eq!(figures.part(0, 0, 0).most(), 0);
        assert_eq!(Figures { model: Model::ExcessRate, ..figures }.most(), 16_000_000);
    }
}
