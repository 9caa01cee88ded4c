//! Nobody takes what is another's: slots, hosts, flows.

use super::*;

fn shaper(config: &Config) -> Shaper<u64> {
    Shaper::new(&Config { rates: max(1_000_000), ..*config })
}

#[test]
fn a_greedy_class_leaves_others_what_is_reserved_for_them() {
    let mut shaper = shaper(&Config { slots: 100, ..Config::default() });
    let reserved = ClassConfig { reserved: 30, ..patient(Kind::Leaf) };
    let [meek, greedy] =
        [reserved, patient(Kind::Leaf)].map(|config| shaper.add_class(ROOT, &config).unwrap());
    let mut out = Out::default();
    (0..1000).for_each(|item| shaper.enqueue(START, packet(greedy, item as u32, 1000, item), &mut out));
    assert_eq!(shaper.stats(greedy).unwrap().backlog_packets, 70);
    out.dropped.clear();
    (0..30).for_each(|item| shaper.enqueue(START, packet(meek, 0, 1000, item), &mut out));
    assert!(out.dropped.is_empty() && shaper.len() == 100);
    // Beyond what is reserved, the greedy one makes room until both hold about the same.
    (0..100).for_each(|item| shaper.enqueue(START, packet(meek, 0, 1000, item), &mut out));
    let held = [meek, greedy].map(|class| shaper.stats(class).unwrap().backlog_packets);
    assert_eq!(held.iter().sum::<u64>(), 100);
    assert!(held[0] >= 30 + 23 && held[1] >= 23, "{held:?}");
}

#[test]
fn the_fattest_flow_of_the_fattest_host_loses_first() {
    let mut shaper = shaper(&Config { slots: 400, hosts: 10, ..Config::default() });
    let hosts = Kind::Hosts(Hosts { rates: Rates::default(), most: 10 });
    let class = shaper.add_class(ROOT, &patient(hosts)).unwrap();
    let mut out = Out::default();
    let put = |shaper: &mut Shaper<u64>, host, flow, item, out: &mut Out| {
        shaper.enqueue(START, Packet { class, host, flow, len: 1000, item }, out);
    };
    (0..20).for_each(|item| put(&mut shaper, 1, 0, item, &mut out));
    (0..80).for_each(|item| put(&mut shaper, 2, 1, 1000 + item, &mut out));
    (0..300).for_each(|item| put(&mut shaper, 2, 2, 2000 + item, &mut out));
    assert!(out.dropped.is_empty());
    (20..40).for_each(|item| put(&mut shaper, 1, 0, item, &mut out));
    assert_eq!(out.dropped.len(), 20);
    for (number, &(item, of, cause)) in out.dropped.iter().enumerate() {
        assert_eq!((item, of, cause), (2000 + number as u64, class, Cause::Fattest));
    }
    assert_eq!(shaper.shed(START, 15, &mut out), 15);
    assert_eq!(out.causes(Cause::Shed), 15);
    assert!(out.dropped.iter().all(|&(item, ..)| item >= 2000));
    let stats = shaper.host_stats(class, 2).unwrap();
    assert_eq!((stats.drops[Cause::Fattest as usize], stats.drops[Cause::Shed as usize]), (20, 15));
    assert_eq!(shaper.stats(ROOT).unwrap().drops, stats.drops);
}

#[test]
fn nothing_that_is_reserved_is_shed() {
    let mut shaper = shaper(&Config { slots: 100, ..Config::default() });
    let leaf = shaper.add_class(ROOT, &ClassConfig { reserved: 30, ..patient(Kind::Leaf) }).unwrap();
    let mut out = Out::default();
    (0..50).for_each(|item| shaper.enqueue(START, packet(leaf, 0, 1000, item), &mut out));
    assert_eq!(shaper.shed(START, 100, &mut out), 20);
    assert_eq!(shaper.len(), 30);
}

#[test]
fn a_class_holds_no_more_than_its_limit() {
    let mut shaper = shaper(&Config::default());
    let leaf = shaper.add_class(ROOT, &ClassConfig { limit: 10, ..patient(Kind::Leaf) }).unwrap();
    let mut out = Out::default();
    (0..25).for_each(|item| shaper.enqueue(START, packet(leaf, 0, 1000, item), &mut out));
    assert_eq!((shaper.len(), out.causes(Cause::Limit)), (10, 15));
    assert_eq!(out.dropped.last().map(|&(item, ..)| item), Some(14), "the oldest makes room");
}

