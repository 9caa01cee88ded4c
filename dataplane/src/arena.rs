//! Packet memory: one mapping cut into chunks, and [`Frame`], the only way to touch one.
//!
//! A `Frame` owns its chunk: it is neither `Copy` nor `Clone`, so a frame cannot be sent twice, or used after it was
//! sent, without the compiler's objection. Chunks that are lent to the kernel have no `Frame` until they come back.
//!
//! A packet that one chunk cannot hold is a chain (`chain.rs`): its frame is the head, and owns the frames behind it.
#![allow(unsafe_code)]

mod chain;
mod huge;
mod shared;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

pub use self::huge::{HugePages, HugeVec};
pub use self::shared::Piece;

/// Bytes of one chunk. With the kernel's and our headroom gone, a frame of a 1,500-byte MTU and two VLAN tags fits.
pub const CHUNK: usize = 2048;
/// Room before a received frame's first byte, for headers to be pushed. It is what XDP leaves (`XDP_PACKET_HEADROOM`).
pub const HEADROOM: usize = 256;
/// The longest frame that a chunk holds.
pub const MAX_FRAME: usize = CHUNK - HEADROOM;
/// The largest link header: Ethernet with two VLAN tags.
pub(crate) const MAX_LINK_HEADER: usize = 22;
/// The largest MTU whose packets fit into one chunk.
pub const CHUNK_MTU: u16 = (MAX_FRAME - MAX_LINK_HEADER) as u16;
/// The largest MTU; its packets are chains.
pub const MAX_MTU: u16 = 9216;
/// The longest packet.
pub const MAX_PACKET: usize = MAX_MTU as usize + MAX_LINK_HEADER;

const HUGE_PAGE: usize = 2 << 20;

/// A packet's bytes within one chunk of a [`FramePool`], owned; or the first of them, with the frames of the others.
#[derive(Debug)]
pub struct Frame {
    chunk: NonNull<u8>,
    /// The chunk's number, and [`CHAINED`] if a link to the next frame lies at the chunk's beginning.
    index: u32,
    start: u16,
    len: u16,
}

/// In [`Frame::index`]: there are frames behind this one. A pool has fewer chunks than this.
const CHAINED: u32 = 1 << 31;

// SAFETY: a frame is the only access to its chunk, wherever it goes.
unsafe impl Send for Frame {}

impl Frame {
    /// The packet's bytes in the head: all of them, if it is no chain.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: start + len <= CHUNK (kept by every method that sets them), the chunk is mapped while a frame of it
        // exists (see `Drop for FramePool`), and this frame is its only owner.
        unsafe { std::slice::from_raw_parts(self.chunk.as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// The same, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.chunk.as_ptr().add(self.start as usize), self.len as usize)
        }
    }

    /// Length of the packet in bytes, whatever it takes to hold them.
    #[inline]
    pub fn len(&self) -> usize {
        if self.is_chain() { self.len as usize + self.rest() } else { self.len as usize }
    }

    /// Whether the packet has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the packet's bytes go on behind those of the head.
    #[inline]
    pub fn is_chain(&self) -> bool {
        self.index & CHAINED != 0
    }

