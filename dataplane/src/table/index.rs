//! Finds the entries of a slab by another key than their own, for eight bytes an entry.
//!
//! A slot holds an entry's number, a few bits of its hash, and how far it lies from its home, in four bytes: so a search looks
//! at next to no entry but the one that it is for, and a removal at none. Whoever asks tells by the entry whether it is the
//! one. Open addressing with linear probing, at most half full; removal moves what follows back, and so leaves no tombstone.

use crate::arena::{HugePages, HugeVec};
use crate::table::prefetch::prefetch_at;

const EMPTY: u32 = u32::MAX;
const ENTRY_BITS: u32 = 24;
const ENTRY: u32 = (1 << ENTRY_BITS) - 1;
/// From this distance on it is not known, and the entry's hash is asked for.
const FAR: u32 = 7;
const TAG_SHIFT: u32 = ENTRY_BITS + 3;
/// One less than five bits have, so that no slot in use is [`EMPTY`].
const TAGS: u32 = 31;

/// An index of fixed capacity, of entries whose numbers are below 16,777,216.
#[derive(Debug)]
pub struct Index {
    slots: HugeVec<u32>,
    len: usize,
}

/// The bits of a hash that a slot keeps: none of those that choose its home.
fn tag_of(hash: u64) -> u32 {
    ((hash >> 32) as u32 % TAGS) << TAG_SHIFT
}

impl Index {
    /// For so many entries.
    pub fn with_capacity(capacity: u32) -> Self {
        let count = (capacity as usize).max(1).saturating_mul(2).next_power_of_two();
        let mut slots = HugeVec::with_capacity_in(count, HugePages);
        slots.resize(count, EMPTY);
        Self { slots, len: 0 }
    }

    /// Memory, bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    fn next(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    /// Fetches what a search for this hash reads first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch_at(&self.slots, self.home(hash));
    }

    /// The entry with this hash of which `is_it` says yes.
    pub fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (mut slot, tag) = (self.home(hash), tag_of(hash));
        loop {
            let held = self.slots[slot];
            if held == EMPTY {
                return None;
            }
            if held >> TAG_SHIFT << TAG_SHIFT == tag && is_it(held & ENTRY) {
                return Some(held & ENTRY);
            }
            slot = self.next(slot);
        }
    }

    /// Puts an entry in, which must not be in it yet. False if there is no room, or its number is too high.
    pub fn insert(&mut self, hash: u64, entry: u32) -> bool {
        if self.len * 2 >= self.slots.len() || entry > ENTRY {
            return false;
        }
        let (mut slot, mut distance) = (self.home(hash), 0);
        while self.slots[slot] != EMPTY {
            slot = self.next(slot);
            distance += 1;
        }
        self.slots[slot] = tag_of(hash) | FAR.min(distance) << ENTRY_BITS | entry;
        self.len += 1;
        true
    }

    /// Takes an entry out; `hash_of` tells the hash of any that is in. Harmless if it is not in it.
    pub fn remove(&mut self, hash: u64, entry: u32, hash_of: impl Fn(u32) -> u64) {
        let mut hole = self.home(hash);
        while self.slots[hole] & ENTRY != entry || self.slots[hole] == EMPTY {
            if self.slots[hole] == EMPTY {
                return;
            }
            hole = self.next(hole);
        }
        self.len -= 1;
        let mask = self.slots.len() - 1;
        let mut slot = hole;
        loop {
            slot = self.next(slot);
            let moved = self.slots[slot];
            if moved == EMPTY {
                break;
            }
            let distance = match moved >> ENTRY_BITS & FAR {
                FAR => slot.wrapping_sub(self.home(hash_of(moved & ENTRY))) & mask,
                near => near as usize,
            };
            // It may move back to the hole unless its home lies behind that.
            let back = slot.wrapping_sub(hole) & mask;
            if distance >= back {
                let near = FAR.min((distance - back) as u32);
                self.slots[hole] = moved & !(FAR << ENTRY_BITS) | near << ENTRY_BITS;
                hole = slot;
            }
        }
        self.slots[hole] = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::table::cases(300))]

        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec((any::<bool>(), 0..24u32), 0..200), spread in 1..40u64) {
            // Few homes, the last ones among them, so that runs are long and wrap around.
            let hash_of = |entry: u32| {
                let home = (u64::from(entry) * spread).wrapping_add(60) % 64;
                home | u64::from(entry % 3) << 32
            };
            let mut index = Index::with_capacity(24);
            let mut model = std::collections::BTreeSet::new();
            for (insert, entry) in steps {
                if insert && model.insert(entry) {
                    prop_assert!(index.insert(hash_of(entry), entry));
                } else if !insert {
                    index.remove(hash_of(entry), entry, hash_of);
                    model.remove(&entry);
                }
                for entry in 0..24 {
                    let found = index.find(hash_of(entry), |other| other == entry);
                    prop_assert_eq!(found.is_some(), model.contains(&entry));
                }
            }
        }
    }

    #[test]
    fn a_full_index_takes_no_more() {
        let mut index = Index::with_capacity(2);
        assert!(index.insert(7, 1) && index.insert(7, 2) && !index.insert(7, 3));
        index.remove(7, 1, |_| 7);
        assert!(index.insert(7, 3) && index.find(7, |entry| entry == 2).is_some());
    }

    #[test]
    fn the_highest_number_is_told_from_an_empty_slot() {
        let mut index = Index::with_capacity(40);
        assert!(!index.insert(0, ENTRY + 1));
        for entry in ENTRY - 39..=ENTRY {
            assert!(index.insert(u64::MAX, entry));
        }
        assert_eq!(index.find(u64::MAX, |entry| entry == ENTRY), Some(ENTRY));
        for entry in ENTRY - 39..=ENTRY {
            index.remove(u64::MAX, entry, |_| u64::MAX);
            assert_eq!(index.find(u64::MAX, |_| true), (entry < ENTRY).then_some(entry + 1));
        }
    }
}
