//! What the stages did, in words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use sluice_dataplane::snapshot::{AclAction, NONE16, Route, Snapshot};
use sluice_dataplane::stage::Decision;
use sluice_dataplane::stage::prefix::Change;
use sluice_dataplane::steps::Step;
use sluice_dataplane::verdict::Verdict;

use super::Packet;
use crate::words;

/// Tells the way of a packet; each line is a stage that had something to say.
pub(super) fn tell(steps: &[Step], packet: &Packet, snapshot: &Snapshot, file: Option<&str>) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut decided: Option<Decision> = None;
    let mut before: Option<&Step> = None;
    for step in steps {
        let was_live = before.is_none_or(|before| before.live);
        let rule = step.decision.map_or(NONE16, |decision| decision.rule);
        let place = (step.stage == "acl").then(|| place(rule, snapshot, file)).flatten();
        let said = match (step.stage, step.decision) {
            _ if !was_live => None,
            ("acl", Some(decision)) => Some(acl(&decision, packet, snapshot)),
            (stage, Some(decision)) => of_decision(stage, decided.as_ref(), &decision, packet, snapshot),
            ("rewrite" | "mss", None) => before.and_then(|before| changes(&before.bytes, &step.bytes)),
            _ => None,
        };
        // Where it ends, it is said why.
        let end = (was_live && !step.live).then(|| fate(step.verdict)).flatten();
        let said = match (said, end) {
            (Some(said), Some(end)) => Some(format!("{said}; {end}")),
            (said, end) => said.or(end),
        };
        if let Some(said) = said {
            let stage = step.stage.trim_end_matches("_decide").replace('_', " ");
            lines.push(json!({ "stage": stage, "what": said, "where": place }));
        }
        decided = step.decision.or(decided);
        before = Some(step);
    }
    lines
}

/// The line of a rule in the configuration.
fn place(rule: u16, snapshot: &Snapshot, file: Option<&str>) -> Option<String> {
    let line = snapshot.rule_lines.get(usize::from(rule)).filter(|line| **line > 0)?;
    Some(file.map_or_else(|| format!("line {line}"), |file| format!("{file}:{line}")))
}

fn acl(decision: &Decision, packet: &Packet, snapshot: &Snapshot) -> String {
    match snapshot.rules.get(usize::from(decision.rule)) {
        Some(rule) => {
            let verb = match rule.action {
                AclAction::Accept => "accepts it",
                AclAction::Drop => "drops it",
                AclAction::Reject => "rejects it",
            };
            format!("rule {}/{} {verb} ({})", rule.acl, rule.name, rule.text)
        }
        None => format!("{} has no ACL", name(packet.interface, snapshot)),
    }
}

fn of_decision(
    stage: &str,
    old: Option<&Decision>,
    new: &Decision,
    packet: &Packet,
    snapshot: &Snapshot,
) -> Option<String> {
    let old_of = |of: fn(&Decision) -> (u32, u16)| old.map(of);
    let end = |(address, port): (u32, u16)| match port {
        0 => Ipv4Addr::from_bits(address).to_string(),
        port => format!("{}:{port}", Ipv4Addr::from_bits(address)),
    };
    match stage {
        "nat_destination" => match new.prefix {
            Change::Destination(to) => Some(format!("destination becomes {}", Ipv6Addr::from_bits(to))),
            _ if new.inbound => Some(format!("a NAT binding takes it to {}", end(new.dst))),
            _ if new.forwarded => Some(format!("destination becomes {}", end(new.dst))),
            _ => None,
        },
        "nat_source" => match new.prefix {
            Change::Source(to) => Some(format!("source becomes {}", Ipv6Addr::from_bits(to))),
            _ if packet.ends[0].is_ipv6() => None,
            _ => {
                let was = match packet.ends[0] {
                    IpAddr::V4(source) => (source.to_bits(), packet.ports[0]),
                    IpAddr::V6(_) => (0, 0),
                };
                let changed = new.src.0 != 0 && new.src.0 != was.0 && old_of(|old| old.src) != Some(new.src);
                let only_now = changed.then(|| {
                    format!("source becomes {} (a port of now; others are as likely)", end(new.src))
                });
                only_now.or_else(|| {
                    Some("no rule translates its source".to_owned())
                        .filter(|_| !snapshot.source_nat.is_empty())
                })
            }
        },
        "route_decide" if new.egress != NONE16 && old.map(|old| old.egress) != Some(new.egress) => {
            Some(route(new, packet, snapshot))
        }
        "class" => {
            let limits =
                new.limits[0].of.into_iter().filter_map(|limit| snapshot.limits.get(usize::from(limit)));
            let limits: Vec<&str> = limits.map(|limit| limit.name.as_str()).collect();
            let class = snapshot.classes.get(usize::from(new.classes[0]));
            let limits = (!limits.is_empty()).then(|| format!("limited by {}", limits.join(" and ")));
            let class = class.map(|class| format!("leaves in class {}", class.name));
            let said: Vec<String> = limits.into_iter().chain(class).collect();
            (!said.is_empty()).then(|| said.join("; "))
        }
        _ => None,
    }
}

