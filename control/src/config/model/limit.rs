//! Rate limits.

use serde::Serialize;

use super::Match;

/// A rate limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// Its name, for counters.
    pub name: String,
    /// Which side of the interface.
    pub direction: Direction,
    /// Index of the interface.
    pub interface: usize,
    /// Which packets.
    pub matches: Match,
    /// Of packets that go out, in which classes of the device's shaper, by index there; empty: in any.
    pub classes: Vec<usize>,
    /// What its rates and bursts are of.
    pub unit: Unit,
    /// Bits a second, Ethernet header included, without preamble, gap and FCS; or packets a second.
    pub rate: u64,
    /// Bytes or packets that may come at once.
    pub burst: u64,
    /// What makes it have three colours, if it does.
    pub model: Option<Model>,
    /// Whether packets come with a colour already.
    pub aware: bool,
    /// What is done to packets within the rate; beyond it; and with three colours, beyond that too.
    pub actions: [LimitAction; 3],
    /// What it has a meter for each of.
    pub per: Option<Per>,
    /// How many meters at the most.
    pub most: u32,
}

impl Limit {
    /// Whether it is one token bucket in bytes whose excess is dropped.
    pub fn is_plain(&self) -> bool {
        let drops = matches!(self.actions, [LimitAction::Pass, LimitAction::Drop, LimitAction::Drop]);
        self.unit == Unit::Bytes && self.model.is_none() && drops && self.per.is_none()
    }
}

/// What rates and bursts are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Bits a second, and bytes.
    Bytes,
    /// Packets a second, and packets.
    Packets,
}

/// Where a second rate or burst comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "model")]
pub enum Model {
    /// RFC 2697.
    SrTcm {
        /// EBS.
        ebs: u64,
    },
    /// RFC 2698.
    TrTcm {
        /// PIR, CIR included.
        pir: u64,
        /// PBS.
        pbs: u64,
    },
    /// RFC 4115.
    Rfc4115 {
        /// EIR, on top of CIR.
        eir: u64,
        /// EBS.
        ebs: u64,
    },
}

/// What is done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitAction {
    /// It passes.
    Pass,
    /// It is dropped.
    Drop,
    /// It passes with a new code point, or a new priority.
    Mark {
        /// Differentiated services code point, 0 to 63.
        dscp: Option<u8>,
        /// Priority of the VLAN tag, 0 to 7.
        pcp: Option<u8>,
    },
}

/// What there is a meter for each of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Source addresses, up to these prefix lengths of IPv4 and IPv6.
    Source([u8; 2]),
    /// Destination addresses, likewise.
    Destination([u8; 2]),
    /// Directions of sessions.
    Flow,
}

/// A side of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Packets that come in.
    Ingress,
    /// Packets that go out.
    Egress,
}
