//! Where the nodes of a table lie: blocks of words, given out, retired and given out again.

use std::collections::VecDeque;

/// Words in a unit; blocks are whole units, so that a node's bitmap is aligned for one load.
pub(super) const UNIT: usize = 2;
/// Units of the largest block: a node of 64 runs.
const LARGEST: usize = 33;
/// Units that an entry can name.
const MOST: u32 = 1 << 24;

/// So many units, and the first of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) first: u32,
    pub(super) units: u8,
}

impl Block {
    pub(super) fn new(first: u32, words: usize) -> Self {
        Self { first, units: words.div_ceil(UNIT).min(LARGEST) as u8 }
    }
}

/// What is free, and what will be once no reader can be in it any more.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// First units of free blocks, by their size.
    free: Vec<Vec<u32>>,
    /// Units from here on have never been given out.
    fresh: u32,
    retired: VecDeque<Block>,
    /// How many of the retired have been freed.
    reclaimed: u64,
}

impl Blocks {
    /// None given out, but for the first unit, which stays zero.
    pub(super) fn new() -> Self {
        Self { free: vec![Vec::new(); LARGEST + 1], fresh: 1, retired: VecDeque::new(), reclaimed: 0 }
    }

    /// A block for so many words, in a memory of `size` words.
    pub(super) fn take(&mut self, words: usize, size: usize) -> Option<Block> {
        let block = Block::new(0, words);
        let units = usize::from(block.units);
        if let Some(first) = self.free[units].pop() {
            return Some(Block { first, ..block });
        }
        let end = self.fresh as usize + units;
        if end * UNIT <= size && end <= MOST as usize {
            let first = std::mem::replace(&mut self.fresh, end as u32);
            return Some(Block { first, ..block });
        }
        // The rest of a larger one is free again.
        let larger = (units + 1..=LARGEST).find(|&larger| !self.free[larger].is_empty())?;
        let first = self.free[larger].pop()?;
        self.free[larger - units].push(first + units as u32);
        Some(Block { first, ..block })
    }

    /// Gives a block back in which no reader can be.
    pub(super) fn free(&mut self, block: Block) {
        self.free[usize::from(block.units)].push(block.first);
    }

    /// Gives a block back that readers may still be in.
    pub(super) fn retire(&mut self, block: Block) {
        self.retired.push_back(block);
    }

    /// How many blocks have ever been retired.
    pub(super) fn retired(&self) -> u64 {
        self.reclaimed + self.retired.len() as u64
    }

    /// Frees those that were retired when [`retired`](Self::retired) said `mark`.
    pub(super) fn reclaim(&mut self, mark: u64) {
        while self.reclaimed < mark {
            let Some(block) = self.retired.pop_front() else { break };
            self.reclaimed += 1;
            self.free(block);
        }
    }

    /// Memory for the lists themselves, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.free.iter().map(|list| list.capacity() * size_of::<u32>()).sum::<usize>()
            + self.retired.capacity() * size_of::<Block>()
    }
}

#[cfg(test)]
impl Blocks {
    /// Units that are given out.
    pub(super) fn given(&self) -> usize {
        let free = self.free.iter().enumerate().map(|(units, list)| units * list.len()).sum::<usize>();
        self.fresh as usize - 1 - free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_never_overlap_and_come_back_when_reclaimed() {
        let size = 200;
        let mut blocks = Blocks::new();
        let mut given = Vec::new();
        while let Some(block) = blocks.take(1 + given.len() * 7 % 66, size) {
            given.push(block);
        }
        let mut units = vec![false; size / UNIT];
        for block in &given {
            for unit in block.first..block.first + u32::from(block.units) {
                assert!(!std::mem::replace(&mut units[unit as usize], true), "{block:?}");
            }
        }
        assert!(!units[0], "the first unit is nobody's");

        for &block in &given {
            blocks.retire(block);
        }
        assert_eq!(blocks.retired(), given.len() as u64);
        let largest = given.iter().map(|block| usize::from(block.units) * UNIT).max().unwrap();
        assert_eq!(blocks.take(largest, size), None, "readers may still be in them");
        let mark = blocks.retired();
        blocks.reclaim(mark);
        for words in [largest, 1, 1, 3] {
            assert!(blocks.take(words, size).is_some(), "split where none of that size is free");
        }
        assert_eq!(blocks.retired(), mark);
    }
}
