//! What becomes of blocks and bindings, for logs: the worker writes records of fixed size into a ring, and the control side
//! reads them. A ring that is full costs a record, which is counted, and never time. No record has a destination in it
//! (RFC 6888 REQ-12).

use std::net::{IpAddr, Ipv4Addr};

use ringbuf::traits::{Consumer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

use crate::clock::Nanos;
use crate::snapshot::Allocation;

/// Records that may wait for the control side.
const ROOM: usize = 16_384;

/// What is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatLog {
    /// Nothing.
    #[default]
    Off,
    /// Blocks where a pool is given out in blocks, and bindings where it is given out by the port.
    Blocks,
    /// All bindings, and besides blocks where there are any.
    Bindings,
}

impl NatLog {
    /// Whether bindings of a pool are recorded that is given out in this way.
    fn has_bindings(self, allocation: &Allocation) -> bool {
        match self {
            Self::Off => false,
            Self::Blocks => *allocation == Allocation::Ports,
            Self::Bindings => true,
        }
    }
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An inside address got a block of ports.
    BlockAllocated,
    /// It has it no longer.
    BlockReleased,
    /// An inside address and port got an external one.
    BindingCreated,
    /// It has it no longer.
    BindingReleased,
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, on the worker's clock.
    pub at: Nanos,
    /// What.
    pub kind: EventKind,
    /// IP protocol of a binding; 0 for a block, which is for all.
    pub protocol: u8,
    /// Inside address, with NAT64 of IPv6.
    pub inside: IpAddr,
    /// Inside port or echo identifier of a binding.
    pub inside_port: u16,
    /// External address.
    pub external: Ipv4Addr,
    /// First and last external port; a binding's are the same.
    pub ports: (u16, u16),
}

/// The worker's end.
#[derive(Default)]
pub(super) struct Recorder {
    ring: Option<HeapProd<Event>>,
    log: NatLog,
    /// Records made since the start.
    pub(super) recorded: u64,
    /// Of these, those that found no room.
    pub(super) lost: u64,
}

/// The reader's end.
pub struct EventReader(HeapCons<Event>);

impl EventReader {
    /// The next record, oldest first.
    pub fn take(&mut self) -> Option<Event> {
        self.0.try_pop()
    }
}

impl Recorder {
    pub(super) fn new(log: NatLog) -> Self {
        Self { log, ..Self::default() }
    }

    /// Begins to record; the end to read from.
    pub(super) fn connect(&mut self) -> EventReader {
        let (ring, reader) = HeapRb::new(ROOM).split();
        self.ring = Some(ring);
        EventReader(reader)
    }

    /// Whether changes of blocks are recorded.
    pub(super) fn wants_blocks(&self) -> bool {
        self.log != NatLog::Off
    }

    /// Whether bindings of a pool are recorded that is given out in this way.
    pub(super) fn wants_bindings(&self, allocation: &Allocation) -> bool {
        self.log.has_bindings(allocation)
    }

    /// Records, if anybody reads.
    pub(super) fn record(&mut self, event: Event) {
        let Some(ring) = &mut self.ring else { return };
        self.recorded += 1;
        self.lost += u64::from(ring.try_push(event).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: RFC 6888 REQ-12
    #[test]
    fn a_reader_that_stalls_costs_records_and_nothing_else() {
        let event = Event {
            at: 0,
            kind: EventKind::BlockAllocated,
            protocol: 0,
            inside: Ipv4Addr::new(100, 64, 0, 1).into(),
            inside_port: 0,
            external: Ipv4Addr::new(203, 0, 113, 1),
            ports: (1024, 1535),
        };
        let mut recorder = Recorder::new(NatLog::Blocks);
        recorder.record(event);
        assert_eq!(recorder.recorded, 0, "nobody reads");
        let mut reader = recorder.connect();
        (0..ROOM as u64 + 10).for_each(|at| recorder.record(Event { at, ..event }));
        assert_eq!((recorder.recorded, recorder.lost), (ROOM as u64 + 10, 10));
        let kept: Vec<Event> = std::iter::from_fn(|| reader.take()).collect();
        assert_eq!((kept.len(), kept[0].at, kept[ROOM - 1].at), (ROOM, 0, ROOM as u64 - 1));
    }
}
