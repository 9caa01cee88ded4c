use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use sluice_dataplane::adopt::{self, Adopter};
use sluice_dataplane::worker::Worker;

use super::*;
use crate::lab::{self, Over};

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
[[routes]]
to = "::/0"
via = "2001:db8:2::9"
[acls.inside]
default = "accept"
rules = [
  { name = "mail", protocol = "tcp", to-port = 25, action = "drop" },
]
[[nat.source]]
out = "wan"
from = "192.168.1.0/24"
to = "203.0.113.7"
[[nat.forward]]
in = "wan"
protocol = "tcp"
address = "203.0.113.2"
port = 8080
to = "192.168.1.80:80"
"#;
/// Sessions that a gateway has: what is translated, what is forwarded, and what neither is.
const SESSIONS: [&str; 7] = [
    "in lan udp 192.168.1.5:4000 > 198.51.100.7:53",
    "in lan udp 192.168.1.6:4000 > 198.51.100.7:53",
    "in lan tcp 192.168.1.5:4000 > 198.51.100.7:443 size 1000",
    "in lan icmp 192.168.1.5 > 198.51.100.7",
    "in wan tcp 198.51.100.9:999 > 203.0.113.2:8080",
    "in lan tcp [2001:db8:1::5]:1 > [2001:db8:9::5]:443",
    "in lan gre 192.168.1.5 > 198.51.100.7",
];

fn compiled(text: &str) -> Snapshot {
    Snapshot { seed: 7, ..lab::compiled("new.toml", text, 1 << 18) }
}

/// A gateway of so many workers that goes by `text` and has had these packets, by turns at each.
fn with_gateway(
    text: &str,
    count: usize,
    packets: impl Iterator<Item = String>,
    then: impl FnOnce(&State, &mut [Adopter]),
) {
    let snapshot = Arc::new(compiled(text));
    let (mut workers, mut peers) = lab::workers(&snapshot, count);
    let mut adopters: Vec<Adopter> = workers.iter_mut().filter_map(Worker::adopter).collect();
    for (turn, packet) in packets.enumerate() {
        peers.inject(turn % count, &packet);
        for _ in 0..if count > 1 { 4 } else { 1 } {
            for worker in &mut workers {
                worker.poll(1 + turn as u64);
            }
        }
        peers.take_all();
    }
    // What is counted so far is to be seen.
    workers.iter_mut().for_each(|worker| worker.publish(1));
    let state = lab::state(&snapshot, &mut workers);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Slowly, so that no session ends by itself.
        scope.spawn(|| lab::poll(&mut workers, &over, 1_000_000_000, 1000, thread::yield_now));
        let _over = Over(&over);
        then(&state, &mut adopters);
    });
}

/// The next configuration of the one that a gateway of `workers` runs.
fn next(text: &str) -> Snapshot {
    Snapshot { generation: 1, ..compiled(text) }
}

/// What is said of `text`, and that a commit of it then does the same.
fn checked(old: &str, text: &str, workers: usize) -> Value {
    let mut value = Value::Null;
    with_gateway(old, workers, SESSIONS.into_iter().map(str::to_owned), |state, adopters| {
        value = state.live_diff(Tried { snapshot: next(text), routes: Vec::new() }).unwrap();
        let count = |effect: Effect| value[effect.name()].as_u64().unwrap();
        let ended = count(Effect::Denied) + count(Effect::Remapped) + count(Effect::Ended);
        let goes_on = value["sessions"].as_u64().unwrap() - ended;

        let snapshot = Arc::new(next(text));
        adopt::hand_over(adopters, &snapshot).unwrap();
        let mut real = (0, 0);
        for adopter in adopters {
            let settled = loop {
                match adopter.settled() {
                    Some(settled) => break settled,
                    None => thread::sleep(Duration::from_millis(1)),
                }
            };
            real = (real.0 + settled.kept, real.1 + settled.ended);
        }
        assert_eq!((goes_on, ended), real, "{value:#}");
    });
    value
}

/// With something of the file changed, for one worker and for two.
fn changed(from: &str, to: &str) -> Value {
    assert!(FILE.contains(from), "{from}");
    let text = FILE.replace(from, to);
    let value = checked(FILE, &text, 1);
    let of_two = checked(FILE, &text, 2);
    for effect in Effect::ALL {
        assert_eq!(value[effect.name()], of_two[effect.name()], "{}: {value:#} {of_two:#}", effect.name());
    }
    value
}

/// The reason for an effect.
fn reason(value: &Value, effect: &str) -> (u64, String, String) {
    let reasons = value["reasons"].as_array().unwrap();
    let found = reasons.iter().find(|row| row["effect"] == effect).unwrap_or_else(|| panic!("{value:#}"));
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (found["sessions"].as_u64().unwrap(), text("why"), text("where"))
}

#[test]
fn nothing_becomes_of_sessions_that_may_go_on() {
    let value = changed("default = \"accept\"", "default = \"accept\" # nothing");
    assert_eq!((&value["sessions"], &value["unchanged"]), (&json!(7), &json!(7)), "{value:#}");
    assert!(value["reasons"].as_array().unwrap().is_empty() && value["top"].as_array().unwrap().is_empty());
    assert_eq!(value["first_packets"]["unchanged"], value["first_packets"]["packets"]);
}

