//! `[kernel-routes]`: what `ip route` says is where packets go, while they go on. Without the privilege each test says so and
//! passes.
#![allow(unsafe_code)]

mod netns;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::netns::{Held, Station, in_namespace, ip, until};

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

const CONFIG: &str = r#"
[interfaces.lan]
device = "dkr0"
address = "192.0.2.1/24"
host = "kernel"

[interfaces.one]
device = "dkr2"
address = "198.51.100.1/24"
host = "kernel"

[interfaces.two]
device = "dkr4"
address = "203.0.113.1/24"
host = "kernel"

[kernel-routes]
most-ipv4 = 1000000
"#;

fn start(config: &str, folder: &Path) -> (Held, Vec<String>) {
    let file = folder.join("c.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(SLUICE);
    command.arg("run").arg(file).arg("--socket").arg(folder.join("s"));
    let mut child = command.env_remove("SSH_CONNECTION").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        lines.push(line.unwrap());
        if lines.last().unwrap().starts_with("ready:") {
            break;
        }
    }
    (Held(child), lines)
}

fn show(words: &[&str], folder: &Path) -> Value {
    let mut command = Command::new(SLUICE);
    command.arg("show").args(words).args(["--json", "--socket"]).arg(folder.join("s"));
    serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
}

/// The stations: a client, and two routers that both have 10.9.9.9.
fn stations() -> [Station; 3] {
    let client = Station::new("dkr0", "dkr1", 1).up(&["192.0.2.10/24"], &["default via 192.0.2.1"]);
    let one = Station::new("dkr2", "dkr3", 1)
        .up(&["198.51.100.7/24", "10.9.9.9/32"], &["192.0.2.0/24 via 198.51.100.1"]);
    let two = Station::new("dkr4", "dkr5", 1)
        .up(&["203.0.113.7/24", "10.9.9.9/32"], &["192.0.2.0/24 via 203.0.113.1"]);
    for (device, address) in [("dkr0", "192.0.2.1"), ("dkr2", "198.51.100.1"), ("dkr4", "203.0.113.1")] {
        ip(&format!("address add {address}/24 dev {device}"));
    }
    [client, one, two]
}

/// Packets that an interface has sent.
fn sent(name: &str, folder: &Path) -> u64 {
    let rows = show(&["interfaces"], folder);
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
    row["tx_packets"].as_u64().unwrap()
}

fn ping() -> bool {
    let output = Command::new("ping").args(["-c", "2", "-i", "0.2", "-W", "1", "10.9.9.9"]).output();
    output.expect("ping is installed").status.success()
}

#[test]
fn packets_go_where_the_kernel_would_send_them() {
    in_namespace("packets_go_where_the_kernel_would_send_them", || {
        let [client, _one, _two] = stations();
        ip("route add 10.9.9.0/24 via 198.51.100.7 metric 20");
        let folder = tempfile::tempdir().unwrap();
        let (_gateway, lines) = start(CONFIG, folder.path());
        assert!(lines.last().is_some_and(|line| line.starts_with("ready:")), "{lines:#?}");
        let goes_by = |name: &str| {
            let before = sent(name, folder.path());
            client.within(ping) && sent(name, folder.path()) >= before + 2
        };
        until("a route of before", || goes_by("one"));
        // A better one, by another interface: the sessions move with it; and back.
        ip("route add 10.9.9.0/24 via 203.0.113.7 metric 10");
        until("a better route", || goes_by("two"));
        ip("route del 10.9.9.0/24 via 203.0.113.7 metric 10");
        until("the route before it", || goes_by("one"));
        // Kinds of routes, and one by nexthop objects.
        ip("route add blackhole 10.9.9.9/32 metric 5");
        until("a blackhole", || !client.within(ping));
        let rows = &show(&["routes", "10.9.9.9"], folder.path())["routes"];
        assert_eq!((&rows[0]["to"], &rows[0]["kind"]), (&"10.9.9.9/32".into(), &"blackhole".into()));
        ip("route del blackhole 10.9.9.9/32 metric 5");
        ip("nexthop add id 1 via 198.51.100.7 dev dkr2");
        ip("nexthop add id 2 via 203.0.113.7 dev dkr4");
        ip("nexthop add id 10 group 1/2,3");
        ip("route replace 10.9.9.9/32 nhid 10");
        until("a group of next hops", || {
            let rows = &show(&["routes", "10.9.9.9/32"], folder.path())["routes"];
            rows.as_array().is_some_and(|rows| rows.len() == 2)
        });
        let rows = &show(&["routes", "10.9.9.9/32"], folder.path())["routes"];
        assert_eq!((&rows[0]["weight"], &rows[1]["weight"]), (&1.into(), &3.into()), "{rows:#}");
        assert!(client.within(ping));
        // A device that goes down takes its routes with it, of which the kernel says nothing.
        ip("route del 10.9.9.9/32");
        ip("link set dkr2 down");
        until("a device that is down", || show(&["routes", "10.9.9.9"], folder.path())["total"] == 0);
        assert_eq!(show(&["counters"], folder.path())["conserved"], true);
    });
}

