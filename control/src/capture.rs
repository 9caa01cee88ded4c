//! Looking at packets on their way: which ones ([`filter`]).

pub mod filter;
