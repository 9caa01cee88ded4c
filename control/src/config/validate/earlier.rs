//! Finds the few earlier rules that a rule is worth comparing with: those whose prefixes may hold its own.

use std::collections::{BTreeSet, HashMap};

use crate::config::model::{Match, Prefix};

/// Rules by their sources and destinations.
#[derive(Default)]
pub(super) struct Earlier {
    sources: Side,
    destinations: Side,
}

#[derive(Default)]
struct Side {
    /// Rules that do not ask.
    any: Vec<usize>,
    by_prefix: HashMap<Prefix, Vec<usize>>,
    /// Lengths that there are, with whether they are of IPv4.
    lengths: BTreeSet<(bool, u8)>,
}

impl Earlier {
    /// Adds a rule; the numbers rise.
    pub(super) fn add(&mut self, rule: usize, matches: &Match) {
        self.sources.add(rule, &matches.from);
        self.destinations.add(rule, &matches.to);
    }

    /// All rules that may cover this one, in ascending order; mostly few others.
    pub(super) fn candidates(&self, matches: &Match) -> Vec<usize> {
        let lists = [self.sources.candidates(&matches.from), self.destinations.candidates(&matches.to)];
        let fewest = lists.into_iter().min_by_key(|lists| lists.iter().map(|list| list.len()).sum::<usize>());
        let mut rules: Vec<usize> = fewest.into_iter().flatten().flatten().copied().collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

impl Side {
    fn add(&mut self, rule: usize, prefixes: &[Prefix]) {
        if prefixes.is_empty() {
            self.any.push(rule);
        }
        for &prefix in prefixes {
            self.lengths.insert((prefix.is_ipv4(), prefix.length));
            self.by_prefix.entry(prefix.network()).or_default().push(rule);
        }
    }

    /// What covers all of some prefixes covers the first of them.
    fn candidates(&self, prefixes: &[Prefix]) -> Vec<&[usize]> {
        let first = prefixes.first();
        let lengths = first
            .map(|first| (first, self.lengths.range((first.is_ipv4(), 0)..=(first.is_ipv4(), first.length))));
        let wider = lengths.into_iter().flat_map(|(first, lengths)| {
            lengths.filter_map(|&(_, length)| self.by_prefix.get(&Prefix { length, ..*first }.network()))
        });
        std::iter::once(&self.any).chain(wider).map(Vec::as_slice).collect()
    }
}
