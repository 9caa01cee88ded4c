//! A tap: copies of packets that come in, leave or die, for whoever wants to see them. A worker has one only while somebody
//! looks. Packets go over a ring of bytes, one writer and one reader; a ring that is full costs copies, which are counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use sluice_pkt::parse::parse_head;

use crate::arena::Frame;
use crate::burst::Burst;
use crate::clock::Nanos;
use crate::matcher::{Program, Seen};
use crate::port::Outbox;
use crate::snapshot::NONE16;
use crate::verdict::DropReason;

/// Bytes that may wait to be read.
const ROOM: usize = 4 << 20;
/// Bytes of a packet's description on the ring.
const HEAD: usize = 24;

/// Where packets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drops {
    /// Those that die are not looked at.
    None,
    /// Those that die of anything.
    Any,
    /// Those that die of this.
    Of(DropReason),
}

/// Which packets are wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which.
    pub program: Program,
    /// As they come in.
    pub before: bool,
    /// As they leave.
    pub after: bool,
    /// When they die.
    pub drops: Drops,
    /// The most bytes of each.
    pub snap: u16,
}

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It came in.
    In,
    /// It left.
    Out,
    /// It died of this.
    Dropped(DropReason),
}

/// A packet, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// When, in the worker's time.
    pub at: Nanos,
    /// Where it was seen.
    pub way: Way,
    /// The port that it came in or left by, or [`NONE16`] where that is not known.
    pub port: u16,
    /// The ACL rule that said no, or [`NONE16`].
    pub rule: u16,
    /// The configuration that the worker went by.
    pub generation: u32,
    /// Its length, bytes.
    pub len: u32,
}

/// The worker's end.
pub struct Tap {
    wanted: Wanted,
    /// Never locked, as whoever has the tap has it alone; but a ring for taps wants them to be `Sync`.
    ring: Mutex<HeapProd<u8>>,
    lost: Arc<AtomicU64>,
    /// By port, how many places of the outbox were looked at before.
    looked: Vec<usize>,
}

/// The reader's end.
pub struct TapReader {
    ring: HeapCons<u8>,
    lost: Arc<AtomicU64>,
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// Makes the two ends, for a worker with so many ports.
pub fn channel(wanted: Wanted, ports: usize) -> (Box<Tap>, TapReader) {
    with_room(wanted, ports, ROOM)
}

fn with_room(wanted: Wanted, ports: usize, room: usize) -> (Box<Tap>, TapReader) {
    let (ring, reader) = HeapRb::new(room).split();
    let lost = Arc::new(AtomicU64::new(0));
    let tap = Tap { wanted, ring: Mutex::new(ring), lost: lost.clone(), looked: vec![0; ports] };
    (Box::new(tap), TapReader { ring: reader, lost })
}

impl Tap {
    /// A burst has come in.
    #[inline(never)]
    pub fn received(&mut self, burst: &Burst, generation: u32) {
        if !self.wanted.before {
            return;
        }
        for i in 0..burst.len() {
            let (port, len) = (burst.port, burst.packet_len(i) as u32);
            let taken = Taken { at: burst.now, way: Way::In, port, rule: NONE16, generation, len };
            self.offer(&taken, burst.bytes(i));
        }
    }

    /// A port is about to take what is in its outbox, or as much as it can.
    #[inline(never)]
    pub fn leaving(&mut self, port: usize, outbox: &Outbox, now: Nanos, generation: u32) {
        let looked = self.looked.get(port).copied().unwrap_or(0);
        if !self.wanted.after {
            return;
        }
        for frame in outbox.frames().skip(looked).flatten() {
            let (port, len) = (port as u16, frame.len() as u32);
            let taken = Taken { at: now, way: Way::Out, port, rule: NONE16, generation, len };
            self.offer(&taken, frame.bytes());
        }
    }

    /// The port has taken what it can: so many places of the outbox are left.
    #[inline]
    pub fn left(&mut self, port: usize, places: usize) {
        if let Some(looked) = self.looked.get_mut(port) {
            *looked = places;
        }
    }

    /// Whether packets that die of this are looked at.
    #[inline]
    pub fn wants(&self, reason: DropReason) -> bool {
        match self.wanted.drops {
            Drops::None => false,
            Drops::Any => true,
            Drops::Of(wanted) => wanted == reason,
        }
    }

    /// A packet has died.
    pub fn dropped(&mut self, taken: &Taken, frame: &Frame) {
        self.offer(taken, frame.bytes());
    }

