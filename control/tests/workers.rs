//! Every case of `pcap-tests/` by one worker and by four, step by step: the same packets in the same order within each
//! flow, and the same counters; external ports aside, which are others. So what comes back to them is sent to one worker
//! as the case has it, and to four with the ports that these gave out.
//!
//! A case that has a `workers.txt` is left out; the file says why.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufReader;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sluice_control::golden::{self, Case};
use sluice_control::{figures, replay};
use sluice_dataplane::arena::FramePool;
use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::crossing;
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::{MemoryPeer, pair};
use sluice_dataplane::port::pcap::Reader;
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::worker::Worker;
use sluice_pkt::checksum::Delta;
use sluice_pkt::parse::{Flags, Headers, L3, parse_head, parse_quoted};
use sluice_pkt::{icmpv4, ipv4, tcp, udp};

const WORKERS: usize = 4;
/// How long the end is put off for packets that wait.
const DRAIN: Nanos = 10 * SECOND;

/// Workers over memory ports.
struct Gateway {
    workers: Vec<Worker>,
    /// By worker, then by port.
    peers: Vec<Vec<MemoryPeer>>,
}

impl Gateway {
    fn new(snapshot: &Arc<Snapshot>, count: usize) -> Self {
        let (mut workers, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (mut ports, mut ends) = (Vec::<Box<dyn Port>>::new(), Vec::new());
            for _ in &snapshot.ports {
                let (port, end) = pair(256);
                ports.push(Box::new(port));
                ends.push(end);
            }
            let pool = FramePool::new(snapshot.sizes.frames, true).unwrap();
            workers.push(Worker::new(snapshot.clone(), ports, pool));
            peers.push(ends);
        }
        crossing::connect(&mut workers);
        Self { workers, peers }
    }

    fn next_due(&self) -> Nanos {
        self.workers.iter().map(Worker::next_due).min().unwrap()
    }

    fn held(&self) -> u64 {
        self.workers.iter().map(Worker::held).sum()
    }

    /// Polls all by turns until nothing happens any more; what was sent, by port.
    fn settle(&mut self, now: Nanos) -> Vec<Vec<Vec<u8>>> {
        let ports = self.peers[0].len();
        let mut sent = vec![Vec::new(); ports];
        loop {
            let work: usize = self.workers.iter_mut().map(|worker| worker.poll(now)).sum();
            for peers in &mut self.peers {
                for (port, peer) in peers.iter_mut().enumerate() {
                    sent[port].extend(std::iter::from_fn(|| peer.collect()).map(|(_, frame)| frame));
                }
            }
            if work == 0 {
                return sent;
            }
        }
    }

    fn close(mut self, now: Nanos) -> Counters {
        while self.workers.iter_mut().filter_map(|worker| worker.drain(now).then_some(())).count()
            < self.workers.len()
        {}
        let mut all = self.workers.into_iter().map(|mut worker| {
            let (counters, closed) = worker.close(now);
            assert_eq!(closed.frames, closed.home, "every frame is home");
            assert!(counters.conserved());
            counters
        });
        let mut sum = all.next().unwrap();
        all.for_each(|counters| sum.merge(counters));
        sum
    }
}

/// An external port (or identifier of a query) in a packet.
struct External {
    address: Ipv4Addr,
    protocol: u8,
    /// Where the port stands.
    at: usize,
    /// Checksums that cover it, and whether it is one of UDP, which may be left out.
    sums: Vec<(usize, bool)>,
}

/// The transport checksum's place.
fn sum_at(protocol: u8) -> (usize, bool) {
    match protocol {
        ipv4::TCP => (tcp::CHECKSUM, false),
        ipv4::UDP => (udp::CHECKSUM, true),
        _ => (icmpv4::CHECKSUM, false),
    }
}

