//! The packets that nearly all are: IPv4 without options, not a fragment, or IPv6 without extension headers, with TCP or
//! UDP, and nothing wrong with it.
//!
//! What [`parse`](crate::parse) finds out for any packet is known of such a one beforehand, but for a few conditions, which
//! are tested as one. Behind them every field that a forwarder reads or writes lies at a constant offset, and is read and
//! written as a part of a word: the headers are a few loads and stores.

use crate::checksum::{is_plain_ipv4_sum, pseudo_ipv4, pseudo_ipv6};
use crate::translation::Translation;
use crate::{ethernet, ipv4, ipv6, tcp, udp};

const USUAL: u8 = tcp::ACK | tcp::SYN | tcp::FIN | tcp::RST;

/// A family's plain packets. They are handed over from their IP header on.
pub trait Plain {
    /// The EtherType.
    const ETHERTYPE: u16;
    /// Protocol, addresses and ports, as they lie in the packet and in that order.
    type Words: Copy;
    /// The bit of the first word from which on 16 are 0, for the caller to fill.
    const FREE: u32;

    /// The words of the packet that begins with `packet`, which may be the first piece of several, and ends within
    /// `len` bytes. `None` if it is not plain, if [`parse`](crate::parse) would refuse it, if it cannot be sent on as its
    /// TTL or hop limit is used up, or if its TCP carries SYN, FIN or RST, or no ACK.
    fn check(packet: &[u8], len: usize) -> Option<Self::Words>;

    /// Bytes of a plain packet with its IP header.
    fn len(packet: &[u8]) -> usize;

    /// Sends on a packet that was found to be plain: TTL or hop limit less one; for IPv4 new addresses and
    /// ports, and checksums to match.
    fn forward(packet: &mut [u8], new: &Translation);

    /// Whether the transport checksum of a plain packet may be one that the sender left to hardware, as
    /// [`complete_partial`](crate::checksum::complete_partial) tells it.
    fn may_be_partial(packet: &[u8]) -> bool;
}

/// Eight bytes from `at` on as a number, the first byte lowest. `at` is a constant, and lies within.
#[inline(always)]
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

#[inline(always)]
fn put<const N: usize>(bytes: &mut [u8; N], at: usize, value: u64) {
    if let Some(word) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *word = value.to_le_bytes();
    }
}

/// The 16 bits from bit `at` of a word on, as they are in network order.
#[inline(always)]
const fn half(word: u64, at: u32) -> u16 {
    ((word >> at) as u16).swap_bytes()
}

/// Whether the transport header fits, of a packet of `len` bytes whose header of `header` bytes is followed by `ports`, the
/// first eight bytes of the transport's, and whether TCP neither opens nor ends, and
/// acknowledges.
#[inline(always)]
fn fits(packet: &[u8], header: usize, ports: u64, protocol: u8, len: usize) -> bool {
    if protocol == ipv4::UDP {
        let datagram = usize::from(half(ports, 32));
        return datagram >= udp::LEN && header + datagram <= len;
    }
    let tcp = packet.get(header + tcp::DATA_OFFSET..).and_then(<[u8]>::first_chunk);
    let Some(&[offset, flags]) = tcp.filter(|_| protocol == ipv4::TCP) else { return false };
    let tcp_header = usize::from(offset >> 4) * 4;
    flags & USUAL == tcp::ACK
        && tcp_header >= tcp::LEN
        && header + tcp_header <= len
        && header + tcp_header <= packet.len()
}

