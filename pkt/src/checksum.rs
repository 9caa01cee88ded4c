//! The Internet checksum: full (RFC 1071), incremental (RFC 1624), and completed where a sender left it to hardware.

use crate::ipv4;
use crate::parse::{Flags, Headers, L3};
use crate::{ipv6, tcp, udp};
use std::ops::{Add, AddAssign, Neg};

/// A one's complement sum of 16-bit words, not yet folded.
///
/// It adds words as they lie in memory and puts the result in network order only at the end, as the sum does not depend
/// on byte order (RFC 1071 2B). It has room for 8 GiB of data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`; an odd last byte counts as the high half of a word.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        Self(0).add_bytes(bytes)
    }

    /// Adds `bytes`, which must start at an even offset of the data summed: only the last piece may be of odd length.
    #[inline]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        let mut rest = bytes;
        let mut sum = self.0;
        while let Some((word, behind)) = rest.split_first_chunk() {
            let word = u64::from_ne_bytes(*word);
            sum += (word & 0xffff_ffff) + (word >> 32);
            rest = behind;
        }
        while let Some((pair, behind)) = rest.split_first_chunk() {
            sum += u64::from(u16::from_ne_bytes(*pair));
            rest = behind;
        }
        if let [last] = *rest {
            sum += u64::from(u16::from_ne_bytes([last, 0]));
        }
        Self(sum)
    }

    /// Adds a word, given as a number.
    #[inline]
    pub const fn add_u16(self, value: u16) -> Self {
        Self(self.0 + value.to_be() as u64)
    }

    /// Adds two words, given as a number.
    #[inline]
    pub const fn add_u32(self, value: u32) -> Self {
        Self(self.0 + value.to_be() as u64)
    }

    /// The sum in 16 bits, carries added in. Zero only if all that was summed is zero; 0xffff over data that include a
    /// right checksum.
    #[inline]
    pub const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        u16::from_be(sum as u16)
    }

    /// What to write in a checksum field that was zero while the sum was taken.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// Sum of the IPv4 pseudo-header (RFC 9293 3.1); `len` is of the transport header with its data, in bytes.
#[inline]
pub const fn pseudo_ipv4(source: u32, destination: u32, protocol: u8, len: u16) -> Sum {
    Sum(0).add_u32(source).add_u32(destination).add_u16(protocol as u16).add_u16(len)
}

/// Sum of the IPv6 pseudo-header (RFC 8200 8.1); `len` is of the transport header with its data, in bytes.
#[inline]
pub fn pseudo_ipv6(source: &[u8; 16], destination: &[u8; 16], protocol: u8, len: u32) -> Sum {
    Sum::of(source).add_bytes(destination).add_u32(len).add_u16(protocol.into())
}

/// Whether the checksum of an IPv4 header without options is right: 20 bytes as two words of eight and one of four, each as
/// it lies in memory or each with its bytes turned round.
#[inline(always)]
pub const fn is_plain_ipv4_sum(a: u64, b: u64, c: u32) -> bool {
    // 2^64 is 1 modulo 0xffff: each carry is added in (RFC 1071 2C).
    let (sum, carry) = a.overflowing_add(b);
    let (sum, end) = sum.overflowing_add(c as u64 + carry as u64);
    let sum = sum + end as u64;
    // Right if it is a multiple of 0xffff, other than 0: times the inverse modulo 2^64, multiples alone become small.
    const INVERSE: u64 = inverse(0xffff);
    sum.wrapping_mul(INVERSE).wrapping_sub(1) < u64::MAX / 0xffff
}

/// The inverse of an odd number modulo 2^64, by Newton's method.
const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut round = 0;
    while round < 6 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        round += 1;
    }
    x
}

/// Whether an IPv4 header's checksum is right; `header` is all of it, with its options, and nothing else.
#[inline]
pub fn verify_ipv4_header(header: &[u8]) -> bool {
    // That the folded sum is 0xffff, asked without folding: 2^16 is 1 modulo 0xffff.
    let Sum(sum) = Sum::of(header);
    sum != 0 && sum % 0xffff == 0
}

