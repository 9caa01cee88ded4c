//! Sessions and their flows: the state that makes every packet after the first cheap.
//!
//! A session is two flows, one a direction. A flow's record is found by the packet's own tuple and holds all that a
//! packet needs: the compiled [`FlowAction`], stamps, counters. It is one cache line for IPv4. What only first packets,
//! TCP flags, ageing and listings touch lies apart, in [`Session`].

mod age;
mod batch;
mod copies;
mod cross;
mod evict;
mod flow;
mod holders;
mod record;
mod renew;
mod report;
mod saved;
mod tcp;
mod top;

use sluice_pkt::ipv4;

use self::age::Sweep;
pub use self::batch::Batch;
use self::copies::Copies;
pub use self::copies::{Activity, Ended, Lease, SessionId};
pub use self::cross::{Ends6, SessionKey};
pub use self::evict::Evicted;
use self::evict::Expendable;
pub use self::flow::{
    Direction, Flow, FlowAction, FlowKey, Key4, Key6, KeyFacts, Limits, NO_LIMIT, addresses, key4, key6,
    plain_action, ports, ticks,
};
use self::holders::Holders;
pub use self::record::{Family, Session, State};
use self::report::Reporter;
pub use self::report::{EndReason, Ends, FlowReader, FlowRecord, ReportTimes};
pub(crate) use self::saved::SavedSession;
pub use self::tcp::Segment;
use self::top::Top;
pub use self::top::{By, Rates};

use crate::arena::{HugePages, HugeVec};
use crate::clock::Nanos;
use crate::counters::Counters;
use crate::nat::Nat;
use crate::snapshot::{Guard, Snapshot};
use crate::table::hash::HashTable;
use crate::table::prefetch::prefetch_at;

/// "None" where an index is stored in 32 bits.
pub const NONE: u32 = u32::MAX;

/// Ends of sessions that wait to be told to their carriers, at most; one that finds no room is found out in time.
const ENDED: usize = 1024;

/// What a new session is made of.
#[derive(Clone, Copy, Debug)]
pub struct NewSession<K> {
    /// The key by which packets of each direction are found.
    pub keys: [K; 2],
    /// What is done to them.
    pub actions: [FlowAction; 2],
    /// IP protocol.
    pub protocol: u8,
    /// The NAT binding that it holds, or [`NONE`].
    pub binding: u32,
    /// What [`Nat::hold`] returned for it.
    pub permit: u32,
    /// Whether its first packet came from outside, to the binding.
    pub inbound: bool,
    /// Differentiated services code point of its first packet.
    pub dscp: u8,
}

impl<K: Into<FlowKey>> NewSession<K> {
    /// The same, for keys of either family.
    pub fn any(self) -> NewSession<FlowKey> {
        let Self { keys, actions, protocol, binding, permit, inbound, dscp } = self;
        NewSession { keys: keys.map(Into::into), actions, protocol, binding, permit, inbound, dscp }
    }
}

/// The sessions of one worker.
pub struct Sessions {
    /// Flows of IPv4 sessions.
    pub v4: HashTable<Key4, Flow>,
    /// Flows of IPv6 sessions.
    pub v6: HashTable<Key6, Flow>,
    slab: HugeVec<Session>,
    free: HugeVec<u32>,
    /// When the sweep is to look at each session, in [`ticks`].
    due: HugeVec<u32>,
    live: u32,
    /// A flow whose stamp is another is looked at anew before its action is used.
    pub stamp: u32,
    /// The generation of the configuration: sessions that were decided under another are decided anew.
    pub policy: u32,
    sweep: Sweep,
    copies: Copies,
    /// Sessions that have ended, for the carriers of their flows.
    ended: std::collections::VecDeque<Ended>,
    top: Top,
    /// Sessions that may give way when the table is full; of none where that is not wanted.
    expendable: Expendable,
    evicted: Option<[Evicted; 2]>,
    holders: Holders,
    /// Tells what has passed, where somebody wants to know.
    reporter: Option<Box<Reporter>>,
}

