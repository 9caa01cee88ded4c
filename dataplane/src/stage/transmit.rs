//! Transmit: carries every packet's verdict out. This is the one place where a packet's life ends, so that each is counted
//! once.

use sluice_pkt::ipv6;

use super::{fragment, shape};
use crate::arena::{Frame, FramePool};
use crate::burst::Burst;
use crate::crossing;
use crate::local::neighbor::Egress;
use crate::shard::Shard;
use crate::snapshot::{NONE16, Snapshot};
use crate::verdict::{DropReason, Verdict};

/// Runs the stage and leaves the burst without frames.
pub fn run(burst: &mut Burst, shard: &mut Shard, snapshot: &Snapshot) {
    let len = burst.len();
    let together = burst.leaves_by().filter(|&port| !shard.shapers.has(port));
    if let Some(outbox) = together.and_then(|port| shard.outboxes.get_mut(usize::from(port))) {
        if outbox.append(burst.frames_mut()) {
            return;
        }
    }
    for i in 0..len {
        if !burst.ready.has(i) {
            conclude(burst, i, shard, snapshot);
            continue;
        }
        let port = burst.egress[i].port;
        if shard.shapers.has(port) {
            shape::hold(burst, i, shard);
            continue;
        }
        match shard.outboxes.get_mut(usize::from(port)) {
            Some(outbox) if !outbox.is_full() => {
                if let Some(frame) = burst.take(i) {
                    outbox.push(frame).unwrap_or_else(|frame| shard.pool.give(frame));
                }
            }
            _ => {
                if let Some(frame) = burst.take(i) {
                    discard(frame, DropReason::TransmitQueueFull, burst.port, NONE16, shard);
                }
            }
        }
    }
    shape::settle(burst.now, shard);
}

/// What is not simply sent.
#[inline(never)]
fn conclude(burst: &mut Burst, i: usize, shard: &mut Shard, snapshot: &Snapshot) {
    match burst.verdicts[i] {
        Verdict::Forward => cut(burst, i, shard),
        Verdict::Local => shard.local(snapshot, burst.now).input(i, burst),
        Verdict::PortControl(reply) => shard.local(snapshot, burst.now).port_control(i, burst, reply),
        Verdict::Hold(neighbor) => {
            let port = burst.port;
            if let Some(frame) = burst.take(i) {
                if let Err((frame, reason)) = shard.neighbors.hold(neighbor as u16, port, frame, burst.now) {
                    shard.local(snapshot, burst.now).undeliverable(port, frame, reason);
                }
            }
        }
        Verdict::Ask(owner) => crossing::ask(burst, i, owner, shard),
        Verdict::AwaitFragments => fragment::hold(burst, i, shard),
        Verdict::HoldSyn => {
            let (port, now) = (burst.port, burst.now);
            let refused = burst.take(i).and_then(|frame| shard.syns.hold(port, frame, now).err());
            if let Some(frame) = refused {
                discard(frame, DropReason::SynUnsolicited, port, NONE16, shard);
            }
        }
        Verdict::Drop(reason) => {
            let rule = refused_by(burst, i, reason);
            if let Some(frame) = burst.take(i) {
                discard(frame, reason, burst.port, rule, shard);
            }
        }
        Verdict::Reject(reason, answer) => {
            shard.local(snapshot, burst.now).answer(i, burst, answer);
            let rule = refused_by(burst, i, reason);
            if let Some(frame) = burst.take(i) {
                discard(frame, reason, burst.port, rule, shard);
            }
        }
    }
}

/// The rule that refused packet `i`.
fn refused_by(burst: &Burst, i: usize, reason: DropReason) -> u16 {
    if reason == DropReason::AclDeny { burst.actions[i].rule } else { NONE16 }
}

#[cold]
fn discard(frame: Frame, reason: DropReason, port: u16, rule: u16, shard: &mut Shard) {
    shard.counters.lost(reason, &frame, port, rule);
    shard.pool.give(frame);
}

/// Sends a packet that is too long for its link in pieces: in order on the wire, the first one, then the others.
fn cut(burst: &mut Burst, i: usize, shard: &mut Shard) {
    let Egress { port, mtu, header_len, .. } = burst.egress[i];
    let (turn, now, came_by) = (shape::turn(burst, i, shard), burst.now, burst.port);
    let Some(frame) = burst.take(i) else { return };
    let Shard { pool, outboxes, counters, shapers, .. } = shard;
    let emit = |piece: Frame, pool: &mut FramePool| {
        if shapers.has(port) {
            return shape::hold_piece(piece, port, turn, now, (shapers, outboxes, pool, counters));
        }
        let outbox = outboxes.get_mut(usize::from(port));
        if let Err(piece) = outbox.map_or(Ok(()), |outbox| outbox.push(piece)) {
            counters.lost(DropReason::TransmitQueueFull, &piece, came_by, NONE16);
            pool.give(piece);
        }
    };
    let l3 = usize::from(header_len);
    let is_ipv6 = frame.bytes().get(l3).is_some_and(|byte| byte >> 4 == 6);
    let outcome = if is_ipv6 {
        // Only what NAT64 has made is ever too long here.
        fragment::split6(frame, l3, mtu.min(ipv6::MIN_MTU), pool, emit)
    } else {
        fragment::split(frame, l3, mtu, pool, emit)
    };
    match outcome {
        Ok(extra) => shard.counters.split_extra += extra,
        Err((frame, reason)) => discard(frame, reason, came_by, NONE16, shard),
    }
}
