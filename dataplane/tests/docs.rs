//! The reference says what the code does.

use std::collections::BTreeSet;

use sluice_dataplane::verdict::DropReason;

/// Names in backticks that stand first in a table's row, below the heading.
fn documented(page: &str, heading: &str) -> Vec<String> {
    let below = page.split_once(heading).map_or("", |(_, below)| below);
    let rows = below.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once('`')).map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_drop_reason_is_explained_once_and_no_other() {
    let listed = documented(include_str!("../../docs/counters.md"), "\n## Drops\n");
    let documented: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    let reasons: BTreeSet<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(documented, reasons);
    assert_eq!(listed.len(), DropReason::COUNT, "a reason stands there twice");
}
