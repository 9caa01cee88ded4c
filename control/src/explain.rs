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
use sluice_dataplane::port::{Port, memory};
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::steps::Steps;
use sluice_dataplane::worker::Worker;
use sluice_pkt::parse::parse_head;

use crate::words;

pub use self::packet::Packet;
pub use self::story::{Line, Story, Subject, stage_name};

/// Buffers that one packet, its answers and its pieces need.
const FRAMES: u32 = 256;
/// When the packet comes in.
const BEGIN: Nanos = SECOND;

/// A packet that left, with the port (index) that it left by.
type Left = (usize, Vec<u8>);

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
    let mut scratch = snapshot.clone();
    scratch.stages_only = true;
    scratch.nat_log = NatLog::Off;
    scratch.sizes.sessions = scratch.sizes.sessions.min(1024);
    scratch.sizes.fragments = scratch.sizes.fragments.min(64);
    scratch.sizes.frames = FRAMES;
    for port in &mut scratch.ports {
        port.invent_neighbors = true;
    }
    let pool = FramePool::new(FRAMES, false).map_err(|error| format!("cannot explain it: {error}"))?;
    let (ports, mut peers): (Vec<_>, Vec<_>) = scratch.ports.iter().map(|_| memory::pair(16)).unzip();
    let ports = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
    let mut worker = Worker::new(Arc::new(scratch), ports, pool).apart();
    let by = snapshot.interfaces.get(usize::from(packet.interface)).map_or(0, |i| usize::from(i.port));
    let mut steps = Steps::default();
    worker.poll(BEGIN);
    let taken = peers.get_mut(by).is_some_and(|peer| peer.inject(BEGIN, frame));
    if taken {
        worker.poll_probed(BEGIN + 1, &mut steps);
        // Once more, for a shaper that is just waiting for its turn.
        worker.poll(BEGIN + SECOND);
    }
    worker.close(BEGIN + SECOND);
    let mut left = Vec::new();
    for (port, peer) in peers.iter_mut().enumerate() {
        while let Some((_, bytes)) = peer.collect() {
            left.push((port, bytes));
        }
    }
    taken.then_some((steps, left)).ok_or_else(|| "cannot explain it: the packet is too long".to_owned())
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
