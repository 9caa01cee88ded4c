//! Blocks of ports: an inside address gets one after the other, so that one record tells whose hundreds of ports were.
//!
//! A block is taken for all protocols. Once its last port is free it stays with its subscriber for a while, and then goes back:
//! no other has its ports sooner (RFC 6888 REQ-8), and one who comes back at once finds the same. A block knows its address and
//! ports, so that it lives on, and ends in order, whatever another configuration cuts the address into.

use std::net::Ipv4Addr;

use super::external::Share;
use super::layout::{Slot, Way};
use crate::clock::Nanos;
use crate::session::NONE;

/// How an external address is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// The first port of the first block.
    pub(super) first: u16,
    /// Ports of a block.
    pub(super) size: u32,
    /// Blocks.
    pub(super) count: u32,
    /// The configuration since which it has been cut like this.
    pub(super) since: u32,
    /// The list in which its blocks rest.
    pub(super) rest: u16,
}

/// The free blocks of an external address, by their numbers.
#[derive(Debug)]
pub(super) struct Grid {
    numbers: Vec<u16>,
    free: usize,
}

impl Grid {
    /// All of a worker's blocks free, if the address is cut into any.
    pub(super) fn of(slot: &Slot, share: &Share) -> Option<Self> {
        let Way::Blocks(cut) = slot.way else { return None };
        let mine = |number: &u32| share.is_my_block(slot.address, *number);
        let numbers: Vec<u16> = (0..cut.count).filter(mine).map(|number| number as u16).collect();
        Some(Self { free: numbers.len(), numbers })
    }

    pub(super) fn bytes(&self) -> usize {
        self.numbers.len() * size_of::<u16>()
    }

    /// Takes a free block, drawn by chance.
    fn take(&mut self, draw: u64) -> Option<u16> {
        let chosen = draw.checked_rem(self.free as u64)? as usize;
        self.free -= 1;
        self.numbers.swap(chosen, self.free);
        self.numbers.get(self.free).copied()
    }

    /// Takes this free block. False if it is not free, or not a worker's own.
    fn take_number(&mut self, number: u16) -> bool {
        let free = self.numbers.get(..self.free).unwrap_or_default();
        let Some(at) = free.iter().position(|&other| other == number) else { return false };
        self.free -= 1;
        self.numbers.swap(at, self.free);
        true
    }

    fn give(&mut self, number: u16) {
        if let Some(place) = self.numbers.get_mut(self.free) {
            *place = number;
            self.free += 1;
        }
    }
}

/// A block that is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// Place of its address.
    pub(super) slot: u32,
    pub(super) address: Ipv4Addr,
    /// First and last port.
    pub(super) ports: (u16, u16),
    /// Whose it is, or [`NONE`] if the place is free.
    pub(super) subscriber: u32,
    /// The subscriber's next one, or [`NONE`].
    pub(super) next: u32,
    /// Its ports in use, each protocol's counted.
    pub(super) in_use: u32,
    number: u16,
    /// Of what cut it is.
    cut: u32,
    rest: u16,
    /// Neighbours in the list of those that rest, or [`NONE`].
    older: u32,
    newer: u32,
    /// Since when no port has been in use.
    pub(super) since: Nanos,
}

impl Block {
    /// A whole one, of a subscriber, ahead of that one's others.
    fn new((slot, address): (u32, Ipv4Addr), cut: &Cut, number: u16, (subscriber, next): (u32, u32)) -> Self {
        let first = u32::from(cut.first) + u32::from(number) * cut.size;
        Self {
            slot,
            address,
            ports: (first as u16, (first + cut.size - 1) as u16),
            subscriber,
            next,
            in_use: 0,
            number,
            cut: cut.since,
            rest: cut.rest,
            older: NONE,
            newer: NONE,
            since: 0,
        }
    }

    /// Whether its address is still cut like this.
    pub(super) fn is_of(&self, slot: &Slot) -> bool {
        let is_cut = matches!(slot.way, Way::Blocks(cut) if cut.since == self.cut);
        is_cut && slot.address == self.address
    }
}

