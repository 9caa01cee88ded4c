//! The children of a node that may be sent from now, by mode and priority, and equals in turn.
//!
//! Equals go round by round. Who has had its turn waits for the next round; who comes back, having been without packets or
//! over its rate, still has its turn if it has not had it in this one. So it loses nothing by that, and gains nothing.

use super::NONE;
use super::config::PRIORITIES;
use super::node::{Mode, Node, UNLINKED};

/// Modes times priorities.
const GROUPS: usize = 2 * PRIORITIES as usize;
/// One list of a group is for this round, and one for the next.
const LISTS: usize = 2 * GROUPS;

/// Children that may be sent from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lists {
    /// Which lists are in use, a bit each.
    used: u32,
    /// Which of its two lists is this round's, a bit for each group.
    phases: u32,
    rounds: [u8; GROUPS],
    ends: [[u32; 2]; LISTS],
}

/// The mode in which the children of a list send.
#[inline(always)]
pub(super) fn mode_of(list: u8) -> Mode {
    if usize::from(list) < GROUPS { Mode::Own } else { Mode::Borrowed }
}

impl Lists {
    pub(super) const fn new() -> Self {
        Self { used: 0, phases: 0, rounds: [0; GROUPS], ends: [[NONE; 2]; LISTS] }
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
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
    #[inline(always)]
    pub(super) fn push(&mut self, nodes: &mut [Node], child: u32, mode: Mode) {
        let node = &mut nodes[child as usize];
        let group = usize::from(mode as u8 * PRIORITIES + node.priority) % GROUPS;
        let has_had_turn = node.round[mode as usize] == self.rounds[group];
        let list = 2 * group + (((self.phases >> group) & 1) as usize ^ usize::from(has_had_turn));
        let [first, last] = &mut self.ends[list];
        let before = std::mem::replace(last, child);
        (node.prev, node.next, node.list) = (before, NONE, list as u8);
        self.used |= 1 << list;
        match nodes.get_mut(before as usize) {
            Some(before) => before.next = child,
            None => *first = child,
        }
    }

    /// Unlinks a child, if it is linked.
    #[inline(always)]
    pub(super) fn remove(&mut self, nodes: &mut [Node], child: u32) {
        let node = &mut nodes[child as usize];
        let list = usize::from(std::mem::replace(&mut node.list, UNLINKED));
        let (prev, next) = (node.prev, node.next);
        let Some([first, last]) = self.ends.get_mut(list) else { return };
        match nodes.get_mut(prev as usize) {
            Some(prev) => prev.next = next,
            None => *first = next,
        }
        match nodes.get_mut(next as usize) {
            Some(next) => next.prev = prev,
            None => *last = prev,
        }
        self.used &= !(u32::from(*first == NONE) << list);
    }

    /// The child, which is linked, has had its turn in this round.
    #[inline(always)]
    pub(super) fn mark(&self, node: &mut Node) {
        if let Some(&round) = self.rounds.get(usize::from(node.list) / 2) {
            node.round[mode_of(node.list) as usize] = round;
        }
    }

    /// The same, and it waits for the next round.
    #[inline]
    pub(super) fn rotate(&mut self, nodes: &mut [Node], child: u32) {
        let node = &mut nodes[child as usize];
        let mode = mode_of(node.list);
        self.mark(node);
        self.remove(nodes, child);
        self.push(nodes, child, mode);
    }
}
