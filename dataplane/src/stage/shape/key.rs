//! Whose a packet is: its flow and its host, as queues know them.

use sluice_pkt::parse::L3;
use sluice_pkt::{ipv4, ipv6, vlan};

use crate::burst::Burst;
use crate::session::{KeyFacts, NONE, Sessions};
use crate::snapshot::HostKey;
use crate::table::key::mix;

/// Of what packets are of that have no session.
const SEED: u64 = 0x7368_6170_6572_0001;

/// The packet's flow, as a number that those of other flows hardly have: its record's, or a hash of its ends.
pub(super) fn flow(burst: &Burst, i: usize) -> u32 {
    match burst.flows[i] {
        NONE => ends(burst.bytes(i), link_len(burst.bytes(i))).map_or(0, hash),
        record => record << 1 | u32::from(burst.headers[i].l3 != L3::Ipv4),
    }
}

fn hash([src, dst]: [u128; 2]) -> u32 {
    let fold = |address: u128| (address >> 64) as u64 ^ address as u64;
    mix(fold(src) ^ SEED, fold(dst) ^ 0x9e37_79b9_7f4a_7c15) as u32
}

/// The host that a packet is of: an address as it is inside, without the bits that do not count.
pub(super) fn host(burst: &Burst, i: usize, by: HostKey, sessions: &Sessions) -> u128 {
    let leaves = || ends(burst.bytes(i), link_len(burst.bytes(i))).unwrap_or_default();
    match by {
        // The destination is inside where it leaves; the source where it came from.
        HostKey::Destination(v4, v6) => masked(leaves()[1], v4, v6),
        HostKey::Source(v4, v6) => {
            let flow = burst.flows[i];
            let source = match burst.headers[i].l3 {
                L3::Ipv4 => sessions.v4.get(flow).map(|(key, _)| mapped(KeyFacts::of4(*key).0[0])),
                _ => sessions.v6.get(flow).map(|(key, _)| KeyFacts::of6(*key).0[0]),
            };
            masked(source.unwrap_or_else(|| leaves()[0]), v4, v6)
        }
    }
}

/// An IPv4 address among those of IPv6 (RFC 4291 2.5.5.2).
const fn mapped(address: u32) -> u128 {
    0xffff << 32 | address as u128
}

fn masked(address: u128, v4: u8, v6: u8) -> u128 {
    let is_v4 = address >> 32 == 0xffff;
    let bits = if is_v4 { 96 + u32::from(v4) } else { u32::from(v6) };
    address & u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0)
}

/// Source and destination of a packet, IPv4 or IPv6, that begins at `l3`.
fn ends(bytes: &[u8], l3: usize) -> Option<[u128; 2]> {
    match bytes.get(l3)? >> 4 {
        4 => ipv4::Header::at(bytes, l3).map(|ip| [ip.source_bits(), ip.destination_bits()].map(mapped)),
        6 => ipv6::Header::at(bytes, l3).map(|ip| [ip.source_bits(), ip.destination_bits()]),
        _ => None,
    }
}

/// Bytes of the link header of a frame that leaves.
pub(super) fn link_len(bytes: &[u8]) -> usize {
    vlan::link_len(bytes)
}
