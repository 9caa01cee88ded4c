//! Warnings: what is valid, but probably not meant.

use std::net::IpAddr;

use super::acls::Acls;
use super::earlier::Earlier;
use super::guards::Guards;
use super::interfaces::Network;
use super::lists::Lists;
use super::matches::families;
use super::nat::Nat;
use crate::config::model::{Acl, Action, Forward, IcmpType, Link, Match, PortRange, Prefix, Rule};
use crate::config::protocol::protocol_name;
use crate::config::report::{Sink, quote};

/// Bounds the comparisons of rules with rules: beyond it, a huge configuration gets fewer warnings, not a long wait.
struct Budget(u64);

impl Budget {
    fn spend(&mut self, comparisons: usize) -> bool {
        let left = self.0.checked_sub(comparisons as u64);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// Warns about a configuration without errors.
pub(super) fn all(
    network: &Network<'_>,
    acls: &Acls<'_>,
    (guards, lists): (&Guards<'_>, &Lists<'_>),
    nat: &Nat,
    sink: &mut Sink<'_>,
) {
    let budget = &mut Budget(20_000_000);
    hidden_rules(acls, budget, sink);
    hidden_sources(nat, budget, sink);
    denied_forwards(network, acls, nat, budget, sink);
    unused(network, acls, sink);
    unused_guards(network, guards, lists, sink);
}

/// A rule that an earlier one takes every packet from.
fn hidden_rules(acls: &Acls<'_>, budget: &mut Budget, sink: &mut Sink<'_>) {
    for (acl, spans) in acls.acls.iter().zip(&acls.rule_spans) {
        let rules = &acl.value.rules;
        let mut before = Earlier::default();
        for (index, later) in rules.iter().enumerate() {
            let candidates = before.candidates(&later.matches);
            if !budget.spend(candidates.len() / 8) {
                return;
            }
            let mut is_hidden = false;
            for number in candidates {
                let (Some(earlier), Some(span)) = (rules.get(number), spans.get(number)) else { continue };
                if !budget.spend(cost(&earlier.matches, &later.matches)) {
                    return;
                }
                if (later.established || !earlier.established) && covers(&earlier.matches, &later.matches) {
                    let Some(hidden) = spans.get(index) else { continue };
                    sink.warning(hidden, "no packet reaches this rule")
                        .also(span, "this one takes them all")
                        .help("the first rule that matches decides: put the narrower one first, or leave it out");
                    is_hidden = true;
                    break;
                }
            }
            // What such a rule would hide is hidden by the same that hides it.
            if !is_hidden {
                before.add(index, &later.matches);
            }
        }
    }
}

/// A source NAT rule that an earlier one takes every packet from.
fn hidden_sources(nat: &Nat, budget: &mut Budget, sink: &mut Sink<'_>) {
    for (index, later) in nat.sources.iter().enumerate() {
        for earlier in &nat.sources[..index] {
            if !budget.spend(1 + earlier.value.from.len() * later.value.from.len()) {
                return;
            }
            let alike = earlier.value.prefix == later.value.prefix;
            if alike
                && earlier.value.out == later.value.out
                && covers_prefixes(&earlier.value.from, &later.value.from)
            {
                sink.warning(&later.span, "no packet reaches this source NAT rule")
                    .also(&earlier.span, "this one takes them all")
                    .help("the first rule that matches decides: put the narrower one first, or leave it out");
                break;
            }
        }
    }
}

/// A forward whose packets the ACL of its interface lets none of in. ACLs see packets before destination NAT.
fn denied_forwards(
    network: &Network<'_>,
    acls: &Acls<'_>,
    nat: &Nat,
    budget: &mut Budget,
    sink: &mut Sink<'_>,
) {
    for forward in &nat.forwards {
        let interface = &network.interfaces[forward.value.interface];
        let Some(acl) = interface.acl.and_then(|acl| acls.acls.get(acl)) else { continue };
        for &protocol in &forward.value.protocols {
            let Some(admitted) = admits(&acl.value, protocol, &forward.value, budget) else { return };
            if !admitted {
                let Forward { address, ports, .. } = &forward.value;
                let protocol = protocol_name(protocol);
                sink.warning(&forward.span, format!("the ACL {} lets none of these packets in", quote(&acl.value.name)))
                    .also(&acl.span, "it is here")
                    .help(format!(
                        "it sees them before the address is translated: accept protocol {protocol}, to {address}, to-port {ports}"
                    ));
                break;
            }
        }
    }
}

/// Whether the ACL may let a new packet of the forward in, from some source; `None`: the budget is spent.
fn admits(acl: &Acl, protocol: u8, forward: &Forward, budget: &mut Budget) -> Option<bool> {
    let packets = Match {
        protocols: vec![protocol],
        to: vec![Prefix { address: IpAddr::V4(forward.address), length: 32 }],
        to_ports: vec![forward.ports],
        ..Match::default()
    };
    for Rule { matches, established, action, .. } in &acl.rules {
        if !budget.spend(cost(matches, &packets)) {
            return None;
        }
        if *established || !may_match(matches, &packets) {
            continue;
        }
        if *action == Action::Accept {
            return Some(true);
        }
        if covers(matches, &packets) {
            return Some(false);
        }
    }
    Some(acl.default == Action::Accept)
}

/// Whether some packet may match both; `packets` has one protocol, one destination and one range of ports.
fn may_match(rule: &Match, packets: &Match) -> bool {
    let fits = |list: &[Prefix], other: &[Prefix]| {
        list.is_empty() || list.iter().any(|a| other.iter().any(|b| a.overlaps(*b)))
    };
    families(rule).ipv4
        && rule.icmp_types.is_empty()
        && (rule.protocols.is_empty()
            || packets.protocols.iter().any(|protocol| rule.protocols.contains(protocol)))
        && fits(&rule.to, &packets.to)
        && (rule.to_ports.is_empty()
            || rule.to_ports.iter().any(|a| packets.to_ports.iter().any(|b| a.overlaps(*b))))
}

fn unused_guards(network: &Network<'_>, guards: &Guards<'_>, lists: &Lists<'_>, sink: &mut Sink<'_>) {
    for (index, list) in lists.lists.iter().enumerate() {
        if !guards.guards.iter().any(|guard| guard.value.lists.contains(&index)) {
            sink.warning(&list.span, format!("no guard uses the list {}", quote(&list.value.name)))
                .help(format!("add `lists = \"{}\"` to one, or leave it out", list.value.name));
        }
    }
    for (index, guard) in guards.guards.iter().enumerate() {
        if !network.interfaces.iter().any(|interface| interface.guard == Some(index)) {
            sink.warning(&guard.span, format!("no interface uses the guard {}", quote(&guard.value.name)))
                .help(format!("add `guard = \"{}\"` to one, or leave it out", guard.value.name));
        }
    }
}

/// ACLs that no interface names, and interfaces that carry nothing.
fn unused(network: &Network<'_>, acls: &Acls<'_>, sink: &mut Sink<'_>) {
    let mut used = vec![false; acls.acls.len()];
    let mut carries = vec![false; network.interfaces.len()];
    for (index, interface) in network.interfaces.iter().enumerate() {
        if let Some(used) = interface.acl.and_then(|acl| used.get_mut(acl)) {
            *used = true;
        }
        carries[index] |= interface.from_kernel || !interface.addresses.is_empty();
        if let Link::Vlan { parent, .. } = interface.link {
            if let Some(carries) = carries.get_mut(parent) {
                *carries = true;
            }
        }
    }
    for (acl, _) in acls.acls.iter().zip(used).filter(|(_, used)| !used) {
        sink.warning(&acl.span, format!("no interface uses the ACL {}", quote(&acl.value.name)))
            .help(format!("add `acl = \"{}\"` to one, or leave it out", acl.value.name));
    }
    for ((interface, span), _) in
        network.interfaces.iter().zip(&network.spans).zip(carries).filter(|(_, used)| !used)
    {
        sink.warning(span, format!("`{}` has neither an address nor a VLAN", interface.name))
            .help("without one, it takes part in nothing: add `address`");
    }
}

/// Comparisons that [`covers`] may take.
fn cost(a: &Match, b: &Match) -> usize {
    1 + a.from.len() * b.from.len()
        + a.to.len() * b.to.len()
        + a.from_ports.len() * b.from_ports.len()
        + a.to_ports.len() * b.to_ports.len()
        + a.icmp_types.len() * b.icmp_types.len()
        + a.protocols.len() * b.protocols.len()
}

/// Whether every packet that `narrow` matches is known to match `wide`.
pub(super) fn covers(wide: &Match, narrow: &Match) -> bool {
    let (wide_families, narrow_families) = (families(wide), families(narrow));
    let ports = |wide: &[PortRange], narrow: &[PortRange]| {
        wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(|n| wide.iter().any(|w| w.covers(*n))))
    };
    let types = |wide: &[IcmpType], narrow: &[IcmpType]| {
        wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(|n| wide.iter().any(|w| w.covers(*n))))
    };
    (wide_families.ipv4 || !narrow_families.ipv4)
        && (wide_families.ipv6 || !narrow_families.ipv6)
        && (wide.protocols.is_empty()
            || (!narrow.protocols.is_empty() && narrow.protocols.iter().all(|p| wide.protocols.contains(p))))
        && covers_prefixes(&wide.from, &narrow.from)
        && covers_prefixes(&wide.to, &narrow.to)
        && ports(&wide.from_ports, &narrow.from_ports)
        && ports(&wide.to_ports, &narrow.to_ports)
        && types(&wide.icmp_types, &narrow.icmp_types)
}

