//! From a valid [`Config`] to the data plane's [`Snapshot`]: lists multiplied out, names gone, subnets in the route table.

mod guards;
mod limits;
mod shapers;

pub use self::guards::lists_with;

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use sluice_dataplane::fib::Way;
use sluice_dataplane::nat::{NatLog, StaticNat, StaticTable};
use sluice_dataplane::snapshot::{
    self, AclAction, LocalUse, NatFiltering, NatMapping, PortConfig, RuleInfo, Snapshot, Tags,
};
use sluice_dataplane::table::classifier::{self, Classifier, Rule};
use sluice_dataplane::table::lpm::Lpm;
use sluice_pkt::ethernet::Mac;
use sluice_pkt::nat64::Embedding;
use sluice_pkt::nptv6::PrefixPair;

use super::model::{
    Action, Allocation, Checksum, Config, Filtering, Host, Interface, Link, Mapping, Match, MssClamp,
    NatRecords, PortChoice, PortRange, Prefix, PrefixNat, SourceNat, Target, is_stand_in,
};
use super::net::first_alike;
use super::protocol::{ICMP, ICMPV6, TCP, UDP, protocol_name};

/// What only the device itself can tell of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The MAC address, where the configuration gives none.
    pub mac: Mac,
    /// A virtual link (veth, tap, virtio): its local senders leave L4 checksums partial.
    pub virtual_link: bool,
}

impl DeviceFacts {
    /// For a port without a device: a locally administered MAC address made of the port's number.
    pub fn none(port: usize) -> Self {
        let [.., high, low] = (port + 1).to_be_bytes();
        Self { mac: Mac([2, 0, 0, 0, high, low]), virtual_link: false }
    }
}

/// Compiles a configuration. `devices` are in the order of the ports, which is that of the interfaces with a device;
/// missing ones count as [`DeviceFacts::none`]. `generation`, `seed`, and the `any_mac` and `invent_neighbors` of ports
/// are left at 0 and false, for the caller to set.
pub fn compile(config: &Config, devices: &[DeviceFacts]) -> Snapshot {
    let mut snapshot = Snapshot {
        icmp_per_second: config.icmp_errors_per_second,
        timeouts: timeouts(config),
        sizes: snapshot::Sizes {
            sessions: config.tables.sessions,
            neighbors: config.tables.neighbors,
            fragments: config.tables.fragments,
            frames: config.tables.frames,
        },
        evicts: config.tables.evict,
        ..Snapshot::default()
    };
    interfaces(config, devices, &mut snapshot);
    routes(config, &mut snapshot);
    acls(config, &mut snapshot);
    snapshot.guards = config.guards.iter().map(|guard| guards::compile(guard, &config.lists)).collect();
    // Those of files are for who may read files.
    snapshot.lists = lists_with(&config.lists, []);
    nat(config, &mut snapshot);
    snapshot.prefixes = prefixes(config);
    snapshot.limits = config.limits.iter().map(limits::compile).collect();
    snapshot.places.file.clone_from(&config.places.file);
    snapshot.places.interfaces.clone_from(&config.places.interfaces);
    snapshot.places.prefixes.clone_from(&config.places.prefixes);
    snapshot.places.limits.clone_from(&config.places.limits);
    shapers::compile(config, &mut snapshot);
    snapshot
}

