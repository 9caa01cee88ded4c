//! Sluice against `etherparse` and `smoltcp::wire`: the same fields, or both refuse, or a difference that has a name.

use crate::differences::{Case, Difference, Oracle};
use crate::fields::sluice;
use crate::generate::packet;
use crate::mutate::mutant;
use crate::{etherparse_oracle, smoltcp_oracle};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;

/// The difference between the two readings, `None` if there is none; an error tells of one that nobody has named.
fn compare(frame: &[u8], oracle: Oracle) -> Result<Option<Difference>, String> {
    let ours = sluice(frame);
    let theirs = match oracle {
        Oracle::Etherparse => etherparse_oracle::read(frame),
        Oracle::Smoltcp => smoltcp_oracle::read(frame),
    };
    match (&ours, &theirs) {
        (Err(_), None) => return Ok(None),
        (Ok((_, ours)), Some(theirs)) if ours == theirs => return Ok(None),
        _ => {}
    }
    let case = Case { frame, oracle, ours: &ours, theirs: &theirs };
    match Difference::ALL.iter().find(|difference| difference.explains(&case)) {
        Some(difference) => Ok(Some(*difference)),
        None => Err(format!(
            "{oracle:?} reads otherwise\nframe  {frame:02x?}\nours   {ours:?}\ntheirs {theirs:?}"
        )),
    }
}

fn agree(frame: &[u8]) -> Result<(), TestCaseError> {
    for oracle in [Oracle::Etherparse, Oracle::Smoltcp] {
        if let Err(difference) = compare(frame, oracle) {
            return Err(TestCaseError::fail(difference));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::cases(10_000))]

    #[test]
    fn valid_packets_read_the_same(packet in packet()) {
        agree(&packet.build().0)?;
    }
}

proptest! {
    #![proptest_config(crate::cases(30_000))]

    #[test]
    fn mutated_packets_read_the_same_or_are_refused_by_all(frame in mutant()) {
        agree(&frame)?;
    }
}

/// A difference that never shows is one that nobody holds any more: its entry would only hide mistakes.
#[test]
fn every_named_difference_shows() {
    let mut runner = TestRunner::new(crate::cases(1));
    let frames = mutant();
    let mut seen = BTreeMap::new();
    for _ in 0..60_000 {
        let frame = frames.new_tree(&mut runner).unwrap().current();
        for oracle in [Oracle::Etherparse, Oracle::Smoltcp] {
            if let Ok(Some(difference)) = compare(&frame, oracle) {
                *seen.entry(difference).or_insert(0) += 1;
            }
        }
    }
    let never: Vec<_> = Difference::ALL.iter().filter(|difference| !seen.contains_key(difference)).collect();
    assert!(never.is_empty(), "never seen: {never:?}; seen: {seen:?}");
}

#[test]
fn every_named_difference_is_written_down() {
    let page = include_str!("../../DIFFERENCES.md");
    for difference in Difference::ALL {
        assert!(page.contains(&format!("`{difference:?}`")), "{difference:?} is not in DIFFERENCES.md");
    }
}
