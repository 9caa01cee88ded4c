//! Which sessions move the most: lists of bounded length that the sweep keeps as it goes, so that nobody has to walk through a
//! million sessions to find them.
//!
//! A session's rate is what it has moved since the sweep looked at it last. Those in a list are looked at each second, the others
//! within eight, so that is how long one that has become large may be missing.

use super::{Session, Sessions, ticks};
use crate::clock::{Nanos, SECOND};
use crate::table::largest::{Entry, Largest};

/// Sessions in a list.
const ROOM: usize = 256;
/// A carrier that has told nothing of a direction for so long has seen no packet of it.
const SILENT: u32 = ticks(3 * SECOND);

/// By what sessions are the largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Bits a second.
    #[default]
    Bits,
    /// Packets a second.
    Packets,
}

/// How much a session moves, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes a second, with the Ethernet header.
    pub bytes: [u64; 2],
    /// Packets a second.
    pub packets: [u64; 2],
}

impl Rates {
    fn weight(&self, by: By) -> u64 {
        let parts = match by {
            By::Bits => self.bytes,
            By::Packets => self.packets,
        };
        parts.iter().sum()
    }
}

/// The lists.
pub(super) struct Top([Largest<Rates>; 2]);

impl Default for Top {
    fn default() -> Self {
        Self([Largest::new(ROOM), Largest::new(ROOM)])
    }
}

/// A bit for each list, as [`Session`] notes in which it is.
const LISTS: [(By, u8); 2] = [(By::Bits, 1), (By::Packets, 2)];

/// What moved, and in how many ticks, by second.
fn per_second(moved: u64, elapsed: u32) -> u64 {
    let elapsed = Nanos::from(elapsed.max(1)) << 24;
    (u128::from(moved) * u128::from(SECOND) / u128::from(elapsed)) as u64
}

impl Sessions {
    /// Sessions that move the most, in no order.
    pub fn top(&self, by: By) -> impl Iterator<Item = (&Session, Rates)> {
        let Top([bits, packets]) = &self.top;
        let list = if by == By::Bits { bits } else { packets };
        list.entries().iter().filter_map(|entry| Some((self.get(entry.index)?, entry.value)))
    }

    /// The sweep has looked at a session: it has moved so much here since the last look.
    #[inline]
    pub(super) fn rank(&mut self, index: u32, session: &mut Session, moved: ([u64; 2], [u64; 2]), now: u32) {
        let elapsed = now.wrapping_sub(session.looked);
        session.looked = now;
        let (bytes, packets) = moved;
        if session.listed == 0 && bytes == [0; 2] {
            return;
        }
        let mut rates = Rates {
            bytes: bytes.map(|bytes| per_second(bytes, elapsed)),
            packets: packets.map(|packets| per_second(packets, elapsed)),
        };
        if session.listed != 0 && session.carriers != [0; 2] {
            self.keep_carried(index, session, &mut rates, now);
        }
        self.list(index, session, rates);
    }

    /// What carriers have told of a direction stands, as long as they go on telling.
    fn keep_carried(&mut self, index: u32, session: &Session, rates: &mut Rates, now: u32) {
        let known = self.top.0.iter_mut().find_map(|list| list.get_mut(index).copied());
        let Some(known) = known else { return };
        for direction in 0..2 {
            let flow = self.flow(session.family_of(direction), session.flows[direction]);
            let is_silent = flow.is_none_or(|flow| now.wrapping_sub(flow.last_seen) > SILENT);
            if session.carriers[direction] != 0 && rates.packets[direction] == 0 && !is_silent {
                (rates.bytes[direction], rates.packets[direction]) =
                    (known.bytes[direction], known.packets[direction]);
            }
        }
    }

