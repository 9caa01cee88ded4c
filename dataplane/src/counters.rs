//! Counters: plain numbers that one worker writes, published now and then to memory that anybody may read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::arena::Frame;
use crate::recorder::Recorder;
use crate::snapshot::Snapshot;
use crate::snapshot::lists::MOST_LISTS;
use crate::verdict::DropReason;

/// Packets, and their bytes on the wire without FCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    /// Counts one packet.
    #[inline]
    pub fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// What went through one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCount {
    /// Received, the refused ones included.
    pub rx: Count,
    /// Accepted for transmission.
    pub tx: Count,
}

/// What one limit let pass and what it did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitCount {
    /// Passed, marked or not.
    pub passed: Count,
    /// Dropped.
    pub dropped: Count,
    /// The same packets by colour: green, yellow and red.
    pub colors: [Count; 3],
    /// Meters that are kept, of a limit that has one for each source, destination or flow. A gauge.
    pub meters: u64,
    /// Meters that made room for others though they were not full.
    pub forgotten: u64,
}

/// One worker's counters. The vectors are as long as the snapshot's lists and never grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By port.
    pub ports: Vec<PortCount>,
    /// By [`DropReason`], in the order of [`DropReason::ALL`].
    pub drops: Vec<u64>,
    /// Packets handed to the gateway's own stack or to the kernel.
    pub punted: u64,
    /// Packets that wait: for a neighbour, for another worker's answer, or in an outbox. A gauge.
    pub held: u64,
    /// Packets that the gateway made itself.
    pub originated: u64,
    /// Fragments made of one packet, less one each.
    pub split_extra: u64,
    /// Answers not sent because of the ICMP rate.
    pub icmp_suppressed: u64,
    /// Sessions made since the start.
    pub sessions_created: u64,
    /// Sessions that have ended since the start.
    pub sessions_ended: u64,
    /// Of these, those that another configuration did not allow, or would have given another mapping.
    pub sessions_ended_by_policy: u64,
    /// Of these, those that gave way to new ones, as the table was full.
    pub sessions_evicted: u64,
    /// Sessions that are live. A gauge.
    pub sessions: u64,
    /// NAT bindings that are live. A gauge.
    pub bindings: u64,
    /// Of these, those that inside hosts have asked for. A gauge.
    pub leases: u64,
    /// Requests of inside hosts about their mappings.
    pub port_control_requests: u64,
    /// Of these, those that were refused.
    pub port_control_refused: u64,
    /// Records of NAT made for logs.
    pub nat_recorded: u64,
    /// Of these, those that found no room.
    pub nat_unrecorded: u64,
    /// Records made of what passed by flows.
    pub flows_recorded: u64,
    /// Of these, those that found no room.
    pub flows_unrecorded: u64,
    /// Packets sampled.
    pub samples: u64,
    /// Of these, those that found no room.
    pub samples_lost: u64,
    /// How many workers these are the counters of. A gauge.
    pub workers: u64,
    /// Packets lent to the worker that owns their session.
    pub crossed: u64,
    /// Packets that waited for the answer about one that was lent.
    pub parked: u64,
    /// Messages to other workers.
    pub notices: u64,
    /// Messages to other workers that found no room. What they said is found out later.
    pub notices_lost: u64,
    /// Flows of other workers' sessions that are carried here. A gauge.
    pub copies: u64,
    /// Hits by rule.
    pub rules: Vec<Count>,
    /// By limit.
    pub limits: Vec<LimitCount>,
    /// First packets that a list blocked, by the first such list.
    pub blocked: [u64; MOST_LISTS],
    /// The last packets of each reason; with the worker's own counters alone.
    pub recorder: Recorder,
}

impl Counters {
    /// All zero, with room for what the snapshot lists.
    pub fn new(snapshot: &Snapshot) -> Self {
        Self {
            ports: vec![PortCount::default(); snapshot.ports.len()],
            drops: vec![0; DropReason::COUNT],
            rules: vec![Count::default(); snapshot.rules.len()],
            limits: vec![LimitCount::default(); snapshot.limits.len()],
            workers: 1,
            ..Self::default()
        }
    }

    /// Counts a drop.
    #[inline]
    pub fn dropped(&mut self, reason: DropReason, packets: u64) {
        if let Some(slot) = self.drops.get_mut(reason as usize) {
            *slot += packets;
        }
    }

