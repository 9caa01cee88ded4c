//! NAT bindings: which external address and port an inside one has.
//!
//! Mapping is endpoint-independent unless configured otherwise (RFC 4787 REQ-1): all sessions of one inside address and
//! port share one binding, and it lives as long as the last of them. An unknown packet to an external address and port
//! finds the binding by these, and who may send to it is for its filter to say (`nat/filter.rs`).

mod ahead;
mod filter;
mod layout;

use std::net::Ipv4Addr;

use sluice_pkt::ipv4;

pub use self::ahead::{Foreseen, Wanted};
use self::filter::Permits;
pub use self::layout::{Change, Layout};
use crate::session::NONE;
use crate::snapshot::{NONE16, NatBehavior, NatFiltering, NatMapping, Pool, PortChoice, Snapshot};
use crate::stage::owner::Owners;
use crate::table::bitmap::PortBitmap;
use crate::table::hash::{HashTable, hash_words};
use crate::table::index::Index;
use crate::table::key::mix;
use crate::verdict::DropReason;

/// What has a binding: an inside address and port (or echo identifier), with the pool and protocol that it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Inside {
    address: u32,
    port: u16,
    pool: u16,
    protocol: u8,
}

impl Inside {
    const fn key(&self) -> [u64; 2] {
        let low = (self.port as u64) << 16 | self.pool as u64;
        [(self.address as u64) << 32 | low, self.protocol as u64]
    }
}

/// One inside endpoint's external one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// Inside address and port (or echo identifier).
    pub inside: (u32, u16),
    /// External address and port (or echo identifier).
    pub external: (u32, u16),
    /// IP protocol: TCP, UDP or ICMP.
    pub protocol: u8,
    /// Which sessions share it.
    pub mapping: NatMapping,
    /// Who may send to it.
    pub filtering: NatFiltering,
    /// Sessions that use it.
    pub sessions: u32,
    /// When one of them last had a packet from inside, as of the last sweep, in [`ticks`](crate::session::ticks).
    pub last_outbound: Option<u32>,
    /// The name of the pool that it was made for.
    pool: u16,
    address: u32,
}

impl Binding {
    fn of(&self) -> Inside {
        let ((address, port), Self { pool, protocol, .. }) = (self.inside, *self);
        Inside { address, port, pool, protocol }
    }

    fn external_hash(external: (u32, u16), protocol: u8, seed: u64) -> u64 {
        hash_words(&[u64::from(external.0) << 32 | u64::from(external.1) << 8 | u64::from(protocol)], seed)
    }
}

/// The ports of one external address, by protocol.
#[derive(Debug)]
struct External {
    address: Ipv4Addr,
    /// TCP, UDP, ICMP; see [`space`].
    ports: [PortBitmap; 3],
    /// Of these, how many are taken because other workers give them out.
    others: [u32; 3],
}

impl External {
    fn new(address: Ipv4Addr) -> Self {
        Self { address, ports: [PortBitmap::new(), PortBitmap::new(), PortBitmap::new()], others: [0; 3] }
    }

    /// Takes the ports that are other workers'.
    fn share(&mut self, share: &Share) {
        for (ports, others) in self.ports.iter_mut().zip(&mut self.others) {
            for port in (0..=u16::MAX).filter(|&port| !share.is_mine(port)) {
                ports.take(port);
                *others += 1;
            }
        }
    }
}

/// What a binding is found by: inside address and port and the pool's name; protocol, and the remote address and port where
/// the mapping depends on them.
type Key = [u64; 2];

fn key(inside: Inside, mapping: NatMapping, remote: (u32, u16)) -> Key {
    let [a, b] = inside.key();
    match mapping {
        NatMapping::EndpointIndependent => [a, b],
        NatMapping::AddressAndPortDependent => [a, b | u64::from(remote.1) << 16 | u64::from(remote.0) << 32],
    }
}

fn space(protocol: u8) -> Option<usize> {
    match protocol {
        ipv4::TCP => Some(0),
        ipv4::UDP => Some(1),
        ipv4::ICMP => Some(2),
        _ => None,
    }
}

