//! Commits: another configuration taken in as a whole or not at all, to be confirmed or undone by itself, with a history to go
//! back in.
//!
//! What runs, and what waits to be confirmed, is on disk before the workers have it, so that a control that comes back knows
//! what to undo. `run FILE` starts with its FILE, but for one case: a commit that was not confirmed in time is not started
//! again ([`Keeper::at_start`]).

pub mod api;
pub mod cli;
mod history;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::history::{Entry, Pending, Standing, Store};
use crate::diff::{self, Diff, Loaded};
use crate::export::wall;
use crate::reload::Outcome;

/// Lines of a history entry's summary.
const SUMMARY: usize = 20;
/// How long a commit may wait to be confirmed, at most.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What adopts configurations: the data plane.
pub trait Adopts {
    /// Takes in a configuration, all of it or nothing; returns what there is to say.
    ///
    /// # Errors
    /// Why not, in words; then nothing has changed.
    fn adopt(&mut self, name: &str, text: &str) -> Result<Vec<String>, String>;

    /// What became of the sessions, once, when all of them are decided by what was adopted last.
    fn settled(&mut self) -> Option<Outcome>;
}

/// What the keeper can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// What runs: its file's name and text.
    Running,
    /// Every commit that is known.
    History,
    /// What this file would change.
    Diff {
        /// The file's name.
        file: String,
        /// What is in it.
        text: String,
    },
    /// Another configuration.
    Commit {
        /// The file's name.
        file: String,
        /// What is in it.
        text: String,
        /// Why.
        comment: Option<String>,
        /// It is undone after so many seconds, unless it is confirmed.
        confirm: Option<u64>,
    },
    /// The commit that waits stays.
    Confirm,
    /// Back to this commit, or else the one before.
    Rollback(Option<u64>),
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The configuration, or the question, is wrong.
    Wrong(String),
    /// It does not fit what is going on.
    Conflict(String),
}

impl Refusal {
    /// In words.
    pub fn words(&self) -> &str {
        match self {
            Self::Wrong(words) | Self::Conflict(words) => words,
        }
    }
}

/// An answer.
pub type Answer = Result<Value, Refusal>;

/// A question with who asks (the user's number), and where the answer goes.
pub struct Job {
    /// The user.
    pub uid: u32,
    /// The question.
    pub ask: Ask,
    /// Called once.
    pub reply: Box<dyn FnOnce(Answer) + Send>,
}

/// Where jobs are handed in.
pub type Desk = Sender<Job>;

/// Keeps what runs and what ran, and does what it is asked for, one after the other.
pub struct Keeper {
    /// The file that `run` was given.
    file: PathBuf,
    socket_of_config: bool,
    store: Store,
    running: Loaded,
    /// A commit that waits to be confirmed, and until when.
    pending: Option<(Pending, Instant)>,
    jobs: Receiver<Job>,
    waiting: VecDeque<Job>,
    under_way: Option<UnderWay>,
    hung_up: bool,
}

struct UnderWay {
    entry: Entry,
    said: Vec<String>,
    reply: Option<Box<dyn FnOnce(Answer) + Send>>,
}

/// What `run` starts with.
#[derive(Debug)]
pub struct Start {
    /// The name and the text of the configuration, if it is another than the file's.
    pub instead: Option<(String, String)>,
    /// What there is to say.
    pub lines: Vec<String>,
}

