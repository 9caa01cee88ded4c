//! A burst of look-ups with AVX-512: sixteen root words, or eight nodes, in one gather.
#![allow(unsafe_code)]
// What older compilers lack is behind the configuration `vector`, see build.rs.
#![allow(clippy::incompatible_msrv)]

use core::arch::x86_64::*;
use std::sync::atomic::Ordering;

use super::blocks::UNIT;
use super::walk::{CHILD, DEEPEST, FAR, Keys, LANES, ROOT_BITS, RUN_BITS, SKIP, Shared};

/// Whether this CPU has what [`lookup_lanes`] is made of.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vpopcntdq")
        && is_x86_feature_detected!("popcnt")
}

/// [`Shared::lookup_lanes`]. `false` where this CPU cannot, or where there is nothing to gather from.
#[inline(always)]
pub(super) fn lookup_lanes<K: Keys>(shared: &Shared, keys: &[K], results: &mut [u32]) -> bool {
    let room = shared.root.len() == 1 << ROOT_BITS && shared.words.len() > UNIT + 1;
    if !shared.vector || !room || keys.len() > LANES {
        return false;
    }
    // SAFETY: `vector` is set where `is_available` said yes, and the root and the words are as large as was just seen.
    unsafe { gather(shared, keys, results) };
    true
}

/// # Safety
/// The CPU has the features, the root is whole, the words are more than three, and there are at most 64 keys.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,popcnt")]
unsafe fn gather<K: Keys>(shared: &Shared, keys: &[K], results: &mut [u32]) {
    let mut tops = [0u32; LANES];
    for (top, key) in tops.iter_mut().zip(keys) {
        *top = key.top();
    }
    for &top in tops.iter().take(keys.len()) {
        shared.prefetch_root(top);
    }
    let root: *const i64 = shared.root.as_ptr().cast();
    let words: *const i32 = shared.words.as_ptr().cast();
    let last = _mm512_set1_epi32((shared.words.len() - 1) as i32);
    let groups = keys.len().div_ceil(16);

    let mut places = [_mm512_setzero_si512(); LANES / 16];
    for (place, tops) in places.iter_mut().zip(tops.as_chunks::<16>().0).take(groups) {
        // SAFETY: 16 words are read where 16 are. Indices are below 2^19, the root's length; an aligned word of 64 bits is
        // read whole on x86-64, and later loads are not done before it, so this is an acquiring load of each.
        let (top, low, high) = unsafe {
            let top = _mm512_loadu_si512(tops.as_ptr().cast());
            let index = _mm512_srli_epi32::<{ 32 - ROOT_BITS }>(top);
            let low = _mm512_i32gather_epi64::<8>(_mm512_castsi512_si256(index), root);
            let high = _mm512_i32gather_epi64::<8>(_mm512_extracti64x4_epi64::<1>(index), root);
            (top, low, high)
        };
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        let bitmap = _mm512_permutex2var_epi32(low, even, high);
        let base = _mm512_permutex2var_epi32(low, odd, high);
        let at = _mm512_srli_epi32::<{ 32 - ROOT_BITS - RUN_BITS }>(top);
        let up_to = _mm512_sllv_epi32(_mm512_set1_epi32(2), _mm512_and_si512(at, _mm512_set1_epi32(31)));
        let up_to = _mm512_sub_epi32(up_to, _mm512_set1_epi32(1));
        let rank = _mm512_popcnt_epi32(_mm512_and_si512(bitmap, up_to));
        // Whatever a reader finds in memory that was reclaimed too early, it stays within.
        *place = _mm512_min_epu32(_mm512_add_epi32(base, rank), last);
    }

    let mut entries = [0u32; LANES];
    let mut children = 0;
    for (entries, &place) in entries.as_chunks_mut::<16>().0.iter_mut().zip(&places).take(groups) {
        // SAFETY: no index is above the last word's; 16 words are written where 16 are.
        let entry = unsafe {
            let entry = _mm512_i32gather_epi32::<4>(place, words);
            _mm512_storeu_si512(entries.as_mut_ptr().cast(), entry);
            entry
        };
        children |= _mm512_movepi32_mask(entry);
    }
    if children != 0 {
        // SAFETY: the caller's promise.
        unsafe { descend(shared, keys, &mut entries) };
    }
    let default = shared.default.load(Ordering::Acquire);
    for (result, &entry) in results.iter_mut().zip(&entries) {
        *result = if entry == 0 { default } else { entry }.wrapping_sub(1);
    }
}

