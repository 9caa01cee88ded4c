//! `sluice block`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::config::{self, DEFAULT_SOCKET};
use crate::{api, table};

/// Arguments of `block`.
#[derive(Debug, Args)]
pub struct BlockArgs {
    #[command(subcommand)]
    what: BlockCommand,
}

#[derive(Debug, Subcommand)]
enum BlockCommand {
    /// Block a prefix or an address at once; its sessions end
    #[command(after_help = "Example: sluice block add 198.51.100.0/24 --for 1h --note \"scans\"")]
    Add {
        /// The prefix, or a single address
        prefix: String,
        /// For how long, such as 30min or 1h; until it is removed, or the gateway ends, if left out
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        seconds: Option<u64>,
        /// Why, for the listing
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        #[command(flatten)]
        whom: Whom,
    },
    /// Block it no longer
    Remove {
        /// The prefix, as `show` lists it
        prefix: String,
        #[command(flatten)]
        whom: Whom,
    },
    /// List what is blocked by hand, and all lists with the packets that they have refused
    Show {
        #[command(flatten)]
        whom: Whom,
    },
}

/// The gateway that is asked.
#[derive(Debug, Args)]
struct Whom {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

fn seconds(text: &str) -> Result<u64, String> {
    match config::duration(text) {
        Some(time) if time.as_secs() >= 1 => Ok(time.as_secs()),
        _ => Err("write it as 30s, 30min, 1h or 7d".into()),
    }
}

/// Runs the command; what there is to print.
///
/// # Errors
/// In words.
pub fn run(args: &BlockArgs) -> Result<String, String> {
    let (whom, answer) = match &args.what {
        BlockCommand::Add { prefix, seconds, note, whom } => {
            let body = json!({ "prefix": prefix, "seconds": seconds, "note": note });
            (whom, api::post(&whom.socket, "/v1/block", &body))
        }
        BlockCommand::Remove { prefix, whom } => {
            (whom, api::post(&whom.socket, "/v1/block/remove", &json!({ "prefix": prefix })))
        }
        BlockCommand::Show { whom } => (whom, api::get(&whom.socket, "/v1/block")),
    };
    let value = answer.map_err(|error| error.to_string())?;
    if whom.json {
        return Ok(format!("{value:#}\n"));
    }
    Ok(match &args.what {
        BlockCommand::Add { .. } => format!("{} is blocked{}\n", prefix_of(&value), how_long(&value)),
        BlockCommand::Remove { .. } => format!("{} is blocked no longer\n", prefix_of(&value)),
        BlockCommand::Show { .. } => shown(&value),
    })
}

fn prefix_of(entry: &Value) -> &str {
    entry["prefix"].as_str().unwrap_or_default()
}

fn how_long(entry: &Value) -> String {
    entry["seconds_left"].as_u64().map_or_else(String::new, |seconds| format!(" for {seconds} s"))
}

fn shown(value: &Value) -> String {
    let mut text = table::render(&value["lists"]);
    if value["blocked_by_hand"].as_array().is_some_and(|entries| !entries.is_empty()) {
        text.push('\n');
        text.push_str(&table::render(&value["blocked_by_hand"]));
    }
    text
}
