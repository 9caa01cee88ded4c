//! Every look-up against the rules tried one by one, on every instruction set of this CPU.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// The reference.
fn first<A: Address>(rules: &[Rule<A>], tuple: &Tuple<A>) -> Option<u32> {
    rules.iter().find(|rule| rule.matches(tuple)).map(|rule| rule.result)
}

/// That `classifier` answers as `rules` do, one by one and in bursts.
fn check<A: Address>(classifier: &Classifier<A>, rules: &[Rule<A>], tuples: &[Tuple<A>]) {
    assert_eq!(classifier.len(), rules.len());
    let want: Vec<_> = tuples.iter().map(|tuple| first(rules, tuple)).collect();
    for level in Level::all() {
        let classifier = Classifier { level, ..classifier.clone() };
        let mut got = vec![Some(u32::MAX); tuples.len()];
        classifier.lookup_burst(tuples, &mut got);
        for ((want, got), tuple) in want.iter().zip(&got).zip(tuples) {
            assert_eq!(want, got, "{level:?} {tuple:?}");
        }
        if let Some(tuple) = tuples.first() {
            assert_eq!(classifier.lookup(tuple), want[0]);
        }
    }
}

/// Reproducible numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Sets of rules that are hard in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Prefixes that nest in some sites, services, a few of everything else.
    Plan,
    /// Every prefix around one address, so that all overlap.
    Nested,
    /// No addresses: ports, protocols and ICMP alone.
    Services,
    /// Rules that are no box, and rules that match nothing.
    Odd,
}

fn rule(random: &mut Random, shape: Shape, sites: u64, result: u32) -> Rule<u32> {
    let mut prefix = |ends: u64| {
        let site = random.below(sites) as u32 * 0x0101_0000 + 0x0a00_0000;
        let (base, length) = match shape {
            Shape::Services => (0, 0),
            Shape::Nested => (0x0a14_1e28 ^ random.below(4) as u32, random.below(33) as u32),
            _ => {
                let length = [0, 14, 16, 20, 22, 24, 27, 32, 32][random.below(ends) as usize];
                (site | (random.below(1 << 12) as u32 * 5), length)
            }
        };
        let mask = if length == 0 { 0 } else { u32::MAX << (32 - length) };
        (base, mask)
    };
    let (mut src, mut dst) = (prefix(9), prefix(9));
    let ports = |random: &mut Random| match random.below(8) {
        0..4 => PortRange::ANY,
        4 => PortRange { first: 1024, last: u16::MAX },
        5 => PortRange { first: 0, last: random.below(1 << 16) as u16 },
        _ => {
            let port = [22, 53, 80, 443, random.below(1 << 16) as u16][random.below(5) as usize];
            PortRange { first: port, last: port.saturating_add(random.below(3) as u16) }
        }
    };
    let (mut src_port, dst_port) = (ports(random), ports(random));
    let protocol = [None, Some(6), Some(6), Some(17), Some(1), Some(47)][random.below(6) as usize];
    let (mut icmp_type, mut icmp_code) = (None, None);
    if protocol == Some(1) && random.below(2) == 0 {
        icmp_type = Some(random.below(9) as u8);
        icmp_code = (random.below(2) == 0).then_some(random.below(3) as u8);
    }
    let mut established = (random.below(16) == 0).then_some(random.below(2) == 0);
    if shape == Shape::Odd {
        match random.below(8) {
            0 => src.1 = 0xff00_00ff,
            1 => dst.1 = random.next() as u32,
            2 => src_port = PortRange { first: 9, last: 8 },
            3 => (icmp_type, icmp_code) = (None, Some(random.below(3) as u8)),
            4 => (icmp_type, icmp_code) = (Some(8), None),
            5 => established = Some(random.below(2) == 0),
            _ => {}
        }
    }
    Rule { src, dst, protocol, src_port, dst_port, icmp_type, icmp_code, established, result }
}

