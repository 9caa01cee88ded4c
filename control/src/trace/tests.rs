use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::lab::{self, Over};
use crate::link::DataPlane;
use crate::state::State;

const FILE: &str = r#"
[interfaces.lan]
device = "eth1"
address = "192.168.1.1/24"
acl = "inside"
[interfaces.wan]
device = "eth2"
address = "203.0.113.2/24"
[[routes]]
to = "0.0.0.0/0"
via = "203.0.113.1"
[acls.inside]
default = "drop"
rules = [
  { name = "web", protocol = "tcp", to-port = 443, action = "accept" },
]
[[nat.source]]
out = "wan"
from = "192.168.1.0/24"
"#;
const WEB: &str = "in lan tcp 192.168.1.5:1234 > 198.51.100.7:443";
const DATA: &str = "in lan tcp 192.168.1.5:1234 > 198.51.100.7:443 ack";
const DNS: &str = "in lan udp 192.168.1.5:1234 > 198.51.100.7:53";

fn spec(matching: &str, count: u32) -> Spec {
    Spec { matching: matching.into(), count, seconds: 60 }
}

/// A gateway of so many workers, all of which are polled as long as `ask` takes. Packets are injected at the port of a worker.
fn with_gateway(count: usize, ask: impl FnOnce(&DataPlane, &State, &mut dyn FnMut(usize, &str))) {
    let snapshot = Arc::new(lab::compiled("c.toml", FILE, 64));
    let (mut workers, mut peers) = lab::workers(&snapshot, count);
    let state = Arc::new(lab::state(&snapshot, &mut workers));
    let gateway = DataPlane::within(state.clone()).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            lab::poll(&mut workers, &over, 1, 0, || thread::sleep(Duration::from_micros(100)));
            while !workers.iter_mut().map(|worker| worker.drain(1)).fold(true, |all, one| all & one) {}
            for worker in &mut workers {
                let (counters, closed) = worker.close(1);
                assert!(counters.conserved() || count > 1);
                assert_eq!(closed.frames, closed.home);
            }
        });
        let _over = Over(&over);
        ask(&gateway, &state, &mut |worker, packet| peers.inject(worker, packet));
    });
}

