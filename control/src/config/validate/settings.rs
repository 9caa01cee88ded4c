//! `[icmp]`, `[workers]`, `[tables]`, `[timeouts]`, `[control]` and `[metrics]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::interfaces::Network;
use super::values;
use crate::config::model::{Access, Link, Log, LogFormat, LogLevel, Poll, Shaper, Tables, Timeouts, Workers};
use crate::config::reader::{At, Table, choice, integer, text};
use crate::config::report::{Sink, quote};
use crate::config::schema;
use crate::config::units::{self, Wrong, show_duration};

/// Packet buffers that the rings of a port hold: 2048 to receive into, 2048 that are being sent.
const FRAMES_PER_PORT: usize = 4096;
/// Most packet buffers.
const MOST_FRAMES: u32 = 4 << 20;
/// Most workers.
const MOST_WORKERS: usize = 16;
/// Longest path of a Unix socket (`sun_path` less the terminating zero).
const LONGEST_PATH: usize = 107;

pub(super) fn icmp_errors_per_second(file: &Table<'_>, sink: &mut Sink<'_>) -> u32 {
    let icmp = file.table("icmp", &schema::ICMP, sink);
    let rate = icmp.and_then(|icmp| icmp.one("errors-per-second", integer(0..=1_000_000), sink));
    rate.map_or(1000, |at| at.value)
}

pub(super) fn workers(file: &Table<'_>, sink: &mut Sink<'_>) -> Workers {
    let Some(table) = file.table("workers", &schema::WORKERS, sink) else { return Workers::default() };
    let cores = table.many("cores", integer(0..=1023), sink);
    if let Some(extra) = cores.get(MOST_WORKERS) {
        sink.error(&extra.span, format!("there are {} cores", cores.len()))
            .help(format!("at most {MOST_WORKERS} workers"));
    }
    for (index, core) in cores.iter().enumerate() {
        if let Some(first) = cores[..index].iter().find(|first| first.value == core.value) {
            sink.warning(&core.span, format!("core {} is there twice", core.value))
                .also(&first.span, "it is also here")
                .help("its workers take turns on it, which is for trying things out; each should have a core of its own");
        }
    }
    let count = table.one("count", integer(1..=1023), sink);
    if let Some(At { value, span }) = &count {
        let value = *value as usize;
        if !cores.is_empty() && value != cores.len() {
            sink.error(span, format!("{value} workers on {} cores", cores.len()))
                .help("leave `count` out: each of `cores` has a worker");
        } else if value > MOST_WORKERS {
            sink.error(span, format!("there are {value} workers")).help(format!("at most {MOST_WORKERS}"));
        }
    }
    let poll = table.one("poll", choice(&[("busy", Poll::Busy), ("adaptive", Poll::Adaptive)]), sink);
    let defaults = Workers::default();
    let mut number =
        |key, range, default| table.one(key, integer(range), sink).map_or(default, |at| at.value);
    Workers {
        count: count.map_or(cores.len().max(1), |at| at.value as usize),
        cores: values(&cores).into_iter().map(|core| core as usize).collect(),
        poll: poll.map_or(Poll::default(), |at| at.value),
        batch: number("batch", 1..=64, defaults.batch),
        busy_poll: number("busy-poll", 0..=10_000, defaults.busy_poll),
        busy_poll_budget: number("busy-poll-budget", 1..=1024, defaults.busy_poll_budget),
    }
}

pub(super) fn tables(
    file: &Table<'_>,
    network: &Network<'_>,
    shapers: &[Shaper],
    workers: usize,
    sink: &mut Sink<'_>,
) -> Tables {
    let mut tables =
        Tables { sessions: 65_536, evict: false, neighbors: 1024, fragments: 1024, frames: 8192 };
    let is_device = |link: &Link| matches!(link, Link::Device(_));
    let devices = network.interfaces.iter().filter(|interface| is_device(&interface.link)).count();
    let least = u32::try_from(devices * FRAMES_PER_PORT).unwrap_or(u32::MAX);
    let each = tables.frames.max(least);
    let shaped = shapers.iter().fold(0u32, |sum, shaper| sum.saturating_add(shaper.frames));
    tables.frames = each.saturating_mul(u32::try_from(workers).unwrap_or(u32::MAX));
    tables.frames = tables.frames.saturating_add(shaped).min(MOST_FRAMES);
    let Some(table) = file.table("tables", &schema::TABLES, sink) else { return tables };
    for (key, entry, most) in [
        ("sessions", &mut tables.sessions, 16 << 20),
        ("neighbors", &mut tables.neighbors, 65_534),
        ("fragments", &mut tables.fragments, 1 << 20),
    ] {
        if let Some(At { value, .. }) = table.one(key, integer(16..=most), sink) {
            *entry = value;
        }
    }
    let when_full = table.one("when-full", choice(&[("refuse", false), ("evict", true)]), sink);
    tables.evict = when_full.is_some_and(|at| at.value);
    if let Some(At { value, span }) = table.one("frames", integer(64..=MOST_FRAMES), sink) {
        tables.frames = value;
        if value < least {
            sink.error(&span, format!("{value} packet buffers do not cover the rings of {devices} ports"))
                .help(format!("at least {least}, {FRAMES_PER_PORT} a port"));
        } else if value < least.saturating_add(shaped) {
            let message =
                format!("{value} packet buffers, of which shapers may hold {shaped}, do not cover the rings");
            sink.error(&span, message)
                .help(format!("at least {}, or fewer `frames` for shapers", least.saturating_add(shaped)));
        }
    }
    tables
}

