//! The differentiated services field (RFC 2474), with explicit congestion notification in its two low bits (RFC 3168):
//! IPv4's second byte, IPv6's traffic class.

use crate::checksum::Delta;
use crate::{ipv4, ipv6};

/// The bits of ECN.
const ECN: u8 = 0b11;
/// Congestion was experienced.
const CE: u8 = 0b11;

/// Gives the packet that begins with `packet`, IPv4 or IPv6, another code point, of which the low six bits count. ECN stays
/// as it is. Anything else is left alone.
#[inline]
pub fn set_dscp(packet: &mut [u8], dscp: u8) {
    change(packet, |field| Some(dscp << 2 | field & ECN));
}

/// Says in the packet that congestion was experienced. False, and nothing changed, if its sender does not understand that
/// (RFC 3168 5).
#[inline]
pub fn set_congested(packet: &mut [u8]) -> bool {
    change(packet, |field| (field & ECN != 0).then_some(field | CE))
}

/// The code point of the packet that begins with `packet`.
#[inline]
pub fn dscp(packet: &[u8]) -> Option<u8> {
    let field = match packet.first()? >> 4 {
        4 => ipv4::Header::at(packet, 0)?.dscp_ecn(),
        6 => ipv6::Header::at(packet, 0)?.traffic_class(),
        _ => return None,
    };
    Some(field >> 2)
}

#[inline]
fn change(packet: &mut [u8], new: impl Fn(u8) -> Option<u8>) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => {
            let Some(mut ip) = ipv4::Header::at_mut(packet, 0) else { return false };
            let old = ip.dscp_ecn();
            let Some(new) = new(old) else { return false };
            ip.set_dscp_ecn(new);
            // The field is the low byte of the first word, whose high byte does not change.
            let checksum = Delta::of_u16(old.into(), new.into()).apply(ip.checksum());
            ip.set_checksum(checksum);
            true
        }
        Some(6) => {
            let Some(mut ip) = ipv6::Header::at_mut(packet, 0) else { return false };
            let Some(new) = new(ip.traffic_class()) else { return false };
            ip.set_traffic_class(new);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn packets(field: u8) -> [Vec<u8>; 2] {
        let mut v4 =
            ipv4::Header::new(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 7), 17, 64, 8);
        v4.set_dscp_ecn(field);
        v4.fill_checksum();
        let mut v6 = ipv6::Header::new(Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, 17, 64, 8);
        v6.set_traffic_class(field);
        v6.set_version_class_label(v6.version_class_label() | 0xabcde);
        [v4.0.to_vec(), v6.0.to_vec()]
    }

    /// proves: RFC 2474 3
    #[test]
    fn a_code_point_is_set_and_all_else_stays() {
        for field in 0..=255 {
            for dscp in [0, 1, 46, 63] {
                let mut marked = packets(field);
                marked.iter_mut().for_each(|packet| set_dscp(packet, dscp));
                assert_eq!(marked, packets(dscp << 2 | field & 3), "{field} {dscp}");
                assert!(marked.iter().all(|packet| super::dscp(packet) == Some(dscp)));
            }
        }
    }

    /// proves: RFC 3168 5
    #[test]
    fn only_a_sender_that_understands_ecn_is_told_of_congestion() {
        for field in 0..=255 {
            let mut marked = packets(field);
            let told = marked.iter_mut().map(|packet| set_congested(packet)).collect::<Vec<_>>();
            let understands = field & 3 != 0;
            assert_eq!(told, [understands; 2]);
            assert_eq!(marked, packets(if understands { field | 3 } else { field }));
        }
    }

    #[test]
    fn what_is_no_packet_is_left_alone() {
        for mut bytes in [vec![], vec![0x45], vec![0x60; 39], vec![0x20; 40]] {
            let before = bytes.clone();
            set_dscp(&mut bytes, 46);
            assert!(!set_congested(&mut bytes) && dscp(&bytes).is_none());
            assert_eq!(bytes, before);
        }
    }
}
