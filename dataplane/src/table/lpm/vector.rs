//! A burst of look-ups with what newer CPUs have: counting of ones, and AVX-512 for lists.
//!
//! Words are loaded one by one. A gather of sixteen waits for its own misses before the next one begins, and takes twice
//! as long (Zen 4).
#![allow(unsafe_code)]
// What older compilers lack is behind the configuration `vector`, see build.rs.
#![allow(clippy::incompatible_msrv)]

use core::arch::x86_64::*;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::prefetch::{prefetch, prefetch_at, prefetch_line};
use super::super::select::select;
use super::blocks::UNIT;
use super::walk::{
    DEEPEST, FAR, Keys, LANES, ROOT_BITS, RUN_BITS, SKIP, Shared, is_list, parse, room_of, window_of,
};

/// Words that are read of a node at once.
const LINE: usize = 16;
/// The root, whose every index is known to be in it.
type Root = [AtomicU64; 1 << ROOT_BITS];

/// Whether this CPU has what [`lookup_lanes`] is made of.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
}

/// [`Shared::lookup_lanes`]. `false` where this CPU cannot.
#[inline(always)]
pub(super) fn lookup_lanes<K: Keys>(shared: &Shared, keys: &[K], results: &mut [u32]) -> bool {
    let Some(root) = shared.root.first_chunk().filter(|_| shared.vector && shared.words.len() >= LINE) else {
        return false;
    };
    // SAFETY: `vector` is set where `is_available` said yes, and the words are a line at least.
    unsafe { walk(shared, root, keys, results) };
    true
}

/// # Safety
/// The CPU has the features, and there is a line of words.
#[target_feature(enable = "avx512f,popcnt,bmi1,bmi2")]
unsafe fn walk<K: Keys>(shared: &Shared, root: &Root, keys: &[K], results: &mut [u32]) {
    let mut entries = [0u32; LANES];
    let words = shared.words.as_ptr();
    // In as few instructions as can be, as the more look-ups a core has in sight, the more misses overlap.
    let word_of = |top: u32| &root[(top >> (32 - ROOT_BITS)) as usize];
    for key in keys {
        prefetch(word_of(key.top()));
    }
    for (place, key) in entries.iter_mut().zip(keys) {
        let top = key.top();
        let word = word_of(top).load(Ordering::Acquire);
        let up_to = (2u32 << (top >> (32 - ROOT_BITS - RUN_BITS) & 31)).wrapping_sub(1);
        *place = (word >> 32) as u32 + (word as u32 & up_to).count_ones();
        prefetch_line(words.wrapping_add(*place as usize));
    }
    let mut children = 0;
    for (lane, (entry, _)) in entries.iter_mut().zip(keys).enumerate() {
        *entry = shared.words.get(*entry as usize).map_or(0, |word| word.load(Ordering::Relaxed));
        children |= u64::from(*entry >> 31) << lane;
    }
    if children != 0 {
        // SAFETY: the caller's promise.
        unsafe { descend(shared, keys, &mut entries, children) };
    }
    let default = shared.default.load(Ordering::Acquire);
    for (result, &entry) in results.iter_mut().zip(&entries) {
        *result = if entry == 0 { default } else { entry }.wrapping_sub(1);
    }
}

/// Takes those entries that `children` marks down to their answers: each a node further before any goes on, so that their
/// cache misses overlap.
///
/// # Safety
/// As for [`walk`].
#[target_feature(enable = "avx512f,popcnt,bmi1,bmi2")]
unsafe fn descend<K: Keys>(shared: &Shared, keys: &[K], entries: &mut [u32; LANES], mut children: u64) {
    let mut high = [0u64; LANES];
    let words: *const u32 = shared.words.as_ptr().cast();
    let last_line = shared.words.len() - LINE;
    for lane in lanes(children) {
        high[lane] = keys.get(lane).map_or(0, |key| key.halves()[0]);
        prefetch_node(shared, entries[lane]);
    }
    // The bound is for memory that was reclaimed too early.
    for _ in 0..DEEPEST {
        let mut further = 0;
        for lane in lanes(children) {
            let (entry, key) = (entries[lane], high[lane]);
            let (at, shift) = parse(entry);
            if entry & SKIP == 0 && shift == FAR {
                entries[lane] = keys.get(lane).map_or(0, |key| shared.finish(entry, key.halves()));
                continue;
            }
            let at = at.min(last_line);
            // SAFETY: a line is read, of which `at` is the last place that it fits.
            let line = unsafe { _mm512_loadu_si512(words.add(at).cast()) };
            let head = _mm_cvtsi128_si64(_mm512_castsi512_si128(line)) as u64;
            let room = room_of(shift);
            let below = _mm512_cmplt_epu32_mask(line, _mm512_set1_epi32(window_of(shift, key) as i32));
            // What each kind of node makes of it, and then the one that it is: no predictor knows.
            let in_list = room + (u32::from(below) & ((1 << room) - 1)).count_ones() as usize;
            let up_to = 2u64.wrapping_shl((key >> shift) as u32 & 63).wrapping_sub(1);
            let in_runs = UNIT + (head & up_to).count_ones() as usize;
            let in_skip = UNIT + usize::from((key ^ head) >> shift == 0);
            let next = select(is_list(shift), in_list, in_runs);
            let next = select(entry & SKIP != 0, in_skip, next);
            let next = shared.words.get(at + next).map_or(0, |word| word.load(Ordering::Relaxed));
            entries[lane] = next;
            further |= u64::from(next >> 31) << lane;
            prefetch_node(shared, next);
        }
        children = further;
        if children == 0 {
            return;
        }
    }
    for lane in lanes(children) {
        entries[lane] = 0;
    }
}

/// Fetches the first two lines of a child's node; harmless for what is none.
#[inline(always)]
fn prefetch_node(shared: &Shared, entry: u32) {
    let at = parse(entry).0;
    prefetch_at(&shared.words, at);
    prefetch_at(&shared.words, at + LINE);
}

/// The bits that are set.
#[inline(always)]
fn lanes(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lane = (set != 0).then(|| set.trailing_zeros() as usize % LANES);
        set &= set.wrapping_sub(1);
        lane
    })
}
