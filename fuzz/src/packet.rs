//! Packets with right lengths and checksums, out of the fuzzer's choices; and what bends them.

use sluice_pkt::checksum::{Delta, Sum, pseudo_ipv4, pseudo_ipv6};
use sluice_pkt::parse::{Flags, Headers, L3, parse};
use sluice_pkt::{icmpv4, icmpv6, ipv4, ipv6};

use crate::Choices;

/// The gateway's own MAC addresses by port; then a broadcast, a multicast and a stranger.
const MACS: [[u8; 6]; 5] =
    [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [255; 6], [0x33, 0x33, 0, 0, 0, 1], [2, 0, 0, 0, 0, 99]];
const TAGS: [&[u8]; 5] =
    [&[], &[], &[0x81, 0, 0, 20], &[0x88, 0xa8, 0, 30, 0x81, 0, 0, 7], &[0x81, 0, 0, 99]];
const V4: [[u8; 4]; 16] = [
    [192, 168, 1, 10],
    [198, 51, 100, 7],
    [203, 0, 113, 2],
    [192, 168, 1, 30],
    [203, 0, 113, 1],
    [192, 168, 1, 1],
    [192, 168, 20, 5],
    [198, 18, 0, 9],
    [10, 1, 1, 1],
    [172, 16, 0, 1],
    [192, 168, 1, 255],
    [224, 0, 0, 5],
    [255, 255, 255, 255],
    [127, 0, 0, 1],
    [0, 0, 0, 0],
    [203, 0, 113, 77],
];
const V6: [&str; 10] = [
    "fd00:1::10",
    "2001:db8:9::7",
    "2001:db8:2::2",
    "fd00:1::1",
    "fe80::1",
    "ff02::1",
    "ff02::1:ff00:1",
    "::",
    "::1",
    "2001:db8:2::1",
];
const PORTS: [u16; 12] = [1024, 80, 53, 40000, 8080, 27003, 25, 161, 443, 65535, 0, 1025];
const PAYLOADS: [usize; 8] = [0, 1, 8, 64, 1200, 1252, 1400, 1472];

/// A frame and the port by which it comes.
pub struct Packet {
    /// Index of the port.
    pub port: usize,
    /// The frame.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// A packet of the fuzzer's choice with everything in it right.
    pub fn new(choices: &mut Choices<'_>) -> Self {
        let shape = choices.byte();
        let port = usize::from(shape & 1);
        let mut bytes = if shape & 0x40 == 0 { MACS[port] } else { choices.one(&MACS) }.to_vec();
        bytes.extend([2, 0, 0, 0, 0, 0x10 + port as u8]);
        bytes.extend(if shape & 0x80 == 0 { &[] } else { choices.one(&TAGS) });
        match shape >> 1 & 7 {
            0..=3 => {
                bytes.extend([8, 0]);
                bytes.extend(datagram4(choices, 0));
            }
            4 | 5 => {
                bytes.extend([0x86, 0xdd]);
                bytes.extend(datagram6(choices, 0));
            }
            6 => bytes.extend(arp(choices)),
            _ => bytes.extend([choices.byte(), choices.byte(), 0, 0]),
        }
        if shape & 0x20 != 0 {
            bytes.resize(bytes.len().max(60), 0);
        }
        Self { port, bytes }
    }
}

fn arp(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut bytes = vec![8, 6, 0, 1, 8, 0, 6, 4, 0, choices.byte() & 3];
    bytes.extend([2, 0, 0, 0, 0, choices.byte()]);
    bytes.extend(choices.one(&V4));
    bytes.extend([0; 6]);
    bytes.extend(choices.one(&V4));
    bytes
}

