//! Where frames come from and go to. A port knows nothing of the stages between.

pub mod af_xdp;
pub mod memory;
pub mod pcap;

use crate::arena::{Frame, FramePool};
use crate::burst::Burst;
use crate::clock::Nanos;

/// What a port did in one call of [`Port::receive`] besides filling the burst: frames that it had to refuse. They count
/// as received, and as dropped for the reason named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Frames longer than any of the port's link, or than a packet may be (`frame_too_long`).
    pub too_long: u64,
    /// Frames that the capture cut short (`capture_truncated`).
    pub truncated: u64,
    /// Frames for which no buffer was free (`no_frame`).
    pub no_frame: u64,
    /// Bytes of all of them on the wire.
    pub bytes: u64,
}

/// The most segments that a received packet comes in, and so that one is sent in (`MAX_SKB_FRAGS` and the head).
pub const MAX_SEGMENTS: usize = 18;

/// Frames that wait to be taken by one port, oldest first, bounded.
#[derive(Debug)]
pub struct Outbox {
    /// Never grows.
    frames: Vec<Option<Frame>>,
    /// How many of them are chains.
    chains: usize,
}

impl Outbox {
    /// An outbox for `capacity` frames, whose memory is taken now.
    pub fn new(capacity: usize) -> Self {
        Self { frames: Vec::with_capacity(capacity), chains: 0 }
    }

    /// Puts a frame in. Gives it back if the outbox is full.
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.is_full() {
            return Err(frame);
        }
        self.chains += usize::from(frame.is_chain());
        self.frames.push(Some(frame));
        Ok(())
    }

    /// Takes all of these frames in, in order. False, and nothing taken, if there is no room for so many.
    #[inline]
    pub fn append(&mut self, frames: &mut [Option<Frame>]) -> bool {
        if frames.len() > self.room() {
            return false;
        }
        // As they lie: which places are empty is asked when they are taken out.
        let mut chains = 0;
        self.frames.extend(frames.iter_mut().map(|place| {
            let frame = place.take();
            chains += usize::from(frame.as_ref().is_some_and(Frame::is_chain));
            frame
        }));
        self.chains += chains;
        true
    }

    /// Whether no more frames fit.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.frames.len() == self.frames.capacity()
    }

    /// How many more frames fit.
    #[inline(always)]
    pub fn room(&self) -> usize {
        self.frames.capacity() - self.frames.len()
    }

    /// How many frames wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether no frame waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The places of the frames, oldest first; some may be empty.
    pub fn frames(&self) -> impl Iterator<Item = Option<&Frame>> {
        self.frames.iter().map(Option::as_ref)
    }

    /// Takes the oldest `n` frames (or as many as there are) out, in order.
    #[inline]
    pub fn take(&mut self, n: usize) -> impl Iterator<Item = Frame> + '_ {
        let n = n.min(self.frames.len());
        if self.chains != 0 {
            self.chains -= self.frames.iter().take(n).flatten().filter(|frame| frame.is_chain()).count();
        }
        self.frames.drain(..n).flatten()
    }

    /// How many frames, from the oldest on, take at most so many descriptors, each segment of a chain one.
    #[inline]
    pub fn fitting(&self, descriptors: usize) -> usize {
        if self.chains == 0 { descriptors.min(self.frames.len()) } else { self.fitting_chains(descriptors) }
    }

    #[cold]
    fn fitting_chains(&self, descriptors: usize) -> usize {
        let mut left = descriptors;
        let fits = |frame: &&Frame| match left.checked_sub(frame.segments().count()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        self.frames.iter().flatten().take_while(fits).count()
    }

    /// Whether any of them is a chain.
    #[inline]
    pub fn has_chains(&self) -> bool {
        self.chains != 0
    }

    /// How many descriptors all frames take at most.
    #[inline]
    pub fn descriptors(&self) -> usize {
        self.frames.len() + self.chains * MAX_SEGMENTS
    }
}

/// Frames and bytes (without FCS) that a port has accepted for transmission in one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Where a port stands, for the process that takes it over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortState {
    /// Chunks of packet memory that the kernel has, a bit each.
    pub lent: Vec<u64>,
    /// By queue that it receives from: chunks that are to be put into the fill ring.
    pub wanted: Vec<u32>,
    /// By the same: a packet in several parts that has not all come, as its bytes so far and one; 0 if there is none. It is
    /// refused, as if it were too long.
    pub midway: Vec<u64>,
    /// Frames that may be transmitted beside those under way.
    pub room: u32,
}

/// An attached interface, as one worker sees it: its receive and transmit queues there.
///
/// Calls are made once per burst, never per packet, so that a worker may hold ports of several kinds behind `dyn`.
pub trait Port: Send {
    /// Adds frames that have arrived by `now` to the burst, up to its room, in order of arrival.
    fn receive(&mut self, now: Nanos, pool: &mut FramePool, burst: &mut Burst) -> Refused;

    /// Hands frames of the outbox on, oldest first, and returns what was accepted; the others stay in the outbox and
    /// are offered again. Also brings home the frames whose transmission has ended; called with an empty outbox for
    /// that alone.
    fn transmit(&mut self, now: Nanos, pool: &mut FramePool, outbox: &mut Outbox) -> Sent;

    /// Ends all reception and transmission and brings home every frame of this port's that can be had. Returns how many
    /// frames the port still held when it was asked: all are given to the pool.
    fn close(&mut self, pool: &mut FramePool) -> u32;

    /// The time of the next frame to arrive, where the port knows it (a capture); `None` where it does not, or at the end.
    fn next_arrival(&mut self) -> Option<Nanos> {
        None
    }

    /// What another process needs, besides the descriptors, to go on with the port where it stands. Nothing of it changes.
    fn state(&self) -> PortState {
        PortState::default()
    }

    /// Goes on where another process has left the port, which nobody has used here yet.
    fn go_on(&mut self, _: &PortState) {}

    /// A descriptor that becomes readable when frames arrive, for a worker that sleeps when idle.
    fn descriptors(&self) -> &[std::os::fd::RawFd] {
        &[]
    }
}
