//! Packets that are nearly right: bits flipped, cut short, spliced, lengths edited.

use crate::generate::{packet, plain_sum};
use proptest::prelude::*;

/// One change of a frame. Positions are taken modulo the frame's length.
#[derive(Clone, Debug)]
enum Mutation {
    FlipBit(usize, u8),
    SetByte(usize, u8),
    Truncate(usize),
    Extend(u8),
    /// This frame up to a point, another one from a point.
    Splice(Vec<u8>, usize, usize),
    /// A 16-bit field near a likely place gets a small or extreme value.
    EditLength(usize, u16),
    /// A protocol number or IHL becomes one that means something to the parser.
    EditKind(usize, u8),
    /// The EtherType of the frame or of its outer tag changes.
    EditEthertype(usize, u16),
}

impl Mutation {
    fn apply(&self, frame: &mut Vec<u8>) {
        let len = frame.len().max(1);
        match self {
            Self::FlipBit(at, bit) => {
                if let Some(byte) = frame.get_mut(at % len) {
                    *byte ^= 1 << bit;
                }
            }
            Self::SetByte(at, value) | Self::EditKind(at, value) => {
                if let Some(byte) = frame.get_mut(at % len) {
                    *byte = *value;
                }
            }
            Self::Truncate(at) => frame.truncate(at % len),
            Self::Extend(by) => frame.resize(frame.len() + usize::from(*by), 0),
            Self::Splice(other, here, there) => {
                frame.truncate(here % len);
                frame.extend(&other[there % other.len()..]);
            }
            Self::EditLength(at, value) | Self::EditEthertype(at, value) => {
                if let Some(field) = frame.get_mut(at % len..).and_then(|rest| rest.first_chunk_mut()) {
                    *field = value.to_be_bytes();
                }
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // Headers lie at the front; that is where changes matter.
    let place = || prop_oneof![4 => 12..80usize, 1 => 0..200usize];
    let length = prop_oneof![0..80u16, any::<u16>(), Just(0), Just(0xffff)];
    let kinds = &[
        0u8, 1, 2, 4, 5, 6, 8, 13, 17, 43, 44, 50, 51, 58, 59, 60, 0x46, 0x4f, 0x60, 0x81, 0x83, 0x88, 0x89,
    ][..];
    let ethertypes = &[0x05ffu16, 0x0800, 0x0806, 0x8100, 0x86dd, 0x88a8, 0x88e5, 0x9100][..];
    prop_oneof![
        (place(), 0..8u8).prop_map(|(at, bit)| Mutation::FlipBit(at, bit)),
        (place(), any::<u8>()).prop_map(|(at, value)| Mutation::SetByte(at, value)),
        (0..200usize).prop_map(Mutation::Truncate),
        (0..60u8).prop_map(Mutation::Extend),
        (packet(), place(), place()).prop_map(|(other, here, there)| Mutation::Splice(
            other.build().0,
            here,
            there
        )),
        (place(), length).prop_map(|(at, value)| Mutation::EditLength(at, value)),
        (prop_oneof![Just(23usize), Just(20), place()], proptest::sample::select(kinds))
            .prop_map(|(at, value)| Mutation::EditKind(at, value)),
        (proptest::sample::select(&[12usize, 16][..]), proptest::sample::select(ethertypes))
            .prop_map(|(at, value)| Mutation::EditEthertype(at, value)),
    ]
}

/// Makes the IPv4 header checksum right again, so that a change gets past it.
fn repair(frame: &mut [u8]) {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8] | [0x91, 0])) {
        at += 4;
    }
    if frame.get(at..at + 2) != Some(&[8, 0]) {
        return;
    }
    let Some(&first) = frame.get(at + 2) else { return };
    let len = usize::from(first & 15) * 4;
    let Some(header) = frame.get_mut(at + 2..at + 2 + len).filter(|header| header.len() >= 12) else {
        return;
    };
    header[10..12].fill(0);
    let checksum = !plain_sum(&[header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// A frame that was valid until one to three changes were made to it.
pub(crate) fn mutant() -> impl Strategy<Value = Vec<u8>> {
    let mutations = proptest::collection::vec(mutation(), 1..4);
    (packet(), mutations, proptest::bool::weighted(0.8)).prop_map(|(packet, mutations, repaired)| {
        let mut frame = packet.build().0;
        for mutation in mutations {
            mutation.apply(&mut frame);
        }
        if repaired {
            repair(&mut frame);
        }
        frame
    })
}
