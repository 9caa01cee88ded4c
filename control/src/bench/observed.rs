//! All that can watch a worker, for what that costs: records of flows and of NAT, samples of packets, and the figures of its loop.

use sluice_dataplane::clock::SECOND;
use sluice_dataplane::nat::EventReader;
use sluice_dataplane::pulse::{self, Meter, Pulse};
use sluice_dataplane::sample::SampleReader;
use sluice_dataplane::session::{FlowReader, ReportTimes};
use sluice_dataplane::worker::Worker;

/// As `[export.ipfix]` has it.
const TIMES: ReportTimes = ReportTimes { active: 60 * SECOND, idle: 15 * SECOND };
/// As `[export.sflow]` has it: one packet of so many.
const SAMPLING: u32 = 1000;

/// What is watched with, and where it goes.
pub(super) struct Observed {
    /// For the worker's loop.
    pub(super) meter: Meter,
    _pulse: Pulse,
    flows: FlowReader,
    samples: SampleReader,
    events: EventReader,
}

impl Observed {
    /// From now on a worker is watched.
    pub(super) fn new(worker: &mut Worker, seed: u64) -> Self {
        let (meter, pulse) = pulse::channel();
        Self {
            meter,
            _pulse: pulse,
            flows: worker.flow_records(TIMES),
            samples: worker.samples(SAMPLING, seed),
            events: worker.nat_events(),
        }
    }

    /// Takes what there is, as the threads of exporters do, on cores of their own.
    pub(super) fn take(&mut self) {
        while self.flows.take().is_some() {}
        while self.samples.take().is_some() {}
        while self.events.take().is_some() {}
    }
}
