//! [`AfXdpPort`]: bursts out of and into the rings.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::control::{FaultCells, SharedSocket};
use super::lent::Lent;
use super::renewal::Renewal;
use super::ring::{Consumer, Producer};
use super::socket::{Wakeup, wake_rx, wake_tx};
use crate::arena::{CHUNK, Frame, FramePool};
use crate::burst::Burst;
use crate::clock::Nanos;
use crate::port::{MAX_SEGMENTS, Outbox, Port, PortState, Refused, Sent};
use crate::table::prefetch::prefetch;

// linux/if_xdp.h, of Linux 6.6: the packet goes on in the next descriptor.
const XDP_PKT_CONTD: u32 = 1 << 0;
/// No shorter frame has all of an Ethernet header. The kernel would drop an empty one without completing it.
const MIN_FRAME: usize = 14;
/// For how long `close` waits for frames that are being transmitted.
const DRAIN: Duration = Duration::from_millis(50);
/// For how long `close` waits until the other workers, too, have let go of the sockets that it shares with them.
const LET_GO: Duration = Duration::from_millis(500);
/// Between two looks in `close`.
const STEP: Duration = Duration::from_micros(500);
/// How long a driver may still write to memory whose sockets are closed: the kernel takes them off the hardware later.
const ZERO_COPY_GRACE: Duration = Duration::from_millis(100);

/// A queue's receive side.
pub(super) struct Receiver {
    pub(super) fd: RawFd,
    pub(super) fill: Producer<u64>,
    pub(super) rx: Consumer<libc::xdp_desc>,
    /// Chunks that are to be put into the fill ring. With those that the kernel has they are as many as the ring holds,
    /// so that neither the fill nor the receive ring can overflow.
    pub(super) wanted: u32,
    /// The longest frame of the device's link. Longer ones come all the same: superframes of a sender's segmentation
    /// offload, or of a NIC that puts received frames together.
    pub(super) longest: u32,
    /// A chain whose end has not come yet.
    pub(super) chain: Chain,
}

/// What has come of a packet in several descriptors.
#[derive(Debug, Default)]
pub(super) enum Chain {
    /// Nothing: the next descriptor begins a packet.
    #[default]
    None,
    /// Its beginning.
    Begun(Frame),
    /// So many bytes, which are gone: it is too long, or the kernel gave it no room for links.
    Refused(u64),
}

/// A queue's transmit side.
pub(super) struct Sender {
    pub(super) fd: RawFd,
    pub(super) ring: Producer<libc::xdp_desc>,
    pub(super) completion: Consumer<u64>,
    /// Frames that the kernel may have beside those it has now, so that the completion ring cannot overflow.
    pub(super) room: u32,
    /// What `room` is when the kernel has none.
    pub(super) size: u32,
    /// The most frames that one wake-up sends; all, where the driver sends them itself.
    pub(super) batch: u32,
}

/// A device's queues, as one worker has them: it receives from those that are its own by turns, and transmits on one that
/// nobody else transmits on, so that frames leave in the order in which they were given.
pub struct AfXdpPort {
    pub(super) receivers: Vec<Receiver>,
    pub(super) sender: Option<Sender>,
    pub(super) sockets: Vec<SharedSocket>,
    pub(super) descriptors: Vec<RawFd>,
    pub(super) lent: Lent,
    /// The receiver whose turn it is to be first.
    pub(super) turn: usize,
    /// Frames that one call of `receive` takes at most.
    pub(super) batch: usize,
    /// Whether the device makes progress in our calls only (see [`BusyPoll`](super::BusyPoll)).
    pub(super) polled: bool,
    pub(super) zero_copy: bool,
    pub(super) faults: Arc<FaultCells>,
    /// Where its successor comes from.
    pub(super) renewal: Arc<Renewal>,
}

