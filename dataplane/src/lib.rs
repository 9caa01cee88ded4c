//! The data plane of Sluice: the packet's path, in one crate.
//!
//! Start reading at [`pipeline`], which is the order of the stages; a [`worker`] feeds it bursts from its ports.

pub mod adopt;
pub mod arena;
pub mod bell;
pub mod burst;
pub mod clock;
pub mod counters;
pub mod crossing;
pub mod fib;
pub mod firsts;
mod hold;
pub mod inspect;
pub mod live;
pub mod local;
pub mod matcher;
pub mod nat;
pub mod pipeline;
pub mod port;
pub mod probe;
pub mod pulse;
pub mod recorder;
pub mod sample;
pub mod saved;
pub mod session;
pub mod shadow;
pub mod shard;
pub mod snapshot;
pub mod stage;
pub mod steps;
pub mod table;
pub mod tap;
pub mod trace;
pub mod verdict;
pub mod worker;
