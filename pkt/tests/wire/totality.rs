//! No bytes at all make the parser panic or point outside of them, and nothing else that takes outside bytes either.

use crate::generate::packet;
use crate::mutate::mutant;
use proptest::collection::vec;
use proptest::prelude::*;
use sluice_pkt::checksum::complete_partial;
use sluice_pkt::ipv4::Options;
use sluice_pkt::parse::{Flags, Headers, L3, ParseError, parse, parse_head, parse_quoted};

/// What holds of every frame, whatever the bytes.
fn in_bounds(frame: &[u8]) -> Result<(), TestCaseError> {
    let Ok(headers) = parse(frame) else { return Ok(()) };
    prop_assert!(headers.tags <= 2);
    prop_assert_eq!(headers.l3_offset, 14 + 4 * u16::from(headers.tags));
    prop_assert!(headers.l3_offset <= headers.l4_offset);
    prop_assert!(headers.l4_offset <= headers.end);
    prop_assert!(usize::from(headers.end) <= frame.len());
    if headers.flags.has(Flags::LATER_FRAGMENT) {
        prop_assert!(headers.flags.has(Flags::FRAGMENT) && !headers.flags.has(Flags::PORTS));
    }
    prop_assert!(!(headers.flags.has(Flags::PORTS) && headers.flags.has(Flags::ICMP_ERROR)));
    Ok(())
}

/// Feeds the bytes to all that reads outside bytes.
fn feed(bytes: &[u8]) -> Result<(), TestCaseError> {
    in_bounds(bytes)?;
    for l3 in [L3::Ipv4, L3::Ipv6, L3::Arp, L3::Other] {
        if let Some(quoted) = parse_quoted(bytes, l3) {
            prop_assert!(usize::from(quoted.l4_offset) <= bytes.len());
            prop_assert!(quoted.l4_checksum.is_none_or(|at| usize::from(at) + 2 <= bytes.len()));
        }
    }
    prop_assert!(Options(bytes).count() <= bytes.len());
    Ok(())
}

/// Random bytes that get past Ethernet and the version field more often than one time in a million.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let starts: &[&[u8]] =
        &[&[8, 0, 0x45], &[8, 0, 0x4f], &[0x86, 0xdd, 0x60], &[0x81, 0], &[0x88, 0xa8], &[8, 6, 0, 1], &[]];
    let start = proptest::sample::select(starts);
    (any::<[u8; 12]>(), start, vec(any::<u8>(), 0..120))
        .prop_map(|(macs, start, rest)| [&macs[..], start, &rest[..]].concat())
}

fn any_headers() -> impl Strategy<Value = Headers> {
    let l3 = proptest::sample::select(&[L3::Ipv4, L3::Ipv6, L3::Arp, L3::Other][..]);
    let protocol = proptest::sample::select(&[6u8, 17, 1, 58, 99][..]);
    let offset = || prop_oneof![0..100u16, any::<u16>()];
    (l3, protocol, offset(), offset(), offset(), any::<u16>()).prop_map(
        |(l3, protocol, l3_offset, l4_offset, end, flags)| Headers {
            l3,
            protocol,
            l3_offset,
            l4_offset,
            end,
            flags: Flags(flags & !1),
            ..Headers::default()
        },
    )
}

proptest! {
    #![proptest_config(crate::cases(20_000))]

    #[test]
    fn on_noise(bytes in noise(), start in 0..30usize) {
        feed(&bytes)?;
        feed(&bytes[start.min(bytes.len())..])?;
    }

    #[test]
    fn on_mutants(frame in mutant()) {
        feed(&frame)?;
        feed(frame.get(14..).unwrap_or_default())?;
    }

    #[test]
    fn completion_with_headers_of_another_frame(mut frame in noise(), headers in any_headers()) {
        let before = frame.clone();
        if !complete_partial(&mut frame, &headers) {
            prop_assert_eq!(frame, before);
        }
    }
}

proptest! {
    #![proptest_config(crate::cases(1000))]

    #[test]
    fn on_every_prefix_of_a_valid_packet(packet in packet()) {
        let (frame, expected) = packet.build();
        for len in 0..frame.len() {
            feed(&frame[..len])?;
            let refused = parse(&frame[..len]).is_err();
            // A prefix loses nothing but padding, or it is refused; 802.3 and unknown EtherTypes have no length to hold.
            let whole = len >= expected.end.into() || expected.l3 == L3::Other && len >= expected.l3_offset.into();
            prop_assert_eq!(refused, !whole, "{} of {}", len, frame.len());
        }
    }
}

#[test]
fn frames_that_16_bit_offsets_cannot_reach_into() {
    let mut frame = vec![0; 14 + 65_535];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0xff, 0xff]);
    assert_eq!(parse(&frame), Err(ParseError::Ipv4TotalLength));
    // The longest that fits gets as far as its checksum.
    let mut longest = frame[..65_535].to_vec();
    longest[16..18].copy_from_slice(&(65_535u16 - 14).to_be_bytes());
    assert_eq!(parse(&longest), Err(ParseError::Ipv4Checksum));
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&0xffd0u16.to_be_bytes());
    assert_eq!(parse(&frame), Err(ParseError::Ipv6PayloadLength));
    let other = parse_head(&[0; 14], 100_000).unwrap();
    assert_eq!((other.l3, other.end), (L3::Other, u16::MAX));
}
