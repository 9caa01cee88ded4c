//! The state of CoDel (RFC 8289) for one queue, and when it says that a packet is one too many.

use crate::table::meter::Rate;

use super::config::Codel;

const MILLISECOND: u64 = 1_000_000;
/// What is good on any link (RFC 8289, 4.3 and 4.2).
const TARGET: u64 = 5 * MILLISECOND;
const INTERVAL: u64 = 100 * MILLISECOND;

/// What is kept for a queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    /// When the wait will have been above the target for an interval; 0: it is not above.
    above: u64,
    /// When the next is dropped, or would have been.
    next: u64,
    /// Drops since it dropped first, and how many there were when it last began. 0 if it does not drop.
    count: u32,
    last: u32,
}

/// Target and interval of a queue, ns, and the bytes of which a queue always may hold one packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Law {
    pub(super) target: u64,
    pub(super) interval: u64,
    pub(super) mtu: u32,
}

impl Codel {
    /// Target and interval where the leaf sends at `rate`, if that is bounded.
    pub(super) fn at(&self, rate: Option<Rate>, mtu: u32) -> (u64, u64) {
        let one_and_half = rate.map_or(0, |rate| {
            let bits = u64::from(mtu) * 12;
            bits.saturating_mul(1_000_000_000).div_ceil(rate.bits_per_second.max(1))
        });
        let target = if self.target == 0 { TARGET.max(one_and_half) } else { self.target };
        let interval = if self.interval == 0 {
            INTERVAL.saturating_add(target.saturating_sub(TARGET))
        } else {
            self.interval
        };
        (target, interval.max(1))
    }
}

impl State {
    /// Whether the packet at the head, which has waited for so long with `behind` bytes behind it, may be dropped.
    fn may_drop(&mut self, law: &Law, now: u64, waited: u64, behind: u32) -> bool {
        if waited < law.target || behind <= law.mtu {
            self.above = 0;
            return false;
        }
        if self.above == 0 {
            self.above = now.saturating_add(law.interval).max(1);
            return false;
        }
        now >= self.above
    }

    /// Whether the packet that leaves now is to be dropped, or marked. `again` says that the one ahead of it has just been
    /// dropped.
    #[inline]
    pub(super) fn drops(&mut self, law: &Law, now: u64, waited: u64, behind: u32, again: bool) -> bool {
        if waited < law.target && !self.is_dropping() {
            self.above = 0;
            return false;
        }
        self.drops_late(law, now, waited, behind, again)
    }

    fn drops_late(&mut self, law: &Law, now: u64, waited: u64, behind: u32, again: bool) -> bool {
        let may = self.may_drop(law, now, waited, behind);
        if self.is_dropping() {
            if !may {
                self.stop();
                return false;
            }
            if again {
                self.go_on(law, now);
            }
            if now < self.next {
                return false;
            }
            self.count = DROPPING | (self.count + 1);
            return true;
        }
        if may {
            // What was learnt about the rate is kept where dropping has ended not long ago.
            let learnt = self.count.saturating_sub(self.last);
            let recent = now.saturating_sub(self.next) < law.interval.saturating_mul(16);
            let count = if learnt > 1 && recent { learnt } else { 1 };
            (self.count, self.last) = (count | DROPPING, count);
            self.next = law.after(now, count);
        }
        may
    }

    /// One was dropped or marked, and the queue still is too long: sets the time of the next.
    pub(super) fn go_on(&mut self, law: &Law, now: u64) {
        if now >= self.next {
            self.next = law.after(self.next, self.count & !DROPPING);
        }
    }

    fn stop(&mut self) {
        self.count &= !DROPPING;
    }

    /// There was no packet.
    pub(super) fn empty(&mut self) {
        self.above = 0;
        self.stop();
    }

    fn is_dropping(&self) -> bool {
        self.count & DROPPING != 0
    }
}

/// In [`State::count`]: it is dropping.
const DROPPING: u32 = 1 << 31;

