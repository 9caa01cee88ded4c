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

#[test]
fn the_advice_is_that_of_the_reference() {
    let page =
        include_str!("../../docs/counters.md").split_once("\n## Drops\n").map_or("", |(_, below)| below);
    for reason in DropReason::ALL {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", reason.name())));
        let said =
            row.and_then(|row| row.trim_end_matches(" |").rsplit_once(" | ")).map(|(_, advice)| advice);
        assert_eq!(said, Some(reason.advice()), "{}", reason.name());
        assert!(reason.advice().ends_with(['.', '?']), "{}", reason.name());
    }
}
