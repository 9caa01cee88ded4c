//! FQ-CoDel (RFC 8290): which packet of a leaf goes next.

use super::codel::Law;
use super::{Cause, NONE, Shaper, Sink, Waiting};

/// Flows without packets that are given back on the way, at most, for each one that comes to have none.
const TIDIED: usize = 2;

impl<T> Shaper<T> {
    /// Takes a packet from a leaf, with its bytes on the wire and how long it has waited. `None` if CoDel has dropped all that it had; the leaf is still
    /// linked then.
    #[inline]
    pub(super) fn take(&mut self, leaf: u32, now: u64, sink: &mut impl Sink<T>) -> Option<(T, u32, u64)> {
        let law = self.law(leaf);
        while self.nodes[leaf as usize].packets > 0 {
            let node = &mut self.nodes[leaf as usize];
            let is_fresh = node.fresh[0] != NONE;
            let list = if is_fresh { &mut node.fresh } else { &mut node.stale };
            let id = list[0];
            let flow = self.flows.get_mut(id)?;
            if flow.packets > 0 && flow.deficit > 0 {
                if let Some(taken) = self.take_of(id, leaf, &law, now, sink) {
                    return Some(taken);
                }
                continue;
            }
            if flow.packets > 0 {
                flow.deficit = flow.deficit.saturating_add_unsigned(self.mtu);
            } else {
                flow.codel.empty();
            }
            let goes_on = flow.packets > 0 || is_fresh;
            self.flows.pop(list);
            if goes_on {
                self.flows.push(&mut node.stale, id);
            } else {
                self.flows.give_back(id);
            }
            self.tidy(leaf);
        }
        None
    }

    /// Gives the first flows of a leaf back that had their turn, have no packets, and are next.
    fn tidy(&mut self, leaf: u32) {
        for _ in 0..TIDIED {
            let stale = &mut self.nodes[leaf as usize].stale;
            let id = stale[0];
            if id == stale[1] || self.flows.get(id).is_none_or(|flow| flow.packets > 0) {
                return;
            }
            self.flows.pop(stale);
            self.flows.give_back(id);
        }
    }

    /// Takes the next packet of a flow that CoDel lets go.
    #[inline(always)]
    fn take_of(
        &mut self,
        id: u32,
        leaf: u32,
        law: &Law,
        now: u64,
        sink: &mut impl Sink<T>,
    ) -> Option<(T, u32, u64)> {
        let mut again = false;
        while let Some((slot, len, since)) = self.unchain(id, leaf) {
            let waited = now.saturating_sub(since);
            let flow = self.flows.get_mut(id)?;
            flow.deficit -= len as i32;
            if flow.codel.drops(law, now, waited, flow.bytes, again)
                && !self.mark(slot, id, leaf, law, now, sink)
            {
                if let Some(flow) = self.flows.get_mut(id) {
                    flow.deficit += len as i32;
                }
                self.lose(slot, leaf, Cause::Codel, sink);
                again = true;
                continue;
            }
            return Some((self.slots.take(slot)?, len, waited));
        }
        self.flows.get_mut(id)?.codel.empty();
        None
    }

    /// Marks a packet in place of its drop, if that is understood.
    #[cold]
    fn mark(&mut self, slot: u32, id: u32, leaf: u32, law: &Law, now: u64, sink: &mut impl Sink<T>) -> bool {
        if !self.class_of(leaf).ecn || !self.slots.item_mut(slot).is_some_and(|item| sink.mark(item)) {
            return false;
        }
        if let Some(flow) = self.flows.get_mut(id) {
            flow.codel.go_on(law, now);
        }
        self.count_mark(leaf);
        true
    }

    /// Takes a packet of a leaf whatever it is due, and says what it is of.
    pub(super) fn take_any(&mut self, leaf: u32) -> Option<Waiting<T>> {
        while self.nodes[leaf as usize].packets > 0 {
            let is_fresh = self.nodes[leaf as usize].fresh[0] != NONE;
            let node = &self.nodes[leaf as usize];
            let [id, _] = if is_fresh { node.fresh } else { node.stale };
            if let Some((slot, ..)) = self.unchain(id, leaf) {
                let (class, host) = (self.class_of(leaf).node, self.host_key(leaf));
                let flow = self.flows.get(id)?.hash;
                return self.slots.take(slot).map(|item| Waiting { class, host, flow, item });
            }
            let node = &mut self.nodes[leaf as usize];
            self.flows.pop(if is_fresh { &mut node.fresh } else { &mut node.stale });
            self.flows.give_back(id);
        }
        None
    }

    /// Takes the first packet out of a flow's queue, whose slot it leaves in use: with its bytes, and when it came.
    #[inline(always)]
    pub(super) fn unchain(&mut self, id: u32, leaf: u32) -> Option<(u32, u32, u64)> {
        let flow = self.flows.get_mut(id)?;
        let slot = flow.head;
        let held = self.slots.get(slot)?;
        flow.head = held.next;
        flow.packets -= 1;
        flow.bytes -= held.len;
        let node = &mut self.nodes[leaf as usize];
        node.packets -= 1;
        if node.fattest == id {
            node.fattest_bytes = flow.bytes;
        }
        let class = &mut self.classes[node.class as usize];
        self.shared_used -= u32::from(class.used > class.reserved);
        class.used -= 1;
        class.bytes -= u64::from(held.len);
        Some((slot, held.len, held.since))
    }

    /// Drops a packet that is in no queue any more.
    pub(super) fn lose(&mut self, slot: u32, leaf: u32, cause: Cause, sink: &mut impl Sink<T>) {
        self.count_drop(leaf, cause);
        let class = self.class_of(leaf).node;
        if let Some(item) = self.slots.take(slot) {
            sink.drop(item, class, cause);
        }
    }

    /// Counts a drop at a node and at all that it is in.
    #[cold]
    pub(super) fn count_drop(&mut self, mut node: u32, cause: Cause) {
        while let Some(drops) = self.drops.get_mut(node as usize) {
            drops[cause as usize] += 1;
            node = self.nodes[node as usize].parent;
        }
    }

    #[cold]
    fn count_mark(&mut self, mut node: u32) {
        while let Some(sent) = self.sent.get_mut(node as usize) {
            sent.marks += 1;
            node = self.nodes[node as usize].parent;
        }
    }

    /// CoDel's target and interval of a leaf at the present rates.
    #[inline(always)]
    fn law(&mut self, leaf: u32) -> Law {
        let place = self.nodes[leaf as usize].class;
        if self.classes[place as usize].reckoned != self.rates_changed {
            self.reckon(place);
        }
        let class = &self.classes[place as usize];
        Law { target: class.target, interval: class.interval, mtu: self.mtu }
    }

    #[cold]
    fn reckon(&mut self, place: u32) {
        let class = &self.classes[place as usize];
        let of_host = self.hosts.rates(class.hosted).and_then(|rates| rates.max);
        let rates = self.parents(class.node.0).filter_map(|node| self.nodes[node as usize].buckets.rate());
        let rate = rates.chain(of_host).min_by_key(|rate| rate.bits_per_second);
        let (target, interval) = self.codels[place as usize].at(rate, self.mtu);
        let class = &mut self.classes[place as usize];
        (class.target, class.interval, class.reckoned) = (target, interval, self.rates_changed);
    }
}