impl Receiver {
    /// Stocks the fill ring from the pool, as far as that has frames.
    #[inline]
    pub(super) fn refill(&mut self, pool: &mut FramePool, lent: &mut Lent) {
        self.wanted -= self.fill.produce(self.wanted, || {
            let frame = pool.take()?;
            let (address, _) = pool.lend(frame);
            lent.lend(address);
            Some(address)
        });
    }

    #[inline]
    fn receive(
        &mut self,
        room: u32,
        pool: &mut FramePool,
        lent: &mut Lent,
        burst: &mut Burst,
    ) -> (Refused, u64, bool) {
        let mut refused = Refused::default();
        let mut foreign = 0;
        let Self { rx, longest, chain, .. } = self;
        let consumed = rx.consume(room, |descriptor| {
            if !lent.take_back(descriptor.addr) {
                foreign += 1;
                return;
            }
            let is_whole = descriptor.options & XDP_PKT_CONTD == 0 && matches!(chain, Chain::None);
            if is_whole && descriptor.len <= *longest {
                // SAFETY: lent, and returned by this descriptor.
                if let Some(frame) = unsafe { pool.recover(descriptor.addr, descriptor.len) } {
                    frame.bytes().first().into_iter().for_each(prefetch);
                    return burst.push(frame).unwrap_or_else(|frame| pool.give(frame));
                }
            }
            // SAFETY: as above; no frame has come of it.
            if let Some(packet) = unsafe { chain.receive(descriptor, *longest, pool, &mut refused) } {
                burst.push(packet).unwrap_or_else(|packet| pool.give(packet));
            }
        });
        self.wanted += consumed;
        (refused, foreign, consumed != 0)
    }
}

impl Chain {
    /// Takes what is no packet in one frame. Returns a packet if that was its last piece.
    ///
    /// # Safety
    /// The descriptor's chunk must have been lent, and be returned by it.
    #[cold]
    unsafe fn receive(
        &mut self,
        descriptor: libc::xdp_desc,
        longest: u32,
        pool: &mut FramePool,
        refused: &mut Refused,
    ) -> Option<Frame> {
        let libc::xdp_desc { addr, len, options } = descriptor;
        // SAFETY: the caller's word.
        let Some(piece) = (unsafe { pool.recover(addr, len) }) else {
            refused.too_long += 1;
            refused.bytes += u64::from(len);
            // SAFETY: as above; no frame came of it.
            unsafe { pool.reclaim(addr) };
            return None;
        };
        self.add(piece, options & XDP_PKT_CONTD != 0, longest, pool, refused)
    }

    /// Adds the packet's next piece; `more` are to come. Returns the packet if that was its last one.
    #[cold]
    fn add(
        &mut self,
        piece: Frame,
        more: bool,
        longest: u32,
        pool: &mut FramePool,
        refused: &mut Refused,
    ) -> Option<Frame> {
        let packet = match std::mem::take(self) {
            Self::None => Ok(piece),
            Self::Begun(mut packet) => match packet.append(piece) {
                Ok(()) => Ok(packet),
                Err(piece) => {
                    let bytes = packet.len() + piece.len();
                    pool.give(packet);
                    pool.give(piece);
                    Err(bytes as u64)
                }
            },
            Self::Refused(bytes) => {
                let bytes = bytes + piece.len() as u64;
                pool.give(piece);
                Err(bytes)
            }
        };
        let packet = packet.and_then(|packet| {
            if packet.len() <= longest as usize && packet.segments().count() <= MAX_SEGMENTS {
                return Ok(packet);
            }
            let bytes = packet.len() as u64;
            pool.give(packet);
            Err(bytes)
        });
        match (packet, more) {
            (Ok(packet), false) => return Some(packet),
            (Ok(packet), true) => *self = Self::Begun(packet),
            (Err(bytes), true) => *self = Self::Refused(bytes),
            (Err(bytes), false) => {
                refused.too_long += 1;
                refused.bytes += bytes;
            }
        }
        None
    }

