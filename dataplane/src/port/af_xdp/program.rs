//! The XDP program of a device: loaded, attached, and asked for what it left to the kernel.
#![allow(unsafe_code)]

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::{Xdp, XdpFlags};
use aya::{Ebpf, EbpfLoader, Pod};

use super::PortSpec;
use super::attached::{self, Attached};
use super::blocked::{BlockMaps, MAX_BLOCKED};
use super::device::DeviceFacts;
use super::error::OpenError;
use super::host::HostMaps;

/// In what mode a device is to be driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// The first of the others that can be had.
    #[default]
    Auto,
    /// The XDP program runs in the driver, which moves frames to and from our memory itself.
    ZeroCopy,
    /// The XDP program runs in the driver, and the kernel copies frames.
    Native,
    /// The XDP program runs in the kernel's stack, behind the driver: works on every device, at the price of a socket
    /// buffer per frame.
    Generic,
}

/// In what mode the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    /// By the driver.
    Native,
    /// In the kernel's stack.
    Generic,
}

impl AttachedMode {
    /// The mode's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Frames that are left to the kernel, behind up to two VLAN tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelMatch {
    /// Those of an ethertype, such as LLDP's 0x88cc; [`LLC`] for 802.3 frames with LLC.
    EtherType(u16),
    /// IPv4 and IPv6 packets of a protocol, all or those to a destination port. IPv6 extension headers are not looked
    /// behind, and only a packet's first fragment has ports.
    Protocol {
        /// The protocol's number.
        protocol: u8,
        /// The destination port.
        port: Option<u16>,
    },
}

/// What 802.3 frames with an LLC header, which have no ethertype, count as: the kernel's `ETH_P_802_2`.
pub const LLC: u16 = 0x0004;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
}

/// Frames that the XDP program left to the kernel (`XDP_PASS`), or dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Those that matched (see [`KernelMatch`]).
    pub matched: Count,
    /// Those of a queue that has no socket.
    pub no_socket: Count,
    /// Those that were dropped, as a guard blocks where they came from.
    pub blocked: Count,
}

impl Passed {
    /// Adds another device's.
    pub(super) fn add(&mut self, other: &Self) {
        let counts = [
            (&mut self.matched, other.matched),
            (&mut self.no_socket, other.no_socket),
            (&mut self.blocked, other.blocked),
        ];
        for (sum, count) in counts {
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
    }
}

/// How many matches a device may have.
pub(super) const MAX_MATCHES: usize = 34;

/// For how long an answer of "busy" is not believed: the kernel takes programs off and releases sockets a while after
/// their process has ended.
pub(super) const BUSY_PATIENCE: Duration = Duration::from_secs(2);

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodCount(Count);
// SAFETY: two integers without padding, as in the program's `struct count`.
unsafe impl Pod for PodCount {}

/// The descriptors of an attached program and its maps. The link keeps it attached as long as any process has it.
#[derive(Debug)]
pub(super) struct Handles {
    link: OwnedFd,
    sockets: OwnedFd,
    passed: OwnedFd,
    /// The box's own addresses, and the ports of those that are shared.
    host: Option<[OwnedFd; 2]>,
    /// The prefixes that are blocked.
    blocked: Option<[OwnedFd; 2]>,
}

impl Handles {
    /// The same once more, in the order in which [`of`](Self::of) takes them.
    pub(super) fn duplicate(&self) -> io::Result<Vec<OwnedFd>> {
        let Self { link, sockets, passed, host, blocked } = self;
        let more = host.iter().chain(blocked).flatten();
        [link, sockets, passed].into_iter().chain(more).map(OwnedFd::try_clone).collect()
    }

    /// Of descriptors in their order.
    pub(super) fn of(
        from: &mut impl Iterator<Item = OwnedFd>,
        host_is_kernel: bool,
        has_lists: bool,
    ) -> Option<Self> {
        let (link, sockets, passed) = (from.next()?, from.next()?, from.next()?);
        let mut two =
            |are_there: bool| Some(if are_there { Some([from.next()?, from.next()?]) } else { None });
        Some(Self { link, sockets, passed, host: two(host_is_kernel)?, blocked: two(has_lists)? })
    }

