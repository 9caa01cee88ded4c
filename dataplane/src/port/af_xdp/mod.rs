//! Ports on AF_XDP sockets.
//!
//! Every queue of a device has a socket, and a small XDP program sends each frame to the socket of the queue it came in
//! on, but for what is left to the kernel. The UMEM of all sockets is one memory, of which each worker's [`FramePool`] is a
//! part, so that a frame goes from one device to another by its address. A socket has four rings, each with the kernel at
//! its other end: fill (chunks for frames to come), receive, transmit, and completion (chunks of frames that are sent). The
//! first two are one worker's, and so are the last two (`sides.rs`).
//!
//! `program.rs` has the XDP program, `bind.rs` and `socket.rs` the sockets, `ring.rs` the rings, `port.rs` the packet's path.

mod attached;
mod bind;
mod blocked;
mod control;
mod device;
mod error;
mod handover;
mod host;
mod kernel;
mod lent;
mod membership;
mod port;
mod program;
mod renewal;
mod ring;
mod sides;
mod socket;
mod wait;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use crate::arena::{FramePool, Memory};
use crate::burst::BURST;
use bind::{Bound, BoundDevice, Groups};
use control::{FaultCells, Held, SharedSocket, fallback};
use lent::Lent;
use port::{Chain, Receiver, Sender};
use program::Program;
use sides::Sides;

pub use blocked::{BlockTable, MAX_BLOCKED};
pub use control::{DeviceChange, DeviceControl, DeviceInfo, Faults};
pub use device::{DeviceFacts, device_facts};
pub use error::OpenError;
pub use handover::{Handed, inherit};
pub use host::{HostTable, MAX_SHARED, SharedAddress};
pub use membership::promiscuous;
pub use port::AfXdpPort;
pub use program::{AttachedMode, Count, KernelMatch, LLC, Passed, XdpMode};
pub use socket::KernelDrops;
pub use wait::{MOST_DESCRIPTORS, wait};

/// A port to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The port's name.
    pub name: String,
    /// The device's name.
    pub device: String,
    /// In what mode the device is to be driven.
    pub mode: XdpMode,
    /// What is left to the kernel: at most 34.
    pub kernel: Vec<KernelMatch>,
    /// Our MAC address, for the device to let frames to it pass, where it is another than the device's own.
    pub mac: Option<[u8; 6]>,
    /// Whether another XDP program is taken off the device.
    pub replace: bool,
    /// Whether the kernel answers for the box's own addresses there, and alone speaks ARP and ND. What those addresses are
    /// is told by [`DeviceControl::host_table`].
    pub host_is_kernel: bool,
    /// Whether packets may be blocked by where they come from, as [`DeviceControl::block_table`] is told.
    pub has_lists: bool,
    /// The worker that receives from each queue, by its index; queues beyond the list's end go round.
    pub owners: Vec<usize>,
    /// Frames that each queue's fill and receive rings hold: a power of two, 64 to 32,768.
    pub rx_ring: u32,
    /// Frames that each worker's transmit and completion rings hold: likewise.
    pub tx_ring: u32,
    /// Frames that one call of `receive` takes at most: 1 to 64.
    pub batch: u32,
    /// How the kernel is to poll the device in our system calls, if at all.
    pub busy_poll: Option<BusyPoll>,
    /// Whether the device gets a group of its own, as one in another mode would: for tests.
    #[doc(hidden)]
    pub apart: bool,
}

/// Preferred busy polling: a device's interrupts stay off as long as we call often enough, and it is polled on our core,
/// in our system calls, only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// For how long a call may poll, in microseconds: at least 1.
    pub microseconds: u32,
    /// How many packets it may take: at least 1.
    pub budget: u32,
}

/// Takes devices into service for one worker: as [`open_for`].
///
/// # Errors
/// See [`open_for`].
pub fn open(
    pool: &mut FramePool,
    specs: &[PortSpec],
) -> Result<(Vec<AfXdpPort>, Vec<DeviceControl>), OpenError> {
    let (ports, controls) = open_for(std::slice::from_mut(pool), specs)?;
    Ok((ports.into_iter().flatten().collect(), controls))
}

