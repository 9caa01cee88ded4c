//! Packets in several chunks. The link from a frame to the next one lies at the beginning of its chunk, where headroom
//! is: so a packet in one chunk knows nothing of it, and pays nothing.
#![allow(unsafe_code)]

use super::{CHAINED, Frame, FramePool, MAX_FRAME, MAX_PACKET};

/// What lies at the beginning of a chunk whose frame is [`CHAINED`].
struct Link {
    next: Frame,
    /// Bytes of all frames behind this one.
    rest: u32,
}

/// Bytes of headroom that a link takes.
pub(super) const LINK: usize = size_of::<Link>();
// Chunks are aligned to cache lines at least.
const _: () = assert!(align_of::<Link>() <= 64 && LINK <= 32);
// A frame is handed on in two registers.
const _: () = assert!(size_of::<Frame>() == 16);

impl Frame {
    fn link(&self) -> Option<&Link> {
        // SAFETY: CHAINED is set only by `set_link`, which has written a link there; the packet's bytes begin behind it
        // (`headroom`), and this frame is the chunk's only owner.
        self.is_chain().then(|| unsafe { self.chunk.cast::<Link>().as_ref() })
    }

    fn link_mut(&mut self) -> Option<&mut Link> {
        // SAFETY: as in `link`; `&mut self` makes the access exclusive.
        self.is_chain().then(|| unsafe { self.chunk.cast::<Link>().as_mut() })
    }

    /// The frame must be the last one, and have the room.
    fn set_link(&mut self, next: Frame) {
        debug_assert!(!self.is_chain() && self.start as usize >= LINK);
        let rest = next.len() as u32;
        // SAFETY: the chunk is ours and has `LINK` bytes before the packet, aligned.
        unsafe { self.chunk.cast::<Link>().write(Link { next, rest }) };
        self.index |= CHAINED;
    }

    /// Bytes behind the head.
    #[cold]
    pub(super) fn rest(&self) -> usize {
        self.link().map_or(0, |link| link.rest as usize)
    }

    /// Puts a frame behind the last one. Gives it back if there is no room for the link.
    pub fn append(&mut self, next: Frame) -> Result<(), Frame> {
        let (bytes, start) = (next.len() as u32, self.start as usize);
        match self.link_mut() {
            Some(link) => {
                link.next.append(next)?;
                link.rest += bytes;
            }
            None if start < LINK => return Err(next),
            None => self.set_link(next),
        }
        Ok(())
    }

    /// Takes the frames behind the head off it, as a packet of their own.
    pub fn split_off(&mut self) -> Option<Frame> {
        if !self.is_chain() {
            return None;
        }
        self.index &= !CHAINED;
        // SAFETY: there was a link, as the flag said; it is read once, for the flag is gone.
        Some(unsafe { self.chunk.cast::<Link>().read() }.next)
    }

    /// The packet's bytes, frame by frame.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::successors(Some(self), |frame| frame.link().map(|link| &link.next)).map(Frame::bytes)
    }

    /// Copies the packet's bytes from `at` on, as many as `to` takes. False if the packet ends before.
    pub fn copy_to(&self, mut at: usize, mut to: &mut [u8]) -> bool {
        for segment in self.segments() {
            let Some(from) = segment.get(at..) else {
                at -= segment.len();
                continue;
            };
            at = 0;
            let count = from.len().min(to.len());
            let (now, later) = to.split_at_mut(count);
            now.copy_from_slice(&from[..count]);
            to = later;
        }
        to.is_empty()
    }

    /// The packet's bytes in one piece: those of the head, or of a chain a copy in `buffer`, which must be as long.
    pub fn whole<'a>(&'a self, buffer: &'a mut [u8]) -> &'a [u8] {
        if !self.is_chain() {
            return self.bytes();
        }
        let Some(copy) = buffer.get_mut(..self.len()) else { return self.bytes() };
        self.copy_to(0, copy);
        copy
    }

    /// Writes over the packet's bytes from `at` on. False if it ends before all are written.
    pub fn put(&mut self, at: usize, bytes: &[u8]) -> bool {
        let head = self.len as usize;
        let (here, behind) = bytes.split_at(bytes.len().min(head.saturating_sub(at)));
        if let Some(room) = self.bytes_mut().get_mut(at..at + here.len()) {
            room.copy_from_slice(here);
        }
        match self.link_mut() {
            _ if behind.is_empty() => true,
            Some(link) => link.next.put(at + here.len() - head, behind),
            None => false,
        }
    }

    /// Writes over the packet's bytes from `at` on with `len` bytes of another's, from `from` on; with fewer, if that ends
    /// before.
    pub fn put_part(&mut self, mut at: usize, other: &Self, mut from: usize, mut len: usize) {
        for segment in other.segments() {
            let here = segment.get(from..).unwrap_or_default();
            from = from.saturating_sub(segment.len());
            let here = &here[..here.len().min(len)];
            self.put(at, here);
            (at, len) = (at + here.len(), len - here.len());
        }
    }

    /// The head's bytes, to be changed in place, and those behind it, frame by frame.
    pub fn parts_mut(&mut self) -> (&mut [u8], impl Iterator<Item = &[u8]>) {
        // SAFETY: as in `bytes_mut`; the link lies before the packet's bytes, and the other frames have chunks of their own.
        let head = unsafe {
            std::slice::from_raw_parts_mut(self.chunk.as_ptr().add(self.start as usize), self.len as usize)
        };
        (head, self.segments().skip(1))
    }

    /// Ends a chain after `end` bytes. Frames that are left empty stay in it.
    #[cold]
    pub(super) fn cut(&mut self, end: usize) {
        let head = self.len as usize;
        if let Some(link) = self.link_mut() {
            let rest = end.saturating_sub(head).min(link.rest as usize);
            link.next.cut(rest);
            link.rest = rest as u32;
        }
        self.len = head.min(end) as u16;
    }
}

