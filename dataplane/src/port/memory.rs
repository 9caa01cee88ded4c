//! Ports in memory: [`MemoryPort`] with a peer at its other end, for tests; [`LoopPort`], which makes its own traffic,
//! for benchmarks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

use crate::arena::{Frame, FramePool, MAX_FRAME, MAX_PACKET};
use crate::burst::Burst;
use crate::clock::Nanos;
use crate::port::{Outbox, Port, Refused, Sent};
use crate::table::prefetch::prefetch_at;

/// The longest packet that a peer can send: longer than a port takes.
pub const SLOT: usize = MAX_PACKET.next_multiple_of(1024);

/// A packet in a ring. Its bytes lie inline, so that a port in memory allocates nothing per packet.
struct Slot {
    time: Nanos,
    len: usize,
    bytes: [u8; SLOT],
}

impl Slot {
    fn new(time: Nanos, packet: &[u8]) -> Option<Self> {
        let mut slot = Self { time, len: packet.len(), bytes: [0; SLOT] };
        slot.bytes.get_mut(..packet.len())?.copy_from_slice(packet);
        Some(slot)
    }

    fn of(time: Nanos, frame: &Frame) -> Option<Self> {
        let mut slot = Self { time, len: frame.len(), bytes: [0; SLOT] };
        frame.copy_to(0, slot.bytes.get_mut(..frame.len())?).then_some(slot)
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A port between two rings in memory.
pub struct MemoryPort {
    arriving: HeapCons<Slot>,
    leaving: HeapProd<Slot>,
}

/// The other end of a [`MemoryPort`]; may be in another thread.
pub struct MemoryPeer {
    arriving: HeapProd<Slot>,
    leaving: HeapCons<Slot>,
}

/// A port and its peer, with room for `capacity` packets each way.
pub fn pair(capacity: usize) -> (MemoryPort, MemoryPeer) {
    let (to_port, from_peer) = HeapRb::new(capacity).split();
    let (to_peer, from_port) = HeapRb::new(capacity).split();
    (
        MemoryPort { arriving: from_peer, leaving: to_peer },
        MemoryPeer { arriving: to_port, leaving: from_port },
    )
}

impl MemoryPeer {
    /// Sends the port a packet, which arrives at `time`. False, and nothing sent, if the ring is full or the packet is
    /// longer than [`SLOT`]. (One longer than [`MAX_PACKET`] is for the port to refuse.)
    pub fn inject(&mut self, time: Nanos, packet: &[u8]) -> bool {
        Slot::new(time, packet).is_some_and(|slot| self.arriving.try_push(slot).is_ok())
    }

    /// Takes the oldest packet that the port has transmitted, and when it did.
    pub fn collect(&mut self) -> Option<(Nanos, Vec<u8>)> {
        self.leaving.try_pop().map(|slot| (slot.time, slot.bytes().to_vec()))
    }
}

impl Port for MemoryPort {
    fn receive(&mut self, now: Nanos, pool: &mut FramePool, burst: &mut Burst) -> Refused {
        let mut refused = Refused::default();
        for _ in 0..burst.room() {
            let Some(slot) = self.arriving.first().filter(|slot| slot.time <= now) else { break };
            if slot.len > MAX_PACKET {
                refused.too_long += 1;
                refused.bytes += slot.len as u64;
            } else if let Some(frame) = pool.copy_in(slot.bytes()) {
                if let Err(frame) = burst.push(frame) {
                    pool.give(frame);
                }
            } else {
                refused.no_frame += 1;
                refused.bytes += slot.len as u64;
            }
            self.arriving.skip(1);
        }
        refused
    }

    fn transmit(&mut self, now: Nanos, pool: &mut FramePool, outbox: &mut Outbox) -> Sent {
        let mut sent = Sent::default();
        for frame in outbox.take(self.leaving.vacant_len()) {
            // No packet is longer than a slot, and the ring has room.
            if let Some(slot) = Slot::of(now, &frame) {
                if self.leaving.try_push(slot).is_ok() {
                    sent.packets += 1;
                    sent.bytes += frame.len() as u64;
                }
            }
            pool.give(frame);
        }
        sent
    }

    fn close(&mut self, _pool: &mut FramePool) -> u32 {
        self.arriving.clear();
        0
    }

    fn next_arrival(&mut self) -> Option<Nanos> {
        self.arriving.first().map(|slot| slot.time)
    }
}

/// The traffic that a [`LoopPort`] makes.
#[derive(Debug, Default)]
pub struct Traffic {
    headers: Arc<Vec<u8>>,
    stride: usize,
    order: Vec<u32>,
    frame_len: usize,
    packets: u64,
}

/// How many packets ahead headers are fetched, so that making them costs no cache miss each.
const AHEAD: usize = 8;

impl Traffic {
    /// Packets of `frame_len` bytes that begin as the templates do, in the order of `order` (indices of templates),
    /// over and over. All templates have the same length. `None` if they do not, if the length is over `frame_len` or
    /// that over [`MAX_FRAME`], if an index names no template, or if there is nothing to send.
    pub fn new(templates: &[Vec<u8>], order: Vec<u32>, frame_len: usize) -> Option<Self> {
        let stride = templates.first()?.len();
        let alike = templates.iter().all(|template| template.len() == stride);
        alike.then(|| Self::of(Arc::new(templates.concat()), stride, order, frame_len)).flatten()
    }

    /// As [`new`](Self::new), of templates that follow one upon the other, each of `stride` bytes.
    pub fn of(headers: Arc<Vec<u8>>, stride: usize, order: Vec<u32>, frame_len: usize) -> Option<Self> {
        let fits = stride > 0 && stride <= frame_len && frame_len <= MAX_FRAME;
        let count = headers.len().checked_div(stride)?;
        let named = !order.is_empty() && order.iter().all(|&i| (i as usize) < count);
        (fits && named).then_some(Self { headers, stride, order, frame_len, packets: u64::MAX })
    }

    /// The same, ending after so many packets.
    #[must_use]
    pub fn limited_to(self, packets: u64) -> Self {
        Self { packets, ..self }
    }
}

/// What a [`LoopPort`] has done. One writer, the port; readable by all.
#[derive(Debug, Default)]
pub struct LoopCounters {
    made: AtomicU64,
    making_cycles: AtomicU64,
    sent: AtomicU64,
    sent_bytes: AtomicU64,
}

impl LoopCounters {
    /// Packets made and put into bursts.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Ticks of the port's counter that went into making them: buffers taken, headers written, bursts filled.
    pub fn making_cycles(&self) -> u64 {
        self.making_cycles.load(Ordering::Relaxed)
    }

    /// Packets and bytes that were transmitted, and their frames given back.
    pub fn sent(&self) -> Sent {
        Sent { packets: self.sent.load(Ordering::Relaxed), bytes: self.sent_bytes.load(Ordering::Relaxed) }
    }
}

/// Adds without an atomic read-modify-write, which one writer does not need.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

/// A port that makes packets as fast as they are taken, for benchmarks. Each gets its headers written afresh into a
/// frame of the pool, as a NIC does by DMA; behind them, the frame holds what it held before. Frames that are
/// transmitted go straight back to the pool. What the making costs is counted apart, burst by burst.
#[derive(Debug)]
pub struct LoopPort {
    traffic: Traffic,
    next: usize,
    ticks: fn() -> u64,
    counters: Arc<LoopCounters>,
}

impl LoopPort {
    /// A port that makes `traffic`. `ticks` is a free-running counter: the TSC, or nanoseconds.
    pub fn new(traffic: Traffic, ticks: fn() -> u64) -> Self {
        Self { traffic, next: 0, ticks, counters: Arc::default() }
    }

    /// A port that only takes packets.
    pub fn sink() -> Self {
        Self::new(Traffic::default(), || 0)
    }

    /// What the port has done, also to be read while a worker owns the port.
    pub fn counters(&self) -> Arc<LoopCounters> {
        Arc::clone(&self.counters)
    }
}

impl Port for LoopPort {
    fn receive(&mut self, _now: Nanos, pool: &mut FramePool, burst: &mut Burst) -> Refused {
        let start = (self.ticks)();
        let Traffic { headers, stride, order, frame_len, packets } = &self.traffic;
        let mut made = 0;
        for _ in 0..(*packets).min(burst.room() as u64) {
            let Some(&template) = order.get(self.next) else { break };
            let Some(header) = headers.get(template as usize * stride..).and_then(|rest| rest.get(..*stride))
            else {
                break;
            };
            if let Some(&later) = order.get(self.next + AHEAD) {
                prefetch_at(headers, later as usize * stride);
                prefetch_at(headers, (later as usize + 1) * stride - 1);
            }
            let Some(mut frame) = pool.take() else { break };
            frame.copy_from(header);
            frame.set_len(*frame_len);
            if let Err(frame) = burst.push(frame) {
                pool.give(frame);
                break;
            }
            made += 1;
            self.next = if self.next + 1 == order.len() { 0 } else { self.next + 1 };
        }
        self.traffic.packets -= made;
        add(&self.counters.made, made);
        add(&self.counters.making_cycles, (self.ticks)().saturating_sub(start));
        Refused::default()
    }

    fn transmit(&mut self, _now: Nanos, pool: &mut FramePool, outbox: &mut Outbox) -> Sent {
        let mut sent = Sent::default();
        for frame in outbox.take(usize::MAX) {
            sent.packets += 1;
            sent.bytes += frame.len() as u64;
            pool.give(frame);
        }
        add(&self.counters.sent, sent.packets);
        add(&self.counters.sent_bytes, sent.bytes);
        sent
    }

    fn close(&mut self, _pool: &mut FramePool) -> u32 {
        self.traffic = Traffic::default();
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gets_what_the_port_transmits_and_the_other_way_round() {
        let (mut port, mut peer) = pair(2);
        let (mut pool, mut burst) = (FramePool::new(4, false).unwrap(), Burst::default());
        assert!(peer.inject(5, b"early") && peer.inject(9, b"late") && !peer.inject(9, b"no room"));
        assert_eq!(port.next_arrival(), Some(5));
        port.receive(5, &mut pool, &mut burst);
        assert_eq!((burst.len(), burst.bytes(0)), (1, &b"early"[..]));

        let mut outbox = Outbox::new(3);
        outbox.push(burst.take(0).unwrap()).unwrap();
        for _ in 0..2 {
            outbox.push(pool.take().unwrap()).unwrap();
        }
        // The ring holds two; the third frame waits in the outbox.
        assert_eq!(port.transmit(7, &mut pool, &mut outbox), Sent { packets: 2, bytes: 5 });
        assert_eq!((outbox.len(), pool.free()), (1, 3));
        assert_eq!(peer.collect(), Some((7, b"early".to_vec())));
        assert_eq!(port.transmit(8, &mut pool, &mut outbox), Sent { packets: 1, bytes: 0 });
        assert_eq!((peer.collect(), peer.collect()), (Some((7, vec![])), Some((8, vec![]))));
        assert_eq!((peer.collect(), pool.free(), port.close(&mut pool)), (None, 4, 0));
        assert_eq!(port.next_arrival(), None);
    }

    #[test]
    fn a_memory_port_refuses_what_it_cannot_hold() {
        let (mut port, mut peer) = pair(4);
        let (mut pool, mut burst) = (FramePool::new(1, false).unwrap(), Burst::default());
        assert!(!peer.inject(0, &[0; SLOT + 1]));
        assert!(peer.inject(0, &[0; SLOT]) && peer.inject(0, &[1; 60]) && peer.inject(0, &[2; 70]));
        let refused = port.receive(0, &mut pool, &mut burst);
        assert_eq!(refused, Refused { too_long: 1, truncated: 0, no_frame: 1, bytes: SLOT as u64 + 70 });
        assert_eq!((burst.len(), burst.bytes(0)), (1, &[1; 60][..]));
        pool.give(burst.take(0).unwrap());
    }

    #[test]
    fn a_loop_port_repeats_its_traffic_in_order() {
        let templates = [vec![1; 20], vec![2; 20], vec![3; 20]];
        let traffic = Traffic::new(&templates, vec![2, 0], 64).unwrap();
        static TICKS: AtomicU64 = AtomicU64::new(0);
        let mut port = LoopPort::new(traffic, || TICKS.fetch_add(10, Ordering::Relaxed));
        let counters = port.counters();
        let (mut pool, mut burst) = (FramePool::new(3, false).unwrap(), Burst::default());
        let mut outbox = Outbox::new(64);
        for first in [3, 1] {
            port.receive(0, &mut pool, &mut burst);
            assert_eq!(burst.len(), 3);
            for (i, header) in [first, 4 - first, first].into_iter().enumerate() {
                assert_eq!((&burst.bytes(i)[..20], burst.bytes(i).len()), (&[header; 20][..], 64));
                outbox.push(burst.take(i).unwrap()).unwrap();
            }
            burst.clear();
            port.transmit(0, &mut pool, &mut outbox);
        }
        assert_eq!((counters.made(), counters.making_cycles(), pool.free()), (6, 20, 3));
        assert_eq!(counters.sent(), Sent { packets: 6, bytes: 6 * 64 });
        port.close(&mut pool);
        port.receive(0, &mut pool, &mut burst);
        assert!(burst.is_empty());
    }

    #[test]
    fn limited_traffic_ends() {
        let traffic = Traffic::new(&[vec![1; 20]], vec![0], 64).unwrap().limited_to(5);
        let mut port = LoopPort::new(traffic, || 0);
        let (mut pool, mut burst) = (FramePool::new(3, false).unwrap(), Burst::default());
        for expected in [3, 2, 0] {
            port.receive(0, &mut pool, &mut burst);
            assert_eq!(burst.len(), expected);
            (0..expected).for_each(|i| pool.give(burst.take(i).unwrap()));
            burst.clear();
        }
        assert_eq!(port.counters().made(), 5);
    }

    #[test]
    fn impossible_traffic_is_refused() {
        assert!(Traffic::new(&[], vec![0], 64).is_none());
        assert!(Traffic::new(&[vec![0; 20]], vec![], 64).is_none());
        assert!(Traffic::new(&[vec![0; 20]], vec![1], 64).is_none());
        assert!(Traffic::new(&[vec![0; 20], vec![0; 30]], vec![1], 64).is_none());
        assert!(Traffic::new(&[vec![0; 65]], vec![0], 64).is_none());
        assert!(Traffic::new(&[vec![0; 64]], vec![0], MAX_FRAME + 1).is_none());
    }
}
