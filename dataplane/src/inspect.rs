//! Looking into a worker's tables while it runs: a question goes in over one ring, rows come back over another. The worker
//! copies a few rows between bursts, so that a listing of a million flows delays no packet by more than that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

use sluice_pkt::ipv4;

use crate::clock::Nanos;
use crate::firsts::First;
use crate::local::neighbor::Neighbor;
use crate::nat::{Binding, BlockRow, SubscriberRow};
use crate::recorder::Dropped;
use crate::session::{
    By, Family, FlowAction, KeyFacts, NONE, Rates, Session, State, addresses, key4, key6, ports, ticks,
};
use crate::shadow::{self, SessionCopy};
use crate::shard::Shard;
use crate::stage::shape::{ClassRow, OctetRow, Spent};
use crate::tap::Tap;
use crate::trace::Tracer;

/// Table slots that are looked at between two bursts.
const SLOTS_PER_POLL: u32 = 64;
const ROWS: usize = 1024;
/// Taps and tracers that may be under way, if a worker does not answer.
const GLASSES: usize = 4;
/// Protocols whose bindings have ports or identifiers.
const PORTED: [u8; 3] = [ipv4::TCP, ipv4::UDP, ipv4::ICMP];

/// What is to be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Sessions with both their flows.
    Sessions,
    /// NAT bindings.
    Bindings,
    /// The bindings that have an external address and port, of whatever protocol.
    Holders(Ipv4Addr, u16),
    /// External addresses and their ports in use.
    Externals,
    /// Blocks of ports that are taken.
    Blocks,
    /// Inside addresses of which account is kept.
    Subscribers,
    /// Neighbours.
    Neighbors,
    /// Classes of ports with a shaper.
    Classes,
    /// Octets by class and host, each handed out once.
    Octets,
    /// No listing: notes whose quota is used up, if the worker goes by the configuration of this generation.
    Spent(u32, Spent),
    /// The last packets of each drop reason.
    Drops,
    /// Sessions with all that makes them, to be tried elsewhere.
    Copies,
    /// The first packets of sessions that were sampled last.
    Firsts,
    /// The sessions that move the most.
    Top(By),
    /// No listing: the worker takes what was handed in to look at packets with; see [`Inspector::set_tap`] and
    /// [`Inspector::set_tracer`].
    Glass,
    /// The session, if there is one, of packets with these addresses, ports, protocol and ingress interface.
    Session([IpAddr; 2], (u16, u16), u8, u16),
}

/// One direction of a session.
#[derive(Clone, Copy, Debug)]
pub struct FlowRow {
    /// Source address as the packet comes in.
    pub src: IpAddr,
    /// Destination address as the packet comes in.
    pub dst: IpAddr,
    /// Ports, ingress interface, protocol.
    pub key: KeyFacts,
    /// What is done to it.
    pub action: FlowAction,
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Time since its last packet, nanoseconds (in steps of 17 ms).
    pub idle: Nanos,
}

/// A session.
#[derive(Clone, Copy, Debug)]
pub struct SessionRow {
    /// Both directions; none for a reply that cannot be told from its question.
    pub flows: [Option<FlowRow>; 2],
    /// Where it stands.
    pub state: State,
    /// Time since it was made, nanoseconds.
    pub age: Nanos,
}

/// A line of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Row {
    /// For [`Question::Sessions`].
    Session(SessionRow),
    /// For [`Question::Bindings`] and [`Question::Holders`]; with NAT64, and the inside address; if its host has asked for it,
    /// and for how long it has it still.
    Binding(Binding, Option<Ipv6Addr>, Option<Nanos>),
    /// For [`Question::Externals`]: ports in use for TCP, UDP and ICMP.
    External(Ipv4Addr, [u32; 3]),
    /// For [`Question::Blocks`].
    Block(BlockRow),
    /// For [`Question::Subscribers`].
    Subscriber(SubscriberRow),
    /// For [`Question::Neighbors`].
    Neighbor(Neighbor),
    /// For [`Question::Top`].
    Top(SessionRow, Rates),
    /// For [`Question::Classes`].
    Class(ClassRow),
    /// For [`Question::Octets`], with the generation of the configuration whose class it is.
    Octets(u32, OctetRow),
    /// For [`Question::Drops`].
    Dropped(Dropped),
    /// For [`Question::Copies`].
    Copy(SessionCopy),
    /// For [`Question::Firsts`].
    First(First),
    /// The listing is complete.
    End,
}

