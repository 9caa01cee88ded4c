//! Leases: what a host asks for, gets, and has as long as it said.

use proptest::prelude::*;

use super::*;
use crate::clock::SECOND;
use crate::snapshot::PortBlocks;
use crate::snapshot::PortControl;

const NAME: Nonce = [7; 12];

fn leasing(ports: (u16, u16), change: impl FnOnce(&mut Pool)) -> (Nat, Pool) {
    let mut snapshot = Snapshot::default();
    let addresses = vec![Ipv4Addr::new(203, 0, 113, 1)];
    let mut pool = Pool { addresses, ports, ..Pool::default() };
    change(&mut pool);
    snapshot.pools.push(pool.clone());
    snapshot.port_control =
        PortControl { rules: vec![0], min_lifetime: 120, max_lifetime: 7200, max_mappings: 4 };
    snapshot.sizes.sessions = 32;
    (Nat::new(&snapshot), pool)
}

fn ask(inside: (u32, u16)) -> Ask {
    Ask {
        pool: 0,
        inside,
        protocol: ipv4::UDP,
        suggested: (0, 0),
        is_exact: false,
        nonce: NAME,
        lifetime: 120 * SECOND,
        clears_filters: false,
        filters: Filters::default(),
        most: 4,
        generation: 0,
    }
}

/// Ends what is over, as the worker does.
fn sweep(nat: &mut Nat, now: Nanos) {
    nat.tick(now);
    for _ in 0..nat.leases_due(now) {
        if let Some(lease) = nat.next_lease().filter(|lease| lease.until <= now) {
            nat.end_lease(lease.binding);
        }
    }
}

fn binding(nat: &Nat, inside: (u32, u16)) -> Option<u32> {
    (0..nat.slots()).find(|&index| nat.get(index).is_some_and(|b| b.inside == inside))
}

#[test]
fn a_lease_holds_its_binding_without_sessions_and_no_longer_than_it_is() {
    let (mut nat, pool) = leasing((1024, 65535), |_| ());
    nat.tick(SECOND);
    assert_eq!(nat.lease(&ask((10, 5000)), &pool), Ok((0xcb00_7101, 5000)));
    let index = binding(&nat, (10, 5000)).unwrap();
    let permit = nat.hold(index, REMOTE.0, false);
    nat.release(index, permit);
    assert_eq!((nat.live(), nat.leased()), (1, 1));
    assert!(nat.admits(index, (1, 2)), "anybody");
    sweep(&mut nat, 120 * SECOND);
    assert_eq!(nat.lease_left(index), Some(SECOND));
    // With a session, the binding outlives the lease, and lets in whom its filtering does.
    let permit = nat.hold(index, REMOTE.0, false);
    sweep(&mut nat, 122 * SECOND);
    assert_eq!((nat.live(), nat.leased(), nat.lease_left(index)), (1, 0, None));
    assert!(nat.admits(index, REMOTE) && !nat.admits(index, (1, 2)));
    nat.release(index, permit);
    assert_eq!(nat.live(), 0);
}

#[test]
fn a_lease_that_is_over_lets_nobody_in_and_is_anybodys_before_it_is_swept() {
    let (mut nat, pool) = leasing((1024, 65535), |_| ());
    nat.lease(&ask((10, 5000)), &pool).unwrap();
    let index = binding(&nat, (10, 5000)).unwrap();
    nat.tick(120 * SECOND);
    assert!(!nat.admits(index, (1, 2)));
    assert!(nat.lease(&Ask { nonce: [8; 12], ..ask((10, 5000)) }, &pool).is_ok());
    assert_eq!(nat.leased(), 1);
}

/// proves: RFC 6887 11.3
#[test]
fn a_lease_is_renewed_and_ended_by_its_name() {
    let (mut nat, pool) = leasing((1024, 65535), |_| ());
    nat.lease(&ask((10, 5000)), &pool).unwrap();
    nat.tick(20 * SECOND);
    let other = Ask { nonce: [8; 12], ..ask((10, 5000)) };
    assert_eq!(nat.lease(&other, &pool), Err(Refusal::Another(100 * SECOND)));
    assert_eq!(nat.end_leases((10, 5000), ipv4::UDP, &other.nonce), Err(Refusal::Another(100 * SECOND)));
    nat.lease(&ask((10, 5000)), &pool).unwrap();
    assert_eq!(nat.lease_left(binding(&nat, (10, 5000)).unwrap()), Some(120 * SECOND));
    assert_eq!(nat.end_leases((10, 5000), ipv4::UDP, &NAME), Ok(()));
    assert_eq!((nat.live(), nat.leased()), (0, 0));
    assert_eq!(nat.end_leases((10, 5000), ipv4::UDP, &NAME), Ok(()), "there is none");
}

