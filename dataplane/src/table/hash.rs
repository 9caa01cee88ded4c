//! A keyed hash table of fixed capacity, for flows, NAT bindings, neighbours and fragments.
//!
//! A look-up touches two cache lines: a bucket of eight 16-bit tags and eight record numbers, and the record,
//! where key and value lie together. Records sit in a slab and keep their index for life, so that other tables,
//! timers and sweeps can name an entry by a `u32`.
//!
//! An entry goes to the first bucket with room on its probe sequence; every full bucket that it passes counts
//! it in `overflow`. A search ends at a bucket that nothing has passed, which is nearly always the first, and
//! removal leaves no tombstone. Buckets are at most half full, so an insert fails only when the capacity is
//! reached.

use crate::arena::{HugePages, HugeVec};

pub use super::key::{Key, Secret, hash_words, mix};
use super::prefetch::{prefetch_at, prefetch_from};
use super::tags::{LANES, Tags};

/// "No entry", said by [`HashTable::candidate`].
pub const NONE: u32 = u32::MAX;

/// Marks a live slot in `links`; any other value is the next free slot.
const LIVE: u32 = u32::MAX;
/// Ends the free list. Never an index, as capacities stay below it.
const END: u32 = u32::MAX - 1;

/// The table holds as many entries as it has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table is full")]
pub struct Full;

#[derive(Clone)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 is an empty lane.
    tags: Tags,
    /// The record of each lane whose tag is not 0.
    indices: [u32; LANES],
    /// Entries that lie further along a probe sequence which passes here.
    overflow: u32,
}

/// A key and its value. Up to 64 bytes lie on one cache line, up to 96 on two.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub struct Record<K, V> {
    /// What the entry is found by.
    pub key: K,
    /// What the table's user keeps for it.
    pub value: V,
}

/// A hash table with a fixed number of entries. See the module's description.
pub struct HashTable<K, V> {
    secret: Secret,
    mask: usize,
    buckets: HugeVec<Bucket>,
    /// Grows within its reserve to the high-water mark, and never past `capacity`.
    records: HugeVec<Record<K, V>>,
    /// For each record: `LIVE`, or the next in the free list.
    links: HugeVec<u32>,
    free: u32,
    len: u32,
    capacity: u32,
}

#[inline(always)]
fn tag_of(hash: u64) -> u16 {
    ((hash >> 48) as u16).max(1)
}

/// Distance between the buckets of a probe sequence: odd, so that it visits every one of a power of two.
#[inline(always)]
fn step_of(tag: u16) -> usize {
    usize::from(tag) * 2 + 1
}

impl<K: Key, V> HashTable<K, V> {
    /// A table for `capacity` entries. `seed` should be secret and random: see [`Key`].
    ///
    /// A capacity above `u32::MAX - 1` counts as that.
    #[must_use]
    pub fn with_capacity(capacity: u32, seed: u64) -> Self {
        let capacity = capacity.min(END);
        let buckets = (capacity as usize * 2).div_ceil(LANES).next_power_of_two();
        let empty = Bucket { tags: Tags([0; LANES]), indices: [0; LANES], overflow: 0 };
        let mut table = HugeVec::with_capacity_in(buckets, HugePages);
        table.resize(buckets, empty);
        Self {
            secret: Secret::new(seed),
            mask: buckets - 1,
            buckets: table,
            records: HugeVec::with_capacity_in(capacity as usize, HugePages),
            links: HugeVec::with_capacity_in(capacity as usize, HugePages),
            free: END,
            len: 0,
            capacity,
        }
    }

