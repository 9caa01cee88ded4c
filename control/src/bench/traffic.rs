//! The traffic: hosts of the inside, some flows each, to servers outside, and their replies. Addresses are those of RFC 2544,
//! RFC 1918 and RFC 3849.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use sluice_dataplane::session::{Direction, KeyFacts, Sessions};
use sluice_dataplane::table::hash::mix;
use sluice_pkt::checksum::Sum;
use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::{ipv4, ipv6, tcp, udp};

use super::churn;
use super::options::{Order, PipelineOptions, Protocol};

/// The gateway's MAC address on the inside.
pub(super) const GATEWAY_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 1]);
/// The gateway's MAC address on the outside.
pub(super) const WAN_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 2]);
/// The inside's prefix.
pub(super) const INSIDE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 0, 0), 8);
/// The same for IPv6.
pub(super) const INSIDE6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0), 48);
/// The prefix of the servers.
pub(super) const SERVERS: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 16);
/// The same for IPv6.
pub(super) const SERVERS6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0), 48);
/// Ports that the servers listen on: DNS, NTP, QUIC, STUN.
pub(super) const SERVER_PORTS: [u16; 4] = [53, 123, 443, 3478];

const HOST_MAC: Mac = Mac([0x02, 0, 0, 0, 1, 1]);
const UPLINK_MAC: Mac = Mac([0x02, 0, 0, 0, 1, 2]);
/// The first host.
const FIRST_HOST: u32 = INSIDE.0.to_bits() + 2;
const FLOWS_PER_HOST: u32 = 16;
/// Where hosts take their source ports from, as Linux does.
const EPHEMERAL: (u32, u32) = (32_768, 60_999);
/// Between the ports of a host's flows.
const PORT_STEP: u32 = 61;
/// Packets at least after which draws by Zipf's law repeat.
const ZIPF_ROUND: usize = 1 << 18;
/// SplitMix64's increment.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Source and destination address.
#[derive(Clone, Copy)]
enum Addresses {
    V4([Ipv4Addr; 2]),
    V6([Ipv6Addr; 2]),
}

/// The headers of each flow's packets, one after the other.
pub(super) fn templates(options: &PipelineOptions) -> Vec<u8> {
    templates_of(0..options.flows, options)
}

/// The same of the flows that come and go beside them.
pub(super) fn new_templates(options: &PipelineOptions) -> Vec<u8> {
    templates_of(options.flows..options.flows + churn::room(options) as u32, options)
}

fn templates_of(flows: Range<u32>, options: &PipelineOptions) -> Vec<u8> {
    let mut headers = Vec::with_capacity(flows.len() * options.headers_len());
    for flow in flows {
        let (addresses, ports) = ends(flow, options);
        put(&mut headers, [GATEWAY_MAC, HOST_MAC], addresses, ports, options);
    }
    headers
}

/// The headers of the replies to all flows, whose sessions stand.
pub(super) fn replies(sessions: &Sessions, options: &PipelineOptions) -> Vec<u8> {
    let mut headers = Vec::with_capacity(options.flows as usize * options.headers_len());
    let macs = [WAN_MAC, UPLINK_MAC];
    for (_, key, _) in sessions.v4.iter().filter(|(_, _, flow)| flow.direction() == Direction::Reply) {
        let (ends, facts) = KeyFacts::of4(*key);
        put(&mut headers, macs, Addresses::V4(ends.map(Ipv4Addr::from_bits)), facts.ports, options);
    }
    for (_, key, _) in sessions.v6.iter().filter(|(_, _, flow)| flow.direction() == Direction::Reply) {
        let (ends, facts) = KeyFacts::of6(*key);
        put(&mut headers, macs, Addresses::V6(ends.map(Ipv6Addr::from_bits)), facts.ports, options);
    }
    headers
}

/// Addresses and ports of a flow.
fn ends(flow: u32, options: &PipelineOptions) -> (Addresses, (u16, u16)) {
    let host = flow / FLOWS_PER_HOST;
    let of_host = mix(options.seed ^ u64::from(host), GAMMA) as u32;
    let of_flow = mix(options.seed ^ u64::from(flow) << 32, GAMMA);
    let offset = (of_host >> 8).wrapping_add(flow % FLOWS_PER_HOST * PORT_STEP);
    let source_port = EPHEMERAL.0 + offset % (EPHEMERAL.1 - EPHEMERAL.0 + 1);
    let server = of_flow as u32 & 0xffff;
    let addresses = if options.family == 6 {
        let [inside, outside] = [INSIDE6.0, SERVERS6.0].map(Ipv6Addr::to_bits);
        let (host, server) = (inside | u128::from(host + 2), outside | u128::from(server));
        Addresses::V6([host, server].map(Ipv6Addr::from_bits))
    } else {
        Addresses::V4([FIRST_HOST + host, SERVERS.0.to_bits() | server].map(Ipv4Addr::from_bits))
    };
    (addresses, (source_port as u16, SERVER_PORTS[(of_flow >> 32) as usize % SERVER_PORTS.len()]))
}

