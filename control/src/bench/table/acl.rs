//! The classifier.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use clap::Args;
use sluice_dataplane::table::classifier::{BURST, Classifier, Rule, Tuple};

use super::data;
use super::measure::{Case, Row, in_turn, judge, plainly, timed};
use super::{Common, TableError};

/// Sizes of the rule sets that are made up.
const SIZES: [u32; 3] = [50, 1000, 10_000];
/// Headers that are made up for each.
const HEADERS: u32 = 1_000_000;

/// Options of `acl`.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Rules; sets of 50, 1000 and 10,000 are made up unless given
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// Headers, 16 bytes each; a million are made up from the rules unless given
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

/// The classifier as this benchmark uses it: all that depends on how it is asked is here.
fn classify(classifier: &Classifier<u32>, tuples: &[Tuple<u32>], results: &mut [u32]) {
    let mut found = [None; BURST];
    for (tuples, results) in tuples.chunks(BURST).zip(results.chunks_mut(BURST)) {
        classifier.lookup_burst(tuples, &mut found[..tuples.len()]);
        for (result, rule) in results.iter_mut().zip(found) {
            *result = rule.map_or(0, |rule| rule + 1);
        }
    }
}

/// Memory of a classifier, its rules included.
fn bytes(classifier: &Classifier<u32>) -> u64 {
    (classifier.memory() + classifier.len() * size_of::<Rule<u32>>()) as u64
}

pub(super) fn measure(options: &Options) -> Result<Vec<Row>, TableError> {
    let common = &options.common;
    let sets = match &options.rules {
        Some(path) => vec![data::read_rules(path)?],
        None => SIZES.map(|size| data::rules(size, seed(common.seed, size))).to_vec(),
    };
    let mut sized = Vec::new();
    for rules in sets {
        let headers = match &options.trace {
            Some(path) => data::read_headers(path)?,
            None => data::trace(&rules, HEADERS, seed(common.seed, rules.len() as u32)),
        };
        let tuples: Vec<_> = headers.iter().map(data::Header::tuple).collect();
        let (build_ms, classifier) = timed(|| Classifier::new(rules.clone()));
        sized.push((rules, tuples, build_ms, classifier));
    }
    let mut cases = Vec::new();
    for (rules, tuples, build_ms, classifier) in &sized {
        let mut row = Row {
            table: "acl",
            case: "trace".into(),
            entries: rules.len() as u64,
            burst: common.burst,
            build_ms: *build_ms,
            bytes: bytes(classifier),
            ..Row::default()
        };
        let mut results = vec![0; tuples.len()];
        classify(classifier, tuples, &mut results);
        let found: Vec<_> = results.into_iter().map(u64::from).collect();
        let first = |tuple: &Tuple<u32>| rules.iter().position(|rule| rule.matches(tuple));
        let wanted = plainly(common.check, tuples.len(), |number| {
            first(&tuples[number]).map_or(0, |rule| rule as u64 + 1)
        });
        judge(&mut row, &found, wanted.as_deref())?;
        let burst = usize::from(common.burst);
        let mut results = vec![0; burst];
        let run = move |start: usize, end: usize| {
            for tuples in tuples[start..end].chunks(burst) {
                classify(classifier, tuples, &mut results);
                black_box(&mut results);
            }
        };
        cases.push(Case { row, repeat: 1, run: Box::new(run) });
    }
    Ok(in_turn(common.rounds, cases))
}

/// Each size has data of its own.
fn seed(seed: u64, size: u32) -> u64 {
    seed ^ u64::from(size) << 32
}

/// Writes rules and headers.
pub(super) fn write(folder: &Path, common: u64) -> Result<(), TableError> {
    for size in SIZES {
        let rules = data::rules(size, seed(common, size));
        data::write_rules(&folder.join(format!("acl-{size}.rules")), &rules)?;
        let headers = data::trace(&rules, HEADERS, seed(common, size));
        data::write_headers(&folder.join(format!("acl-{size}.trace")), headers.into_iter())?;
    }
    Ok(())
}
