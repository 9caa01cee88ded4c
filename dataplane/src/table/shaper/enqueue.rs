//! The way in: which leaf and flow, whether there is room, and who has to make some.

use super::flows::{Flow, Flows};
use super::node::Node;
use super::{Cause, NONE, NodeId, Packet, Shaper, Sink, fat};
use crate::table::prefetch::{prefetch_at, prefetch_line};

/// Packets whose memory is fetched together.
const AHEAD: usize = 32;
/// Flows that are looked at for one with packets.
const LOOKS: usize = 8;

/// Where a packet is likely to go, found ahead.
#[derive(Clone, Copy)]
struct Guess {
    /// The leaf, or the host's.
    leaf: u32,
    flow: u32,
    /// A hash, of the host first and then of the flow.
    hash: u64,
}

const NO_GUESS: Guess = Guess { leaf: NONE, flow: NONE, hash: 0 };

impl<T> Shaper<T> {
    /// Takes a packet in at the time `now`. If there is no room for it, or it takes another's, `sink` gets the one that is
    /// dropped.
    #[inline]
    pub fn enqueue(&mut self, now: u64, packet: Packet<T>, sink: &mut impl Sink<T>) {
        self.enqueue_guessed(now, packet, NO_GUESS, sink);
    }

    /// Takes packets in, all at the time `now`, with the memory that they need fetched ahead of its use. Leaves `packets`
    /// empty. What finds no room, or has to make some for others, goes to `sink`.
    pub fn enqueue_burst(&mut self, now: u64, packets: &mut Vec<Packet<T>>, sink: &mut impl Sink<T>) {
        while !packets.is_empty() {
            let mut guesses = [NO_GUESS; AHEAD];
            let many = self.look_ahead(packets, &mut guesses);
            for (packet, &guess) in packets.drain(..many).zip(&guesses) {
                self.enqueue_guessed(now, packet, guess, sink);
            }
        }
    }

    #[inline(always)]
    fn enqueue_guessed(&mut self, now: u64, packet: Packet<T>, guess: Guess, sink: &mut impl Sink<T>) {
        let Packet { class, host, flow: hash, len, item } = packet;
        let place = self.nodes.get(class.0 as usize).map_or(NONE, |node| node.class);
        let Some(of) = self.classes.get(place as usize).filter(|of| of.node == class) else {
            return self.refuse(0, item, class, Cause::Full, sink);
        };
        let leaf = if of.has_hosts() { self.host(place, host, guess.leaf) } else { Some(class.0) };
        let Some(leaf) = leaf else {
            return self.refuse(class.0, item, class, Cause::Hosts, sink);
        };
        let of = &self.classes[place as usize];
        if of.used >= of.reserved && self.shared_used >= self.shared || of.used >= of.limit {
            if let Err(cause) = self.make_room(place, now, sink) {
                return self.refuse(leaf, item, class, cause, sink);
            }
        }
        let Some((flow, in_use)) = self.flow(guess.flow, leaf, hash) else {
            return self.refuse(leaf, item, class, Cause::Full, sink);
        };
        let wire = self.overhead.wire(len);
        let slot = match self.slots.put(item, now, wire) {
            Ok(slot) => slot,
            Err(item) => return self.refuse(leaf, item, class, Cause::Full, sink),
        };
        self.chain(leaf, flow, in_use, slot, wire);
        let of = &mut self.classes[place as usize];
        self.shared_used += u32::from(of.used >= of.reserved);
        of.used += 1;
        of.bytes += u64::from(wire);
        let level = fat::level(of.excess());
        let node = &mut self.nodes[class.0 as usize];
        if level > node.fat {
            self.greedy.move_to(&mut self.links, class.0, &mut node.fat, level);
        }
        if leaf != class.0 {
            self.host_has_grown(leaf, place);
        }
        if self.nodes[leaf as usize].packets == 1 {
            self.wake(leaf, now);
        }
    }

    /// The queue of a flow, and whether it has been in use. Where all are in use, it shares one of the same leaf.
    #[inline(always)]
    fn flow(&mut self, guess: u32, leaf: u32, hash: u32) -> Option<(u32, bool)> {
        let found = self.flows.find_or_make(self.seed, guess, (leaf, hash), &self.nodes);
        found.or_else(|| {
            let node = &self.nodes[leaf as usize];
            let shared = [node.stale[1], node.fresh[1]].into_iter().find(|&flow| flow != NONE);
            shared.map(|flow| (flow, true))
        })
    }

    /// Puts a slot at the end of a flow's queue, and a flow that has not been in use among the new ones.
    #[inline(always)]
    fn chain(&mut self, leaf: u32, id: u32, in_use: bool, slot: u32, wire: u32) {
        let node = &mut self.nodes[leaf as usize];
        if !in_use {
            self.flows.push(&mut node.fresh, id);
        }
        let Some(flow) = self.flows.get_mut(id) else { return };
        if !in_use {
            flow.deficit = self.mtu as i32;
        }
        if flow.packets == 0 {
            flow.head = slot;
        } else {
            self.slots.chain(flow.tail, slot);
        }
        flow.tail = slot;
        flow.packets += 1;
        flow.bytes += wire;
        if flow.bytes > node.fattest_bytes || node.packets == 0 {
            (node.fattest, node.fattest_bytes) = (id, flow.bytes);
        }
        node.packets += 1;
    }

