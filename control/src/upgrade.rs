//! `sluice upgrade`: another program takes over from the running one, sessions and all.
//!
//! The running data plane starts the other program as its child and gives it, over a pair of sockets, what it needs to get
//! ready: the configuration that runs, and every descriptor there is to go on with. When that program has compiled the
//! configuration and taken its memory, the workers stop between two bursts, write their state, and the other one reads it and
//! starts its own. Up to the word to go, the old workers can go on as if nothing had been; after it the old process is done.

pub(crate) mod api;
pub mod cli;
mod give;
mod program;
mod stand_by;
mod take;

use serde::{Deserialize, Serialize};
use sluice_dataplane::clock::Nanos;
use sluice_dataplane::saved::Restored;

use crate::device::Undo;
use crate::link::Greeting;
use crate::lists::ByHand;
use crate::plan::Plan;

pub(crate) use self::give::{Successor, in_memory};
pub(crate) use self::program::own_program;
pub(crate) use self::stand_by::stand_by;
pub(crate) use self::take::{Given, Stopped, Taker, page_code};

/// What both processes must speak; what is in the state has a version of its own.
const VERSION: u32 = 1;
/// What this program is called in what the two say to each other.
const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// What a successor is told first. Descriptors follow: see [`Descriptors`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    version: u32,
    program: String,
    pub(crate) greeting: Greeting,
    /// Whether there is an address where metrics are served.
    pub(crate) has_metrics: bool,
    pub(crate) plan: Plan,
    /// Of the configuration that runs.
    pub(crate) generation: u32,
    pub(crate) seed: u64,
    /// Packet buffers, and what pages they have.
    pub(crate) frames: u32,
    pub(crate) pages: u8,
    /// Of each device, in the order of the configuration: how many descriptors, and what else there is to be known.
    pub(crate) devices: Vec<(usize, Vec<u8>)>,
    /// What was set on devices, and how many descriptors keep more of it set.
    pub(crate) undo: Vec<Undo>,
    pub(crate) memberships: usize,
    /// What is blocked by hand.
    #[serde(default)]
    pub(crate) blocked: Vec<ByHand>,
    /// How many upgrades there have been.
    pub(crate) upgrades: u64,
}

/// What the old one says after that.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// The workers have stopped. A descriptor for each one's state follows.
    Take {
        /// How many.
        workers: usize,
        /// The workers' time when the first of them stopped.
        stopped: Nanos,
        /// The same on the machine's monotonic clock, in nanoseconds.
        machine: Nanos,
    },
    /// There is no way back. If the old one stays, as whoever started it waits for it, it passes signals on.
    Go { stays: bool },
}

/// What the successor says.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// It has all but the state.
    Ready { program: String },
    /// It has read the state, and could go.
    Restored,
    /// It cannot.
    Refused { words: String },
}

/// How the last upgrade went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// Upgrades since the gateway was started.
    pub upgrades: u64,
    /// Attempts of this process that came to nothing.
    pub failed: u64,
    /// Why the last of them did.
    pub failure: Option<String>,
    /// What this process took over.
    pub taken: Option<Taken>,
}

/// What was taken over, and how long it took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The version before.
    pub from: String,
    /// The version now.
    pub to: String,
    /// Between the last poll before and the first after, microseconds.
    pub gap_us: u64,
    /// Sessions that went on.
    pub sessions: u64,
    /// Sessions that the configuration, as it is compiled now, would not make again.
    pub ended: u64,
    /// Sessions that could not be taken over.
    pub lost: u64,
    /// NAT bindings that went on.
    pub bindings: u64,
    /// Those that could not be.
    pub bindings_lost: u64,
    /// Neighbours that stayed known.
    pub neighbors: u64,
}

impl Taken {
    /// What workers have restored, of a program of version `from`, after so long.
    pub(crate) fn new(from: &str, gap: Nanos, restored: &Restored) -> Self {
        let &Restored { sessions, ended, lost, bindings, bindings_lost, neighbors } = restored;
        let (from, to, gap_us) = (from.to_owned(), PROGRAM.to_owned(), gap / 1000);
        Self { from, to, gap_us, sessions, ended, lost, bindings, bindings_lost, neighbors }
    }

    /// In words.
    pub fn words(&self) -> String {
        let Self { from, to, gap_us, sessions, ended, lost, bindings, .. } = self;
        let gap = format!("{}.{:01} ms", gap_us / 1000, gap_us % 1000 / 100);
        let mut text = format!(
            "upgraded from {from} to {to}: the workers stood still for {gap}; {sessions} sessions and {bindings} NAT bindings go on"
        );
        if ended + lost > 0 {
            text.push_str(&format!(
                "; {ended} sessions ended by the configuration, {lost} could not be taken over"
            ));
        }
        text
    }
}

/// The machine's monotonic clock, which all processes read alike, in nanoseconds.
pub(crate) fn machine_time() -> Nanos {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

#[cfg(test)]
mod tests;
