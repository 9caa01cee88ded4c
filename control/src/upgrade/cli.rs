//! `sluice upgrade`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::Upgraded;
use crate::api::{self, ApiError};
use crate::config::DEFAULT_SOCKET;

/// How long the new process may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Arguments of `upgrade`.
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// The program that is to take over; by default the file that the running one was started from, as it is now
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Only say how the last upgrade went
    #[arg(long, conflicts_with = "binary")]
    last: bool,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

/// Upgrades the gateway, and says how it went.
///
/// # Errors
/// It goes on as it was, or does not answer, in words.
pub fn run(args: &UpgradeArgs) -> Result<String, String> {
    let before = look(&args.socket).map_err(|error| error.to_string())?;
    if args.last {
        return Ok(show(&before, args.json));
    }
    let binary = args.binary.as_ref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    match api::post(&args.socket, "/v1/upgrade", &json!({ "binary": binary })) {
        Ok(_) => {}
        Err(ApiError::Refused(words)) => return Err(format!("{words}\nall goes on as it was")),
        Err(error @ (ApiError::Forbidden { .. } | ApiError::NoSocket(_))) => return Err(error.to_string()),
        // Whoever answers may be gone before the answer has come.
        Err(_) => {}
    }
    let patience = Instant::now() + PATIENCE;
    while Instant::now() < patience {
        // Between the two processes the socket waits.
        match look(&args.socket) {
            Ok(now) if now.upgrades > before.upgrades => return Ok(show(&now, args.json)),
            Ok(now) if now.failed > before.failed => {
                return Err(format!("{}\nall goes on as it was", now.failure.unwrap_or_default()));
            }
            _ => thread::sleep(PAUSE),
        }
    }
    Err(format!(
        "the gateway has not said within {} s how it went; `sluice upgrade --last` asks again",
        PATIENCE.as_secs()
    ))
}

fn look(socket: &Path) -> Result<Upgraded, ApiError> {
    let value = api::get(socket, "/v1/upgrade")?;
    serde_json::from_value(value).map_err(|error| ApiError::Refused(error.to_string()))
}

fn show(upgraded: &Upgraded, json: bool) -> String {
    if json {
        return format!("{:#}\n", json!(upgraded));
    }
    let mut text = match &upgraded.taken {
        Some(taken) => format!("{}\n", taken.words()),
        None => "there has been no upgrade since the gateway was started\n".to_owned(),
    };
    if let Some(failure) = &upgraded.failure {
        text.push_str(&format!("the last attempt came to nothing: {failure}\n"));
    }
    text
}
