//! The control side of Sluice: configuration, API, command line.

pub mod golden;
pub mod words;
