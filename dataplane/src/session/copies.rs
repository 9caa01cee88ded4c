//! Copies: flows whose session another worker owns, kept where their packets arrive.
//!
//! The owner alone makes and ends sessions. It notes which workers have copies, and tells them when a session ends. They
//! tell it about once a second what passed, and it answers if it has no such session (any more): so a message that finds
//! no room on its ring is made good. A copy that is idle for long is forgotten, and its next packet asks the owner again.

use super::flow::{Direction, Flow, FlowAction, FlowKey, ticks};
use super::tcp::{SAMPLE, Segment};
use super::{Ends6, Family, NONE, Sessions};
use crate::clock::{Nanos, SECOND};
use crate::snapshot::Timeouts;

/// Copies that are idle for so long are forgotten.
const IDLE: Nanos = 60 * SECOND;
/// Copies that are looked at for the one to make room.
const EXAMINED: u32 = 8;
/// How often the sweep goes on.
const SWEEP_INTERVAL: Nanos = SECOND / 100;
/// Sessions may have been used since their carriers last told so.
pub(super) const LAG: Nanos = 2 * SECOND;

/// A session among all that its owner ever made, as other workers name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionId {
    /// Its index at the owner.
    pub index: u32,
    /// Which of those that have had this index.
    pub generation: u32,
}

/// One direction of a session, for the worker that is to carry it.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// What is done to its packets.
    pub action: FlowAction,
    /// The session.
    pub id: SessionId,
    /// Which way.
    pub direction: Direction,
    /// What its packets leave with if they become IPv6.
    pub ends6: Ends6,
}

/// A session has ended: for the carriers of one of its directions.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Which workers, a bit each.
    pub carriers: u16,
    /// The session.
    pub id: SessionId,
    /// The flow.
    pub key: FlowKey,
}

/// What passed by a copy since it was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Index of the copy, for the answer.
    pub copy: u32,
    /// The session.
    pub id: SessionId,
    /// Which way.
    pub direction: Direction,
    /// TCP that opens or ends, or was watched; no flags if there was none.
    pub segment: Segment,
    /// Packets.
    pub packets: u32,
    /// Bytes.
    pub bytes: u64,
    /// When the last one passed, in [`ticks`].
    pub last_seen: u32,
}

/// The part of a copy that packets seldom touch.
#[derive(Clone, Copy, Debug, Default)]
struct Copy {
    live: bool,
    family: Family,
    protocol: u8,
    owner: u8,
    direction: Direction,
    /// TCP that the owner has not been told of.
    segment: Segment,
    /// Bytes since a segment was watched, in KiB.
    unwatched: u32,
    flow: u32,
    id: SessionId,
    ends6: Ends6,
    /// The generation of the configuration by which it was decided.
    policy: u32,
}

/// The copies of one worker.
#[derive(Debug, Default)]
pub(super) struct Copies {
    slab: Vec<Copy>,
    free: Vec<u32>,
    live: u32,
    room: u32,
    /// The next to make room.
    hand: u32,
    /// The next to be looked at by the sweep.
    at: u32,
    last: Nanos,
    /// The time of the last sweep, in [`ticks`].
    now: u32,
}

impl Copies {
    pub(super) fn new(room: u32) -> Self {
        let (slab, free) = (Vec::with_capacity(room as usize), Vec::with_capacity(room as usize));
        Self { slab, free, room, ..Self::default() }
    }

    pub(super) fn ends6(&self, index: u32) -> Option<Ends6> {
        self.slab.get(index as usize).map(|copy| copy.ends6)
    }

    pub(super) fn bytes(&self) -> usize {
        self.slab.capacity() * size_of::<Copy>() + self.free.capacity() * size_of::<u32>()
    }
}

impl Sessions {
    /// Copies of other workers' flows.
    pub fn copies(&self) -> u32 {
        self.copies.live
    }

    /// The session's direction to which a flow that was just found belongs, for a worker that is to carry it. `None` if it
    /// is a copy itself.
    pub fn lease(&mut self, family: Family, flow: u32, carrier: u8) -> Option<Lease> {
        let record = self.flow(family, flow).filter(|record| !record.is_copy())?;
        let (action, index, direction) = (record.action, record.session(), record.direction());
        let crosses = action.is(FlowAction::TO_V6);
        let ends6 = crosses.then(|| self.ends6(record)).flatten().unwrap_or_default();
        let session = self.slab.get_mut(index as usize)?;
        session.carriers[direction as usize] |= 1 << carrier;
        let id = SessionId { index, generation: session.generation };
        Some(Lease { action, id, direction, ends6 })
    }

