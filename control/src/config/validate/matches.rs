//! The fields that say which packets an ACL rule or a limit is about.

use super::{ports, prefixes, values};
use crate::config::model::Match;
use crate::config::protocol::{self, ICMP, ICMPV6, IcmpType, TCP, UDP, protocol_name};
use crate::config::reader::{At, Table, text_or_number};
use crate::config::report::{Sink, Span};

/// IP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Families {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
}

/// Reads them. A field that was wrong is left empty, and reported.
pub(super) fn read(table: &Table<'_>, sink: &mut Sink<'_>) -> Match {
    let errors = sink.errors();
    let protocols = table.many("protocol", text_or_number(protocol::protocol), sink);
    let found = Match {
        from: values(&prefixes(table, "from", sink)),
        to: values(&prefixes(table, "to", sink)),
        from_ports: values(&ports(table, "from-port", sink)),
        to_ports: values(&ports(table, "to-port", sink)),
        icmp_types: icmp_types(table, &protocols, sink),
        protocols: values(&protocols),
    };
    if sink.errors() == errors {
        for key in ["from-port", "to-port"].into_iter().filter(|key| table.has(key)) {
            only_with(table, key, &protocols, &[TCP, UDP], sink);
        }
        check_families(table, &found, &protocols, sink);
    }
    found
}

/// Keeps count of what rules become for the data plane: one entry for each combination of their lists' entries.
pub(super) struct Combinations(u64);

impl Combinations {
    /// Most entries of all ACLs, and most of all limits.
    const MOST: u64 = 1 << 18;

    pub(super) fn none() -> Self {
        Self(0)
    }

    /// Adds those of one rule, and says so where they are too many.
    pub(super) fn add(&mut self, matches: &Match, span: &Span, sink: &mut Sink<'_>) {
        let before = self.0;
        let factors = [
            matches.from.len(),
            matches.to.len(),
            matches.from_ports.len(),
            matches.to_ports.len(),
            matches.protocols.len().max(matches.icmp_types.len()),
        ];
        let rule = factors.iter().fold(1u64, |product, &factor| product.saturating_mul(factor.max(1) as u64));
        self.0 = before.saturating_add(rule);
        if before <= Self::MOST && self.0 > Self::MOST {
            sink.error(span, format!("with this rule's {rule}, there are {} combinations of lists", self.0))
                .help(format!("at most {} in all: shorten the lists, or join prefixes", Self::MOST));
        }
    }
}

/// The families of the packets that can match.
pub(super) fn families(matches: &Match) -> Families {
    let mut families = Families { ipv4: true, ipv6: true };
    for prefixes in [&matches.from, &matches.to].into_iter().filter(|prefixes| !prefixes.is_empty()) {
        families.ipv4 &= prefixes.iter().any(|prefix| prefix.is_ipv4());
        families.ipv6 &= prefixes.iter().any(|prefix| !prefix.is_ipv4());
    }
    if !matches.protocols.is_empty() {
        families.ipv4 &= matches.protocols.iter().any(|&protocol| protocol != ICMPV6);
        families.ipv6 &= matches.protocols.iter().any(|&protocol| protocol != ICMP);
    }
    families
}

fn icmp_types(table: &Table<'_>, protocols: &[At<u8>], sink: &mut Sink<'_>) -> Vec<IcmpType> {
    if !table.has("icmp-type") || (protocols.is_empty() && table.has("protocol")) {
        return Vec::new();
    }
    if !only_with(table, "icmp-type", protocols, &[ICMP, ICMPV6], sink) {
        return Vec::new();
    }
    let protocols = values(protocols);
    let types = table.many("icmp-type", text_or_number(|text| protocol::icmp_types(text, &protocols)), sink);
    types.into_iter().flat_map(|at| at.value).collect()
}

/// Whether `protocols` are all among `allowed`, the only ones with which `key` has a meaning; says so if not.
pub(super) fn only_with(
    table: &Table<'_>,
    key: &str,
    protocols: &[At<u8>],
    allowed: &[u8],
    sink: &mut Sink<'_>,
) -> bool {
    let names: Vec<String> =
        allowed.iter().map(|&protocol| format!("\"{}\"", protocol_name(protocol))).collect();
    let help = format!("`{key}` goes with `protocol = {}`, or a list of both", names.join("` or `"));
    if protocols.is_empty() {
        sink.error(&table.key_span(key), format!("`{key}` without a protocol")).help(help);
        return false;
    }
    let other = protocols.iter().find(|protocol| !allowed.contains(&protocol.value));
    if let Some(At { value, span }) = other {
        sink.error(&table.key_span(key), format!("`{key}` means nothing for {}", protocol_name(*value)))
            .also(span, "the protocol is here")
            .help(help);
    }
    other.is_none()
}

/// A rule that no packet can match, because its fields are of different families, is a mistake.
fn check_families(table: &Table<'_>, found: &Match, protocols: &[At<u8>], sink: &mut Sink<'_>) {
    let all = families(found);
    if all.ipv4 || all.ipv6 {
        return;
    }
    let addresses = families(&Match { protocols: Vec::new(), ..found.clone() });
    if !addresses.ipv4 && !addresses.ipv6 {
        sink.error(&table.key_span("to"), "`from` and `to` are of different IP versions")
            .help("no packet has addresses of both: write a rule for each");
        return;
    }
    let span: Span = protocols.first().map_or(table.key_span("protocol"), |at| at.span.clone());
    let (here, right) = if addresses.ipv4 { ("IPv4", "icmp") } else { ("IPv6", "icmpv6") };
    sink.error(&span, format!("the addresses are of {here}, the protocol is not"))
        .help(format!("write `protocol = \"{right}\"`"));
}
