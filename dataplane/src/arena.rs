//! Packet memory: one mapping cut into chunks, and [`Frame`], the only way to touch one.
//!
//! A `Frame` owns its chunk: it is neither `Copy` nor `Clone`, so a frame cannot be sent twice, or used after it was
//! sent, without the compiler's objection. Chunks that are lent to the kernel have no `Frame` until they come back.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;

/// Bytes of one chunk. With the kernel's and our headroom gone, a frame of a 1,500-byte MTU and two VLAN tags fits.
pub const CHUNK: usize = 2048;
/// Room before a received frame's first byte, for headers to be pushed. It is what XDP leaves (`XDP_PACKET_HEADROOM`).
pub const HEADROOM: usize = 256;
/// The longest frame that a chunk holds.
pub const MAX_FRAME: usize = CHUNK - HEADROOM;
/// The largest MTU whose packets fit into a chunk behind an Ethernet header with two VLAN tags.
pub const MAX_MTU: u16 = (MAX_FRAME - 22) as u16;

const HUGE_PAGE: usize = 2 << 20;

/// A packet's bytes within one chunk of a [`FramePool`], owned.
#[derive(Debug)]
pub struct Frame {
    chunk: NonNull<u8>,
    index: u32,
    start: u16,
    len: u16,
}

// SAFETY: a frame is the only access to its chunk, wherever it goes.
unsafe impl Send for Frame {}

impl Frame {
    /// The packet's bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: start + len <= CHUNK (kept by every method that sets them), the chunk is mapped while a frame of it
        // exists (see `Drop for FramePool`), and this frame is its only owner.
        unsafe { std::slice::from_raw_parts(self.chunk.as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// The packet's bytes, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.chunk.as_ptr().add(self.start as usize), self.len as usize)
        }
    }

    /// Length of the packet in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the packet has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes `bytes` of headroom into the packet, at its front. False, and nothing changed, if there is less.
    #[inline]
    pub fn grow_front(&mut self, bytes: usize) -> bool {
        if bytes > self.start as usize {
            return false;
        }
        self.start -= bytes as u16;
        self.len += bytes as u16;
        true
    }

    /// Cuts `bytes` off the packet's front (at most all of it).
    #[inline]
    pub fn shrink_front(&mut self, bytes: usize) {
        let bytes = bytes.min(self.len as usize) as u16;
        self.start += bytes;
        self.len -= bytes;
    }

    /// Gives the packet another front: of its first `end` bytes, the first `old` become `new` others, whose contents are
    /// left as they lie. False, and nothing changed, if there are no such bytes or no headroom for them.
    #[inline]
    pub fn replace_front(&mut self, old: usize, new: usize, end: usize) -> bool {
        let (start, len) = (self.start as usize, self.len as usize);
        if old > end || end > len || start + old < new {
            return false;
        }
        self.start = (start + old - new) as u16;
        self.len = (end - old + new) as u16;
        true
    }

    /// Sets the packet's length, keeping its front. False, and nothing changed, if the chunk ends before.
    #[inline]
    pub fn set_len(&mut self, len: usize) -> bool {
        if self.start as usize + len > CHUNK {
            return false;
        }
        self.len = len as u16;
        true
    }

    /// Makes the packet a copy of `bytes`, with the usual headroom. False, and the packet left empty, if it is too long.
    pub fn copy_from(&mut self, bytes: &[u8]) -> bool {
        self.start = HEADROOM as u16;
        self.len = 0;
        if !self.set_len(bytes.len()) {
            return false;
        }
        self.bytes_mut().copy_from_slice(bytes);
        true
    }
}

/// What pages a mapping got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 2 MiB pages.
    Huge,
    /// The machine's ordinary pages.
    Ordinary,
}

/// Why packet memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The kernel refused.
    #[error(
        "cannot take {bytes} bytes of packet memory: {what}: {source}; lower tables.frames, or give the machine more memory"
    )]
    Refused {
        /// Bytes asked for.
        bytes: usize,
        /// The system call that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The count of frames is zero or beyond what an index can name.
    #[error("a frame pool holds 1 to 16,777,216 frames, not {0}")]
    Count(u32),
}

/// A memfd-backed mapping.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(name: &CStr, bytes: usize, pages: Pages) -> Result<Self, ArenaError> {
        let refused = |what| ArenaError::Refused { bytes, what, source: io::Error::last_os_error() };
        let huge = if pages == Pages::Huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
        // SAFETY: plain system calls on values that we own; every result is checked, and the descriptor is closed.
        unsafe {
            let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | huge);
            if fd < 0 {
                return Err(refused("memfd_create"));
            }
            if libc::ftruncate(fd, bytes as libc::off_t) != 0 {
                let error = refused("ftruncate");
                libc::close(fd);
                return Err(error);
            }
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            let base = libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0);
            let error = refused("mmap");
            libc::close(fd);
            match NonNull::new(base.cast::<u8>()) {
                Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { base, bytes }),
                _ => Err(error),
            }
        }
    }
}

