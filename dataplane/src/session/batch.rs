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
}

impl<K: Key + Default> Default for Batch<K> {
    fn default() -> Self {
        Self { keys: [K::default(); BURST], hashes: [0; BURST], candidates: [NONE; BURST] }
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

    /// Chooses the likely record of each of these packets, which have begun.
    #[inline(always)]
    pub fn candidates(&mut self, mask: Mask, table: &HashTable<K, Flow>) {
        for i in mask {
            self.candidates[i] = table.candidate(self.hashes[i]);
        }
    }

    /// The flow of packet `i`, which has a candidate, and its index.
    #[inline(always)]
    pub fn confirm<'a>(&self, i: usize, table: &'a HashTable<K, Flow>) -> Option<(u32, &'a Flow)> {
        table.confirm(self.candidates[i], &self.keys[i], self.hashes[i])
    }

    /// The flow of packet `i`, to be changed, if its candidate is the one; a flow that lies further along is not found.
    #[inline(always)]
    pub fn confirm_mut<'a>(&self, i: usize, table: &'a mut HashTable<K, Flow>) -> Option<&'a mut Flow> {
        table.confirm_mut(self.candidates[i], &self.keys[i])
    }
}
