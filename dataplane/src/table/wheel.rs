//! A hierarchical timing wheel (Varghese and Lauck, SOSP 1987): timers of which each entry has at most one.
//!
//! To arm, to cancel and to find the next one takes constant time. Levels have 64 slots each, a slot of one being as long
//! as all of the level below, and a bit for each slot that is in use; so time may jump by hours without a walk over what is
//! empty. A timer fires at the first tick at or after its deadline: up to [`TICK`] late, never early.

use crate::arena::{HugePages, HugeVec};
use crate::clock::Nanos;

/// Nanoseconds of a tick.
pub const TICK: Nanos = 1 << TICK_BITS;

const TICK_BITS: u32 = 10;
const DIGIT: u32 = 6;
const SLOTS: usize = 1 << DIGIT;
/// As many as a 64-bit time has digits.
const LEVELS: usize = 9;
const NONE: u32 = u32::MAX;
/// An entry whose timer is not armed.
const IDLE: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// In ticks.
    deadline: u64,
    prev: u32,
    next: u32,
    /// Level and slot, or `IDLE`.
    slot: u16,
}

/// A timing wheel for entries 0 to a fixed number. See the module's description.
#[derive(Debug)]
pub struct Wheel {
    entries: HugeVec<Entry>,
    heads: [[u32; SLOTS]; LEVELS],
    /// Slots in use, a bit each.
    used: [u64; LEVELS],
    /// Levels in use, a bit each.
    levels: u32,
    /// The tick up to which timers have been looked at.
    tick: u64,
}

/// The first tick at or after a time; the last one for those behind it.
fn tick_of(deadline: Nanos) -> u64 {
    deadline.div_ceil(TICK).min(u64::MAX >> TICK_BITS)
}

