//! Blocks against a map of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const HOLD: Nanos = 10;

/// An address with so many blocks of a hundred ports.
fn slot(last: u8, count: u32, since: u32) -> Slot {
    let cut = Cut { first: 1000, size: 100, count, since, rest: 0 };
    Slot { address: Ipv4Addr::new(203, 0, 113, last), in_use: true, way: Way::Blocks(cut) }
}

fn blocks(room: u32) -> Blocks {
    let mut blocks = Blocks::new(room);
    blocks.adopt(&mut Rests::new(&[HOLD]));
    blocks
}

fn grid(slot: &Slot) -> Grid {
    Grid::of(slot, &Share::default()).unwrap()
}

#[test]
fn a_block_used_again_is_not_given_back() {
    let (slot, mut blocks) = (slot(1, 1, 0), blocks(8));
    let mut grid = grid(&slot);
    let block = blocks.take((0, &slot), &mut grid, (7, NONE), 1).unwrap();
    assert_eq!(blocks.get(block).unwrap().ports, (1000, 1099));
    assert!(blocks.take((0, &slot), &mut grid, (8, NONE), 1).is_none());
    blocks.hold_port(block);
    blocks.release_port(block, 5);
    blocks.hold_port(block);
    assert_eq!(blocks.expired(1000), None);
    blocks.release_port(block, 6);
    assert_eq!((blocks.expired(15), blocks.expired(16)), (None, Some((block, 16))));
    assert_eq!(blocks.remove(block, block), NONE);
    blocks.give(block, Some(&mut grid));
    assert_eq!((blocks.taken(), blocks.expired(1000)), (0, None));
    assert!(blocks.get(block).is_none());
    assert!(blocks.take((0, &slot), &mut grid, (8, NONE), 1).is_some());
}

#[test]
fn no_block_is_taken_without_room() {
    let (slot, mut blocks) = (slot(1, 4, 0), blocks(2));
    let mut grid = grid(&slot);
    let take = |blocks: &mut Blocks, grid: &mut Grid| blocks.take((0, &slot), grid, (7, NONE), 0);
    let first = take(&mut blocks, &mut grid).unwrap();
    assert!(take(&mut blocks, &mut grid).is_some() && take(&mut blocks, &mut grid).is_none());
    blocks.hold_port(first);
    blocks.release_port(first, 0);
    blocks.give(first, Some(&mut grid));
    assert!(take(&mut blocks, &mut grid).is_some());
}

#[test]
fn a_block_is_of_the_cut_that_it_was_taken_of() {
    let (before, mut blocks) = (slot(1, 1, 3), blocks(8));
    let mut grid = grid(&before);
    let block = blocks.take((0, &before), &mut grid, (7, NONE), 0).unwrap();
    let block = blocks.get(block).unwrap();
    assert!(block.is_of(&before));
    assert!(!block.is_of(&slot(1, 1, 4)) && !block.is_of(&slot(2, 1, 3)));
}

/// Lists that are kept for different times are each in order by themselves.
#[test]
fn the_shorter_rest_ends_first() {
    let mut long = slot(1, 1, 0);
    let short = slot(2, 1, 0);
    if let Way::Blocks(cut) = &mut long.way {
        cut.rest = 1;
    }
    let mut blocks = Blocks::new(8);
    blocks.adopt(&mut Rests::new(&[HOLD, 1000]));
    let taken = [&long, &short].map(|slot| {
        let block = blocks.take((0, slot), &mut grid(slot), (7, NONE), 0).unwrap();
        blocks.hold_port(block);
        blocks.release_port(block, 5);
        block
    });
    assert_eq!(blocks.expired(14), None);
    assert_eq!(blocks.expired(15), Some((taken[1], 15)));
    // What rests goes on resting under another configuration, as long as that says.
    blocks.adopt(&mut Rests::new(&[HOLD, 20, 7]));
    blocks.give(taken[1], None);
    assert_eq!((blocks.expired(24), blocks.expired(25)), (None, Some((taken[0], 25))));
}