    /// The chunk's number.
    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.index & !CHAINED
    }

    /// Takes `bytes` of headroom into the packet, at its front. False, and nothing changed, if there is less.
    #[inline]
    pub fn grow_front(&mut self, bytes: usize) -> bool {
        if bytes > self.headroom() {
            return false;
        }
        self.start -= bytes as u16;
        self.len += bytes as u16;
        true
    }

    /// Bytes before the packet that are free.
    #[inline]
    fn headroom(&self) -> usize {
        let taken = if self.is_chain() { chain::LINK } else { 0 };
        (self.start as usize).saturating_sub(taken)
    }

    /// Cuts `bytes` off the packet's front (at most all of the head).
    #[inline]
    pub fn shrink_front(&mut self, bytes: usize) {
        let bytes = bytes.min(self.len as usize) as u16;
        self.start += bytes;
        self.len -= bytes;
    }

    /// Cuts the packet off behind its first `len` bytes, if it has more.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if self.is_chain() {
            return self.cut(len);
        }
        self.len = len.min(self.len as usize) as u16;
    }

    /// Gives the packet another front: of its first `end` bytes, the first `old` become `new` others, whose contents are
    /// left as they lie. False, and nothing changed, if there are no such bytes or no headroom for them.
    #[inline]
    pub fn replace_front(&mut self, old: usize, new: usize, end: usize) -> bool {
        if old > end || old > self.len as usize || end > self.len() || self.headroom() + old < new {
            return false;
        }
        if self.is_chain() {
            self.cut(end);
        } else {
            self.len = end as u16;
        }
        self.start = (self.start as usize + old - new) as u16;
        self.len = (self.len as usize - old + new) as u16;
        true
    }

    /// Sets the packet's length, keeping its front. False, and nothing changed, if the chunk ends before, or if it is a
    /// chain.
    #[inline]
    pub fn set_len(&mut self, len: usize) -> bool {
        if self.start as usize + len > CHUNK || self.is_chain() {
            return false;
        }
        self.len = len as u16;
        true
    }

    /// Makes the packet a copy of `bytes`, with the usual headroom. False, and the packet left empty, if it is too long for
    /// a chunk; false, and nothing changed, if it is a chain.
    pub fn copy_from(&mut self, bytes: &[u8]) -> bool {
        if self.is_chain() {
            return false;
        }
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
    /// 2 MiB pages, of those that the machine keeps for those who name them (`vm.nr_hugepages`).
    Huge,
    /// 2 MiB pages where the kernel finds some (`/sys/kernel/mm/transparent_hugepage/enabled` is not `never`).
    Transparent,
    /// The machine's ordinary pages.
    Ordinary,
}

impl Pages {
    /// The word for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Huge => "huge",
            Self::Transparent => "transparent",
            Self::Ordinary => "ordinary",
        }
    }
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

/// A mapping, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    /// What is mapped, if others can map it, too.
    file: Option<OwnedFd>,
}

// SAFETY: an address range; what may be done in it is the frames' business.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more: a pool with frames outside keeps it for good.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The memory of a [`FramePool`], kept mapped: what a UMEM is made of. It reaches no frame.
#[derive(Clone, Debug)]
pub struct Memory {
    mapping: Arc<Mapping>,
    pages: Pages,
    stride: usize,
    count: u32,
}

impl Memory {
    /// What pages it got.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// How many chunks it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Address and bytes of all chunks, for registration as a UMEM.
    pub(crate) fn region(&self) -> (NonNull<u8>, usize) {
        (self.mapping.base, self.count as usize * self.stride)
    }

    /// Whether each chunk follows upon the one before, as a UMEM in aligned mode needs it.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.stride == CHUNK
    }
}

impl Mapping {
    /// Of the huge pages that the machine keeps; only such a file has them.
    fn kept(bytes: usize) -> Result<Self, ArenaError> {
        let refused = |(what, source)| ArenaError::Refused { bytes, what, source };
        let file = shared::file(bytes, libc::MFD_HUGETLB | libc::MFD_HUGE_2MB).map_err(refused)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping, at an address of the kernel's choice. It takes the pages now, or fails.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file.as_raw_fd(), 0) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Self { base, bytes, file: Some(file) })
            }
            _ => Err(refused(("mmap", io::Error::last_os_error()))),
        }
    }

    /// Of anonymous memory, for which the kernel looks for huge pages where it may. No other process can map it.
    fn anonymous(bytes: usize) -> Result<Self, ArenaError> {
        let base = huge::map(bytes);
        let refused = || ArenaError::Refused { bytes, what: "mmap", source: io::Error::last_os_error() };
        base.map(|base| Self { base, bytes, file: None }).ok_or_else(refused)
    }
}