/// How a change of data changes the checksum over them: a one's complement difference, to be added up over all fields
/// that change and applied to as many checksums as cover them.
///
/// It is RFC 1624's equation 3. Zero has two forms in one's complement, and the RFC's section 3 shows how the older
/// equation ends at the wrong one. Here a difference of zero is always kept as all ones, so that the sum under the
/// complement is never zero and the result is what a full computation gives: never 0xffff.
///
/// Like [`Sum`], it holds words as they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    /// Nothing changes.
    pub const NONE: Self = Self(0xffff);

    /// A 16-bit word changes; it lies at an even offset of the data.
    #[inline]
    pub const fn of_u16(old: u16, new: u16) -> Self {
        Self::between(old, new)
    }

    /// A 32-bit field changes; it lies at an even offset of the data.
    #[inline]
    pub const fn of_u32(old: u32, new: u32) -> Self {
        Self::between(Sum(0).add_u32(old).fold(), Sum(0).add_u32(new).fold())
    }

    /// Bytes that start at an even offset of the data change.
    #[inline]
    pub fn of_bytes(old: &[u8], new: &[u8]) -> Self {
        Self::between(Sum::of(old).fold(), Sum::of(new).fold())
    }

    #[inline]
    const fn between(old: u16, new: u16) -> Self {
        Self(add(!old.to_be(), new.to_be())).never_zero()
    }

    #[inline]
    const fn never_zero(self) -> Self {
        if self.0 == 0 { Self::NONE } else { self }
    }

    /// Two bytes that are kept in its place, and are no difference.
    pub(crate) const fn from_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// What [`from_bytes`](Self::from_bytes) was made of.
    pub(crate) const fn to_bytes(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }

    /// The checksum field after the change. For UDP there is [`apply_udp`](Self::apply_udp).
    #[inline]
    pub const fn apply(self, field: u16) -> u16 {
        u16::from_be(!add(!field.to_be(), self.0))
    }

    /// The checksum field of a UDP datagram after the change: "none" stays "none", and a computed zero is written as all
    /// ones (RFC 768).
    #[inline]
    pub const fn apply_udp(self, field: u16) -> u16 {
        if field == udp::NO_CHECKSUM { field } else { udp::checksum_field(self.apply(field)) }
    }
}

/// One's complement addition; zero only for two zeros.
#[inline]
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

impl Default for Delta {
    fn default() -> Self {
        Self::NONE
    }
}

impl Add for Delta {
    type Output = Self;
    #[inline]
    fn add(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }
}

impl AddAssign for Delta {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Neg for Delta {
    type Output = Self;
    /// The change back.
    #[inline]
    fn neg(self) -> Self {
        Self(!self.0).never_zero()
    }
}

/// The sum of the pseudo-header of a TCP or UDP packet, how many bytes its checksum covers, and the field's offset in the
/// frame. `None` for other protocols, for fragments, and for a frame that is not the one of `headers`.
#[inline]
fn transport(frame: &[u8], headers: &Headers) -> Option<(Sum, u16, usize)> {
    if headers.flags.has(Flags::FRAGMENT) {
        return None;
    }
    let l4 = usize::from(headers.l4_offset);
    let (len, field) = match headers.protocol {
        ipv4::TCP => (headers.end.checked_sub(headers.l4_offset)?, tcp::CHECKSUM),
        ipv4::UDP => (udp::Header::at(frame, l4)?.datagram_len(), udp::CHECKSUM),
        _ => return None,
    };
    let l3 = usize::from(headers.l3_offset);
    let sum = match headers.l3 {
        L3::Ipv4 => ipv4::Header::at(frame, l3)?.pseudo_header(headers.protocol, len),
        L3::Ipv6 => ipv6::Header::at(frame, l3)?.pseudo_header(headers.protocol, len.into()),
        _ => return None,
    };
    Some((sum, len, l4 + field))
}

/// Completes the transport checksum of a frame whose sender left that to hardware, and says whether it did.
///
/// Linux hands a frame that never leaves the machine over with `CHECKSUM_PARTIAL`: the field of TCP and UDP holds the
/// folded sum of the pseudo-header, not complemented, for the NIC to add the rest to. AF_XDP shows the bytes but not that
/// mark. So the field itself is the test, one comparison for each packet: only where it equals the bare sum is the packet
/// summed and the field written.
///
/// That is safe for a frame which came over a wire. A finished checksum equals the bare sum by chance, for one frame in
/// 65,536; if it was right, computing it again yields the same value, and the frame leaves as it came. If it was wrong
/// and hit that one value, the error is covered up: the price is that 1 in 65,536 of corrupt frames passes, where a
/// 16-bit checksum lets as many pass anyway. Use it on ports with local senders only, and not even that is paid.
///
/// Fragments are left alone: Linux finishes the checksum before it fragments. `frame` must hold the packet to its end.
#[inline]
pub fn complete_partial(frame: &mut [u8], headers: &Headers) -> bool {
    match transport(frame, headers) {
        Some((sum, len, at)) if read_u16(frame, at) == Some(sum.fold()) => {
            finish(frame, headers, sum, len, at)
        }
        _ => false,
    }
}

#[cold]
fn finish(frame: &mut [u8], headers: &Headers, pseudo: Sum, len: u16, at: usize) -> bool {
    let l4 = usize::from(headers.l4_offset);
    let Some(segment) = frame.get_mut(l4..l4 + usize::from(len)) else { return false };
    let Some(field) = segment.get_mut(at - l4..).and_then(|rest| rest.first_chunk_mut()) else {
        return false;
    };
    *field = [0; 2];
    let computed = pseudo.add_bytes(segment).checksum();
    let computed = if headers.protocol == ipv4::UDP { udp::checksum_field(computed) } else { computed };
    if let Some(field) = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = computed.to_be_bytes();
    }
    true
}