#[test]
fn sessions_that_a_rule_forbids_are_denied() {
    let value = changed(
        "rules = [\n",
        "rules = [\n  { name = \"no-dns\", protocol = \"udp\", action = \"drop\" },\n",
    );
    assert_eq!((&value["denied"], &value["unchanged"]), (&json!(2), &json!(5)), "{value:#}");
    let (sessions, why, place) = reason(&value, "denied");
    assert_eq!((sessions, why.as_str()), (2, "rule inside/no-dns drops it (udp)"));
    assert_eq!(place, "new.toml:18");
    let top = &value["top"][0];
    assert_eq!(
        (&top["effect"], &top["protocol"], &top["in"]),
        (&json!("denied"), &json!("udp"), &json!("lan"))
    );
    assert_eq!(value["first_packets"]["denied"], 2, "{value:#}");
    let text = render(&value);
    assert!(text.contains("2 would be denied") && text.contains("[new.toml:18]"), "{text}");
}

#[test]
fn sessions_that_would_leave_otherwise_are_mapped_anew() {
    let value = changed("to = \"203.0.113.7\"", "to = \"203.0.113.8\"");
    assert_eq!(value["remapped"], 5, "{value:#}");
    let (_, why, place) = reason(&value, "remapped");
    assert!(why.contains("another source address") && place == "new.toml:20", "{why} {place}");
    // Another host behind the forward.
    let value = changed("192.168.1.80:80", "192.168.1.81:80");
    assert_eq!((&value["remapped"], &value["unchanged"]), (&json!(1), &json!(6)));
    assert_eq!(reason(&value, "remapped").2, "new.toml:24");
    // None any more.
    let value = changed("port = 8080", "port = 8081");
    assert!(reason(&value, "remapped").1.contains("nothing forwards it"), "{value:#}");
}

#[test]
fn sessions_that_go_another_way_are_said_to() {
    let value = changed("via = \"203.0.113.1\"", "via = \"203.0.113.9\"");
    assert_eq!((&value["rerouted"], &value["unchanged"]), (&json!(5), &json!(2)), "{value:#}");
    let (sessions, why, place) = reason(&value, "rerouted");
    assert_eq!((sessions, place.as_str()), (5, "new.toml:9"));
    assert!(
        why.contains("leaves by wan via 203.0.113.9") && why.contains("before by wan via 203.0.113.1"),
        "{why}"
    );
    // With two workers, the one that is forwarded would be another one's, as it would no longer be translated on its way back.
    let value = checked(FILE, &FILE.replace("via = \"203.0.113.1\"", "unreachable = true"), 2);
    assert_eq!(value["ended_otherwise"], 6, "{value:#}");
    assert!(render(&value).contains("another worker would own it"), "{value:#}");
    let value = checked(FILE, &FILE.replace("via = \"203.0.113.1\"", "unreachable = true"), 1);
    assert_eq!(value["ended_otherwise"], 5, "{value:#}");
    assert!(reason(&value, "ended_otherwise").1.contains("no route"));
    assert_eq!(value["first_packets"]["denied"], 5, "{value:#}");
}

#[test]
fn answers_that_no_rule_lets_in_are_told_of() {
    let text = FILE
        .replace("[interfaces.wan]\n", "[interfaces.wan]\nacl = \"outside\"\n")
        .replace("[[nat.source]]", "[acls.outside]\ndefault = \"drop\"\nrules = [{ protocol = \"tcp\", action = \"accept\" }]\n[[nat.source]]");
    let value = checked(FILE, &text, 1);
    assert_eq!((&value["answers_denied"], &value["unchanged"]), (&json!(4), &json!(3)), "{value:#}");
    assert!(reason(&value, "answers_denied").1.contains("rule outside/default"));
}

#[test]
fn each_way_of_giving_out_ports_is_tried_as_it_is() {
    let blocks =
        FILE.replace("to = \"203.0.113.7\"", "to = \"203.0.113.7\"\nblock-size = 64\nmax-sessions = 100");
    let value = checked(&blocks, &blocks.replace("max-sessions = 100", "max-sessions = 200"), 1);
    assert_eq!(value["unchanged"], 7, "{value:#}");
    let value = checked(&blocks, &blocks.replace("block-size = 64", "block-size = 128"), 1);
    assert_eq!(value["remapped"], 4, "{value:#}");
    let fixed = FILE.replace(
        "[[nat.source]]",
        "[[nat.static]]\nout = \"wan\"\ninside = \"192.168.1.6\"\noutside = \"203.0.113.66\"\n[[nat.source]]",
    );
    let value = checked(FILE, &fixed, 1);
    assert_eq!(value["remapped"], 1, "{value:#}");
    assert_eq!(reason(&value, "remapped").2, "new.toml:20");
}

#[test]
fn thousands_of_sessions_are_all_told() {
    let host =
        |n: u32| format!("in lan udp 192.168.1.{}:{} > 198.51.100.7:53", 2 + n / 1000, 1024 + n % 1000);
    with_gateway(FILE, 1, (0..5000).map(host), |state, _| {
        let text = FILE.replace("to = \"203.0.113.7\"", "to = \"203.0.113.8\"");
        let value = state.live_diff(Tried { snapshot: next(&text), routes: Vec::new() }).unwrap();
        assert_eq!((&value["sessions"], &value["remapped"]), (&5000.into(), &5000.into()));
        assert!(value["sessions_left_out"] == 0);
    });
}
