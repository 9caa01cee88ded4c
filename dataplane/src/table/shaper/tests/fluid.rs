//! Priorities, guarantees and borrowing against a plain model in which packets are a fluid.

use super::*;
use proptest::prelude::*;

/// A class of the model.
#[derive(Clone, Debug)]
struct Fluid {
    rates: Rates,
    priority: u8,
    weight: u16,
    children: Vec<Fluid>,
    /// For one without children: whether it always has packets.
    active: bool,
    node: NodeId,
}

fn bits(rate: Option<Rate>) -> f64 {
    rate.map_or(f64::INFINITY, |rate| rate.bits_per_second as f64)
}

impl Fluid {
    /// What it would take if there were no end to it.
    fn demand(&self) -> f64 {
        let inside = match self.children.is_empty() {
            true if self.active => f64::INFINITY,
            _ => self.children.iter().map(Self::demand).sum(),
        };
        inside.min(bits(self.rates.max))
    }

    /// Shares out what it gets, and notes what each leaf has.
    fn share(&self, rate: f64, out: &mut Vec<(NodeId, f64)>) {
        if self.children.is_empty() {
            return out.push((self.node, rate));
        }
        let mut left = rate;
        let mut gets = vec![0.0; self.children.len()];
        for priority in 0..PRIORITIES {
            for (child, gets) in self.children.iter().zip(&mut gets).filter(|(of, _)| of.priority == priority)
            {
                let own = child.rates.guaranteed.map_or(0.0, |own| own.bits_per_second as f64);
                *gets = own.min(child.demand()).min(left);
                left -= *gets;
            }
        }
        for priority in 0..PRIORITIES {
            // By weight, until none of them can take more or nothing is left.
            loop {
                let wants = |of: &Fluid, gets: f64| of.priority == priority && of.demand() - gets > 1e-6;
                let open: Vec<usize> =
                    (0..gets.len()).filter(|&at| wants(&self.children[at], gets[at])).collect();
                let weights: f64 = open.iter().map(|&at| f64::from(self.children[at].weight)).sum();
                if open.is_empty() || left < 1e-6 {
                    break;
                }
                let room = |&at: &usize| {
                    (self.children[at].demand() - gets[at]) / f64::from(self.children[at].weight)
                };
                let step = open.iter().map(room).fold(left / weights, f64::min);
                for at in open {
                    gets[at] += step * f64::from(self.children[at].weight);
                    left -= step * f64::from(self.children[at].weight);
                }
            }
        }
        self.children.iter().zip(gets).for_each(|(child, gets)| child.share(gets, out));
    }

    fn build(&mut self, shaper: &mut Shaper<u64>, parent: NodeId) {
        let kind = if self.children.is_empty() { Kind::Leaf } else { Kind::Inner };
        let config =
            ClassConfig { rates: self.rates, priority: self.priority, weight: self.weight, ..patient(kind) };
        self.node = shaper.add_class(parent, &config).unwrap();
        self.children.iter_mut().for_each(|child| child.build(shaper, self.node));
    }
}

const PORT: u64 = 100_000_000;

/// Bits that each leaf sends in a second, from the second second on, of packets of unlike sizes.
fn measure(root: &mut Fluid, seed: u64) -> Vec<(NodeId, f64)> {
    let config = Config { rates: max(PORT), slots: 8000, ..Config::default() };
    let mut shaper = Shaper::new(&config);
    root.children.iter_mut().for_each(|child| child.build(&mut shaper, ROOT));
    let mut leaves = vec![];
    root.share(PORT as f64, &mut leaves);
    let (mut random, mut out) = (Random(seed), Out::default());
    let active = |node: NodeId, root: &Fluid| {
        let mut all = vec![root];
        let mut found = false;
        while let Some(fluid) = all.pop() {
            found |= fluid.node == node && fluid.children.is_empty() && fluid.active;
            all.extend(&fluid.children);
        }
        found
    };
    let actives: Vec<NodeId> =
        leaves.iter().map(|&(node, _)| node).filter(|&node| active(node, root)).collect();
    let mut now = START;
    let mut bytes = std::collections::BTreeMap::new();
    let mut waiting: std::collections::BTreeMap<u32, u32> = actives.iter().map(|node| (node.0, 0)).collect();
    while now < START + 2 * SECOND {
        for &node in &actives {
            let waiting = waiting.get_mut(&node.0).unwrap();
            while *waiting < 100 {
                let len = [64, 200, 576, 1514][random.below(4) as usize];
                shaper.enqueue(now, packet(node, 0, len, len.into()), &mut out);
                *waiting += 1;
            }
        }
        shaper.dequeue(now, usize::MAX, &mut out);
        assert!(out.dropped.is_empty());
        assert!(actives.is_empty() || shaper.next_due() > now, "what may be sent is sent");
        for (len, class) in out.sent.drain(..) {
            *waiting.get_mut(&class.0).unwrap() -= 1;
            if now >= START + SECOND {
                *bytes.entry(class.0).or_insert(0u64) += len;
            }
        }
        now = shaper.next_due().min(START + 2 * SECOND).max(now + 100_000);
    }
    leaves.iter().map(|&(node, _)| (node, *bytes.get(&node.0).unwrap_or(&0) as f64 * 8.0)).collect()
}

