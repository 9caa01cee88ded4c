//! `sluice trace`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Spec;
use crate::api::{self, ApiError};
use crate::config::DEFAULT_SOCKET;
use crate::export::wall;

/// Arguments of `sluice trace`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    #[command(subcommand)]
    what: TraceCommand,
}

#[derive(Debug, Subcommand)]
enum TraceCommand {
    /// Follow packets that come in from now on through the stages
    #[command(after_help = "Example: sluice trace add --match \"in lan and udp port 53\" --count 10")]
    Add(AddArgs),
    /// Print what each stage did to each packet, with the processor's cycles that it took
    Show(ShowArgs),
    /// End a trace, or all of them, and forget what was found
    Clear(ClearArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Which packets, as `udp port 53 and not src net 10.0.0.0/8`; all if it is left out
    #[arg(long = "match", value_name = "WORDS", default_value = "")]
    matching: String,
    /// End after so many packets, 500 at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    count: u32,
    /// End after so long, with however few packets
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    seconds: u64,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct ClearArgs {
    /// The trace's number; all if it is left out
    id: Option<u64>,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

/// Does it, and returns what there is to print.
///
/// # Errors
/// In words.
pub fn run(args: &TraceArgs) -> Result<String, String> {
    let words = |error: ApiError| match error {
        ApiError::Refused(words) => words,
        other => other.to_string(),
    };
    match &args.what {
        TraceCommand::Add(AddArgs { matching, count, seconds, socket }) => {
            let spec = Spec { matching: matching.clone(), count: *count, seconds: *seconds };
            let said = api::post(socket, "/v1/trace", &json!(spec)).map_err(words)?;
            Ok(format!(
                "trace {} is on, for {count} packets or {seconds} s; `sluice trace show` prints it\n",
                said["id"]
            ))
        }
        TraceCommand::Show(ShowArgs { json, socket }) => {
            let traces = api::get(socket, "/v1/trace").map_err(words)?;
            Ok(if *json { format!("{traces:#}\n") } else { render(&traces) })
        }
        TraceCommand::Clear(ClearArgs { id, socket }) => {
            let said = api::post(socket, "/v1/trace/clear", &json!({ "id": id })).map_err(words)?;
            Ok(format!("{} traces cleared\n", said["cleared"]))
        }
    }
}

/// The traces on a terminal.
pub(super) fn render(traces: &Value) -> String {
    let traces = traces.as_array().map(Vec::as_slice).unwrap_or_default();
    if traces.is_empty() {
        return "there are no traces; `sluice trace add --match WORDS` begins one\n".to_owned();
    }
    traces.iter().map(of_trace).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn of_trace(trace: &Value) -> String {
    let packets = trace["packets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let spec = &trace["spec"];
    let which = match text(&spec["match"]) {
        "" => "all packets",
        words => words,
    };
    let state = if trace["running"] == true { "goes on" } else { "is over" };
    let lost = match trace["lost"].as_u64().unwrap_or(0) {
        0 => String::new(),
        lost => format!(", {lost} not followed for want of room"),
    };
    let mut out = format!(
        "trace {}: {which}; {} of {} packets{lost}; it {state}\n",
        trace["id"],
        packets.len(),
        spec["count"]
    );
    for packet in packets {
        out.push('\n');
        out.push_str(&of_packet(packet));
    }
    out
}

fn of_packet(packet: &Value) -> String {
    let at = (packet["at"].as_f64().unwrap_or(0.0) * 1e6) as u64;
    let mut out = format!(
        "{} {}\n  {}, by {}, worker {}, generation {}, one of {} in its burst\n  {:<16} {:>8}  {}\n",
        wall::show(at),
        text(&packet["packet"]),
        text(&packet["came"]),
        packet["in"].as_str().or(packet["port"].as_str()).unwrap_or("?"),
        packet["worker"],
        packet["generation"],
        packet["burst_packets"],
        "stage",
        "cycles",
        "what it did",
    );
    for stage in packet["stages"].as_array().into_iter().flatten() {
        let place = stage["where"].as_str().map(|place| format!("  [{place}]")).unwrap_or_default();
        let line = format!(
            "  {:<16} {:>8}  {}{place}",
            text(&stage["stage"]),
            stage["cycles"].as_f64().unwrap_or(0.0),
            text(&stage["what"]),
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push_str(&format!("  {:<16} {:>8}  {}\n", "outcome", "", text(&packet["outcome"])));
    out
}
