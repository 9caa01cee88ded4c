//! Blocks, deterministic NAT and limits of inside addresses that change under live sessions.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use sluice_dataplane::clock::SECOND;
use sluice_dataplane::nat::{BlockRow, Deterministic, EventKind, NatLog, SubscriberRow};
use sluice_dataplane::snapshot::{
    Allocation, LocalUse, NatFiltering, NatMapping, PortBlocks, PortChoice, Snapshot,
};
use sluice_dataplane::verdict::DropReason;

use super::{Reloading, STRANGER, kept, settled};
use crate::lab::{HOSTS, LAN, POOL, SERVER, WAN, host, snapshot};
use crate::packets::{End, udp};

const BLOCKS: PortBlocks = PortBlocks { size: 64, most: 2, hold: 120 * SECOND };

fn given_out(allocation: Allocation) -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.pools[0].allocation = allocation;
    snapshot.pools[0].ports = (2048, 4095);
    snapshot.nat_log = NatLog::Blocks;
    snapshot
}

fn in_blocks() -> Snapshot {
    given_out(Allocation::Blocks(BLOCKS))
}

impl Reloading {
    /// The taken blocks, by their address and first port.
    fn blocks(&self) -> BTreeMap<(Ipv4Addr, u16), BlockRow> {
        let nat = &self.lab.worker.shard().nat;
        let blocks = (0..nat.block_slots()).filter_map(|index| nat.block(index));
        blocks.map(|block| ((block.external, block.ports.0), block)).collect()
    }

    /// The account of a host; there is one.
    fn account(&self, last: u8) -> SubscriberRow {
        let nat = &self.lab.worker.shard().nat;
        let rows = (0..nat.subscriber_slots()).filter_map(|index| nat.subscriber(index));
        let all: Vec<SubscriberRow> = rows.filter(|row| row.inside == IpAddr::from(host(last))).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    }

    /// Sends what is dropped, of which its sender is told.
    fn refused(&mut self, packet: &[u8]) -> DropReason {
        let reason = self.lab.dropped(LAN, packet);
        assert!(matches!(self.lab.collect()[..], [(LAN, _)]));
        reason
    }

    /// A host opens a session; its external end.
    fn open(&mut self, last: u8, port: u16) -> End {
        self.say(LAN, (host(last), port), (SERVER, 53)).1.0
    }
}

fn same_block((address, port): End, (other, its): End) -> bool {
    address == other && (port - 2048) / 64 == (its - 2048) / 64
}

/// proves: RFC 6888 REQ-3
#[test]
fn a_pool_that_grows_leaves_everybody_their_blocks() {
    let mut gateway = Reloading::of(in_blocks());
    let before: Vec<(u8, End)> = (20..40).map(|last| (last, gateway.open(last, 4000))).collect();
    let blocks = gateway.blocks();
    assert_eq!(blocks.len(), 20);
    let third = Ipv4Addr::new(203, 0, 113, 77);
    let outcome = gateway.reload(|next| {
        next.pools[0].addresses = vec![third, POOL[1], POOL[0]];
        next.local4.insert(third, (1, LocalUse::Nat));
        next.pools[0].allocation = Allocation::Blocks(PortBlocks { most: 3, hold: 200 * SECOND, ..BLOCKS });
    });
    assert_eq!(outcome, kept(20));
    assert_eq!(gateway.blocks(), blocks);
    for &(last, external) in &before {
        // The old sessions, a new one of the endpoint, and another port of the same block.
        assert_eq!(gateway.open(last, 4000), external);
        assert_eq!(gateway.say(LAN, (host(last), 4000), (STRANGER, 9)).1.0, external);
        assert!(same_block(gateway.open(last, 4001), external));
        let account = gateway.account(last);
        assert_eq!((account.pool, account.sessions, account.ports, account.blocks), (Some(0), 3, 2, 1));
    }
    gateway.lab.close();
}

#[test]
fn a_pool_that_shrinks_ends_what_has_left_it_and_gives_its_blocks_back() {
    let mut gateway = Reloading::of(in_blocks());
    let before: Vec<(u8, End)> = (20..45).map(|last| (last, gateway.open(last, 4000))).collect();
    let stay: Vec<_> = before.iter().filter(|(_, (address, _))| *address == POOL[1]).collect();
    let left = before.len() - stay.len();
    assert!(left > 0 && !stay.is_empty());
    let outcome = gateway.reload(|next| next.pools[0].addresses = vec![POOL[1]]);
    assert_eq!(outcome, settled(stay.len() as u64, left as u64));
    for &&(last, external) in &stay {
        assert_eq!(gateway.open(last, 4000), external);
    }
    gateway.lab.wait(121 * SECOND);
    assert_eq!(gateway.blocks().len(), stay.len(), "those of the other address have rested");
    for (last, (address, _)) in before {
        let external = gateway.open(last, 4000);
        assert_eq!(external.0, POOL[1], "host {last} was on {address}");
    }
    // Without NAT all of it ends, and with it again nothing is missing.
    let (pools, rules) = {
        let present = gateway.lab.worker.snapshot();
        (present.pools.clone(), present.source_nat.clone())
    };
    gateway.reload(|next| (next.pools, next.source_nat) = (Vec::new(), Vec::new()));
    assert_eq!((gateway.live(), gateway.bindings()), (0, 0));
    assert_eq!(gateway.blocks().len(), 25, "they rest, whatever the configuration");
    gateway.reload(|next| (next.pools, next.source_nat) = (pools, rules));
    gateway.lab.wait(121 * SECOND);
    assert!(gateway.blocks().is_empty());
    let hosts: Vec<u8> = (20..52).collect();
    for &last in &hosts {
        assert_eq!(gateway.open(last, 4000).0, POOL[1]);
    }
    assert_eq!(gateway.refused(&udp((host(99), 1), (SERVER, 53), b"")), DropReason::NatPortsExhausted);
    gateway.lab.close();
}

