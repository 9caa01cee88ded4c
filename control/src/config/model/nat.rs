//! NAT.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use sluice_dataplane::nat::Deterministic;

use super::{AddressRange, Match, PortRange, Prefix};

/// A source NAT rule, or one of NAT64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceNat {
    /// Index of the egress interface.
    pub out: usize,
    /// With NAT64 the prefix that IPv4 addresses stand in: IPv6 packets to it leave as IPv4.
    pub prefix: Option<Prefix>,
    /// Inside sources, of IPv4, with NAT64 of IPv6; empty for any.
    pub from: Vec<Prefix>,
    /// External addresses, in order and without overlap. Two rules have the same pool, or pools that share nothing.
    pub pool: Vec<AddressRange>,
    /// External ports and ICMP echo identifiers.
    pub ports: PortRange,
    /// What shares a mapping.
    pub mapping: Mapping,
    /// Who may send to one.
    pub filtering: Filtering,
    /// Which external port it gets.
    pub port_choice: PortChoice,
    /// How they are given out.
    pub allocation: Allocation,
    /// Ports that an inside address may have at a time, all protocols together.
    pub max_ports: Option<u32>,
    /// Sessions that an inside address may have at a time.
    pub max_sessions: Option<u32>,
    /// Whether inside hosts may ask for mappings (PCP, NAT-PMP).
    pub port_control: bool,
    /// New sessions a second of an inside address.
    pub max_new: Option<u32>,
}

impl SourceNat {
    /// External addresses.
    pub fn addresses(&self) -> u64 {
        self.pool.iter().map(|range| range.count()).sum()
    }

    /// Whether ports are given out in blocks, or to subscribers.
    pub fn is_cut(&self) -> bool {
        self.allocation != Allocation::Ports
    }

    /// Which external address and ports each inside address has, if that is fixed.
    pub fn plan(&self) -> Option<Deterministic> {
        let Allocation::Deterministic { size } = self.allocation else { return None };
        let mask = |prefix: &Prefix| match prefix.address {
            IpAddr::V4(address) => {
                Some((address.to_bits(), u32::MAX.checked_shl(32 - u32::from(prefix.length)).unwrap_or(0)))
            }
            IpAddr::V6(_) => None,
        };
        let subscribers: Vec<(u32, u32)> = self.from.iter().filter_map(mask).collect();
        let addresses = u32::try_from(self.addresses()).ok()?;
        Deterministic::new(&subscribers, addresses, (self.ports.first, self.ports.last), size.unwrap_or(0))
    }
}

/// How the ports of a pool are given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// One by one.
    #[default]
    Ports,
    /// In blocks, each of which is one inside address's alone.
    Blocks {
        /// Ports of a block.
        size: u32,
        /// Blocks that an inside address may have at a time.
        most: u32,
        /// How long a block stays with its inside address once no port of it is in use.
        hold: Duration,
    },
    /// Each inside address has its own, by arithmetic.
    Deterministic {
        /// Ports of each; none: as many as there are.
        size: Option<u32>,
    },
}

/// How long an external UDP port that everybody may send to rests (RFC 6888 REQ-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PortRest {
    /// How long it is nobody else's after its mapping ended.
    pub time: Duration,
    /// Ports that rest at a time, at a worker.
    pub most: u32,
}

impl Default for PortRest {
    fn default() -> Self {
        Self { time: Duration::from_secs(120), most: 65_536 }
    }
}

/// Bounds of what inside hosts may ask of their mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PortControl {
    /// The shortest lifetime of a mapping.
    pub min_lifetime: Duration,
    /// The longest.
    pub max_lifetime: Duration,
    /// Mappings that an inside address may have at a time.
    pub max_mappings: u32,
}

impl Default for PortControl {
    fn default() -> Self {
        Self {
            min_lifetime: Duration::from_secs(120),
            max_lifetime: Duration::from_secs(7200),
            max_mappings: 32,
        }
    }
}

/// Where it is logged which inside address has had which external ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NatLog {
    /// What is logged.
    pub records: NatRecords,
    /// A file that lines are appended to.
    pub file: Option<PathBuf>,
    /// A syslog server, or the local one.
    pub syslog: Option<Syslog>,
    /// An IPFIX collector, over UDP.
    pub ipfix: Option<SocketAddr>,
    /// IPFIX observation domain.
    pub domain: u32,
}

/// What of NAT is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NatRecords {
    /// Blocks, and bindings of pools that have none.
    #[default]
    Blocks,
    /// Bindings, and blocks where there are any.
    Bindings,
}

/// Where syslog messages go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Syslog {
    /// To a server, over UDP (RFC 5426).
    Udp(SocketAddr),
    /// To a local socket, such as `/dev/log`.
    Unix(PathBuf),
}

/// Which sessions of an inside address and port have the same external ones (RFC 4787 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// All.
    #[default]
    EndpointIndependent,
    /// Those to one remote address and port.
    AddressAndPortDependent,
}

/// From where an external address and port can be reached (RFC 4787 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// From everywhere.
    EndpointIndependent,
    /// From addresses that the inside address and port has a session with.
    #[default]
    AddressDependent,
    /// From addresses and ports that it has a session with.
    AddressAndPortDependent,
}

/// How an external port is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortChoice {
    /// The inside port where it is free.
    #[default]
    Preserve,
    /// At random (RFC 6056).
    Random,
}

/// Static NAT: inside addresses with an external address each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StaticNat {
    /// Index of the interface by which the inside addresses reach the world.
    pub out: usize,
    /// Inside addresses, IPv4; no host bits.
    pub inside: Prefix,
    /// Their external addresses: as many.
    pub outside: Prefix,
}

/// Packets that leave by an interface untranslated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NatExemption {
    /// Index of the egress interface.
    pub out: usize,
    /// Which packets, IPv4.
    pub matches: Match,
}

/// Prefix translation for IPv6 (RFC 6296).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PrefixNat {
    /// Index of the interface behind which the outside prefix is ours.
    pub out: usize,
    /// The prefix of hosts inside.
    pub inside: Prefix,
    /// The one that stands for it outside, of the same length; 64 bits at the most.
    pub outside: Prefix,
}

/// A port forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forward {
    /// Index of the ingress interface.
    pub interface: usize,
    /// [`super::TCP`], [`super::UDP`] or both.
    pub protocols: Vec<u8>,
    /// External address.
    pub address: Ipv4Addr,
    /// External ports.
    pub ports: PortRange,
    /// Inside address.
    pub to: Ipv4Addr,
    /// Inside port of the first external port; the others follow in order.
    pub to_port: u16,
}
