//! Eviction: what gives way to a new session when the table is full, where the configuration wants that.
//!
//! Sessions without an answer have a bit each, and so have TCP connections that are over. A hand goes round the bits, so that
//! of these the one that was passed longest ago goes first: a flood pushes itself out, and an honest session has the time of a
//! round to be answered in. Half-open TCP and sessions of a single packet go at once; those that send without being answered
//! (a stream, a log) are passed by for others. A session that turns out to be answered loses its bit. Packets write
//! nothing for this, so whether there is an answer is looked up when the hand comes by, or the sweep.

use sluice_pkt::ipv4;

use super::{EndReason, Family, NONE, Session, Sessions, State};
use crate::counters::Counters;
use crate::nat::Nat;

/// Sessions that are looked at for one that can go.
const TRIES: usize = 16;
/// Words of bits that are looked through for one, at most.
const WORDS: usize = 4096;

/// Sessions that may give way, a bit each.
#[derive(Debug, Default)]
pub(super) struct Expendable {
    words: Vec<u64>,
    /// How many bits are set.
    count: u32,
    /// The next place to look at.
    hand: usize,
}

/// What would be lost with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// One packet, or a handshake that may never end.
    Little,
    /// A stream without an answer.
    Stream,
    /// A conversation.
    Conversation,
}

/// A flow whose session has given way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// The table that it was in.
    pub family: Family,
    /// Its record there.
    pub flow: u32,
}

impl Expendable {
    /// For so many sessions; takes its memory.
    pub(super) fn new(sessions: u32) -> Self {
        Self { words: vec![0; (sessions as usize).div_ceil(64)], count: 0, hand: 0 }
    }

    pub(super) fn set(&mut self, index: u32, expendable: bool) {
        let Some(word) = self.words.get_mut(index as usize / 64) else { return };
        let bit = 1 << (index % 64);
        self.count = match (*word & bit != 0, expendable) {
            (false, true) => self.count + 1,
            (true, false) => self.count - 1,
            _ => self.count,
        };
        *word = if expendable { *word | bit } else { *word & !bit };
    }

    /// The next one that has a bit; the hand moves past it.
    fn next(&mut self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        for _ in 0..WORDS.min(self.words.len() + 1) {
            let at = self.hand / 64;
            let ahead = self.words.get(at).copied().unwrap_or(0) & u64::MAX << (self.hand % 64);
            if ahead != 0 {
                let index = at * 64 + ahead.trailing_zeros() as usize;
                self.hand = index + 1;
                return Some(index as u32);
            }
            self.hand = if at + 1 < self.words.len() { (at + 1) * 64 } else { 0 };
        }
        None
    }
}

impl Sessions {
    /// The flows of the session that has given way last, once.
    pub fn take_evicted(&mut self) -> Option<[Evicted; 2]> {
        self.evicted.take()
    }

    /// Ends a session that can best be missed. False if there is none.
    pub fn make_room(&mut self, nat: &mut Nat, counters: &mut Counters) -> bool {
        let mut stream = None;
        for _ in 0..TRIES {
            let Some(index) = self.expendable.next() else { break };
            let Some(session) = self.get(index) else {
                self.expendable.set(index, false);
                continue;
            };
            match self.loss(session) {
                Loss::Little => {
                    self.evict(index, nat, counters);
                    return true;
                }
                Loss::Stream => stream = stream.or(Some(index)),
                Loss::Conversation => self.expendable.set(index, false),
            }
        }
        if let Some(index) = stream {
            self.evict(index, nat, counters);
        }
        stream.is_some()
    }

    fn evict(&mut self, index: u32, nat: &mut Nat, counters: &mut Counters) {
        self.evicted = self.get(index).map(|session| {
            [0, 1].map(|way| Evicted { family: session.family_of(way), flow: session.flows[way] })
        });
        counters.sessions_evicted += 1;
        self.end_for(index, EndReason::LackOfResources, nat, counters);
    }

    fn loss(&self, session: &Session) -> Loss {
        // That its answers come in at another worker is known at once, how many they are is not.
        let is_answered = session.carriers[1] != 0;
        match self.state(session) {
            State::Closing => Loss::Little,
            State::Established => Loss::Conversation,
            State::Opening if session.protocol == ipv4::TCP => Loss::Little,
            State::Opening if is_answered => Loss::Conversation,
            State::Opening => {
                let flow = self.flow(session.family, session.flows[0]);
                let packets = session.packets[0] + flow.map_or(0, |flow| u64::from(flow.packets));
                if packets > 1 { Loss::Stream } else { Loss::Little }
            }
        }
    }
}

