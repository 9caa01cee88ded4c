//! The children of a node that may be sent from now, by mode and priority, and equals in turn.
//!
//! Equals go round by round. Who has had its turn waits for the next round; who comes back, having been without packets or
//! over its rate, still has its turn if it has not had it in this one. So it loses nothing by that, and gains nothing.

use super::NONE;
use super::config::PRIORITIES;
use super::node::{Mode, Node};

/// Modes times priorities.
const GROUPS: usize = 2 * PRIORITIES as usize;

/// Children that may be sent from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lists {
    /// Which lists are in use, a bit each: two for each group of equals, one for this round and one for the next.
    used: u32,
    /// Which of the two is this round's, a bit for each group.
    phases: u32,
    rounds: [u8; GROUPS],
    ends: [[u32; 2]; 2 * GROUPS],
}

impl Lists {
    pub(super) const fn new() -> Self {
        Self { used: 0, phases: 0, rounds: [0; GROUPS], ends: [[NONE; 2]; 2 * GROUPS] }
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn group(mode: Mode, priority: u8) -> usize {
        usize::from(mode as u8 * PRIORITIES + priority) % GROUPS
    }

    /// The number of a group's list, of this round or the next.
    fn list(&self, group: usize, is_next: bool) -> usize {
        let phase = (self.phases >> group) & 1;
        2 * group + (phase as usize ^ usize::from(is_next))
    }

    /// The first of those that go first.
    #[inline(always)]
    pub(super) fn first(&mut self) -> Option<u32> {
        let group = self.used.trailing_zeros() as usize / 2;
        let round = self.rounds.get_mut(group)?;
        let mut list = 2 * group + ((self.phases >> group) & 1) as usize;
        if self.used & 1 << list == 0 {
            // All have had their turn.
            *round = round.wrapping_add(1);
            self.phases ^= 1 << group;
            list ^= 1;
        }
        Some(self.ends.get(list)?[0])
    }

    /// Links a child at the end of this round, or of the next if it has had its turn.
    #[inline]
    pub(super) fn push(&mut self, nodes: &mut [Node], child: u32, mode: Mode) {
        let node = &mut nodes[child as usize];
        let group = Self::group(mode, node.priority);
        let number = self.list(group, node.round[mode as usize] == self.rounds[group]);
        let [first, last] = &mut self.ends[number];
        (node.prev, node.next) = (*last, NONE);
        (node.linked, node.list) = (Some(mode), number as u8);
        match nodes.get_mut(*last as usize) {
            Some(last) => last.next = child,
            None => *first = child,
        }
        *last = child;
        self.used |= 1 << number;
    }

    /// Unlinks a child, if it is linked.
    #[inline]
    pub(super) fn remove(&mut self, nodes: &mut [Node], child: u32) {
        let node = &mut nodes[child as usize];
        if node.linked.take().is_none() {
            return;
        }
        let (prev, next, number) = (node.prev, node.next, usize::from(node.list) % (2 * GROUPS));
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

    /// The child, which is linked, has had its turn in this round.
    #[inline(always)]
    pub(super) fn mark(&self, node: &mut Node) {
        if let Some(mode) = node.linked {
            node.round[mode as usize] = self.rounds[usize::from(node.list) / 2 % GROUPS];
        }
    }

    /// The same, and it waits for the next round.
    #[inline]
    pub(super) fn rotate(&mut self, nodes: &mut [Node], child: u32) {
        let node = &mut nodes[child as usize];
        if let Some(mode) = node.linked {
            self.mark(node);
            self.remove(nodes, child);
            self.push(nodes, child, mode);
        }
    }
}
