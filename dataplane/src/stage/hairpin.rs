//! Hairpinning: packets from behind NAT to an external address and port of our own (RFC 4787 REQ-9, RFC 5382 REQ-8, RFC 5508
//! REQ-7).
//!
//! Such a packet is treated as if it went out and a mirror there sent it back. It leaves by the interface on whose link the
//! external address lies, translated as any other, so that its source is the external one; its next hop is ourselves, and
//! it comes in again by that interface, where ACL, filter and destination NAT see a packet from outside. So each half is
//! an ordinary session, whichever worker owns it, and ICMP errors find their way back through both.

use std::net::Ipv4Addr;

use sluice_pkt::ipv4;

use super::nat;
use crate::snapshot::Snapshot;

/// The interface by which a packet that came in by another leaves for an external address and port of ours. `None` if its
/// source is not translated there, or nothing inside can be behind that address and port.
pub(super) fn way_out(
    [src, dst]: [(u32, u16); 2],
    protocol: u8,
    interface: u16,
    snapshot: &Snapshot,
) -> Option<u16> {
    if !matches!(protocol, ipv4::TCP | ipv4::UDP) {
        return None;
    }
    let &(outside, _) = snapshot.local4.get(&Ipv4Addr::from_bits(dst.0))?;
    let is_forwarded = |at| snapshot.forwards.iter().any(|f| nat::forwards(f, at, dst, protocol));
    let leaves = outside != interface
        && (is_pooled(dst, snapshot) || is_forwarded(outside))
        && !is_forwarded(interface)
        && nat::rule(snapshot, src.0, outside).is_some();
    leaves.then_some(outside)
}

/// Whether source NAT gives this address and port (or identifier) out.
pub(super) fn is_pooled(end: (u32, u16), snapshot: &Snapshot) -> bool {
    let address = Ipv4Addr::from_bits(end.0);
    snapshot.pools.iter().any(|pool| pool.contains(address, end.1))
}