fn datagram4(choices: &mut Choices<'_>, depth: u8) -> Vec<u8> {
    let (src, dst) = (choices.one(&V4), choices.one(&V4));
    let look = choices.byte();
    let protocol = choices.one(&[6, 17, 1, 6, 17, 1, 47]);
    let transport = transport(choices, protocol, depth, false, |protocol, len| {
        pseudo_ipv4(u32::from_be_bytes(src), u32::from_be_bytes(dst), protocol, len as u16)
    });
    let options: &[u8] = match look & 7 {
        1 => &[1, 1, 1, 0],
        2 => &[0x83, 7, 4, 0, 0, 0, 0, 0],
        3 => &[0x94, 4, 0, 0],
        _ => &[],
    };
    let ttl = if look & 0x18 == 0x18 { choices.byte() } else { 64 };
    let fragment = if look & 0x60 == 0x60 { choices.word() & 0xbfff } else { u16::from(look >> 7) << 14 };
    let mut bytes = vec![0x45 + (options.len() / 4) as u8, 0, 0, 0, 0, look >> 5, 0, 0, ttl, protocol, 0, 0];
    bytes.extend(src);
    bytes.extend(dst);
    bytes.extend(options);
    let header = bytes.len();
    bytes.extend(transport);
    let total = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
    let sum = Sum::of(&bytes[..header]).checksum();
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn datagram6(choices: &mut Choices<'_>, depth: u8) -> Vec<u8> {
    let address = |choices: &mut Choices<'_>| {
        choices.one(&V6).parse::<std::net::Ipv6Addr>().expect("each is an address").octets()
    };
    let (src, dst) = (address(choices), address(choices));
    let look = choices.byte();
    let protocol = choices.one(&[6, 17, 58, 6, 17, 58, 59]);
    let transport = transport(choices, protocol, depth, true, |protocol, len| {
        pseudo_ipv6(&src, &dst, protocol, len as u32)
    });
    let (next, extension): (u8, &[u8]) = match look & 7 {
        1 => (0, &[protocol, 0, 5, 2, 0, 0, 1, 0]),
        2 => (60, &[protocol, 0, 1, 4, 0, 0, 0, 0]),
        3 => (43, &[protocol, 0, 0, look >> 5, 0, 0, 0, 0]),
        4 => (44, &[protocol, 0, 0, look >> 7, 0, 0, 0, 9]),
        5 => (44, &[protocol, 0, 0, 64, 0, 0, 0, 9]),
        _ => (protocol, &[]),
    };
    let hop_limit = [64, 255, 1, 2][usize::from(look >> 3 & 3)];
    let len = (extension.len() + transport.len()) as u16;
    let mut bytes = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, next, hop_limit];
    bytes.extend(src);
    bytes.extend(dst);
    bytes.extend(extension);
    bytes.extend(transport);
    bytes
}