/// The bindings of one worker, and the external ports that they take.
pub struct Nat {
    bindings: HashTable<Key, Binding>,
    /// The bindings by their external ends.
    by_external: Index,
    permits: Permits,
    externals: Vec<External>,
    /// Where the pools' addresses lie in `externals`.
    layout: Layout,
    share: Share,
    random: u64,
    seed: u64,
}

/// Which external ports are a worker's to give out: all, if it is alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    of: Option<(u8, Owners)>,
}

impl Share {
    fn is_mine(&self, port: u16) -> bool {
        self.of.is_none_or(|(me, owners)| owners.of_port(port) == me)
    }
}

impl Nat {
    /// Takes the memory for as many bindings as there may be sessions. The ports of forwards are taken from the start.
    pub fn new(snapshot: &Snapshot) -> Self {
        let layout = Layout::default().next(snapshot);
        let mut externals: Vec<External> =
            layout.slots.iter().map(|slot| External::new(slot.address)).collect();
        for r in layout.reserved() {
            (r.first..=r.last).for_each(|port| _ = externals[r.slot as usize].ports[r.space].take(port));
        }
        let capacity = if snapshot.pools.is_empty() { 1 } else { snapshot.sizes.sessions };
        let bindings = HashTable::with_capacity(capacity, snapshot.seed);
        let permits = if layout.filters_by_address() { capacity } else { 1 };
        Self {
            bindings,
            by_external: Index::with_capacity(capacity),
            permits: Permits::new(permits, snapshot.seed),
            externals,
            layout,
            share: Share::default(),
            random: snapshot.seed,
            seed: snapshot.seed,
        }
    }

    /// Where addresses and pools lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Takes over another configuration's pools and forwards. Bindings stay, until [`keep`](Self::keep) says no. Takes no
    /// memory, and gives none back.
    pub fn adopt(&mut self, change: &mut Change) {
        change.externals.append(&mut self.externals);
        for (slot, fresh) in &mut change.fresh {
            match (change.externals.get_mut(*slot as usize), fresh) {
                (Some(external), Some(fresh)) => std::mem::swap(external, fresh),
                (_, fresh) => change.externals.extend(fresh.take()),
            }
        }
        std::mem::swap(&mut self.externals, &mut change.externals);
        let freed = change.freed.iter().map(|range| (range, false));
        for (range, is_taken) in freed.chain(change.taken.iter().map(|range| (range, true))) {
            let Some(external) = self.externals.get_mut(range.slot as usize) else { continue };
            let ports = &mut external.ports[range.space];
            for port in (range.first..=range.last).filter(|&port| self.share.is_mine(port)) {
                let _ = if is_taken { ports.take(port) } else { ports.give(port) };
            }
        }
        if let Some((bindings, by_external)) = &mut change.bindings {
            std::mem::swap(&mut self.bindings, bindings);
            std::mem::swap(&mut self.by_external, by_external);
        }
        if let Some(permits) = &mut change.permits {
            std::mem::swap(&mut self.permits, permits);
        }
        std::mem::swap(&mut self.layout, &mut change.layout);
    }

    /// Gives out the ports only that are worker `me`'s, from now on. There must be no binding yet.
    pub fn share(&mut self, me: u8, owners: &Owners) {
        self.share = Share { of: Some((me, *owners)) };
        self.externals.iter_mut().for_each(|external| external.share(&self.share));
    }

    /// Its part of the ports.
    pub fn share_of(&self) -> Share {
        self.share
    }

    /// Bindings that are live.
    pub fn live(&self) -> u32 {
        self.bindings.len()
    }

    /// Memory of the bindings, bytes.
    pub fn bytes(&self) -> usize {
        self.bindings.bytes()
            + self.by_external.bytes()
            + self.permits.bytes()
            + self.externals.len() * size_of::<External>()
    }

    /// The binding at `index`.
    pub fn get(&self, index: u32) -> Option<&Binding> {
        self.bindings.get(index).map(|(_, binding)| binding)
    }

    /// How far indices of bindings go.
    pub fn slots(&self) -> u32 {
        self.bindings.slots()
    }

