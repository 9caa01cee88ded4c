//! Rewrite: makes a packet what it is when it leaves. New addresses and ports, TTL less one, the header of the egress
//! link. Nothing can fail here; what could was asked before.

use sluice_pkt::checksum::Delta;
use sluice_pkt::parse::{Flags, Headers, L3};
use sluice_pkt::{icmpv4, ipv4, ipv6, tcp, udp};

use super::icmp_error;
use crate::arena::Frame;
use crate::burst::Burst;
use crate::session::FlowAction;
use crate::shard::Shard;

/// What a TTL that is one less does to the header checksum; it is the high byte of its word.
const TTL_LESS_ONE: Delta = Delta::of_u16(0x0100, 0);

/// Runs the stage.
pub fn run(burst: &mut Burst, shard: &mut Shard) {
    for i in burst.live {
        let Some((frame, headers, action)) = burst.leaving(i) else { continue };
        match headers.l3 {
            L3::Ipv4 => rewrite4(frame.bytes_mut(), headers, action),
            _ => rewrite6(frame.bytes_mut(), headers),
        }
        let hop = shard.neighbors.hop(action.next_hop);
        match hop.header_len {
            14 => put_link::<14>(frame, headers, &hop.header),
            18 => put_link::<18>(frame, headers, &hop.header),
            _ => put_link::<22>(frame, headers, &hop.header),
        }
    }
}

/// Puts a link header of `LEN` bytes in the place of the packet's own; a constant length, so that a few moves do it.
/// Ethernet padding stays behind: the link that it was needed on is not the one that it would go to.
#[inline(always)]
fn put_link<const LEN: usize>(frame: &mut Frame, headers: &Headers, link: &[u8; 22]) {
    if frame.replace_front(headers.l3_offset.into(), LEN, headers.end.into())
        && let (Some(room), Some(link)) =
            (frame.bytes_mut().first_chunk_mut::<LEN>(), link.first_chunk::<LEN>())
    {
        *room = *link;
    }
}

#[inline(always)]
fn rewrite4(bytes: &mut [u8], headers: &Headers, action: &FlowAction) {
    let Some(mut ip) = ipv4::Header::at_mut(bytes, headers.l3_offset.into()) else { return };
    let mut delta = TTL_LESS_ONE;
    ip.set_ttl(headers.ttl - 1);
    if action.is(FlowAction::NAT) {
        delta += action.l3;
        ip.set_source(action.src.into());
        ip.set_destination(action.dst.into());
    }
    let checksum = ip.checksum();
    ip.set_checksum(delta.apply(checksum));
    if action.is(FlowAction::NAT) && !headers.flags.has(Flags::LATER_FRAGMENT) {
        translate_transport(bytes, headers, action);
    } else if action.is(FlowAction::QUOTATION) {
        icmp_error::translate(bytes, headers, action);
    }
}

#[inline]
fn translate_transport(bytes: &mut [u8], headers: &Headers, action: &FlowAction) {
    let l4 = usize::from(headers.l4_offset);
    match headers.protocol {
        ipv4::TCP => {
            if let Some(mut tcp) = tcp::Header::at_mut(bytes, l4) {
                tcp.set_source_port(action.src_port);
                tcp.set_destination_port(action.dst_port);
                let checksum = tcp.checksum();
                tcp.set_checksum(action.l4.apply(checksum));
            }
        }
        ipv4::UDP => {
            if let Some(mut udp) = udp::Header::at_mut(bytes, l4) {
                udp.set_source_port(action.src_port);
                udp.set_destination_port(action.dst_port);
                let checksum = udp.checksum();
                udp.set_checksum(action.l4.apply_udp(checksum));
            }
        }
        ipv4::ICMP => {
            if let Some(mut icmp) = icmpv4::Header::at_mut(bytes, l4) {
                // The identifier is the asker's port; the other one is 0.
                icmp.set_identifier(action.src_port | action.dst_port);
                let checksum = icmp.checksum();
                icmp.set_checksum(action.l4.apply(checksum));
            }
        }
        _ => {}
    }
}

#[inline]
fn rewrite6(bytes: &mut [u8], headers: &Headers) {
    if let Some(mut ip) = ipv6::Header::at_mut(bytes, headers.l3_offset.into()) {
        ip.set_hop_limit(headers.ttl - 1);
    }
}