fn transport(
    choices: &mut Choices<'_>,
    protocol: u8,
    depth: u8,
    v6: bool,
    pseudo: impl Fn(u8, usize) -> Sum,
) -> Vec<u8> {
    let look = choices.byte();
    let ports = [choices.one(&PORTS), choices.one(&PORTS)].map(u16::to_be_bytes).concat();
    let payload = vec![look; PAYLOADS[usize::from(look >> 5)]];
    let (mut bytes, checksum) = match protocol {
        6 => {
            let mut bytes = ports;
            bytes.extend([0; 8]);
            bytes.extend([0x50, choices.byte(), 0xff, 0xff, 0, 0, 0, 0]);
            bytes.extend(payload);
            (bytes, Some(16))
        }
        17 => {
            let len = 8 + payload.len() as u16;
            let bytes = [&ports[..], &len.to_be_bytes(), &[0, 0], &payload].concat();
            (bytes, (v6 || look & 3 != 0).then_some(6))
        }
        1 | 58 => {
            let kind = match (v6, look & 7) {
                (false, kind) => [8, 0, 3, 11, 12, 8, 13, 5][usize::from(kind)],
                (true, kind) => [128, 129, 1, 2, 3, 135, 136, 133][usize::from(kind)],
            };
            let mut bytes = vec![kind, look >> 4 & 3, 0, 0];
            bytes.extend(ports);
            let error = if v6 { icmpv6::is_error(kind) } else { icmpv4::is_error(kind) };
            match (error && depth == 0, v6) {
                (true, true) => bytes.extend(datagram6(choices, 1)),
                (true, false) => bytes.extend(datagram4(choices, 1)),
                (false, true) if kind >= 133 => {
                    bytes.extend("fd00:1::1".parse::<std::net::Ipv6Addr>().expect("an address").octets());
                    bytes.extend([1, 1, 2, 0, 0, 0, 0, look]);
                }
                _ => bytes.extend(payload),
            }
            bytes.truncate(1200);
            (bytes, Some(2))
        }
        _ => (payload, None),
    };
    if let Some(at) = checksum {
        let covered = if protocol == ipv4::ICMP { Sum::default() } else { pseudo(protocol, bytes.len()) };
        let sum = match covered.add_bytes(&bytes).checksum() {
            0 if protocol == ipv4::UDP => 0xffff,
            sum => sum,
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// What the receiver of a frame that the gateway has sent may send back: a reply of the same session, or an ICMP error
/// about it.
pub fn answer(sent: &[u8], choices: &mut Choices<'_>) -> Option<Vec<u8>> {
    let headers = parse(sent).ok()?;
    let l3 = usize::from(headers.l3_offset);
    let packet = sent.get(l3..usize::from(headers.end))?;
    let mut link = sent.get(..l3)?.to_vec();
    link[..12].rotate_left(6);
    let behind = match (headers.l3, choices.byte()) {
        (L3::Ipv4, 0..160) => reply4(packet, &headers)?,
        (L3::Ipv4, how) => error4(packet, how, choices)?,
        (L3::Ipv6, 0..160) => reply6(packet, &headers)?,
        (L3::Ipv6, how) => error6(packet, how, choices)?,
        _ => return None,
    };
    Some([link, behind].concat())
}

/// Swapped ports leave a checksum as it is; an echo reply has another type.
fn turn(transport: &mut [u8], protocol: u8) -> Option<()> {
    match protocol {
        ipv4::TCP | ipv4::UDP => transport.get_mut(..4)?.rotate_left(2),
        ipv4::ICMP | ipv6::ICMPV6 => {
            let (kind, old) = (*transport.first()?, Sum::of(transport.get(2..4)?).fold());
            let reply = if protocol == ipv4::ICMP { icmpv4::ECHO_REPLY } else { icmpv6::ECHO_REPLY };
            transport[0] = reply;
            let delta = Delta::of_u16(u16::from(kind) << 8, u16::from(reply) << 8);
            transport[2..4].copy_from_slice(&delta.apply(old).to_be_bytes());
        }
        _ => {}
    }
    Some(())
}

fn reply4(packet: &[u8], headers: &Headers) -> Option<Vec<u8>> {
    let mut reply = packet.to_vec();
    let l4 = usize::from(headers.l4_offset - headers.l3_offset);
    reply.get_mut(12..20)?.rotate_left(4);
    reply[8] = 64;
    reply[10..12].fill(0);
    let sum = Sum::of(reply.get(..l4)?).checksum();
    reply[10..12].copy_from_slice(&sum.to_be_bytes());
    if !headers.flags.has(Flags::LATER_FRAGMENT) {
        turn(&mut reply[l4..], headers.protocol)?;
    }
    Some(reply)
}

fn reply6(packet: &[u8], headers: &Headers) -> Option<Vec<u8>> {
    let mut reply = packet.to_vec();
    reply.get_mut(8..40)?.rotate_left(16);
    if !headers.flags.has(Flags::LATER_FRAGMENT) {
        turn(&mut reply[usize::from(headers.l4_offset - headers.l3_offset)..], headers.protocol)?;
    }
    Some(reply)
}

fn error4(packet: &[u8], how: u8, choices: &mut Choices<'_>) -> Option<Vec<u8>> {
    let to = packet.get(12..16)?;
    let from = if how & 1 == 0 { packet.get(16..20)?.first_chunk().copied()? } else { choices.one(&V4) };
    let quoted = &packet[..packet.len().min(choices.one(&[28, 40, 576]))];
    let mut icmp = vec![choices.one(&[3, 11, 12]), how >> 1 & 7, 0, 0, 0, 0, 5, 0];
    icmp.extend(quoted);
    let sum = Sum::of(&icmp).checksum();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let total = 20 + icmp.len() as u16;
    let mut bytes = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0, 0, 64, ipv4::ICMP, 0, 0];
    bytes.extend(from);
    bytes.extend(to);
    let sum = Sum::of(&bytes).checksum();
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(icmp);
    Some(bytes)
}

fn error6(packet: &[u8], how: u8, choices: &mut Choices<'_>) -> Option<Vec<u8>> {
    let (to, from) = (packet.get(8..24)?, packet.get(24..40)?);
    let quoted = &packet[..packet.len().min(choices.one(&[48, 60, 1200]))];
    let mut icmp = vec![choices.one(&[1, 2, 3, 4]), how >> 1 & 7, 0, 0, 0, 0, 5, 0];
    icmp.extend(quoted);
    let pseudo = pseudo_ipv6(from.first_chunk()?, to.first_chunk()?, ipv6::ICMPV6, icmp.len() as u32);
    let sum = pseudo.add_bytes(&icmp).checksum();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let len = icmp.len() as u16;
    let head = [0x60, 0, 0, 0, (len >> 8) as u8, len as u8, ipv6::ICMPV6, 64];
    Some([&head, from, to, &icmp].concat())
}

/// Spoils a frame: overwrites, cuts off, or doubles a piece of it.
pub fn bend(bytes: &mut Vec<u8>, choices: &mut Choices<'_>) {
    let at = usize::from(choices.word()) % bytes.len().max(1);
    match choices.byte() & 3 {
        0 => bytes.truncate(at),
        1 => {
            let tail = bytes[at..].to_vec();
            bytes.extend(tail);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = choices.byte();
            }
        }
    }
}

/// Makes the IPv4 header's checksum right again, so that what was bent goes further than that.
pub fn mend(bytes: &mut [u8]) {
    let Some(l3) =
        bytes.windows(3).skip(12).step_by(2).take(5).position(|w| w[..2] == [8, 0] && w[2] >> 4 == 4)
    else {
        return;
    };
    let l3 = 14 + 2 * l3;
    let Some(&ihl) = bytes.get(l3) else { return };
    if let Some(header) =
        bytes.get_mut(l3..l3 + usize::from(ihl & 15) * 4).filter(|header| header.len() >= 20)
    {
        header[10..12].fill(0);
        let sum = Sum::of(header).checksum();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Whether the transport checksum of a whole packet is right; true where there is none.
pub fn transport_is_right(bytes: &[u8], headers: &Headers) -> bool {
    let l4 = usize::from(headers.l4_offset);
    let segment = &bytes[l4..usize::from(headers.end)];
    let l3 = usize::from(headers.l3_offset);
    let len = segment.len();
    let pseudo = match (headers.l3, headers.protocol) {
        _ if headers.flags.has(Flags::FRAGMENT) || headers.flags.has(Flags::NO_CHECKSUM) => return true,
        (L3::Ipv4, 1) => Sum::default(),
        (L3::Ipv4, 6 | 17) => {
            let ip = ipv4::Header::at(bytes, l3).expect("it is parsed");
            ip.pseudo_header(headers.protocol, len as u16)
        }
        (L3::Ipv6, 6 | 17 | 58) => {
            let ip = ipv6::Header::at(bytes, l3).expect("it is parsed");
            ip.pseudo_header(headers.protocol, len as u32)
        }
        _ => return true,
    };
    pseudo.add_bytes(segment).checksum() == 0
}
