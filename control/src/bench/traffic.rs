//! The traffic: hosts of the inside, some flows each, to servers outside. Addresses are those of RFC 2544 and RFC 1918.

use std::net::Ipv4Addr;

use sluice_dataplane::table::hash::mix;
use sluice_pkt::checksum::Sum;
use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::{ipv4, udp};

use super::options::{Order, PipelineOptions};

/// The gateway's MAC address on the inside.
pub(super) const GATEWAY_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 1]);
/// The inside's prefix.
pub(super) const INSIDE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 0, 0), 8);
/// The prefix of the servers.
pub(super) const SERVERS: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 16);
/// Ports that the servers listen on: DNS, NTP, QUIC, STUN.
pub(super) const SERVER_PORTS: [u16; 4] = [53, 123, 443, 3478];

const HOST_MAC: Mac = Mac([0x02, 0, 0, 0, 1, 1]);
/// The first host; the gateway is the one before it.
const FIRST_HOST: u32 = INSIDE.0.to_bits() + 2;
const FLOWS_PER_HOST: u32 = 16;
/// Where hosts take their source ports from, as Linux does.
const EPHEMERAL: (u32, u32) = (32_768, 60_999);
/// Between the ports of a host's flows.
const PORT_STEP: u32 = 61;
/// SplitMix64's increment.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The headers of each flow's packets.
pub(super) fn templates(options: &PipelineOptions) -> Vec<Vec<u8>> {
    (0..options.flows).map(|flow| template(flow, options)).collect()
}

fn template(flow: u32, options: &PipelineOptions) -> Vec<u8> {
    let host = flow / FLOWS_PER_HOST;
    let of_host = mix(options.seed ^ u64::from(host), GAMMA) as u32;
    let of_flow = mix(options.seed ^ u64::from(flow) << 32, GAMMA);
    let offset = (of_host >> 8).wrapping_add(flow % FLOWS_PER_HOST * PORT_STEP);
    let source_port = EPHEMERAL.0 + offset % (EPHEMERAL.1 - EPHEMERAL.0 + 1);
    let source = Ipv4Addr::from_bits(FIRST_HOST + host);
    let server = Ipv4Addr::from_bits(SERVERS.0.to_bits() | of_flow as u32 & 0xffff);

    let ip_len = options.frame_len() - ethernet::LEN as u16;
    let udp_len = ip_len - ipv4::LEN as u16;
    let ethernet = ethernet::Header::new(GATEWAY_MAC, HOST_MAC, ethernet::IPV4);
    let ip = ipv4::Header::new(source, server, ipv4::UDP, 64, udp_len);
    let mut udp = udp::Header([0; udp::LEN]);
    udp.set_source_port(source_port as u16);
    udp.set_destination_port(SERVER_PORTS[(of_flow >> 32) as usize % SERVER_PORTS.len()]);
    udp.set_datagram_len(udp_len);
    // The payload is all zero.
    let sum = ip.pseudo_header(ipv4::UDP, udp_len).add_bytes(&udp.0);
    udp.set_checksum(udp::checksum_field(Sum::checksum(sum)));
    [&ethernet.0[..], &ip.0, &udp.0].concat()
}

/// The order in which the flows' packets come, round after round.
pub(super) fn order(options: &PipelineOptions) -> Vec<u32> {
    let mut order = sequence(options);
    if options.order == Order::Random {
        // Fisher and Yates.
        for i in (1..order.len()).rev() {
            let draw = mix(options.seed.wrapping_add((i as u64).wrapping_mul(GAMMA)), GAMMA);
            order.swap(i, (draw % (i as u64 + 1)) as usize);
        }
    }
    order
}

/// One flow after the other.
pub(super) fn sequence(options: &PipelineOptions) -> Vec<u32> {
    (0..options.flows).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::{Args, FromArgMatches};
    use sluice_pkt::parse::parse;

    use super::*;

    fn options(flows: u32) -> PipelineOptions {
        let command = PipelineOptions::augment_args(clap::Command::new("bench"));
        let matches = command.get_matches_from(["bench", "--flows", &flows.to_string()]);
        PipelineOptions::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn flows_are_distinct_and_valid() {
        let options = options(10_000);
        let mut seen = HashSet::new();
        for mut packet in templates(&options) {
            packet.resize(60, 0);
            let headers = parse(&packet).unwrap();
            assert_eq!((headers.protocol, headers.end), (ipv4::UDP, 60));
            let ip = ipv4::Header::at(&packet, 14).unwrap();
            let sum = ip.pseudo_header(ipv4::UDP, 26).add_bytes(&packet[34..]);
            assert_eq!(sum.fold(), 0xffff);
            assert!(seen.insert((ip.source(), headers.src_port)), "an inside endpoint twice");
        }
    }

    #[test]
    fn the_order_is_a_permutation_and_the_seed_s() {
        let mut options = options(1000);
        let first = order(&options);
        assert_eq!(order(&options), first);
        options.seed += 1;
        assert_ne!(order(&options), first);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert!(sorted != first && sorted == sequence(&options));
    }
}