/// Takes entries that are children down to their answers.
///
/// # Safety
/// As for [`gather`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,popcnt")]
unsafe fn descend<K: Keys>(shared: &Shared, keys: &[K], entries: &mut [u32; LANES]) {
    let mut high = [0u64; LANES];
    for (high, key) in high.iter_mut().zip(keys) {
        *high = key.halves()[0];
    }
    let words: *const i64 = shared.words.as_ptr().cast();
    let last = _mm256_set1_epi32((shared.words.len() - 1) as i32);
    let last_pair = _mm256_set1_epi32((shared.words.len() - UNIT) as i32);
    let is_far = _mm256_set1_epi32((CHILD | FAR << 24) as i32);
    let kind = _mm256_set1_epi32((CHILD | SKIP | 63 << 24) as i32);

    // Each round takes every lane one node further; the bound is for memory that was reclaimed too early.
    for _ in 0..DEEPEST {
        let mut going = false;
        for (entries, keys) in entries.as_chunks_mut::<8>().0.iter_mut().zip(high.as_chunks::<8>().0) {
            // SAFETY: eight entries and eight keys are read where there are as many.
            let (entry, key) = unsafe {
                (_mm256_loadu_si256(entries.as_ptr().cast()), _mm512_loadu_si512(keys.as_ptr().cast()))
            };
            let far = _mm256_cmpeq_epi32_mask(_mm256_and_si256(entry, kind), is_far);
            let lanes = _mm256_movepi32_mask(entry) & !far;
            if lanes == 0 {
                continue;
            }
            let at = _mm256_slli_epi32::<1>(_mm256_and_si256(entry, _mm256_set1_epi32(0x00ff_ffff)));
            let at = _mm256_min_epu32(at, last_pair);
            // SAFETY: two words are read at each index, which is that of the last but one at most.
            let head = unsafe { _mm512_mask_i32gather_epi64::<4>(_mm512_setzero_si512(), lanes, at, words) };
            let shift = _mm256_and_si256(_mm256_srli_epi32::<24>(entry), _mm256_set1_epi32(63));
            let shift = _mm512_cvtepu32_epi64(shift);

            let bit = _mm512_and_si512(_mm512_srlv_epi64(key, shift), _mm512_set1_epi64(63));
            let up_to = _mm512_sub_epi64(_mm512_sllv_epi64(_mm512_set1_epi64(2), bit), _mm512_set1_epi64(1));
            let rank = _mm512_popcnt_epi64(_mm512_and_si512(head, up_to));
            let differ = _mm512_srlv_epi64(_mm512_xor_si512(key, head), shift);
            let matches = _mm512_testn_epi64_mask(differ, differ);
            let is_skip = _mm256_test_epi32_mask(entry, _mm256_set1_epi32(SKIP as i32));
            let next = _mm512_mask_mov_epi64(rank, is_skip, _mm512_maskz_set1_epi64(matches, 1));

            let next = _mm256_add_epi32(_mm512_cvtepi64_epi32(next), _mm256_set1_epi32(UNIT as i32));
            let next = _mm256_min_epu32(_mm256_add_epi32(at, next), last);
            // SAFETY: no index is above the last word's; eight entries are written where eight are.
            let entry = unsafe {
                let entry = _mm256_mmask_i32gather_epi32::<4>(entry, lanes, next, words.cast());
                _mm256_storeu_si256(entries.as_mut_ptr().cast(), entry);
                entry
            };
            going |= _mm256_movepi32_mask(entry) != 0;
        }
        if !going {
            break;
        }
    }
    // What lies in the second half of an address is rare.
    for (entry, key) in entries.iter_mut().zip(keys) {
        if *entry & CHILD != 0 {
            *entry = shared.finish(*entry, key.halves());
        }
    }
}
