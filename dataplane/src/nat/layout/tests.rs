//! Where addresses and pools lie, from one configuration to the next.

use super::*;
use crate::nat::change::Change;
use crate::nat::external::Share;
use crate::snapshot::Forward;

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, last)
}

fn snapshot(pools: &[&[u8]]) -> Snapshot {
    let pool = |list: &&[u8]| Pool {
        addresses: list.iter().map(|&last| address(last)).collect(),
        ports: (1024, 65535),
        ..Pool::default()
    };
    Snapshot { pools: pools.iter().map(pool).collect(), ..Snapshot::default() }
}

fn order(layout: &Layout, pool: usize) -> Vec<u32> {
    layout.pools[pool].order.clone()
}

#[test]
fn addresses_keep_their_places_and_leave_them_one_configuration_later() {
    let first = Layout::default().next(&snapshot(&[&[1, 2, 3]]));
    let second = first.next(&snapshot(&[&[4, 3]]));
    assert_eq!(order(&second, 0), [3, 2], "bindings of 1 and 2 may still be there");
    let third = second.next(&snapshot(&[&[5, 4, 2]]));
    assert_eq!(order(&third, 0), [0, 3, 1], "2 comes back to its place, 5 takes that of 1");
    assert_eq!(third.slots.len(), 4);
    let change = Change::new(&second, third.clone(), &snapshot(&[]), &Share::default());
    assert_eq!(change.fresh.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0]);
    assert!(change.bindings.is_none());
}

#[test]
fn a_pool_that_is_as_it_was_keeps_its_name_wherever_it_stands() {
    let first = Layout::default().next(&snapshot(&[&[1, 2], &[3]]));
    assert_eq!((first.pools[0].id, first.pools[1].id), (0, 1));
    let second = first.next(&snapshot(&[&[9], &[3], &[1]]));
    let names = |layout: &Layout| layout.pools.iter().map(|p| (p.id, p.was.clone())).collect::<Vec<_>>();
    assert_eq!(names(&second), [(2, vec![]), (1, vec![]), (3, vec![0])]);
    let third = second.next(&snapshot(&[&[9, 3, 1]]));
    assert_eq!(names(&third), [(0, vec![2, 1, 3])]);
    let mut narrow = snapshot(&[&[9, 3, 1]]);
    narrow.pools[0].ports.1 = 2000;
    assert_eq!(names(&third.next(&narrow)), [(1, vec![0])]);
}

#[test]
fn ports_of_forwards_are_ranges_without_overlap() {
    let forward = |interface, protocol, ports| Forward {
        interface,
        protocol,
        address: address(1),
        ports,
        to: address(200),
        to_port: 80,
    };
    let mut one = snapshot(&[&[1, 2]]);
    one.forwards = vec![forward(0, 6, (8080, 8090)), forward(1, 6, (8085, 8095)), forward(0, 17, (53, 53))];
    let layout = Layout::default().next(&one);
    assert_eq!(layout.reserved.len(), 2);
    for (space, port, held) in [
        (0, 8079, false),
        (0, 8080, true),
        (0, 8095, true),
        (0, 8096, false),
        (1, 53, true),
        (1, 8080, false),
    ] {
        assert_eq!(layout.is_reserved(0, space, port), held, "{space} {port}");
        assert!(!layout.is_reserved(1, space, port));
    }
    let mut two = one.clone();
    two.forwards.remove(0);
    let change = Change::new(&layout, layout.next(&two), &two, &Share::default());
    let range = |r: &Reserved| (r.first, r.last);
    assert_eq!(change.freed.iter().map(range).collect::<Vec<_>>(), [(8080, 8095)]);
    assert_eq!(change.taken.iter().map(range).collect::<Vec<_>>(), [(8085, 8095)]);
}
