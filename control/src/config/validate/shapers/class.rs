//! `[[shapers.NAME.classes]]`: a class by itself, and which packets reach it.

use super::{ancestors, children};
use crate::config::model::{Class, ClassMatch, HostAccounts, Link, PerEnd, PerHost};
use crate::config::reader::{At, Table, boolean, integer, text, text_or_number};
use crate::config::report::{Sink, quote};
use crate::config::units::{self, Wrong};
use crate::config::validate::acls::Acls;
use crate::config::validate::interfaces::Network;
use crate::config::validate::{lint, matches, values};
use crate::config::{dscp, net};

/// Hosts that a class has room for, without `most`.
const HOSTS: u32 = 1024;
/// Longest name of a class.
const LONGEST_NAME: usize = 32;

/// Reads classes of one shaper.
pub(super) struct Reader<'a, 't> {
    pub(super) shaper: usize,
    /// Whether anything waits.
    pub(super) has_rate: bool,
    pub(super) network: &'a Network<'t>,
    pub(super) acls: &'a Acls<'t>,
}

impl Reader<'_, '_> {
    pub(super) fn read(&self, table: &Table<'_>, sink: &mut Sink<'_>) -> Class {
        if !table.has("name") {
            table.missing("name", "\"voice\"", sink);
        }
        let name = table.one("name", text(class_name), sink).map_or(String::new(), |at| at.value);
        if !self.has_rate {
            const NEED: [&str; 16] = [
                "priority",
                "guaranteed",
                "max",
                "weight",
                "burst",
                "per",
                "each-guaranteed",
                "each-max",
                "accounts",
                "most",
                "target",
                "interval",
                "quota",
                "each-quota",
                "period",
                "over-quota",
            ];
            for key in NEED.into_iter().filter(|key| table.has(key)) {
                sink.error(&table.key_span(key), format!("`{key}` means nothing without a rate to share"))
                    .help("give the shaper a `rate`");
            }
        }
        let priority = table.one("priority", integer(0..=u32::from(Class::LAST_PRIORITY)), sink);
        if priority.is_some() && !table.has("max") && self.has_rate {
            sink.error(
                &table.key_span("priority"),
                "a class that goes first could leave nothing to the others",
            )
            .help("say how much it may take, such as `max = \"20 Mbit/s\"`");
        }
        let mut rate = |key| table.one(key, text(units::bit_rate), sink).map(|at| at.value);
        let (guaranteed, max) = (rate("guaranteed"), rate("max"));
        Class {
            name,
            parent: None,
            default: table.one("default", boolean, sink).is_some_and(|at| at.value),
            matches: self.matches(table, sink),
            priority: priority.map_or(Class::LAST_PRIORITY, |at| at.value as u8),
            guaranteed,
            max,
            weight: table.one("weight", integer(1..=1000), sink).map_or(1, |at| at.value as u16),
            burst: table.one("burst", text(units::size), sink).map(|at| at.value),
            per: per(table, sink),
            accounts: accounts(table, sink),
            target: table.one("target", text(units::duration), sink).map(|at| at.value),
            interval: table.one("interval", text(units::duration), sink).map(|at| at.value),
            ecn: table.one("ecn", boolean, sink).is_none_or(|at| at.value),
            mark: table.one("mark", text_or_number(dscp::mark), sink).map(|at| at.value),
            quota: super::quota::read(table, sink),
        }
    }

