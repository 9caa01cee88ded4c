//! The children of a node that may be sent from now, by mode and priority, and equals in turn.

use super::NONE;
use super::config::PRIORITIES;
use super::node::{Mode, Node};

/// Children that may be sent from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lists {
    /// Which lists are in use, a bit each: by mode, then by priority.
    used: u16,
    ends: [[u32; 2]; 2 * PRIORITIES as usize],
}

impl Lists {
    pub(super) const fn new() -> Self {
        Self { used: 0, ends: [[NONE; 2]; 2 * PRIORITIES as usize] }
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn number(mode: Mode, priority: u8) -> usize {
        usize::from(mode as u8 * PRIORITIES + priority) % (2 * PRIORITIES as usize)
    }

    /// The first of those that go first.
    #[inline(always)]
    pub(super) fn first(&self) -> Option<u32> {
        let ends = self.ends.get(self.used.trailing_zeros() as usize)?;
        Some(ends[0])
    }

    /// Puts a child at the end of its list.
    pub(super) fn push(&mut self, nodes: &mut [Node], child: u32, mode: Mode) {
        let node = &mut nodes[child as usize];
        let number = Self::number(mode, node.priority);
        let [first, last] = &mut self.ends[number];
        (node.prev, node.next, node.linked) = (*last, NONE, Some(mode));
        match nodes.get_mut(*last as usize) {
            Some(last) => last.next = child,
            None => *first = child,
        }
        *last = child;
        self.used |= 1 << number;
    }

    /// Takes a child out of its list.
    pub(super) fn remove(&mut self, nodes: &mut [Node], child: u32) {
        let node = &mut nodes[child as usize];
        let Some(mode) = node.linked.take() else { return };
        let (prev, next, number) = (node.prev, node.next, Self::number(mode, node.priority));
        let [first, last] = &mut self.ends[number];
        match nodes.get_mut(prev as usize) {
            Some(prev) => prev.next = next,
            None => *first = next,
        }
        match nodes.get_mut(next as usize) {
            Some(next) => next.prev = prev,
            None => *last = prev,
        }
        if *first == NONE {
            self.used &= !(1 << number);
        }
    }

    /// Puts the child, which is the first of its list, at the end.
    #[inline]
    pub(super) fn rotate(&mut self, nodes: &mut [Node], child: u32) {
        let node = &nodes[child as usize];
        if let Some(mode) = node.linked.filter(|_| node.next != NONE) {
            self.remove(nodes, child);
            self.push(nodes, child, mode);
        }
    }
}
