//! Cycles by stage.

use indexmap::IndexMap;
use sluice_dataplane::clock::tsc;
use sluice_dataplane::probe::Probe;

/// A probe that takes the time of each stage.
pub(super) struct Stages {
    stages: IndexMap<&'static str, Stage>,
    /// What reading the counter costs.
    reading: u64,
}

#[derive(Default)]
struct Stage {
    /// Cycles since the last piece ended.
    cycles: u64,
    /// Cycles per packet of each piece.
    pieces: Vec<f64>,
}

impl Stages {
    pub(super) fn new() -> Self {
        let read = |_| {
            let start = tsc::now();
            tsc::now().saturating_sub(start)
        };
        Self { stages: IndexMap::new(), reading: (0..1000).map(read).min().unwrap_or(0) }
    }

    /// Ends a piece of so many packets.
    pub(super) fn end_piece(&mut self, packets: u64) {
        for stage in self.stages.values_mut() {
            stage.pieces.push(std::mem::take(&mut stage.cycles) as f64 / packets as f64);
        }
    }

    /// Cycles per packet, in the order in which the stages ran first.
    pub(super) fn per_packet(self) -> IndexMap<&'static str, f64> {
        self.stages.into_iter().map(|(name, mut stage)| (name, median(&mut stage.pieces))).collect()
    }
}

impl Probe for Stages {
    #[inline(always)]
    fn stage<R>(&mut self, name: &'static str, stage: impl FnOnce() -> R) -> R {
        let start = tsc::now();
        let result = stage();
        let cycles = tsc::now().saturating_sub(start);
        self.stages.entry(name).or_default().cycles += cycles.saturating_sub(self.reading);
        result
    }

    fn around<R>(&mut self, name: &'static str, stage: impl FnOnce(&mut Self) -> R) -> R {
        let start = tsc::now();
        let result = stage(self);
        let cycles = tsc::now().saturating_sub(start);
        self.stages.entry(name).or_default().cycles += cycles.saturating_sub(self.reading);
        result
    }
}

/// The middle one of the values, the upper of two; 0 if there is none.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_leaves_outliers_out() {
        assert_eq!(median(&mut [900.0, 80.0, 70.0]), 80.0);
        assert_eq!(median(&mut [80.0, 70.0]), 80.0);
        assert_eq!(median(&mut []), 0.0);
    }

    #[test]
    fn a_stage_is_counted_by_its_name() {
        let mut stages = Stages::new();
        for _ in 0..3 {
            assert_eq!(stages.stage("parse", || 7), 7);
            stages.stage("flow", || std::hint::black_box(vec![1; 10_000]).iter().sum::<i32>());
            stages.end_piece(64);
        }
        let per_packet = stages.per_packet();
        assert_eq!(per_packet.keys().copied().collect::<Vec<_>>(), ["parse", "flow"]);
        assert!(per_packet["flow"] > per_packet["parse"]);
    }
}