    /// The bytes that have come of a packet, and one; 0 if it has not begun.
    pub(super) fn midway(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Begun(packet) => packet.len() as u64 + 1,
            Self::Refused(bytes) => bytes + 1,
        }
    }

    /// Brings home what is there of a packet that will not be complete any more.
    fn abandon(&mut self, pool: &mut FramePool) {
        if let Self::Begun(packet) = std::mem::take(self) {
            pool.give(packet);
        }
    }
}

impl Sender {
    /// Brings home what has been transmitted. Returns how many addresses were none of ours.
    #[inline]
    fn reap(&mut self, pool: &mut FramePool, lent: &mut Lent) -> u64 {
        let mut foreign = 0;
        self.room += self.completion.consume(u32::MAX, |address| {
            // SAFETY: lent, and returned by this completion.
            if !lent.take_back(address) || !unsafe { pool.reclaim(address) } {
                foreign += 1;
            }
        });
        foreign
    }

    /// Has the kernel send what is in the ring. In copy mode it sends in this call, a batch at a time; what a full
    /// device leaves over is for the next call.
    #[inline]
    fn kick(&mut self) -> Wakeup {
        let pending = self.ring.pending();
        if pending == 0 || !self.ring.needs_wakeup() {
            return Wakeup::Done;
        }
        let mut answer = Wakeup::Again;
        // The kernel says "again" after a full batch, even if that was all: hence one call more.
        for _ in 0..=pending / self.batch {
            answer = wake_tx(self.fd);
            if answer != Wakeup::Again {
                break;
            }
        }
        answer
    }
}

impl AfXdpPort {
    /// Stocks the fill rings of a port that was just opened.
    pub(super) fn stock(&mut self, pool: &mut FramePool) {
        let Self { receivers, lent, .. } = self;
        receivers.iter_mut().for_each(|receiver| receiver.refill(pool, lent));
    }

    /// Goes on with the queues of a device that has come back. Its device gone, no old queue can take a frame any more.
    #[cold]
    fn renew(&mut self, successor: AfXdpPort, pool: &mut FramePool) {
        self.end(pool, true);
        let faults = self.faults.clone();
        let renewal = self.renewal.clone();
        *self = AfXdpPort { faults, renewal, ..successor };
        self.stock(pool);
    }

    /// How many frames are with the kernel.
    pub fn lent(&self) -> u32 {
        self.lent.count()
    }

    /// Ends everything. Where the device is gone, the kernel has no use for any frame; else the sockets must be closed
    /// first, by all who have them.
    fn end(&mut self, pool: &mut FramePool, gone: bool) -> u32 {
        let held = self.lent.count();
        if let Some(mut sender) = self.sender.take() {
            let mut waited = Duration::ZERO;
            loop {
                self.faults.foreign(sender.reap(pool, &mut self.lent));
                let idle = sender.ring.pending() == 0 && sender.room == sender.size;
                if idle || waited >= DRAIN || matches!(sender.kick(), Wakeup::Failed(_)) {
                    break;
                }
                thread::sleep(STEP);
                waited += STEP;
            }
        }
        // Unmapped first: a mapping keeps the socket open.
        for mut receiver in self.receivers.drain(..) {
            receiver.chain.abandon(pool);
        }
        self.descriptors.clear();
        let sockets = std::mem::take(&mut self.sockets);
        sockets.iter().for_each(SharedSocket::let_go);
        if !gone {
            let mut waited = Duration::ZERO;
            while !sockets.iter().all(SharedSocket::is_closed) {
                if waited >= LET_GO {
                    // Another worker does not end: the kernel may still write to what was lent, which stays away.
                    self.lent = Lent::default();
                    return held;
                }
                thread::sleep(STEP);
                waited += STEP;
            }
            if self.zero_copy && !sockets.is_empty() {
                thread::sleep(ZERO_COPY_GRACE);
            }
        }
        self.lent.take_back_all(|index| {
            // SAFETY: lent; the sockets, and with them the kernel's use of what this port lent, are gone.
            unsafe { pool.reclaim(u64::from(index) * CHUNK as u64) };
        });
        held
    }

