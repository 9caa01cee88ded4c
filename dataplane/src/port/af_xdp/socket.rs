//! An AF_XDP socket: the system calls, and nothing else.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use libc::{c_int, off_t};

use super::BusyPoll;
use super::device::{check, open_socket};
use super::ring::{Consumer, Layout, Producer};
use crate::arena::{CHUNK, Memory};

// linux/if_xdp.h, of Linux 6.17: frames that one sendto sends at most in copy mode.
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;
// asm-generic/socket.h, of Linux 5.11.
const SO_PREFER_BUSY_POLL: c_int = 69;
const SO_BUSY_POLL_BUDGET: c_int = 70;
// Of Linux 6.6: frames may take several buffers.
const XDP_USE_SG: u16 = 1 << 4;
/// Without XDP_MAX_TX_SKB_BUDGET: the kernel's TX_BATCH_SIZE.
const TX_BATCH: u32 = 32;

/// How a socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// The first of a UMEM.
    First {
        /// Whether the driver moves frames itself, or the kernel copies them.
        zero_copy: bool,
        /// Whether a frame may take several buffers.
        jumbo: bool,
    },
    /// With the UMEM, and in the mode, of a socket that is bound already.
    Shared(RawFd),
}

/// Frames that the kernel dropped, or descriptors that it refused, at a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelDrops {
    /// Received frames that were longer than a chunk holds, or for which there was no chunk.
    pub rx_dropped: u64,
    /// Received frames for which the receive ring was full.
    pub rx_ring_full: u64,
    /// Times at which the kernel wanted a chunk and the fill ring had none.
    pub fill_ring_empty: u64,
    /// Descriptors of the fill ring that were invalid.
    pub rx_invalid: u64,
    /// Descriptors of the transmit ring that were invalid.
    pub tx_invalid: u64,
}

impl KernelDrops {
    /// Adds another socket's.
    pub(super) fn add(&mut self, other: &Self) {
        self.rx_dropped += other.rx_dropped;
        self.rx_ring_full += other.rx_ring_full;
        self.fill_ring_empty += other.fill_ring_empty;
        self.rx_invalid += other.rx_invalid;
        self.tx_invalid += other.tx_invalid;
    }
}

/// What became of a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wakeup {
    /// The kernel has taken all that there was.
    Done,
    /// The kernel could not go on, or has done its share for one call: it will go on at the next.
    Again,
    /// The device is down or gone: the error's number.
    Failed(i32),
}

