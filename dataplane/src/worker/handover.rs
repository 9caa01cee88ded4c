//! A worker is handed over to another process, which goes on where it stands: its state as bytes (`saved.rs`), the frames that
//! wait in it, and what its ports have lent to the kernel.

use super::Worker;
use crate::arena::{Frame, Piece};
use crate::burst::BURST;
use crate::clock::Nanos;
use crate::pipeline;
use crate::port::PortState;
use crate::probe::Probe;
use crate::saved::{self, Record, Restored, Saved, Tag, Unreadable, Writer};
use crate::snapshot::NONE16;
use crate::stage::shape;
use crate::verdict::DropReason;

/// A packet that waited when its worker was handed over.
#[derive(Debug)]
pub(super) struct Aside {
    way: Way,
    port: u16,
    pub(super) frame: Frame,
}

/// Where a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Way {
    /// As it came in by the port, at the pipeline's start.
    In = 1,
    /// To the device.
    Out = 2,
}

/// Why a worker cannot be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// Another worker has some of its packets.
    #[error("a worker has not given packets back that it was lent")]
    Lent,
    /// It is taking another configuration in.
    #[error("sessions are still being decided by the last change of the configuration")]
    Adopting,
}

impl Worker {
    /// Writes all that the worker that takes its place needs. It must have been [drained](Worker::drain), as all others. From now
    /// on nothing may be done with it but [`resume`](Self::resume).
    ///
    /// # Errors
    /// It cannot be handed over; it can be resumed.
    pub fn hand_over(&mut self, now: Nanos) -> Result<Vec<u8>, HandOverError> {
        if self.shard.crossing.as_ref().is_some_and(|crossing| crossing.held() > 0) {
            return Err(HandOverError::Lent);
        }
        if self.shard.transition.is_some() {
            return Err(HandOverError::Adopting);
        }
        self.flush(now);
        self.shard.sessions.report_all();
        self.set_aside(now);
        self.publish(now);
        let mut writer = Writer::default();
        saved::save(&self.shard, &self.snapshot, &mut writer);
        writer.section(Tag::Ports);
        for PortState { lent, wanted, midway, room } in self.ports.iter().map(|port| port.state()) {
            writer.record(|fields| {
                fields.u32(room).u32(wanted.len() as u32);
                wanted.iter().for_each(|&wanted| _ = fields.u32(wanted));
                fields.u32(lent.len() as u32);
                lent.iter().for_each(|&word| _ = fields.u64(word));
                midway.iter().for_each(|&bytes| _ = fields.u64(bytes));
            });
        }
        writer.section(Tag::Frames);
        for Aside { way, port, frame } in &self.aside {
            let pieces = self.shard.pool.pieces(frame);
            writer.record(|fields| {
                fields.u8(*way as u8).u16(*port);
                for Piece { chunk, start, len } in pieces {
                    fields.u32(chunk).u16(start).u16(len);
                }
            });
        }
        Ok(writer.finish())
    }

    /// Takes out what waits, oldest first.
    fn set_aside(&mut self, now: Nanos) {
        let Self { shard, aside, ports, .. } = self;
        while let Some((port, frame)) =
            shard.neighbors.drain().or_else(|| shard.fragments.drain()).or_else(|| shard.syns.drain())
        {
            aside.push(Aside { way: Way::In, port, frame });
        }
        for port in (0..shard.outboxes.len()).map(|port| port as u16) {
            let way = if usize::from(port) < ports.len() { Way::Out } else { Way::In };
            if let Some(outbox) = shard.outboxes.get_mut(usize::from(port)) {
                aside.extend(outbox.take(usize::MAX).map(|frame| Aside { way, port, frame }));
            }
            shape::take_all(port, now, shard, |frame| aside.push(Aside { way, port, frame }));
        }
    }

    /// Goes on as if it had never been drained.
    pub fn resume(&mut self) {
        self.draining = None;
        if let Some(status) = self.statuses.get(self.index) {
            status.set_drained(false);
        }
    }

    /// Takes the place of a worker of another process, by what that has [written](Self::hand_over). This one must be new, of the
    /// same ports and number among as many workers, with frames that were [inherited](crate::arena::FramePool::inherited) and
    /// none of which is free yet.
    ///
    /// # Errors
    /// It cannot be read; this worker is of no use then.
    pub fn take_over(&mut self, state: &[u8], now: Nanos) -> Result<Restored, Unreadable> {
        let saved = Saved::new(state)?;
        let Self { shard, snapshot, ports, aside, .. } = self;
        let restored = saved::restore(&saved, shard, snapshot, now)?;
        let states: Vec<PortState> = saved.section(Tag::Ports).map(port_state).collect();
        if states.len() != ports.len() {
            return Err(Unreadable::Other("ports"));
        }
        for (port, state) in ports.iter_mut().zip(&states) {
            port.go_on(state);
        }
        let (mut ways, mut packets) = (Vec::new(), Vec::new());
        for mut record in saved.section(Tag::Frames) {
            let way = if record.u8() == Way::In as u8 { Way::In } else { Way::Out };
            ways.push((way, record.u16()));
            packets.push(pieces(record));
        }
        let lent: Vec<&[u64]> = states.iter().map(|state| state.lent.as_slice()).collect();
        for ((way, port), frame) in ways.into_iter().zip(shard.pool.restock(&lent, &packets)) {
            match frame {
                Some(frame) => aside.push(Aside { way, port, frame }),
                None => shard.counters.dropped(DropReason::Shutdown, 1),
            }
        }
        self.publish(now);
        Ok(restored)
    }

    /// What waited goes on.
    #[cold]
    pub(super) fn go_on(&mut self, now: Nanos, probe: &mut impl Probe) {
        let mut waiting = std::mem::take(&mut self.aside).into_iter().peekable();
        while let Some(Aside { way, port, frame }) = waiting.next() {
            let Self { burst, shard, snapshot, .. } = self;
            if way == Way::Out {
                let refused = match shard.outboxes.get_mut(usize::from(port)) {
                    Some(outbox) => outbox.push(frame).err(),
                    None => Some(frame),
                };
                if let Some(frame) = refused {
                    shard.counters.lost(DropReason::TransmitQueueFull, &frame, NONE16, NONE16);
                    shard.pool.give(frame);
                }
                continue;
            }
            (burst.now, burst.port) = (now, port);
            burst.push(frame).unwrap_or_else(|frame| shard.pool.give(frame));
            while burst.len() < BURST {
                let next = waiting.next_if(|next| next.way == Way::In && next.port == port);
                let Some(Aside { frame, .. }) = next else { break };
                burst.push(frame).unwrap_or_else(|frame| shard.pool.give(frame));
            }
            pipeline::run(burst, shard, snapshot, probe);
            burst.clear();
        }
    }
}

fn pieces(mut record: Record<'_>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while !record.is_empty() {
        pieces.push(Piece { chunk: record.u32(), start: record.u16(), len: record.u16() });
    }
    pieces
}

fn port_state(mut record: Record<'_>) -> PortState {
    let mut state = PortState { room: record.u32(), ..PortState::default() };
    for _ in 0..record.u32() {
        if record.is_empty() {
            break;
        }
        state.wanted.push(record.u32());
    }
    for _ in 0..record.u32() {
        if record.is_empty() {
            break;
        }
        state.lent.push(record.u64());
    }
    state.midway = state.wanted.iter().map(|_| record.u64()).collect();
    state
}