/// Blocks without a port in use, oldest first, that are kept equally long.
#[derive(Clone, Copy, Debug)]
struct Rest {
    hold: Nanos,
    oldest: u32,
    newest: u32,
}

/// The blocks that are taken.
#[derive(Debug)]
pub(super) struct Blocks {
    slab: Vec<Block>,
    spare: Vec<u32>,
    rests: Vec<Rest>,
}

impl Blocks {
    /// Room for so many, those that rest included.
    pub(super) fn new(room: u32) -> Self {
        let room = room as usize;
        Self { slab: Vec::with_capacity(room), spare: Vec::with_capacity(room), rests: Vec::new() }
    }

    /// Blocks that are taken.
    pub(super) fn taken(&self) -> u32 {
        (self.slab.len() - self.spare.len()) as u32
    }

    /// How far indices go.
    pub(super) fn slots(&self) -> u32 {
        self.slab.len() as u32
    }

    /// Memory, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.slab.capacity() * (size_of::<Block>() + size_of::<u32>())
    }

    /// A block that is taken.
    pub(super) fn get(&self, index: u32) -> Option<&Block> {
        self.slab.get(index as usize).filter(|block| block.subscriber != NONE)
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Block> {
        self.slab.get_mut(index as usize).filter(|block| block.subscriber != NONE)
    }

    /// Takes a free block of an address, and puts it before those that the subscriber has.
    pub(super) fn take(
        &mut self,
        (place, slot): (u32, &Slot),
        grid: &mut Grid,
        list: (u32, u32),
        draw: u64,
    ) -> Option<u32> {
        let Way::Blocks(cut) = slot.way else { return None };
        if self.spare.is_empty() && self.slab.len() == self.slab.capacity() {
            return None;
        }
        let number = grid.take(draw)?;
        self.keep(Block::new((place, slot.address), &cut, number, list))
    }

    /// Takes the block with these ports again, as [`take`](Self::take): one without a port in use, since this time.
    pub(super) fn take_again(
        &mut self,
        (place, slot): (u32, &Slot),
        grid: &mut Grid,
        list: (u32, u32),
        ports: (u16, u16),
        since: Nanos,
    ) -> Option<u32> {
        let Way::Blocks(cut) = slot.way else { return None };
        let offset = u32::from(ports.0).checked_sub(u32::from(cut.first))?;
        let number = offset.checked_div(cut.size)?;
        let is_one = offset % cut.size == 0 && u32::from(ports.1) + 1 == u32::from(ports.0) + cut.size;
        let has_room = !self.spare.is_empty() || self.slab.len() < self.slab.capacity();
        if !is_one || number >= cut.count || !has_room || !grid.take_number(number as u16) {
            return None;
        }
        let index = self.keep(Block::new((place, slot.address), &cut, number as u16, list))?;
        // It rests until a port of it is held.
        self.release_port(index, since);
        Some(index)
    }

    /// Indices of those that are taken, those that have rested longest first.
    pub(super) fn by_age(&self) -> Vec<u32> {
        let mut all: Vec<u32> = (0..self.slots()).filter(|&index| self.get(index).is_some()).collect();
        all.sort_by_key(|&index| self.get(index).map(|block| block.since));
        all
    }

    fn keep(&mut self, block: Block) -> Option<u32> {
        match self.spare.pop() {
            Some(index) => {
                *self.slab.get_mut(index as usize)? = block;
                Some(index)
            }
            None => {
                self.slab.push(block);
                Some(self.slab.len() as u32 - 1)
            }
        }
    }

    /// Takes the block of an address that a port lies in, whether or not it is free.
    pub(super) fn put(
        &mut self,
        (place, slot): (u32, &Slot),
        port: u16,
        (subscriber, next): (u32, u32),
    ) -> Option<u32> {
        let Way::Blocks(cut) = slot.way else { return None };
        let number = u32::from(port).checked_sub(cut.first.into())?.checked_div(cut.size)?;
        let mut one = Grid { numbers: vec![u16::try_from(number).ok()?], free: 1 };
        (number < cut.count).then(|| self.take((place, slot), &mut one, (subscriber, next), 0)).flatten()
    }

    /// Counts a port that is in use.
    pub(super) fn hold_port(&mut self, index: u32) {
        let Some(block) = self.get_mut(index) else { return };
        block.in_use += 1;
        if block.in_use == 1 {
            self.unlink(index);
        }
    }

    /// Takes a port off the count. A block without any rests.
    pub(super) fn release_port(&mut self, index: u32, now: Nanos) {
        let Some(block) = self.get_mut(index) else { return };
        block.in_use = block.in_use.saturating_sub(1);
        if block.in_use > 0 {
            return;
        }
        let at = usize::from(block.rest);
        let Some(&Rest { newest, .. }) = self.rests.get(at) else { return };
        if let Some(block) = self.get_mut(index) {
            (block.since, block.older, block.newer) = (now, newest, NONE);
        }
        match self.get_mut(newest) {
            Some(before) => before.newer = index,
            None => self.rests[at].oldest = index,
        }
        self.rests[at].newest = index;
    }

    fn unlink(&mut self, index: u32) {
        let Some(&Block { older, newer, rest, .. }) = self.get(index) else { return };
        let at = usize::from(rest);
        let Some(&Rest { oldest, .. }) = self.rests.get(at) else { return };
        let is_listed = older != NONE || newer != NONE || oldest == index;
        if !is_listed {
            return;
        }
        match self.get_mut(older) {
            Some(before) => before.newer = newer,
            None => self.rests[at].oldest = newer,
        }
        match self.get_mut(newer) {
            Some(after) => after.older = older,
            None => self.rests[at].newest = older,
        }
        if let Some(block) = self.get_mut(index) {
            (block.older, block.newer) = (NONE, NONE);
        }
    }

    /// A block whose time is up, and when it was. The caller takes it out of its subscriber's list, and [gives](Self::give)
    /// it.
    pub(super) fn expired(&self, now: Nanos) -> Option<(u32, Nanos)> {
        self.rests.iter().find_map(|rest| {
            let until = self.get(rest.oldest)?.since.saturating_add(rest.hold);
            (until <= now).then_some((rest.oldest, until))
        })
    }

    /// Takes a block out of a subscriber's list that begins with `first`. Returns how the list begins then.
    pub(super) fn remove(&mut self, first: u32, index: u32) -> u32 {
        let after = self.get(index).map_or(NONE, |block| block.next);
        if first == index {
            return after;
        }
        let mut at = first;
        while let Some(block) = self.get_mut(at) {
            if block.next == index {
                block.next = after;
                break;
            }
            at = block.next;
        }
        first
    }

    /// Makes a block free that has no port in use. Its number goes to `grid`, if that is of the cut that it is of.
    pub(super) fn give(&mut self, index: u32, grid: Option<&mut Grid>) {
        self.unlink(index);
        let Some(block) = self.get_mut(index) else { return };
        block.subscriber = NONE;
        if let Some(grid) = grid {
            grid.give(block.number);
        }
        self.spare.push(index);
    }

    /// Takes over lists for another configuration: those that there are keep what rests in them.
    pub(super) fn adopt(&mut self, next: &mut Rests) {
        for (rest, before) in next.0.iter_mut().zip(&self.rests) {
            (rest.oldest, rest.newest) = (before.oldest, before.newest);
        }
        std::mem::swap(&mut self.rests, &mut next.0);
    }
}

/// Lists for another configuration.
pub(super) struct Rests(Vec<Rest>);

impl Rests {
    /// One for each time that blocks are kept.
    pub(super) fn new(holds: &[Nanos]) -> Self {
        Self(holds.iter().map(|&hold| Rest { hold, oldest: NONE, newest: NONE }).collect())
    }
}

#[cfg(test)]
mod tests;