/// The ports of NAT addresses that a packet has, those of a packet that it quotes included.
fn externals(frame: &[u8], snapshot: &Snapshot) -> Vec<External> {
    let Ok(headers) = parse_head(frame, frame.len()) else { return Vec::new() };
    if headers.l3 != L3::Ipv4 || headers.flags.has(Flags::LATER_FRAGMENT) {
        return Vec::new();
    }
    let (l3, l4) = (usize::from(headers.l3_offset), usize::from(headers.l4_offset));
    let is_nat = |address: Ipv4Addr| snapshot.pools.iter().any(|pool| pool.addresses.contains(&address));
    let mut found = Vec::new();
    let mut look = |l3: usize, l4: usize, protocol: u8, icmp: u8, sums: &[(usize, bool)], own: bool| {
        let Some(ip) = ipv4::Header::at(frame, l3) else { return };
        let query = icmpv4::query(icmp).is_some();
        let places: &[(Ipv4Addr, usize)] = match protocol {
            ipv4::TCP | ipv4::UDP => &[(ip.source(), 0), (ip.destination(), 2)],
            ipv4::ICMP if query && is_nat(ip.source()) => &[(ip.source(), icmpv4::IDENTIFIER)],
            ipv4::ICMP if query => &[(ip.destination(), icmpv4::IDENTIFIER)],
            _ => &[],
        };
        for &(address, offset) in places.iter().filter(|(address, _)| is_nat(*address)) {
            let (at, udp) = sum_at(protocol);
            let mut sums = sums.to_vec();
            if own && frame.len() >= l4 + at + 2 {
                sums.push((l4 + at, udp));
            }
            found.push(External { address, protocol, at: l4 + offset, sums });
        }
    };
    look(l3, l4, headers.protocol, headers.icmp_type, &[], true);
    if headers.flags.has(Flags::ICMP_ERROR) {
        if let Some(quoted) = quoted(frame, &headers) {
            let at = l4 + icmpv4::LEN;
            look(
                at,
                at + usize::from(quoted.l4_offset),
                quoted.protocol,
                quoted.icmp_type,
                &[(l4 + icmpv4::CHECKSUM, false)],
                quoted.l4_checksum.is_some(),
            );
        }
    }
    found
}

fn quoted(frame: &[u8], headers: &Headers) -> Option<sluice_pkt::parse::Quoted> {
    let at = usize::from(headers.l4_offset) + icmpv4::LEN;
    let quoted = parse_quoted(frame.get(at..headers.end.into())?, L3::Ipv4)?;
    (!quoted.flags.has(Flags::LATER_FRAGMENT)).then_some(quoted)
}

fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Ports that one worker gave out, and those that several did in their place.
type Ports = HashMap<(Ipv4Addr, u8, u16), u16>;

/// A packet to one worker's external port as it must be for several. What is wrong with it stays wrong.
fn translate(frame: &[u8], ports: &Ports, snapshot: &Snapshot) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for external in externals(&frame, snapshot) {
        let old = word(&frame, external.at);
        let Some(&new) = ports.get(&(external.address, external.protocol, old)) else { continue };
        put(&mut frame, external.at, new);
        let mut delta = Delta::of_u16(old, new);
        // The innermost checksum first: those around it cover it, too.
        for &(at, udp) in external.sums.iter().rev() {
            let before = word(&frame, at);
            let after = if udp { delta.apply_udp(before) } else { delta.apply(before) };
            put(&mut frame, at, after);
            delta += Delta::of_u16(before, after);
        }
    }
    frame
}

/// A packet without what differs with the external port, or between workers.
fn normal(frame: &[u8], snapshot: &Snapshot) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for external in externals(&frame, snapshot) {
        put(&mut frame, external.at, 0);
        external.sums.iter().for_each(|&(at, _)| put(&mut frame, at, 0));
    }
    if let Some(ip) = renamed(&frame, snapshot) {
        let delta = Delta::of_u16(word(&frame, ip + ipv4::IDENTIFICATION), 0);
        let checksum = delta.apply(word(&frame, ip + ipv4::CHECKSUM));
        put(&mut frame, ip + ipv4::IDENTIFICATION, 0);
        put(&mut frame, ip + ipv4::CHECKSUM, checksum);
    }
    frame
}

