//! What of a configuration a packet has matched, and where that stands in the file. The stages keep results, not rules; so
//! this finds the rule that gives the result, as they look for it: the first that matches.

use std::net::{IpAddr, Ipv4Addr};

use sluice_dataplane::snapshot::{Forward, Route, Snapshot};

use super::story::{Line, Subject, name};
use crate::config::Prefix;

/// The port forward or static NAT for a packet's destination.
pub(crate) fn forward(subject: &Subject, snapshot: &Snapshot) -> Option<String> {
    let [_, (address, port)] = subject.ends4()?;
    let places = &snapshot.places;
    let is_it = |forward: &Forward| {
        forward.interface == subject.interface
            && forward.protocol == subject.protocol
            && forward.address == Ipv4Addr::from_bits(address)
            && (forward.ports.0..=forward.ports.1).contains(&port)
    };
    if let Some(index) = snapshot.forwards.iter().position(is_it) {
        return places.of(&places.forwards, index);
    }
    let (interface, inside) = snapshot.statics.inside_of(address)?;
    static_nat(interface, inside, address, snapshot)
}

/// The entry of static NAT by which an inside address has an external one.
fn static_nat(interface: u16, inside: u32, outside: u32, snapshot: &Snapshot) -> Option<String> {
    // An entry maps by an offset, and the last one that begins before both is it.
    let of_it = |entry: &&(u16, u32, u32, u32)| {
        entry.0 == interface
            && entry.1 <= inside
            && entry.2 <= outside
            && inside - entry.1 == outside - entry.2
    };
    let entry = snapshot.places.statics.iter().filter(of_it).max_by_key(|entry| entry.1)?;
    snapshot.places.at(entry.3)
}

/// What is said of the source of a packet between these ends that leaves by an interface, and whether that chooses a port.
pub(crate) fn source(
    ends: [(u32, u16); 2],
    protocol: u8,
    egress: u16,
    snapshot: &Snapshot,
) -> (Option<String>, bool) {
    let (places, [(src, _), _]) = (&snapshot.places, ends);
    let rule = snapshot.source_nat.iter().position(|rule| {
        let is_from = rule.from.is_empty() || rule.from.iter().any(|&(a, mask)| src & mask == a & mask);
        rule.out == egress && is_from
    });
    let outside = snapshot.statics.outside_of(egress, src);
    if rule.is_none() && outside.is_none() {
        return (None, false);
    }
    let exempt = snapshot.exemptions.iter().position(|exempt| exempt.covers(ends, protocol, egress));
    match (exempt, outside, rule) {
        (Some(index), ..) => (places.of(&places.exemptions, index), false),
        (None, Some(outside), _) => (static_nat(egress, src, outside, snapshot), false),
        (None, None, Some(index)) => (places.of(&places.source_nat, index), true),
        (None, None, None) => (None, false),
    }
}

/// The rule of NAT64 for a packet of IPv6 that leaves by an interface.
pub(crate) fn nat64(subject: &Subject, egress: u16, snapshot: &Snapshot) -> Option<String> {
    let [IpAddr::V6(source), IpAddr::V6(destination)] = subject.ends? else { return None };
    let is_it = |rule: &sluice_dataplane::snapshot::Nat64| {
        let holds = rule.embedding.extract(destination.to_bits()).is_some();
        rule.out == egress && rule.is_from(source.to_bits()) && holds
    };
    let index = snapshot.nat64.iter().position(is_it)?;
    snapshot.places.of(&snapshot.places.nat64, index)
}

/// The prefix translation at an interface.
pub(crate) fn prefix(interface: u16, snapshot: &Snapshot) -> Option<String> {
    let index = snapshot.prefixes.iter().position(|rule| rule.out == interface)?;
    snapshot.places.of(&snapshot.places.prefixes, index)
}

/// The route to an address, which leads out by an interface.
pub(crate) fn route(to: IpAddr, egress: u16, snapshot: &Snapshot) -> Line {
    let places = &snapshot.places;
    // Of equal prefixes the one that leads there, if one does: of several next hops a flow takes one.
    let listed = || {
        let route = |&(address, length, index): &(IpAddr, u8, u32)| (Prefix { address, length }, index);
        snapshot.route_list.iter().map(route)
    };
    let covering = listed().filter(|(prefix, _)| prefix.contains(to));
    let leads = |index: u32| match snapshot.routes.get(index as usize) {
        Some(
            Route::Connected { interface } | Route::Via4 { interface, .. } | Route::Via6 { interface, .. },
        ) => *interface == egress,
        _ => false,
    };
    let best = covering.max_by_key(|(prefix, index)| (prefix.length, leads(*index)));
    let is_of_file = |prefix: Prefix| match &snapshot.fib {
        // The kernel's may be longer.
        Some(_) => leads_by(to, snapshot).is_some_and(|way| {
            listed()
                .any(|(other, index)| other == prefix && snapshot.routes.get(index as usize) == Some(&way))
        }),
        None => true,
    };
    let out = name(egress, snapshot);
    match best.filter(|(prefix, _)| is_of_file(*prefix)) {
        Some((prefix, index)) => {
            let via = match snapshot.routes.get(index as usize) {
                Some(Route::Via4 { gateway, .. }) => format!(" via {gateway}"),
                Some(Route::Via6 { gateway, .. }) => format!(" via {gateway}"),
                Some(Route::Connected { .. }) => " directly".to_owned(),
                _ => String::new(),
            };
            let others = listed().filter(|(other, _)| *other == prefix).count();
            let others = if others > 1 { format!(", one of {others}") } else { String::new() };
            Line {
                what: format!("leaves by {out}{via} by the route to {prefix}{others}"),
                places: places.of(&places.routes, index as usize).into_iter().collect(),
            }
        }
        None => {
            let via = match leads_by(to, snapshot) {
                Some(Route::Via4 { gateway, .. }) => format!(" via {gateway}"),
                Some(Route::Via6 { gateway, .. }) => format!(" via {gateway}"),
                _ => String::new(),
            };
            Line { what: format!("leaves by {out}{via} by a route of the kernel"), places: Vec::new() }
        }
    }
}

/// The route in service, if it is a single one.
fn leads_by(to: IpAddr, snapshot: &Snapshot) -> Option<Route> {
    let index = match to {
        IpAddr::V4(to) => snapshot.look_up4(&to.octets()),
        IpAddr::V6(to) => snapshot.look_up6(&to.octets()),
    };
    index.and_then(|index| snapshot.way(index)).map(|way| way.route)
}
