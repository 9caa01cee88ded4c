//! Which of several workers makes and ends a session: a function of the packet and the configuration alone, so that every
//! worker names the same one, and both directions of a session meet there.
//!
//! With source NAT it is the worker that the hash of the inside address names: all bindings and sessions of a host are in
//! one place, which is what endpoint-independent mapping needs. Their answers find it by their external port, as each
//! worker gives out the ports of its own blocks only, or, where NAT is deterministic, by the subscriber whose port it is.
//! Where the protocol has no ports it is the hash of the remote address, so that one worker knows which external addresses
//! are taken there. Without NAT it is a hash of the tuple that is the same both ways. A port forward and static NAT are
//! undone before, and so is prefix translation.
//!
//! Exits: first packets whose session is another worker's.

use sluice_pkt::ipv4;
use sluice_pkt::parse::{Flags, Headers, L3, parse_quoted};
use sluice_pkt::{icmpv4, ipv6};

use super::nat::Source;
use super::{
    FirstPackets, addresses4, addresses6, hairpin, nat, nat64, port_control, portless, prefix, route,
};
use crate::burst::Burst;
use crate::shard::Shard;
use crate::snapshot::{Allocation, Forward, Pool, Snapshot};
use crate::table::key::hash_words;
use crate::verdict::Verdict;

/// The most workers that there are.
pub const MOST_WORKERS: usize = 16;
/// Ports in a block, where pools have enough of them.
const BLOCK_BITS: u32 = 6;
/// Blocks that each worker has of a pool at least, if it has so many ports: a small pool is cut into smaller blocks.
const BLOCKS_EACH: u32 = 4;
/// Sets these hashes apart from those of tables, whose buckets would otherwise be used in part only.
const SEED: u64 = 0x6f77_6e65_7273_0001;

/// Runs the stage, for packets that have arrived here.
pub fn run(burst: &mut Burst, first: &FirstPackets, shard: &Shard, snapshot: &Snapshot) {
    let Some(crossing) = &shard.crossing else { return };
    if first.asked {
        return;
    }
    for i in first.open(burst) {
        let (bytes, headers, interface) = (burst.bytes(i), &burst.headers[i], burst.interfaces[i]);
        match crossing.owners().of_packet(bytes, headers, interface, snapshot) {
            Some(owner) if owner != crossing.me() => burst.decide(i, Verdict::Ask(owner)),
            _ => {}
        }
    }
}

/// How sessions are shared out among workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owners {
    workers: u8,
    block_bits: u32,
}

/// Which of so many workers gives out a block, by its number, of an external address. It hangs on nothing else of the pool,
/// so that it is the same in a pool that grows or shrinks.
pub fn block_owner(address: u32, number: u32, workers: usize) -> u8 {
    (address.wrapping_add(number) % workers.clamp(1, MOST_WORKERS) as u32) as u8
}

/// One end of a flow: address and port (or echo identifier).
type End = (u32, u16);

impl Owners {
    /// For so many workers, 1 to [`MOST_WORKERS`].
    pub fn new(snapshot: &Snapshot, workers: usize) -> Self {
        let workers = workers.clamp(1, MOST_WORKERS) as u8;
        let pools = snapshot.pools.iter().filter(|pool| pool.allocation == Allocation::Ports);
        let widths = pools.map(|pool| u32::from(pool.ports.1.saturating_sub(pool.ports.0)) + 1);
        let narrowest = widths.min().unwrap_or(u32::MAX);
        let block = (narrowest / (u32::from(workers) * BLOCKS_EACH)).max(1);
        Self { workers, block_bits: block.ilog2().min(BLOCK_BITS) }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.into()
    }

    /// The worker that gives out an external port (or echo identifier) of a pool whose ports are given out one by one.
    pub fn of_port(&self, port: u16) -> u8 {
        ((u32::from(port) >> self.block_bits) % u32::from(self.workers)) as u8
    }

    /// The worker that gives out a block, by its number, of an external address.
    pub fn of_block(&self, address: u32, number: u32) -> u8 {
        block_owner(address, number, self.workers.into())
    }

