//! Transmit: carries every packet's verdict out. This is the one place where a packet's life ends, so that each is counted
//! once.

use super::fragment;
use crate::arena::Frame;
use crate::burst::Burst;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict};

/// Runs the stage and leaves the burst without frames.
pub fn run(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot) {
    for i in 0..burst.len() {
        match burst.verdicts[i] {
            Verdict::Forward => forward(burst, i, shard),
            Verdict::Local => shard.local(snapshot, burst.now).input(i, burst),
            Verdict::Hold(neighbor) => {
                let port = burst.port;
                if let Some(frame) = burst.take(i)
                    && let Err((frame, reason)) =
                        shard.neighbors.hold(neighbor as u16, port, frame, burst.now)
                {
                    shard.local(snapshot, burst.now).undeliverable(port, frame, reason);
                }
            }
            Verdict::Drop(reason) => {
                if let Some(frame) = burst.take(i) {
                    discard(frame, reason, shard);
                }
            }
            Verdict::Reject(reason, answer) => {
                shard.local(snapshot, burst.now).answer(i, burst, answer);
                if let Some(frame) = burst.take(i) {
                    discard(frame, reason, shard);
                }
            }
        }
    }
}

fn discard(frame: Frame, reason: DropReason, shard: &mut Shard) {
    shard.counters.dropped(reason, 1);
    shard.pool.give(frame);
}

#[inline]
fn forward(burst: &mut Burst, i: usize, shard: &mut Shard) {
    let hop = shard.neighbors.hop(burst.actions[i].next_hop);
    let (port, mtu) = (hop.port, hop.mtu);
    let link = usize::from(hop.header_len);
    let Some(frame) = burst.take(i) else { return };
    if frame.len() <= link + usize::from(mtu) {
        return send(frame, port, shard);
    }
    let Shard { pool, outboxes, counters, .. } = shard;
    let emit = |piece: Frame, pool: &mut crate::arena::FramePool| {
        let outbox = outboxes.get_mut(usize::from(port));
        if let Err(piece) = outbox.map_or(Ok(()), |outbox| outbox.push(piece)) {
            counters.dropped(DropReason::TransmitQueueFull, 1);
            pool.give(piece);
        }
    };
    // In order on the wire: the first piece, then the others.
    match fragment::split(frame, link, mtu, pool, emit) {
        Ok(extra) => shard.counters.split_extra += extra,
        Err((frame, reason)) => discard(frame, reason, shard),
    }
}

#[inline]
fn send(frame: Frame, port: u16, shard: &mut Shard) {
    let Some(outbox) = shard.outboxes.get_mut(usize::from(port)) else {
        return discard(frame, DropReason::NoRoute, shard);
    };
    if let Err(frame) = outbox.push(frame) {
        discard(frame, DropReason::TransmitQueueFull, shard);
    }
}