impl Sessions {
    /// Takes the memory for as many sessions as the snapshot says.
    pub fn new(snapshot: &Snapshot) -> Self {
        let sessions = snapshot.sizes.sessions;
        let v4 = HashTable::<Key4, Flow>::with_capacity(sessions.saturating_mul(2), snapshot.seed);
        let v6 =
            HashTable::<Key6, Flow>::with_capacity(sessions.saturating_mul(2), snapshot.seed.rotate_left(32));
        Self {
            v4,
            v6,
            slab: HugeVec::with_capacity_in(sessions as usize, HugePages),
            free: HugeVec::with_capacity_in(sessions as usize, HugePages),
            due: HugeVec::with_capacity_in(sessions as usize, HugePages),
            live: 0,
            stamp: 1,
            policy: snapshot.generation,
            sweep: Sweep::default(),
            copies: Copies::default(),
            ended: std::collections::VecDeque::new(),
            top: Top::default(),
            expendable: Expendable::new(if snapshot.evicts { sessions } else { 0 }),
            evicted: None,
            holders: if snapshot.guards.iter().any(Guard::bounds_sessions) {
                Holders::new(sessions, snapshot.seed)
            } else {
                Holders::default()
            },
            reporter: None,
        }
    }

    /// Takes the memory for copies of other workers' flows, as many as there may be sessions. There must be none yet.
    pub fn share(&mut self, snapshot: &Snapshot) {
        let room = snapshot.sizes.sessions;
        let capacity = self.v4.capacity().saturating_add(room);
        self.v4 = HashTable::with_capacity(capacity, snapshot.seed);
        self.v6 = HashTable::with_capacity(capacity, snapshot.seed.rotate_left(32));
        self.copies = Copies::new(room);
        self.ended.reserve_exact(ENDED);
    }

    /// The next session that has ended and that others have copies of.
    pub fn take_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// Sessions that are live.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// Whether there is room for no other session.
    pub fn is_full(&self) -> bool {
        self.live as usize == self.slab.capacity()
    }

    /// Whether there is room for so many more.
    pub fn has_room(&self, more: usize) -> bool {
        self.live as usize + more <= self.slab.capacity()
    }

    /// Memory of the tables, bytes.
    pub fn bytes(&self) -> usize {
        self.v4.bytes()
            + self.v6.bytes()
            + self.slab.capacity() * (size_of::<Session>() + 2 * size_of::<u32>())
            + self.copies.bytes()
    }

    /// The session at `index`, if it is live.
    pub fn get(&self, index: u32) -> Option<&Session> {
        self.slab.get(index as usize).filter(|s| s.live)
    }

    /// How far indices of sessions go.
    pub fn slots(&self) -> u32 {
        self.slab.len() as u32
    }

    /// Where a live session stands, its latest packets included.
    pub fn state(&self, session: &Session) -> State {
        let mut seen = *session;
        let families = [0, 1].map(|direction| session.family_of(direction));
        for ((total, &flow), family) in seen.packets.iter_mut().zip(&session.flows).zip(families) {
            *total += self.flow(family, flow).map_or(0, |f| u64::from(f.packets));
        }
        seen.state()
    }

    /// A flow's record.
    pub fn flow(&self, family: Family, index: u32) -> Option<&Flow> {
        match family {
            Family::V4 => self.v4.value(index),
            Family::V6 => self.v6.value(index),
        }
    }

    fn flow_mut(&mut self, family: Family, index: u32) -> Option<&mut Flow> {
        match family {
            Family::V4 => self.v4.value_mut(index),
            Family::V6 => self.v6.value_mut(index),
        }
    }

    /// Starts to fetch what the next `count` sessions are kept in.
    pub fn fetch_free(&self, count: usize) {
        self.v4.prefetch_free(2 * count);
        self.v6.prefetch_free(2 * count);
        for &index in self.free.iter().rev().take(count) {
            prefetch_at(&self.slab, index as usize);
        }
    }

    /// Makes a session; the index of its forward flow. `None` if there is no room. A session that holds one of the keys
    /// gives way, and if the table is full one that can best be missed, where that is wanted.
    pub fn create<K: SessionKey>(
        &mut self,
        new: &NewSession<K>,
        now: Nanos,
        nat: &mut Nat,
        counters: &mut Counters,
    ) -> Option<u32> {
        let hashes = [0, 1].map(|i: usize| new.keys[i].hash(self));
        self.create_hashed(new, hashes, now, nat, counters)
    }

