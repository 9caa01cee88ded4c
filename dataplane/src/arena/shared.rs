//! Packet memory that another process can map, too: a file in memory (memfd), whose descriptor is handed over.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use super::{ArenaError, CHUNK, Frame, FramePool, HUGE_PAGE, Mapping, Memory, Pages};

/// Of Linux 6.1: builds huge pages at once, also where the kernel gives none by itself to files in memory.
const MADV_COLLAPSE: libc::c_int = 25;

/// A part of a packet, in one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The chunk's number.
    pub chunk: u32,
    /// Where it begins there.
    pub start: u16,
    /// Its bytes.
    pub len: u16,
}

/// A file in memory of so many bytes.
pub(super) fn file(bytes: usize, flags: libc::c_uint) -> Result<OwnedFd, (&'static str, io::Error)> {
    // SAFETY: a plain system call; what it returns is a new descriptor, and ours.
    let file = unsafe {
        let fd = libc::memfd_create(c"sluice-frames".as_ptr(), libc::MFD_CLOEXEC | flags);
        if fd < 0 {
            return Err(("memfd_create", io::Error::last_os_error()));
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: a plain system call on our descriptor.
    if unsafe { libc::ftruncate(file.as_raw_fd(), bytes as libc::off_t) } != 0 {
        return Err(("ftruncate", io::Error::last_os_error()));
    }
    Ok(file)
}

/// Maps a file in memory, at the boundary of a huge page.
pub(super) fn map(file: &OwnedFd, bytes: usize) -> io::Result<NonNull<u8>> {
    let room = bytes.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let anywhere = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, at an address of the kernel's choice, that nobody may touch: it finds room at a boundary.
    let room_at = unsafe { libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, anywhere, -1, 0) };
    if room_at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let room_at = room_at.cast::<u8>();
    let before = room_at.addr().next_multiple_of(HUGE_PAGE) - room_at.addr();
    let start = room_at.wrapping_add(before);
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: what is replaced is within the mapping just made, which nobody refers to; both ends that are left over are
    // outside of what is handed out.
    unsafe {
        let base = libc::mmap(start.cast(), bytes, protection, flags, file.as_raw_fd(), 0);
        let error = io::Error::last_os_error();
        if before > 0 {
            libc::munmap(room_at.cast(), before);
        }
        libc::munmap(start.wrapping_add(bytes).cast(), HUGE_PAGE - before);
        if base == libc::MAP_FAILED {
            libc::munmap(start.cast(), bytes);
            return Err(error);
        }
    }
    NonNull::new(start).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Whether the kernel can be had to give files in memory huge pages.
fn has_huge_pages(start: NonNull<u8>, bytes: usize) -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let Ok(setting) = setting else { return false };
    // SAFETY: changes how memory is backed, never what it holds.
    let advised = unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) } == 0;
    if advised
        && ["[always]", "[within_size]", "[advise]", "[force]"].iter().any(|word| setting.contains(word))
    {
        return true;
    }
    take(start, bytes);
    collapse(start, bytes)
}

/// Takes the pages, whatever they are.
fn take(start: NonNull<u8>, bytes: usize) {
    // SAFETY: changes nothing in them. Kernels before 5.14 refuse, and take them when they are touched.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
}

/// Has pages that are there become huge ones. Whether they are.
fn collapse(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: changes how memory is backed, never what it holds.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, MADV_COLLAPSE) == 0 }
}

impl Mapping {
    /// Of a file in memory, and what pages it got.
    pub(super) fn shared(bytes: usize) -> Result<(Self, Pages), ArenaError> {
        let refused = |(what, source)| ArenaError::Refused { bytes, what, source };
        let file = file(bytes, 0).map_err(refused)?;
        let base = map(&file, bytes).map_err(|error| refused(("mmap", error)))?;
        let mapping = Self { base, bytes, file: Some(file) };
        let pages = if has_huge_pages(base, bytes) { Pages::Transparent } else { Pages::Ordinary };
        take(base, bytes);
        Ok((mapping, pages))
    }
}

