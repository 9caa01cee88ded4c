//! Full, incremental and completed checksums against a plain sum, `etherparse`, `smoltcp`, and each other.

use crate::generate::{Network, packet, plain_sum};
use proptest::collection::vec;
use proptest::prelude::*;
use sluice_pkt::checksum::{Delta, Sum, complete_partial, verify_ipv4_header};
use sluice_pkt::parse::{Flags, Headers, L3};
use sluice_pkt::{icmpv6, ipv4, ipv6, udp};

/// The bytes of the transport packet, and the checksum that they should have.
fn transport(frame: &[u8], headers: &Headers) -> Option<(usize, u16)> {
    let l3 = usize::from(headers.l3_offset);
    let segment = &frame[headers.l4_offset.into()..headers.end.into()];
    let field = match headers.protocol {
        6 => 16,
        17 => 6,
        _ => return None,
    };
    let mut zeroed = segment.to_vec();
    zeroed[field..field + 2].fill(0);
    let addresses = if headers.l3 == L3::Ipv4 { &frame[l3 + 12..l3 + 20] } else { &frame[l3 + 8..l3 + 40] };
    let len = segment.len() as u16;
    let pseudo = [&[0, headers.protocol][..], &len.to_be_bytes()].concat();
    let sum = !plain_sum(&[addresses, &pseudo, &zeroed]);
    let sum = if headers.protocol == 17 && sum == 0 { 0xffff } else { sum };
    Some((usize::from(headers.l4_offset) + field, sum))
}