/// An AF_XDP socket.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Socket {
    pub(super) fn new() -> io::Result<Self> {
        open_socket(libc::AF_XDP, libc::SOCK_RAW).map(Self)
    }

    /// One that another process has bound, and handed over.
    pub(super) fn inherit(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Its descriptor once more.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// The fill and receive ring of a socket that has them, of so many entries each.
    pub(super) fn receive_rings(&self, size: u32) -> io::Result<(Producer<u64>, Consumer<libc::xdp_desc>)> {
        let offsets = self.offsets()?;
        let fill = self.map(libc::XDP_UMEM_PGOFF_FILL_RING as off_t, &offsets.fr, size)?;
        let rx = self.map(libc::XDP_PGOFF_RX_RING, &offsets.rx, size)?;
        // SAFETY: the rings are there, of this size and of these types (if_xdp.h); whoever had them has let go of them.
        Ok(unsafe { (Producer::new(fill), Consumer::new(rx)) })
    }

    /// The transmit and completion ring of a socket that has them, likewise.
    pub(super) fn send_rings(&self, size: u32) -> io::Result<(Producer<libc::xdp_desc>, Consumer<u64>)> {
        let offsets = self.offsets()?;
        let tx = self.map(libc::XDP_PGOFF_TX_RING, &offsets.tx, size)?;
        let completion = self.map(libc::XDP_UMEM_PGOFF_COMPLETION_RING as off_t, &offsets.cr, size)?;
        // SAFETY: as in `receive_rings`.
        Ok(unsafe { (Producer::new(tx), Consumer::new(completion)) })
    }

    /// Registers the memory as a UMEM, which this socket then owns.
    pub(super) fn register(&self, memory: &Memory) -> io::Result<()> {
        let (base, bytes) = memory.region();
        let umem = libc::xdp_umem_reg {
            addr: base.as_ptr() as u64,
            len: bytes as u64,
            chunk_size: CHUNK as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        self.set(libc::SOL_XDP, libc::XDP_UMEM_REG, &umem)
    }

    /// The fill and completion ring: of these a socket needs both.
    pub(super) fn umem_rings(
        &self,
        fill: u32,
        completion: u32,
    ) -> io::Result<(Producer<u64>, Consumer<u64>)> {
        self.set(libc::SOL_XDP, libc::XDP_UMEM_FILL_RING, &fill)?;
        self.set(libc::SOL_XDP, libc::XDP_UMEM_COMPLETION_RING, &completion)?;
        let offsets = self.offsets()?;
        let fill = self.map(libc::XDP_UMEM_PGOFF_FILL_RING as off_t, &offsets.fr, fill)?;
        let completion = self.map(libc::XDP_UMEM_PGOFF_COMPLETION_RING as off_t, &offsets.cr, completion)?;
        // SAFETY: the rings were just made; they hold u64 (if_xdp.h), and no other is made of them.
        Ok(unsafe { (Producer::new(fill), Consumer::new(completion)) })
    }

    /// The receive ring.
    pub(super) fn rx_ring(&self, size: u32) -> io::Result<Consumer<libc::xdp_desc>> {
        self.set(libc::SOL_XDP, libc::XDP_RX_RING, &size)?;
        let layout = self.map(libc::XDP_PGOFF_RX_RING, &self.offsets()?.rx, size)?;
        // SAFETY: as in `umem_rings`; it holds descriptors.
        Ok(unsafe { Consumer::new(layout) })
    }

    /// The transmit ring, and how many of its frames one wake-up sends at most in copy mode, `burst` if the kernel can.
    pub(super) fn tx_ring(&self, size: u32, burst: u32) -> io::Result<(Producer<libc::xdp_desc>, u32)> {
        self.set(libc::SOL_XDP, libc::XDP_TX_RING, &size)?;
        let layout = self.map(libc::XDP_PGOFF_TX_RING, &self.offsets()?.tx, size)?;
        let has_budget = self.set(libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &burst).is_ok();
        // In copy mode each frame takes a socket buffer: let the ring be the limit, not the default of some 90 frames.
        let bytes = size.saturating_mul(2 * CHUNK as u32).min(c_int::MAX as u32 / 2) as c_int;
        let _ = self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes);
        // SAFETY: as in `rx_ring`.
        Ok((unsafe { Producer::new(layout) }, if has_budget { burst } else { TX_BATCH }))
    }

    /// Has the kernel poll the queue in our calls.
    pub(super) fn busy_poll(&self, BusyPoll { microseconds, budget }: BusyPoll) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1)?;
        self.set(libc::SOL_SOCKET, libc::SO_BUSY_POLL, &microseconds)?;
        self.set(libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &budget)
    }

    /// Binds the socket to a queue of a device.
    pub(super) fn bind(&self, ifindex: u32, queue: u32, binding: Binding) -> io::Result<()> {
        let (flags, umem) = match binding {
            Binding::First { zero_copy, jumbo } => {
                let mode = if zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
                let buffers = if jumbo { XDP_USE_SG } else { 0 };
                (mode | buffers | libc::XDP_USE_NEED_WAKEUP, 0)
            }
            Binding::Shared(fd) => (libc::XDP_SHARED_UMEM, fd as u32),
        };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: ifindex,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: umem,
        };
        // SAFETY: the address is of the family's type, and its length.
        check(unsafe {
            libc::bind(self.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32)
        })?;
        Ok(())
    }

    /// Whether the driver moves frames itself.
    pub(super) fn is_zero_copy(&self) -> io::Result<bool> {
        let mut options = libc::xdp_options { flags: 0 };
        self.get(libc::XDP_OPTIONS, &mut options)?;
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    pub(super) fn drops(&self) -> io::Result<KernelDrops> {
        // SAFETY: integers, for which zero is a value.
        let mut statistics: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        self.get(libc::XDP_STATISTICS, &mut statistics)?;
        Ok(KernelDrops {
            rx_dropped: statistics.rx_dropped,
            rx_ring_full: statistics.rx_ring_full,
            fill_ring_empty: statistics.rx_fill_ring_empty_descs,
            rx_invalid: statistics.rx_invalid_descs,
            tx_invalid: statistics.tx_invalid_descs,
        })
    }

    fn offsets(&self) -> io::Result<libc::xdp_mmap_offsets> {
        // SAFETY: integers, for which zero is a value.
        let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        self.get(libc::XDP_MMAP_OFFSETS, &mut offsets)?;
        Ok(offsets)
    }

    /// Maps a ring of `size` entries.
    fn map<T>(&self, page: off_t, offsets: &libc::xdp_ring_offset, size: u32) -> io::Result<Layout<T>> {
        let bytes = offsets.desc as usize + size as usize * size_of::<T>();
        let map = RingMap::new(self.as_raw_fd(), page, bytes)?;
        // SAFETY: the kernel's offsets lie within the mapping, whose length was computed from the last of them, and are
        // aligned for what is there.
        unsafe {
            Ok(Layout {
                producer: map.base.add(offsets.producer as usize).cast(),
                consumer: map.base.add(offsets.consumer as usize).cast(),
                flags: map.base.add(offsets.flags as usize).cast(),
                entries: map.base.add(offsets.desc as usize).cast(),
                size,
                _memory: Box::new(map),
            })
        }
    }

    fn set<T>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        let value = std::ptr::from_ref(value);
        // SAFETY: every option used here takes a structure of the type given, by its length.
        check(unsafe {
            libc::setsockopt(self.as_raw_fd(), level, option, value.cast(), size_of::<T>() as u32)
        })?;
        Ok(())
    }

    /// Fails with `InvalidData` if the kernel's structure is another than ours.
    fn get<T>(&self, option: c_int, value: &mut T) -> io::Result<()> {
        let mut length = size_of::<T>() as u32;
        let value = std::ptr::from_mut(value);
        // SAFETY: the kernel writes at most `length` bytes, all of them integers.
        check(unsafe {
            libc::getsockopt(self.as_raw_fd(), libc::SOL_XDP, option, value.cast(), &mut length)
        })?;
        if length as usize != size_of::<T>() { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
    }
}