/// proves: RFC 6888 REQ-8
#[test]
fn a_block_that_rests_goes_on_resting() {
    let mut gateway = Reloading::of(in_blocks());
    let external = gateway.open(20, 4000);
    gateway.lab.wait(302 * SECOND);
    assert_eq!((gateway.live(), gateway.blocks().len()), (0, 1), "it rests");
    for first in [POOL[1], POOL[0]] {
        gateway.reload(|next| next.pools[0].addresses.sort_by_key(|&address| address != first));
        assert_eq!(gateway.blocks().len(), 1);
    }
    assert!(same_block(gateway.open(20, 5000), external), "its subscriber finds it again");
    gateway.lab.close();
}

#[test]
fn another_size_of_blocks_is_another_pool() {
    let mut gateway = Reloading::of(in_blocks());
    let mut events = gateway.lab.worker.nat_events();
    for last in 20..30 {
        gateway.open(last, 4000);
    }
    let halved = |next: &mut Snapshot| {
        next.pools[0].allocation = Allocation::Blocks(PortBlocks { size: 32, ..BLOCKS });
    };
    assert_eq!(gateway.reload(halved), settled(0, 10));
    assert_eq!(gateway.ended_by_policy(), 10);
    assert_eq!((gateway.live(), gateway.bindings(), gateway.blocks().len()), (0, 0, 0));
    // Everything can be given out: two addresses of 64 blocks each.
    let mut seen = Vec::new();
    for last in 20..148 {
        seen.push(gateway.open(last, 4000));
    }
    assert!(gateway.blocks().values().all(|block| block.ports.1 == block.ports.0 + 31));
    assert_eq!(gateway.refused(&udp((host(150), 1), (SERVER, 53), b"")), DropReason::NatPortsExhausted);
    let kinds: Vec<EventKind> = std::iter::from_fn(|| events.take()).map(|event| event.kind).collect();
    let count = |wanted| kinds.iter().filter(|kind| **kind == wanted).count();
    assert_eq!((count(EventKind::BlockAllocated), count(EventKind::BlockReleased)), (138, 10));
    gateway.lab.close();
}

#[test]
fn another_way_of_giving_out_is_another_pool() {
    let mut gateway = Reloading::of(given_out(Allocation::Ports));
    let plan = Deterministic::new(&[(HOSTS, 0xffff_ff00)], 2, (2048, 4095), 16).unwrap();
    let ways = [Allocation::Blocks(BLOCKS), Allocation::Deterministic(plan), Allocation::Blocks(BLOCKS)];
    for way in ways.into_iter().chain([Allocation::Ports]) {
        gateway.open(20, 2048);
        assert_eq!(gateway.reload(|next| next.pools[0].allocation = way), settled(0, 1));
        assert_eq!((gateway.live(), gateway.bindings(), gateway.blocks().len()), (0, 0, 0));
    }
    gateway.lab.close();
}

#[test]
fn deterministic_sessions_go_on_where_arithmetic_gives_the_same() {
    let of = |prefixes: &[(u32, u32)], size| {
        Allocation::Deterministic(Deterministic::new(prefixes, 2, (2048, 4095), size).unwrap())
    };
    let low = (HOSTS, 0xffff_ffc0);
    let mut gateway = Reloading::of(given_out(of(&[low], 16)));
    let before: Vec<(u8, End)> = (20..40).map(|last| (last, gateway.open(last, 4000))).collect();
    // More subscribers behind those that there are: all stay where they were.
    let more = [low, (HOSTS + 64, 0xffff_ffc0)];
    assert_eq!(gateway.reload(|next| next.pools[0].allocation = of(&more, 16)), kept(20));
    for (last, external) in before {
        assert_eq!(gateway.open(last, 4000), external);
    }
    // Other blocks: those end whose port is now another's.
    let outcome = gateway.reload(|next| next.pools[0].allocation = of(&more, 8));
    assert_eq!((outcome.kept, outcome.ended), (0, 20));
    assert_eq!((gateway.live(), gateway.bindings()), (0, 0));
    // And without a subscriber's prefix it has nothing.
    for last in 20..40 {
        gateway.open(last, 4000);
    }
    let high = [(HOSTS + 64, 0xffff_ffc0)];
    assert_eq!(gateway.reload(|next| next.pools[0].allocation = of(&high, 8)), settled(0, 20));
    gateway.lab.close();
}

