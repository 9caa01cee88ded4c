//! Sessions that go from one IP family to the other (NAT64): a flow in each table.

use super::{Family, Flow, FlowKey, Key4, Key6, KeyFacts, Session, Sessions};
use crate::table::hash::Full;

/// What an IPv4 packet's ends become when it leaves as IPv6; its action has no room for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends6 {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source and destination port; an echo's identifier is its asker's.
    pub ports: (u16, u16),
}

impl From<Key4> for FlowKey {
    fn from(key: Key4) -> Self {
        Self::V4(key)
    }
}

impl From<Key6> for FlowKey {
    fn from(key: Key6) -> Self {
        Self::V6(key)
    }
}

/// A key by which a new session's flows are put in: of one family, or of either.
pub trait SessionKey: Copy + PartialEq + Into<FlowKey> {
    /// The table that its flow is in.
    fn family(&self) -> Family;
    /// Its hash there.
    fn hash(&self, sessions: &Sessions) -> u64;
    /// The likely record of its flow, or [`NONE`](super::NONE): most often its bucket alone says so.
    fn choose(&self, hash: u64, sessions: &Sessions) -> u32;
    /// Puts a flow in.
    fn insert(&self, hash: u64, flow: Flow, sessions: &mut Sessions) -> Result<u32, Full>;
}

impl SessionKey for Key4 {
    #[inline(always)]
    fn family(&self) -> Family {
        Family::V4
    }

    #[inline(always)]
    fn hash(&self, sessions: &Sessions) -> u64 {
        sessions.v4.hash(self)
    }

    #[inline(always)]
    fn choose(&self, hash: u64, sessions: &Sessions) -> u32 {
        sessions.v4.choose(hash)
    }

    #[inline(always)]
    fn insert(&self, hash: u64, flow: Flow, sessions: &mut Sessions) -> Result<u32, Full> {
        sessions.v4.insert_hashed(*self, hash, flow)
    }
}

impl SessionKey for Key6 {
    #[inline(always)]
    fn family(&self) -> Family {
        Family::V6
    }

    #[inline(always)]
    fn hash(&self, sessions: &Sessions) -> u64 {
        sessions.v6.hash(self)
    }

    #[inline(always)]
    fn choose(&self, hash: u64, sessions: &Sessions) -> u32 {
        sessions.v6.choose(hash)
    }

    #[inline(always)]
    fn insert(&self, hash: u64, flow: Flow, sessions: &mut Sessions) -> Result<u32, Full> {
        sessions.v6.insert_hashed(*self, hash, flow)
    }
}

impl SessionKey for FlowKey {
    fn family(&self) -> Family {
        FlowKey::family(self)
    }

    fn hash(&self, sessions: &Sessions) -> u64 {
        sessions.hash(self)
    }

    fn choose(&self, hash: u64, sessions: &Sessions) -> u32 {
        match self {
            Self::V4(key) => key.choose(hash, sessions),
            Self::V6(key) => key.choose(hash, sessions),
        }
    }

    fn insert(&self, hash: u64, flow: Flow, sessions: &mut Sessions) -> Result<u32, Full> {
        sessions.insert_hashed(self, hash, flow)
    }
}

impl FlowKey {
    /// The table that its flow is in.
    pub const fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }
}

impl Session {
    /// Which table the flow of a direction (0, as the first packet went; 1, the replies) is in.
    pub fn family_of(&self, direction: usize) -> Family {
        match (self.family, self.crosses && direction == 1) {
            (Family::V4, false) | (Family::V6, true) => Family::V4,
            _ => Family::V6,
        }
    }
}

impl Sessions {
    /// A flow by its key.
    pub fn find(&self, key: &FlowKey) -> Option<u32> {
        self.find_hashed(key, self.hash(key))
    }

    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        match key {
            FlowKey::V4(key) => self.v4.hash(key),
            FlowKey::V6(key) => self.v6.hash(key),
        }
    }

    pub(super) fn find_hashed(&self, key: &FlowKey, hash: u64) -> Option<u32> {
        match key {
            FlowKey::V4(key) => self.v4.find_hashed(key, hash),
            FlowKey::V6(key) => self.v6.find_hashed(key, hash),
        }
    }

    pub(super) fn insert_hashed(&mut self, key: &FlowKey, hash: u64, flow: Flow) -> Result<u32, Full> {
        match key {
            FlowKey::V4(key) => self.v4.insert_hashed(*key, hash, flow),
            FlowKey::V6(key) => self.v6.insert_hashed(*key, hash, flow),
        }
    }

    pub(super) fn insert(&mut self, key: &FlowKey, flow: Flow) -> Result<u32, Full> {
        self.insert_hashed(key, self.hash(key), flow)
    }

    pub(super) fn remove_flow(&mut self, family: Family, index: u32) -> Option<(FlowKey, Flow)> {
        match family {
            Family::V4 => self.v4.remove(index).map(|(key, flow)| (FlowKey::V4(key), flow)),
            Family::V6 => self.v6.remove(index).map(|(key, flow)| (FlowKey::V6(key), flow)),
        }
    }

    pub(crate) fn key_of(&self, family: Family, index: u32) -> Option<FlowKey> {
        match family {
            Family::V4 => self.v4.get(index).map(|(key, _)| FlowKey::V4(*key)),
            Family::V6 => self.v6.get(index).map(|(key, _)| FlowKey::V6(*key)),
        }
    }

    /// The ends that packets of an IPv4 flow leave with as IPv6: those of the session's other flow, the other way round.
    pub fn ends6(&self, flow: &Flow) -> Option<Ends6> {
        if flow.is_copy() {
            return self.copies.ends6(flow.session());
        }
        let session = self.get(flow.session())?;
        let other = session.flows[flow.direction().reverse() as usize];
        let ([src, dst], facts) = KeyFacts::of6(*self.v6.get(other)?.0);
        Some(Ends6 { src: dst, dst: src, ports: (facts.ports.1, facts.ports.0) })
    }
}