/// Appends the headers of a packet. Its payload is all zero.
fn put(
    to: &mut Vec<u8>,
    [destination, source]: [Mac; 2],
    addresses: Addresses,
    (source_port, destination_port): (u16, u16),
    options: &PipelineOptions,
) {
    let protocol = options.protocol.number();
    let ip_len = options.frame_len() - ethernet::LEN as u16;
    let len;
    let pseudo = match addresses {
        Addresses::V4([from, towards]) => {
            len = ip_len - ipv4::LEN as u16;
            let ip = ipv4::Header::new(from, towards, protocol, 64, len);
            to.extend(ethernet::Header::new(destination, source, ethernet::IPV4).0);
            to.extend(ip.0);
            ip.pseudo_header(protocol, len)
        }
        Addresses::V6([from, towards]) => {
            len = ip_len - ipv6::LEN as u16;
            let ip = ipv6::Header::new(from, towards, protocol, 64, len);
            to.extend(ethernet::Header::new(destination, source, ethernet::IPV6).0);
            to.extend(ip.0);
            ip.pseudo_header(protocol, len.into())
        }
    };
    match options.protocol {
        Protocol::Udp => {
            let mut udp = udp::Header([0; udp::LEN]);
            udp.set_source_port(source_port);
            udp.set_destination_port(destination_port);
            udp.set_datagram_len(len);
            udp.set_checksum(udp::checksum_field(Sum::checksum(pseudo.add_bytes(&udp.0))));
            to.extend(udp.0);
        }
        Protocol::Tcp => {
            let mut tcp = tcp::Header([0; tcp::LEN]);
            tcp.set_source_port(source_port);
            tcp.set_destination_port(destination_port);
            tcp.set_data_offset((tcp::LEN as u8 / 4) << 4);
            tcp.set_flags(tcp::ACK);
            tcp.set_checksum(Sum::checksum(pseudo.add_bytes(&tcp.0)));
            to.extend(tcp.0);
        }
    }
}

/// The order in which the flows' packets come, round after round.
pub(super) fn order(options: &PipelineOptions) -> Vec<u32> {
    let mut order = sequence(options);
    let draw = |i: usize| mix(options.seed.wrapping_add((i as u64).wrapping_mul(GAMMA)), GAMMA);
    if options.order != Order::Seq {
        // Fisher and Yates.
        for i in (1..order.len()).rev() {
            order.swap(i, (draw(i) % (i as u64 + 1)) as usize);
        }
    }
    if options.order == Order::Zipf {
        // The rank below which a share x of the packets lies is about n to the power of x.
        let (n, count) = (f64::from(options.flows), order.len().max(ZIPF_ROUND));
        let rank = |i: usize| n.powf((draw(i) >> 11) as f64 / (1u64 << 53) as f64) as usize;
        return (0..count).map(|i| order[(rank(i) - 1).min(order.len() - 1)]).collect();
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

    fn options(args: &[&str]) -> PipelineOptions {
        let command = PipelineOptions::augment_args(clap::Command::new("bench"));
        let matches = command.get_matches_from([&["bench"], args].concat());
        PipelineOptions::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn flows_are_distinct_and_valid() {
        for (family, protocol, size) in
            [("4", "udp", 60), ("4", "tcp", 60), ("6", "udp", 80), ("6", "tcp", 80)]
        {
            let frame = (size + 4).to_string();
            let args =
                ["--flows", "10000", "--family", family, "--protocol", protocol, "--frame-size", &frame];
            let options = options(&args);
            let mut seen = HashSet::new();
            for packet in templates(&options).chunks_exact(options.headers_len()) {
                let mut packet = packet.to_vec();
                packet.resize(size, 0);
                let headers = parse(&packet).unwrap();
                assert_eq!((headers.protocol, usize::from(headers.end)), (options.protocol.number(), size));
                let len = size - usize::from(headers.l4_offset);
                let (source, pseudo) = if family == "4" {
                    let ip = ipv4::Header::at(&packet, 14).unwrap();
                    (ip.source().to_string(), ip.pseudo_header(headers.protocol, len as u16))
                } else {
                    let ip = ipv6::Header::at(&packet, 14).unwrap();
                    (ip.source().to_string(), ip.pseudo_header(headers.protocol, len as u32))
                };
                assert_eq!(pseudo.add_bytes(&packet[usize::from(headers.l4_offset)..]).fold(), 0xffff);
                assert!(seen.insert((source, headers.src_port)), "an inside endpoint twice");
            }
            assert_eq!(seen.len(), 10_000);
        }
    }

    #[test]
    fn few_flows_have_most_packets_by_zipf_s_law() {
        let mut counts = vec![0u32; 10_000];
        let order = order(&options(&["--flows", "10000", "--order", "zipf"]));
        order.iter().for_each(|&flow| counts[flow as usize] += 1);
        counts.sort_unstable();
        let top: u32 = counts.iter().rev().take(100).sum();
        let share = f64::from(top) / order.len() as f64;
        assert!((0.45..0.55).contains(&share), "100 of 10,000 flows have about half: {share}");
    }

    #[test]
    fn the_order_is_a_permutation_and_the_seed_s() {
        let mut options = options(&["--flows", "1000"]);
        let first = order(&options);
        assert_eq!(order(&options), first);
        options.seed += 1;
        assert_ne!(order(&options), first);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert!(sorted != first && sorted == sequence(&options));
    }
}