    /// The worker that has the bindings of an external address and port.
    fn of_external(&self, pool: &Pool, (address, port): End, snapshot: &Snapshot) -> u8 {
        match &pool.allocation {
            Allocation::Ports => self.of_port(port),
            Allocation::Blocks(rule) => self.of_block(address, rule.number(pool.ports, port)),
            Allocation::Deterministic(plan) => {
                let position = pool.position(std::net::Ipv4Addr::from_bits(address));
                let subscriber = position.and_then(|position| plan.subscriber(position, port));
                subscriber.map_or(0, |inside| self.of_words(&[inside.into()], snapshot))
            }
        }
    }

    fn of_hash(&self, hash: u64) -> u8 {
        // The high half is as good as the remainder, and needs no division.
        ((u128::from(hash) * u128::from(self.workers)) >> 64) as u8
    }

    fn of_words<const N: usize>(&self, words: &[u64; N], snapshot: &Snapshot) -> u8 {
        self.of_hash(hash_words(words, snapshot.seed ^ SEED))
    }

    /// The worker that asks for a neighbour on the link.
    pub fn of_neighbor(&self, key: &[u64; 3], snapshot: &Snapshot) -> u8 {
        self.of_words(key, snapshot)
    }

    /// The owner of the session of a packet; of that which it quotes, if it is an ICMP error. `None` for packets to the
    /// gateway itself that can belong to no session: they are seen to where they arrive.
    pub fn of_packet(
        &self,
        bytes: &[u8],
        headers: &Headers,
        interface: u16,
        snapshot: &Snapshot,
    ) -> Option<u8> {
        if headers.flags.has(Flags::ICMP_ERROR) {
            if let Some(owner) = self.of_quoted(bytes, headers, interface, snapshot) {
                return owner;
            }
        }
        if headers.l3 == L3::Ipv4 {
            let (src, dst) = addresses4(bytes, headers);
            let ends = [(src, headers.src_port), (dst, headers.dst_port)];
            self.of_flow4(ends, headers.protocol, interface, snapshot)
        } else {
            let (src, dst) = addresses6(bytes, headers);
            let ends = [(src, headers.src_port), (dst, headers.dst_port)];
            Some(self.of_flow6(ends, headers.protocol, snapshot))
        }
    }

    /// The quoted packet went the other way.
    fn of_quoted(
        &self,
        bytes: &[u8],
        headers: &Headers,
        interface: u16,
        snapshot: &Snapshot,
    ) -> Option<Option<u8>> {
        let at = usize::from(headers.l4_offset) + icmpv4::LEN;
        let quoted = parse_quoted(bytes.get(at..usize::from(headers.end))?, headers.l3)?;
        if headers.l3 == L3::Ipv4 {
            let ip = ipv4::Header::at(bytes, at)?;
            let ends = [(ip.destination_bits(), quoted.dst_port), (ip.source_bits(), quoted.src_port)];
            Some(self.of_flow4(ends, quoted.protocol, interface, snapshot))
        } else {
            let ip = ipv6::Header::at(bytes, at)?;
            let ends = [(ip.destination_bits(), quoted.dst_port), (ip.source_bits(), quoted.src_port)];
            Some(Some(self.of_flow6(ends, quoted.protocol, snapshot)))
        }
    }

