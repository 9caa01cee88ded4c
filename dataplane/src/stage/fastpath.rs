//! The fast path: packets of the kind that nearly all are, of sessions that stand, from their first byte to their last in
//! a few walks over the burst. One source for IPv4 and IPv6. Each walk is short, so that what it works with stays in registers.
//!
//! What it takes on it treats as the stages would, with what they are made of. Whatever asks for more than the usual it
//! leaves `live`, untouched and uncounted, for them: other kinds of packets, first packets, TCP that opens or ends, a next
//! hop that is not known, TTL 1, a packet over the MTU. One thing differs: within a burst, what comes by here asks a limit
//! first.
//!
//! Exits: packets ready to be transmitted; drops of those that a limit refuses.

use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::parse::L3 as L3Kind;
use sluice_pkt::plain::{Plain, V4, V6};

use crate::burst::{Burst, Mask};
use crate::clock::Nanos;
use crate::session::{Batch, Flow, FlowAction, Key4, Key6, Sessions, ticks};
use crate::shard::Shard;
use crate::snapshot::{NONE16, Snapshot, Tags};
use crate::table::hash::HashTable;
use crate::table::key::Key;
use crate::verdict::DropReason;

/// The link header of the packets that are taken on: untagged.
const L3: usize = ethernet::LEN;

/// Packets that the fast path has taken on, by family.
#[derive(Clone, Copy, Debug, Default)]
pub struct Admitted {
    v4: Mask,
    v6: Mask,
}

/// What the fast path needs to know of a family.
trait Family: Plain {
    /// What [`Headers`](sluice_pkt::parse::Headers) say of its packets.
    const L3_KIND: L3Kind;
    type Key: Key;

    /// The key of a flow that comes in by this interface.
    fn key(words: Self::Words, interface: u16) -> Self::Key;

    /// The family's flows, and look-ups of them under way.
    fn tables<'a>(
        sessions: &'a mut Sessions,
        batch4: &'a mut Batch<Key4>,
        batch6: &'a mut Batch<Key6>,
    ) -> (&'a mut HashTable<Self::Key, Flow>, &'a mut Batch<Self::Key>);
}

impl Family for V4 {
    const L3_KIND: L3Kind = L3Kind::Ipv4;
    type Key = Key4;

    #[inline(always)]
    fn key([first, second]: [u64; 2], interface: u16) -> Key4 {
        [first | u64::from(interface) << Self::FREE, second]
    }

    #[inline(always)]
    fn tables<'a>(
        sessions: &'a mut Sessions,
        batch4: &'a mut Batch<Key4>,
        _: &'a mut Batch<Key6>,
    ) -> (&'a mut HashTable<Key4, Flow>, &'a mut Batch<Key4>) {
        (&mut sessions.v4, batch4)
    }
}

impl Family for V6 {
    const L3_KIND: L3Kind = L3Kind::Ipv6;
    type Key = Key6;

    #[inline(always)]
    fn key([first, rest @ ..]: [u64; 5], interface: u16) -> Key6 {
        let [b, c, d, e] = rest;
        [first | u64::from(interface) << Self::FREE, b, c, d, e]
    }

    #[inline(always)]
    fn tables<'a>(
        sessions: &'a mut Sessions,
        _: &'a mut Batch<Key4>,
        batch6: &'a mut Batch<Key6>,
    ) -> (&'a mut HashTable<Key6, Flow>, &'a mut Batch<Key6>) {
        (&mut sessions.v6, batch6)
    }
}

/// First walk: which packets it may take on. Fetches the buckets of their flows.
pub fn admit(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot) -> Admitted {
    let mut admitted = Admitted::default();
    if snapshot.stages_only {
        return admitted;
    }
    let port = snapshot.ports.get(usize::from(burst.port));
    let interface = snapshot.interface_of(burst.port, Tags::default()).unwrap_or(NONE16);
    let (Some(port), Some(ours)) = (port, snapshot.interfaces.get(usize::from(interface))) else {
        return admitted;
    };
    let ours = station(ours.mac);
    let partial = port.complete_checksums;
    // One family after the other, each loop a function of its own: so it keeps what it needs in registers.
    admitted.v4 = admit_family::<V4>(burst, burst.live, ours, partial, interface, shard);
    let others = burst.live.without(admitted.v4);
    if !others.is_empty() {
        admitted.v6 = admit_family::<V6>(burst, others, ours, partial, interface, shard);
    }
    admitted
}

#[inline(never)]
fn admit_family<F: Family>(
    burst: &Burst,
    mask: Mask,
    ours: u64,
    partial: bool,
    interface: u16,
    shard: &mut Shard,
) -> Mask {
    let (table, batch) = F::tables(&mut shard.sessions, &mut shard.batch4, &mut shard.batch6);
    let mut admitted = Mask::NONE;
    for i in mask {
        let Some((link, packet)) = burst.bytes(i).split_first_chunk::<L3>() else { continue };
        if !is_between_stations::<F>(link, ours) {
            continue;
        }
        let frame_len = burst.packet_len(i);
        let Some(words) = F::check(packet, frame_len - L3) else { continue };
        if partial && F::may_be_partial(packet) {
            continue;
        }
        batch.begin(i, F::key(words, interface), table);
        batch.keep_lens(i, F::len(packet), frame_len);
        admitted.add(i);
    }
    admitted
}

