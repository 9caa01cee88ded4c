//! Blocks of ports: an inside address gets one after the other, so that one record tells whose hundreds of ports were.
//!
//! A block is taken for all protocols. Once its last port is free it stays with its subscriber for a while, and then goes back:
//! no other has its ports sooner (RFC 6888 REQ-8), and one who comes back at once finds the same.

use crate::clock::Nanos;
use crate::session::NONE;
use crate::snapshot::PortBlocks;

#[derive(Clone, Copy, Debug)]
struct Block {
    /// Whose it is, or [`NONE`].
    subscriber: u32,
    /// The subscriber's next one, or [`NONE`].
    next: u32,
    /// Its ports in use, each protocol's counted.
    ports: u32,
    /// Neighbours in the list of those without a port in use, or [`NONE`].
    older: u32,
    newer: u32,
    /// Since when no port has been in use.
    since: Nanos,
}

const FREE: Block = Block { subscriber: NONE, next: NONE, ports: 0, older: NONE, newer: NONE, since: 0 };

/// The blocks of one pool, by number: those of the first address, then those of the second.
#[derive(Debug)]
pub(super) struct Blocks {
    rule: PortBlocks,
    ports: (u16, u16),
    per_address: u32,
    blocks: Vec<Block>,
    /// For each address a part, which begins with the numbers of its free blocks.
    free: Vec<u32>,
    /// How many those are, by address.
    vacant: Vec<u32>,
    taken: u32,
    /// The ends of the list of blocks without a port in use: the first to be given back, and the last.
    oldest: u32,
    newest: u32,
}

impl Blocks {
    /// All free. Those alone are given out of which `mine` says so.
    pub(super) fn new(
        rule: PortBlocks,
        ports: (u16, u16),
        addresses: usize,
        mine: impl Fn(u32) -> bool,
    ) -> Self {
        let per_address = rule.per_address(ports);
        let all = per_address as usize * addresses;
        let mut free = vec![NONE; all];
        let mut vacant = vec![0; addresses];
        for number in (0..all as u32).filter(|&number| mine(number)) {
            let position = number / per_address;
            let count = &mut vacant[position as usize];
            free[(position * per_address + *count) as usize] = number;
            *count += 1;
        }
        Self {
            rule,
            ports,
            per_address,
            blocks: vec![FREE; all],
            free,
            vacant,
            taken: 0,
            oldest: NONE,
            newest: NONE,
        }
    }

    /// Most blocks of one subscriber.
    pub(super) fn most(&self) -> u32 {
        self.rule.most
    }

    /// Blocks that are taken.
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// How far numbers go.
    pub(super) fn count(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Memory, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * (size_of::<Block>() + size_of::<u32>()) + self.vacant.len() * size_of::<u32>()
    }

    /// The block that a port of the address at this place in the pool lies in.
    pub(super) fn number(&self, position: u32, port: u16) -> u32 {
        self.rule.number(self.ports, position, port)
    }

    /// The place of a block's address in the pool.
    pub(super) fn position(&self, number: u32) -> u32 {
        number / self.per_address
    }

    /// The first and last port of a block.
    pub(super) fn range(&self, number: u32) -> (u16, u16) {
        let first = u32::from(self.ports.0) + number % self.per_address * self.rule.size;
        (first as u16, (first + self.rule.size - 1) as u16)
    }

    /// Whose a block is, and how many of its ports are in use; `None` if it is free.
    pub(super) fn holder(&self, number: u32) -> Option<(u32, u32)> {
        let block = self.blocks.get(number as usize).filter(|block| block.subscriber != NONE)?;
        Some((block.subscriber, block.ports))
    }

    /// The block that a subscriber has got before this one, or [`NONE`].
    pub(super) fn next(&self, number: u32) -> u32 {
        self.blocks.get(number as usize).map_or(NONE, |block| block.next)
    }

