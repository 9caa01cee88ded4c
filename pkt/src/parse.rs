//! One pass from bytes to [`Headers`]: offsets, 5-tuple and flags. Total: it never panics and never reads past the end.

mod extensions;
mod network;
mod quoted;
mod transport;

pub use quoted::{Quoted, parse_quoted};

use crate::{arp, ethernet, vlan};

/// What the Ethernet payload is, behind any VLAN tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum L3 {
    /// An EtherType that Sluice does not forward.
    #[default]
    Other,
    /// ARP for IPv4 over Ethernet (RFC 826).
    Arp,
    /// IPv4 (RFC 791).
    Ipv4,
    /// IPv6 (RFC 8200).
    Ipv6,
}

/// Facts about a packet that stages test; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// The packet is a fragment (IPv4: MF or an offset; IPv6: a fragment header that is not "atomic", RFC 6946).
    pub const FRAGMENT: Self = Self(1 << 0);
    /// A fragment whose offset is not zero: there is no transport header in it.
    pub const LATER_FRAGMENT: Self = Self(1 << 1);
    /// IPv4 "don't fragment"; set for every IPv6 packet.
    pub const DONT_FRAGMENT: Self = Self(1 << 2);
    /// IPv4 options, or IPv6 extension headers, stand between the IP header and the transport header.
    pub const OPTIONS: Self = Self(1 << 3);
    /// An IPv4 source-route option (LSRR, SSRR) or an IPv6 type 0 routing header (RFC 5095) with segments left.
    pub const SOURCE_ROUTE: Self = Self(1 << 4);
    /// `src_port` and `dst_port` are valid: TCP, UDP, or an ICMP query (for IPv6, an echo).
    pub const PORTS: Self = Self(1 << 5);
    /// An ICMP or ICMPv6 error, which quotes the packet that it is about.
    pub const ICMP_ERROR: Self = Self(1 << 6);
    /// A UDP datagram over IPv4 that carries no checksum (field zero, RFC 768).
    pub const NO_CHECKSUM: Self = Self(1 << 7);

    /// Whether every bit of `other` is set.
    #[inline]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets the bits of `other`.
    #[inline]
    pub const fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Where a frame's headers lie and what they say. Offsets are bytes from the frame's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// The network protocol.
    pub l3: L3,
    /// How many VLAN tags there are: 0, 1 (802.1Q) or 2 (QinQ).
    pub tags: u8,
    /// Tag control information of each tag, outermost first: 3 bits priority, 1 bit DEI, 12 bits VLAN id.
    pub tci: [u16; 2],
    /// Start of the network header: 14, 18 or 22.
    pub l3_offset: u16,
    /// Start of the transport header, or of the payload in a later fragment.
    pub l4_offset: u16,
    /// End of the IP packet; bytes of the frame behind it are Ethernet padding. ARP: end of the packet; other: of the frame.
    pub end: u16,
    /// IANA protocol number of what stands at `l4_offset` (IPv6: behind the extension headers).
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flag bits (FIN 0x01 … CWR 0x80); zero for all else.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type; zero for all else.
    pub icmp_type: u8,
    /// See [`Flags`].
    pub flags: Flags,
    /// Source port. An ICMP query has its identifier here and 0 in `dst_port`, or its type if it is no echo
    /// ([`asked_port`](crate::icmpv4::asked_port)); a reply the other way round, so that the identifier is the asker's port
    /// in both and a reply's tuple is its request's reversed.
    pub src_port: u16,
    /// Destination port; see `src_port`.
    pub dst_port: u16,
}

/// Why a frame was refused. Every variant is a drop reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ParseError {
    /// Shorter than an Ethernet header.
    Runt,
    /// A VLAN tag is cut off.
    VlanTruncated,
    /// More than two VLAN tags.
    VlanDepth,
    /// An ARP packet that is cut off, or not for IPv4 over Ethernet.
    ArpMalformed,
    /// The frame ends before the IPv4 header does.
    Ipv4Truncated,
    /// EtherType IPv4, but the version field is not 4.
    Ipv4Version,
    /// IHL under 5.
    Ipv4HeaderLength,
    /// The total length is under the header's, or runs past the frame or past 65,535 bytes from the frame's start.
    Ipv4TotalLength,
    /// The header checksum is wrong (RFC 1812 5.2.2).
    Ipv4Checksum,
    /// An option with a length that is impossible.
    Ipv4Options,
    /// The frame ends before the IPv6 header does.
    Ipv6Truncated,
    /// EtherType IPv6, but the version field is not 6.
    Ipv6Version,
    /// The payload length runs past the frame or past 65,535 bytes from the frame's start, or it is zero with hop-by-hop
    /// options behind it, as in a jumbogram (RFC 2675), which no Ethernet frame can carry.
    Ipv6PayloadLength,
    /// An extension header that is cut off, out of place (hop-by-hop not first, a second fragment header), or one too many:
    /// over [`MAX_EXTENSIONS`].
    Ipv6Extension,
    /// A fragment that no datagram can be made of: its end lies over 65,535, or it is not the last and no multiple of 8, or
    /// it is empty.
    FragmentMalformed,
    /// The packet ends within the TCP header (in a first fragment too, RFC 1858).
    TcpTruncated,
    /// TCP data offset under 5, or past the end of the packet.
    TcpOffset,
    /// The packet ends within the UDP header.
    UdpTruncated,
    /// The UDP length is under 8 or, in a whole datagram, over what the IP packet holds.
    UdpLength,
    /// The packet ends within the first 8 bytes of ICMP.
    IcmpTruncated,
}

