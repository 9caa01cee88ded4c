//! `sluice replay`.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::{Options, Outcome, ReplayError, Speed};

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A capture of what a port receives (pcap or pcapng, also packed by gzip or zstd); may be given for each port, and
    /// several times for one, whose captures are merged by time
    #[arg(long = "in", value_name = "PORT=FILE", value_parser = port_and_file)]
    inputs: Vec<(String, PathBuf)>,
    /// Folder for what each port transmits, as PORT.pcap
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Take only frames for our own MAC addresses, and resolve neighbours by what the captures answer
    #[arg(long)]
    strict_l2: bool,
    /// Share the packets among so many workers, each to any of them. What NAT gives out depends on it, so replies that a
    /// capture holds may not find their session
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    /// How fast: max, real (as the captures were taken), or a factor, such as 10x. The outcome is the same
    #[arg(long, value_name = "SPEED", default_value = "max")]
    speed: Speed,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

fn port_and_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((port, file)) if !port.is_empty() && !file.is_empty() => Ok((port.into(), file.into())),
        _ => Err("write it as PORT=FILE, for instance lan=lan.pcap".into()),
    }
}

/// What a replay says: its figures, what was wrong with the captures, and whether all is well.
pub struct Said {
    /// The counters.
    pub figures: Value,
    /// Whether they are wanted as JSON.
    pub json: bool,
    /// For standard error, a line each.
    pub complaints: Vec<String>,
    /// Whether the captures were whole, or only cut off, and no packet is unaccounted for.
    pub well: bool,
}

/// Replays.
///
/// # Errors
/// Nothing was replayed, and why.
pub fn run(args: ReplayArgs) -> Result<Said, ReplayError> {
    let options = Options {
        config: args.config,
        inputs: args.inputs,
        out: args.out,
        strict_l2: args.strict_l2,
        workers: args.workers.into(),
        speed: args.speed,
    };
    let Outcome { counters, cut_off, broken, .. } = super::run(&options)?;
    let warnings = cut_off.iter().map(|error| format!("warning: {error}"));
    let complaints = warnings.chain(broken.iter().map(ToString::to_string)).collect();
    let well = broken.is_empty() && counters["conserved"] == true;
    Ok(Said { figures: counters, json: args.json, complaints, well })
}
