//! The packet that nearly all are: IPv4 without options, not a fragment, with TCP or UDP, and nothing wrong with it.
//!
//! What [`parse`](crate::parse) finds out for any packet is known of such a one beforehand, but for five checks. Behind
//! them every field that a forwarder reads or writes lies at a constant offset.

use crate::checksum::{Delta, pseudo_ipv4, verify_plain_ipv4_header};
use crate::translation::Translation;
use crate::{ipv4, tcp, udp};

/// Bytes of the headers that [`Plain`] covers: the IPv4 header, and as much of the transport header as UDP has.
pub const LEN: usize = ipv4::LEN + udp::LEN;

/// The offset of TCP's flags in the packet.
const TCP_FLAGS: usize = ipv4::LEN + tcp::FLAGS;

/// The offset of TCP's checksum behind the part that is always there.
const TCP_CHECKSUM: usize = tcp::CHECKSUM - udp::LEN;

/// The start of a plain packet, from its IPv4 header on.
#[derive(Clone, Copy, Debug)]
pub struct Plain<B>(B);

impl<'a> Plain<&'a [u8; LEN]> {
    /// The packet that begins with `packet`, which may be the first piece of several, and ends within `len` bytes. `None`
    /// if it is not plain, or if [`parse`](crate::parse) would refuse it.
    #[inline(always)]
    pub fn check(packet: &'a [u8], len: usize) -> Option<Self> {
        let bytes: &[u8; LEN] = packet.first_chunk()?;
        let this = Self(bytes);
        let (ip, transport) = bytes.split_first_chunk::<{ ipv4::LEN }>()?;
        let header = ipv4::Header(ip);
        let total_len = usize::from(header.total_len());
        if header.version_ihl() != 0x45
            || header.flags_fragment() & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) != 0
            || total_len > len
            || !verify_plain_ipv4_header(ip)
        {
            return None;
        }
        if header.protocol() == ipv4::UDP {
            let datagram_len = usize::from(udp::Header(transport.first_chunk()?).datagram_len());
            (udp::LEN <= datagram_len && ipv4::LEN + datagram_len <= total_len).then_some(this)
        } else if header.protocol() == ipv4::TCP {
            let header_len = tcp::Header::at(packet, ipv4::LEN)?.header_len();
            let end = ipv4::LEN + header_len;
            (tcp::LEN <= header_len && end <= total_len && end <= packet.len()).then_some(this)
        } else {
            None
        }
    }

    /// Source and destination address, the source in the high half.
    #[inline(always)]
    pub fn addresses(&self) -> u64 {
        let &[.., a, b, c, d, e, f, g, h, _, _, _, _, _, _, _, _] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Source and destination port, the source in the high half.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        let &[.., a, b, c, d, _, _, _, _] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// [`ipv4::TCP`] or [`ipv4::UDP`].
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.0[ipv4::PROTOCOL]
    }

    /// Whether it carries SYN, FIN or RST. `packet` is what was checked.
    #[inline(always)]
    pub fn opens_or_ends(&self, packet: &[u8]) -> bool {
        self.protocol() == ipv4::TCP
            && packet.get(TCP_FLAGS).is_none_or(|flags| flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0)
    }

    /// Whether the transport checksum may be one that the sender left to hardware, as
    /// [`complete_partial`](crate::checksum::complete_partial) tells it. `packet` is what was checked.
    #[inline]
    pub fn may_be_partial(&self, packet: &[u8]) -> bool {
        let addresses = self.addresses();
        let total_len = u16::from_be_bytes([self.0[ipv4::TOTAL_LEN], self.0[ipv4::TOTAL_LEN + 1]]);
        let (len, field) = if self.protocol() == ipv4::UDP {
            let at = ipv4::LEN + udp::DATAGRAM_LEN;
            (u16::from_be_bytes([self.0[at], self.0[at + 1]]), ipv4::LEN + udp::CHECKSUM)
        } else {
            (total_len.saturating_sub(ipv4::LEN as u16), ipv4::LEN + tcp::CHECKSUM)
        };
        let sum = pseudo_ipv4((addresses >> 32) as u32, addresses as u32, self.protocol(), len).fold();
        packet
            .get(field..)
            .and_then(|rest| rest.first_chunk())
            .is_none_or(|field| *field == sum.to_be_bytes())
    }
}

impl<'a> Plain<&'a mut [u8; LEN]> {
    /// The packet to edit, which [`check`](Plain::check) has found to be plain.
    #[inline(always)]
    pub fn edit(packet: &'a mut [u8]) -> Option<(Self, &'a mut [u8])> {
        let (start, rest) = packet.split_first_chunk_mut()?;
        Some((Self(start), rest))
    }

    /// Time to live, in hops.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        self.0[ipv4::TTL]
    }

    /// Bytes of the packet with its header.
    #[inline(always)]
    pub fn total_len(&self) -> u16 {
        u16::from_be_bytes([self.0[ipv4::TOTAL_LEN], self.0[ipv4::TOTAL_LEN + 1]])
    }

    /// Sends it on: TTL less one, which must not be 0, new addresses and ports, checksums to match. `rest` is what
    /// [`edit`](Self::edit) gave.
    #[inline(always)]
    pub fn forward(&mut self, rest: &mut [u8], new: &Translation) {
        let bytes = &mut *self.0;
        bytes[ipv4::TTL] -= 1;
        let mut put = |at: usize, delta: Delta| {
            let field = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            [bytes[at], bytes[at + 1]] = delta.apply(field).to_be_bytes();
        };
        put(ipv4::CHECKSUM, new.header);
        bytes[ipv4::SOURCE..ipv4::LEN].copy_from_slice(&new.addresses);
        bytes[ipv4::LEN..ipv4::LEN + 4].copy_from_slice(&new.ports);
        if bytes[ipv4::PROTOCOL] == ipv4::UDP {
            const FIELD: usize = ipv4::LEN + udp::CHECKSUM;
            let field = u16::from_be_bytes([bytes[FIELD], bytes[FIELD + 1]]);
            [bytes[FIELD], bytes[FIELD + 1]] = new.transport.apply_udp(field).to_be_bytes();
        } else if let Some(field) = rest.get_mut(TCP_CHECKSUM..TCP_CHECKSUM + 2) {
            let checksum = new.transport.apply(u16::from_be_bytes([field[0], field[1]]));
            field.copy_from_slice(&checksum.to_be_bytes());
        }
    }
}