    /// A carrier tells what has passed in one direction within the last second.
    pub(super) fn rank_carried(&mut self, index: u32, direction: usize, bytes: u64, packets: u64) {
        let Some(mut session) = self.get(index).copied() else { return };
        let known = self.top.0.iter_mut().find_map(|list| list.get_mut(index).copied());
        let mut rates = known.filter(|_| session.listed != 0).unwrap_or_default();
        (rates.bytes[direction], rates.packets[direction]) = (bytes, packets);
        self.list(index, &mut session, rates);
        if let Some(place) = self.slab.get_mut(index as usize) {
            place.listed = session.listed;
        }
    }

    fn list(&mut self, index: u32, session: &mut Session, rates: Rates) {
        for ((by, bit), list) in LISTS.into_iter().zip(&mut self.top.0) {
            let weight = rates.weight(by);
            if session.listed & bit != 0 {
                if let Some(kept) = list.get_mut(index) {
                    *kept = rates;
                }
                if !list.weigh(index, weight) {
                    session.listed &= !bit;
                }
            } else if list.wants(weight) {
                let (_, gone) = list.offer(Entry { index, weight, value: rates });
                session.listed |= bit;
                if let Some(other) = gone.and_then(|gone| self.slab.get_mut(gone as usize)) {
                    other.listed &= !bit;
                }
            }
        }
    }

    /// A session ends.
    pub(super) fn unlist(&mut self, index: u32, listed: u8) {
        for ((_, bit), list) in LISTS.into_iter().zip(&mut self.top.0) {
            if listed & bit != 0 {
                list.weigh(index, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_pkt::ipv4;

    use super::super::tests::new;
    use super::*;
    use crate::counters::Counters;
    use crate::nat::Nat;
    use crate::snapshot::{Snapshot, Timeouts};

    #[test]
    fn the_largest_are_found_and_go_when_they_are_quiet_or_over() {
        let mut snapshot = Snapshot::default();
        snapshot.sizes.sessions = 1000;
        let (mut sessions, mut nat) = (Sessions::new(&snapshot), Nat::new(&snapshot));
        let counters = &mut Counters::new(&snapshot);
        let timeouts = Timeouts { udp: 120 * SECOND, ..Timeouts::default() };
        for port in 0..1000 {
            sessions.create(&new(port, ipv4::UDP), SECOND, &mut nat, counters).unwrap();
        }
        // Each second, session n sends n packets of 100 bytes; the last one fewer, but larger ones.
        for second in 1..20u64 {
            for port in 0..1000u16 {
                let flow = sessions.v4.find(&new(port, ipv4::UDP).keys[0]).unwrap();
                let (packets, size) = if port == 999 { (10, 1_000_000) } else { (port, 100) };
                let flow = sessions.v4.value_mut(flow).unwrap();
                (0..packets).for_each(|_| flow.count(size, ticks(second * SECOND)));
            }
            for part in 1..=10 {
                sessions.sweep(second * SECOND + part * SECOND / 10, &timeouts, &mut nat, counters);
            }
        }
        let listed = |sessions: &Sessions, by| {
            let mut rows: Vec<(u64, u64)> =
                sessions.top(by).map(|(_, rates)| (rates.weight(by), rates.packets[0])).collect();
            rows.sort_unstable_by(|a, b| b.cmp(a));
            rows
        };
        let close = |value: u64, to: u64| value.abs_diff(to) <= to / 16 + 1;
        let rows = listed(&sessions, By::Bits);
        assert_eq!(rows.len(), ROOM);
        assert!(close(rows[0].0, 10_000_000) && close(rows[1].0, 99_800), "{:?}", &rows[..2]);
        let rows = listed(&sessions, By::Packets);
        assert!(close(rows[0].0, 998) && close(rows[ROOM - 1].0, 998 - 255), "{:?}", &rows[..2]);
        // Quiet ones go within a round or two, and so do those that end.
        for tenth in 200..230u64 {
            sessions.sweep(tenth * SECOND / 10, &timeouts, &mut nat, counters);
        }
        assert_eq!(sessions.top(By::Bits).count() + sessions.top(By::Packets).count(), 0);
        assert!(sessions.slab.iter().all(|session| session.listed == 0));
    }
}
