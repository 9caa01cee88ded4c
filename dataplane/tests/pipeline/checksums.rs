//! Checksums of what leaves: right where they were right, wrong by as much where they were wrong.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use crate::lab::{LAN, Lab, SERVER, TRUNK, WAN, host, snapshot};
use crate::packets::{self, End, Ip, checksums_are_right, ends, ping, tcp, udp};

/// By how much the transport checksum is off, modulo 65,535 (one's complement has two zeros).
fn error(ip: &[u8]) -> u32 {
    let segment = &ip[20..];
    let mut sum = 0;
    for pair in segment.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
    }
    if ip[9] != packets::ICMP {
        sum += ip[12..20].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum::<u32>();
        sum += u32::from(ip[9]) + segment.len() as u32;
    }
    sum % 65_535
}

fn field(protocol: u8) -> usize {
    match protocol {
        packets::TCP => 36,
        packets::UDP => 26,
        _ => 22,
    }
}

fn segment(protocol: u8, from: End, to: End, data: &[u8]) -> Vec<u8> {
    match protocol {
        packets::TCP => tcp(from, to, packets::ACK, data),
        packets::UDP => udp(from, to, data),
        _ => packets::icmp(from.0, to.0, 8, 0, [(from.1 >> 8) as u8, from.1 as u8, 0, 1], data),
    }
}

proptest! {
    #![proptest_config(crate::lab::cases(300))]

    #[test]
    fn an_error_of_the_transport_checksum_is_carried_through(
        protocol in prop::sample::select(vec![packets::TCP, packets::UDP, packets::ICMP]),
        from in (2..250u8, any::<u16>()),
        to in (any::<u8>(), 2000..u16::MAX),
        data in prop::collection::vec(any::<u8>(), 0..40),
        damage in prop_oneof![Just(None), any::<u16>().prop_map(Some)],
        back in any::<bool>(),
        port in prop::sample::select(vec![LAN, TRUNK]),
    ) {
        let inside = if port == LAN { host(from.0) } else { Ipv4Addr::new(172, 16, 0, from.0) };
        let to = (Ipv4Addr::new(198, 51, 100, to.0), to.1);
        let mut lab = Lab::new(snapshot());
        let first = segment(protocol, (inside, from.1), to, &data);
        let (mut port, mut sent) = (port, first.clone());
        if back {
            let (_, outside) = lab.forward(port, &first);
            let (source, destination) = ends(&outside);
            port = WAN;
            sent = segment(protocol, destination, source, &data);
            if protocol == packets::ICMP {
                sent = packets::icmp(to.0, source.0, 0, 0, [(source.1 >> 8) as u8, source.1 as u8, 0, 1], &data);
            }
        }
        if let Some(damage) = damage {
            sent[field(protocol)..][..2].copy_from_slice(&damage.to_be_bytes());
        }
        let (_, left) = lab.forward(port, &sent);
        let (header, transport) = checksums_are_right(&left);
        prop_assert!(header);
        if protocol == packets::UDP && damage == Some(0) {
            prop_assert_eq!(&left[26..28], &[0, 0]);
        } else {
            prop_assert_eq!(error(&left), error(&sent));
            prop_assert_eq!(transport, checksums_are_right(&sent).1);
            prop_assert!(protocol != packets::UDP || left[26..28] != [0, 0]);
        }
        lab.close();
    }
}

#[test]
fn a_header_with_options_keeps_a_right_checksum() {
    let mut lab = Lab::new(snapshot());
    let (from, to) = ((host(9), 4000), (SERVER, 53));
    for options in [vec![1, 1, 1, 0], vec![148, 4, 0, 0], vec![7, 39, 4].into_iter().chain([0; 37]).collect()]
    {
        let ip = Ip { options, ..Ip::new(from.0, to.0, packets::UDP) };
        let (_, left) = lab.forward(LAN, &ip.packet(&packets::udp_segment(from, to, b"data")));
        assert_eq!(checksums_are_right(&left), (true, true));
    }
    lab.forward(LAN, &ping(host(9), SERVER, 0));
    lab.close();
}
