//! `sluice diff`, `commit`, `confirm`, `rollback` and `history`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::Entry;
use crate::api::{self, ApiError};
use crate::config::{self, DEFAULT_SOCKET};
use crate::diff::{self, Diff, Loaded};
use crate::export::wall;

/// The gateway that is asked.
#[derive(Debug, Args)]
pub struct Whom {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The configuration file
    file: PathBuf,
    /// Compare with this file, not with what runs; wants no gateway
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Say what would become of the sessions there are, and of packets that came last
    #[arg(long, conflicts_with = "from")]
    live: bool,
    #[command(flatten)]
    whom: Whom,
}

/// Arguments of `commit`.
#[derive(Debug, Args)]
pub struct CommitArgs {
    /// The configuration file
    file: PathBuf,
    /// Undo it after this time, such as 5min, unless `sluice confirm` comes before
    #[arg(long, value_name = "TIME", value_parser = time)]
    confirm: Option<u64>,
    /// Why, for the history
    #[arg(long, short = 'm', value_name = "TEXT")]
    comment: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The commit to go back to, as `sluice history` numbers them; by default the one before
    to: Option<u64>,
    #[command(flatten)]
    whom: Whom,
}

fn time(text: &str) -> Result<u64, String> {
    // `5m` is what fingers type; the configuration has it as `5min`.
    let minutes = text.strip_suffix('m').filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let text = minutes.map_or_else(|| text.to_owned(), |minutes| format!("{minutes}min"));
    match config::duration(&text) {
        Some(time) if time.as_secs() >= 1 && time <= super::LONGEST => Ok(time.as_secs()),
        _ => Err("write it as 30s, 5min or 1h; a second to a day".into()),
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("{}: cannot read the file: {error}", path.display()))
}

fn said(result: Result<Value, ApiError>) -> Result<Value, String> {
    result.map_err(|error| match error {
        // Its words are about the file.
        ApiError::Refused(words) => words,
        other => other.to_string(),
    })
}

/// What a file would change; whether it is anything.
///
/// # Errors
/// In words.
pub fn diff(args: &DiffArgs) -> Result<(bool, String), String> {
    let (file, text) = (args.file.display().to_string(), read(&args.file)?);
    let value = match &args.from {
        Some(from) => {
            let load = |file: &str, text: &str| Loaded::new(file, text).map_err(|report| report.to_string());
            let (old, _) = load(&from.display().to_string(), &read(from)?)?;
            let (new, _) = load(&file, &text)?;
            json!(diff::between(&old, &new, true))
        }
        None => {
            said(api::post(&args.whom.socket, "/v1/config/diff", &json!({ "file": file, "text": text })))?
        }
    };
    let diff: Diff = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    if !args.live {
        let shown = if args.whom.json { format!("{value:#}\n") } else { diff.to_string() };
        return Ok((!diff.is_empty(), shown));
    }
    let body = json!({ "file": file, "text": text });
    let live = said(api::post(&args.whom.socket, "/v1/config/diff/live", &body))?;
    let shown = match args.whom.json {
        true => format!("{:#}\n", json!({ "diff": value, "live": live })),
        false => format!("{diff}{}", diff::live::render(&live)),
    };
    Ok((!diff.is_empty(), shown))
}

/// Commits a file.
///
/// # Errors
/// In words.
pub fn commit(args: &CommitArgs) -> Result<String, String> {
    let body = json!({
        "file": args.file.display().to_string(),
        "text": read(&args.file)?,
        "comment": args.comment,
        "confirm_seconds": args.confirm,
    });
    let value = said(api::post(&args.whom.socket, "/v1/config/commit", &body))?;
    let mut shown = show_commit(&value, args.whom.json);
    if let Some(seconds) = args.confirm.filter(|_| !args.whom.json) {
        shown.push_str(&format!("it is undone in {seconds} s unless `sluice confirm` comes before\n"));
    }
    Ok(shown)
}

/// Confirms the commit that waits.
///
/// # Errors
/// In words.
pub fn confirm(whom: &Whom) -> Result<String, String> {
    let value = said(api::post(&whom.socket, "/v1/config/confirm", &json!({})))?;
    if whom.json {
        return Ok(format!("{value:#}\n"));
    }
    Ok(format!("commit {} is confirmed\n{}", value["commit"], lines(&value["said"])))
}

/// Goes back.
///
/// # Errors
/// In words.
pub fn rollback(args: &RollbackArgs) -> Result<String, String> {
    let value = said(api::post(&args.whom.socket, "/v1/config/rollback", &json!({ "to": args.to })))?;
    Ok(show_commit(&value, args.whom.json))
}

/// Lists the commits, the last one first.
///
/// # Errors
/// In words.
pub fn history(whom: &Whom) -> Result<String, String> {
    let value = said(api::get(&whom.socket, "/v1/config/history"))?;
    if whom.json {
        return Ok(format!("{value:#}\n"));
    }
    let entries: Vec<Entry> =
        serde_json::from_value(value["entries"].clone()).map_err(|error| error.to_string())?;
    Ok(entries.iter().rev().map(show_entry).collect())
}

fn show_entry(entry: &Entry) -> String {
    let Entry { id, time, uid, how, file, comment, changes, standing, outcome } = entry;
    let who = uid.map_or_else(String::new, |uid| format!(" by user {uid}"));
    let mut text =
        format!("commit {id}, {}, {how}{who}, {file}", wall::show(*time * 1_000_000).replace(".000000", ""));
    match standing {
        super::Standing::Pending => text.push_str(", waits to be confirmed"),
        super::Standing::Undone => text.push_str(", undone"),
        super::Standing::Confirmed => {}
    }
    text.push('\n');
    for line in comment.iter().chain(changes) {
        text.push_str(&format!("    {line}\n"));
    }
    if let Some(outcome) = outcome {
        text.push_str(&format!("    {} sessions went on, {} ended\n", outcome.kept, outcome.ended));
    }
    text
}

fn show_commit(value: &Value, json: bool) -> String {
    if json {
        return format!("{value:#}\n");
    }
    let entry =
        serde_json::from_value::<Entry>(value.clone()).map(|entry| show_entry(&entry)).unwrap_or_default();
    format!("{entry}{}", lines(&value["said"]))
}

fn lines(said: &Value) -> String {
    said.as_array().into_iter().flatten().filter_map(Value::as_str).map(|line| format!("{line}\n")).collect()
}