    /// As [`create`](Self::create), for a caller that has the hashes of the keys.
    pub fn create_hashed<K: SessionKey>(
        &mut self,
        new: &NewSession<K>,
        hashes: [u64; 2],
        now: Nanos,
        nat: &mut Nat,
        counters: &mut Counters,
    ) -> Option<u32> {
        let keys = &new.keys;
        for (key, hash) in keys.iter().zip(hashes) {
            if key.choose(hash, self) != NONE {
                self.clear((*key).into(), hash, nat, counters);
            }
        }
        if self.is_full() {
            self.make_room(nat, counters);
        }
        let index = self.free.pop().or_else(|| {
            let fresh = self.slab.len() < self.slab.capacity();
            fresh.then(|| {
                self.slab.push(Session::default());
                self.due.push(0);
                self.slab.len() as u32 - 1
            })
        })?;
        let mut flows = [NONE; 2];
        let mapping = nat.get(new.binding).filter(|binding| binding.has_port());
        let last_outbound = mapping.filter(|b| new.inbound && !b.is_leased).and_then(|b| b.last_outbound);
        let is_mapped = mapping.is_some();
        for direction in 0..2 {
            let mut flow = Flow {
                action: new.actions[direction],
                // The way back is looked up when the first reply comes, so that a forged source asks for no neighbour.
                stamp: if direction == 0 { self.stamp } else { self.stamp.wrapping_sub(1) },
                // A packet from outside keeps no binding alive longer than what came from inside before.
                last_seen: last_outbound.filter(|_| direction == 1).unwrap_or(ticks(now)),
                session: index << 1 | direction as u32,
                ..Flow::default()
            };
            flow.action.watch(new.protocol == ipv4::TCP);
            // A packet whose reply has the very same tuple (a host that talks to itself) has one flow.
            if direction == 0 || keys[1] != keys[0] {
                let (key, hash) = (&keys[direction], hashes[direction]);
                flows[direction] = key.insert(hash, flow, self).unwrap_or(NONE);
            }
        }
        let generation = self.slab[index as usize].generation.wrapping_add(1);
        self.slab[index as usize] = Session {
            live: true,
            generation,
            family: keys[0].family(),
            crosses: keys[0].family() != keys[1].family(),
            protocol: new.protocol,
            dscp: new.dscp,
            flows,
            binding: new.binding,
            permit: new.permit,
            kept_by: match (is_mapped, new.inbound) {
                (false, _) => 0b11,
                (true, false) => 0b01,
                (true, true) => 0b10,
            },
            created: ticks(now),
            looked: ticks(now),
            holder: NONE,
            policy: self.policy,
            ..Session::default()
        };
        self.look_at(index, ticks(now));
        self.report_from(index, ticks(now));
        if !new.inbound {
            nat.seen_outbound(new.binding, ticks(now));
        }
        self.expendable.set(index, true);
        self.live += 1;
        counters.sessions_created += 1;
        Some(flows[0])
    }

    /// Ends the session that holds a key, if there is one.
    #[cold]
    fn clear(&mut self, key: FlowKey, hash: u64, nat: &mut Nat, counters: &mut Counters) {
        let found = self.find_hashed(&key, hash);
        if let Some(flow) = found.and_then(|index| self.flow(key.family(), index)) {
            let (session, is_copy) = (flow.session(), flow.is_copy());
            if is_copy {
                self.remove_copy(session);
            } else {
                self.end(session, nat, counters);
            }
        }
    }

    /// Ends a session, and gives up its NAT binding.
    pub fn end(&mut self, index: u32, nat: &mut Nat, counters: &mut Counters) {
        self.end_for(index, EndReason::Forced, nat, counters);
    }