/// The frames of one worker: a mapping, and a last-in-first-out list of the chunks that are free (those most likely to
/// be in the cache still).
#[derive(Debug)]
pub struct FramePool {
    memory: Memory,
    base: NonNull<u8>,
    stride: usize,
    /// The first of the pool's own chunks; others of the memory may be other pools'.
    first: u32,
    count: u32,
    free: Vec<u32>,
}

// SAFETY: the pool owns its mapping; chunks are reached only through frames, each of which has one owner.
unsafe impl Send for FramePool {}

impl FramePool {
    /// Maps memory for `count` frames, in huge pages where the machine has them free or the kernel finds some. `spread` leaves a gap of two
    /// cache lines between chunks, so that the headers of a burst do not all fall into the same cache sets; a UMEM in
    /// aligned mode cannot have it.
    pub fn new(count: u32, spread: bool) -> Result<Self, ArenaError> {
        if count == 0 || count > 1 << 24 {
            return Err(ArenaError::Count(count));
        }
        let stride = if spread { CHUNK + 128 } else { CHUNK };
        let bytes = (count as usize * stride).next_multiple_of(HUGE_PAGE);
        let (mapping, pages) = match Mapping::kept(bytes) {
            Ok(mapping) => (mapping, Pages::Huge),
            // A file in memory can be handed over, but not every kernel has huge pages for those.
            Err(_) => match (Mapping::shared(bytes), huge::pages_of_anonymous()) {
                (Ok((mapping, pages)), others) if pages != Pages::Ordinary || others == pages => {
                    (mapping, pages)
                }
                (_, pages) => (Mapping::anonymous(bytes)?, pages),
            },
        };
        let base = mapping.base;
        let memory = Memory { mapping: Arc::new(mapping), pages, stride, count };
        Ok(Self { memory, base, stride, first: 0, count, free: (0..count).rev().collect() })
    }

    /// Shares the frames out among `parts` workers, at least one, as evenly as can be. All parts lie in the one memory; a
    /// frame has to come home to the part that it was taken from.
    pub fn split(mut self, parts: usize) -> Vec<Self> {
        let parts = parts.max(1) as u32;
        let free = std::mem::take(&mut self.free);
        // Its frames are the parts' now.
        let (count, mut next) = (std::mem::take(&mut self.count), self.first);
        let part = |index: u32| {
            let share = count / parts + u32::from(index < count % parts);
            let first = next;
            next += share;
            let own = free.iter().copied().filter(|chunk| (first..first + share).contains(chunk));
            let mut list = Vec::with_capacity(share as usize);
            list.extend(own);
            let Self { base, stride, .. } = self;
            Self { memory: self.memory.clone(), base, stride, first, count: share, free: list }
        };
        (0..parts).map(part).collect()
    }

    /// The frames' memory: that of all parts of a pool that was split.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What pages the memory got.
    pub fn pages(&self) -> Pages {
        self.memory.pages
    }

    /// How many frames there are in all.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many frames are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Whether a chunk of this number is one of the pool's.
    #[inline]
    fn owns(&self, index: u64) -> bool {
        index.wrapping_sub(self.first.into()) < self.count.into()
    }

    fn frame(&self, index: u32, start: u16, len: u16) -> Frame {
        debug_assert!(self.owns(index.into()) && start as usize + len as usize <= CHUNK);
        // SAFETY: the chunk is one of ours, and so lies within the mapping.
        let chunk = unsafe { self.base.add(index as usize * self.stride) };
        Frame { chunk, index, start, len }
    }

