//! A hierarchical shaper: exact rates, guarantees and borrowing, priorities, fair shares, and short queues.
//!
//! Classes are a tree below the port. Each may have a rate of its own that it gets in any case, and one that it never
//! exceeds; what its parent has left is shared by priority, and by weight among equals (deficit round robin, Shreedhar and
//! Varghese, SIGCOMM 1995). Packets wait in the leaves, each of which is FQ-CoDel (RFC 8290). A class can have one leaf
//! for each host, made at its first packet and given back when that makes no difference any more.
//!
//! What can be sent now is linked from the port down to the packet; what has to wait for its rate is on a
//! [timing wheel](super::wheel). So no packet costs a walk over classes, hosts or flows, however many there are.
//!
//! Packets are of any type: the shaper knows their length, what class, host and flow the caller says they are of, and the
//! time, which is a parameter. All memory is taken when it is made.
//!
//! A class's turn, in this order: children within their own rate, then children that borrow; among either, those of lower
//! priority number first, and equals in turn. What is sent within its own rate counts for that alone, so what is borrowed
//! is shared on top.

mod bucket;
mod codel;
mod config;
mod enqueue;
mod fat;
mod flows;
mod hosts;
mod lists;
mod node;
mod octets;
mod slots;
mod stats;
mod take;
mod tree;

#[cfg(test)]
mod tests;

pub use self::config::{
    ClassConfig, ClassError, Codel, Config, Hosts, Kind, NodeId, Overhead, PRIORITIES, ROOT, Rates,
};
pub use self::octets::HostOctets;
pub use self::stats::{CAUSES, Cause, Histogram, Stats};

use self::config::Class;
use self::flows::Flows;
use self::hosts::HostPool;
use self::lists::Lists;
use self::node::Node;
use self::slots::Slots;
use self::stats::Counts;
use super::wheel::Wheel;
use crate::arena::HugeVec;

/// "Nothing is due", said by [`Shaper::next_due`].
pub const NEVER: u64 = u64::MAX;

/// No node, queue or slot.
const NONE: u32 = u32::MAX;

/// A packet on its way in.
#[derive(Debug)]
pub struct Packet<T> {
    /// Where it waits: a class that is a leaf, or that has a leaf for each host.
    pub class: NodeId,
    /// Which host of the class it is of; 0 where the class has none.
    pub host: u128,
    /// Which flow it is of: a hash.
    pub flow: u32,
    /// Bytes, without what the wire adds.
    pub len: u32,
    /// The packet itself.
    pub item: T,
}

/// A packet that is taken out before its turn, and what it [was put in](Packet) as.
#[derive(Debug)]
pub struct Waiting<T> {
    /// Where it waited.
    pub class: NodeId,
    /// Which host of the class it is of; 0 where the class has none.
    pub host: u128,
    /// Which flow it is of; where there were more flows than queues, one that it shared a queue with.
    pub flow: u32,
    /// The packet itself.
    pub item: T,
}

/// Where packets go, and who marks them.
pub trait Sink<T> {
    /// `item` of `class` is to be sent now.
    fn send(&mut self, item: T, class: NodeId);

    /// Sets the mark of congestion (RFC 3168). False if its sender does not understand that: then it is dropped.
    fn mark(&mut self, item: &mut T) -> bool;

    /// `item` of `class` is lost.
    fn drop(&mut self, item: T, class: NodeId, cause: Cause);
}

/// A shaper. See the module's description.
#[derive(Debug)]
pub struct Shaper<T> {
    mtu: u32,
    overhead: Overhead,
    seed: u64,
    /// Configured ones first, then `hosts` that are made on demand.
    nodes: HugeVec<Node>,
    /// Of each node: the children that may be sent from, if it has children.
    lists: HugeVec<Lists>,
    /// What is known of each node that packets wait in, or of whose hosts they do.
    classes: HugeVec<Class>,
    /// How their queues are kept short, as configured.
    codels: HugeVec<Codel>,
    /// Nodes that have been configured.
    configured: u32,
    /// How many can be.
    room: u32,
    hosts: HostPool,
    flows: Flows,
    slots: Slots<T>,
    wheel: Wheel,
    /// Fat classes, by how much they hold beyond what is reserved for them.
    greedy: fat::Lists,
    links: HugeVec<fat::Link>,
    /// Slots that no class has reserved, and how many of them are taken.
    shared: u32,
    shared_used: u32,
    /// When the port may send again.
    port_due: u64,
    /// Grows when a rate changes, so that what follows from rates is reckoned anew.
    rates_changed: u32,
    sent: HugeVec<Counts>,
    drops: HugeVec<[u64; CAUSES]>,
    sojourns: HugeVec<Histogram>,
}

impl<T> Shaper<T> {
    /// Gives `sink` up to `budget` packets, until none may be sent at the time `now`. Returns how many were given.
    ///
    /// A caller that comes late finds what it has missed, up to the bursts of the rates: so rates hold in spite of pauses.
    pub fn dequeue(&mut self, now: u64, budget: usize, sink: &mut impl Sink<T>) -> usize {
        while let Some(node) = self.wheel.pop(now) {
            self.expired(node, now);
        }
        let mut given = 0;
        while given < budget && self.port_may_send(now) {
            let Some(path) = self.select(now) else { break };
            given += self.take_from(&path, now, budget - given, sink);
        }
        given
    }

    /// When something can be sent next, ns: a time that has passed if there is something now, [`NEVER`] if nothing waits. It
    /// may be too early, but by no more than a few times for a long wait.
    #[must_use]
    pub fn next_due(&self) -> u64 {
        if self.slots.used() == 0 {
            return NEVER;
        }
        let nodes = self.wheel.next().unwrap_or(NEVER);
        if self.lists[0].is_empty() { nodes } else { nodes.min(self.port_due) }
    }

    /// Drops up to `count` packets, because buffers are low: of the fattest queue each time, but of no class that holds no more
    /// than is reserved for it. Returns how many.
    pub fn shed(&mut self, now: u64, count: usize, sink: &mut impl Sink<T>) -> usize {
        (0..count).take_while(|_| self.push_out(now, Cause::Shed, sink)).count()
    }

    /// Takes out all that waits, whatever the rates; each flow's packets in order. Takes a time in proportion to the number of
    /// classes and hosts.
    pub fn drain(&mut self, now: u64, mut each: impl FnMut(Waiting<T>)) {
        for leaf in 0..self.nodes.len() as u32 {
            while let Some(waiting) = self.take_any(leaf) {
                each(waiting);
                if self.nodes[leaf as usize].packets == 0 {
                    self.emptied(leaf, now);
                }
            }
        }
    }

    /// Packets that wait.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.slots.used()
    }

    /// Whether no packet waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.used() == 0
    }

    /// Hosts that are known at present.
    #[must_use]
    pub fn hosts(&self) -> u32 {
        self.hosts.used()
    }

    /// Memory taken, bytes, all of it when the shaper was made.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.lists.capacity() * size_of::<Lists>()
            + self.classes.capacity() * (size_of::<Class>() + size_of::<Codel>())
            + self.sent.capacity() * size_of::<Counts>()
            + self.drops.capacity() * size_of::<[u64; CAUSES]>()
            + self.sojourns.capacity() * size_of::<Histogram>()
            + self.hosts.bytes()
            + self.flows.bytes()
            + self.slots.bytes()
            + self.links.capacity() * size_of::<fat::Link>()
            + self.wheel.bytes()
    }
}
