//! From an address to its rank: how many of a set of sorted keys are below it. A static search tree of 17 children
//! a node, whose keys are compared at once; a burst goes down level by level, so that its look-ups overlap.

use super::BURST;
use super::simd::{Keys, Vector};

/// Keys in a node of a tree, which has one more child.
const KEYS: usize = 16;

/// Finds the ranks of a burst of addresses.
// Reached by `Address`, which rustc 1.85 does not see.
#[allow(unreachable_pub)]
pub trait Ranks<A>: Clone + core::fmt::Debug {
    /// Ranks among `keys`, which are sorted and unique; 65,535 at most.
    fn new(keys: &[A]) -> Self;
    /// The rank of each of `addresses`.
    fn rank<V: Vector>(
        &self,
        vector: V,
        addresses: impl ExactSizeIterator<Item = A>,
        ranks: &mut [u16; BURST],
    );
    /// Memory, in bytes.
    fn memory(&self) -> usize;
}

/// A number that a node's keys are compared with.
pub trait Word: Copy + Ord {
    /// Below nothing.
    const MAX: Self;
    /// How many of `keys` are below it.
    fn above<V: Vector>(self, vector: V, keys: &Keys<Self, KEYS>) -> usize;
}

impl Word for u32 {
    const MAX: Self = Self::MAX;
    #[inline(always)]
    fn above<V: Vector>(self, vector: V, keys: &Keys<Self, KEYS>) -> usize {
        vector.below32(keys, self)
    }
}

impl Word for u64 {
    const MAX: Self = Self::MAX;
    #[inline(always)]
    fn above<V: Vector>(self, vector: V, keys: &Keys<Self, KEYS>) -> usize {
        vector.below64(keys, self)
    }
}

/// The search tree over words.
#[derive(Clone, Debug)]
pub struct Tree<K> {
    /// From the root's to the leaves'. No node of a level lacks a child that a look-up could go to.
    levels: Vec<Vec<Keys<K, KEYS>>>,
}

impl<K: Word> Tree<K> {
    pub(super) fn new(keys: &[K]) -> Self {
        let node =
            |keys: &mut dyn Iterator<Item = K>| Keys(core::array::from_fn(|_| keys.next().unwrap_or(K::MAX)));
        let mut levels = Vec::new();
        if !keys.is_empty() {
            levels.push(keys.chunks(KEYS).map(|keys| node(&mut keys.iter().copied())).collect::<Vec<_>>());
        }
        // The first key below each node of the level made last.
        let mut firsts: Vec<K> = keys.iter().step_by(KEYS).copied().collect();
        while firsts.len() > 1 {
            let parents = firsts.chunks(KEYS + 1);
            levels.push(parents.map(|children| node(&mut children.iter().skip(1).copied())).collect());
            firsts = firsts.into_iter().step_by(KEYS + 1).collect();
        }
        levels.reverse();
        Self { levels }
    }

    /// The rank of each of `words`.
    #[inline(always)]
    pub(super) fn rank<V: Vector>(
        &self,
        vector: V,
        words: impl Iterator<Item = K>,
        ranks: &mut [u16; BURST],
    ) {
        // So many levels, known to the compiler.
        match self.levels.as_slice() {
            [] => ranks.fill(0),
            [a] => descend(vector, [a], words, ranks),
            [a, b] => descend(vector, [a, b], words, ranks),
            [a, b, c] => descend(vector, [a, b, c], words, ranks),
            [a, b, c, d, ..] => descend(vector, [a, b, c, d], words, ranks),
        }
    }

    #[inline(always)]
    fn rank_one<V: Vector>(&self, vector: V, word: K) -> u16 {
        let mut rank = [0; BURST];
        self.rank(vector, core::iter::once(word), &mut rank);
        rank[0]
    }

    pub(super) fn memory(&self) -> usize {
        self.levels.iter().map(|level| size_of_val(level.as_slice())).sum()
    }
}

#[inline(always)]
fn descend<V: Vector, K: Word, const LEVELS: usize>(
    vector: V,
    levels: [&Vec<Keys<K, KEYS>>; LEVELS],
    words: impl Iterator<Item = K>,
    ranks: &mut [u16; BURST],
) {
    for (rank, word) in ranks.iter_mut().zip(words) {
        let mut at = 0;
        for (depth, level) in levels.iter().enumerate() {
            let width = if depth + 1 == LEVELS { KEYS } else { KEYS + 1 };
            at = at * width + level.get(at).map_or(0, |node| word.above(vector, node));
        }
        *rank = at as u16;
    }
}