impl FramePool {
    /// Brings a chain home.
    #[cold]
    pub(super) fn give_chain(&mut self, mut frame: Frame) {
        while let Some(next) = frame.split_off() {
            self.free.push(frame.index);
            frame = next;
        }
        self.free.push(frame.index);
    }

    /// A packet of `len` bytes, at most [`MAX_PACKET`], in as many frames as it takes, its contents left as they lie.
    /// `None` if there are not as many free, or it is too long.
    #[inline]
    pub fn take_len(&mut self, len: usize) -> Option<Frame> {
        let mut packet = self.take()?;
        if packet.set_len(len.min(MAX_FRAME)) && len > MAX_FRAME {
            return self.lengthen(packet, len);
        }
        Some(packet)
    }

    #[cold]
    fn lengthen(&mut self, mut packet: Frame, len: usize) -> Option<Frame> {
        if len > MAX_PACKET || (len - 1) / MAX_FRAME > self.free() {
            self.give(packet);
            return None;
        }
        while packet.len() < len {
            let Some(mut frame) = self.take() else { break };
            frame.set_len((len - packet.len()).min(MAX_FRAME));
            if let Err(frame) = packet.append(frame) {
                self.give(frame);
            }
        }
        Some(packet)
    }

    /// A packet of these bytes, as [`take_len`](Self::take_len).
    pub fn copy_in(&mut self, bytes: &[u8]) -> Option<Frame> {
        let mut packet = self.take_len(bytes.len())?;
        packet.put(0, bytes);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CHUNK, HEADROOM};
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    fn all(frame: &Frame) -> Vec<u8> {
        frame.segments().flatten().copied().collect()
    }

    #[test]
    fn a_long_packet_takes_as_many_frames_as_it_needs() {
        for spread in [false, true] {
            let mut pool = FramePool::new(8, spread).unwrap();
            for (len, frames) in
                [(0, 1), (1, 1), (MAX_FRAME, 1), (MAX_FRAME + 1, 2), (9014, 6), (MAX_PACKET, 6)]
            {
                let packet = pool.copy_in(&bytes(len)).unwrap();
                assert_eq!((packet.len(), pool.free()), (len, 8 - frames));
                assert_eq!((packet.is_chain(), packet.is_empty()), (frames > 1, len == 0));
                assert_eq!((packet.bytes(), all(&packet)), (&bytes(len)[..len.min(MAX_FRAME)], bytes(len)));
                pool.give(packet);
                assert_eq!(pool.free(), 8);
            }
            assert!(pool.copy_in(&bytes(MAX_PACKET + 1)).is_none());
            let hold: Vec<_> = (0..4).map(|_| pool.take().unwrap()).collect();
            assert!(pool.copy_in(&bytes(9014)).is_none() && pool.free() == 4);
            hold.into_iter().for_each(|frame| pool.give(frame));
        }
    }

    #[test]
    fn a_chain_gets_another_front_and_end() {
        let mut pool = FramePool::new(4, false).unwrap();
        for (end, len) in
            [(4000, 4000), (3999, 3999), (MAX_FRAME + 1, MAX_FRAME + 1), (MAX_FRAME, MAX_FRAME), (60, 60)]
        {
            let mut packet = pool.copy_in(&bytes(4000)).unwrap();
            assert!(packet.replace_front(14, 18, end));
            assert_eq!(packet.len(), len + 4);
            assert_eq!(all(&packet)[18..], bytes(4000)[14..end]);
            assert!(!packet.set_len(60) && !packet.copy_from(&[1; 60]));
            // The link stays out of reach.
            assert!(!packet.grow_front(HEADROOM - 4 - LINK + 1) && packet.grow_front(HEADROOM - 4 - LINK));
            assert_eq!(all(&packet)[HEADROOM - LINK + 14..], bytes(4000)[14..end]);
            assert!(!packet.replace_front(0, 1, end) && !packet.replace_front(5, 5, 4));
            pool.give(packet);
            assert_eq!(pool.free(), 4);
        }
        let mut packet = pool.copy_in(&bytes(4000)).unwrap();
        assert!(!packet.replace_front(0, 0, 4001) && !packet.replace_front(MAX_FRAME + 1, 0, 4000));
        assert_eq!(all(&packet), bytes(4000));
        pool.give(packet);
    }

