//! `sluice bench`: what the packet path costs, without a NIC.
//!
//! The pipeline is the one of a live gateway, driven by the same worker. Its ports are in memory and make traffic that
//! was laid out before the clock starts; what that costs is timed apart. `table` measures one table at a time, `shaper` the shaper.

mod churn;
mod gateway;
mod observed;
mod options;
mod report;
mod run;
mod shaper;
mod stages;
mod table;
mod traffic;

pub use churn::NewFlows;
pub use options::{Feature, Order, PipelineOptions, Protocol};
pub use report::Report;
pub use run::pipeline;
pub use shaper::{ShaperBenchError, ShaperOptions, ShaperReport, shaper};
pub use table::{Figures, Row, TableError, TableOptions, table};

use sluice_dataplane::arena::ArenaError;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// An option is out of range.
    #[error("{option} must be {allowed}, not {given}")]
    Range {
        /// The option, as it is typed.
        option: &'static str,
        /// What it may be.
        allowed: String,
        /// What it was.
        given: u64,
    },
    /// `route` is missing from the features.
    #[error("--features must contain route: every packet is routed; write --features route{0}")]
    Unrouted(String),
    /// No such family, or one that the features are not for.
    #[error("--family {0} does not go with these features: NAT is for IPv4, and there are 4 and 6")]
    Family(u8),
    /// The core does not exist, or this process may not run on it.
    #[error("cannot run on core {core}; this process may use: {usable}")]
    Core {
        /// The core asked for.
        core: usize,
        /// The cores that there are.
        usable: String,
    },
    /// No memory for packets.
    #[error(transparent)]
    Memory(#[from] ArenaError),
    /// The traffic is such that all of it should be forwarded.
    #[error(
        "{packets} packets were dropped ({reasons}): the figures would be of other work than was asked for"
    )]
    Dropped {
        /// How many.
        packets: u64,
        /// How many for which reason.
        reasons: String,
    },
    /// A packet is neither here nor there.
    #[error("packets are unaccounted for: rx + originated + split_extra is not tx + drops + punted + held")]
    NotConserved,
    /// Counts that should agree do not.
    #[error("{what}: {found}, where {expected} were to be expected")]
    Unaccounted {
        /// What was counted.
        what: &'static str,
        /// The count.
        found: u64,
        /// What it should be.
        expected: u64,
    },
}
