//! Cuts IPv6 packets that NAT64 has made of IPv4 ones which may be cut (RFC 7915 4). Their fragment header is there already,
//! right behind the fixed header, as it names the datagram.

use sluice_pkt::ipv6;

use crate::arena::{Frame, FramePool, MAX_FRAME};
use crate::verdict::DropReason;

/// IP header and fragment header.
const FRONT: usize = ipv6::LEN + ipv6::fragment::LEN;

/// Cuts a packet (its network header at `l3`) into fragments of at most `mtu` bytes each, copies all of them, and hands them
/// to `emit` in order. Returns how many there are beyond one, or the frame untouched and the reason why it cannot be cut.
#[cold]
pub(in crate::stage) fn split6(
    frame: Frame,
    l3: usize,
    mtu: u16,
    pool: &mut FramePool,
    mut emit: impl FnMut(Frame, &mut FramePool),
) -> Result<u64, (Frame, DropReason)> {
    let Some(plan) = Plan::of(&frame, l3, mtu) else { return Err((frame, DropReason::PacketTooBig)) };
    let pieces = plan.payload.div_ceil(plan.step);
    if pool.free() < pieces * (l3 + FRONT + plan.step).div_ceil(MAX_FRAME) {
        return Err((frame, DropReason::NoFrame));
    }
    for at in (0..plan.payload).step_by(plan.step) {
        let len = plan.step.min(plan.payload - at);
        let Some(mut piece) = pool.take_len(l3 + FRONT + len) else { break };
        piece.put(0, frame.bytes().get(..l3 + FRONT).unwrap_or_default());
        piece.put_part(l3 + FRONT, &frame, l3 + FRONT + at, len);
        plan.mark(piece.bytes_mut(), l3, at, len);
        emit(piece, pool);
    }
    pool.give(frame);
    Ok(pieces as u64 - 1)
}

struct Plan {
    /// Bytes behind the fragment header.
    payload: usize,
    /// Of these in each fragment but the last: a multiple of 8.
    step: usize,
    /// Offset and flag of the packet itself, which may be a fragment already.
    offset_more: u16,
}

impl Plan {
    fn of(frame: &Frame, l3: usize, mtu: u16) -> Option<Self> {
        let ip = ipv6::Header::at(frame.bytes(), l3)?;
        let fragment = ipv6::fragment::Header::at(frame.bytes(), l3 + ipv6::LEN)?;
        let payload = usize::from(ip.payload_len()).checked_sub(ipv6::fragment::LEN)?;
        let step = usize::from(mtu).checked_sub(FRONT)? & !7;
        if ip.next_header() != ipv6::FRAGMENT
            || step == 0
            || payload == 0
            || frame.len() < l3 + FRONT + payload
        {
            return None;
        }
        Some(Self { payload, step, offset_more: fragment.offset_more() })
    }

    fn mark(&self, bytes: &mut [u8], l3: usize, at: usize, len: usize) {
        if let Some(mut ip) = ipv6::Header::at_mut(bytes, l3) {
            ip.set_payload_len((ipv6::fragment::LEN + len) as u16);
        }
        if let Some(mut fragment) = ipv6::fragment::Header::at_mut(bytes, l3 + ipv6::LEN) {
            let more = u16::from(at + len < self.payload) | self.offset_more & 1;
            // Both are multiples of 8.
            fragment.set_offset_more((self.offset_more & 0xfff8).wrapping_add(at as u16) | more);
        }
    }
}