/// proves: RFC 6888 REQ-4
/// proves: RFC 6888 REQ-5
#[test]
fn limits_that_come_count_what_is_there() {
    let mut gateway = Reloading::of(given_out(Allocation::Ports));
    for port in 0..3 {
        gateway.open(20, 4000 + port);
    }
    gateway.say(LAN, (host(20), 4000), (STRANGER, 9));
    let limit = |ports, sessions| {
        move |next: &mut Snapshot| {
            (next.pools[0].max_ports, next.pools[0].max_sessions) = (ports, sessions);
        }
    };
    assert_eq!(gateway.reload(limit(3, 5)), kept(4), "what is over a limit goes on");
    let account = gateway.account(20);
    assert_eq!((account.sessions, account.ports), (4, 3));
    let one_more = udp((host(20), 4003), (SERVER, 53), b"");
    assert_eq!(gateway.refused(&one_more), DropReason::NatPortLimit);
    gateway.say(LAN, (host(20), 4001), (STRANGER, 9));
    let over = udp((host(20), 4002), (STRANGER, 9), b"");
    assert_eq!(gateway.refused(&over), DropReason::NatSessionLimit);
    // Another pool by its name; the account goes along.
    gateway.reload(|next| next.pools[0].addresses.reverse());
    assert_eq!(gateway.refused(&over), DropReason::NatSessionLimit);
    assert_eq!(gateway.reload(limit(4, 0)), kept(5));
    gateway.open(20, 4003);
    assert_eq!(gateway.refused(&udp((host(20), 4004), (SERVER, 53), b"")), DropReason::NatPortLimit);
    // Without limits no account is kept.
    assert_eq!(gateway.reload(limit(0, 0)), kept(6));
    let nat = &gateway.lab.worker.shard().nat;
    assert!((0..nat.subscriber_slots()).all(|index| nat.subscriber(index).is_none()));
    gateway.lab.wait(302 * SECOND);
    assert_eq!((gateway.live(), gateway.bindings()), (0, 0));
    gateway.lab.close();
}

/// proves: RFC 6888 REQ-5
#[test]
fn sessions_from_outside_count_too() {
    let mut snapshot = in_blocks();
    snapshot.pools[0].behavior.filtering = NatFiltering::EndpointIndependent;
    snapshot.pools[0].max_sessions = 2;
    let mut gateway = Reloading::of(snapshot);
    let external = gateway.open(20, 4000);
    gateway.say(WAN, (STRANGER, 99), external);
    let third = udp((STRANGER, 100), external, b"");
    assert_eq!(gateway.lab.dropped(WAN, &third), DropReason::NatSessionLimit);
    assert_eq!(gateway.account(20).sessions, 2);
    assert_eq!(gateway.reload(|next| next.pools[0].max_sessions = 3), kept(2));
    assert_eq!(gateway.say(WAN, (STRANGER, 100), external).1.1, (host(20), 4000));
    gateway.lab.close();
}

/// Every way of mapping, of filtering and of choosing a port goes together with blocks.
#[test]
fn blocks_go_with_every_behaviour() {
    use NatFiltering::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    for mapping in [NatMapping::EndpointIndependent, NatMapping::AddressAndPortDependent] {
        for filtering in [EndpointIndependent, AddressDependent, AddressAndPortDependent] {
            for port_choice in [PortChoice::Preserve, PortChoice::Random] {
                let mut snapshot = in_blocks();
                let behavior = &mut snapshot.pools[0].behavior;
                (behavior.mapping, behavior.filtering, behavior.port_choice) =
                    (mapping, filtering, port_choice);
                let mut gateway = Reloading::of(snapshot);
                let first = gateway.open(20, 4000);
                let second = gateway.say(LAN, (host(20), 4000), (STRANGER, 53)).1.0;
                assert_eq!(first == second, mapping == NatMapping::EndpointIndependent);
                assert!(same_block(first, second) && first.1 % 2 == 0 && second.1 % 2 == 0);
                assert!(gateway.open(20, 4001).1 % 2 == 1);
                let unasked = udp((SERVER, 54), first, b"");
                match filtering {
                    AddressAndPortDependent => {
                        assert_eq!(gateway.lab.dropped(WAN, &unasked), DropReason::AclDeny);
                    }
                    _ => assert_eq!(gateway.say(WAN, (SERVER, 54), first).1.1, (host(20), 4000)),
                }
                let sessions = gateway.live().into();
                assert_eq!(gateway.reload(|_| ()), kept(sessions));
                assert_eq!((gateway.blocks().len(), gateway.account(20).sessions), (1, sessions as u32));
                gateway.lab.wait(302 * SECOND);
                assert_eq!((gateway.live(), gateway.bindings()), (0, 0));
                gateway.lab.wait(121 * SECOND);
                assert!(gateway.blocks().is_empty());
                gateway.lab.close();
            }
        }
    }
}