/// A packet that a rule may match, at the edge of its ranges or within; or any packet.
fn tuple(random: &mut Random, rules: &[Rule<u32>]) -> Tuple<u32> {
    let any = Tuple {
        src: random.next() as u32,
        dst: random.next() as u32,
        protocol: random.below(256) as u8,
        src_port: random.next() as u16,
        dst_port: random.next() as u16,
        has_ports: random.below(4) != 0,
        icmp: (random.below(4) == 0).then_some((random.below(9) as u8, random.below(3) as u8)),
        established: random.below(8) == 0,
    };
    if rules.is_empty() || random.below(10) == 0 {
        return any;
    }
    let rule = rules[random.below(rules.len() as u64) as usize];
    let near = |random: &mut Random, (value, mask): (u32, u32), any: u32| match random.below(8) {
        0 => value & mask,
        1 => value | !mask,
        2 => (value & mask).wrapping_sub(1),
        3 => (value | !mask).wrapping_add(1),
        _ => value & mask | any & !mask,
    };
    let port = |random: &mut Random, range: PortRange| match random.below(6) {
        0 => range.first,
        1 => range.last,
        2 => range.last.wrapping_add(1),
        _ => {
            (u32::from(range.first)
                + random.below(u64::from(range.last.wrapping_sub(range.first)) + 1) as u32) as u16
        }
    };
    let protocol = rule.protocol.unwrap_or(if random.below(2) == 0 { 6 } else { any.protocol });
    let icmp = (protocol == 1 || random.below(16) == 0).then(|| {
        let (kind, code) = (random.below(9) as u8, random.below(3) as u8);
        (rule.icmp_type.unwrap_or(kind), rule.icmp_code.unwrap_or(code))
    });
    Tuple {
        src: near(random, rule.src, any.src),
        dst: near(random, rule.dst, any.dst),
        protocol,
        src_port: port(random, rule.src_port),
        dst_port: port(random, rule.dst_port),
        has_ports: icmp.is_none() && random.below(8) != 0,
        icmp,
        established: rule.established.unwrap_or(any.established),
    }
}

fn set(random: &mut Random, shape: Shape, size: u32) -> Vec<Rule<u32>> {
    let sites = 1 + u64::from(size) / 200;
    (0..size).map(|result| rule(random, shape, sites, result)).collect()
}

/// IPv4 spread over the bits of IPv6: in the upper half, in the lower, or across both.
fn widen(address: u32, how: u32) -> u128 {
    let prefix = 0x2001_0db8_u128 << 96;
    match how {
        0 => prefix | u128::from(address) << 64,
        1 => prefix | u128::from(address),
        _ => prefix | u128::from(address) << 48,
    }
}

fn widen_rule(rule: &Rule<u32>, how: u32) -> Rule<u128> {
    let prefix = |(value, mask): (u32, u32)| {
        // The bits around an address are asked for with its first bit, and those behind with its last.
        let fixed = if mask == 0 { 0 } else { !widen(u32::MAX, how) | 0x2001_0db8 << 96 };
        let behind = match how {
            0 => u128::from(u64::MAX),
            1 => 0,
            _ => (1 << 48) - 1,
        };
        let fixed = if mask & 1 == 1 { fixed } else { fixed & !behind };
        (widen(value, how), if mask == 0 { 0 } else { fixed | widen(mask, how) })
    };
    Rule {
        src: prefix(rule.src),
        dst: prefix(rule.dst),
        protocol: rule.protocol,
        src_port: rule.src_port,
        dst_port: rule.dst_port,
        icmp_type: rule.icmp_type,
        icmp_code: rule.icmp_code,
        established: rule.established,
        result: rule.result,
    }
}

fn widen_tuple(tuple: &Tuple<u32>, how: u32) -> Tuple<u128> {
    Tuple {
        src: widen(tuple.src, how),
        dst: widen(tuple.dst, how),
        protocol: tuple.protocol,
        src_port: tuple.src_port,
        dst_port: tuple.dst_port,
        has_ports: tuple.has_ports,
        icmp: tuple.icmp,
        established: tuple.established,
    }
}

const SHAPES: [Shape; 4] = [Shape::Plan, Shape::Nested, Shape::Services, Shape::Odd];

