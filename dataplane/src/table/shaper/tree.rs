//! What may be sent from now is linked, from the port down; what has to wait for its rate is on the wheel.

use super::config::{Class, DEPTH};
use super::lists::mode_of;
use super::node::Mode;
use super::stats::Waits;
use super::{NONE, NodeId, ROOT, Rates, Shaper, Sink};
use crate::table::prefetch::prefetch_at;

/// From the child of the port to what holds a leaf whose turn it is: each node, and the lists that it is in.
pub(super) struct Path {
    nodes: [(u32, u32); DEPTH],
    len: usize,
    /// The lists of the leaf.
    pub(super) lists: u32,
    /// Bytes that may begin to be sent before anything changes on it.
    pub(super) bytes: u64,
}

/// How far what is needed has been fetched ahead: a leaf, and the flow of the one ahead of that.
struct Ahead {
    leaf: u32,
    flow: u32,
}

/// What a node may send in a turn, bytes.
#[inline(always)]
fn quantum(weight: u16, mtu: u32) -> i32 {
    (u32::from(weight) * mtu).min(i32::MAX as u32 / 2) as i32
}

impl<T> Shaper<T> {
    pub(super) fn class_of(&self, leaf: u32) -> &Class {
        &self.classes[self.nodes[leaf as usize].class as usize]
    }

    #[inline]
    pub(super) fn port_may_send(&mut self, now: u64) -> bool {
        now >= self.port_due && {
            let buckets = &mut self.nodes[0].buckets;
            buckets.earn(now);
            buckets.may_send()
        }
    }

    /// The way to the leaf whose turn it is.
    #[inline]
    pub(super) fn select(&mut self, now: u64) -> Option<Path> {
        let bytes = self.nodes[0].buckets.may_begin(false);
        let mut path = Path { nodes: [(NONE, NONE); DEPTH], len: 0, lists: 0, bytes };
        loop {
            let child = self.first(path.lists)?;
            let node = &mut self.nodes[child as usize];
            if node.lists == NONE {
                return Some(path);
            }
            let mode = mode_of(node.list);
            node.buckets.earn(now);
            let may_begin = node.buckets.may_begin(mode == Mode::Own);
            path.bytes = path.bytes.min(may_begin).min(node.deficit[mode as usize].max(0) as u64);
            *path.nodes.get_mut(path.len)? = (child, path.lists);
            path.len += 1;
            path.lists = node.lists;
        }
    }

    /// The child in these lists whose turn it is.
    #[inline(always)]
    pub(super) fn first(&mut self, lists: u32) -> Option<u32> {
        let of = self.lists.get_mut(lists as usize)?;
        loop {
            let first = of.first()?;
            let node = &mut self.nodes[first as usize];
            let deficit = &mut node.deficit[mode_of(node.list) as usize];
            if *deficit > 0 {
                return Some(first);
            }
            // Its last packet was larger than what it may send in a turn.
            *deficit += quantum(node.weight, self.mtu);
            of.rotate(&mut self.nodes, first);
        }
    }

    /// Takes up to `budget` packets from the leaves at the end of a path, and gives them to `sink`: until something changes on
    /// the path.
    #[inline]
    pub(super) fn take_from(
        &mut self,
        path: &Path,
        now: u64,
        budget: usize,
        sink: &mut impl Sink<T>,
    ) -> usize {
        let (mut given, mut bytes) = (0, 0);
        let (mut before, mut ahead) = (NONE, Ahead { leaf: NONE, flow: NONE });
        if let Some(leaf) = self.first(path.lists) {
            self.look_further(leaf, &mut ahead);
        }
        let mut waits = Waits::new();
        while given < budget && bytes < path.bytes {
            let Some(leaf) = self.first(path.lists) else { break };
            if self.nodes[leaf as usize].lists != NONE {
                break;
            }
            if leaf != before {
                self.look_further(leaf, &mut ahead);
                before = leaf;
            }
            let node = &mut self.nodes[leaf as usize];
            let (mode, place) = (mode_of(node.list), node.class);
            let most = if node.packets == 1 {
                1
            } else {
                node.buckets.earn(now);
                let may_begin = node.buckets.may_begin(mode == Mode::Own);
                may_begin.min(path.bytes - bytes).min(node.deficit[mode as usize].max(0) as u64)
            };
            let class = self.classes[place as usize].node;
            let (mut count, mut taken) = (0, 0);
            while given < budget && taken < most {
                let Some((item, len, waited)) = self.take(leaf, now, sink) else { break };
                waits.note(&mut self.sojourns, place, waited);
                sink.send(item, class);
                given += 1;
                count += 1;
                taken += u64::from(len);
            }
            bytes += taken;
            let has_some = self.nodes[leaf as usize].packets > 0;
            self.settle(leaf, path.lists, (count, taken), has_some, now);
        }
        waits.record(&mut self.sojourns);
        self.settle_path(path, (given as u64, bytes), now);
        given
    }