fn read(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

proptest! {
    #![proptest_config(crate::cases(10_000))]

    #[test]
    fn full_sums(bytes in prop_oneof![vec(any::<u8>(), 0..200), vec(Just(0xffu8), 0..200), vec(Just(0u8), 0..9)], split in 0..100usize) {
        let plain = plain_sum(&[&bytes]);
        prop_assert_eq!(Sum::of(&bytes).fold(), plain);
        prop_assert_eq!(Sum::of(&bytes).checksum(), !plain);
        let (front, back) = bytes.split_at((split * 2).min(bytes.len()));
        prop_assert_eq!(Sum::of(front).add_bytes(back).fold(), plain);
        prop_assert_eq!(verify_ipv4_header(&bytes), plain == 0xffff);
    }

    /// Whatever changes, the updated checksum is the one that a full computation gives, to the bit.
    #[test]
    fn incremental_equals_full(
        mut data in vec(prop_oneof![any::<u16>(), Just(0), Just(0xffff)], 20),
        words in vec((0..20usize, prop_oneof![any::<u16>(), Just(0), Just(0xffff)]), 0..6),
        address in prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)],
        long in prop_oneof![any::<[u8; 16]>(), Just([0; 16]), Just([0xff; 16])],
    ) {
        // A protocol number that never changes keeps the data from being all zero, as in every real packet.
        data.push(17);
        let bytes = |data: &[u16]| data.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
        let full = |data: &[u16]| !plain_sum(&[&bytes(data)]);
        let old = full(&data);
        let mut delta = Delta::NONE;
        for (at, new) in words {
            delta += Delta::of_u16(data[at], new);
            data[at] = new;
        }
        delta += Delta::of_u32(u32::from(data[2]) << 16 | u32::from(data[3]), address);
        (data[2], data[3]) = ((address >> 16) as u16, address as u16);
        let before = bytes(&data[8..16]);
        delta += Delta::of_bytes(&before, &long);
        for (word, new) in data[8..16].iter_mut().zip(long.chunks(2)) {
            *word = u16::from_be_bytes([new[0], new[1]]);
        }
        prop_assert_eq!(delta.apply(old), full(&data));
        prop_assert_eq!((-delta).apply(full(&data)), old);
        // The other zero in the field, which some senders write, comes to the same.
        if old == 0 {
            prop_assert_eq!(delta.apply(0xffff), full(&data));
        }
        prop_assert_eq!(delta.apply_udp(udp::checksum_field(old)), udp::checksum_field(full(&data)));
        prop_assert_eq!(delta.apply_udp(0), 0);
    }

    #[test]
    fn pseudo_headers_as_the_oracles_have_them(packet in packet()) {
        let (frame, headers) = packet.build();
        let (l3, l4, end) = (usize::from(headers.l3_offset), usize::from(headers.l4_offset), usize::from(headers.end));
        if headers.flags.has(Flags::FRAGMENT) {
            return Ok(());
        }
        let segment = &frame[l4..end];
        let (source, destination) = match headers.l3 {
            L3::Ipv4 => {
                let ip = ipv4::Header::at(&frame, l3).unwrap();
                let pseudo = ip.pseudo_header(headers.protocol, segment.len() as u16);
                if headers.protocol == 6 {
                    prop_assert_eq!(pseudo.add_bytes(segment).fold(), 0xffff);
                    let theirs = etherparse::TcpSlice::from_slice(segment).unwrap();
                    let octets = (ip.source().octets(), ip.destination().octets());
                    prop_assert_eq!(theirs.calc_checksum_ipv4(octets.0, octets.1).unwrap(), theirs.checksum());
                }
                (ip.source().into(), ip.destination().into())
            }
            L3::Ipv6 => {
                let ip = ipv6::Header::at(&frame, l3).unwrap();
                let pseudo = ip.pseudo_header(headers.protocol, segment.len() as u32);
                if matches!(headers.protocol, 6 | 58) {
                    prop_assert_eq!(pseudo.add_bytes(segment).fold(), 0xffff);
                }
                if headers.protocol == 58 {
                    prop_assert_eq!(icmpv6::checksum(ip.source(), ip.destination(), segment), 0);
                    let octets = (ip.source().octets(), ip.destination().octets());
                    prop_assert!(etherparse::Icmpv6Slice::from_slice(segment).unwrap().is_checksum_valid(octets.0, octets.1));
                }
                (ip.source().into(), ip.destination().into())
            }
            _ => return Ok(()),
        };
        match headers.protocol {
            6 => prop_assert!(smoltcp::wire::TcpPacket::new_unchecked(segment).verify_checksum(&source, &destination)),
            17 => {
                let udp = smoltcp::wire::UdpPacket::new_unchecked(segment);
                prop_assert!(udp.checksum() == 0 || udp.verify_checksum(&source, &destination));
            }
            _ => {}
        }
    }

    #[test]
    fn a_partial_checksum_is_completed_and_a_complete_one_left_alone(packet in packet()) {
        let (frame, headers) = packet.build();
        let has_checksum = matches!(packet.network, Network::V4(_) | Network::V6(_))
            && !headers.flags.has(Flags::FRAGMENT)
            && matches!(headers.protocol, 6 | 17);
        let mut complete = frame.clone();
        if !has_checksum {
            prop_assert!(!complete_partial(&mut complete, &headers));
            prop_assert_eq!(complete, frame);
            return Ok(());
        }
        let (at, right) = transport(&frame, &headers).unwrap();
        let none = read(&frame, at) == 0 && headers.protocol == 17;
        complete_partial(&mut complete, &headers);
        prop_assert_eq!(&complete, &frame);
        prop_assert!(none || read(&frame, at) == right);

        // What Linux leaves: the folded pseudo-header sum, not complemented.
        let l3 = usize::from(headers.l3_offset);
        let len = headers.end - headers.l4_offset;
        let bare = match headers.l3 {
            L3::Ipv4 => plain_sum(&[&frame[l3 + 12..l3 + 20], &[0, headers.protocol], &len.to_be_bytes()]),
            _ => plain_sum(&[&frame[l3 + 8..l3 + 40], &[0, headers.protocol], &len.to_be_bytes()]),
        };
        let mut partial = frame.clone();
        partial[at..at + 2].copy_from_slice(&bare.to_be_bytes());
        prop_assert!(complete_partial(&mut partial, &headers));
        prop_assert_eq!(read(&partial, at), right);
        partial[at..at + 2].copy_from_slice(&frame[at..at + 2]);
        prop_assert_eq!(partial, frame);
    }
}