    /// Drops a packet that is not taken in, and counts it at a node and all that it is in.
    #[cold]
    fn refuse(&mut self, node: u32, item: T, class: NodeId, cause: Cause, sink: &mut impl Sink<T>) {
        self.count_drop(node, cause);
        if self.is_host(node) && self.nodes[node as usize].packets == 0 {
            self.host_is_idle(node, 0);
        }
        sink.drop(item, class, cause);
    }

    /// Sees to it that a packet of this class finds a slot.
    #[cold]
    fn make_room(&mut self, place: u32, now: u64, sink: &mut impl Sink<T>) -> Result<(), Cause> {
        let class = &self.classes[place as usize];
        if class.used >= class.limit && !self.push_out_of(place, now, Cause::Limit, sink) {
            return Err(Cause::Limit);
        }
        let class = &self.classes[place as usize];
        let needs_shared = class.used >= class.reserved && self.shared_used >= self.shared;
        if needs_shared && !self.push_out(now, Cause::Fattest, sink) {
            return Err(Cause::Full);
        }
        Ok(())
    }

    /// Drops a packet of the fattest class.
    pub(super) fn push_out(&mut self, now: u64, cause: Cause, sink: &mut impl Sink<T>) -> bool {
        let mut known = (&mut *self.nodes, &*self.classes);
        let class = self.greedy.fattest(
            &mut self.links,
            &mut known,
            |(nodes, classes), class| {
                classes.get(nodes[class as usize].class as usize).map_or(0, |class| class.excess())
            },
            |(nodes, _), class| &mut nodes[class as usize].fat,
        );
        class.is_some_and(|class| self.push_out_of(self.nodes[class as usize].class, now, cause, sink))
    }

    /// Drops a packet of a class: of its fattest host's fattest flow, and there the one that has waited longest.
    fn push_out_of(&mut self, place: u32, now: u64, cause: Cause, sink: &mut impl Sink<T>) -> bool {
        let class = &self.classes[place as usize];
        let leaf = if class.has_hosts() { self.fattest_host(place) } else { Some(class.node.0) };
        let Some(leaf) = leaf else { return false };
        let Some(flow) = self.fattest_flow(leaf) else { return false };
        let Some((slot, ..)) = self.unchain(flow, leaf) else { return false };
        self.lose(slot, leaf, cause, sink);
        if self.nodes[leaf as usize].packets == 0 {
            self.emptied(leaf, now);
        }
        true
    }

    /// The flow of a leaf that is known to be fat, or the fattest of those that are next.
    fn fattest_flow(&mut self, leaf: u32) -> Option<u32> {
        let node = &mut self.nodes[leaf as usize];
        let epoch = node.epoch;
        let is_known = |flow: &Flow| flow.packets > 0 && flow.is_of(leaf, epoch);
        if self.flows.get(node.fattest).is_some_and(is_known) {
            return Some(node.fattest);
        }
        // Those without packets are in nobody's way then.
        for list in [&mut node.fresh, &mut node.stale] {
            while self.flows.get(list[0]).is_some_and(|flow| flow.packets == 0) {
                self.flows.give_back(list[0]);
                self.flows.pop(list);
            }
        }
        let next = |&id: &u32| self.flows.get(id).map(|flow| flow.next);
        let of = |list: [u32; 2]| std::iter::successors(Some(list[0]), next).take(LOOKS);
        let held = |&id: &u32| self.flows.get(id).map_or(0, |flow| flow.bytes);
        let (fresh, stale) = (node.fresh, node.stale);
        of(stale).chain(of(fresh)).max_by_key(held)
    }

    /// Fetches what the first of these packets need, in steps whose misses overlap, and guesses where they go; returns how many
    /// packets that was done for. No step asks for much: CPUs drop what is too much at once.
    #[inline(always)]
    fn look_ahead(&self, packets: &[Packet<T>], guesses: &mut [Guess; AHEAD]) -> usize {
        let packets = packets.get(..AHEAD).unwrap_or(packets);
        let mut has_hosts = false;
        for (packet, guess) in packets.iter().zip(&mut *guesses) {
            guess.leaf = packet.class.0;
            Node::prefetch_links(&self.nodes, packet.class.0);
            if let Some(place) = self.hosts.class_with(packet.class) {
                has_hosts = true;
                guess.hash = self.host_hash(place, packet.host);
                self.prefetch_host(guess.hash);
            } else {
                guess.hash = Flows::name(self.seed, guess.leaf, packet.flow);
                self.flows.prefetch(guess.hash);
            }
        }
        if has_hosts {
            self.look_for_hosts(packets, guesses);
        }
        for (_, guess) in packets.iter().zip(&mut *guesses) {
            guess.flow = self.flows.candidate(guess.hash);
            if let Some(node) = self.nodes.get(guess.leaf as usize) {
                prefetch_line(&node.buckets);
                prefetch_at(&self.classes, node.class as usize);
            }
        }
        packets.len()
    }

    /// The same for those of hosts, whose leaves are to be found first.
    #[inline]
    fn look_for_hosts(&self, packets: &[Packet<T>], guesses: &mut [Guess; AHEAD]) {
        for (packet, guess) in packets.iter().zip(guesses) {
            if self.hosts.class_with(packet.class).is_some() {
                guess.leaf = self.host_candidate(guess.hash);
                guess.hash = Flows::name(self.seed, guess.leaf, packet.flow);
                self.flows.prefetch(guess.hash);
                Node::prefetch_links(&self.nodes, guess.leaf);
            }
        }
    }
}
