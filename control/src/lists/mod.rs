//! Lists of prefixes while a gateway runs: their files, which are read again when they change, and what is blocked by hand for
//! a time. What comes of either is another generation, so that sessions with prefixes that are new end.

pub mod api;
pub mod cli;
mod file;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use sluice_dataplane::snapshot::Guard;
use sluice_dataplane::snapshot::lists::{self, Lists, PrefixSets};

use self::file::Stamp;
use crate::config::{self, BY_HAND, List, ListKind, Prefix};

/// Entries that can be blocked by hand.
const MOST_ENTRIES: usize = 100_000;
/// The longest time to live: a year.
const LONGEST: u64 = 366 * 86_400;

/// A prefix that is blocked by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    prefix: Prefix,
    /// Seconds since 1970.
    until: Option<u64>,
    note: Option<String>,
}

/// The same, as another process is told: the prefix, seconds, and why.
pub type ByHand = (String, Option<u64>, Option<String>);

/// The file of a list.
#[derive(Debug, Default)]
struct Source {
    file: Option<PathBuf>,
    /// As it was when it was looked at last, and when it was read.
    seen: Option<Stamp>,
    read: Option<Stamp>,
    prefixes: Vec<Prefix>,
    /// When that was read, seconds since 1970.
    at: Option<u64>,
    wrong: usize,
    error: Option<String>,
}

impl Source {
    fn of(list: &List) -> Self {
        Self { file: list.file.clone(), ..Self::default() }
    }

    /// Reads the file. What there is to say.
    fn read(&mut self, name: &str, now: u64) -> Option<String> {
        let path = self.file.as_deref()?;
        self.read = Stamp::of(path).ok();
        self.seen = self.read;
        let shown = path.display();
        match file::read(path) {
            Ok(content) => {
                let (prefixes, wrong) = (content.prefixes.len(), content.wrong);
                (self.prefixes, self.wrong, self.at, self.error) = (content.prefixes, wrong, Some(now), None);
                let besides = content.first_wrong.map_or_else(String::new, |line| {
                    format!("; {wrong} lines are no prefixes, the first is line {line}")
                });
                Some(format!("lists.{name}: {prefixes} prefixes from {shown}{besides}"))
            }
            Err(error) => {
                let keeps = match self.prefixes.len() {
                    0 => "nothing is in it".to_owned(),
                    kept => format!("its {kept} prefixes stay as they were"),
                };
                let said = format!("lists.{name}: {shown}: {error}; {keeps}");
                self.error = Some(error);
                Some(said)
            }
        }
    }

    /// Whether the file has changed, and is not just being written.
    fn has_changed(&mut self) -> bool {
        let Some(path) = self.file.as_deref() else { return false };
        let now = Stamp::of(path).ok();
        let is_quiet = now == self.seen;
        self.seen = now;
        is_quiet && now.is_some() && now != self.read
    }
}

/// Keeps the lists of a gateway.
#[derive(Debug, Default)]
pub struct Keeper {
    lists: Vec<List>,
    sources: Vec<Source>,
    entries: Vec<Entry>,
    made: Lists,
    /// Entries have come or gone since they were handed out.
    changed: bool,
    has_guards: bool,
}

/// The lists of a configuration with their files, to take the place of others.
#[derive(Debug)]
pub struct Next {
    lists: Vec<List>,
    sources: Vec<Source>,
    made: Lists,
    has_guards: bool,
}

impl Next {
    /// As a worker reads them.
    pub fn made(&self) -> Lists {
        self.made.clone()
    }
}

impl Keeper {
    /// Of a configuration; reads the files. And what there is to say.
    pub fn open(config: &config::Config, now: u64) -> (Self, Vec<String>) {
        let mut keeper = Self::default();
        let (next, said) = keeper.next(config, now);
        keeper.take(next);
        (keeper, said)
    }

    /// The lists as they are.
    pub fn lists(&self) -> Lists {
        self.made.clone()
    }

    /// The lists of another configuration. Files are read if one of them is another.
    pub fn next(&self, config: &config::Config, now: u64) -> (Next, Vec<String>) {
        let has_guards = !config.guards.is_empty();
        let mut said = Vec::new();
        let mut sources: Vec<Source> = config.lists.iter().map(Source::of).collect();
        for (list, source) in config.lists.iter().zip(&mut sources) {
            let known = self.sources.iter().find(|known| known.file.is_some() && known.file == source.file);
            match known {
                Some(known) => {
                    source.prefixes.clone_from(&known.prefixes);
                    (source.seen, source.read, source.at) = (known.seen, known.read, known.at);
                    (source.wrong, source.error) = (known.wrong, known.error.clone());
                }
                None => said.extend(source.read(&list.name, now)),
            }
        }
        let made = match self.lists == config.lists && !self.made.names.is_empty() {
            true => self.made.clone(),
            false => make(&config.lists, &sources, self.made.added.clone()),
        };
        (Next { lists: config.lists.clone(), sources, made, has_guards }, said)
    }

    /// Those take the place of these.
    pub fn take(&mut self, next: Next) {
        let Next { lists, sources, made, has_guards } = next;
        (self.lists, self.sources, self.made, self.has_guards) = (lists, sources, made, has_guards);
    }

