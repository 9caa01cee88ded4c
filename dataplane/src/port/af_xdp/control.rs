//! A device as the control side holds it, beside the workers that hold its queues.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocked::BlockTable;
use super::device::device_facts;
use super::host::HostTable;
use super::program::{AttachedMode, Passed, Program};
use super::renewal::Renewal;
use super::socket::{KernelDrops, Socket};
use super::{AfXdpPort, PortSpec, open_all};
use crate::arena::{Memory, Pages};

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
    /// The number of the device's group: devices in one mode, from 0 on. Between groups the kernel copies a frame.
    pub group: u32,
    /// What pages the frames got.
    pub pages: Pages,
    /// What was wanted and could not be had: native mode, no copies, busy polling; with the kernel's answer.
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

    fn add_to(&self, sum: &mut Faults) {
        sum.wakeups += self.wakeups.load(Relaxed);
        match self.last_errno.load(Relaxed) {
            0 => {}
            errno => sum.last_errno = errno,
        }
        sum.unsendable += self.unsendable.load(Relaxed);
        sum.foreign += self.foreign.load(Relaxed);
    }
}

/// One writer, so no read-modify-write.
fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
}

/// A socket that is closed when the last worker has let go of it, and that the control side reads statistics of, even
/// after.
#[derive(Debug)]
pub(super) struct SharedSocket(Arc<Mutex<Shared>>);

#[derive(Debug)]
enum Shared {
    Open {
        socket: Socket,
        /// How many have rings of it.
        holders: u32,
    },
    Closed(KernelDrops),
}

impl SharedSocket {
    pub(super) fn new(socket: Socket) -> Self {
        Self(Arc::new(Mutex::new(Shared::Open { socket, holders: 0 })))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one more who has rings of it.
    pub(super) fn hold(&self) -> Self {
        if let Shared::Open { holders, .. } = &mut *self.shared() {
            *holders += 1;
        }
        Self(self.0.clone())
    }

    /// Its descriptor once more.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        match &*self.shared() {
            Shared::Open { socket, .. } => socket.duplicate(),
            Shared::Closed(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// For one who had rings of it, which are unmapped.
    pub(super) fn let_go(&self) {
        let mut shared = self.shared();
        if let Shared::Open { socket, holders } = &mut *shared {
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                *shared = Shared::Closed(socket.drops().unwrap_or_default());
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(&*self.shared(), Shared::Closed(_))
    }

    /// What the kernel says now; `None` once it is closed.
    fn is_zero_copy(&self) -> Option<bool> {
        match &*self.shared() {
            Shared::Open { socket, .. } => socket.is_zero_copy().ok(),
            Shared::Closed(_) => None,
        }
    }

    fn drops(&self) -> KernelDrops {
        match &*self.shared() {
            Shared::Open { socket, .. } => socket.drops().unwrap_or_default(),
            Shared::Closed(drops) => *drops,
        }
    }
}

/// What is held of a device as long as it is there.
pub(super) struct Held {
    pub(super) info: DeviceInfo,
    pub(super) program: Program,
    pub(super) sockets: Vec<SharedSocket>,
    /// By queue: frames that a wake-up sends at most in copy mode.
    pub(super) batches: Vec<u32>,
    /// Whether the device makes progress in our calls only.
    pub(super) polled: bool,
    /// Keeps the device delivering frames that its own address and groups would not have it deliver.
    pub(super) memberships: OwnedFd,
}

/// A device in service, or gone for a while: its XDP program, which goes when this is dropped, and what the kernel counts.
pub struct DeviceControl {
    pub(super) spec: PortSpec,
    memory: Memory,
    /// Frames of each worker.
    frames: Vec<u32>,
    /// By worker, as the next.
    faults: Vec<Arc<FaultCells>>,
    renewals: Vec<Arc<Renewal>>,
    host: Option<HostTable>,
    blocked: Option<BlockTable>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) held: Held,
    /// What was counted at the device's predecessors.
    pub(super) passed: Passed,
    pub(super) drops: KernelDrops,
    /// The device is not there, or could not be opened again: what was said last.
    pub(super) missing: Option<String>,
}

/// What has become of a device since the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChange {
    /// It has gone away.
    Gone,
    /// It has come back, perhaps as another one of that name, and is in service again.
    Back(Box<DeviceInfo>),
    /// It has come back but cannot be taken into service: why. It is tried again.
    Failed(String),
}

impl DeviceControl {
    pub(super) fn new(
        spec: PortSpec,
        mut held: Held,
        ports: &[AfXdpPort],
        memory: Memory,
        frames: Vec<u32>,
    ) -> Self {
        let faults = ports.iter().map(|port| port.faults.clone()).collect();
        let renewals = ports.iter().map(|port| port.renewal.clone()).collect();
        let host = held.program.host.take().map(HostTable::new);
        let blocked = held.program.blocked.take().map(BlockTable::new);
        let state = State { held, passed: Passed::default(), drops: KernelDrops::default(), missing: None };
        Self { spec, memory, frames, faults, renewals, host, blocked, state: Mutex::new(state) }
    }

