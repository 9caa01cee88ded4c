//! Sessions for the process that takes over: keys, where they stand, what they counted, and of their actions what a new decision
//! starts from.

use std::net::Ipv6Addr;

use sluice_pkt::translation::Translation;

use super::tcp::Connection;
use super::{FlowAction, FlowKey, KeyFacts, NewSession, Session, Sessions, key4, key6, plain_action};
use crate::clock::Nanos;
use crate::counters::Counters;
use crate::nat::Nat;
use crate::saved::{Fields, Record, Writer};

/// In a session's flags.
const HAS_REPLY: u8 = 1;
const IS_INBOUND: u8 = 2;

/// A session as it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SavedSession {
    /// The key of each direction; both are one where the replies have the very same tuple.
    pub(crate) keys: [FlowKey; 2],
    pub(crate) actions: [FlowAction; 2],
    /// The binding's index, as it was; [`NONE`](super::NONE) without.
    pub(crate) binding: u32,
    /// Whether its first packet came from outside, to the binding.
    pub(crate) inbound: bool,
    last_seen: [u32; 2],
    session: Session,
}

fn put_key(key: &FlowKey, fields: &mut Fields<'_>) {
    let facts = match *key {
        FlowKey::V4(key) => {
            let ([src, dst], facts) = KeyFacts::of4(key);
            fields.u8(4).u32(src).u32(dst);
            facts
        }
        FlowKey::V6(key) => {
            let ([src, dst], facts) = KeyFacts::of6(key);
            fields.u8(6).u128(src).u128(dst);
            facts
        }
    };
    fields.u16(facts.ports.0).u16(facts.ports.1).u8(facts.protocol).u16(facts.interface);
}

fn take_key(record: &mut Record<'_>) -> FlowKey {
    let ports = |record: &mut Record<'_>| super::ports(record.u16(), record.u16());
    if record.u8() == 4 {
        let addresses = super::addresses(record.u32(), record.u32());
        FlowKey::V4(key4(addresses, ports(record), record.u8(), record.u16()))
    } else {
        let (src, dst) = (record.u128(), record.u128());
        FlowKey::V6(key6(src, dst, ports(record), record.u8(), record.u16()))
    }
}

impl SavedSession {
    pub(crate) fn read(mut record: Record<'_>) -> Self {
        let record = &mut record;
        let flags = record.u8();
        let mut session = Session {
            protocol: record.u8(),
            dscp: record.u8(),
            kept_by: record.u8(),
            created: record.u32(),
            looked: record.u32(),
            packets: [record.u64(), record.u64()],
            bytes: [record.u64(), record.u64()],
            ..Session::default()
        };
        let binding = record.u32();
        let sequences = [record.u32(), record.u32()];
        session.tcp = Connection::restored(record.u16(), sequences, [record.u32(), record.u32()]);
        let flow = |record: &mut Record<'_>| {
            let (key, seen) = (take_key(record), record.u32());
            let new = Translation::of_v6(Ipv6Addr::from_bits(record.u128()));
            let action = FlowAction { new, flags: record.u16(), ..plain_action(record.u16()) };
            (key, seen, action)
        };
        let forward = flow(record);
        let reply = if flags & HAS_REPLY != 0 { flow(record) } else { forward };
        Self {
            keys: [forward.0, reply.0],
            last_seen: [forward.1, reply.1],
            actions: [forward.2, reply.2],
            binding,
            inbound: flags & IS_INBOUND != 0,
            session,
        }
    }

    /// The remote IPv4 address, as the filter of its binding knows it.
    pub(crate) fn remote(&self) -> u32 {
        match (self.inbound, self.keys[0]) {
            (true, FlowKey::V4(key)) => KeyFacts::of4(key).0[0],
            _ => self.actions[0].new.destination().to_bits(),
        }
    }
}

impl Sessions {
    /// Writes a section's records.
    pub(crate) fn save(&self, writer: &mut Writer) {
        for index in 0..self.slots() {
            let Some(session) = self.get(index) else { continue };
            let flow = |direction: usize| {
                let (family, index) = (session.family_of(direction), session.flows[direction]);
                Some((self.key_of(family, index)?, *self.flow(family, index)?))
            };
            let Some(forward) = flow(0) else { continue };
            let reply = flow(1);
            let flags = if reply.is_some() { HAS_REPLY } else { 0 };
            let flags = flags | if session.is_inbound() { IS_INBOUND } else { 0 };
            writer.record(|fields| {
                fields.u8(flags).u8(session.protocol).u8(session.dscp).u8(session.kept_by);
                fields.u32(session.created).u32(session.looked);
                let ways = [Some(forward), reply];
                let passed =
                    |of: fn(&super::Flow) -> u64| ways.map(|way| way.map_or(0, |(_, flow)| of(&flow)));
                let (packets, bytes) = (passed(|flow| flow.packets.into()), passed(super::Flow::bytes));
                session.packets.iter().zip(packets).for_each(|(total, more)| _ = fields.u64(total + more));
                session.bytes.iter().zip(bytes).for_each(|(total, more)| _ = fields.u64(total + more));
                fields.u32(session.binding);
                let (seen, sequences, at) = session.tcp.parts();
                sequences.iter().for_each(|&sequence| _ = fields.u32(sequence));
                fields.u16(seen).u32(at[0]).u32(at[1]);
                for (key, flow) in ways.into_iter().flatten() {
                    put_key(&key, fields);
                    fields.u32(flow.last_seen).u128(flow.action.new.v6().to_bits());
                    fields.u16(flow.action.flags).u16(flow.action.next_hop);
                }
            });
        }
    }