impl Evicted {
    /// Whether it is this record of a table.
    #[inline]
    pub fn is(self, family: Family, flow: u32) -> bool {
        self.flow == flow && self.family == family && flow != NONE
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Direction, Key4, NewSession, Segment, addresses, key4, plain_action, ports, ticks};
    use super::*;
    use crate::clock::{MILLISECOND, Nanos, SECOND};
    use crate::snapshot::{Snapshot, Timeouts};
    use proptest::prelude::*;
    use sluice_pkt::tcp::{ACK, FIN, SYN};

    struct Gateway {
        sessions: Sessions,
        nat: Nat,
        counters: Counters,
        now: Nanos,
    }

    fn between(source: u32, protocol: u8) -> NewSession<Key4> {
        NewSession {
            keys: [
                key4(addresses(source, 2), ports(1000, 80), protocol, 0),
                key4(addresses(2, source), ports(80, 1000), protocol, 1),
            ],
            actions: [plain_action(0); 2],
            protocol,
            binding: NONE,
            permit: NONE,
            inbound: false,
            dscp: 0,
        }
    }

    impl Gateway {
        fn new(room: u32) -> Self {
            let mut snapshot = Snapshot { evicts: true, ..Snapshot::default() };
            snapshot.sizes.sessions = room;
            let (sessions, nat) = (Sessions::new(&snapshot), Nat::new(&snapshot));
            Self { sessions, nat, counters: Counters::new(&snapshot), now: SECOND }
        }

        /// A first packet. Whether there is a session of it.
        fn open(&mut self, source: u32, protocol: u8) -> bool {
            let new = between(source, protocol);
            let flow = self.sessions.create(&new, self.now, &mut self.nat, &mut self.counters);
            self.packet(source, protocol, Direction::Forward);
            flow.is_some()
        }

        /// A packet of a session, if there is one.
        fn packet(&mut self, source: u32, protocol: u8, way: Direction) -> bool {
            let key = between(source, protocol).keys[way as usize];
            let Some(flow) = self.sessions.v4.find(&key) else { return false };
            let now = ticks(self.now);
            self.sessions.v4.value_mut(flow).unwrap().count(100, now);
            true
        }

        fn segment(&mut self, source: u32, way: Direction, flags: u8) {
            let key = between(source, ipv4::TCP).keys[way as usize];
            let flow = self.sessions.v4.find(&key).unwrap();
            let session = self.sessions.v4.value(flow).unwrap().session();
            self.sessions.follow_tcp(session, way, Segment { flags, sequence: 0 });
        }

        fn handshake(&mut self, source: u32) {
            assert!(self.open(source, ipv4::TCP));
            self.segment(source, Direction::Forward, SYN);
            self.segment(source, Direction::Reply, SYN | ACK);
            self.segment(source, Direction::Forward, ACK);
        }

        fn sweep(&mut self, time: Nanos) {
            self.now += time;
            let timeouts = Timeouts::default();
            self.sessions.sweep(self.now, &timeouts, &mut self.nat, &mut self.counters);
        }
    }

    #[test]
    fn half_open_and_single_packets_give_way_and_conversations_do_not() {
        let mut gateway = Gateway::new(5);
        gateway.handshake(1);
        assert!(gateway.open(2, ipv4::UDP) && gateway.packet(2, ipv4::UDP, Direction::Reply));
        assert!(gateway.open(3, ipv4::UDP) && gateway.packet(3, ipv4::UDP, Direction::Forward));
        assert!(gateway.open(4, ipv4::UDP) && gateway.open(5, ipv4::TCP));
        assert!(gateway.open(6, ipv4::UDP) && gateway.open(7, ipv4::UDP));
        for (source, protocol, lives) in [(4, ipv4::UDP, false), (5, ipv4::TCP, false), (3, ipv4::UDP, true)]
        {
            assert_eq!(gateway.packet(source, protocol, Direction::Forward), lives, "{source}");
        }
        assert_eq!(gateway.counters.sessions_evicted, 2);
        for source in 10..1000 {
            assert!(gateway.open(source, ipv4::UDP));
        }
        assert!(
            gateway.packet(1, ipv4::TCP, Direction::Forward)
                && gateway.packet(2, ipv4::UDP, Direction::Reply)
        );
        assert!(gateway.packet(3, ipv4::UDP, Direction::Forward), "a stream goes behind single packets");
        assert_eq!(gateway.sessions.live(), 5);
    }

