//! What a shaper is made of.

use crate::table::meter::Rate;

use super::fat;
use super::lists::Lists;
use super::node::Node;
use super::stats::{Counts, Histogram};
use super::{CAUSES, NONE, Shaper};

/// A class of a shaper, or its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub u32);

/// The port: the root of the tree.
pub const ROOT: NodeId = NodeId(0);

/// Priorities that there are; 0 goes first.
pub const PRIORITIES: u8 = 8;

/// Digits of the golden ratio.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Levels below the port.
pub(super) const DEPTH: usize = 8;

/// What the port is, and how much memory is taken.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The port's own `max` is the rate that is shaped to; none: only classes hold packets back.
    pub rates: Rates,
    /// What the wire adds to a packet.
    pub overhead: Overhead,
    /// Bytes of the largest packet on the wire; also what an equal of weight 1 sends in turn.
    pub mtu: u32,
    /// Classes that can be added.
    pub classes: u32,
    /// Hosts at a time, of all classes together.
    pub hosts: u32,
    /// Flows at a time, of all classes and hosts together. Those without packets are forgotten as others come; more than
    /// that share a queue.
    pub flows: u32,
    /// Packets that can wait.
    pub slots: u32,
    /// Secret and random, for hashes.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rates: Rates::default(),
            overhead: Overhead::default(),
            mtu: 1514,
            classes: 64,
            hosts: 0,
            flows: 4096,
            slots: 4096,
            seed: 0,
        }
    }
}

/// What a node gets of its parent's rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Its own in any case, as far as its parent gets as much.
    pub guaranteed: Option<Rate>,
    /// As much as it may have.
    pub max: Option<Rate>,
    /// Bytes that it may send at once after a pause; 0: what either rate is in a millisecond. No less than in 8 microseconds.
    pub burst: u64,
}

/// How long a packet is on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// Bytes more than the packet has; may be below 0.
    pub bytes: i32,
    /// Bytes at least, with those above.
    pub least: u32,
    /// Sent in ATM cells, whose 53 bytes carry 48.
    pub atm: bool,
}

impl Overhead {
    /// Bytes on the wire of a packet of `len` bytes. At least 1.
    #[inline(always)]
    #[must_use]
    pub fn wire(&self, len: u32) -> u32 {
        let bytes = len.saturating_add_signed(self.bytes).max(self.least).clamp(1, 1 << 24);
        if self.atm { bytes.div_ceil(48) * 53 } else { bytes }
    }
}

/// CoDel (RFC 8289) of a leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codel {
    /// The wait that is acceptable, ns; 0: 5 ms, or what one and a half of the largest packets take at the leaf's rate.
    pub target: u64,
    /// Over how long it is looked at, ns; 0: 100 ms, and as much more as the target is above 5 ms.
    pub interval: u64,
    /// Whether [`Sink::mark`](super::Sink::mark) is tried before a packet is dropped.
    pub ecn: bool,
}

/// One leaf for each host of a class.
#[derive(Clone, Copy, Debug)]
pub struct Hosts {
    /// What each gets of the class's rate.
    pub rates: Rates,
    /// Hosts of the class at a time.
    pub most: u32,
}

/// What is in a class.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Other classes.
    Inner,
    /// Packets.
    Leaf,
    /// Packets by host, hosts being equals.
    Hosts(Hosts),
}

/// A class.
#[derive(Clone, Copy, Debug)]
pub struct ClassConfig {
    /// What is in it.
    pub kind: Kind,
    /// What it gets of its parent's rate.
    pub rates: Rates,
    /// Below [`PRIORITIES`]; 0 goes first.
    pub priority: u8,
    /// Its share among equals, 1 to 1,000.
    pub weight: u16,
    /// How its queues are kept short; of no effect for [`Kind::Inner`].
    pub codel: Codel,
    /// Slots that no other class can take.
    pub reserved: u32,
    /// Packets that may wait in it; 0: as many as there is room for.
    pub limit: u32,
}

impl ClassConfig {
    /// A class of this kind without rates, and with what is usual otherwise.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            rates: Rates::default(),
            priority: 0,
            weight: 1,
            codel: Codel { ecn: true, ..Codel::default() },
            reserved: 0,
            limit: 0,
        }
    }
}

