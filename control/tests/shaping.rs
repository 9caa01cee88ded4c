//! A shaped device for real: four TCP connections that take all they can get, and pings beside them, through a gateway
//! between two namespaces on veth pairs. Without the privilege, iperf3 or ping the test says so and passes.
#![allow(unsafe_code)]

mod netns;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::netns::{Held, Station, in_ipv4_namespace, set_ipv6};

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");
/// Bits per second.
const RATE: f64 = 50e6;

const CONFIG: &str = r#"
[interfaces.lan]
device  = "lan0"
address = "192.0.2.1/24"

[interfaces.wan]
device  = "wan0"
address = "203.0.113.1/24"

[shapers.wan]
rate = "50 Mbit/s"
"#;

/// A namespace with one end of a veth pair, `eth0`.
fn station(device: &str, address: &str, gateway: &str) -> Station {
    let station = Station::new(device, "eth0", 1);
    station.within(|| set_ipv6(false));
    station.up(&[address], &[&format!("default via {gateway}")])
}

/// Round trips of pings, 50 a second, in ms, ascending.
fn pings(from: &Station, seconds: u64) -> Vec<f64> {
    let count = (seconds * 50).to_string();
    let output =
        from.within(|| Command::new("ping").args(["-n", "-i", "0.02", "-c", &count, "203.0.113.2"]).output());
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let times = text.lines().filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse().ok());
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    assert!(times.len() as u64 * 10 >= seconds * 50 * 9, "{} answers: {text}", times.len());
    times
}

fn percentile(times: &[f64], percent: usize) -> f64 {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

#[test]
fn four_connections_fill_a_shaped_line_and_pings_hardly_wait() {
    const NAME: &str = "four_connections_fill_a_shaped_line_and_pings_hardly_wait";
    for tool in ["iperf3", "ping"] {
        if Command::new(tool).arg("-h").output().is_err() {
            return println!("SKIP {NAME}: there is no {tool}");
        }
    }
    in_ipv4_namespace(NAME, || {
        let lan = station("lan0", "192.0.2.2/24", "192.0.2.1");
        let wan = station("wan0", "203.0.113.2/24", "203.0.113.1");
        let folder = tempfile::tempdir().unwrap();
        let (file, socket) = (folder.path().join("c.toml"), folder.path().join("s"));
        std::fs::write(&file, CONFIG).unwrap();
        let mut command = Command::new(SLUICE);
        command.arg("run").arg(&file).arg("--socket").arg(&socket).env_remove("SSH_CONNECTION");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let _gateway = Held(child);
        let is_ready = |line: &String| line.starts_with("ready:");
        assert!(lines.map_while(Result::ok).any(|line| is_ready(&line)));
        let show = |topic: &str| -> Value {
            let mut command = Command::new(SLUICE);
            command.args(["show", topic, "--json", "--socket"]).arg(&socket);
            serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
        };

        let unloaded = pings(&lan, 2);
        let server = || Command::new("iperf3").args(["-s", "-1"]).stdout(Stdio::null()).spawn().unwrap();
        let _server = Held(wan.within(server));
        thread::sleep(Duration::from_millis(300));
        let client = ["-c", "203.0.113.2", "-P", "4", "-t", "9"];
        let client = || Command::new("iperf3").args(client).stdout(Stdio::null()).spawn().unwrap();
        let _client = Held(lan.within(client));
        // Past the slow start of all.
        thread::sleep(Duration::from_secs(2));
        let sent = || {
            let at = Instant::now();
            (show("counters")["ports"]["wan"]["tx_bytes"].as_u64().unwrap(), at)
        };
        let (before, begun) = sent();
        let loaded = pings(&lan, 5);
        let (after, ended) = sent();
        let rate = (after - before) as f64 * 8.0 / (ended - begun).as_secs_f64();
        let qos = show("qos");
        let counters = show("counters");
        let [p50, p99] =
            [50, 99].map(|percent| percentile(&loaded, percent) - percentile(&unloaded, percent));
        println!(
            "{:.2} Mbit/s of {:.0}; pings wait {p50:.2} ms longer (median), {p99:.2} ms (p99)",
            rate / 1e6,
            RATE / 1e6
        );
        assert!((rate - RATE).abs() < RATE * 0.02, "{rate} {qos:#} {counters:#}");
        assert!(p99 < 15.0, "{p99} ms longer than without load: {loaded:?} {qos:#}");
        assert_eq!(counters["conserved"], true, "{counters:#}");
        let class = &qos[1];
        assert_eq!((&class["port"], &class["class"]), (&"wan".into(), &"default".into()));
        let shown = class["bits_per_second"].as_f64().unwrap();
        assert!((shown - RATE).abs() < RATE * 0.05, "{qos:#}");
        assert!(
            class["wait_p50_ms"].as_f64() > Some(0.0) && class["backlog_packets"].as_u64() > Some(0),
            "{qos:#}"
        );
    });
}
