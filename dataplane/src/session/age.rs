//! Ageing: ends what has been idle too long, and moves what flows have counted to their sessions.
//!
//! A session is looked at when it may have come to its end, and after eight seconds at the latest; after one if it moves much,
//! or if others carry its flows. When that is lies apart, in four bytes a session that are read in order, so that those whose
//! time has not come cost next to nothing.

use sluice_pkt::ipv4;

use super::{Direction, EndReason, Family, NONE, Session, Sessions, ticks};
use crate::clock::{Nanos, SECOND};
use crate::counters::Counters;
use crate::nat::Nat;
use crate::snapshot::Timeouts;

/// How often the sweep goes on.
const INTERVAL: Nanos = SECOND / 10_000;
/// How many sessions ahead the sweep fetches flows.
const AHEAD: u32 = 8;
/// Sessions that end together, each of whose lines are fetched ahead.
const TOGETHER: usize = 16;
/// For how long a session is not looked at, at most, in ticks: eight seconds.
const PATIENCE: u32 = ticks(8 * SECOND);
/// What TCP may move between two looks so that the next one has time, in bytes.
const QUIET: u64 = 128 << 10;
/// So far off is what nobody looks at, in ticks: half a year.
const NEVER: u32 = 1 << 30;

/// Where the sweep is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    at: u32,
    last: Nanos,
    /// The configuration that it goes by: another one may have other timeouts.
    policy: u32,
    /// Sessions that are still to be looked at whether they are due or not.
    anyway: u64,
}

impl Sweep {
    /// Time of the last sweep, in ticks.
    pub(super) fn now(&self) -> u32 {
        ticks(self.last)
    }

    /// The same, in nanoseconds.
    pub(super) fn time(&self) -> Nanos {
        self.last
    }
}

impl Sessions {
    /// The sweep is to look at a session from this time on, in ticks.
    pub(super) fn look_at(&mut self, index: u32, at: u32) {
        if let Some(due) = self.due.get_mut(index as usize) {
            *due = at;
        }
    }

    /// There is no session there any more.
    pub(super) fn forget_due(&mut self, index: u32) {
        self.look_at(index, self.sweep.now().wrapping_add(NEVER));
    }

    /// Ends what has been idle too long. Called often, it goes through a share of the sessions each time, so that every one's
    /// turn comes once a second; a session lives its timeout and at most a second more. After a gap in time (a replay)
    /// it goes through all of them.
    pub fn sweep(&mut self, now: Nanos, timeouts: &Timeouts, nat: &mut Nat, counters: &mut Counters) {
        let slots = self.slab.len() as u64;
        let elapsed = now.saturating_sub(self.sweep.last);
        if elapsed < INTERVAL {
            return;
        }
        let quota = (slots as u128 * elapsed.min(SECOND) as u128 / SECOND as u128) as u64;
        if quota == 0 && elapsed < SECOND {
            return;
        }
        // Time too short for another session counts at the next call.
        let spent = if elapsed < SECOND { (quota * SECOND).div_ceil(slots) } else { elapsed };
        self.sweep.last += spent;
        // So long that ticks may have wrapped.
        let all = elapsed > Nanos::from(u32::MAX / 2) << 24;
        if all || self.sweep.policy != self.policy {
            (self.sweep.policy, self.sweep.anyway) = (self.policy, slots);
        }
        let (tick, quota) = (ticks(now), quota.min(slots));
        let (mut over, mut count) = ([NONE; TOGETHER], 0);
        for _ in 0..quota {
            let index = self.sweep.at;
            self.sweep.at = if u64::from(index) + 1 < slots { index + 1 } else { 0 };
            if self.is_due(index + AHEAD, tick) {
                self.fetch(index + AHEAD, nat);
            }
            if !self.is_due(index, tick) {
                continue;
            }
            self.sweep.anyway = self.sweep.anyway.saturating_sub(1);
            if self.age(index, tick, all, timeouts, nat) {
                self.fetch_end(index, nat);
                over[count] = index;
                count += 1;
                if count == TOGETHER {
                    over.iter().for_each(|&index| self.end_for(index, EndReason::Idle, nat, counters));
                    count = 0;
                }
            }
        }
        over.iter().take(count).for_each(|&index| self.end_for(index, EndReason::Idle, nat, counters));
    }

