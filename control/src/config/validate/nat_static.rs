//! `[[nat.static]]` and `[[nat.exempt]]`, and what is wrong with all kinds of NAT together.

use std::net::IpAddr;

use super::interfaces::Network;
use super::nat::{MOST_ADDRESSES_IN_ALL, MOST_RULES, Nat, ours_alone};
use super::nat_ports::{KernelPort, kernel_ports};
use super::routes::Routes;
use super::{matches, ports, prefixes, values};
use crate::config::model::{AddressRange, Forward, Match, NatExemption, Prefix, StaticNat};
use crate::config::net;
use crate::config::protocol::{TCP, UDP, protocol, protocol_name};
use crate::config::reader::{At, Table, text, text_or_number};
use crate::config::report::{Sink, quote};
use crate::config::schema;
use crate::config::units::Wrong;

/// The shortest prefix of static NAT: as many addresses as a pool has at most.
const SHORTEST: u8 = 16;

pub(super) fn read(
    nat: &Table<'_>,
    network: &Network<'_>,
    routes: &Routes,
    sink: &mut Sink<'_>,
) -> (Vec<At<StaticNat>>, Vec<NatExemption>) {
    let mut statics = Vec::new();
    for table in nat.tables("static", &schema::STATIC_NAT, MOST_RULES, sink) {
        statics.extend(read_static(&table, network, routes, sink));
    }
    let mut exemptions = Vec::new();
    for table in nat.tables("exempt", &schema::NAT_EXEMPTION, MOST_RULES, sink) {
        exemptions.extend(read_exemption(&table, network, sink));
    }
    (statics, exemptions)
}

fn read_static(
    table: &Table<'_>,
    network: &Network<'_>,
    routes: &Routes,
    sink: &mut Sink<'_>,
) -> Option<At<StaticNat>> {
    let out = network.required(table, "out", sink);
    let inside = table.required("inside", "\"192.168.1.20\"", text(prefix4), sink);
    let outside = table.required("outside", "\"203.0.113.20\"", text(prefix4), sink);
    let (inside, outside) = (inside?, outside?);
    if inside.value.length != outside.value.length {
        sink.error(&outside.span, format!("{} and {} are not as many", outside.value, inside.value))
            .also(&inside.span, "the inside addresses are here")
            .help("each inside address has one external address: write two prefixes of the same length");
        return None;
    }
    if inside.value.overlaps(outside.value) {
        sink.error(&outside.span, format!("{} is also inside", outside.value))
            .also(&inside.span, "the inside addresses are here")
            .help("an address that stays as it is needs no NAT: see [[nat.exempt]]");
    }
    // A prefix of inside addresses may have the gateway in it.
    let alone = Some(&inside).filter(|inside| inside.value.length == 32);
    for prefix in alone.into_iter().chain([&outside]) {
        let ours = network.interfaces.iter().flat_map(|interface| &interface.addresses);
        if let Some(own) = ours.map(|own| own.address).find(|&own| prefix.value.contains(own)) {
            let owner = network.owner(own).map_or("", |owner| network.interfaces[owner].name.as_str());
            sink.error(&prefix.span, format!("{} holds our own address {own}, on `{owner}`", prefix.value))
                .help("static NAT takes all packets to an address: forward single ports of our own");
        }
    }
    ours_alone("static NAT to", range(outside.value), &outside.span, network, routes, sink);
    let value = StaticNat { out: out?.value, inside: inside.value, outside: outside.value };
    Some(At { value, span: outside.span })
}

fn read_exemption(table: &Table<'_>, network: &Network<'_>, sink: &mut Sink<'_>) -> Option<NatExemption> {
    let out = network.required(table, "out", sink);
    let [from, to] = ["from", "to"].map(|key| {
        let prefixes = prefixes(table, key, sink);
        if let Some(At { value, span }) = prefixes.iter().find(|prefix| !prefix.value.is_ipv4()) {
            sink.error(span, format!("{value} is not of IPv4"))
                .help("NAT is for IPv4; IPv6 is routed as it is");
        }
        values(&prefixes)
    });
    let protocols = table.many("protocol", text_or_number(protocol), sink);
    let to_ports = ports(table, "to-port", sink);
    if !to_ports.is_empty() {
        matches::only_with(table, "to-port", &protocols, &[TCP, UDP], sink);
    }
    let (protocols, to_ports) = (values(&protocols), values(&to_ports));
    let matches = Match { from, to, protocols, to_ports, ..Match::default() };
    Some(NatExemption { out: out?.value, matches })
}

