//! What passed by flows, for collectors: when a session ends, is idle, or has lasted for long, the owner writes a record for each
//! direction into a ring, and the control side reads them. A ring that is full costs records, which are counted, and never time.
//!
//! The sweep does all of it, so records come up to eight seconds later than the timeouts say, and packets pay nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringbuf::traits::{Consumer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use sluice_pkt::ipv4;

use super::{Direction, Family, FlowAction, KeyFacts, NONE, Session, Sessions, ticks};
use crate::arena::{HugePages, HugeVec};
use crate::clock::Nanos;

/// Records that may wait for the control side.
const ROOM: usize = 32_768;

/// Why a record was made: the values of flowEndReason (RFC 5102, information element 136).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndReason {
    /// No packet for the idle timeout, or the session's own.
    Idle = 1,
    /// It goes on, and has lasted for the active timeout.
    Active = 2,
    /// TCP was finished or reset.
    Finished = 3,
    /// The gateway ended it: another configuration, a session that took its place, or the end of the gateway.
    Forced = 4,
    /// It gave way to another, as the table was full.
    LackOfResources = 5,
}

/// An address and a port at each end.
pub type Ends = [(IpAddr, u16); 2];

/// What passed in one direction of a session since the record before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Source and destination as packets came in.
    pub ends: Ends,
    /// Source and destination as they left, if NAT changes them.
    pub post: Option<Ends>,
    /// IP protocol.
    pub protocol: u8,
    /// Differentiated services code point of the session's first packet.
    pub dscp: u8,
    /// TCP flags that were seen: of those packets alone that open and end.
    pub tcp_flags: u8,
    /// Why there is a record now.
    pub reason: EndReason,
    /// As the session's first packet went, or the other way.
    pub direction: Direction,
    /// Interface that packets came in by.
    pub ingress: u16,
    /// Interface that they left by, if it is known.
    pub egress: Option<u16>,
    /// Packets.
    pub packets: u64,
    /// Bytes, with the Ethernet header.
    pub bytes: u64,
    /// Not before this time, on the worker's clock.
    pub start: Nanos,
    /// Time of the last packet, in steps of 17 ms.
    pub end: Nanos,
}

/// When records are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportTimes {
    /// Of sessions that go on.
    pub active: Nanos,
    /// Of sessions that have sent nothing for so long.
    pub idle: Nanos,
}

/// What of a session has been reported.
#[derive(Clone, Copy, Debug, Default)]
struct Reported {
    packets: [u64; 2],
    bytes: [u64; 2],
    since: u32,
}

/// The worker's end.
pub(super) struct Reporter {
    ring: HeapProd<FlowRecord>,
    times: ReportTimes,
    seen: HugeVec<Reported>,
    made: u64,
    lost: u64,
}

/// The reader's end.
pub struct FlowReader(HeapCons<FlowRecord>);

impl FlowReader {
    /// The next record, oldest first.
    pub fn take(&mut self) -> Option<FlowRecord> {
        self.0.try_pop()
    }
}

/// A time in ticks, which wrap, as one that is before `now`; rounded down.
fn before(now: Nanos, tick: u32) -> Nanos {
    (now >> 24).saturating_sub(ticks(now).wrapping_sub(tick).into()) << 24
}

impl Sessions {
    /// Begins to report; the end to read from. It takes 40 bytes of memory a session.
    pub fn report(&mut self, times: ReportTimes) -> FlowReader {
        let (ring, reader) = HeapRb::new(ROOM).split();
        let mut seen = HugeVec::with_capacity_in(self.slab.capacity(), HugePages);
        seen.resize(self.slab.capacity(), Reported::default());
        self.reporter = Some(Box::new(Reporter { ring, times, seen, made: 0, lost: 0 }));
        FlowReader(reader)
    }

    /// Records made, and of these those that found no room.
    pub fn reported(&self) -> (u64, u64) {
        self.reporter.as_ref().map_or((0, 0), |reporter| (reporter.made, reporter.lost))
    }

    /// A session begins.
    #[inline]
    pub(super) fn report_from(&mut self, index: u32, now: u32) {
        if let Some(seen) = self.reporter.as_mut().and_then(|reporter| reporter.seen.get_mut(index as usize))
        {
            *seen = Reported { since: now, ..Reported::default() };
        }
    }

    /// What a session has counted so far was reported by others.
    pub(super) fn reported_up_to_now(&mut self, index: u32) {
        let now = self.sweep.now();
        let Some(&Session { packets, bytes, .. }) = self.slab.get(index as usize) else { return };
        let seen = self.reporter.as_mut().and_then(|reporter| reporter.seen.get_mut(index as usize));
        if let Some(seen) = seen {
            *seen = Reported { packets, bytes, since: now };
        }
    }