    #[inline]
    fn is_due(&self, index: u32, now: u32) -> bool {
        let due = self.due.get(index as usize);
        due.is_some_and(|&due| now.wrapping_sub(due) <= u32::MAX / 2 || self.sweep.anyway > 0)
    }

    /// Starts to fetch the flows of a session that the sweep comes to soon, and what it has of NAT.
    #[inline]
    fn fetch(&self, index: u32, nat: &Nat) {
        let Some(session) = self.slab.get(index as usize) else { return };
        for (direction, flow) in session.flows.into_iter().enumerate() {
            match session.family_of(direction) {
                Family::V4 => self.v4.prefetch_record(flow),
                Family::V6 => self.v6.prefetch_record(flow),
            }
        }
        nat.fetch(session.binding, session.permit);
    }

    /// Starts to fetch what the end of a session that was looked at changes.
    fn fetch_end(&self, index: u32, nat: &Nat) {
        let Some(session) = self.slab.get(index as usize) else { return };
        for (direction, flow) in session.flows.into_iter().enumerate() {
            match session.family_of(direction) {
                Family::V4 => self.v4.prefetch_remove(flow),
                Family::V6 => self.v6.prefetch_remove(flow),
            }
        }
        nat.fetch_release(session.binding, session.permit);
    }

    /// Looks at a session, and says whether it is over.
    fn age(&mut self, index: u32, now: u32, all: bool, timeouts: &Timeouts, nat: &mut Nat) -> bool {
        let Some(mut session) = self.slab.get(index as usize).filter(|s| s.live).copied() else {
            self.forget_due(index);
            return false;
        };
        let (mut idle, mut moved) = (u32::MAX, ([0; 2], [0; 2]));
        for direction in 0..2 {
            if let Some(flow) = self.flow_mut(session.family_of(direction), session.flows[direction]) {
                let bytes = flow.take_bytes();
                let packets = u64::from(std::mem::take(&mut flow.packets));
                session.packets[direction] += packets;
                session.bytes[direction] += bytes;
                (moved.0[direction], moved.1[direction]) = (bytes, packets);
                if session.kept_by >> direction & 1 == 1 {
                    idle = idle.min(now.wrapping_sub(flow.last_seen));
                }
                let way = if direction == 0 { Direction::Forward } else { Direction::Reply };
                if session.protocol == ipv4::TCP && session.tcp.wants_sample(way, session.bytes[direction]) {
                    flow.action.watch(true);
                }
            }
        }
        if session.packets[1] > 0 && session.protocol != ipv4::TCP {
            self.expendable.set(index, false);
        }
        self.rank(index, &mut session, moved, now);
        self.slab[index as usize] = session;
        if self.reporter.is_some() {
            self.report_if_due(index, now);
        }
        // What inside hosts send because of packets from outside keeps no binding (RFC 7857 7.1).
        if session.binding != NONE && !session.tcp.is_reset() && idle != u32::MAX {
            nat.seen_outbound(session.binding, now.wrapping_sub(idle));
        }
        let timeout = session.timeout(timeouts);
        let left = timeout.checked_sub(Nanos::from(idle) << 24);
        let next = match left {
            Some(left) if !all => session.patience(moved.0.iter().sum()).min(ticks(left) + 1),
            _ => return true,
        };
        self.look_at(index, now.wrapping_add(next));
        false
    }
}