    /// The external addresses, each with the ports in use for TCP, UDP and ICMP.
    pub fn externals(&self) -> impl Iterator<Item = (Ipv4Addr, [u32; 3])> + '_ {
        let with_slot = self.externals.iter().zip(&self.layout.slots);
        let in_use = with_slot.filter(|(_, slot)| slot.in_use);
        in_use.map(|(e, _)| (e.address, [0, 1, 2].map(|i: usize| e.ports[i].in_use() - e.others[i])))
    }

    /// The binding that has this external address and port (or identifier).
    pub fn find_external(&self, external: (u32, u16), protocol: u8) -> Option<u32> {
        let hash = Binding::external_hash(external, protocol, self.seed);
        self.by_external
            .find(hash, |at| self.get(at).is_some_and(|b| b.external == external && b.protocol == protocol))
    }

    /// Whether a remote address may send to a binding although no session says so (RFC 4787 REQ-8, RFC 5382 REQ-3).
    pub fn admits(&self, index: u32, remote: u32) -> bool {
        self.get(index).is_some_and(|binding| match binding.filtering {
            NatFiltering::EndpointIndependent => true,
            NatFiltering::AddressDependent => self.permits.has(binding.of(), remote),
            NatFiltering::AddressAndPortDependent => false,
        })
    }

    /// The binding (its index) of an inside endpoint in a pool, to send to a remote one: the one that it has, or a new one.
    /// The address is the same for all of an inside address's bindings while it has free ports (paired pooling, RFC 4787
    /// REQ-2), and no two bindings have the same port (RFC 4787 REQ-3).
    ///
    /// A new binding has no session yet: [`hold`](Self::hold) and [`release`](Self::release) count them.
    pub fn bind(
        &mut self,
        pool: u16,
        of: &Pool,
        inside: (u32, u16),
        remote: (u32, u16),
        protocol: u8,
    ) -> Result<u32, DropReason> {
        let space = space(protocol).ok_or(DropReason::NatProtocol)?;
        if let Some(index) = self.known(pool, inside, remote, protocol) {
            return Ok(index);
        }
        let pool = self.layout.pools.get(usize::from(pool)).ok_or(DropReason::NatPortsExhausted)?;
        let endpoint = Inside { address: inside.0, port: inside.1, pool: pool.id, protocol };
        let (key, addresses) = (key(endpoint, of.behavior.mapping, remote), &pool.order);
        let first = mix(u64::from(inside.0) ^ self.seed, 0x9e37_79b9_7f4a_7c15) as usize;
        for i in 0..addresses.len() {
            let address = addresses[first.wrapping_add(i) % addresses.len()];
            let Some(external) = self.externals.get_mut(address as usize) else { continue };
            let ports = &mut external.ports[space];
            let port = choose(ports, of, inside.1, protocol, &mut self.random);
            let Some(port) = port.filter(|&port| ports.take(port)) else { continue };
            let external = (external.address.to_bits(), port);
            let NatBehavior { mapping, filtering, .. } = of.behavior;
            let pool = pool.id;
            let binding = Binding {
                inside,
                external,
                protocol,
                mapping,
                filtering,
                pool,
                address,
                ..Binding::default()
            };
            let index = self.bindings.insert(key, binding).map_err(|_| {
                self.externals[address as usize].ports[space].give(port);
                DropReason::SessionTableFull
            })?;
            let indexed =
                self.by_external.insert(Binding::external_hash(external, protocol, self.seed), index);
            debug_assert!(indexed, "there is room for as many as there are bindings");
            return Ok(index);
        }
        Err(DropReason::NatPortsExhausted)
    }

    /// The binding that an inside endpoint has in a pool, also if it is from the time of another configuration.
    fn known(&mut self, pool: u16, inside: (u32, u16), remote: (u32, u16), protocol: u8) -> Option<u32> {
        let pool = self.layout.pools.get(usize::from(pool))?;
        let endpoint = |pool| Inside { address: inside.0, port: inside.1, pool, protocol };
        let key_in = |name| key(endpoint(name), pool.behavior.mapping, remote);
        let now = key_in(pool.id);
        if let Some(index) = self.bindings.find(&now) {
            if self.is_in(index, pool) {
                return Some(index);
            }
            // Its sessions are about to end; the endpoint gets another one.
            let nobodys = [endpoint(NONE16).key()[0], u64::from(index) << 8 | u64::from(protocol)];
            rename(&mut self.bindings, index, nobodys);
        }
        let index = pool
            .was
            .iter()
            .find_map(|&was| self.bindings.find(&key_in(was)).filter(|&index| self.is_in(index, pool)))?;
        rename(&mut self.bindings, index, now);
        Some(index)
    }

    /// Whether a pool could have given out this binding, as it is.
    fn is_in(&self, index: u32, pool: &layout::PoolLayout) -> bool {
        let Some(binding) = self.get(index) else { return false };
        let space = space(binding.protocol);
        (binding.mapping, binding.filtering) == (pool.behavior.mapping, pool.behavior.filtering)
            && space.is_some_and(|space| self.layout.has(pool, binding.address, space, binding.external.1))
    }

    /// Whether a binding is one that this pool may have given out. If not, its sessions are about to end.
    pub fn is_of(&self, index: u32, pool: u16) -> bool {
        self.layout.pools.get(usize::from(pool)).is_some_and(|pool| self.is_in(index, pool))
    }

    /// Whether a session with a remote endpoint may keep its binding, now that this pool is that of the rule which applies
    /// to it. The binding is then the one for further sessions of its endpoint, if there is no other.
    pub fn keep(&mut self, index: u32, pool: u16, remote: (u32, u16)) -> bool {
        let Some(pool) = self.layout.pools.get(usize::from(pool)).filter(|pool| self.is_in(index, pool))
        else {
            return false;
        };
        if let Some(binding) = self.get(index) {
            let now = key(Inside { pool: pool.id, ..binding.of() }, binding.mapping, remote);
            if self.bindings.find(&now).is_none() {
                rename(&mut self.bindings, index, now);
            }
        }
        true
    }

    /// Counts a session with a remote address that uses the binding. Returns what [`release`](Self::release) wants.
    pub fn hold(&mut self, index: u32, remote: u32) -> u32 {
        let Some((_, binding)) = self.bindings.get_mut(index) else { return NONE };
        binding.sessions += 1;
        if binding.filtering != NatFiltering::AddressDependent {
            return NONE;
        }
        let inside = binding.of();
        self.permits.add_one(inside, remote)
    }

    /// Takes a session off the binding's count; the last one ends it and frees its port. `permit` is what
    /// [`hold`](Self::hold) returned. Harmless for [`NONE`].
    pub fn release(&mut self, index: u32, permit: u32) {
        let Some((_, binding)) = self.bindings.get_mut(index) else { return };
        binding.sessions = binding.sessions.saturating_sub(1);
        self.permits.drop_one(permit);
        self.drop_unused(index);
    }

    /// A session of the binding had a packet from inside at this time, in ticks.
    pub fn seen_outbound(&mut self, index: u32, at: u32) {
        let Some((_, binding)) = self.bindings.get_mut(index) else { return };
        if binding.last_outbound.is_none_or(|last| at.wrapping_sub(last) < u32::MAX / 2) {
            binding.last_outbound = Some(at);
        }
    }

    /// Ends a binding that no session uses: one that was made for a packet which then came to nothing.
    pub fn drop_unused(&mut self, index: u32) {
        let Some((_, binding)) = self.bindings.get(index) else { return };
        if binding.sessions > 0 {
            return;
        }
        let binding = *binding;
        let (seed, bindings) = (self.seed, &self.bindings);
        let hash = |b: &Binding| Binding::external_hash(b.external, b.protocol, seed);
        self.by_external.remove(hash(&binding), index, |at| bindings.value(at).map_or(0, hash));
        self.bindings.remove(index);
        if let (Some(external), Some(space)) =
            (self.externals.get_mut(binding.address as usize), space(binding.protocol))
        {
            // One that a port forward has got meanwhile stays taken.
            if !self.layout.is_reserved(binding.address, space, binding.external.1) {
                external.ports[space].give(binding.external.1);
            }
        }
    }
}