#[test]
fn all_of_a_host_end_at_once() {
    let (mut nat, pool) = leasing((1024, 65535), |_| ());
    for (host, port, protocol) in [(10, 1, 17), (10, 2, 6), (10, 3, 6), (11, 1, 6)] {
        nat.lease(&Ask { protocol, ..ask((host, port)) }, &pool).unwrap();
    }
    assert_eq!((nat.end_leases((10, 0), ipv4::TCP, &NAME), nat.leased()), (Ok(()), 2));
    assert_eq!((nat.end_leases((10, 0), 0, &[9; 12]), nat.leased()), (Ok(()), 2), "of another name");
    assert_eq!((nat.end_leases((10, 0), 0, &NAME), nat.leased()), (Ok(()), 1));
}

#[test]
fn bounds_are_each_their_own_refusal_and_leave_nothing_behind() {
    let (mut nat, pool) = leasing((2000, 2005), |_| ());
    for port in 1..=4 {
        nat.lease(&ask((10, port)), &pool).unwrap();
    }
    assert_eq!(nat.lease(&ask((10, 5)), &pool), Err(Refusal::Quota));
    assert!(nat.lease(&ask((10, 4)), &pool).is_ok(), "to renew is not to have more");
    let exact = Ask { suggested: (0, 80), is_exact: true, ..ask((11, 9)) };
    assert_eq!(nat.lease(&exact, &pool), Err(Refusal::NotThat));
    assert_eq!(nat.live(), 4);
    nat.lease(&ask((11, 1)), &pool).unwrap();
    nat.lease(&ask((11, 2)), &pool).unwrap();
    assert_eq!(nat.lease(&ask((12, 1)), &pool), Err(Refusal::NoRoom));
    let mut many = Filters::default();
    assert!((1..=4).all(|port| many.add(Peers { address: 9, mask: u32::MAX, port })));
    let many = Ask { filters: many, ..ask((11, 1)) };
    assert!(nat.lease(&many, &pool).is_ok());
    let mut fifth = Filters::default();
    fifth.add(Peers { address: 9, mask: u32::MAX, port: 5 });
    let fifth = Ask { filters: fifth, ..ask((11, 1)) };
    assert_eq!(nat.lease(&fifth, &pool), Err(Refusal::TooManyFilters));
    assert!(nat.lease(&Ask { clears_filters: true, ..fifth }, &pool).is_ok());
    let index = binding(&nat, (11, 1)).unwrap();
    assert!(nat.admits(index, (9, 5)) && !nat.admits(index, (9, 1)));
    assert_eq!((nat.live(), nat.leased()), (6, 6));
}

#[test]
fn a_subscribers_bounds_hold_for_leases() {
    let (mut nat, pool) = leasing((1024, 65535), |pool| pool.max_ports = 2);
    let index = nat.bind(0, &pool, (10, 9), REMOTE, ipv4::TCP).unwrap();
    nat.hold(index, REMOTE.0, false);
    nat.lease(&ask((10, 1)), &pool).unwrap();
    assert_eq!(nat.lease(&ask((10, 2)), &pool), Err(Refusal::Quota));
    nat.end_leases((10, 1), ipv4::UDP, &NAME).unwrap();
    assert!(nat.lease(&ask((10, 2)), &pool).is_ok());
}

#[test]
fn leases_take_ports_of_blocks() {
    let blocks = PortBlocks { size: 4, most: 1, hold: 120 * SECOND };
    let (mut nat, pool) = leasing((2000, 2015), |pool| pool.allocation = Allocation::Blocks(blocks));
    let (_, first) = nat.lease(&ask((10, 1)), &pool).unwrap();
    let block = (0..nat.block_slots()).find_map(|at| nat.block(at)).unwrap();
    assert!((block.ports.0..=block.ports.1).contains(&first));
    for port in 2..=4 {
        nat.lease(&ask((10, port)), &pool).unwrap();
    }
    assert_eq!(
        nat.lease(&Ask { most: 9, ..ask((10, 5)) }, &pool),
        Err(Refusal::Quota),
        "it may have one block"
    );
    assert_eq!(nat.external_of(0, 10), Some(0xcb00_7101));
    nat.end_leases((10, 0), 0, &NAME).unwrap();
    assert_eq!((nat.live(), nat.blocks_taken()), (0, 1), "it rests");
}