    /// Takes a free frame: empty, with [`HEADROOM`] before it. `None` if all are out.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        Some(self.frame(index, HEADROOM as u16, 0))
    }

    /// Brings a frame home, with those behind it.
    #[inline]
    pub fn give(&mut self, frame: Frame) {
        debug_assert_eq!(self.frame(frame.number(), 0, 0).chunk, frame.chunk, "a frame of another pool");
        if frame.is_chain() {
            return self.give_chain(frame);
        }
        self.free.push(frame.index);
    }

    /// Turns a frame that is no chain into the UMEM address of its packet and the packet's length: the kernel owns the
    /// chunk now.
    #[inline]
    pub(crate) fn lend(&mut self, frame: Frame) -> (u64, u32) {
        debug_assert!(!frame.is_chain(), "a chain is lent frame by frame");
        debug_assert!(self.memory.is_contiguous(), "no UMEM is made of others");
        (frame.index as u64 * CHUNK as u64 + frame.start as u64, frame.len as u32)
    }

    /// Turns a UMEM address that came back from the kernel into its frame. `None` if address and length do not lie in
    /// one chunk.
    ///
    /// # Safety
    /// The chunk must have been lent, and the kernel must have returned it by this very descriptor.
    #[inline]
    pub(crate) unsafe fn recover(&mut self, address: u64, len: u32) -> Option<Frame> {
        let index = address / CHUNK as u64;
        let start = address % CHUNK as u64;
        if !self.owns(index) || start + len as u64 > CHUNK as u64 {
            return None;
        }
        Some(self.frame(index as u32, start as u16, len as u16))
    }

    /// Brings the chunk at a UMEM address home, whatever lies in it. False if it is none of the pool's.
    ///
    /// # Safety
    /// The chunk must have been lent, and the kernel must have no use for it any more.
    #[inline]
    pub(crate) unsafe fn reclaim(&mut self, address: u64) -> bool {
        let index = address / CHUNK as u64;
        let owned = self.owns(index);
        if owned {
            self.free.push(index as u32);
        }
        owned
    }
}

impl Drop for FramePool {
    /// Lets go of the memory if every frame is home. One that is still out, or with the kernel, keeps it mapped for good:
    /// a leak is harmless where a dangling frame is not.
    fn drop(&mut self) {
        if self.free.len() != self.count as usize {
            std::mem::forget(self.memory.clone());
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
        assert!(unsafe { pool.reclaim(address) });
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn parts_of_a_pool_have_frames_of_their_own() {
        let mut whole = FramePool::new(10, false).unwrap();
        let out = whole.take().unwrap();
        let mut parts = whole.split(3);
        assert_eq!(parts.iter().map(FramePool::count).collect::<Vec<_>>(), [4, 3, 3]);
        assert_eq!(parts.iter().map(FramePool::free).collect::<Vec<_>>(), [3, 3, 3]);
        // The first frame of all was out.
        parts[0].give(out);
        let mut numbers: Vec<u32> = Vec::new();
        for part in &mut parts {
            assert_eq!(part.memory().count(), 10);
            let frames: Vec<Frame> = std::iter::from_fn(|| part.take()).collect();
            numbers.extend(frames.iter().map(Frame::number));
            frames.into_iter().for_each(|frame| part.give(frame));
            assert_eq!(part.free(), part.count() as usize);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
        // SAFETY: refused, so that no frame comes of it.
        assert!(unsafe { parts[1].recover(0, 60) }.is_none());
        // SAFETY: as above.
        assert!(unsafe { parts[1].recover(7 * CHUNK as u64, 60) }.is_none());
    }

    #[test]
    fn a_part_keeps_the_memory_that_a_frame_is_in() {
        let mut parts = FramePool::new(4, false).unwrap().split(2);
        let mut frame = parts[1].take().unwrap();
        frame.copy_from(b"still there");
        drop(parts);
        assert_eq!(frame.bytes(), b"still there");
    }

    #[test]
    fn an_impossible_count_is_refused() {
        assert!(matches!(FramePool::new(0, false), Err(ArenaError::Count(0))));
        assert!(matches!(FramePool::new(u32::MAX, false), Err(ArenaError::Count(_))));
    }
}
