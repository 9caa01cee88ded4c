//! `sluice explain`: what becomes of a packet, stage by stage, and why.
//!
//! The packet goes through the real pipeline, with tables of its own that are empty: what is said is what was done, not what
//! somebody thinks that would be done. No packet leaves.

pub(crate) mod matched;
mod packet;
mod story;

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use sluice_dataplane::arena::FramePool;
use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::nat::NatLog;
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::{self, MemoryPeer};
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::steps::Steps;
use sluice_dataplane::worker::Worker;
use sluice_pkt::parse::parse_head;

use crate::words;

pub use self::packet::Packet;
pub use self::story::{Line, Story, Subject, stage_name};

/// Buffers that one packet, its answers and its pieces need.
const FRAMES: u32 = 256;
/// Sessions that a packet may make.
const SESSIONS: u32 = 1024;
/// When the packet comes in.
const BEGIN: Nanos = SECOND;

/// A packet that left, with the port (index) that it left by.
pub(crate) type Left = (usize, Vec<u8>);

/// Where the flow of a packet would be found in a gateway that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEnds {
    /// Source and destination address.
    pub ends: [IpAddr; 2],
    /// Source and destination port; of ICMP as the flow table has them.
    pub ports: (u16, u16),
    /// IP protocol.
    pub protocol: u8,
    /// Ingress interface.
    pub interface: u16,
}

/// Explains what becomes of a packet in words (see [`Packet::parse`]) under a configuration.
///
/// # Errors
/// The words are wrong: a report with the place marked. Or there is no memory.
pub fn explain(text: &str, snapshot: &Snapshot) -> Result<Value, String> {
    let packet = Packet::parse(text, snapshot)?;
    let frame = packet.frame(snapshot)?;
    let (steps, left) = walk(&frame, &packet, snapshot)?;
    let subject = Subject {
        interface: packet.interface,
        protocol: packet.protocol,
        ends: Some(packet.ends),
        ports: packet.ports,
    };
    let stages = story::tell(&steps.0, subject, snapshot);
    let sent = left.iter().map(|(port, bytes)| {
        let port = snapshot.ports.get(*port).map_or("?", |port| port.name.as_str());
        format!("sent by {port}: {}", words::summary(bytes))
    });
    let sent: Vec<String> = sent.collect();
    let outcome = if sent.is_empty() { "nothing leaves".to_owned() } else { sent.join("; ") };
    Ok(json!({
        "packet": words::summary(&frame),
        "in": snapshot.interfaces.get(usize::from(packet.interface)).map(|i| i.name.as_str()),
        "stages": stages,
        "outcome": { "stage": "outcome", "what": outcome },
    }))
}

/// What the flow table would be asked about the packet.
///
/// # Errors
/// As [`explain`].
pub fn flow(text: &str, snapshot: &Snapshot) -> Result<FlowEnds, String> {
    let packet = Packet::parse(text, snapshot)?;
    let frame = packet.frame(snapshot)?;
    let headers = parse_head(&frame, frame.len()).map_err(|error| format!("{error:?}"))?;
    Ok(FlowEnds {
        ends: packet.ends,
        ports: (headers.src_port, headers.dst_port),
        protocol: headers.protocol,
        interface: packet.interface,
    })
}

/// Takes the frame through the pipeline. With what the stages did come the packets that leave, by port.
fn walk(frame: &[u8], packet: &Packet, snapshot: &Snapshot) -> Result<(Steps, Vec<Left>), String> {
    let mut trial = Trial::new(snapshot, SESSIONS)?;
    let by = snapshot.interfaces.get(usize::from(packet.interface)).map_or(0, |i| usize::from(i.port));
    let steps = trial.run(by, frame);
    let left = trial.close();
    steps.map(|steps| (steps, left)).ok_or_else(|| "cannot explain it: the packet is too long".to_owned())
}

/// A worker aside, with a configuration and empty tables, whose ports are in memory.
pub(crate) struct Trial {
    worker: Worker,
    peers: Vec<MemoryPeer>,
    now: Nanos,
    left: Vec<Left>,
}

impl Trial {
    /// With room for so many sessions, up to what the configuration has.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn new(snapshot: &Snapshot, sessions: u32) -> Result<Self, String> {
        let mut scratch = snapshot.clone();
        scratch.stages_only = true;
        scratch.nat_log = NatLog::Off;
        scratch.sizes.sessions = scratch.sizes.sessions.min(sessions.max(SESSIONS));
        scratch.sizes.fragments = scratch.sizes.fragments.min(64);
        scratch.sizes.frames = FRAMES;
        for port in &mut scratch.ports {
            port.invent_neighbors = true;
        }
        let pool = FramePool::new(FRAMES, false).map_err(|error| format!("cannot try it: {error}"))?;
        let (ports, peers): (Vec<_>, Vec<_>) = scratch.ports.iter().map(|_| memory::pair(16)).unzip();
        let ports = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
        let mut worker = Worker::new(Arc::new(scratch), ports, pool).apart();
        worker.poll(BEGIN);
        Ok(Self { worker, peers, now: BEGIN, left: Vec::new() })
    }

    /// Takes a frame through the pipeline, and says what the stages did. None if it is too long.
    pub(crate) fn run(&mut self, port: usize, frame: &[u8]) -> Option<Steps> {
        let mut steps = Steps::default();
        let taken = self.peers.get_mut(port).is_some_and(|peer| peer.inject(self.now, frame));
        if taken {
            self.worker.poll_probed(self.now + 1, &mut steps);
            // Once more, for a shaper that is just waiting for its turn.
            self.now += SECOND;
            self.worker.poll(self.now);
        }
        self.collect();
        taken.then_some(steps)
    }

    fn collect(&mut self) {
        self.left.clear();
        for (port, peer) in self.peers.iter_mut().enumerate() {
            while let Some((_, bytes)) = peer.collect() {
                self.left.push((port, bytes));
            }
        }
    }

    /// Ends it. Returns what has left since the last frame came in.
    pub(crate) fn close(mut self) -> Vec<Left> {
        let before = std::mem::take(&mut self.left);
        self.worker.close(self.now);
        self.collect();
        before.into_iter().chain(self.left).collect()
    }
}

/// The answer on a terminal.
pub fn render(value: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = format!("{}\n", text(&value["packet"]));
    let rows = value["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
    for row in rows.iter().chain([&value["outcome"]]) {
        let place = row["where"].as_str().map(|place| format!("  [{place}]")).unwrap_or_default();
        out.push_str(&format!("  {:<12} {}{place}\n", text(&row["stage"]), text(&row["what"])));
    }
    if let Some(session) = value["session"].as_str() {
        out.push_str(&format!("  {:<12} {session}\n", "session"));
    }
    out
}

#[cfg(test)]
mod tests;
