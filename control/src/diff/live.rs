//! What another configuration would do to the sessions there are: each is decided anew aside, as a worker would once the
//! configuration were committed; and so are the first packets that were sampled last.
//!
//! The workers copy their sessions out as for any listing, a few between two bursts. All else is done by the thread that answers,
//! which is not a worker's, one worker's sessions after the other's.

mod firsts;
mod tell;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use sluice_dataplane::fib::Writer;
use sluice_dataplane::inspect::{Question, Row};
use sluice_dataplane::session::FlowAction;
use sluice_dataplane::shadow::{Fate, SessionCopy, Shadow};
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::stage::redecide::{Goes, Why};

use crate::reload::Tried;
use crate::state::State;

/// The largest sessions that are listed of those that would not go on as they are.
const TOP: usize = 10;
/// Reasons that are listed.
const REASONS: usize = 100;
/// Sessions for which there is room besides those that a worker had a moment ago.
const MORE: u64 = 4096;

/// What would come of a session, in kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Effect {
    /// It goes on as it is.
    Unchanged,
    /// It goes on, by another way.
    Rerouted,
    /// It goes on, but its answers are not let pass any more.
    AnswersDenied,
    /// It ends: a rule or the guard of its interface does not let it pass.
    Denied,
    /// It ends: it would have another source, or lead to another destination.
    Remapped,
    /// It ends for another reason.
    Ended,
}

impl Effect {
    const ALL: [Self; 6] =
        [Self::Denied, Self::Remapped, Self::Ended, Self::AnswersDenied, Self::Rerouted, Self::Unchanged];

    const fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Rerouted => "rerouted",
            Self::AnswersDenied => "answers_denied",
            Self::Denied => "denied",
            Self::Remapped => "remapped",
            Self::Ended => "ended_otherwise",
        }
    }

    /// What there is to say of sessions of which this becomes.
    fn words(name: &str) -> &'static str {
        match name {
            "denied" => "would be denied, and end",
            "remapped" => "would be mapped to other addresses or ports, and end",
            "ended_otherwise" => "would end for another reason",
            "answers_denied" => "would go on, but their answers be denied",
            "rerouted" => "would go on by another way",
            _ => "would go on as they are",
        }
    }

    /// Of a session.
    fn of(fate: &Fate) -> Self {
        match fate.after {
            Err(Why::Denied(_) | Why::Guard(_)) => Self::Denied,
            Err(Why::Source(_) | Why::Destination) => Self::Remapped,
            Err(Why::Gone | Why::Ends | Why::Owner | Why::Route | Why::Answers) => Self::Ended,
            Ok(after) => {
                let are_denied = |goes: &Goes| goes.answers.is(FlowAction::DENY | FlowAction::REJECT);
                match fate.before {
                    _ if are_denied(&after) && !fate.before.is_ok_and(|before| are_denied(&before)) => {
                        Self::AnswersDenied
                    }
                    Ok(before) if before.way != after.way => Self::Rerouted,
                    _ => Self::Unchanged,
                }
            }
        }
    }
}

/// What is said of sessions, and of how many.
#[derive(Default)]
struct Sum {
    sessions: u64,
    bytes: u64,
}

/// What has been found out so far.
#[derive(Default)]
struct Sums {
    effects: HashMap<Effect, Sum>,
    reasons: HashMap<(Effect, String, Option<String>), Sum>,
    /// By bytes, the smallest first.
    top: BinaryHeap<Reverse<(u64, usize)>>,
    rows: Vec<Value>,
    /// Sessions for which there was no room.
    left_out: u64,
}

impl Sums {
    fn add(&mut self, copy: &SessionCopy, fate: &Fate, present: &Snapshot, next: &Snapshot) {
        let effect = Effect::of(fate);
        let sum = self.effects.entry(effect).or_default();
        (sum.sessions, sum.bytes) = (sum.sessions + 1, sum.bytes + copy.bytes);
        if effect == Effect::Unchanged {
            return;
        }
        let (why, place) = tell::why(copy, fate, present, next);
        let is_large = self.top.len() < TOP || self.top.peek().is_some_and(|least| least.0.0 < copy.bytes);
        if is_large {
            let mut row = tell::session(copy, present);
            (row["effect"], row["why"]) = (effect.name().into(), why.clone().into());
            row["where"] = place.clone().into();
            self.top.push(Reverse((copy.bytes, self.rows.len())));
            self.rows.push(row);
            if self.top.len() > TOP {
                self.top.pop();
            }
        }
        let sum = self.reasons.entry((effect, why, place)).or_default();
        (sum.sessions, sum.bytes) = (sum.sessions + 1, sum.bytes + copy.bytes);
    }

