//! Devices as the kernel tells of them, `sluice doctor` and the start of `sluice run`, on veth pairs in network namespaces
//! of their own. Without the privilege each test says so and passes.
#![allow(unsafe_code)]

mod netns;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_control::device::{ChangeError, Changes, Facts, Inventory, Session, Wanted};

use crate::netns::{in_ipv4_namespace, ip, set_ipv6, until};

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

/// The veth pair dv0 and dv1 with `queues` queues at each end, both up.
fn veth(queues: u32) {
    let count = format!("numrxqueues {queues} numtxqueues {queues}");
    ip(&format!("link add name dv0 {count} type veth peer name dv1 {count}"));
    ip("link set dev dv0 up");
    ip("link set dev dv1 up");
}

fn facts(device: &str, session: Option<&str>) -> Facts {
    let mut inventory = Inventory::read(session.and_then(Session::parse)).unwrap();
    inventory.device(device).unwrap().unwrap()
}

/// A process that another test is about to start may hold our sockets for a moment.
fn is_again(before: &Facts) {
    let end = Instant::now() + Duration::from_secs(5);
    while facts(&before.name, None) != *before && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(facts(&before.name, None), *before);
}

/// A folder with a configuration for dv0, and a socket.
struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    fn new(keys: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[interfaces.lan]\ndevice = \"dv0\"\naddress = \"192.0.2.1/24\"\n{keys}\n[control]\nsocket = \"{}\"\n",
            folder.path().join("s").display()
        );
        std::fs::write(folder.path().join("c.toml"), text).unwrap();
        Self { folder }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("c.toml")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(SLUICE);
        command.arg("run").arg(self.config()).env_remove("SSH_CONNECTION").stderr(Stdio::piped());
        command
    }

    /// Starts the gateway; with it come the lines up to the one that says it is ready.
    fn start(&self) -> (Gateway, Vec<String>) {
        let mut child = self.command().spawn().unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            lines.push(line.unwrap());
            if lines.last().unwrap().starts_with("ready:") {
                break;
            }
        }
        assert!(lines.last().is_some_and(|line| line.starts_with("ready:")), "{lines:?}");
        (Gateway(child), lines)
    }

    fn ask(&self, topic: &str) -> Value {
        let socket = self.folder.path().join("s");
        let output =
            Command::new(SLUICE).args(["show", topic, "--json", "--socket"]).arg(socket).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A gateway that runs; killed when dropped.
struct Gateway(Child);

impl Gateway {
    fn end(mut self) {
        // SAFETY: our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) }, 0);
        self.0.wait().unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn doctor(arguments: &[&str], session: Option<&str>) -> (i32, Value) {
    let mut command = Command::new(SLUICE);
    command.arg("doctor").arg("--json").args(arguments).env("SSH_CONNECTION", session.unwrap_or("none"));
    let Output { status, stdout, stderr } = command.output().unwrap();
    let value = serde_json::from_slice(&stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)));
    (status.code().unwrap(), value)
}

/// The level at a point of a device.
fn level(diagnosis: &Value, point: &str) -> String {
    let findings = diagnosis["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["point"] == point);
    finding.unwrap_or_else(|| panic!("nothing at {point}: {findings:?}"))["level"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn facts_are_those_that_were_set() {
    in_ipv4_namespace("facts_are_those_that_were_set", || {
        veth(3);
        ip("link set dev dv0 mtu 1400 address 02:00:00:00:00:07");
        ip("address add 192.0.2.1/24 dev dv0");
        let facts = facts("dv0", None);
        assert_eq!((facts.name.as_str(), facts.kind.as_deref()), ("dv0", Some("veth")));
        assert_eq!((facts.driver.as_str(), facts.physical, facts.up), ("veth", false, true));
        assert_eq!((facts.mtu, &facts.mac[..]), (1400, &[2, 0, 0, 0, 0, 7][..]));
        let channels = facts.channels.unwrap();
        assert_eq!((facts.queues, channels.rx, channels.rx_max, channels.queues()), (3, 3, 3, 3));
        assert!(
            facts.is_on("rx-vlan-hw-parse") && !facts.is_stuck_on("rx-vlan-hw-parse"),
            "{:?}",
            facts.features
        );
        assert!(!facts.features.get("rx-lro").is_some_and(|lro| lro.on));
        assert!(facts.addresses.contains(&"192.0.2.1/24".to_owned()), "{:?}", facts.addresses);
        assert_eq!((facts.promiscuity, facts.xdp.len(), facts.numa_node), (0, 0, None));
        assert!(facts.default_route.is_empty() && facts.session.is_none());
        assert!(Inventory::read(None).unwrap().device("no-such-device").unwrap().is_none());
        assert!(Inventory::read(None).unwrap().physical().is_empty());
    });
}

#[test]
fn routes_and_sessions_are_seen_through_a_bridge() {
    in_ipv4_namespace("routes_and_sessions_are_seen_through_a_bridge", || {
        set_ipv6(true);
        veth(1);
        ip("link add dvbr type bridge");
        ip("link set dev dvbr up");
        ip("link set dev dv0 master dvbr");
        ip("address add 192.0.2.1/24 dev dvbr");
        ip("address add 2001:db8::1/64 dev dvbr nodad");
        ip("route add default via 192.0.2.254");
        ip("-6 route add default via 2001:db8::fe");
        for device in ["dvbr", "dv0"] {
            let facts = facts(device, Some("198.51.100.9 50000 192.0.2.1 22"));
            assert_eq!(facts.default_route, ["IPv4", "IPv6"], "{device}");
            assert_eq!(facts.session.unwrap().client.to_string(), "198.51.100.9", "{device}");
        }
        // The other end has nothing to do with it.
        let other = facts("dv1", Some("198.51.100.9 50000 192.0.2.1 22"));
        assert!(other.default_route.is_empty() && other.session.is_none());
        ip("route del default");
        ip("-6 route del default");
        assert!(facts("dv0", None).default_route.is_empty());
        // By its route alone, where the address is another device's.
        assert!(facts("dv0", Some("192.0.2.9 50000 203.0.113.1 22")).session.is_some());
        assert!(facts("dv0", Some("198.51.100.9 50000 203.0.113.1 22")).session.is_none());
    });
}

#[test]
fn changes_are_made_and_taken_back() {
    in_ipv4_namespace("changes_are_made_and_taken_back", || {
        veth(4);
        let before = facts("dv0", None);
        let wanted = Wanted { interface: "lan".into(), channels: Some(2), vlans: true };
        let mut changes = Changes::default();
        let lines = changes.make(&wanted, &before).unwrap();
        let during = facts("dv0", None);
        // A veth has no VLAN filter to get past.
        assert_eq!((during.queues, during.promiscuity), (2, 0), "{lines:?}");
        assert!(!during.is_on("rx-vlan-hw-parse") && !during.is_on("rx-vlan-stag-hw-parse"));
        assert_eq!(lines[0], "dv0: 2 channels while in service, in place of 4");
        assert_eq!(changes.take_back(), [""; 0]);
        drop(changes);
        is_again(&before);

        let mut changes = Changes::default();
        let error = changes.make(&Wanted { channels: Some(5), ..wanted.clone() }, &before).unwrap_err();
        assert!(matches!(error, ChangeError::TooManyChannels { most: 4, .. }), "{error}");
        // The device as it is: nothing to say.
        let same = Wanted { channels: Some(4), ..Wanted::default() };
        let lines = changes.make(&same, &before).unwrap();
        assert!(lines.iter().all(|line| line.contains("rx-vlan")), "{lines:?}");
        drop(changes);
        is_again(&before);
    });
}

#[test]
fn run_takes_neither_the_default_route_nor_the_session() {
    in_ipv4_namespace("run_takes_neither_the_default_route_nor_the_session", || {
        veth(1);
        ip("address add 192.0.2.1/24 dev dv0");
        ip("route add default via 192.0.2.254");
        let setup = Setup::new("");
        let refused = |command: &mut Command| {
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(
                text.contains("another device") && text.contains("`takeover = true` in [interfaces.lan]"),
                "{text}"
            );
            text
        };
        let before = facts("dv0", None);
        assert!(refused(&mut setup.command()).contains("the default route (IPv4) leaves by dv0"));
        let (_, lines) = Setup::new("takeover = true").start();
        let said = "dv0: the default route (IPv4) goes by it; taken over, as configured";
        assert!(lines.iter().any(|line| line == said), "{lines:?}");
        until("the gateway is gone", || facts("dv0", None).xdp.is_empty());

        ip("route del default");
        let session = "192.0.2.9 50000 192.0.2.1 22";
        let text = refused(setup.command().env("SSH_CONNECTION", session));
        assert!(text.contains("your SSH session from 192.0.2.9 runs over dv0"), "{text}");
        assert_eq!(facts("dv0", None).features, {
            // The gateway above was killed, and left its offloads.
            let mut features = before.features;
            for name in ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"] {
                features.get_mut(name).unwrap().on = false;
            }
            features
        });
    });
}

#[test]
fn run_sets_the_device_back_at_its_end_and_the_kernel_does_at_a_kill() {
    in_ipv4_namespace("run_sets_the_device_back_at_its_end_and_the_kernel_does_at_a_kill", || {
        veth(4);
        // As many queues as the other end, or the driver refuses XDP.
        ip("link set dev dv1 down");
        let before = facts("dv0", None);
        let setup = Setup::new("channels = 2\nxdp = \"generic\"\nmac = \"02:00:00:00:00:77\"");
        let (gateway, lines) = setup.start();
        let during = facts("dv0", None);
        assert_eq!((during.queues, during.promiscuity, during.all_multicast), (2, 1, 1), "{lines:?}");
        assert_eq!((during.xdp.len(), during.xdp[0].mode), (1, "generic"));
        assert_eq!(during.xdp[0].name.as_deref(), Some("redirect"));
        let rows = setup.ask("workers");
        assert_eq!(
            (&rows[0]["worker"], rows[0]["queues"].as_array().unwrap().len()),
            (&0.into(), 2),
            "{rows}"
        );
        gateway.end();
        is_again(&before);

        let (gateway, _) = setup.start();
        assert_eq!(facts("dv0", None).promiscuity, 1);
        // SIGKILL.
        drop(gateway);
        until("the kernel takes back what it can", || {
            let after = facts("dv0", None);
            (after.promiscuity, after.all_multicast, after.xdp.len()) == (0, 0, 0)
        });
    });
}

#[test]
fn the_doctor_knows_what_is_wrong_with_a_veth() {
    in_ipv4_namespace("the_doctor_knows_what_is_wrong_with_a_veth", || {
        veth(2);
        let (_, found) = doctor(&["dv0"], None);
        for point in [
            "driver",
            "queues",
            "rss",
            "mtu",
            "vlan tags",
            "lro",
            "gso",
            "filters",
            "xdp program",
            "metadata",
            "access",
        ] {
            assert_eq!(level(&found, point), "fine", "{point}");
        }
        assert_eq!(
            (&found["devices"][0]["name"], &found["devices"][0]["queues"]),
            (&"dv0".into(), &2.into())
        );

        let setup = Setup::new("channels = 3\nmtu = 1700\nxdp = \"generic\"");
        ip("address add 192.0.2.1/24 dev dv0");
        let config = setup.config();
        let by_config = ["--config", config.to_str().unwrap()];
        let (code, found) = doctor(&by_config, Some("192.0.2.9 50000 192.0.2.1 22"));
        assert_eq!((code, &found["level"]), (1, &"problem".into()));
        for point in ["queues", "mtu", "access"] {
            assert_eq!(level(&found, point), "problem", "{point}");
        }
        for point in ["driver", "gso", "addresses"] {
            assert_eq!(level(&found, point), "warning", "{point}");
        }
        let before = facts("dv0", None);
        let (code, found) = doctor(&["no-such-device"], None);
        assert_eq!((code, level(&found, "device")), (1, "problem".into()));
        is_again(&before);
    });
}

#[test]
fn the_doctor_sees_a_gateway_that_runs() {
    in_ipv4_namespace("the_doctor_sees_a_gateway_that_runs", || {
        veth(1);
        let setup = Setup::new("");
        let (gateway, _) = setup.start();
        let (code, found) = doctor(&["dv0"], None);
        assert_eq!((code, level(&found, "xdp program")), (1, "problem".into()));
        gateway.end();
        let (_, found) = doctor(&["dv0"], None);
        assert_eq!(level(&found, "xdp program"), "fine");
    });
}

#[test]
fn the_doctor_prints_a_line_for_each_point() {
    in_ipv4_namespace("the_doctor_prints_a_line_for_each_point", || {
        veth(1);
        let output =
            Command::new(SLUICE).args(["doctor", "dv0"]).env("SSH_CONNECTION", "none").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with("this machine\n") && text.contains("\ndv0\n"), "{text}");
        assert!(text.contains("driver         veth: native XDP"), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.contains(" problem")), "{text}");
    });
}
