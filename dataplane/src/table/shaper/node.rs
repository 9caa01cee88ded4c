//! A node of the tree: a class, a host, or the port.

use super::NONE;
use super::bucket::Buckets;
use super::config::Rates;
use crate::table::prefetch::prefetch_line;

/// Whether a node sends within its own rate; the index of what is kept apart for either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mode {
    /// Within its own rate.
    Own = 0,
    /// What its parent has left.
    Borrowed = 1,
}

/// In [`Node::list`]: it is in none.
pub(super) const UNLINKED: u8 = u8::MAX;

/// Two cache lines: where it is linked and what waits in it; its rates.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Node {
    pub(super) parent: u32,
    /// Neighbours in the list that it is in.
    pub(super) prev: u32,
    pub(super) next: u32,
    /// Its place among what packets wait in; `NONE` for what holds classes.
    pub(super) class: u32,
    /// Its lists of children, if it has children.
    pub(super) lists: u32,
    /// The lists that it can be in: its parent's.
    pub(super) up: u32,
    /// What it may send in this turn, bytes, in each mode.
    pub(super) deficit: [i32; 2],
    /// Its share among equals.
    pub(super) weight: u16,
    pub(super) priority: u8,
    /// The list that it is in, or `UNLINKED`.
    pub(super) list: u8,
    /// The round in which it had its last turn, in each mode.
    pub(super) round: [u8; 2],
    /// Where it is among the fat: one more than the list's number, or 0.
    pub(super) fat: u8,
    /// Whether it is a host whose timer is set for when it may be forgotten.
    pub(super) is_idle: bool,
    /// Flows with packets that are new, and that have had their turn: first and last.
    pub(super) fresh: [u32; 2],
    pub(super) stale: [u32; 2],
    /// Packets that wait in this leaf.
    pub(super) packets: u32,
    /// Grows each time that the leaf gets empty: its flows of before are nobody's. Never 0.
    pub(super) epoch: u32,
    pub(super) buckets: Buckets,
    /// The flow that had the most of them when that was last looked at, and how much it had.
    pub(super) fattest: u32,
    pub(super) fattest_bytes: u32,
}

impl Node {
    pub(super) fn new(parent: u32, up: u32, rates: &Rates, mtu: u32) -> Self {
        Self {
            parent,
            prev: NONE,
            next: NONE,
            class: NONE,
            lists: NONE,
            up,
            deficit: [0; 2],
            weight: 1,
            priority: 0,
            list: UNLINKED,
            round: [u8::MAX; 2],
            fat: 0,
            is_idle: false,
            fresh: [NONE; 2],
            stale: [NONE; 2],
            packets: 0,
            epoch: 1,
            buckets: Buckets::new(rates, mtu),
            fattest: NONE,
            fattest_bytes: 0,
        }
    }

    /// Whether it is in a list.
    #[inline(always)]
    pub(super) fn is_linked(&self) -> bool {
        self.list != UNLINKED
    }

    /// Starts to fetch where it is linked and what waits in it.
    #[inline(always)]
    pub(super) fn prefetch_links(nodes: &[Self], node: u32) {
        if let Some(node) = nodes.get(node as usize) {
            prefetch_line(node);
        }
    }

    /// The mode that its rates allow now.
    #[inline(always)]
    pub(super) fn mode(&self) -> Mode {
        if self.buckets.within_own() { Mode::Own } else { Mode::Borrowed }
    }
}

const _: () = assert!(size_of::<Node>() == 128);
