//! Tracing packets through a gateway that runs: what each stage did to each, and what it cost. How the gateway traces is in [`run`],
//! how it is asked in [`api`], and the command line in [`cli`].

pub mod api;
pub mod cli;
pub mod run;
mod tell;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The most packets of a trace.
pub const MOST_PACKETS: u32 = 500;
/// The longest that a trace goes on, seconds.
pub const LONGEST: u64 = 86_400;

/// What is to be traced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Which packets, in the words of the match language; all if there are none.
    #[serde(default, rename = "match")]
    pub matching: String,
    /// It ends after so many packets, 1 to 500.
    #[serde(default = "count")]
    pub count: u32,
    /// It ends after so many seconds, with however few packets.
    #[serde(default = "seconds")]
    pub seconds: u64,
}

fn count() -> u32 {
    50
}

fn seconds() -> u64 {
    600
}

/// A trace with what it has found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// Its number.
    pub id: u64,
    /// What is traced.
    pub spec: Spec,
    /// Whether it goes on.
    pub running: bool,
    /// Packets that were chosen and found no room; of all traces that went on at the time.
    pub lost: u64,
    /// The packets, in the order in which they came.
    pub packets: Vec<Box<RawValue>>,
}

#[cfg(test)]
mod tests;
