//! The control side of Sluice: configuration, API, command line.

pub mod bench;
pub mod config;