impl Memory {
    /// By what another process maps the same memory; none if it cannot, as the kernel had huge pages for nobody else.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.mapping.file.as_ref().map(AsFd::as_fd)
    }

    /// Maps the memory of another pool, of so many chunks, whose owner hands it over and touches no frame of it any more.
    ///
    /// # Errors
    /// The kernel refuses, or there are fewer chunks.
    pub fn inherit(file: OwnedFd, count: u32, pages: Pages) -> Result<Self, ArenaError> {
        let bytes = (count as usize * CHUNK).next_multiple_of(HUGE_PAGE);
        let refused = |what| move |source| ArenaError::Refused { bytes, what, source };
        if count == 0 || count > 1 << 24 {
            return Err(ArenaError::Count(count));
        }
        let file = std::fs::File::from(file);
        if file.metadata().map_err(refused("fstat"))?.len() < bytes as u64 {
            return Err(refused("fstat")(io::ErrorKind::UnexpectedEof.into()));
        }
        let file = OwnedFd::from(file);
        let base = map(&file, bytes).map_err(refused("mmap"))?;
        take(base, bytes);
        if pages == Pages::Transparent {
            // They are huge already, and so to be mapped.
            collapse(base, bytes);
        }
        let mapping = Mapping { base, bytes, file: Some(file) };
        Ok(Self { mapping: Arc::new(mapping), pages, stride: CHUNK, count })
    }
}

impl FramePool {
    /// As [`new`](Self::new), of memory that others can map, whatever pages there are for that.
    ///
    /// # Errors
    /// As `new`.
    pub fn shareable(count: u32) -> Result<Self, ArenaError> {
        if count == 0 || count > 1 << 24 {
            return Err(ArenaError::Count(count));
        }
        let (mapping, pages) = Mapping::shared((count as usize * CHUNK).next_multiple_of(HUGE_PAGE))?;
        let memory = Memory { mapping: Arc::new(mapping), pages, stride: CHUNK, count };
        let mut pool = Self::inherited(memory);
        pool.free.extend((0..count).rev());
        Ok(pool)
    }

    /// All of a memory that was inherited. No chunk is free until it is [restocked](Self::restock).
    pub fn inherited(memory: Memory) -> Self {
        let (base, stride, count) = (memory.mapping.base, memory.stride, memory.count);
        Self { memory, base, stride, first: 0, count, free: Vec::with_capacity(count as usize) }
    }

    /// Where a packet lies, the head first.
    pub fn pieces(&self, packet: &Frame) -> Vec<Piece> {
        let piece = |bytes: &[u8]| {
            let offset = bytes.as_ptr().addr().wrapping_sub(self.base.as_ptr().addr());
            Piece {
                chunk: (offset / self.stride) as u32,
                start: (offset % self.stride) as u16,
                len: bytes.len() as u16,
            }
        };
        packet.segments().map(piece).collect()
    }

    /// Makes chunks of an inherited pool free: all but those that are lent to the kernel (a bit each, by the chunk's number, in
    /// several sets) and those of these packets, which are returned. A packet that lies in none of the pool's chunks, or in one
    /// that is somebody's already, is `None`, and what there is of it free.
    pub fn restock(&mut self, lent: &[&[u64]], packets: &[Vec<Piece>]) -> Vec<Option<Frame>> {
        debug_assert!(self.free.is_empty(), "a pool is restocked once");
        let mut taken = vec![false; self.count as usize];
        for (at, taken) in taken.iter_mut().enumerate() {
            let chunk = self.first as usize + at;
            *taken =
                lent.iter().any(|set| set.get(chunk / 64).is_some_and(|word| word >> (chunk % 64) & 1 == 1));
        }
        let mut returned = Vec::with_capacity(packets.len());
        for pieces in packets {
            let mut packet: Option<Frame> = None;
            let mut is_whole = !pieces.is_empty();
            for &Piece { chunk, start, len } in pieces {
                let is_within = usize::from(start) >= super::chain::LINK
                    && usize::from(start) + usize::from(len) <= CHUNK;
                let place = chunk.checked_sub(self.first).and_then(|at| taken.get_mut(at as usize));
                let Some(place) = place.filter(|taken| !**taken && is_within) else {
                    is_whole = false;
                    break;
                };
                *place = true;
                // The chunk is one of ours, and nobody's as it was not lent, nor in a packet before.
                let frame = self.frame(chunk, start, len);
                packet = Some(match packet.take() {
                    None => frame,
                    Some(mut head) => {
                        if let Err(frame) = head.append(frame) {
                            self.free.push(frame.index);
                            is_whole = false;
                        }
                        head
                    }
                });
            }
            if !is_whole {
                packet.take().into_iter().for_each(|packet| self.give(packet));
            }
            returned.push(packet);
        }
        let unused = taken.iter().enumerate().rev().filter(|(_, taken)| !**taken);
        self.free.extend(unused.map(|(at, _)| self.first + at as u32));
        returned
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HEADROOM, MAX_FRAME};
    use super::*;

