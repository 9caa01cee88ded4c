//! What each inside address has at a time, where that has bounds or is given out in blocks.

use std::net::{IpAddr, Ipv4Addr};

use super::Nat;
use super::layout::PoolLayout;
use crate::clock::Nanos;
use crate::session::NONE;
use crate::snapshot::Pool;
use crate::table::hash::HashTable;
use crate::verdict::DropReason;

/// One inside address in one pool.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Subscriber {
    /// Sessions that use its bindings.
    pub(super) sessions: u32,
    /// External ports and identifiers, all protocols together.
    pub(super) ports: u32,
    /// Its latest block, or [`NONE`].
    pub(super) first_block: u32,
    /// How many blocks it has.
    pub(super) blocks: u32,
    /// Whether its address is of IPv6, and in the key the number of that host.
    is_nat64: bool,
    /// By [`Opener`]: the time up to which its share of new sessions is spent.
    pub(super) spent: [Nanos; 2],
}

/// Who opens a session. Each has a rate of its own, so that nobody outside can use up an inside address's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// The inside address.
    Inside,
    /// Somebody outside, to a binding that there is.
    Outside,
}

/// Nanoseconds in which the whole of a rate may be used at once.
const BURST: Nanos = 1_000_000_000;

/// A block of ports that an inside address has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// Whose it is; with NAT64 an address of IPv6.
    pub inside: IpAddr,
    /// External address.
    pub external: Ipv4Addr,
    /// First and last port.
    pub ports: (u16, u16),
    /// Ports in use, each protocol's counted.
    pub ports_used: u32,
}

/// What an inside address has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriberRow {
    /// The inside address, with NAT64 of IPv6.
    pub inside: IpAddr,
    /// The pool; `None` if it is from before another configuration, and all that it has is about to end.
    pub pool: Option<u16>,
    /// Sessions.
    pub sessions: u32,
    /// External ports and identifiers, all protocols together.
    pub ports: u32,
    /// Blocks.
    pub blocks: u32,
}

type Key = u64;

fn key(inside: u32, pool: u16) -> Key {
    u64::from(inside) << 16 | u64::from(pool)
}

/// By inside address and the pool's name.
pub(super) struct Subscribers(HashTable<Key, Subscriber>);