/// Most extension headers of an IPv6 packet.
pub const MAX_EXTENSIONS: usize = 8;

/// Parses a frame: its headers are checked and located; the transport checksum and what is behind the headers are not
/// looked at. The IPv4 header checksum is verified.
///
/// # Errors
/// Says which header is not as its RFC has it. A frame that Sluice merely does not forward is no error: it is
/// [`L3::Other`], and so is 802.3 with LLC. For ARP and others `l4_offset` equals `l3_offset`.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Headers, ParseError> {
    parse_head(frame, frame.len())
}

/// Parses a frame of `frame_len` bytes of which `head` is the first piece, as for jumbo frames in several segments. All
/// headers must lie in the head; a packet must end within the frame. Offsets have 16 bits, so that an IP packet which ends
/// over 65,535 bytes into the frame is refused as too long for it.
///
/// # Errors
/// As [`parse`].
pub fn parse_head(head: &[u8], frame_len: usize) -> Result<Headers, ParseError> {
    let link = link(head)?;
    match link.ethertype {
        ethernet::IPV4 => whole(head, link, L3::Ipv4, network::ipv4(head, frame_len, link.len)?),
        ethernet::IPV6 => whole(head, link, L3::Ipv6, network::ipv6(head, frame_len, link.len)?),
        ethernet::ARP => {
            let arp = arp::Header::at(head, link.len).filter(arp::Header::is_ipv4_over_ethernet);
            arp.ok_or(ParseError::ArpMalformed)?;
            Ok(not_ip(L3::Arp, link, link.len + arp::LEN))
        }
        _ => Ok(not_ip(L3::Other, link, frame_len)),
    }
}

/// Parses the transport header and puts all parts together. Inlined once for each network protocol.
#[inline(always)]
fn whole(head: &[u8], link: Link, l3: L3, ip: network::Ip) -> Result<Headers, ParseError> {
    let transport = transport::parse(head, l3, &ip)?;
    Ok(Headers {
        l3,
        tags: link.tags,
        tci: link.tci,
        l3_offset: link.len as u16,
        l4_offset: ip.l4_offset,
        end: ip.end,
        protocol: ip.protocol,
        ttl: ip.ttl,
        tcp_flags: transport.tcp_flags,
        icmp_type: transport.icmp_type,
        flags: Flags(ip.flags.0 | transport.flags.0),
        src_port: transport.src_port,
        dst_port: transport.dst_port,
    })
}

#[inline(always)]
fn not_ip(l3: L3, link: Link, end: usize) -> Headers {
    let offset = link.len as u16;
    let end = u16::try_from(end).unwrap_or(u16::MAX);
    Headers {
        l3,
        tags: link.tags,
        tci: link.tci,
        l3_offset: offset,
        l4_offset: offset,
        end,
        ..Headers::default()
    }
}

/// The Ethernet header and its tags.
#[derive(Clone, Copy)]
struct Link {
    /// EtherType behind the tags.
    ethertype: u16,
    tags: u8,
    tci: [u16; 2],
    /// Bytes of header and tags.
    len: usize,
}

#[inline(always)]
fn link(head: &[u8]) -> Result<Link, ParseError> {
    let tag = |offset| vlan::Header::at(head, offset).ok_or(ParseError::VlanTruncated);
    let ethertype = ethernet::Header::at(head, 0).ok_or(ParseError::Runt)?.ethertype();
    if !ethernet::is_tag(ethertype) {
        return Ok(Link { ethertype, tags: 0, tci: [0, 0], len: ethernet::LEN });
    }
    let outer = tag(ethernet::LEN)?;
    let ethertype = outer.ethertype();
    if !ethernet::is_tag(ethertype) {
        return Ok(Link { ethertype, tags: 1, tci: [outer.tci(), 0], len: ethernet::LEN + vlan::LEN });
    }
    let inner = tag(ethernet::LEN + vlan::LEN)?;
    let ethertype = inner.ethertype();
    if ethernet::is_tag(ethertype) {
        return Err(ParseError::VlanDepth);
    }
    Ok(Link { ethertype, tags: 2, tci: [outer.tci(), inner.tci()], len: ethernet::LEN + 2 * vlan::LEN })
}

#[cfg(test)]
mod tests;

/// Offset in the frame of an IPv6 fragment's fragment header, which names the datagram. `None` for other packets.
pub fn fragment_header(frame: &[u8], headers: &Headers) -> Option<usize> {
    let l3 = usize::from(headers.l3_offset);
    let ip = crate::ipv6::Header::at(frame, l3).filter(|_| headers.l3 == L3::Ipv6)?;
    let packet = frame.get(..frame.len().min(headers.end.into()))?;
    extensions::walk(packet, l3 + crate::ipv6::LEN, ip.next_header())?.fragment.map(|part| part.header)
}
