//! ICMP for IPv4 (RFC 792).

use crate::checksum::Sum;
use std::borrow::{Borrow, BorrowMut};
use std::net::Ipv4Addr;

header! {
    /// The first eight bytes of an ICMP message.
    Header: 8 bytes;
    /// Message type.
    TYPE @ 0: u8, icmp_type, set_icmp_type;
    /// Code within the type.
    CODE @ 1: u8, code, set_code;
    /// Internet checksum of the message.
    CHECKSUM @ 2: u16, checksum, set_checksum;
    /// The four bytes whose meaning depends on the type.
    REST @ 4: u32, rest, set_rest;
    /// Identifier of a query, such as an echo.
    IDENTIFIER @ 4: u16, identifier, set_identifier;
    /// Sequence number of an echo.
    SEQUENCE @ 6: u16, sequence, set_sequence;
    /// Next-hop MTU of "fragmentation needed", in bytes (RFC 1191 4).
    MTU @ 6: u16, mtu, set_mtu;
}

/// Type: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Type: source quench, deprecated (RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Type: redirect.
pub const REDIRECT: u8 = 5;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Type: timestamp request.
pub const TIMESTAMP: u8 = 13;
/// Type: timestamp reply.
pub const TIMESTAMP_REPLY: u8 = 14;
/// Type: information request, obsolete (RFC 6918).
pub const INFORMATION: u8 = 15;
/// Type: information reply, obsolete (RFC 6918).
pub const INFORMATION_REPLY: u8 = 16;
/// Type: address mask request (RFC 950), obsolete (RFC 6918).
pub const ADDRESS_MASK: u8 = 17;
/// Type: address mask reply (RFC 950), obsolete (RFC 6918).
pub const ADDRESS_MASK_REPLY: u8 = 18;

/// Code of unreachable: no route to the network.
pub const NET_UNREACHABLE: u8 = 0;
/// Code of unreachable: the host does not answer.
pub const HOST_UNREACHABLE: u8 = 1;
/// Code of unreachable: nobody takes that protocol.
pub const PROTOCOL_UNREACHABLE: u8 = 2;
/// Code of unreachable: nobody listens on that port.
pub const PORT_UNREACHABLE: u8 = 3;
/// Code of unreachable: too big, and "don't fragment" is set.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Code of unreachable: the source route failed.
pub const SOURCE_ROUTE_FAILED: u8 = 5;
/// Code of unreachable: forbidden by a filter (RFC 1812 5.2.7.1).
pub const ADMIN_PROHIBITED: u8 = 13;
/// Code of time exceeded: TTL ran out in transit.
pub const TTL_EXCEEDED: u8 = 0;
/// Code of time exceeded: reassembly took too long.
pub const REASSEMBLY_EXCEEDED: u8 = 1;