/// A MAC address as the first six bytes of a frame, in a number.
#[inline]
fn station(Mac([a, b, c, d, e, f]): Mac) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// Whether a frame carries a packet of the family, from one station to that with this MAC address.
#[inline(always)]
fn is_between_stations<F: Family>(link: &[u8; L3], ours: u64) -> bool {
    const GROUP_BIT_OF_SOURCE: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 1, 0]);
    const DESTINATION: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    let &[.., y, z] = link;
    // In one piece: taken byte by byte, it is loaded so.
    let start = link.first_chunk().map_or(0, |start| u64::from_ne_bytes(*start));
    (start ^ ours) & (DESTINATION | GROUP_BIT_OF_SOURCE) == 0 && u16::from_be_bytes([y, z]) == F::ETHERTYPE
}

/// Second walk: reads the buckets.
pub fn look_up(admitted: Admitted, shard: &mut Shard) {
    let Shard { sessions, batch4, batch6, .. } = shard;
    batch4.choose(admitted.v4, &sessions.v4);
    batch6.choose(admitted.v6, &sessions.v6);
}

/// Third walk: does what the flow's action says.
pub fn forward(burst: &mut Burst, admitted: Admitted, shard: &mut Shard) {
    forward_family::<V4>(burst, admitted.v4, shard);
    if !admitted.v6.is_empty() {
        forward_family::<V6>(burst, admitted.v6, shard);
    }
    burst.live = burst.live.without(burst.ready);
}

#[inline(always)]
fn forward_family<F: Family>(burst: &mut Burst, admitted: Mask, shard: &mut Shard) {
    let mut refused = Mask::NONE;
    let mut ready = let_pass::<F>(burst.now, admitted, &mut refused, shard);
    // Records that lie further along than in their first bucket are few: a second walk for them holds nobody up.
    let further = admitted.without(ready).without(refused);
    if !further.is_empty() {
        let (table, batch) = F::tables(&mut shard.sessions, &mut shard.batch4, &mut shard.batch6);
        let found = batch.search_on(further, table);
        ready = ready.or(let_pass::<F>(burst.now, found, &mut refused, shard));
    }
    write::<F>(burst, ready, shard);
    burst.ready = burst.ready.or(ready);
    refused.for_each(|i| burst.drop(i, DropReason::RateLimited));
}

/// How many packets ahead records are fetched. A core drops prefetches for which it has no buffer free.
const AHEAD: usize = 16;

/// Which packets go on: those of flows that stand, within their limits. Counts them.
#[inline(never)]
fn let_pass<F: Family>(now: Nanos, mask: Mask, refused: &mut Mask, shard: &mut Shard) -> Mask {
    let (tick, stamp) = (ticks(now), shard.neighbors.epoch());
    let Shard { sessions, batch4, batch6, neighbors, limiters, counters, .. } = shard;
    let (table, batch) = F::tables(sessions, batch4, batch6);
    let mut ready = Mask::NONE;
    let mut ahead = mask;
    for _ in 0..AHEAD {
        ahead.next().into_iter().for_each(|i| batch.fetch(i, table));
    }
    for i in mask {
        if let Some(next) = ahead.next() {
            batch.fetch(next, table);
        }
        let Some(flow) = batch.confirm_mut(i, table) else { continue };
        let (packet_len, frame_len) = batch.lens(i);
        let action = &flow.action;
        let hop = neighbors.hop(action.next_hop);
        if flow.stamp != stamp
            || action.flags & !FlowAction::NAT != 0
            || packet_len > hop.egress.mtu
            || !hop.resolved
        {
            continue;
        }
        let frame_len = usize::from(frame_len);
        if !limiters.pass(action.limits, now, frame_len) {
            refused.add(i);
            continue;
        }
        if let Some(hits) = counters.rules.get_mut(usize::from(action.rule)) {
            hits.add(frame_len);
        }
        flow.count(frame_len, tick);
        ready.add(i);
    }
    ready
}

/// Makes packets what they are when they leave.
#[inline(never)]
fn write<F: Family>(burst: &mut Burst, ready: Mask, shard: &mut Shard) {
    let Shard { sessions, batch4, batch6, neighbors, .. } = shard;
    let (table, batch) = F::tables(sessions, batch4, batch6);
    for i in ready {
        let (Some(flow), Some(frame)) = (batch.confirmed(i, table), burst.frame_mut(i)) else { continue };
        let end = L3 + usize::from(batch.lens(i).0);
        let hop = neighbors.hop(flow.action.next_hop);
        let Some((link, packet)) = frame.bytes_mut().split_first_chunk_mut::<L3>() else { continue };
        F::forward(packet, &flow.action.new);
        match hop.header.first_chunk() {
            Some(header) if usize::from(hop.egress.header_len) == L3 => {
                *link = *header;
                frame.truncate(end);
            }
            _ => super::rewrite::put_link(frame, L3, end, hop),
        }
        burst.egress[i] = hop.egress;
    }
}

/// Fourth walk, where there are classes: tells the stages behind which class and flow each packet is of.
pub fn recall(burst: &mut Burst, admitted: Admitted, shard: &mut Shard) {
    recall_family::<V4>(burst, admitted.v4, shard);
    recall_family::<V6>(burst, admitted.v6, shard);
}

fn recall_family<F: Family>(burst: &mut Burst, admitted: Mask, shard: &mut Shard) {
    let (table, batch) = F::tables(&mut shard.sessions, &mut shard.batch4, &mut shard.batch6);
    for i in admitted.and(burst.ready) {
        let Some((index, flow)) = batch.confirm(i, table) else { continue };
        burst.headers[i].l3 = F::L3_KIND;
        burst.flows[i] = index;
        burst.actions[i].class = flow.action.class;
    }
}
