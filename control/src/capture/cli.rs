//! `sluice capture`: asks the gateway for packets, and writes them to a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::pcapng::Writer;
use super::{Begun, Piece, Spec};
use crate::{api, config};

/// Between two questions for more.
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `sluice capture`.
#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// Which packets, as `udp port 53 and not src net 10.0.0.0/8`; all if it is left out
    #[arg(long = "match", value_name = "WORDS", default_value = "")]
    matching: String,
    /// Packets as they come in
    #[arg(long)]
    before: bool,
    /// Packets as they leave
    #[arg(long)]
    after: bool,
    /// Packets as they come in and as they leave; so it is if nothing else is said
    #[arg(long, conflicts_with_all = ["before", "after"])]
    both: bool,
    /// Packets that die, of any reason or of this one (`sluice show drops` has their names)
    #[arg(long, value_name = "REASON", num_args = 0..=1, default_missing_value = "any")]
    drops: Option<String>,
    /// End after so many packets
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after so long
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// The most bytes of each packet
    #[arg(long, value_name = "BYTES", default_value_t = u16::MAX)]
    snap: u16,
    /// The file to write (pcapng); `-` is the standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_SOCKET)]
    socket: PathBuf,
}

impl CaptureArgs {
    fn spec(&self) -> Spec {
        let both = self.both || !(self.before || self.after || self.drops.is_some());
        Spec {
            matching: self.matching.clone(),
            before: self.before || both,
            after: self.after || both,
            drops: self.drops.clone(),
            snap: self.snap,
        }
    }
}

/// Captures, until it is enough or interrupted. Returns what there is to say.
///
/// # Errors
/// The gateway refuses, or the file cannot be written.
pub fn run(args: &CaptureArgs) -> Result<String, String> {
    let end = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, end.clone()).map_err(|error| error.to_string())?;
    }
    let said =
        api::post(&args.socket, "/v1/capture", &json!(args.spec())).map_err(|error| error.to_string())?;
    let begun: Begun = serde_json::from_value(said).map_err(|error| error.to_string())?;
    let stop = || api::post(&args.socket, &format!("/v1/capture/{}/stop", begun.id), &json!({}));
    let written = write(args, &begun, &end, &|| stop().map_err(|error| error.to_string()));
    if written.is_err() {
        let _ = stop();
    }
    let (packets, lost) = written?;
    Ok(format!("{packets} packets captured, {lost} found no room\n"))
}

fn write(
    args: &CaptureArgs,
    begun: &Begun,
    end: &AtomicBool,
    stop: &dyn Fn() -> Result<Value, String>,
) -> Result<(u64, u64), String> {
    let failed = |error: io::Error| format!("{}: cannot write it: {error}", args.write.display());
    let out: Box<dyn Write> = match args.write.as_os_str() == "-" {
        true => Box::new(io::stdout().lock()),
        false => Box::new(File::create(&args.write).map_err(failed)?),
    };
    let mut writer = Writer::new(BufWriter::new(out), &begun.ports).map_err(failed)?;
    let piece = |value| serde_json::from_value::<Piece>(value).map_err(|error| error.to_string());
    let (since, most, mut packets) = (Instant::now(), args.count.unwrap_or(u64::MAX), 0);
    let path = format!("/v1/capture/{}", begun.id);
    loop {
        let is_over = args.seconds.is_some_and(|seconds| since.elapsed() >= Duration::from_secs(seconds));
        let last = is_over || packets >= most || end.load(Relaxed);
        let said =
            if last { stop()? } else { api::get(&args.socket, &path).map_err(|error| error.to_string())? };
        let Piece { packets: taken, lost } = piece(said)?;
        for packet in &taken {
            if packets < most {
                packets += 1;
                writer.packet(packet).map_err(failed)?;
            }
        }
        if last {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
            writer.finish(now, lost).map_err(failed)?;
            return Ok((packets, lost));
        }
        writer.flush().map_err(failed)?;
        if taken.is_empty() {
            thread::sleep(LOOK);
        }
    }
}
