//! `[[nat.source]]`, `[[nat.nat64]]` and `[[nat.forward]]`; the others are in `nat_static` and `nat6`.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use sluice_dataplane::stage::owner::block_owner;

use super::interfaces::Network;
use super::routes::Routes;
use super::{nat_log, nat_ports, nat_static, nat6, port_control, ports, prefixes, values};
use crate::config::model::{
    AddressRange, Allocation, Filtering, Forward, Mapping, NatExemption, NatLog, PortChoice, PortControl,
    PortRange, PortRest, PrefixNat, SourceNat, StaticNat, stand_in,
};
use crate::config::net;
use crate::config::protocol::{TCP, UDP, protocol};
use crate::config::reader::{At, Table, choice, text, text_or_number};
use crate::config::report::{Sink, Span, quote};
use crate::config::schema;
use crate::config::units::Wrong;

const MAPPINGS: [(&str, Mapping); 2] = [
    ("endpoint-independent", Mapping::EndpointIndependent),
    ("address-and-port-dependent", Mapping::AddressAndPortDependent),
];
const FILTERINGS: [(&str, Filtering); 3] = [
    ("endpoint-independent", Filtering::EndpointIndependent),
    ("address-dependent", Filtering::AddressDependent),
    ("address-and-port-dependent", Filtering::AddressAndPortDependent),
];
const PORT_CHOICES: [(&str, PortChoice); 2] =
    [("preserve", PortChoice::Preserve), ("random", PortChoice::Random)];

/// Most source NAT rules, and most forwards.
pub(super) const MOST_RULES: usize = 4096;
/// Most ranges of addresses in all pools together.
const MOST_RANGES: usize = 4096;
/// Most external addresses of a rule.
const MOST_ADDRESSES: u64 = 65_536;
/// Most external addresses of all rules.
pub(super) const MOST_ADDRESSES_IN_ALL: u64 = 1 << 18;

/// All kinds, each rule with its place.
#[derive(Default)]
pub(super) struct Nat {
    pub(super) sources: Vec<At<SourceNat>>,
    pub(super) statics: Vec<At<StaticNat>>,
    pub(super) exemptions: Vec<NatExemption>,
    pub(super) forwards: Vec<At<Forward>>,
    pub(super) prefixes: Vec<At<PrefixNat>>,
    pub(super) port_control: PortControl,
    pub(super) port_rest: PortRest,
    pub(super) log: Option<NatLog>,
}

pub(super) fn read(file: &Table<'_>, network: &Network<'_>, routes: &Routes, sink: &mut Sink<'_>) -> Nat {
    let Some(nat) = file.table("nat", &schema::NAT, sink) else {
        return Nat::default();
    };
    let mut sources = Vec::new();
    for table in nat.tables("source", &schema::SOURCE_NAT, MOST_RULES, sink) {
        if let Some(source) = read_source(&table, network, routes, sink) {
            sources.push(At { value: source, span: pool_span(&table) });
        }
    }
    for table in nat.tables("nat64", &schema::NAT64, MOST_RULES, sink) {
        let prefix = nat6::nat64_prefix(&table, network, routes, sink);
        let source = read_source(&table, network, routes, sink);
        if let (Some(prefix), Some(source)) = (prefix, source) {
            let source = SourceNat { prefix: Some(prefix), ..source };
            sources.push(At { value: source, span: pool_span(&table) });
        }
    }
    check_pools(&sources, sink);
    let mut forwards = Vec::new();
    for table in nat.tables("forward", &schema::FORWARD, MOST_RULES, sink) {
        if let Some(forward) = read_forward(&table, network, sink) {
            let span = if table.has("port") { table.key_span("port") } else { table.span };
            forwards.push(At { value: forward, span });
        }
    }
    check_forwards(&forwards, sink);
    let prefixes = nat6::read(&nat, network, sink);
    nat6::check_together(&prefixes, &sources, sink);
    let is_asked = sources.iter().any(|source| source.value.port_control);
    let port_control = port_control::read(&nat, is_asked, sink);
    let port_rest = nat_ports::read_rest(&nat, &sources, sink);
    let log = nat_log::read(&nat, sink);
    let (statics, exemptions) = nat_static::read(&nat, network, routes, sink);
    let nat = Nat { sources, statics, exemptions, forwards, prefixes, port_control, port_rest, log };
    nat_static::check(&nat, network, sink);
    nat
}

fn pool_span(table: &Table<'_>) -> Span {
    if table.has("to") { table.key_span("to") } else { table.span.clone() }
}