    /// Takes a session in, to be decided anew. Its index; `None` if there is no room. `binding` is the binding's index now,
    /// `permit` what [`Nat::hold`] returned for it, and `next_hop` tells how neighbours are numbered now.
    pub(crate) fn restore(
        &mut self,
        saved: &SavedSession,
        (binding, permit): (u32, u32),
        next_hop: impl Fn(u16) -> u16,
        nat: &mut Nat,
    ) -> Option<u32> {
        let &SavedSession { keys, mut actions, inbound, session, last_seen, .. } = saved;
        actions.iter_mut().for_each(|action| action.next_hop = next_hop(action.next_hop));
        let Session { protocol, dscp, .. } = session;
        let new = NewSession { keys, actions, protocol, binding, permit, inbound, dscp };
        // It is none that is made, or that ends, here; nor is its binding seen now.
        let seen = Nanos::from(last_seen[0]) << 24;
        let flow = self.create(&new, seen, nat, &mut Counters::default())?;
        let index = self.flow(keys[0].family(), flow)?.session();
        let outdated = self.policy.wrapping_sub(1);
        let flows = self.get(index)?.flows;
        for direction in 0..2 {
            if let Some(flow) = self.flow_mut(keys[direction].family(), flows[direction]) {
                flow.last_seen = last_seen[direction];
                flow.action.flags = actions[direction].flags;
            }
        }
        let live = self.slab.get_mut(index as usize)?;
        *live = Session {
            kept_by: session.kept_by,
            created: session.created,
            looked: session.looked,
            packets: session.packets,
            bytes: session.bytes,
            tcp: session.tcp,
            policy: outdated,
            ..*live
        };
        self.reported_up_to_now(index);
        Some(index)
    }

    /// How many sessions have no binding that they should have: for tests.
    #[cfg(test)]
    fn unbound(&self) -> usize {
        let live = (0..self.slots()).filter_map(|index| self.get(index));
        live.filter(|session| session.binding == super::NONE).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::NONE;
    use super::*;
    use crate::clock::SECOND;
    use crate::saved::{Saved, Tag};
    use crate::session::tests::new;
    use crate::session::{Direction, Segment};
    use crate::snapshot::Snapshot;

    fn sessions() -> (Sessions, Nat, Counters) {
        let mut snapshot = Snapshot::default();
        snapshot.sizes.sessions = 64;
        (Sessions::new(&snapshot), Nat::new(&snapshot), Counters::new(&snapshot))
    }

    fn saved(sessions: &Sessions) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.section(Tag::Sessions);
        sessions.save(&mut writer);
        writer.finish()
    }

    fn restored(bytes: &[u8]) -> Sessions {
        let (mut fresh, mut nat, _) = sessions();
        for record in Saved::new(bytes).unwrap().section(Tag::Sessions) {
            let session = SavedSession::read(record);
            assert!(fresh.restore(&session, (NONE, NONE), |hop| hop, &mut nat).is_some());
        }
        fresh
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_taken_in_is_what_was_written(
            packets in prop::collection::vec((1u16..40, any::<bool>(), 40usize..1500, 0u8..64, any::<u32>()), 1..100),
            tcp in any::<bool>(),
        ) {
            let (mut sessions, mut nat, mut counters) = sessions();
            let protocol = if tcp { 6 } else { 17 };
            for (i, (port, is_reply, bytes, flags, sequence)) in packets.into_iter().enumerate() {
                let key = new(port, protocol);
                let now = (i as u64 + 1) * SECOND;
                let direction = usize::from(is_reply);
                if sessions.find(&key.keys[0].into()).is_none() {
                    sessions.create(&key, now, &mut nat, &mut counters).unwrap();
                }
                let flow = sessions.find(&key.keys[direction].into()).unwrap();
                let way = if is_reply { Direction::Reply } else { Direction::Forward };
                let session = sessions.v4.value(flow).unwrap().session();
                sessions.follow_tcp(session, way, Segment { flags, sequence });
                sessions.v4.value_mut(flow).unwrap().count(bytes, super::super::ticks(now));
            }
            let first = saved(&sessions);
            let again = restored(&first);
            prop_assert_eq!(again.live(), sessions.live());
            prop_assert_eq!(again.unbound(), again.live() as usize);
            prop_assert_eq!(saved(&again), first);
            for index in 0..again.slots() {
                prop_assert!(again.is_outdated(index));
            }
        }
    }
}
