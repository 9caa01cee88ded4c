//! `sluice replay`: captures through the very pipeline of a live gateway, in the captures' own time. No privilege, no
//! device, and the same bytes each time.

pub mod cli;
mod pace;
mod spray;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sluice_dataplane::arena::{ArenaError, FramePool};
use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::port::Port;
use sluice_dataplane::port::pcap::{PcapError, PcapPort, first_unicast_destination, same_file};
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::worker::Worker;
use sluice_pkt::ethernet::Mac;

use crate::config::{self, Config, DeviceFacts, Link, Report};
use crate::figures;
use crate::lists::Keeper;

use self::pace::Pace;
pub use self::pace::Speed;

/// How long, in the captures' time, the end is put off for packets that wait for a neighbour.
const DRAIN: Nanos = 10 * SECOND;
/// Hash functions and random ports draw from this, so that a replay gives the same bytes each time.
const SEED: u64 = 0x51_7c_c1_b7_27_22_0a_95;

/// What to replay.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Captures by port name; those of one port are merged by time. Ports without one receive nothing.
    pub inputs: Vec<(String, PathBuf)>,
    /// Folder for what each port transmits, `PORT.pcap`; made if it does not exist.
    pub out: Option<PathBuf>,
    /// Take only frames for our own MAC addresses, and resolve neighbours by ARP and ND as the captures answer.
    pub strict_l2: bool,
    /// How many workers share the packets, 1 to 16; 0 counts as 1. Each packet goes to any of them, and to its end before
    /// the next one comes in.
    pub workers: usize,
    /// How fast, by the clock on the wall. The outcome is the same.
    pub speed: Speed,
}

/// Why there was nothing to replay, or nowhere to put it.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(#[from] Report),
    /// An input for a port that does not exist.
    #[error("--in {given}: the configuration has no port of that name; its ports are {ports}")]
    NoSuchPort {
        /// The name given.
        given: String,
        /// Those that there are.
        ports: String,
    },
    /// An output that would take an input's place.
    #[error("{0}: the output would overwrite this input; give another folder with --out")]
    Overwrites(PathBuf),
    /// A capture cannot be read or written.
    #[error("{0}")]
    Pcap(#[from] PcapError),
    /// The folder for the output cannot be made.
    #[error("cannot make the folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No memory.
    #[error("{0}")]
    Memory(#[from] ArenaError),
}

/// What a replay came to.
#[derive(Debug)]
pub struct Outcome {
    /// The counters, as `sluice show counters --json` has them.
    pub counters: Value,
    /// The hits of each ACL rule, as `sluice show acl --json` has them.
    pub rules: Value,
    /// What each limit passed, as `sluice show limits --json` has it.
    pub limits: Value,
    /// Captures that end within a packet, as one does whose recorder was killed. All before was replayed.
    pub cut_off: Vec<PcapError>,
    /// Captures that turned out broken on the way. All before was replayed.
    pub broken: Vec<PcapError>,
}

/// Replays.
pub fn run(options: &Options) -> Result<Outcome, ReplayError> {
    let (config, _) = config::load(&options.config)?;
    let names = port_names(&config);
    check_inputs(&names, &options.inputs)?;
    if let Some(path) = &options.out {
        let folder = |source| ReplayError::Folder { path: path.clone(), source };
        std::fs::create_dir_all(path).map_err(folder)?;
    }

    check_outputs(&names, options)?;

    let snapshot = Arc::new(compile(&config, &names, &options.inputs, options.strict_l2)?);
    let mut ports = Vec::new();
    let (mut faults, mut read) = (Vec::new(), Vec::new());
    for name in &names {
        let output = options.out.as_ref().map(|folder| folder.join(format!("{name}.pcap")));
        let port = PcapPort::open(of_port(&options.inputs, name), output.as_deref())?;
        faults.push(port.faults());
        read.push(port.bytes_read());
        ports.push(port);
    }
    let size = |(_, path): &(String, PathBuf)| path.metadata().map_or(0, |metadata| metadata.len());
    let pace = Pace::new(options.speed, options.inputs.iter().map(size).sum(), read);
    let counters = if options.workers > 1 {
        spray::run(&snapshot, ports, options.workers, pace)?
    } else {
        let ports = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
        let pool = FramePool::new(snapshot.sizes.frames, true)?;
        drive(Worker::new(snapshot.clone(), ports, pool), pace)
    };

    let mut outcome = Outcome {
        counters: figures::counters(&snapshot, &counters),
        rules: figures::rules(&snapshot, &counters),
        limits: figures::limits(&snapshot, &counters),
        cut_off: Vec::new(),
        broken: Vec::new(),
    };
    for faults in faults {
        if let Some(error) = faults.output() {
            return Err(error.clone().into());
        }
        let (cut_off, broken): (Vec<_>, Vec<_>) =
            faults.inputs().into_iter().partition(PcapError::is_cut_off);
        outcome.cut_off.extend(cut_off);
        outcome.broken.extend(broken);
    }
    Ok(outcome)
}

/// The ports of a configuration: its interfaces that are no VLANs.
pub fn port_names(config: &Config) -> Vec<String> {
    let ports = config.interfaces.iter().filter(|interface| matches!(interface.link, Link::Device(_)));
    ports.map(|interface| interface.name.clone()).collect()
}

fn check_inputs(names: &[String], inputs: &[(String, PathBuf)]) -> Result<(), ReplayError> {
    match inputs.iter().find(|(given, _)| !names.contains(given)) {
        Some((given, _)) => Err(ReplayError::NoSuchPort { given: given.clone(), ports: names.join(", ") }),
        None => Ok(()),
    }
}

/// Opening an output empties it, so that none may be an input of any port.
fn check_outputs(names: &[String], options: &Options) -> Result<(), ReplayError> {
    let Some(folder) = &options.out else { return Ok(()) };
    for output in names.iter().map(|name| folder.join(format!("{name}.pcap"))) {
        if let Some((_, input)) = options.inputs.iter().find(|(_, input)| same_file(input, &output)) {
            return Err(ReplayError::Overwrites(input.clone()));
        }
    }
    Ok(())
}

/// The captures of one port.
fn of_port<'a>(inputs: &'a [(String, PathBuf)], name: &'a str) -> impl Iterator<Item = &'a Path> {
    inputs.iter().filter(move |(port, _)| port == name).map(|(_, path)| path.as_path())
}

/// What a device would tell: the gateway's MAC address, where the captures were taken.
fn device_facts<'a>(
    index: usize,
    inputs: impl Iterator<Item = &'a Path>,
    strict_l2: bool,
) -> Result<DeviceFacts, ReplayError> {
    let mut facts = DeviceFacts::none(index);
    for path in inputs.filter(|_| !strict_l2) {
        if let Some(mac) = first_unicast_destination(path)? {
            facts.mac = Mac(mac);
            break;
        }
    }
    Ok(facts)
}

