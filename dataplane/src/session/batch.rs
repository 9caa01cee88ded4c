//! Looking the flows of a whole burst up, step by step, so that the packets' cache misses overlap.

use super::Flow;
use crate::burst::{BURST, Mask};
use crate::session::NONE;
use crate::table::hash::HashTable;
use crate::table::key::Key;

/// A look-up of many keys under way. First each key [begins](Self::begin), which fetches its bucket; then
/// [`candidates`](Self::candidates) reads the buckets and fetches records; then each is [confirmed](Self::confirm).
pub struct Batch<K> {
    keys: [K; BURST],
    hashes: [u64; BURST],
    candidates: [u32; BURST],
    /// Bytes of each packet: from its IP header on, and of its frame.
    lens: [(u16, u16); BURST],
}

impl<K: Key + Default> Default for Batch<K> {
    fn default() -> Self {
        Self {
            keys: [K::default(); BURST],
            hashes: [0; BURST],
            candidates: [NONE; BURST],
            lens: [(0, 0); BURST],
        }
    }
}

impl<K: Key> Batch<K> {
    /// Packet `i` (below [`BURST`]) has this key.
    #[inline(always)]
    pub fn begin(&mut self, i: usize, key: K, table: &HashTable<K, Flow>) {
        let hash = table.hash(&key);
        table.prefetch_bucket(hash);
        self.keys[i] = key;
        self.hashes[i] = hash;
    }

    /// Keeps packet `i`'s lengths in bytes: from its IP header on, and of its frame.
    #[inline(always)]
    pub fn keep_lens(&mut self, i: usize, packet: usize, frame: usize) {
        self.lens[i] = (packet as u16, frame as u16);
    }

    /// The lengths that were kept of packet `i`.
    #[inline(always)]
    pub fn lens(&self, i: usize) -> (u16, u16) {
        self.lens[i]
    }

    /// Chooses the likely record of each of these packets, which have begun.
    #[inline(always)]
    pub fn candidates(&mut self, mask: Mask, table: &HashTable<K, Flow>) {
        for i in mask {
            self.candidates[i] = table.candidate(self.hashes[i]);
        }
    }

    /// As [`candidates`](Self::candidates), but fetches no record.
    #[inline(always)]
    pub fn choose(&mut self, mask: Mask, table: &HashTable<K, Flow>) {
        for i in mask {
            self.candidates[i] = table.choose(self.hashes[i]);
        }
    }

    /// Whether there is certainly no flow of packet `i`, which has begun.
    #[inline]
    pub fn is_absent(&self, i: usize, table: &HashTable<K, Flow>) -> bool {
        table.choose(self.hashes[i]) == NONE
    }

    /// The key of packet `i`, which has begun, and its hash.
    #[inline]
    pub fn key(&self, i: usize) -> (K, u64) {
        (self.keys[i], self.hashes[i])
    }

    /// Fetches the record of packet `i`, which has a candidate.
    #[inline(always)]
    pub fn fetch(&self, i: usize, table: &HashTable<K, Flow>) {
        table.prefetch_record(self.candidates[i]);
    }

    /// The flow of packet `i`, to be changed, if its candidate is the one. If not, it may lie further along.
    #[inline(always)]
    pub fn confirm_mut<'a>(&self, i: usize, table: &'a mut HashTable<K, Flow>) -> Option<&'a mut Flow> {
        table.confirm_mut(self.candidates[i], &self.keys[i])
    }

    /// The flow of packet `i`, which was confirmed.
    #[inline(always)]
    pub fn confirmed<'a>(&self, i: usize, table: &'a HashTable<K, Flow>) -> Option<&'a Flow> {
        table.value(self.candidates[i])
    }

    /// Searches on for these packets, whose candidates were not the ones. Those that are found, to be confirmed.
    #[cold]
    #[inline(never)]
    pub fn search_on(&mut self, mask: Mask, table: &HashTable<K, Flow>) -> Mask {
        let mut found = Mask::NONE;
        for i in mask {
            if self.candidates[i] != NONE {
                if let Some(index) = table.find_hashed(&self.keys[i], self.hashes[i]) {
                    self.candidates[i] = index;
                    found.add(i);
                }
            }
        }
        found
    }

    /// The flow of packet `i`, which has a candidate, and its index.
    #[inline(always)]
    pub fn confirm<'a>(&self, i: usize, table: &'a HashTable<K, Flow>) -> Option<(u32, &'a Flow)> {
        table.confirm(self.candidates[i], &self.keys[i], self.hashes[i])
    }
}