/// Takes, holds, releases and expiry in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Take(usize, u32, u64),
    Hold(prop::sample::Index),
    Release(prop::sample::Index),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..3, 0u32..5, any::<u64>())
            .prop_map(|(address, subscriber, draw)| Step::Take(address, subscriber, draw)),
        any::<prop::sample::Index>().prop_map(Step::Hold),
        any::<prop::sample::Index>().prop_map(Step::Release),
        (0u64..15).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(crate::table::cases(300))]

    /// proves: RFC 6888 REQ-8
    #[test]
    fn behaves_as_a_map_of_blocks(steps in prop::collection::vec(step(), 0..300)) {
        let slots = [1, 2, 3].map(|last| slot(last, 4, 0));
        let (mut grids, mut blocks) = (slots.map(|slot| grid(&slot)), blocks(12));
        // By address and first port: its index, subscriber, ports in use, and since when there are none.
        let mut model: BTreeMap<(u32, u16), (u32, u32, u32, u64)> = BTreeMap::new();
        let mut lists = [NONE; 5];
        let mut now = 0;
        for step in steps {
            match step {
                Step::Take(place, subscriber, draw) => {
                    let is_free = model.keys().filter(|(slot, _)| *slot == place as u32).count() < 4;
                    let list = (subscriber, lists[subscriber as usize]);
                    let got = blocks.take((place as u32, &slots[place]), &mut grids[place], list, draw);
                    prop_assert_eq!(got.is_some(), is_free);
                    if let Some(index) = got {
                        lists[subscriber as usize] = index;
                        // It is taken for a port.
                        blocks.hold_port(index);
                        let ports = blocks.get(index).unwrap().ports;
                        prop_assert!(ports.0 >= 1000 && ports.1 == ports.0 + 99 && ports.0 % 100 == 0);
                        let before = model.insert((place as u32, ports.0), (index, subscriber, 1, 0));
                        prop_assert_eq!(before, None, "given out twice");
                    }
                }
                Step::Hold(pick) if !model.is_empty() => {
                    let entry = model.values_mut().nth(pick.index(blocks.taken() as usize)).unwrap();
                    entry.2 += 1;
                    blocks.hold_port(entry.0);
                }
                Step::Release(pick) if !model.is_empty() => {
                    let entry = model.values_mut().nth(pick.index(blocks.taken() as usize)).unwrap();
                    if entry.2 > 0 {
                        (entry.2, entry.3) = (entry.2 - 1, now);
                        blocks.release_port(entry.0, now);
                    }
                }
                Step::Pass(time) => {
                    now += time;
                    while let Some((index, at)) = blocks.expired(now) {
                        let Block { slot, ports, .. } = *blocks.get(index).unwrap();
                        let (_, subscriber, in_use, since) = model.remove(&(slot, ports.0)).unwrap();
                        prop_assert_eq!((in_use, at), (0, since + HOLD));
                        let list = &mut lists[subscriber as usize];
                        *list = blocks.remove(*list, index);
                        blocks.give(index, Some(&mut grids[slot as usize]));
                    }
                    prop_assert!(model.values().all(|&(.., in_use, since)| in_use > 0 || since + HOLD > now));
                }
                _ => {}
            }
            prop_assert_eq!(blocks.taken() as usize, model.len());
            for &(index, subscriber, in_use, _) in model.values() {
                let block = blocks.get(index).unwrap();
                prop_assert_eq!((block.subscriber, block.in_use), (subscriber, in_use));
            }
            for (subscriber, &first) in lists.iter().enumerate() {
                let next = |&index: &u32| blocks.get(index).map(|block| block.next);
                let list: BTreeSet<u32> =
                    std::iter::successors(Some(first), next).take_while(|&index| index != NONE).collect();
                let own = model.values().filter(|entry| entry.1 == subscriber as u32).map(|entry| entry.0);
                prop_assert_eq!(list, own.collect::<BTreeSet<u32>>());
            }
        }
    }
}