    /// Counts the drop of a packet that is at hand, and has the flight recorder look at it. `port` is where it came in, and
    /// `rule` the ACL rule that says no; [`NONE16`](crate::snapshot::NONE16) where there is none.
    #[inline]
    pub fn lost(&mut self, reason: DropReason, frame: &Frame, port: u16, rule: u16) {
        self.dropped(reason, 1);
        self.recorder.keep(reason, frame, port, rule);
    }

    /// Packets received, all ports.
    pub fn rx(&self) -> u64 {
        self.ports.iter().map(|p| p.rx.packets).sum()
    }

    /// Packets transmitted, all ports.
    pub fn tx(&self) -> u64 {
        self.ports.iter().map(|p| p.tx.packets).sum()
    }

    /// Packets that came and are not accounted for; below 0, those that are accounted for and never came.
    pub fn unaccounted(&self) -> i64 {
        let came = self.rx() + self.originated + self.split_extra;
        let went = self.tx() + self.drops.iter().sum::<u64>() + self.punted + self.held;
        came.wrapping_sub(went) as i64
    }

    /// Whether every packet is accounted for: rx + originated + split_extra = tx + drops + punted + held.
    pub fn conserved(&self) -> bool {
        self.unaccounted() == 0
    }

    /// Adds another worker's counters to these. If one of the two has not adopted a configuration yet that the other has,
    /// those of rules and limits mean nothing in the sum.
    pub fn merge(&mut self, mut other: Self) {
        let rules = self.rules.len().max(other.rules.len());
        let limits = self.limits.len().max(other.limits.len());
        for counters in [&mut *self, &mut other] {
            counters.rules.resize(rules, Count::default());
            counters.limits.resize(limits, LimitCount::default());
        }
        let mut theirs = Vec::new();
        other.each_but_rules(|n| theirs.push(*n));
        let mut theirs = theirs.into_iter();
        self.each_but_rules(|n| *n += theirs.next().unwrap_or(0));
        for (count, other) in self.rules.iter_mut().zip(&other.rules) {
            count.packets += other.packets;
            count.bytes += other.bytes;
        }
    }

    /// Visits every number but the hits of rules, always in the same order.
    fn each_but_rules(&mut self, mut f: impl FnMut(&mut u64)) {
        let mut count = |c: &mut Count| {
            f(&mut c.packets);
            f(&mut c.bytes);
        };
        for port in &mut self.ports {
            count(&mut port.rx);
            count(&mut port.tx);
        }
        for limit in &mut self.limits {
            count(&mut limit.passed);
            count(&mut limit.dropped);
            limit.colors.iter_mut().for_each(&mut count);
        }
        for limit in &mut self.limits {
            f(&mut limit.meters);
            f(&mut limit.forgotten);
        }
        self.drops.iter_mut().for_each(&mut f);
        self.blocked.iter_mut().for_each(&mut f);
        let single = [
            &mut self.punted,
            &mut self.held,
            &mut self.originated,
            &mut self.split_extra,
            &mut self.icmp_suppressed,
            &mut self.sessions_created,
            &mut self.sessions_ended,
            &mut self.sessions_ended_by_policy,
            &mut self.sessions_evicted,
            &mut self.sessions,
            &mut self.bindings,
            &mut self.leases,
            &mut self.port_control_requests,
            &mut self.port_control_refused,
            &mut self.nat_recorded,
            &mut self.nat_unrecorded,
            &mut self.flows_recorded,
            &mut self.flows_unrecorded,
            &mut self.samples,
            &mut self.samples_lost,
            &mut self.workers,
            &mut self.crossed,
            &mut self.parked,
            &mut self.notices,
            &mut self.notices_lost,
            &mut self.copies,
        ];
        single.into_iter().for_each(f);
    }
}

/// Rules whose hits are published at a time: with more, the others' turn comes the next time. A publication of 10,000 rules would
/// hold the packets up.
const RULES: usize = 1024;

/// The published copy. One writer, any number of readers; a reader sees all numbers as of one moment (a sequence lock
/// whose writer never waits and makes no atomic read-modify-write), but for the hits of many rules.
#[derive(Debug)]
struct Shared {
    sequence: AtomicU64,
    slots: Vec<AtomicU64>,
    /// Packets and bytes.
    rules: Vec<[AtomicU64; 2]>,
}

/// The worker's end.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    /// The rule whose turn it is.
    next: usize,
}

/// The reader's end.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    shape: Counters,
}