    fn matches(&self, table: &Table<'_>, sink: &mut Sink<'_>) -> ClassMatch {
        let interfaces = |key, sink: &mut Sink<'_>| {
            let names = table.many(key, text(|text| Ok(text.to_owned())), sink);
            names
                .into_iter()
                .filter_map(|name| Some(At { value: self.network.resolve(&name, sink)?, span: name.span }))
                .collect::<Vec<_>>()
        };
        let egress = interfaces("out", sink);
        for at in &egress {
            let device = match self.network.interfaces[at.value].link {
                Link::Device(_) => at.value,
                Link::Vlan { parent, .. } => parent,
            };
            if device != self.shaper {
                let [name, shaper] =
                    [at.value, self.shaper].map(|index| self.network.interfaces[index].name.as_str());
                sink.error(&at.span, format!("{} does not leave by `{shaper}`", quote(name)))
                    .help(format!("`out` is `{shaper}` or a VLAN of it; where packets come in is `in`"));
            }
        }
        ClassMatch {
            packets: matches::read(table, sink),
            dscp: values(&table.many("dscp", text_or_number(dscp::code_point), sink)),
            ingress: values(&interfaces("in", sink)),
            egress: values(&egress),
            rules: self.rules(table, sink),
        }
    }

    /// The rules of all ACLs that are called so.
    fn rules(&self, table: &Table<'_>, sink: &mut Sink<'_>) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for name in table.many("acl-rule", text(|text| Ok(text.to_owned())), sink) {
            let before = found.len();
            for (number, acl) in self.acls.acls.iter().enumerate() {
                let named = acl.value.rules.iter().enumerate();
                let named = named.filter(|(_, rule)| rule.name.as_ref() == Some(&name.value));
                found.extend(named.map(|(rule, _)| (number, rule)));
            }
            if found.len() == before {
                sink.error(&name.span, format!("no rule of an ACL is called {}", quote(&name.value)))
                    .help("give the rule a `name`");
            }
        }
        found
    }
}

fn class_name(text: &str) -> Result<String, Wrong> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.is_empty() && text.len() <= LONGEST_NAME && text.chars().all(fine) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("{} cannot be the name of a class", quote(text)))
        .help(format!("up to {LONGEST_NAME} letters, digits, '-', '_' or '.'")))
}

fn per(table: &Table<'_>, sink: &mut Sink<'_>) -> Option<PerHost> {
    let end = table.one("per", text(per_end), sink);
    if !table.has("per") {
        let of_per = ["each-guaranteed", "each-max", "most"].into_iter();
        for key in of_per.filter(|key| table.has(key) && (*key != "most" || !table.has("accounts"))) {
            sink.error(&table.key_span(key), format!("`{key}` without `per`"))
                .help("say what is meant by each, such as `per = \"source\"`");
        }
    }
    let mut rate = |key| table.one(key, text(units::bit_rate), sink).map(|at| at.value);
    let (guaranteed, max) = (rate("each-guaranteed"), rate("each-max"));
    if let (Some(least), Some(most)) = (guaranteed, max) {
        if least > most {
            sink.error(&table.key_span("each-guaranteed"), "each is guaranteed more than it may have")
                .also(&table.key_span("each-max"), "what it may have is here")
                .help("`each-guaranteed` is at most `each-max`");
        }
    }
    let (end, bits) = end?.value;
    Some(PerHost { end, bits, guaranteed, max, most: most(table, sink) })
}

fn accounts(table: &Table<'_>, sink: &mut Sink<'_>) -> Option<HostAccounts> {
    let by = table.one("accounts", text(per_end), sink);
    if table.has("accounts") && table.has("per") {
        sink.error(&table.key_span("accounts"), "with `per`, each has an account anyway")
            .help("leave `accounts` out, or `per` if all are to share the class's queues");
        return None;
    }
    let (end, bits) = by?.value;
    Some(HostAccounts { end, bits, most: most(table, sink) })
}

fn most(table: &Table<'_>, sink: &mut Sink<'_>) -> u32 {
    table.one("most", integer(1..=1 << 20), sink).map_or(HOSTS, |at| at.value)
}

