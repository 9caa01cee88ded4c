//! The log of NAT from end to end: packets through a worker, lines in a file, and the answers that these give; and what a collector
//! of another make reads.

use std::fs;
use std::io::BufReader;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_control::config::{self, NatLog, NatRecords};
use sluice_control::export::{Collector, Logger, Record};
use sluice_control::nat_query::Query;
use sluice_dataplane::arena::FramePool;
use sluice_dataplane::clock::{Clock, SECOND};
use sluice_dataplane::nat::{EventReader, NatLog as NatLogRecords};
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::{MemoryPeer, pair};
use sluice_dataplane::worker::Worker;

const CONFIG: &str = r#"
    [interfaces.lan]
    address = "100.64.0.1/22"
    mac = "02:00:00:00:00:01"
    [interfaces.wan]
    address = "203.0.113.2/24"
    mac = "02:00:00:00:00:02"
    [[routes]]
    to = "default"
    via = "203.0.113.1"
    [[nat.source]]
    out = "wan"
    from = "100.64.0.0/22"
    to = "203.0.113.16/28"
    block-size = 512
    block-hold = "2min"
    [nat.log]
    file = "/nowhere"
"#;

/// A worker whose neighbours are made up.
fn worker(records: NatLogRecords) -> (Worker, Vec<MemoryPeer>) {
    let (config, _) = config::load_str("test.toml", CONFIG).unwrap();
    let mut snapshot = config::compile(&config, &[]);
    snapshot.nat_log = records;
    snapshot.ports.iter_mut().for_each(|port| port.invent_neighbors = true);
    let (ports, peers): (Vec<_>, Vec<_>) = snapshot.ports.iter().map(|_| pair(256)).unzip();
    let ports = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
    let pool = FramePool::new(snapshot.sizes.frames, false).unwrap();
    (Worker::new(Arc::new(snapshot), ports, pool), peers)
}

/// An Ethernet frame with a UDP datagram to 198.51.100.7:53.
fn udp(from: (Ipv4Addr, u16)) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 16], [2, 0, 0, 0, 0, 1])
        .ipv4(from.0.octets(), [198, 51, 100, 7], 64)
        .udp(from.1, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"hello").unwrap();
    frame
}

/// Sends a packet of each of these inside addresses; the external ends that they come out with.
fn send(
    worker: &mut Worker,
    peers: &mut [MemoryPeer],
    now: u64,
    hosts: impl Iterator<Item = u8>,
) -> Vec<(Ipv4Addr, Ipv4Addr, u16)> {
    let mut seen = Vec::new();
    for last in hosts {
        let inside = Ipv4Addr::new(100, 64, 1, last);
        assert!(peers[0].inject(0, &udp((inside, 5000))));
        worker.poll(now);
        let (_, frame) = peers[1].collect().expect("it is forwarded");
        let address: [u8; 4] = frame[26..30].try_into().unwrap();
        seen.push((inside, address.into(), u16::from_be_bytes([frame[34], frame[35]])));
    }
    seen
}

fn log(file: Option<&Path>) -> NatLog {
    let file = file.map(Path::to_owned);
    NatLog { records: NatRecords::Blocks, file, syslog: None, ipfix: None, domain: 1 }
}

/// Records as control gets them.
fn records(
    reader: EventReader,
    clock: Clock,
) -> impl FnMut(&[sluice_control::export::SinkStatus]) -> Vec<Record> + Send {
    let (mut collector, mut next) = (Collector::new(vec![reader], clock), 0);
    move |_| {
        collector.collect();
        let batch = collector.fetch(next);
        next = batch.next();
        batch.records
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// proves: RFC 6888 REQ-12
/// proves: RFC 6888 REQ-14
#[test]
fn a_log_tells_who_had_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nat.log");
    let (mut worker, mut peers) = worker(NatLogRecords::Blocks);
    let clock = Clock::monotonic();
    let (logger, statuses) =
        Logger::start(&log(Some(&path)), &[], records(worker.nat_events(), clock)).unwrap();
    let now = clock.now();
    let seen = send(&mut worker, &mut peers, now, 1..=50);
    send(&mut worker, &mut peers, now, 1..=50);
    until("all is written", || statuses.read()[0].written == 50);
    drop(logger);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 51, "a line a block, and one at the start");
    assert!(!text.contains("198.51.100.7"), "no destination");
    for (inside, address, port) in seen {
        let ask = |query: Query| query.of_log(BufReader::new(text.as_bytes()), None).unwrap();
        let who = ask(Query::Who { address, port });
        let subscriber = IpAddr::V4(inside);
        assert_eq!((who.len(), who[0].inside), (1, subscriber));
        assert_eq!(ask(Query::Where { subscriber }), who);
    }
    assert_eq!(worker.shard().nat.recorded(), (50, 0));
}

