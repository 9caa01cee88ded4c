//! Ports that rest, against a map of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::snapshot::{Allocation, NatBehavior, Pool, PortBlocks, PortRest, Snapshot};
use crate::verdict::DropReason;

const TIME: Nanos = 100;
const REMOTE: (u32, u16) = (99, 53);

fn nat_of(pool: Pool, most: u32) -> (Nat, Pool) {
    let behavior = NatBehavior { filtering: NatFiltering::EndpointIndependent, ..pool.behavior };
    let addresses = vec![Ipv4Addr::new(203, 0, 113, 1)];
    let mut snapshot = Snapshot { pools: vec![Pool { addresses, behavior, ..pool }], ..Snapshot::default() };
    snapshot.port_rest = PortRest { time: TIME, most };
    snapshot.sizes.sessions = 64;
    (Nat::new(&snapshot), snapshot.pools[0].clone())
}

fn nat(ports: (u16, u16), most: u32) -> (Nat, Pool) {
    nat_of(Pool { ports, ..Pool::default() }, most)
}

fn open(nat: &mut Nat, pool: &Pool, inside: (u32, u16), protocol: u8) -> Result<(u32, u16), DropReason> {
    let index = nat.bind(0, pool, inside, REMOTE, protocol)?;
    nat.hold(index, REMOTE.0, false);
    Ok((index, nat.get(index).unwrap().external.1))
}

fn close(nat: &mut Nat, index: u32) {
    nat.release(index, crate::session::NONE);
}

/// proves: RFC 6888 REQ-8
#[test]
fn a_port_that_ends_is_nobody_elses_for_a_while() {
    let (mut nat, pool) = nat((2000, 2001), 8);
    let (first, port) = open(&mut nat, &pool, (10, 2000), ipv4::UDP).unwrap();
    assert_eq!(port, 2000);
    let (_, other) = open(&mut nat, &pool, (11, 2000), ipv4::UDP).unwrap();
    assert_eq!(other, 2001);
    nat.tick(5);
    close(&mut nat, first);
    assert_eq!(nat.externals().next().unwrap().1, [0, 1, 0], "what rests is not in use");
    nat.tick(104);
    assert_eq!(open(&mut nat, &pool, (12, 7), ipv4::UDP), Err(DropReason::NatPortsExhausted));
    nat.tick(105);
    assert_eq!(open(&mut nat, &pool, (12, 7), ipv4::UDP).map(|(_, port)| port), Ok(2000));
    assert_eq!(nat.externals().next().unwrap().1, [0, 2, 0]);
}

/// proves: RFC 6888 REQ-8
#[test]
fn ports_within_a_block_rest_too() {
    let blocks = PortBlocks { size: 2, most: 1, hold: TIME };
    let pool = Pool { ports: (2000, 2003), allocation: Allocation::Blocks(blocks), ..Pool::default() };
    let (mut nat, pool) = nat_of(pool, 8);
    let (first, _) = open(&mut nat, &pool, (10, 7), ipv4::UDP).unwrap();
    let (_, second) = open(&mut nat, &pool, (10, 8), ipv4::UDP).unwrap();
    close(&mut nat, first);
    assert_eq!(open(&mut nat, &pool, (10, 9), ipv4::UDP), Err(DropReason::NatPortLimit));
    nat.tick(TIME);
    let (_, third) = open(&mut nat, &pool, (10, 9), ipv4::UDP).unwrap();
    assert_eq!(third ^ second, 1);
}

#[test]
fn whoever_had_a_port_has_it_back() {
    let (mut nat, pool) = nat((2000, 2009), 8);
    for _ in 0..20 {
        let (index, port) = open(&mut nat, &pool, (10, 2004), ipv4::UDP).unwrap();
        assert_eq!(port, 2004);
        close(&mut nat, index);
    }
    assert_ne!(open(&mut nat, &pool, (11, 2004), ipv4::UDP).unwrap().1, 2004);
    // Nothing of the times before ends the rest, or the use, of the last.
    nat.tick(TIME - 1);
    assert_eq!(open(&mut nat, &pool, (10, 2004), ipv4::UDP).unwrap().1, 2004);
    nat.tick(5 * TIME);
    assert_ne!(open(&mut nat, &pool, (12, 2004), ipv4::UDP).unwrap().1, 2004);
}

#[test]
fn only_udp_that_has_served_rests() {
    let (mut nat, pool) = nat((2000, 2000), 8);
    let (index, _) = open(&mut nat, &pool, (10, 7), ipv4::TCP).unwrap();
    close(&mut nat, index);
    assert!(open(&mut nat, &pool, (11, 7), ipv4::TCP).is_ok());
    let unused = nat.bind(0, &pool, (10, 7), REMOTE, ipv4::UDP).unwrap();
    nat.drop_unused(unused);
    assert!(open(&mut nat, &pool, (11, 7), ipv4::UDP).is_ok());
}

#[test]
fn one_too_many_ends_the_rest_of_the_oldest() {
    let (mut nat, pool) = nat((2000, 2002), 2);
    let all = [2000, 2001, 2002].map(|port| open(&mut nat, &pool, (10, port), ipv4::UDP).unwrap().0);
    all.into_iter().for_each(|index| close(&mut nat, index));
    assert_eq!(open(&mut nat, &pool, (11, 7), ipv4::UDP).map(|(_, port)| port), Ok(2000));
    assert_eq!(open(&mut nat, &pool, (11, 8), ipv4::UDP), Err(DropReason::NatPortsExhausted));
    let (mut none, pool) = self::nat((2000, 2000), 0);
    let (index, _) = open(&mut none, &pool, (10, 7), ipv4::UDP).unwrap();
    close(&mut none, index);
    assert!(open(&mut none, &pool, (11, 7), ipv4::UDP).is_ok());
}

proptest! {
    #![proptest_config(crate::table::cases(300))]

    #[test]
    fn behaves_as_a_map_of_ports(
        steps in prop::collection::vec((0..5u8, 1..4u32, 2000..2006u16, 0..60u64), 0..120),
    ) {
        let (mut nat, pool) = nat((2000, 2005), 64);
        let (mut now, mut live, mut resting) = (0, BTreeMap::new(), BTreeMap::new());
        for (step, host, port, wait) in steps {
            match step {
                0..=2 if !live.contains_key(&(host, port)) => {
                    let free = |port: &u16| !live.values().any(|(_, p)| p == port) && !resting.contains_key(port);
                    let own = resting.get(&port).is_some_and(|&(inside, _)| inside == host);
                    let opened = open(&mut nat, &pool, (host, port), ipv4::UDP);
                    match opened {
                        Ok((_, got)) if own || free(&port) => prop_assert_eq!(got, port),
                        Ok((_, got)) => prop_assert!(free(&got)),
                        Err(reason) => {
                            prop_assert_eq!(reason, DropReason::NatPortsExhausted);
                            prop_assert!(!own && !(2000..2006).any(|port| free(&port)));
                        }
                    }
                    if let Ok((index, got)) = opened {
                        resting.remove(&got);
                        live.insert((host, port), (index, got));
                    }
                }
                3 => if let Some((index, got)) = live.remove(&(host, port)) {
                    close(&mut nat, index);
                    resting.insert(got, (host, now + TIME));
                },
                _ => {
                    now += wait;
                    nat.tick(now);
                    resting.retain(|_, &mut (_, until)| until > now);
                }
            }
            let used = nat.externals().next().unwrap().1;
            prop_assert_eq!(used, [0, live.len() as u32, 0]);
        }
    }
}