    /// Fetches what the leaves behind this one need, each time a step further: first the leaf, then its flow, then the packet.
    #[inline(always)]
    fn look_further(&self, leaf: u32, ahead: &mut Ahead) {
        if let Some(flow) = self.flows.get(ahead.flow) {
            self.slots.prefetch(flow.head);
        }
        let from = if ahead.leaf == NONE { leaf } else { ahead.leaf };
        let Some(node) = self.nodes.get(from as usize) else { return };
        let [fresh, stale] = [node.fresh[0], node.stale[0]];
        *ahead = Ahead { leaf: node.next, flow: if fresh == NONE { stale } else { fresh } };
        self.flows.prefetch_queue(ahead.flow);
        prefetch_at(&self.nodes, ahead.leaf as usize);
        prefetch_at(&self.sent, ahead.leaf as usize);
    }

    /// Charges the nodes of a path for what was taken from its leaves, and unlinks those that have no more.
    #[inline(never)]
    fn settle_path(&mut self, path: &Path, sent: (u64, u64), now: u64) {
        for (at, &(id, lists)) in path.nodes.iter().enumerate().take(path.len).rev() {
            let inside =
                path.nodes.get(at + 1).filter(|_| at + 1 < path.len).map_or(path.lists, |&(_, lists)| lists);
            let has_some = !self.lists[inside as usize].is_empty();
            self.settle(id, lists, sent, has_some, now);
        }
        let (packets, bytes) = sent;
        let port = &mut self.nodes[0].buckets;
        port.charge(bytes, false);
        if !port.may_send() {
            self.port_due = port.due();
        }
        let sent = &mut self.sent[0];
        sent.packets += packets;
        sent.bytes += bytes;
    }

    /// Charges a node that is in these lists for what was taken from it, and sees to where it belongs then.
    #[inline(always)]
    fn settle(&mut self, id: u32, lists: u32, (packets, bytes): (u64, u64), has_some: bool, now: u64) {
        let node = &mut self.nodes[id as usize];
        let mode = mode_of(node.list);
        node.buckets.earn(now);
        node.buckets.charge(bytes, mode == Mode::Own);
        let deficit = &mut node.deficit[mode as usize];
        *deficit -= bytes as i32;
        let turn_is_over = *deficit <= 0;
        let sent = &mut self.sent[id as usize];
        sent.packets += packets;
        sent.bytes += bytes;
        sent.borrowed += if mode == Mode::Own { 0 } else { bytes };
        if !has_some {
            self.unlink_empty(id, now);
        } else if turn_is_over || !node.buckets.may_send() || node.mode() != mode {
            if turn_is_over {
                node.deficit[mode as usize] += quantum(node.weight, self.mtu);
                self.lists[lists as usize].mark(node);
            }
            self.lists[lists as usize].remove(&mut self.nodes, id);
            self.link_or_wait(id);
        }
    }

    /// Whether something in a node may be sent, as far as its children are concerned.
    #[inline(always)]
    fn has_some(&self, id: u32) -> bool {
        let node = &self.nodes[id as usize];
        match self.lists.get(node.lists as usize) {
            Some(lists) => !lists.is_empty(),
            None => node.packets > 0,
        }
    }

    #[inline(always)]
    fn unlink(&mut self, id: u32) {
        let up = self.nodes[id as usize].up;
        self.lists[up as usize].remove(&mut self.nodes, id);
    }

    /// Links a node, unless it has to wait for its rate; false if it has.
    #[inline(always)]
    fn link_or_wait(&mut self, id: u32) -> bool {
        let buckets = &self.nodes[id as usize].buckets;
        let may_send = buckets.may_send();
        if may_send {
            self.link(id);
        } else {
            self.wheel.arm_by(id, buckets.due());
        }
        may_send
    }

