//! The configuration as workers read it: compiled, complete and immutable. Names are indices here; the order of
//! `ports`, `interfaces`, `rules` and `limits` is the order of their counters.

mod egress;
pub mod guard;
pub mod lists;
mod places;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sluice_pkt::ethernet::Mac;
use sluice_pkt::nat64::Embedding;
use sluice_pkt::nptv6::PrefixPair;

use crate::clock::Nanos;
use crate::fib::{Fib, Way};
use crate::nat::{Deterministic, NatLog, StaticTable};
use crate::table::classifier::{Classifier, Rule};
use crate::table::key::AddressHasher;
use crate::table::lpm::Lpm;
use crate::table::meter::Rate;
use crate::table::tcm::model::{Figures, Model};

pub use self::egress::{Class, ClassMatch, ClassRate, Codel, HostKey, Over, Overhead, Period, Quota, Shaper};
pub use self::guard::{Guard, ReversePath};
pub use self::lists::Lists;
pub use self::places::Places;

/// "None" where an index is stored in 16 bits.
pub const NONE16: u16 = u16::MAX;

/// What a configuration says of addresses, asked for each first packet.
pub type AddressMap<A, V> = HashMap<A, V, BuildHasherDefault<AddressHasher>>;

/// An attached interface: what a `Port` of the data plane is opened for.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Its name in the configuration.
    pub name: String,
    /// Received TCP and UDP packets may carry a partial checksum (the bare pseudo-header sum), as a local sender's do
    /// over a virtual link: complete them.
    pub complete_checksums: bool,
    /// Take frames for any unicast MAC address (a replay of a capture from elsewhere).
    pub any_mac: bool,
    /// Do not ask for neighbours: make their MAC addresses up from their IP addresses (replay).
    pub invent_neighbors: bool,
    /// The kernel answers for the box's own addresses there, and alone speaks ARP and ND.
    pub host_is_kernel: bool,
}

/// VLAN tags, outermost first, as they stand on the wire behind the MAC addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// How many: 0 to 2.
    pub count: u8,
    /// VLAN ids, outermost first; unused ones are 0.
    pub ids: [u16; 2],
}

/// A routed interface: a port, or a VLAN of one.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name in the configuration.
    pub name: String,
    /// The port that its frames use.
    pub port: u16,
    /// The VLAN tags that its frames carry.
    pub tags: Tags,
    /// Our MAC address on it.
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// The largest TCP segment, bytes of data, that connections by this interface may announce, by IP version (4, 6); 0
    /// leaves what they announce.
    pub mss: [u16; 2],
    /// Our IPv4 addresses with their prefix lengths; the first is the source of what we originate.
    pub v4: Vec<(Ipv4Addr, u8)>,
    /// Our IPv6 addresses with their prefix lengths, the link-local one included; the first global one is the source of
    /// what we originate.
    pub v6: Vec<(Ipv6Addr, u8)>,
    /// Index into [`Snapshot::acls`] of the rules for packets that come in here.
    pub acl: Option<u16>,
    /// Index into [`Snapshot::guards`] of what packets that come in here are refused for.
    pub guard: Option<u16>,
}

/// What a local address is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalUse {
    /// An interface's own address: answers ARP or ND, ping, and refuses what nobody listens for.
    Interface,
    /// An address of a NAT pool or forward that is not an interface's: answers ARP and ping, has no services.
    Nat,
}

/// What becomes of packets to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// On the link of this interface.
    Connected {
        /// Egress interface.
        interface: u16,
    },
    /// Through a gateway on the link of this interface.
    Via4 {
        /// Egress interface.
        interface: u16,
        /// The gateway's address.
        gateway: Ipv4Addr,
    },
    /// Through a gateway on the link of this interface.
    Via6 {
        /// Egress interface.
        interface: u16,
        /// The gateway's address.
        gateway: Ipv6Addr,
    },
    /// Dropped silently.
    Blackhole,
    /// Dropped, and the sender is told.
    Unreachable,
    /// Dropped, and the sender is told that somebody wants it so.
    Prohibited,
    /// One of several others, which lie side by side; a flow goes by the same one for as long as that is among them.
    Several {
        /// The first of them.
        first: u32,
        /// How many.
        count: u16,
    },
}

/// What an ACL rule does with a packet that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclAction {
    /// Lets it pass.
    Accept,
    /// Drops it silently.
    Drop,
    /// Drops it and tells the sender (ICMP administratively prohibited).
    Reject,
}