impl Subscribers {
    /// Room for so many.
    pub(super) fn new(capacity: u32, seed: u64) -> Self {
        Self(HashTable::with_capacity(capacity, seed.rotate_left(16)))
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    pub(super) fn slots(&self) -> u32 {
        self.0.slots()
    }

    /// By [`Opener`]: the time up to which the share of new sessions is spent.
    pub(super) fn spent(&self, index: u32) -> Option<[Nanos; 2]> {
        self.0.value(index).map(|subscriber| subscriber.spent)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Subscriber> {
        self.0.value_mut(index)
    }

    /// The account of an inside address, opened if need be, or taken over from the pool of another configuration; [`NONE`]
    /// where none is kept. And whether it has been opened.
    fn enter(&mut self, pool: &PoolLayout, inside: u32) -> Result<(u32, bool), DropReason> {
        if !pool.has_accounts {
            return Ok((NONE, false));
        }
        let (now, is_nat64) = (key(inside, pool.id), pool.behavior.is_nat64);
        if let Some(index) = self.0.find(&now) {
            return Ok((index, false));
        }
        let known = |&was: &u16| {
            let is_alike = |&index: &u32| self.0.value(index).is_some_and(|s| s.is_nat64 == is_nat64);
            self.0.find(&key(inside, was)).filter(is_alike)
        };
        if let Some(index) = pool.was.iter().find_map(known) {
            self.rename(index, now);
            return Ok((index, false));
        }
        let new = Subscriber { sessions: 0, ports: 0, first_block: NONE, blocks: 0, is_nat64, spent: [0; 2] };
        self.0.insert(now, new).map(|index| (index, true)).map_err(|_| DropReason::SessionTableFull)
    }

    /// The latest block of an inside address in a pool.
    pub(super) fn first_block(&self, pool: &PoolLayout, inside: u32) -> Option<u32> {
        let account = self.0.find(&key(inside, pool.id)).and_then(|index| self.0.value(index))?;
        (account.blocks > 0).then_some(account.first_block)
    }

    /// Its index stays, as the table fills the slot first that was freed last.
    fn rename(&mut self, index: u32, key: Key) {
        if let Some((_, subscriber)) = self.0.remove(index) {
            let again = self.0.insert(key, subscriber);
            debug_assert_eq!(again, Ok(index));
        }
    }

    /// Closes an account in which nothing is left. Returns the number of the host of NAT64 that it was of.
    fn leave(&mut self, index: u32) -> Option<u32> {
        let is_empty = |s: &Subscriber| s.sessions == 0 && s.ports == 0 && s.blocks == 0;
        if !self.0.value(index).is_some_and(is_empty) {
            return None;
        }
        let (key, closed) = self.0.remove(index)?;
        closed.is_nat64.then_some((key >> 16) as u32)
    }

    /// Whether there may be another session at a time.
    pub(super) fn admit_session(&self, index: u32, of: &Pool) -> Result<(), DropReason> {
        match self.0.value(index) {
            Some(s) if of.max_sessions > 0 && s.sessions >= of.max_sessions => {
                Err(DropReason::NatSessionLimit)
            }
            _ => Ok(()),
        }
    }

    /// Takes one of the new sessions of this second (RFC 6888 REQ-4c), if there is one left. A token bucket of a second's
    /// depth, told by the time up to which its tokens are spent.
    pub(super) fn admit_new(
        &mut self,
        index: u32,
        of: &Pool,
        opener: Opener,
        now: Nanos,
    ) -> Result<(), DropReason> {
        let Some(subscriber) = self.0.value_mut(index).filter(|_| of.max_new > 0) else { return Ok(()) };
        let each = (BURST / u64::from(of.max_new)).max(1);
        let spent = &mut subscriber.spent[opener as usize];
        let until = (*spent).max(now).saturating_add(each);
        // What does not divide a second leaves less than one token over.
        if until - now > each * u64::from(of.max_new) {
            return Err(DropReason::NatRateLimit);
        }
        *spent = until;
        Ok(())
    }

    /// Whether there may be another external port.
    pub(super) fn admit_port(&self, index: u32, of: &Pool) -> Result<(), DropReason> {
        match self.0.value(index) {
            Some(s) if of.max_ports > 0 && s.ports >= of.max_ports => Err(DropReason::NatPortLimit),
            _ => Ok(()),
        }
    }
}

impl Nat {
    /// The account of an inside address in a pool (by its index), opened if need be; [`NONE`] where none is kept. A host of
    /// NAT64 keeps its number as long as it has one.
    pub(super) fn enter(&mut self, pool: u16, inside: u32) -> Result<u32, DropReason> {
        let Some(layout) = self.layout.pools.get(usize::from(pool)) else { return Ok(NONE) };
        let (index, is_new) = self.subscribers.enter(layout, inside)?;
        if is_new && layout.behavior.is_nat64 {
            self.hosts.count(inside, true);
        }
        Ok(index)
    }

    /// Closes an account in which nothing is left.
    pub(super) fn leave(&mut self, index: u32) {
        if let Some(host) = self.subscribers.leave(index) {
            self.hosts.count(host, false);
        }
    }

    /// Whose account it is.
    pub(super) fn holder(&self, index: u32) -> Option<IpAddr> {
        let (&key, subscriber) = self.subscribers.0.get(index)?;
        Some(self.address_in((key >> 16) as u32, subscriber.is_nat64))
    }

    /// The inside address at an index, if account is kept of one there.
    pub fn subscriber(&self, index: u32) -> Option<SubscriberRow> {
        let (&key, &Subscriber { sessions, ports, blocks, .. }) = self.subscribers.0.get(index)?;
        let mut pools = self.layout.pools.iter();
        let pool = pools.position(|pool| pool.is_called(key as u16)).map(|pool| pool as u16);
        Some(SubscriberRow { inside: self.holder(index)?, pool, sessions, ports, blocks })
    }

    /// How far indices of inside addresses go.
    pub fn subscriber_slots(&self) -> u32 {
        self.subscribers.slots()
    }
}