/// Asks the kernel for huge pages where it keeps them for those who ask (`transparent_hugepage/enabled` is `madvise`), for
/// memory that is looked up at random: a table of a million flows has a quarter of a million ordinary pages, far more than
/// a core remembers the places of. Advice only: where it is not taken, nothing changes but the speed.
pub fn prefer_huge_pages((start, bytes): (*const u8, usize)) {
    let first = (start as usize).next_multiple_of(HUGE_PAGE);
    let end = (start as usize + bytes) / HUGE_PAGE * HUGE_PAGE;
    if first < end {
        // SAFETY: MADV_HUGEPAGE changes how memory is backed, never what it holds; an address range that is not mapped is
        // an error, which is ignored.
        unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE) };
    }
}

/// The frames of one worker: a mapping, and a last-in-first-out list of the chunks that are free (those most likely to
/// be in the cache still).
#[derive(Debug)]
pub struct FramePool {
    mapping: Mapping,
    pages: Pages,
    stride: usize,
    count: u32,
    free: Vec<u32>,
}

// SAFETY: the pool owns its mapping; chunks are reached only through frames, each of which has one owner.
unsafe impl Send for FramePool {}

impl FramePool {
    /// Maps memory for `count` frames, in huge pages where the machine has them free. `spread` leaves a gap of two
    /// cache lines between chunks, so that the headers of a burst do not all fall into the same cache sets; a UMEM in
    /// aligned mode cannot have it.
    pub fn new(count: u32, spread: bool) -> Result<Self, ArenaError> {
        if count == 0 || count > 1 << 24 {
            return Err(ArenaError::Count(count));
        }
        let stride = if spread { CHUNK + 128 } else { CHUNK };
        let bytes = (count as usize * stride).next_multiple_of(HUGE_PAGE);
        let (mapping, pages) = match Mapping::new(c"sluice-frames", bytes, Pages::Huge) {
            Ok(mapping) => (mapping, Pages::Huge),
            Err(_) => (Mapping::new(c"sluice-frames", bytes, Pages::Ordinary)?, Pages::Ordinary),
        };
        Ok(Self { mapping, pages, stride, count, free: (0..count).rev().collect() })
    }

    /// What pages the memory got.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// How many frames there are in all.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many frames are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    fn frame(&self, index: u32, start: u16, len: u16) -> Frame {
        debug_assert!(index < self.count && start as usize + len as usize <= CHUNK);
        // SAFETY: index < count, so the chunk lies within the mapping.
        let chunk = unsafe { self.mapping.base.add(index as usize * self.stride) };
        Frame { chunk, index, start, len }
    }

    /// Takes a free frame: empty, with [`HEADROOM`] before it. `None` if all are out.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        Some(self.frame(index, HEADROOM as u16, 0))
    }

    /// Brings a frame home.
    #[inline]
    pub fn give(&mut self, frame: Frame) {
        debug_assert_eq!(self.frame(frame.index, 0, 0).chunk, frame.chunk, "a frame of another pool");
        self.free.push(frame.index);
    }

    /// The mapping, for registration as a UMEM.
    pub(crate) fn region(&self) -> (NonNull<u8>, usize) {
        (self.mapping.base, self.count as usize * self.stride)
    }

    /// Whether each chunk follows upon the one before, as a UMEM in aligned mode needs it.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.stride == CHUNK
    }

    /// Turns a frame into the UMEM address of its packet and the packet's length: the kernel owns the chunk now.
    #[inline]
    pub(crate) fn lend(&mut self, frame: Frame) -> (u64, u32) {
        (frame.index as u64 * self.stride as u64 + frame.start as u64, frame.len as u32)
    }

    /// Turns a UMEM address that came back from the kernel into its frame. `None` if address and length do not lie in
    /// one chunk.
    ///
    /// # Safety
    /// The chunk must have been lent, and the kernel must have returned it by this very descriptor.
    #[inline]
    pub(crate) unsafe fn recover(&mut self, address: u64, len: u32) -> Option<Frame> {
        let index = address / self.stride as u64;
        let start = address % self.stride as u64;
        if index >= self.count as u64 || start + len as u64 > CHUNK as u64 {
            return None;
        }
        Some(self.frame(index as u32, start as u16, len as u16))
    }

    /// Brings a lent chunk home that will not come back by a descriptor.
    ///
    /// # Safety
    /// The chunk must have been lent, and the kernel must have no use for it any more.
    pub(crate) unsafe fn reclaim(&mut self, index: u32) {
        debug_assert!(index < self.count);
        self.free.push(index);
    }
}