/// Takes devices into service, in the network namespace of the calling thread: each with all of its queues, which are shared
/// out among the workers as `owners` says. `pools` are the workers', all of one memory; of its owner's, every queue takes
/// `rx_ring` frames now. Devices that are down are brought up. Returns each worker's ports, in the order of the specs.
///
/// Each device gets the best mode that its `PortSpec` lets it have.
///
/// # Errors
/// See [`OpenError`]; nothing is attached or bound then, and the pools are as they were. An answer of "busy" is given only
/// after 2 seconds of trying.
pub fn open_for(
    pools: &mut [FramePool],
    specs: &[PortSpec],
) -> Result<(Vec<Vec<AfXdpPort>>, Vec<DeviceControl>), OpenError> {
    let Some(memory) = pools.first().map(|pool| pool.memory().clone()) else { return Ok(Default::default()) };
    let frames: Vec<u32> = pools.iter().map(FramePool::count).collect();
    let opened = open_all(&memory, &frames, specs)?;
    // From here on nothing fails: frames are lent.
    let mut by_worker: Vec<Vec<AfXdpPort>> = pools.iter().map(|_| Vec::with_capacity(specs.len())).collect();
    let mut controls = Vec::with_capacity(specs.len());
    for ((ports, held), spec) in opened.into_iter().zip(specs) {
        controls.push(DeviceControl::new(spec.clone(), held, &ports, memory.clone(), frames.clone()));
        for ((mut port, pool), own) in ports.into_iter().zip(&mut *pools).zip(&mut by_worker) {
            port.stock(pool);
            own.push(port);
        }
    }
    Ok((by_worker, controls))
}

/// Everything but the frames: the fill rings are empty. `frames` are those that each worker has. Each device's ports are in
/// the order of the workers.
fn open_all(
    memory: &Memory,
    frames: &[u32],
    specs: &[PortSpec],
) -> Result<Vec<(Vec<AfXdpPort>, Held)>, OpenError> {
    let prepare = |spec| Prepared::new(spec, frames.len());
    let prepared = specs.iter().map(prepare).collect::<Result<Vec<_>, _>>()?;
    check_sizes(memory, frames, &prepared)?;
    let mut devices = prepared.into_iter().map(Device::attach).collect::<Result<Vec<_>, _>>()?;
    let mut groups = Groups::default();
    let bound =
        devices.iter().map(|device| groups.bind(memory, device)).collect::<Result<Vec<_>, OpenError>>()?;
    for (device, bound) in devices.iter_mut().zip(&bound) {
        for (queue, bound) in (0..).zip(&bound.queues) {
            device.program.give(&device.spec.device, queue, bound.socket.as_raw_fd())?;
        }
    }
    Ok(devices.into_iter().zip(bound).map(|(device, bound)| device.start(memory, bound)).collect())
}

/// A device that is up.
struct Prepared<'a> {
    spec: &'a PortSpec,
    facts: DeviceFacts,
    sides: Sides,
    memberships: OwnedFd,
}

impl<'a> Prepared<'a> {
    fn new(spec: &'a PortSpec, workers: usize) -> Result<Self, OpenError> {
        let device = &spec.device;
        let facts = device_facts(device).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => OpenError::NoDevice(device.clone()),
            _ => OpenError::of(device, "asking for the device's properties", error),
        })?;
        kernel::check(device, &facts)?;
        let sides = Sides::new(&spec.owners, facts.queues, workers).ok_or_else(|| OpenError::Queues {
            device: device.clone(),
            queues: facts.queues,
            workers,
        })?;
        let memberships = device::prepare(device, &facts, spec.mac)
            .map_err(|error| OpenError::of(device, "bringing the device up", error))?;
        Ok(Self { spec, facts, sides, memberships })
    }
}