/// Routes of the kernel, 100,000 at a time; with `SLUICE_ROUTES` so many.
#[test]
fn many_routes_are_loaded_while_packets_go_on() {
    in_namespace("many_routes_are_loaded_while_packets_go_on", || {
        let count: u32 =
            std::env::var("SLUICE_ROUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
        let [client, _one, _two] = stations();
        let folder = tempfile::tempdir().unwrap();
        let (gateway, lines) = start(CONFIG, folder.path());
        assert!(lines.last().is_some_and(|line| line.starts_with("ready:")), "{lines:#?}");
        ip("route add 10.9.9.0/24 via 198.51.100.7");
        until("the first route", || client.within(ping));
        let mut batch = String::new();
        for number in 0..count {
            let address = std::net::Ipv4Addr::from_bits(0x1400_0000 + (number << 8));
            let via = if number % 2 == 0 { "198.51.100.7" } else { "203.0.113.7" };
            let _ = writeln!(batch, "route add {address}/24 via {via}");
        }
        let file = folder.path().join("batch");
        std::fs::write(&file, batch).unwrap();
        let last = std::net::Ipv4Addr::from_bits(0x1400_0000 + ((count - 1) << 8) + 1).to_string();
        let ping = ["-c", "200", "-i", "0.01", "-q", "10.9.9.9"];
        let mut pinging =
            client.within(|| Command::new("ping").args(ping).stdout(Stdio::piped()).spawn().unwrap());
        let begun = Instant::now();
        ip(&format!("-batch {}", file.display()));
        let kernel = begun.elapsed();
        while show(&["routes", &last], folder.path())["total"] == 0 {
            assert!(begun.elapsed().as_secs() < 60);
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.0.id())).unwrap();
        let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
        println!(
            "{count} routes: the kernel took {kernel:?}, in service after {:?}; {memory}",
            begun.elapsed()
        );
        assert!(pinging.wait().unwrap().success());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut pinging.stdout.take().unwrap(), &mut said).unwrap();
        assert!(said.contains(" 0% packet loss"), "{said}");
        // Read anew by a gateway that starts.
        drop(gateway);
        let (gateway, lines) = start(CONFIG, folder.path());
        println!("{}", lines.iter().find(|line| line.starts_with("routes:")).unwrap());
        // All of them gone at once, as when a session ends.
        ip("route flush dev dkr4");
        let begun = Instant::now();
        until("routes that are gone", || show(&["routes", &last], folder.path())["total"] == 0);
        println!("half of them gone after {:?}", begun.elapsed());
        assert_eq!(show(&["counters"], folder.path())["conserved"], true);
        drop(gateway);
    });
}
