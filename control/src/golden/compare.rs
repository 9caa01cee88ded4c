//! What was expected and what came, told in words: captures packet by packet, counters key by key.

use std::io::BufRead;

use serde_json::Value;
use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::port::pcap::{PcapError, Reader};

use crate::words::{diff, summary};

/// How far ahead the place is searched where two captures agree again.
const WINDOW: usize = 32;

/// A packet of a capture: time in nanoseconds since the Unix epoch, and bytes.
pub(super) type Packet = (Nanos, Vec<u8>);

/// All packets of a capture.
pub(super) fn packets(name: &str, capture: impl BufRead) -> Result<Vec<Packet>, PcapError> {
    let mut reader = Reader::new(name, capture)?;
    let mut packets = Vec::new();
    while let Some(record) = reader.advance()? {
        packets.push((record.time, reader.bytes().to_vec()));
    }
    Ok(packets)
}

/// The differences between two captures of what a port sent, a line or more each.
pub(super) fn captures(port: &str, expected: &[Packet], got: &[Packet]) -> Vec<String> {
    let mut differences = Vec::new();
    let (mut i, mut j) = (0, 0);
    loop {
        let missing = |packet: &Packet, i: usize| {
            format!("{port}: packet {} is missing: {}", i + 1, summary(&packet.1))
        };
        let unexpected = |packet: &Packet, j: usize| {
            format!("{port}: packet {} of the output is not expected: {}", j + 1, summary(&packet.1))
        };
        match (expected.get(i), got.get(j)) {
            (None, None) => return differences,
            (Some(packet), None) => {
                differences.push(missing(packet, i));
                i += 1;
            }
            (None, Some(packet)) => {
                differences.push(unexpected(packet, j));
                j += 1;
            }
            (Some(ours), Some(theirs)) => {
                let ahead = |packets: &[Packet], from: usize, wanted: &Packet| {
                    packets.iter().skip(from + 1).take(WINDOW).any(|packet| packet == wanted)
                };
                if ours == theirs {
                    (i, j) = (i + 1, j + 1);
                } else if ahead(expected, i, theirs) {
                    differences.push(missing(ours, i));
                    i += 1;
                } else if ahead(got, j, ours) {
                    differences.push(unexpected(theirs, j));
                    j += 1;
                } else {
                    differences.push(packet(port, i, ours, theirs));
                    (i, j) = (i + 1, j + 1);
                }
            }
        }
    }
}

fn packet(port: &str, i: usize, expected: &Packet, got: &Packet) -> String {
    let mut text = format!("{port}: packet {} ({}) differs:", i + 1, summary(&expected.1));
    if expected.0 != got.0 {
        text += &format!("\n    time: expected {}, got {}", seconds(expected.0), seconds(got.0));
    }
    for difference in diff(&expected.1, &got.1) {
        text += &format!("\n    {difference}");
    }
    text
}

fn seconds(time: Nanos) -> String {
    format!("{}.{:09} s", time / SECOND, time % SECOND)
}

/// The differences between two trees of counters, by the path of each.
pub(super) fn counters(expected: &Value, got: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    walk("counters", expected, got, &mut differences);
    differences
}

fn walk(path: &str, expected: &Value, got: &Value, differences: &mut Vec<String>) {
    if let (Value::Object(ours), Value::Object(theirs)) = (expected, got) {
        for (key, value) in ours {
            walk(&format!("{path}.{key}"), value, theirs.get(key).unwrap_or(&Value::Null), differences);
        }
        for (key, value) in theirs.iter().filter(|(key, _)| !ours.contains_key(*key)) {
            walk(&format!("{path}.{key}"), &Value::Null, value, differences);
        }
    } else if expected != got {
        let word = |value: &Value| match value {
            Value::Null => "none".to_owned(),
            value => value.to_string(),
        };
        differences.push(format!("{path}: expected {}, got {}", word(expected), word(got)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::packets::{START, parse};
    use serde_json::json;

    fn sent(ttls: &[u8]) -> Vec<Packet> {
        let line = |ttl: &u8| {
            format!(
                "{ttl} wan eth 02:00:00:00:00:01 > 02:00:00:00:00:02 / ipv4 10.0.0.1 > 10.0.0.2 ttl {ttl} / udp 1 > 2\n"
            )
        };
        let ports = parse(&ttls.iter().map(line).collect::<String>()).unwrap();
        ports.into_values().flatten().map(|arrival| (arrival.time, arrival.bytes)).collect()
    }

    #[test]
    fn equal_captures_have_no_difference() {
        assert!(captures("wan", &sent(&[1, 2, 3]), &sent(&[1, 2, 3])).is_empty());
        assert!(captures("wan", &[], &[]).is_empty());
    }

    #[test]
    fn a_missing_packet_is_one_difference() {
        assert_eq!(
            captures("wan", &sent(&[1, 2, 3]), &sent(&[1, 3])),
            ["wan: packet 2 is missing: udp 10.0.0.1:1 > 10.0.0.2:2 ttl 2 len 28"]
        );
        assert_eq!(
            captures("wan", &sent(&[1, 3]), &sent(&[1, 2, 3, 4])),
            [
                "wan: packet 2 of the output is not expected: udp 10.0.0.1:1 > 10.0.0.2:2 ttl 2 len 28",
                "wan: packet 4 of the output is not expected: udp 10.0.0.1:1 > 10.0.0.2:2 ttl 4 len 28",
            ]
        );
    }

    #[test]
    fn a_changed_packet_is_told_field_by_field() {
        let mut got = sent(&[1, 2]);
        got[1] = (START + 5, sent(&[7]).remove(0).1);
        assert_eq!(
            captures("wan", &sent(&[1, 2]), &got),
            ["wan: packet 2 (udp 10.0.0.1:1 > 10.0.0.2:2 ttl 2 len 28) differs:\n    \
              time: expected 1767225602.000000000 s, got 1767225600.000000005 s\n    \
              ipv4.ttl: expected 2, got 7"]
        );
    }

    #[test]
    fn counters_are_compared_by_their_paths() {
        let expected = json!({"drops": {"runt": 1, "acl": 2}, "conserved": true, "held": 0});
        let got = json!({"drops": {"runt": 1, "acl": 3, "no_route": 4}, "conserved": true});
        assert_eq!(
            counters(&expected, &got),
            [
                "counters.drops.acl: expected 2, got 3",
                "counters.drops.no_route: expected none, got 4",
                "counters.held: expected 0, got none",
            ]
        );
    }
}
