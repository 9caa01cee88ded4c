//! Wire formats: what the bytes of a frame mean, and nothing of what a gateway does with them.
//!
//! [`parse::parse`] checks a frame once, in one pass, and yields [`parse::Headers`]; the accessors of the other modules
//! then read and write fields at the offsets it found.
#![forbid(unsafe_code)]

pub mod parse;