/// An index of the configuration, whose lists the validation keeps below 65,535 entries.
fn index(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(snapshot::NONE16)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn timeouts(config: &Config) -> snapshot::Timeouts {
    snapshot::Timeouts {
        udp: nanos(config.timeouts.udp),
        icmp: nanos(config.timeouts.icmp),
        tcp_established: nanos(config.timeouts.tcp_established),
        tcp_transitory: nanos(config.timeouts.tcp_transitory),
        other: nanos(config.timeouts.other),
        fragment: nanos(config.timeouts.fragment),
    }
}

fn interfaces(config: &Config, devices: &[DeviceFacts], snapshot: &mut Snapshot) {
    // The port and MAC address of each interface that is a device; a VLAN has its parent's.
    let mut carriers = HashMap::new();
    for (number, interface) in config.interfaces.iter().enumerate() {
        let Link::Device(device) = &interface.link else { continue };
        let port = snapshot.ports.len();
        let facts = devices.get(port).copied().unwrap_or(DeviceFacts::none(port));
        carriers.insert(number, (index(port), device.mac.map_or(facts.mac, Mac)));
        snapshot.ports.push(PortConfig {
            name: interface.name.clone(),
            complete_checksums: match device.checksum {
                Checksum::Auto => facts.virtual_link,
                Checksum::Complete => true,
                Checksum::Trust => false,
            },
            any_mac: false,
            invent_neighbors: false,
            host_is_kernel: device.host == Host::Kernel,
        });
    }
    for (number, interface) in config.interfaces.iter().enumerate() {
        let (carrier, tags) = match interface.link {
            Link::Device(_) => (number, Tags::default()),
            Link::Vlan { parent, id, outer: None } => (parent, Tags { count: 1, ids: [id, 0] }),
            Link::Vlan { parent, id, outer: Some(outer) } => (parent, Tags { count: 2, ids: [outer, id] }),
        };
        let (port, mac) = carriers.get(&carrier).copied().unwrap_or_default();
        let compiled = compile_interface(interface, port, mac, tags);
        let own = |address| (address, (index(number), LocalUse::Interface));
        snapshot.local4.extend(compiled.v4.iter().map(|&(address, _)| own(address)));
        let global = compiled.v6.iter().filter(|(address, _)| !address.is_unicast_link_local());
        snapshot.local6.extend(global.map(|&(address, _)| (address, (index(number), LocalUse::Interface))));
        snapshot.interfaces.push(compiled);
    }
}

fn compile_interface(interface: &Interface, port: u16, mac: Mac, tags: Tags) -> snapshot::Interface {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for prefix in &interface.addresses {
        match prefix.address {
            IpAddr::V4(address) => v4.push((address, prefix.length)),
            IpAddr::V6(address) => v6.push((address, prefix.length)),
        }
    }
    if !v6.is_empty() {
        v6.push((link_local(mac), 64));
    }
    snapshot::Interface {
        name: interface.name.clone(),
        port,
        tags,
        mac,
        mtu: interface.mtu,
        v4,
        v6,
        acl: interface.acl.map(index),
        guard: interface.guard.map(index),
        mss: mss(interface),
    }
}

/// By IP version, 4 and 6; 0 for none.
fn mss(interface: &Interface) -> [u16; 2] {
    match interface.mss_clamp {
        MssClamp::Off => [0; 2],
        MssClamp::To(bytes) => [bytes; 2],
        MssClamp::Mtu => [40, 60].map(|headers| interface.mtu.saturating_sub(headers).max(1)),
    }
}

/// fe80::/64 with the modified EUI-64 of the MAC address (RFC 4291 appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let identifier = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(identifier))
}

/// The routes that the file makes: the interfaces' subnets, and static ones with one way or several each.
pub fn file_routes(config: &Config) -> Vec<(Prefix, Vec<Way>)> {
    let ways = |ways: Vec<(Way, u32)>| ways.into_iter().map(|(way, _)| way).collect();
    routes_and_lines(config).into_iter().map(|(prefix, listed)| (prefix, ways(listed))).collect()
}

