//! A burst: up to 64 packets on their way through the stages together. Sets of packets are bits of a [`Mask`].

use sluice_pkt::checksum::{complete_partial, complete_partial_chain};
use sluice_pkt::parse::{Headers, ParseError, parse_head};

use crate::arena::Frame;
use crate::clock::Nanos;
use crate::local::neighbor::Egress;
use crate::session::{Ends6, FlowAction, NONE};
use crate::snapshot::Mark;
use crate::verdict::{Answer, DropReason, Verdict};

/// The most packets a burst holds.
pub const BURST: usize = 64;

/// A set of a burst's packets: bit `i` is packet `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask(pub u64);

impl Mask {
    /// No packet.
    pub const NONE: Self = Self(0);

    /// The first `n` packets.
    #[inline]
    pub const fn first(n: usize) -> Self {
        Self(if n >= BURST { u64::MAX } else { (1 << n) - 1 })
    }

    /// Packet `i` alone.
    #[inline]
    pub const fn one(i: usize) -> Self {
        Self(1 << i)
    }

    /// Whether the set is empty.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many packets are in the set.
    #[inline]
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether packet `i` is in the set.
    #[inline]
    pub const fn has(self, i: usize) -> bool {
        self.0 >> i & 1 == 1
    }

    /// Adds packet `i`.
    #[inline]
    pub const fn add(&mut self, i: usize) {
        self.0 |= 1 << i;
    }

    /// Adds packet `i` if the condition holds; without a branch.
    #[inline(always)]
    pub const fn add_if(&mut self, i: usize, condition: bool) {
        self.0 |= (condition as u64) << i;
    }

    /// Takes packet `i` out.
    #[inline]
    pub const fn remove(&mut self, i: usize) {
        self.0 &= !(1 << i);
    }

    /// The packets of either set.
    #[inline]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The packets of both sets.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The packets of this set that are not in the other.
    #[inline]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl Iterator for Mask {
    type Item = usize;

    /// The packets in order, first to last.
    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let i = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(i)
    }
}

/// Packets that came in by one port, and what the stages have found out about each.
#[derive(Debug)]
pub struct Burst {
    /// The time at which the burst was received; the stages know no other.
    pub now: Nanos,
    /// The port (index) by which the packets came in.
    pub port: u16,
    /// Packets that the stages are still at work on. A packet leaves this set when it gets another verdict than
    /// `Forward`.
    pub live: Mask,
    /// Each packet's verdict.
    pub verdicts: [Verdict; BURST],
    /// Each packet's headers, once parsed.
    pub headers: [Headers; BURST],
    /// Each packet's ingress interface (index), once parsed.
    pub interfaces: [u16; BURST],
    /// What is done to each packet, once its flow is known.
    pub actions: [FlowAction; BURST],
    /// What each packet is marked with whose action says [`FlowAction::METERED`].
    pub marks: [Mark; BURST],
    /// The ends that each packet leaves with whose action says [`FlowAction::TO_V6`].
    pub ends6: [Ends6; BURST],
    /// The record of each packet's flow in the table of its family, or [`NONE`] for a packet without a session.
    pub flows: [u32; BURST],
    /// Packets that leave as they are; of those that are to leave and are not in it, something is wanted still.
    pub ready: Mask,
    /// The link that each packet leaves by, once it is known.
    pub egress: [Egress; BURST],
    frames: [Option<Frame>; BURST],
    len: usize,
    wire_bytes: u64,
}

impl Default for Burst {
    fn default() -> Self {
        Self {
            now: 0,
            port: 0,
            live: Mask::NONE,
            ready: Mask::NONE,
            verdicts: [Verdict::Forward; BURST],
            headers: [Headers::default(); BURST],
            interfaces: [0; BURST],
            actions: [FlowAction::default(); BURST],
            marks: [Mark::default(); BURST],
            ends6: [Ends6::default(); BURST],
            flows: [NONE; BURST],
            egress: [Egress::default(); BURST],
            frames: [const { None }; BURST],
            len: 0,
            wire_bytes: 0,
        }
    }
}

impl Burst {
    /// How many packets have been put in.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no packet has been put in.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many more packets there is room for.
    #[inline]
    pub fn room(&self) -> usize {
        BURST - self.len
    }

