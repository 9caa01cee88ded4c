//! The packet that an ICMP error quotes.

use super::transport::{icmp_facts, is_icmp};
use super::{Flags, L3, extensions, network};
use crate::checksum::verify_ipv4_header;
use crate::{ipv4, ipv6, tcp, udp};

/// Bytes of the transport header that every quotation must have (RFC 792).
const MIN_TRANSPORT: usize = 8;

/// What a quoted packet says. Offsets are bytes from the first byte of the quoted IP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quoted {
    /// Start of the transport header, or of the payload in a later fragment.
    pub l4_offset: u16,
    /// Bytes that the quoted packet had by its own account; the quotation may be shorter, and an error that came through
    /// a broken router may say anything here.
    pub total_len: u32,
    /// IANA protocol number of what stands at `l4_offset`.
    pub protocol: u8,
    /// ICMP or ICMPv6 type; zero for all else. An error never rightly quotes an error (RFC 1122 3.2.2), which
    /// [`Flags::ICMP_ERROR`] shows.
    pub icmp_type: u8,
    /// The same flags as of a packet, but `NO_CHECKSUM` only where the checksum field is quoted.
    pub flags: Flags,
    /// Source port or, for an ICMP query, its identifier, just as in [`Headers`](super::Headers).
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Whether the quoted IPv4 header's checksum is right (RFC 5508 4.2); true for IPv6.
    pub ip_checksum_ok: bool,
    /// Offset of the transport checksum field, where the protocol has one that is known and the quotation reaches behind
    /// it: to 18 bytes for TCP, which many routers do not quote.
    pub l4_checksum: Option<u16>,
}

/// Parses the packet quoted in an ICMP error; `bytes` start at the quoted IP header and may be cut off anywhere behind the
/// first 8 bytes of its transport header. `None` where even less is there, where headers are not as they must be, or
/// where `l3` is not IP. Lengths need not fit: a quotation is nearly always shorter than the packet it is of.
pub fn parse_quoted(bytes: &[u8], l3: L3) -> Option<Quoted> {
    // No quotation is longer; it keeps every offset within 16 bits.
    let bytes = &bytes[..bytes.len().min(u16::MAX.into())];
    match l3 {
        L3::Ipv4 => quoted_ipv4(bytes),
        L3::Ipv6 => quoted_ipv6(bytes),
        L3::Arp | L3::Other => None,
    }
}

fn quoted_ipv4(bytes: &[u8]) -> Option<Quoted> {
    let ip = ipv4::Header::at(bytes, 0)?;
    let header_len = ip.header_len();
    if ip.version() != 4 || header_len < ipv4::LEN {
        return None;
    }
    let header = bytes.get(..header_len)?;
    let mut quoted = Quoted {
        l4_offset: header_len as u16,
        total_len: ip.total_len().into(),
        protocol: ip.protocol(),
        ip_checksum_ok: verify_ipv4_header(header),
        ..Quoted::default()
    };
    if header_len > ipv4::LEN {
        quoted.flags.set(network::options(&header[ipv4::LEN..]).ok()?);
    }
    if ip.dont_fragment() {
        quoted.flags.set(Flags::DONT_FRAGMENT);
    }
    if ip.more_fragments() || ip.fragment_offset() != 0 {
        quoted.flags.set(Flags::FRAGMENT);
    }
    if ip.fragment_offset() != 0 {
        quoted.flags.set(Flags::LATER_FRAGMENT);
    }
    transport(bytes, L3::Ipv4, quoted)
}

fn quoted_ipv6(bytes: &[u8]) -> Option<Quoted> {
    let ip = ipv6::Header::at(bytes, 0)?;
    if ip.version() != 6 {
        return None;
    }
    let mut quoted = Quoted {
        l4_offset: ipv6::LEN as u16,
        total_len: ipv6::LEN as u32 + u32::from(ip.payload_len()),
        protocol: ip.next_header(),
        flags: Flags::DONT_FRAGMENT,
        ip_checksum_ok: true,
        ..Quoted::default()
    };
    if extensions::is_extension(ip.next_header()) {
        let chain = extensions::walk(bytes, ipv6::LEN, ip.next_header())?;
        quoted.l4_offset = chain.l4_offset as u16;
        quoted.protocol = chain.protocol;
        quoted.flags.set(chain.flags);
        if let Some(part) = chain.fragment {
            quoted.flags.set(Flags::FRAGMENT);
            if part.offset != 0 {
                quoted.flags.set(Flags::LATER_FRAGMENT);
            }
        }
    }
    transport(bytes, L3::Ipv6, quoted)
}

fn transport(bytes: &[u8], l3: L3, mut quoted: Quoted) -> Option<Quoted> {
    if quoted.flags.has(Flags::LATER_FRAGMENT) {
        return Some(quoted);
    }
    let l4 = usize::from(quoted.l4_offset);
    let start = || bytes.get(l4..)?.first_chunk::<MIN_TRANSPORT>();
    let field = match quoted.protocol {
        ipv4::TCP | ipv4::UDP => {
            // Both start with their ports, and eight bytes are a whole UDP header.
            let ports = udp::Header(start()?);
            quoted.src_port = ports.source_port();
            quoted.dst_port = ports.destination_port();
            quoted.flags.set(Flags::PORTS);
            if quoted.protocol == ipv4::TCP {
                tcp::CHECKSUM
            } else {
                if l3 == L3::Ipv4 && ports.checksum() == udp::NO_CHECKSUM {
                    quoted.flags.set(Flags::NO_CHECKSUM);
                }
                udp::CHECKSUM
            }
        }
        protocol if is_icmp(l3, protocol) => {
            let icmp = crate::icmpv4::Header(start()?);
            let facts = icmp_facts(l3, icmp.icmp_type(), icmp.identifier());
            quoted.icmp_type = icmp.icmp_type();
            quoted.flags.set(facts.flags);
            quoted.src_port = facts.src_port;
            quoted.dst_port = facts.dst_port;
            crate::icmpv4::CHECKSUM
        }
        _ => return Some(quoted),
    };
    quoted.l4_checksum = (l4 + field + 2 <= bytes.len()).then_some((l4 + field) as u16);
    Some(quoted)
}
