//! A traced packet in words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use sluice_dataplane::snapshot::{NONE16, Snapshot, Tags};
use sluice_dataplane::trace::{Origin, Traced};
use sluice_dataplane::verdict::Verdict;
use sluice_pkt::parse::{Flags, Headers, L3, parse_head};

use crate::explain::{Story, Subject, stage_name};
use crate::words;

/// The packet, stage by stage. `at` is when it came, in seconds since 1970; the snapshot is that of its generation.
pub(super) fn tell(traced: &Traced, worker: usize, at: f64, snapshot: &Snapshot) -> Value {
    let came = traced.came();
    let headers = parse_head(came, traced.len as usize).unwrap_or_default();
    let subject = subject(&headers, came, traced.port, snapshot);
    let mut story = Story::new(subject, snapshot, came);
    let (mut last, mut stages) = (None, Vec::new());
    for stage in traced.stages() {
        let line = stage.step.as_ref().and_then(|step| story.step(step));
        let cycles = match stage.alone {
            true => f64::from(stage.ticks),
            false => f64::from(stage.ticks) / f64::from(traced.burst.max(1)),
        };
        stages.push(json!({
            "stage": stage_name(stage.name),
            "cycles": cycles.round(),
            "what": line.as_ref().map(|line| line.what.as_str()),
            "where": line.as_ref().and_then(|line| line.place()),
        }));
        last = stage.step.or(last);
    }
    let port = |index: u16| snapshot.ports.get(usize::from(index)).map(|port| port.name.as_str());
    let outcome = match &last {
        Some(step) => match (step.verdict, step.egress) {
            (Verdict::Forward, Some(egress)) => {
                let to = port(egress.port).unwrap_or("?");
                format!("handed to {to} for sending: {}", words::summary(traced.left()))
            }
            (Verdict::Forward, None) if traced.origin == Origin::Asked => {
                "goes back to the worker that has asked".to_owned()
            }
            (Verdict::Forward, None) => "leaves in fragments".to_owned(),
            (Verdict::Drop(reason) | Verdict::Reject(reason, _), _) => {
                format!("dropped as {}", reason.name())
            }
            (Verdict::Hold(_) | Verdict::HoldSyn | Verdict::AwaitFragments, _) => "waits".to_owned(),
            (Verdict::Ask(owner), _) => format!("lent to worker {owner}"),
            (Verdict::Local | Verdict::PortControl(_), _) => "taken in by the gateway itself".to_owned(),
        },
        None => "unknown".to_owned(),
    };
    json!({
        "at": at,
        "worker": worker,
        "generation": traced.generation,
        "packet": words::summary(came),
        "frame_bytes": traced.len,
        "port": port(snapshot.physical(traced.port)),
        "in": snapshot.interfaces.get(usize::from(subject.interface)).map(|i| i.name.as_str()),
        "came": origin(traced.origin),
        "burst_packets": traced.burst,
        "stages": stages,
        "outcome": outcome,
    })
}

/// By which way a packet came.
fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Received => "received",
        Origin::Released => "again, having waited",
        Origin::Again => "again, as by the outer interface (hairpinning)",
        Origin::Asked => "asked about by the worker that received it",
        Origin::Home => "home from the worker that owns its session",
    }
}

/// What of a packet the words hang on.
fn subject(headers: &Headers, bytes: &[u8], port: u16, snapshot: &Snapshot) -> Subject {
    let ids = [headers.tci[0] & 0xfff, headers.tci[1] & 0xfff];
    let tags = match headers.tags {
        0 => Tags::default(),
        1 if ids[0] == 0 => Tags::default(),
        1 => Tags { count: 1, ids: [ids[0], 0] },
        _ => Tags { count: 2, ids },
    };
    let has_ports = headers.flags.has(Flags::PORTS);
    Subject {
        interface: snapshot.interface_of(snapshot.physical(port), tags).unwrap_or(NONE16),
        protocol: headers.protocol,
        ends: ends(headers, bytes),
        ports: if has_ports { [headers.src_port, headers.dst_port] } else { [0; 2] },
    }
}

fn ends(headers: &Headers, bytes: &[u8]) -> Option<[IpAddr; 2]> {
    let packet = bytes.get(usize::from(headers.l3_offset)..)?;
    fn address<const N: usize>(packet: &[u8], offset: usize) -> Option<[u8; N]> {
        packet.get(offset..)?.first_chunk().copied()
    }
    match headers.l3 {
        L3::Ipv4 => {
            let end = |offset| Some(IpAddr::from(Ipv4Addr::from(address::<4>(packet, offset)?)));
            Some([end(12)?, end(16)?])
        }
        L3::Ipv6 => {
            let end = |offset| Some(IpAddr::from(Ipv6Addr::from(address::<16>(packet, offset)?)));
            Some([end(8)?, end(24)?])
        }
        _ => None,
    }
}
