//! Whatever is done, each packet leaves once, by one way.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Put { class: u32, host: u128, flow: u32, len: u32, count: usize },
    Pass(u64),
    Take(usize),
    Shed(usize),
    Rate { node: u32, kbits: u64 },
    HostRate(u64),
    Drain,
}

fn steps() -> impl Strategy<Value = Step> {
    let put = (0..9u32, 0..6u128, 0..12u32, 1..3000u32, 1..40usize);
    prop_oneof![
        8 => put.prop_map(|(class, host, flow, len, count)| Step::Put { class, host, flow, len, count }),
        4 => prop_oneof![0..2_000u64, 0..50_000_000u64, 0..10_000_000_000u64].prop_map(Step::Pass),
        6 => (0..60usize).prop_map(Step::Take),
        1 => (0..20usize).prop_map(Step::Shed),
        1 => (0..9u32, 0..50_000u64).prop_map(|(node, kbits)| Step::Rate { node, kbits }),
        1 => (0..5000u64).prop_map(Step::HostRate),
        1 => Just(Step::Drain),
    ]
}

/// Two levels of classes, some with hosts.
fn tree(flows: u32) -> (Shaper<u64>, Vec<NodeId>) {
    let config =
        Config { flows, slots: 150, hosts: 4, classes: 8, rates: max(20_000_000), ..Config::default() };
    let mut shaper = Shaper::new(&config);
    let rates = Rates { guaranteed: rate(1_000_000), max: rate(5_000_000), burst: 0 };
    let usual = ClassConfig::new(Kind::Leaf);
    let hosts = Kind::Hosts(Hosts { rates: max(800_000), most: 3 });
    let top = shaper.add_class(ROOT, &ClassConfig { kind: Kind::Inner, rates, ..usual }).unwrap();
    let mut add = |parent, config| shaper.add_class(parent, &config).unwrap();
    let leaves = vec![
        add(top, ClassConfig { rates, reserved: 20, ..usual }),
        add(top, ClassConfig { kind: hosts, priority: 1, ..usual }),
        add(ROOT, ClassConfig { limit: 30, ..usual }),
        add(ROOT, ClassConfig { kind: hosts, weight: 5, rates, ..usual }),
    ];
    (shaper, leaves)
}

