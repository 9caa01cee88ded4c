//! Bindings of addresses alone, for protocols without ports (`stage/portless.rs`): they take no port, and who is free is not
//! asked of them. They are there so that such sessions are on their inside address's account, and in the log.

use super::binding::{Inside, key, rename};
use super::{Binding, Nat, Opener};
use crate::session::NONE;
use crate::snapshot::{NatFiltering, NatMapping, Pool};
use crate::verdict::DropReason;

impl Nat {
    /// The binding (its index) of an inside address to an external one of a pool, for a new session by a protocol without
    /// ports: the one that there is, or a new one.
    pub fn bind_address(
        &mut self,
        pool: u16,
        of: &Pool,
        (inside, external): (u32, u32),
        protocol: u8,
    ) -> Result<u32, DropReason> {
        let id = self.layout.pools.get(usize::from(pool)).map(|layout| layout.id);
        let id = id.ok_or(DropReason::NatPortsExhausted)?;
        let key = address_key(Inside { address: inside, port: 0, pool: id, protocol }, external);
        if let Some(index) = self.bindings.find(&key) {
            if of.has_limits() {
                self.admit_session(index, of, Opener::Inside)?;
            }
            return Ok(index);
        }
        let subscriber = self.enter(pool, inside)?;
        let bound = self
            .subscribers
            .admit_session(subscriber, of)
            .and_then(|()| self.subscribers.admit_new(subscriber, of, Opener::Inside, self.now))
            .and_then(|()| {
                let binding = Binding {
                    inside: (inside, 0),
                    external: (external, 0),
                    protocol,
                    mapping: NatMapping::AddressAndPortDependent,
                    filtering: NatFiltering::AddressAndPortDependent,
                    pool: id,
                    slot: NONE,
                    block: NONE,
                    subscriber,
                    ..Binding::default()
                };
                self.insert(self.name(key), binding, &of.allocation)
            });
        if bound.is_err() {
            self.leave(subscriber);
        }
        bound
    }

    /// Puts a binding of addresses that stays on the account that is kept in this pool now, and has it found for further
    /// sessions if no other is.
    pub fn keep_address(&mut self, index: u32, pool: u16) {
        let Some(layout) = self.layout.pools.get(usize::from(pool)) else { return };
        let Some(binding) = self.get(index).filter(|binding| !binding.has_port()) else { return };
        let now = address_key(Inside { pool: layout.id, ..binding.of() }, binding.external.0);
        if self.bindings.find(&now).is_none() {
            rename(&mut self.bindings, index, now);
        }
        self.account_for(index, pool);
    }
}

/// What a binding of addresses is found by.
fn address_key(inside: Inside, external: u32) -> super::Key {
    key(inside, NatMapping::AddressAndPortDependent, (external, 0))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::nat::{EventKind, NatLog};
    use crate::snapshot::{Allocation, PortBlocks, Snapshot};

    const GRE: u8 = 47;

    /// proves: RFC 6888 REQ-4c
    /// proves: RFC 6888 REQ-5
    #[test]
    fn sessions_without_ports_are_on_the_account_and_in_the_log() {
        let allocation = Allocation::Blocks(PortBlocks { size: 64, most: 1, hold: 0 });
        let addresses = vec![Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
        let external = addresses[1].to_bits();
        let pool = Pool {
            addresses,
            ports: (1024, 2047),
            allocation,
            max_ports: 1,
            max_sessions: 2,
            max_new: 3,
            ..Pool::default()
        };
        let mut snapshot = Snapshot { pools: vec![pool], nat_log: NatLog::Blocks, ..Snapshot::default() };
        snapshot.sizes.sessions = 64;
        let (mut nat, pool) = (Nat::new(&snapshot), &snapshot.pools[0]);
        let mut events = nat.events();
        let open = |nat: &mut Nat, inside: u32| {
            let index = nat.bind_address(0, pool, (inside, external), GRE)?;
            nat.hold(index, 9, false);
            Ok::<u32, DropReason>(index)
        };
        let first = open(&mut nat, 10).unwrap();
        assert_eq!(open(&mut nat, 10), Ok(first));
        assert_eq!(open(&mut nat, 10), Err(DropReason::NatSessionLimit));
        let row = |nat: &Nat| (0..nat.subscriber_slots()).find_map(|index| nat.subscriber(index));
        let account = row(&nat).unwrap();
        assert_eq!((account.sessions, account.ports, account.blocks), (2, 0, 0));
        nat.release(first, NONE);
        assert_eq!(open(&mut nat, 10), Ok(first));
        nat.release(first, NONE);
        assert_eq!(open(&mut nat, 10), Err(DropReason::NatRateLimit));
        assert!(open(&mut nat, 11).is_ok_and(|other| other != first), "another's is its own");
        assert_eq!(nat.find_external((external, 0), GRE), None, "nobody outside finds it");
        assert!(nat.externals().all(|(_, used)| used == [0; 3]));
        nat.release(first, NONE);
        assert_eq!(nat.live(), 1);
        let seen: Vec<_> = std::iter::from_fn(|| events.take())
            .map(|event| (event.kind, event.protocol, event.inside, event.external.to_bits(), event.ports))
            .collect();
        let host = |bits| IpAddr::from(Ipv4Addr::from_bits(bits));
        let of = |kind, bits| (kind, GRE, host(bits), external, (0, 0));
        assert_eq!(
            seen,
            [
                of(EventKind::BindingCreated, 10),
                of(EventKind::BindingCreated, 11),
                of(EventKind::BindingReleased, 10)
            ]
        );
    }
}