    fn value(mut self) -> Value {
        let mut value = json!({ "sessions_left_out": self.left_out });
        let mut all = 0;
        for effect in Effect::ALL {
            let sessions = self.effects.get(&effect).map_or(0, |sum| sum.sessions);
            value[effect.name()] = sessions.into();
            all += sessions;
        }
        value["sessions"] = all.into();
        let mut reasons: Vec<_> = self.reasons.into_iter().collect();
        reasons.sort_by_key(|((effect, why, _), sum)| (Reverse(sum.sessions), *effect, why.clone()));
        let reason = |((effect, why, place), sum): ((Effect, String, Option<String>), Sum)| {
            json!({
                "effect": effect.name(),
                "sessions": sum.sessions,
                "bytes": sum.bytes,
                "why": why,
                "where": place,
            })
        };
        value["reasons"] = reasons.into_iter().take(REASONS).map(reason).collect();
        let mut top: Vec<_> = std::mem::take(&mut self.top).into_iter().map(|Reverse(top)| top).collect();
        top.sort_unstable_by_key(|&(bytes, row)| (Reverse(bytes), row));
        value["top"] =
            top.into_iter().filter_map(|(_, row)| self.rows.get(row).cloned()).collect::<Vec<_>>().into();
        value
    }
}

impl State {
    /// What a configuration would do to the sessions there are, and to the first packets that were sampled last.
    ///
    /// # Errors
    /// A worker does not answer, sessions are still being decided by the last change, or there is no memory.
    pub fn live_diff(&self, tried: Tried) -> Result<Value, String> {
        let begun = Instant::now();
        let Tried { snapshot: mut next, routes } = tried;
        if let Some(followed) = self.followed_routes() {
            let best = followed.lock().best_with(routes);
            let count = |is_ipv4: bool| best.iter().filter(|(to, ..)| to.is_ipv4() == is_ipv4).count();
            // Nobody reads it but this thread.
            let mut writer =
                Writer::new([count(true), count(false)], 0).map_err(|error| error.to_string())?;
            for (address, length, ways) in best {
                // What finds no room would find none in service either.
                let _ = writer.set(address, length, &ways);
            }
            writer.publish();
            next.fib = Some(writer.fib());
        }
        let (present, next) = (self.snapshot(), Arc::new(next));
        let by_worker = self.sessions_by_worker();
        let workers = by_worker.len();
        let (mut sums, mut firsts) = (Sums::default(), Vec::new());
        for (worker, sessions) in by_worker.into_iter().enumerate() {
            let room = (sessions + sessions / 8 + MORE).min(present.sizes.sessions.into()) as u32;
            let shadow = Shadow::new(&present, room, worker, workers);
            let mut shadow = shadow.map_err(|error| format!("there is no memory for it: {error}"))?;
            let mut is_settled = true;
            self.ask_worker(worker, Question::Copies, |row| {
                if let Row::Copy(copy) = row {
                    is_settled &= copy.policy == present.generation;
                    sums.left_out += u64::from(!shadow.insert(&copy));
                }
            })?;
            if !is_settled {
                return Err(
                    "sessions are still being decided by the last commit; try again in a second".into()
                );
            }
            shadow.decide(&present, &next, |copy, fate| sums.add(copy, &fate, &present, &next));
            self.ask_worker(worker, Question::Firsts, |row| {
                if let Row::First(first) = row {
                    firsts.push(first);
                }
            })?;
        }
        let mut value = sums.value();
        value["first_packets"] = firsts::decide(&firsts, &present, &next)?;
        value["milliseconds"] = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).into();
        Ok(value)
    }
}

/// The answer on a terminal.
pub fn render(value: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let place = |row: &Value| row["where"].as_str().map(|place| format!("  [{place}]")).unwrap_or_default();
    let rows = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut out = format!("{} sessions, decided anew:\n", value["sessions"]);
    for effect in Effect::ALL {
        let name = effect.name();
        out.push_str(&format!("  {:>8} {}\n", value[name].as_u64().unwrap_or(0), Effect::words(name)));
        for row in rows(&value["reasons"]).iter().filter(|row| row["effect"] == name) {
            out.push_str(&format!("           {:>8} {}{}\n", row["sessions"], text(&row["why"]), place(row)));
        }
    }
    if let Some(left_out @ 1..) = value["sessions_left_out"].as_u64() {
        out.push_str(&format!("  {left_out:>8} not looked at, as they came meanwhile\n"));
    }
    let top = rows(&value["top"]);
    if !top.is_empty() {
        out.push_str("the largest of those that would not go on as they are:\n");
    }
    for row in top {
        out.push_str(&format!(
            "  {} {} in {}: {} > {}, {} bytes: {}{}\n",
            text(&row["effect"]),
            text(&row["protocol"]),
            text(&row["in"]),
            text(&row["source"]),
            text(&row["destination"]),
            row["bytes"],
            text(&row["why"]),
            place(&row),
        ));
    }
    let firsts = &value["first_packets"];
    out.push_str(&format!(
        "{} first packets of late, decided anew: {} as before, {} would now be let pass, {} no longer, {} otherwise\n",
        firsts["packets"], firsts["unchanged"], firsts["let_pass"], firsts["denied"], firsts["otherwise"]
    ));
    for row in rows(&firsts["changed"]) {
        out.push_str(&format!(
            "  {}: {}; now: {}\n",
            text(&row["packet"]),
            text(&row["before"]),
            text(&row["after"])
        ));
    }
    out
}

#[cfg(test)]
mod tests;