/// As [`complete_partial`], of a packet in several pieces: `head` has all its headers, `rest` what is behind, in order.
pub fn complete_partial_chain<'a>(
    head: &mut [u8],
    rest: impl IntoIterator<Item = &'a [u8]>,
    headers: &Headers,
) -> bool {
    let Some((pseudo, len, at)) = transport(head, headers) else { return false };
    let l4 = usize::from(headers.l4_offset);
    let Some(start) = head.get_mut(l4..).filter(|_| at + 2 > l4) else { return false };
    let start_len = start.len().min(len.into());
    let start = &mut start[..start_len];
    let field = at - l4;
    if read_u16(start, field) != Some(pseudo.fold()) {
        return false;
    }
    start[field..field + 2].fill(0);
    let mut sum = pseudo.add_bytes(start);
    let (mut left, mut odd) = (usize::from(len) - start_len, start_len % 2 == 1);
    for piece in rest {
        let piece = &piece[..piece.len().min(left)];
        // A piece at an odd offset has its bytes in the other half of each word (RFC 1071 2B).
        let part = Sum::of(piece).fold();
        sum = sum.add_u16(if odd { part.swap_bytes() } else { part });
        odd ^= piece.len() % 2 == 1;
        left -= piece.len();
    }
    let computed = sum.checksum();
    let computed = if headers.protocol == ipv4::UDP { udp::checksum_field(computed) } else { computed };
    start[field..field + 2].copy_from_slice(&computed.to_be_bytes());
    left == 0
}

#[inline]
fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_checksum_is_completed_in_pieces_as_in_one() {
        let mut whole =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 89, 0, 0, 0, 0, 64, 17, 0, 0];
        whole.extend([192, 0, 2, 1, 198, 51, 100, 7, 1, 2, 3, 4, 0, 69, 0, 0]);
        whole.extend((0..61u16).map(|i| (i * 5) as u8));
        let checksum = Sum::of(&whole[14..34]).checksum();
        whole[24..26].copy_from_slice(&checksum.to_be_bytes());
        let headers = crate::parse::parse(&whole).unwrap();
        let partial = pseudo_ipv4(0xc000_0201, 0xc633_6407, 17, 69).fold();
        whole[40..42].copy_from_slice(&partial.to_be_bytes());
        let mut expected = whole.clone();
        assert!(complete_partial(&mut expected, &headers));
        for head in 42..=whole.len() {
            for middle in head..=whole.len() {
                let mut start = whole[..head].to_vec();
                let rest = [&whole[head..middle], &whole[middle..]];
                assert!(complete_partial_chain(&mut start, rest, &headers));
                assert_eq!(start, expected[..head], "{head} {middle}");
                // It is complete now, and the packet must not end early.
                assert!(!complete_partial_chain(&mut start, rest, &headers));
            }
        }
        assert!(!complete_partial_chain(&mut whole[..60].to_vec(), [], &headers));
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).fold(), 0xddf2);
        assert_eq!(Sum::of(&bytes[..3]).fold(), 0xf201);
        assert_eq!(Sum::of(&[]).fold(), 0);
        assert_eq!(Sum::of(&[0xff; 64]).fold(), 0xffff);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: 0xdd2f over data in which 0x5555 becomes 0x3285; the older equation ends at 0xffff.
        assert_eq!(Delta::of_u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn both_ways_to_verify_a_header_agree() {
        let mut state = 1u64;
        let mut right = 0;
        for round in 0..100_000 {
            let mut header = [0; ipv4::LEN];
            for byte in &mut header {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Many extremes, where carries go far.
                *byte = [(state >> 56) as u8, 0xff, 0][(state >> 40) as usize % 3];
            }
            if round % 2 == 0 {
                header[10..12].fill(0);
                let checksum = Sum::of(&header).checksum();
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            let expected = verify_ipv4_header(&header);
            assert_eq!(plain(&header), expected, "{header:x?}");
            right += usize::from(expected);
        }
        assert!((49_000..51_000).contains(&right));
        assert!(!plain(&[0; ipv4::LEN]) && plain(&[0xff; ipv4::LEN]));
    }

    fn plain(header: &[u8; ipv4::LEN]) -> bool {
        let [a, b, c] = [0, 8, 12].map(|at| u64::from_ne_bytes(*header[at..].first_chunk().unwrap()));
        is_plain_ipv4_sum(a, b, if cfg!(target_endian = "little") { (c >> 32) as u32 } else { c as u32 })
    }

    #[test]
    fn no_change_keeps_every_checksum() {
        for field in 0..0xffff {
            assert_eq!(Delta::NONE.apply(field), field);
            assert_eq!(Delta::of_u16(field, field).apply(field), field);
        }
        assert_eq!(Delta::default(), Delta::NONE);
        assert_eq!(Delta::of_u16(0xffff, 0), Delta::NONE);
        assert_eq!(-Delta::NONE, Delta::NONE);
    }
}