/// What is to be started, given what is on disk and what is in the file that `run` was given: the file, but for a commit that
/// was not confirmed in time. `now` in seconds since 1970.
pub fn at_start(store: &mut Store, file: &Path, text: &str, now: u64) -> Start {
    let mut start = Start { instead: None, lines: store.complaints() };
    let name = file.display();
    match store.pending().cloned() {
        Some(Pending { id, back_to, deadline }) if store.text(id).as_deref() == Some(text) => {
            if deadline > now {
                let left = deadline - now;
                start.lines.push(format!("{name}: it is commit {id}, which waits to be confirmed: it is undone in {left} s unless `sluice confirm` comes"));
            } else if let Some(good) = store.text(back_to) {
                store.stand(id, Standing::Undone);
                store.set_pending(None);
                let what =
                    store.entry(back_to).map_or_else(String::new, |entry| format!(" ({})", entry.file));
                start.lines.push(format!(
                    "{name}: it is commit {id}, which was not confirmed in time; commit {back_to}{what} runs instead, until \
                     there is another file to start with"
                ));
                start.instead = Some((format!("commit {back_to}"), good));
            } else {
                start.lines.push(format!("{name}: it is commit {id}, which was not confirmed in time; commit {back_to} cannot be read, so it runs nevertheless"));
                store.set_pending(None);
            }
        }
        Some(Pending { id, .. }) => {
            store.stand(id, Standing::Undone);
            store.set_pending(None);
            start.lines.push(format!("{name}: it starts in place of commit {id}, which was not confirmed"));
        }
        None => {}
    }
    let ran = store.last().map(|entry| entry.id);
    if let (None, Some(id)) = (&start.instead, ran) {
        if store.text(id).is_some_and(|ran| ran != text) {
            start.lines.push(format!(
                "{name}: it differs from commit {id}, which ran last; `sluice rollback {id}` brings that back"
            ));
        }
    }
    start
}

impl Keeper {
    /// For a gateway that has been started with this, from the file that `run` was given.
    pub fn new(
        file: PathBuf,
        running: Loaded,
        socket_of_config: bool,
        mut store: Store,
        now: Instant,
    ) -> (Self, Desk) {
        let (desk, jobs) = channel();
        let at = seconds();
        let is_known = store
            .last()
            .map(|entry| entry.id)
            .and_then(|id| store.text(id))
            .is_some_and(|text| text == running.text);
        if !is_known {
            let entry = Entry { time: at, how: "start".into(), file: running.file.clone(), ..store.next() };
            store.add(entry, &running.text);
        }
        let pending = store.pending().cloned().map(|pending| {
            let left = Duration::from_secs(pending.deadline.saturating_sub(at)).min(LONGEST);
            (pending, now + left)
        });
        let (waiting, under_way, hung_up) = (VecDeque::new(), None, false);
        (Self { file, socket_of_config, store, running, pending, jobs, waiting, under_way, hung_up }, desk)
    }

    /// The file that `run` was given is to be committed.
    pub fn hang_up(&mut self) {
        self.hung_up = true;
    }

    /// Goes on; to be called every 20 ms or so. Returns what there is to say.
    pub fn go_on(&mut self, plane: &mut dyn Adopts, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        self.waiting.extend(self.jobs.try_iter());
        if let Some(outcome) = plane.settled() {
            lines.extend(self.finish(outcome));
        }
        if self.under_way.is_some() {
            return lines;
        }
        if let Some((pending, _)) = self.pending.clone().filter(|(_, until)| *until <= now) {
            lines.extend(self.undo(&pending, plane, now));
        } else if std::mem::take(&mut self.hung_up) {
            lines.extend(self.reload(plane, now));
        } else if let Some(Job { uid, ask, reply }) = self.waiting.pop_front() {
            match self.answer(uid, ask, plane, now) {
                Ok(Done::Said(value)) => reply(Ok(value)),
                Ok(Done::Begun(said)) => {
                    lines.extend(said);
                    if let Some(under_way) = &mut self.under_way {
                        under_way.reply = Some(reply);
                    }
                }
                Err(refusal) => reply(Err(refusal)),
            }
        }
        lines
    }