/// What a replay of these captures goes by, and the names of its ports.
///
/// # Errors
/// The configuration is wrong, or a capture cannot be read.
pub fn snapshot(options: &Options) -> Result<(Vec<String>, Snapshot), ReplayError> {
    let (config, _) = config::load(&options.config)?;
    let names = port_names(&config);
    check_inputs(&names, &options.inputs)?;
    let snapshot = compile(&config, &names, &options.inputs, options.strict_l2)?;
    Ok((names, snapshot))
}

fn compile(
    config: &Config,
    names: &[String],
    inputs: &[(String, PathBuf)],
    strict_l2: bool,
) -> Result<Snapshot, ReplayError> {
    let mut facts = Vec::new();
    for (index, name) in names.iter().enumerate() {
        facts.push(device_facts(index, of_port(inputs, name), strict_l2)?);
    }
    let mut snapshot = config::compile(config, &facts);
    snapshot.seed = SEED;
    snapshot.lists = Keeper::open(config, 0).0.lists();
    for port in &mut snapshot.ports {
        port.any_mac = !strict_l2;
        port.invent_neighbors = !strict_l2;
    }
    Ok(snapshot)
}

/// Drives a worker through its captures, from event to event: the next packet of any port, or what is due before it.
fn drive(mut worker: Worker, mut pace: Pace) -> sluice_dataplane::counters::Counters {
    let mut now = 0;
    loop {
        let arrival = worker.ports().iter_mut().filter_map(|port| port.next_arrival()).min();
        let Some(arrival) = arrival else { break };
        // What was due before the first packet is due with it.
        let due = if now == 0 { arrival } else { worker.next_due().max(now + 1) };
        now = arrival.min(due).max(now);
        pace.wait(now);
        pace.took(worker.poll(now));
    }
    let end = now.saturating_add(DRAIN);
    while worker.held() > 0 && now < end {
        now = worker.next_due().clamp(now + 1, end);
        worker.poll(now);
    }
    worker.close(now).0
}