/// Where the header of a packet stands that leaves from behind NAT with an identification of the worker's own: a fragment, or
/// what NAT64 has made and may be cut on its way.
fn renamed(frame: &[u8], snapshot: &Snapshot) -> Option<usize> {
    let headers = parse_head(frame, frame.len()).ok()?;
    let ip = ipv4::Header::at(frame, headers.l3_offset.into())?;
    let mut pools = snapshot.pools.iter().filter(|pool| pool.addresses.contains(&ip.source()));
    let is_renamed = match headers.flags.has(Flags::FRAGMENT) {
        true => pools.next().is_some(),
        false => ip.flags_fragment() == 0 && pools.any(|pool| pool.behavior.is_nat64),
    };
    (headers.l3 == L3::Ipv4 && is_renamed).then(|| headers.l3_offset.into())
}

/// The flow that a packet is of, as far as order matters: addresses, protocol and ports, external ones aside.
fn flow(frame: &[u8]) -> Vec<u8> {
    let Ok(headers) = parse_head(frame, frame.len()) else { return Vec::new() };
    let addresses = match headers.l3 {
        L3::Ipv4 => 12..20,
        L3::Ipv6 => 8..40,
        _ => 0..0,
    };
    let at = usize::from(headers.l3_offset);
    let mut flow = frame.get(at + addresses.start..at + addresses.end).unwrap_or_default().to_vec();
    flow.push(headers.protocol);
    flow.extend([headers.src_port.to_be_bytes(), headers.dst_port.to_be_bytes()].concat());
    flow
}

/// What differs in the packets that one worker sent by a port and that several did; the ports that stand for each other.
fn compare(one: &[Vec<u8>], several: &[Vec<u8>], snapshot: &Snapshot, ports: &mut Ports) -> Option<String> {
    let by_flow = |frames: &[Vec<u8>]| {
        let mut flows = BTreeMap::<Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>>::new();
        for frame in frames {
            let normal = normal(frame, snapshot);
            flows.entry(flow(&normal)).or_default().push((normal, frame.clone()));
        }
        flows
    };
    let (ours, theirs) = (by_flow(one), by_flow(several));
    let told = |flows: &BTreeMap<_, Vec<(Vec<u8>, Vec<u8>)>>| {
        flows.values().flatten().map(|(_, frame)| format!("\n    {frame:02x?}")).collect::<String>()
    };
    let alike = ours.len() == theirs.len()
        && ours.iter().zip(&theirs).all(|((a, ones), (b, severals))| {
            let packets = |all: &[(Vec<u8>, Vec<u8>)]| all.iter().map(|p| p.0.clone()).collect::<Vec<_>>();
            a == b && packets(ones) == packets(severals)
        });
    if !alike {
        return Some(format!("one worker sent{}\n  several sent{}", told(&ours), told(&theirs)));
    }
    for ((_, one), (_, several)) in ours.values().flatten().zip(theirs.values().flatten()) {
        for (ours, theirs) in externals(one, snapshot).iter().zip(externals(several, snapshot)) {
            let key = (ours.address, ours.protocol, word(one, ours.at));
            ports.insert(key, word(several, theirs.at));
        }
    }
    None
}

/// Packets of a case, by time and port. Those of which the capture has a part only never get to a worker.
fn arrivals(case: &Case, names: &[String]) -> Vec<(Nanos, usize, Vec<u8>)> {
    let mut arrivals = Vec::new();
    for (name, path) in &case.inputs {
        let port = names.iter().position(|other| other == name).unwrap();
        let mut reader = Reader::new(name, BufReader::new(File::open(path).unwrap())).unwrap();
        let mut latest = 0;
        while let Ok(Some(record)) = reader.advance() {
            latest = record.time.max(latest);
            if record.wire_len as usize == reader.bytes().len() {
                arrivals.push((latest, port, reader.bytes().to_vec()));
            }
        }
    }
    arrivals.sort_by_key(|(time, port, _)| (*time, *port));
    arrivals
}

