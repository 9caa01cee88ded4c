//! Why a session would not go on as it is, in words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use sluice_dataplane::session::{FlowAction, FlowKey, KeyFacts};
use sluice_dataplane::shadow::{Fate, SessionCopy};
use sluice_dataplane::snapshot::{AclAction, NONE16, Snapshot};
use sluice_dataplane::stage::redecide::{Goes, Why};

use crate::config::protocol_name;
use crate::explain::{Subject, matched};
use crate::state::endpoint;

/// What a session's first packet was like.
fn subject(copy: &SessionCopy) -> Subject {
    let (ends, facts) = match copy.keys[0] {
        Some(FlowKey::V4(key)) => {
            let (ends, facts) = KeyFacts::of4(key);
            (Some(ends.map(|end| Ipv4Addr::from_bits(end).into())), Some(facts))
        }
        Some(FlowKey::V6(key)) => {
            let (ends, facts) = KeyFacts::of6(key);
            (Some(ends.map(|end| Ipv6Addr::from_bits(end).into())), Some(facts))
        }
        None => (None, None),
    };
    Subject {
        interface: facts.map_or(NONE16, |facts| facts.interface),
        protocol: copy.protocol,
        ends,
        ports: facts.map_or([0; 2], |facts| [facts.ports.0, facts.ports.1]),
    }
}

/// The destination that its packets leave with.
fn destination(copy: &SessionCopy, subject: &Subject) -> Option<IpAddr> {
    let (action, [_, came]) = (&copy.actions[0], subject.ends?);
    Some(match came {
        IpAddr::V4(_) if action.is(FlowAction::TO_V6) => match copy.keys[1] {
            // What comes back comes from there.
            Some(FlowKey::V6(key)) => Ipv6Addr::from_bits(KeyFacts::of6(key).0[0]).into(),
            _ => came,
        },
        IpAddr::V4(_) => action.new.destination().into(),
        IpAddr::V6(_) if action.is(FlowAction::TO_V4) => action.new.destination().into(),
        IpAddr::V6(_) if action.is(FlowAction::DESTINATION6) => action.new.v6().into(),
        IpAddr::V6(_) => came,
    })
}

/// Why, and where in the file what matters stands.
pub(super) fn why(
    copy: &SessionCopy,
    fate: &Fate,
    present: &Snapshot,
    next: &Snapshot,
) -> (String, Option<String>) {
    let subject = subject(copy);
    let plain = |words: &str| (words.to_owned(), None);
    match fate.after {
        Err(Why::Denied(index)) => rule(index, next),
        Err(Why::Guard(interface)) => {
            let guard = next.interfaces.get(usize::from(interface)).and_then(|interface| interface.guard);
            let guard = guard.and_then(|guard| next.guards.get(usize::from(guard)));
            let guard = guard.map_or("?", |guard| guard.name.as_str());
            let what = format!("guard {guard} refuses it at {}", name(interface, next));
            (what, next.places.of(&next.places.interfaces, interface.into()))
        }
        Err(Why::Source(egress)) => source(copy, &subject, egress, next),
        Err(Why::Destination) => {
            let place = matched::forward(&subject, next);
            let was_forwarded = matched::forward(&subject, present).is_some();
            let words = match &place {
                Some(_) => "its destination would become another one",
                None if was_forwarded => "nothing forwards it any more",
                None if copy.inbound => "its NAT mapping would not be given out any more",
                None => "it would lead to another destination, or to the gateway itself",
            };
            (words.to_owned(), place)
        }
        Err(Why::Route) => plain("no route would lead to its destination"),
        Err(Why::Owner) => plain("another worker would own it; its next packet makes it again there"),
        Err(Why::Ends) => plain("nobody forwards between its addresses"),
        Err(Why::Answers) => plain("its answers could not be told from those of another session"),
        Err(Why::Gone) => plain("it is gone"),
        Ok(after) if after.answers.is(FlowAction::DENY | FlowAction::REJECT) => {
            rule(after.answers.rule, next)
        }
        Ok(Goes { way: (egress, via), .. }) => {
            let line = destination(copy, &subject).map(|to| matched::route(to, egress, next));
            let before = fate.before.ok().map_or_else(String::new, |before| {
                let (interface, via) = before.way;
                let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
                format!(", before by {}{via}", name(interface, present))
            });
            match line {
                // The next hop of a subnet is the destination itself; of each one a line would be too much.
                Some(line) => (line.what.clone() + &before, line.place()),
                None => (format!("leaves by {} via {via:?}{before}", name(egress, next)), None),
            }
        }
    }
}

fn rule(index: u16, snapshot: &Snapshot) -> (String, Option<String>) {
    let Some(rule) = snapshot.rules.get(usize::from(index)) else { return ("no rule".to_owned(), None) };
    let verb = match rule.action {
        AclAction::Accept => "accepts",
        AclAction::Drop => "drops",
        AclAction::Reject => "rejects",
    };
    let what = format!("rule {}/{} {verb} it ({})", rule.acl, rule.name, rule.text);
    (what, snapshot.places.of(&snapshot.places.rules, index.into()))
}

fn source(copy: &SessionCopy, subject: &Subject, egress: u16, next: &Snapshot) -> (String, Option<String>) {
    let was = &copy.actions[0];
    let by = name(egress, next);
    let (place, gives) = match subject.ends4() {
        Some([source, _]) => {
            let destination = (was.new.destination().to_bits(), was.new.destination_port());
            let (place, is_chosen) = matched::source([source, destination], copy.protocol, egress, next);
            let is_translated = is_chosen || next.statics.outside_of(egress, source.0).is_some();
            (place, is_translated)
        }
        None => {
            let place = matched::nat64(subject, egress, next).or_else(|| matched::prefix(egress, next));
            let gives = place.is_some();
            (place, gives)
        }
    };
    let words = match (&place, gives) {
        (Some(_), true) => format!("it would leave by {by} with another source address or port"),
        (Some(_), false) => format!("it would leave by {by} exempt from NAT"),
        (None, true) => format!("it would leave by {by} with another source address or port"),
        (None, false) => format!("no rule would translate its source where it leaves, by {by}"),
    };
    (words, place)
}

fn name(interface: u16, snapshot: &Snapshot) -> &str {
    snapshot.interfaces.get(usize::from(interface)).map_or("?", |interface| interface.name.as_str())
}

/// A session, for a list.
pub(super) fn session(copy: &SessionCopy, present: &Snapshot) -> Value {
    let subject = subject(copy);
    let end = |which: usize| subject.ends.map(|ends| endpoint(ends[which], subject.ports[which]));
    json!({
        "protocol": protocol_name(copy.protocol),
        "in": name(subject.interface, present),
        "source": end(0),
        "destination": end(1),
        "packets": copy.packets,
        "bytes": copy.bytes,
    })
}
