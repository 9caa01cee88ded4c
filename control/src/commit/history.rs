//! What is on disk, in the state directory: `ID.toml`, a configuration as it was committed, `ID.json`, what is known of it, and
//! `pending.json`, the commit that waits to be confirmed.
//!
//! Each file is written beside its place, flushed, renamed, and the directory flushed: after a power cut there is the old one or
//! the new one. What cannot be written is kept in memory, and said.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::reload::Outcome;

/// Commits that are kept.
const KEPT: usize = 50;
/// Bytes of configurations that are kept, the last three aside.
const MOST_BYTES: usize = 256 << 20;

/// How it stands with a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It waits to be confirmed.
    Pending,
    /// It counts.
    #[default]
    Confirmed,
    /// It was not confirmed, or taken back before.
    Undone,
}

/// A commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1.
    pub id: u64,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The user who asked for it over the API; none if it was a signal, a start, or time that was up.
    pub uid: Option<u32>,
    /// `start`, `commit`, `reload`, or `rollback to N`.
    pub how: String,
    /// The file's name.
    pub file: String,
    /// Why.
    pub comment: Option<String>,
    /// The first changes, in words.
    pub changes: Vec<String>,
    /// How it stands.
    pub standing: Standing,
    /// What became of the sessions.
    pub outcome: Option<Outcome>,
}

/// A commit that waits to be confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its number.
    pub id: u64,
    /// The commit that comes back if it is not.
    pub back_to: u64,
    /// Until when, in seconds since 1970.
    pub deadline: u64,
}

/// The commits that are known.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    entries: BTreeMap<u64, (Entry, String)>,
    pending: Option<Pending>,
    complaints: Vec<String>,
    /// Keeps another gateway out.
    lock: Option<Flock<File>>,
}

impl Store {
    /// Reads what is there. What cannot be read or written is said by [`complaints`](Self::complaints).
    pub fn open(folder: &Path) -> Self {
        let folder = folder.to_owned();
        let mut store =
            Self { folder, entries: BTreeMap::new(), pending: None, complaints: Vec::new(), lock: None };
        if let Err(error) = store.read() {
            store.complain(&error);
        }
        store
    }

    fn read(&mut self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.folder.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock);
        self.lock = Some(lock.map_err(|_| io::Error::other("another gateway uses it"))?);
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            let (Some(id), Some("json")) = (id, path.extension().and_then(|e| e.to_str())) else { continue };
            let text = fs::read_to_string(path.with_extension("toml"));
            if let (Some(entry), Ok(text)) = (read_json::<Entry>(&path), text) {
                self.entries.insert(id, (Entry { id, ..entry }, text));
            }
        }
        self.pending = read_json(&self.folder.join("pending.json"));
        Ok(())
    }

    /// What could not be read or written since the last time that it was asked.
    pub fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    fn complain(&mut self, error: &io::Error) {
        let folder = self.folder.display();
        self.complaints.push(format!("{folder}: commits are not kept: {error}; see `state` of [control]"));
    }

    /// The commits, the oldest first.
    pub fn entries(&self) -> Vec<&Entry> {
        self.entries.values().map(|(entry, _)| entry).collect()
    }

    /// A commit.
    pub fn entry(&self, id: u64) -> Option<&Entry> {
        self.entries.get(&id).map(|(entry, _)| entry)
    }

    /// Its configuration.
    pub fn text(&self, id: u64) -> Option<String> {
        self.entries.get(&id).map(|(_, text)| text.clone())
    }

    /// The commit that runs, or ran last.
    pub fn last(&self) -> Option<&Entry> {
        self.entries.values().next_back().map(|(entry, _)| entry)
    }

    /// The commit before that.
    pub fn before_last(&self) -> Option<u64> {
        self.entries.keys().rev().nth(1).copied()
    }

    /// An entry with the next number.
    pub fn next(&self) -> Entry {
        Entry { id: self.last().map_or(1, |entry| entry.id + 1), ..Entry::default() }
    }

    /// The commit that waits to be confirmed.
    pub fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    /// Another commit waits to be confirmed, or none.
    pub fn set_pending(&mut self, pending: Option<Pending>) {
        let path = self.folder.join("pending.json");
        let written = match &pending {
            Some(pending) => {
                self.write("pending.json", serde_json::to_string(pending).unwrap_or_default().as_bytes())
            }
            None if path.exists() => fs::remove_file(&path).and_then(|()| self.flush()),
            None => Ok(()),
        };
        self.pending = pending;
        self.check(written);
    }

    /// Adds a commit. The oldest go.
    pub fn add(&mut self, entry: Entry, text: &str) {
        let id = entry.id;
        let written =
            self.write(&format!("{id}.toml"), text.as_bytes()).and_then(|()| self.write_entry(&entry));
        self.entries.insert(id, (entry, text.to_owned()));
        self.check(written);
        let is_much = |entries: &BTreeMap<u64, (Entry, String)>| {
            let bytes: usize = entries.values().map(|(_, text)| text.len()).sum();
            entries.len() > KEPT || bytes > MOST_BYTES && entries.len() > 3
        };
        while is_much(&self.entries) {
            let Some((&oldest, _)) = self.entries.first_key_value() else { break };
            self.forget(oldest);
        }
    }

    /// Takes a commit back as though it had never been.
    pub fn forget(&mut self, id: u64) {
        self.entries.remove(&id);
        if self.pending.as_ref().is_some_and(|pending| pending.id == id) {
            self.set_pending(None);
        }
        for kind in ["json", "toml"] {
            let _ = fs::remove_file(self.folder.join(format!("{id}.{kind}")));
        }
    }

    /// It stands otherwise with a commit now.
    pub fn stand(&mut self, id: u64, standing: Standing) {
        self.change(id, |entry| entry.standing = standing);
    }

    /// The sessions are decided.
    pub fn settle(&mut self, id: u64, outcome: Outcome) -> Option<Entry> {
        self.change(id, |entry| entry.outcome = Some(outcome));
        self.entry(id).cloned()
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Entry)) {
        let Some((entry, _)) = self.entries.get_mut(&id) else { return };
        change(entry);
        let entry = entry.clone();
        let written = self.write_entry(&entry);
        self.check(written);
    }

    fn write_entry(&self, entry: &Entry) -> io::Result<()> {
        self.write(&format!("{}.json", entry.id), serde_json::to_string_pretty(entry)?.as_bytes())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.lock.is_none() {
            return Err(io::Error::other("it could not be opened"));
        }
        let beside = self.folder.join(format!("{name}.new"));
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, self.folder.join(name))?;
        self.flush()
    }

    fn flush(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn check(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            self.complain(&error);
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
