//! A valid configuration: names resolved to indices, units to numbers, defaults filled in.

mod export;
mod guard;
mod limit;
mod nat;
mod shapers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

pub use self::export::*;
pub use self::guard::*;
pub use self::limit::*;
pub use self::nat::*;
pub use self::shapers::*;
pub use super::net::{AddressRange, PortRange, Prefix};
use super::places::Places;
pub use super::protocol::IcmpType;

/// Everything that a configuration file says. Interfaces and ACLs are named by their index here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// In the order of the file, which is the order of ports everywhere; at least one.
    pub interfaces: Vec<Interface>,
    /// Static routes; those to the same prefix lead to different next hops; none to an interface's subnet. Shared, as there
    /// may be a million.
    #[serde(serialize_with = "each")]
    pub routes: Arc<[Route]>,
    /// Whether and how the kernel's routes are followed.
    pub kernel_routes: Option<KernelRoutes>,
    /// Access control lists.
    pub acls: Vec<Acl>,
    /// What packets are refused for; interfaces name them.
    pub guards: Vec<Guard>,
    /// Lists of prefixes; guards name them.
    pub lists: Vec<List>,
    /// Source NAT rules; the first that matches counts.
    pub source_nat: Vec<SourceNat>,
    /// Static NAT; no two share an inside address on an interface, or an external one.
    pub static_nat: Vec<StaticNat>,
    /// What leaves untranslated, whatever static and source NAT say.
    pub nat_exemptions: Vec<NatExemption>,
    /// Port forwards; no two for the same address, protocol and port of an interface.
    pub forwards: Vec<Forward>,
    /// What inside hosts may ask of their mappings, by the rules that let them.
    pub port_control: PortControl,
    /// How long external ports rest.
    pub port_rest: PortRest,
    /// Where NAT is logged.
    pub nat_log: Option<NatLog>,
    /// Prefix translation for IPv6; no two outside prefixes share an address.
    pub prefixes: Vec<PrefixNat>,
    /// Rate limits; the first that matches counts.
    pub limits: Vec<Limit>,
    /// Shapers; one a device at the most.
    pub shapers: Vec<Shaper>,
    /// ICMP messages that the gateway may originate, in packets a second.
    pub icmp_errors_per_second: u32,
    /// The poll loops.
    pub workers: Workers,
    /// Sizes of tables, in entries.
    pub tables: Tables,
    /// Idle times.
    pub timeouts: Timeouts,
    /// The control socket.
    pub control_socket: PathBuf,
    /// Who may use it.
    pub control_access: Access,
    /// The directory in which commits are kept.
    pub state: PathBuf,
    /// What the log is like.
    pub log: Log,
    /// Where metrics can be had over TCP.
    pub metrics: Option<SocketAddr>,
    /// The file in which accounts outlive the process.
    pub accounting: Option<PathBuf>,
    /// Where it is told what passes.
    pub export: Export,
    /// Where all that stands in the file.
    pub places: Places,
}

fn each<S: Serializer>(routes: &Arc<[Route]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(routes.iter())
}

/// What the log is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Log {
    /// How it is written.
    pub format: LogFormat,
    /// What is said.
    pub level: LogLevel,
}

/// How a log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines in words; where the journal takes them, with levels and fields.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// What a log says: this, and what is more urgent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// The process cannot go on, or not as configured.
    Error,
    /// Something wants to be looked at.
    Warn,
    /// What becomes of the process, and of what it was asked for.
    #[default]
    Info,
    /// What goes on between the processes.
    Debug,
}

/// Who may use the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Its permissions.
    pub mode: u32,
    /// Its group, if not that of the process.
    pub group: Option<String>,
}

impl Default for Access {
    fn default() -> Self {
        Self { mode: 0o660, group: None }
    }
}

impl Config {
    /// Index of the interface called `name`.
    pub fn interface(&self, name: &str) -> Option<usize> {
        self.interfaces.iter().position(|interface| interface.name == name)
    }

    /// The device that carries an interface: its own, or that of its VLAN's parent.
    pub fn device(&self, interface: usize) -> Option<&str> {
        match &self.interfaces.get(interface)?.link {
            Link::Device(link) => Some(&link.device),
            Link::Vlan { parent, .. } => match &self.interfaces.get(*parent)?.link {
                Link::Device(link) => Some(&link.device),
                Link::Vlan { .. } => None,
            },
        }
    }
}

