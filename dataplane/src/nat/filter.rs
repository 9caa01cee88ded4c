//! Which remote addresses an inside endpoint has sessions with: what address-dependent filtering asks (RFC 4787 5).

use super::binding::Inside;
use crate::arena::{HugePages, HugeVec};
use crate::session::NONE;
use crate::table::hash::Secret;
use crate::table::index::Index;
use crate::table::prefetch::{prefetch, prefetch_at};

#[derive(Clone, Copy, Debug)]
struct Permit {
    inside: Inside,
    remote: u32,
    sessions: u32,
}

impl Permit {
    fn hash(&self, secret: &Secret) -> u64 {
        let [a, b] = self.inside.key();
        secret.hash(&[a, b ^ u64::from(self.remote) << 32])
    }
}

/// The remote addresses that may send to inside endpoints.
#[derive(Debug)]
pub(super) struct Permits {
    index: Index,
    slab: HugeVec<Permit>,
    free: HugeVec<u32>,
    secret: Secret,
}

impl Permits {
    /// Takes the memory for as many as there may be sessions.
    pub(super) fn new(capacity: u32, seed: u64) -> Self {
        Self {
            index: Index::with_capacity(capacity),
            slab: HugeVec::with_capacity_in(capacity as usize, HugePages),
            free: HugeVec::with_capacity_in(capacity as usize, HugePages),
            secret: Secret::new(seed),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.index.bytes() + self.slab.capacity() * (size_of::<Permit>() + size_of::<u32>())
    }

    fn find(&self, wanted: &Permit, hash: u64) -> Option<u32> {
        self.index.find(hash, |at| {
            self.slab.get(at as usize).is_some_and(|p| p.inside == wanted.inside && p.remote == wanted.remote)
        })
    }

    /// Starts to fetch what [`add_one`](Self::add_one) looks at.
    pub(super) fn prefetch(&self, inside: Inside, remote: u32) {
        self.index.prefetch(Permit { inside, remote, sessions: 0 }.hash(&self.secret));
        if let Some(&free) = self.free.last() {
            prefetch_at(&self.slab, free as usize);
        }
    }

    /// Starts to fetch a permit that will be dropped; what finds it, if `is_near` says that it has been fetched.
    pub(super) fn prefetch_drop(&self, at: u32, is_near: bool) {
        match self.slab.get(at as usize) {
            Some(permit) if is_near => self.index.prefetch(permit.hash(&self.secret)),
            Some(permit) => prefetch(permit),
            None => {}
        }
    }

    /// Whether the inside endpoint has a session with the remote address.
    pub(super) fn has(&self, inside: Inside, remote: u32) -> bool {
        let wanted = Permit { inside, remote, sessions: 0 };
        self.find(&wanted, wanted.hash(&self.secret)).is_some()
    }

    /// Counts a session of the inside endpoint with the remote address; for [`drop_one`](Self::drop_one). [`NONE`] if there
    /// is no room.
    pub(super) fn add_one(&mut self, inside: Inside, remote: u32) -> u32 {
        let permit = Permit { inside, remote, sessions: 1 };
        let hash = permit.hash(&self.secret);
        if let Some(at) = self.find(&permit, hash) {
            self.slab[at as usize].sessions += 1;
            return at;
        }
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.slab.len() < self.slab.capacity() => {
                self.slab.push(permit);
                self.slab.len() as u32 - 1
            }
            None => return NONE,
        };
        self.slab[at as usize] = permit;
        if self.index.insert(hash, at) {
            return at;
        }
        self.free.push(at);
        NONE
    }

    /// Takes a session off. Harmless for [`NONE`].
    pub(super) fn drop_one(&mut self, at: u32) {
        let Some(permit) = self.slab.get_mut(at as usize) else { return };
        permit.sessions = permit.sessions.saturating_sub(1);
        if permit.sessions == 0 {
            let (hash, slab, secret) = (permit.hash(&self.secret), &self.slab, &self.secret);
            self.index.remove(hash, at, |other| slab.get(other as usize).map_or(0, |p| p.hash(secret)));
            self.free.push(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_lasts_as_long_as_its_last_session() {
        let inside = |port| Inside { address: 10, port, pool: 0, protocol: 17 };
        let mut permits = Permits::new(2, 7);
        let first = permits.add_one(inside(1), 99);
        assert_eq!(permits.add_one(inside(1), 99), first);
        let other = permits.add_one(inside(2), 99);
        assert_eq!(permits.add_one(inside(3), 99), NONE, "no room");
        permits.drop_one(first);
        assert!(permits.has(inside(1), 99) && !permits.has(inside(1), 98));
        permits.drop_one(first);
        permits.drop_one(NONE);
        assert!(!permits.has(inside(1), 99) && permits.has(inside(2), 99));
        permits.drop_one(other);
        assert!(!permits.has(inside(2), 99));
        assert_ne!(permits.add_one(inside(3), 99), NONE);
    }
}