    /// The owner of the session that a flow of IPv4 belongs to, by source and destination of its packets as they arrive.
    pub fn of_flow4(
        &self,
        [src, dst]: [End; 2],
        protocol: u8,
        interface: u16,
        snapshot: &Snapshot,
    ) -> Option<u8> {
        let address = std::net::Ipv4Addr::from_bits(dst.0);
        if !snapshot.local4.contains_key(&address) {
            return Some(self.of_ends([src, dst], protocol, snapshot));
        }
        if let Some(outside) = hairpin::way_out([src, dst], protocol, interface, snapshot) {
            return self.of_source([src, dst], protocol, outside, snapshot);
        }
        // By an interface that has no such forward, a packet may still be of a session that another one's forward made.
        let forwards = |f: &&Forward| nat::forwards(f, f.interface, dst, protocol);
        let here = snapshot.forwards.iter().find(|f| f.interface == interface && forwards(f));
        if let Some(forward) = here.or_else(|| snapshot.forwards.iter().find(forwards)) {
            return Some(self.of_ends([src, nat::forwarded(forward, dst.1)], protocol, snapshot));
        }
        if let Some((_, inside)) = nat::static_inside(dst.0, snapshot) {
            return Some(self.of_ends([src, (inside, dst.1)], protocol, snapshot));
        }
        // What the host behind a static address answers to one behind a pool, which came by its external address.
        let outside = snapshot.local4.get(&address).map(|&(outside, _)| outside);
        if outside.is_some_and(|at| at != interface && snapshot.statics.outside_of(at, src.0).is_some()) {
            return Some(self.of_words(&[src.0.into()], snapshot));
        }
        if portless::is_portless(protocol) {
            return portless::is_pooled(address, snapshot).then(|| self.of_remote(src.0, protocol, snapshot));
        }
        if port_control::rule_for([src, dst], protocol, interface, snapshot).is_some() {
            return Some(self.of_words(&[src.0.into()], snapshot));
        }
        let pool = snapshot.pools.iter().find(|pool| pool.contains(address, dst.1))?;
        // A port forward's answers to a host behind NAT, which came by its external address, from a host that is not.
        let answers =
            |f: &Forward| f.to.to_bits() == src.0 && f.protocol == protocol && f.interface != interface;
        if snapshot.forwards.iter().any(answers) {
            return Some(self.of_ends([src, dst], protocol, snapshot));
        }
        Some(self.of_external(pool, dst, snapshot))
    }

    /// The owner for two ends as they are inside of NAT. The same for both orders of the ends, unless both are translated
    /// on their way to the other; then no packet goes from one to the other and back.
    fn of_ends(&self, [src, dst]: [End; 2], protocol: u8, snapshot: &Snapshot) -> u8 {
        if !snapshot.source_nat.is_empty() || !snapshot.statics.is_empty() {
            for [inside, outside] in [[src, dst], [dst, src]] {
                let address = std::net::Ipv4Addr::from_bits(outside.0);
                let egress = route::expected_interface(address.into(), snapshot);
                let owner = egress.and_then(|at| self.of_source([inside, outside], protocol, at, snapshot));
                if let Some(owner) = owner {
                    return owner;
                }
            }
        }
        let word = |(address, port): End| u64::from(address) << 16 | u64::from(port);
        let (a, b) = (word(src), word(dst));
        self.of_words(&[a.min(b), a.max(b), protocol.into()], snapshot)
    }

    /// The owner of a session whose source is translated when it leaves by an interface. `None` if it is not.
    fn of_source(
        &self,
        [inside, remote]: [End; 2],
        protocol: u8,
        egress: u16,
        snapshot: &Snapshot,
    ) -> Option<u8> {
        match nat::source_of([inside, remote], protocol, egress, snapshot) {
            Source::Kept => None,
            Source::Pool(_) if portless::is_portless(protocol) => {
                Some(self.of_remote(remote.0, protocol, snapshot))
            }
            Source::Pool(_) | Source::Static(_) => Some(self.of_words(&[inside.0.into()], snapshot)),
        }
    }

    /// The owner of all that hosts behind NAT say to a remote address by a protocol without ports.
    fn of_remote(&self, remote: u32, protocol: u8, snapshot: &Snapshot) -> u8 {
        self.of_words(&[u64::from(remote) << 8 | u64::from(protocol), 1], snapshot)
    }

    /// The owner of the session that a flow of IPv6 belongs to.
    pub fn of_flow6(&self, [src, dst]: [(u128, u16); 2], protocol: u8, snapshot: &Snapshot) -> u8 {
        for (inside, outside) in [(src.0, dst.0), (dst.0, src.0)] {
            if nat64::embedding(outside, snapshot).is_some() {
                return self.of_words(&[(inside >> 64) as u64, inside as u64], snapshot);
            }
        }
        let [src, dst] = [src, dst].map(|(address, port)| (prefix::inside_of(address, snapshot), port));
        let (a, b) = (src.min(dst), src.max(dst));
        let last = u64::from(a.1) << 32 | u64::from(b.1) << 16 | u64::from(protocol);
        let words = [(a.0 >> 64) as u64, a.0 as u64, (b.0 >> 64) as u64, b.0 as u64, last];
        self.of_words(&words, snapshot)
    }
}
