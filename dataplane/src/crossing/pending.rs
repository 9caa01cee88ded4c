//! Flows about which another worker is asked, and their packets that wait for the answer: of each flow one is lent, the
//! others are parked behind it, so that they leave in the order in which they came.

use crate::arena::Frame;
use crate::burst::Burst;
use crate::clock::{MILLISECOND, Nanos};
use crate::hold::{HoldQueue, Undelivered};
use crate::table::hash::HashTable;
use crate::verdict::DropReason;

/// How long an answer is waited for.
pub const PATIENCE: Nanos = 200 * MILLISECOND;
/// Flows that may be asked about at a time.
const FLOWS: u32 = 1024;
/// Packets of a flow that wait for the answer about the first.
const PER_FLOW: u8 = 64;
const NEVER: Nanos = Nanos::MAX;

/// Names what waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    index: u16,
    sequence: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    until: Nanos,
    sequence: u32,
    parked: u8,
}

/// A flow, by its own tuple.
pub(super) type PendingKey = [u64; 6];

/// The flows of one worker about which others are asked.
pub(super) struct Pending {
    table: HashTable<PendingKey, Waiting>,
    holds: HoldQueue,
    sequence: u32,
    due: Nanos,
}

impl Pending {
    pub(super) fn new(frames: u32, seed: u64) -> Self {
        let table = HashTable::with_capacity(FLOWS, seed);
        Self { table, holds: HoldQueue::new(frames), sequence: 0, due: NEVER }
    }

    /// Frames that wait here.
    pub(super) fn held(&self) -> u64 {
        self.holds.len() as u64
    }

    /// When somebody will have waited too long.
    pub(super) fn next_due(&self) -> Nanos {
        self.due
    }

    pub(super) fn find(&self, key: &PendingKey) -> Option<u16> {
        self.table.find(key).map(|index| index as u16)
    }

    /// Notes that the flow is asked about. `None` if there are as many as may be.
    pub(super) fn begin(&mut self, key: PendingKey, now: Nanos) -> Option<Token> {
        self.sequence = self.sequence.wrapping_add(1);
        let until = now.saturating_add(PATIENCE);
        let waiting = Waiting { until, sequence: self.sequence, parked: 0 };
        let index = self.table.insert(key, waiting).ok()? as u16;
        self.due = self.due.min(until);
        Some(Token { index, sequence: self.sequence })
    }

    /// Parks a packet behind the one that is asked about. Gives it back if as many wait as may.
    pub(super) fn park(&mut self, index: u16, port: u16, frame: Frame) -> Result<(), Frame> {
        let Some((_, waiting)) = self.table.get_mut(index.into()).filter(|(_, w)| w.parked < PER_FLOW) else {
            return Err(frame);
        };
        self.holds.wait(index, port, frame)?;
        waiting.parked += 1;
        Ok(())
    }

    /// The answer is there: what is parked behind it is ready to go on. False if it is not waited for any more.
    pub(super) fn end(&mut self, token: Token) -> bool {
        let index = token.index;
        let known = self.table.get(index.into()).is_some_and(|(_, w)| w.sequence == token.sequence);
        if known {
            self.table.remove(index.into());
            self.holds.wake(index);
        }
        known
    }

    pub(super) fn is_ready(&self) -> bool {
        self.holds.is_ready()
    }

    pub(super) fn release(&mut self, burst: &mut Burst) {
        self.holds.release(burst);
    }

    /// Gives up what has waited too long.
    pub(super) fn tick(&mut self, now: Nanos) {
        if now < self.due {
            return;
        }
        self.due = NEVER;
        for index in 0..self.table.slots() {
            let Some((_, waiting)) = self.table.get(index) else { continue };
            if waiting.until <= now {
                self.table.remove(index);
                self.holds.fail(index as u16, DropReason::OwnerSilent);
            } else {
                self.due = self.due.min(waiting.until);
            }
        }
    }

    /// Takes out a frame that has waited in vain.
    pub(super) fn undelivered(&mut self) -> Option<Undelivered> {
        self.holds.undelivered()
    }

    /// Takes out any frame.
    pub(super) fn drain(&mut self) -> Option<Frame> {
        self.holds.drain().map(|(_, frame)| frame)
    }
}
