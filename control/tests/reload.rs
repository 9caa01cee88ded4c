//! SIGHUP under live TCP connections: a gateway with NAT between two namespaces on veth pairs, by one worker and by two.
//! Without the privilege each test says so and passes.
#![allow(unsafe_code)]

mod netns;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::netns::gateway::Gateway;
use crate::netns::{PATIENCE, Station, in_namespace};

const CONNECTIONS: usize = 24;

/// Gives back what clients say.
fn serve_echo(at: &str) {
    let listener = TcpListener::bind(at).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
}

/// One of many configurations that all let the connections pass, with the same mapping.
fn config(round: usize, workers: &str) -> String {
    let extra_rule = match round % 3 {
        0 => "",
        1 => r#"{ name = "no-smtp", protocol = "tcp", to-port = 25, action = "reject" },"#,
        _ => r#"{ name = "no-dns", protocol = "udp", to-port = 53, action = "drop" },"#,
    };
    let pool = ["203.0.113.2", "203.0.113.2-203.0.113.9", "203.0.113.1-203.0.113.2"][round % 3];
    let limit = [1000, 2000][round % 2];
    let forward = if round % 4 == 1 {
        "[[nat.forward]]\nin = \"wan\"\nprotocol = \"udp\"\naddress = \"203.0.113.2\"\nport = 7\nto = \"192.0.2.10\"\n"
    } else {
        ""
    };
    let lan = if round % 5 == 0 { "\"192.0.2.1/24\"" } else { "[\"192.0.2.1/24\", \"192.0.2.99/24\"]" };
    let to = if round % 2 == 0 { "10.0.0.0/8" } else { "10.9.0.0/16" };
    format!(
        r#"
[interfaces.lan]
device = "drl0"
address = {lan}
acl = "from-lan"
[interfaces.wan]
device = "drl2"
address = "198.51.100.1/24"
[[routes]]
to = "{to}"
via = "198.51.100.7"
[acls.from-lan]
default = "drop"
rules = [
  {extra_rule}
  {{ name = "echo", protocol = "tcp", to-port = [7, 8], action = "accept" }},
]
[[nat.source]]
out = "wan"
from = "192.0.2.0/24"
to = "{pool}"
{forward}
[[limits]]
name = "up"
out = "wan"
rate = "{limit} Mbit/s"
{workers}
"#
    )
}

fn run(name: &str, workers: &'static str) {
    in_namespace(name, || {
        let client = Station::new("drl0", "drl1", 2).up(&["192.0.2.10/24"], &["default via 192.0.2.1"]);
        let server =
            Station::new("drl2", "drl3", 2).up(&["198.51.100.7/24"], &["203.0.113.0/24 via 198.51.100.1"]);
        server.within(|| {
            serve_echo("0.0.0.0:7");
            serve_echo("0.0.0.0:8");
        });
        let gateway = Gateway::start(&config(0, workers));
        let connect = |number: usize| {
            let port = 7 + number % 2;
            let stream = client
                .within(|| {
                    TcpStream::connect_timeout(&format!("198.51.100.7:{port}").parse().unwrap(), PATIENCE)
                })
                .unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(connect).collect();
        let all_live = |streams: &mut [TcpStream], round: usize| {
            let text = format!("round {round:4}");
            streams.iter_mut().for_each(|stream| stream.write_all(text.as_bytes()).unwrap());
            for stream in streams {
                let mut said = [0; 10];
                stream.read_exact(&mut said).unwrap_or_else(|error| panic!("round {round}: {error}"));
                assert_eq!(said, text.as_bytes());
            }
        };
        all_live(&mut streams, 0);
        for round in 1..=20 {
            gateway.hang_up(&config(round, workers));
            // Some speak while it happens.
            all_live(&mut streams[..CONNECTIONS / 2], round);
            let (line, _) = gateway.until(&format!("adopted as generation {round} "));
            assert!(line.ends_with(&format!(" {CONNECTIONS} sessions go on, 0 ended")), "{line}");
            all_live(&mut streams, round);
        }
        let counters = gateway.show("counters");
        assert_eq!(
            (&counters["generation"], &counters["sessions_ended_by_policy"], &counters["conserved"]),
            (&20.into(), &0.into(), &true.into())
        );
        assert_eq!(counters["sessions_created"], CONNECTIONS, "none was made twice");
        let rules = gateway.show("acl");
        let echo = rules.as_array().unwrap().iter().find(|rule| rule["name"] == "echo").unwrap();
        assert!(echo["packets"].as_u64().unwrap() >= 21 * CONNECTIONS as u64, "its hits went on: {rules:#}");

        // A file that is wrong, and one that wants a restart, change nothing.
        gateway.hang_up(&config(21, workers).replace("acl = \"from-lan\"", "acl = \"from-lam\""));
        let (_, before) = gateway.until("from-lam");
        assert!(before.iter().any(|line| line.contains("not adopted, all stays as it was")), "{before:#?}");
        gateway.hang_up(
            &config(21, workers).replace("device = \"drl2\"", "device = \"drl2\"\nxdp = \"generic\""),
        );
        let (line, _) = gateway.until("not adopted");
        assert!(line.ends_with("interfaces.wan.xdp changed; restart to change that"), "{line}");
        all_live(&mut streams, 22);
        assert_eq!(gateway.show("counters")["generation"], 20);

        // What is not allowed any more ends, and only that.
        gateway.hang_up(&config(22, workers).replace("to-port = [7, 8]", "to-port = 8"));
        let (line, _) = gateway.until("adopted as generation 21 ");
        let half = CONNECTIONS / 2;
        assert!(line.ends_with(&format!(" {half} sessions go on, {half} ended")), "{line}");
        assert_eq!(gateway.show("counters")["sessions_ended_by_policy"], half);
        let (mut live, mut denied) = (Vec::new(), Vec::new());
        for (number, stream) in streams.into_iter().enumerate() {
            if number % 2 == 1 { live.push(stream) } else { denied.push(stream) }
        }
        all_live(&mut live, 23);
        let mut first = denied.swap_remove(0);
        first.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        first.write_all(b"denied").unwrap();
        assert!(first.read(&mut [0; 8]).is_err(), "nothing comes back");
        drop((live, denied, first));
        gateway.stop();
    });
}

#[test]
fn connections_live_on_through_twenty_reloads() {
    run("connections_live_on_through_twenty_reloads", "");
}

#[test]
fn connections_of_two_workers_live_on_through_twenty_reloads() {
    run("connections_of_two_workers_live_on_through_twenty_reloads", "[workers]\ncount = 2\n");
}
