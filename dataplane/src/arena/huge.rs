//! Memory for tables that are looked up at random, in huge pages where the kernel keeps them for those who ask.
//!
//! A table of a million flows has a quarter of a million ordinary pages, far more than a core remembers the places of: each
//! look-up would walk page tables first. The kernel builds huge pages only where a whole one fits, so the memory begins at
//! the boundary of one, which no usual allocator sees to.
//!
//! The memory is taken when it is asked for, not when it is first written to: the kernel clears a huge page in a tenth of a
//! millisecond, which no packet should wait for.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator, Global};

use super::{HUGE_PAGE, Pages};

/// A vector whose memory lies in huge pages, if it is as large as one and the kernel has them
/// (`/sys/kernel/mm/transparent_hugepage/enabled` is not `never`). Otherwise a plain vector.
pub type HugeVec<T> = allocator_api2::vec::Vec<T, HugePages>;

/// The allocator behind [`HugeVec`].
#[derive(Clone, Copy, Debug, Default)]
pub struct HugePages;

/// What memory begins at the boundary of, at least, so that entries of a cache line lie in one.
const LINE: usize = 64;
/// The smallest page that there is.
const PAGE: usize = 4096;

/// A layout that begins at a cache line.
fn aligned(layout: Layout) -> Option<Layout> {
    layout.align_to(LINE).ok()
}

/// Whether memory of this layout is mapped, and how many bytes then.
fn mapped(layout: Layout) -> Option<usize> {
    let large = layout.size() >= HUGE_PAGE && layout.align() <= HUGE_PAGE;
    large.then(|| layout.size().checked_next_multiple_of(HUGE_PAGE)).flatten()
}

// SAFETY: what `allocate` gives is mapped, aligned to a huge page, and nobody else's until `deallocate` unmaps it; whether
// memory was mapped is told by its layout alone, so both always agree. Copies of the allocator are one and the same.
unsafe impl Allocator for HugePages {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let Some(bytes) = mapped(layout) else {
            let memory = Global.allocate(aligned(layout).ok_or(AllocError)?)?;
            touch(memory);
            return Ok(memory);
        };
        let start = map(bytes).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(start, bytes))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // A fresh mapping is zero.
        if mapped(layout).is_some() {
            return self.allocate(layout);
        }
        Global.allocate_zeroed(aligned(layout).ok_or(AllocError)?)
    }

    unsafe fn deallocate(&self, start: NonNull<u8>, layout: Layout) {
        match mapped(layout) {
            // SAFETY: the caller hands back what `allocate` mapped, of this size.
            Some(bytes) => unsafe { unmap(start.as_ptr(), bytes) },
            None => {
                // It was given by `allocate`, so this layout has one that is aligned.
                let layout = aligned(layout).unwrap_or(layout);
                // SAFETY: the caller hands back what `Global` gave for this layout.
                unsafe { Global.deallocate(start, layout) }
            }
        }
    }
}

/// What pages the kernel gives to those who ask for huge ones.
pub(super) fn pages_of_anonymous() -> Pages {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    match setting {
        Ok(setting) if !setting.contains("[never]") => Pages::Transparent,
        _ => Pages::Ordinary,
    }
}

/// Maps so many bytes, a multiple of a huge page, at the boundary of one, and takes them.
pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
    let room = bytes.checked_add(HUGE_PAGE)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that is in use.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), room, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    let base = base.cast::<u8>();
    let before = base.addr().next_multiple_of(HUGE_PAGE) - base.addr();
    let start = base.wrapping_add(before);
    // SAFETY: both ends lie within the mapping just made and outside of what is handed out.
    unsafe {
        unmap(base, before);
        unmap(start.wrapping_add(bytes), HUGE_PAGE - before);
    }
    // SAFETY: MADV_HUGEPAGE changes how memory is backed, never what it holds. Where it is refused, nothing is lost.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
    // SAFETY: takes the pages, and changes nothing in them. Kernels before 5.14 refuse, and take them when they are touched.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_POPULATE_WRITE) };
    NonNull::new(start)
}

/// Writes to each page of memory that nobody has used yet, so that the kernel gives it.
fn touch(memory: NonNull<[u8]>) {
    let start = memory.as_ptr().cast::<u8>();
    for at in (0..memory.len()).step_by(PAGE) {
        // SAFETY: within memory that was just allocated and that nobody refers to.
        unsafe { start.wrapping_add(at).write_volatile(0) };
    }
}

/// # Safety
/// Nothing may refer to these bytes, which are whole pages of a mapping.
unsafe fn unmap(start: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: as the caller promises.
        unsafe { libc::munmap(start.cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_vectors_begin_at_a_huge_page_and_hold_what_is_put_in() {
        for bytes in [0, 1, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 5 * HUGE_PAGE + 4096] {
            let mut memory = HugeVec::<u8>::with_capacity_in(bytes, HugePages);
            memory.resize(bytes, 7);
            assert!(bytes < HUGE_PAGE || memory.as_ptr().addr() % HUGE_PAGE == 0);
            assert!(memory.iter().all(|&byte| byte == 7));
            memory.push(8);
            memory.extend_from_slice(&vec![9; HUGE_PAGE]);
            assert_eq!((memory.get(bytes), memory.last()), (Some(&8), Some(&9)), "it moves as it grows");
            memory.truncate(bytes);
            memory.shrink_to_fit();
            assert!(memory.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn zeroed_memory_is_zero() {
        for size in [64, 3 * HUGE_PAGE] {
            let layout = Layout::from_size_align(size, 64).unwrap();
            let memory = HugePages.allocate_zeroed(layout).unwrap();
            // SAFETY: just allocated, of this size and zeroed; given back with the same layout, once.
            unsafe {
                assert!(
                    std::slice::from_raw_parts(memory.as_ptr().cast::<u8>(), size).iter().all(|&b| b == 0)
                );
                HugePages.deallocate(memory.cast(), layout);
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let layout = Layout::from_size_align(isize::MAX as usize - HUGE_PAGE, 1).unwrap();
        assert!(HugePages.allocate(layout).is_err());
    }
}