/// A rule as counters and listings name it; classifiers yield its index.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// The ACL that it belongs to.
    pub acl: String,
    /// Its name, or its place ("rule 3", "default").
    pub name: String,
    /// The rule in words, for listings.
    pub text: String,
    /// What it does.
    pub action: AclAction,
}

/// An ordered list of rules; the first that matches decides. Results are indices into [`Snapshot::rules`].
#[derive(Clone, Debug)]
pub struct Acl {
    /// Its name in the configuration.
    pub name: String,
    /// Rules for IPv4.
    pub v4: Classifier<u32>,
    /// Rules for IPv6.
    pub v6: Classifier<u128>,
    /// The rule (index) for what no other matches.
    pub default: u16,
}

/// External addresses and ports for source NAT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// The addresses; ascending where each inside address has its own ports.
    pub addresses: Vec<Ipv4Addr>,
    /// First and last external port (and ICMP identifier).
    pub ports: (u16, u16),
    /// How it treats mappings.
    pub behavior: NatBehavior,
    /// How the ports are given out. An address of which blocks are given out, or subscribers' ports, is in no other pool.
    pub allocation: Allocation,
    /// Ports (and identifiers) that an inside address may have at a time, all protocols together; 0: any number.
    pub max_ports: u32,
    /// Sessions that an inside address may have at a time; 0: any number.
    pub max_sessions: u32,
    /// New sessions a second that an inside address may open, and likewise those that others may open to it; 0: any number.
    pub max_new: u32,
}

impl Pool {
    /// The place of an address in a pool whose addresses are ascending.
    pub fn position(&self, address: Ipv4Addr) -> Option<usize> {
        self.addresses.binary_search(&address).ok()
    }

    /// Whether it has this address and port.
    pub fn contains(&self, address: Ipv4Addr, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port) && self.addresses.contains(&address)
    }

    /// Whether it bounds what an inside address may have.
    pub fn has_limits(&self) -> bool {
        self.max_ports > 0 || self.max_sessions > 0 || self.max_new > 0
    }

    /// Whether it is for subscribers: whether each inside address has its own share of it.
    pub fn has_subscribers(&self) -> bool {
        self.allocation != Allocation::Ports || self.has_limits()
    }
}

/// How the ports of a pool are given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// One by one, to whoever comes.
    #[default]
    Ports,
    /// In blocks, each of which is one inside address's alone.
    Blocks(PortBlocks),
    /// Each inside address has its own from the start.
    Deterministic(Deterministic),
}

/// How ports are given out in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBlocks {
    /// Ports of a block; at least one.
    pub size: u32,
    /// Blocks that an inside address may have at a time.
    pub most: u32,
    /// How long a block stays with its subscriber once no port of it is in use (RFC 6888 REQ-8: 120 s).
    pub hold: Nanos,
}

impl PortBlocks {
    /// Whole blocks in a range of ports.
    pub fn per_address(&self, ports: (u16, u16)) -> u32 {
        (u32::from(ports.1.saturating_sub(ports.0)) + 1) / self.size.max(1)
    }

    /// The number of the block of its address that a port lies in. Of ports behind the last whole block it is none's.
    pub fn number(&self, ports: (u16, u16), port: u16) -> u32 {
        u32::from(port.saturating_sub(ports.0)) / self.size.max(1)
    }
}

/// How long an external UDP port that everybody may send to rests before it is given out again (RFC 6888 REQ-8). By default
/// not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRest {
    /// How long; 0 for not at all.
    pub time: Nanos,
    /// Ports that rest at a time at a worker, at most. One too many ends the rest of the oldest.
    pub most: u32,
}

/// How source NAT behaves, in the terms of RFC 4787.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NatBehavior {
    /// What shares a mapping.
    pub mapping: NatMapping,
    /// Who may send to one.
    pub filtering: NatFiltering,
    /// Which external port it has.
    pub port_choice: PortChoice,
    /// Inside are hosts of IPv6 (NAT64, RFC 6146).
    pub is_nat64: bool,
}

/// Which sessions of one inside address and port have the same external ones (RFC 4787 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NatMapping {
    /// All (RFC 4787 REQ-1).
    #[default]
    EndpointIndependent,
    /// Those to one remote address and port.
    AddressAndPortDependent,
}

/// From where packets to an external address and port reach the inside one (RFC 4787 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NatFiltering {
    /// From everywhere.
    EndpointIndependent,
    /// From remote addresses that the inside address and port has a session with (RFC 4787 REQ-8).
    #[default]
    AddressDependent,
    /// From remote addresses and ports that it has a session with.
    AddressAndPortDependent,
}

