//! First match over rules on the 5-tuple, tried in order.
//!
//! A look-up does not try them: it turns both addresses, and protocol with ICMP type and code, into ranks among the places
//! where rules begin and end (`ranks`, `boxes`), and then compares the few rules that can still match, eight at a time, in
//! one to four layers (`layer`), which `plan` chooses and `rows` builds. Rules that are no box in these dimensions, as those
//! with masks of several runs, are tried one by one, as far as they come ahead of what was found.
//!
//! `A` is the address as a number: `u32` for IPv4, `u128` for IPv6.

use core::ops::{BitAnd, BitOr, Not};
use std::sync::Arc;

mod boxes;
mod index;
mod layer;
mod plan;
mod ranks;
mod rows;
mod simd;

use index::Index;
use layer::NONE;
use ranks::{Halves, Ranks, Tree};
use simd::Level;

/// How many packets are looked up together.
pub const BURST: usize = 64;
/// Rules that are built together, at most: their ranks fit 16 bits, and a change takes a bounded time.
const CHUNK: usize = 16_384;

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port; below `first`, the range is empty.
    pub last: u16,
}

impl PortRange {
    /// Every port: no restriction, so that packets without ports match too.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// Whether `port` lies within.
    #[inline]
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// One rule. Every field must match; `None`, [`PortRange::ANY`] and a mask of 0 match anything. A rule with
/// lists of prefixes or ranges is several of these with one `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule<A> {
    /// Source address: value and mask.
    pub src: (A, A),
    /// Destination address: value and mask.
    pub dst: (A, A),
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Source port. Other than [`PortRange::ANY`], it matches no packet without ports.
    pub src_port: PortRange,
    /// Destination port, likewise.
    pub dst_port: PortRange,
    /// ICMP type. Where given, it matches no packet without one.
    pub icmp_type: Option<u8>,
    /// ICMP code, likewise.
    pub icmp_code: Option<u8>,
    /// Whether the packet belongs to a live session.
    pub established: Option<bool>,
    /// What [`Classifier::lookup`] answers.
    pub result: u32,
}

/// What is known of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port; meaningful with `has_ports`.
    pub src_port: u16,
    /// Destination port; meaningful with `has_ports`.
    pub dst_port: u16,
    /// Whether the packet carries ports: false for ICMP and for fragments but the first.
    pub has_ports: bool,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
    /// Whether the packet belongs to a live session.
    pub established: bool,
}

/// An address as a number.
pub trait Address:
    Copy + Ord + core::fmt::Debug + BitAnd<Output = Self> + BitOr<Output = Self> + Not<Output = Self>
{
    /// The lowest address.
    const ZERO: Self;
    /// The highest address, which is also the mask that asks for every bit.
    const ALL: Self;
    /// What turns it into a rank.
    type Ranks: Ranks<Self>;
    /// The next lower address.
    fn before(self) -> Option<Self>;
    /// Whether it is a mask of ones followed by zeros.
    fn is_prefix(self) -> bool;
}

impl Address for u32 {
    const ZERO: Self = 0;
    const ALL: Self = Self::MAX;
    type Ranks = Tree<Self>;

    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }

    fn is_prefix(self) -> bool {
        self.leading_ones() == self.count_ones()
    }
}

impl Address for u128 {
    const ZERO: Self = 0;
    const ALL: Self = Self::MAX;
    type Ranks = Halves;

    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }

    fn is_prefix(self) -> bool {
        self.leading_ones() == self.count_ones()
    }
}

impl<A: Address> Rule<A> {
    /// Whether the rule matches.
    #[inline]
    #[must_use]
    pub fn matches(&self, tuple: &Tuple<A>) -> bool {
        let ports =
            |range: PortRange, port| range == PortRange::ANY || (tuple.has_ports && range.contains(port));
        tuple.src & self.src.1 == self.src.0 & self.src.1
            && tuple.dst & self.dst.1 == self.dst.0 & self.dst.1
            && self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
            && ports(self.src_port, tuple.src_port)
            && ports(self.dst_port, tuple.dst_port)
            && self.icmp_type.is_none_or(|kind| tuple.icmp.is_some_and(|icmp| icmp.0 == kind))
            && self.icmp_code.is_none_or(|code| tuple.icmp.is_some_and(|icmp| icmp.1 == code))
            && self.established.is_none_or(|established| established == tuple.established)
    }
}

/// An ordered list of rules. Cloning shares what is built, so that a changed copy costs what the change does.
#[derive(Clone, Debug)]
pub struct Classifier<A: Address> {
    chunks: Vec<Arc<Chunk<A>>>,
    level: Level,
}

/// Rules that follow each other, and what is built of them.
#[derive(Clone, Debug)]
struct Chunk<A: Address> {
    rules: Vec<Rule<A>>,
    /// The rules' results, which take fewer lines.
    results: Vec<u32>,
    /// For packets that are not established and, where the rules tell them apart, for those that are.
    indices: Vec<Index<A>>,
}

