//! The fast path: packets of the kind that nearly all are, of sessions that stand, from their first byte to their last in
//! three walks over the burst.
//!
//! What it takes on it treats as the stages would, with what they are made of. Whatever asks for more than the usual it
//! leaves `live`, untouched and uncounted, for them: other kinds of packets, first packets, TCP that opens or ends, a next
//! hop that is not known, TTL 1, a packet over the MTU. One thing differs: within a burst, what comes by here asks a limit
//! first.
//!
//! Exits: packets ready to be transmitted; drops of those that a limit refuses.

use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::plain::Plain;

use crate::burst::{Burst, Mask};
use crate::session::{FlowAction, key4, ticks};
use crate::shard::Shard;
use crate::snapshot::{NONE16, Snapshot, Tags};
use crate::verdict::DropReason;

/// The link header of the packets that are taken on: untagged.
const L3: usize = ethernet::LEN;

/// First walk: which packets it may take on. Fetches the buckets of their flows.
pub fn admit(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot) -> Mask {
    let mut admitted = Mask::NONE;
    if snapshot.stages_only {
        return admitted;
    }
    let port = snapshot.ports.get(usize::from(burst.port));
    let interface = snapshot.interface_of(burst.port, Tags::default()).unwrap_or(NONE16);
    let (Some(port), Some(ours)) = (port, snapshot.interfaces.get(usize::from(interface))) else {
        return admitted;
    };
    let ours = station(ours.mac);
    let (table, batch) = (&shard.sessions.v4, &mut shard.batch4);
    for i in burst.live {
        let bytes = burst.bytes(i);
        let Some((link, packet)) = bytes.split_first_chunk::<L3>() else { continue };
        if !is_ipv4_between_stations(link, ours) {
            continue;
        }
        let Some(plain) = Plain::check(packet, burst.packet_len(i) - L3) else { continue };
        if plain.opens_or_ends(packet) || (port.complete_checksums && plain.may_be_partial(packet)) {
            continue;
        }
        batch.begin(i, key4(plain.addresses(), plain.ports(), plain.protocol(), interface), table);
        admitted.add(i);
    }
    admitted
}

/// A MAC address as the first six bytes of a frame, in a number.
#[inline]
fn station(Mac([a, b, c, d, e, f]): Mac) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// Whether a frame carries IPv4, from one station to that with this MAC address.
#[inline(always)]
fn is_ipv4_between_stations(link: &[u8; L3], ours: u64) -> bool {
    const GROUP_BIT_OF_SOURCE: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 1, 0]);
    const DESTINATION: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    let &[a, b, c, d, e, f, g, h, .., y, z] = link;
    let start = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    (start ^ ours) & (DESTINATION | GROUP_BIT_OF_SOURCE) == 0 && u16::from_be_bytes([y, z]) == ethernet::IPV4
}

/// Second walk: fetches the records of their flows.
pub fn look_up(admitted: Mask, shard: &mut Shard) {
    shard.batch4.candidates(admitted, &shard.sessions.v4);
}

/// Third walk: does what the flow's action says.
pub fn forward(burst: &mut Burst, admitted: Mask, shard: &mut Shard) {
    let (now, tick) = (burst.now, ticks(burst.now));
    let stamp = shard.neighbors.epoch();
    let Shard { sessions, batch4, neighbors, limiters, counters, .. } = shard;
    let (mut ready, mut refused) = (Mask::NONE, Mask::NONE);
    for i in admitted {
        let Some(flow) = batch4.confirm_mut(i, &mut sessions.v4) else { continue };
        let action = &flow.action;
        let hop = neighbors.hop(action.next_hop);
        let Some(frame) = burst.frame_mut(i) else { continue };
        let frame_len = frame.len();
        let Some((link, packet)) = frame.bytes_mut().split_first_chunk_mut::<L3>() else { continue };
        let Some((mut plain, rest)) = Plain::edit(packet) else { continue };
        let packet_len = plain.total_len();
        if flow.stamp != stamp
            || action.flags & !FlowAction::NAT != 0
            || plain.ttl() <= 1
            || packet_len > hop.egress.mtu
            || !hop.resolved
        {
            continue;
        }
        if !limiters.pass(action.limits, now, frame_len) {
            refused.add(i);
            continue;
        }
        if let Some(hits) = counters.rules.get_mut(usize::from(action.rule)) {
            hits.add(frame_len);
        }
        plain.forward(rest, &action.new);
        flow.count(frame_len, tick);
        if usize::from(hop.egress.header_len) == L3
            && let Some(header) = hop.header.first_chunk()
        {
            *link = *header;
            frame.truncate(L3 + usize::from(packet_len));
        } else {
            super::rewrite::put_link(frame, L3, L3 + usize::from(packet_len), hop);
        }
        burst.egress[i] = hop.egress;
        ready.add(i);
    }
    burst.live = burst.live.without(ready);
    burst.ready = ready;
    refused.for_each(|i| burst.drop(i, DropReason::RateLimited));
}