fn read_source(
    table: &Table<'_>,
    network: &Network<'_>,
    routes: &Routes,
    sink: &mut Sink<'_>,
) -> Option<SourceNat> {
    let out = network.required(table, "out", sink);
    let from = prefixes(table, "from", sink);
    let is_nat64 = table.section.name == schema::NAT64.name;
    for At { value, span } in from.iter().filter(|prefix| prefix.value.is_ipv4() == is_nat64) {
        let (family, help) = match is_nat64 {
            true => ("IPv6", "for IPv4 there is [[nat.source]]"),
            false => ("IPv4", "for IPv6 there are [[nat.nat64]] and [[nat.prefix]]"),
        };
        sink.error(span, format!("{value} is not of {family}")).help(help);
    }
    let pool = match table.string("to") {
        Some("interface") => None,
        _ => Some(table.many("to", text(pool_range), sink)).filter(|_| table.has("to")),
    };
    let range = ports(table, "ports", sink);
    if let Some(second) = range.get(1) {
        sink.error(&second.span, "`ports` is one range").help("such as \"1024-65535\"");
    }
    let range = range.first().map_or(PortRange { first: 1024, last: u16::MAX }, |at| at.value);
    let mapping = table.one("mapping", choice(&MAPPINGS), sink);
    let filtering = table.one("filtering", choice(&FILTERINGS), sink);
    let port_choice = table.one("port-choice", choice(&PORT_CHOICES), sink);
    warn_of_mapping(mapping.as_ref(), sink);
    let out = out?.value;
    let pool = match pool {
        Some(pool) => pool,
        None => {
            let primary = interface_address(table, out, network, "`to = \"192.0.2.1\"`", sink)?;
            vec![At { value: AddressRange { first: primary, last: primary }, span: pool_span(table) }]
        }
    };
    let source = SourceNat {
        out,
        prefix: None,
        from: values(&from),
        pool: check_pool(pool, network, routes, sink),
        ports: range,
        mapping: mapping.map_or_else(Mapping::default, |at| at.value),
        filtering: filtering.map_or_else(Filtering::default, |at| at.value),
        port_choice: port_choice.map_or_else(PortChoice::default, |at| at.value),
        allocation: Allocation::Ports,
        max_ports: None,
        max_sessions: None,
        port_control: false,
        max_new: None,
    };
    nat_ports::check_kernel(table, &source, network, sink);
    let source = nat_ports::read(table, source, sink)?;
    // Asking for mappings is for inside hosts of IPv4.
    Some(if is_nat64 { source } else { port_control::read_rule(table, source, network, sink) })
}

fn warn_of_mapping(mapping: Option<&At<Mapping>>, sink: &mut Sink<'_>) {
    if let Some(At { span, .. }) = mapping.filter(|at| at.value == Mapping::AddressAndPortDependent) {
        sink.warning(span, "RFC 4787 REQ-1 asks for endpoint-independent mapping").help(
            "hosts behind such a NAT cannot be reached by the address and port that others see of them",
        );
    }
}

fn pool_range(text: &str) -> Result<AddressRange, Wrong> {
    if text == "interface" {
        return Err(Wrong::new("\"interface\" stands in a list")
            .help("write `to = \"interface\"`, or addresses alone"));
    }
    net::address_range(text).map_err(|wrong| match wrong.help {
        Some(_) => wrong,
        None => wrong.help("\"interface\", an address, \"first-last\", a prefix, or a list of these"),
    })
}

/// The primary IPv4 address of an interface, which stands in for a key that was left out.
fn interface_address(
    table: &Table<'_>,
    interface: usize,
    network: &Network<'_>,
    instead: &str,
    sink: &mut Sink<'_>,
) -> Option<Ipv4Addr> {
    let stand_in = stand_in(interface);
    let interface = network.interfaces.get(interface)?;
    let primary = interface.primary_ipv4().or_else(|| interface.from_kernel.then_some(stand_in));
    if primary.is_none() && !network.is_broken() {
        sink.error(&table.span, format!("`{}` has no IPv4 address", interface.name))
            .help(format!("give it one, or add {instead}"));
    }
    primary
}

/// The ranges of one pool in ascending order; they share no address, and none is another's.
fn check_pool(
    mut pool: Vec<At<AddressRange>>,
    network: &Network<'_>,
    routes: &Routes,
    sink: &mut Sink<'_>,
) -> Vec<AddressRange> {
    pool.sort_by_key(|range| range.value);
    for pair in pool.windows(2) {
        if pair[1].value.first <= pair[0].value.last {
            sink.error(&pair[1].span, format!("{} overlaps {}", pair[1].value, pair[0].value))
                .also(&pair[0].span, "which is here")
                .help("name each address once");
        }
    }
    let count: u64 = pool.iter().map(|range| range.value.count()).sum();
    if let Some(last) = pool.last().filter(|_| count > MOST_ADDRESSES) {
        sink.error(&last.span, format!("the pool has {count} addresses"))
            .help(format!("a pool has at most {MOST_ADDRESSES}, a /16"));
    }
    for At { value, span } in &pool {
        ours_alone("the pool", *value, span, network, routes, sink);
    }
    values(&pool)
}