    #[test]
    fn a_chain_is_truncated() {
        let mut pool = FramePool::new(4, false).unwrap();
        let mut packet = pool.copy_in(&bytes(4000)).unwrap();
        for len in [5000, 4000, 3000, MAX_FRAME, 60] {
            packet.truncate(len);
            assert_eq!(all(&packet), bytes(4000)[..len.min(4000)]);
        }
        pool.give(packet);
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn a_chain_is_copied_from_anywhere() {
        let mut pool = FramePool::new(4, false).unwrap();
        let packet = pool.copy_in(&bytes(4000)).unwrap();
        for (at, len) in
            [(0, 4000), (1, 10), (MAX_FRAME - 1, 2), (MAX_FRAME, 1), (MAX_FRAME, MAX_FRAME + 5), (4000, 0)]
        {
            let mut to = vec![0; len];
            assert!(packet.copy_to(at, &mut to), "{at} {len}");
            assert_eq!(to, bytes(4000)[at..at + len]);
        }
        assert!(!packet.copy_to(3999, &mut [0; 2]) && !packet.copy_to(4001, &mut [0]));
        pool.give(packet);
    }

    #[test]
    fn a_chain_is_written_anywhere() {
        let mut pool = FramePool::new(4, false).unwrap();
        let mut packet = pool.take_len(4000).unwrap();
        for at in [0, 1000, MAX_FRAME - 1, MAX_FRAME, 2500, 3000] {
            assert!(packet.put(at, &bytes(4000)[at..at + 1000]), "{at}");
        }
        assert_eq!(all(&packet), bytes(4000));
        assert!(!packet.put(3999, &[1; 2]) && !packet.put(4001, &[1]));
        let (head, rest) = packet.parts_mut();
        head.fill(9);
        assert_eq!(rest.map(<[u8]>::len).collect::<Vec<_>>(), [MAX_FRAME, 4000 - 2 * MAX_FRAME]);
        assert_eq!(packet.bytes(), [9; MAX_FRAME]);
        pool.give(packet);
    }

    #[test]
    fn a_part_of_a_chain_is_written_into_another() {
        let mut pool = FramePool::new(6, false).unwrap();
        let from = pool.copy_in(&bytes(4000)).unwrap();
        for (at, start, len) in [
            (0, 0, 4000),
            (5, 0, 3995),
            (0, 1000, 3000),
            (1790, MAX_FRAME - 1, 2),
            (9, MAX_FRAME, 1),
            (7, 4000, 0),
        ] {
            let mut to = pool.copy_in(&vec![0xee; 4000]).unwrap();
            to.put_part(at, &from, start, len);
            let mut wanted = vec![0xee; 4000];
            wanted[at..at + len].copy_from_slice(&bytes(4000)[start..start + len]);
            assert_eq!(all(&to), wanted, "{at} {start} {len}");
            // No more than there is.
            to.put_part(0, &from, 3999, 2);
            assert_eq!((all(&to)[0], &all(&to)[1..]), (bytes(4000)[3999], &wanted[1..]));
            pool.give(to);
        }
        pool.give(from);
    }

    #[test]
    fn a_chain_comes_apart_in_order() {
        let mut pool = FramePool::new(4, false).unwrap();
        let mut packet = pool.copy_in(&bytes(4000)).unwrap();
        let mut rest = packet.split_off().unwrap();
        assert!(!packet.is_chain() && packet.split_off().is_none());
        assert_eq!((packet.len(), rest.len()), (MAX_FRAME, 4000 - MAX_FRAME));
        let last = rest.split_off().unwrap();
        assert_eq!((rest.len(), last.len()), (MAX_FRAME, 4000 - 2 * MAX_FRAME));
        // Without room for the link nothing is appended.
        let mut full = pool.take().unwrap();
        assert!(full.grow_front(HEADROOM) && full.set_len(CHUNK));
        let last = full.append(last).unwrap_err();
        packet.append(rest).unwrap();
        packet.append(last).unwrap();
        assert_eq!(all(&packet), bytes(4000));
        pool.give(packet);
        pool.give(full);
        assert_eq!(pool.free(), 4);
    }
}
