//! What the stages did, in words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use sluice_dataplane::session::{FlowAction, NO_LIMIT};
use sluice_dataplane::snapshot::{AclAction, NONE16, Snapshot};
use sluice_dataplane::stage::Decision;
use sluice_dataplane::stage::prefix::Change;
use sluice_dataplane::steps::Step;
use sluice_dataplane::verdict::Verdict;

use super::matched;
use crate::words;

/// What of a packet the words hang on.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// The interface (index) that it comes in by, or [`NONE16`].
    pub interface: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Source and destination address; of packets that are not IP none.
    pub ends: Option<[IpAddr; 2]>,
    /// Source and destination port of TCP and UDP.
    pub ports: [u16; 2],
}

impl Subject {
    /// The ends of a packet of IPv4.
    pub(crate) fn ends4(&self) -> Option<[(u32, u16); 2]> {
        match self.ends? {
            [IpAddr::V4(source), IpAddr::V4(destination)] => {
                Some([(source.to_bits(), self.ports[0]), (destination.to_bits(), self.ports[1])])
            }
            _ => None,
        }
    }
}

/// What a stage did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// In words.
    pub what: String,
    /// Where that which matched stands.
    pub places: Vec<String>,
}

impl Line {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), places: Vec::new() }
    }

    fn at(mut self, place: Option<String>) -> Self {
        self.places.extend(place);
        self
    }

    /// The places, as one string.
    pub fn place(&self) -> Option<String> {
        (!self.places.is_empty()).then(|| self.places.join(", "))
    }
}

/// The way of a packet, told step by step.
pub struct Story<'a> {
    subject: Subject,
    snapshot: &'a Snapshot,
    decided: Option<Decision>,
    /// Whether it is still under way, and its bytes as the stage before left them.
    live: bool,
    bytes: Vec<u8>,
}

/// Tells the way of a packet; each line is a stage that had something to say.
pub(super) fn tell(steps: &[Step], subject: Subject, snapshot: &Snapshot) -> Vec<Value> {
    let mut story = Story::new(subject, snapshot, &[]);
    let told = steps.iter().filter_map(|step| {
        let line = story.step(step)?;
        Some(json!({ "stage": stage_name(step.stage), "what": line.what, "where": line.place() }))
    });
    told.collect()
}

/// What a stage is called.
pub fn stage_name(stage: &str) -> String {
    stage.trim_end_matches("_decide").replace('_', " ")
}

impl<'a> Story<'a> {
    /// Of a packet that came in with these bytes.
    pub fn new(subject: Subject, snapshot: &'a Snapshot, came: &[u8]) -> Self {
        Self { subject, snapshot, decided: None, live: true, bytes: came.to_vec() }
    }

    /// What a stage did, if it did something.
    pub fn step(&mut self, step: &Step) -> Option<Line> {
        let was_live = std::mem::replace(&mut self.live, step.live);
        let said = match (step.stage, step.decision) {
            // What the class marks is marked when all else is done.
            ("mark", _) => self.changes(step).map(Line::new),
            _ if !was_live => None,
            ("parse", None) => self.interface(step.interface),
            ("acl", Some(decision)) => Some(self.acl(&decision)),
            (_, Some(decision)) => self.of_decision(step.stage, &decision),
            ("flow", None) if step.known => Some(self.known(&step.action)),
            ("forward", None) if step.known => {
                let line = self.known(&step.action);
                let changed = self.changes(step).map(|changes| format!("; {changes}"));
                Some(Line { what: line.what + &changed.unwrap_or_default(), ..line })
            }
            ("rewrite" | "mss", None) => self.changes(step).map(Line::new),
            _ => None,
        };
        if !step.bytes.is_empty() {
            self.bytes.clone_from(&step.bytes);
        }
        self.decided = step.decision.or(self.decided);
        // Where it ends, it is said why.
        let end = (was_live && !step.live).then(|| fate(step.verdict)).flatten();
        match (said, end) {
            (Some(said), Some(end)) => Some(Line { what: format!("{}; {end}", said.what), ..said }),
            (said, end) => said.or(end.map(Line::new)),
        }
    }

    fn interface(&self, interface: u16) -> Option<Line> {
        let known = self.snapshot.interfaces.get(usize::from(interface))?;
        let places = &self.snapshot.places;
        let place = places.of(&places.interfaces, interface.into());
        Some(Line::new(format!("comes in by {}", known.name)).at(place))
    }

    fn acl(&self, decision: &Decision) -> Line {
        match self.snapshot.rules.get(usize::from(decision.rule)) {
            Some(_) => self.rule(decision.rule),
            None => Line::new(format!("{} has no ACL", name(self.subject.interface, self.snapshot))),
        }
    }

    fn rule(&self, index: u16) -> Line {
        let places = &self.snapshot.places;
        let Some(rule) = self.snapshot.rules.get(usize::from(index)) else { return Line::new("no ACL rule") };
        let verb = match rule.action {
            AclAction::Accept => "accepts it",
            AclAction::Drop => "drops it",
            AclAction::Reject => "rejects it",
        };
        Line::new(format!("rule {}/{} {verb} ({})", rule.acl, rule.name, rule.text))
            .at(places.of(&places.rules, index.into()))
    }

    /// What is known of a flow that has a session.
    fn known(&self, action: &FlowAction) -> Line {
        let mut line = Line::new("its session is known");
        if action.rule != NONE16 {
            let rule = self.rule(action.rule);
            line.what.push_str(&format!(": {}", rule.what));
            line.places.extend(rule.places);
        }
        let limits = action.limits.into_iter().filter(|&limit| limit != NO_LIMIT);
        for part in [self.limits(limits), self.class(action.class)].into_iter().flatten() {
            line.what.push_str(&format!("; {}", part.what));
            line.places.extend(part.places);
        }
        line
    }

