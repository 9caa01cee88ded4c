//! First packets that came of late, as the configuration that runs and another one would decide them: through the real pipeline, with
//! tables that are empty, as `sluice explain` does it.

use serde_json::{Value, json};
use sluice_dataplane::firsts::First;
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::steps::{Step, Steps};
use sluice_dataplane::verdict::{DropReason, Verdict};

use crate::explain::Trial;
use crate::words;

/// Packets that are listed.
const LISTED: usize = 10;
/// The longest packet that is tried.
const LONGEST: u16 = 1900;

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    passes: bool,
    what: String,
    place: Option<String>,
}

/// Decides them twice. What differs is listed, up to ten.
pub(super) fn decide(firsts: &[First], present: &Snapshot, next: &Snapshot) -> Result<Value, String> {
    let [mut unchanged, mut let_pass, mut denied, mut otherwise] = [0u64; 4];
    let mut changed = Vec::new();
    let room = firsts.len() as u32 * 2;
    let (mut old, mut new) = (Trial::new(present, room)?, Trial::new(next, room)?);
    for first in firsts {
        let is_short = first.len <= LONGEST && usize::from(first.port) < present.ports.len();
        let mut frame = first.bytes().to_vec();
        frame.resize(usize::from(first.len).max(frame.len()), 0);
        let port = usize::from(first.port);
        let tried = is_short.then(|| Some((old.run(port, &frame)?, new.run(port, &frame)?))).flatten();
        let Some((before, after)) = tried else { continue };
        let (before, after) = (outcome(&before, present), outcome(&after, next));
        let count = match (before.passes, after.passes) {
            _ if before.what == after.what => &mut unchanged,
            (false, true) => &mut let_pass,
            (true, false) => &mut denied,
            _ => &mut otherwise,
        };
        *count += 1;
        if before.what != after.what && changed.len() < LISTED {
            changed.push(json!({
                "packet": words::summary(first.bytes()),
                "before": before.what,
                "after": after.what,
                "where": after.place,
            }));
        }
    }
    for trial in [old, new] {
        trial.close();
    }
    let packets = unchanged + let_pass + denied + otherwise;
    Ok(json!({
        "packets": packets,
        "unchanged": unchanged,
        "let_pass": let_pass,
        "denied": denied,
        "otherwise": otherwise,
        "changed": changed,
    }))
}

fn outcome(steps: &Steps, snapshot: &Snapshot) -> Outcome {
    // What comes after the packet's end says nothing of it.
    let live = steps.0.iter().take_while(|step| step.live).count();
    let Some(last) = steps.0.get(live).or(steps.0.last()) else {
        return Outcome { passes: false, what: "nothing".to_owned(), place: None };
    };
    let decided = steps.0.iter().filter_map(|step| step.decision).next_back();
    let index = decided.map_or(usize::MAX, |decision| decision.rule.into());
    let rule = snapshot.rules.get(index);
    let rule = rule.map(|rule| format!(" by rule {}/{}", rule.acl, rule.name)).unwrap_or_default();
    let place = snapshot.places.of(&snapshot.places.rules, index);
    let dead = |verb: &str, reason: DropReason| {
        let by_rule = reason == DropReason::AclDeny;
        Outcome {
            passes: false,
            what: format!("{verb} as {}{}", reason.name(), if by_rule { rule.as_str() } else { "" }),
            place: place.clone().filter(|_| by_rule),
        }
    };
    match last.verdict {
        Verdict::Drop(reason) => dead("dropped", reason),
        Verdict::Reject(reason, _) => dead("rejected", reason),
        Verdict::Forward => Outcome { passes: true, what: leaves(last, steps, snapshot), place },
        _ => Outcome { passes: true, what: "taken in by the gateway".to_owned(), place: None },
    }
}

/// By which interface it leaves, and with which source.
fn leaves(last: &Step, steps: &Steps, snapshot: &Snapshot) -> String {
    let decided = steps.0.iter().filter_map(|step| step.decision).next_back();
    let egress = last.egress.map(|egress| egress.interface);
    let egress = egress.or(decided.map(|decision| decision.egress));
    let interface = egress.and_then(|egress| snapshot.interfaces.get(usize::from(egress)));
    let name = interface.map_or("?", |interface| interface.name.as_str());
    let nat = decided.filter(|decision| decision.rewritten || decision.binding != u32::MAX);
    let source = nat.filter(|decision| !decision.inbound).map(|decision| decision.src.0);
    let source = source.map(|source| format!(" from {}", std::net::Ipv4Addr::from_bits(source)));
    format!("leaves by {name}{}", source.unwrap_or_default())
}