/// All that is counted, except what workers had to do with each other.
fn comparable(snapshot: &Snapshot, counters: &Counters) -> Value {
    let mut value = figures::counters(snapshot, counters);
    value.as_object_mut().unwrap().remove("crossing");
    value["rules"] = figures::rules(snapshot, counters);
    value["limits"] = figures::limits(snapshot, counters);
    value
}

fn differences(path: &str, one: &Value, several: &Value, told: &mut Vec<String>) {
    match (one, several) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let get = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or(0.into());
                differences(&format!("{path}.{key}"), &get(a), &get(b), told);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{i}]"), a, b, told);
            }
        }
        _ if one != several => told.push(format!("{path}: one worker {one}, several {several}")),
        _ => {}
    }
}

fn run(case: &Case) -> Vec<String> {
    let options = replay::Options {
        config: case.config.clone(),
        inputs: case.inputs.clone(),
        out: None,
        strict_l2: !case.arguments.is_empty(),
        workers: 1,
        speed: replay::Speed::default(),
    };
    let (names, snapshot) = replay::snapshot(&options).unwrap();
    let snapshot = Arc::new(snapshot);
    let (mut one, mut several) = (Gateway::new(&snapshot, 1), Gateway::new(&snapshot, WORKERS));
    let (mut ports, mut told) = (Ports::new(), Vec::new());
    let arrivals = arrivals(case, &names);
    let (mut now, mut next) = (0, 0);
    let mut end = None;
    loop {
        let due = one.next_due().min(several.next_due()).max(now + 1);
        let arrival = arrivals.get(next).map(|(time, ..)| *time);
        let packet = match arrival {
            Some(arrival) if arrival <= due || now == 0 => {
                now = arrival.max(now);
                next += 1;
                Some(&arrivals[next - 1])
            }
            Some(_) => {
                now = due;
                None
            }
            None => {
                let end = *end.get_or_insert(now + DRAIN);
                if now >= end || one.held() + several.held() == 0 {
                    break;
                }
                now = due.min(end);
                None
            }
        };
        if let Some((_, port, frame)) = packet {
            // Whatever is longer than a ring's slot is too long for one worker as for several.
            if one.peers[0][*port].inject(0, frame) {
                let worker = (next * 7 + next / 5) % WORKERS;
                several.peers[worker][*port].inject(0, &translate(frame, &ports, &snapshot));
            }
        }
        let (ours, theirs) = (one.settle(now), several.settle(now));
        for (port, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            if let Some(difference) = compare(ours, theirs, &snapshot, &mut ports) {
                told.push(format!("packet {next}, {}: {difference}", names[port]));
            }
        }
    }
    let (one, several) = (one.close(now), several.close(now));
    differences("counters", &comparable(&snapshot, &one), &comparable(&snapshot, &several), &mut told);
    told
}

#[test]
fn four_workers_do_what_one_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcap-tests");
    let only = std::env::var("SLUICE_CASE").ok();
    let (mut count, mut failures) = (0, Vec::new());
    for case in golden::cases(&root).unwrap() {
        if case.dir.join("workers.txt").exists() || only.as_ref().is_some_and(|only| *only != case.name) {
            continue;
        }
        count += 1;
        let told = run(&case);
        if !told.is_empty() {
            failures.push(format!("case {}:\n  {}", case.name, told.join("\n  ")));
        }
    }
    assert!(count > 60 || only.is_some(), "only {count} cases");
    assert!(failures.is_empty(), "{} of {count} cases differ\n{}", failures.len(), failures.join("\n"));
}
