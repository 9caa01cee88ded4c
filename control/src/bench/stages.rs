//! Cycles by stage.

use indexmap::IndexMap;
use sluice_dataplane::clock::tsc;
use sluice_dataplane::probe::Probe;

/// A probe that adds up what each stage takes.
pub(super) struct Stages {
    cycles: IndexMap<&'static str, u64>,
    /// What reading the counter costs.
    reading: u64,
}

impl Stages {
    pub(super) fn new() -> Self {
        let read = |_| {
            let start = tsc::now();
            tsc::now().saturating_sub(start)
        };
        Self { cycles: IndexMap::new(), reading: (0..1000).map(read).min().unwrap_or(0) }
    }

    /// Cycles per packet, in the order in which the stages ran first.
    pub(super) fn per_packet(&self, packets: u64) -> IndexMap<&'static str, f64> {
        self.cycles.iter().map(|(&name, &cycles)| (name, cycles as f64 / packets as f64)).collect()
    }
}

impl Probe for Stages {
    #[inline(always)]
    fn stage<R>(&mut self, name: &'static str, stage: impl FnOnce() -> R) -> R {
        let start = tsc::now();
        let result = stage();
        let cycles = tsc::now().saturating_sub(start);
        *self.cycles.entry(name).or_default() += cycles.saturating_sub(self.reading);
        result
    }
}