/// A routed interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interface {
    /// The name that the rest of the configuration uses.
    pub name: String,
    /// What carries it.
    pub link: Link,
    /// Its addresses with the length of their subnets; the first of a family is the primary one.
    pub addresses: Vec<Prefix>,
    /// Whether it also has those that the kernel has on that device, as they come and go.
    pub from_kernel: bool,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Index of the ACL for packets that come in here.
    pub acl: Option<usize>,
    /// Index of the guard for packets that come in here.
    pub guard: Option<usize>,
    /// What is done about the MSS that TCP connections by this interface announce.
    pub mss_clamp: MssClamp,
}

impl Interface {
    /// The primary IPv4 address.
    pub fn primary_ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|prefix| match prefix.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// The primary address of the family of `like`.
    pub fn primary(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().map(|prefix| prefix.address).find(|address| address.is_ipv4() == like.is_ipv4())
    }
}

/// What stands for the primary IPv4 address of an interface for as long as the kernel has not said which it is. It is of
/// 0.0.0.0/8, of which nothing can be configured.
pub fn stand_in(interface: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::try_from(interface + 1).map_or(0, |number| number & 0xff_ffff))
}

/// Whether an address is one that only stands for another.
pub fn is_stand_in(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
}

/// What is done about the largest segment that TCP connections announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MssClamp {
    /// It stays.
    #[default]
    Off,
    /// It is lowered to what the MTU leaves behind the headers of IP and TCP.
    Mtu,
    /// It is lowered to so many bytes.
    To(u16),
}

/// What carries an interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// A netdev.
    Device(Device),
    /// A VLAN of another interface, which is a device.
    Vlan {
        /// Index of that interface.
        parent: usize,
        /// The inner, or only, 802.1Q VLAN id, 1 to 4094.
        id: u16,
        /// The outer 802.1ad VLAN id, 1 to 4094, with QinQ.
        outer: Option<u16>,
    },
}

/// A netdev and how it is driven.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Device {
    /// Name of the netdev.
    pub device: String,
    /// MAC address in place of the device's own.
    pub mac: Option<[u8; 6]>,
    /// What L4 checksums of received frames are worth.
    pub checksum: Checksum,
    /// How it is driven.
    pub xdp: XdpMode,
    /// Whether another XDP program is taken off it.
    pub xdp_replace: bool,
    /// Frames that each queue's fill and receive ring hold, a power of two from 64 to 32,768; by `tables.frames` if none.
    pub rx_ring: Option<u32>,
    /// Frames that the transmit and completion ring hold; likewise.
    pub tx_ring: Option<u32>,
    /// Queues of each direction that the device is to have; none to leave them.
    pub channels: Option<u32>,
    /// What the XDP program leaves to the kernel; at most 32 entries.
    pub kernel: Vec<KernelFilter>,
    /// Who answers for the box's own addresses there.
    pub host: Host,
    /// Whether it may be taken although the default route or the operator's own connection is on it.
    pub takeover: bool,
}

/// What L4 checksums of received frames are worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// As the driver has it: `Complete` on virtual links, `Trust` elsewhere.
    #[default]
    Auto,
    /// They may be partial, a sum over the pseudo header alone, and are computed before the frame leaves.
    Complete,
    /// They are complete, and updated incrementally.
    Trust,
}

/// How a device is driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// The first of the others that can be had.
    #[default]
    Auto,
    /// The driver moves frames to and from our memory, or not at all.
    ZeroCopy,
    /// The XDP program runs in the driver, or not at all, and the kernel copies frames.
    Native,
    /// The XDP program runs in the kernel's generic hook.
    Generic,
}

/// Who answers for the box's own addresses on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// Sluice: ARP, ND, ping.
    #[default]
    Sluice,
    /// The kernel's stack, with its services; the interfaces' addresses are its own, too.
    Kernel,
}

/// Packets that go to the kernel's own stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFilter {
    /// Frames of this EtherType.
    EtherType(u16),
    /// Spanning tree, and with it all 802.3 frames with LLC.
    Stp,
    /// IP packets of this protocol number.
    Protocol(u8),
    /// TCP segments to this port.
    Tcp(u16),
    /// UDP datagrams to this port.
    Udp(u16),
}