/// Why a class cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// The parent is not a class that holds classes.
    #[error("the parent holds no classes")]
    Parent,
    /// Too many levels.
    #[error("a class can be at most 8 levels below the port")]
    Depth,
    /// The priority is not one.
    #[error("priorities are 0 to 7")]
    Priority,
    /// The weight is not one.
    #[error("weights are 1 to 1000")]
    Weight,
    /// No room was made for it.
    #[error("there is no room for another class")]
    Full,
    /// More slots are reserved than there are.
    #[error("more slots are reserved than there are")]
    Reserved,
}

/// What is known of a class that packets wait in, on one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Class {
    pub(super) node: NodeId,
    /// Its place among the classes with hosts, or `NONE`.
    pub(super) hosted: u32,
    pub(super) reserved: u32,
    pub(super) limit: u32,
    /// Packets that wait.
    pub(super) used: u32,
    /// As of which change of rates target and interval are.
    pub(super) reckoned: u32,
    /// Bytes on the wire that wait.
    pub(super) bytes: u64,
    pub(super) target: u64,
    pub(super) interval: u64,
    pub(super) ecn: bool,
}

impl<T> Shaper<T> {
    /// Empty, with its port alone.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let room_for = config.classes.min(1 << 22) + 1;
        let hosts = config.hosts.min(1 << 22);
        let all = room_for + hosts;
        let mtu = config.mtu.clamp(64, 1 << 20);
        let mut nodes = filled(all, Node::new(NONE, NONE, &Rates::default(), 0));
        nodes[0] = Node::new(NONE, NONE, &config.rates, mtu);
        nodes[0].lists = 0;
        let mut lists = room(room_for);
        lists.push(Lists::new());
        Self {
            mtu,
            overhead: config.overhead,
            // Of all seeds, 0 would be the worst, and is what somebody who needs none gives.
            seed: config.seed ^ SEED,
            nodes,
            lists,
            classes: room(room_for),
            codels: room(room_for),
            configured: 1,
            room: room_for,
            hosts: super::HostPool::new(room_for, hosts),
            flows: super::Flows::new(config.flows),
            slots: super::Slots::new(config.slots),
            wheel: super::Wheel::new(all),
            greedy: fat::Lists::new(),
            links: filled(all, fat::Link::default()),
            shared: config.slots,
            shared_used: 0,
            port_due: 0,
            rates_changed: 0,
            sent: filled(all, Counts::default()),
            drops: filled(all, [0; CAUSES]),
            sojourns: room(room_for),
        }
    }

    /// Adds a class below `parent`.
    ///
    /// # Errors
    /// See [`ClassError`].
    pub fn add_class(&mut self, parent: NodeId, config: &ClassConfig) -> Result<NodeId, ClassError> {
        let is_inner = |node: &&Node| node.lists != NONE && node.class == NONE;
        self.nodes[..self.configured as usize]
            .get(parent.0 as usize)
            .filter(is_inner)
            .ok_or(ClassError::Parent)?;
        let depth = self.parents(parent.0).count() + usize::from(matches!(config.kind, Kind::Hosts(_)));
        let checks = [
            (depth <= DEPTH, ClassError::Depth),
            (config.priority < PRIORITIES, ClassError::Priority),
            ((1..=1000).contains(&config.weight), ClassError::Weight),
            (self.configured < self.room, ClassError::Full),
            (config.reserved <= self.shared, ClassError::Reserved),
        ];
        if let Some((_, error)) = checks.into_iter().find(|(holds, _)| !holds) {
            return Err(error);
        }
        let id = NodeId(self.configured);
        let up = self.nodes[parent.0 as usize].lists;
        let rates = Node::new(parent.0, up, &config.rates, self.mtu);
        let mut node = Node { priority: config.priority, weight: config.weight, ..rates };
        if !matches!(config.kind, Kind::Leaf) {
            node.lists = self.lists.len() as u32;
            self.lists.push(Lists::new());
        }
        if !matches!(config.kind, Kind::Inner) {
            node.class = self.classes.len() as u32;
            self.shared -= config.reserved;
            let mut class = Class::new(id, config);
            if let Kind::Hosts(hosts) = config.kind {
                class.hosted = self.hosts.add_class(id, node.class, hosts);
            }
            self.classes.push(class);
            self.codels.push(config.codel);
            self.sojourns.push(Histogram::new());
        }
        self.nodes[id.0 as usize] = node;
        self.configured += 1;
        Ok(id)
    }

    /// A node, and what it is in, up to the port.
    pub(super) fn parents(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(Some(node), |&node| {
            Some(self.nodes[node as usize].parent).filter(|&up| up != NONE)
        })
    }
}

