//! Sockets bound to the queues of devices, in the best mode that each device can.
//!
//! A socket that joins a UMEM takes the mode of the one that made it, so sockets form groups by mode, each with a UMEM of
//! its own. All groups' UMEMs are the same memory, registered once for each: a frame goes from any port to any other by
//! its address, and is copied only by the kernel, at a port that works with copies.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::Instant;

use super::Device;
use super::error::OpenError;
use super::program::{AttachedMode, BUSY_PATIENCE, XdpMode};
use super::ring::{Consumer, Producer};
use super::socket::{Binding, Socket};
use crate::arena::Memory;
use crate::burst::BURST;

/// Entries of the completion ring of a queue on which nothing is transmitted: the kernel insists on one.
const NO_COMPLETIONS: u32 = 2;

/// A socket that is bound to a queue, and our sides of its rings.
pub(super) struct Bound {
    pub(super) socket: Socket,
    pub(super) fill: Producer<u64>,
    pub(super) rx: Consumer<libc::xdp_desc>,
    pub(super) completion: Consumer<u64>,
    /// With the frames that a wake-up sends at most; none on a queue that nobody sends on.
    pub(super) tx: Option<(Producer<libc::xdp_desc>, u32)>,
    pub(super) zero_copy: bool,
    /// Why the kernel does not poll the queue in our calls, where it should.
    pub(super) busy_poll_refused: Option<String>,
}

/// A device's sockets.
pub(super) struct BoundDevice {
    pub(super) queues: Vec<Bound>,
    /// The group of the device's sockets.
    pub(super) group: u32,
    /// Why they copy, where they would not have had to: the kernel's answer in words.
    pub(super) copy_reason: Option<String>,
}

/// What the sockets of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mode {
    zero_copy: bool,
    /// Whether a frame may take several buffers (`XDP_USE_SG`).
    jumbo: bool,
    /// The device that wants no others in its group.
    apart: Option<u32>,
}

/// Groups of sockets, each with the socket that made its UMEM, which is open as long as devices are being bound.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<(Mode, RawFd)>);

/// A step that failed, and the kernel's answer.
type Failure = (&'static str, io::Error);

impl Groups {
    /// Binds every queue of a device: without copies where the configuration and the driver let it, else with.
    pub(super) fn bind(&mut self, memory: &Memory, device: &Device<'_>) -> Result<BoundDevice, OpenError> {
        let apart = device.spec.apart.then_some(device.facts.ifindex);
        let copy = Mode { zero_copy: false, jumbo: device.facts.is_jumbo(), apart };
        let wanted = device.spec.mode;
        let mut copy_reason = None;
        // Behind generic XDP there is nothing but copies, which its own reason explains.
        if device.program.mode == AttachedMode::Native && wanted != XdpMode::Native {
            match self.bind_queues(memory, device, Mode { zero_copy: true, ..copy }) {
                Ok((queues, group)) => return Ok(BoundDevice { queues, group, copy_reason }),
                Err(OpenError::System { source, .. }) => {
                    let reason = in_words(&source, device);
                    if wanted == XdpMode::ZeroCopy {
                        return Err(OpenError::ZeroCopy { device: device.spec.device.clone(), reason });
                    }
                    copy_reason = Some(reason);
                }
                Err(error) => return Err(error),
            }
        }
        let (queues, group) = self.bind_queues(memory, device, copy)?;
        Ok(BoundDevice { queues, group, copy_reason })
    }

    fn bind_queues(
        &mut self,
        memory: &Memory,
        device: &Device<'_>,
        mode: Mode,
    ) -> Result<(Vec<Bound>, u32), OpenError> {
        let known = self.0.iter().position(|(other, _)| *other == mode);
        let mut first = known.and_then(|group| self.0.get(group)).map(|&(_, socket)| socket);
        let mut queues = Vec::with_capacity(device.facts.queues as usize);
        for queue in 0..device.facts.queues {
            let binding = match first {
                Some(socket) => Binding::Shared(socket),
                None => Binding::First { zero_copy: mode.zero_copy, jumbo: mode.jumbo },
            };
            let bound = bind_patiently(memory, device, queue, binding)?;
            first = first.or(Some(bound.socket.as_raw_fd()));
            queues.push(bound);
        }
        let group = known.unwrap_or_else(|| {
            self.0.extend(first.map(|socket| (mode, socket)));
            self.0.len() - 1
        });
        Ok((queues, group as u32))
    }
}

/// Why there is no zero copy.
fn in_words(error: &io::Error, device: &Device<'_>) -> String {
    let driver = &device.facts.driver;
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) if device.facts.is_jumbo() => format!(
            "the driver {driver} has no zero-copy, or none for frames of several buffers, as the MTU {} needs",
            device.facts.mtu
        ),
        Some(libc::EOPNOTSUPP) => format!("the driver {driver} has no zero-copy"),
        Some(libc::EINVAL) => format!(
            "the driver {driver} refuses zero-copy as the device is set up (a virtio NIC needs iommu_platform=on and \
             its offloads off)"
        ),
        Some(libc::ENOMEM) => "the kernel has no memory to map the frames for the device".to_owned(),
        _ => format!("the driver {driver} says: {error}"),
    }
}

