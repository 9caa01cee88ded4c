//! Gaps between two polls of a worker's loop, those asleep left out, from what it counts of its turns.

use hdrhistogram::Histogram;
use serde::Serialize;
use sluice_dataplane::pulse::{self, Turns};

/// How long the gaps were, in microseconds: the median, two quantiles, and the longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Gaps {
    /// The median.
    pub gap_p50_us: Option<f64>,
    /// The 99th percentile.
    pub gap_p99_us: Option<f64>,
    /// One in a thousand was longer.
    pub gap_p999_us: Option<f64>,
    /// The longest.
    pub gap_max_us: Option<f64>,
}

/// What a tick of the time-stamp counter is.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Nanoseconds.
    pub nanoseconds: f64,
}

impl Tick {
    /// So many ticks in nanoseconds.
    pub fn times(self, ticks: u64) -> u64 {
        (ticks as f64 * self.nanoseconds) as u64
    }
}

impl Gaps {
    /// Of these turns.
    pub fn of(turns: &Turns, tick: Tick) -> Self {
        let Some(gaps) = histogram(turns, tick) else { return Self::default() };
        let microseconds = |nanoseconds: u64| Some((nanoseconds as f64 / 100.0).round() / 10.0);
        Self {
            gap_p50_us: microseconds(gaps.value_at_quantile(0.5)),
            gap_p99_us: microseconds(gaps.value_at_quantile(0.99)),
            gap_p999_us: microseconds(gaps.value_at_quantile(0.999)),
            gap_max_us: microseconds(gaps.max()),
        }
    }
}

/// How many gaps there were, by the nanoseconds that they took at the least; an eighth longer at the most.
pub fn rows(turns: &Turns, tick: Tick) -> Vec<(u64, u64)> {
    let taken = turns.lengths.iter().enumerate().filter(|(_, count)| **count > 0);
    taken.map(|(place, &count)| (tick.times(pulse::least(place)), count)).collect()
}

/// In nanoseconds, each as long as it was at the most. None if there were none.
fn histogram(turns: &Turns, tick: Tick) -> Option<Histogram<u64>> {
    let mut histogram = Histogram::new(3).ok()?;
    for (place, &count) in turns.lengths.iter().enumerate().filter(|(_, count)| **count > 0) {
        let _ = histogram.record_n(tick.times(pulse::least(place + 1)), count);
    }
    (!histogram.is_empty()).then_some(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_an_eighth_too_long_at_the_most() {
        let tick = Tick { nanoseconds: 0.4 };
        let mut turns = Turns::default();
        for (ticks, count) in [(2_500u64, 980u64), (250_000, 19), (25_000_000, 1)] {
            turns.lengths[pulse::place(ticks)] += count;
        }
        let gaps = Gaps::of(&turns, tick);
        let is = |got: Option<f64>, want: f64| got.is_some_and(|got| (want..want * 1.13).contains(&got));
        assert!(is(gaps.gap_p50_us, 1.0) && is(gaps.gap_p99_us, 100.0), "{gaps:?}");
        assert!(is(gaps.gap_p999_us, 100.0) && is(gaps.gap_max_us, 10_000.0), "{gaps:?}");
        assert_eq!(rows(&turns, tick).iter().map(|(_, count)| count).sum::<u64>(), 1000);
        assert_eq!(Gaps::of(&Turns::default(), tick), Gaps::default());
    }
}