impl Wheel {
    /// A wheel for entries below `capacity`, none of them armed, that begins at the time 0.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let mut entries = HugeVec::with_capacity_in(capacity as usize, HugePages);
        entries.resize(capacity as usize, Entry { deadline: 0, prev: NONE, next: NONE, slot: IDLE });
        Self { entries, heads: [[NONE; SLOTS]; LEVELS], used: [0; LEVELS], levels: 0, tick: 0 }
    }

    /// Memory taken, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.entries)
    }

    /// Arms the timer of `entry` anew, for `deadline` in ns. One that has passed fires next. Does nothing if there is no such
    /// entry.
    pub fn arm(&mut self, entry: u32, deadline: Nanos) {
        self.cancel(entry);
        let Some(timer) = self.entries.get_mut(entry as usize) else { return };
        timer.deadline = tick_of(deadline);
        self.link(entry);
    }

    /// Arms the timer of `entry` unless it is armed for `deadline` or an earlier time.
    pub fn arm_by(&mut self, entry: u32, deadline: Nanos) {
        let Some(timer) = self.entries.get(entry as usize) else { return };
        if timer.slot == IDLE || timer.deadline > tick_of(deadline) {
            self.arm(entry, deadline);
        }
    }

    /// Disarms the timer of `entry`.
    pub fn cancel(&mut self, entry: u32) {
        let Some(timer) = self.entries.get_mut(entry as usize) else { return };
        let Entry { prev, next, slot, .. } = *timer;
        if slot == IDLE {
            return;
        }
        timer.slot = IDLE;
        let (level, slot) = (usize::from(slot) / SLOTS, usize::from(slot) % SLOTS);
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.prev = prev;
        }
        match self.entries.get_mut(prev as usize) {
            Some(prev) => prev.next = next,
            None => self.set_head(level, slot, next),
        }
    }

    /// The earliest time, in ns, at which [`pop`](Self::pop) may have an entry. What is far away is looked at once for each level
    /// that it comes down, and the time of that counts. `None` if nothing is armed.
    #[inline]
    #[must_use]
    pub fn next(&self) -> Option<Nanos> {
        self.first().map(|(_, _, tick)| tick.saturating_mul(TICK))
    }

    /// The next entry whose deadline is at or before `now`, disarmed. Times that go back are those seen last.
    #[inline]
    pub fn pop(&mut self, now: Nanos) -> Option<u32> {
        let now = now >> TICK_BITS;
        while let Some((level, slot, tick)) = self.first() {
            if tick > now {
                break;
            }
            // A slot of an earlier tick holds what was armed for times that had passed.
            self.tick = self.tick.max(tick);
            let head = self.heads[level][slot];
            if level == 0 {
                self.cancel(head);
                return Some(head);
            }
            self.move_down(level, slot, head);
        }
        // No slot begins between the two, so that every entry keeps its place.
        self.tick = self.tick.max(now);
        None
    }

    /// Spreads a slot that has begun over the levels below.
    fn move_down(&mut self, level: usize, slot: usize, mut head: u32) {
        self.set_head(level, slot, NONE);
        while let Some(timer) = self.entries.get(head as usize) {
            let next = timer.next;
            self.link(head);
            head = next;
        }
    }

    /// The first slot in use, and the tick at which it begins.
    #[inline]
    fn first(&self) -> Option<(usize, usize, u64)> {
        let level = self.levels.trailing_zeros() as usize;
        // Lower levels are earlier, and within one all slots lie ahead.
        let slot = self.used.get(level)?.trailing_zeros();
        let shift = DIGIT * level as u32;
        let above = (self.tick >> shift) & !(SLOTS as u64 - 1);
        Some((level, slot as usize, (above | u64::from(slot)) << shift))
    }

    fn link(&mut self, entry: u32) {
        let Some(timer) = self.entries.get_mut(entry as usize) else { return };
        // The highest digit in which it differs from the present.
        let deadline = timer.deadline.max(self.tick);
        let level = (deadline ^ self.tick).checked_ilog2().map_or(0, |bit| bit / DIGIT);
        let slot = (deadline >> (DIGIT * level)) as usize % SLOTS;
        let level = level as usize;
        let head = self.heads[level][slot];
        (timer.prev, timer.next) = (NONE, head);
        timer.slot = (level * SLOTS + slot) as u16;
        if let Some(head) = self.entries.get_mut(head as usize) {
            head.prev = entry;
        }
        self.set_head(level, slot, entry);
    }

    fn set_head(&mut self, level: usize, slot: usize, head: u32) {
        self.heads[level][slot] = head;
        let bit = 1 << slot;
        self.used[level] = if head == NONE { self.used[level] & !bit } else { self.used[level] | bit };
        let bit = 1 << level;
        self.levels = if self.used[level] == 0 { self.levels & !bit } else { self.levels | bit };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const HOUR: Nanos = 3_600_000_000_000;

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u32, Nanos),
        ArmBy(u32, Nanos),
        Cancel(u32),
        Pass(Nanos),
    }

    fn spans() -> impl Strategy<Value = Nanos> {
        prop_oneof![
            Just(0),
            0..5000u64,
            0..1_000_000u64,
            0..10_000_000_000u64,
            0..30 * HOUR,
            Just(u64::MAX / 4)
        ]
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..12u32, spans()).prop_map(|(entry, span)| Step::Arm(entry, span)),
            1 => (0..12u32, spans()).prop_map(|(entry, span)| Step::ArmBy(entry, span)),
            1 => (0..12u32).prop_map(Step::Cancel),
            3 => spans().prop_map(Step::Pass),
        ]
    }

    proptest! {
        #![proptest_config(crate::table::cases(500))]

        #[test]
        fn fires_as_a_sorted_map_does(start in spans(), steps in prop::collection::vec(steps(), 0..120)) {
            let (mut wheel, mut model) = (Wheel::new(12), BTreeMap::new());
            let mut now = start;
            prop_assert_eq!(wheel.pop(now), None);
            for step in steps {
                match step {
                    Step::Arm(entry, span) => {
                        wheel.arm(entry, now.saturating_add(span));
                        model.insert(entry, tick_of(now.saturating_add(span)));
                    }
                    Step::ArmBy(entry, span) => {
                        wheel.arm_by(entry, now.saturating_add(span));
                        let deadline = tick_of(now.saturating_add(span));
                        let armed = model.entry(entry).or_insert(deadline);
                        *armed = deadline.min(*armed);
                    }
                    Step::Cancel(entry) => {
                        wheel.cancel(entry);
                        model.remove(&entry);
                    }
                    Step::Pass(span) => {
                        now = now.saturating_add(span);
                        while let Some(entry) = wheel.pop(now) {
                            let deadline = model.remove(&entry);
                            prop_assert!(deadline.is_some_and(|tick| tick <= now / TICK), "{entry} fired early");
                        }
                        prop_assert!(model.values().all(|&tick| tick > now / TICK), "one that is due did not fire");
                    }
                }
                let first = model.values().min();
                prop_assert_eq!(wheel.next().is_some(), first.is_some());
                if let (Some(next), Some(&first)) = (wheel.next(), first) {
                    prop_assert!(next <= first.saturating_mul(TICK));
                }
            }
        }
    }

    #[test]
    fn a_distant_deadline_is_looked_at_once_a_level() {
        let mut wheel = Wheel::new(1);
        wheel.arm(0, 30 * HOUR + 123_456_789);
        let mut looks = 0;
        while let Some(next) = wheel.next() {
            looks += 1;
            if wheel.pop(next).is_some() {
                assert_eq!(next, (30 * HOUR + 123_456_789).div_ceil(TICK) * TICK);
            }
        }
        assert!(looks <= LEVELS);
    }

    #[test]
    fn entries_that_do_not_exist_are_ignored() {
        let mut wheel = Wheel::new(1);
        wheel.arm(1, 0);
        wheel.arm_by(NONE, 0);
        wheel.cancel(7);
        assert_eq!((wheel.next(), wheel.pop(u64::MAX)), (None, None));
    }
}
