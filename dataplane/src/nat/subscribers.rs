//! What each inside address has at a time, where that has bounds or is given out in blocks.

use std::net::Ipv4Addr;

use crate::session::NONE;
use crate::snapshot::{Allocation, Pool, Snapshot};
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
}

/// A block of ports that an inside address has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// The pool.
    pub pool: u16,
    /// Whose it is.
    pub inside: Ipv4Addr,
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
    /// The pool.
    pub pool: u16,
    /// The inside address.
    pub inside: Ipv4Addr,
    /// Sessions.
    pub sessions: u32,
    /// External ports and identifiers, all protocols together.
    pub ports: u32,
    /// Blocks.
    pub blocks: u32,
}

/// By inside address and pool.
pub(super) struct Subscribers(HashTable<u64, Subscriber>);

/// Whether account is kept of the inside addresses that use a pool.
fn is_kept(pool: &Pool) -> bool {
    pool.max_ports > 0 || pool.max_sessions > 0 || matches!(pool.allocation, Allocation::Blocks(_))
}

impl Subscribers {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let capacity = if snapshot.pools.iter().any(is_kept) { snapshot.sizes.sessions } else { 1 };
        Self(HashTable::with_capacity(capacity, snapshot.seed.rotate_left(16)))
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    pub(super) fn slots(&self) -> u32 {
        self.0.slots()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Subscriber> {
        self.0.value_mut(index)
    }

    pub(super) fn address(&self, index: u32) -> Option<Ipv4Addr> {
        self.0.get(index).map(|(&key, _)| Ipv4Addr::from_bits((key >> 16) as u32))
    }

    pub(super) fn row(&self, index: u32) -> Option<SubscriberRow> {
        let (&key, &Subscriber { sessions, ports, blocks, .. }) = self.0.get(index)?;
        let inside = Ipv4Addr::from_bits((key >> 16) as u32);
        Some(SubscriberRow { pool: key as u16, inside, sessions, ports, blocks })
    }

    /// The account of an inside address, opened if need be; [`NONE`] where none is kept.
    pub(super) fn enter(&mut self, pool: u16, of: &Pool, inside: u32) -> Result<u32, DropReason> {
        if !is_kept(of) {
            return Ok(NONE);
        }
        let key = u64::from(inside) << 16 | u64::from(pool);
        let new = Subscriber { first_block: NONE, ..Subscriber::default() };
        match self.0.find(&key) {
            Some(index) => Ok(index),
            None => self.0.insert(key, new).map_err(|_| DropReason::SessionTableFull),
        }
    }

    /// Closes an account in which nothing is left.
    pub(super) fn leave(&mut self, index: u32) {
        let is_empty = |s: &Subscriber| s.sessions == 0 && s.ports == 0 && s.blocks == 0;
        if self.0.value(index).is_some_and(is_empty) {
            self.0.remove(index);
        }
    }

    /// Whether there may be another session.
    pub(super) fn admit_session(&self, index: u32, of: &Pool) -> Result<(), DropReason> {
        match self.0.value(index) {
            Some(s) if of.max_sessions > 0 && s.sessions >= of.max_sessions => {
                Err(DropReason::NatSessionLimit)
            }
            _ => Ok(()),
        }
    }

    /// Whether there may be another external port.
    pub(super) fn admit_port(&self, index: u32, of: &Pool) -> Result<(), DropReason> {
        match self.0.value(index) {
            Some(s) if of.max_ports > 0 && s.ports >= of.max_ports => Err(DropReason::NatPortLimit),
            _ => Ok(()),
        }
    }
}
