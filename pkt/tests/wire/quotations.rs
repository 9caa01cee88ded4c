//! A quoted packet reads as the packet itself did, wherever the quotation ends.

use crate::generate::{Network, packet};
use proptest::prelude::*;
use sluice_pkt::parse::{Flags, L3, parse, parse_quoted};

proptest! {
    #![proptest_config(crate::cases(3000))]

    #[test]
    fn a_quotation_reads_as_its_packet(packet in packet()) {
        let (Network::V4(_) | Network::V6(_)) = packet.network else { return Ok(()) };
        let (frame, _) = packet.build();
        let headers = parse(&frame).unwrap();
        let start = usize::from(headers.l3_offset);
        let l4 = usize::from(headers.l4_offset) - start;
        let whole = &frame[start..headers.end.into()];
        let later = headers.flags.has(Flags::LATER_FRAGMENT);
        let (needs, checksum) = match (headers.protocol, headers.l3) {
            _ if later => (0, None),
            (6, _) => (8, Some(16)),
            (17, _) => (8, Some(6)),
            (1, L3::Ipv4) | (58, L3::Ipv6) => (8, Some(2)),
            _ => (0, None),
        };
        for len in 0..=whole.len() {
            let quoted = parse_quoted(&whole[..len], headers.l3);
            prop_assert_eq!(quoted.is_some(), len >= l4 + needs, "{} bytes", len);
            let Some(quoted) = quoted else { continue };
            prop_assert_eq!(usize::from(quoted.l4_offset), l4);
            prop_assert_eq!(quoted.total_len as usize, whole.len());
            prop_assert_eq!((quoted.protocol, quoted.icmp_type), (headers.protocol, headers.icmp_type));
            prop_assert_eq!((quoted.src_port, quoted.dst_port), (headers.src_port, headers.dst_port));
            prop_assert_eq!(quoted.flags, headers.flags);
            prop_assert!(quoted.ip_checksum_ok);
            let field = checksum.map(|at| l4 + at).filter(|at| at + 2 <= len);
            prop_assert_eq!(quoted.l4_checksum.map(usize::from), field);
        }
    }

    #[test]
    fn a_wrong_quoted_header_checksum_is_told_and_no_reason_to_refuse(packet in packet(), wrong in 1..=0xffffu16) {
        let Network::V4(_) = packet.network else { return Ok(()) };
        let (frame, headers) = packet.build();
        let mut quoted = frame[headers.l3_offset.into()..].to_vec();
        let field = u16::from_be_bytes([quoted[10], quoted[11]]).wrapping_add(wrong);
        // All ones and zero are one number to the sum.
        prop_assume!(field.wrapping_sub(wrong) % 0xffff != field % 0xffff);
        quoted[10..12].copy_from_slice(&field.to_be_bytes());
        prop_assert!(!parse_quoted(&quoted, headers.l3).unwrap().ip_checksum_ok);
    }
}
