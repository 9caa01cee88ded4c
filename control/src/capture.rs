//! Looking at packets on their way: which ones ([`filter`]), how the gateway hands them out ([`run`], [`api`]), and the file that
//! they are written to ([`pcapng`], [`cli`]).

pub mod api;
pub mod cli;
pub mod filter;
pub mod pcapng;
pub mod run;

use serde::{Deserialize, Serialize};

/// What is to be captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Which packets, in the words of the match language; all if there are none.
    #[serde(default, rename = "match")]
    pub matching: String,
    /// As they come in.
    #[serde(default)]
    pub before: bool,
    /// As they leave.
    #[serde(default)]
    pub after: bool,
    /// When they die: of this reason, or of `any`.
    #[serde(default)]
    pub drops: Option<String>,
    /// The most bytes of each packet.
    #[serde(default = "most")]
    pub snap: u16,
}

fn most() -> u16 {
    u16::MAX
}

/// A capture that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Begun {
    /// Its number, by which it is read.
    pub id: u64,
    /// The ports, in the order of their numbers.
    pub ports: Vec<String>,
}

/// What has been captured since it was asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Piece {
    /// The packets, oldest first.
    #[schema(value_type = Vec<Object>)]
    pub packets: Vec<Packet>,
    /// Packets so far that found no room.
    pub lost: u64,
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// `in`, `out` or `drop`.
    pub way: String,
    /// The number of the port that it came in or left by, if that is known.
    pub port: Option<u16>,
    /// The worker that had it.
    pub worker: usize,
    /// The configuration that the worker went by.
    pub generation: u32,
    /// Why it died.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The ACL rule that said no.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
    /// Its length on the wire, bytes.
    pub len: u32,
    /// Its bytes, in hexadecimal.
    pub bytes: String,
}

#[cfg(test)]
mod tests;