    /// Whether there are prefixes that are blocked.
    pub(super) const fn has_lists(&self) -> bool {
        self.blocked.is_some()
    }
}

/// An attached program. Its link takes it off when the last who has its handles lets go of them, or the process ends.
pub(super) struct Program {
    pub(super) handles: Handles,
    sockets: XskMap<MapData>,
    passed: PerCpuArray<MapData, PodCount>,
    pub(super) mode: AttachedMode,
    /// Why the mode is generic where native would have done.
    pub(super) fallback: Option<String>,
    /// Until control takes it.
    pub(super) host: Option<HostMaps>,
    /// Likewise.
    pub(super) blocked: Option<BlockMaps>,
    /// Holds the program, where it was loaded here.
    _ebpf: Option<Ebpf>,
}

impl Program {
    /// Loads the program and attaches it to a device of `queues` queues. Until sockets are given to it, it leaves all
    /// frames to the kernel.
    pub(super) fn attach(spec: &PortSpec, facts: &DeviceFacts) -> Result<Self, OpenError> {
        let PortSpec { device, mode, kernel: matches, host_is_kernel, has_lists, .. } = spec;
        if matches.len() > MAX_MATCHES {
            return Err(OpenError::Matches { device: device.to_owned(), count: matches.len() });
        }
        let refused = |reason: String| OpenError::Program { device: device.to_owned(), reason };
        let mut ebpf =
            load(facts.queues, matches, *host_is_kernel, *has_lists).map_err(|error| {
                match errno(&error) {
                    Some(libc::EPERM | libc::EACCES) => {
                        OpenError::Privilege { device: device.to_owned(), what: "loading the XDP program" }
                    }
                    _ => refused(in_words(&error)),
                }
            })?;
        let missing = |name| refused(format!("its object has no {name}"));
        let descriptor = |name: &str| {
            let map = ebpf.map(name).and_then(data).ok_or_else(|| missing_map(device, name))?;
            let copied = map.fd().as_fd().try_clone_to_owned();
            copied.map_err(|error| OpenError::of(device, "keeping a map's descriptor", error))
        };
        let maps = (descriptor("sockets")?, descriptor("passed")?);
        let host_maps = match *host_is_kernel {
            true => Some([descriptor("own")?, descriptor("shared")?]),
            false => None,
        };
        let block_maps = match *has_lists {
            true => Some([descriptor("blocked4")?, descriptor("blocked6")?]),
            false => None,
        };
        let sockets = ebpf.take_map("sockets").ok_or_else(|| missing("map `sockets`"))?;
        let sockets = XskMap::try_from(sockets).map_err(|error| refused(in_words(&error)))?;
        let passed = ebpf.take_map("passed").ok_or_else(|| missing("map `passed`"))?;
        let passed = PerCpuArray::try_from(passed).map_err(|error| refused(in_words(&error)))?;
        let host = match *host_is_kernel {
            true => Some(HostMaps::take(&mut ebpf).map_err(|error| refused(in_words(&error)))?),
            false => None,
        };
        let blocked = match *has_lists {
            true => Some(BlockMaps::take(&mut ebpf).map_err(|error| refused(in_words(&error)))?),
            false => None,
        };
        let name = if facts.is_jumbo() { "redirect_frags" } else { "redirect" };
        let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
        let program: &mut Xdp = program.try_into().map_err(|error| refused(in_words(&error)))?;

        program.load().map_err(|error| refused(in_words(&error)))?;
        let (mode, fallback, linked) = match *mode {
            XdpMode::ZeroCopy | XdpMode::Native => (AttachedMode::Native, None, None),
            XdpMode::Generic => (AttachedMode::Generic, None, None),
            XdpMode::Auto => match link(program, spec, facts, AttachedMode::Native) {
                Ok(linked) => (AttachedMode::Native, None, Some(linked)),
                Err(OpenError::Attach { reason, .. }) => (AttachedMode::Generic, Some(reason), None),
                Err(error) => return Err(error),
            },
        };
        let link = match linked {
            Some(linked) => linked,
            None => link(program, spec, facts, mode)?,
        };
        let handles = Handles { link, sockets: maps.0, passed: maps.1, host: host_maps, blocked: block_maps };
        Ok(Self { handles, sockets, passed, mode, fallback, host, blocked, _ebpf: Some(ebpf) })
    }

