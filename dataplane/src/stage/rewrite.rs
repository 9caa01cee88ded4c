//! Rewrite: makes a packet what it is when it leaves. New addresses and ports, TTL less one, the header of the egress
//! link; before that, a policer's mark. Nothing can fail here; what could was asked before.

use sluice_pkt::checksum::Delta;
use sluice_pkt::parse::{Flags, Headers, L3};
use sluice_pkt::translation::{ONE_HOP, Translation};
use sluice_pkt::{ethernet, icmpv4, ipv4, ipv6, tcp, udp, vlan};

use super::{fragment, icmp_error, nat64, prefix};
use crate::arena::Frame;
use crate::burst::Burst;
use crate::local::neighbor::NextHop;
use crate::session::FlowAction;
use crate::shard::Shard;
use crate::snapshot::{Mark, Snapshot};

/// Runs the stage.
pub fn run(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot) {
    for i in burst.live {
        let interface = burst.interfaces[i];
        let mark = if burst.actions[i].is(FlowAction::METERED) { burst.marks[i] } else { Mark::default() };
        if let Some(dscp) = mark.dscp {
            let l3 = (burst.headers[i].l3, burst.headers[i].l3_offset.into());
            set_dscp(burst.bytes_mut(i), l3, dscp);
        }
        if burst.actions[i].flags & (FlowAction::TO_V4 | FlowAction::TO_V6) != 0 {
            cross(burst, i, mark, shard, snapshot);
            continue;
        }
        let Some((frame, headers, action, egress)) = burst.leaving(i) else { continue };
        let hop = shard.neighbors.hop(action.next_hop);
        *egress = hop.egress;
        let comes_in_pieces =
            headers.flags.has(Flags::FRAGMENT) || headers.end - headers.l3_offset > hop.egress.mtu;
        if comes_in_pieces && headers.l3 == L3::Ipv4 && action.is(FlowAction::NAT) {
            fragment::renew(frame.bytes_mut(), headers, action, interface, &mut shard.fragments);
        }
        match headers.l3 {
            L3::Ipv4 => ipv4(frame.bytes_mut(), headers, action),
            _ => ipv6(frame.bytes_mut(), headers, action, snapshot),
        }
        put_link(frame, headers.l3_offset.into(), headers.end.into(), hop);
        set_priority(frame.bytes_mut(), hop, mark);
        let fits = frame.len() <= usize::from(hop.egress.header_len) + usize::from(hop.egress.mtu);
        burst.ready.add_if(i, fits);
    }
}

/// Turns a packet into one of the other family.
fn cross(burst: &mut Burst, i: usize, mark: Mark, shard: &mut Shard, snapshot: &Snapshot) {
    let (ends6, ingress) = (burst.ends6[i], burst.interfaces[i]);
    let came_by = snapshot.interfaces.get(usize::from(ingress)).map_or(0, |interface| interface.mtu);
    let Some((frame, headers, action, egress)) = burst.leaving(i) else { return };
    let hop = shard.neighbors.hop(action.next_hop);
    *egress = hop.egress;
    let longest = if action.is(FlowAction::TO_V4) {
        nat64::rewrite::to_v4(frame, headers, action, hop, came_by, &mut shard.fragments);
        hop.egress.mtu
    } else {
        nat64::rewrite::to_v6(frame, headers, action, &ends6, hop, came_by, snapshot)
    };
    set_priority(frame.bytes_mut(), hop, mark);
    let fits = frame.len() <= usize::from(hop.egress.header_len) + usize::from(longest);
    burst.ready.add_if(i, fits);
}

/// Sets the differentiated services code point; the two bits of ECN stay.
fn set_dscp(bytes: &mut [u8], (l3, at): (L3, usize), dscp: u8) {
    const ECN: u8 = 3;
    if l3 == L3::Ipv4 {
        let Some(mut ip) = ipv4::Header::at_mut(bytes, at) else { return };
        let (old, class) = (ip.dscp_ecn(), dscp << 2 | ip.dscp_ecn() & ECN);
        let checksum = Delta::of_u16(old.into(), class.into()).apply(ip.checksum());
        ip.set_dscp_ecn(class);
        ip.set_checksum(checksum);
    } else if let Some(mut ip) = ipv6::Header::at_mut(bytes, at) {
        let class = dscp << 2 | ip.traffic_class() & ECN;
        ip.set_traffic_class(class);
    }
}