pub(super) fn timeouts(file: &Table<'_>, sink: &mut Sink<'_>) -> Timeouts {
    let [minute, hour] = [60, 3600].map(Duration::from_secs);
    let mut timeouts = Timeouts {
        udp: 5 * minute,
        icmp: minute,
        tcp_established: 2 * hour + 4 * minute,
        tcp_transitory: 4 * minute,
        other: 10 * minute,
        fragment: Duration::from_secs(15),
    };
    let Some(table) = file.table("timeouts", &schema::TIMEOUTS, sink) else { return timeouts };
    for (key, entry, least) in [
        ("udp", &mut timeouts.udp, Some((2 * minute, "RFC 4787 REQ-5"))),
        ("icmp", &mut timeouts.icmp, Some((minute, "RFC 5508 REQ-2"))),
        ("tcp-established", &mut timeouts.tcp_established, Some((2 * hour + 4 * minute, "RFC 5382 REQ-5"))),
        ("tcp-transitory", &mut timeouts.tcp_transitory, Some((4 * minute, "RFC 5382 REQ-5"))),
        ("other", &mut timeouts.other, None),
        ("fragment", &mut timeouts.fragment, None),
    ] {
        let Some(At { value, span }) = table.one(key, text(units::duration), sink) else { continue };
        *entry = value;
        if let Some((least, rfc)) = least.filter(|(least, _)| value < *least) {
            let least = show_duration(least);
            sink.warning(&span, format!("{} is shorter than the {least} of {rfc}", show_duration(value)))
                .help(format!("with less than \"{least}\", sessions that are merely quiet may break"));
        }
    }
    timeouts
}

/// There is one version of the schema.
pub(super) fn version(file: &Table<'_>, sink: &mut Sink<'_>) {
    let _ = file.one("version", integer(1..=1), sink);
}

pub(super) fn control(file: &Table<'_>, sink: &mut Sink<'_>) -> (PathBuf, Access, PathBuf) {
    let (mut path, mut access) = (PathBuf::from(crate::config::DEFAULT_SOCKET), Access::default());
    let mut state = PathBuf::from(crate::config::DEFAULT_STATE);
    let Some(table) = file.table("control", &schema::CONTROL, sink) else { return (path, access, state) };
    if let Some(socket) = table.one("socket", text(socket), sink) {
        path = socket.value;
    }
    if let Some(mode) = table.one("mode", text(mode), sink) {
        access.mode = mode.value;
    }
    access.group = table.one("group", text(|text| Ok(text.to_owned())), sink).map(|group| group.value);
    if let Some(directory) = table.one("state", text(directory), sink) {
        state = directory.value;
    }
    (path, access, state)
}

/// Permissions in octal, as chmod takes them.
fn mode(text: &str) -> Result<u32, Wrong> {
    u32::from_str_radix(text, 8).ok().filter(|mode| mode & !0o777 == 0 && text.len() >= 3).ok_or_else(|| {
        Wrong::new(format!("{} are no permissions", quote(text)))
            .help("such as \"0660\": for owner and group")
    })
}

pub(super) fn log(file: &Table<'_>, sink: &mut Sink<'_>) -> Log {
    let Some(table) = file.table("log", &schema::LOG, sink) else { return Log::default() };
    let format = table.one("format", choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]), sink);
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
    ];
    let level = table.one("level", choice(&levels), sink);
    Log {
        format: format.map_or_else(LogFormat::default, |at| at.value),
        level: level.map_or_else(LogLevel::default, |at| at.value),
    }
}

pub(super) fn metrics(file: &Table<'_>, sink: &mut Sink<'_>) -> Option<SocketAddr> {
    let table = file.table("metrics", &schema::METRICS, sink)?;
    Some(table.one("listen", text(listen), sink)?.value)
}

pub(super) fn accounting(file: &Table<'_>, sink: &mut Sink<'_>) -> Option<PathBuf> {
    let table = file.table("accounting", &schema::ACCOUNTING, sink)?;
    Some(table.required("file", "\"/var/lib/sluice/accounting.json\"", text(state_file), sink)?.value)
}

fn state_file(text: &str) -> Result<PathBuf, Wrong> {
    if !text.starts_with('/') || text.contains('\0') || text.ends_with('/') {
        return Err(Wrong::new(format!("{} is not the absolute path of a file", quote(text)))
            .help("such as \"/var/lib/sluice/accounting.json\""));
    }
    Ok(PathBuf::from(text))
}

fn listen(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        Wrong::new(format!("{} is not an address with a port", quote(text)))
            .help("such as \"127.0.0.1:9477\", or \"[::]:9477\" for all addresses of the kernel")
    })
}

fn directory(text: &str) -> Result<PathBuf, Wrong> {
    if !text.starts_with('/') || text.contains('\0') {
        return Err(Wrong::new(format!("{} is not the absolute path of a directory", quote(text)))
            .help("such as \"/var/lib/sluice\""));
    }
    Ok(PathBuf::from(text))
}

fn socket(text: &str) -> Result<PathBuf, Wrong> {
    if !text.starts_with('/') || text.contains('\0') || text.ends_with('/') {
        return Err(Wrong::new(format!("{} is not the absolute path of a file", quote(text)))
            .help("such as \"/run/sluice.sock\""));
    }
    if text.len() > LONGEST_PATH {
        return Err(Wrong::new(format!("the path {} is too long for a socket", quote(text)))
            .help(format!("at most {LONGEST_PATH} bytes")));
    }
    Ok(PathBuf::from(text))
}
