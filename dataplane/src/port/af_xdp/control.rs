//! A device as the control side holds it, beside the workers that hold its queues.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::device::DeviceFacts;
use super::program::{AttachedMode, Passed, Program};
use super::socket::{KernelDrops, Socket};
use crate::arena::Pages;

/// How a device was taken into service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device's name.
    pub device: String,
    /// Its driver's name; empty if it does not tell.
    pub driver: String,
    /// Hardware (MAC) address.
    pub mac: [u8; 6],
    /// Largest payload of an Ethernet frame, in bytes, when it was opened.
    pub mtu: u32,
    /// Queues that are bound.
    pub queues: u32,
    /// The interface's index.
    pub ifindex: u32,
    /// In what mode the XDP program is attached.
    pub mode: AttachedMode,
    /// Whether the driver moves frames itself, without a copy.
    pub zero_copy: bool,
    /// What pages the frames got.
    pub pages: Pages,
    /// Why the device does not run in native mode, or without copies, if it does not: the kernel's answer.
    pub fallback: Option<String>,
}

/// What went wrong at a port since it was opened. None of it loses a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Wake-ups of the kernel that failed, as they do when the device is down or gone.
    pub wakeups: u64,
    /// The error's number (errno) of the last of them; zero if there is none.
    pub last_errno: i32,
    /// Frames accepted for transmission that were shorter than an Ethernet header, and not sent.
    pub unsendable: u64,
    /// Descriptors from the kernel that named no chunk of ours.
    pub foreign: u64,
}

/// [`Faults`], written by the worker alone.
#[derive(Debug, Default)]
pub(super) struct FaultCells {
    wakeups: AtomicU64,
    last_errno: AtomicI32,
    unsendable: AtomicU64,
    foreign: AtomicU64,
}

impl FaultCells {
    pub(super) fn wakeup(&self, errno: i32) {
        add(&self.wakeups, 1);
        self.last_errno.store(errno, Relaxed);
    }

    #[inline]
    pub(super) fn unsendable(&self, count: u64) {
        if count != 0 {
            add(&self.unsendable, count);
        }
    }

    #[inline]
    pub(super) fn foreign(&self, count: u64) {
        if count != 0 {
            add(&self.foreign, count);
        }
    }

    fn read(&self) -> Faults {
        Faults {
            wakeups: self.wakeups.load(Relaxed),
            last_errno: self.last_errno.load(Relaxed),
            unsendable: self.unsendable.load(Relaxed),
            foreign: self.foreign.load(Relaxed),
        }
    }
}

/// One writer, so no read-modify-write.
fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
}

/// A socket that the worker closes and the control side reads statistics of, even after.
#[derive(Clone, Debug)]
pub(super) struct SharedSocket(Arc<Mutex<Held>>);

#[derive(Debug)]
enum Held {
    Open(Socket),
    Closed(KernelDrops),
}

impl SharedSocket {
    pub(super) fn new(socket: Socket) -> Self {
        Self(Arc::new(Mutex::new(Held::Open(socket))))
    }

    pub(super) fn close(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Held::Open(socket) = &*held {
            *held = Held::Closed(socket.drops().unwrap_or_default());
        }
    }

    fn drops(&self) -> KernelDrops {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Held::Open(socket) => socket.drops().unwrap_or_default(),
            Held::Closed(drops) => *drops,
        }
    }
}

/// A device in service: its XDP program, which goes when this is dropped, and what the kernel counts.
pub struct DeviceControl {
    pub(super) name: String,
    pub(super) info: DeviceInfo,
    pub(super) program: Program,
    pub(super) sockets: Vec<SharedSocket>,
    pub(super) faults: Arc<FaultCells>,
    /// Keeps the device delivering all multicast frames.
    pub(super) _multicast: OwnedFd,
}

impl DeviceControl {
    /// The port's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the device was taken into service.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Frames that were left to the kernel so far.
    pub fn passed(&self) -> Passed {
        self.program.passed()
    }

    /// What the kernel dropped at the device's sockets so far.
    pub fn kernel_drops(&self) -> KernelDrops {
        let mut sum = KernelDrops::default();
        self.sockets.iter().for_each(|socket| sum.add(&socket.drops()));
        sum
    }

    /// What went wrong at the port so far.
    pub fn faults(&self) -> Faults {
        self.faults.read()
    }
}

impl DeviceInfo {
    pub(super) fn new(
        device: &str,
        facts: DeviceFacts,
        program: &Program,
        zero_copy: bool,
        pages: Pages,
        copy_reason: Option<&str>,
    ) -> Self {
        let mode =
            program.fallback.as_ref().map(|reason| format!("generic mode, as native was refused: {reason}"));
        let copy = copy_reason.map(|reason| format!("copies, as zero copy was refused: {reason}"));
        let reasons: Vec<String> = mode.into_iter().chain(copy).collect();
        Self {
            device: device.to_owned(),
            driver: facts.driver,
            mac: facts.mac,
            mtu: facts.mtu,
            queues: facts.queues,
            ifindex: facts.ifindex,
            mode: program.mode,
            zero_copy,
            pages,
            fallback: if reasons.is_empty() { None } else { Some(reasons.join("; ")) },
        }
    }
}