    /// The sweep has looked at a session that goes on.
    #[inline]
    pub(super) fn report_if_due(&mut self, index: u32, now: u32) {
        let (Some(reporter), Some(session)) = (&self.reporter, self.slab.get(index as usize)) else { return };
        let Some(seen) = reporter.seen.get(index as usize) else { return };
        if seen.packets == session.packets {
            return;
        }
        let last = |direction: usize| {
            let flow = self.flow(session.family_of(direction), session.flows[direction]);
            flow.map_or(u32::MAX, |flow| now.wrapping_sub(flow.last_seen))
        };
        let idle = last(0).min(last(1));
        if idle != u32::MAX && idle >= ticks(reporter.times.idle) {
            self.report_now(index, EndReason::Idle);
        } else if now.wrapping_sub(seen.since) >= ticks(reporter.times.active) {
            self.report_now(index, EndReason::Active);
        }
    }

    /// Reports what has passed of a session since it was reported last, if it is reported at all.
    pub(super) fn report_now(&mut self, index: u32, reason: EndReason) {
        let Some(mut reporter) = self.reporter.take() else { return };
        if let (Some(session), Some(seen)) =
            (self.slab.get(index as usize), reporter.seen.get(index as usize))
        {
            let (session, seen) = (*session, *seen);
            let reason = if reason != EndReason::Active && session.tcp.is_closing() {
                EndReason::Finished
            } else {
                reason
            };
            let mut now = Reported { since: self.sweep.now(), ..seen };
            for direction in [Direction::Forward, Direction::Reply] {
                let Some(record) = self.record(&session, direction, seen, reason) else { continue };
                now.packets[direction as usize] += record.packets;
                now.bytes[direction as usize] += record.bytes;
                reporter.made += 1;
                reporter.lost += u64::from(reporter.ring.try_push(record).is_err());
            }
            if let Some(seen) = reporter.seen.get_mut(index as usize) {
                *seen = now;
            }
        }
        self.reporter = Some(reporter);
    }

    /// All that live, at the end of the gateway.
    pub fn report_all(&mut self) {
        if self.reporter.is_some() {
            (0..self.slots()).for_each(|index| {
                if self.get(index).is_some() {
                    self.report_now(index, EndReason::Forced);
                }
            });
        }
    }

    fn record(
        &self,
        session: &Session,
        direction: Direction,
        seen: Reported,
        reason: EndReason,
    ) -> Option<FlowRecord> {
        let way = direction as usize;
        let flow = self.flow(session.family_of(way), session.flows[way])?;
        let packets = session.packets[way] + u64::from(flow.packets) - seen.packets[way];
        let bytes = session.bytes[way] + flow.bytes() - seen.bytes[way];
        if packets == 0 {
            return None;
        }
        let (ends, facts) = self.ends(session, way)?;
        let other = self.ends(session, 1 - way);
        let now = self.sweep.time();
        let is_tcp = session.protocol == ipv4::TCP;
        Some(FlowRecord {
            ends,
            post: post(ends, &flow.action, other.map(|(ends, _)| ends)),
            protocol: session.protocol,
            dscp: session.dscp,
            tcp_flags: if is_tcp { session.tcp.flags(direction) } else { 0 },
            reason,
            direction,
            ingress: facts.interface,
            egress: other.map(|(_, facts)| facts.interface),
            packets,
            bytes,
            start: before(now, seen.since).min(before(now, flow.last_seen)),
            end: before(now, flow.last_seen),
        })
    }

    /// The ends of a session's flow, as its packets come in.
    fn ends(&self, session: &Session, way: usize) -> Option<(Ends, KeyFacts)> {
        let index = session.flows[way];
        if index == NONE {
            return None;
        }
        let (addresses, facts): ([IpAddr; 2], KeyFacts) = match session.family_of(way) {
            Family::V4 => {
                let (ends, facts) = KeyFacts::of4(*self.v4.get(index)?.0);
                (ends.map(|end| Ipv4Addr::from_bits(end).into()), facts)
            }
            Family::V6 => {
                let (ends, facts) = KeyFacts::of6(*self.v6.get(index)?.0);
                (ends.map(|end| Ipv6Addr::from_bits(end).into()), facts)
            }
        };
        Some(([(addresses[0], facts.ports.0), (addresses[1], facts.ports.1)], facts))
    }
}