/// Where the transport checksum of a packet lies.
#[inline(always)]
const fn checksum_at(header: usize, protocol: u8) -> usize {
    header + if protocol == ipv4::TCP { tcp::CHECKSUM } else { udp::CHECKSUM }
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub struct V4;

impl V4 {
    const HEAD: usize = ipv4::LEN + udp::LEN;
    /// TTL, protocol, checksum, source address.
    const SECOND: usize = ipv4::TTL;
    /// Destination address, ports.
    const THIRD: usize = ipv4::DESTINATION;
}

impl Plain for V4 {
    const ETHERTYPE: u16 = ethernet::IPV4;
    type Words = [u64; 2];
    const FREE: u32 = 16;

    #[inline(always)]
    fn check(packet: &[u8], len: usize) -> Option<[u64; 2]> {
        // Of the first eight bytes: version and header length, more fragments, fragment offset.
        const FIXED: u64 = u64::from_le_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
        let head: &[u8; Self::HEAD] = packet.first_chunk()?;
        let [first, second, third, ports] =
            [0, Self::SECOND, Self::THIRD, ipv4::LEN].map(|at| word(head, at));
        let (total, protocol, ttl) = (half(first, 16), (second >> 8) as u8, second as u8);
        let right = first & FIXED == 0x45
            && is_plain_ipv4_sum(first, second, third as u32)
            && usize::from(total) <= len
            && ttl > 1
            && fits(packet, ipv4::LEN, ports, protocol, total.into());
        right.then_some([second & !0xffff_00ff, third])
    }

    #[inline(always)]
    fn len(packet: &[u8]) -> usize {
        let [_, _, a, b, ..] = *packet else { return 0 };
        u16::from_be_bytes([a, b]).into()
    }

    #[inline(always)]
    fn forward(packet: &mut [u8], new: &Translation) {
        let Some(head) = packet.first_chunk_mut::<{ Self::HEAD }>() else { return };
        let second = word(head, Self::SECOND).wrapping_sub(1);
        let checksum = new.header.apply(half(second, 16)).swap_bytes();
        let (source, rest) = new.words();
        put(head, Self::SECOND, second & 0xffff | u64::from(checksum) << 16 | u64::from(source) << 32);
        put(head, Self::THIRD, rest);
        let protocol = (second >> 8) as u8;
        // Each protocol by itself: that of UDP lies in what is known to be there.
        if protocol == ipv4::UDP {
            let Some(field) = head.get_mut(checksum_at(ipv4::LEN, ipv4::UDP)..) else { return };
            let Some(field) = field.first_chunk_mut::<2>() else { return };
            let old = u16::from_be_bytes(*field);
            // "None" stays "none", and a computed zero is written as all ones (RFC 768).
            if old != udp::NO_CHECKSUM {
                let checksum = new.transport.apply(old);
                *field = if checksum == 0 { u16::MAX } else { checksum }.to_be_bytes();
            }
        } else {
            let at = checksum_at(ipv4::LEN, protocol);
            let Some(field) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>) else { return };
            *field = new.transport.apply(u16::from_be_bytes(*field)).to_be_bytes();
        }
    }

    fn may_be_partial(packet: &[u8]) -> bool {
        let Some(ip) = ipv4::Header::at(packet, 0) else { return true };
        let transport = usize::from(ip.total_len()).saturating_sub(ipv4::LEN) as u16;
        is_partial(packet, ipv4::LEN, ip.protocol(), transport, |len| {
            pseudo_ipv4(ip.source_bits(), ip.destination_bits(), ip.protocol(), len).fold()
        })
    }
}

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub struct V6;

impl V6 {
    const HEAD: usize = ipv6::LEN + udp::LEN;
    /// Payload length, next header, hop limit, source address ... ports: five words.
    const KEY: usize = 4;
}

impl Plain for V6 {
    const ETHERTYPE: u16 = ethernet::IPV6;
    type Words = [u64; 5];
    const FREE: u32 = 0;

    #[inline(always)]
    fn check(packet: &[u8], len: usize) -> Option<[u64; 5]> {
        let head: &[u8; Self::HEAD] = packet.first_chunk()?;
        let mut words: [u64; 5] = [0, 8, 16, 24, 32].map(|at| word(head, Self::KEY + at));
        let [first, ..] = words;
        let ports = word(head, ipv6::LEN);
        let total = ipv6::LEN + usize::from(half(first, 0));
        let (protocol, hop_limit) = ((first >> 16) as u8, (first >> 24) as u8);
        let right = word(head, 0) & 0xf0 == 0x60
            && total <= len
            && hop_limit > 1
            && fits(packet, ipv6::LEN, ports, protocol, total);
        words[0] = first & !0xff00_ffff;
        right.then_some(words)
    }

    #[inline(always)]
    fn len(packet: &[u8]) -> usize {
        let [_, _, _, _, a, b, ..] = *packet else { return 0 };
        ipv6::LEN + usize::from(u16::from_be_bytes([a, b]))
    }

    #[inline(always)]
    fn forward(packet: &mut [u8], _new: &Translation) {
        if let Some(hop_limit) = packet.get_mut(ipv6::HOP_LIMIT) {
            *hop_limit = hop_limit.wrapping_sub(1);
        }
    }

    fn may_be_partial(packet: &[u8]) -> bool {
        let Some(ip) = ipv6::Header::at(packet, 0) else { return true };
        let (source, destination) = (ip.source().octets(), ip.destination().octets());
        is_partial(packet, ipv6::LEN, ip.next_header(), ip.payload_len(), |len| {
            pseudo_ipv6(&source, &destination, ip.next_header(), len.into()).fold()
        })
    }
}

/// Whether the checksum field holds the bare sum of the pseudo-header, which `pseudo` gives for a length.
fn is_partial(
    packet: &[u8],
    header: usize,
    protocol: u8,
    transport: u16,
    pseudo: impl Fn(u16) -> u16,
) -> bool {
    let len = if protocol == ipv4::UDP {
        udp::Header::at(packet, header).map_or(transport, |udp| udp.datagram_len())
    } else {
        transport
    };
    let field = packet.get(checksum_at(header, protocol)..).and_then(<[u8]>::first_chunk);
    field.is_none_or(|field| *field == pseudo(len).to_be_bytes())
}
