//! `packets.txt`: the packets of a case as a person writes them, one a line, and the captures that they make.

use std::collections::BTreeMap;

use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::port::pcap::{PcapError, Writer};

use super::layers;
use super::text::{self, Cursor, TextError, Token};

/// Time zero of every `packets.txt`: 2026-01-01 00:00:00 UTC.
pub const START: Nanos = 1_767_225_600 * SECOND;

/// A packet that a port receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When: nanoseconds since the Unix epoch.
    pub time: Nanos,
    /// The bytes that were captured.
    pub bytes: Vec<u8>,
    /// How many bytes it had on the wire.
    pub wire_len: usize,
}

/// Reads a `packets.txt`: the arrivals of each port, in the order of their times.
///
/// # Errors
/// The first place that makes no sense.
pub fn parse(text: &str) -> Result<BTreeMap<String, Vec<Arrival>>, TextError> {
    let mut ports: BTreeMap<String, Vec<Arrival>> = BTreeMap::new();
    for statement in text::statements(text)? {
        for (n, tokens) in text::unroll(&statement)?.iter().enumerate() {
            let mut cursor = Cursor::new(tokens);
            let time = time(cursor.word("a time")?, n as u64)?;
            let port = cursor.word("a port")?;
            let ours = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if port.text.starts_with(['-', '_', '.']) || !port.text.chars().all(ours) || port.text.is_empty()
            {
                return Err(port.error(format!("`{}` cannot be the name of a port", port.text)));
            }
            let packet = layers::packet(&mut cursor)?;
            if !cursor.is_done() {
                return Err(cursor.error("the packet should end here, or go on with `/` or `|`"));
            }
            let wire_len = packet.bytes.len();
            let mut bytes = packet.bytes;
            bytes.truncate(packet.snap.unwrap_or(wire_len));
            ports.entry(port.text.clone()).or_default().push(Arrival { time, bytes, wire_len });
        }
    }
    for arrivals in ports.values_mut() {
        arrivals.sort_by_key(|arrival| arrival.time);
    }
    Ok(ports)
}

/// `SECONDS` or `SECONDS+STEP`, each with up to nine decimals; the step is that of a line with ranges.
fn time(token: &Token, n: u64) -> Result<Nanos, TextError> {
    let wrong =
        || token.error(format!("`{}` is not a time: seconds, such as 0.5, or 0.5+0.001 to step", token.text));
    let nanos = |text: &str| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return None;
        }
        let whole = whole.parse::<u32>().ok()?;
        Some(u64::from(whole) * SECOND + format!("{fraction:0<9}").parse::<u64>().ok()?)
    };
    let (first, step) = token.text.split_once('+').unwrap_or((&token.text, "0"));
    let (first, step) = (nanos(first).ok_or_else(wrong)?, nanos(step).ok_or_else(wrong)?);
    step.checked_mul(n).and_then(|steps| steps.checked_add(START + first)).ok_or_else(wrong)
}

