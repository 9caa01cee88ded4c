//! What another configuration changes, in the words of the file: interfaces, rules, pools, limits, routes; what is added,
//! removed, changed, or stands in another place.

pub mod api;
pub mod live;
mod routes;
mod tree;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::config::{self, Config, Diagnostic, Report};
use crate::reload;

/// Changes that are written out; more are only counted.
const MOST_WORDS: usize = 1000;
/// Characters of a line of a summary, as a whole ACL may be one change.
const LINE: usize = 400;

/// What becomes of an entry of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It was not there.
    Added,
    /// It is there no longer.
    Removed,
    /// It says something else.
    Changed,
    /// It stands in another place of a list whose order counts.
    Moved,
}

/// One thing that is different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where it is: sections and names with dots between them, as in `interfaces.lan.mtu` or `acls.wan.rules "dns".to-port`.
    pub what: String,
    /// What becomes of it.
    pub kind: Kind,
    /// What it was, as in the file; none where nothing was there, and the default counted.
    pub old: Option<String>,
    /// What it becomes, likewise.
    pub new: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, kind, .. } = self;
        let [old, new] = [&self.old, &self.new].map(|value| value.as_deref().unwrap_or("default"));
        match kind {
            Kind::Added => write!(f, "+ {what}: {new}"),
            Kind::Removed => write!(f, "- {what}: {old}"),
            Kind::Changed => write!(f, "~ {what}: {old} -> {new}"),
            Kind::Moved => write!(f, "> {what}: place {old} -> {new}"),
        }
    }
}

/// How one configuration differs from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// In the order of the new file; at most 1000.
    pub changes: Vec<Change>,
    /// How many there are, those included that are not written out.
    pub count: usize,
    /// What cannot change while the gateway runs, by which a commit would refuse it.
    pub restart: Option<String>,
}

impl Diff {
    /// Whether both mean the same.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first changes, a line of 400 characters at most each, and how many more there are.
    pub fn summary(&self, lines: usize) -> Vec<String> {
        let line = |change: &Change| {
            let mut line = change.to_string();
            if let Some((end, _)) = line.char_indices().nth(LINE) {
                line.truncate(end);
                line.push('…');
            }
            line
        };
        let mut summary: Vec<String> = self.changes.iter().take(lines).map(line).collect();
        if let Some(more) = self.count.checked_sub(summary.len()).filter(|more| *more > 0) {
            summary.push(format!("and {more} more"));
        }
        summary
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.summary(MOST_WORDS).iter().try_for_each(|line| writeln!(f, "{line}"))?;
        match &self.restart {
            Some(what) => writeln!(f, "wants a restart: {what}"),
            None => Ok(()),
        }
    }
}

/// A configuration with its text.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file's name, as it was given.
    pub file: String,
    /// What is in it.
    pub text: String,
    /// What it means.
    pub config: Config,
}

impl Loaded {
    /// Reads and checks a file; with it come the warnings.
    ///
    /// # Errors
    /// As [`config::load`].
    pub fn read(path: &Path) -> Result<(Self, Vec<Diagnostic>), Report> {
        let (bytes, file) = (config::read(path)?, path.display().to_string());
        let (config, warnings) = config::load_bytes(&file, &bytes)?;
        // It has been loaded, so it is UTF-8.
        let text = String::from_utf8(bytes).unwrap_or_default();
        Ok((Self { file, text, config }, warnings))
    }

    /// Reads and checks a text; with it come the warnings.
    ///
    /// # Errors
    /// As [`config::load_str`].
    pub fn new(file: &str, text: &str) -> Result<(Self, Vec<Diagnostic>), Report> {
        let (config, warnings) = config::load_str(file, text)?;
        Ok((Self { file: file.to_owned(), text: text.to_owned(), config }, warnings))
    }
}

/// What `new` changes against `old`. `socket_of_config` as for a reload: whether the control socket is that of the file.
pub fn between(old: &Loaded, new: &Loaded, socket_of_config: bool) -> Diff {
    if old.text == new.text || means_the_same(&old.config, &new.config) {
        return Diff::default();
    }
    let left = routes::split([&old.text, &new.text], MOST_WORDS);
    let (mut changes, mut count) = (Vec::new(), left.as_ref().map_or(0, |left| left.uncounted));
    let texts = left.as_ref().map_or([&old.text, &new.text], |left| left.texts.each_ref());
    if let [Ok(before), Ok(after)] = texts.map(|text| DeTable::parse(text)) {
        tree::tables("", before.get_ref(), after.get_ref(), &mut |change| {
            count += 1;
            if changes.len() < MOST_WORDS {
                changes.push(change());
            }
        });
    }
    Diff { changes, count, restart: wants_restart(&old.config, &new.config, socket_of_config) }
}

/// All but what may be a million entries.
fn without_routes(config: &Config) -> Config {
    let mut config = config.clone();
    config.routes = Arc::default();
    config
}

/// Whether nothing but spelling, comments and lines are others.
fn means_the_same(old: &Config, new: &Config) -> bool {
    if old.acls.len() != new.acls.len() || old.routes != new.routes {
        return false;
    }
    let without_lines = |config: &Config| {
        let mut config = without_routes(config);
        config.acls.iter_mut().flat_map(|acl| &mut acl.rules).for_each(|rule| rule.line = 0);
        config
    };
    without_lines(old) == without_lines(new)
}

/// What a reload would refuse, which knows no more than this: also how workers share the ports of NAT.
fn wants_restart(old: &Config, new: &Config, socket_of_config: bool) -> Option<String> {
    let workers = old.workers.count;
    reload::wants_restart(old, new, socket_of_config).or_else(|| {
        if workers < 2 {
            return None;
        }
        // Routes and rules have no part in it.
        let bare = |config: &Config| {
            let mut config = without_routes(config);
            config.acls.iter_mut().for_each(|acl| acl.rules.clear());
            config::compile(&config, &[])
        };
        let (old, new) = (bare(old), bare(new));
        reload::changed_sharing(&old, &new, workers)
    })
}

#[cfg(test)]
mod tests;
