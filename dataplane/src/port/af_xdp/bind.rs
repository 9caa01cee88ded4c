//! Sockets bound to the queues of devices, all with one UMEM.

use std::io;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

use super::Device;
use super::error::OpenError;
use super::program::BUSY_PATIENCE;
use super::ring::{Consumer, Producer};
use super::socket::{Binding, Socket};
use crate::arena::FramePool;
use crate::burst::BURST;

/// Entries of the completion ring of a queue on which nothing is transmitted: the kernel insists on one.
const NO_COMPLETIONS: u32 = 2;

/// A socket that is bound to a queue, and our sides of its rings.
pub(super) struct Bound {
    pub(super) socket: Socket,
    pub(super) fill: Producer<u64>,
    pub(super) rx: Consumer<libc::xdp_desc>,
    pub(super) completion: Consumer<u64>,
    /// With the frames that a wake-up sends at most. The first queue of a device alone has it.
    pub(super) tx: Option<(Producer<libc::xdp_desc>, u32)>,
    pub(super) zero_copy: bool,
}

/// A step that failed, and the kernel's answer.
type Failure = (&'static str, io::Error);

/// Binds every queue of every device: the first with a UMEM of its own, in the mode that `first` names, the others with
/// the same UMEM.
pub(super) fn bind_all(
    pool: &FramePool,
    devices: &[Device<'_>],
    first: Binding,
) -> Result<Vec<Vec<Bound>>, OpenError> {
    let mut binding = first;
    let mut all = Vec::with_capacity(devices.len());
    for device in devices {
        let mut queues = Vec::with_capacity(device.facts.queues as usize);
        for queue in 0..device.facts.queues {
            let bound = bind_patiently(pool, device, queue, binding)?;
            if binding == first {
                binding = Binding::Shared(bound.socket.as_raw_fd());
            }
            queues.push(bound);
        }
        all.push(queues);
    }
    Ok(all)
}

fn bind_patiently(
    pool: &FramePool,
    device: &Device<'_>,
    queue: u32,
    binding: Binding,
) -> Result<Bound, OpenError> {
    let patience = Instant::now() + BUSY_PATIENCE;
    loop {
        let (what, error) = match bind(pool, device, queue, binding) {
            Ok(bound) => return Ok(bound),
            Err(failure) => failure,
        };
        let name = &device.spec.device;
        match error.raw_os_error() {
            Some(libc::EBUSY) if Instant::now() < patience => thread::sleep(BUSY_PATIENCE / 40),
            Some(libc::EBUSY) => return Err(OpenError::QueueBusy { device: name.clone(), queue }),
            Some(libc::ENOBUFS) => return Err(OpenError::Memlock { bytes: pool.region().1 }),
            _ => return Err(OpenError::of(name, what, error)),
        }
    }
}

fn bind(pool: &FramePool, device: &Device<'_>, queue: u32, binding: Binding) -> Result<Bound, Failure> {
    let failed = |what| move |error| (what, error);
    let is_sender = queue == 0;
    let (rx, tx) = (device.spec.rx_ring, device.spec.tx_ring);
    let socket = Socket::new().map_err(failed("opening an AF_XDP socket"))?;
    if !matches!(binding, Binding::Shared(_)) {
        socket.register(pool).map_err(failed("sharing the packet memory with the kernel"))?;
    }
    let completions = if is_sender { tx } else { NO_COMPLETIONS };
    let (fill, completion) =
        socket.umem_rings(rx, completions).map_err(failed("making the fill and completion ring"))?;
    let rx = socket.rx_ring(rx).map_err(failed("making the receive ring"))?;
    let tx = is_sender
        .then(|| socket.tx_ring(tx, BURST as u32))
        .transpose()
        .map_err(failed("making the transmit ring"))?;
    socket.bind(device.facts.ifindex, queue, binding).map_err(failed(match binding {
        Binding::ZeroCopy => "binding a socket to a queue without copies",
        Binding::Copy | Binding::Shared(_) => "binding a socket to a queue",
    }))?;
    let zero_copy = socket.is_zero_copy().map_err(failed("asking for the socket's mode"))?;
    Ok(Bound { socket, fill, rx, completion, tx, zero_copy })
}