/// External addresses are no router's, and no subnet's own or broadcast address.
pub(super) fn ours_alone(
    what: &str,
    range: AddressRange,
    span: &Span,
    network: &Network<'_>,
    routes: &Routes,
    sink: &mut Sink<'_>,
) {
    if let Some((address, route)) = routes.by(range) {
        sink.error(span, format!("{what} {range} contains the next hop {address}"))
            .also(&route.span, "of this route")
            .help("external addresses are ours alone");
    }
    for end in [range.first, range.last] {
        if let Some(subnet) = network.subnet(end.into()).filter(|subnet| subnet.prefix.reserves(end.into())) {
            let subnet = subnet.prefix.network();
            sink.error(
                span,
                format!("{what} {range} contains {end}, the network or broadcast address of {subnet}"),
            )
            .help("leave it out");
        }
    }
}

/// Two rules may share one pool, as it stands. Pools that share only a part would hand out a port twice.
fn check_pools(sources: &[At<SourceNat>], sink: &mut Sink<'_>) {
    let ranges: Vec<(usize, AddressRange)> = (sources.iter().enumerate())
        .flat_map(|(rule, source)| source.value.pool.iter().map(move |&range| (rule, range)))
        .collect();
    if let Some((rule, _)) = ranges.get(MOST_RANGES) {
        sink.error(&sources[*rule].span, format!("the pools have {} ranges of addresses", ranges.len()))
            .help(format!("this version takes at most {MOST_RANGES} in all"));
        return;
    }
    let count: u64 = ranges.iter().map(|(_, range)| range.count()).sum();
    if let Some((rule, _)) = ranges.last().filter(|_| count > MOST_ADDRESSES_IN_ALL) {
        sink.error(&sources[*rule].span, format!("the pools have {count} addresses"))
            .help(format!("this version takes at most {MOST_ADDRESSES_IN_ALL} in all"));
    }
    check_shared(sources, sink);
    for (at, &(later, range)) in ranges.iter().enumerate() {
        let mine = &sources[later].value;
        let clash = ranges[..at].iter().find(|&&(earlier, other)| {
            let theirs = &sources[earlier].value;
            earlier != later
                && range.first <= other.last
                && other.first <= range.last
                && (mine.ports.overlaps(theirs.ports) || mine.is_cut() || theirs.is_cut())
                && (mine.pool != theirs.pool || mine.ports != theirs.ports || mine.prefix != theirs.prefix)
        });
        if let Some(&(earlier, other)) = clash {
            let theirs = &sources[earlier].value;
            sink.error(
                &sources[later].span,
                format!("the pool's {range}, ports {}, overlaps another pool", mine.ports),
            )
            .also(&sources[earlier].span, format!("{other}, ports {}, is here", theirs.ports))
            .help(if mine.is_cut() || theirs.is_cut() {
                "an address that is given out in blocks, or by subscribers, is in one pool only"
            } else if mine.prefix != theirs.prefix {
                "pools of NAT64 share no port with others: give each a range of `ports` of its own"
            } else {
                "pools are the same, or share no address, or share no port"
            });
        }
    }
}

/// Rules of one pool must give it out in one way.
fn check_shared(sources: &[At<SourceNat>], sink: &mut Sink<'_>) {
    for (index, At { value: later, span }) in sources.iter().enumerate() {
        let shares = |At { value: earlier, .. }: &&At<SourceNat>| {
            earlier.pool == later.pool && earlier.ports == later.ports && earlier.prefix == later.prefix
        };
        let Some(first) = sources[..index].iter().find(shares) else { continue };
        let is_fixed = matches!(later.allocation, Allocation::Deterministic { .. });
        let behavior = |source: &SourceNat| (source.mapping, source.filtering, source.port_choice);
        let differs = first.value.allocation != later.allocation
            || later.is_cut() && behavior(&first.value) != behavior(later)
            || first.value.max_ports != later.max_ports
            || first.value.max_sessions != later.max_sessions
            || first.value.max_new != later.max_new;
        if differs || is_fixed {
            let message = match is_fixed && !differs {
                true => "a deterministic pool belongs to one rule",
                false => "the pool is another rule's, which gives it out in another way",
            };
            let help = match is_fixed {
                true => "name all subscribers in the `from` of one rule, or give this one a pool of its own",
                false => {
                    "write the same `block-size`, `max-blocks`, `block-hold`, limits and behaviour for both, or give each a pool"
                }
            };
            sink.error(span, message).also(&first.span, "it is here").help(help);
        }
    }
}