impl<A: Address> Chunk<A> {
    fn new(rules: Vec<Rule<A>>) -> Self {
        let told_apart = rules.iter().any(|rule| rule.established.is_some());
        let indices = [false, true].into_iter().take(1 + usize::from(told_apart));
        let indices = indices.map(|established| Index::new(&rules, established)).collect();
        let results = rules.iter().map(|rule| rule.result).collect();
        Self { rules, results, indices }
    }

    /// The number of the first rule that matches each of `tuples`.
    fn look_up(&self, level: Level, tuples: &[Tuple<A>], best: &mut [u16; BURST]) {
        let [fresh, established @ ..] = self.indices.as_slice() else { return };
        fresh.look_up(level, &self.rules, tuples, best);
        if let [established] = established {
            if tuples.iter().any(|tuple| tuple.established) {
                let mut others = [NONE; BURST];
                established.look_up(level, &self.rules, tuples, &mut others);
                for ((best, other), tuple) in best.iter_mut().zip(others).zip(tuples) {
                    *best = if tuple.established { other } else { *best };
                }
            }
        }
    }
}

impl<A: Address> Classifier<A> {
    /// A classifier that tries `rules` from the first to the last.
    #[must_use]
    pub fn new(rules: Vec<Rule<A>>) -> Self {
        let chunks = rules.chunks(CHUNK).map(|rules| Arc::new(Chunk::new(rules.to_vec()))).collect();
        Self { chunks, level: Level::detect() }
    }

    /// Whether there are rules that ask for [`Tuple::established`]: if not, it need not be known.
    #[must_use]
    pub fn tells_established(&self) -> bool {
        self.chunks.iter().any(|chunk| chunk.indices.len() > 1)
    }

    /// The result of the first rule that matches.
    #[inline]
    #[must_use]
    pub fn lookup(&self, tuple: &Tuple<A>) -> Option<u32> {
        let mut result = [None];
        self.lookup_burst(core::slice::from_ref(tuple), &mut result);
        result[0]
    }

    /// The result of the first rule that matches each of `tuples`, into as many `results`. Fastest for [`BURST`] at once.
    pub fn lookup_burst(&self, tuples: &[Tuple<A>], results: &mut [Option<u32>]) {
        for (tuples, results) in tuples.chunks(BURST).zip(results.chunks_mut(BURST)) {
            results.fill(None);
            let mut best = [NONE; BURST];
            for chunk in &self.chunks {
                chunk.look_up(self.level, tuples, &mut best);
                for (result, best) in results.iter_mut().zip(&best) {
                    *result = result.or_else(|| chunk.results.get(usize::from(*best)).copied());
                }
            }
        }
    }

    /// Puts `rule` ahead of the one at `position`, or behind all. Takes about 5 µs for each rule of those built together,
    /// at most 16,384. False if there are fewer rules than `position`.
    pub fn insert(&mut self, position: usize, rule: Rule<A>) -> bool {
        if position > self.len() {
            return false;
        }
        match self.find(position.saturating_sub(1)) {
            None => self.chunks.push(Arc::new(Chunk::new(vec![rule]))),
            Some((number, offset)) => {
                let offset = if position == 0 { 0 } else { offset + 1 };
                self.change(number, |rules| rules.insert(offset, rule));
            }
        }
        true
    }

    /// Takes the rule at `position` away. As fast as [`insert`](Self::insert).
    pub fn remove(&mut self, position: usize) -> Option<Rule<A>> {
        let (number, offset) = self.find(position)?;
        self.change(number, |rules| rules.remove(offset))
    }

    /// Puts `rule` in the place of the one at `position`, which is returned. As fast as [`insert`](Self::insert).
    pub fn replace(&mut self, position: usize, rule: Rule<A>) -> Option<Rule<A>> {
        let (number, offset) = self.find(position)?;
        self.change(number, |rules| rules.get_mut(offset).map(|old| core::mem::replace(old, rule)))?
    }

    /// The chunk of the rule at `position`, and its place there.
    fn find(&self, position: usize) -> Option<(usize, usize)> {
        let mut first = 0;
        for (number, chunk) in self.chunks.iter().enumerate() {
            if position - first < chunk.rules.len() {
                return Some((number, position - first));
            }
            first += chunk.rules.len();
        }
        None
    }

    /// Changes a chunk's rules and builds it anew: in two, if it has become too large.
    fn change<T>(&mut self, number: usize, change: impl FnOnce(&mut Vec<Rule<A>>) -> T) -> Option<T> {
        let mut rules = self.chunks.get(number)?.rules.clone();
        let changed = change(&mut rules);
        let size = if rules.len() > CHUNK { rules.len().div_ceil(2) } else { CHUNK };
        self.chunks
            .splice(number..=number, rules.chunks(size).map(|rules| Arc::new(Chunk::new(rules.to_vec()))));
        Some(changed)
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.rules.len()).sum()
    }

    /// Whether there is no rule, and so never an answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that look-ups use, in bytes, beside the rules themselves.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.chunks.iter().flat_map(|chunk| &chunk.indices).map(Index::memory).sum()
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
