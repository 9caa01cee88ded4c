//! TCP (RFC 9293): the header without its options.

use std::borrow::{Borrow, BorrowMut};

header! {
    /// A TCP header without its options.
    Header: 20 bytes;
    /// Source port.
    SOURCE_PORT @ 0: u16, source_port, set_source_port;
    /// Destination port.
    DESTINATION_PORT @ 2: u16, destination_port, set_destination_port;
    /// Sequence number of the first byte, or of SYN.
    SEQUENCE @ 4: u32, sequence, set_sequence;
    /// The next sequence number that the sender expects; valid with [`ACK`].
    ACKNOWLEDGMENT @ 8: u32, acknowledgment, set_acknowledgment;
    /// 4 bits header length in 32-bit words, 4 bits reserved.
    DATA_OFFSET @ 12: u8, data_offset, set_data_offset;
    /// The eight flags, [`FIN`] to [`CWR`].
    FLAGS @ 13: u8, flags, set_flags;
    /// Receive window, not scaled.
    WINDOW @ 14: u16, window, set_window;
    /// Internet checksum of pseudo-header, header and data.
    CHECKSUM @ 16: u16, checksum, set_checksum;
    /// Where urgent data end; valid with [`URG`].
    URGENT @ 18: u16, urgent, set_urgent;
}

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgment field is valid.
pub const ACK: u8 = 0x10;
/// The urgent field is valid.
pub const URG: u8 = 0x20;
/// ECN echo (RFC 3168).
pub const ECE: u8 = 0x40;
/// Congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

/// Option: end of the list.
pub const OPTION_END: u8 = 0;
/// Option: one byte of padding.
pub const OPTION_NOP: u8 = 1;
/// Option: maximum segment size.
pub const OPTION_MSS: u8 = 2;

impl<B: Borrow<[u8; LEN]>> Header<B> {
    /// Bytes of the header with its options, 0 to 60; under 20 in no valid header.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.data_offset() >> 4) * 4
    }
}

impl<B: BorrowMut<[u8; LEN]>> Header<B> {
    /// Writes the header length; `len` is a multiple of 4, 20 to 60.
    #[inline]
    pub fn set_header_len(&mut self, len: u8) {
        self.set_data_offset((len / 4) << 4);
    }
}

impl Header<[u8; LEN]> {
    /// The reset that answers a segment which has no connection (RFC 9293 3.10.7.1); `len` is the segment's data in
    /// bytes. `None` for a segment that is itself a reset. The checksum is left zero.
    pub fn reset<B: Borrow<[u8; LEN]>>(segment: &Header<B>, len: u32) -> Option<Self> {
        let flags = segment.flags();
        if flags & RST != 0 {
            return None;
        }
        let mut header = Self([0; LEN]);
        header.set_source_port(segment.destination_port());
        header.set_destination_port(segment.source_port());
        header.set_header_len(LEN as u8);
        if flags & ACK != 0 {
            header.set_sequence(segment.acknowledgment());
            header.set_flags(RST);
        } else {
            let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            header.set_acknowledgment(segment.sequence().wrapping_add(len).wrapping_add(controls));
            header.set_flags(RST | ACK);
        }
        Some(header)
    }
}
