//! The flight recorder: the last packets that died of each reason, always on.
//!
//! Of each reason at most one packet a poll is copied, so that a flood of drops costs no more than a trickle.

use crate::arena::Frame;
use crate::clock::Nanos;
use crate::snapshot::NONE16;
use crate::tap::{Taken, Tap, Way};
use crate::verdict::DropReason;

/// Packets that are kept of each reason.
pub const KEPT: usize = 4;
/// Bytes that are kept of each packet.
pub const HEAD: usize = 128;

/// A packet that was dropped.
#[derive(Clone, Copy, Debug)]
pub struct Dropped {
    /// Why.
    pub reason: DropReason,
    /// When, in the worker's time.
    pub at: Nanos,
    /// The configuration that the worker went by.
    pub generation: u32,
    /// The port by which it came in, or [`NONE16`] where that is no longer known.
    pub port: u16,
    /// The ACL rule that said no, or [`NONE16`].
    pub rule: u16,
    /// Its length, bytes.
    pub len: u16,
    kept: u8,
    head: [u8; HEAD],
}

impl Dropped {
    const NONE: Self = Self {
        reason: DropReason::Runt,
        at: 0,
        generation: 0,
        port: NONE16,
        rule: NONE16,
        len: 0,
        kept: 0,
        head: [0; HEAD],
    };

    /// Its first bytes, as they were when it died: for most reasons, as it came in.
    pub fn bytes(&self) -> &[u8] {
        self.head.get(..self.kept.into()).unwrap_or(&self.head)
    }
}

/// The last packets of each reason. One that is [`Default`] has no room, and keeps none.
#[derive(Debug, Default)]
pub struct Recorder {
    /// [`KEPT`] places for each reason.
    places: Vec<Dropped>,
    /// How many packets of each reason were copied so far, modulo 2^32.
    copied: Vec<u32>,
    /// Reasons of which a packet was copied in this poll.
    seen: u128,
    /// While somebody looks at packets.
    pub(crate) tap: Option<Box<Tap>>,
    now: Nanos,
    generation: u32,
}

const _: () = assert!(DropReason::COUNT <= u128::BITS as usize);

impl Recorder {
    /// With room for every reason.
    pub fn new() -> Self {
        Self {
            places: vec![Dropped::NONE; DropReason::COUNT * KEPT],
            copied: vec![0; DropReason::COUNT],
            ..Self::default()
        }
    }

    /// Another poll begins.
    #[inline]
    pub fn begin(&mut self, now: Nanos, generation: u32) {
        (self.now, self.generation, self.seen) = (now, generation, 0);
    }

    /// Keeps a packet, unless one was kept in this poll that died of the same.
    #[inline]
    pub fn keep(&mut self, reason: DropReason, frame: &Frame, port: u16, rule: u16) {
        if self.seen >> reason as u32 & 1 == 0 {
            self.copy(reason, frame, port, rule);
        }
    }

    #[inline(never)]
    fn copy(&mut self, reason: DropReason, frame: &Frame, port: u16, rule: u16) {
        match &mut self.tap {
            // The next one of this poll is wanted too.
            Some(tap) if tap.wants(reason) => {
                let (at, generation, len) = (self.now, self.generation, frame.len() as u32);
                let way = Way::Dropped(reason);
                tap.dropped(&Taken { at, way, port, rule, generation, len }, frame);
            }
            _ => self.seen |= 1 << reason as u32,
        }
        let Some(copied) = self.copied.get_mut(reason as usize) else { return };
        let place = reason as usize * KEPT + *copied as usize % KEPT;
        let Some(place) = self.places.get_mut(place) else { return };
        *copied = copied.wrapping_add(1);
        let bytes = frame.bytes();
        let kept = bytes.len().min(HEAD);
        place.head[..kept].copy_from_slice(&bytes[..kept]);
        place.kept = kept as u8;
        place.len = frame.len() as u16;
        (place.reason, place.at, place.generation) = (reason, self.now, self.generation);
        (place.port, place.rule) = (port, rule);
    }

    /// Places for packets, in use or not.
    pub fn places(&self) -> u32 {
        self.places.len() as u32
    }

    /// The packet in a place, if there is one.
    pub fn get(&self, place: u32) -> Option<&Dropped> {
        let place = place as usize;
        let used = *self.copied.get(place / KEPT)?;
        self.places.get(place).filter(|packet| used as usize > place % KEPT && packet.kept > 0)
    }
}

/// What was recorded belongs to one worker: copies of its counters have nothing of it.
impl Clone for Recorder {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// It is no figure, and makes no two counters different.
impl PartialEq for Recorder {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Recorder {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::FramePool;

    fn ports(recorder: &Recorder, reason: DropReason) -> Vec<u16> {
        let all = (0..recorder.places()).filter_map(|place| recorder.get(place));
        let mut of: Vec<&Dropped> = all.filter(|packet| packet.reason == reason).collect();
        of.sort_by_key(|packet| packet.at);
        of.iter().map(|packet| packet.port).collect()
    }

    #[test]
    fn the_last_packets_of_each_reason_are_kept_one_a_poll() {
        let mut pool = FramePool::new(1, false).unwrap();
        let mut frame = pool.take().unwrap();
        assert!(frame.copy_from(&[7; 300]));
        let mut recorder = Recorder::new();
        for poll in 0..6 {
            recorder.begin(u64::from(poll), 3);
            for again in 0..10 {
                recorder.keep(DropReason::NoRoute, &frame, poll + 100 * again, 5);
            }
            recorder.keep(DropReason::OwnerSilent, &frame, 9, NONE16);
        }
        assert_eq!(ports(&recorder, DropReason::NoRoute), [2, 3, 4, 5]);
        assert_eq!(ports(&recorder, DropReason::OwnerSilent), [9; KEPT]);
        assert!(ports(&recorder, DropReason::Runt).is_empty());
        let last = recorder.get(DropReason::NoRoute as u32 * KEPT as u32).unwrap();
        assert_eq!((last.bytes(), last.len, last.rule, last.generation), (&[7; HEAD][..], 300, 5, 3));
        pool.give(frame);
    }

    #[test]
    fn a_recorder_without_room_keeps_nothing() {
        let mut pool = FramePool::new(1, false).unwrap();
        let frame = pool.take().unwrap();
        let mut recorder = Recorder::new().clone();
        recorder.keep(DropReason::Runt, &frame, 0, NONE16);
        assert_eq!((recorder.places(), recorder.get(0).is_none()), (0, true));
        pool.give(frame);
    }
}
