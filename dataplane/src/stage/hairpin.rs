//! Hairpinning: packets from behind NAT to an external address and port of our own (RFC 4787 REQ-9, RFC 5382 REQ-8, RFC 5508
//! REQ-7).
//!
//! Such a packet is treated as if it went out and a mirror there sent it back. It leaves by the interface on whose link the
//! external address lies, translated as any other, so that its source is the external one; its next hop is ourselves, and
//! it comes in again by that interface, where ACL, filter and destination NAT see a packet from outside. So each half is
//! an ordinary session, whichever worker owns it, and ICMP errors find their way back through both. To the external address
//! of static NAT packets of every protocol hairpin, to others TCP and UDP: no binding can be opened by others.

use std::net::Ipv4Addr;

use sluice_pkt::ipv4;

use super::{nat, portless};
use crate::snapshot::Snapshot;

/// The interface by which a packet that came in by another leaves for an external address and port of ours. `None` if its
/// source is not translated there, or nothing inside can be behind that address and port.
pub(super) fn way_out(
    [src, dst]: [(u32, u16); 2],
    protocol: u8,
    interface: u16,
    snapshot: &Snapshot,
) -> Option<u16> {
    let &(outside, _) = snapshot.local4.get(&Ipv4Addr::from_bits(dst.0))?;
    if outside == interface {
        return None;
    }
    let is_forwarded = |at| snapshot.forwards.iter().any(|f| nat::forwards(f, at, dst, protocol));
    let has_somebody = nat::static_inside(dst.0, snapshot).is_some()
        || matches!(protocol, ipv4::TCP | ipv4::UDP)
            && (is_pooled(dst, snapshot) || is_forwarded(outside))
            && !is_forwarded(interface);
    let leaves = has_somebody && nat::source_of([src, dst], protocol, outside, snapshot).is_changed();
    leaves.then_some(outside)
}

/// Whether packets that hairpin may come from this address and port (or identifier).
pub(super) fn is_external(end: (u32, u16), protocol: u8, snapshot: &Snapshot) -> bool {
    is_pooled(end, snapshot)
        || snapshot.statics.inside_of(end.0).is_some()
        || portless::is_portless(protocol) && portless::is_pooled(Ipv4Addr::from_bits(end.0), snapshot)
}

/// Whether source NAT gives this address and port (or identifier) out.
pub(super) fn is_pooled(end: (u32, u16), snapshot: &Snapshot) -> bool {
    let address = Ipv4Addr::from_bits(end.0);
    snapshot.pools.iter().any(|pool| pool.contains(address, end.1))
}
