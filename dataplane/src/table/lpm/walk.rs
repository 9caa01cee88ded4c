//! What readers see, and how they walk it.
//!
//! A root word stands for the addresses that share their first 19 bits. Its lower half marks at which of the next
//! 32 values another answer begins than before, its upper half is where the answers lie. An answer, and every other entry,
//! is a value plus one, 0 for none, or a child: the kind, a shift and the unit where its node lies.
//!
//! - a node of 64: a bitmap of runs over six bits of the address, then the entries of the runs
//! - a list of ranges: where up to eight, or sixteen, of them end, in 32 bits of the address, and the entries of them and of
//!   what follows
//! - a skip: bits that the address must have, the entry if it does not, the entry if it does
//! - far: an entry for the second half of an IPv6 address
//!
//! Nodes never change while a reader can be in them. A root word is replaced in one store; so a look-up gives the answer
//! of before or that of after, and never waits.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::arena::{HugePages, HugeVec};
use crate::table::prefetch::prefetch_at;

use super::blocks::UNIT;

/// Bits of an address that choose the root word.
pub(super) const ROOT_BITS: u32 = 19;
/// Bits that a root word itself tells apart.
pub(super) const RUN_BITS: u32 = 5;
/// Bits that a node of 64 tells apart.
pub(super) const STRIDE: u32 = 6;
/// Marks an entry as a child.
pub(super) const CHILD: u32 = 1 << 31;
/// Marks a child as a skip.
pub(super) const SKIP: u32 = 1 << 30;
/// In place of a shift: the walk goes on in the second half of the address.
pub(super) const FAR: u32 = 63;
/// Likewise, the first of four: a list of eight ranges and what follows; one more, of sixteen; two more, by 32 bits that
/// begin at [`SECOND_WINDOW`] in the place of [`FIRST_WINDOW`].
pub(super) const LIST: u32 = 59;
/// Bits of a half ahead of those that a list compares.
pub(super) const FIRST_WINDOW: u32 = 24;
pub(super) const SECOND_WINDOW: u32 = 32;
/// More nodes than any way from the root has: a reader that is in memory which was reclaimed too early ends, too.
pub(super) const DEEPEST: u32 = 64;

/// Words of a table that is new.
const FIRST_WORDS: usize = 1 << 10;
/// Look-ups of one burst that are in flight together.
pub(super) const LANES: usize = 64;

pub(super) fn child(unit: u32, shift: u32) -> u32 {
    CHILD | shift << 24 | unit
}

/// Where a child's node lies, in words, and its shift.
#[inline(always)]
pub(super) fn parse(entry: u32) -> (usize, u32) {
    ((entry & 0x00ff_ffff) as usize * UNIT, entry >> 24 & 63)
}

#[inline(always)]
pub(super) fn is_list(shift: u32) -> bool {
    shift.wrapping_sub(LIST) < 4
}

/// How many ends a list has room for.
#[inline(always)]
pub(super) fn room_of(shift: u32) -> usize {
    8 << (shift.wrapping_sub(LIST) & 1)
}

/// The bits of a half that a list compares.
#[inline(always)]
pub(super) fn window_of(shift: u32, half: u64) -> u32 {
    let first = shift.wrapping_sub(LIST) & 2 == 0;
    (half >> if first { SECOND_WINDOW - FIRST_WINDOW } else { 0 }) as u32
}

/// The ones of `bitmap` up to and with bit `at`.
#[inline(always)]
fn rank(bitmap: u64, at: u64) -> usize {
    (bitmap & (2u64.wrapping_shl(at as u32)).wrapping_sub(1)).count_ones() as usize
}

/// The memory that readers share with the writer.
#[derive(Debug)]
pub(super) struct Shared {
    /// Empty while no prefix but a default route is there.
    pub(super) root: HugeVec<AtomicU64>,
    pub(super) words: HugeVec<AtomicU32>,
    /// The entry of the prefix of length 0.
    pub(super) default: AtomicU32,
    /// Whether the CPU can do a burst as vectors.
    #[cfg_attr(not(vector), expect(dead_code))]
    pub(super) vector: bool,
}

/// Addresses of a burst as the walk wants them: their first 32 bits, and both halves.
pub(super) trait Keys {
    fn top(&self) -> u32;
    fn halves(&self) -> [u64; 2];
}

