//! The way in: which leaf and flow, whether there is room, and who has to make some.

use super::flows::{Flow, Flows};
use super::{Cause, NONE, Packet, Shaper, Sink, fat};
use crate::table::prefetch::prefetch_at;

/// Packets whose memory is fetched together.
const AHEAD: usize = 32;
/// Flows that are looked at for one with packets.
const LOOKS: usize = 8;

impl<T> Shaper<T> {
    /// Takes a packet in at the time `now`. If there is no room for it, or it takes another's, `sink` gets the one that is
    /// dropped.
    #[inline]
    pub fn enqueue(&mut self, now: u64, packet: Packet<T>, sink: &mut impl Sink<T>) {
        let Packet { class, host, flow: hash, len, item } = packet;
        let place = self.nodes.get(class.0 as usize).map_or(NONE, |node| node.class);
        let Some(of) = self.classes.get(place as usize).filter(|of| of.node == class) else {
            self.count_drop(0, Cause::Full);
            return sink.drop(item, class, Cause::Full);
        };
        let leaf = if of.hosts.is_some() { self.host(place, host) } else { Some(class.0) };
        let Some(leaf) = leaf else {
            self.count_drop(class.0, Cause::Hosts);
            return sink.drop(item, class, Cause::Hosts);
        };
        let queued = match self.make_room(place, now, sink) {
            Ok(()) => self.queue(now, leaf, hash, len, item),
            Err(cause) => Err((item, cause)),
        };
        match queued {
            Ok(()) => {
                let node = &mut self.nodes[leaf as usize];
                node.packets += 1;
                if node.packets == 1 {
                    self.wake(leaf, now);
                }
                self.has_grown(leaf, place);
            }
            Err((item, cause)) => {
                self.count_drop(leaf, cause);
                if self.is_host(leaf) && self.nodes[leaf as usize].packets == 0 {
                    self.host_is_idle(leaf, now);
                }
                sink.drop(item, class, cause);
            }
        }
    }

    /// Puts a packet at the end of its flow's queue, and counts its bytes.
    #[inline]
    fn queue(&mut self, now: u64, leaf: u32, hash: u32, len: u32, item: T) -> Result<(), (T, Cause)> {
        let wire = self.overhead.wire(len);
        let node = &mut self.nodes[leaf as usize];
        let name = Flows::hash(self.seed, leaf, hash);
        // Where all are in use, it shares one of the same leaf.
        let (id, in_use) = match self.flows.find_or_make(self.seed, name, leaf, hash, node.epoch) {
            Some(found) => found,
            None if node.stale[1] != NONE => (node.stale[1], true),
            None if node.fresh[1] != NONE => (node.fresh[1], true),
            None => return Err((item, Cause::Full)),
        };
        let slot = match self.slots.put(item, now, wire) {
            Ok(slot) => slot,
            Err(item) => return Err((item, Cause::Full)),
        };
        if !in_use {
            self.flows.push(&mut node.fresh, id);
        }
        let mtu = self.mtu;
        if let Some(flow) = self.flows.get_mut(id) {
            if !in_use {
                flow.deficit = mtu as i32;
            }
            if flow.packets == 0 {
                flow.head = slot
            } else {
                self.slots.chain(flow.tail, slot)
            }
            flow.tail = slot;
            flow.packets += 1;
            flow.bytes += wire;
            if flow.bytes > node.fattest_bytes || node.packets == 0 {
                (node.fattest, node.fattest_bytes) = (id, flow.bytes);
            }
        }
        let class = &mut self.classes[node.class as usize];
        self.shared_used += u32::from(class.used >= class.reserved);
        class.used += 1;
        class.bytes += u64::from(wire);
        Ok(())
    }

    /// Sees to it that a packet of this class finds a slot.
    #[inline(always)]
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
        let class = &mut self.classes[place as usize];
        let leaf = match class.hosts {
            None => class.node.0,
            Some(_) => {
                let nodes = &mut *self.nodes;
                let host = class.fat.fattest(
                    &mut self.links,
                    nodes,
                    |nodes, host| nodes[host as usize].packets,
                    |nodes, host| &mut nodes[host as usize].fat,
                );
                let Some(host) = host else { return false };
                host
            }
        };
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
        let is_known = |flow: &Flow| flow.packets > 0 && flow.leaf == leaf && flow.epoch == epoch;
        if self.flows.get(node.fattest).is_some_and(is_known) {
            return Some(node.fattest);
        }
        // Those without packets are in nobody's way then.
        for list in [&mut node.fresh, &mut node.stale] {
            while self.flows.get(list[0]).is_some_and(|flow| flow.packets == 0) {
                let empty = list[0];
                self.flows.remove(list, empty);
                self.flows.give_back(empty);
            }
        }
        let next = |&id: &u32| self.flows.get(id).map(|flow| flow.next);
        let of = |list: [u32; 2]| std::iter::successors(Some(list[0]), next).take(LOOKS);
        let held = |&id: &u32| self.flows.get(id).map_or(0, |flow| flow.bytes);
        let (fresh, stale) = (node.fresh, node.stale);
        of(stale).chain(of(fresh)).max_by_key(held)
    }

    /// Puts a class and a host among the fat ones, if they have come to be.
    #[inline(always)]
    fn has_grown(&mut self, leaf: u32, place: u32) {
        let class = &self.classes[place as usize];
        let (level, id) = (fat::level(class.excess()), class.node.0);
        let at = &mut self.nodes[id as usize].fat;
        if level > *at {
            self.greedy.move_to(&mut self.links, id, at, level);
        }
        if leaf != id {
            self.host_has_grown(leaf, place);
        }
    }

    /// Fetches what the first of these packets need, in steps whose misses overlap; returns how many packets that was for.
    pub(super) fn look_ahead(&self, packets: &[Packet<T>]) -> usize {
        let packets = packets.get(..AHEAD).unwrap_or(packets);
        let (mut names, mut leaves) = ([0; AHEAD], [NONE; AHEAD]);
        for (packet, name) in packets.iter().zip(&mut names) {
            let Some(place) = self.hosts_of(packet) else {
                prefetch_at(&self.nodes, packet.class.0 as usize);
                continue;
            };
            *name = self.host_hash(place, packet.host);
            self.prefetch_host(*name);
        }
        for ((packet, name), leaf) in packets.iter().zip(&mut names).zip(&mut leaves) {
            *leaf = if self.hosts_of(packet).is_some() { self.host_candidate(*name) } else { packet.class.0 };
            *name = Flows::hash(self.seed, *leaf, packet.flow);
            self.flows.prefetch(*name);
        }
        self.slots.prefetch_free(packets.len());
        let mut flows = [NONE; AHEAD];
        for (flow, &name) in flows.iter_mut().zip(&names).take(packets.len()) {
            *flow = self.flows.candidate(name);
        }
        for (&flow, &leaf) in flows.iter().zip(&leaves).take(packets.len()) {
            if self.nodes.get(leaf as usize).is_some_and(|node| node.packets > 0) {
                if let Some(flow) = self.flows.get(flow) {
                    self.slots.prefetch(flow.tail);
                }
            }
        }
        packets.len()
    }

    /// The class of a packet, by place, if it has hosts.
    #[inline(always)]
    fn hosts_of(&self, packet: &Packet<T>) -> Option<u32> {
        let place = self.nodes.get(packet.class.0 as usize)?.class;
        self.classes.get(place as usize)?.hosts.map(|_| place)
    }
}