#[test]
fn a_flood_of_hosts_finds_its_bound_and_those_known_go_on() {
    let mut shaper = shaper(&Config { hosts: 50, slots: 1000, ..Config::default() });
    let hosts = |most| patient(Kind::Hosts(Hosts { rates: max(100_000), most }));
    let [first, second] = [hosts(40), hosts(40)].map(|config| shaper.add_class(ROOT, &config).unwrap());
    let mut out = Out::default();
    for host in 0..100 {
        shaper.enqueue(START, Packet { class: first, host, flow: 0, len: 100, item: 0 }, &mut out);
    }
    assert_eq!((shaper.hosts(), out.causes(Cause::Hosts)), (40, 60));
    for host in 0..100 {
        shaper.enqueue(START, Packet { class: second, host, flow: 0, len: 100, item: 0 }, &mut out);
    }
    assert_eq!((shaper.hosts(), shaper.len()), (50, 50));
    shaper.enqueue(START, Packet { class: first, host: 39, flow: 0, len: 100, item: 0 }, &mut out);
    assert_eq!(shaper.len(), 51);
}

#[test]
fn a_host_is_given_back_when_that_makes_no_difference() {
    let mut shaper = Shaper::new(&Config { hosts: 2, ..Config::default() });
    let rates = Rates { burst: 100_000, ..max(1_000_000) };
    let class = shaper.add_class(ROOT, &patient(Kind::Hosts(Hosts { rates, most: 1 }))).unwrap();
    let mut out = Out::default();
    let put = |shaper: &mut Shaper<u64>, now, host, out: &mut Out| {
        shaper.enqueue(now, Packet { class, host, flow: 0, len: 1000, item: host as u64 }, out);
    };
    for _ in 0..101 {
        put(&mut shaper, START, 1, &mut out);
    }
    assert_eq!(shaper.dequeue(START, 1000, &mut out), 101);
    // It owes for 1,000 bytes, and has to save 100,000: 808 ms.
    shaper.dequeue(START + 800 * MILLISECOND, 1000, &mut out);
    put(&mut shaper, START + 800 * MILLISECOND, 2, &mut out);
    assert_eq!((shaper.hosts(), out.causes(Cause::Hosts)), (1, 1));
    shaper.dequeue(START + 809 * MILLISECOND, 1000, &mut out);
    assert_eq!(shaper.hosts(), 0);
    put(&mut shaper, START + 810 * MILLISECOND, 2, &mut out);
    assert_eq!(shaper.dequeue(START + 810 * MILLISECOND, 1000, &mut out), 1);
    assert_eq!(out.sent.last(), Some(&(2, class)));
}

#[test]
fn a_flood_of_flows_shares_queues_and_leaves_other_classes_alone() {
    let mut shaper =
        Shaper::new(&Config { flows: 64, rates: max(10_000_000), slots: 500, ..Config::default() });
    let [flooded, quiet] = [0, 50]
        .map(|reserved| shaper.add_class(ROOT, &ClassConfig { reserved, ..patient(Kind::Leaf) }).unwrap());
    let mut out = Out::default();
    shaper.enqueue(START, packet(quiet, 0, 1000, 1), &mut out);
    for item in 0..10_000 {
        shaper.enqueue(START, packet(flooded, item, 1000, 7), &mut out);
    }
    assert_eq!(shaper.len(), 451);
    for item in 2..40 {
        shaper.enqueue(START, packet(quiet, 0, 1000, item), &mut out);
    }
    assert!(out.dropped.iter().all(|&(_, class, _)| class == flooded));
    let mut now = START;
    while !shaper.is_empty() {
        shaper.dequeue(now, usize::MAX, &mut out);
        now = shaper.next_due();
    }
    let sent: Vec<u64> =
        out.sent.iter().filter(|&&(_, class)| class == quiet).map(|&(item, _)| item).collect();
    assert_eq!(sent, (1..40).collect::<Vec<_>>(), "in order, and none lost");
    // Now that all are empty, queues are to be had again.
    shaper.enqueue(now, packet(quiet, 77, 1000, 1), &mut out);
    assert_eq!(shaper.dequeue(now, 10, &mut out), 1);
}

#[test]
fn a_class_that_does_not_exist_loses_its_packets_and_they_are_counted() {
    let mut shaper = shaper(&Config::default());
    let inner = shaper.add_class(ROOT, &ClassConfig::new(Kind::Inner)).unwrap();
    let mut out = Out::default();
    for class in [ROOT, inner, NodeId(2), NodeId(u32::MAX)] {
        shaper.enqueue(START, packet(class, 0, 100, 1), &mut out);
    }
    assert_eq!(out.causes(Cause::Full), 4);
    assert_eq!(shaper.stats(ROOT).unwrap().drops[Cause::Full as usize], 4);
    assert_eq!(shaper.stats(NodeId(2)), None);
}