impl Law {
    /// The time of the next drop but one, after `time`, when there have been `count`.
    fn after(&self, time: u64, count: u32) -> u64 {
        let wait = (self.interval as f64 / f64::from(count.max(1)).sqrt()) as u64;
        time.saturating_add(wait.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// The pseudo code of RFC 8289, section 5, to the letter; a packet is the time when it came, and 1,000 bytes.
    #[derive(Default)]
    struct Plain {
        queue: VecDeque<u64>,
        first_above_time: u64,
        drop_next: u64,
        count: u32,
        lastcount: u32,
        dropping: bool,
        dropped: Vec<u64>,
    }

    const LAW: Law = Law { target: TARGET, interval: INTERVAL, mtu: 1514 };

    impl Plain {
        fn dodequeue(&mut self, now: u64) -> (Option<u64>, bool) {
            let Some(packet) = self.queue.pop_front() else {
                self.first_above_time = 0;
                return (None, false);
            };
            let mut ok_to_drop = false;
            if now - packet < TARGET || self.queue.len() * 1000 <= 1514 {
                self.first_above_time = 0;
            } else if self.first_above_time == 0 {
                self.first_above_time = now + INTERVAL;
            } else if now >= self.first_above_time {
                ok_to_drop = true;
            }
            (Some(packet), ok_to_drop)
        }

        fn control_law(time: u64, count: u32) -> u64 {
            time + (INTERVAL as f64 / f64::from(count).sqrt()) as u64
        }

        fn dequeue(&mut self, now: u64) -> Option<u64> {
            let (mut packet, mut ok_to_drop) = self.dodequeue(now);
            if self.dropping {
                if !ok_to_drop {
                    self.dropping = false;
                }
                while now >= self.drop_next && self.dropping {
                    self.dropped.extend(packet);
                    self.count += 1;
                    (packet, ok_to_drop) = self.dodequeue(now);
                    if ok_to_drop {
                        self.drop_next = Self::control_law(self.drop_next, self.count);
                    } else {
                        self.dropping = false;
                    }
                }
            } else if ok_to_drop {
                self.dropped.extend(packet);
                (packet, _) = self.dodequeue(now);
                self.dropping = true;
                let delta = self.count - self.lastcount;
                self.count = 1;
                if delta > 1 && now.saturating_sub(self.drop_next) < 16 * INTERVAL {
                    self.count = delta;
                }
                self.drop_next = Self::control_law(now, self.count);
                self.lastcount = self.count;
            }
            packet
        }
    }

    /// The same by [`State`].
    #[derive(Default)]
    struct Ours {
        queue: VecDeque<u64>,
        state: State,
        dropped: Vec<u64>,
    }

    impl Ours {
        fn dequeue(&mut self, now: u64) -> Option<u64> {
            let mut again = false;
            while let Some(packet) = self.queue.pop_front() {
                let behind = self.queue.len() as u32 * 1000;
                if !self.state.drops(&LAW, now, now - packet, behind, again) {
                    return Some(packet);
                }
                self.dropped.push(packet);
                again = true;
            }
            self.state.empty();
            None
        }
    }

    proptest! {
        #![proptest_config(crate::table::cases(300))]

        #[test]
        fn drops_what_the_pseudo_code_drops(
            bouts in prop::collection::vec((0..300u32, 1..3_000_000u64, 1..3_000_000u64), 1..20),
        ) {
            let (mut plain, mut ours) = (Plain::default(), Ours::default());
            let mut now = 1_000_000_000;
            for (packets, arrival, departure) in bouts {
                let (mut arrives, mut leaves) = (now, now);
                let end = now + u64::from(packets) * arrival;
                while now < end {
                    now = arrives.min(leaves);
                    if arrives <= leaves {
                        plain.queue.push_back(now);
                        ours.queue.push_back(now);
                        arrives += arrival;
                    } else {
                        prop_assert_eq!(plain.dequeue(now), ours.dequeue(now));
                        leaves += departure;
                    }
                    prop_assert_eq!(&plain.dropped, &ours.dropped);
                }
            }
        }
    }

    #[test]
    fn targets_follow_the_rate() {
        let codel = Codel::default();
        let rate = |bits_per_second| Some(Rate { bits_per_second });
        assert_eq!(codel.at(None, 1514), (TARGET, INTERVAL));
        assert_eq!(codel.at(rate(100_000_000), 1514), (TARGET, INTERVAL));
        assert_eq!(codel.at(rate(1_000_000), 1514), (18_168_000, 113_168_000));
        assert_eq!(codel.at(rate(64_000), 1514), (283_875_000, 378_875_000));
        let fixed = Codel { target: 1, interval: 2, ecn: false };
        assert_eq!(fixed.at(rate(1), 1514), (1, 2));
        assert!(codel.at(rate(0), u32::MAX).0 > 0);
    }
}
