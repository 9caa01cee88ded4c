//! Equals get equal shares.

use super::*;

/// Jain's index: 1 if all are the same.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Bytes that each of a hundred gets in two seconds at 100 Mbit/s, whose packets are of these sizes; `place` says class, host
/// and flow of each.
fn shares(sizes: &[u32], shaper: &mut Shaper<u64>, place: impl Fn(u64) -> (NodeId, u128, u32)) -> Vec<f64> {
    let (mut out, mut bytes) = (Out::default(), vec![0.0; 100]);
    let size = |who: u64| sizes[who as usize % sizes.len()];
    let mut waiting = [0; 100];
    let mut now = START;
    while now < START + 2 * SECOND {
        for who in 0..100 {
            let (class, host, flow) = place(who);
            while waiting[who as usize] < 20 {
                shaper.enqueue(now, Packet { class, host, flow, len: size(who), item: who }, &mut out);
                waiting[who as usize] += 1;
            }
        }
        shaper.dequeue(now, 200, &mut out);
        for (who, _) in out.sent.drain(..) {
            bytes[who as usize] += f64::from(size(who));
            waiting[who as usize] -= 1;
        }
        assert!(out.dropped.is_empty());
        now = shaper.next_due().max(now + 50_000);
    }
    bytes
}

const SIZES: [&[u32]; 3] = [&[1514], &[64, 1514], &[64, 300, 576, 1000, 1514]];

fn port() -> Config {
    Config { rates: max(100_000_000), classes: 200, hosts: 200, ..Config::default() }
}

#[test]
fn flows_of_a_leaf_are_equals() {
    for sizes in SIZES {
        let mut shaper = Shaper::new(&port());
        let leaf = shaper.add_class(ROOT, &patient(Kind::Leaf)).unwrap();
        let shares = shares(sizes, &mut shaper, |who| (leaf, 0, who as u32));
        assert!(jain(&shares) > 0.98, "{sizes:?} {shares:?}");
    }
}

#[test]
fn hosts_are_equals_however_many_flows_they_have() {
    for sizes in SIZES {
        let mut shaper = Shaper::new(&port());
        let hosts = Hosts { rates: Rates::default(), most: 100 };
        let class = shaper.add_class(ROOT, &patient(Kind::Hosts(hosts))).unwrap();
        let all =
            shares(sizes, &mut shaper, |who| (class, if who < 51 { 0 } else { who.into() }, who as u32));
        let mut hosts = vec![all[..51].iter().sum()];
        hosts.extend(&all[51..]);
        assert!(jain(&hosts) > 0.98, "{sizes:?} {hosts:?}");
        assert_eq!(shaper.hosts(), 50);
    }
}

#[test]
fn classes_share_by_weight() {
    for sizes in SIZES {
        let mut shaper = Shaper::new(&port());
        let classes: Vec<NodeId> = (0..100)
            .map(|who| {
                let weight = 1 + who / 10;
                shaper.add_class(ROOT, &ClassConfig { weight, ..patient(Kind::Leaf) }).unwrap()
            })
            .collect();
        let mut shares = shares(sizes, &mut shaper, |who| (classes[who as usize], 0, 0));
        shares.iter_mut().enumerate().for_each(|(who, share)| *share /= (1 + who / 10) as f64);
        assert!(jain(&shares) > 0.98, "{sizes:?} {shares:?}");
    }
}

#[test]
fn a_flow_with_few_packets_is_ahead_of_those_that_fill_the_queue() {
    let mut shaper = Shaper::new(&Config { rates: max(10_000_000), ..Config::default() });
    let leaf = shaper.add_class(ROOT, &patient(Kind::Leaf)).unwrap();
    let mut out = Out::default();
    (0..1000).for_each(|item| shaper.enqueue(START, packet(leaf, item as u32 % 4, 1514, item), &mut out));
    let mut now = START;
    for _ in 0..100 {
        shaper.dequeue(now, usize::MAX, &mut out);
        now = shaper.next_due();
    }
    out.sent.clear();
    shaper.enqueue(now, packet(leaf, 99, 100, 5000), &mut out);
    while !out.sent.iter().any(|&(item, _)| item == 5000) {
        shaper.dequeue(now, usize::MAX, &mut out);
        now = shaper.next_due();
    }
    assert!(out.sent.len() <= 2, "{}", out.sent.len());
}

#[test]
fn a_flow_that_sends_one_by_one_does_not_starve_the_others() {
    let mut shaper = Shaper::new(&Config { rates: max(10_000_000), ..Config::default() });
    let leaf = shaper.add_class(ROOT, &patient(Kind::Leaf)).unwrap();
    let mut out = Out::default();
    (0..1000).for_each(|item| shaper.enqueue(START, packet(leaf, 1, 1000, item), &mut out));
    let (mut now, mut single) = (START, 0);
    shaper.enqueue(now, packet(leaf, 2, 1000, 5000), &mut out);
    while now < START + SECOND / 2 {
        shaper.dequeue(now, usize::MAX, &mut out);
        if out.sent.drain(..).any(|(item, _)| item == 5000) {
            single += 1;
            shaper.enqueue(now, packet(leaf, 2, 1000, 5000), &mut out);
        }
        now = shaper.next_due();
    }
    // 625 packets leave.
    assert!((200..=350).contains(&single), "{single}");
}
