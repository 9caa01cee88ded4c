//! MSS: what TCP connections announce as the largest segment is lowered to what the links here carry, for hosts that would
//! not learn it otherwise (RFC 4821 is why that is common). Both ways, in the SYN and its answer.
//!
//! A SYN without the option is left alone, and so is one whose options cannot be read.

use sluice_pkt::checksum::Delta;
use sluice_pkt::parse::{Flags, Headers, L3};
use sluice_pkt::tcp;

use crate::burst::Burst;
use crate::session::FlowAction;
use crate::shard::Shard;
use crate::snapshot::Snapshot;

/// Runs the stage, on packets as they came in.
pub fn run(burst: &mut Burst, shard: &Shard, snapshot: &Snapshot) {
    for i in burst.live {
        let headers = burst.headers[i];
        if headers.tcp_flags & tcp::SYN == 0 || headers.flags.has(Flags::LATER_FRAGMENT) {
            continue;
        }
        let action = &burst.actions[i];
        let is_ipv6 = headers.l3 != L3::Ipv4;
        let leaves_as_ipv6 = is_ipv6 != (action.flags & (FlowAction::TO_V4 | FlowAction::TO_V6) != 0);
        let egress = shard.neighbors.hop(action.next_hop).egress.interface;
        // What is announced is what the other end may send: over both links.
        let links = [(burst.interfaces[i], is_ipv6), (egress, leaves_as_ipv6)];
        let most = links.iter().filter_map(|&(interface, is_ipv6)| {
            let [v4, v6] = snapshot.interfaces.get(usize::from(interface))?.mss;
            Some(if is_ipv6 { v6 } else { v4 }).filter(|&most| most != 0)
        });
        if let Some(most) = most.min() {
            clamp(burst.bytes_mut(i), &headers, most);
        }
    }
}

/// Lowers the MSS that a segment announces.
fn clamp(bytes: &mut [u8], headers: &Headers, most: u16) {
    let l4 = usize::from(headers.l4_offset);
    let Some(header_len) = tcp::Header::at(bytes, l4).map(|tcp| tcp.header_len()) else { return };
    let Some(segment) = bytes.get_mut(l4..l4 + header_len) else { return };
    let Some(at) = find(segment) else { return };
    let Some(field) = segment.get(at..).and_then(|rest| rest.first_chunk()) else { return };
    if u16::from_be_bytes(*field) <= most {
        return;
    }
    // The words of the checksum in which it lies: two, if it is in the middle.
    let words = at & !1..((at & !1) + 4).min(header_len);
    let mut old = [0; 4];
    for (old, byte) in old.iter_mut().zip(segment.get(words.clone()).unwrap_or_default()) {
        *old = *byte;
    }
    if let Some(field) = segment.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = most.to_be_bytes();
    }
    let new = segment.get(words).unwrap_or_default();
    let delta = Delta::of_bytes(old.get(..new.len()).unwrap_or_default(), new);
    if let Some(mut tcp) = tcp::Header::at_mut(segment, 0) {
        let checksum = delta.apply(tcp.checksum());
        tcp.set_checksum(checksum);
    }
}

/// Where the MSS lies in a header with its options (RFC 9293 3.2). `None` if there is none, or options in front of it are
/// malformed.
fn find(segment: &[u8]) -> Option<usize> {
    let mut at = tcp::LEN;
    loop {
        let len = match *segment.get(at)? {
            tcp::OPTION_END => return None,
            tcp::OPTION_NOP => 1,
            kind => {
                let len = usize::from(*segment.get(at + 1)?);
                if kind == tcp::OPTION_MSS {
                    return (len == 4 && at + len <= segment.len()).then_some(at + 2);
                }
                if len < 2 {
                    return None;
                }
                len
            }
        };
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_pkt::checksum::Sum;

    /// A SYN with these options; padded to whole words.
    fn syn(options: &[u8]) -> (Vec<u8>, Headers) {
        let mut segment = vec![0; tcp::LEN];
        segment.extend(options);
        segment.resize(segment.len().next_multiple_of(4), tcp::OPTION_END);
        segment[tcp::DATA_OFFSET] = (segment.len() / 4) as u8 * 16;
        let sum = Sum::of(&segment).checksum();
        segment[tcp::CHECKSUM..tcp::CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        (segment, Headers { tcp_flags: tcp::SYN, ..Headers::default() })
    }

    #[test]
    fn a_segment_size_is_lowered_and_the_checksum_stays_right() {
        let cases: [(&[u8], &[u8]); 5] = [
            (&[2, 4, 5, 0xb4], &[2, 4, 5, 0x78]),
            (&[1, 2, 4, 5, 0xb4], &[1, 2, 4, 5, 0x78]),
            (
                &[8, 10, 1, 1, 1, 1, 0, 0, 0, 0, 2, 4, 5, 0xb4],
                &[8, 10, 1, 1, 1, 1, 0, 0, 0, 0, 2, 4, 5, 0x78],
            ),
            (&[1, 1, 1, 2, 4, 0xff, 0xff, 4, 2], &[1, 1, 1, 2, 4, 5, 0x78, 4, 2]),
            (&[2, 4, 2, 0x18], &[2, 4, 2, 0x18]),
        ];
        for (options, clamped) in cases {
            let (mut segment, headers) = syn(options);
            clamp(&mut segment, &headers, 1400);
            assert_eq!(segment, syn(clamped).0, "{options:?}");
        }
    }

    #[test]
    fn options_that_cannot_be_read_stay_as_they_are() {
        let cases: [&[u8]; 6] =
            [&[], &[0, 2, 4, 0xff], &[2, 3, 0xff, 0xff], &[8, 0, 2, 4], &[8, 1, 2, 4], &[1, 1, 2]];
        for options in cases {
            let (mut segment, headers) = syn(options);
            let before = segment.clone();
            clamp(&mut segment, &headers, 536);
            assert_eq!(segment, before, "{options:?}");
            // A header that says it is longer than the packet.
            segment[tcp::DATA_OFFSET] = 0xf0;
            let before = segment.clone();
            clamp(&mut segment, &headers, 536);
            assert_eq!(segment, before);
        }
    }
}