    fn offer(&mut self, taken: &Taken, bytes: &[u8]) {
        let headers = parse_head(bytes, taken.len as usize).unwrap_or_default();
        let (came_by, leaves_by) =
            if taken.way == Way::Out { (NONE16, taken.port) } else { (taken.port, NONE16) };
        if !self.wanted.program.wants(&Seen { headers: &headers, bytes, came_by, leaves_by }) {
            return;
        }
        let bytes = bytes.get(..usize::from(self.wanted.snap)).unwrap_or(bytes);
        let ring = self.ring.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ring.vacant_len() < HEAD + bytes.len() {
            // It has one writer.
            self.lost.store(self.lost.load(Relaxed) + 1, Relaxed);
            return;
        }
        let (way, reason) = match taken.way {
            Way::In => (0, 0),
            Way::Out => (1, 0),
            Way::Dropped(reason) => (2, reason as u8),
        };
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&taken.at.to_le_bytes());
        head[8..12].copy_from_slice(&taken.len.to_le_bytes());
        head[12..16].copy_from_slice(&taken.generation.to_le_bytes());
        head[16..18].copy_from_slice(&taken.port.to_le_bytes());
        head[18..20].copy_from_slice(&taken.rule.to_le_bytes());
        head[20..22].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
        (head[22], head[23]) = (way, reason);
        ring.push_slice(&head);
        ring.push_slice(bytes);
    }
}

impl TapReader {
    /// The next packet, oldest first; its bytes replace what is in `bytes`.
    pub fn take(&mut self, bytes: &mut Vec<u8>) -> Option<Taken> {
        let mut head = [0; HEAD];
        if self.ring.peek_slice(&mut head) < HEAD {
            return None;
        }
        let word = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let long = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
        let kept = usize::from(word(20));
        if self.ring.occupied_len() < HEAD + kept {
            // It is being written.
            return None;
        }
        self.ring.skip(HEAD);
        bytes.clear();
        bytes.resize(kept, 0);
        self.ring.pop_slice(bytes);
        let way = match head[22] {
            0 => Way::In,
            1 => Way::Out,
            _ => Way::Dropped(*DropReason::ALL.get(usize::from(head[23]))?),
        };
        let at = u64::from(long(0)) | u64::from(long(4)) << 32;
        Some(Taken { at, way, port: word(16), rule: word(18), generation: long(12), len: long(8) })
    }

    /// Packets that found no room so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::FramePool;

    fn wanted(drops: Drops) -> Wanted {
        Wanted { program: Program::default(), before: true, after: true, drops, snap: 100 }
    }

    #[test]
    fn what_comes_leaves_and_dies_is_copied_once() {
        let mut pool = FramePool::new(4, false).unwrap();
        let (mut tap, mut reader) = channel(wanted(Drops::Of(DropReason::NoRoute)), 2);
        let mut burst = Box::<Burst>::default();
        (burst.now, burst.port) = (5, 1);
        let mut frame = pool.take().unwrap();
        assert!(frame.copy_from(&[7; 300]));
        burst.push(frame).map_err(drop).unwrap();
        tap.received(&burst, 3);
        let mut outbox = Outbox::new(2);
        outbox.push(burst.take(0).unwrap()).map_err(drop).unwrap();
        for now in 6..8 {
            // The port takes nothing.
            tap.leaving(0, &outbox, now, 3);
            tap.left(0, outbox.len());
        }
        let frame = outbox.take(1).next().unwrap();
        assert!(tap.wants(DropReason::NoRoute) && !tap.wants(DropReason::Runt));
        let seen = |at, way, port| Taken { at, way, port, rule: NONE16, generation: 3, len: 300 };
        tap.dropped(&seen(9, Way::Dropped(DropReason::NoRoute), NONE16), &frame);
        pool.give(frame);
        let mut bytes = Vec::new();
        assert_eq!(reader.take(&mut bytes), Some(seen(5, Way::In, 1)));
        assert_eq!(bytes, [7; 100]);
        assert_eq!(reader.take(&mut bytes), Some(seen(6, Way::Out, 0)));
        assert_eq!(reader.take(&mut bytes), Some(seen(9, Way::Dropped(DropReason::NoRoute), NONE16)));
        assert_eq!((reader.take(&mut bytes), reader.lost()), (None, 0));
    }

    #[test]
    fn a_full_ring_costs_packets_which_are_counted() {
        let mut pool = FramePool::new(1, false).unwrap();
        let mut frame = pool.take().unwrap();
        assert!(frame.copy_from(&[7; 60]));
        let (mut tap, mut reader) = with_room(wanted(Drops::Any), 1, 2 * (HEAD + 60) + 7);
        let way = Way::Dropped(DropReason::Runt);
        let mut bytes = Vec::new();
        for round in 0..10 {
            for at in 0..3 {
                tap.dropped(&Taken { at, way, port: 0, rule: 4, generation: round, len: 60 }, &frame);
            }
            let ats: Vec<_> = std::iter::from_fn(|| reader.take(&mut bytes)).map(|taken| taken.at).collect();
            assert_eq!((ats, reader.lost()), (vec![0, 1], u64::from(round) + 1));
        }
        pool.give(frame);
    }
}