proptest! {
    #![proptest_config(crate::table::cases(200))]

    #[test]
    fn as_a_list_would_have_it(
        steps in prop::collection::vec((0..6u8, 0..3u32, 1..6u16, 0..2u8, 0..90u64), 1..80),
    ) {
        let (mut nat, pool) = leasing((2000, 2011), |_| ());
        let mut model: Vec<((u32, u16), u8, Nanos)> = Vec::new();
        let mut now = SECOND;
        nat.tick(now);
        for (what, host, port, name, pause) in steps {
            let (inside, nonce) = ((host, port), [name; 12]);
            match what {
                0..=2 => {
                    let got = nat.lease(&Ask { nonce, most: 3, ..ask(inside) }, &pool);
                    let until = now + 120 * SECOND;
                    let has = model.iter().filter(|((of, _), ..)| *of == host).count();
                    let known = model.iter_mut().find(|(has, ..)| *has == inside);
                    match known {
                        Some((_, by, end)) if *by == name => {
                            prop_assert!(got.is_ok());
                            *end = until;
                        }
                        Some((.., end)) => prop_assert_eq!(got, Err(Refusal::Another(*end - now))),
                        None if has == 3 => prop_assert_eq!(got, Err(Refusal::Quota)),
                        None => {
                            prop_assert!(got.is_ok());
                            model.push((inside, name, until));
                        }
                    }
                }
                3 => {
                    let is_anothers = model.iter().any(|&(has, by, _)| has == inside && by != name);
                    let ended = nat.end_leases(inside, ipv4::UDP, &nonce);
                    prop_assert_eq!(ended.is_err(), is_anothers);
                    model.retain(|&(has, by, _)| has != inside || by != name);
                }
                4 => {
                    nat.end_leases((host, 0), 0, &nonce).unwrap();
                    model.retain(|&((of, _), by, _)| of != host || by != name);
                }
                _ => {
                    now += pause.max(1) * SECOND;
                    sweep(&mut nat, now);
                    model.retain(|&(.., end)| end > now);
                }
            }
            prop_assert_eq!((nat.live() as usize, nat.leased() as usize), (model.len(), model.len()));
            for &(inside, _, end) in &model {
                let left = binding(&nat, inside).and_then(|index| nat.lease_left(index));
                prop_assert_eq!(left, Some(end - now));
            }
        }
    }
}

#[test]
fn a_conversation_keeps_its_mapping_and_lets_in_its_far_end_alone() {
    let (mut nat, pool) = leasing((1024, 65535), |_| ());
    nat.tick(SECOND);
    let peers = [(20, 53), (21, 54), (22, 55), (23, 56), (24, 57)];
    let external = (0xcb00_7101, 5000);
    assert_eq!(nat.lease_for(&ask((10, 5000)), peers[0], &pool), Ok((external, 120 * SECOND)));
    let index = binding(&nat, (10, 5000)).unwrap();
    let lets = |nat: &Nat| peers.map(|peer| nat.leases.admit(index, peer, nat.now));
    assert_eq!(lets(&nat), [true, false, false, false, false]);
    // Further ones, each at most as short as what is left; another name makes no difference.
    nat.tick(61 * SECOND);
    let longer = Ask { nonce: [8; 12], lifetime: 600 * SECOND, suggested: (1, 1), ..ask((10, 5000)) };
    assert_eq!(nat.lease_for(&longer, peers[1], &pool), Ok((external, 600 * SECOND)));
    assert_eq!(nat.lease_for(&ask((10, 5000)), peers[1], &pool), Ok((external, 600 * SECOND)));
    assert_eq!(lets(&nat), [true, true, false, false, false]);
    for peer in [peers[2], peers[3]] {
        nat.lease_for(&ask((10, 5000)), peer, &pool).unwrap();
    }
    assert_eq!(nat.lease_for(&ask((10, 5000)), peers[4], &pool), Err(Refusal::Quota));
    // A mapping takes its place, lets everybody in, and is not touched by another name.
    assert_eq!(nat.lease(&ask((10, 5000)), &pool), Ok(external));
    assert_eq!((lets(&nat), nat.lease_left(index)), ([true; 5], Some(120 * SECOND)));
    assert_eq!(nat.lease_for(&longer, peers[0], &pool), Ok((external, 120 * SECOND)));
    let same = Ask { lifetime: 300 * SECOND, ..ask((10, 5000)) };
    assert_eq!(nat.lease_for(&same, peers[0], &pool), Ok((external, 300 * SECOND)));
    assert_eq!(lets(&nat), [true; 5]);
    // What cannot be had as suggested is not had at all.
    let taken = Ask { suggested: external, ..ask((11, 6000)) };
    assert_eq!(nat.lease_for(&taken, peers[0], &pool), Err(Refusal::NotThat));
    assert_eq!((nat.live(), nat.leased()), (1, 1));
    sweep(&mut nat, 400 * SECOND);
    sweep(&mut nat, 402 * SECOND);
    assert_eq!((nat.live(), nat.leased()), (0, 0));
}
