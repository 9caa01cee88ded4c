//! NAT bindings: which external address and port an inside one has.
//!
//! Mapping is endpoint-independent (RFC 4787 REQ-1): all sessions of one inside address and port share one binding, and
//! it lives as long as the last of them. Filtering is by session, that is address- and port-dependent (RFC 4787 REQ-8).

mod layout;

use std::net::Ipv4Addr;

use sluice_pkt::ipv4;

pub use self::layout::{Change, Layout};
use crate::session::NONE;
use crate::snapshot::{NONE16, Pool, Snapshot};
use crate::stage::owner::Owners;
use crate::table::bitmap::PortBitmap;
use crate::table::hash::HashTable;
use crate::table::key::mix;
use crate::verdict::DropReason;

/// One inside endpoint's external one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// Inside address and port (or echo identifier).
    pub inside: (u32, u16),
    /// External address and port (or echo identifier).
    pub external: (u32, u16),
    /// IP protocol: TCP, UDP or ICMP.
    pub protocol: u8,
    /// Sessions that use it.
    pub sessions: u32,
    address: u32,
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

/// What a binding is found by: inside address and port and the pool's name; protocol.
type Key = [u64; 2];

fn key(inside: (u32, u16), pool: u16, protocol: u8) -> Key {
    [u64::from(inside.0) << 32 | u64::from(inside.1) << 16 | u64::from(pool), protocol.into()]
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
        let share = Share::default();
        Self { bindings, externals, layout, share, random: snapshot.seed, seed: snapshot.seed }
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
        if let Some(bindings) = &mut change.bindings {
            std::mem::swap(&mut self.bindings, bindings);
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
        self.bindings.bytes() + self.externals.len() * size_of::<External>()
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

    /// The binding (its index) of an inside endpoint in a pool: the one that it has, or a new one, which keeps its port
    /// where that is free (RFC 4787 REQ-3) and has a random one otherwise (RFC 6056). The address is the same for all of
    /// an inside address's bindings while it has free ports (paired pooling, RFC 4787 REQ-2).
    ///
    /// A new binding has no session yet: [`hold`](Self::hold) and [`release`](Self::release) count them.
    pub fn bind(
        &mut self,
        pool: u16,
        of: &Pool,
        inside: (u32, u16),
        protocol: u8,
    ) -> Result<u32, DropReason> {
        let space = space(protocol).ok_or(DropReason::NatProtocol)?;
        if let Some(index) = self.known(pool, inside, protocol) {
            return Ok(index);
        }
        let pool = self.layout.pools.get(usize::from(pool)).ok_or(DropReason::NatPortsExhausted)?;
        let (key, addresses) = (key(inside, pool.id, protocol), &pool.order);
        let first = mix(u64::from(inside.0) ^ self.seed, 0x9e37_79b9_7f4a_7c15) as usize;
        for i in 0..addresses.len() {
            let address = addresses[first.wrapping_add(i) % addresses.len()];
            let Some(external) = self.externals.get_mut(address as usize) else { continue };
            let ports = &mut external.ports[space];
            let range = of.ports.0..=of.ports.1;
            let preserved = range.contains(&inside.1) && ports.take(inside.1);
            let port = if preserved {
                inside.1
            } else {
                self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let draw = mix(self.random, 0xd6e8_feb8_6659_fd93);
                let width = u64::from(of.ports.1.saturating_sub(of.ports.0)) + 1;
                let from = of.ports.0 + (draw % width) as u16;
                let Some(port) = ports.next_free(from, range).filter(|&p| ports.take(p)) else { continue };
                port
            };
            let external = (external.address.to_bits(), port);
            let binding = Binding { inside, external, protocol, sessions: 0, address };
            return self.bindings.insert(key, binding).map_err(|_| {
                self.externals[address as usize].ports[space].give(port);
                DropReason::SessionTableFull
            });
        }
        Err(DropReason::NatPortsExhausted)
    }

    /// The binding that an inside endpoint has in a pool, also if it is from the time of another configuration.
    fn known(&mut self, pool: u16, inside: (u32, u16), protocol: u8) -> Option<u32> {
        let pool = self.layout.pools.get(usize::from(pool))?;
        let now = key(inside, pool.id, protocol);
        if let Some(index) = self.bindings.find(&now) {
            if self.is_in(index, pool) {
                return Some(index);
            }
            // Its sessions are about to end; the endpoint gets another one.
            let nobodys = [key(inside, NONE16, 0)[0], u64::from(index) << 8 | u64::from(protocol)];
            rename(&mut self.bindings, index, nobodys);
        }
        let index = pool.was.iter().find_map(|&was| {
            self.bindings.find(&key(inside, was, protocol)).filter(|&index| self.is_in(index, pool))
        })?;
        rename(&mut self.bindings, index, now);
        Some(index)
    }

    fn is_in(&self, index: u32, pool: &layout::PoolLayout) -> bool {
        let Some(binding) = self.get(index) else { return false };
        let space = space(binding.protocol);
        space.is_some_and(|space| self.layout.has(pool, binding.address, space, binding.external.1))
    }

    /// Whether a session may keep its binding, now that this pool is that of the rule which applies to it. The binding is
    /// then the one for further sessions of its endpoint, if there is no other.
    pub fn keep(&mut self, index: u32, pool: u16) -> bool {
        let Some(pool) = self.layout.pools.get(usize::from(pool)).filter(|pool| self.is_in(index, pool))
        else {
            return false;
        };
        if let Some(binding) = self.get(index) {
            let now = key(binding.inside, pool.id, binding.protocol);
            if self.bindings.find(&now).is_none() {
                rename(&mut self.bindings, index, now);
            }
        }
        true
    }

    /// Counts a session that uses the binding.
    pub fn hold(&mut self, index: u32) {
        if let Some((_, binding)) = self.bindings.get_mut(index) {
            binding.sessions += 1;
        }
    }

    /// Takes a session off the binding's count; the last one ends it and frees its port. Harmless for [`NONE`].
    pub fn release(&mut self, index: u32) {
        if index == NONE {
            return;
        }
        let Some((_, binding)) = self.bindings.get_mut(index) else { return };
        binding.sessions = binding.sessions.saturating_sub(1);
        self.drop_unused(index);
    }

    /// Ends a binding that no session uses: one that was made for a packet which then came to nothing.
    pub fn drop_unused(&mut self, index: u32) {
        let Some((_, binding)) = self.bindings.get(index) else { return };
        if binding.sessions > 0 {
            return;
        }
        let binding = *binding;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Forward;

    fn nat(ports: (u16, u16), addresses: &[u8]) -> (Nat, Pool) {
        let mut snapshot = Snapshot::default();
        let addresses = addresses.iter().map(|&last| Ipv4Addr::new(203, 0, 113, last)).collect();
        snapshot.pools.push(Pool { addresses, ports });
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

    #[test]
    fn a_binding_is_shared_preserved_and_freed() {
        let (mut nat, pool) = nat((1024, 65535), &[1]);
        let index = nat.bind(0, &pool, (10, 5000), ipv4::UDP).unwrap();
        assert_eq!(nat.get(index).unwrap().external.1, 5000);
        nat.hold(index);
        assert_eq!(nat.bind(0, &pool, (10, 5000), ipv4::UDP), Ok(index));
        nat.hold(index);
        let other = nat.bind(0, &pool, (11, 5000), ipv4::UDP).unwrap();
        assert_ne!(nat.get(other).unwrap().external.1, 5000, "taken by another host");
        nat.drop_unused(other);
        nat.release(index);
        assert_eq!(nat.live(), 1);
        nat.release(index);
        nat.release(NONE);
        assert_eq!((nat.live(), nat.externals().next().unwrap().1), (0, [2, 0, 0]));
    }

    #[test]
    fn forwarded_and_low_ports_are_not_given_out() {
        let (mut nat, pool) = nat((1024, 65535), &[1]);
        for inside in [(10, 8080), (10, 8081), (10, 123)] {
            let index = nat.bind(0, &pool, inside, ipv4::TCP).unwrap();
            let port = nat.get(index).unwrap().external.1;
            assert!(port >= 1024 && !(8080..=8081).contains(&port));
        }
    }

    #[test]
    fn exhaustion_is_an_error_and_passes() {
        let (mut nat, pool) = nat((2000, 2003), &[1, 2]);
        let indices: Vec<u32> = (0..8).map(|i| nat.bind(0, &pool, (i, 9), ipv4::UDP).unwrap()).collect();
        assert_eq!(nat.bind(0, &pool, (8, 9), ipv4::UDP), Err(DropReason::NatPortsExhausted));
        nat.drop_unused(indices[3]);
        assert!(nat.bind(0, &pool, (8, 9), ipv4::UDP).is_ok());
        assert_eq!(nat.bind(0, &pool, (8, 9), ipv4::GRE), Err(DropReason::NatProtocol));
    }

    #[test]
    fn one_inside_address_keeps_one_external_address() {
        let (mut nat, pool) = nat((1024, 65535), &[1, 2, 3, 4]);
        let mut external = |port| {
            let index = nat.bind(0, &pool, (42, port), ipv4::UDP).unwrap();
            nat.get(index).unwrap().external.0
        };
        let first = external(1);
        assert!((2..50).all(|port| external(port) == first));
    }
}