/// What a worker looks at packets with for others, or that it is to look no longer.
enum Glass {
    Tap(Option<Box<Tap>>),
    Tracer(Option<Box<Tracer>>),
}

/// The worker's end.
pub struct Inspected {
    questions: HeapCons<Question>,
    rows: HeapProd<Row>,
    glasses: HeapCons<Glass>,
    old_glasses: HeapProd<Glass>,
    current: Option<(Question, u32)>,
}

/// The asker's end.
pub struct Inspector {
    questions: HeapProd<Question>,
    rows: HeapCons<Row>,
    glasses: HeapProd<Glass>,
    /// Those that the worker has done with, whose memory is not for it to give back.
    old_glasses: HeapCons<Glass>,
}

/// Makes the two ends.
pub fn channel() -> (Inspected, Inspector) {
    let (asks, questions) = HeapRb::new(1).split();
    let (rows, answers) = HeapRb::new(ROWS).split();
    let (hand_in, glasses) = HeapRb::new(GLASSES).split();
    let (old_glasses, handed_back) = HeapRb::new(GLASSES).split();
    (
        Inspected { questions, rows, glasses, old_glasses, current: None },
        Inspector { questions: asks, rows: answers, glasses: hand_in, old_glasses: handed_back },
    )
}

impl Inspector {
    /// Asks, and hands each row to `each`. False if the worker did not answer in full in time.
    pub fn ask(&mut self, question: Question, within: Duration, mut each: impl FnMut(Row)) -> bool {
        let start = Instant::now();
        // What an earlier listing that ran out of time left.
        self.rows.clear();
        while self.questions.try_push(question).is_err() {
            if start.elapsed() > within {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        loop {
            match self.rows.try_pop() {
                Some(Row::End) => return true,
                Some(row) => each(row),
                None if start.elapsed() > within => return false,
                None => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }
}

impl Inspector {
    /// Gives the worker another tap, or none, instead of the one that it has. False if the worker did not take it in time.
    pub fn set_tap(&mut self, tap: Option<Box<Tap>>, within: Duration) -> bool {
        self.hand_in(Glass::Tap(tap), within)
    }

    /// Likewise, another tracer.
    pub fn set_tracer(&mut self, tracer: Option<Box<Tracer>>, within: Duration) -> bool {
        self.hand_in(Glass::Tracer(tracer), within)
    }

    fn hand_in(&mut self, glass: Glass, within: Duration) -> bool {
        self.old_glasses.clear();
        let taken = self.glasses.try_push(glass).is_ok() && self.ask(Question::Glass, within, |_| ());
        self.old_glasses.clear();
        taken
    }
}

impl Inspected {
    /// Goes on with the listing that was asked for, by a few slots. Returns whether there is more to do.
    pub fn serve(&mut self, shard: &mut Shard, now: Nanos) -> bool {
        if self.current.is_none() {
            self.current = self.questions.try_pop().map(|question| (question, 0));
        }
        let Some((question, from)) = self.current else { return false };
        let slots = match question {
            Question::Sessions | Question::Copies => shard.sessions.slots(),
            Question::Firsts => shard.firsts.places(),
            Question::Bindings => shard.nat.slots(),
            Question::Blocks => shard.nat.block_slots(),
            Question::Subscribers => shard.nat.subscriber_slots(),
            Question::Drops => shard.counters.recorder.places(),
            Question::Octets => return self.serve_octets(from, shard),
            Question::Glass => {
                while let Some(mut glass) = self.glasses.try_pop() {
                    match &mut glass {
                        Glass::Tap(tap) => std::mem::swap(&mut shard.counters.recorder.tap, tap),
                        Glass::Tracer(tracer) => std::mem::swap(&mut shard.tracer, tracer),
                    }
                    let _ = self.old_glasses.try_push(glass);
                }
                return self.finish(question, 0, true);
            }
            Question::Spent(generation, spent) => {
                if shard.sessions.policy == generation {
                    shard.shapers.set_spent(spent);
                }
                return self.finish(question, 0, true);
            }
            Question::Session(..)
            | Question::Externals
            | Question::Neighbors
            | Question::Holders(..)
            | Question::Classes
            | Question::Top(_) => {
                return self.serve_short(question, from, shard, now);
            }
        };
        let mut at = from;
        while at < slots && at - from < SLOTS_PER_POLL && self.rows.vacant_len() > 0 {
            let row = match question {
                Question::Sessions => {
                    shard.sessions.get(at).map(|s| Row::Session(session_row(s, shard, now)))
                }
                Question::Copies => shadow::copy(at, shard).map(Row::Copy),
                Question::Firsts => shard.firsts.get(at).copied().map(Row::First),
                Question::Blocks => shard.nat.block(at).map(Row::Block),
                Question::Drops => shard.counters.recorder.get(at).copied().map(Row::Dropped),
                Question::Subscribers => shard.nat.subscriber(at).map(Row::Subscriber),
                _ => binding_row(at, shard),
            };
            if let Some(row) = row {
                let _ = self.rows.try_push(row);
            }
            at += 1;
        }
        self.finish(question, at, at >= slots)
    }

    fn serve_octets(&mut self, from: u32, shard: &mut Shard) -> bool {
        let room = self.rows.vacant_len().min(SLOTS_PER_POLL as usize);
        let (generation, rows) = (shard.sessions.policy, &mut self.rows);
        let next = shard.shapers.take_octets(from, room, |row| {
            let _ = rows.try_push(Row::Octets(generation, row));
        });
        self.finish(Question::Octets, next.unwrap_or(from), next.is_none())
    }

    fn serve_short(&mut self, question: Question, from: u32, shard: &Shard, now: Nanos) -> bool {
        let room = self.rows.vacant_len().min(SLOTS_PER_POLL as usize);
        let mut sent = 0;
        match question {
            Question::Externals => {
                for (address, ports) in shard.nat.externals().skip(from as usize).take(room) {
                    let _ = self.rows.try_push(Row::External(address, ports));
                    sent += 1;
                }
            }
            Question::Holders(address, port) => {
                let held = |protocol| shard.nat.find_external((address.to_bits(), port), protocol);
                let rows = PORTED.into_iter().filter_map(held).filter_map(|at| binding_row(at, shard));
                for row in rows.skip(from as usize).take(room) {
                    let _ = self.rows.try_push(row);
                    sent += 1;
                }
            }
            Question::Session(ends, ports, protocol, interface) => {
                for row in session_of(ends, ports, protocol, interface, shard, now)
                    .into_iter()
                    .skip(from as usize)
                    .take(room)
                {
                    let _ = self.rows.try_push(Row::Session(row));
                    sent += 1;
                }
            }
            Question::Classes => {
                for row in shard.shapers.rows().skip(from as usize).take(room) {
                    let _ = self.rows.try_push(Row::Class(row));
                    sent += 1;
                }
            }
            Question::Top(by) => {
                for (session, rates) in shard.sessions.top(by).skip(from as usize).take(room) {
                    let _ = self.rows.try_push(Row::Top(session_row(session, shard, now), rates));
                    sent += 1;
                }
            }
            _ => {
                for neighbor in shard.neighbors.iter().skip(from as usize).take(room) {
                    let _ = self.rows.try_push(Row::Neighbor(neighbor));
                    sent += 1;
                }
            }
        }
        self.finish(question, from + sent, room > 0 && (sent as usize) < room)
    }

    fn finish(&mut self, question: Question, at: u32, done: bool) -> bool {
        let ended = done && self.rows.try_push(Row::End).is_ok();
        self.current = (!ended).then_some((question, at));
        !ended
    }
}

fn binding_row(index: u32, shard: &Shard) -> Option<Row> {
    let inside = shard.nat.inside6(index).map(|(host, _)| Ipv6Addr::from_bits(host));
    shard.nat.get(index).map(|binding| Row::Binding(*binding, inside, shard.nat.lease_left(index)))
}

/// The session whose packets of one direction come in like this.
fn session_of(
    ends: [IpAddr; 2],
    (source_port, destination_port): (u16, u16),
    protocol: u8,
    interface: u16,
    shard: &Shard,
    now: Nanos,
) -> Option<SessionRow> {
    let ports = ports(source_port, destination_port);
    let sessions = &shard.sessions;
    let flow = match ends {
        [IpAddr::V4(source), IpAddr::V4(destination)] => {
            let key = key4(addresses(source.to_bits(), destination.to_bits()), ports, protocol, interface);
            sessions.v4.get(sessions.v4.find(&key)?)?.1
        }
        [IpAddr::V6(source), IpAddr::V6(destination)] => {
            let key = key6(source.to_bits(), destination.to_bits(), ports, protocol, interface);
            sessions.v6.get(sessions.v6.find(&key)?)?.1
        }
        _ => return None,
    };
    // The owner has the session of a copy.
    let session = sessions.get(flow.session()).filter(|_| !flow.is_copy())?;
    Some(session_row(session, shard, now))
}

fn session_row(session: &Session, shard: &Shard, now: Nanos) -> SessionRow {
    let since = |then: u32| Nanos::from(ticks(now).wrapping_sub(then)) << 24;
    let flow = |direction: usize| {
        let index = session.flows[direction];
        let (src, dst, key, flow) = match session.family_of(direction) {
            _ if index == NONE => return None,
            Family::V4 => {
                let (key, flow) = shard.sessions.v4.get(index)?;
                let (ends, facts) = KeyFacts::of4(*key);
                let [src, dst] = ends.map(|end| Ipv4Addr::from_bits(end).into());
                (src, dst, facts, flow)
            }
            Family::V6 => {
                let (key, flow) = shard.sessions.v6.get(index)?;
                let (ends, facts) = KeyFacts::of6(*key);
                let [src, dst] = ends.map(|end| Ipv6Addr::from_bits(end).into());
                (src, dst, facts, flow)
            }
        };
        Some(FlowRow {
            src,
            dst,
            key,
            action: match &shard.transition {
                Some(transition) if session.policy != shard.sessions.policy => {
                    transition.translate(flow.action)
                }
                _ => flow.action,
            },
            packets: session.packets[direction] + u64::from(flow.packets),
            bytes: session.bytes[direction] + flow.bytes(),
            idle: since(flow.last_seen),
        })
    };
    SessionRow {
        flows: [flow(0), flow(1)],
        state: shard.sessions.state(session),
        age: since(session.created),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::FramePool;
    use crate::session::{NewSession, plain_action};
    use crate::snapshot::Snapshot;

    #[test]
    fn a_listing_is_complete_however_small_the_ring() {
        let mut snapshot = Snapshot::default();
        snapshot.sizes.sessions = 4096;
        let mut shard = Shard::new(&snapshot, FramePool::new(1, false).unwrap());
        for port in 0..3000 {
            let new = NewSession {
                keys: [
                    key4(addresses(1, 2), ports(port, 80), 17, 0),
                    key4(addresses(2, 1), ports(80, port), 17, 1),
                ],
                actions: [plain_action(0); 2],
                protocol: 17,
                binding: NONE,
                permit: NONE,
                inbound: false,
                dscp: 0,
            };
            let Shard { sessions, nat, counters, .. } = &mut shard;
            sessions.create(&new, 0, nat, counters).unwrap();
        }
        let (mut inspected, mut inspector) = channel();
        let mut ports = std::thread::scope(|scope| {
            let asker = scope.spawn(move || {
                let mut ports = Vec::new();
                let complete = inspector.ask(Question::Sessions, Duration::from_secs(20), |row| {
                    let Row::Session(row) = row else { panic!("another listing's row") };
                    ports.push(row.flows[0].unwrap().key.ports.0);
                });
                assert!(complete);
                ports
            });
            while !asker.is_finished() {
                inspected.serve(&mut shard, 0);
            }
            asker.join().unwrap()
        });
        ports.sort_unstable();
        assert_eq!(ports, (0..3000).collect::<Vec<_>>());
    }
}
