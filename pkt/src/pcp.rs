//! PCP, the Port Control Protocol (RFC 6887), version 2.

use std::borrow::Borrow;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The version.
pub const VERSION: u8 = 2;
/// UDP port of the server.
pub const PORT: u16 = 5351;
/// UDP port on which clients listen for what a server tells all.
pub const CLIENT_PORT: u16 = 5350;
/// The longest message, bytes.
pub const LONGEST: usize = 1100;
/// The shortest message that is answered, bytes.
pub const SHORTEST: usize = 4;
/// Messages and options are multiples of so many bytes.
pub const UNIT: usize = 4;

/// Bit of `opcode_field`: the message is a response.
pub const RESPONSE: u8 = 0x80;
/// Opcode: is the server there, and has it lost its mappings?
pub const ANNOUNCE: u8 = 0;
/// Opcode: let packets to an external port come in.
pub const MAP: u8 = 1;
/// Opcode: keep the mapping of a conversation.
pub const PEER: u8 = 2;

/// Option: for another host.
pub const THIRD_PARTY: u8 = 1;
/// Option: the suggested external address and port, or none.
pub const PREFER_FAILURE: u8 = 2;
/// Option: only packets from this remote peer.
pub const FILTER: u8 = 3;
/// From this code on, an option may be passed over.
pub const OPTIONAL: u8 = 128;

/// What becomes of a request (RFC 6887 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Result {
    /// Done.
    Success = 0,
    /// The version is none of the server's.
    UnsuppVersion = 1,
    /// Refused by policy, or the mapping is another's.
    NotAuthorized = 2,
    /// The request's form is wrong.
    MalformedRequest = 3,
    /// There is no such opcode here.
    UnsuppOpcode = 4,
    /// There is no such option here, and it is one that must be understood.
    UnsuppOption = 5,
    /// An option's form is wrong, or it does not belong there.
    MalformedOption = 6,
    /// The server or its device has no network.
    NetworkFailure = 7,
    /// No room, for now.
    NoResources = 8,
    /// The protocol cannot be mapped.
    UnsuppProtocol = 9,
    /// The host has as much as it may.
    UserExQuota = 10,
    /// The external address or port that was asked for cannot be had.
    CannotProvideExternal = 11,
    /// The source of the request is not whom it names as client.
    AddressMismatch = 12,
    /// More remote peers than are filtered for.
    ExcessiveRemotePeers = 13,
}

impl Result {
    /// For how long a client may take it that it gets the same answer again, seconds (RFC 6887 7.4).
    pub const fn error_lifetime(self) -> u32 {
        match self {
            Self::NetworkFailure | Self::NoResources | Self::UserExQuota | Self::CannotProvideExternal => 30,
            _ => 1800,
        }
    }
}

header! {
    /// The header of requests and responses. Some fields have one meaning in requests, and another in responses.
    Header: 24 bytes;
    /// Version.
    VERSION_FIELD @ 0: u8, version, set_version;
    /// [`RESPONSE`] and opcode.
    OPCODE_FIELD @ 1: u8, opcode_field, set_opcode_field;
    /// Result, in a response.
    RESULT @ 3: u8, result, set_result;
    /// Seconds: for which a mapping is asked for or made, or for which an error is likely to stay.
    LIFETIME @ 4: u32, lifetime, set_lifetime;
    /// The client's address, in a request; of IPv4 as an IPv4-mapped one.
    CLIENT @ 8: Ipv6Addr, client, set_client;
    /// Seconds since the server has had its mappings, in a response.
    EPOCH @ 8: u32, epoch, set_epoch;
}

/// The MAP opcode's data.
pub mod map {
    use std::net::Ipv6Addr;

    header! {
        /// What MAP has behind the header.
        Map: 36 bytes;
        /// Names the mapping, and is known to its client alone.
        NONCE @ 0: [u8; 12], nonce, set_nonce;
        /// IANA protocol number; 0 for all.
        PROTOCOL @ 12: u8, protocol, set_protocol;
        /// The port inside; 0 for all.
        INTERNAL_PORT @ 16: u16, internal_port, set_internal_port;
        /// The external port that is suggested or assigned.
        EXTERNAL_PORT @ 18: u16, external_port, set_external_port;
        /// The external address that is suggested or assigned; of IPv4 as an IPv4-mapped one.
        EXTERNAL @ 20: Ipv6Addr, external, set_external;
    }
}