fn covers_prefixes(wide: &[Prefix], narrow: &[Prefix]) -> bool {
    wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(|n| wide.iter().any(|w| w.covers(*n))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::Config;

    use super::*;

    fn prefixes() -> impl Strategy<Value = Vec<Prefix>> {
        let prefix =
            (0..4u8, prop::sample::select(vec![0, 8, 9, 32]), any::<bool>()).prop_map(|(top, length, v4)| {
                let address: IpAddr = if v4 {
                    [top << 6, 0, 0, 1].into()
                } else {
                    [u16::from(top) << 14, 0, 0, 0, 0, 0, 0, 1].into()
                };
                Prefix { address, length }.network()
            });
        prop::collection::vec(prefix, 0..3)
    }

    proptest! {
        #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(200) })]
        #[test]
        fn whatever_covers_a_rule_is_a_candidate(lists in prop::collection::vec((prefixes(), prefixes()), 1..12)) {
            let rules: Vec<Match> =
                lists.into_iter().map(|(from, to)| Match { from, to, ..Match::default() }).collect();
            let mut earlier = Earlier::default();
            for (number, later) in rules.iter().enumerate() {
                let found = earlier.candidates(later);
                prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
                for (before, rule) in rules[..number].iter().enumerate() {
                    prop_assert!(!covers(rule, later) || found.contains(&before));
                }
                earlier.add(number, later);
            }
        }
    }
}