proptest! {
    #![proptest_config(crate::table::cases(400))]

    #[test]
    fn nothing_is_lost_or_doubled(
        steps in prop::collection::vec(steps(), 0..150), flows in 1..30u32, ecn: bool, bursts: bool,
    ) {
        let (mut shaper, leaves) = tree(flows);
        let mut out = Out { ecn, ..Out::default() };
        let (mut now, mut made) = (START, 0);
        for step in steps {
            match step {
                Step::Put { class, host, flow, len, count } => {
                    let class = leaves.get(class as usize % 5).copied().unwrap_or(NodeId(class));
                    let packets = (0..count as u64).map(|number| Packet { class, host, flow, len, item: made + number });
                    if bursts {
                        shaper.enqueue_burst(now, &mut packets.collect(), &mut out);
                    } else {
                        packets.for_each(|packet| shaper.enqueue(now, packet, &mut out));
                    }
                    made += count as u64;
                }
                Step::Pass(time) => now += time,
                Step::Take(budget) => {
                    let given = shaper.dequeue(now, budget, &mut out);
                    prop_assert!(given <= budget);
                    prop_assert!(given == budget || shaper.next_due() > now, "what may be sent is sent");
                }
                Step::Shed(count) => {
                    shaper.shed(now, count, &mut out);
                }
                Step::Rate { node, kbits } => shaper.set_rate(now, NodeId(node), &max(kbits * 1000)),
                Step::HostRate(kbits) => shaper.set_host_rates(now, leaves[1], &max(kbits * 1000)),
                Step::Drain => {
                    shaper.drain(now, |waiting| out.send(waiting.item, waiting.class));
                    prop_assert!(shaper.is_empty());
                    prop_assert_eq!(shaper.next_due(), NEVER);
                }
            }
            prop_assert_eq!(out.sent.len() + out.dropped.len() + shaper.len() as usize, made as usize);
            let all = shaper.stats(ROOT).unwrap();
            prop_assert_eq!(all.backlog_packets, u64::from(shaper.len()));
            prop_assert_eq!(all.drops.iter().sum::<u64>(), out.dropped.len() as u64);
            prop_assert_eq!(all.marks, out.marked.len() as u64);
            prop_assert_eq!(shaper.is_empty(), all.backlog_bytes == 0);
        }
        // All that waits can be sent, with time, unless a rate is nothing.
        for node in 1..shaper.configured {
            shaper.set_rate(now, NodeId(node), &Rates::default());
        }
        shaper.set_rate(now, ROOT, &Rates::default());
        for class in &leaves {
            shaper.set_host_rates(now, *class, &max(1_000_000));
        }
        for _ in 0..2000 {
            shaper.dequeue(now, 7, &mut out);
            if shaper.is_empty() {
                break;
            }
            now = shaper.next_due().max(now);
        }
        prop_assert!(shaper.is_empty(), "{} are stuck", shaper.len());
        let mut left: Vec<u64> = out.sent.iter().map(|&(item, _)| item).collect();
        left.extend(out.dropped.iter().map(|&(item, ..)| item));
        left.sort_unstable();
        prop_assert_eq!(left, (0..made).collect::<Vec<_>>());
        // And all hosts are forgotten.
        for seconds in [1000, 2000, 3000] {
            shaper.dequeue(now + seconds * SECOND, 1, &mut out);
        }
        prop_assert_eq!(shaper.hosts(), 0);
    }
}

#[test]
fn a_flow_keeps_its_order() {
    let (mut shaper, leaves) = tree(30);
    let (mut out, mut random, mut now) = (Out::default(), Random(3), START);
    for item in 0..5000 {
        let flow = random.below(4);
        shaper.enqueue(now, packet(leaves[0], flow as u32, 500, flow << 32 | item), &mut out);
        now += random.below(2_000_000);
        shaper.dequeue(now, 3, &mut out);
        if item % 1000 == 999 {
            shaper.drain(now, |waiting| {
                assert_eq!((waiting.host, u64::from(waiting.flow)), (0, waiting.item >> 32));
                out.send(waiting.item, waiting.class);
            });
        }
    }
    for flow in 0..4 {
        let sent: Vec<u64> =
            out.sent.iter().map(|&(item, _)| item).filter(|item| item >> 32 == flow).collect();
        assert!(sent.len() > 100 && sent.is_sorted());
    }
}

#[test]
fn waits_are_told_and_long_ones_marked_or_cut_short() {
    for ecn in [true, false] {
        let mut shaper = Shaper::new(&Config { rates: max(10_000_000), ..Config::default() });
        let leaf = shaper.add_class(ROOT, &ClassConfig::new(Kind::Leaf)).unwrap();
        let mut out = Out { ecn, ..Out::default() };
        let mut now = START;
        // A sender that keeps 20 % more than the rate coming.
        for item in 0..20_000 {
            shaper.enqueue(now, packet(leaf, 0, 1250, item), &mut out);
            now += 833_333;
            shaper.dequeue(now, usize::MAX, &mut out);
        }
        let stats = shaper.stats(leaf).unwrap();
        let half = shaper.sojourns(leaf).quantile(500).unwrap();
        if ecn {
            assert!(stats.marks > 100 && stats.drops[Cause::Codel as usize] == 0);
        } else {
            assert!(stats.drops[Cause::Codel as usize] > 2000 && stats.marks == 0);
            assert!(half < 200 * MILLISECOND, "{half}");
        }
        assert_eq!(shaper.sojourns(ROOT), shaper.sojourns(leaf));
    }
}