/// Has the kernel transmit what is in the ring of this socket.
#[inline]
pub(super) fn wake_tx(fd: RawFd) -> Wakeup {
    // SAFETY: sends no bytes; a descriptor that is no longer ours would merely fail.
    answer(unsafe { libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) })
}

/// Has the kernel take what is in the fill ring of this socket.
#[inline]
pub(super) fn wake_rx(fd: RawFd) -> Wakeup {
    let (no_bytes, no_address) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: receives no bytes; see above.
    answer(unsafe { libc::recvfrom(fd, no_bytes, 0, libc::MSG_DONTWAIT, no_address, std::ptr::null_mut()) })
}

fn answer(result: isize) -> Wakeup {
    if result >= 0 {
        return Wakeup::Done;
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Wakeup::Again,
        errno => Wakeup::Failed(errno.unwrap_or_default()),
    }
}

/// A ring's memory. It keeps the socket's file open as long as it is mapped.
struct RingMap {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address range; what may be done in it is the rings' business.
unsafe impl Send for RingMap {}
// SAFETY: as above.
unsafe impl Sync for RingMap {}

impl RingMap {
    fn new(fd: RawFd, page: off_t, bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, page) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { base, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for RingMap {
    fn drop(&mut self) {
        // SAFETY: only the ring that owns this has pointers into it, and it goes too.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