/// `source`, `destination`, with the bits that count for IPv4 (up to 32) or IPv6 (more): the other family's are whole
/// addresses, and of IPv6 without bits it is the 64 of a subnet.
fn per_end(text: &str) -> Result<(PerEnd, (u8, u8)), Wrong> {
    let wrong = || {
        Wrong::new(format!("{} does not say which hosts are meant", quote(text)))
            .help("\"source\" or \"destination\", or a prefix such as \"source/24\"")
    };
    let (end, bits) = text.split_once('/').map_or((text, None), |(end, bits)| (end, Some(bits)));
    let end = match end {
        "source" => PerEnd::Source,
        "destination" => PerEnd::Destination,
        _ => return Err(wrong()),
    };
    match bits.map(net::decimal::<u8>) {
        None => Ok((end, (32, 64))),
        Some(Some(bits @ 1..=32)) => Ok((end, (bits, 64))),
        Some(Some(bits @ 33..=128)) => Ok((end, (32, bits))),
        Some(_) => Err(wrong()),
    }
}

/// Every class is there for some packets, and every packet has a class.
pub(super) fn check_reach(classes: &[Class], tables: &[Table<'_>], sink: &mut Sink<'_>) {
    for (index, (class, table)) in classes.iter().zip(tables).enumerate() {
        let has_children = children(classes, Some(index)).next().is_some();
        if class.default && has_children {
            sink.error(&table.key_span("default"), "a class that holds others has no packets of its own")
                .help("let one of the classes in it be the default");
        }
        if has_children && class.per.is_some() {
            sink.error(&table.key_span("per"), "a class that holds others has no packets of its own")
                .help("`per` goes with a class that no other names as its parent");
        }
        if has_children && class.accounts.is_some() {
            sink.error(&table.key_span("accounts"), "a class that holds others has no packets of its own")
                .help("`accounts` goes with a class that no other names as its parent");
        }
        let siblings = || children(classes, class.parent).take_while(|&other| other < index);
        if class.default {
            let alike =
                |&other: &usize| classes[other].default && scope(classes, other) == scope(classes, index);
            if let Some(first) = (0..index).find(alike) {
                sink.error(&table.key_span("default"), "there are two defaults")
                    .also(&tables[first].key_span("default"), "the first is here")
                    .help("one class takes what no other is for");
            }
        } else if !has_children && class.matches.is_any() && !super::quota::leads_to(classes, index) {
            sink.error(&table.span, format!("nothing reaches the class {}", quote(&class.name)))
                .help("say which packets it is for, such as `dscp = \"ef\"`, or `default = true`");
        } else if let Some(first) = siblings().find(|&other| takes_all(classes, other, &class.matches)) {
            sink.error(&table.span, format!("nothing reaches the class {}", quote(&class.name)))
                .also(&tables[first].span, "this one takes them all")
                .help("the first class that fits takes a packet: put the narrower one first");
        }
    }
}

/// The class for whose packets a default is there: the nearest around it that is not for all; none for the device.
fn scope(classes: &[Class], index: usize) -> Option<usize> {
    ancestors(classes, index).find(|&parent| !classes[parent].matches.is_any())
}

/// Whether every session that fits is a class's, or one's within it.
fn takes_all(classes: &[Class], index: usize, narrow: &ClassMatch) -> bool {
    let wide = &classes[index].matches;
    let has = |wide: &[usize], narrow: &[usize]| {
        wide.is_empty() || !narrow.is_empty() && narrow.iter().all(|index| wide.contains(index))
    };
    // One that is for all is a group, a default, or wrong itself.
    !wide.is_any()
        && !classes[index].default
        && lint::covers(&wide.packets, &narrow.packets)
        && has(&wide.ingress, &narrow.ingress)
        && has(&wide.egress, &narrow.egress)
        && (wide.dscp.is_empty()
            || !narrow.dscp.is_empty() && narrow.dscp.iter().all(|value| wide.dscp.contains(value)))
        && (wide.rules.is_empty()
            || !narrow.rules.is_empty() && narrow.rules.iter().all(|rule| wide.rules.contains(rule)))
}