    /// A pool, and its memory as another process maps it.
    fn shared(count: u32) -> (FramePool, FramePool) {
        let old = FramePool::shareable(count).unwrap();
        let file = old.memory().descriptor().unwrap().try_clone_to_owned().unwrap();
        let pages = old.pages();
        (old, FramePool::inherited(Memory::inherit(file, count, pages).unwrap()))
    }

    #[test]
    fn packets_are_found_again_and_all_else_is_free() {
        let (mut old, mut new) = shared(16);
        let long: Vec<u8> = (0..4000).map(|i| i as u8).collect();
        let packets = [old.copy_in(&[7; 60]).unwrap(), old.copy_in(&long).unwrap()];
        let lent = old.take().unwrap();
        let set = [1u64 << old.lend(lent).0.div_euclid(CHUNK as u64)];
        let pieces: Vec<_> = packets.iter().map(|packet| old.pieces(packet)).collect();
        assert_eq!((pieces[0].len(), pieces[1].len()), (1, 3));
        assert_eq!(pieces[1][0].start, HEADROOM as u16);
        let again = new.restock(&[&set], &pieces);
        assert_eq!(new.free(), old.free());
        let mut again = again.into_iter().map(Option::unwrap);
        let (short, chain) = (again.next().unwrap(), again.next().unwrap());
        assert_eq!((short.bytes(), chain.len()), (&[7; 60][..], 4000));
        let mut bytes = vec![0; 4000];
        assert!(chain.copy_to(0, &mut bytes));
        assert_eq!((bytes, chain.bytes().len()), (long, MAX_FRAME));
        new.give(short);
        new.give(chain);
        assert_eq!(new.free(), 15);
        let mut frames: Vec<Frame> = std::iter::from_fn(|| new.take()).collect();
        let numbers: std::collections::BTreeSet<u32> = frames.iter().map(|frame| frame.number()).collect();
        assert_eq!(numbers.len(), 15, "each is there once");
        frames.drain(..).for_each(|frame| new.give(frame));
    }

    #[test]
    fn a_packet_that_cannot_be_is_none() {
        let (_old, new) = shared(16);
        let mut parts = new.split(2);
        let mut part = parts.pop().unwrap();
        let piece = |chunk, start, len| Piece { chunk, start, len };
        let packets = [
            vec![piece(8, 256, 60)],
            vec![piece(8, 256, 60)],
            vec![piece(3, 256, 60)],
            vec![piece(9, 2000, 60)],
            vec![piece(10, 256, 60), piece(16, 256, 60)],
            vec![],
        ];
        let found: Vec<_> = part.restock(&[], &packets).into_iter().map(|packet| packet.is_some()).collect();
        assert_eq!(found, [true, false, false, false, false, false]);
        assert_eq!(part.free(), 7);
    }

    #[test]
    fn what_is_too_small_is_refused() {
        let (old, _) = shared(16);
        let file = old.memory().descriptor().unwrap().try_clone_to_owned().unwrap();
        assert!(Memory::inherit(file, 100_000, Pages::Ordinary).is_err());
    }
}
