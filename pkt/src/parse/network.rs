//! The IP part of the pass.

use super::extensions::{self, Chain};
use super::{Flags, Headers, ParseError, transport};
use crate::checksum::verify_ipv4_header;
use crate::ipv4::{self, OPTION_LSRR, OPTION_SSRR, Options};
use crate::ipv6;

/// Parses what stands at `l3_offset` as IPv4.
#[inline]
pub(super) fn ipv4(head: &[u8], frame_len: usize, headers: &mut Headers) -> Result<(), ParseError> {
    let l3 = usize::from(headers.l3_offset);
    let ip = ipv4::Header::at(head, l3).ok_or(ParseError::Ipv4Truncated)?;
    if ip.version() != 4 {
        return Err(ParseError::Ipv4Version);
    }
    let header_len = ip.header_len();
    let total_len = usize::from(ip.total_len());
    if header_len < ipv4::LEN {
        return Err(ParseError::Ipv4HeaderLength);
    }
    let l4 = l3 + header_len;
    let header = head.get(l3..l4).ok_or(ParseError::Ipv4Truncated)?;
    if total_len < header_len || l3 + total_len > frame_len {
        return Err(ParseError::Ipv4TotalLength);
    }
    headers.end = u16::try_from(l3 + total_len).map_err(|_| ParseError::Ipv4TotalLength)?;
    headers.l4_offset = l4 as u16;
    headers.protocol = ip.protocol();
    headers.ttl = ip.ttl();
    if header_len == ipv4::LEN {
        // A constant length, for which the sum is a handful of additions.
        if !verify_ipv4_header(ip.0) {
            return Err(ParseError::Ipv4Checksum);
        }
    } else {
        if !verify_ipv4_header(header) {
            return Err(ParseError::Ipv4Checksum);
        }
        headers.flags.set(options(&header[ipv4::LEN..])?);
    }
    if ip.dont_fragment() {
        headers.flags.set(Flags::DONT_FRAGMENT);
    }
    let offset = usize::from(ip.fragment_offset());
    if offset != 0 || ip.more_fragments() {
        headers.flags.set(fragment(header_len, offset, total_len - header_len, ip.more_fragments())?);
    }
    transport::parse(head, headers)
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
    if len == 0 || more && !len.is_multiple_of(8) || before + offset + len > usize::from(u16::MAX) {
        return Err(ParseError::FragmentMalformed);
    }
    let mut flags = Flags::FRAGMENT;
    if offset != 0 {
        flags.set(Flags::LATER_FRAGMENT);
    }
    Ok(flags)
}

/// Parses what stands at `l3_offset` as IPv6.
#[inline]
pub(super) fn ipv6(head: &[u8], frame_len: usize, headers: &mut Headers) -> Result<(), ParseError> {
    let l3 = usize::from(headers.l3_offset);
    let ip = ipv6::Header::at(head, l3).ok_or(ParseError::Ipv6Truncated)?;
    if ip.version() != 6 {
        return Err(ParseError::Ipv6Version);
    }
    let first = l3 + ipv6::LEN;
    let end = first + usize::from(ip.payload_len());
    let jumbogram = ip.payload_len() == 0 && ip.next_header() == ipv6::HOP_BY_HOP;
    if end > frame_len || jumbogram {
        return Err(ParseError::Ipv6PayloadLength);
    }
    headers.end = u16::try_from(end).map_err(|_| ParseError::Ipv6PayloadLength)?;
    headers.ttl = ip.hop_limit();
    headers.flags = Flags::DONT_FRAGMENT;
    headers.protocol = ip.next_header();
    headers.l4_offset = first as u16;
    if extensions::is_extension(ip.next_header()) {
        let packet = &head[..head.len().min(end)];
        let chain = extensions::walk(packet, first, ip.next_header()).ok_or(ParseError::Ipv6Extension)?;
        ipv6_chain(&chain, first, end, headers)?;
    }
    transport::parse(head, headers)
}

fn ipv6_chain(chain: &Chain, first: usize, end: usize, headers: &mut Headers) -> Result<(), ParseError> {
    if let Some(part) = chain.fragment {
        let unfragmented = part.header - first;
        let behind = part.header + ipv6::fragment::LEN;
        headers.flags.set(fragment(unfragmented, part.offset.into(), end - behind, part.more)?);
    }
    headers.flags.set(chain.flags);
    headers.protocol = chain.protocol;
    headers.l4_offset = chain.l4_offset as u16;
    Ok(())
}
