//! ICMPv6 (RFC 4443).

use crate::checksum::{self, Sum};
use crate::ipv6;
use std::borrow::Borrow;
use std::net::Ipv6Addr;

header! {
    /// The first eight bytes of an ICMPv6 message.
    Header: 8 bytes;
    /// Message type; errors are under 128.
    TYPE @ 0: u8, icmp_type, set_icmp_type;
    /// Code within the type.
    CODE @ 1: u8, code, set_code;
    /// Internet checksum of pseudo-header and message.
    CHECKSUM @ 2: u16, checksum, set_checksum;
    /// The four bytes whose meaning depends on the type; of "packet too big" the MTU in bytes.
    REST @ 4: u32, rest, set_rest;
    /// Identifier of an echo.
    IDENTIFIER @ 4: u16, identifier, set_identifier;
    /// Sequence number of an echo.
    SEQUENCE @ 6: u16, sequence, set_sequence;
}

/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Type: packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Type: multicast listener query (RFC 2710).
pub const MLD_QUERY: u8 = 130;
/// Type: multicast listener report.
pub const MLD_REPORT: u8 = 131;
/// Type: multicast listener done.
pub const MLD_DONE: u8 = 132;
/// Type: router solicitation (RFC 4861).
pub const ROUTER_SOLICITATION: u8 = 133;
/// Type: router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Type: neighbour solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// Type: neighbour advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Type: redirect.
pub const REDIRECT: u8 = 137;
/// Type: version 2 multicast listener report (RFC 9777).
pub const MLD2_REPORT: u8 = 143;

/// Code of unreachable: no route.
pub const NO_ROUTE: u8 = 0;
/// Code of unreachable: forbidden by a filter.
pub const ADMIN_PROHIBITED: u8 = 1;
/// Code of unreachable: the destination is beyond the scope of the source.
pub const BEYOND_SCOPE: u8 = 2;
/// Code of unreachable: the address does not answer.
pub const ADDRESS_UNREACHABLE: u8 = 3;
/// Code of unreachable: nobody listens on that port.
pub const PORT_UNREACHABLE: u8 = 4;
/// Code of time exceeded: the hop limit ran out in transit.
pub const HOP_LIMIT_EXCEEDED: u8 = 0;
/// Code of time exceeded: reassembly took too long.
pub const REASSEMBLY_EXCEEDED: u8 = 1;

/// Whether the type is an error that quotes a packet: the four of RFC 4443. Other types under 128 are errors in name
/// only; nobody has said what they carry.
#[inline]
pub const fn is_error(icmp_type: u8) -> bool {
    matches!(icmp_type, UNREACHABLE..=PARAMETER_PROBLEM)
}

/// Whether the type is an echo request or reply.
#[inline]
pub const fn is_echo(icmp_type: u8) -> bool {
    matches!(icmp_type, ECHO_REQUEST | ECHO_REPLY)
}

/// The checksum of an ICMPv6 message: pseudo-header (RFC 8200 8.1) and `message`, whose checksum field must be zero. Over
/// a message with its checksum filled in, zero means that it is right.
pub fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    pseudo_header(source, destination, message.len()).add_bytes(message).checksum()
}

fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, len: usize) -> Sum {
    checksum::pseudo_ipv6(&source.octets(), &destination.octets(), ipv6::ICMPV6, len as u32)
}

impl Header<[u8; LEN]> {
    /// A message of that type and code between those addresses, with its checksum over `data`, which for an error is the
    /// quoted packet. `rest` is, for instance, the MTU of [`PACKET_TOO_BIG`].
    pub fn new(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        icmp_type: u8,
        code: u8,
        rest: u32,
        data: &[u8],
    ) -> Self {
        let mut header = Self([0; LEN]);
        header.set_icmp_type(icmp_type);
        header.set_code(code);
        header.set_rest(rest);
        let sum = pseudo_header(source, destination, LEN + data.len()).add_bytes(&header.0).add_bytes(data);
        header.set_checksum(sum.checksum());
        header
    }

    /// The reply from `source` to an echo request, whose data it brings back.
    pub fn echo_reply<B: Borrow<[u8; LEN]>>(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        request: &Header<B>,
        data: &[u8],
    ) -> Self {
        Self::new(source, destination, ECHO_REPLY, 0, request.rest(), data)
    }
}
