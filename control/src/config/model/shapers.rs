//! What is said of packets that leave: shapers and their classes.

use std::time::Duration;

use serde::Serialize;

use super::Match;

/// Shapes and marks what leaves by a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shaper {
    /// Index of the interface, which is a device.
    pub interface: usize,
    /// Bits a second on the wire; none: packets are only marked.
    pub rate: Option<u64>,
    /// What the wire adds to a frame.
    pub overhead: Overhead,
    /// Packet buffers in which packets wait, at most.
    pub frames: u32,
    /// In the order in which they are tried; a class's parent may stand behind it.
    pub classes: Vec<Class>,
}

/// How long a frame is on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Overhead {
    /// Bytes more than Ethernet header and packet.
    pub bytes: i16,
    /// Bytes at least, with those above.
    pub least: u16,
    /// In ATM cells of 53 bytes, 48 of which carry it.
    pub atm: bool,
}

/// A class of packets that leave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Class {
    /// Its name, unique in its shaper.
    pub name: String,
    /// Index of its parent among the shaper's classes.
    pub parent: Option<usize>,
    /// Whether it is for what no other class of its parent is for.
    pub default: bool,
    /// Which sessions.
    pub matches: ClassMatch,
    /// Those with a lower number leave first.
    pub priority: u8,
    /// Bits a second in any case.
    pub guaranteed: Option<u64>,
    /// Bits a second at most.
    pub max: Option<u64>,
    /// Its share among equals.
    pub weight: u16,
    /// Bytes that may leave at once; by the rate if none.
    pub burst: Option<u64>,
    /// What shares a queue.
    pub per: Option<PerHost>,
    /// Hosts that have an account without a queue of their own.
    pub accounts: Option<HostAccounts>,
    /// The wait that CoDel accepts; by the rate if none.
    pub target: Option<Duration>,
    /// Over how long it looks; by the target if none.
    pub interval: Option<Duration>,
    /// Whether it marks where senders understand that.
    pub ecn: bool,
    /// The code point that its packets get.
    pub mark: Option<u8>,
    /// How much may leave in a period.
    pub quota: Quota,
}

/// How much may leave in a period, and what is done beyond it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quota {
    /// Octets of the class.
    pub octets: Option<u64>,
    /// Octets of each of its hosts.
    pub each: Option<u64>,
    /// The day of the month on which the count begins anew; none: each day.
    pub monthly: Option<u8>,
    /// What becomes of packets beyond it.
    pub over: OverQuota,
}

/// What becomes of packets beyond a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OverQuota {
    /// They go on.
    #[default]
    Pass,
    /// They are dropped.
    Drop,
    /// They leave in the class of this index among the shaper's.
    Class(usize),
}

impl Class {
    /// The priority of those that name none: the last.
    pub const LAST_PRIORITY: u8 = 7;

    /// Bits a second that it gets in any case, if it says so: one that goes ahead of others gets all that it may have.
    pub fn promised(&self) -> Option<u64> {
        self.guaranteed.or(self.max.filter(|_| self.priority < Self::LAST_PRIORITY))
    }
}

/// Which sessions a class is for, besides those that fit all of its parents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassMatch {
    /// By the packet itself.
    pub packets: Match,
    /// Differentiated services code points.
    pub dscp: Vec<u8>,
    /// Indices of interfaces by which packets come in.
    pub ingress: Vec<usize>,
    /// Indices of interfaces by which they leave.
    pub egress: Vec<usize>,
    /// Rules, by ACL and place in it.
    pub rules: Vec<(usize, usize)>,
}

impl ClassMatch {
    /// Whether it fits everything.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// Each host, or prefix of hosts, has a class of its own within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PerHost {
    /// Which address names it.
    pub end: PerEnd,
    /// Bits of the address that count, for IPv4 and IPv6.
    pub bits: (u8, u8),
    /// Bits a second of each in any case.
    pub guaranteed: Option<u64>,
    /// Bits a second of each at most.
    pub max: Option<u64>,
    /// How many at a time.
    pub most: u32,
}

/// Each host, or prefix of hosts, has an account within a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HostAccounts {
    /// Which address names it.
    pub end: PerEnd,
    /// Bits of the address that count, for IPv4 and IPv6.
    pub bits: (u8, u8),
    /// How many at a time.
    pub most: u32,
}

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PerEnd {
    /// Where it comes from.
    Source,
    /// Where it goes to.
    Destination,
}