    /// Looks whether files have changed or entries are over. What is to be adopted then, and what there is to say.
    pub fn look(&mut self, now: u64) -> (Option<Lists>, Vec<String>) {
        let mut said = Vec::new();
        let mut has_read = false;
        for (list, source) in self.lists.iter().zip(&mut self.sources) {
            if source.has_changed() {
                said.extend(source.read(&list.name, now));
                has_read |= source.error.is_none();
            }
        }
        if has_read {
            self.made = make(&self.lists, &self.sources, self.made.added.clone());
        }
        let entries = self.entries.len();
        self.entries.retain(|entry| entry.until.is_none_or(|until| until > now));
        self.changed |= self.entries.len() != entries;
        let has_changed = std::mem::take(&mut self.changed);
        if has_changed {
            let prefixes = self.entries.iter().map(|entry| (entry.prefix.address, entry.prefix.length, 0));
            self.made.added = Arc::new(PrefixSets::new(prefixes).unwrap_or_default());
        }
        ((has_read || has_changed).then(|| self.made.clone()), said)
    }

    /// What a guard blocks of these lists, for the XDP program.
    pub fn verdicts(&self, guard: &Guard) -> Vec<(IpAddr, u8, bool)> {
        let added = self.entries.iter().map(|entry| (entry.prefix.address, entry.prefix.length, 0));
        let fixed = self.lists.iter().zip(&self.sources).zip(1..).flat_map(|((list, source), number)| {
            let prefixes = list.prefixes.iter().chain(&source.prefixes);
            prefixes.map(move |prefix| (prefix.address, prefix.length, number))
        });
        lists::verdicts(added.chain(fixed), guard).unwrap_or_default()
    }

    /// Blocks a prefix, for some seconds if it is said for how long; one that is blocked already gets this time and note.
    ///
    /// # Errors
    /// In words: it is no prefix, or cannot be blocked.
    pub fn add(
        &mut self,
        prefix: &str,
        seconds: Option<u64>,
        note: Option<String>,
        now: u64,
    ) -> Result<Value, String> {
        let prefix = parse(prefix)?;
        if !self.has_guards {
            return Err("no interface has a guard, and only these have lists; see `[guard.NAME]`".into());
        }
        if prefix.length == 0 {
            return Err(format!("{prefix} is everybody"));
        }
        if seconds.is_some_and(|seconds| seconds == 0 || seconds > LONGEST) {
            return Err("it can be blocked for a second to a year".into());
        }
        let entry = Entry { prefix, until: seconds.map(|seconds| now + seconds), note };
        let is_full = self.entries.len() >= MOST_ENTRIES;
        match self.entries.iter_mut().find(|known| known.prefix == prefix) {
            Some(known) => *known = entry.clone(),
            None if is_full => {
                return Err(format!("{MOST_ENTRIES} prefixes are blocked by hand already; use a file"));
            }
            None => {
                self.entries.push(entry.clone());
                self.changed = true;
            }
        }
        Ok(row(&entry, now))
    }

    /// What is blocked by hand, for how many seconds still, and why: for another process to [add](Self::add).
    pub fn by_hand(&self, now: u64) -> Vec<ByHand> {
        let left = |until: u64| until.saturating_sub(now).max(1);
        let entry = |entry: &Entry| (entry.prefix.to_string(), entry.until.map(left), entry.note.clone());
        self.entries.iter().map(entry).collect()
    }

    /// Blocks a prefix no longer.
    ///
    /// # Errors
    /// In words: it is not blocked.
    pub fn remove(&mut self, prefix: &str, now: u64) -> Result<Value, String> {
        let prefix = parse(prefix)?;
        let place = self.entries.iter().position(|entry| entry.prefix == prefix);
        let place =
            place.ok_or_else(|| format!("{prefix} is not blocked by hand; see `sluice block show`"))?;
        self.changed = true;
        Ok(row(&self.entries.remove(place), now))
    }

    /// All lists, with the packets that each has refused, and the entries of the one by hand.
    pub fn show(&self, refused: &[u64], now: u64) -> Value {
        let hits = |number: usize| refused.get(number).copied().unwrap_or(0);
        let mut lists = vec![json!({
            "list": BY_HAND, "kind": "block", "prefixes": self.entries.len(), "packets_refused": hits(0),
        })];
        for ((list, source), number) in self.lists.iter().zip(&self.sources).zip(1..) {
            lists.push(json!({
                "list": list.name,
                "kind": match list.kind { ListKind::Block => "block", ListKind::Allow => "allow" },
                "prefixes": list.prefixes.len() + source.prefixes.len(),
                "packets_refused": hits(number),
                "file": source.file,
                "read_seconds_ago": source.at.map(|at| now.saturating_sub(at)),
                "wrong_lines": source.wrong,
                "error": source.error,
            }));
        }
        let entries: Vec<Value> = self.entries.iter().map(|entry| row(entry, now)).collect();
        json!({ "lists": lists, "blocked_by_hand": entries })
    }
}

fn make(lists: &[List], sources: &[Source], added: Arc<PrefixSets>) -> Lists {
    // Handed over as they are: a million prefixes are not copied.
    Lists { added, ..config::lists_with(lists, sources.iter().map(|source| source.prefixes.as_slice())) }
}

fn parse(prefix: &str) -> Result<Prefix, String> {
    file::parse_prefix(prefix.trim()).map_err(|()| {
        format!("{prefix:?} is neither a prefix nor an address, such as 198.51.100.0/24 or 2001:db8::1")
    })
}

fn row(entry: &Entry, now: u64) -> Value {
    json!({
        "prefix": entry.prefix.to_string(),
        "seconds_left": entry.until.map(|until| until.saturating_sub(now)),
        "note": entry.note,
    })
}

#[cfg(test)]
mod tests;
