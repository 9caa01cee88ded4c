//! What is configured of packets that leave: shapers, their classes, marks.

use super::{NONE16, Snapshot};
use crate::clock::Nanos;
use crate::table::classifier::Rule;
use crate::table::meter::Rate;

/// What shapes and marks the packets that leave by a port, those of its VLANs included.
#[derive(Clone, Debug)]
pub struct Shaper {
    /// The port.
    pub port: u16,
    /// How fast packets may leave, on the wire; `None`: nothing is held back, classes only mark.
    pub rate: Option<Rate>,
    /// What the wire adds to a frame.
    pub overhead: Overhead,
    /// Packet buffers in which packets wait, at most.
    pub frames: u32,
    /// What is tried for a session, in order: a class that it must fit, with all its parents, and the class that it is then
    /// in.
    pub order: Vec<(u16, u16)>,
    /// The class of what fits none; a class without children.
    pub default: u16,
}

/// How long a frame is on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// Bytes more than the Ethernet frame without FCS has; may be below 0.
    pub bytes: i16,
    /// Bytes at least, with those above.
    pub least: u16,
    /// Sent in ATM cells of 48 bytes, each of which is 53 on the wire.
    pub atm: bool,
}

/// A class of packets that leave by a port: one that holds other classes, or one that packets wait in.
#[derive(Clone, Debug, Default)]
pub struct Class {
    /// Its name in the configuration, unique among those with the same parent.
    pub name: String,
    /// Index into [`Snapshot::shapers`].
    pub shaper: u16,
    /// The class that it is a part of, whose index is lower.
    pub parent: Option<u16>,
    /// Which sessions are in it.
    pub matches: ClassMatch,
    /// Differentiated services code point that its packets get, 0 to 63.
    pub mark: Option<u8>,
    /// Served ahead of those with higher numbers.
    pub priority: u8,
    /// What it gets of its parent's.
    pub rate: ClassRate,
    /// Its packets wait by host, each host being a class like the others.
    pub per: Option<(HostKey, ClassRate)>,
    /// Each host has an account, though its packets wait with the others'; none with `per`, whose hosts have theirs anyway.
    pub accounts: Option<HostKey>,
    /// Hosts that it has room for at a time; 0 without `per` and `accounts`.
    pub hosts: u32,
    /// How its queues are kept short.
    pub codel: Codel,
    /// How much may leave in a period.
    pub quota: Quota,
}

/// How much of a class, or of each of its hosts, may leave in a period, and what is done beyond it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Octets of the whole class; none: it is only counted.
    pub octets: Option<u64>,
    /// Octets of each of its hosts; with `per` or `accounts`.
    pub each: Option<u64>,
    /// From when on they are counted.
    pub period: Period,
    /// What becomes of packets beyond it.
    pub over: Over,
}

impl Quota {
    /// Whether anything becomes of packets beyond it.
    pub fn is_heeded(&self) -> bool {
        self.over != Over::Pass && (self.octets.is_some() || self.each.is_some())
    }
}

/// When a count begins anew; days are those of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Each day.
    Daily,
    /// On this day of each month, 1 to 31; on the last one of a month that has fewer.
    Monthly(u8),
}

impl Default for Period {
    fn default() -> Self {
        Self::Monthly(1)
    }
}

/// What becomes of packets beyond a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Over {
    /// They go on.
    #[default]
    Pass,
    /// They are dropped.
    Drop,
    /// They leave in this class of the same shaper, by index into [`Snapshot::classes`].
    Class(u16),
}

/// What a class gets of its parent's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassRate {
    /// Its own in any case.
    pub guaranteed: Option<Rate>,
    /// As much as it may have.
    pub max: Option<Rate>,
    /// Bytes that may leave at once; 0: as many as the rate asks for.
    pub burst: u32,
    /// Its share among equals of what is left.
    pub weight: u16,
}

impl Default for ClassRate {
    fn default() -> Self {
        Self { guaranteed: None, max: None, burst: 0, weight: 1 }
    }
}

/// Whose packets share a queue of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKey {
    /// Those from one address, as it is inside, or from one prefix: bits for IPv4 and for IPv6.
    Source(u8, u8),
    /// As `Source`, to one address or prefix.
    Destination(u8, u8),
}

/// CoDel (RFC 8289), as its queues have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codel {
    /// The wait that is acceptable, ns; 0: by the rate.
    pub target: Nanos,
    /// Over how long it is looked at, ns; 0: by the target.
    pub interval: Nanos,
    /// Packets of senders that understand ECN are marked, not dropped (RFC 3168).
    pub ecn: bool,
}

impl Default for Codel {
    fn default() -> Self {
        Self { target: 0, interval: 0, ecn: true }
    }
}

/// Which sessions a class is for: those that fit every field. What is empty fits all.
#[derive(Clone, Debug, Default)]
pub struct ClassMatch {
    /// IPv4 packets as they are inside; `None` for all.
    pub v4: Option<Vec<Rule<u32>>>,
    /// IPv6 packets likewise.
    pub v6: Option<Vec<Rule<u128>>>,
    /// Differentiated services code points of the first packet, a bit each.
    pub dscp: Option<u64>,
    /// Interfaces by which packets come in.
    pub ingress: Vec<u16>,
    /// Interfaces of the port by which they leave.
    pub egress: Vec<u16>,
    /// ACL rules that let the first packet pass.
    pub rules: Vec<u16>,
}

impl Snapshot {
    /// A port's shaper, an index into `shapers`.
    pub fn shaper_of(&self, port: u16) -> Option<usize> {
        self.shapers.iter().position(|shaper| shaper.port == port)
    }

    /// The classes of a shaper, which lie together.
    pub fn classes_of(&self, shaper: usize) -> std::ops::Range<usize> {
        let is_one = |class: &Class| usize::from(class.shaper) == shaper;
        let first = self.classes.iter().position(is_one).unwrap_or(0);
        first..first + self.classes.iter().filter(|class| is_one(class)).count()
    }

    /// The port by which a class leaves.
    pub fn class_port(&self, class: u16) -> u16 {
        let shaper = self.classes.get(usize::from(class)).map(|class| class.shaper);
        shaper.and_then(|shaper| self.shapers.get(usize::from(shaper))).map_or(NONE16, |shaper| shaper.port)
    }

    /// The class with its parents, outermost first.
    pub fn class_chain(&self, class: u16) -> Vec<&Class> {
        let parent = |class: &&Class| self.classes.get(usize::from(class.parent?));
        let mut chain: Vec<&Class> =
            std::iter::successors(self.classes.get(usize::from(class)), parent).collect();
        chain.reverse();
        chain
    }

    /// The names of a class and its parents, outermost first, with slashes between.
    pub fn class_path(&self, class: u16) -> String {
        self.class_chain(class).iter().map(|class| class.name.as_str()).collect::<Vec<_>>().join("/")
    }
}