    /// Whether a flow is from before the present configuration.
    pub fn is_old(&self, flow: &Flow) -> bool {
        if !flow.is_copy() {
            return self.is_outdated(flow.session());
        }
        let copy = self.copies.slab.get(flow.session() as usize);
        copy.is_some_and(|copy| copy.policy != self.policy)
    }

    /// Removes a few copies from before the present configuration, from the place `from` on; what they still have to say
    /// goes to `tell`. Returns where to go on, as long as there is more.
    pub fn drop_outdated_copies(
        &mut self,
        from: u32,
        most: u32,
        mut tell: impl FnMut(u8, Activity),
    ) -> Option<u32> {
        let end = self.copies.slab.len() as u32;
        let mut left = most;
        for index in from..end {
            if left == 0 {
                return Some(index);
            }
            let outdated = |copy: &&Copy| copy.live && copy.policy != self.policy;
            if self.copies.slab.get(index as usize).filter(outdated).is_none() {
                continue;
            }
            if let Some((owner, activity)) = self.activity(index) {
                tell(owner, activity);
            }
            self.remove_copy(index);
            left -= 1;
        }
        None
    }

    /// Takes a copy in, with a stamp that makes its first use look its next hop up. Its flow, [`NONE`] if the session is
    /// one's own.
    pub fn adopt(&mut self, key: &FlowKey, protocol: u8, lease: &Lease, owner: u8, now: Nanos) -> u32 {
        if let Some(flow) = self.find(key) {
            match self.flow(key.family(), flow) {
                Some(record) if record.is_copy() => self.remove_copy(record.session()),
                _ => return NONE,
            }
        }
        let index = self.room_for_copy();
        let record = Flow {
            action: lease.action,
            stamp: self.stamp.wrapping_sub(1),
            last_seen: ticks(now),
            session: Flow::copy_reference(index, lease.direction),
            ..Flow::default()
        };
        let flow = self.insert(key, record);
        let (Ok(flow), Some(copy)) = (flow, self.copies.slab.get_mut(index as usize)) else {
            self.copies.free.push(index);
            return NONE;
        };
        let (id, direction, policy, ends6) = (lease.id, lease.direction, self.policy, lease.ends6);
        *copy = Copy {
            live: true,
            family: key.family(),
            protocol,
            owner,
            direction,
            flow,
            id,
            ends6,
            policy,
            ..Copy::default()
        };
        self.copies.live += 1;
        flow
    }

    /// A free index; the copy that is idle the longest, of a few, makes room if there is none.
    fn room_for_copy(&mut self) -> u32 {
        let copies = &mut self.copies;
        if copies.free.is_empty() && (copies.slab.len() as u32) < copies.room {
            copies.slab.push(Copy::default());
            return copies.slab.len() as u32 - 1;
        }
        if let Some(index) = copies.free.pop() {
            return index;
        }
        let (mut oldest, mut most) = (copies.hand, 0);
        for step in 0..EXAMINED {
            let index = (self.copies.hand + step) % self.copies.room.max(1);
            let Some(copy) = self.copies.slab.get(index as usize) else { continue };
            let seen = self.flow(copy.family, copy.flow).map_or(0, |flow| flow.last_seen);
            let idle = self.copies.now.wrapping_sub(seen);
            if idle >= most {
                (oldest, most) = (index, idle);
            }
        }
        self.copies.hand = (self.copies.hand + EXAMINED) % self.copies.room.max(1);
        self.remove_copy(oldest);
        self.copies.free.pop().unwrap_or(oldest)
    }

    /// Takes a copy out, what it has not told with it.
    pub(crate) fn remove_copy(&mut self, index: u32) {
        let Some(copy) = self.copies.slab.get_mut(index as usize).filter(|copy| copy.live) else { return };
        copy.live = false;
        let copy = *copy;
        self.remove_flow(copy.family, copy.flow);
        self.copies.free.push(index);
        self.copies.live -= 1;
    }

    /// The owner says that a session has ended; its copy goes, if it is that session's.
    pub fn forget(&mut self, key: &FlowKey, owner: u8, id: SessionId) {
        let record = self.find(key).and_then(|flow| self.flow(key.family(), flow));
        if let Some(record) = record.filter(|record| record.is_copy()) {
            self.forget_copy(record.session(), owner, id);
        }
    }

    /// As [`forget`](Self::forget), for a copy that was named in an [`Activity`].
    pub fn forget_copy(&mut self, copy: u32, owner: u8, id: SessionId) {
        let known =
            self.copies.slab.get(copy as usize).is_some_and(|c| c.live && c.owner == owner && c.id == id);
        if known {
            self.remove_copy(copy);
        }
    }