/// Which external port a new mapping gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PortChoice {
    /// The inside one where it is free, otherwise a random one (RFC 4787 4.2.1).
    #[default]
    Preserve,
    /// A random one (RFC 6056).
    Random,
}

/// Source NAT for packets that leave by an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNat {
    /// Egress interface.
    pub out: u16,
    /// Inside prefixes as (address, mask); empty is any.
    pub from: Vec<(u32, u32)>,
    /// Index into [`Snapshot::pools`].
    pub pool: u16,
}

/// Packets that leave by an interface as they are, whatever source NAT or static NAT there is (RFC 6888 REQ-6).
#[derive(Clone, Debug)]
pub struct Exemption {
    /// Egress interface.
    pub out: u16,
    /// Source prefixes as (address, mask); empty is any.
    pub from: Vec<(u32, u32)>,
    /// Destination prefixes, likewise.
    pub to: Vec<(u32, u32)>,
    /// IP protocols; empty is any.
    pub protocols: Vec<u8>,
    /// First and last destination port of each range, for TCP and UDP; empty is any.
    pub to_ports: Vec<(u16, u16)>,
}

impl Exemption {
    /// Whether it is for packets between these ends that leave by this interface.
    pub fn covers(&self, [src, dst]: [(u32, u16); 2], protocol: u8, egress: u16) -> bool {
        let lies_in = |prefixes: &[(u32, u32)], address: u32| {
            prefixes.is_empty() || prefixes.iter().any(|&(a, mask)| address & mask == a & mask)
        };
        self.out == egress
            && lies_in(&self.from, src.0)
            && lies_in(&self.to, dst.0)
            && (self.protocols.is_empty() || self.protocols.contains(&protocol))
            && (self.to_ports.is_empty()
                || self.to_ports.iter().any(|&(first, last)| (first..=last).contains(&dst.1)))
    }
}

/// A port forward (destination NAT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Ingress interface.
    pub interface: u16,
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// The public address.
    pub address: Ipv4Addr,
    /// First and last public port.
    pub ports: (u16, u16),
    /// The inside address.
    pub to: Ipv4Addr,
    /// The inside port of the first public one; the others follow.
    pub to_port: u16,
}

/// Mappings of source NAT that inside hosts ask for themselves (PCP, RFC 6887; NAT-PMP, RFC 6886).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortControl {
    /// The rules whose hosts may: indices into [`Snapshot::source_nat`], ascending. None: nobody may.
    pub rules: Vec<u16>,
    /// The shortest lifetime of a mapping, seconds; at least one.
    pub min_lifetime: u32,
    /// The longest, seconds.
    pub max_lifetime: u32,
    /// Mappings that an inside address may have at a time.
    pub max_mappings: u32,
}

/// NAT64 for IPv6 packets to addresses of a prefix that leave by an interface, as IPv4.
#[derive(Clone, Debug)]
pub struct Nat64 {
    /// Egress interface.
    pub out: u16,
    /// The prefix.
    pub embedding: Embedding,
    /// Inside prefixes as (address, mask); empty is any.
    pub from: Vec<(u128, u128)>,
    /// Index into [`Snapshot::pools`]; no rule with another prefix has the same.
    pub pool: u16,
}

impl Nat64 {
    /// Whether the rule is for packets from this address.
    pub fn is_from(&self, src: u128) -> bool {
        self.from.is_empty() || self.from.iter().any(|&(a, mask)| src & mask == a & mask)
    }
}

/// Prefix translation for IPv6 (NPTv6, RFC 6296).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixNat {
    /// The interface behind which the outside prefix is ours.
    pub out: u16,
    /// Both prefixes.
    pub pair: PrefixPair,
}

/// A policer and the packets that it counts.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Its name in the configuration.
    pub name: String,
    /// The interface by which its packets come in, or go out.
    pub interface: u16,
    /// Whether `interface` is the egress.
    pub egress: bool,
    /// IPv4 packets that it applies to.
    pub v4: Vec<Rule<u32>>,
    /// IPv6 packets that it applies to.
    pub v6: Vec<Rule<u128>>,
    /// Classes of the egress port that it applies to, by index into [`Snapshot::classes`]; empty for all.
    pub classes: Vec<u16>,
    /// Sustained rate; CIR.
    pub rate: Rate,
    /// Depth of the bucket, bytes; CBS.
    pub burst: u64,
    /// What there is to it if it is more than one token bucket in bytes whose excess is dropped.
    pub policer: Option<Policer>,
}