    /// Takes a free block of the address at this place, drawn by chance, and puts it before those that the subscriber has.
    pub(super) fn take(&mut self, position: u32, subscriber: u32, next: u32, draw: u64) -> Option<u32> {
        let vacant = self.vacant.get_mut(position as usize).filter(|vacant| **vacant > 0)?;
        let part = (position * self.per_address) as usize;
        let chosen = part + (draw % u64::from(*vacant)) as usize;
        *vacant -= 1;
        self.free.swap(chosen, part + *vacant as usize);
        let number = self.free[part + *vacant as usize];
        let block = self.blocks.get_mut(number as usize)?;
        *block = Block { subscriber, next, ..FREE };
        self.taken += 1;
        Some(number)
    }

    /// Counts a port that is in use.
    pub(super) fn hold_port(&mut self, number: u32) {
        let Some(block) = self.blocks.get_mut(number as usize) else { return };
        block.ports += 1;
        if block.ports == 1 {
            self.unlink(number);
        }
    }

    /// Takes a port off the count.
    pub(super) fn release_port(&mut self, number: u32, now: Nanos) {
        let Some(block) = self.blocks.get_mut(number as usize) else { return };
        block.ports = block.ports.saturating_sub(1);
        if block.ports > 0 {
            return;
        }
        (block.since, block.older, block.newer) = (now, self.newest, NONE);
        match self.blocks.get_mut(self.newest as usize) {
            Some(before) => before.newer = number,
            None => self.oldest = number,
        }
        self.newest = number;
    }

    fn unlink(&mut self, number: u32) {
        let Some(&Block { older, newer, .. }) = self.blocks.get(number as usize) else { return };
        let is_listed = older != NONE || newer != NONE || self.oldest == number;
        if !is_listed {
            return;
        }
        match self.blocks.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match self.blocks.get_mut(newer as usize) {
            Some(after) => after.older = older,
            None => self.newest = older,
        }
        let block = &mut self.blocks[number as usize];
        (block.older, block.newer) = (NONE, NONE);
    }

    /// A block whose time is up, and when it was. The caller takes it out of its subscriber's list, and [gives](Self::give)
    /// it.
    pub(super) fn expired(&self, now: Nanos) -> Option<(u32, Nanos)> {
        let until = self.blocks.get(self.oldest as usize)?.since.saturating_add(self.rule.hold);
        (until <= now).then_some((self.oldest, until))
    }

    /// Takes a block out of a subscriber's list that begins with `first`. Returns how the list begins then.
    pub(super) fn remove(&mut self, first: u32, number: u32) -> u32 {
        let after = self.next(number);
        if first == number {
            return after;
        }
        let mut at = first;
        while let Some(block) = self.blocks.get_mut(at as usize) {
            if block.next == number {
                block.next = after;
                break;
            }
            at = block.next;
        }
        first
    }

    /// Makes a block free that has no port in use.
    pub(super) fn give(&mut self, number: u32) {
        self.unlink(number);
        let Some(block) = self.blocks.get_mut(number as usize) else { return };
        *block = FREE;
        let position = number / self.per_address;
        let vacant = &mut self.vacant[position as usize];
        self.free[(position * self.per_address + *vacant) as usize] = number;
        *vacant += 1;
        self.taken -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const RULE: PortBlocks = PortBlocks { size: 100, most: 4, hold: 10 };

    #[test]
    fn ports_behind_the_last_whole_block_are_nobodys() {
        let blocks = Blocks::new(RULE, (1000, 1349), 2, |_| true);
        assert_eq!(blocks.count(), 6);
        assert_eq!((blocks.range(0), blocks.range(5)), ((1000, 1099), (1200, 1299)));
        assert_eq!((blocks.number(1, 1150), blocks.position(4)), (4, 1));
    }

    #[test]
    fn a_block_used_again_is_not_given_back() {
        let mut blocks = Blocks::new(RULE, (1000, 1099), 1, |_| true);
        let block = blocks.take(0, 7, NONE, 1).unwrap();
        assert!(blocks.take(0, 8, NONE, 1).is_none());
        blocks.hold_port(block);
        blocks.release_port(block, 5);
        blocks.hold_port(block);
        assert_eq!(blocks.expired(1000), None);
        blocks.release_port(block, 6);
        assert_eq!((blocks.expired(15), blocks.expired(16)), (None, Some((block, 16))));
        assert_eq!(blocks.remove(block, block), NONE);
        blocks.give(block);
        assert_eq!((blocks.taken(), blocks.expired(1000), blocks.holder(block)), (0, None, None));
        assert!(blocks.take(0, 8, NONE, 1).is_some());
    }

    /// Takes, holds, releases and expiry in any order.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take(u32, u32, u64),
        Hold(prop::sample::Index),
        Release(prop::sample::Index),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..3, 0u32..5, any::<u64>())
                .prop_map(|(address, subscriber, draw)| Step::Take(address, subscriber, draw)),
            any::<prop::sample::Index>().prop_map(Step::Hold),
            any::<prop::sample::Index>().prop_map(Step::Release),
            (0u64..15).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #![proptest_config(crate::table::cases(300))]

