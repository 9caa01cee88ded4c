//! Blocks, subscribers' ports by arithmetic, limits, and what is recorded of all that.

use std::net::IpAddr;

use proptest::prelude::*;

use sluice_pkt::ipv4;

use super::*;
use crate::snapshot::PortBlocks;

const BLOCKS: PortBlocks = PortBlocks { size: 4, most: 2, hold: 100 };

fn host(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

/// One pool of these addresses, with ports from 2000 on.
fn pool_of(addresses: u8, last_port: u16, allocation: Allocation) -> Snapshot {
    let addresses = (1..=addresses).map(|last| Ipv4Addr::new(203, 0, 113, last)).collect();
    let pool = Pool { addresses, ports: (2000, last_port), allocation, ..Pool::default() };
    let mut snapshot = Snapshot { pools: vec![pool], nat_log: NatLog::Bindings, ..Snapshot::default() };
    snapshot.sizes.sessions = 1024;
    snapshot
}

/// A binding that a session holds.
fn open(nat: &mut Nat, of: &Pool, inside: (u32, u16), protocol: u8) -> Result<u32, DropReason> {
    let index = nat.bind(0, of, inside, REMOTE, protocol)?;
    nat.hold(index, REMOTE.0, false);
    Ok(index)
}

/// proves: RFC 6888 REQ-2
/// proves: RFC 6888 REQ-4
/// proves: RFC 6888 REQ-13
#[test]
fn a_subscriber_gets_block_after_block_up_to_its_limit() {
    let snapshot = pool_of(3, 2031, Allocation::Blocks(BLOCKS));
    let (mut nat, pool) = (Nat::new(&snapshot), &snapshot.pools[0]);
    let mut held = Vec::new();
    for port in 0..8 {
        let index = nat.bind(0, pool, (10, port), REMOTE, ipv4::UDP).unwrap();
        nat.hold(index, REMOTE.0, false);
        held.push(index);
    }
    let address = external(&nat, held[0]).0;
    assert!(held.iter().all(|&index| external(&nat, index).0 == address));
    assert_eq!(nat.bind(0, pool, (10, 8), REMOTE, ipv4::UDP), Err(DropReason::NatPortLimit));
    let tcp = nat.bind(0, pool, (10, 8), REMOTE, ipv4::TCP).unwrap();
    assert_eq!(external(&nat, tcp).0, address, "another protocol's ports are still free");
    nat.drop_unused(tcp);
    let blocks: Vec<BlockRow> = (0..nat.block_slots()).filter_map(|i| nat.block(i)).collect();
    assert_eq!(blocks.iter().map(|block| block.ports_used).collect::<Vec<_>>(), [4, 4]);
    assert!(blocks.iter().all(|block| block.inside == host(10)));
    let row = (0..nat.subscriber_slots()).find_map(|i| nat.subscriber(i)).unwrap();
    assert_eq!((row.sessions, row.ports, row.blocks), (8, 8, 2));
    held.into_iter().for_each(|index| nat.release(index, NONE));
    assert_eq!((nat.live(), nat.blocks_taken()), (0, 2), "blocks stay a while");
    nat.tick(100);
    assert_eq!((nat.blocks_taken(), (0..nat.subscriber_slots()).find_map(|i| nat.subscriber(i))), (0, None));
    assert_eq!(nat.externals().map(|(_, used)| used.iter().sum::<u32>()).sum::<u32>(), 0);
}

/// proves: RFC 6888 REQ-11
/// proves: RFC 6888 REQ-14
#[test]
fn a_pool_without_a_free_block_recovers_when_one_has_rested() {
    let mut snapshot = pool_of(1, 2007, Allocation::Blocks(BLOCKS));
    snapshot.nat_log = NatLog::Blocks;
    let (mut nat, pool) = (Nat::new(&snapshot), &snapshot.pools[0]);
    let mut events = nat.events();
    nat.tick(1);
    let first = nat.bind(0, pool, (10, 1), REMOTE, ipv4::UDP).unwrap();
    let second = nat.bind(0, pool, (11, 1), REMOTE, ipv4::UDP).unwrap();
    [first, second].into_iter().for_each(|index| _ = nat.hold(index, REMOTE.0, false));
    assert_eq!(nat.bind(0, pool, (12, 1), REMOTE, ipv4::UDP), Err(DropReason::NatPortsExhausted));
    nat.tick(50);
    nat.release(first, NONE);
    assert_eq!(nat.bind(0, pool, (12, 1), REMOTE, ipv4::UDP), Err(DropReason::NatPortsExhausted), "it rests");
    nat.tick(151);
    assert!(nat.bind(0, pool, (12, 1), REMOTE, ipv4::UDP).is_ok());
    assert!(nat.get(second).is_some());
    let seen: Vec<(Nanos, EventKind, IpAddr)> =
        std::iter::from_fn(|| events.take()).map(|event| (event.at, event.kind, event.inside)).collect();
    use EventKind::{BlockAllocated, BlockReleased};
    assert_eq!(
        seen,
        [
            (1, BlockAllocated, host(10)),
            (1, BlockAllocated, host(11)),
            (150, BlockReleased, host(10)),
            (151, BlockAllocated, host(12))
        ]
    );
    assert_eq!(nat.recorded(), (4, 0));
}

/// proves: RFC 6888 REQ-4
/// proves: RFC 6888 REQ-5
#[test]
fn ports_and_sessions_of_an_inside_address_are_limited() {
    let mut snapshot = pool_of(1, 65_535, Allocation::Ports);
    (snapshot.pools[0].max_ports, snapshot.pools[0].max_sessions) = (2, 3);
    let (mut nat, pool) = (Nat::new(&snapshot), &snapshot.pools[0]);
    let open = |nat: &mut Nat, inside, protocol| open(nat, pool, inside, protocol);
    let first = open(&mut nat, (10, 1), ipv4::UDP).unwrap();
    assert!(open(&mut nat, (10, 2), ipv4::TCP).is_ok());
    assert_eq!(open(&mut nat, (10, 3), ipv4::UDP), Err(DropReason::NatPortLimit));
    assert!(open(&mut nat, (11, 3), ipv4::UDP).is_ok(), "another has its own");
    assert_eq!(open(&mut nat, (10, 1), ipv4::UDP), Ok(first));
    assert_eq!(open(&mut nat, (10, 1), ipv4::UDP), Err(DropReason::NatSessionLimit));
    nat.release(first, NONE);
    assert_eq!(open(&mut nat, (10, 1), ipv4::UDP), Ok(first));
    nat.release(first, NONE);
    nat.release(first, NONE);
    assert!(open(&mut nat, (10, 3), ipv4::UDP).is_ok());
}

/// proves: RFC 6888 REQ-4c
/// proves: RFC 6888 REQ-5
#[test]
fn new_sessions_of_an_inside_address_are_limited_by_the_second() {
    const SECOND: Nanos = 1_000_000_000;
    let mut snapshot = pool_of(1, 65_535, Allocation::Ports);
    snapshot.pools[0].max_new = 3;
    let (mut nat, pool) = (Nat::new(&snapshot), &snapshot.pools[0]);
    let opened = |nat: &mut Nat, at: Nanos, inside: u32| {
        nat.tick(at);
        (0..10).filter(|&port| open(nat, pool, (inside, port), ipv4::UDP).is_ok()).count()
    };
    assert_eq!(opened(&mut nat, 5, 10), 3, "a second's worth at once");
    assert_eq!(opened(&mut nat, 5, 11), 3, "another has its own");
    assert_eq!(opened(&mut nat, 5 + SECOND / 3 - 2, 10), 0);
    assert_eq!(opened(&mut nat, 5 + SECOND / 3, 10), 1);
    assert_eq!(opened(&mut nat, 5, 10), 0, "time that runs backwards gives nothing");
    assert_eq!(opened(&mut nat, 100 * SECOND, 10), 3, "what is not used is not saved");
    let binding = nat.bind(0, pool, (12, 1), REMOTE, ipv4::UDP).unwrap();
    nat.hold(binding, REMOTE.0, false);
    for _ in 0..3 {
        assert_eq!(nat.admit_session(binding, pool, Opener::Outside), Ok(()), "outside has its own share");
    }
    assert_eq!(nat.admit_session(binding, pool, Opener::Outside), Err(DropReason::NatRateLimit));
    assert_eq!(nat.bind(0, pool, (12, 2), REMOTE, ipv4::UDP).map(|_| ()), Ok(()));
    assert_eq!(nat.bind(0, pool, (12, 1), REMOTE, ipv4::UDP), Ok(binding), "the third of its own");
    assert_eq!(nat.bind(0, pool, (12, 1), REMOTE, ipv4::UDP), Err(DropReason::NatRateLimit));
}

/// proves: RFC 7422 2
#[test]
fn a_deterministic_port_is_the_subscribers() {
    let plan = Deterministic::new(&[(0x6440_0000, 0xffff_ffc0)], 2, (2000, 2255), 8).unwrap();
    let snapshot = pool_of(2, 2255, Allocation::Deterministic(plan.clone()));
    let (mut nat, pool) = (Nat::new(&snapshot), &snapshot.pools[0]);
    for inside in 0x6440_0000..=0x6440_003f {
        let (position, (first, last)) = plan.block(inside).unwrap();
        for port in 0..8 {
            let index = nat.bind(0, pool, (inside, first + port), REMOTE, ipv4::UDP).unwrap();
            let (address, external) = external(&nat, index);
            assert_eq!(Ipv4Addr::from_bits(address), pool.addresses[position]);
            assert_eq!(external, first + port, "it keeps its port where that is its own");
            assert!((first..=last).contains(&external));
            assert_eq!(plan.subscriber(position, external), Some(inside));
        }
        assert_eq!(nat.bind(0, pool, (inside, 9), REMOTE, ipv4::UDP), Err(DropReason::NatPortLimit));
    }
    assert!(nat.bind(0, pool, (0x6440_0040, 9), REMOTE, ipv4::UDP).is_err());
}

#[test]
fn workers_give_out_blocks_apart_from_each_other() {
    let snapshot = pool_of(5, 2063, Allocation::Blocks(BLOCKS));
    let pool = &snapshot.pools[0];
    let owners = Owners::new(&snapshot, 4);
    let mut all = std::collections::BTreeSet::new();
    for me in 0..4 {
        let mut nat = Nat::new(&snapshot);
        nat.share(me, &owners);
        let (mut inside, mut blocks) = (0, 0);
        loop {
            match nat.bind(0, pool, (inside, 9), REMOTE, ipv4::UDP) {
                Ok(index) => {
                    let (address, port) = external(&nat, index);
                    let ends = [(198, 53), (address, port)];
                    let mut local = snapshot.clone();
                    local.local4.insert(Ipv4Addr::from_bits(address), (0, crate::snapshot::LocalUse::Nat));
                    assert_eq!(owners.of_flow4(ends, ipv4::UDP, 0, &local), Some(me));
                    assert!(all.insert((address, (port - 2000) / 4)));
                    blocks += 1;
                }
                Err(reason) => {
                    assert_eq!(reason, DropReason::NatPortsExhausted);
                    break;
                }
            }
            inside += 1;
        }
        assert_eq!(blocks, 20);
    }
    assert_eq!(all.len(), 80);
}

proptest! {
    #![proptest_config(crate::table::cases(200))]

    /// Whatever comes and goes, no two inside endpoints have one external one at a time, no block has two subscribers, and in
    /// the end everything is free again.
    #[test]
    fn nothing_is_given_out_twice_and_everything_comes_back(
        steps in prop::collection::vec((0u8..4, 1u32..12, 0u16..12, any::<prop::sample::Index>(), 0u64..60), 0..400),
        max_ports in 0u32..10,
        log_is_read in any::<bool>(),
    ) {
        let mut snapshot = pool_of(2, 2023, Allocation::Blocks(BLOCKS));
        snapshot.pools[0].max_ports = max_ports;
        let (mut nat, pool) = (Nat::new(&snapshot), &snapshot.pools[0]);
        let mut events = nat.events();
        let mut live: Vec<u32> = Vec::new();
        let mut recorded = std::collections::BTreeMap::new();
        let mut now = 0;
        for (step, inside, port, pick, time) in steps {
            match step {
                0 | 1 => {
                    if let Ok(index) = nat.bind(0, pool, (inside, port), REMOTE, ipv4::UDP) {
                        nat.hold(index, REMOTE.0, false);
                        live.push(index);
                    }
                }
                2 if !live.is_empty() => nat.release(live.swap_remove(pick.index(live.len())), NONE),
                _ => {
                    now += time;
                    nat.tick(now);
                }
            }
            let mut owners = std::collections::BTreeMap::new();
            for index in 0..nat.slots() {
                let Some(binding) = nat.get(index) else { continue };
                prop_assert_eq!(owners.insert(binding.external, binding.inside), None);
                let block = (0..nat.block_slots()).filter_map(|i| nat.block(i)).find(|block| {
                    block.external.to_bits() == binding.external.0
                        && (block.ports.0..=block.ports.1).contains(&binding.external.1)
                });
                prop_assert_eq!(block.map(|block| block.inside), Some(host(binding.inside.0)));
            }
            let mut of_each = [0; 12];
            (0..nat.block_slots()).filter_map(|i| nat.block(i)).for_each(|b| {
                let inside = (0..12).find(|&inside| host(inside) == b.inside).unwrap();
                of_each[inside as usize] += 1;
            });
            prop_assert!(of_each.iter().all(|&blocks| blocks <= BLOCKS.most));
            // The log tells of every block whose it is.
            while let Some(event) = log_is_read.then(|| events.take()).flatten() {
                let key = (event.external, event.ports);
                match event.kind {
                    EventKind::BlockAllocated => prop_assert_eq!(recorded.insert(key, event.inside), None),
                    EventKind::BlockReleased => prop_assert_eq!(recorded.remove(&key), Some(event.inside)),
                    _ => {}
                }
            }
            if log_is_read {
                prop_assert_eq!(recorded.len() as u32, nat.blocks_taken());
            }
        }
        live.into_iter().for_each(|index| nat.release(index, NONE));
        nat.tick(now + BLOCKS.hold);
        prop_assert_eq!((nat.live(), nat.blocks_taken()), (0, 0));
        prop_assert!((0..nat.subscriber_slots()).all(|i| nat.subscriber(i).is_none()));
        prop_assert!(nat.externals().all(|(_, used)| used == [0; 3]));
    }
}

#[test]
fn a_record_of_nat64_has_the_address_of_the_host() {
    let mut snapshot = pool_of(1, 65_535, Allocation::Ports);
    snapshot.pools[0].behavior.is_nat64 = true;
    let (mut nat, pool) = (Nat::new(&snapshot), &snapshot.pools[0]);
    let mut events = nat.events();
    let address = 0x2001_0db8_u128 << 96 | 7;
    let host = nat.host(address).unwrap();
    let binding = open(&mut nat, pool, (host, 5000), ipv4::UDP).unwrap();
    nat.release(binding, NONE);
    let seen: Vec<_> = std::iter::from_fn(|| events.take()).map(|event| (event.kind, event.inside)).collect();
    let inside = IpAddr::from(address.to_be_bytes());
    assert_eq!(seen, [(EventKind::BindingCreated, inside), (EventKind::BindingReleased, inside)]);
    assert_eq!(nat.address_of(host), None);
}

/// A host of NAT64 has an account, blocks and limits as one of IPv4 does, and its number as long as any of them.
///
/// proves: RFC 6888 REQ-4
/// proves: RFC 6888 REQ-4c
/// proves: RFC 6888 REQ-5
#[test]
fn hosts_of_nat64_are_subscribers() {
    let mut snapshot = pool_of(2, 2007, Allocation::Blocks(BLOCKS));
    (snapshot.pools[0].max_sessions, snapshot.pools[0].max_new) = (6, 7);
    snapshot.pools[0].behavior.is_nat64 = true;
    snapshot.nat_log = NatLog::Blocks;
    let (mut nat, pool) = (Nat::new(&snapshot), &snapshot.pools[0]);
    let mut events = nat.events();
    nat.tick(1);
    let address = |last: u128| 0x2001_0db8_u128 << 96 | last;
    let inside = |last| IpAddr::from(address(last).to_be_bytes());
    let hosts = [7, 8].map(|last| nat.host(address(last)).unwrap());
    let held: Vec<u32> =
        (0..5).map(|port| open(&mut nat, pool, (hosts[0], port), ipv4::UDP).unwrap()).collect();
    let other = open(&mut nat, pool, (hosts[1], 1), ipv4::UDP).unwrap();
    assert_eq!(open(&mut nat, pool, (hosts[0], 0), ipv4::UDP), Ok(held[0]));
    assert_eq!(open(&mut nat, pool, (hosts[0], 0), ipv4::UDP), Err(DropReason::NatSessionLimit));
    nat.release(held[0], NONE);
    assert_eq!(open(&mut nat, pool, (hosts[0], 0), ipv4::UDP), Ok(held[0]));
    nat.release(held[0], NONE);
    assert_eq!(open(&mut nat, pool, (hosts[0], 0), ipv4::UDP), Err(DropReason::NatRateLimit));
    let rows = |nat: &Nat| -> Vec<_> {
        let rows = (0..nat.subscriber_slots()).filter_map(|index| nat.subscriber(index));
        rows.map(|row| (row.inside, row.sessions, row.ports, row.blocks)).collect()
    };
    let mut now = rows(&nat);
    now.sort_unstable();
    assert_eq!(now, [(inside(7), 5, 5, 2), (inside(8), 1, 1, 1)]);
    held.into_iter().for_each(|index| nat.release(index, NONE));
    assert_eq!((rows(&nat).len(), nat.address_of(hosts[0])), (2, Some(address(7))), "its blocks rest");
    assert_eq!(nat.host(address(7)), Ok(hosts[0]));
    nat.tick(101);
    assert_eq!((rows(&nat), nat.address_of(hosts[0])), (vec![(inside(8), 1, 1, 1)], None));
    nat.release(other, NONE);
    nat.tick(202);
    assert_eq!((rows(&nat).len(), nat.address_of(hosts[1]), nat.blocks_taken()), (0, None, 0));
    let seen: Vec<_> = std::iter::from_fn(|| events.take()).map(|event| (event.kind, event.inside)).collect();
    use EventKind::{BlockAllocated, BlockReleased};
    let taken = [(BlockAllocated, inside(7)), (BlockAllocated, inside(7)), (BlockAllocated, inside(8))];
    let given = [(BlockReleased, inside(7)), (BlockReleased, inside(7)), (BlockReleased, inside(8))];
    assert_eq!(seen, [taken, given].concat());
}
