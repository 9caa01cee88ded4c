//! Sessions from the time of another configuration: what a new decision changes about them.

use super::{Flow, FlowAction, FlowKey, NONE, NewSession, Sessions};
use crate::nat::Nat;

impl Sessions {
    /// Whether the session was decided under another configuration than the present one.
    pub fn is_outdated(&self, index: u32) -> bool {
        self.get(index).is_some_and(|session| session.policy != self.policy)
    }

    /// Goes on with a session as it has been decided anew. Its forward key is what it was; that of its answers may be
    /// another, as they come in by another interface. Next hops are looked up when the next packets come. False, and nothing
    /// changed, if the answers would be those of another session.
    pub fn renew<K>(&mut self, index: u32, new: &NewSession<K>) -> bool
    where
        K: Into<FlowKey> + Copy,
    {
        let Some(session) = self.get(index).copied() else { return false };
        let stamp = self.stamp.wrapping_sub(1);
        let [forward, mut reply] = session.flows;
        let [key, answers]: [FlowKey; 2] = new.keys.map(Into::into);
        let families = [session.family, answers.family()];
        // A host that talks to itself: both ways have one flow.
        let wanted = (answers != key).then_some(answers);
        if self.key_of(session.family_of(1), reply) != wanted {
            if wanted.is_some_and(|key| self.find(&key).is_some()) {
                return false;
            }
            let last_seen = self.flow(session.family, forward).map_or(0, |flow| flow.last_seen);
            let record = match self.remove_flow(session.family_of(1), reply) {
                Some((_, record)) => record,
                None => Flow { last_seen, session: index << 1 | 1, ..Flow::default() },
            };
            reply = wanted.and_then(|key| self.insert(&key, record).ok()).unwrap_or(NONE);
        }
        for ((flow, action), family) in [forward, reply].into_iter().zip(new.actions).zip(families) {
            if let Some(flow) = self.flow_mut(family, flow) {
                let watched = flow.action.is(FlowAction::WATCH);
                (flow.action, flow.stamp) = (action, stamp);
                flow.action.watch(watched);
            }
        }
        let policy = self.policy;
        if let Some(session) = self.slab.get_mut(index as usize) {
            (session.flows, session.policy) = ([forward, reply], policy);
        }
        true
    }

    /// The session goes on without the NAT binding that it had.
    pub fn unbind(&mut self, index: u32, nat: &mut Nat) {
        let Some(session) = self.slab.get_mut(index as usize).filter(|session| session.live) else { return };
        let (binding, permit) = (session.binding, session.permit);
        (session.binding, session.permit, session.kept_by) = (NONE, NONE, 0b11);
        nat.release(binding, permit);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Direction, addresses, key4, ports, tests};
    use super::*;
    use crate::clock::SECOND;
    use crate::counters::Counters;
    use crate::session::Key4;
    use crate::snapshot::Snapshot;

    /// One whose answers come in by this interface.
    fn new(port: u16, answers: u16) -> NewSession<Key4> {
        let session = tests::new(port, 17);
        let back = key4(addresses(2, 1), ports(80, port), 17, answers);
        NewSession { keys: [session.keys[0], back], ..session }
    }

    #[test]
    fn answers_move_to_another_interface_with_what_they_have_counted() {
        let snapshot = Snapshot::default();
        let (mut sessions, mut nat) = (Sessions::new(&snapshot), Nat::new(&snapshot));
        let counters = &mut Counters::new(&snapshot);
        sessions.create(&new(1, 1), SECOND, &mut nat, counters).unwrap();
        sessions.create(&new(2, 2), SECOND, &mut nat, counters).unwrap();
        let reply = sessions.v4.find(&new(1, 1).keys[1]).unwrap();
        sessions.v4.value_mut(reply).unwrap().count(100, 7);
        assert!(!sessions.is_outdated(0));
        sessions.policy += 1;
        assert!(sessions.is_outdated(0));

        let mut moved = new(1, 3);
        moved.actions[1].rule = 9;
        assert!(sessions.renew(0, &moved));
        assert!(!sessions.is_outdated(0) && sessions.is_outdated(1));
        assert_eq!(sessions.v4.find(&new(1, 1).keys[1]), None);
        let flow = sessions.v4.value(sessions.v4.find(&moved.keys[1]).unwrap()).unwrap();
        assert_eq!((flow.packets, flow.action.rule, flow.direction()), (1, 9, Direction::Reply));
        assert_ne!(flow.stamp, sessions.stamp);

        // The place is taken: nothing changes.
        sessions.create(
            &NewSession { keys: [new(2, 5).keys[1], key4(0, 0, 17, 9)], ..new(2, 5) },
            0,
            &mut nat,
            counters,
        );
        assert!(!sessions.renew(1, &new(2, 5)));
        assert!(sessions.is_outdated(1) && sessions.v4.find(&new(2, 2).keys[1]).is_some());
        sessions.end(0, &mut nat, counters);
        assert_eq!(sessions.v4.len(), 4);
    }
}