/// A limit with colours, in packets, or with a meter for each source, destination or flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policer {
    /// Which RFC it goes by.
    pub model: Model,
    /// PIR or EIR, for models that have one.
    pub second_rate: Rate,
    /// EBS or PBS.
    pub second_burst: u64,
    /// Whether rates and bursts are of packets. A packet a second is then written as eight bits a second.
    pub packets: bool,
    /// Whether the colour with which packets come counts: green but for AFx2, yellow, and AFx3, red (RFC 2597).
    pub aware: bool,
    /// What is done to green, yellow and red packets.
    pub actions: [ColorAction; 3],
    /// What there is a meter for each of, if not for all packets together.
    pub per: Option<Per>,
    /// How many meters there are at the most, in each worker.
    pub most: u32,
}

/// What is done to packets of a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorAction {
    /// They pass.
    #[default]
    Pass,
    /// They pass, marked.
    Mark(Mark),
    /// They are dropped.
    Drop,
}

/// What a packet is marked with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Differentiated services code point, 0 to 63.
    pub dscp: Option<u8>,
    /// Priority code point of the outermost VLAN tag, 0 to 7, where the packet leaves with one.
    pub pcp: Option<u8>,
}

/// What packets have a meter in common by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// The source address as it comes, up to these prefix lengths of IPv4 and IPv6.
    Source([u8; 2]),
    /// The destination address as it leaves.
    Destination([u8; 2]),
    /// Addresses, protocol, ports and ingress interface as they come: a direction of a session.
    Flow,
}

impl Limit {
    /// Rates and bursts.
    pub fn figures(&self) -> Figures {
        let policer = self.policer.unwrap_or_default();
        Figures {
            model: policer.model,
            rates: [self.rate, policer.second_rate],
            bursts: [self.burst, policer.second_burst],
        }
    }
}

/// How long what is idle is kept.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// UDP sessions (RFC 4787 REQ-5: two minutes at least).
    pub udp: Nanos,
    /// ICMP echo sessions (RFC 5508 REQ-2: 60 s at least).
    pub icmp: Nanos,
    /// TCP connections that are open both ways (RFC 5382 REQ-5: 2 h 4 min at least).
    pub tcp_established: Nanos,
    /// TCP connections that are opening or closing (RFC 5382 REQ-5: 4 min at least).
    pub tcp_transitory: Nanos,
    /// Sessions of any other protocol.
    pub other: Nanos,
    /// What a datagram's first fragment said, for the later ones.
    pub fragment: Nanos,
}

impl Default for Timeouts {
    fn default() -> Self {
        const S: Nanos = crate::clock::SECOND;
        Self {
            udp: 300 * S,
            icmp: 60 * S,
            tcp_established: 7440 * S,
            tcp_transitory: 240 * S,
            other: 600 * S,
            fragment: 15 * S,
        }
    }
}

