//! IPv6 (RFC 8200): the fixed header and extension headers.

use crate::checksum::{self, Sum};
use std::borrow::{Borrow, BorrowMut};
use std::net::Ipv6Addr;

/// The smallest MTU that every link must carry (RFC 8200 5).
pub const MIN_MTU: u16 = 1280;

header! {
    /// The fixed IPv6 header.
    Header: 40 bytes;
    /// 4 bits version, 8 bits traffic class, 20 bits flow label.
    VERSION_CLASS_LABEL @ 0: u32, version_class_label, set_version_class_label;
    /// Bytes behind the fixed header, extension headers included.
    PAYLOAD_LEN @ 4: u16, payload_len, set_payload_len;
    /// Protocol number of the first extension header, or of the payload.
    NEXT_HEADER @ 6: u8, next_header, set_next_header;
    /// Hops left.
    HOP_LIMIT @ 7: u8, hop_limit, set_hop_limit;
    /// Source address.
    SOURCE @ 8: Ipv6Addr, source, set_source;
    /// Destination address.
    DESTINATION @ 24: Ipv6Addr, destination, set_destination;
}

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: encapsulating security payload; what follows cannot be read.
pub const ESP: u8 = 50;
/// Next header: authentication (RFC 4302).
pub const AH: u8 = 51;
/// Next header: ICMPv6.
pub const ICMPV6: u8 = 58;
/// Next header: nothing follows.
pub const NO_NEXT_HEADER: u8 = 59;
/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

impl<B: Borrow<[u8; LEN]>> Header<B> {
    /// The version field; 6.
    #[inline]
    pub fn version(&self) -> u8 {
        (self.version_class_label() >> 28) as u8
    }

    /// Differentiated services code point, then two bits ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_label() >> 20) as u8
    }

    /// Flow label, 20 bits (RFC 6437).
    #[inline]
    pub fn flow_label(&self) -> u32 {
        self.version_class_label() & 0x000f_ffff
    }

    /// Source address as a number.
    #[inline]
    pub fn source_bits(&self) -> u128 {
        self.source().to_bits()
    }

    /// Destination address as a number.
    #[inline]
    pub fn destination_bits(&self) -> u128 {
        self.destination().to_bits()
    }

    /// Sum of the pseudo-header for a payload of `len` bytes of `protocol`, with the destination that this header has;
    /// behind a routing header with segments left, the checksum counts the last segment instead (RFC 8200 8.1).
    #[inline]
    pub fn pseudo_header(&self, protocol: u8, len: u32) -> Sum {
        checksum::pseudo_ipv6(&self.source().octets(), &self.destination().octets(), protocol, len)
    }
}

impl<B: BorrowMut<[u8; LEN]>> Header<B> {
    /// Sets the differentiated services code point, then two bits ECN.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        const CLASS: u32 = 0xff << 20;
        self.set_version_class_label(self.version_class_label() & !CLASS | u32::from(class) << 20);
    }
}

impl Header<[u8; LEN]> {
    /// A header of traffic class 0 and flow label 0 for `payload_len` bytes.
    pub fn new(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        next_header: u8,
        hop_limit: u8,
        payload_len: u16,
    ) -> Self {
        let mut header = Self([0; LEN]);
        header.set_version_class_label(6 << 28);
        header.set_payload_len(payload_len);
        header.set_next_header(next_header);
        header.set_hop_limit(hop_limit);
        header.set_source(source);
        header.set_destination(destination);
        header
    }
}

/// The fragment header (RFC 8200 4.5).
pub mod fragment {
    use std::borrow::Borrow;

    header! {
        /// A fragment header.
        Header: 8 bytes;
        /// What the fragments hold: the first header of the fragmented part.
        NEXT_HEADER @ 0: u8, next_header, set_next_header;
        /// 13 bits offset in units of 8 bytes, 2 bits reserved, and in the lowest "more fragments".
        OFFSET_MORE @ 2: u16, offset_more, set_offset_more;
        /// Names the datagram that fragments belong to.
        IDENTIFICATION @ 4: u32, identification, set_identification;
    }

    impl<B: Borrow<[u8; LEN]>> Header<B> {
        /// Where the fragment lies in the fragmented part, in bytes, 0 to 65,528.
        #[inline]
        pub fn offset(&self) -> u16 {
            self.offset_more() & 0xfff8
        }

        /// Whether it is not the last fragment.
        #[inline]
        pub fn more(&self) -> bool {
            self.offset_more() & 1 != 0
        }

        /// Whether it is the whole datagram (RFC 6946).
        #[inline]
        pub fn is_atomic(&self) -> bool {
            self.offset_more() & 0xfff9 == 0
        }
    }
}