    /// Entries held.
    #[inline]
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no entry is held.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries that fit.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Whether the next insert fails.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == self.capacity
    }

    /// Slots that have ever been used: a sweep asks [`get`](Self::get) for each index below this.
    #[inline]
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.records.len() as u32
    }

    /// Memory taken, in bytes, all of it when the table was made.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.buckets.capacity() * size_of::<Bucket>()
            + self.records.capacity() * size_of::<Record<K, V>>()
            + self.links.capacity() * size_of::<u32>()
    }

    /// The hash of `key` in this table, for the calls that take one.
    #[inline(always)]
    #[must_use]
    pub fn hash(&self, key: &K) -> u64 {
        key.hash_with(&self.secret)
    }

    /// Starts to fetch the bucket that a search for `hash` reads first.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        prefetch_from(&self.buckets, hash as usize & self.mask);
    }

    /// Starts to fetch the record at `index`, if there is one.
    #[inline(always)]
    pub fn prefetch_record(&self, index: u32) {
        prefetch_from(&self.records, index as usize);
    }

    /// Starts to fetch what [`remove`](Self::remove) looks at for the entry at `index`, whose record has been fetched.
    pub fn prefetch_remove(&self, index: u32) {
        prefetch_at(&self.links, index as usize);
        if let Some(record) = self.records.get(index as usize) {
            self.prefetch_bucket(self.hash(&record.key));
        }
    }

    /// Starts to fetch the slots that the next `count` inserts take.
    pub fn prefetch_free(&self, count: usize) {
        let mut free = self.free;
        for _ in 0..count {
            // Fresh slots follow one upon the other, which the CPU sees by itself.
            let Some(&next) = self.links.get(free as usize) else { return };
            self.prefetch_record(free);
            free = next;
        }
    }

    /// The index of `key`.
    #[inline]
    #[must_use]
    pub fn find(&self, key: &K) -> Option<u32> {
        self.find_hashed(key, self.hash(key))
    }

    /// The index of `key`, whose [`hash`](Self::hash) the caller already has.
    #[inline]
    #[must_use]
    pub fn find_hashed(&self, key: &K, hash: u64) -> Option<u32> {
        let tag = tag_of(hash);
        let mut at = hash as usize;
        for _ in 0..self.buckets.len() {
            let bucket = self.buckets.get(at & self.mask)?;
            for lane in bucket.tags.equal(tag) {
                let index = bucket.indices[lane];
                if self.records.get(index as usize).is_some_and(|record| record.key == *key) {
                    return Some(index);
                }
            }
            if bucket.overflow == 0 {
                return None;
            }
            at = at.wrapping_add(step_of(tag));
        }
        None
    }

    /// First step of a search in steps, whose cache misses overlap over many keys: the likely record for `hash`, which
    /// starts to be fetched. [`NONE`] if there is none. Its bucket should have been
    /// [prefetched](Self::prefetch_bucket) a while ago.
    #[inline(always)]
    #[must_use]
    pub fn candidate(&self, hash: u64) -> u32 {
        let index = self.choose(hash);
        self.prefetch_record(index);
        index
    }

    /// As [`candidate`](Self::candidate), but fetches nothing, for a caller that has other work to do meanwhile: CPUs drop
    /// prefetches that come too many at once.
    #[inline(always)]
    #[must_use]
    pub fn choose(&self, hash: u64) -> u32 {
        let Some(bucket) = self.buckets.get(hash as usize & self.mask) else { return NONE };
        match bucket.tags.equal(tag_of(hash)).next() {
            Some(lane) => bucket.indices[lane],
            // No record has this index; `confirm` looks further.
            None if bucket.overflow != 0 => END,
            None => NONE,
        }
    }

    /// Second step: the entry of `key`, which has `hash`, if there is one. `candidate` is what the first step said.
    #[inline(always)]
    #[must_use]
    pub fn confirm(&self, candidate: u32, key: &K, hash: u64) -> Option<(u32, &V)> {
        match self.records.get(candidate as usize) {
            Some(record) if record.key == *key => Some((candidate, &record.value)),
            None if candidate == NONE => None,
            _ => self.find_further(key, hash),
        }
    }

    /// The value of `key` if the candidate that the first step said is its record.
    #[inline(always)]
    pub fn confirm_mut(&mut self, candidate: u32, key: &K) -> Option<&mut V> {
        let record = self.records.get_mut(candidate as usize)?;
        (record.key == *key).then_some(&mut record.value)
    }

    #[cold]
    fn find_further(&self, key: &K, hash: u64) -> Option<(u32, &V)> {
        let index = self.find_hashed(key, hash)?;
        Some((index, self.value(index)?))
    }

    /// Adds an entry, and returns its index, which it keeps until it is removed. The caller has made sure that
    /// the key is absent; a second entry of the same key would be unreachable until the first is removed.
    ///
    /// # Errors
    /// [`Full`] when the capacity is reached; the value is dropped.
    #[inline]
    pub fn insert(&mut self, key: K, value: V) -> Result<u32, Full> {
        let hash = self.hash(&key);
        self.insert_hashed(key, hash, value)
    }

    /// [`insert`](Self::insert) for a caller that has the key's [`hash`](Self::hash).
    ///
    /// # Errors
    /// [`Full`], as `insert`.
    pub fn insert_hashed(&mut self, key: K, hash: u64, value: V) -> Result<u32, Full> {
        debug_assert_eq!(hash, self.hash(&key));
        debug_assert!(self.find_hashed(&key, hash).is_none(), "the key is already present");
        if self.is_full() {
            return Err(Full);
        }
        let index = self.take_slot(Record { key, value });
        let tag = tag_of(hash);
        let mut at = hash as usize;
        // Ends: there are more lanes than entries, and the sequence visits them all.
        while let Some(bucket) = self.buckets.get_mut(at & self.mask) {
            if let Some(lane) = bucket.tags.equal(0).next() {
                bucket.tags.0[lane] = tag;
                bucket.indices[lane] = index;
                break;
            }
            bucket.overflow += 1;
            at = at.wrapping_add(step_of(tag));
        }
        self.len += 1;
        Ok(index)
    }

    /// Stores the record in a free slot, or in the next fresh one. Only called below capacity.
    #[inline]
    fn take_slot(&mut self, record: Record<K, V>) -> u32 {
        let index = self.free;
        if let (Some(slot), Some(link)) =
            (self.records.get_mut(index as usize), self.links.get_mut(index as usize))
        {
            *slot = record;
            self.free = core::mem::replace(link, LIVE);
            return index;
        }
        // Within the reserve made by `with_capacity`.
        self.records.push(record);
        self.links.push(LIVE);
        self.slots() - 1
    }

    /// Removes the entry at `index`, if there is one, and returns it.
    pub fn remove(&mut self, index: u32) -> Option<(K, V)>
    where
        V: Default,
    {
        let link = self.links.get_mut(index as usize).filter(|link| **link == LIVE)?;
        let record = self.records.get_mut(index as usize)?;
        *link = self.free;
        self.free = index;
        self.len -= 1;
        let (key, value) = (record.key, core::mem::take(&mut record.value));
        self.unlink(self.hash(&key), index);
        Some((key, value))
    }

    /// Takes `index` out of its bucket, and off the overflow count of each bucket that it had passed.
    fn unlink(&mut self, hash: u64, index: u32) {
        let tag = tag_of(hash);
        let mut at = hash as usize;
        for _ in 0..self.buckets.len() {
            let Some(bucket) = self.buckets.get_mut(at & self.mask) else { return };
            if let Some(lane) = bucket.tags.equal(tag).find(|&lane| bucket.indices[lane] == index) {
                bucket.tags.0[lane] = 0;
                return;
            }
            bucket.overflow -= 1;
            at = at.wrapping_add(step_of(tag));
        }
    }

    /// Whether an entry lives at `index`.
    #[inline]
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        self.links.get(index as usize) == Some(&LIVE)
    }

    /// The entry at `index`; `None` when the slot is free or does not exist.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u32) -> Option<(&K, &V)> {
        let record = self.records.get(index as usize).filter(|_| self.contains(index))?;
        Some((&record.key, &record.value))
    }

    /// The entry at `index`, its value to be changed.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<(&K, &mut V)> {
        let live = self.contains(index);
        let record = self.records.get_mut(index as usize).filter(|_| live)?;
        Some((&record.key, &mut record.value))
    }

    /// The value at an `index` that was just found. Unlike [`get`](Self::get) it reads the record's line alone
    /// and does not ask whether the entry lives: a slot that was emptied gives the default value.
    #[inline(always)]
    #[must_use]
    pub fn value(&self, index: u32) -> Option<&V> {
        self.records.get(index as usize).map(|record| &record.value)
    }

    /// [`value`](Self::value), to be changed.
    #[inline(always)]
    pub fn value_mut(&mut self, index: u32) -> Option<&mut V> {
        self.records.get_mut(index as usize).map(|record| &mut record.value)
    }

    /// All entries with their indices, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &K, &V)> {
        (0..self.slots()).filter_map(|index| self.get(index).map(|(key, value)| (index, key, value)))
    }
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;