/// A prefix of IPv4 that is not too short.
fn prefix4(text: &str) -> Result<Prefix, Wrong> {
    let prefix = net::prefix(text)?;
    if !prefix.is_ipv4() {
        return Err(Wrong::new(format!("{} is not of IPv4", quote(text))).help("NAT is for IPv4"));
    }
    if prefix.length < SHORTEST {
        return Err(Wrong::new(format!("{} has too many addresses", quote(text)))
            .help(format!("at most a /{SHORTEST}: write several")));
    }
    Ok(prefix)
}

fn range(prefix: Prefix) -> AddressRange {
    match (prefix.first(), prefix.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => AddressRange { first, last },
        _ => AddressRange { first: [0; 4].into(), last: [0; 4].into() },
    }
}

/// Checks each kind of NAT against the others: no address or port has two uses.
pub(super) fn check(nat: &Nat, network: &Network<'_>, sink: &mut Sink<'_>) {
    check_statics(&nat.statics, sink);
    for entry in &nat.statics {
        let outside = range(entry.value.outside);
        let shares = |other: AddressRange| outside.first <= other.last && other.first <= outside.last;
        let pools =
            nat.sources.iter().flat_map(|source| source.value.pool.iter().map(move |pool| (source, *pool)));
        if let Some((source, pool)) = pools.into_iter().find(|&(_, pool)| shares(pool)) {
            sink.error(&entry.span, format!("static NAT to {outside} overlaps a pool"))
                .also(&source.span, format!("{pool} is here"))
                .help(
                    "an external address is one inside address's, or a pool's: leave it out of one of them",
                );
        }
        let forward = nat.forwards.iter().find(|forward| outside.contains(forward.value.address));
        if let Some(At { value: Forward { address, ports, .. }, span }) = forward {
            sink.error(&entry.span, format!("static NAT to {outside} takes all packets to {address}"))
                .also(span, format!("port {ports} of it is forwarded here"))
                .help("forward ports of another address, or leave this one out of static NAT");
        }
    }
    check_kernel(&nat.forwards, network, sink);
}

fn check_statics(statics: &[At<StaticNat>], sink: &mut Sink<'_>) {
    let count: u64 = statics.iter().map(|entry| range(entry.value.outside).count()).sum();
    if let Some(last) = statics.last().filter(|_| count > MOST_ADDRESSES_IN_ALL) {
        sink.error(&last.span, format!("static NAT has {count} addresses"))
            .help(format!("this version takes at most {MOST_ADDRESSES_IN_ALL} in all"));
    }
    for (at, later) in statics.iter().enumerate() {
        let clash = statics[..at].iter().find_map(|earlier| {
            let (mine, theirs) = (&later.value, &earlier.value);
            if mine.outside.overlaps(theirs.outside) {
                return Some((earlier, mine.outside, theirs.outside, "an external address is one host's"));
            }
            let is_same = mine.out == theirs.out && mine.inside.overlaps(theirs.inside);
            is_same.then_some((
                earlier,
                mine.inside,
                theirs.inside,
                "a host has one external address on an interface",
            ))
        });
        if let Some((earlier, mine, theirs, help)) = clash {
            sink.error(&later.span, format!("static NAT of {mine} overlaps that of {theirs}"))
                .also(&earlier.span, "which is here")
                .help(help);
        }
    }
}

/// What a device leaves to the kernel never comes to NAT: no port of a forward may be among it.
fn check_kernel(forwards: &[At<Forward>], network: &Network<'_>, sink: &mut Sink<'_>) {
    for At { value: Forward { interface, protocols, ports, .. }, span } in forwards {
        for KernelPort { device, place, protocol, port } in kernel_ports(network, *interface) {
            if protocols.contains(&protocol) && ports.first <= port && port <= ports.last {
                sink.error(span, format!("port {ports} is forwarded, and left to the kernel"))
                    .also(&place, format!("`{device}` leaves {}/{port} to it here", protocol_name(protocol)))
                    .help("a port has one use: leave it out of one of them");
            }
        }
    }
}
