//! Wire formats: what the bytes of a frame mean, and nothing of what a gateway does with them.
//!
//! [`parse::parse`] checks a frame once, in one pass, and yields [`parse::Headers`]; the accessors of the other modules
//! then read and write fields at the offsets it found.
//!
//! | module | what it knows |
//! |---|---|
//! | [`parse`] | bytes to offsets, 5-tuple and flags; the packet that an ICMP error quotes |
//! | [`plain`] | the same for the one kind of packet that nearly all are, in a few instructions |
//! | [`ethernet`], [`vlan`] | MAC addresses, EtherTypes, 802.1Q and QinQ tags |
//! | [`arp`], [`ipv4`], [`ipv6`] | network headers, options and extension headers |
//! | [`tcp`], [`udp`], [`icmpv4`], [`icmpv6`] | transport headers |
//! | [`pcp`], [`natpmp`] | what hosts ask a NAT's mappings with |
//! | [`nat64`] | IPv4 addresses in IPv6 ones, and ICMP errors from one family to the other |
//! | [`nptv6`] | one IPv6 prefix in the place of another |
//! | [`translation`] | new addresses and ports, and what they do to checksums |
//! | [`checksum`] | the Internet checksum: full, incremental, and completed for a sender that left it half done |
//!
//! # Headers as typed arrays
//!
//! Every fixed header is a `Header<B>` over exactly its bytes, where `B` is `&[u8; LEN]` to read, `&mut [u8; LEN]` to
//! edit in place, or `[u8; LEN]` to make one from nothing. `Header::at` and `Header::at_mut` do the one bounds check;
//! behind it each field is a single load or store at a constant offset, and nothing is left that could fail.
//!
//! ```
//! use sluice_pkt::{ipv4, parse::parse};
//!
//! fn decrement_ttl(frame: &mut [u8]) -> Option<u8> {
//!     let headers = parse(frame).ok()?;
//!     let mut ip = ipv4::Header::at_mut(frame, headers.l3_offset.into())?;
//!     ip.set_ttl(ip.ttl().checked_sub(1)?);
//!     Some(ip.ttl())
//! }
//! # assert_eq!(decrement_ttl(&mut [0; 60]), None);
//! ```
#![forbid(unsafe_code)]

#[macro_use]
mod header;

pub mod arp;
pub mod checksum;
pub mod ds_field;
pub mod ethernet;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod nat64;
pub mod natpmp;
pub mod nptv6;
pub mod parse;
pub mod pcp;
pub mod plain;
pub mod tcp;
pub mod translation;
pub mod udp;
pub mod vlan;