/// The packets of a trace, once there are so many.
fn packets(gateway: &DataPlane, id: u64, count: usize) -> Vec<Value> {
    for _ in 0..2000 {
        let traces = gateway.trace_show().unwrap();
        let trace = traces.iter().find(|trace| trace.id == id).unwrap();
        if trace.packets.len() >= count {
            return trace.packets.iter().map(|packet| serde_json::from_str(packet.get()).unwrap()).collect();
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("there are fewer than {count}");
}

/// What a stage did; none if it did nothing.
fn did<'a>(packet: &'a Value, stage: &str) -> Option<(&'a str, Option<&'a str>)> {
    let stages = packet["stages"].as_array().unwrap();
    let found = stages.iter().find(|row| row["stage"] == stage)?;
    assert!(found["cycles"].is_number());
    Some((found["what"].as_str()?, found["where"].as_str()))
}

#[test]
fn each_stage_says_what_it_did() {
    with_gateway(1, |gateway, _, inject| {
        let id = gateway.trace_add(spec("host 198.51.100.7", 3)).unwrap().unwrap();
        inject(0, WEB);
        packets(gateway, id, 1);
        inject(0, DNS);
        packets(gateway, id, 2);
        inject(0, DATA);
        let [web, dns, data] = &packets(gateway, id, 3)[..] else { panic!("there are three") };
        let (what, place) = did(web, "acl").unwrap();
        assert!(
            what.contains("rule inside/web accepts it") && place == Some("c.toml:15"),
            "{what} {place:?}"
        );
        assert_eq!(did(web, "route").unwrap().1, Some("c.toml:9"), "{web:#}");
        let (what, place) = did(web, "nat source").unwrap();
        assert!(what.contains("source becomes 203.0.113.2:1234") && place == Some("c.toml:17"), "{what}");
        assert!(did(web, "rewrite").unwrap().0.contains("ipv4.ttl 64 -> 63"));
        assert!(did(web, "parse").unwrap().0.contains("comes in by lan"));
        let outcome = web["outcome"].as_str().unwrap();
        assert!(outcome.contains("handed to wan") && outcome.contains("203.0.113.2"), "{outcome}");
        let (what, place) = did(dns, "acl").unwrap();
        assert!(what.contains("dropped as acl_deny") && place == Some("c.toml:13"), "{what} {place:?}");
        assert_eq!(dns["outcome"], "dropped as acl_deny");
        assert!(did(dns, "rewrite").is_none());
        // The session is known: the fast path does it all.
        let known = did(data, "forward").or(did(data, "flow")).unwrap();
        assert!(known.0.contains("its session is known: rule inside/web accepts it"), "{data:#}");
        assert!(data["outcome"].as_str().unwrap().contains("handed to wan"));

        // It has as many as were wanted.
        inject(0, WEB);
        thread::sleep(Duration::from_millis(20));
        let traces = gateway.trace_show().unwrap();
        assert_eq!((traces[0].running, traces[0].packets.len(), traces[0].lost), (false, 3, 0));
        let text = cli::render(&serde_json::to_value(traces).unwrap());
        assert!(text.contains("3 of 3 packets; it is over") && text.contains("[c.toml:15]"), "{text}");
        assert_eq!(gateway.trace_clear(Some(id)).unwrap(), Ok(1));
        assert!(gateway.trace_clear(Some(id)).unwrap().unwrap_err().contains("there is no trace 1"));
        assert!(
            cli::render(&serde_json::to_value(gateway.trace_show().unwrap()).unwrap()).contains("no traces")
        );
    });
}

#[test]
fn several_traces_go_on_side_by_side() {
    with_gateway(1, |gateway, state, inject| {
        let web = gateway.trace_add(spec("tcp", 10)).unwrap().unwrap();
        inject(0, WEB);
        packets(gateway, web, 1);
        let all = gateway.trace_add(spec("", 2)).unwrap().unwrap();
        inject(0, WEB);
        inject(0, DNS);
        assert_eq!(packets(gateway, all, 2).len(), 2);
        assert_eq!(packets(gateway, web, 2).len(), 2, "what was found before stays");
        for _ in 2..8 {
            gateway.trace_add(spec("arp", 1)).unwrap().unwrap();
        }
        assert!(gateway.trace_add(spec("", 1)).unwrap_err().contains("8 traces already"));
        assert_eq!(gateway.trace_clear(None).unwrap(), Ok(8));
        // One that finds nothing ends with its time.
        gateway.trace_add(Spec { seconds: 1, ..spec("arp", 1) }).unwrap().unwrap();
        thread::sleep(Duration::from_millis(1050));
        state.collect_traces();
        assert!(!gateway.trace_show().unwrap()[0].running);
    });
}

#[test]
fn packets_that_cross_are_told_of_at_each_worker() {
    with_gateway(2, |gateway, _, inject| {
        let id = gateway.trace_add(spec("tcp", 4)).unwrap().unwrap();
        // One of them is received by a worker that does not own it.
        inject(0, WEB);
        inject(1, WEB);
        let packets = packets(gateway, id, 4);
        let came = |word: &str| packets.iter().find(|packet| packet["came"].as_str().unwrap().contains(word));
        let asked = came("asked about").unwrap();
        assert!(did(asked, "acl").or(did(asked, "flow")).is_some(), "{asked:#}");
        assert!(asked["outcome"].as_str().unwrap().contains("goes back"));
        let home = came("home from").unwrap();
        assert!(home["outcome"].as_str().unwrap().contains("handed to wan"), "{home:#}");
        let lent = |packet: &&Value| packet["outcome"].as_str().unwrap().contains("lent to worker");
        assert_eq!(packets.iter().filter(lent).count(), 1);
    });
}

#[test]
fn another_configuration_ends_no_trace() {
    with_gateway(1, |gateway, state, inject| {
        let id = gateway.trace_add(spec("tcp", 2)).unwrap().unwrap();
        inject(0, WEB);
        packets(gateway, id, 1);
        // What the workers go by now is told only when all of them do.
        let snapshot = state.snapshot();
        let next = Arc::new(sluice_dataplane::snapshot::Snapshot { generation: 1, ..(*snapshot).clone() });
        state.adopt(next, Vec::new());
        inject(0, DATA);
        assert_eq!(packets(gateway, id, 2)[1]["generation"], 0, "it was decided by the one before");
    });
}

#[test]
fn wrong_words_are_answered() {
    with_gateway(1, |gateway, _, _| {
        let wrong = |spec| gateway.trace_add(spec).unwrap().unwrap_err();
        assert!(wrong(spec("port dns", 1)).contains("^^^"));
        assert!(wrong(spec("tcp and out wan", 1)).contains("`out` cannot be asked"));
        assert!(wrong(spec("", 0)).contains("1 to 500 packets"));
        assert!(wrong(Spec { seconds: 0, ..spec("", 1) }).contains("seconds"));
    });
}