    fn answer(&mut self, uid: u32, ask: Ask, plane: &mut dyn Adopts, now: Instant) -> Result<Done, Refusal> {
        Ok(Done::Said(match ask {
            Ask::Running => json!({
                "file": self.running.file,
                "commit": self.store.last().map(|entry| entry.id),
                "pending": self.pending_words(now),
                "text": self.running.text,
            }),
            Ask::History => json!({ "pending": self.pending_words(now), "entries": self.store.entries() }),
            Ask::Diff { file, text } => {
                let (next, warnings) = load(&file, &text)?;
                let mut value = json!(self.diff(&next));
                value["against"] = self.running.file.clone().into();
                value["warnings"] = json!(warnings);
                value
            }
            Ask::Commit { file, text, comment, confirm } => {
                self.check_pending(now)?;
                let entry = Entry { uid: Some(uid), how: "commit".into(), comment, ..self.store.next() };
                return self
                    .begin(entry, &file, &text, confirm.map(Duration::from_secs), plane, now)
                    .map(Done::Begun);
            }
            Ask::Confirm => {
                let Some((Pending { id, .. }, _)) = self.pending.take() else {
                    return Err(Refusal::Conflict("no commit waits to be confirmed".into()));
                };
                self.store.stand(id, Standing::Confirmed);
                self.store.set_pending(None);
                json!({ "commit": id, "standing": Standing::Confirmed, "said": self.hints(&self.running) })
            }
            Ask::Rollback(to) => {
                let to = match (to, &self.pending) {
                    (Some(to), _) => to,
                    (None, Some((pending, _))) => pending.back_to,
                    (None, None) => self.store.before_last().ok_or_else(|| {
                        Refusal::Conflict(
                            "there is no commit before the one that runs; see `sluice history`".into(),
                        )
                    })?,
                };
                let text = self.store.text(to).ok_or_else(|| {
                    Refusal::Wrong(format!(
                        "there is no commit {to}; `sluice history` lists those that are kept"
                    ))
                })?;
                let file = self.store.entry(to).map_or_else(String::new, |entry| entry.file.clone());
                let entry = Entry { uid: Some(uid), how: format!("rollback to {to}"), ..self.store.next() };
                let begun = self.begin(entry, &file, &text, None, plane, now)?;
                self.let_go();
                return Ok(Done::Begun(begun));
            }
        }))
    }

    /// Has a configuration adopted. What waits to be confirmed is on disk before.
    fn begin(
        &mut self,
        entry: Entry,
        file: &str,
        text: &str,
        confirm: Option<Duration>,
        plane: &mut dyn Adopts,
        now: Instant,
    ) -> Result<Vec<String>, Refusal> {
        let (next, _) = load(file, text)?;
        let diff = self.diff(&next);
        if let Some(what) = &diff.restart {
            return Err(Refusal::Wrong(format!(
                "{file}: not adopted, all stays as it was: {what}; restart to change that"
            )));
        }
        let back_to = self.store.last().map_or(0, |entry| entry.id);
        let standing = if confirm.is_some() { Standing::Pending } else { Standing::Confirmed };
        let changes = diff.summary(SUMMARY);
        let entry = Entry { time: seconds(), file: file.to_owned(), changes, standing, ..entry };
        let pending = confirm.map(|time| {
            let time = time.clamp(Duration::from_secs(1), LONGEST);
            (Pending { id: entry.id, back_to, deadline: seconds() + time.as_secs() }, now + time)
        });
        if let Some((pending, _)) = &pending {
            self.store.add(entry.clone(), text);
            self.store.set_pending(Some(pending.clone()));
            let complaints = self.store.complaints();
            if let Some(complaint) = complaints.first() {
                self.store.forget(entry.id);
                let words =
                    format!("not adopted, as it could not be undone if control died meanwhile: {complaint}");
                return Err(Refusal::Conflict(words));
            }
        }
        match plane.adopt(file, text) {
            Ok(mut said) => {
                if pending.is_none() {
                    self.store.add(entry.clone(), text);
                } else {
                    self.pending = pending;
                }
                said.extend(self.store.complaints());
                self.running = next;
                self.under_way = Some(UnderWay { entry, said: said.clone(), reply: None });
                Ok(said)
            }
            Err(words) => {
                if pending.is_some() {
                    self.store.forget(entry.id);
                }
                Err(Refusal::Wrong(words))
            }
        }
    }

    /// Every session is decided.
    fn finish(&mut self, outcome: Outcome) -> Option<String> {
        let UnderWay { entry, mut said, reply } = self.under_way.take()?;
        let entry = self.store.settle(entry.id, outcome).unwrap_or(entry);
        said.extend(self.hints(&self.running));
        if let Some(reply) = reply {
            let mut value = json!(entry);
            value["said"] = json!(said);
            reply(Ok(value));
        }
        Some(outcome.words(&entry.file))
    }