impl Ranks<u32> for Tree<u32> {
    fn new(keys: &[u32]) -> Self {
        Self::new(keys)
    }

    #[inline(always)]
    fn rank<V: Vector>(
        &self,
        vector: V,
        addresses: impl ExactSizeIterator<Item = u32>,
        ranks: &mut [u16; BURST],
    ) {
        self.rank(vector, addresses, ranks);
    }

    fn memory(&self) -> usize {
        self.memory()
    }
}

/// Two trees after each other, for addresses of two words.
#[derive(Clone, Debug)]
pub struct Halves {
    /// Over the upper halves of the keys, each once.
    upper: Tree<u64>,
    /// What is to know of each of them; one more for what is above all.
    known: Vec<Upper>,
    /// The lower halves of keys that have the same upper half, up to 16.
    few: Vec<Keys<u64, KEYS>>,
    /// More of them.
    many: Vec<Tree<u64>>,
}

/// An upper half of keys.
#[derive(Clone, Copy, Debug)]
struct Upper {
    word: u64,
    /// Which of `few`; with `MANY`, which of `many`.
    lower: u32,
    /// How many keys are below all those with this upper half.
    base: u16,
}

const MANY: u32 = 1 << 31;

impl Ranks<u128> for Halves {
    fn new(keys: &[u128]) -> Self {
        let split = |key: u128| ((key >> 64) as u64, key as u64);
        let mut uppers = Vec::new();
        let mut halves = Self {
            upper: Tree::new(&[]),
            known: Vec::new(),
            few: vec![Keys([u64::MAX; KEYS])],
            many: Vec::new(),
        };
        let mut base = 0;
        for group in keys.chunk_by(|&a, &b| split(a).0 == split(b).0) {
            let word = group.first().map_or(0, |&key| split(key).0);
            uppers.push(word);
            let lower: Vec<u64> =
                group.iter().map(|&key| split(key).1).filter(|&key| key != u64::MAX).collect();
            let lower = if lower.is_empty() {
                0
            } else if lower.len() <= KEYS {
                halves.few.push(Keys(core::array::from_fn(|i| lower.get(i).copied().unwrap_or(u64::MAX))));
                halves.few.len() as u32 - 1
            } else {
                halves.many.push(Tree::new(&lower));
                (halves.many.len() as u32 - 1) | MANY
            };
            halves.known.push(Upper { word, lower, base });
            base += group.len() as u16;
        }
        halves.known.push(Upper { word: u64::MAX, lower: 0, base });
        halves.upper = Tree::new(&uppers);
        halves
    }

    #[inline(always)]
    fn rank<V: Vector>(
        &self,
        vector: V,
        addresses: impl ExactSizeIterator<Item = u128>,
        ranks: &mut [u16; BURST],
    ) {
        let mut burst = [0; BURST];
        let count = addresses.len().min(BURST);
        for (place, address) in burst.iter_mut().zip(addresses) {
            *place = address;
        }
        let addresses = burst.get(..count).unwrap_or(&[]);
        self.upper.rank(vector, addresses.iter().map(|address| (address >> 64) as u64), ranks);
        for (rank, address) in ranks.iter_mut().zip(addresses) {
            let Some(known) = self.known.get(usize::from(*rank)) else { continue };
            // Nothing is below 0.
            let lower = if known.word == (address >> 64) as u64 { *address as u64 } else { 0 };
            let among = if known.lower & MANY == 0 {
                self.few.get(known.lower as usize).map_or(0, |keys| vector.below64(keys, lower) as u16)
            } else {
                let tree = self.many.get((known.lower ^ MANY) as usize);
                tree.map_or(0, |tree| tree.rank_one(vector, lower))
            };
            *rank = known.base + among;
        }
    }

    fn memory(&self) -> usize {
        self.upper.memory()
            + size_of_val(self.known.as_slice())
            + size_of_val(self.few.as_slice())
            + self.many.iter().map(Tree::memory).sum::<usize>()
    }
}
