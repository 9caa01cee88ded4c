use std::net::Ipv4Addr;

use sluice_dataplane::snapshot::Snapshot;

use super::*;

fn table() -> RouteTable {
    let settings = KernelRoutes { tables: vec![254, 100], protocols: Vec::new(), most: [1000, 1000] };
    let mut table = RouteTable::new(&settings, 0).unwrap();
    table.begin_reading(vec![(7, 0), (8, 1)]);
    table
}

fn hop(ifindex: u32, last: u8) -> Hop {
    Hop { ifindex, gateway: Some([192, 0, 2, last].into()), weight: 1, dead: false }
}

fn route(metric: u32, hops: &[Hop]) -> KernelRoute {
    KernelRoute {
        to: [10, 0, 0, 0].into(),
        length: 8,
        table: 254,
        protocol: 186,
        metric,
        preference: 0,
        kind: Kind::Unicast,
        hops: hops.to_vec(),
    }
}

fn via(interface: u16, last: u8) -> Route {
    Route::Via4 { interface, gateway: [192, 0, 2, last].into() }
}

/// What workers see of 10.1.2.3.
fn seen(table: &RouteTable) -> Option<Route> {
    let fib = table.fib();
    fib.way(fib.look_up4(&[10, 1, 2, 3])?).map(|way| way.route)
}

#[test]
fn the_file_wins_then_the_table_then_the_metric() {
    let mut table = table();
    let gone = route(20, &[hop(7, 1)]);
    table.add(&gone);
    assert_eq!(seen(&table), Some(via(0, 1)));
    table.add(&KernelRoute { table: 100, ..route(0, &[hop(7, 9)]) });
    table.add(&route(10, &[hop(8, 2)]));
    assert_eq!(seen(&table), Some(via(1, 2)));
    let prefix = Prefix { address: [10, 0, 0, 0].into(), length: 8 };
    table.set_file(vec![(prefix, vec![Way { route: Route::Blackhole, weight: 1 }])]);
    assert_eq!(seen(&table), Some(Route::Blackhole));
    assert_eq!(table.list(None, &Snapshot::default())["routes"].as_array().unwrap().len(), 4);
    table.set_file(Vec::new());
    table.remove(&route(10, &[hop(8, 2)]));
    assert_eq!(seen(&table), Some(via(0, 1)));
    table.remove(&gone);
    assert_eq!(seen(&table), Some(via(0, 9)));
    // Not read again, it is gone.
    table.begin_reading(vec![(7, 0)]);
    table.end_reading();
    assert_eq!((seen(&table), table.totals().0), (None, [0, 0]));
}

#[test]
fn ways_that_are_dead_or_not_ours_are_left_out() {
    let mut table = table();
    let dead = Hop { dead: true, ..hop(7, 1) };
    table.add(&route(0, &[dead, hop(8, 2), hop(99, 3)]));
    assert_eq!(seen(&table), Some(via(1, 2)));
    table.add(&route(0, &[hop(7, 1), hop(8, 2)]));
    assert!(matches!(seen(&table), Some(Route::Several { count: 2, .. })));
    table.add(&route(0, &[hop(99, 3)]));
    assert_eq!(seen(&table), Some(Route::Unreachable));
    let rows = table.list(None, &Snapshot::default());
    assert_eq!(rows["routes"][0]["kind"], "elsewhere");
    table.add(&KernelRoute { kind: Kind::Prohibit, ..route(0, &[]) });
    assert_eq!(seen(&table), Some(Route::Prohibited));
}

#[test]
fn listings_are_of_a_prefix_or_the_way_to_an_address() {
    let mut table = table();
    table.add(&route(0, &[hop(7, 1)]));
    for (to, length) in [([10, 1, 0, 0], 16), ([10, 1, 2, 0], 24), ([11, 0, 0, 0], 8)] {
        table.add(&KernelRoute { to: to.into(), length, ..route(0, &[hop(7, 1)]) });
    }
    let listed = |address: [u8; 4], length| {
        let rows = table.list(Some(Prefix { address: address.into(), length }), &Snapshot::default());
        rows["routes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["to"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed([10, 1, 0, 0], 16), ["10.1.0.0/16", "10.1.2.0/24"]);
    assert_eq!(listed([10, 1, 3, 3], 32), ["10.1.0.0/16"]);
    assert_eq!(listed([12, 0, 0, 1], 32), [""; 0]);
}

#[test]
fn a_listing_says_that_there_is_more() {
    let settings = KernelRoutes { tables: vec![254], protocols: Vec::new(), most: [2000, 1000] };
    let mut table = RouteTable::new(&settings, 0).unwrap();
    table.begin_reading(vec![(7, 0), (8, 1)]);
    let mut snapshot = Snapshot { routes: vec![via(0, 1)], ..Snapshot::default() };
    for number in 0..1500u32 {
        let to = Ipv4Addr::from_bits(0x0a00_0000 + (number << 8));
        table.add(&KernelRoute { to: to.into(), length: 24, ..route(0, &[hop(7, 1), hop(8, 2)]) });
        snapshot.route_list.extend([(to.into(), 24, 0), (to.into(), 24, 0)]);
    }
    let within = |length| Some(Prefix { address: [10, 0, 0, 0].into(), length });
    let address = Some(Prefix { address: [10, 5, 3, 77].into(), length: 32 });
    for (within, want) in [
        (None, (1500, true, 2000)),
        (within(8), (1500, true, 2000)),
        (within(16), (256, false, 512)),
        (address, (1, false, 2)),
    ] {
        for listing in [table.list(within, &snapshot), of_snapshot(within, &snapshot)] {
            let said = (&listing["total"], &listing["truncated"]);
            assert_eq!(said, (&want.0.into(), &want.1.into()));
            assert_eq!(listing["routes"].as_array().unwrap().len(), want.2);
        }
    }
    let text = crate::table::render_topic(crate::state::Topic::Routes, &table.list(None, &snapshot));
    assert!(text.ends_with(
        "and more: there are 1500 prefixes; `sluice show routes 198.51.100.0/24` lists those within one\n"
    ));
}