    fn limits(&self, limits: impl Iterator<Item = u8>) -> Option<Line> {
        let places = &self.snapshot.places;
        let mut line = Line::new("");
        let mut names = Vec::new();
        for limit in limits.map(usize::from) {
            if let Some(known) = self.snapshot.limits.get(limit) {
                names.push(known.name.as_str());
                line.places.extend(places.of(&places.limits, limit));
            }
        }
        line.what = format!("limited by {}", names.join(" and "));
        (!names.is_empty()).then_some(line)
    }

    fn class(&self, class: u16) -> Option<Line> {
        let known = self.snapshot.classes.get(usize::from(class))?;
        let places = &self.snapshot.places;
        let place = places.of(&places.classes, class.into());
        Some(Line::new(format!("leaves in class {}", known.name)).at(place))
    }

    fn of_decision(&self, stage: &str, new: &Decision) -> Option<Line> {
        let (subject, snapshot, old) = (&self.subject, self.snapshot, self.decided.as_ref());
        let end = |(address, port): (u32, u16)| match port {
            0 => Ipv4Addr::from_bits(address).to_string(),
            port => format!("{}:{port}", Ipv4Addr::from_bits(address)),
        };
        match stage {
            "nat_destination" => match new.prefix {
                Change::Destination(to) => {
                    let line = Line::new(format!("destination becomes {}", Ipv6Addr::from_bits(to)));
                    Some(line.at(matched::prefix(subject.interface, snapshot)))
                }
                _ if new.inbound => Some(Line::new(format!("a NAT binding takes it to {}", end(new.dst)))),
                _ if new.forwarded => {
                    let line = Line::new(format!("destination becomes {}", end(new.dst)));
                    Some(line.at(matched::forward(subject, snapshot)))
                }
                _ => None,
            },
            "nat_source" => self.source(new, old, end),
            "route_decide" if new.egress != NONE16 && old.map(|old| old.egress) != Some(new.egress) => {
                let to = match (new.prefix, subject.ends?[1]) {
                    (Change::Destination(to), IpAddr::V6(_)) => IpAddr::from(Ipv6Addr::from_bits(to)),
                    (_, IpAddr::V4(_)) if new.dst.0 != 0 => Ipv4Addr::from_bits(new.dst.0).into(),
                    (_, other) => other,
                };
                Some(matched::route(to, new.egress, snapshot))
            }
            "class" => {
                let limits = self.limits(new.limits[0].of.into_iter());
                match (limits, self.class(new.classes[0])) {
                    (Some(mut limits), Some(class)) => {
                        limits.what.push_str(&format!("; {}", class.what));
                        limits.places.extend(class.places);
                        Some(limits)
                    }
                    (limits, class) => limits.or(class),
                }
            }
            _ => None,
        }
    }

    /// What source NAT did.
    fn source(
        &self,
        new: &Decision,
        old: Option<&Decision>,
        end: impl Fn((u32, u16)) -> String,
    ) -> Option<Line> {
        let (subject, snapshot) = (&self.subject, self.snapshot);
        match new.prefix {
            Change::Source(to) => {
                let line = Line::new(format!("source becomes {}", Ipv6Addr::from_bits(to)));
                Some(line.at(matched::prefix(new.egress, snapshot)))
            }
            _ if new.src.0 != 0 && subject.ends4().is_none() => {
                let line = Line::new(format!("source becomes {} (NAT64)", end(new.src)));
                Some(line.at(matched::nat64(subject, new.egress, snapshot)))
            }
            _ => {
                let was = subject.ends4()?[0];
                let is_changed =
                    new.src.0 != 0 && new.src.0 != was.0 && old.map(|old| old.src) != Some(new.src);
                let (place, is_chosen) =
                    matched::source([was, new.dst], subject.protocol, new.egress, snapshot);
                if is_changed {
                    let chance = if is_chosen { " (a port of now; others are as likely)" } else { "" };
                    return Some(Line::new(format!("source becomes {}{chance}", end(new.src))).at(place));
                }
                let has_nat = !snapshot.source_nat.is_empty() || !snapshot.statics.is_empty();
                let what =
                    if place.is_some() { "is exempt from NAT" } else { "no rule translates its source" };
                has_nat.then(|| Line::new(what).at(place))
            }
        }
    }

    /// What a stage changed in the packet.
    fn changes(&self, step: &Step) -> Option<String> {
        if self.bytes.is_empty() || step.bytes.is_empty() || self.bytes == step.bytes {
            return None;
        }
        let fields = words::diff(&self.bytes, &step.bytes);
        let change = |field: &words::FieldDifference| {
            let [old, new] = [&field.expected, &field.got].map(|value| value.as_deref().unwrap_or("none"));
            format!("{} {old} -> {new}", field.field)
        };
        // Checksums follow from the rest.
        let fields = fields.iter().filter(|field| !field.field.contains("checksum"));
        let said: Vec<String> = fields.map(change).collect();
        (!said.is_empty()).then(|| said.join(", "))
    }
}

/// What becomes of a packet that goes no further.
pub(super) fn fate(verdict: Verdict) -> Option<String> {
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
pub(super) fn name(interface: u16, snapshot: &Snapshot) -> &str {
    snapshot.interfaces.get(usize::from(interface)).map_or("?", |interface| interface.name.as_str())
}
