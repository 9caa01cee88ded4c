//! The chain of IPv6 extension headers (RFC 8200 4).

use super::{Flags, MAX_EXTENSIONS};
use crate::ipv6::{self, fragment};

/// Where the chain ends, and what was found on the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    /// Offset of what stands behind the chain.
    pub(super) l4_offset: usize,
    /// Protocol number of what stands there.
    pub(super) protocol: u8,
    /// `OPTIONS`, and `SOURCE_ROUTE` where it applies.
    pub(super) flags: Flags,
    /// The fragment header, unless the fragment is the whole datagram.
    pub(super) fragment: Option<Part>,
}

/// What a fragment header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Offset of the fragment header itself.
    pub(super) header: usize,
    /// Where the fragment lies in the fragmented part, in bytes.
    pub(super) offset: u16,
    /// Whether it is not the last.
    pub(super) more: bool,
}

/// Whether the protocol number is of an extension header that is walked over. Mobility, HIP and shim6 headers are not:
/// nothing that Sluice handles follows them. ESP and "no next header" end a chain too.
#[inline]
pub(super) const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::FRAGMENT | ipv6::AH | ipv6::DESTINATION_OPTIONS
    )
}

/// Walks the chain from `first`, where a header of the type `next` stands. `None` where a header is cut off, hop-by-hop
/// options are not the first, there is a second fragment header, or there are over [`MAX_EXTENSIONS`]. Behind the header of
/// a later fragment there is no chain to follow.
#[cold]
pub(super) fn walk(bytes: &[u8], first: usize, next: u8) -> Option<Chain> {
    let mut chain = Chain { l4_offset: first, protocol: next, flags: Flags::default(), fragment: None };
    let mut fragments = 0;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(chain.protocol) {
            return Some(chain);
        }
        // Each of them starts with the next header's type and, but for the fragment header, its own length.
        let at = chain.l4_offset;
        let header: &[u8; 8] = bytes.get(at..)?.first_chunk()?;
        let units = usize::from(header[1]);
        let len = match chain.protocol {
            ipv6::HOP_BY_HOP if at != first => return None,
            ipv6::FRAGMENT => fragment::LEN,
            ipv6::AH if units == 0 => return None,
            ipv6::AH => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        bytes.get(at..at + len)?;
        let [_, _, routing_type, segments_left, ..] = *header;
        if chain.protocol == ipv6::ROUTING && routing_type == 0 && segments_left > 0 {
            chain.flags.set(Flags::SOURCE_ROUTE);
        }
        let is_fragment = chain.protocol == ipv6::FRAGMENT;
        chain.flags.set(Flags::OPTIONS);
        chain.l4_offset = at + len;
        chain.protocol = header[0];
        if is_fragment {
            fragments += 1;
            if fragments > 1 {
                return None;
            }
            let this = fragment::Header(header);
            if !this.is_atomic() {
                chain.fragment = Some(Part { header: at, offset: this.offset(), more: this.more() });
            }
            if this.offset() != 0 {
                return Some(chain);
            }
        }
    }
    (!is_extension(chain.protocol)).then_some(chain)
}
