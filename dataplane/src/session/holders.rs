//! How many sessions each source has at a time, where that is bounded. Exact: a session knows on whose account it is, and there
//! are never more accounts than sessions.

use super::{NONE, Sessions};
use crate::table::hash::HashTable;

/// Accounts by source.
#[derive(Default)]
pub(super) struct Holders(Option<HashTable<[u64; 1], u32>>);

impl Holders {
    /// For so many sessions; takes its memory.
    pub(super) fn new(sessions: u32, seed: u64) -> Self {
        Self(Some(HashTable::with_capacity(sessions, seed.rotate_left(8))))
    }

    /// A session of this account has ended.
    pub(super) fn leave(&mut self, holder: u32) {
        let Some(table) = self.0.as_mut().filter(|_| holder != NONE) else { return };
        let Some((_, sessions)) = table.get_mut(holder) else { return };
        *sessions = sessions.saturating_sub(1);
        if *sessions == 0 {
            table.remove(holder);
        }
    }
}

impl Sessions {
    /// Sessions that a source has, by the hash that it is known by.
    pub fn held_by(&self, source: u64) -> u32 {
        let table = self.holders.0.as_ref();
        let held = table.and_then(|table| table.value(table.find(&[source])?));
        held.copied().unwrap_or(0)
    }

    /// A session that has just been made is on this source's account.
    pub fn hold_for(&mut self, index: u32, source: u64) {
        let Some(table) = &mut self.holders.0 else { return };
        let holder = match table.find(&[source]) {
            Some(holder) => holder,
            // There is room: each account has a session.
            None => match table.insert([source], 0) {
                Ok(holder) => holder,
                Err(_) => return,
            },
        };
        if let Some(sessions) = table.value_mut(holder) {
            *sessions += 1;
        }
        if let Some(session) = self.slab.get_mut(index as usize) {
            session.holder = holder;
        }
    }
}
