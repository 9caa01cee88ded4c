//! A gateway's two processes, each killed under live traffic. Without the privilege each test says so and passes.
#![allow(unsafe_code)]

mod netns;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::netns::gateway::{Gateway, SLUICE, signal};
use crate::netns::{PATIENCE, Station, in_namespace};

const CONFIG: &str = r#"
[interfaces.lan]
device = "drl0"
address = "192.0.2.1/24"
[interfaces.wan]
device = "drl2"
address = "198.51.100.1/24"
[[nat.source]]
out = "wan"
from = "192.0.2.0/24"
to = "203.0.113.2"
block-size = 64
[nat.log]
file = "LOG"
"#;

/// A client, and an echo behind the gateway.
fn stations() -> (Station, Station) {
    let client = Station::new("drl0", "drl1", 2).up(&["192.0.2.10/24"], &["default via 192.0.2.1"]);
    let server =
        Station::new("drl2", "drl3", 2).up(&["198.51.100.7/24"], &["203.0.113.0/24 via 198.51.100.1"]);
    server.within(|| {
        let listener = TcpListener::bind("0.0.0.0:7").unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
    });
    (client, server)
}

/// A connection through the gateway to the echo.
fn connect(client: &Station) -> TcpStream {
    let stream = client
        .within(|| TcpStream::connect_timeout(&"198.51.100.7:7".parse().unwrap(), PATIENCE))
        .expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn is_live(stream: &mut TcpStream) -> bool {
    let mut said = [0; 4];
    stream.write_all(b"live").is_ok() && stream.read_exact(&mut said).is_ok() && said == *b"live"
}

#[test]
fn no_packet_is_lost_when_control_is_killed() {
    in_namespace("no_packet_is_lost_when_control_is_killed", || {
        let (client, _server) = stations();
        let log = tempfile::NamedTempFile::new().unwrap();
        let config = CONFIG.replace("LOG", log.path().to_str().unwrap());
        let gateway = Gateway::start(&config);
        let mut stream = connect(&client);
        assert!(is_live(&mut stream));
        // 1,000 pings, 2 ms apart, while control is killed three times.
        let ping = client.within(|| {
            let arguments = ["-q", "-n", "-i", "0.002", "-c", "1000", "198.51.100.7"];
            Command::new("ping").args(arguments).stdout(Stdio::piped()).spawn().unwrap()
        });
        let sent = |gateway: &Gateway| gateway.show("counters")["ports"]["wan"]["tx_packets"].as_u64();
        let mut before = sent(&gateway);
        assert!(before > Some(0), "{:#}", gateway.show("counters"));
        for _ in 0..3 {
            let control = gateway.control();
            let status = std::fs::read_to_string(format!("/proc/{control}/status")).unwrap();
            assert!(status.contains("CapPrm:\t0000000000000000"), "it has no rights: {status}");
            signal("KILL", control);
            // A client that comes now waits for the next one.
            let now = sent(&gateway);
            assert!(now >= before, "{before:?} {now:?}: counters went on");
            before = now;
            let (line, _) = gateway.until("control has ended");
            assert!(line.contains("SIGKILL") && line.contains("packets go on"), "{line}");
            gateway.until("control answers again");
            assert_ne!(gateway.control(), control);
            assert!(is_live(&mut stream));
        }
        let said = ping.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout);
        assert!(said.contains("1000 packets transmitted, 1000 received"), "{said}");

        // SIGHUP works after it, told to either process.
        gateway.hang_up(&config.replace("203.0.113.2\"", "203.0.113.2-203.0.113.3\""));
        gateway.until("adopted as generation 1 ");
        std::fs::write(gateway.folder.path().join("c.toml"), &config).unwrap();
        signal("HUP", gateway.control());
        gateway.until("adopted as generation 2 ");
        assert!(is_live(&mut stream));
        drop(stream);

        let nat = gateway.show("nat");
        assert_eq!(nat["log"][0]["lost"], 0, "{nat:#}");
        gateway.stop();
        let log = std::fs::read_to_string(log.path()).unwrap();
        let started = log.lines().filter(|line| line.contains("started")).count();
        let kept = log.lines().count() - started;
        assert!(started >= 4 && kept >= 1, "{log}");
    });
}

#[test]
fn either_process_ends_both_in_order() {
    in_namespace("either_process_ends_both_in_order", || {
        let (client, _server) = stations();
        let log = tempfile::NamedTempFile::new().unwrap();
        let config = CONFIG.replace("LOG", log.path().to_str().unwrap());
        for ends_by_control in [true, false] {
            let mut gateway = Gateway::start(&config);
            let mut stream = connect(&client);
            assert!(is_live(&mut stream));
            let control = gateway.control();
            signal("TERM", if ends_by_control { control } else { gateway.process.0.id() });
            gateway.ends_in_order();
            assert!(!std::path::Path::new(&format!("/proc/{control}")).exists(), "control has ended, too");
            assert!(!gateway.folder.path().join("s").exists());
        }
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert!(
            log.lines().filter(|line| !line.contains("started")).count() >= 2,
            "written to the end: {log}"
        );
    });
}

#[test]
fn control_ends_with_the_data_plane_and_a_new_gateway_takes_the_place() {
    in_namespace("control_ends_with_the_data_plane_and_a_new_gateway_takes_the_place", || {
        let (client, _server) = stations();
        let config = CONFIG.replace("[nat.log]\nfile = \"LOG\"\n", "");
        let mut gateway = Gateway::start(&config);
        let mut stream = connect(&client);
        assert!(is_live(&mut stream));

        // A second one with this socket touches nothing, also while control is away for a moment.
        let second = |gateway: &Gateway| {
            let mut command = Command::new(SLUICE);
            command.arg("run").arg(gateway.folder.path().join("c.toml"));
            command.arg("--socket").arg(gateway.folder.path().join("s")).output().unwrap()
        };
        for kills in [false, true] {
            if kills {
                signal("KILL", gateway.control());
            }
            let output = second(&gateway);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains("another gateway answers"), "{said}");
            assert!(is_live(&mut stream));
        }
        gateway.until("control answers again");

        let control = gateway.control();
        gateway.process.0.kill().unwrap();
        let _ = gateway.process.0.wait();
        gateway.until("the data plane has died");
        let end = Instant::now() + PATIENCE;
        while std::path::Path::new(&format!("/proc/{control}")).exists() {
            assert!(Instant::now() < end, "control is still there");
            thread::sleep(Duration::from_millis(10));
        }
        // Its socket is left, and is no obstacle.
        let next = gateway.again();
        let mut stream = connect(&client);
        assert!(is_live(&mut stream));
        next.stop();
    });
}
