//! `host = "kernel"`: a gateway whose own addresses the kernel answers for, between two namespaces on veth pairs. Without
//! the privilege each test says so and passes.
#![allow(unsafe_code)]

mod netns;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::netns::{Held, PATIENCE, Station, in_namespace, ip};

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

/// A service that tells each client the client's address and port.
fn serve(at: &str) {
    let listener = TcpListener::bind(at).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let client = stream.peer_addr().unwrap();
            let _ = write!(stream, "{client}");
        }
    });
}

/// What a service says to us, within the patience.
fn ask(to: &str) -> Result<SocketAddr, String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| format!("{to}: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| format!("{to}: {error}"))?;
    text.parse().map_err(|_| format!("{to}: {text}"))
}

fn ping(to: &str) -> bool {
    let output = Command::new("ping").args(["-c", "3", "-i", "0.2", "-W", "2", to]).output();
    output.expect("ping is installed").status.success()
}

/// Starts a gateway; with it come its lines.
fn start(config: &str, folder: &std::path::Path) -> (Held, Vec<String>) {
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

fn show(topic: &str, folder: &std::path::Path) -> Value {
    let mut command = Command::new(SLUICE);
    command.args(["show", topic, "--json", "--socket"]).arg(folder.join("s"));
    serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
}

const CONFIG: &str = r#"
[interfaces.lan]
device = "dvh0"
address = ["192.0.2.1/24", "2001:db8:1::1/64"]
host = "kernel"

[interfaces.wan]
device = "dvh2"
address = ["198.51.100.1/24", "2001:db8:2::1/64"]
host = "kernel"

[[routes]]
to = "203.0.113.0/24"
via = "198.51.100.7"

[[nat.source]]
out = "wan"
from = "192.0.2.0/24"
"#;

#[test]
fn the_kernel_keeps_what_is_its_own_and_nat_shares_the_address() {
    in_namespace("the_kernel_keeps_what_is_its_own_and_nat_shares_the_address", || {
        let client = Station::new("dvh0", "dvh1", 1).up(
            &["192.0.2.10/24", "2001:db8:1::10/64"],
            &["default via 192.0.2.1", "2001:db8:2::/64 via 2001:db8:1::1"],
        );
        let server = Station::new("dvh2", "dvh3", 1).up(
            &["198.51.100.7/24", "203.0.113.7/24", "2001:db8:2::7/64"],
            &["2001:db8:1::/64 via 2001:db8:2::1"],
        );
        for (device, v4, v6) in
            [("dvh0", "192.0.2.1", "2001:db8:1::1"), ("dvh2", "198.51.100.1", "2001:db8:2::1")]
        {
            ip(&format!("address add {v4}/24 dev {device}"));
            ip(&format!("address add {v6}/64 dev {device} nodad"));
        }
        serve("0.0.0.0:2222");
        serve("[2001:db8:1::1]:2223");
        server.within(|| serve("0.0.0.0:80"));
        server.within(|| serve("[2001:db8:2::7]:80"));
        let folder = tempfile::tempdir().unwrap();
        let (_gateway, lines) = start(CONFIG, folder.path());
        assert!(lines.last().is_some_and(|line| line.starts_with("ready:")), "{lines:#?}");
        assert!(
            lines.iter().any(|line| line.starts_with("nat.source: ports 2224-32767 of 198.51.100.1")),
            "{lines:#?}"
        );

        // To the box: from inside, by both families, by either address; and from outside.
        client.within(|| {
            assert_eq!(ask("192.0.2.1:2222").unwrap().ip().to_string(), "192.0.2.10");
            assert_eq!(ask("198.51.100.1:2222").unwrap().ip().to_string(), "192.0.2.10");
            assert_eq!(ask("[2001:db8:1::1]:2223").unwrap().ip().to_string(), "2001:db8:1::10");
            assert!(ping("192.0.2.1") && ping("2001:db8:1::1"));
        });
        server.within(|| assert_eq!(ask("198.51.100.1:2222").unwrap().ip().to_string(), "198.51.100.7"));
        // Of the box itself, by the address that NAT has, too.
        let own = ask("198.51.100.7:80").unwrap();
        assert!(own.ip().to_string() == "198.51.100.1" && own.port() >= 32768, "{own}");
        // Through the box, by NAT, to a host on the link and to one behind a next hop; and without NAT in IPv6.
        client.within(|| {
            for to in ["198.51.100.7:80", "203.0.113.7:80"] {
                let translated = ask(to).unwrap();
                assert!(translated.ip().to_string() == "198.51.100.1", "{translated}");
                assert!((2224..32768).contains(&translated.port()), "{translated}");
            }
            assert_eq!(ask("[2001:db8:2::7]:80").unwrap().ip().to_string(), "2001:db8:1::10");
            assert!(ping("203.0.113.7") && ping("2001:db8:2::7"));
        });
        // Sluice has asked nobody itself, and knows the neighbours by the kernel.
        let counters = show("counters", folder.path());
        assert_eq!(
            (&counters["originated"], &counters["conserved"]),
            (&0.into(), &true.into()),
            "{counters:#}"
        );
        let neighbors = show("neighbors", folder.path());
        let known: Vec<&str> =
            neighbors.as_array().unwrap().iter().filter_map(|row| row["address"].as_str()).collect();
        for address in ["192.0.2.10", "198.51.100.7", "2001:db8:1::10", "2001:db8:2::7"] {
            assert!(known.contains(&address), "{neighbors:#}");
        }

        // An address that comes later is the kernel's from then on.
        ip("address add 192.0.2.2/24 dev dvh0");
        let end = Instant::now() + PATIENCE;
        while let Err(error) = client.within(|| ask("192.0.2.2:2222")) {
            assert!(Instant::now() < end, "{error}");
        }
    });
}

#[test]
fn a_neighbor_that_gets_another_mac_is_followed() {
    in_namespace("a_neighbor_that_gets_another_mac_is_followed", || {
        let client = Station::new("dvh0", "dvh1", 1).up(&["192.0.2.10/24"], &["default via 192.0.2.1"]);
        let server = Station::new("dvh2", "dvh3", 1).up(&["198.51.100.7/24"], &[]);
        ip("address add 192.0.2.1/24 dev dvh0");
        ip("address add 2001:db8:1::1/64 dev dvh0 nodad");
        ip("address add 198.51.100.1/24 dev dvh2");
        ip("address add 2001:db8:2::1/64 dev dvh2 nodad");
        server.within(|| serve("0.0.0.0:80"));
        let folder = tempfile::tempdir().unwrap();
        let (_gateway, lines) = start(CONFIG, folder.path());
        assert!(lines.last().is_some_and(|line| line.starts_with("ready:")), "{lines:#?}");
        client.within(|| ask("198.51.100.7:80").unwrap());
        server.within(|| {
            ip("link set dev dvh3 address 02:00:00:00:00:33");
            // Gratuitous: the kernel learns it from a question about itself.
            assert!(ping("198.51.100.1"));
        });
        client.within(|| ask("198.51.100.7:80").unwrap());
        let neighbors = show("neighbors", folder.path());
        let row = neighbors.as_array().unwrap().iter().find(|row| row["address"] == "198.51.100.7").unwrap();
        assert_eq!(row["mac"], "02:00:00:00:00:33");
    });
}

#[test]
fn an_address_that_the_kernel_has_not_is_refused() {
    in_namespace("an_address_that_the_kernel_has_not_is_refused", || {
        let _client = Station::new("dvh0", "dvh1", 1).up(&[], &[]);
        let _server = Station::new("dvh2", "dvh3", 1).up(&[], &[]);
        let folder = tempfile::tempdir().unwrap();
        let (_gateway, lines) = start(CONFIG, folder.path());
        let said = lines.last().unwrap();
        assert!(said.contains("`ip address add 192.0.2.1/24 dev dvh0`"), "{lines:?}");
    });
}