    /// Hands frames to the sender. Returns what was accepted, and how much of that no device can send.
    #[inline]
    fn send(sender: &mut Sender, lent: &mut Lent, pool: &mut FramePool, outbox: &mut Outbox) -> (Sent, u64) {
        if outbox.has_chains() {
            return Self::send_chains(sender, lent, pool, outbox);
        }
        let want = sender.room.min(outbox.len() as u32);
        let room = sender.ring.room(want);
        let (mut bytes, mut unsendable) = (0, 0);
        let mut frames = outbox.take(room as usize);
        sender.room -= sender.ring.produce(room, || {
            loop {
                let frame = frames.next()?;
                let (addr, len) = pool.lend(frame);
                bytes += u64::from(len);
                if len as usize >= MIN_FRAME {
                    lent.lend(addr);
                    return Some(libc::xdp_desc { addr, len, options: 0 });
                }
                unsendable += 1;
                // SAFETY: the kernel has never been told of it.
                unsafe { pool.reclaim(addr) };
            }
        });
        (Sent { packets: u64::from(room), bytes }, unsendable)
    }

    #[cold]
    fn send_chains(
        sender: &mut Sender,
        lent: &mut Lent,
        pool: &mut FramePool,
        outbox: &mut Outbox,
    ) -> (Sent, u64) {
        let mut sent = Sent::default();
        let mut unsendable = 0;
        let want = sender.room.min(outbox.descriptors() as u32);
        let room = sender.ring.room(want);
        let count = outbox.fitting(room as usize);
        let mut frames = outbox.take(count);
        let mut rest = None;
        sender.room -= sender.ring.produce(room, || {
            let mut frame = match rest.take() {
                Some(frame) => frame,
                None => loop {
                    let frame: Frame = frames.next()?;
                    sent.packets += 1;
                    sent.bytes += frame.len() as u64;
                    if frame.bytes().len() >= MIN_FRAME {
                        break frame;
                    }
                    unsendable += 1;
                    pool.give(frame);
                },
            };
            if frame.is_chain() {
                rest = next_piece(&mut frame, pool);
            }
            let options = if rest.is_some() { XDP_PKT_CONTD } else { 0 };
            let (addr, len) = pool.lend(frame);
            lent.lend(addr);
            Some(libc::xdp_desc { addr, len, options })
        });
        debug_assert!(rest.is_none(), "the ring had room for whole packets");
        (sent, unsendable)
    }
}

/// Takes what is behind a frame off it; without frames that are empty, as the kernel refuses those.
#[cold]
fn next_piece(frame: &mut Frame, pool: &mut FramePool) -> Option<Frame> {
    let mut rest = frame.split_off();
    while let Some(mut piece) = rest.take_if(|piece| piece.bytes().is_empty()) {
        rest = piece.split_off();
        pool.give(piece);
    }
    rest
}

impl Port for AfXdpPort {
    fn receive(&mut self, _now: Nanos, pool: &mut FramePool, burst: &mut Burst) -> Refused {
        if let Some(successor) = self.renewal.take() {
            self.renew(*successor, pool);
        }
        let Self { receivers, lent, turn, faults, batch, polled, .. } = self;
        let mut refused = Refused::default();
        *turn = if *turn + 1 < receivers.len() { *turn + 1 } else { 0 };
        let (later, first) = receivers.split_at_mut(*turn);
        for receiver in first.iter_mut().chain(later) {
            let room = burst.room().min(batch.saturating_sub(burst.len())) as u32;
            let (more, foreign, any) = receiver.receive(room, pool, lent, burst);
            refused.too_long += more.too_long;
            refused.bytes += more.bytes;
            faults.foreign(foreign);
            receiver.refill(pool, lent);
            if *polled && !any || receiver.fill.needs_wakeup() && receiver.fill.pending() != 0 {
                if let Wakeup::Failed(errno) = wake_rx(receiver.fd) {
                    faults.wakeup(errno);
                }
            }
        }
        refused
    }

