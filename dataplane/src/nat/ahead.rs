//! Fetching what is about to be looked at, so that the cache misses of several sessions overlap.

use super::allocate::places;
use super::binding::{Inside, key, space};
use super::external::{Wish, choose_port};
use super::layout::PoolLayout;
use super::{Binding, Nat};
use crate::snapshot::{Allocation, NatFiltering, Pool, PortChoice};
use crate::table::hash::NONE;

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

/// Where a binding and its external address most likely are.
#[derive(Clone, Copy, Debug)]
pub struct Likely {
    hash: u64,
    place: u32,
}

/// What will be drawn at random, as far as can be told.
#[derive(Clone, Copy, Debug)]
pub struct Foreseen(u64);

impl Nat {
    /// What is drawn next.
    pub fn foresee(&self) -> Foreseen {
        Foreseen(self.random)
    }

    /// The external address that an inside one gets as long as it has free ports, where ports are given out one by one.
    fn first_external(&self, pool: &PoolLayout, inside: u32) -> Option<u32> {
        matches!(pool.allocation, Allocation::Ports).then(|| places(pool, inside, self.seed).next())?
    }

    /// Starts to fetch what [`bind`](Nat::bind) and [`hold`](Nat::hold) look at, as far as it does not depend on the external
    /// port. Returns where to look for the rest.
    pub fn fetch_bind(&self, wanted: &Wanted<'_>) -> Option<Likely> {
        let pool = self.layout.pools.get(usize::from(wanted.pool))?;
        let (address, port) = wanted.inside;
        let endpoint = Inside { address, port, pool: pool.id, protocol: wanted.protocol };
        let hash = self.bindings.hash(&key(endpoint, pool.behavior.mapping, wanted.remote));
        self.bindings.prefetch_bucket(hash);
        if pool.behavior.filtering == NatFiltering::AddressDependent {
            self.permits.prefetch(endpoint, wanted.remote.0);
        }
        let (place, space) = (self.first_external(pool, address)?, space(wanted.protocol)?);
        if pool.behavior.port_choice == PortChoice::Preserve {
            self.externals.get(place as usize)?.ports[space].prefetch(port);
        }
        Some(Likely { hash, place })
    }

    /// Starts to fetch the rest. Returns the external endpoint, which is a guess: [`bind`](Nat::bind) calls of other packets
    /// come first.
    pub fn fetch_external(
        &self,
        wanted: &Wanted<'_>,
        likely: Likely,
        foreseen: &mut Foreseen,
    ) -> Option<(u32, u16)> {
        let known = self.bindings.candidate(likely.hash);
        if known != NONE {
            return None;
        }
        let external = self.externals.get(likely.place as usize)?;
        let ports = &external.ports[space(wanted.protocol)?];
        let wish = Wish::new(wanted.of.behavior.port_choice, wanted.inside.1, wanted.protocol);
        let port = choose_port(ports, wanted.of.ports, &wish, &mut foreseen.0)?;
        let end = (external.address.to_bits(), port);
        self.by_external.prefetch(Binding::external_hash(end, wanted.protocol, self.seed));
        Some(end)
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
            self.by_external.prefetch(Binding::external_hash(held.external, held.protocol, self.seed));
        }
    }
}