    /// One that another process has attached, by its descriptors.
    ///
    /// # Errors
    /// In words.
    pub(super) fn inherit(handles: Handles, mode: AttachedMode) -> Result<Self, String> {
        let words = |error: MapError| in_words(&error);
        let map = |from: &OwnedFd| {
            let again = from.try_clone().map_err(|error| error.to_string())?;
            MapData::from_fd(again).map_err(words)
        };
        let sockets = XskMap::try_from(Map::XskMap(map(&handles.sockets)?)).map_err(words)?;
        let passed = PerCpuArray::try_from(Map::PerCpuArray(map(&handles.passed)?)).map_err(words)?;
        let host = match &handles.host {
            Some([own, shared]) => {
                let again = |from: &OwnedFd| from.try_clone().map_err(|error| error.to_string());
                Some(HostMaps::inherit(again(own)?, again(shared)?).map_err(words)?)
            }
            None => None,
        };
        let blocked = match &handles.blocked {
            Some([v4, v6]) => Some(BlockMaps::inherit(map(v4)?, map(v6)?).map_err(words)?),
            None => None,
        };
        Ok(Self { handles, sockets, passed, mode, fallback: None, host, blocked, _ebpf: None })
    }

    /// Makes the frames of a queue go to a socket, which must be bound to that queue.
    pub(super) fn give(&mut self, device: &str, queue: u32, socket: RawFd) -> Result<(), OpenError> {
        self.sockets.set(queue, socket, 0).map_err(|error| OpenError::Program {
            device: device.to_owned(),
            reason: format!("queue {queue}: {}", in_words(&error)),
        })
    }

    /// What was left to the kernel so far. Zeros if the kernel does not tell.
    pub(super) fn passed(&self) -> Passed {
        let sum = |kind| {
            let mut sum = Count::default();
            for PodCount(count) in self.passed.get(&kind, 0).iter().flat_map(|cpus| cpus.iter()) {
                sum.packets += count.packets;
                sum.bytes += count.bytes;
            }
            sum
        };
        Passed { matched: sum(0), no_socket: sum(1), blocked: sum(2) }
    }
}

fn load(
    queues: u32,
    matches: &[KernelMatch],
    host_is_kernel: bool,
    has_lists: bool,
) -> Result<Ebpf, aya::EbpfError> {
    let blocked = if has_lists { MAX_BLOCKED } else { 1 };
    let table = Protocols::of(matches);
    let has_ethertypes = matches.iter().any(|entry| matches!(entry, KernelMatch::EtherType(_))) as u8;
    let has_protocols = matches.iter().any(|entry| matches!(entry, KernelMatch::Protocol { .. })) as u8;
    let mut ebpf = EbpfLoader::new()
        .set_max_entries("sockets", queues.max(1))
        .set_max_entries("blocked4", blocked)
        .set_max_entries("blocked6", blocked)
        .set_global("has_lists", &u8::from(has_lists), true)
        .set_global("match_ethertypes", &has_ethertypes, true)
        .set_global("match_protocols", &has_protocols, true)
        .set_global("protocols", &table.0, true)
        .set_global("host_is_kernel", &u8::from(host_is_kernel), true)
        .load(OBJECT)?;
    if let Some(map) = ebpf.map_mut("kernel_matches") {
        let mut map: HashMap<_, u32, u8> = HashMap::try_from(map)?;
        for key in matches.iter().filter_map(key) {
            map.insert(key, 1, 0)?;
        }
    }
    Ok(ebpf)
}

/// The key of the program's map of matches; none for a whole protocol.
fn key(entry: &KernelMatch) -> Option<u32> {
    match *entry {
        KernelMatch::EtherType(ethertype) => Some(ethertype.into()),
        KernelMatch::Protocol { protocol, port } => Some(1 << 24 | (protocol as u32) << 16 | port? as u32),
    }
}

/// By protocol: 0 if none of it is the kernel's, 1 if all of it is, 2 if the port decides.
struct Protocols([u8; 256]);

impl Protocols {
    fn of(matches: &[KernelMatch]) -> Self {
        let mut table = [0; 256];
        for entry in matches {
            if let KernelMatch::Protocol { protocol, port } = *entry {
                let kind = &mut table[protocol as usize];
                *kind = if port.is_none() || *kind == 1 { 1 } else { 2 };
            }
        }
        Self(table)
    }
}

/// What a map is made of, whatever its kind, of those that the program has.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::XskMap(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::Array(data)
        | Map::LpmTrie(data) => Some(data),
        _ => None,
    }
}