    /// The time of a commit is up.
    fn undo(&mut self, pending: &Pending, plane: &mut dyn Adopts, now: Instant) -> Vec<String> {
        let Pending { id, back_to, .. } = *pending;
        let entry = Entry { how: format!("rollback to {back_to}"), ..self.store.next() };
        let file = self.store.entry(back_to).map_or_else(String::new, |entry| entry.file.clone());
        let entry = Entry { comment: Some(format!("commit {id} was not confirmed in time")), ..entry };
        let text = self.store.text(back_to).unwrap_or_default();
        match self.begin(entry, &file, &text, None, plane, now) {
            Ok(mut said) => {
                self.let_go();
                said.insert(0, format!("commit {id} was not confirmed in time: back to commit {back_to}"));
                said
            }
            Err(refusal) => {
                // The workers may be busy for a moment. It goes on trying.
                if let Some((_, until)) = &mut self.pending {
                    *until = now + Duration::from_secs(1);
                }
                vec![format!(
                    "commit {id} was not confirmed in time, and cannot be undone yet: {}",
                    refusal.words()
                )]
            }
        }
    }

    /// Commits the file that `run` was given.
    fn reload(&mut self, plane: &mut dyn Adopts, now: Instant) -> Vec<String> {
        let name = self.file.display().to_string();
        let refused = |refusal: Refusal| vec![refusal.words().to_owned()];
        if let Err(refusal) = self.check_pending(now) {
            return refused(refusal);
        }
        let text = match std::fs::read(&self.file).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => {
                return vec![format!("{name}: not adopted, all stays as it was: it is not UTF-8 text")];
            }
            Err(error) => {
                return vec![format!(
                    "{name}: not adopted, all stays as it was: cannot read the file: {error}"
                )];
            }
        };
        let entry = Entry { how: "reload".into(), ..self.store.next() };
        self.begin(entry, &name, &text, None, plane, now).unwrap_or_else(refused)
    }

    fn diff(&self, next: &Loaded) -> Diff {
        diff::between(&self.running, next, self.socket_of_config)
    }

    /// What waited to be confirmed is undone.
    fn let_go(&mut self) {
        if let Some((Pending { id, .. }, _)) = self.pending.take() {
            self.store.stand(id, Standing::Undone);
            self.store.set_pending(None);
        }
    }

    fn check_pending(&self, now: Instant) -> Result<(), Refusal> {
        let Some((Pending { id, .. }, until)) = &self.pending else { return Ok(()) };
        let left = until.saturating_duration_since(now).as_secs();
        Err(Refusal::Conflict(format!(
            "not adopted: commit {id} waits to be confirmed for {left} s more; `sluice confirm` or `sluice rollback` first"
        )))
    }

    fn pending_words(&self, now: Instant) -> Value {
        self.pending.as_ref().map_or(Value::Null, |(Pending { id, back_to, .. }, until)| {
            let left = until.saturating_duration_since(now).as_secs();
            json!({ "commit": id, "back_to": back_to, "seconds_left": left })
        })
    }

    /// What an operator would be surprised by at the next start.
    fn hints(&self, running: &Loaded) -> Vec<String> {
        let name = self.file.display();
        match std::fs::read_to_string(&self.file) {
            Ok(text) if text == running.text => Vec::new(),
            _ => vec![format!(
                "the next start, and a reload, will take {name}, which is not what runs now: put it there to keep it"
            )],
        }
    }
}

/// Seconds since 1970.
pub fn seconds() -> u64 {
    wall::now() / 1_000_000
}

enum Done {
    Said(Value),
    /// The answer comes when all sessions are decided.
    Begun(Vec<String>),
}

fn load(file: &str, text: &str) -> Result<(Loaded, Vec<String>), Refusal> {
    match Loaded::new(file, text) {
        Ok((loaded, warnings)) => Ok((loaded, warnings.iter().map(ToString::to_string).collect())),
        Err(report) => Err(Refusal::Wrong(format!("{file}: not adopted, all stays as it was:\n{report}"))),
    }
}

#[cfg(test)]
mod tests;
