//! Network namespaces with veth pairs in them, and sockets to send and receive whole frames with.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use sluice_dataplane::arena::FramePool;
use sluice_dataplane::burst::Burst;
use sluice_dataplane::port::af_xdp::{AfXdpPort, KernelMatch, PortSpec, XdpMode};
use sluice_dataplane::port::{Outbox, Port};

/// Runs a test in a network namespace of its own, on a thread that alone is in it; it goes with the thread. Says so and
/// does nothing where that is not permitted.
pub(crate) fn in_namespace(name: &str, test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let run = || {
            // SAFETY: concerns this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                println!("SKIP {name}: no network namespace: {}", io::Error::last_os_error());
                return;
            }
            // No frames but ours.
            for scope in ["all", "default"] {
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
            }
            test();
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs `ip` in the thread's namespace, and returns what it says.
pub(crate) fn ip(arguments: &str) -> String {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().expect("ip (iproute2) is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair of `queues` queues at each end, both up.
pub(crate) fn veth(device: &str, peer: &str, queues: u32) {
    ip(&format!(
        "link add name {device} numrxqueues {queues} numtxqueues {queues} type veth peer name {peer} numrxqueues {queues} \
         numtxqueues {queues}"
    ));
    ip(&format!("link set dev {device} up"));
    ip(&format!("link set dev {peer} up"));
}

/// A port with the least rings, in native mode, nothing of which is left to the kernel.
pub(crate) fn spec(device: &str) -> PortSpec {
    PortSpec {
        name: device.to_uppercase(),
        device: device.to_owned(),
        mode: XdpMode::Native,
        kernel: Vec::<KernelMatch>::new(),
        mac: None,
        replace: false,
        host_is_kernel: false,
        has_lists: false,
        owners: Vec::new(),
        rx_ring: 512,
        tx_ring: 256,
        batch: 64,
        busy_poll: None,
        apart: false,
    }
}

/// A packet socket on a device: sends whole frames, and receives those that come in.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    pub(crate) fn new(device: &str) -> Self {
        let index = std::ffi::CString::new(device).unwrap();
        // SAFETY: a NUL-terminated name.
        let index = unsafe { libc::if_nametoindex(index.as_ptr()) };
        assert_ne!(index, 0, "no device {device}");
        // SAFETY: a new descriptor, checked below.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: new, and ours.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20);
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1);
        // SAFETY: integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: an address of the socket's family, and its length.
        let result = unsafe { libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        socket
    }

    fn set(&self, level: i32, option: i32, value: i32) {
        // SAFETY: options that take an int.
        let result =
            unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
        assert_eq!(result, 0, "option {option}: {}", io::Error::last_os_error());
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: a slice and its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame, if there is one by now.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 16384];
        // SAFETY: a slice and its length.
        let length = unsafe {
            libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), libc::MSG_DONTWAIT)
        };
        frame.truncate(usize::try_from(length).ok()?);
        Some(frame)
    }

    /// The next `count` frames, or those that come within two seconds.
    pub(crate) fn receive_many(&self, count: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        until(|| {
            frames.extend(std::iter::from_fn(|| self.receive()));
            frames.len() >= count
        });
        frames
    }
}

/// Calls `done` until it is, or two seconds have passed.
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(2);
    while !done() && Instant::now() < end {
        thread::yield_now();
    }
}

/// What has arrived at the port, taken out of it: the next `count` frames, or those that come within two seconds.
pub(crate) fn receive(port: &mut AfXdpPort, pool: &mut FramePool, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut burst = Burst::default();
    until(|| {
        port.receive(0, pool, &mut burst);
        for i in 0..burst.len() {
            let frame = burst.take(i).unwrap();
            frames.push(frame.segments().flatten().copied().collect());
            pool.give(frame);
        }
        burst.clear();
        frames.len() >= count
    });
    frames
}

/// Sends frames by the port, all of them.
pub(crate) fn send(port: &mut AfXdpPort, pool: &mut FramePool, frames: &[Vec<u8>]) {
    let mut outbox = Outbox::new(64);
    let mut sent = 0;
    let mut waiting = frames.iter();
    until(|| {
        while outbox.len() < 64 {
            let Some(bytes) = waiting.next() else { break };
            outbox.push(pool.copy_in(bytes).unwrap()).unwrap();
        }
        sent += port.transmit(0, pool, &mut outbox).packets as usize;
        sent == frames.len()
    });
    assert_eq!(sent, frames.len());
}

/// Frames of 60 to 1,514 bytes, each another, to be forwarded by nobody: of the ethertype for experiments.
pub(crate) fn frames(count: usize) -> Vec<Vec<u8>> {
    frames_up_to(1514, count)
}

/// The same, of 60 to `longest` bytes.
pub(crate) fn frames_up_to(longest: usize, count: usize) -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count)
        .map(|i| {
            let mut frame: Vec<u8> =
                (0..60 + random() as usize % (longest - 59)).map(|_| random() as u8).collect();
            frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
            frame[14..22].copy_from_slice(&(i as u64).to_be_bytes());
            frame
        })
        .collect()
}
