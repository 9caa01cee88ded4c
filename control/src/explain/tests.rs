use super::*;
use crate::config;

const FILE: &str = r#"
[interfaces.lan]
device = "eth1"
address = ["192.168.1.1/24", "2001:db8:1::1/64"]
acl = "inside"
[interfaces.wan]
device = "eth2"
address = ["203.0.113.2/24", "2001:db8:2::1/64"]
[[routes]]
to = "0.0.0.0/0"
via = "203.0.113.1"
[acls.inside]
default = "drop"
rules = [
  { name = "web", protocol = "tcp", to-port = 443, action = "accept" },
  { protocol = "icmp", action = "reject" },
]
[[nat.source]]
out = "wan"
from = "192.168.1.0/24"
to = "203.0.113.7"
"#;

fn snapshot() -> Snapshot {
    let (config, _) = config::load_str("c.toml", FILE).unwrap_or_else(|report| panic!("{report}"));
    config::compile(&config, &[])
}

fn told(text: &str) -> String {
    render(&explain(text, &snapshot()).unwrap())
}

#[test]
fn a_packet_that_is_forwarded() {
    let text = told("in lan tcp 192.168.1.5:1234 > 198.51.100.7:443");
    for part in [
        "rule inside/web accepts it",
        "[c.toml:15]",
        "leaves by wan via 203.0.113.1 by the route to 0.0.0.0/0",
        "source becomes 203.0.113.7:",
        "ipv4.ttl 64 -> 63",
        "sent by wan",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn packets_that_are_not() {
    let denied = told("in lan udp 192.168.1.5:53 > 198.51.100.7:53");
    assert!(
        denied.contains("rule inside/default drops it") && denied.contains("dropped as acl_deny"),
        "{denied}"
    );
    let rejected = told("in lan icmp 192.168.1.5 > 198.51.100.7");
    assert!(rejected.contains("rejected as acl_deny") && rejected.contains("sent by lan"), "{rejected}");
    let old = told("in lan tcp 192.168.1.5:1 > 198.51.100.7:443 ttl 1");
    assert!(old.contains("ttl_expired"), "{old}");
    let odd = told("in wan tcp 198.51.100.7:443 > 203.0.113.9:1 size 100 ack");
    assert!(odd.contains("wan has no ACL"), "{odd}");
}

#[test]
fn wrong_words_are_marked() {
    let cases = [
        ("tcp 1.2.3.4:5", "begins with `in", 2),
        ("in lam tcp 192.0.2.1:1 > 192.0.2.2:2", "there are lan, wan", 5),
        ("in lan tpc 192.0.2.1:1 > 192.0.2.2:2", "one of tcp", 9),
        ("in lan tcp 192.0.2.1 > 192.0.2.2:2", "with a port", 13),
        ("in lan udp [2001:db8::1]:1 > 192.0.2.2:2", "one family", 31),
        ("in lan udp 192.0.2.1:1 > 192.0.2.2:2 syn", "behind the destination", 39),
        ("in lan gre 192.0.2.1 > 192.0.2.2 ttl 300", "up to 255", 39),
        ("in lan gre 192.0.2.1 >", "destination is missing", 25),
    ];
    for (text, what, column) in cases {
        let said = Packet::parse(text, &snapshot()).unwrap_err();
        let caret = said.lines().last().unwrap();
        assert!(said.contains(what), "{said}");
        assert_eq!(caret.find('^'), Some(column), "{said}");
    }
}

#[test]
fn every_protocol_makes_a_packet_that_parses() {
    let snapshot = snapshot();
    for text in [
        "in lan tcp [2001:db8:1::5]:1 > [2001:db8:2::5]:443 syn ack dscp 46",
        "in lan icmp6 [2001:db8:1::5] > 2001:db8:2::5 size 1400",
        "in wan esp 198.51.100.1 > 203.0.113.2",
        "in wan sctp 198.51.100.1 > 203.0.113.2 size 200",
        "in wan udp 198.51.100.1:1 > 203.0.113.2:2",
    ] {
        let packet = Packet::parse(text, &snapshot).unwrap();
        let frame = packet.frame(&snapshot).unwrap();
        let headers = parse_head(&frame, frame.len()).unwrap();
        assert_eq!(headers.protocol, packet.protocol, "{text}");
        assert!(explain(text, &snapshot).is_ok());
        assert_eq!(flow(text, &snapshot).unwrap().ends, packet.ends);
    }
}

const PLACES: &str = r#"[interfaces.lan]
device = "eth1"
address = "192.168.1.1/24"
[interfaces.dmz]
parent = "lan"
vlan = 10
address = "192.168.9.1/24"
[interfaces.wan]
device = "eth2"
address = "203.0.113.2/24"
[[routes]]
to = "default"
via = "203.0.113.1"
[[routes]]
to = "198.18.0.0/15"
via = "203.0.113.9"
[[nat.exempt]]
out = "wan"
to = "198.18.0.0/15"
[[nat.static]]
out = "wan"
inside = "192.168.9.80/31"
outside = "203.0.113.80/31"
[[nat.source]]
out = "wan"
from = "192.168.9.0/24"
to = "203.0.113.8"
[[nat.source]]
out = "wan"
to = "203.0.113.7"
[[nat.forward]]
in = "wan"
protocol = ["tcp", "udp"]
address = "203.0.113.2"
port = 8080
to = "192.168.1.80"
[[limits]]
name = "others"
in = "wan"
rate = "1 Gbit/s"
[[limits]]
name = "dns"
in = "lan"
protocol = "udp"
rate = "1 Mbit/s"
[shapers.wan]
rate = "100 Mbit/s"
classes = [
  { name = "slow", dscp = "cs1", max = "1 Mbit/s" },
  { name = "web", protocol = "tcp", to-port = 443 },
]
"#;

#[test]
fn all_that_matches_has_its_line() {
    let (config, _) = config::load_str("p.toml", PLACES).unwrap_or_else(|report| panic!("{report}"));
    let snapshot = config::compile(&config, &[]);
    let told = |text: &str| render(&explain(text, &snapshot).unwrap());
    let line = |what: &str| PLACES.lines().position(|line| line.contains(what)).unwrap() + 1;
    let table = |kind: &str, nth: usize| {
        let mut lines = PLACES.lines().enumerate().filter(|(_, line)| *line == kind);
        lines.nth(nth).unwrap().0 + 1
    };
    let cases: [(&str, &[(&str, usize)]); 6] = [
        (
            "in lan tcp 192.168.1.5:1 > 192.0.2.1:443",
            &[
                ("comes in by lan", line("[interfaces.lan]")),
                ("by the route to 0.0.0.0/0", table("[[routes]]", 0)),
                ("source becomes 203.0.113.7", table("[[nat.source]]", 1)),
                ("leaves in class web", line("\"web\"")),
            ],
        ),
        (
            "in dmz udp 192.168.9.5:1 > 192.0.2.1:53",
            &[
                ("comes in by dmz", line("[interfaces.dmz]")),
                ("source becomes 203.0.113.8", table("[[nat.source]]", 0)),
                // The one that the file does not name.
                ("leaves in class default", line("[shapers.wan]")),
            ],
        ),
        (
            "in lan udp 192.168.1.5:1 > 198.18.0.1:53",
            &[
                ("via 203.0.113.9 by the route to 198.18.0.0/15", table("[[routes]]", 1)),
                ("is exempt from NAT", table("[[nat.exempt]]", 0)),
                ("limited by dns", table("[[limits]]", 1)),
            ],
        ),
        (
            "in dmz tcp 192.168.9.81:1 > 192.0.2.1:80",
            &[("source becomes 203.0.113.81", table("[[nat.static]]", 0))],
        ),
        (
            "in wan tcp 192.0.2.1:1 > 203.0.113.80:80",
            &[
                ("destination becomes 192.168.9.80", table("[[nat.static]]", 0)),
                ("leaves by dmz directly by the route to 192.168.9.0/24", line("[interfaces.dmz]")),
                ("limited by others", table("[[limits]]", 0)),
            ],
        ),
        (
            "in wan udp 192.0.2.1:1 > 203.0.113.2:8080",
            &[("destination becomes 192.168.1.80:8080", table("[[nat.forward]]", 0))],
        ),
    ];
    for (packet, lines) in cases {
        let text = told(packet);
        for (what, place) in lines {
            let said =
                text.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}\n{text}"));
            assert!(said.contains(&format!("p.toml:{place}")), "{what} at {place}\n{text}");
        }
    }
}
