use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use super::*;
use crate::lab::{self, Over};
use crate::link::DataPlane;

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
rules = [{ name = "web", protocol = "tcp", to-port = 443, action = "accept" }]
"#;
const WEB: &str = "in lan tcp 192.168.1.5:1234 > 198.51.100.7:443";
const DNS: &str = "in lan udp 192.168.1.5:1234 > 198.51.100.7:53";

fn spec(matching: &str) -> Spec {
    Spec { matching: matching.into(), before: true, after: true, drops: Some("any".into()), snap: 64 }
}

/// A gateway of one worker, which is polled as long as `ask` takes.
fn with_gateway(ask: impl FnOnce(&DataPlane, &mut dyn FnMut(&str))) {
    let snapshot = Arc::new(lab::compiled("c.toml", FILE, 64));
    let (mut workers, mut peers) = lab::workers(&snapshot, 1);
    let gateway = DataPlane::within(Arc::new(lab::state(&snapshot, &mut workers))).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            lab::poll(&mut workers, &over, 1, 0, || thread::sleep(Duration::from_micros(100)));
            workers.iter_mut().for_each(|worker| _ = worker.close(1));
        });
        let _over = Over(&over);
        ask(&gateway, &mut |packet| peers.inject(0, packet));
    });
}

/// What is captured, once there are so many packets.
fn ways(gateway: &DataPlane, id: u64, count: usize) -> Vec<Packet> {
    let mut packets = Vec::new();
    for _ in 0..2000 {
        packets.extend(gateway.capture_read(id).unwrap().packets);
        if packets.len() >= count {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    packets
}

#[test]
fn packets_are_seen_as_they_come_leave_and_die() {
    with_gateway(|gateway, inject| {
        let begun = gateway.capture_start(spec("host 198.51.100.7")).unwrap().unwrap();
        assert_eq!(begun.ports, ["lan", "wan"]);
        inject(WEB);
        inject(DNS);
        let packets = ways(gateway, begun.id, 4);
        let mut seen: Vec<_> = packets
            .iter()
            .map(|packet| (packet.way.as_str(), packet.port, packet.reason.as_deref()))
            .collect();
        seen.sort_unstable();
        assert_eq!(
            seen,
            [
                ("drop", Some(0), Some("acl_deny")),
                ("in", Some(0), None),
                ("in", Some(0), None),
                ("out", Some(1), None)
            ]
        );
        let died = packets.iter().find(|packet| packet.way == "drop").unwrap();
        assert_eq!((died.rule.as_deref(), died.len, died.bytes.len()), (Some("inside/default"), 60, 120));
        assert!(gateway.capture_start(spec("")).unwrap_err().contains("already"));
        assert_eq!(gateway.capture_stop(begun.id).unwrap(), Piece::default());
        assert!(gateway.capture_read(begun.id).is_err());
    });
}

#[test]
fn what_is_not_wanted_is_not_captured() {
    with_gateway(|gateway, inject| {
        let only = Spec { before: false, drops: None, ..spec("out wan and tcp") };
        let begun = gateway.capture_start(only).unwrap().unwrap();
        inject(DNS);
        inject(WEB);
        let packets = ways(gateway, begun.id, 1);
        assert_eq!(packets.iter().map(|packet| packet.way.as_str()).collect::<Vec<_>>(), ["out"]);
        gateway.capture_stop(begun.id).unwrap();
    });
}

#[test]
fn wrong_words_are_answered() {
    with_gateway(|gateway, _| {
        let wrong = gateway.capture_start(spec("port dns")).unwrap().unwrap_err();
        assert!(wrong.contains("^^^"), "{wrong}");
        let drops = Spec { drops: Some("acl".into()), ..spec("") };
        assert!(gateway.capture_start(drops).unwrap().unwrap_err().contains("no drop reason acl"));
        let nothing = Spec { before: false, after: false, drops: None, ..spec("") };
        assert!(gateway.capture_start(nothing).unwrap().unwrap_err().contains("nothing is wanted"));
        let told = gateway.explain("in lam udp".into()).unwrap().unwrap_err();
        assert!(told.contains("there are lan, wan"), "{told}");
    });
}