fn check_sizes(memory: &Memory, frames: &[u32], devices: &[Prepared<'_>]) -> Result<(), OpenError> {
    if !memory.is_contiguous() {
        return Err(OpenError::Gaps);
    }
    for Prepared { spec, .. } in devices {
        for size in [spec.rx_ring, spec.tx_ring] {
            if !size.is_power_of_two() || !(64..=32768).contains(&size) {
                return Err(OpenError::RingSize { device: spec.device.clone(), size });
            }
        }
        if !(1..=BURST as u32).contains(&spec.batch) {
            return Err(OpenError::Batch { device: spec.device.clone(), size: spec.batch });
        }
    }
    for (worker, &have) in frames.iter().enumerate() {
        let rings = |device: &Prepared<'_>| {
            let (rx, tx) = (u64::from(device.spec.rx_ring), u64::from(device.spec.tx_ring));
            rx * device.sides.received_by(worker) as u64 + tx
        };
        let needed = devices.iter().map(rings).sum();
        if needed > u64::from(have) {
            let of = if frames.len() > 1 { format!(" for worker {worker}") } else { String::new() };
            return Err(OpenError::Frames { device_count: devices.len(), needed, have, of });
        }
    }
    Ok(())
}

/// A device whose frames go through our program.
struct Device<'a> {
    spec: &'a PortSpec,
    facts: DeviceFacts,
    sides: Sides,
    memberships: OwnedFd,
    program: Program,
}

impl<'a> Device<'a> {
    fn attach(Prepared { spec, facts, sides, memberships }: Prepared<'a>) -> Result<Self, OpenError> {
        let program = Program::attach(spec, &facts)?;
        Ok(Self { spec, facts, sides, memberships, program })
    }

    /// Makes a port of the device's queues for each worker.
    fn start(self, memory: &Memory, bound: BoundDevice) -> (Vec<AfXdpPort>, Held) {
        let BoundDevice { queues, group, copy_reason } = bound;
        let busy_poll_refused = queues.iter().find_map(|queue| queue.busy_poll_refused.clone());
        let polled = self.spec.busy_poll.is_some() && busy_poll_refused.is_none();
        let zero_copy = queues.iter().all(|queue| queue.zero_copy);
        let workers = self.sides.senders.iter().flatten().count();
        let port = |_| AfXdpPort {
            receivers: Vec::with_capacity(queues.len()),
            sender: None,
            sockets: Vec::with_capacity(queues.len()),
            descriptors: Vec::with_capacity(queues.len()),
            lent: Lent::new(memory.count()),
            turn: 0,
            batch: self.spec.batch as usize,
            polled,
            zero_copy,
            faults: Arc::new(FaultCells::default()),
            renewal: Arc::default(),
        };
        let mut ports: Vec<AfXdpPort> = (0..workers).map(port).collect();
        let mut sockets = Vec::with_capacity(queues.len());
        let batches = queues.iter().map(|queue| queue.tx.as_ref().map_or(0, |(_, batch)| *batch)).collect();
        let sides = self.sides.receivers.iter().zip(&self.sides.senders);
        for (Bound { socket, fill, rx, completion, tx, .. }, (&receiver, &sender)) in
            queues.into_iter().zip(sides)
        {
            let fd = socket.as_raw_fd();
            let socket = SharedSocket::new(socket);
            if let Some(port) = ports.get_mut(receiver) {
                let (wanted, longest, chain) = (self.spec.rx_ring, self.facts.longest(), Chain::None);
                port.receivers.push(Receiver { fd, fill, rx, wanted, longest, chain });
                port.descriptors.push(fd);
                port.sockets.push(socket.hold());
            }
            if let (Some((ring, batch)), Some(port)) = (tx, sender.and_then(|worker| ports.get_mut(worker))) {
                let size = self.spec.tx_ring;
                let batch = if zero_copy { size } else { batch };
                port.sender = Some(Sender { fd, ring, completion, room: size, size, batch });
                port.sockets.push(socket.hold());
            }
            sockets.push(socket);
        }
        let held = Held {
            info: DeviceInfo {
                device: self.spec.device.clone(),
                driver: self.facts.driver,
                mac: self.facts.mac,
                mtu: self.facts.mtu,
                queues: self.facts.queues,
                ifindex: self.facts.ifindex,
                mode: self.program.mode,
                zero_copy,
                group,
                pages: memory.pages(),
                fallback: fallback(&self.program, copy_reason.as_deref(), busy_poll_refused.as_deref()),
            },
            program: self.program,
            sockets,
            batches,
            polled,
            memberships: self.memberships,
        };
        (ports, held)
    }
}
