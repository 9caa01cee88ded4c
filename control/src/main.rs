//! `sluice`: one binary.
fn main() {}