/// [`file_routes`], each way with its line in the file.
fn routes_and_lines(config: &Config) -> Vec<(Prefix, Vec<(Way, u32)>)> {
    let line = |lines: &[u32], number: usize| lines.get(number).copied().unwrap_or(0);
    let mut all = Vec::with_capacity(config.interfaces.len() + config.routes.len());
    for (number, interface) in config.interfaces.iter().enumerate() {
        let way = Way { route: snapshot::Route::Connected { interface: index(number) }, weight: 1 };
        let line = line(&config.places.interfaces, number);
        all.extend(interface.addresses.iter().map(|prefix| (prefix.network(), (way, line))));
    }
    let connected = all.len();
    all.extend(config.routes.iter().enumerate().map(|(number, route)| {
        let compiled = match route.target {
            Target::Connected(interface) => snapshot::Route::Connected { interface: index(interface) },
            Target::Via { address: IpAddr::V4(gateway), interface } => {
                snapshot::Route::Via4 { interface: index(interface), gateway }
            }
            Target::Via { address: IpAddr::V6(gateway), interface } => {
                snapshot::Route::Via6 { interface: index(interface), gateway }
            }
            Target::Blackhole => snapshot::Route::Blackhole,
            Target::Unreachable => snapshot::Route::Unreachable,
        };
        let line = line(&config.places.routes, number);
        (route.to, (Way { route: compiled, weight: route.weight }, line))
    }));
    let firsts = first_alike(all.iter().map(|(prefix, _)| *prefix));
    let mut listed: Vec<(Prefix, Vec<(Way, u32)>)> = Vec::with_capacity(all.len());
    // Where each one is listed that is the first to its prefix.
    let mut places = vec![0; all.len()];
    for ((at, (prefix, way)), first) in all.into_iter().enumerate().zip(firsts) {
        if first == at {
            places[at] = listed.len();
            listed.push((prefix, vec![way]));
        } else if let Some((_, ways)) = listed.get_mut(places[first]).filter(|_| at >= connected) {
            // A further address in a subnet adds no route.
            ways.push(way);
        }
    }
    listed
}

fn routes(config: &Config, snapshot: &mut Snapshot) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (prefix, ways) in routes_and_lines(config) {
        let number = snapshot.routes.len() as u32;
        match prefix.address {
            IpAddr::V4(address) => v4.push((address.octets(), prefix.length, number)),
            IpAddr::V6(address) => v6.push((address.octets(), prefix.length, number)),
        }
        let first = number + u32::from(ways.len() > 1);
        if ways.len() > 1 {
            snapshot.routes.push(snapshot::Route::Several { first, count: index(ways.len()) });
            snapshot.weights.push(1);
            snapshot.places.routes.push(0);
        }
        for (number, (way, line)) in (first..).zip(ways) {
            snapshot.routes.push(way.route);
            snapshot.weights.push(way.weight);
            snapshot.places.routes.push(line);
            snapshot.route_list.push((prefix.address, prefix.length, number));
        }
    }
    // A valid configuration has no prefix, and no number of them, that the tables refuse.
    (snapshot.routes4, snapshot.routes6) =
        (Lpm::build(v4).unwrap_or_default(), Lpm::build(v6).unwrap_or_default());
}

fn acls(config: &Config, snapshot: &mut Snapshot) {
    for (number, acl) in config.acls.iter().enumerate() {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (number, rule) in acl.rules.iter().enumerate() {
            let result = snapshot.rules.len();
            let established = rule.established.then_some(true);
            v4.extend(expand::<u32>(&rule.matches, established, result));
            v6.extend(expand::<u128>(&rule.matches, established, result));
            snapshot.places.rules.push(rule.line);
            snapshot.rules.push(RuleInfo {
                acl: acl.name.clone(),
                name: rule.name.clone().unwrap_or_else(|| format!("rule {}", number + 1)),
                text: describe(&rule.matches, rule.established),
                action: action(rule.action),
            });
        }
        let default = index(snapshot.rules.len());
        snapshot.places.rules.push(config.places.defaults.get(number).copied().unwrap_or(0));
        snapshot.rules.push(RuleInfo {
            acl: acl.name.clone(),
            name: "default".to_owned(),
            text: "all else".to_owned(),
            action: action(acl.default),
        });
        let name = acl.name.clone();
        snapshot.acls.push(snapshot::Acl { name, v4: Classifier::new(v4), v6: Classifier::new(v6), default });
    }
}

fn action(action: Action) -> AclAction {
    match action {
        Action::Accept => AclAction::Accept,
        Action::Drop => AclAction::Drop,
        Action::Reject => AclAction::Reject,
    }
}