/// Makes the two ends for counters of this shape.
pub fn channel(counters: &Counters) -> (Publisher, Reader) {
    let mut shape = counters.clone();
    let mut slots = Vec::new();
    shape.each_but_rules(|n| slots.push(AtomicU64::new(*n)));
    let rules = shape.rules.iter().map(|hits| [AtomicU64::new(hits.packets), AtomicU64::new(hits.bytes)]);
    let shared = Arc::new(Shared { sequence: AtomicU64::new(0), slots, rules: rules.collect() });
    (Publisher { shared: shared.clone(), next: 0 }, Reader { shared, shape })
}

impl Publisher {
    /// Publishes the counters as they are; of more than 1,024 rules, the hits of so many.
    pub fn publish(&mut self, counters: &mut Counters) {
        self.publish_rules(counters, RULES);
    }

    /// Publishes all of them.
    pub fn publish_all(&mut self, counters: &mut Counters) {
        self.publish_rules(counters, usize::MAX);
    }

    fn publish_rules(&mut self, counters: &mut Counters, most: usize) {
        let Self { shared, next } = self;
        let sequence = shared.sequence.load(Ordering::Relaxed);
        shared.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let mut slots = shared.slots.iter();
        counters.each_but_rules(|n| {
            if let Some(slot) = slots.next() {
                slot.store(*n, Ordering::Relaxed);
            }
        });
        let from = if most >= shared.rules.len() { 0 } else { *next };
        let rules = shared.rules.iter().zip(&counters.rules).skip(from).take(most);
        for ([packets, bytes], hits) in rules {
            packets.store(hits.packets, Ordering::Relaxed);
            bytes.store(hits.bytes, Ordering::Relaxed);
        }
        *next = if from.saturating_add(most) < shared.rules.len() { from + most } else { 0 };
        shared.sequence.store(sequence + 2, Ordering::Release);
    }
}

impl Reader {
    /// The counters as last published.
    pub fn read(&self) -> Counters {
        loop {
            let before = self.shared.sequence.load(Ordering::Acquire);
            let mut counters = self.shape.clone();
            let mut slots = self.shared.slots.iter();
            counters.each_but_rules(|n| *n = slots.next().map_or(0, |slot| slot.load(Ordering::Relaxed)));
            for (hits, [packets, bytes]) in counters.rules.iter_mut().zip(&self.shared.rules) {
                (hits.packets, hits.bytes) = (packets.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
            }
            fence(Ordering::Acquire);
            if before % 2 == 0 && self.shared.sequence.load(Ordering::Relaxed) == before {
                return counters;
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Counters {
        let mut counters = Counters::new(&Snapshot::default());
        counters.ports.resize(2, PortCount::default());
        counters.rules.resize(3, Count::default());
        counters
    }

    #[test]
    fn what_is_published_is_read() {
        let mut counters = shape();
        let (mut publisher, reader) = channel(&counters);
        counters.ports[1].rx.add(100);
        counters.dropped(DropReason::Runt, 1);
        counters.rules[2].add(7);
        assert!(counters.conserved());
        publisher.publish(&mut counters);
        assert_eq!(reader.read(), counters);
        let mut sum = reader.read();
        sum.merge(reader.read());
        assert_eq!((sum.rx(), sum.rules[2].bytes, sum.drops[DropReason::Runt as usize]), (2, 14, 2));
    }

    #[test]
    fn of_many_rules_each_has_its_turn() {
        let mut counters = shape();
        counters.rules.resize(2 * RULES + 1, Count::default());
        let (mut publisher, reader) = channel(&counters);
        counters.rules.iter_mut().for_each(|hits| hits.add(7));
        counters.dropped(DropReason::Runt, 1);
        for (published, drops) in [(0, 0), (RULES, 1), (2 * RULES, 1), (2 * RULES + 1, 1)] {
            let seen = reader.read();
            assert_eq!(seen.rules.iter().filter(|hits| **hits == counters.rules[0]).count(), published);
            assert_eq!(seen.drops[DropReason::Runt as usize], drops);
            publisher.publish(&mut counters);
        }
        counters.rules.iter_mut().for_each(|hits| hits.add(7));
        publisher.publish_all(&mut counters);
        assert_eq!(reader.read(), counters);
    }

    #[test]
    fn a_reader_never_sees_half_an_update() {
        let mut counters = shape();
        let (mut publisher, reader) = channel(&counters);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..20_000 {
                    counters.ports[0].rx.add(64);
                    counters.ports[1].tx.add(64);
                    publisher.publish(&mut counters);
                }
            });
            loop {
                let seen = reader.read();
                assert!(seen.conserved());
                if seen.rx() == 20_000 {
                    break;
                }
            }
        });
    }
}