/// How much a worker may hold.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Sessions of both families together.
    pub sessions: u32,
    /// Neighbours, 65,534 at the most.
    pub neighbors: u32,
    /// Datagrams in fragments.
    pub fragments: u32,
    /// Packet buffers.
    pub frames: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { sessions: 65_536, neighbors: 1024, fragments: 1024, frames: 8192 }
    }
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Which configuration this is; a higher one replaces a lower.
    pub generation: u32,
    /// Ports.
    pub ports: Vec<PortConfig>,
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Our IPv4 addresses: the interface on whose link each lies, and its use.
    pub local4: AddressMap<Ipv4Addr, (u16, LocalUse)>,
    /// Our IPv6 addresses. Link-local ones are found at their interface.
    pub local6: AddressMap<Ipv6Addr, (u16, LocalUse)>,
    /// IPv4 prefixes to indices into `routes`. Connected prefixes are in it.
    pub routes4: Lpm<4>,
    /// IPv6 prefixes to indices into `routes`. Connected prefixes are in it.
    pub routes6: Lpm<16>,
    /// What the route tables point to.
    pub routes: Vec<Route>,
    /// The weights of those that are [one of several](Route::Several), by index; where there is none it is 1.
    pub weights: Vec<u16>,
    /// The routes in service, where they are followed: then those above are in it, and nobody looks at them.
    pub fib: Option<Arc<Fib>>,
    /// The route table for people: address and length of a prefix, and index into `routes`.
    pub route_list: Vec<(IpAddr, u8, u32)>,
    /// ACLs.
    pub acls: Vec<Acl>,
    /// The rules of all ACLs.
    pub rules: Vec<RuleInfo>,
    /// Where all of it stands in the configuration's file.
    pub places: Places,
    /// What packets are refused for, by interface.
    pub guards: Vec<Guard>,
    /// Lists of prefixes that guards go by.
    pub lists: Lists,
    /// Pools for source NAT.
    pub pools: Vec<Pool>,
    /// Source NAT, first match wins.
    pub source_nat: Vec<SourceNat>,
    /// What goes out untranslated, ahead of `statics` and `source_nat`.
    pub exemptions: Vec<Exemption>,
    /// Static NAT, ahead of `source_nat`.
    pub statics: StaticTable,
    /// Port forwards, first match wins.
    pub forwards: Vec<Forward>,
    /// Mappings that inside hosts ask for.
    pub port_control: PortControl,
    /// How long external ports rest.
    pub port_rest: PortRest,
    /// What of NAT is recorded for logs.
    pub nat_log: NatLog,
    /// Prefix translation, first match wins; no two have outside prefixes that overlap.
    pub prefixes: Vec<PrefixNat>,
    /// NAT64, first match wins.
    pub nat64: Vec<Nat64>,
    /// Policers; 254 at the most.
    pub limits: Vec<Limit>,
    /// What shapes and marks packets that leave; one a port at the most.
    pub shapers: Vec<Shaper>,
    /// The classes of all shapers, parents ahead of their children.
    pub classes: Vec<Class>,
    /// ICMP that we originate, packets per second and family-independent (RFC 1812 4.3.2.8, RFC 4443 2.4(f)).
    pub icmp_per_second: u32,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Table sizes.
    pub sizes: Sizes,
    /// Whether sessions without an answer give way to new ones when as many are live as may be.
    pub evicts: bool,
    /// Seed of the hash functions and of random choices; fixed in a replay.
    pub seed: u64,
    /// Whether no packet takes the fast path, as tests want it. What becomes of each is the same either way.
    pub stages_only: bool,
}

impl Snapshot {
    /// The port of frames that come in by this one. Numbers beyond the ports' are the way back in of what is sent to an
    /// external address of our own (hairpinning), one for each port.
    #[inline]
    pub fn physical(&self, port: u16) -> u16 {
        if self.is_inner(port) { port - self.ports.len() as u16 } else { port }
    }

    /// Whether frames that come in by this port are ours, from behind NAT to an external address.
    #[inline]
    pub fn is_inner(&self, port: u16) -> bool {
        usize::from(port) >= self.ports.len()
    }

    /// The way back in of what leaves by this port.
    #[inline]
    pub fn inner(&self, port: u16) -> u16 {
        port + self.ports.len() as u16
    }

    /// The index of the route to an address.
    #[inline]
    pub fn look_up4(&self, address: &[u8; 4]) -> Option<u32> {
        match &self.fib {
            Some(fib) => fib.look_up4(address),
            None => self.routes4.lookup(address),
        }
    }

    /// As [`look_up4`](Self::look_up4).
    #[inline]
    pub fn look_up6(&self, address: &[u8; 16]) -> Option<u32> {
        match &self.fib {
            Some(fib) => fib.look_up6(address),
            None => self.routes6.lookup(address),
        }
    }

    /// What becomes of packets by the route with this index, and its weight among several.
    #[inline]
    pub fn way(&self, index: u32) -> Option<Way> {
        if let Some(fib) = &self.fib {
            return fib.way(index);
        }
        let weight = self.weights.get(index as usize).copied().unwrap_or(1);
        self.routes.get(index as usize).map(|&route| Way { route, weight })
    }

    /// Whether some route leads there.
    pub fn leads_to(&self, is_it: impl Fn(&Route) -> bool) -> bool {
        match &self.fib {
            Some(fib) => fib.ways().any(|way| is_it(&way.route)),
            None => self.routes.iter().any(is_it),
        }
    }

    /// The interface of a port for a frame with these tags. A priority tag (VLAN id 0) counts as none.
    #[inline]
    pub fn interface_of(&self, port: u16, tags: Tags) -> Option<u16> {
        let wanted = |i: &Interface| i.port == port && i.tags == tags;
        self.interfaces.iter().position(wanted).map(|i| i as u16)
    }
}