fn nat(config: &Config, snapshot: &mut Snapshot) {
    snapshot.nat_log = match config.nat_log.as_ref().map(|log| log.records) {
        None => NatLog::Off,
        Some(NatRecords::Blocks) => NatLog::Blocks,
        Some(NatRecords::Bindings) => NatLog::Bindings,
    };
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    snapshot.port_control = snapshot::PortControl {
        rules: Vec::new(),
        min_lifetime: seconds(config.port_control.min_lifetime),
        max_lifetime: seconds(config.port_control.max_lifetime),
        max_mappings: config.port_control.max_mappings,
    };
    snapshot.port_rest = snapshot::PortRest {
        time: u64::try_from(config.port_rest.time.as_nanos()).unwrap_or(u64::MAX),
        most: config.port_rest.most,
    };
    let mut pools = HashMap::new();
    let mut lines = config.places.sources.iter().copied();
    for rule in &config.source_nat {
        let line = lines.next().unwrap_or(0);
        let pool = *pools.entry((rule.pool.clone(), rule.ports, behavior(rule))).or_insert_with(|| {
            let known = rule.pool.iter().filter(|range| !is_stand_in(range.first));
            let addresses = known.flat_map(|range| range.first.to_bits()..=range.last.to_bits());
            let addresses = addresses.map(Ipv4Addr::from_bits).collect();
            snapshot.pools.push(snapshot::Pool {
                addresses,
                ports: (rule.ports.first, rule.ports.last),
                behavior: behavior(rule),
                allocation: allocation(rule),
                max_ports: rule.max_ports.unwrap_or(0),
                max_sessions: rule.max_sessions.unwrap_or(0),
                max_new: rule.max_new.unwrap_or(0),
            });
            index(snapshot.pools.len() - 1)
        });
        let out = index(rule.out);
        match rule.prefix.and_then(embedding) {
            Some(embedding) => {
                let from = rule.from.iter().filter_map(|&prefix| u128::mask(prefix)).collect();
                snapshot.places.nat64.push(line);
                snapshot.nat64.push(snapshot::Nat64 { out, embedding, from, pool });
            }
            None => {
                let from = rule.from.iter().filter_map(|&prefix| u32::mask(prefix)).collect();
                if rule.port_control {
                    snapshot.port_control.rules.push(index(snapshot.source_nat.len()));
                }
                snapshot.places.source_nat.push(line);
                snapshot.source_nat.push(snapshot::SourceNat { out, from, pool });
            }
        }
        for address in snapshot.pools.get(usize::from(pool)).into_iter().flat_map(|pool| &pool.addresses) {
            snapshot.local4.entry(*address).or_insert((index(rule.out), LocalUse::Nat));
        }
    }
    statics(config, snapshot);
    for (number, forward) in config.forwards.iter().enumerate() {
        if is_stand_in(forward.address) {
            continue;
        }
        let line = config.places.forwards.get(number).copied().unwrap_or(0);
        snapshot.places.forwards.extend(forward.protocols.iter().map(|_| line));
        snapshot.local4.entry(forward.address).or_insert((index(forward.interface), LocalUse::Nat));
        snapshot.forwards.extend(forward.protocols.iter().map(|&protocol| snapshot::Forward {
            interface: index(forward.interface),
            protocol,
            address: forward.address,
            ports: (forward.ports.first, forward.ports.last),
            to: forward.to,
            to_port: forward.to_port,
        }));
    }
}

