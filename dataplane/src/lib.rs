//! The data plane of Sluice. Start reading at `pipeline.rs`.

pub mod table;
