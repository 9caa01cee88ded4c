//! What may be sent from now is linked, from the port down; what has to wait for its rate is on the wheel.

use super::config::{Class, DEPTH};
use super::node::Mode;
use super::{NONE, NodeId, ROOT, Rates, Shaper};

/// From the child of the port to a leaf.
pub(super) struct Path {
    nodes: [u32; DEPTH],
    len: usize,
}

impl Path {
    fn nodes(&self) -> &[u32] {
        self.nodes.get(..self.len).unwrap_or_default()
    }

    pub(super) fn leaf(&self) -> u32 {
        self.nodes().last().copied().unwrap_or(0)
    }
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
    pub(super) fn select(&mut self) -> Option<Path> {
        let mut path = Path { nodes: [NONE; DEPTH], len: 0 };
        let mut lists = 0;
        while lists != NONE {
            let lists_of = &mut self.lists[lists as usize];
            let mut first = lists_of.first()?;
            loop {
                let node = &mut self.nodes[first as usize];
                let deficit = &mut node.deficit[node.linked.unwrap_or(Mode::Own) as usize];
                if *deficit > 0 {
                    lists = node.lists;
                    break;
                }
                // Its turn is over.
                *deficit = deficit.saturating_add_unsigned(node.quantum);
                lists_of.rotate(&mut self.nodes, first);
                first = lists_of.first()?;
            }
            *path.nodes.get_mut(path.len)? = first;
            path.len += 1;
        }
        Some(path)
    }

    /// A packet of `len` bytes was taken from the leaf at the end of the path: charges all on it, and unlinks those that have
    /// no more, or have to wait now.
    #[inline]
    pub(super) fn settle(&mut self, path: &Path, len: u32, now: u64) {
        for &id in path.nodes().iter().rev() {
            let node = &mut self.nodes[id as usize];
            let mode = node.linked.unwrap_or(Mode::Borrowed);
            node.buckets.earn(now);
            node.buckets.charge(len, mode == Mode::Own);
            node.deficit[mode as usize] -= len as i32;
            let sent = &mut self.sent[id as usize];
            sent.packets += 1;
            sent.bytes += u64::from(len);
            sent.borrowed += u64::from(len) * (mode as u64);
            if !self.has_some(id) {
                self.unlink_empty(id, now);
                continue;
            }
            let node = &mut self.nodes[id as usize];
            let turn_is_over = node.deficit[mode as usize] <= 0;
            if turn_is_over {
                node.deficit[mode as usize] += node.quantum as i32;
            }
            let parent = node.parent;
            let lists = self.nodes[parent as usize].lists;
            let lists = &mut self.lists[lists as usize];
            let node = &mut self.nodes[id as usize];
            let goes_on = node.buckets.may_send() && node.mode() == mode;
            if !goes_on {
                if turn_is_over {
                    lists.mark(node);
                }
                lists.remove(&mut self.nodes, id);
                self.link_or_wait(id);
            } else if turn_is_over {
                lists.rotate(&mut self.nodes, id);
            }
        }
        let port = &mut self.nodes[0].buckets;
        port.charge(len, false);
        if !port.may_send() {
            self.port_due = port.due();
        }
        let sent = &mut self.sent[0];
        sent.packets += 1;
        sent.bytes += u64::from(len);
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

    fn unlink(&mut self, id: u32) {
        let parent = self.nodes[id as usize].parent;
        let lists = self.nodes[parent as usize].lists;
        self.lists[lists as usize].remove(&mut self.nodes, id);
    }

    /// Links a node, unless it has to wait for its rate; false if it has.
    #[inline]
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
    fn link(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        let mode = node.mode();
        let (parent, own_due) = (node.parent, node.buckets.own_due());
        let deficit = &mut node.deficit[mode as usize];
        if *deficit <= 0 {
            *deficit = deficit.saturating_add_unsigned(node.quantum);
        }
        let lists = self.nodes[parent as usize].lists;
        self.lists[lists as usize].push(&mut self.nodes, id, mode);
        if let Some(due) = own_due.filter(|_| mode == Mode::Borrowed) {
            self.wheel.arm_by(id, due);
        }
    }

    /// Unlinks a node that has nothing to send.
    #[inline]
    fn unlink_empty(&mut self, id: u32, now: u64) {
        let parent = self.nodes[id as usize].parent;
        let lists = self.nodes[parent as usize].lists;
        let node = &mut self.nodes[id as usize];
        self.lists[lists as usize].mark(node);
        self.unlink(id);
        // It comes back with a turn like a new one's, less what it has sent in excess.
        let node = &mut self.nodes[id as usize];
        node.deficit = node.deficit.map(|deficit| deficit.min(0));
        if node.lists == NONE {
            self.leaf_is_empty(id, now);
        }
    }

    fn leaf_is_empty(&mut self, id: u32, now: u64) {
        let node = &mut self.nodes[id as usize];
        node.epoch = node.epoch.wrapping_add(1);
        self.flows.give_back_all(&mut node.fresh);
        self.flows.give_back_all(&mut node.stale);
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
        if self.nodes[leaf as usize].linked.is_none() {
            // It waits for its rate.
            self.leaf_is_empty(leaf, now);
        }
        self.unlink_up(leaf, now);
    }

    /// Unlinks a node if it has nothing to send, and likewise what it is in.
    fn unlink_up(&mut self, mut id: u32, now: u64) {
        while id != ROOT.0 && self.nodes[id as usize].linked.is_some() && !self.has_some(id) {
            self.unlink_empty(id, now);
            id = self.nodes[id as usize].parent;
        }
    }

    /// A node has something to send: links it, unless it has to wait, and what it is in.
    #[inline]
    pub(super) fn wake(&mut self, mut id: u32, now: u64) {
        while id != ROOT.0 && self.nodes[id as usize].linked.is_none() {
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
        let node = &mut self.nodes[id as usize];
        node.buckets.earn(now);
        if node.linked == Some(Mode::Borrowed) {
            if node.buckets.within_own() {
                self.unlink(id);
                self.link(id);
            } else if let Some(due) = node.buckets.own_due() {
                self.wheel.arm(id, due);
            }
        } else if self.has_some(id) {
            self.wake(id, now);
        } else if self.is_host(id) {
            self.give_host_back(id, now);
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