/// Each worker gives out blocks of its own, and must have some.
pub(super) fn check_workers(nat: &Nat, workers: usize, sink: &mut Sink<'_>) {
    for At { value, span } in &nat.sources {
        let Allocation::Blocks { size, .. } = value.allocation else { continue };
        let each = value.ports.count() / size.max(1);
        let blocks = u64::from(each) * value.addresses();
        if blocks == 0 || each as usize >= workers {
            continue;
        }
        let addresses = value.pool.iter().flat_map(|range| range.first.to_bits()..=range.last.to_bits());
        let owners: HashSet<u8> =
            addresses.flat_map(|address| (0..each).map(move |n| block_owner(address, n, workers))).collect();
        if owners.len() < workers {
            sink.error(span, format!("the pool's {blocks} blocks are not enough for {workers} workers"))
                .help("each worker gives out blocks of its own: a smaller `block-size`, or more addresses");
        }
    }
}

fn read_forward(table: &Table<'_>, network: &Network<'_>, sink: &mut Sink<'_>) -> Option<Forward> {
    let interface = network.required(table, "in", sink);
    if !table.has("protocol") {
        table.missing("protocol", "\"tcp\"", sink);
    }
    let protocols = table.many("protocol", text(transport), sink);
    let port = table.required("port", "8080", text_or_number(net::port_range), sink);
    let address = table.one("address", text(net::ipv4_address), sink);
    let target = table.required("to", "\"192.168.1.10:80\"", text(target), sink);
    let (interface, port) = (interface?.value, port?);
    let address = match address {
        Some(address) => address.value,
        None if table.has("address") => return None,
        None => interface_address(table, interface, network, "`address = \"192.0.2.1\"`", sink)?,
    };
    let target = target?;
    let (to, to_port) = target.value;
    let to_port = to_port.unwrap_or(port.value.first);
    if u32::from(to_port) + port.value.count() > 65_536 {
        sink.error(&target.span, format!("{} ports from {to_port} on go past 65535", port.value.count()))
            .help("the inside ports are as many as the outside ones");
    }
    if let Some(owner) = network.owner(to.into()) {
        let name = &network.interfaces[owner].name;
        sink.error(&target.span, format!("{to} is our own address, on `{name}`"))
            .help("forward to a host behind the gateway");
    }
    Some(Forward { interface, protocols: values(&protocols), address, ports: port.value, to, to_port })
}

fn transport(text: &str) -> Result<u8, Wrong> {
    match protocol(text)? {
        protocol @ (TCP | UDP) => Ok(protocol),
        _ => Err(Wrong::new(format!("{} cannot be forwarded by port", quote(text)))
            .help("\"tcp\", \"udp\" or both")),
    }
}

/// `address:port`, or an address alone.
fn target(text: &str) -> Result<(Ipv4Addr, Option<u16>), Wrong> {
    let wrong = || {
        Wrong::new(format!("{} is not an address and port", quote(text))).help("such as \"192.168.1.10:80\"")
    };
    let (address, port) = match text.split_once(':') {
        Some((address, port)) => {
            let port = net::decimal(port).filter(|&port| port > 0).ok_or_else(wrong)?;
            (address, Some(port))
        }
        None => (text, None),
    };
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() || address.is_loopback() {
        return Err(
            Wrong::new(format!("{address} is not the address of a host")).help("such as \"192.168.1.10:80\"")
        );
    }
    Ok((address, port))
}

/// No packet may belong to two forwards.
fn check_forwards(forwards: &[At<Forward>], sink: &mut Sink<'_>) {
    for (index, At { value: later, span }) in forwards.iter().enumerate() {
        let clash = forwards[..index].iter().find(|At { value: earlier, .. }| {
            earlier.interface == later.interface
                && earlier.address == later.address
                && earlier.ports.overlaps(later.ports)
                && earlier.protocols.iter().any(|protocol| later.protocols.contains(protocol))
        });
        if let Some(first) = clash {
            sink.error(span, format!("port {} of {} is forwarded already", later.ports, later.address))
                .also(&first.span, format!("port {} is forwarded here", first.value.ports))
                .help("a port goes to one place: choose another port, or another `address`");
        }
    }
}