/// Nobody reads the pipe, and packets go on all the same. The loss is seen.
#[test]
fn a_log_that_stalls_stops_no_packet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().is_ok_and(|status| status.success()));
    let (mut worker, mut peers) = worker(NatLogRecords::Blocks);
    let clock = Clock::monotonic();
    let (logger, statuses) =
        Logger::start(&log(Some(&path)), &[], records(worker.nat_events(), clock)).unwrap();
    let seen = send(&mut worker, &mut peers, SECOND, 1..=100);
    assert_eq!(seen.len(), 100);
    until("the loss is counted", || statuses.read()[0].lost == 100);
    assert!(statuses.read()[0].error.is_some());
    drop(logger);
}

/// proves: RFC 7011 8.4
/// proves: RFC 8158 5
///
/// Skipped where nfdump is not installed.
#[test]
fn nfcapd_reads_our_ipfix() {
    let is_there = |name| Command::new(name).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if is_there("nfcapd").is_err() || is_there("nfdump").is_err() {
        println!("skipped: nfcapd and nfdump are not installed (Debian: nfdump)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut collector = Command::new("nfcapd")
        .args(["-b", "127.0.0.1", "-p", &port.to_string(), "-t", "3600", "-w"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let bound = || {
        let table = fs::read_to_string("/proc/net/udp").unwrap_or_default();
        table.contains(&format!(":{port:04X} "))
    };
    until("nfcapd listens", bound);
    let (mut worker, mut peers) = worker(NatLogRecords::Bindings);
    let clock = Clock::monotonic();
    let to = NatLog { ipfix: Some(([127, 0, 0, 1], port).into()), ..log(None) };
    let (logger, statuses) = Logger::start(&to, &[], records(worker.nat_events(), clock)).unwrap();
    let seen = send(&mut worker, &mut peers, clock.now(), 1..=50);
    until("all is sent", || statuses.read()[0].written == 100);
    drop(logger);
    std::thread::sleep(Duration::from_millis(300));
    // It writes its file when it ends.
    let _ = Command::new("kill").arg(collector.id().to_string()).status();
    let _ = collector.wait();
    let dump = |arguments: &[&str]| {
        let output = Command::new("nfdump").arg("-R").arg(folder.path()).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = dump(&["-q", "-o", "fmt:%sa|%nsa|%sp|%nsp"]);
    let rows: Vec<String> = text.lines().map(|line| line.replace(' ', "")).collect();
    for (inside, external, port) in seen {
        let binding = format!("{inside}|{external}|5000|{port}");
        assert!(rows.contains(&binding), "{binding} is not in\n{text}");
        // Of a block it knows no range of ports, in Debian's version 1.7.1.
        let block = format!("{inside}|{external}|0|0");
        assert!(rows.contains(&block), "{block} is not in\n{text}");
    }
    let text = dump(&["-o", "raw"]);
    let events =
        text.lines().filter_map(|line| line.trim().strip_prefix("nat event")?.trim().strip_prefix('='));
    let mut events: Vec<&str> = events.filter_map(|event| event.trim().split(':').next()).collect();
    events.sort_unstable();
    assert_eq!((events.len(), events.first(), events.last()), (100, Some(&"16"), Some(&"8")), "{text}");
}