    /// With what was counted at the device's predecessors.
    pub(super) fn after(mut self, passed: Passed, drops: KernelDrops) -> Self {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        (state.passed, state.drops) = (passed, drops);
        self
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How the device was taken into service, the last time.
    pub fn info(&self) -> DeviceInfo {
        self.state().held.info.clone()
    }

    /// Frames that were left to the kernel so far.
    pub fn passed(&self) -> Passed {
        let state = self.state();
        let mut sum = state.passed;
        sum.add(&state.held.program.passed());
        sum
    }

    /// The table of the box's own addresses, for a device where the kernel answers for them.
    pub fn host_table(&self) -> Option<HostTable> {
        self.host.clone()
    }

    /// The table of blocked prefixes, for a device with an interface that has a guard.
    pub fn block_table(&self) -> Option<BlockTable> {
        self.blocked.clone()
    }

    /// What the kernel dropped at the device's sockets so far.
    pub fn kernel_drops(&self) -> KernelDrops {
        let state = self.state();
        let mut sum = state.drops;
        state.held.sockets.iter().for_each(|socket| sum.add(&socket.drops()));
        sum
    }

    /// By queue, whether the driver moves frames itself, without a copy: the kernel's word for each socket that is open.
    pub fn zero_copy_by_queue(&self) -> Vec<bool> {
        self.state().held.sockets.iter().filter_map(SharedSocket::is_zero_copy).collect()
    }

    /// What went wrong at the workers' ports so far.
    pub fn faults(&self) -> Faults {
        let mut sum = Faults::default();
        self.faults.iter().for_each(|faults| faults.add_to(&mut sum));
        sum
    }

    /// Looks whether the device is still the one that was taken into service. If it has gone away and is back, the ports
    /// go on with it, from each worker's next burst on. To be called now and then, in the device's network namespace; it
    /// may take seconds when a device comes back.
    pub fn tend(&self) -> Option<DeviceChange> {
        let found = device_facts(&self.spec.device).ok().map(|facts| facts.ifindex);
        let mut state = self.state();
        let Some(ifindex) = found else {
            let is_news = state.missing.is_none();
            state.missing = Some(String::new());
            return is_news.then_some(DeviceChange::Gone);
        };
        if ifindex == state.held.info.ifindex && state.missing.is_none() {
            return None;
        }
        // Others may ask for the counters while it is being opened.
        drop(state);
        let opened = open_all(&self.memory, &self.frames, std::slice::from_ref(&self.spec))
            .map_err(|error| error.to_string());
        let opened = opened.and_then(|mut devices| {
            let mut device = devices.pop();
            let maps = device.as_mut().and_then(|(_, held)| held.program.host.take());
            if let (Some(table), Some(maps)) = (&self.host, maps) {
                table.replace(maps)?;
            }
            let maps = device.as_mut().and_then(|(_, held)| held.program.blocked.take());
            if let (Some(table), Some(maps)) = (&self.blocked, maps) {
                table.replace(maps)?;
            }
            Ok(device)
        });
        let mut state = self.state();
        match opened {
            Ok(Some((ports, mut held))) => {
                held.info.group = state.held.info.group;
                let info = Box::new(held.info.clone());
                let before = std::mem::replace(&mut state.held, held);
                state.passed.add(&before.program.passed());
                before.sockets.iter().for_each(|socket| state.drops.add(&socket.drops()));
                state.missing = None;
                for (renewal, port) in self.renewals.iter().zip(ports) {
                    renewal.leave(port);
                }
                Some(DeviceChange::Back(info))
            }
            Ok(None) => None,
            Err(error) => {
                let is_news = state.missing.as_ref() != Some(&error);
                state.missing = Some(error.clone());
                is_news.then_some(DeviceChange::Failed(error))
            }
        }
    }
}

impl DeviceInfo {
    /// The mode in words of the configuration: `zero-copy`, `native` or `generic`.
    pub fn achieved(&self) -> &'static str {
        if self.zero_copy { "zero-copy" } else { self.mode.name() }
    }
}

/// What was wanted and could not be had, in words.
pub(super) fn fallback(program: &Program, copy: Option<&str>, busy_poll: Option<&str>) -> Option<String> {
    let native = program.fallback.as_ref();
    let reasons = [
        native.map(|reason| format!("generic mode, as native was refused: {reason}")),
        copy.map(|reason| format!("copies, as zero-copy was refused: {reason}")),
        busy_poll.map(|reason| format!("no busy polling, as it was refused: {reason}")),
    ];
    let reasons: Vec<String> = reasons.into_iter().flatten().collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}
