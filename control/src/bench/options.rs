//! What is measured.

use std::fmt;
use std::ops::RangeInclusive;

use clap::{Args, ValueEnum};
use serde::Serialize;
use sluice_pkt::{ethernet, ipv4, ipv6, tcp, udp};

use super::{BenchError, churn};

/// Bytes of the frame check sequence, which counts in a frame's size and is not in memory.
const FCS: u16 = 4;
const FLOWS: RangeInclusive<u64> = 1..=1 << 24;
const NEW_FLOWS: RangeInclusive<u64> = 1..=2_000_000;
/// RFC 2544 9.1, untagged.
const LARGEST_FRAME: u16 = 1518;
const SMALLEST_FRAME: u16 = 64;
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
    /// A guard on the ingress interface: all that it can refuse, a blocklist, limits for each source; nothing is refused.
    Guard,
    /// A shaper with a class for each of the servers' ports at the outside port, too fast to keep anything waiting.
    Shape,
}

/// Whose packets the classes of [`Feature::Shape`] tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Hosts {
    /// Nobody's: a queue for each flow.
    None,
    /// Each inside address has an account with a quota.
    Accounts,
    /// Each inside address has queues of its own, and an account.
    Queues,
}

/// What the limit of [`Feature::Police`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Meters {
    /// One token bucket, in bytes.
    Bucket,
    /// Two rates, three colours, a mark for each (RFC 2698).
    Colors,
    /// A bucket for each source address.
    Source,
    /// A bucket for each flow.
    Flow,
}

/// In which order the flows' packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Shuffled by the seed, each flow once a round: the hardest on caches.
    Random,
    /// One flow after the other.
    Seq,
    /// Drawn by Zipf's law (exponent 1): few flows have most of the packets.
    Zipf,
}

/// What the packets carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// UDP, to ports 53, 123, 443 and 3478.
    Udp,
    /// TCP segments of open connections, to the same ports.
    Tcp,
}

impl Protocol {
    /// IP protocol number.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Udp => ipv4::UDP,
            Self::Tcp => ipv4::TCP,
        }
    }
}

/// Options of `sluice bench pipeline`.
#[derive(Clone, Debug, Args)]
pub struct PipelineOptions {
    /// Flows, each a session of its own
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub flows: u32,
    /// Packets to measure, after each flow's first packet has made its session
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub packets: u64,
    /// Size of each frame as RFC 2544 counts it, with the FCS: 64 is a frame of 60 bytes in memory
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub frame_size: u16,
    /// What the gateway does: route, and any of acl, nat, police, guard, shape
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "route")]
    pub features: Vec<Feature>,
    /// Rules in the ACL; only the last one matches
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub acl_rules: u32,
    /// Prefixes of the guard's blocklist, none of which the traffic has
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub blocklist: u32,
    /// What the limit is made of
    #[arg(long, value_name = "KIND", default_value = "bucket")]
    pub meters: Meters,
    /// Which inside addresses the classes of the shaper tell apart
    #[arg(long, value_name = "KIND", default_value = "none")]
    pub hosts: Hosts,
    /// External addresses for NAT; as many as the flows need, unless given
    #[arg(long, value_name = "N")]
    pub nat_addresses: Option<u32>,
    /// NAT gives out ports in blocks of so many, without bounds for an inside address, and keeps account of each
    #[arg(long, value_name = "N")]
    pub nat_block_size: Option<u32>,
    /// Order of the flows' packets
    #[arg(long, value_name = "ORDER", default_value = "random")]
    pub order: Order,
    /// Version of IP; there is no NAT for IPv6
    #[arg(long, value_name = "4|6", default_value_t = 4, value_parser = clap::builder::RangedU64ValueParser::<u8>::new().range(4..=6))]
    pub family: u8,
    /// What the packets carry
    #[arg(long, value_name = "PROTOCOL", default_value = "udp")]
    pub protocol: Protocol,
    /// Let every second burst be of replies, which come in by the outside port: two flow records for each flow
    #[arg(long)]
    pub both_directions: bool,
    /// Measure new sessions, too: so many a second are made and end beside the flows, in virtual time in which the flows have
    /// 10 million packets a second
    #[arg(long, value_name = "N")]
    pub new_flows_per_second: Option<u32>,
    /// Have all watched that can be: IPFIX, sFlow (one packet of 1000), the log of NAT, and how the worker's loop goes
    #[arg(long)]
    pub observed: bool,
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

    /// Bytes of a frame's headers.
    pub(super) fn headers_len(&self) -> usize {
        let ip = if self.family == 6 { ipv6::LEN } else { ipv4::LEN };
        let transport = if self.protocol == Protocol::Tcp { tcp::LEN } else { udp::LEN };
        ethernet::LEN + ip + transport
    }

    pub(super) fn check(&self) -> Result<(), BenchError> {
        within("--flows", self.flows.into(), &FLOWS)?;
        within("--packets", self.packets, &(1..=u64::MAX))?;
        let least = (self.headers_len() as u16 + FCS).max(SMALLEST_FRAME);
        within("--frame-size", self.frame_size.into(), &(least.into()..=LARGEST_FRAME.into()))?;
        if self.family == 5 || self.family == 6 && self.has(Feature::Nat) {
            return Err(BenchError::Family(self.family));
        }
        if let Some(new) = self.new_flows_per_second {
            within("--new-flows-per-second", new.into(), &NEW_FLOWS)?;
            within(
                "--flows, with --new-flows-per-second,",
                self.flows.into(),
                &(1..=FLOWS.end() - churn::room(self)),
            )?;
        }
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
            Self::Guard => "guard",
            Self::Shape => "shape",
        })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::Seq => "sequential",
            Self::Zipf => "Zipf's",
        })
    }
}