/// Gives a binding another key. Its index stays, as the table fills the slot first that was freed last.
fn rename(bindings: &mut HashTable<Key, Binding>, index: u32, key: Key) {
    if let Some((_, binding)) = bindings.remove(index) {
        let again = bindings.insert(key, binding);
        debug_assert_eq!(again, Ok(index));
    }
}

/// A free port of an address: that of the inside where it is to be kept (RFC 4787 4.2.1), or else a random one (RFC
/// 6056), for UDP an even one for an even one where there is one (RFC 4787 REQ-4).
fn choose(ports: &PortBitmap, of: &Pool, inside: u16, protocol: u8, random: &mut u64) -> Option<u16> {
    let range = of.ports.0..=of.ports.1;
    let is_kept = of.behavior.port_choice == PortChoice::Preserve && range.contains(&inside);
    if is_kept && !ports.is_taken(inside) {
        return Some(inside);
    }
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let draw = mix(*random, 0xd6e8_feb8_6659_fd93);
    let width = u64::from(of.ports.1.saturating_sub(of.ports.0)) + 1;
    let from = of.ports.0 + (draw % width) as u16;
    let alike = (protocol == ipv4::UDP)
        .then(|| ports.next_free_of_parity(inside % 2 == 1, from, range.clone()))
        .flatten();
    alike.or_else(|| ports.next_free(from, range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Forward;

    const REMOTE: (u32, u16) = (99, 53);

    fn nat_of(behavior: NatBehavior, ports: (u16, u16), addresses: &[u8]) -> (Nat, Pool) {
        let mut snapshot = Snapshot::default();
        let addresses = addresses.iter().map(|&last| Ipv4Addr::new(203, 0, 113, last)).collect();
        snapshot.pools.push(Pool { addresses, ports, behavior });
        snapshot.forwards.push(Forward {
            interface: 0,
            protocol: ipv4::TCP,
            address: Ipv4Addr::new(203, 0, 113, 1),
            ports: (8080, 8081),
            to: Ipv4Addr::new(192, 168, 1, 10),
            to_port: 80,
        });
        snapshot.sizes.sessions = 128;
        (Nat::new(&snapshot), snapshot.pools[0].clone())
    }

    fn nat(ports: (u16, u16), addresses: &[u8]) -> (Nat, Pool) {
        nat_of(NatBehavior::default(), ports, addresses)
    }

    fn external(nat: &Nat, index: u32) -> (u32, u16) {
        nat.get(index).unwrap().external
    }

    /// proves: RFC 4787 REQ-1
    #[test]
    fn a_binding_is_shared_preserved_and_freed() {
        let (mut nat, pool) = nat((1024, 65535), &[1]);
        let index = nat.bind(0, &pool, (10, 5000), REMOTE, ipv4::UDP).unwrap();
        assert_eq!(external(&nat, index).1, 5000);
        let permit = nat.hold(index, REMOTE.0);
        assert_eq!(nat.bind(0, &pool, (10, 5000), (98, 54), ipv4::UDP), Ok(index));
        let second = nat.hold(index, 98);
        let other = nat.bind(0, &pool, (11, 5000), REMOTE, ipv4::UDP).unwrap();
        assert_ne!(external(&nat, other).1, 5000, "taken by another host");
        nat.drop_unused(other);
        nat.release(index, second);
        assert_eq!(nat.live(), 1);
        nat.release(index, permit);
        nat.release(NONE, NONE);
        assert_eq!((nat.live(), nat.externals().next().unwrap().1), (0, [2, 0, 0]));
    }

    #[test]
    fn forwarded_and_low_ports_are_not_given_out() {
        let (mut nat, pool) = nat((1024, 65535), &[1]);
        for inside in [(10, 8080), (10, 8081), (10, 123)] {
            let index = nat.bind(0, &pool, inside, REMOTE, ipv4::TCP).unwrap();
            let port = external(&nat, index).1;
            assert!(port >= 1024 && !(8080..=8081).contains(&port));
        }
    }

    /// proves: RFC 4787 REQ-3
    #[test]
    fn exhaustion_is_an_error_and_passes() {
        let (mut nat, pool) = nat((2000, 2003), &[1, 2]);
        let mut bind = |i, protocol| nat.bind(0, &pool, (i, 9), REMOTE, protocol);
        let indices: Vec<u32> = (0..8).map(|i| bind(i, ipv4::UDP).unwrap()).collect();
        assert_eq!(bind(8, ipv4::UDP), Err(DropReason::NatPortsExhausted));
        assert_eq!(bind(8, ipv4::GRE), Err(DropReason::NatProtocol));
        let all: std::collections::HashSet<_> = indices.iter().map(|&i| external(&nat, i)).collect();
        assert_eq!(all.len(), 8, "no port is given out twice");
        nat.drop_unused(indices[3]);
        assert!(nat.bind(0, &pool, (8, 9), REMOTE, ipv4::UDP).is_ok());
    }

    /// proves: RFC 4787 REQ-2
    #[test]
    fn one_inside_address_keeps_one_external_address() {
        let (mut nat, pool) = nat((1024, 65535), &[1, 2, 3, 4]);
        let mut address = |port| {
            let index = nat.bind(0, &pool, (42, port), REMOTE, ipv4::UDP).unwrap();
            external(&nat, index).0
        };
        let first = address(1);
        assert!((2..50).all(|port| address(port) == first));
    }

    #[test]
    fn a_mapping_may_depend_on_the_remote_end() {
        let mapping = NatMapping::AddressAndPortDependent;
        let (mut nat, pool) = nat_of(NatBehavior { mapping, ..NatBehavior::default() }, (1024, 65535), &[1]);
        let mut bind = |remote| nat.bind(0, &pool, (10, 5000), remote, ipv4::UDP).unwrap();
        let indices = [bind((98, 53)), bind((99, 53)), bind((99, 54))];
        assert_eq!(indices[1], bind((99, 53)));
        let ports = indices.map(|index| external(&nat, index).1);
        assert!(ports[0] == 5000 && ports[1] != 5000 && ports[2] != 5000 && ports[1] != ports[2]);
    }

    /// proves: RFC 4787 REQ-4
    #[test]
    fn udp_keeps_parity_while_it_can() {
        let port_choice = PortChoice::Random;
        let (mut nat, pool) =
            nat_of(NatBehavior { port_choice, ..NatBehavior::default() }, (2000, 2019), &[1]);
        let mut port = |host, of| {
            let index = nat.bind(0, &pool, (host, of), REMOTE, ipv4::UDP).unwrap();
            external(&nat, index).1
        };
        assert!((0..10).all(|host| port(host, 2000) % 2 == 0));
        assert!(port(10, 2000) % 2 == 1, "any is better than none");
        assert!((11..20).all(|host| port(host, 2001) % 2 == 1));
    }

    #[test]
    fn random_ports_are_random() {
        let port_choice = PortChoice::Random;
        let (mut nat, pool) =
            nat_of(NatBehavior { port_choice, ..NatBehavior::default() }, (1024, 65535), &[1]);
        let ports: Vec<u16> = (0..100)
            .map(|host| {
                let index = nat.bind(0, &pool, (host, 5000), REMOTE, ipv4::TCP).unwrap();
                external(&nat, index).1
            })
            .collect();
        let near = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 100).count();
        assert!(near < 5 && ports.iter().any(|p| p % 2 == 0) && ports.iter().any(|p| p % 2 == 1));
    }

    /// proves: RFC 4787 REQ-8
    #[test]
    fn filters_ask_for_what_they_are_named_after() {
        use NatFiltering::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        for (filtering, known, stranger) in [
            (EndpointIndependent, true, true),
            (AddressDependent, true, false),
            (AddressAndPortDependent, false, false),
        ] {
            let behavior = NatBehavior { filtering, ..NatBehavior::default() };
            let (mut nat, pool) = nat_of(behavior, (1024, 65535), &[1]);
            let index = nat.bind(0, &pool, (10, 5000), REMOTE, ipv4::UDP).unwrap();
            let permit = nat.hold(index, REMOTE.0);
            let external = external(&nat, index);
            assert_eq!(nat.find_external(external, ipv4::UDP), Some(index));
            assert_eq!(nat.find_external(external, ipv4::TCP), None);
            assert_eq!(
                (nat.admits(index, REMOTE.0), nat.admits(index, 7)),
                (known, stranger),
                "{filtering:?}"
            );
            nat.release(index, permit);
            assert_eq!(nat.find_external(external, ipv4::UDP), None);
        }
    }
}