fn statics(config: &Config, snapshot: &mut Snapshot) {
    let entries = config.static_nat.iter().filter_map(|entry| {
        let ((inside, mask), (outside, _)) = (u32::mask(entry.inside)?, u32::mask(entry.outside)?);
        Some(StaticNat { interface: index(entry.out), inside, outside, mask })
    });
    let entries: Vec<StaticNat> = entries.collect();
    let with_lines = entries.iter().zip(&config.places.statics);
    let places = with_lines.map(|(entry, &line)| (entry.interface, entry.inside, entry.outside, line));
    snapshot.places.statics = places.collect();
    snapshot.places.exemptions.clone_from(&config.places.exemptions);
    for entry in &entries {
        let addresses = entry.outside..=entry.outside | !entry.mask;
        let uses = addresses.map(|bits| (Ipv4Addr::from_bits(bits), (entry.interface, LocalUse::Nat)));
        snapshot.local4.extend(uses);
    }
    snapshot.statics = StaticTable::new(entries);
    snapshot.exemptions.extend(config.nat_exemptions.iter().map(|exemption| {
        let masks = |prefixes: &[Prefix]| prefixes.iter().filter_map(|&prefix| u32::mask(prefix)).collect();
        let Match { from, to, protocols, to_ports, .. } = &exemption.matches;
        snapshot::Exemption {
            out: index(exemption.out),
            from: masks(from),
            to: masks(to),
            protocols: protocols.clone(),
            to_ports: to_ports.iter().map(|range| (range.first, range.last)).collect(),
        }
    }));
}

fn embedding(prefix: Prefix) -> Option<Embedding> {
    match prefix.address {
        IpAddr::V6(address) => Embedding::new(address.to_bits(), prefix.length),
        IpAddr::V4(_) => None,
    }
}

fn prefixes(config: &Config) -> Vec<snapshot::PrefixNat> {
    let bits = |prefix: Prefix| match prefix.address {
        IpAddr::V6(address) => Some((address.to_bits(), prefix.length)),
        IpAddr::V4(_) => None,
    };
    let compile = |rule: &PrefixNat| {
        let pair = PrefixPair::new(bits(rule.inside)?, bits(rule.outside)?)?;
        Some(snapshot::PrefixNat { out: index(rule.out), pair })
    };
    config.prefixes.iter().filter_map(compile).collect()
}

fn behavior(rule: &SourceNat) -> snapshot::NatBehavior {
    snapshot::NatBehavior {
        is_nat64: rule.prefix.is_some(),
        mapping: match rule.mapping {
            Mapping::EndpointIndependent => NatMapping::EndpointIndependent,
            Mapping::AddressAndPortDependent => NatMapping::AddressAndPortDependent,
        },
        filtering: match rule.filtering {
            Filtering::EndpointIndependent => NatFiltering::EndpointIndependent,
            Filtering::AddressDependent => NatFiltering::AddressDependent,
            Filtering::AddressAndPortDependent => NatFiltering::AddressAndPortDependent,
        },
        port_choice: match rule.port_choice {
            PortChoice::Preserve => snapshot::PortChoice::Preserve,
            PortChoice::Random => snapshot::PortChoice::Random,
        },
    }
}

fn allocation(rule: &SourceNat) -> snapshot::Allocation {
    match rule.allocation {
        Allocation::Ports => snapshot::Allocation::Ports,
        Allocation::Blocks { size, most, hold } => {
            snapshot::Allocation::Blocks(snapshot::PortBlocks { size, most, hold: nanos(hold) })
        }
        Allocation::Deterministic { .. } => {
            let plan = rule.plan();
            debug_assert!(plan.is_some(), "a valid pool serves its subscribers");
            plan.map_or(snapshot::Allocation::Ports, snapshot::Allocation::Deterministic)
        }
    }
}

/// An address family's way of writing prefixes for a classifier.
trait Family: classifier::Address + Default {
    /// The ICMP of the family, and that of the other.
    const ICMP: (u8, u8);
    /// Value and mask; `None` for a prefix of the other family.
    fn mask(prefix: Prefix) -> Option<(Self, Self)>;
}

impl Family for u32 {
    const ICMP: (u8, u8) = (ICMP, ICMPV6);

    fn mask(prefix: Prefix) -> Option<(Self, Self)> {
        match prefix.address {
            IpAddr::V4(address) => {
                Some((address.to_bits(), u32::MAX.checked_shl(32 - u32::from(prefix.length)).unwrap_or(0)))
            }
            IpAddr::V6(_) => None,
        }
    }
}