impl<const BYTES: usize> Keys for [u8; BYTES] {
    #[inline(always)]
    fn top(&self) -> u32 {
        self.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    #[inline(always)]
    fn halves(&self) -> [u64; 2] {
        match self.first_chunk::<8>() {
            Some(high) => {
                let low = self.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                [u64::from_be_bytes(*high), low]
            }
            None => [u64::from(self.top()) << 32, 0],
        }
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        let mut words = HugeVec::new_in(HugePages);
        words.resize_with(FIRST_WORDS, AtomicU32::default);
        #[cfg(vector)]
        let vector = super::vector::is_available();
        #[cfg(not(vector))]
        let vector = false;
        Self { root: HugeVec::new_in(HugePages), words, default: AtomicU32::new(0), vector }
    }

    /// Takes memory for the root, which a table without prefixes does not have.
    pub(super) fn make_root(&mut self) {
        self.root.resize_with(1 << ROOT_BITS, AtomicU64::default);
    }

    #[inline(always)]
    fn word(&self, at: usize) -> u32 {
        self.words.get(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn word64(&self, at: usize) -> u64 {
        u64::from(self.word(at)) | u64::from(self.word(at + 1)) << 32
    }

    #[inline(always)]
    pub(super) fn prefetch_root(&self, top: u32) {
        prefetch_at(&self.root, (top >> (32 - ROOT_BITS)) as usize);
    }

    /// The word that has the entry for addresses with these first bits.
    #[inline(always)]
    pub(super) fn place(&self, top: u32) -> usize {
        let Some(word) = self.root.get((top >> (32 - ROOT_BITS)) as usize) else { return 0 };
        let word = word.load(Ordering::Acquire);
        let at = top >> (32 - ROOT_BITS - RUN_BITS) & 31;
        (word >> 32) as usize + rank(word & 0xffff_ffff, at.into())
    }

    /// The entry for an address, from the one that its place has.
    #[inline]
    pub(super) fn finish(&self, mut entry: u32, [mut key, low]: [u64; 2]) -> u32 {
        for _ in 0..DEEPEST {
            if entry & CHILD == 0 {
                return entry;
            }
            let (at, shift) = parse(entry);
            let next = if entry & SKIP != 0 {
                UNIT + usize::from((key ^ self.word64(at)) >> shift == 0)
            } else if shift == FAR {
                key = low;
                0
            } else if is_list(shift) {
                let (room, key) = (room_of(shift), window_of(shift, key));
                room + (at..at + room).filter(|&end| self.word(end) < key).count()
            } else {
                UNIT + rank(self.word64(at), key >> shift & 63)
            };
            entry = self.word(at + next);
        }
        0
    }

    /// The entry for an address; the default route's where there is none.
    #[inline]
    pub(super) fn lookup(&self, key: &impl Keys) -> u32 {
        let entry = self.finish(self.word(self.place(key.top())), key.halves());
        if entry == 0 { self.default.load(Ordering::Acquire) } else { entry }
    }

    /// Looks addresses up; a result is the value, or `u32::MAX` for none.
    #[inline]
    pub(super) fn lookup_burst<K: Keys>(&self, keys: &[K], results: &mut [u32]) {
        for (keys, results) in keys.chunks(LANES).zip(results.chunks_mut(LANES)) {
            #[cfg(vector)]
            if super::vector::lookup_lanes(self, keys, results) {
                continue;
            }
            self.lookup_lanes(keys, results);
        }
    }

    /// Up to 64 addresses; each step of all of them before the next of any, so that their cache misses overlap.
    #[inline(always)]
    pub(super) fn lookup_lanes<K: Keys>(&self, keys: &[K], results: &mut [u32]) {
        let mut places = [0; LANES];
        for key in keys {
            self.prefetch_root(key.top());
        }
        for (place, key) in places.iter_mut().zip(keys) {
            *place = self.place(key.top());
            prefetch_at(&self.words, *place);
        }
        let mut children = 0;
        for (result, place) in results.iter_mut().zip(places) {
            *result = self.word(place);
            children |= *result;
        }
        if children & CHILD != 0 {
            for (result, key) in results.iter_mut().zip(keys) {
                *result = self.finish(*result, key.halves());
            }
        }
        let default = self.default.load(Ordering::Acquire);
        for result in results {
            let entry = if *result == 0 { default } else { *result };
            *result = entry.wrapping_sub(1);
        }
    }
}
