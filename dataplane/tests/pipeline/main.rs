//! The whole data plane between memory ports: what goes in, what comes out, and what is counted.

mod bursts;
mod checksums;
mod established;
mod fastpath;
mod fleet;
mod fragments;
mod full;
mod icmp_errors;
mod jumbo;
mod lab;
mod link;
mod model;
mod nat;
mod nat64;
mod neighbors;
mod oracle;
mod owners;
mod packets;
mod prefixes;
mod reload;
mod sessions;
mod totality;
mod workers;
