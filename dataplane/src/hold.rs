//! Frames that wait for something, a neighbour, another worker's answer or a first fragment, and what comes of them: they go on, or they
//! die.

use std::collections::VecDeque;

use crate::arena::Frame;
use crate::burst::Burst;
use crate::verdict::DropReason;

/// The most frames that wait in one queue; never more than an eighth of the packet buffers.
const IN_TOTAL: u32 = 512;

#[derive(Debug)]
struct Waiting {
    awaited: u16,
    port: u16,
    frame: Frame,
}

/// A frame that waited in vain.
#[derive(Debug)]
pub(crate) struct Undelivered {
    /// The port by which it came in.
    pub(crate) port: u16,
    /// The packet, as it came.
    pub(crate) frame: Frame,
    /// Why it was in vain.
    pub(crate) reason: DropReason,
}

/// All frames that wait, in order of arrival. The three queues together are bounded by `capacity`.
#[derive(Debug)]
pub(crate) struct HoldQueue {
    waiting: Vec<Waiting>,
    ready: VecDeque<(u16, Frame)>,
    undelivered: VecDeque<Undelivered>,
    capacity: usize,
}

/// Takes out those that wait for this, in order.
fn take_out(waiting: &mut Vec<Waiting>, awaited: u16, mut each: impl FnMut(Waiting)) {
    let mut at = 0;
    while let Some(held) = waiting.get(at) {
        if held.awaited == awaited {
            each(waiting.remove(at));
        } else {
            at += 1;
        }
    }
}

impl HoldQueue {
    pub(crate) fn new(frames: u32) -> Self {
        let capacity = IN_TOTAL.min(frames / 8).max(1) as usize;
        Self {
            waiting: Vec::with_capacity(capacity),
            ready: VecDeque::with_capacity(capacity),
            undelivered: VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.ready.len() + self.undelivered.len()
    }

    /// Puts a frame in, to wait for what has this index. Gives it back when all places are taken.
    pub(crate) fn wait(&mut self, awaited: u16, port: u16, frame: Frame) -> Result<(), Frame> {
        if self.len() == self.capacity {
            return Err(frame);
        }
        self.waiting.push(Waiting { awaited, port, frame });
        Ok(())
    }

    /// What was awaited is there: its frames are ready to go on.
    pub(crate) fn wake(&mut self, awaited: u16) {
        let Self { waiting, ready, .. } = self;
        take_out(waiting, awaited, |w| ready.push_back((w.port, w.frame)));
    }

    /// What was awaited is given up: its frames are undeliverable.
    pub(crate) fn fail(&mut self, awaited: u16, reason: DropReason) {
        let Self { waiting, undelivered, .. } = self;
        take_out(waiting, awaited, |w| {
            undelivered.push_back(Undelivered { port: w.port, frame: w.frame, reason });
        });
    }

    /// Fills an empty burst with frames that are ready and came in by one port, oldest first.
    pub(crate) fn release(&mut self, burst: &mut Burst) {
        debug_assert!(burst.is_empty());
        let Some(&(port, _)) = self.ready.front() else { return };
        burst.port = port;
        let together = self.ready.iter().take(burst.room()).take_while(|(other, _)| *other == port).count();
        for (_, frame) in self.ready.drain(..together) {
            let pushed = burst.push(frame);
            debug_assert!(pushed.is_ok(), "there is room for all of them");
        }
    }

    /// Takes out a frame that waited in vain, the oldest first.
    pub(crate) fn undelivered(&mut self) -> Option<Undelivered> {
        self.undelivered.pop_front()
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes out any frame, with the port that it came in by; of those that wait for one thing, the oldest first.
    pub(crate) fn drain(&mut self) -> Option<(u16, Frame)> {
        let ready = self.ready.pop_front();
        let waiting =
            || (!self.waiting.is_empty()).then(|| self.waiting.remove(0)).map(|w| (w.port, w.frame));
        ready.or_else(waiting).or_else(|| self.undelivered.pop_front().map(|u| (u.port, u.frame)))
    }
}