impl Family for u128 {
    const ICMP: (u8, u8) = (ICMPV6, ICMP);

    fn mask(prefix: Prefix) -> Option<(Self, Self)> {
        match prefix.address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => {
                Some((address.to_bits(), u128::MAX.checked_shl(128 - u32::from(prefix.length)).unwrap_or(0)))
            }
        }
    }
}

/// The match as rules of one prefix, range and type each, for one family; none, where it cannot match that family.
fn expand<A: Family>(matches: &Match, established: Option<bool>, result: usize) -> Vec<Rule<A>> {
    let (sources, destinations) = (masks::<A>(&matches.from), masks::<A>(&matches.to));
    let mut rules = Vec::new();
    for (protocol, icmp) in protocols::<A>(matches) {
        let with_ports = protocol.is_some_and(|protocol| [TCP, UDP].contains(&protocol));
        let (src_ports, dst_ports) = match with_ports {
            true => (ranges(&matches.from_ports), ranges(&matches.to_ports)),
            false => (ranges(&[]), ranges(&[])),
        };
        for &src in &sources {
            for &dst in &destinations {
                for &src_port in &src_ports {
                    for &dst_port in &dst_ports {
                        rules.push(Rule {
                            src,
                            dst,
                            protocol,
                            src_port,
                            dst_port,
                            icmp_type: icmp.map(|(kind, _)| kind),
                            icmp_code: icmp.and_then(|(_, code)| code),
                            established,
                            result: u32::from(index(result)),
                        });
                    }
                }
            }
        }
    }
    rules
}

fn masks<A: Family>(prefixes: &[Prefix]) -> Vec<(A, A)> {
    match prefixes {
        [] => vec![Default::default()],
        prefixes => prefixes.iter().filter_map(|&prefix| A::mask(prefix)).collect(),
    }
}

fn ranges(ranges: &[PortRange]) -> Vec<classifier::PortRange> {
    match ranges {
        [] => vec![classifier::PortRange::ANY],
        ranges => ranges
            .iter()
            .map(|range| classifier::PortRange { first: range.first, last: range.last })
            .collect(),
    }
}

/// A protocol, and a type and code of ICMP; `None` for any.
type ProtocolAndIcmp = (Option<u8>, Option<(u8, Option<u8>)>);

/// The protocols of the match that the family has.
fn protocols<A: Family>(matches: &Match) -> Vec<ProtocolAndIcmp> {
    let (own, other) = A::ICMP;
    if !matches.icmp_types.is_empty() {
        let types = matches.icmp_types.iter().filter(|icmp| icmp.protocol == own);
        return types.map(|icmp| (Some(own), Some((icmp.kind, icmp.code)))).collect();
    }
    match &matches.protocols[..] {
        [] => vec![(None, None)],
        protocols => {
            protocols.iter().filter(|&&p| p != other).map(|&protocol| (Some(protocol), None)).collect()
        }
    }
}

/// A match in words, with the keys of the file: `tcp from 10.0.0.0/8 to-port 80,443 established`.
fn describe(matches: &Match, established: bool) -> String {
    fn join<T: ToString>(list: &[T]) -> String {
        list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
    let mut words = match &matches.protocols[..] {
        [] => "any".to_owned(),
        protocols => protocols.iter().map(|&protocol| protocol_name(protocol)).collect::<Vec<_>>().join(","),
    };
    let types = matches.icmp_types.iter().map(|icmp| match icmp.code {
        Some(code) => format!("{}/{code}", icmp.kind),
        None => icmp.kind.to_string(),
    });
    let types = types.collect::<Vec<_>>().join(",");
    for (word, list) in [
        (" type ", types),
        (" from ", join(&matches.from)),
        (" from-port ", join(&matches.from_ports)),
        (" to ", join(&matches.to)),
        (" to-port ", join(&matches.to_ports)),
    ] {
        if !list.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(words, "{word}{list}");
        }
    }
    if established {
        words.push_str(" established");
    }
    words
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