#[test]
fn answers_are_those_of_the_list_at_every_size() {
    for shape in SHAPES {
        for size in [0, 1, 2, 7, 8, 9, 50, 200, 1_000, 3_000] {
            let mut random = Random(u64::from(size));
            let rules = set(&mut random, shape, size);
            let tuples: Vec<_> = (0..700).map(|_| tuple(&mut random, &rules)).collect();
            check(&Classifier::new(rules.clone()), &rules, &tuples);
            if shape != Shape::Odd {
                let how = size % 3;
                let rules: Vec<_> = rules.iter().map(|rule| widen_rule(rule, how)).collect();
                let tuples: Vec<_> = tuples.iter().map(|tuple| widen_tuple(tuple, how)).collect();
                check(&Classifier::new(rules.clone()), &rules, &tuples);
            }
        }
    }
}

#[test]
fn more_rules_than_are_built_together() {
    let mut random = Random(7);
    let rules = set(&mut random, Shape::Plan, 20_000);
    let tuples: Vec<_> = (0..500).map(|_| tuple(&mut random, &rules)).collect();
    let mut classifier = Classifier::new(rules.clone());
    check(&classifier, &rules, &tuples);
    // The first chunk splits in two.
    let mut rules = rules;
    rules.insert(5, rules[9]);
    assert!(classifier.insert(5, rules[5]));
    check(&classifier, &rules, &tuples);
}

#[test]
fn hard_sets_take_bounded_time_and_memory() {
    for shape in SHAPES {
        let rules = set(&mut Random(3), shape, 10_000);
        let begin = Instant::now();
        let classifier = Classifier::new(rules);
        // The tests' own build is slow, and so may the machine be: it is about a bound, not about speed.
        assert!(begin.elapsed().as_secs() < 60, "{shape:?}");
        assert!(classifier.memory() < 32 << 20, "{shape:?}: {} bytes", classifier.memory());
    }
}

#[test]
fn changes_show_and_leave_copies_alone() {
    let mut random = Random(11);
    let mut rules = set(&mut random, Shape::Plan, 40);
    let mut classifier = Classifier::new(rules.clone());
    for step in 0..60 {
        let tuples: Vec<_> = (0..130).map(|_| tuple(&mut random, &rules)).collect();
        let (copy, before) = (classifier.clone(), rules.clone());
        let new = rule(&mut random, Shape::Plan, 2, 1_000 + step);
        let place = random.below(rules.len() as u64 + 1) as usize;
        match random.below(3) {
            0 => {
                assert!(classifier.insert(place, new));
                rules.insert(place, new);
            }
            1 if place < rules.len() => assert_eq!(classifier.remove(place), Some(rules.remove(place))),
            _ => {
                let old = rules.get_mut(place).map(|old| core::mem::replace(old, new));
                assert_eq!(classifier.replace(place, new), old);
            }
        }
        check(&classifier, &rules, &tuples);
        check(&copy, &before, &tuples);
    }
    assert!(!classifier.insert(rules.len() + 1, rules[0]));
    assert_eq!(classifier.remove(rules.len()), None);
    while !rules.is_empty() {
        assert_eq!(classifier.remove(0), Some(rules.remove(0)));
    }
    assert!(classifier.is_empty());
    assert!(classifier.insert(0, Rule { result: 5, ..rule(&mut random, Shape::Services, 1, 5) }));
    assert_eq!(classifier.len(), 1);
}

proptest! {
    #![proptest_config(crate::table::cases(300))]

    #[test]
    fn answers_are_those_of_the_list(seed in any::<u64>(), size in 0..60u32, shape in 0..SHAPES.len(), how in 0..3u32) {
        let mut random = Random(seed);
        let rules = set(&mut random, SHAPES[shape], size);
        let tuples: Vec<_> = (0..140).map(|_| tuple(&mut random, &rules)).collect();
        check(&Classifier::new(rules.clone()), &rules, &tuples);
        let rules: Vec<_> = rules.iter().map(|rule| widen_rule(rule, how)).collect();
        let tuples: Vec<_> = tuples.iter().map(|tuple| widen_tuple(tuple, how)).collect();
        check(&Classifier::new(rules.clone()), &rules, &tuples);
    }
}