/// The kernel's routes that are followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelRoutes {
    /// Numbers of the tables; of an earlier one wins.
    pub tables: Vec<u32>,
    /// Who made them, by number; empty is anybody.
    pub protocols: Vec<u8>,
    /// For how many of IPv4 and IPv6 there is memory.
    pub most: [u32; 2],
}

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Destinations; no host bits.
    pub to: Prefix,
    /// What happens to their packets.
    pub target: Target,
    /// The share of flows that it has of several routes to these destinations.
    pub weight: u16,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// To a router.
    Via {
        /// Its address, of the route's family.
        address: IpAddr,
        /// Index of the interface that it is on.
        interface: usize,
    },
    /// The destinations are themselves on the link of this interface.
    Connected(usize),
    /// Dropped in silence.
    Blackhole,
    /// Dropped, and the sender is told by ICMP.
    Unreachable,
}

/// An access control list: the first rule that matches decides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Acl {
    /// Its name.
    pub name: String,
    /// For packets that match no rule.
    pub default: Action,
    /// In the order of evaluation.
    pub rules: Vec<Rule>,
}

/// A rule of an ACL.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// Its name, for counters.
    pub name: Option<String>,
    /// The line of the file that it stands in.
    pub line: u32,
    /// Which packets.
    pub matches: Match,
    /// Only packets of a live session.
    pub established: bool,
    /// What happens to them.
    pub action: Action,
}

/// A verdict of an ACL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Goes on.
    Accept,
    /// Dropped in silence.
    #[default]
    Drop,
    /// Dropped, and the sender is told (ICMP "administratively prohibited").
    Reject,
}

/// Which packets a rule or a limit is about: those that fit every field. An empty field fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Match {
    /// IANA protocol numbers.
    pub protocols: Vec<u8>,
    /// Sources.
    pub from: Vec<Prefix>,
    /// Destinations.
    pub to: Vec<Prefix>,
    /// Source ports; TCP and UDP only.
    pub from_ports: Vec<PortRange>,
    /// Destination ports; TCP and UDP only.
    pub to_ports: Vec<PortRange>,
    /// ICMP types; ICMP and ICMPv6 only.
    pub icmp_types: Vec<IcmpType>,
}

/// The poll loops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workers {
    /// How many; at least one.
    pub count: usize,
    /// The core of each; empty: chosen by where the devices are.
    pub cores: Vec<usize>,
    /// How they wait.
    pub poll: Poll,
    /// Frames that a worker takes from a port at a time, 1 to 64.
    pub batch: u32,
    /// For how long a system call may poll a device, in microseconds; 0: not at all.
    pub busy_poll: u32,
    /// How many packets such a call may take.
    pub busy_poll_budget: u32,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            count: 1,
            cores: Vec::new(),
            poll: Poll::default(),
            batch: 64,
            busy_poll: 0,
            busy_poll_budget: 64,
        }
    }
}

/// How a worker waits for packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Poll {
    /// Never sleeps.
    Busy,
    /// Sleeps in `poll(2)` while nothing comes.
    #[default]
    Adaptive,
}

/// Sizes of tables, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// Sessions, 16 to 16 Mi.
    pub sessions: u32,
    /// Whether one gives way to a new one when there are so many.
    pub evict: bool,
    /// Neighbours (ARP, ND), 16 to 65,534.
    pub neighbors: u32,
    /// Datagrams whose fragments are followed, 16 to 1 Mi.
    pub fragments: u32,
    /// Packet buffers, up to 4 Mi.
    pub frames: u32,
}

/// How long a session may be idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// UDP (RFC 4787 REQ-5).
    pub udp: Duration,
    /// ICMP echo (RFC 5508 REQ-2).
    pub icmp: Duration,
    /// TCP once both sides have spoken (RFC 5382 REQ-5).
    pub tcp_established: Duration,
    /// TCP that opens or closes (RFC 5382 REQ-5).
    pub tcp_transitory: Duration,
    /// All other protocols.
    pub other: Duration,
    /// How long later fragments may follow their first.
    pub fragment: Duration,
}
