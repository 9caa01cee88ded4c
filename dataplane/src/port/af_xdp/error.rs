//! Why ports could not be opened, in words for whoever runs the box.

use std::io;

/// Why an AF_XDP port could not be opened. Nothing stays attached or bound after it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such device in this network namespace.
    #[error("there is no network device `{0}` here; `ip link` lists those that there are")]
    NoDevice(String),
    /// The process lacks a capability.
    #[error(
        "device `{device}`: {what} is not permitted; run as root, or with the capabilities CAP_NET_ADMIN, CAP_NET_RAW \
         and CAP_BPF"
    )]
    Privilege {
        /// The device.
        device: String,
        /// What was refused.
        what: &'static str,
    },
    /// The kernel has no AF_XDP.
    #[error(
        "this kernel has no AF_XDP sockets: boot one that is built with CONFIG_XDP_SOCKETS=y, as distributions' are"
    )]
    NoAfXdp,
    /// The kernel is too old.
    #[error("{what} needs Linux {needed} or later, and this is {release}: boot a newer kernel{or}")]
    KernelTooOld {
        /// What cannot be had.
        what: String,
        /// The version that has it.
        needed: &'static str,
        /// The version that runs.
        release: String,
        /// What else would do, to be appended.
        or: String,
    },
    /// The kernel may not pin as much memory for this process.
    #[error(
        "the kernel may not lock {bytes} bytes of packet memory for this process: raise the limit on locked memory \
         (`ulimit -l`, or LimitMEMLOCK= of systemd), or grant CAP_IPC_LOCK"
    )]
    Memlock {
        /// Bytes of packet memory.
        bytes: usize,
    },
    /// Another XDP program holds the device.
    #[error(
        "device `{device}` has an XDP program already: {program}; {remedy}, and xdp-replace = true lets start do so"
    )]
    ProgramAttached {
        /// The device.
        device: String,
        /// The program, and how it is attached.
        program: String,
        /// What to type.
        remedy: String,
    },
    /// The device's driver, or the kernel, refuses the program in the mode asked for.
    #[error("device `{device}`: no XDP program can be attached in {mode} mode: {reason}")]
    Attach {
        /// The device.
        device: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// The kernel's answer.
        reason: String,
    },
    /// Zero-copy was demanded, and refused.
    #[error(
        "device `{device}` cannot be driven without copies, as xdp = \"zero-copy\" demands: {reason}; xdp = \"auto\" \
         takes the best that there is"
    )]
    ZeroCopy {
        /// The device.
        device: String,
        /// The kernel's answer in words.
        reason: String,
    },
    /// The kernel refuses to load the XDP program.
    #[error("device `{device}`: the kernel does not load the XDP program: {reason}")]
    Program {
        /// The device.
        device: String,
        /// The kernel's answer, with the verifier's where there is one.
        reason: String,
    },
    /// Another socket holds the queue.
    #[error(
        "queue {queue} of device `{device}` is held by another AF_XDP socket (`ss --xdp -p` names it); end that process"
    )]
    QueueBusy {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// A worker could not send.
    #[error(
        "device `{device}` has too few queues ({queues}) for {workers} workers, each of which needs one of its own to send \
         on; write channels = {workers}, if its driver has so many (`ethtool -l {device}`), or [workers] count = {queues}"
    )]
    Queues {
        /// The device.
        device: String,
        /// Its queues.
        queues: u32,
        /// Workers.
        workers: usize,
    },
    /// Too few frames for the rings.
    #[error(
        "the rings of {device_count} devices take up to {needed} frames, but there are {have}{of}: raise tables.frames, or \
         lower the rings"
    )]
    Frames {
        /// How many devices are opened together.
        device_count: usize,
        /// Frames that the rings can hold.
        needed: u64,
        /// Frames of the pool.
        have: u32,
        /// Which worker's, where there are several, to be appended.
        of: String,
    },
    /// The frames do not lie as the kernel wants them.
    #[error("a frame pool with gaps between its chunks cannot be shared with the kernel")]
    Gaps,
    /// A ring's size is no power of two, or out of range.
    #[error("device `{device}`: a ring holds a power of two from 64 to 32768 frames, not {size}")]
    RingSize {
        /// The device.
        device: String,
        /// The size asked for.
        size: u32,
    },
    /// A batch is empty, or more than a burst holds.
    #[error("device `{device}`: a batch is 1 to 64 frames, not {size}")]
    Batch {
        /// The device.
        device: String,
        /// The size asked for.
        size: u32,
    },
    /// More is to be left to the kernel than the XDP program can look up.
    #[error(
        "device `{device}`: at most 34 ethertypes, protocols and UDP ports can be left to the kernel, not {count}"
    )]
    Matches {
        /// The device.
        device: String,
        /// How many were asked for.
        count: usize,
    },
    /// Any other system call failed.
    #[error("device `{device}`: {what}: {source}")]
    System {
        /// The device.
        device: String,
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl OpenError {
    /// The error for a system call that failed on a device: one of its own where the remedy is known.
    pub(super) fn of(device: &str, what: &'static str, source: io::Error) -> Self {
        let device = device.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege { device, what },
            Some(libc::ENODEV | libc::ENXIO) => Self::NoDevice(device),
            Some(libc::EAFNOSUPPORT) => Self::NoAfXdp,
            _ => Self::System { device, what: what.to_owned(), source },
        }
    }
}