impl Drop for FramePool {
    /// Unmaps the memory if every frame is home. One that is still out, or with the kernel, keeps it mapped for good:
    /// a leak is harmless where a dangling frame is not.
    fn drop(&mut self) {
        if self.free.len() == self.count as usize {
            // SAFETY: no frame exists, so nothing refers to the mapping any more.
            unsafe { libc::munmap(self.mapping.base.as_ptr().cast(), self.mapping.bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_do_not_overlap_and_come_home() {
        for spread in [false, true] {
            let mut pool = FramePool::new(8, spread).unwrap();
            let mut frames: Vec<Frame> = std::iter::from_fn(|| pool.take()).collect();
            assert_eq!((frames.len(), pool.free()), (8, 0));
            for (i, frame) in frames.iter_mut().enumerate() {
                assert!(frame.copy_from(&[i as u8; MAX_FRAME]));
            }
            for (i, frame) in frames.iter().enumerate() {
                assert!(frame.bytes().iter().all(|&b| b == i as u8));
            }
            frames.into_iter().for_each(|frame| pool.give(frame));
            assert_eq!(pool.free(), 8);
        }
    }

    #[test]
    fn a_frame_stays_within_its_chunk() {
        let mut pool = FramePool::new(1, false).unwrap();
        let mut frame = pool.take().unwrap();
        assert!(!frame.copy_from(&[0; MAX_FRAME + 1]) && frame.is_empty());
        assert!(frame.copy_from(&[7; 60]));
        assert!(frame.grow_front(HEADROOM) && !frame.grow_front(1));
        assert_eq!((frame.len(), frame.bytes()[HEADROOM]), (HEADROOM + 60, 7));
        assert!(frame.set_len(CHUNK) && !frame.set_len(CHUNK + 1));
        frame.shrink_front(usize::MAX);
        assert!(frame.is_empty());
        pool.give(frame);
    }

    #[test]
    fn a_front_is_replaced_within_the_chunk() {
        let mut pool = FramePool::new(1, false).unwrap();
        let mut frame = pool.take().unwrap();
        frame.copy_from(b"old front|payload|padding");
        assert!(frame.replace_front(10, 4, 17));
        frame.bytes_mut()[..4].copy_from_slice(b"new|");
        assert_eq!(frame.bytes(), b"new|payload");
        assert!(!frame.replace_front(5, 0, 4) && !frame.replace_front(0, 0, 12));
        assert!(!frame.replace_front(0, HEADROOM + 7, 0) && frame.replace_front(0, HEADROOM + 6, 11));
        assert_eq!((frame.len(), frame.grow_front(1)), (HEADROOM + 17, false));
        pool.give(frame);
    }

    #[test]
    fn a_lent_frame_is_recovered_as_it_was() {
        let mut pool = FramePool::new(4, false).unwrap();
        let mut frame = pool.take().unwrap();
        frame.copy_from(b"what goes out comes back");
        let (address, len) = pool.lend(frame);
        // SAFETY: lent just above, and returned once.
        let frame = unsafe { pool.recover(address, len) }.unwrap();
        assert_eq!(frame.bytes(), b"what goes out comes back");
        pool.give(frame);
        // SAFETY: refused, so that no frame comes of it.
        assert!(unsafe { pool.recover(4 * CHUNK as u64, 0) }.is_none());
        // SAFETY: as above.
        assert!(unsafe { pool.recover(HEADROOM as u64, CHUNK as u32) }.is_none());
    }

    #[test]
    fn a_lent_chunk_that_stays_away_is_reclaimed() {
        let mut pool = FramePool::new(2, false).unwrap();
        let frame = pool.take().unwrap();
        let (address, _) = pool.lend(frame);
        assert_eq!(pool.free(), 1);
        // SAFETY: lent just above, to nobody.
        unsafe { pool.reclaim((address / CHUNK as u64) as u32) };
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn advice_changes_nothing() {
        let memory = vec![7u8; 3 * HUGE_PAGE];
        prefer_huge_pages((memory.as_ptr(), memory.len()));
        prefer_huge_pages((std::ptr::null(), 0));
        prefer_huge_pages((memory.as_ptr(), 1));
        assert!(memory.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn an_impossible_count_is_refused() {
        assert!(matches!(FramePool::new(0, false), Err(ArenaError::Count(0))));
        assert!(matches!(FramePool::new(u32::MAX, false), Err(ArenaError::Count(_))));
    }
}