    #[test]
    fn a_table_of_conversations_refuses_until_one_is_over() {
        let mut gateway = Gateway::new(64);
        (0..64).for_each(|source| gateway.handshake(source));
        assert!(!gateway.open(100, ipv4::UDP) && !gateway.open(100, ipv4::TCP));
        gateway.segment(7, Direction::Forward, FIN | ACK);
        assert!(!gateway.open(100, ipv4::UDP), "the other side has more to say");
        gateway.segment(7, Direction::Reply, FIN | ACK);
        assert!(gateway.open(100, ipv4::UDP));
        let evicted = gateway.sessions.take_evicted().unwrap();
        assert!(evicted[0].family == Family::V4 && gateway.sessions.take_evicted().is_none());
        assert!(!gateway.packet(7, ipv4::TCP, Direction::Forward));
    }

    #[test]
    fn streams_give_way_where_there_is_nothing_less() {
        let mut gateway = Gateway::new(32);
        for source in 0..32 {
            assert!(gateway.open(source, ipv4::UDP) && gateway.packet(source, ipv4::UDP, Direction::Forward));
        }
        assert!(gateway.open(100, ipv4::UDP) && gateway.open(101, ipv4::UDP));
        assert_eq!((gateway.sessions.live(), gateway.counters.sessions_evicted), (32, 2));
    }

    /// Ten million flows in a minute, beside 100,000 sessions that somebody needs.
    #[test]
    fn a_flood_of_ten_million_flows_leaves_established_sessions_untouched() {
        const FLOWS: u32 = 10_000_000;
        const HONEST: u32 = 100_000;
        let mut gateway = Gateway::new(131_072);
        let protocol = |source: u32| if source % 2 == 0 { ipv4::TCP } else { ipv4::UDP };
        for source in 0..HONEST {
            if protocol(source) == ipv4::TCP {
                gateway.handshake(source);
            } else {
                assert!(
                    gateway.open(source, ipv4::UDP) && gateway.packet(source, ipv4::UDP, Direction::Reply)
                );
            }
        }
        let bytes = gateway.sessions.bytes();
        let mut flood = 1 << 24..;
        for _ in 0..FLOWS / 1000 {
            for source in flood.by_ref().take(1000) {
                assert!(gateway.open(source, if source % 3 == 0 { ipv4::UDP } else { ipv4::TCP }));
            }
            gateway.sweep(6 * MILLISECOND);
        }
        assert_eq!(flood.start - (1 << 24), FLOWS);
        assert_eq!(gateway.sessions.live(), 131_072);
        assert_eq!(gateway.sessions.bytes(), bytes, "memory is what it was");
        for source in 0..HONEST {
            assert!(gateway.packet(source, protocol(source), Direction::Forward), "{source}");
            assert!(gateway.packet(source, protocol(source), Direction::Reply), "{source}");
        }
        // Who comes in the middle of it, and is answered within a tenth of a second, stays.
        assert!(gateway.open(HONEST + 1, ipv4::UDP));
        for _ in 0..16 {
            for source in flood.by_ref().take(1000) {
                gateway.open(source, ipv4::TCP);
            }
            gateway.sweep(6 * MILLISECOND);
        }
        assert!(gateway.packet(HONEST + 1, ipv4::UDP, Direction::Reply));
        for source in flood.by_ref().take(200_000) {
            gateway.open(source, ipv4::TCP);
        }
        assert!(gateway.packet(HONEST + 1, ipv4::UDP, Direction::Reply));
    }

    proptest! {
        #![proptest_config(crate::table::cases(100))]

        #[test]
        fn the_hand_finds_each_bit_once_a_round(sets in prop::collection::vec((0..300u32, any::<bool>()), 0..200)) {
            let mut expendable = Expendable::new(300);
            let mut model = std::collections::BTreeSet::new();
            for (index, is_set) in sets {
                expendable.set(index, is_set);
                if is_set { model.insert(index); } else { model.remove(&index); }
                prop_assert_eq!(expendable.count as usize, model.len());
            }
            let round: Vec<u32> = (0..model.len()).map_while(|_| expendable.next()).collect();
            prop_assert_eq!(round, model.into_iter().collect::<Vec<_>>());
        }
    }
}
