//! The flow table.

use std::collections::HashMap;
use std::hint::black_box;

use clap::{Args, ValueEnum};
use sluice_dataplane::table::hash::HashTable;
use sluice_dataplane::table::key::Key;

use super::measure::{Case, Row, WINDOW, cycles, in_turn, judge, plainly, timed};
use super::random::{Random, Zipf};
use super::{Common, TableError};

/// An IPv4 5-tuple in 16 bytes.
type FlowKey = [u64; 2];

/// The most look-ups of one way through the data.
const LOOKUPS: usize = 1 << 22;
/// The largest burst that is prefetched at once.
const BATCH: usize = 64;
/// Windows of a round in which entries are deleted and inserted again.
const CHANGES: usize = 48;

/// Options of `flow`.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Entries in the table
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1000,65536,1048576,8388608")]
    pub entries: Vec<u32>,
    /// Entries that the table has room for; twice those that it holds unless given
    #[arg(long, value_name = "N")]
    pub capacity: Option<u32>,
    /// Which entries are asked for; each pattern unless given
    #[arg(long, value_name = "PATTERN")]
    pub pattern: Vec<Pattern>,
    /// Percent of the look-ups that find an entry; 100 and 0 unless given
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub hit: Vec<u8>,
    #[command(flatten)]
    pub common: Common,
}

/// Which entries are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// All alike
    Uniform,
    /// By Zipf's law: few of them most of the time
    Zipf,
}

/// The table as this benchmark uses it: all that depends on how it is asked is here.
struct Flows(HashTable<FlowKey, u64>);

impl Flows {
    fn fill(keys: &[FlowKey], capacity: u32, seed: u64) -> Result<Self, TableError> {
        let mut table = HashTable::with_capacity(capacity, seed);
        for (key, value) in keys.iter().zip(1..) {
            let hash = table.hash(key);
            table.insert_hashed(*key, hash, value).map_err(|full| TableError::Refused(full.to_string()))?;
        }
        Ok(Self(table))
    }

    /// The value of each key, 0 for none.
    #[inline(always)]
    fn find(&self, keys: &[FlowKey], results: &mut [u64]) {
        let (mut hashes, mut candidates) = ([0; BATCH], [0; BATCH]);
        for (keys, results) in keys.chunks(BATCH).zip(results.chunks_mut(BATCH)) {
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = self.0.hash(key);
                self.0.prefetch_bucket(*hash);
            }
            for (candidate, &hash) in candidates.iter_mut().zip(&hashes).take(keys.len()) {
                *candidate = self.0.candidate(hash);
            }
            for (((result, key), &hash), &candidate) in
                results.iter_mut().zip(keys).zip(&hashes).zip(&candidates)
            {
                *result = self.0.confirm(candidate, key, hash).map_or(0, |(_, value)| *value);
            }
        }
    }

    /// Removes keys, and says how many were there.
    fn remove(&mut self, keys: &[FlowKey]) -> usize {
        let (mut hashes, mut candidates, mut removed) = ([0; BATCH], [0; BATCH], 0);
        for keys in keys.chunks(BATCH) {
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = self.0.hash(key);
                self.0.prefetch_bucket(*hash);
            }
            for (candidate, &hash) in candidates.iter_mut().zip(&hashes).take(keys.len()) {
                *candidate = self.0.candidate(hash);
            }
            for ((key, &hash), &candidate) in keys.iter().zip(&hashes).zip(&candidates) {
                let found = self.0.confirm(candidate, key, hash).map(|(index, _)| index);
                removed += usize::from(found.and_then(|index| self.0.remove(index)).is_some());
            }
        }
        removed
    }

    /// Inserts keys that are not there yet, which it makes sure of; the value is `value` of the place in `keys`. Says how
    /// many there were.
    fn insert(&mut self, keys: &[FlowKey], value: impl Fn(usize) -> u64) -> usize {
        let (mut hashes, mut candidates, mut inserted) = ([0; BATCH], [0; BATCH], 0);
        for (batch, keys) in keys.chunks(BATCH).enumerate() {
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = self.0.hash(key);
                self.0.prefetch_bucket(*hash);
            }
            for (candidate, &hash) in candidates.iter_mut().zip(&hashes).take(keys.len()) {
                *candidate = self.0.candidate(hash);
            }
            for (at, ((key, &hash), &candidate)) in keys.iter().zip(&hashes).zip(&candidates).enumerate() {
                if self.0.confirm(candidate, key, hash).is_none() {
                    let value = value(batch * BATCH + at);
                    inserted += usize::from(self.0.insert_hashed(*key, hash, value).is_ok());
                }
            }
        }
        inserted
    }

    fn bytes(&self) -> u64 {
        self.0.bytes() as u64
    }
}

pub(super) fn measure(options: &Options) -> Result<Vec<Row>, TableError> {
    let mut rows = Vec::new();
    for &entries in &options.entries {
        if entries == 0 {
            return Err(TableError::Nothing("entries"));
        }
        rows.append(&mut size(options, entries)?);
    }
    Ok(rows)
}