/// Sets the priority of the outermost tag, if the packet leaves with one.
fn set_priority(bytes: &mut [u8], hop: &NextHop, mark: Mark) {
    let Some(priority) = mark.pcp.filter(|_| usize::from(hop.egress.header_len) > ethernet::LEN) else {
        return;
    };
    if let Some(mut tag) = vlan::Header::at_mut(bytes, ethernet::LEN) {
        let tci = tag.tci();
        tag.set_tci(vlan::tci(priority, vlan::drop_eligible(tci), vlan::id(tci)));
    }
}

/// Puts the link header in the place of a packet's own, from `l3` to `end` in its frame. Ethernet padding stays behind:
/// the link that it was needed on is not the one that it would go to.
pub(super) fn put_link(frame: &mut Frame, l3: usize, end: usize, hop: &NextHop) {
    let len = usize::from(hop.egress.header_len);
    if frame.replace_front(l3, len, end) {
        if let (Some(room), Some(link)) = (frame.bytes_mut().get_mut(..len), hop.header.get(..len)) {
            room.copy_from_slice(link);
        }
    }
}

fn ipv4(bytes: &mut [u8], headers: &Headers, action: &FlowAction) {
    let Some(mut ip) = ipv4::Header::at_mut(bytes, headers.l3_offset.into()) else { return };
    ip.set_ttl(headers.ttl - 1);
    let mut delta = ONE_HOP;
    if action.is(FlowAction::NAT) {
        delta = action.new.header;
        ip.set_source(action.new.source());
        ip.set_destination(action.new.destination());
    }
    let checksum = ip.checksum();
    ip.set_checksum(delta.apply(checksum));
    if action.is(FlowAction::NAT) && !headers.flags.has(Flags::LATER_FRAGMENT) {
        translate_transport(bytes, headers, &action.new);
    } else if action.is(FlowAction::QUOTATION) {
        icmp_error::translate(bytes, headers, action);
    }
}

fn translate_transport(bytes: &mut [u8], headers: &Headers, new: &Translation) {
    let l4 = usize::from(headers.l4_offset);
    match headers.protocol {
        ipv4::TCP => {
            if let Some(mut tcp) = tcp::Header::at_mut(bytes, l4) {
                tcp.set_source_port(new.source_port());
                tcp.set_destination_port(new.destination_port());
                let checksum = tcp.checksum();
                tcp.set_checksum(new.transport.apply(checksum));
            }
        }
        ipv4::UDP => {
            if let Some(mut udp) = udp::Header::at_mut(bytes, l4) {
                udp.set_source_port(new.source_port());
                udp.set_destination_port(new.destination_port());
                let checksum = udp.checksum();
                udp.set_checksum(new.transport.apply_udp(checksum));
            }
        }
        ipv4::ICMP => {
            let identifier = match icmpv4::query(headers.icmp_type) {
                Some(icmpv4::Query::Request) => new.source_port(),
                Some(icmpv4::Query::Reply(_)) => new.destination_port(),
                None => return,
            };
            if let Some(mut icmp) = icmpv4::Header::at_mut(bytes, l4) {
                icmp.set_identifier(identifier);
                let checksum = icmp.checksum();
                icmp.set_checksum(new.transport.apply(checksum));
            }
        }
        // Their checksums lie where UDP's does and have its pseudo-header (RFC 4340 9.1, RFC 3828 3.1).
        ipv4::DCCP | ipv4::UDP_LITE => {
            if let Some(mut header) = udp::Header::at_mut(bytes, l4) {
                let checksum = header.checksum();
                let lite = headers.protocol == ipv4::UDP_LITE;
                let checksum =
                    if lite { new.transport.apply_udp(checksum) } else { new.transport.apply(checksum) };
                header.set_checksum(checksum);
            }
        }
        _ => {}
    }
}

fn ipv6(bytes: &mut [u8], headers: &Headers, action: &FlowAction, snapshot: &Snapshot) {
    if let Some(mut ip) = ipv6::Header::at_mut(bytes, headers.l3_offset.into()) {
        ip.set_hop_limit(headers.ttl - 1);
    }
    if action.is(FlowAction::SOURCE6) || action.is(FlowAction::DESTINATION6) {
        prefix::translate(bytes, headers, action, snapshot);
    }
}