    fn transmit(&mut self, _now: Nanos, pool: &mut FramePool, outbox: &mut Outbox) -> Sent {
        let Self { sender: Some(sender), lent, faults, .. } = self else { return Sent::default() };
        faults.foreign(sender.reap(pool, lent));
        let mut sent = Sent::default();
        if !outbox.is_empty() {
            let unsendable;
            (sent, unsendable) = Self::send(sender, lent, pool, outbox);
            faults.unsendable(unsendable);
        }
        if let Wakeup::Failed(errno) = sender.kick() {
            faults.wakeup(errno);
        }
        sent
    }

    /// Waits for frames in transmission up to 50 ms; what is left then is not sent. After it the port is closed: it
    /// receives and accepts nothing. If it shares a socket with another worker's port, it waits up to 500 ms for that one
    /// to be closed, too, and without that the frames that the kernel has do not come home. The program is taken off the
    /// device when its `DeviceControl` is dropped.
    fn close(&mut self, pool: &mut FramePool) -> u32 {
        self.end(pool, false)
    }

    fn state(&self) -> PortState {
        self.stand()
    }

    fn go_on(&mut self, state: &PortState) {
        self.take_up(state);
    }

    fn descriptors(&self) -> &[RawFd] {
        &self.descriptors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::MAX_FRAME;

    /// Packets of these pieces, by length, and what is refused.
    fn chains(pool: &mut FramePool, longest: u32, packets: &[&[usize]]) -> (Vec<usize>, Refused) {
        let (mut chain, mut refused, mut whole) = (Chain::None, Refused::default(), Vec::new());
        for pieces in packets {
            for (i, &len) in pieces.iter().enumerate() {
                let piece = pool.take_len(len).unwrap();
                if let Some(packet) = chain.add(piece, i + 1 < pieces.len(), longest, pool, &mut refused) {
                    whole.push(packet.len());
                    pool.give(packet);
                }
            }
        }
        (whole, refused)
    }

    #[test]
    fn pieces_become_packets() {
        let mut pool = FramePool::new(64, false).unwrap();
        const F: usize = MAX_FRAME;
        let superframe = [F; 36];
        let (whole, refused) = chains(
            &mut pool,
            9022,
            &[&[F, 10], &superframe, &[60], &[F, F, F, F, F, 62], &[F, F, F, F, F, 63], &[F, 1]],
        );
        assert_eq!(whole, [F + 10, 60, 9022, F + 1]);
        assert_eq!(refused, Refused { too_long: 2, bytes: 36 * F as u64 + 9023, ..Refused::default() });
        assert_eq!(pool.free(), 64);
        // So many pieces nobody could send.
        let (whole, refused) = chains(&mut pool, 9022, &[&[20; 18], &[20; 19]]);
        assert_eq!((whole, refused.too_long, refused.bytes), (vec![360], 1, 380));
        assert_eq!(pool.free(), 64);
    }

    #[test]
    fn a_packet_that_stays_without_its_end_comes_home() {
        let mut pool = FramePool::new(8, false).unwrap();
        let (mut chain, mut refused) = (Chain::None, Refused::default());
        for _ in 0..3 {
            let piece = pool.take_len(MAX_FRAME).unwrap();
            assert!(chain.add(piece, true, 9022, &mut pool, &mut refused).is_none());
        }
        assert_eq!(pool.free(), 5);
        chain.abandon(&mut pool);
        assert_eq!((pool.free(), refused), (8, Refused::default()));
    }

    #[test]
    fn an_empty_piece_is_not_sent() {
        let mut pool = FramePool::new(8, false).unwrap();
        let mut frame = pool.take_len(5000).unwrap();
        assert!(frame.replace_front(14, 14, MAX_FRAME + 1));
        let mut rest = next_piece(&mut frame, &mut pool).unwrap();
        assert_eq!((frame.len(), rest.bytes().len()), (MAX_FRAME, 1));
        assert!(next_piece(&mut rest, &mut pool).is_none());
        pool.give(frame);
        pool.give(rest);
        assert_eq!(pool.free(), 8);
    }
}