    /// Notes a TCP segment that passed by a copy, and makes the message about it for its owner.
    pub fn note_segment(&mut self, index: u32, segment: Segment) -> Option<(u8, Activity)> {
        let copy = self.copies.slab.get_mut(index as usize).filter(|copy| copy.live)?;
        let begins = segment.is_bare_syn();
        let flags = if begins { segment.flags } else { copy.segment.flags | segment.flags };
        copy.segment = Segment { flags, ..segment };
        copy.unwatched = 0;
        let (family, flow) = (copy.family, copy.flow);
        if let Some(flow) = self.flow_mut(family, flow) {
            flow.action.watch(begins);
        }
        self.activity(index)
    }

    /// What there is to tell of a copy.
    fn activity(&self, index: u32) -> Option<(u8, Activity)> {
        let copy = self.copies.slab.get(index as usize).filter(|copy| copy.live)?;
        let flow = self.flow(copy.family, copy.flow)?;
        if flow.packets == 0 && copy.segment.flags == 0 {
            return None;
        }
        let Copy { id, direction, segment, .. } = *copy;
        let (Flow { packets, last_seen, .. }, bytes) = (*flow, flow.bytes());
        Some((copy.owner, Activity { copy: index, id, direction, segment, packets, bytes, last_seen }))
    }

    /// The owner will be told: counting starts anew.
    pub fn told(&mut self, index: u32) {
        let Some(copy) = self.copies.slab.get_mut(index as usize) else { return };
        copy.segment = Segment::default();
        let Copy { family, flow, protocol, unwatched, .. } = *copy;
        let Some(record) = self.flow_mut(family, flow) else { return };
        let (bytes, _) = (record.take_bytes(), std::mem::take(&mut record.packets));
        let unwatched = unwatched.saturating_add((bytes >> 10) as u32);
        if protocol == sluice_pkt::ipv4::TCP && unwatched > SAMPLE {
            record.action.watch(true);
        }
        self.copies.slab[index as usize].unwatched = unwatched;
    }

    /// Takes in what a carrier tells. False if there is no such session.
    pub fn heard(&mut self, activity: &Activity, carrier: u8) -> bool {
        let direction = activity.direction as usize;
        let index = activity.id.index;
        let Some(session) = self.slab.get_mut(index as usize) else { return false };
        if !session.live || session.generation != activity.id.generation {
            return false;
        }
        session.carriers[direction] |= 1 << carrier;
        session.packets[direction] += u64::from(activity.packets);
        session.bytes[direction] += activity.bytes;
        let session = *session;
        let (family, flow) = (session.family_of(direction), session.flows[direction]);
        if let Some(flow) = self.flow_mut(family, flow) {
            if flow.last_seen.wrapping_sub(activity.last_seen) > u32::MAX / 2 {
                flow.last_seen = activity.last_seen;
            }
        }
        self.rank_carried(index, direction, activity.bytes, activity.packets.into());
        if activity.segment.flags != 0 {
            self.follow_tcp(index, activity.direction, activity.segment);
        }
        true
    }

    /// Looks at a share of the copies, so that each is looked at once a second: what they have to tell goes to `tell`,
    /// which says whether there was room for it. One that has been idle for long is forgotten.
    pub fn sweep_copies(
        &mut self,
        now: Nanos,
        timeouts: &Timeouts,
        mut tell: impl FnMut(u8, Activity) -> bool,
    ) {
        let elapsed = now.saturating_sub(self.copies.last);
        if elapsed < SWEEP_INTERVAL {
            return;
        }
        let slots = self.copies.slab.len() as u64;
        // Rounded up: it comes round in a second at most.
        let share = (u128::from(slots) * u128::from(elapsed)).div_ceil(u128::from(SECOND));
        let quota = share.min(slots.into()) as u64;
        (self.copies.last, self.copies.now) = (now, ticks(now));
        for _ in 0..quota {
            let index = self.copies.at;
            self.copies.at = if u64::from(index) + 1 < slots { index + 1 } else { 0 };
            if let Some((owner, activity)) = self.activity(index) {
                if tell(owner, activity) {
                    self.told(index);
                }
            }
            self.age_copy(index, timeouts);
        }
    }

    /// When the sweep goes on.
    pub fn next_copies(&self) -> Nanos {
        self.copies.last.saturating_add(SWEEP_INTERVAL)
    }

    fn age_copy(&mut self, index: u32, timeouts: &Timeouts) {
        let Some(copy) = self.copies.slab.get(index as usize).filter(|copy| copy.live) else { return };
        let last_seen = self.flow(copy.family, copy.flow).map_or(0, |flow| flow.last_seen);
        let idle = Nanos::from(self.copies.now.wrapping_sub(last_seen)) << 24;
        if idle > IDLE.min(super::record::shortest(copy.protocol, timeouts)) {
            self.remove_copy(index);
        }
    }
}
