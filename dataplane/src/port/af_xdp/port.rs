//! [`AfXdpPort`]: bursts out of and into the rings.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::control::{FaultCells, SharedSocket};
use super::lent::Lent;
use super::ring::{Consumer, Producer};
use super::socket::{Wakeup, wake_rx, wake_tx};
use crate::arena::{CHUNK, Frame, FramePool};
use crate::burst::Burst;
use crate::clock::Nanos;
use crate::port::{Outbox, Port, Refused, Sent};

/// No shorter frame has all of an Ethernet header. The kernel would drop an empty one without completing it.
const MIN_FRAME: usize = 14;
/// For how long `close` waits for frames that are being transmitted.
const DRAIN: Duration = Duration::from_millis(50);
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

/// A device's queues, as one worker has them: it receives from all of them by turns, and transmits on the first, so that
/// frames leave in the order in which they were given.
pub struct AfXdpPort {
    pub(super) receivers: Vec<Receiver>,
    pub(super) sender: Option<Sender>,
    pub(super) sockets: Vec<SharedSocket>,
    pub(super) descriptors: Vec<RawFd>,
    pub(super) lent: Lent,
    /// The receiver whose turn it is to be first.
    pub(super) turn: usize,
    pub(super) zero_copy: bool,
    pub(super) faults: Arc<FaultCells>,
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
    fn receive(&mut self, pool: &mut FramePool, lent: &mut Lent, burst: &mut Burst) -> (Refused, u64) {
        let mut refused = Refused::default();
        let mut foreign = 0;
        let room = burst.room() as u32;
        self.wanted += self.rx.consume(room, |descriptor| {
            if !lent.take_back(descriptor.addr) {
                foreign += 1;
                return;
            }
            // SAFETY: lent, and returned by this descriptor.
            match unsafe { pool.recover(descriptor.addr, descriptor.len) } {
                Some(frame) => {
                    if let Err(frame) = burst.push(frame) {
                        pool.give(frame);
                    }
                }
                None => {
                    refused.too_long += 1;
                    refused.bytes += descriptor.len as u64;
                    // SAFETY: as above; no frame came of it.
                    unsafe { pool.reclaim((descriptor.addr / CHUNK as u64) as u32) };
                }
            }
        });
        (refused, foreign)
    }
}

impl Sender {
    /// Brings home what has been transmitted. Returns how many addresses were none of ours.
    #[inline]
    fn reap(&mut self, pool: &mut FramePool, lent: &mut Lent) -> u64 {
        let mut foreign = 0;
        self.room += self.completion.consume(u32::MAX, |address| {
            // SAFETY: lent, and returned by this completion.
            match lent.take_back(address).then(|| unsafe { pool.recover(address, 0) }).flatten() {
                Some(frame) => pool.give(frame),
                None => foreign += 1,
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
    /// How many frames are with the kernel.
    pub fn lent(&self) -> u32 {
        self.lent.count()
    }

    /// Hands frames to the sender. Returns what was accepted, and how much of that no device can send.
    #[inline]
    fn send(sender: &mut Sender, lent: &mut Lent, pool: &mut FramePool, outbox: &mut Outbox) -> (Sent, u64) {
        let mut sent = Sent::default();
        let mut unsendable = 0;
        let count = sender.ring.room(sender.room.min(outbox.len() as u32));
        let mut frames = outbox.take(count as usize);
        sender.room -= sender.ring.produce(count, || {
            let frame = loop {
                let frame: Frame = frames.next()?;
                sent.packets += 1;
                sent.bytes += frame.len() as u64;
                if frame.len() >= MIN_FRAME {
                    break frame;
                }
                unsendable += 1;
                pool.give(frame);
            };
            let (addr, len) = pool.lend(frame);
            lent.lend(addr);
            Some(libc::xdp_desc { addr, len, options: 0 })
        });
        (sent, unsendable)
    }
}

impl Port for AfXdpPort {
    fn receive(&mut self, _now: Nanos, pool: &mut FramePool, burst: &mut Burst) -> Refused {
        let Self { receivers, lent, turn, faults, .. } = self;
        let mut refused = Refused::default();
        *turn = if *turn + 1 < receivers.len() { *turn + 1 } else { 0 };
        let (later, first) = receivers.split_at_mut(*turn);
        for receiver in first.iter_mut().chain(later) {
            let (more, foreign) = receiver.receive(pool, lent, burst);
            refused.too_long += more.too_long;
            refused.bytes += more.bytes;
            faults.foreign(foreign);
            receiver.refill(pool, lent);
            if receiver.fill.needs_wakeup()
                && receiver.fill.pending() != 0
                && let Wakeup::Failed(errno) = wake_rx(receiver.fd)
            {
                faults.wakeup(errno);
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
    /// receives and accepts nothing. The program is taken off the device when its `DeviceControl` is dropped.
    fn close(&mut self, pool: &mut FramePool) -> u32 {
        let held = self.lent.count();
        if let Some(mut sender) = self.sender.take() {
            let step = Duration::from_micros(500);
            let mut waited = Duration::ZERO;
            loop {
                self.faults.foreign(sender.reap(pool, &mut self.lent));
                let idle = sender.ring.pending() == 0 && sender.room == sender.size;
                if idle || waited >= DRAIN || matches!(sender.kick(), Wakeup::Failed(_)) {
                    break;
                }
                thread::sleep(step);
                waited += step;
            }
        }
        // Unmapped first: a mapping keeps the socket open.
        self.receivers.clear();
        self.descriptors.clear();
        self.sockets.drain(..).for_each(|socket| socket.close());
        if self.zero_copy {
            thread::sleep(ZERO_COPY_GRACE);
        }
        self.lent.take_back_all(|index| {
            // SAFETY: lent; the sockets, and with them the kernel's use of what this port lent, are gone.
            unsafe { pool.reclaim(index) };
        });
        held
    }

    fn descriptors(&self) -> &[RawFd] {
        &self.descriptors
    }
}