impl Session {
    /// For how long it may be left alone after it has moved so many bytes since it was last looked at, in ticks.
    fn patience(&self, moved: u64) -> u32 {
        let is_carried = self.carriers != [0; 2];
        // TCP is sampled as it moves; see `Connection::wants_sample`.
        let is_busy = self.protocol == ipv4::TCP && moved > QUIET;
        let is_listed = self.listed != 0;
        if is_carried || is_busy || is_listed { 0 } else { PATIENCE }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::new;
    use super::*;
    use crate::clock::MILLISECOND;
    use crate::snapshot::Snapshot;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::table::cases(40))]

        #[test]
        fn sessions_live_their_timeout_and_a_second_more_at_most(
            gaps in prop::collection::vec((0..4u16, 0..25_000u64, 0..3_000_000u64), 1..40),
        ) {
            const TICK: Nanos = 1 << 24;
            let mut snapshot = Snapshot::default();
            snapshot.sizes.sessions = 4;
            let timeouts = Timeouts { udp: 20 * SECOND, tcp_transitory: 15 * SECOND, ..Timeouts::default() };
            let (mut sessions, mut nat) = (Sessions::new(&snapshot), Nat::new(&snapshot));
            let counters = &mut Counters::new(&snapshot);
            let mut now = 5 * SECOND;
            let mut seen = [None; 4];
            for (which, gap, bytes) in gaps {
                // A packet, and a time without any.
                let protocol = if which % 2 == 0 { ipv4::UDP } else { ipv4::TCP };
                let session = new(which, protocol);
                if seen[usize::from(which)].is_none() {
                    sessions.create(&session, now, &mut nat, counters).unwrap();
                }
                let flow = sessions.v4.find(&session.keys[0]).unwrap();
                sessions.v4.value_mut(flow).unwrap().count(bytes as usize, ticks(now));
                seen[usize::from(which)] = Some(now);
                let end = now + gap * MILLISECOND;
                while now < end {
                    now += 20 * MILLISECOND;
                    sessions.sweep(now, &timeouts, &mut nat, counters);
                    for (which, last) in (0..4).zip(&mut seen) {
                        let Some(at) = *last else { continue };
                        let protocol = if which % 2 == 0 { ipv4::UDP } else { ipv4::TCP };
                        let timeout = if which % 2 == 0 { timeouts.udp } else { timeouts.tcp_transitory };
                        let is_live = sessions.v4.find(&new(which, protocol).keys[0]).is_some();
                        prop_assert!(is_live || now - at + TICK > timeout, "it ended early");
                        prop_assert!(!is_live || now - at < timeout + SECOND + 3 * TICK, "it ended late");
                        if !is_live {
                            *last = None;
                        }
                    }
                }
                prop_assert_eq!(sessions.live() as usize, seen.iter().flatten().count());
            }
        }
    }

    #[test]
    fn another_configuration_is_known_within_a_second() {
        let mut snapshot = Snapshot::default();
        snapshot.sizes.sessions = 4;
        let (mut sessions, mut nat) = (Sessions::new(&snapshot), Nat::new(&snapshot));
        let counters = &mut Counters::new(&snapshot);
        sessions.create(&new(1, ipv4::UDP), SECOND, &mut nat, counters).unwrap();
        let mut timeouts = Timeouts::default();
        for second in 2..=5 {
            sessions.sweep(second * SECOND, &timeouts, &mut nat, counters);
        }
        timeouts.udp = 2 * SECOND;
        sessions.sweep(6 * SECOND, &timeouts, &mut nat, counters);
        assert_eq!(sessions.live(), 1, "nobody has said that timeouts are others");
        sessions.policy += 1;
        sessions.sweep(7 * SECOND, &timeouts, &mut nat, counters);
        assert_eq!(sessions.live(), 0);
    }

    #[test]
    fn what_moves_much_is_looked_at_each_second() {
        let mut session = Session { protocol: ipv4::TCP, ..Session::default() };
        assert_eq!((session.patience(QUIET), session.patience(QUIET + 1)), (PATIENCE, 0));
        session.protocol = ipv4::UDP;
        assert_eq!(session.patience(u64::MAX), PATIENCE);
        session.carriers = [0, 1];
        assert_eq!(session.patience(0), 0);
    }
}