fn missing_map(device: &str, name: &str) -> OpenError {
    OpenError::Program { device: device.to_owned(), reason: format!("its object has no map `{name}`") }
}

/// Attaches the program for as long as somebody has the link that is returned.
fn link(
    program: &Xdp,
    spec: &PortSpec,
    facts: &DeviceFacts,
    mode: AttachedMode,
) -> Result<OwnedFd, OpenError> {
    let device = &spec.device;
    let flags = match mode {
        AttachedMode::Native => XdpFlags::DRV_MODE,
        AttachedMode::Generic => XdpFlags::SKB_MODE,
    };
    let program = program
        .fd()
        .map_err(|error| OpenError::Program { device: device.to_owned(), reason: in_words(&error) })?;
    let patience = Instant::now() + BUSY_PATIENCE;
    loop {
        let error = match attached::link(program.as_fd(), facts.ifindex, flags.bits()) {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        match errno(&error) {
            Some(libc::EBUSY | libc::EEXIST) if Instant::now() < patience => {
                match Attached::on(facts.ifindex) {
                    Some(other) if spec.replace => other
                        .detach()
                        .map_err(|error| OpenError::of(device, "taking the other XDP program off", error))?,
                    _ => thread::sleep(BUSY_PATIENCE / 40),
                }
            }
            Some(libc::EBUSY | libc::EEXIST) => {
                let other = Attached::on(facts.ifindex);
                return Err(OpenError::ProgramAttached {
                    device: device.to_owned(),
                    program: other
                        .as_ref()
                        .map_or("the kernel does not say which".to_owned(), Attached::to_string),
                    remedy: other.map_or("end its process".to_owned(), |other| other.remedy(device)),
                });
            }
            Some(libc::EPERM | libc::EACCES) => {
                return Err(OpenError::Privilege {
                    device: device.to_owned(),
                    what: "attaching the XDP program",
                });
            }
            other => {
                let driver = &facts.driver;
                let reason = match other {
                    Some(libc::EOPNOTSUPP) if mode == AttachedMode::Native => {
                        format!("the driver {driver} has no native XDP")
                    }
                    Some(libc::ERANGE) => {
                        format!("the MTU {} is too large for the driver {driver}", facts.mtu)
                    }
                    _ => format!("`bpf_link_create` failed: {error}"),
                };
                return Err(OpenError::Attach { device: device.to_owned(), mode: mode.name(), reason });
            }
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
}

/// An error with its causes.
fn in_words(error: &(dyn Error + 'static)) -> String {
    causes(error).map(|cause| cause.to_string()).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_protocol_outweighs_its_ports() {
        let port = |port| KernelMatch::Protocol { protocol: 6, port };
        assert_eq!(Protocols::of(&[port(Some(22))]).0[6], 2);
        assert_eq!(Protocols::of(&[port(None), port(Some(22))]).0[6], 1);
        assert_eq!(Protocols::of(&[port(Some(22)), port(None)]).0[6], 1);
        assert_eq!(Protocols::of(&[]).0, [0; 256]);
    }

    #[test]
    fn ethertypes_and_ports_have_keys_of_their_own() {
        assert_eq!(key(&KernelMatch::EtherType(0x88cc)), Some(0x88cc));
        assert_eq!(key(&KernelMatch::Protocol { protocol: 6, port: Some(22) }), Some(0x0106_0016));
        assert_eq!(key(&KernelMatch::Protocol { protocol: 89, port: None }), None);
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = aya::programs::ProgramError::SyscallError(aya::sys::SyscallError {
            call: "bpf_link_create",
            io_error: io::Error::from_raw_os_error(libc::EBUSY),
        });
        assert_eq!(errno(&error), Some(libc::EBUSY));
        assert!(in_words(&error).starts_with("`bpf_link_create` failed: "), "{}", in_words(&error));
    }
}
