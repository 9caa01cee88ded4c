//! A sample of first packets, always on: what a configuration that is to come would say to those that knock is tried with
//! them. At most one packet a poll is copied, so that a flood of new sessions costs no more than a trickle.

use crate::burst::{Burst, Mask};
use crate::clock::Nanos;
use crate::snapshot::NONE16;

/// Packets that are kept.
pub const KEPT: usize = 128;
/// Bytes that are kept of each.
pub const HEAD: usize = 128;

/// A packet that belonged to no session, as it came in.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// When, in the worker's time.
    pub at: Nanos,
    /// The port that it came in by.
    pub port: u16,
    /// Its length, bytes.
    pub len: u16,
    kept: u8,
    head: [u8; HEAD],
}

impl First {
    const NONE: Self = Self { at: 0, port: NONE16, len: 0, kept: 0, head: [0; HEAD] };

    /// Its first bytes.
    pub fn bytes(&self) -> &[u8] {
        self.head.get(..self.kept.into()).unwrap_or_default()
    }
}

/// The packets that were sampled last. One that is [`Default`] has no room, and keeps none.
#[derive(Debug, Default)]
pub struct Firsts {
    places: Vec<First>,
    next: usize,
    last: Nanos,
}

impl Firsts {
    /// With room for [`KEPT`].
    pub fn new() -> Self {
        Self { places: vec![First::NONE; KEPT], ..Self::default() }
    }

    /// Keeps one of a burst's first packets, unless one was kept in this poll.
    #[inline]
    pub fn keep(&mut self, burst: &Burst, mut mask: Mask) {
        if burst.now == self.last {
            return;
        }
        let place = self.places.get_mut(self.next);
        let (Some(place), Some(i)) = (place, mask.next()) else { return };
        self.last = burst.now;
        self.next = (self.next + 1) % KEPT;
        let bytes = burst.bytes(i);
        let kept = bytes.len().min(HEAD);
        place.head.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
        (place.at, place.port, place.kept) = (burst.now, burst.port, kept as u8);
        place.len = burst.packet_len(i).min(u16::MAX.into()) as u16;
    }

    /// Places for packets, in use or not.
    pub fn places(&self) -> u32 {
        self.places.len() as u32
    }

    /// The packet in a place, if there is one.
    pub fn get(&self, place: u32) -> Option<&First> {
        self.places.get(place as usize).filter(|first| first.kept > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::FramePool;

    #[test]
    fn the_last_ones_are_kept_one_a_poll() {
        let mut pool = FramePool::new(2, false).unwrap();
        let mut burst = Box::<Burst>::default();
        for byte in [1, 2] {
            let mut frame = pool.take().unwrap();
            assert!(frame.copy_from(&[byte; 300]));
            burst.push(frame).map_err(drop).unwrap();
        }
        let mut firsts = Firsts::new();
        for poll in 1..=KEPT as u64 + 2 {
            (burst.now, burst.port) = (poll, 3);
            firsts.keep(&burst, Mask::first(2));
            firsts.keep(&burst, Mask::one(1));
        }
        let ats: Vec<_> = (0..firsts.places()).map(|place| firsts.get(place).unwrap().at).collect();
        assert_eq!((ats[0], ats[1], ats[2]), (129, 130, 3));
        let first = firsts.get(0).unwrap();
        assert_eq!((first.bytes(), first.len, first.port), (&[1; HEAD][..], 300, 3));
        let mut none = Firsts::default();
        none.keep(&burst, Mask::first(2));
        assert_eq!((none.places(), none.get(0).is_none()), (0, true));
        for i in 0..2 {
            pool.give(burst.take(i).unwrap());
        }
    }
}