/// The capture that holds these arrivals.
///
/// # Errors
/// None in memory.
pub fn capture(arrivals: &[Arrival]) -> Result<Vec<u8>, PcapError> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new("memory", &mut bytes)?;
    for arrival in arrivals {
        writer.write_snapped(arrival.time, &arrival.bytes, arrival.wire_len)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{describe, summary};

    const HEAD: &str = "lan = eth 02:00:00:00:00:10 > 02:00:00:00:00:01\n0 lan $lan / ";

    fn frames(text: &str) -> Vec<Vec<u8>> {
        let ports = parse(text).unwrap_or_else(|error| panic!("{error}"));
        ports.into_values().flatten().map(|arrival| arrival.bytes).collect()
    }

    fn frame(layers: &str) -> Vec<u8> {
        frames(&format!("{HEAD}{layers}")).remove(0)
    }

    #[test]
    fn layers_become_packets_that_decode_to_what_was_written() {
        let cases = [
            (
                "ipv4 192.168.1.10 > 198.51.100.7 / udp 40000 > 53 / payload \"hello\"",
                "udp 192.168.1.10:40000 > 198.51.100.7:53 ttl 64 len 33",
            ),
            (
                "ipv4 192.0.2.1 > 198.51.100.7 ttl 63 / tcp 1234 > 80 syn mss 1460 wscale 7 sackok ts 1 0",
                "tcp 192.0.2.1:1234 > 198.51.100.7:80 SYN ttl 63 len 60",
            ),
            (
                "vlan 100 tpid 0x88a8 / vlan 10 priority 5 dei / ipv4 10.0.0.1 > 10.0.0.2 / icmp echo-request id 7 seq 1",
                "vlan 100 vlan 10 icmp 10.0.0.1 > 10.0.0.2 echo request id 7 seq 1 ttl 64 len 28",
            ),
            ("arp who-has 192.168.1.1 tell 192.168.1.10", "arp who-has 192.168.1.1 tell 192.168.1.10"),
            (
                "arp reply 192.168.1.10 is-at 02:00:00:00:00:10 to 192.168.1.1",
                "arp 192.168.1.10 is-at 02:00:00:00:00:10 to 192.168.1.1",
            ),
            (
                "ipv6 2001:db8::1 > 2001:db8::2 hlim 3 / hop data 05020000 / routing type 4 / dstopt / udp 1 > 2",
                "udp [2001:db8::1]:1 > [2001:db8::2]:2 hlim 3 len 72",
            ),
            (
                "ipv6 fe80::1 > ff02::1:ff00:2 hlim 255 / icmpv6 ns fe80::2 source-mac 02:00:00:00:00:10",
                "icmpv6 fe80::1 > ff02::1:ff00:2 neighbor solicitation fe80::2 hlim 255 len 72",
            ),
            (
                "ipv4 203.0.113.1 > 192.0.2.1 / icmp fragmentation-needed mtu 1400 / [ ipv4 192.0.2.1 > 198.51.100.7 df \
                 length 1500 / udp 1024 > 53 length 1480 ]",
                "icmp 203.0.113.1 > 192.0.2.1 fragmentation needed mtu 1400 [udp 192.0.2.1:1024 > 198.51.100.7:53 ttl \
                 64 len 1500] ttl 64 len 56",
            ),
            (
                "ipv4 10.0.0.1 > 10.0.0.2 mf offset 1480 protocol 17 / payload len 16",
                "udp 10.0.0.1 > 10.0.0.2 fragment at 1480, more follow, ttl 64 len 36",
            ),
            (
                "ipv6 ::1 > ::2 / frag offset 8 id 9 next 17 / payload 00ff",
                "udp ::1 > ::2 fragment at 8, the last, hlim 64 len 50",
            ),
            ("payload \"neither\"", "ethernet type 0x88b5 len 21"),
        ];
        for (layers, words) in cases {
            let frame = frame(layers);
            let described = describe(&frame);
            assert_eq!(described.summary, words, "{layers}");
            let unsound =
                described.fields.iter().find(|f| f.name == "malformed" || f.value.contains("wrong"));
            assert_eq!(unsound, None, "{layers}");
        }
    }

    #[test]
    fn fields_that_are_given_are_left_alone() {
        let frame = frame(
            "ipv4 10.0.0.1 > 10.0.0.2 version 5 ihl 6 length 99 protocol 200 checksum 0x1234 options 0101 \
             / udp 1 > 2 length 7 checksum bad",
        );
        let (ip, udp) = (&frame[14..38], &frame[38..]);
        assert_eq!((ip[0], &ip[2..4], ip[9], &ip[10..12]), (0x56, &[0, 99][..], 200, &[0x12, 0x34][..]));
        assert_eq!((&ip[20..], &udp[4..6], udp.len()), (&[1, 1, 0, 0][..], &[0, 7][..], 8));
    }

    #[test]
    fn checksums_can_be_bad_or_partial() {
        let value = |checksum: &str| {
            let frame = frame(&format!("ipv4 10.0.0.1 > 10.0.0.2 / udp 1 > 2 checksum {checksum}"));
            describe(&frame).fields.into_iter().find(|f| f.name == "udp.checksum").unwrap().value
        };
        // 0a00 + 0001 + 0a00 + 0002 + 0011 + 0008.
        assert!(value("partial").starts_with("0x141c (wrong"), "{}", value("partial"));
        assert!(value("bad").contains("wrong, should be"));
        assert_eq!(value("0"), "0x0000 (none)");
        let head = "ipv4 10.0.0.1 > 10.0.0.2";
        let bad_header = frame(&format!("{head} checksum bad / udp 1 > 2"));
        assert!(
            describe(&bad_header)
                .fields
                .iter()
                .any(|f| f.name == "ipv4.checksum" && f.value.contains("wrong"))
        );
    }

    #[test]
    fn modifiers_work_on_the_whole_packet() {
        assert_eq!(frame("payload 0102 | pad 60").len(), 60);
        assert_eq!(frame("payload 0102 | truncate 9").len(), 9);
        assert_eq!(frame("payload 0102 | set 14 ff")[14..], [0xff, 2]);
        let ports = parse(&format!("{HEAD}payload len 100 | snap 40")).unwrap();
        let arrival = &ports["lan"][0];
        assert_eq!((arrival.bytes.len(), arrival.wire_len), (40, 114));
        let raw = frames("0 wan payload 0102030405");
        assert_eq!(raw, [[1, 2, 3, 4, 5]]);
    }

    #[test]
    fn a_line_with_ranges_is_many_packets() {
        let text = format!(
            "{HEAD}ipv4 10.0.0.1 > 10.0.0.2 / udp 7 > 9\n0.5+0.25 lan $lan / ipv4 10.0.0.1 > 10.0.0.2 / udp 1..3 > 9"
        );
        let ports = parse(&text).unwrap();
        let times: Vec<_> = ports["lan"].iter().map(|arrival| (arrival.time - START) / 1_000_000).collect();
        assert_eq!(times, [0, 500, 750, 1000]);
        let last = summary(&ports["lan"][3].bytes);
        assert_eq!(last, "udp 10.0.0.1:3 > 10.0.0.2:9 ttl 64 len 28");
    }

    #[test]
    fn the_example_of_the_manual_is_right() {
        let manual = include_str!("../../../pcap-tests/README.md").split_once("## packets.txt").unwrap().1;
        let block = manual
            .lines()
            .skip_while(|line| !line.starts_with("    "))
            .map_while(|line| line.strip_prefix("    "));
        let ports = parse(&block.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        assert_eq!((ports["lan"].len(), ports["wan"].len()), (1002, 1));
        assert_eq!(
            summary(&ports["wan"][0].bytes),
            "icmp 198.51.100.254 > 203.0.113.1 time exceeded in transit [tcp 203.0.113.1:1024 > 198.51.100.7:443 ttl 1 \
             len 40] ttl 64 len 56"
        );
        assert_eq!(ports["lan"][1001].time, START + 1_999_000_000);
    }

    #[test]
    fn packets_are_in_the_order_of_their_times() {
        let ports = parse("1 a payload 01\n0.5 a payload 02\n0.5 a payload 03\n0 b payload 04").unwrap();
        let bytes: Vec<_> = ports["a"].iter().map(|arrival| arrival.bytes[0]).collect();
        assert_eq!((bytes, ports["b"].len()), (vec![2, 3, 1], 1));
    }

    #[test]
    fn errors_name_line_and_column() {
        let cases = [
            ("x lan payload 00", "line 1, column 1: `x` is not a time"),
            ("0 lan", "line 1, column 6: the line ends where a layer is expected"),
            ("0 lan payload \"x\"", ""),
            ("0 ../lan payload 00", "line 1, column 3: `..` cannot be the name of a port"),
            ("0 lan foo", "line 1, column 7: unknown layer `foo`; known: eth, vlan"),
            ("0 lan ipv4 1.2.3 > 4.5.6.7", "line 1, column 12: `1.2.3` is not an IPv4 address"),
            ("0 lan ipv4 1.2.3.4 4.5.6.7", "line 1, column 20: `>` is expected here"),
            (
                "0 lan ipv4 1.2.3.4 > 4.5.6.7 tll 3",
                "line 1, column 30: unknown field of ipv4 `tll`; known: ttl",
            ),
            (
                "0 lan ipv4 1.2.3.4 > 4.5.6.7 ttl 256",
                "line 1, column 34: `256` is not a number from 0 to 255",
            ),
            ("0 lan udp 1 > 2 /", "line 1, column 18: the line ends where a layer is expected"),
            ("0 lan\n  udp 1 > 70000", "line 2, column 11: `70000` is not a number from 0 to 65535"),
            ("0 lan payload 0", "line 1, column 15: `0` is not a text in quotes"),
            ("0 lan payload 00 11", "line 1, column 18: `11` is more than payload has"),
            ("0 lan payload 00 ]", "line 1, column 18: the packet should end here"),
            ("0 lan payload 00 | tear 3", "line 1, column 20: unknown modifier `tear`"),
            ("0 lan payload 00 | set 1 00", "line 1, column 20: these bytes lie behind"),
            ("0 lan icmp ping", "line 1, column 12: unknown message `ping`"),
            ("0 lan icmp echo-reply / [ [", "line 1, column 27: unknown layer `[`"),
            ("0 lan icmp echo-reply / [ udp 1 > 2", "line 1, column 36: `]` is expected here"),
            (
                "0 lan tcp 1 > 2 options 00112233445566778899 ts 1 2 ts 3 4 ts 5 6 ts 7 8",
                "options have at most 40",
            ),
            ("0 lan frag offset 3", "no multiple of 8"),
        ];
        for (text, expected) in cases {
            match parse(text) {
                Ok(_) => assert_eq!(expected, "", "{text}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!expected.is_empty() && error.contains(expected), "{text}: {error}");
                }
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            cases: 256, failure_persistence: None, ..Default::default()
        })]

        #[test]
        fn no_text_makes_it_panic(
            words in proptest::collection::vec(proptest::sample::select(vec![
                "0", "lan", "eth", "vlan", "arp", "who-has", "ipv4", "ipv6", "hop", "frag", "routing", "tcp", "udp",
                "icmp", "icmpv6", "ns", "payload", "len", "/", "|", "[", "]", ">", "=", "\n", "\n ", "1..3", "7", "0x",
                "::1", "1.2.3.4", "02:00:00:00:00:01", "\"", "$lan", "pad", "set", "options", "checksum", "bad", "00ff",
            ]), 0..40)
        ) {
            let _ = parse(&words.join(" "));
            let _ = parse(&format!("{HEAD}{}", words.join(" ")));
        }
    }
}
