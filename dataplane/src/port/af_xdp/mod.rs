//! Ports on AF_XDP sockets.
//!
//! Every queue of a device has a socket, and a small XDP program sends each frame to the socket of the queue it came in
//! on, but for what is left to the kernel. The UMEM of all sockets is the memory of a worker's [`FramePool`], so that a
//! frame goes from one device to another by its address. A socket has four rings, each with the kernel at its other end:
//! fill (chunks for frames to come), receive, transmit, and completion (chunks of frames that are sent).
//!
//! `program.rs` has the XDP program, `bind.rs` and `socket.rs` the sockets, `ring.rs` the rings, `port.rs` the packet's path.

mod attached;
mod bind;
mod control;
mod device;
mod error;
mod host;
mod kernel;
mod lent;
mod membership;
mod port;
mod program;
mod renewal;
mod ring;
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

pub use control::{DeviceChange, DeviceControl, DeviceInfo, Faults};
pub use device::{DeviceFacts, device_facts};
pub use error::OpenError;
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
    /// What is left to the kernel: at most 32.
    pub kernel: Vec<KernelMatch>,
    /// Our MAC address, for the device to let frames to it pass, where it is another than the device's own.
    pub mac: Option<[u8; 6]>,
    /// Whether another XDP program is taken off the device.
    pub replace: bool,
    /// Whether the kernel answers for the box's own addresses there, and alone speaks ARP and ND. What those addresses are
    /// is told by [`DeviceControl::host_table`].
    pub host_is_kernel: bool,
    /// Frames that each queue's fill and receive rings hold: a power of two, 64 to 32,768.
    pub rx_ring: u32,
    /// Frames that the transmit and completion rings hold: likewise.
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

/// Takes devices into service, in the network namespace of the calling thread: each with all of its queues, and all with
/// the frames of `pool`, of which every queue takes `rx_ring` now. Devices that are down are brought up.
///
/// Each device gets the best mode that its `PortSpec` lets it have.
///
/// # Errors
/// See [`OpenError`]; nothing is attached or bound then, and the pool is as it was. An answer of "busy" is given only
/// after 2 seconds of trying.
pub fn open(
    pool: &mut FramePool,
    specs: &[PortSpec],
) -> Result<(Vec<AfXdpPort>, Vec<DeviceControl>), OpenError> {
    let opened = open_all(pool.memory(), specs)?;
    // From here on nothing fails: frames are lent.
    let started = opened.into_iter().zip(specs).map(|((mut port, held), spec)| {
        port.stock(pool);
        let renewal = port.renewal.clone();
        let faults = port.faults.clone();
        (port, DeviceControl::new(spec.clone(), held, faults, renewal, pool.memory().clone()))
    });
    Ok(started.unzip())
}

/// Everything but the frames: the fill rings are empty.
fn open_all(memory: &Memory, specs: &[PortSpec]) -> Result<Vec<(AfXdpPort, Held)>, OpenError> {
    let prepared = specs.iter().map(Prepared::new).collect::<Result<Vec<_>, _>>()?;
    check_sizes(memory, &prepared)?;
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
    memberships: OwnedFd,
}

impl<'a> Prepared<'a> {
    fn new(spec: &'a PortSpec) -> Result<Self, OpenError> {
        let device = &spec.device;
        let facts = device_facts(device).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => OpenError::NoDevice(device.clone()),
            _ => OpenError::of(device, "asking for the device's properties", error),
        })?;
        kernel::check(device, &facts)?;
        let memberships = device::prepare(device, &facts, spec.mac)
            .map_err(|error| OpenError::of(device, "bringing the device up", error))?;
        Ok(Self { spec, facts, memberships })
    }
}

fn check_sizes(memory: &Memory, devices: &[Prepared<'_>]) -> Result<(), OpenError> {
    if !memory.is_contiguous() {
        return Err(OpenError::Gaps);
    }
    let mut needed = 0;
    for Prepared { spec, facts, .. } in devices {
        for size in [spec.rx_ring, spec.tx_ring] {
            if !size.is_power_of_two() || !(64..=32768).contains(&size) {
                return Err(OpenError::RingSize { device: spec.device.clone(), size });
            }
        }
        if !(1..=BURST as u32).contains(&spec.batch) {
            return Err(OpenError::Batch { device: spec.device.clone(), size: spec.batch });
        }
        needed += spec.rx_ring as u64 * facts.queues as u64 + spec.tx_ring as u64;
    }
    if needed > memory.count() as u64 {
        return Err(OpenError::Frames { device_count: devices.len(), needed, have: memory.count() });
    }
    Ok(())
}

/// A device whose frames go through our program.
struct Device<'a> {
    spec: &'a PortSpec,
    facts: DeviceFacts,
    memberships: OwnedFd,
    program: Program,
}

impl<'a> Device<'a> {
    fn attach(Prepared { spec, facts, memberships }: Prepared<'a>) -> Result<Self, OpenError> {
        let program = Program::attach(spec, &facts)?;
        Ok(Self { spec, facts, memberships, program })
    }

    /// Makes a port of the device's queues.
    fn start(self, memory: &Memory, bound: BoundDevice) -> (AfXdpPort, Held) {
        let BoundDevice { queues, group, copy_reason } = bound;
        let busy_poll_refused = queues.iter().find_map(|queue| queue.busy_poll_refused.clone());
        let polled = self.spec.busy_poll.is_some() && busy_poll_refused.is_none();
        let zero_copy = queues.iter().all(|queue| queue.zero_copy);
        let mut port = AfXdpPort {
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
        for Bound { socket, fill, rx, completion, tx, .. } in queues {
            let fd = socket.as_raw_fd();
            let (wanted, longest, chain) = (self.spec.rx_ring, self.facts.longest(), Chain::None);
            port.receivers.push(Receiver { fd, fill, rx, wanted, longest, chain });
            if let Some((ring, batch)) = tx {
                let size = self.spec.tx_ring;
                let batch = if zero_copy { size } else { batch };
                port.sender = Some(Sender { fd, ring, completion, room: size, size, batch });
            }
            port.sockets.push(SharedSocket::new(socket));
            port.descriptors.push(fd);
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
            sockets: port.sockets.clone(),
            _memberships: self.memberships,
        };
        (port, held)
    }
}