        /// proves: RFC 6888 REQ-8 (no block is another's before its time is up)
        #[test]
        fn behaves_as_a_map_of_blocks(steps in prop::collection::vec(step(), 0..300)) {
            let mut blocks = Blocks::new(RULE, (1000, 1399), 3, |number| number & 1 == 0);
            // By block: subscriber, ports in use, and since when there are none.
            let mut model: BTreeMap<u32, (u32, u32, u64)> = BTreeMap::new();
            let mut lists = [NONE; 5];
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Take(address, subscriber, draw) => {
                        let free = (0..12).filter(|b| b & 1 == 0 && b / 4 == address && !model.contains_key(b)).count();
                        let got = blocks.take(address, subscriber, lists[subscriber as usize], draw);
                        prop_assert_eq!(got.is_some(), free > 0);
                        if let Some(block) = got {
                            lists[subscriber as usize] = block;
                            // It is taken for a port.
                            blocks.hold_port(block);
                            prop_assert_eq!(model.insert(block, (subscriber, 1, 0)), None, "given out twice");
                        }
                    }
                    Step::Hold(pick) if !model.is_empty() => {
                        let (&block, entry) = model.iter_mut().nth(pick.index(blocks.taken() as usize)).unwrap();
                        entry.1 += 1;
                        blocks.hold_port(block);
                    }
                    Step::Release(pick) if !model.is_empty() => {
                        let (&block, entry) = model.iter_mut().nth(pick.index(blocks.taken() as usize)).unwrap();
                        if entry.1 > 0 {
                            entry.1 -= 1;
                            entry.2 = now;
                            blocks.release_port(block, now);
                        }
                    }
                    Step::Pass(time) => {
                        now += time;
                        while let Some((block, at)) = blocks.expired(now) {
                            let (subscriber, ports, since) = model.remove(&block).unwrap();
                            prop_assert_eq!((ports, at), (0, since + RULE.hold));
                            let list = &mut lists[subscriber as usize];
                            *list = blocks.remove(*list, block);
                            blocks.give(block);
                        }
                        prop_assert!(model.values().all(|&(_, ports, since)| ports > 0 || since + RULE.hold > now));
                    }
                    _ => {}
                }
                prop_assert_eq!(blocks.taken() as usize, model.len());
                for (&block, &(subscriber, ports, _)) in &model {
                    prop_assert_eq!(blocks.holder(block), Some((subscriber, ports)));
                }
                for (subscriber, &first) in lists.iter().enumerate() {
                    let list: BTreeSet<u32> = std::iter::successors(Some(first), |&b| Some(blocks.next(b)))
                        .take_while(|&b| b != NONE)
                        .collect();
                    let own = model.iter().filter(|(_, entry)| entry.0 == subscriber as u32).map(|(&b, _)| b);
                    prop_assert_eq!(list, own.collect::<BTreeSet<u32>>());
                }
            }
        }
    }
}
