//! `[[nat.prefix]]`: prefix translation for IPv6. The prefix of `[[nat.nat64]]`.

use std::net::{IpAddr, Ipv6Addr};

use sluice_pkt::nat64::{self, Embedding};
use sluice_pkt::nptv6;

use super::interfaces::Network;
use super::routes::Routes;
use crate::config::model::{Prefix, PrefixNat};
use crate::config::net;
use crate::config::reader::{At, Table, text};
use crate::config::report::{Sink, quote};
use crate::config::schema;
use crate::config::units::Wrong;

/// Most rules of prefix translation: each first packet of IPv6 asks them in turn.
const MOST_PREFIXES: usize = 256;

/// The rules; the span is that of the outside prefix.
pub(super) fn read(nat: &Table<'_>, network: &Network<'_>, sink: &mut Sink<'_>) -> Vec<At<PrefixNat>> {
    let mut rules = Vec::new();
    for table in nat.tables("prefix", &schema::PREFIX_NAT, MOST_PREFIXES, sink) {
        rules.extend(read_rule(&table, network, sink));
    }
    check_overlaps(&rules, sink);
    rules
}

/// Outside prefixes and prefixes of NAT64 share no address.
pub(super) fn check_together(
    rules: &[At<PrefixNat>],
    sources: &[At<crate::config::model::SourceNat>],
    sink: &mut Sink<'_>,
) {
    let used =
        |source: &At<crate::config::model::SourceNat>| Some((source.value.prefix?, source.span.clone()));
    let nat64: Vec<_> = sources.iter().filter_map(used).collect();
    for (later, (prefix, span)) in nat64.iter().enumerate() {
        if let Some(rule) = rules
            .iter()
            .find(|rule| rule.value.outside.overlaps(*prefix) || rule.value.inside.overlaps(*prefix))
        {
            sink.error(
                span,
                format!("the prefix {prefix} of NAT64 shares addresses with a prefix that is translated"),
            )
            .also(&rule.span, format!("{} for {} is here", rule.value.outside, rule.value.inside))
            .help("give each a prefix of its own");
        }
        if let Some((other, at)) =
            nat64[..later].iter().find(|(other, _)| other != prefix && other.overlaps(*prefix))
        {
            sink.error(span, format!("the prefix {prefix} overlaps another of NAT64"))
                .also(at, format!("{other} is here"))
                .help("prefixes are the same, or share no address");
        }
    }
}

fn read_rule(table: &Table<'_>, network: &Network<'_>, sink: &mut Sink<'_>) -> Option<At<PrefixNat>> {
    let out = network.required(table, "out", sink);
    let inside = table.required("inside", "\"fd00:1::/48\"", text(prefix), sink);
    let outside = table.required("outside", "\"2001:db8:1::/48\"", text(prefix), sink);
    let (out, inside, outside) = (out?.value, inside?, outside?);
    let length = inside.value.length.max(outside.value.length);
    if inside.value.length != outside.value.length {
        let shorter = if inside.value.length < length { &inside } else { &outside };
        let used = Prefix { length, ..shorter.value };
        sink.warning(&shorter.span, format!("only {used} of {} is translated", shorter.value))
            .also(
                if shorter.span == inside.span { &outside.span } else { &inside.span },
                "as the other prefix is longer",
            )
            .help(format!("write {}", quote(&used.to_string())));
    }
    let (inside_used, outside_used) = (Prefix { length, ..inside.value }, Prefix { length, ..outside.value });
    if inside_used.overlaps(outside_used) {
        sink.error(&outside.span, format!("the outside prefix {} is the inside one", outside.value))
            .also(&inside.span, "which is here")
            .help("without translation, leave the rule out");
    }
    if let Some((subnet, name, span)) = network.subnet_in(outside_used, out) {
        sink.error(&outside.span, format!("the outside prefix {} holds the subnet {subnet}", outside.value))
            .also(span, format!("of `{name}`"))
            .help("the prefix must be routed to the gateway: its addresses are not answered for by neighbour discovery");
    }
    Some(At { value: PrefixNat { out, inside: inside_used, outside: outside_used }, span: outside.span })
}