    /// Puts a received packet in. Gives it back if the burst is full.
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        let Some(slot) = self.frames.get_mut(self.len) else { return Err(frame) };
        self.wire_bytes += frame.len() as u64;
        *slot = Some(frame);
        self.live.add(self.len);
        self.verdicts[self.len] = Verdict::Forward;
        self.len += 1;
        Ok(())
    }

    /// Makes the burst empty for the next one. The frames must have been taken out.
    #[inline]
    pub fn clear(&mut self) {
        debug_assert!(self.frames.iter().all(Option::is_none), "a frame was left behind");
        self.len = 0;
        self.wire_bytes = 0;
        self.live = Mask::NONE;
        self.ready = Mask::NONE;
    }

    /// Bytes of all packets, as they were put in.
    #[inline]
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// Length of packet `i` in bytes; of a chain, all of it.
    #[inline]
    pub fn packet_len(&self, i: usize) -> usize {
        self.frames[i].as_ref().map_or(0, Frame::len)
    }

    /// Packet `i`'s bytes, of a chain those in the head; none if its frame was taken.
    #[inline]
    pub fn bytes(&self, i: usize) -> &[u8] {
        self.frames[i].as_ref().map_or(&[], Frame::bytes)
    }

    /// Packet `i`'s bytes, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self, i: usize) -> &mut [u8] {
        self.frames[i].as_mut().map_or(&mut [], Frame::bytes_mut)
    }

    /// Finds packet `i`'s headers.
    pub fn parse(&mut self, i: usize) -> Result<(), ParseError> {
        let Some(frame) = self.frames[i].as_ref() else { return Err(ParseError::Runt) };
        self.headers[i] = parse_head(frame.bytes(), frame.len())?;
        Ok(())
    }

    /// Completes packet `i`'s checksum if its sender left it partial.
    #[inline]
    pub fn complete_checksum(&mut self, i: usize) {
        let Some(frame) = self.frames[i].as_mut() else { return };
        if frame.is_chain() {
            let (head, rest) = frame.parts_mut();
            complete_partial_chain(head, rest, &self.headers[i]);
        } else {
            complete_partial(frame.bytes_mut(), &self.headers[i]);
        }
    }

    /// Packet `i`'s frame, to be changed.
    #[inline(always)]
    pub fn frame_mut(&mut self, i: usize) -> Option<&mut Frame> {
        self.frames[i].as_mut()
    }

    /// Packet `i`'s frame with what is to be done to it, and where its way out is to be noted.
    #[inline]
    pub fn leaving(&mut self, i: usize) -> Option<(&mut Frame, &Headers, &FlowAction, &mut Egress)> {
        Some((self.frames[i].as_mut()?, &self.headers[i], &self.actions[i], &mut self.egress[i]))
    }

    /// The port by which all packets leave as they are, if there is one such.
    #[inline]
    pub fn leaves_by(&self) -> Option<u16> {
        let egress = self.egress.get(..self.len)?;
        let port = egress.first()?.port;
        let others = egress.iter().fold(0, |others, egress| others | egress.port ^ port);
        (self.ready == Mask::first(self.len) && others == 0).then_some(port)
    }

    /// All frames, in order, to be taken out of the burst.
    #[inline]
    pub fn frames_mut(&mut self) -> &mut [Option<Frame>] {
        self.frames.get_mut(..self.len).unwrap_or_default()
    }

    /// Takes packet `i`'s frame out of the burst.
    #[inline]
    pub fn take(&mut self, i: usize) -> Option<Frame> {
        self.frames[i].take()
    }

    /// Ends packet `i`'s way through the stages.
    #[inline]
    pub fn decide(&mut self, i: usize, verdict: Verdict) {
        self.verdicts[i] = verdict;
        self.live.remove(i);
    }

    /// Drops packet `i`.
    #[inline]
    pub fn drop(&mut self, i: usize, reason: DropReason) {
        self.decide(i, Verdict::Drop(reason));
    }

    /// Drops packet `i` and answers its sender.
    #[inline]
    pub fn reject(&mut self, i: usize, reason: DropReason, answer: Answer) {
        self.decide(i, Verdict::Reject(reason, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::FramePool;

    #[test]
    fn a_mask_walks_its_packets_in_order() {
        let mut mask = Mask::first(64);
        assert_eq!(mask.count(), 64);
        mask.remove(3);
        assert!(!mask.has(3) && mask.has(63));
        assert_eq!(mask.and(Mask::first(5)).collect::<Vec<_>>(), [0, 1, 2, 4]);
        assert_eq!(Mask::first(2).without(Mask(1)), Mask(2));
    }

    #[test]
    fn a_burst_holds_sixty_four() {
        let mut pool = FramePool::new(65, false).unwrap();
        let mut burst = Burst::default();
        for _ in 0..BURST {
            burst.push(pool.take().unwrap()).unwrap();
        }
        let back = burst.push(pool.take().unwrap()).unwrap_err();
        pool.give(back);
        assert_eq!((burst.room(), burst.live), (0, Mask(u64::MAX)));
        burst.drop(7, DropReason::Runt);
        assert!(!burst.live.has(7) && burst.verdicts[7] == Verdict::Drop(DropReason::Runt));
        for i in 0..BURST {
            let frame = burst.take(i).unwrap();
            pool.give(frame);
        }
        assert!(burst.take(0).is_none() && burst.bytes(0).is_empty());
        burst.clear();
        assert!(burst.is_empty() && pool.free() == 65);
    }
}
