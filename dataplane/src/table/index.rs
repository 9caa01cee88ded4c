//! Finds the entries of a slab by another key than their own, for eight bytes an entry.
//!
//! It holds their numbers alone: whoever asks tells by the entry whether it is the one. Open addressing with linear
//! probing, at most half full; removal moves what follows back, and so leaves no tombstone.

const EMPTY: u32 = u32::MAX;

/// An index of fixed capacity.
#[derive(Debug)]
pub struct Index {
    slots: Box<[u32]>,
    len: usize,
}

impl Index {
    /// For so many entries.
    pub fn with_capacity(capacity: u32) -> Self {
        let slots = (capacity as usize).max(1).saturating_mul(2).next_power_of_two();
        Self { slots: vec![EMPTY; slots].into(), len: 0 }
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

    /// The entry with this hash of which `is_it` says yes.
    pub fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut slot = self.home(hash);
        loop {
            match self.slots[slot] {
                EMPTY => return None,
                entry if is_it(entry) => return Some(entry),
                _ => slot = self.next(slot),
            }
        }
    }

    /// Puts an entry in, which must not be in it yet. False if there is no room.
    pub fn insert(&mut self, hash: u64, entry: u32) -> bool {
        if self.len * 2 >= self.slots.len() {
            return false;
        }
        let mut slot = self.home(hash);
        while self.slots[slot] != EMPTY {
            slot = self.next(slot);
        }
        self.slots[slot] = entry;
        self.len += 1;
        true
    }

    /// Takes an entry out; `hash_of` tells the hash of any that is in. Harmless if it is not in it.
    pub fn remove(&mut self, hash: u64, entry: u32, hash_of: impl Fn(u32) -> u64) {
        let mut hole = self.home(hash);
        while self.slots[hole] != entry {
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
            // It may move back to the hole unless its home lies behind that.
            let home = self.home(hash_of(moved));
            if slot.wrapping_sub(home) & mask >= slot.wrapping_sub(hole) & mask {
                self.slots[hole] = moved;
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
            let hash_of = |entry: u32| (u64::from(entry) * spread).wrapping_add(60) % 64;
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
}