    /// Links a node by what its rates allow, and sees to it that it gets its own when it is due.
    #[inline(always)]
    fn link(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        let mode = node.mode();
        if node.deficit[mode as usize] <= 0 {
            node.deficit[mode as usize] += quantum(node.weight, self.mtu);
        }
        if mode == Mode::Borrowed {
            if let Some(due) = node.buckets.own_due() {
                self.wheel.arm_by(id, due);
            }
        }
        self.lists[node.up as usize].push(&mut self.nodes, id, mode);
    }

    /// Unlinks a node that has nothing to send.
    #[inline(always)]
    fn unlink_empty(&mut self, id: u32, now: u64) {
        let node = &mut self.nodes[id as usize];
        // It comes back with a turn like a new one's, less what it has sent in excess.
        let deficit = &mut node.deficit[mode_of(node.list) as usize];
        *deficit = (*deficit).min(0);
        let is_leaf = node.lists == NONE;
        let lists = &mut self.lists[node.up as usize];
        lists.mark(node);
        lists.remove(&mut self.nodes, id);
        if is_leaf {
            self.leaf_is_empty(id, now);
        }
    }

    #[inline(always)]
    fn leaf_is_empty(&mut self, id: u32, now: u64) {
        let node = &mut self.nodes[id as usize];
        node.epoch = node.epoch.wrapping_add(1);
        (node.fresh, node.stale) = ([NONE; 2], [NONE; 2]);
        if node.epoch == 0 {
            node.epoch = 1;
            self.flows.forget(id);
        }
        if self.is_host(id) {
            self.host_is_idle(id, now);
        }
    }

    /// A leaf has lost its last packet otherwise than by sending it.
    pub(super) fn emptied(&mut self, leaf: u32, now: u64) {
        if !self.nodes[leaf as usize].is_linked() {
            // It waits for its rate.
            self.leaf_is_empty(leaf, now);
        }
        self.unlink_up(leaf, now);
    }

    /// Unlinks a node if it has nothing to send, and likewise what it is in.
    fn unlink_up(&mut self, mut id: u32, now: u64) {
        while id != ROOT.0 && self.nodes[id as usize].is_linked() && !self.has_some(id) {
            self.unlink_empty(id, now);
            id = self.nodes[id as usize].parent;
        }
    }

    /// A node has something to send: links it, unless it has to wait, and what it is in.
    #[inline]
    pub(super) fn wake(&mut self, mut id: u32, now: u64) {
        while id != ROOT.0 && !self.nodes[id as usize].is_linked() {
            let node = &mut self.nodes[id as usize];
            let parent = node.parent;
            node.buckets.earn(now);
            if !self.link_or_wait(id) {
                return;
            }
            id = parent;
        }
    }

    /// A node's timer has fired: it may send, or may send within its own rate, or is a host that is idle.
    pub(super) fn expired(&mut self, id: u32, now: u64) {
        let has_some = self.has_some(id);
        let node = &mut self.nodes[id as usize];
        node.is_idle = false;
        if !has_some {
            if self.is_host(id) {
                self.give_host_back(id, now);
            }
            return;
        }
        node.buckets.earn(now);
        if !node.is_linked() {
            self.wake(id, now);
        } else if mode_of(node.list) == Mode::Borrowed {
            if node.buckets.within_own() {
                self.unlink(id);
                self.link(id);
            } else if let Some(due) = node.buckets.own_due() {
                self.wheel.arm(id, due);
            }
        }
    }

    /// Changes a class's rates, or the port's, from the time `now` on. What was sent in excess of the old ones is still owed.
    pub fn set_rate(&mut self, now: u64, node: NodeId, rates: &Rates) {
        if node.0 < self.configured {
            self.change_rates(now, node.0, rates);
        }
    }

    pub(super) fn change_rates(&mut self, now: u64, id: u32, rates: &Rates) {
        self.rates_changed = self.rates_changed.wrapping_add(1);
        let node = &mut self.nodes[id as usize];
        node.buckets.adjust(now, rates, self.mtu);
        if id == ROOT.0 {
            self.port_due = node.buckets.due();
            return;
        }
        let parent = node.parent;
        self.unlink(id);
        self.unlink_up(parent, now);
        if self.has_some(id) {
            self.wake(id, now);
        }
    }
}