/// The ends that packets leave with, if they are others. Those of IPv4 that become IPv6 stand at the session's other flow.
fn post([src, dst]: Ends, action: &FlowAction, other: Option<Ends>) -> Option<Ends> {
    let new = &action.new;
    if action.is(FlowAction::TO_V6) {
        other.map(|[src, dst]| [dst, src])
    } else if action.is(FlowAction::SOURCE6) {
        Some([(new.v6().into(), src.1), dst])
    } else if action.is(FlowAction::DESTINATION6) {
        Some([src, (new.v6().into(), dst.1)])
    } else if action.is(FlowAction::NAT | FlowAction::TO_V4) {
        Some([(new.source().into(), new.source_port()), (new.destination().into(), new.destination_port())])
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use sluice_pkt::tcp;

    use super::super::tests::new;
    use super::super::{Segment, ticks};
    use super::*;
    use crate::clock::SECOND;
    use crate::counters::Counters;
    use crate::nat::Nat;
    use crate::snapshot::{Snapshot, Timeouts};

    struct Bench {
        sessions: Sessions,
        nat: Nat,
        counters: Counters,
        reader: FlowReader,
    }

    impl Bench {
        fn new(times: ReportTimes) -> Self {
            let mut snapshot = Snapshot::default();
            snapshot.sizes.sessions = 8;
            let mut sessions = Sessions::new(&snapshot);
            let reader = sessions.report(times);
            Self { sessions, nat: Nat::new(&snapshot), counters: Counters::new(&snapshot), reader }
        }

        fn see(&mut self, port: u16, protocol: u8, direction: usize, now: Nanos) {
            let flow = self.sessions.v4.find(&new(port, protocol).keys[direction]).unwrap();
            self.sessions.v4.value_mut(flow).unwrap().count(100, ticks(now));
        }

        fn sweep(&mut self, now: Nanos) -> Vec<FlowRecord> {
            let timeouts = Timeouts { udp: 60 * SECOND, ..Timeouts::default() };
            self.sessions.sweep(now, &timeouts, &mut self.nat, &mut self.counters);
            std::iter::from_fn(|| self.reader.take()).collect()
        }
    }

    #[test]
    fn a_session_is_reported_while_it_lasts_when_it_is_idle_and_at_its_end() {
        let mut bench = Bench::new(ReportTimes { active: 30 * SECOND, idle: 10 * SECOND });
        bench.sessions.create(&new(1, ipv4::UDP), SECOND, &mut bench.nat, &mut bench.counters).unwrap();
        let mut records = Vec::new();
        for second in 1..200u64 {
            if second <= 50 {
                bench.see(1, ipv4::UDP, 0, second * SECOND);
                if second % 10 == 0 {
                    bench.see(1, ipv4::UDP, 1, second * SECOND);
                }
            }
            for record in bench.sweep(second * SECOND) {
                records.push((second, record));
            }
        }
        let sum = |direction| {
            let of = records.iter().filter(|(_, record)| record.direction == direction);
            of.fold((0, 0), |sum, (_, record)| (sum.0 + record.packets, sum.1 + record.bytes))
        };
        assert_eq!((sum(Direction::Forward), sum(Direction::Reply)), ((50, 5000), (5, 500)));
        let reasons: Vec<_> =
            records.iter().map(|(at, record)| (*at, record.reason, record.direction)).collect();
        // The session itself is over at 110 s, but nothing has passed since it was found idle.
        assert!(
            reasons.iter().all(|(at, reason, _)| match reason {
                EndReason::Active => (31..40).contains(at),
                EndReason::Idle => (60..69).contains(at),
                _ => false,
            }),
            "{reasons:?}"
        );
        assert_eq!(reasons.len(), 4);
        let (_, first) = records[0];
        assert!(first.start <= SECOND && SECOND - first.start < 1 << 24 && first.end > 25 * SECOND);
        assert_eq!((first.ends[0].1, first.ends[1].1, first.ingress, first.egress), (1, 80, 0, Some(1)));
    }

    #[test]
    fn the_end_says_why() {
        let mut bench = Bench::new(ReportTimes { active: 300 * SECOND, idle: 100 * SECOND });
        for (port, protocol) in [(1, ipv4::TCP), (2, ipv4::UDP), (3, ipv4::UDP)] {
            bench.sessions.create(&new(port, protocol), SECOND, &mut bench.nat, &mut bench.counters).unwrap();
            bench.see(port, protocol, 0, SECOND);
        }
        let segment = |flags| Segment { flags, sequence: 1 };
        bench.sessions.follow_tcp(0, Direction::Forward, segment(tcp::SYN));
        bench.sessions.follow_tcp(0, Direction::Forward, segment(tcp::RST));
        let Bench { sessions, nat, counters, .. } = &mut bench;
        sessions.end(0, nat, counters);
        sessions.end(2, nat, counters);
        let records: Vec<_> = (2..90u64).flat_map(|second| bench.sweep(second * SECOND)).collect();
        let said: Vec<_> = records.iter().map(|r| (r.ends[0].1, r.reason, r.tcp_flags, r.packets)).collect();
        let flags = tcp::SYN | tcp::RST;
        let want =
            [(1, EndReason::Finished, flags, 1), (3, EndReason::Forced, 0, 1), (2, EndReason::Idle, 0, 1)];
        assert_eq!(said, want);
    }

    #[test]
    fn a_reader_that_stalls_costs_records_and_nothing_else() {
        let mut bench = Bench::new(ReportTimes { active: SECOND, idle: SECOND });
        bench.sessions.create(&new(1, ipv4::UDP), SECOND, &mut bench.nat, &mut bench.counters).unwrap();
        for _ in 0..ROOM + 10 {
            bench.see(1, ipv4::UDP, 0, SECOND);
            bench.sessions.report_now(0, EndReason::Active);
        }
        assert_eq!(bench.sessions.reported(), (ROOM as u64 + 10, 10));
        assert_eq!(std::iter::from_fn(|| bench.reader.take()).count(), ROOM);
    }
}