/// The route that leads out.
fn route(decision: &Decision, packet: &Packet, snapshot: &Snapshot) -> String {
    let to = match (decision.prefix, packet.ends[1]) {
        (Change::Destination(to), IpAddr::V6(_)) => IpAddr::from(Ipv6Addr::from_bits(to)),
        (_, IpAddr::V4(_)) if decision.dst.0 != 0 => Ipv4Addr::from_bits(decision.dst.0).into(),
        (_, other) => other,
    };
    let index = match to {
        IpAddr::V4(to) => snapshot.routes4.lookup(&to.octets()),
        IpAddr::V6(to) => snapshot.routes6.lookup(&to.octets()),
    };
    let via = match index.and_then(|index| snapshot.routes.get(index as usize)) {
        Some(Route::Via4 { gateway, .. }) => format!(" via {gateway}"),
        Some(Route::Via6 { gateway, .. }) => format!(" via {gateway}"),
        Some(Route::Connected { .. }) => " directly".to_owned(),
        _ => String::new(),
    };
    let prefix = snapshot.route_list.iter().filter(|(_, route)| Some(*route) == index);
    let covers = |(prefix, _): &&(String, u32)| covers(prefix, to);
    let longest = prefix.filter(covers).max_by_key(|(prefix, _)| length(prefix));
    let by = longest.map(|(prefix, _)| format!(" by the route to {prefix}")).unwrap_or_default();
    format!("leaves by {}{via}{by}", name(decision.egress, snapshot))
}

fn length(prefix: &str) -> u8 {
    prefix.split_once('/').and_then(|(_, length)| length.parse().ok()).unwrap_or(0)
}

fn covers(prefix: &str, address: IpAddr) -> bool {
    let Some((network, _)) = prefix.split_once('/') else { return false };
    let length = u32::from(length(prefix));
    match (network.parse(), address) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(address)) => {
            (network.to_bits() ^ address.to_bits()).checked_shr(32 - length.min(32)).unwrap_or(0) == 0
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(address)) => {
            (network.to_bits() ^ address.to_bits()).checked_shr(128 - length.min(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// What a stage changed in the packet.
fn changes(before: &[u8], after: &[u8]) -> Option<String> {
    let fields = words::diff(before, after);
    let change = |field: &words::FieldDifference| {
        let [old, new] = [&field.expected, &field.got].map(|value| value.as_deref().unwrap_or("none"));
        format!("{} {old} -> {new}", field.field)
    };
    // Checksums follow from the rest.
    let fields = fields.iter().filter(|field| !field.field.contains("checksum"));
    let said: Vec<String> = fields.map(change).collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// What becomes of a packet that goes no further.
fn fate(verdict: Verdict) -> Option<String> {
    Some(match verdict {
        Verdict::Forward => return None,
        Verdict::Local => "is for the gateway itself".to_owned(),
        Verdict::PortControl(_) => "is a request about mappings, and answered".to_owned(),
        Verdict::Hold(_) => "waits for its next hop to be resolved".to_owned(),
        Verdict::HoldSyn => "waits six seconds for a connection from inside, and is refused then".to_owned(),
        Verdict::Ask(_) => "goes to the worker that owns its session".to_owned(),
        Verdict::AwaitFragments => "waits for other fragments of its datagram".to_owned(),
        Verdict::Drop(reason) => {
            format!("dropped as {}: {} {}", reason.name(), reason.describe(), reason.advice())
        }
        Verdict::Reject(reason, _) => {
            format!(
                "rejected as {}, its sender is told: {} {}",
                reason.name(),
                reason.describe(),
                reason.advice()
            )
        }
    })
}

/// The name of an interface.
fn name(interface: u16, snapshot: &Snapshot) -> &str {
    snapshot.interfaces.get(usize::from(interface)).map_or("?", |interface| interface.name.as_str())
}