fn check(mut root: Fluid, seed: u64) {
    let measured = measure(&mut root, seed);
    let mut wanted = vec![];
    root.share(PORT as f64, &mut wanted);
    for ((node, measured), (_, wanted)) in measured.iter().zip(&wanted) {
        // 1 % of the port, as guarantees and shares have bursts.
        assert!(
            (measured - wanted).abs() < 0.01 * PORT as f64,
            "{node:?} has {measured}, and should have {wanted}: {root:#?}"
        );
    }
}

fn leaf(guaranteed: u64, most: u64, priority: u8, weight: u16, active: bool) -> Fluid {
    let guaranteed = if guaranteed > 0 { rate(guaranteed) } else { None };
    let max = if most > 0 { rate(most) } else { None };
    let rates = Rates { guaranteed, max, burst: 0 };
    Fluid { rates, priority, weight, children: vec![], active, node: ROOT }
}

fn inner(of: Fluid, children: Vec<Fluid>) -> Fluid {
    Fluid { children, ..of }
}

fn port(children: Vec<Fluid>) -> Fluid {
    inner(leaf(0, PORT, 0, 1, true), children)
}

#[test]
fn voice_goes_first_and_guests_are_capped() {
    check(
        port(vec![
            leaf(0, 5_000_000, 0, 1, true),
            leaf(0, 0, 1, 3, true),
            inner(
                leaf(0, 20_000_000, 1, 1, true),
                vec![leaf(0, 0, 0, 1, true), leaf(0, 2_000_000, 0, 1, true)],
            ),
        ]),
        1,
    );
}

#[test]
fn a_guarantee_holds_against_a_higher_priority() {
    check(port(vec![leaf(0, 0, 0, 1, true), leaf(30_000_000, 0, 7, 1, true), leaf(0, 0, 7, 1, true)]), 2);
}

#[test]
fn what_a_class_does_not_take_is_lent_within_its_parent_first() {
    check(
        port(vec![
            inner(
                leaf(60_000_000, 60_000_000, 0, 1, true),
                vec![
                    leaf(40_000_000, 0, 0, 1, false),
                    leaf(10_000_000, 0, 0, 1, true),
                    leaf(0, 15_000_000, 0, 1, true),
                ],
            ),
            leaf(20_000_000, 0, 0, 1, true),
        ]),
        3,
    );
}

#[test]
fn a_rate_just_above_its_share_costs_a_class_nothing_of_that() {
    let mut equals = vec![leaf(0, 11_000_000, 0, 1, true)];
    equals.extend((0..9).map(|_| leaf(0, 0, 0, 1, true)));
    check(port(equals), 4);
}

/// A class, down to this many levels, whose parent guarantees so much.
fn fluids(levels: u32, own: u64) -> BoxedStrategy<Fluid> {
    let one = (0..4u8, 1..5u16, any::<bool>(), 0..3u8, 1..20u64).prop_map(
        move |(priority, weight, active, bound, share)| {
            let guaranteed = if bound > 0 { own / 4 * share / 20 } else { 0 };
            let most = if bound > 1 { guaranteed + PORT / 40 * share } else { 0 };
            leaf(guaranteed, most, priority, weight, active)
        },
    );
    if levels == 0 {
        return one.boxed();
    }
    let children = prop::collection::vec(fluids(levels - 1, own / 8), 1..4);
    prop_oneof![one.clone(), (one, children).prop_map(|(of, children)| inner(of, children))].boxed()
}

proptest! {
    #![proptest_config(crate::table::cases(60))]

    #[test]
    fn trees_share_as_a_fluid_does(children in prop::collection::vec(fluids(2, PORT), 1..5), seed: u64) {
        check(port(children), seed);
    }
}
