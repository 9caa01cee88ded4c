//! NAT-PMP, the NAT Port Mapping Protocol (RFC 6886): what PCP has grown out of, on the same port. Its version is 0.

use std::net::Ipv4Addr;

/// The version.
pub const VERSION: u8 = 0;
/// Opcode: which external address is it?
pub const EXTERNAL_ADDRESS: u8 = 0;
/// Opcode: map a UDP port.
pub const MAP_UDP: u8 = 1;
/// Opcode: map a TCP port.
pub const MAP_TCP: u8 = 2;
/// What is added to a request's opcode in its response.
pub const RESPONSE: u8 = 128;
/// Bytes of the shortest request.
pub const SHORTEST: usize = 2;

/// Result: done.
pub const SUCCESS: u16 = 0;
/// Result: not the gateway's version.
pub const UNSUPPORTED_VERSION: u16 = 1;
/// Result: refused.
pub const NOT_AUTHORIZED: u16 = 2;
/// Result: the gateway has no external address.
pub const NETWORK_FAILURE: u16 = 3;
/// Result: no room.
pub const OUT_OF_RESOURCES: u16 = 4;
/// Result: there is no such opcode.
pub const UNSUPPORTED_OPCODE: u16 = 5;

/// A request for a mapping.
pub mod map {
    header! {
        /// A request to map a port.
        Request: 12 bytes;
        /// Version; 0.
        VERSION @ 0: u8, version, set_version;
        /// [`MAP_UDP`](super::MAP_UDP) or [`MAP_TCP`](super::MAP_TCP).
        OPCODE @ 1: u8, opcode, set_opcode;
        /// The port inside; 0 and a lifetime of 0 for all.
        INTERNAL_PORT @ 4: u16, internal_port, set_internal_port;
        /// The external port that would be welcome; 0 for any.
        EXTERNAL_PORT @ 6: u16, external_port, set_external_port;
        /// Seconds; 0 ends the mapping.
        LIFETIME @ 8: u32, lifetime, set_lifetime;
    }
}

/// A response about a mapping.
pub mod mapped {
    header! {
        /// A response about a mapping. Its first [`SHORT`](super::SHORT) bytes are a response to what there is no opcode for.
        Response: 16 bytes;
        /// Version; 0.
        VERSION @ 0: u8, version, set_version;
        /// The request's opcode with [`RESPONSE`](super::RESPONSE).
        OPCODE @ 1: u8, opcode, set_opcode;
        /// Result.
        RESULT @ 2: u16, result, set_result;
        /// Seconds since the gateway has had its mappings.
        EPOCH @ 4: u32, epoch, set_epoch;
        /// The port inside.
        INTERNAL_PORT @ 8: u16, internal_port, set_internal_port;
        /// The external port.
        EXTERNAL_PORT @ 10: u16, external_port, set_external_port;
        /// Seconds for which it is mapped.
        LIFETIME @ 12: u32, lifetime, set_lifetime;
    }
}

/// A response about the external address.
pub mod address {
    use std::net::Ipv4Addr;

    header! {
        /// A response about the external address.
        Response: 12 bytes;
        /// Version; 0.
        VERSION @ 0: u8, version, set_version;
        /// [`EXTERNAL_ADDRESS`](super::EXTERNAL_ADDRESS) with [`RESPONSE`](super::RESPONSE).
        OPCODE @ 1: u8, opcode, set_opcode;
        /// Result.
        RESULT @ 2: u16, result, set_result;
        /// Seconds since the gateway has had its mappings.
        EPOCH @ 4: u32, epoch, set_epoch;
        /// The external address.
        EXTERNAL @ 8: Ipv4Addr, external, set_external;
    }
}

/// Bytes of a response that only says why not.
pub const SHORT: usize = 8;

impl mapped::Response<[u8; mapped::LEN]> {
    /// The response to a request with this opcode; ports and lifetime are 0.
    pub fn new(opcode: u8, result: u16, epoch: u32) -> Self {
        let mut response = Self([0; mapped::LEN]);
        response.set_opcode(opcode | RESPONSE);
        response.set_result(result);
        response.set_epoch(epoch);
        response
    }
}

impl address::Response<[u8; address::LEN]> {
    /// The external address; unspecified if the result says why there is none.
    pub fn new(result: u16, epoch: u32, external: Ipv4Addr) -> Self {
        let mut response = Self([0; address::LEN]);
        response.set_opcode(EXTERNAL_ADDRESS | RESPONSE);
        response.set_result(result);
        response.set_epoch(epoch);
        response.set_external(external);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_as_in_the_rfc() {
        let address = address::Response::new(SUCCESS, 0x0102, Ipv4Addr::new(203, 0, 113, 2));
        assert_eq!(address.0, [0, 128, 0, 0, 0, 0, 1, 2, 203, 0, 113, 2]);
        let mut mapped = mapped::Response::new(MAP_TCP, SUCCESS, 1);
        mapped.set_internal_port(80);
        mapped.set_external_port(8080);
        mapped.set_lifetime(3600);
        assert_eq!(mapped.0, [0, 130, 0, 0, 0, 0, 0, 1, 0, 80, 0x1f, 0x90, 0, 0, 0x0e, 0x10]);
        let refused = mapped::Response::new(77, UNSUPPORTED_OPCODE, 1);
        assert_eq!(refused.0[..SHORT], [0, 205, 0, 5, 0, 0, 0, 1]);
    }
}