fn bind_patiently(
    memory: &Memory,
    device: &Device<'_>,
    queue: u32,
    binding: Binding,
) -> Result<Bound, OpenError> {
    let patience = Instant::now() + BUSY_PATIENCE;
    loop {
        let (what, error) = match bind(memory, device, queue, binding) {
            Ok(bound) => return Ok(bound),
            Err(failure) => failure,
        };
        let name = &device.spec.device;
        match error.raw_os_error() {
            Some(libc::EBUSY) if Instant::now() < patience => thread::sleep(BUSY_PATIENCE / 40),
            Some(libc::EBUSY) => return Err(OpenError::QueueBusy { device: name.clone(), queue }),
            Some(libc::ENOBUFS) => return Err(OpenError::Memlock { bytes: memory.region().1 }),
            _ => return Err(OpenError::of(name, what, error)),
        }
    }
}

fn bind(memory: &Memory, device: &Device<'_>, queue: u32, binding: Binding) -> Result<Bound, Failure> {
    let failed = |what| move |error| (what, error);
    let is_sender = device.sides.senders.get(queue as usize).is_some_and(Option::is_some);
    let (rx, tx) = (device.spec.rx_ring, device.spec.tx_ring);
    let socket = Socket::new().map_err(failed("opening an AF_XDP socket"))?;
    if !matches!(binding, Binding::Shared(_)) {
        socket.register(memory).map_err(failed("sharing the packet memory with the kernel"))?;
    }
    let completions = if is_sender { tx } else { NO_COMPLETIONS };
    let (fill, completion) =
        socket.umem_rings(rx, completions).map_err(failed("making the fill and completion ring"))?;
    let rx = socket.rx_ring(rx).map_err(failed("making the receive ring"))?;
    let tx = is_sender
        .then(|| socket.tx_ring(tx, BURST as u32))
        .transpose()
        .map_err(failed("making the transmit ring"))?;
    let refused = device.spec.busy_poll.and_then(|wanted| socket.busy_poll(wanted).err());
    let busy_poll_refused = refused.map(|error| match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => "it needs Linux 5.11 or later".to_owned(),
        Some(libc::EPERM) => "it needs CAP_NET_ADMIN".to_owned(),
        _ => error.to_string(),
    });
    socket.bind(device.facts.ifindex, queue, binding).map_err(failed("binding a socket to a queue"))?;
    let zero_copy = socket.is_zero_copy().map_err(failed("asking for the socket's mode"))?;
    Ok(Bound { socket, fill, rx, completion, tx, zero_copy, busy_poll_refused })
}