/// What the PEER opcode has behind what MAP has, too.
pub mod peer {
    use std::net::Ipv6Addr;

    header! {
        /// The far end of a conversation.
        Peer: 20 bytes;
        /// Its port.
        PORT @ 0: u16, port, set_port;
        /// Its address; of IPv4 as an IPv4-mapped one.
        ADDRESS @ 4: Ipv6Addr, address, set_address;
    }
}

/// The FILTER option's data.
pub mod filter {
    use std::net::Ipv6Addr;

    header! {
        /// Who may send to a mapping.
        Filter: 20 bytes;
        /// Bits of the prefix; 96 more than those of an IPv4 prefix. 0 takes all filters away.
        LENGTH @ 1: u8, length, set_length;
        /// Remote port; 0 for all.
        PORT @ 2: u16, port, set_port;
        /// Remote address; of IPv4 as an IPv4-mapped one.
        PEER @ 4: Ipv6Addr, peer, set_peer;
    }
}

impl<B: Borrow<[u8; LEN]>> Header<B> {
    /// The opcode.
    #[inline]
    pub fn opcode(&self) -> u8 {
        self.opcode_field() & !RESPONSE
    }

    /// Whether it is a response.
    #[inline]
    pub fn is_response(&self) -> bool {
        self.opcode_field() & RESPONSE != 0
    }
}

impl Header<[u8; LEN]> {
    /// The header of a response.
    pub fn response(opcode: u8, result: Result, lifetime: u32, epoch: u32) -> Self {
        let mut header = Self([0; LEN]);
        header.set_version(VERSION);
        header.set_opcode_field(opcode | RESPONSE);
        header.set_result(result as u8);
        header.set_lifetime(lifetime);
        header.set_epoch(epoch);
        header
    }
}

/// An option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt<'a> {
    /// What it is.
    pub code: u8,
    /// Its data, without padding.
    pub data: &'a [u8],
    /// All of it, header and padding included.
    pub bytes: &'a [u8],
}

/// An option whose length is more than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOption;

/// The options of a message, in order. The list ends after an error.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(pub &'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = std::result::Result<Opt<'a>, BadOption>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        let &[code, _, high, low, ..] = bytes else {
            return (!bytes.is_empty()).then_some(Err(BadOption));
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let end = UNIT + len.next_multiple_of(UNIT);
        let (Some(data), Some(whole)) = (bytes.get(UNIT..UNIT + len), bytes.get(..end)) else {
            return Some(Err(BadOption));
        };
        self.0 = bytes.get(end..).unwrap_or_default();
        Some(Ok(Opt { code, data, bytes: whole }))
    }
}

/// An IPv4 address as PCP has it.
pub const fn mapped(address: Ipv4Addr) -> Ipv6Addr {
    address.to_ipv6_mapped()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_padded_and_end_with_what_is_wrong() {
        let bytes = [2, 0, 0, 0, 200, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 3, 0, 0, 20, 9];
        let all: Vec<_> = Options(&bytes).collect();
        assert_eq!(all[0], Ok(Opt { code: PREFER_FAILURE, data: &[], bytes: &bytes[..4] }));
        assert_eq!(all[1], Ok(Opt { code: 200, data: &[1, 2, 3, 4, 5], bytes: &bytes[4..16] }));
        assert_eq!((all[2], all.len()), (Err(BadOption), 3));
        assert_eq!(Options(&[1, 0, 0]).collect::<Vec<_>>(), [Err(BadOption)]);
        assert_eq!(Options(&[]).next(), None);
        // Its padding is cut off.
        assert_eq!(Options(&[128, 0, 0, 1, 7]).next(), Some(Err(BadOption)));
    }

    #[test]
    fn a_response_says_result_and_epoch() {
        let header = Header::response(MAP, Result::NoResources, 30, 0x0102_0304);
        let mut expected = [0; LEN];
        expected[..12].copy_from_slice(&[2, 0x81, 0, 8, 0, 0, 0, 30, 1, 2, 3, 4]);
        assert_eq!(header.0, expected);
        assert!(header.is_response() && header.opcode() == MAP);
        assert_eq!(
            (Result::NoResources.error_lifetime(), Result::NotAuthorized.error_lifetime()),
            (30, 1800)
        );
    }
}
