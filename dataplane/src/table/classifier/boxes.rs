//! Rules as boxes: a range of ranks in each of five dimensions.

use super::{Address, PortRange, Rule};

/// The dimensions of a box. Ports are their own ranks.
pub(super) const SOURCE_PORT: usize = 0;
pub(super) const DESTINATION_PORT: usize = 1;
pub(super) const KIND: usize = 2;
pub(super) const SOURCE: usize = 3;
pub(super) const DESTINATION: usize = 4;
pub(super) const DIMENSIONS: usize = 5;

/// Both ends included.
pub(super) type Range = (u16, u16);

/// A rule in ranks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cuboid {
    pub(super) ranges: [Range; DIMENSIONS],
    /// The rule's number in its chunk.
    pub(super) rule: u16,
}

/// The rules of a chunk that may match packets of which it is known whether they are `established`.
#[derive(Clone, Debug)]
pub(super) struct Boxes<A> {
    /// In the order of the rules.
    pub(super) boxes: Vec<Cuboid>,
    /// The greatest rank in each dimension.
    pub(super) last: [u16; DIMENSIONS],
    /// Rules that are no box, by their numbers.
    pub(super) odd: Vec<u16>,
    pub(super) kinds: Kinds,
    /// What source addresses are ranked by: the last address ahead of each step.
    pub(super) source_keys: Vec<A>,
    pub(super) destination_keys: Vec<A>,
}

impl<A: Address> Boxes<A> {
    /// Of so many rules as a chunk holds.
    pub(super) fn new(rules: &[Rule<A>], established: bool) -> Self {
        let mut whole = Vec::new();
        let mut odd = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            let impossible = [rule.src_port, rule.dst_port].iter().any(|range| range.first > range.last)
                || rule.established.is_some_and(|wanted| wanted != established);
            if impossible {
                continue;
            }
            match (range(rule.src), range(rule.dst), codes(rule)) {
                (Some(source), Some(destination), Some(codes)) => {
                    whole.push((number, source, destination, codes));
                    let any = |(low, high)| low == A::ZERO && high == A::ALL;
                    let ports = [rule.src_port, rule.dst_port] == [PortRange::ANY; 2];
                    if any(source) && any(destination) && ports && codes == (0, CODES - 1) {
                        // No packet comes further.
                        break;
                    }
                }
                _ => odd.push(number as u16),
            }
        }
        let kinds =
            Kinds::new(steps(whole.iter().map(|rule| rule.3), 0, CODES - 1, |code| code.checked_sub(1)));
        let source_keys = steps(whole.iter().map(|rule| rule.1), A::ZERO, A::ALL, A::before);
        let destination_keys = steps(whole.iter().map(|rule| rule.2), A::ZERO, A::ALL, A::before);
        let boxes = whole.iter().filter_map(|&(number, source, destination, codes)| {
            let rule = rules.get(number)?;
            let ranges = [
                (rule.src_port.first, rule.src_port.last),
                (rule.dst_port.first, rule.dst_port.last),
                (kinds.rank(codes.0), kinds.rank(codes.1)),
                (rank(&source_keys, source.0), rank(&source_keys, source.1)),
                (rank(&destination_keys, destination.0), rank(&destination_keys, destination.1)),
            ];
            Some(Cuboid { ranges, rule: number as u16 })
        });
        let boxes = boxes.collect();
        let last = [
            u16::MAX,
            u16::MAX,
            kinds.keys.len() as u16,
            source_keys.len() as u16,
            destination_keys.len() as u16,
        ];
        Self { boxes, last, odd, kinds, source_keys, destination_keys }
    }

    /// Whether a box takes the whole of a dimension.
    pub(super) fn is_whole(&self, cuboid: &Cuboid, dimension: usize) -> bool {
        cuboid.ranges[dimension] == (0, self.last[dimension])
    }
}

/// The addresses that a value and a mask allow, if they are one range.
fn range<A: Address>((value, mask): (A, A)) -> Option<(A, A)> {
    let low = value & mask;
    mask.is_prefix().then(|| (low, low | !mask))
}

/// Where ranges begin and end, as the last number ahead of each such step; sorted, each once.
fn steps<K: Copy + Ord>(
    ranges: impl Iterator<Item = (K, K)>,
    first: K,
    last: K,
    before: impl Fn(K) -> Option<K>,
) -> Vec<K> {
    let mut keys = Vec::new();
    for (low, high) in ranges {
        if low != first {
            keys.extend(before(low));
        }
        if high != last {
            keys.push(high);
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// How many keys are below.
fn rank<K: Ord>(keys: &[K], x: K) -> u16 {
    keys.partition_point(|key| *key < x) as u16
}

/// Protocol, ICMP type and code as one number, in an order that makes what a rule asks a range.
fn code(protocol: u8, icmp: Option<(u8, u8)>) -> u32 {
    let icmp = icmp.map_or(0, |(kind, code)| 1 << 16 | u32::from(kind) << 8 | u32::from(code));
    u32::from(protocol) << 17 | icmp
}

/// One past the last code.
const CODES: u32 = 1 << 25;

/// The codes that a rule allows, if they are one range.
fn codes<A>(rule: &Rule<A>) -> Option<(u32, u32)> {
    match (rule.protocol, rule.icmp_type, rule.icmp_code) {
        (None, None, None) => Some((0, CODES - 1)),
        (Some(protocol), None, None) => {
            Some((code(protocol, None), code(protocol, Some((u8::MAX, u8::MAX)))))
        }
        (Some(protocol), Some(kind), None) => {
            Some((code(protocol, Some((kind, 0))), code(protocol, Some((kind, u8::MAX)))))
        }
        (Some(protocol), Some(kind), Some(wanted)) => {
            let code = code(protocol, Some((kind, wanted)));
            Some((code, code))
        }
        _ => None,
    }
}

/// Ranks of codes.
#[derive(Clone, Debug)]
pub(super) struct Kinds {
    /// The rank of what is no ICMP, by protocol.
    plain: [u16; 256],
    keys: Vec<u32>,
}

impl Kinds {
    fn new(keys: Vec<u32>) -> Self {
        let plain = core::array::from_fn(|protocol| rank(&keys, code(protocol as u8, None)));
        Self { plain, keys }
    }

    fn rank(&self, code: u32) -> u16 {
        rank(&self.keys, code)
    }

    /// The rank of a packet.
    #[inline(always)]
    pub(super) fn of(&self, protocol: u8, icmp: Option<(u8, u8)>) -> u16 {
        if icmp.is_some() { self.rank(code(protocol, icmp)) } else { self.plain[usize::from(protocol)] }
    }
}