impl Class {
    fn new(node: NodeId, config: &ClassConfig) -> Self {
        Self {
            node,
            hosted: NONE,
            reserved: config.reserved,
            limit: if config.limit == 0 { u32::MAX } else { config.limit },
            used: 0,
            reckoned: u32::MAX,
            bytes: 0,
            target: 0,
            interval: 0,
            ecn: config.codel.ecn,
        }
    }

    #[inline(always)]
    pub(super) fn has_hosts(&self) -> bool {
        self.hosted != NONE
    }

    /// What it holds beyond what is reserved for it.
    pub(super) fn excess(&self) -> u32 {
        self.used.saturating_sub(self.reserved)
    }
}

/// Memory for `count` of what nothing is known of yet.
pub(super) fn room<V>(count: u32) -> crate::arena::HugeVec<V> {
    crate::arena::HugeVec::with_capacity_in(count as usize, crate::arena::HugePages)
}

/// The same, filled.
pub(super) fn filled<V: Clone>(count: u32, value: V) -> crate::arena::HugeVec<V> {
    let mut values = room(count);
    values.resize(count as usize, value);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_on_the_wire() {
        let plain = Overhead::default();
        assert_eq!([0, 1, 1500].map(|len| plain.wire(len)), [1, 1, 1500]);
        // Preamble, FCS and gap of Ethernet.
        let ethernet = Overhead { bytes: 24, least: 84, atm: false };
        assert_eq!([42, 60, 61, 1514].map(|len| ethernet.wire(len)), [84, 84, 85, 1538]);
        let without_header = Overhead { bytes: -14, least: 0, atm: false };
        assert_eq!([10, 14, 60].map(|len| without_header.wire(len)), [1, 1, 46]);
        // PPPoE over ATM with LLC: as tables of DSL have it.
        let dsl = Overhead { bytes: 18, least: 0, atm: true };
        assert_eq!([30, 31, 1500].map(|len| dsl.wire(len)), [53, 106, 1696]);
        assert!(Overhead { bytes: i32::MAX, least: u32::MAX, atm: true }.wire(u32::MAX) > 1 << 24);
    }

    #[test]
    fn what_cannot_be_a_class_is_refused() {
        let mut shaper = Shaper::<u32>::new(&Config { classes: 9, slots: 100, ..Config::default() });
        let leaf = ClassConfig::new(Kind::Leaf);
        let mut add = |parent, config: ClassConfig| shaper.add_class(parent, &config);
        assert_eq!(add(NodeId(1), leaf), Err(ClassError::Parent));
        assert_eq!(add(ROOT, ClassConfig { priority: 8, ..leaf }), Err(ClassError::Priority));
        assert_eq!(add(ROOT, ClassConfig { weight: 0, ..leaf }), Err(ClassError::Weight));
        let first = add(ROOT, ClassConfig { reserved: 60, ..leaf }).unwrap();
        assert_eq!(add(ROOT, ClassConfig { reserved: 41, ..leaf }), Err(ClassError::Reserved));
        assert_eq!(add(first, leaf), Err(ClassError::Parent));
        let mut parent = ROOT;
        for _ in 0..DEPTH - 1 {
            parent = add(parent, ClassConfig::new(Kind::Inner)).unwrap();
        }
        let hosts = Kind::Hosts(Hosts { rates: Rates::default(), most: 1 });
        assert_eq!(add(parent, ClassConfig { kind: hosts, ..leaf }), Err(ClassError::Depth));
        add(parent, leaf).unwrap();
        assert_eq!(add(ROOT, leaf), Err(ClassError::Full));
    }
}
