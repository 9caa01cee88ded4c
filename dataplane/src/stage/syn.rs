//! SYNs from outside that NAT has nobody for wait six seconds before they are refused (RFC 5382 REQ-4): when two hosts open
//! a connection from both sides at once, as those do that both are behind NATs, one SYN is always the first.

use std::collections::VecDeque;

use sluice_pkt::parse::parse_head;

use super::{flow, parse};
use crate::arena::Frame;
use crate::clock::{Nanos, SECOND};
use crate::session::FlowKey;
use crate::shard::Shard;
use crate::snapshot::{NONE16, Snapshot};
use crate::verdict::{Answer, DropReason};

/// How long they wait.
pub const PATIENCE: Nanos = 6 * SECOND;
/// How many wait at most; further ones die in silence. Never more than a thirty-second of the packet buffers.
const MOST: u32 = 128;

#[derive(Debug)]
struct Waiting {
    until: Nanos,
    port: u16,
    frame: Frame,
}

/// SYNs that wait, in order of arrival.
#[derive(Debug)]
pub struct HeldSyns {
    waiting: VecDeque<Waiting>,
    most: usize,
}

impl HeldSyns {
    /// Takes its memory.
    pub fn new(snapshot: &Snapshot) -> Self {
        let most = MOST.min(snapshot.sizes.frames / 32) as usize;
        Self { waiting: VecDeque::with_capacity(most), most }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the first has waited long enough.
    pub fn next_due(&self) -> Nanos {
        self.waiting.front().map_or(Nanos::MAX, |first| first.until)
    }

    /// Lets a frame wait, as it came in by `port`. Gives it back if there is no room.
    pub(super) fn hold(&mut self, port: u16, frame: Frame, now: Nanos) -> Result<(), Frame> {
        if self.waiting.len() == self.most {
            return Err(frame);
        }
        self.waiting.push_back(Waiting { until: now.saturating_add(PATIENCE), port, frame });
        Ok(())
    }

    /// Takes the oldest frame out, with the port that it came in by.
    pub(crate) fn drain(&mut self) -> Option<(u16, Frame)> {
        self.waiting.pop_front().map(|waiting| (waiting.port, waiting.frame))
    }
}

/// Refuses those that have waited long enough, unless the connection has been opened meanwhile: then its sender has sent
/// another one, or will.
pub fn expire(shard: &mut Shard, snapshot: &Snapshot, now: Nanos) {
    while shard.syns.next_due() <= now {
        let Some(Waiting { port, frame, .. }) = shard.syns.waiting.pop_front() else { return };
        if !is_known(port, &frame, shard, snapshot) {
            shard.local(snapshot, now).tell_late(port, &frame, Answer::NoBinding);
        }
        shard.counters.lost(DropReason::SynUnsolicited, &frame, port, NONE16);
        shard.pool.give(frame);
    }
}

/// Whether the connection is open by now, or may be: of several workers the owner alone knows, and to say nothing is a must,
/// to answer only good manners.
fn is_known(port: u16, frame: &Frame, shard: &Shard, snapshot: &Snapshot) -> bool {
    let Ok(headers) = parse_head(frame.bytes(), frame.len()) else { return true };
    let port = snapshot.physical(port);
    let Some(interface) = snapshot.interface_of(port, parse::tags(&headers)) else { return true };
    if let Some(crossing) = &shard.crossing {
        if crossing.owners().of_packet(frame.bytes(), &headers, interface, snapshot) != Some(crossing.me()) {
            return true;
        }
    }
    match flow::key(frame.bytes(), &headers, interface) {
        FlowKey::V4(key) => shard.sessions.v4.find(&key).is_some(),
        FlowKey::V6(key) => shard.sessions.v6.find(&key).is_some(),
    }
}
