//! Ports on AF_XDP sockets.
//!
//! Every queue of a device has a socket, and a small XDP program sends each frame to the socket of the queue it came in
//! on, but for what is left to the kernel. All sockets share one UMEM, the memory of a worker's [`FramePool`], so that a
//! frame goes from one device to another by its address. A socket has four rings, each with the kernel at its other end:
//! fill (chunks for frames to come), receive, transmit, and completion (chunks of frames that are sent).
//!
//! `program.rs` has the XDP program, `bind.rs` and `socket.rs` the sockets, `ring.rs` the rings, `port.rs` the packet's path.

mod bind;
mod control;
mod device;
mod error;
mod lent;
mod port;
mod program;
mod ring;
mod socket;
mod wait;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use crate::arena::FramePool;
use bind::{Bound, bind_all};
use control::{FaultCells, SharedSocket};
use lent::Lent;
use port::{Receiver, Sender};
use program::Program;
use socket::Binding;

pub use control::{DeviceControl, DeviceInfo, Faults};
pub use device::{DeviceFacts, device_facts};
pub use error::OpenError;
pub use port::AfXdpPort;
pub use program::{AttachedMode, Count, KernelMatch, LLC, Passed, XdpMode};
pub use socket::KernelDrops;
pub use wait::wait;

/// A port to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The port's name.
    pub name: String,
    /// The device's name.
    pub device: String,
    /// In what mode the XDP program is to be attached.
    pub mode: XdpMode,
    /// What is left to the kernel: at most 32.
    pub kernel: Vec<KernelMatch>,
    /// Frames that each queue's fill and receive rings hold: a power of two, 64 to 32,768.
    pub rx_ring: u32,
    /// Frames that the transmit and completion rings hold: likewise.
    pub tx_ring: u32,
}

/// Takes devices into service, in the network namespace of the calling thread: each with all of its queues, and all with
/// the frames of `pool`, of which every queue takes `rx_ring` now. Devices that are down are brought up.
///
/// Frames move without copies if all devices can do that.
///
/// # Errors
/// See [`OpenError`]; nothing is attached or bound then, and the pool is as it was. An answer of "busy" is given only
/// after 2 seconds of trying.
pub fn open(
    pool: &mut FramePool,
    specs: &[PortSpec],
) -> Result<(Vec<AfXdpPort>, Vec<DeviceControl>), OpenError> {
    let prepared = specs.iter().map(Prepared::new).collect::<Result<Vec<_>, _>>()?;
    check_sizes(pool, &prepared)?;
    let mut devices = prepared.into_iter().map(Device::attach).collect::<Result<Vec<_>, _>>()?;
    let (bound, copy_reason) = bind_best(pool, &devices)?;
    for (device, queues) in devices.iter_mut().zip(&bound) {
        for (queue, bound) in (0..).zip(queues) {
            device.program.give(&device.spec.device, queue, bound.socket.as_raw_fd())?;
        }
    }
    // From here on nothing fails: frames are lent.
    Ok(devices
        .into_iter()
        .zip(bound)
        .map(|(device, queues)| device.start(pool, queues, copy_reason.as_deref()))
        .unzip())
}

/// A device that is up.
struct Prepared<'a> {
    spec: &'a PortSpec,
    facts: DeviceFacts,
    multicast: OwnedFd,
}

impl<'a> Prepared<'a> {
    fn new(spec: &'a PortSpec) -> Result<Self, OpenError> {
        let device = &spec.device;
        let facts = device_facts(device).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => OpenError::NoDevice(device.clone()),
            _ => OpenError::of(device, "asking for the device's properties", error),
        })?;
        let multicast = device::prepare(device, facts.ifindex)
            .map_err(|error| OpenError::of(device, "bringing the device up", error))?;
        Ok(Self { spec, facts, multicast })
    }
}

fn check_sizes(pool: &FramePool, devices: &[Prepared<'_>]) -> Result<(), OpenError> {
    if !pool.is_contiguous() {
        return Err(OpenError::Gaps);
    }
    let mut needed = 0;
    for Prepared { spec, facts, .. } in devices {
        for size in [spec.rx_ring, spec.tx_ring] {
            if !size.is_power_of_two() || !(64..=32768).contains(&size) {
                return Err(OpenError::RingSize { device: spec.device.clone(), size });
            }
        }
        needed += spec.rx_ring as u64 * facts.queues as u64 + spec.tx_ring as u64;
    }
    if needed > pool.count() as u64 {
        return Err(OpenError::Frames { device_count: devices.len(), needed, have: pool.count() });
    }
    Ok(())
}

/// A device whose frames go through our program.
struct Device<'a> {
    spec: &'a PortSpec,
    facts: DeviceFacts,
    multicast: OwnedFd,
    program: Program,
}

impl<'a> Device<'a> {
    fn attach(Prepared { spec, facts, multicast }: Prepared<'a>) -> Result<Self, OpenError> {
        let program = Program::attach(&spec.device, facts.ifindex, facts.queues, spec.mode, &spec.kernel)?;
        Ok(Self { spec, facts, multicast, program })
    }

    /// Makes a port of the device's queues, and stocks their fill rings.
    fn start(
        self,
        pool: &mut FramePool,
        queues: Vec<Bound>,
        copy_reason: Option<&str>,
    ) -> (AfXdpPort, DeviceControl) {
        let faults = Arc::new(FaultCells::default());
        let zero_copy = queues.iter().all(|queue| queue.zero_copy);
        let mut port = AfXdpPort {
            receivers: Vec::with_capacity(queues.len()),
            sender: None,
            sockets: Vec::with_capacity(queues.len()),
            descriptors: Vec::with_capacity(queues.len()),
            lent: Lent::new(pool.count()),
            turn: 0,
            zero_copy,
            faults: faults.clone(),
        };
        for Bound { socket, fill, rx, completion, tx, .. } in queues {
            let fd = socket.as_raw_fd();
            let mut receiver = Receiver { fd, fill, rx, wanted: self.spec.rx_ring };
            receiver.refill(pool, &mut port.lent);
            port.receivers.push(receiver);
            if let Some((ring, batch)) = tx {
                let size = self.spec.tx_ring;
                let batch = if zero_copy { size } else { batch };
                port.sender = Some(Sender { fd, ring, completion, room: size, size, batch });
            }
            port.sockets.push(SharedSocket::new(socket));
            port.descriptors.push(fd);
        }
        let control = DeviceControl {
            name: self.spec.name.clone(),
            info: DeviceInfo::new(
                &self.spec.device,
                self.facts,
                &self.program,
                zero_copy,
                pool.pages(),
                copy_reason,
            ),
            program: self.program,
            sockets: port.sockets.clone(),
            faults,
            _multicast: self.multicast,
        };
        (port, control)
    }
}

/// Binds all queues of all devices, without copies if every one can do that; else with, and the reason. A UMEM has one
/// mode for all its sockets.
fn bind_best(
    pool: &FramePool,
    devices: &[Device<'_>],
) -> Result<(Vec<Vec<Bound>>, Option<String>), OpenError> {
    let mut reason = None;
    // Behind generic XDP there is nothing but copies, which its own reason explains.
    if devices.iter().all(|device| device.program.mode == AttachedMode::Native) {
        match bind_all(pool, devices, Binding::ZeroCopy) {
            Ok(bound) => return Ok((bound, None)),
            Err(error @ OpenError::System { .. }) => reason = Some(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok((bind_all(pool, devices, Binding::Copy)?, reason))
}
