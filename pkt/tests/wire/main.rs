//! The parser and the accessors against two independent implementations, against a model, and against noise.

mod checksums;
mod differences;
mod emit;
mod etherparse_oracle;
mod fields;
mod generate;
mod model;
mod mutate;
mod oracles;
mod quotations;
mod smoltcp_oracle;
mod totality;

use proptest::test_runner::{Config, RngSeed};

/// A run of that many cases, the same ones each time.
fn cases(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(0x51_01ce), failure_persistence: None, ..Config::default() }
}