/// One table at a time, as large ones do not fit beside each other everywhere.
fn size(options: &Options, entries: u32) -> Result<Vec<Row>, TableError> {
    let common = &options.common;
    let mut random = Random(common.seed);
    let keys: Vec<_> = (0..entries).map(|_| key(&mut random)).collect();
    let capacity = options.capacity.unwrap_or(entries.saturating_mul(2));
    let (build_ms, table) = timed(|| Flows::fill(&keys, capacity, common.seed));
    let table = table?;
    let order = random.permutation(entries);
    let index: Option<HashMap<_, _>> = common.check.then(|| keys.iter().copied().zip(1u64..).collect());

    let patterns =
        if options.pattern.is_empty() { &[Pattern::Uniform, Pattern::Zipf][..] } else { &options.pattern };
    let hits = if options.hit.is_empty() { &[100, 0][..] } else { &options.hit };
    let mut cases = Vec::new();
    for &hit in hits {
        for &pattern in patterns {
            // A miss is a key of its own, whatever the pattern.
            if hit == 0 && pattern != patterns[0] {
                continue;
            }
            let asked = asked(pattern, hit, &keys, &order, &mut random);
            let mut row = Row {
                table: "flow",
                case: format!("{} hit {hit} %", if pattern == Pattern::Zipf { "zipf" } else { "uniform" }),
                entries: entries.into(),
                burst: common.burst,
                build_ms,
                bytes: table.bytes(),
                ..Row::default()
            };
            let mut found = vec![0; asked.len()];
            table.find(&asked, &mut found);
            let wanted = plainly(common.check, asked.len(), |number| {
                index.as_ref().and_then(|index| index.get(&asked[number])).copied().unwrap_or(0)
            });
            judge(&mut row, &found, wanted.as_deref())?;
            let (table, burst) = (&table, usize::from(common.burst));
            let mut results = vec![0; burst];
            let run = move |start: usize, end: usize| {
                for keys in asked[start..end].chunks(burst) {
                    table.find(keys, &mut results);
                    black_box(&mut results);
                }
            };
            cases.push(Case { row, repeat: 1, run: Box::new(run) });
        }
    }
    let mut rows = in_turn(common.rounds, cases);
    rows.extend(change(common, &keys, &order, table, build_ms)?);
    Ok(rows)
}

/// Entries in random order, deleted and inserted again, a few thousand at a time.
fn change(
    common: &Common,
    keys: &[FlowKey],
    order: &[u32],
    mut table: Flows,
    build_ms: f64,
) -> Result<[Row; 2], TableError> {
    let chunk = (keys.len() / 2).clamp(1, WINDOW);
    let shuffled: Vec<_> = order.iter().map(|&place| keys[place as usize]).collect();
    let mut samples = [vec![], vec![]];
    let mut done = [0; 2];
    let mut starts = (0..keys.len()).step_by(chunk).cycle();
    for window in 0..=usize::from(common.rounds) * CHANGES {
        let start = starts.next().unwrap_or(0);
        let chosen = &shuffled[start..keys.len().min(start + chunk)];
        let delete = cycles(chosen.len(), || done[0] += table.remove(chosen));
        let value = |at: usize| u64::from(order[start + at]) + 1;
        let insert = cycles(chosen.len(), || done[1] += table.insert(chosen, value));
        // The first one is for the caches.
        if window > 0 {
            samples[0].push(delete);
            samples[1].push(insert);
        }
    }
    let mut found = vec![0; keys.len()];
    table.find(keys, &mut found);
    let row = |case: &str, operations: usize| -> Result<Row, TableError> {
        let mut row = Row {
            table: "flow",
            case: case.into(),
            entries: keys.len() as u64,
            burst: BATCH as u16,
            build_ms,
            bytes: table.bytes(),
            ..Row::default()
        };
        let wanted = plainly(true, keys.len(), |number| number as u64 + 1);
        judge(&mut row, &found, wanted.as_deref())?;
        (row.operations, row.hits) = (operations as u64, operations as u64);
        Ok(row)
    };
    let [delete, insert] = &mut samples;
    Ok([row("delete", done[0])?.of(delete), row("insert", done[1])?.of(insert)])
}

/// A random 5-tuple, TCP or UDP.
fn key(random: &mut Random) -> FlowKey {
    let (addresses, rest) = (random.next(), random.next());
    let protocol = if rest >> 32 & 1 == 1 { 6 } else { 17 };
    [addresses, rest & 0xffff_ffff | protocol << 32]
}

fn asked(pattern: Pattern, hit: u8, keys: &[FlowKey], order: &[u32], random: &mut Random) -> Vec<FlowKey> {
    let count = if keys.len() <= 65_536 { LOOKUPS / 4 } else { LOOKUPS };
    let zipf = (pattern == Pattern::Zipf && hit > 0).then(|| Zipf::new(keys.len() as u32));
    let mut misses = Random(!random.next());
    (0..count)
        .map(|_| match &zipf {
            _ if random.below(100) >= hit.into() => key(&mut misses),
            // Ranks are scattered over the table.
            Some(zipf) => keys[order[zipf.next(random)] as usize],
            None => *random.one_of(keys),
        })
        .collect()
}

/// The key's hash is the table's own; the trait is named so that a change of it is noticed here.
const _: fn(&FlowKey, u64) -> u64 = <FlowKey as Key>::hash;