fn prefix(text: &str) -> Result<Prefix, Wrong> {
    let prefix = net::prefix(text)?;
    match prefix.address {
        IpAddr::V4(_) => {
            Err(Wrong::new(format!("{} is not of IPv6", quote(text)))
                .help("for IPv4 there is [[nat.source]]"))
        }
        IpAddr::V6(_) if prefix.length > nptv6::LONGEST => {
            Err(Wrong::new(format!("the prefix {prefix} is too long"))
                .help(format!("prefixes of up to {} bits are translated", nptv6::LONGEST)))
        }
        IpAddr::V6(address) if !is_unicast(address) => {
            Err(Wrong::new(format!("{prefix} is no prefix of hosts")).help("such as \"fd00:1::/48\""))
        }
        IpAddr::V6(_) => Ok(prefix),
    }
}

fn is_unicast(address: Ipv6Addr) -> bool {
    let reserved = address.is_unicast_link_local() || address.is_multicast() || address.segments()[0] == 0;
    !reserved
}

/// No outside address may have two inside ones.
fn check_overlaps(rules: &[At<PrefixNat>], sink: &mut Sink<'_>) {
    for (index, At { value: later, span }) in rules.iter().enumerate() {
        if let Some(first) = rules[..index].iter().find(|rule| rule.value.outside.overlaps(later.outside)) {
            sink.error(span, format!("the outside prefix {} is used twice", later.outside))
                .also(&first.span, format!("{} is here", first.value.outside))
                .help("give each rule an outside prefix of its own");
            continue;
        }
        let same =
            |rule: &&At<PrefixNat>| rule.value.out == later.out && rule.value.inside.overlaps(later.inside);
        if let Some(first) = rules[..index].iter().find(same) {
            sink.error(
                span,
                format!("the inside prefix {} leaves by the same interface twice", later.inside),
            )
            .also(&first.span, format!("{} stands for {} here", first.value.outside, first.value.inside))
            .help("an inside address has one outside address at an interface");
        }
    }
}

/// The prefix that IPv4 addresses stand in; the well-known one if none is given.
pub(super) fn nat64_prefix(
    table: &Table<'_>,
    network: &Network<'_>,
    routes: &Routes,
    sink: &mut Sink<'_>,
) -> Option<Prefix> {
    let given = table.one("prefix", text(embedding), sink);
    if given.is_none() && table.has("prefix") {
        return None;
    }
    let well_known = Prefix { address: Ipv6Addr::from_bits(nat64::WELL_KNOWN).into(), length: 96 };
    let prefix = given.as_ref().map_or(well_known, |given| given.value);
    let span = given.map_or(table.span.clone(), |given| given.span);
    for interface in 0..network.interfaces.len() {
        if let Some((subnet, name, at)) = network.subnet_in(prefix, interface) {
            sink.error(&span, format!("the prefix {prefix} shares addresses with the subnet {subnet}"))
                .also(at, format!("of `{name}`"))
                .help("the prefix stands for IPv4 addresses alone: take one that nothing else has");
        }
    }
    if let Some(route) = routes.all.iter().find(|route| prefix.covers(route.value.to)) {
        sink.error(&span, format!("the prefix {prefix} has a route of its own"))
            .also(&route.span, format!("to {}", route.value.to))
            .help("packets to it leave as IPv4, by the routes of IPv4: leave the route out");
    }
    Some(prefix)
}

fn embedding(text: &str) -> Result<Prefix, Wrong> {
    let prefix = net::prefix(text)?;
    let found = match prefix.address {
        IpAddr::V6(address) => {
            Embedding::new(address.to_bits(), prefix.length).filter(|_| is_unicast_or_well_known(address))
        }
        IpAddr::V4(_) => None,
    };
    match found {
        Some(_) => Ok(prefix),
        None => Err(Wrong::new(format!("{} is no prefix for IPv4 addresses (RFC 6052)", quote(text)))
            .help("\"64:ff9b::/96\", or a prefix of yours of 32, 40, 48, 56, 64 or 96 bits, of which bits 64 to 71 are zero")),
    }
}

fn is_unicast_or_well_known(address: Ipv6Addr) -> bool {
    is_unicast(address) || address.segments()[..2] == [0x64, 0xff9b]
}