    fn end_for(&mut self, index: u32, reason: EndReason, nat: &mut Nat, counters: &mut Counters) {
        if self.reporter.is_some() && self.get(index).is_some() {
            self.report_now(index, reason);
        }
        let Some(session) = self.slab.get_mut(index as usize).filter(|s| s.live) else { return };
        session.live = false;
        let session = *session;
        if session.listed != 0 {
            self.unlist(index, session.listed);
        }
        for (direction, (flow, carriers)) in session.flows.into_iter().zip(session.carriers).enumerate() {
            let key = self.remove_flow(session.family_of(direction), flow).map(|(key, _)| key);
            if let Some(key) = key.filter(|_| carriers != 0 && self.ended.len() < ENDED) {
                let id = SessionId { index, generation: session.generation };
                self.ended.push_back(Ended { carriers, id, key });
            }
        }
        nat.release(session.binding, session.permit);
        self.forget_due(index);
        self.expendable.set(index, false);
        self.holders.leave(session.holder);
        self.free.push(index);
        self.live -= 1;
        counters.sessions_ended += 1;
    }

    /// Follows a TCP segment that opens or ends, or is of a flow that is watched.
    pub fn follow_tcp(&mut self, index: u32, direction: Direction, segment: Segment) {
        let Some(mut session) = self.get(index).copied() else { return };
        let flow = session.flows[direction as usize];
        let family = session.family_of(direction as usize);
        let passed = self.flow(family, flow).map_or(0, Flow::bytes);
        session.tcp.follow(segment, direction, session.bytes[direction as usize] + passed);
        for (direction, flow) in [Direction::Forward, Direction::Reply].into_iter().zip(session.flows) {
            if let Some(flow) = self.flow_mut(session.family_of(direction as usize), flow) {
                flow.action.watch(!session.tcp.has_acknowledged(direction));
            }
        }
        self.slab[index as usize] = session;
        match session.state() {
            State::Opening => {}
            state => self.expendable.set(index, state == State::Closing),
        }
        // It may have less time to live now.
        self.look_at(index, self.sweep.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;
    use crate::snapshot::Timeouts;
    use crate::table::hash::Record;
    use sluice_pkt::tcp;

    fn sessions(room: u32) -> (Sessions, Nat, Counters) {
        let mut snapshot = Snapshot::default();
        snapshot.sizes.sessions = room;
        (Sessions::new(&snapshot), Nat::new(&snapshot), Counters::new(&snapshot))
    }

    /// One of two hosts, by its client's port.
    pub(super) fn new(port: u16, protocol: u8) -> NewSession<Key4> {
        NewSession {
            keys: [
                key4(addresses(1, 2), ports(port, 80), protocol, 0),
                key4(addresses(2, 1), ports(80, port), protocol, 1),
            ],
            actions: [plain_action(0); 2],
            protocol,
            binding: NONE,
            permit: NONE,
            inbound: false,
            dscp: 0,
        }
    }

    fn see(sessions: &mut Sessions, key: &Key4, now: Nanos) {
        let flow = sessions.v4.find(key).unwrap();
        let flow = sessions.v4.value_mut(flow).unwrap();
        flow.packets += 1;
        flow.last_seen = ticks(now);
    }

    #[test]
    fn a_flow_of_ipv4_is_one_cache_line() {
        assert_eq!(size_of::<Record<Key4, Flow>>(), 64);
        assert_eq!(size_of::<Record<Key6, Flow>>(), 96);
    }

    #[test]
    fn a_full_table_makes_no_session_until_one_ends() {
        let (mut sessions, mut nat, mut counters) = sessions(2);
        for port in 1..=2 {
            assert!(sessions.create(&new(port, ipv4::UDP), SECOND, &mut nat, &mut counters).is_some());
        }
        assert!(sessions.is_full());
        assert!(sessions.create(&new(3, ipv4::UDP), SECOND, &mut nat, &mut counters).is_none());
        sessions.end(0, &mut nat, &mut counters);
        assert!(sessions.create(&new(3, ipv4::UDP), SECOND, &mut nat, &mut counters).is_some());
        assert_eq!((sessions.live(), counters.sessions_created, counters.sessions_ended), (2, 3, 1));
    }

    #[test]
    fn timeouts_follow_protocol_and_state() {
        let (mut sessions, mut nat, mut counters) = sessions(8);
        let timeouts = Timeouts::default();
        let open = new(1, ipv4::TCP);
        let half_open = new(2, ipv4::TCP);
        let udp = new(3, ipv4::UDP);
        for session in [&open, &half_open, &udp] {
            sessions.create(session, SECOND, &mut nat, &mut counters).unwrap();
            see(&mut sessions, &session.keys[0], SECOND);
        }
        let segment = |flags| Segment { flags, sequence: 1 };
        sessions.follow_tcp(0, Direction::Forward, segment(tcp::SYN));
        sessions.follow_tcp(0, Direction::Reply, segment(tcp::SYN | tcp::ACK));
        sessions.follow_tcp(0, Direction::Forward, segment(tcp::ACK));
        let mut at = |sessions: &mut Sessions, seconds: u64| {
            sessions.sweep(seconds * SECOND, &timeouts, &mut nat, &mut counters);
            sessions.live()
        };
        assert_eq!(at(&mut sessions, 240), 3);
        assert_eq!(at(&mut sessions, 243), 2, "the half-open connection ends first");
        assert_eq!(at(&mut sessions, 303), 1, "then UDP");
        let session = *sessions.get(0).unwrap();
        assert_eq!(sessions.state(&session), State::Established);
        sessions.follow_tcp(0, Direction::Forward, segment(tcp::FIN));
        sessions.follow_tcp(0, Direction::Reply, segment(tcp::FIN));
        assert_eq!(sessions.get(0).unwrap().state(), State::Closing);
        sessions.follow_tcp(0, Direction::Forward, segment(tcp::SYN));
        assert_eq!(sessions.get(0).unwrap().state(), State::Opening);
        sessions.follow_tcp(0, Direction::Reply, segment(tcp::RST));
        assert_eq!(at(&mut sessions, 305), 0, "a reset one is transitory");
        assert_eq!(sessions.v4.len(), 0);
    }

    /// proves: RFC 4787 REQ-6
    /// proves: RFC 7857 7
    #[test]
    fn a_session_from_outside_lives_no_longer_than_its_binding_without_it() {
        use crate::snapshot::Pool;
        // Both halves of the numbers that ticks go through.
        for start in [1000 * SECOND, 1_767_225_600 * SECOND] {
            let mut snapshot = Snapshot::default();
            snapshot.sizes.sessions = 8;
            let addresses = vec![std::net::Ipv4Addr::new(203, 0, 113, 1)];
            snapshot.pools.push(Pool { addresses, ports: (1, 9), ..Pool::default() });
            let mut nat = Nat::new(&snapshot);
            let (mut sessions, mut counters) = (Sessions::new(&snapshot), Counters::new(&snapshot));
            let binding = nat.bind(0, &snapshot.pools[0], (1, 1), (2, 80), ipv4::UDP).unwrap();
            for (inbound, port, after) in [(false, 1, 0), (true, 2, 100)] {
                let now = start + after * SECOND;
                sessions.sweep(now, &Timeouts::default(), &mut nat, &mut counters);
                let permit = nat.hold(binding, 2, false);
                let session = NewSession { binding, permit, inbound, ..new(port, ipv4::UDP) };
                sessions.create(&session, now, &mut nat, &mut counters).unwrap();
            }
            let mut at = |after: u64| {
                sessions.sweep(start + after * SECOND, &Timeouts::default(), &mut nat, &mut counters);
                sessions.live()
            };
            assert_eq!((at(200), at(298), at(303)), (2, 2, 0));
            assert_eq!(nat.live(), 0);
        }
    }

    #[test]
    fn a_session_whose_key_is_wanted_gives_way() {
        let (mut sessions, mut nat, mut counters) = sessions(8);
        sessions.create(&new(1, ipv4::UDP), SECOND, &mut nat, &mut counters).unwrap();
        sessions.create(&new(1, ipv4::UDP), SECOND, &mut nat, &mut counters).unwrap();
        assert_eq!((sessions.live(), sessions.v4.len()), (1, 2));
    }

    #[test]
    fn a_jump_of_years_ends_everything() {
        let (mut sessions, mut nat, mut counters) = sessions(8);
        sessions.create(&new(1, ipv4::TCP), SECOND, &mut nat, &mut counters).unwrap();
        sessions.sweep(70 * 365 * 86_400 * SECOND, &Timeouts::default(), &mut nat, &mut counters);
        assert_eq!(sessions.live(), 0);
    }
}
