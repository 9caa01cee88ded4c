//! What is measured.

use std::fmt;
use std::ops::RangeInclusive;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::BenchError;

/// Bytes of the frame check sequence, which counts in a frame's size and is not in memory.
const FCS: u16 = 4;
const FLOWS: RangeInclusive<u64> = 1..=1 << 24;
/// RFC 2544 9.1, untagged.
const FRAME_SIZES: RangeInclusive<u64> = 64..=1518;
const ACL_RULES: RangeInclusive<u64> = 1..=60_000;
const NAT_ADDRESSES: RangeInclusive<u64> = 1..=65_536;
const NAT_BLOCK_SIZES: RangeInclusive<u64> = 1..=16_384;

/// What the gateway does with each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// Flow table, routing, TTL, the egress link's header.
    Route,
    /// Rules on the ingress interface; the last one lets the traffic pass, and none before it matches.
    Acl,
    /// Source NAT to a pool of addresses.
    Nat,
    /// A limit on the ingress interface, too high to drop anything.
    Police,
}

/// In which order the flows' packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Shuffled by the seed, each flow once a round: the hardest on caches.
    Random,
    /// One flow after the other.
    Seq,
}

/// Options of `sluice bench pipeline`.
#[derive(Clone, Debug, Args)]
pub struct PipelineOptions {
    /// UDP flows, each a session of its own
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub flows: u32,
    /// Packets to measure, after each flow's first packet has made its session
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub packets: u64,
    /// Size of each frame as RFC 2544 counts it, with the FCS: 64 is a frame of 60 bytes in memory
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub frame_size: u16,
    /// What the gateway does: route, and any of acl, nat, police
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "route")]
    pub features: Vec<Feature>,
    /// Rules in the ACL; only the last one matches
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub acl_rules: u32,
    /// External addresses for NAT; as many as the flows need, unless given
    #[arg(long, value_name = "N")]
    pub nat_addresses: Option<u32>,
    /// NAT gives out ports in blocks of so many, without bounds for an inside address, and keeps account of each
    #[arg(long, value_name = "N")]
    pub nat_block_size: Option<u32>,
    /// Order of the flows' packets
    #[arg(long, value_name = "ORDER", default_value = "random")]
    pub order: Order,
    /// Seed of addresses, ports, order and hash functions
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Core to run on; the last that this process may use, unless given
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,
}

impl PipelineOptions {
    /// Whether a feature is wanted.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// Bytes of a frame in memory.
    pub(super) fn frame_len(&self) -> u16 {
        self.frame_size - FCS
    }

    pub(super) fn check(&self) -> Result<(), BenchError> {
        within("--flows", self.flows.into(), &FLOWS)?;
        within("--packets", self.packets, &(1..=u64::MAX))?;
        within("--frame-size", self.frame_size.into(), &FRAME_SIZES)?;
        within("--acl-rules", self.acl_rules.into(), &ACL_RULES)?;
        within("--nat-addresses", self.nat_addresses.unwrap_or(1).into(), &NAT_ADDRESSES)?;
        within("--nat-block-size", self.nat_block_size.unwrap_or(1).into(), &NAT_BLOCK_SIZES)?;
        if !self.has(Feature::Route) {
            return Err(BenchError::Unrouted(self.features.iter().map(|f| format!(",{f}")).collect()));
        }
        Ok(())
    }
}

fn within(option: &'static str, given: u64, allowed: &RangeInclusive<u64>) -> Result<(), BenchError> {
    if allowed.contains(&given) {
        return Ok(());
    }
    let allowed = match (*allowed.start(), *allowed.end()) {
        (least, u64::MAX) => format!("at least {least}"),
        (least, most) => format!("{least} to {most}"),
    };
    Err(BenchError::Range { option, allowed, given })
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Route => "route",
            Self::Acl => "acl",
            Self::Nat => "nat",
            Self::Police => "police",
        })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::Seq => "sequential",
        })
    }
}