/// Whether the type is an error that quotes a packet of a flow: unreachable, source quench, time exceeded, parameter
/// problem. A redirect quotes a packet too, but speaks to a neighbour on the link and is never forwarded.
#[inline]
pub const fn is_error(icmp_type: u8) -> bool {
    matches!(icmp_type, UNREACHABLE | SOURCE_QUENCH | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// A message of a query: a request, or the reply to one. Both carry the identifier that the asker chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// A request.
    Request,
    /// The reply to a request of this type.
    Reply(u8),
}

/// Which part of a query messages of this type are (RFC 792, RFC 950); `None` for those that are none.
#[inline]
pub const fn query(icmp_type: u8) -> Option<Query> {
    Some(match icmp_type {
        ECHO_REQUEST | TIMESTAMP | INFORMATION | ADDRESS_MASK => Query::Request,
        ECHO_REPLY => Query::Reply(ECHO_REQUEST),
        TIMESTAMP_REPLY => Query::Reply(TIMESTAMP),
        INFORMATION_REPLY => Query::Reply(INFORMATION),
        ADDRESS_MASK_REPLY => Query::Reply(ADDRESS_MASK),
        _ => return None,
    })
}

/// The type of the reply to a request of this type.
pub const fn reply_to(request: u8) -> Option<u8> {
    Some(match request {
        ECHO_REQUEST => ECHO_REPLY,
        TIMESTAMP => TIMESTAMP_REPLY,
        INFORMATION => INFORMATION_REPLY,
        ADDRESS_MASK => ADDRESS_MASK_REPLY,
        _ => return None,
    })
}

/// What stands in the place of the port at the end that is asked, so that queries of two types with one identifier are two
/// conversations: 0 for an echo, the request's type for others.
pub const fn asked_port(request: u8) -> u16 {
    if request == ECHO_REQUEST { 0 } else { request as u16 }
}

/// The type of request whose [`asked_port`] this is.
pub const fn asked_type(port: u16) -> u8 {
    if port == 0 { ECHO_REQUEST } else { port as u8 }
}

/// Whether the type is an echo request or reply.
#[inline]
pub const fn is_echo(icmp_type: u8) -> bool {
    matches!(icmp_type, ECHO_REQUEST | ECHO_REPLY)
}

impl<B: Borrow<[u8; LEN]>> Header<B> {
    /// The checksum that the message should have, with `data` behind these eight bytes.
    pub fn computed_checksum(&self, data: &[u8]) -> u16 {
        let mut header = Header(*self.0.borrow());
        header.set_checksum(0);
        Sum::of(&header.0).add_bytes(data).checksum()
    }
}

impl<B: BorrowMut<[u8; LEN]>> Header<B> {
    /// Writes the checksum of the message with `data` behind these eight bytes.
    pub fn fill_checksum(&mut self, data: &[u8]) {
        let checksum = self.computed_checksum(data);
        self.set_checksum(checksum);
    }
}

impl Header<[u8; LEN]> {
    /// A message of that type and code, with its checksum over `data`, which for an error is the quoted packet. `rest`
    /// is, for instance, the next-hop MTU of [`FRAGMENTATION_NEEDED`], or the pointer of a parameter problem, shifted
    /// left by 24.
    pub fn new(icmp_type: u8, code: u8, rest: u32, data: &[u8]) -> Self {
        let mut header = Self([0; LEN]);
        header.set_icmp_type(icmp_type);
        header.set_code(code);
        header.set_rest(rest);
        header.fill_checksum(data);
        header
    }

    /// The reply to an echo request, whose data it brings back.
    pub fn echo_reply<B: Borrow<[u8; LEN]>>(request: &Header<B>, data: &[u8]) -> Self {
        Self::new(ECHO_REPLY, 0, request.rest(), data)
    }
}

/// Whether a source address may be sent an ICMP error: not zero, loopback, multicast, broadcast or class E (RFC 1122
/// 3.2.2).
pub const fn may_be_told(source: Ipv4Addr) -> bool {
    let bits = source.to_bits();
    bits >> 24 != 0 && bits >> 24 != 127 && bits >> 28 < 0xe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_belong_together() {
        for kind in 0..=255 {
            match query(kind) {
                Some(Query::Request) => {
                    assert_eq!(reply_to(kind).map(query), Some(Some(Query::Reply(kind))));
                    assert_eq!(asked_type(asked_port(kind)), kind);
                }
                Some(Query::Reply(request)) => assert_eq!(reply_to(request), Some(kind)),
                None => assert_eq!(reply_to(kind), None),
            }
        }
        assert!((0..=255).all(|kind| query(kind).is_none() || !is_error(kind)));
    }

    #[test]
    fn who_may_be_told() {
        let told = |a, b, c, d| may_be_told(Ipv4Addr::new(a, b, c, d));
        assert!(told(192, 0, 2, 1) && told(10, 0, 0, 1) && told(223, 255, 255, 254) && told(1, 0, 0, 0));
        assert!(!told(0, 0, 0, 0) && !told(0, 1, 2, 3) && !told(127, 0, 0, 1));
        assert!(!told(224, 0, 0, 1) && !told(240, 0, 0, 1) && !told(255, 255, 255, 255));
    }
}
