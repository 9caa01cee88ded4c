//! Binding in steps, for sessions that are made together: what a step looks at is fetched in the one before it, so that the
//! cache misses of several overlap. And the same for what ends.

use super::allocate::{Found, places};
use super::binding::{Inside, Key, key, space};
use super::external::Wish;
use super::layout::PoolLayout;
use super::{Binding, Nat};
use crate::session::NONE;
use crate::snapshot::{Allocation, NatFiltering, Pool, PortChoice};
use crate::verdict::DropReason;

/// An inside and a remote endpoint between which a session is to be, by a pool.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Index of the pool.
    pub pool: u16,
    /// The pool.
    pub of: &'a Pool,
    /// Inside address and port (or echo identifier).
    pub inside: (u32, u16),
    /// Remote address and port.
    pub remote: (u32, u16),
    /// IP protocol.
    pub protocol: u8,
}

impl Wanted<'_> {
    /// The inside endpoint, in the pool of this name.
    pub(super) fn endpoint(&self, pool: u16) -> Inside {
        let ((address, port), protocol) = (self.inside, self.protocol);
        Inside { address, port, pool, protocol }
    }
}

/// What a binding is found by, with its hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct Name {
    pub(super) key: Key,
    pub(super) hash: u64,
}

impl Name {
    /// The hash.
    pub const fn hash(&self) -> u64 {
        self.hash
    }
}

/// What there is of a binding after the first step.
#[derive(Clone, Copy, Debug)]
pub enum Begun {
    /// All of it, at this index.
    Known(u32),
    /// The external port, which is taken.
    Port(FoundPort),
}

/// An external port that is taken, and of no binding yet.
#[derive(Clone, Copy, Debug)]
pub struct FoundPort(Found);

impl Nat {
    /// The external address that an inside one gets as long as it has free ports, where ports are given out one by one.
    fn first_external(&self, pool: &PoolLayout, inside: u32) -> Option<u32> {
        matches!(pool.allocation, Allocation::Ports).then(|| places(pool, inside, self.seed).next())?
    }

    pub(super) fn name(&self, key: Key) -> Name {
        Name { key, hash: self.bindings.hash(&key) }
    }

    /// What the binding that is wanted is found by. Starts to fetch what the first step looks at.
    pub fn foresee(&self, wanted: &Wanted<'_>) -> Option<Name> {
        let pool = self.layout.pools.get(usize::from(wanted.pool))?;
        let (endpoint, (address, port)) = (wanted.endpoint(pool.id), wanted.inside);
        let name = self.name(key(endpoint, pool.behavior.mapping, wanted.remote));
        self.bindings.prefetch_bucket(name.hash);
        if pool.behavior.filtering == NatFiltering::AddressDependent {
            self.permits.prefetch(endpoint, wanted.remote.0);
        }
        if pool.behavior.port_choice == PortChoice::Preserve {
            let external = self.first_external(pool, address).and_then(|at| self.externals.get(at as usize));
            if let (Some(external), Some(space)) = (external, space(wanted.protocol)) {
                external.ports[space].prefetch(port);
            }
        }
        Some(name)
    }

    /// Starts to fetch what the next `count` bindings are kept in.
    pub fn fetch_free(&self, count: usize) {
        self.bindings.prefetch_free(count);
    }

    /// First step of [`bind`](Self::bind), in a pool of which nobody has a share of his own: finds the binding, or takes a port
    /// for it. Starts to fetch what the second looks at. No other of the same name may begin in between.
    pub fn begin(&mut self, wanted: &Wanted<'_>, name: &Name) -> Result<Begun, DropReason> {
        debug_assert!(!wanted.of.has_subscribers());
        if let Some(index) = self.known_by(wanted, name) {
            return Ok(Begun::Known(index));
        }
        let space = space(wanted.protocol).ok_or(DropReason::NatProtocol)?;
        let wish = Wish::new(wanted.of.behavior.port_choice, wanted.inside.1, wanted.protocol);
        let found = self.find_port(wanted.pool, wanted.inside.0, space, &wish, NONE)?;
        let address = self.externals.get(found.slot as usize).map_or(0, |e| e.address.to_bits());
        self.by_external.prefetch(self.external_hash((address, found.port), wanted.protocol));
        Ok(Begun::Port(FoundPort(found)))
    }

    /// Second step: the binding.
    pub fn finish(&mut self, wanted: &Wanted<'_>, name: &Name, begun: Begun) -> Result<u32, DropReason> {
        match begun {
            Begun::Known(index) => Ok(index),
            Begun::Port(FoundPort(found)) => self.insert_new(wanted, *name, found, NONE),
        }
    }

    /// Starts to fetch a binding and a permit, for [`seen_outbound`](Nat::seen_outbound) and [`release`](Nat::release).
    pub fn fetch(&self, binding: u32, permit: u32) {
        self.bindings.prefetch_record(binding);
        self.permits.prefetch_drop(permit, false);
    }

    /// Starts to fetch what [`release`](Nat::release) looks at besides, once [`fetch`](Self::fetch) has brought these here.
    pub fn fetch_release(&self, binding: u32, permit: u32) {
        let Some((key, held)) = self.bindings.get(binding) else { return };
        self.permits.prefetch_drop(permit, true);
        if held.sessions <= 1 {
            self.bindings.prefetch_bucket(self.bindings.hash(key));
            self.by_external.prefetch(self.external_hash(held.external, held.protocol));
        }
    }

    pub(super) fn external_hash(&self, external: (u32, u16), protocol: u8) -> u64 {
        Binding::external_hash(external, protocol, &self.secret)
    }
}
