//! Pure data structures: no packets, no clocks, nothing of the project.
//!
//! Everything takes its memory when it is made. [`Lpm`](lpm::Lpm) and [`Classifier`](classifier::Classifier)
//! allocate while they are built, which happens off the packet path; their look-ups do not.
//! [`Lpm`](lpm::Lpm) alone is changed in place while others look up in it.

mod aes;
pub mod bitmap;
pub mod classifier;
pub mod hash;
pub mod index;
pub mod key;
pub mod largest;
pub mod lpm;
pub mod meter;
pub mod meters;
pub mod prefetch;
mod select;
pub mod shaper;
pub mod sources;
mod tags;
pub mod tcm;
pub mod wheel;

/// The same `cases` property-test cases on each run.
#[cfg(test)]
pub(crate) fn cases(cases: u32) -> proptest::prelude::ProptestConfig {
    let rng_seed = proptest::test_runner::RngSeed::Fixed(1);
    proptest::prelude::ProptestConfig { cases, rng_seed, failure_persistence: None, ..Default::default() }
}
