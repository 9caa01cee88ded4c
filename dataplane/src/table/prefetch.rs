//! Hints that bring memory into the cache ahead of its use.
#![allow(unsafe_code)]

/// Asks the CPU to fetch the cache line at an address, whatever is there. See [`prefetch`].
#[inline(always)]
pub fn prefetch_line<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: PREFETCHT0 is a hint that never faults, whatever the address; SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks the CPU to fetch every cache line of `value`. Changes nothing that a program can see; does nothing on
/// architectures without a stable prefetch intrinsic.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    prefetch_lines(core::ptr::from_ref(value));
}

#[inline(always)]
fn prefetch_lines<T>(at: *const T) {
    let mut offset = 0;
    while offset < size_of::<T>() {
        prefetch_line(at.cast::<u8>().wrapping_add(offset));
        offset += 64;
    }
}

/// As [`prefetch_at`], for an index that is nearly always one of an element: it does not ask, and may fetch what lies
/// elsewhere, if anything does.
#[inline(always)]
pub fn prefetch_from<T>(slice: &[T], index: usize) {
    prefetch_lines(slice.as_ptr().wrapping_add(index));
}

/// [`prefetch`] of element `index`; nothing where there is no such element.
#[inline(always)]
pub fn prefetch_at<T>(slice: &[T], index: usize) {
    if let Some(value) = slice.get(index) {
        prefetch(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_size_and_any_index_is_harmless() {
        let values = [[1u8; 200], [2; 200]];
        prefetch(&());
        prefetch(&values[1][199]);
        prefetch(&values);
        prefetch_line(core::ptr::null::<u8>());
        for index in [0, 1, 2, usize::MAX] {
            prefetch_at(&values, index);
            prefetch_from(&values, index);
        }
        assert_eq!(values, [[1; 200], [2; 200]]);
    }
}
