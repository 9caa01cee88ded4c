//! The IP part of the pass.

use super::extensions;
use super::{Flags, ParseError};
use crate::checksum::verify_ipv4_header;
use crate::ipv4::{self, OPTION_LSRR, OPTION_SSRR, Options};
use crate::ipv6;

/// What the network header says; the fields mean what they do in [`Headers`](super::Headers).
///
/// The parts of the pass hand their findings on by value. They stay in registers, and each byte of the headers is written
/// once, at the end: bytes that are written one by one and then copied as words stall the store buffer.
#[derive(Clone, Copy)]
pub(super) struct Ip {
    pub(super) l4_offset: u16,
    pub(super) end: u16,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    pub(super) flags: Flags,
}

/// Parses what stands at `l3` as IPv4.
#[inline(always)]
pub(super) fn ipv4(head: &[u8], frame_len: usize, l3: usize) -> Result<Ip, ParseError> {
    let ip = ipv4::Header::at(head, l3).ok_or(ParseError::Ipv4Truncated)?;
    if ip.version() != 4 {
        return Err(ParseError::Ipv4Version);
    }
    let header_len = ip.header_len();
    let total_len = usize::from(ip.total_len());
    if header_len < ipv4::LEN {
        return Err(ParseError::Ipv4HeaderLength);
    }
    let header = head.get(l3..l3 + header_len).ok_or(ParseError::Ipv4Truncated)?;
    if total_len < header_len || l3 + total_len > frame_len {
        return Err(ParseError::Ipv4TotalLength);
    }
    let end = u16::try_from(l3 + total_len).map_err(|_| ParseError::Ipv4TotalLength)?;
    let mut flags = if header_len == ipv4::LEN {
        // A constant length, for which the sum is a handful of additions.
        if !verify_ipv4_header(ip.0) {
            return Err(ParseError::Ipv4Checksum);
        }
        Flags::default()
    } else {
        header_with_options(header)?
    };
    if ip.dont_fragment() {
        flags.set(Flags::DONT_FRAGMENT);
    }
    let offset = usize::from(ip.fragment_offset());
    if offset != 0 || ip.more_fragments() {
        flags.set(fragment(header_len, offset, total_len - header_len, ip.more_fragments())?);
    }
    Ok(Ip { l4_offset: (l3 + header_len) as u16, end, protocol: ip.protocol(), ttl: ip.ttl(), flags })
}

#[cold]
fn header_with_options(header: &[u8]) -> Result<Flags, ParseError> {
    if !verify_ipv4_header(header) {
        return Err(ParseError::Ipv4Checksum);
    }
    options(header.get(ipv4::LEN..).unwrap_or_default())
}

/// Walks the options of an IPv4 header and says what they mean for forwarding.
#[cold]
pub(super) fn options(bytes: &[u8]) -> Result<Flags, ParseError> {
    let mut flags = Flags::OPTIONS;
    for option in Options(bytes) {
        let (kind, _) = option.map_err(|_| ParseError::Ipv4Options)?;
        if matches!(kind, OPTION_LSRR | OPTION_SSRR) {
            flags.set(Flags::SOURCE_ROUTE);
        }
    }
    Ok(flags)
}

/// Checks that a datagram can be made of a fragment: `before` bytes of headers that count for the datagram's length,
/// then `len` bytes of payload that lie at `offset`.
fn fragment(before: usize, offset: usize, len: usize, more: bool) -> Result<Flags, ParseError> {
    if len == 0 || more && len % 8 != 0 || before + offset + len > usize::from(u16::MAX) {
        return Err(ParseError::FragmentMalformed);
    }
    let mut flags = Flags::FRAGMENT;
    if offset != 0 {
        flags.set(Flags::LATER_FRAGMENT);
    }
    Ok(flags)
}

/// Parses what stands at `l3` as IPv6.
#[inline(always)]
pub(super) fn ipv6(head: &[u8], frame_len: usize, l3: usize) -> Result<Ip, ParseError> {
    let header = ipv6::Header::at(head, l3).ok_or(ParseError::Ipv6Truncated)?;
    if header.version() != 6 {
        return Err(ParseError::Ipv6Version);
    }
    let first = l3 + ipv6::LEN;
    let end = first + usize::from(header.payload_len());
    let jumbogram = header.payload_len() == 0 && header.next_header() == ipv6::HOP_BY_HOP;
    if end > frame_len || jumbogram {
        return Err(ParseError::Ipv6PayloadLength);
    }
    let ip = Ip {
        l4_offset: first as u16,
        end: u16::try_from(end).map_err(|_| ParseError::Ipv6PayloadLength)?,
        protocol: header.next_header(),
        ttl: header.hop_limit(),
        flags: Flags::DONT_FRAGMENT,
    };
    if extensions::is_extension(ip.protocol) { behind_extensions(head, ip) } else { Ok(ip) }
}

#[cold]
fn behind_extensions(head: &[u8], ip: Ip) -> Result<Ip, ParseError> {
    let (first, end) = (usize::from(ip.l4_offset), usize::from(ip.end));
    let packet = &head[..head.len().min(end)];
    let chain = extensions::walk(packet, first, ip.protocol).ok_or(ParseError::Ipv6Extension)?;
    let mut flags = Flags(ip.flags.0 | chain.flags.0);
    if let Some(part) = chain.fragment {
        let behind = part.header + ipv6::fragment::LEN;
        flags.set(fragment(part.header - first, part.offset.into(), end - behind, part.more)?);
    }
    Ok(Ip { l4_offset: chain.l4_offset as u16, protocol: chain.protocol, flags, ..ip })
}
