//! UDP (RFC 768).

header! {
    /// A UDP header.
    Header: 8 bytes;
    /// Source port; 0 if no answer is wanted.
    SOURCE_PORT @ 0: u16, source_port, set_source_port;
    /// Destination port.
    DESTINATION_PORT @ 2: u16, destination_port, set_destination_port;
    /// Bytes of header and data.
    DATAGRAM_LEN @ 4: u16, datagram_len, set_datagram_len;
    /// Internet checksum of pseudo-header, header and data; [`NO_CHECKSUM`] if the sender made none.
    CHECKSUM @ 6: u16, checksum, set_checksum;
}

/// The checksum field of a datagram that carries none.
pub const NO_CHECKSUM: u16 = 0;

/// What to write for a computed checksum: zero would mean "none", so all ones stand for it.
#[inline]
pub const fn checksum_field(computed: u16) -> u16 {
    if computed == NO_CHECKSUM { 0xffff } else { computed }
}
