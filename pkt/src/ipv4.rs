//! IPv4 (RFC 791): the fixed header, its flags, and options.

use crate::checksum::{self, Sum};
use std::borrow::{Borrow, BorrowMut};
use std::net::Ipv4Addr;

/// Most bytes of a header with options.
pub const MAX_LEN: usize = 60;
/// The smallest MTU that every link must carry (RFC 791 3.2).
pub const MIN_MTU: u16 = 68;

header! {
    /// An IPv4 header without its options.
    Header: 20 bytes;
    /// Version in the high half, header length in 32-bit words in the low half.
    VERSION_IHL @ 0: u8, version_ihl, set_version_ihl;
    /// Differentiated services code point, then two bits ECN (RFC 2474, RFC 3168).
    DSCP_ECN @ 1: u8, dscp_ecn, set_dscp_ecn;
    /// Bytes of header and payload.
    TOTAL_LEN @ 2: u16, total_len, set_total_len;
    /// Names the datagram that fragments belong to.
    IDENTIFICATION @ 4: u16, identification, set_identification;
    /// [`DONT_FRAGMENT`], [`MORE_FRAGMENTS`] and, in 13 bits, the offset in units of 8 bytes.
    FLAGS_FRAGMENT @ 6: u16, flags_fragment, set_flags_fragment;
    /// Time to live, in hops.
    TTL @ 8: u8, ttl, set_ttl;
    /// IANA protocol number of the payload.
    PROTOCOL @ 9: u8, protocol, set_protocol;
    /// Internet checksum of the header with its options.
    CHECKSUM @ 10: u16, checksum, set_checksum;
    /// Source address.
    SOURCE @ 12: Ipv4Addr, source, set_source;
    /// Destination address.
    DESTINATION @ 16: Ipv4Addr, destination, set_destination;
}

/// Bit of `flags_fragment`: do not fragment.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// Bit of `flags_fragment`: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Bits of `flags_fragment` that hold the offset, in units of 8 bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of GRE.
pub const GRE: u8 = 47;
/// Protocol number of ESP.
pub const ESP: u8 = 50;
/// Protocol number of the authentication header.
pub const AH: u8 = 51;
/// Protocol number of DCCP.
pub const DCCP: u8 = 33;
/// Protocol number of SCTP.
pub const SCTP: u8 = 132;
/// Protocol number of UDP-Lite.
pub const UDP_LITE: u8 = 136;

/// Option: end of the list.
pub const OPTION_END: u8 = 0;
/// Option: one byte of padding.
pub const OPTION_NOP: u8 = 1;
/// Option: loose source and record route.
pub const OPTION_LSRR: u8 = 131;
/// Option: strict source and record route.
pub const OPTION_SSRR: u8 = 137;
/// Option: router alert (RFC 2113).
pub const OPTION_ROUTER_ALERT: u8 = 148;

impl<B: Borrow<[u8; LEN]>> Header<B> {
    /// The version field; 4.
    #[inline]
    pub fn version(&self) -> u8 {
        self.version_ihl() >> 4
    }

    /// Bytes of the header with its options: IHL times 4, 0 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl() & 0x0f) * 4
    }

    /// Source address as a number.
    #[inline]
    pub fn source_bits(&self) -> u32 {
        self.source().to_bits()
    }

    /// Destination address as a number.
    #[inline]
    pub fn destination_bits(&self) -> u32 {
        self.destination().to_bits()
    }

    /// Where the fragment lies in its datagram, in bytes, 0 to 65,528.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        self.flags_fragment() << 3
    }

    /// Whether it is not the datagram's last fragment.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.flags_fragment() & MORE_FRAGMENTS != 0
    }

    /// Whether it must not be fragmented.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.flags_fragment() & DONT_FRAGMENT != 0
    }

    /// Sum of the pseudo-header for a payload of `len` bytes of `protocol`.
    #[inline]
    pub fn pseudo_header(&self, protocol: u8, len: u16) -> Sum {
        checksum::pseudo_ipv4(self.source_bits(), self.destination_bits(), protocol, len)
    }
}

impl<B: BorrowMut<[u8; LEN]>> Header<B> {
    /// Computes and writes the checksum of a header without options.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let checksum = Sum::of(self.0.borrow()).checksum();
        self.set_checksum(checksum);
    }
}

impl Header<[u8; LEN]> {
    /// A header without options for `payload_len` bytes, "don't fragment" and identification 0 (RFC 6864 4.1: an atomic
    /// datagram), its checksum done. A payload over 65,515 bytes is no datagram; the length field then stays at 65,535.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, ttl: u8, payload_len: u16) -> Self {
        let mut header = Self([0; LEN]);
        header.set_version_ihl(0x45);
        header.set_total_len(payload_len.saturating_add(LEN as u16));
        header.set_flags_fragment(DONT_FRAGMENT);
        header.set_ttl(ttl);
        header.set_protocol(protocol);
        header.set_source(source);
        header.set_destination(destination);
        header.fill_checksum();
        header
    }
}

/// An option list whose lengths are impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOptions;

/// The options of a header, in order, each as its type and its data behind the length byte. The list ends at
/// [`OPTION_END`], and after an error.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(pub &'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Result<(u8, &'a [u8]), BadOptions>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match *self.0 {
                [] | [OPTION_END, ..] => return None,
                [OPTION_NOP, ref rest @ ..] => self.0 = rest,
                [kind, len, ref rest @ ..] if len >= 2 && usize::from(len) - 2 <= rest.len() => {
                    let (data, behind) = rest.split_at(usize::from(len) - 2);
                    self.0 = behind;
                    return Some(Ok((kind, data)));
                }
                _ => {
                    self.0 = &[];
                    return Some(Err(BadOptions));
                }
            }
        }
    }
}
