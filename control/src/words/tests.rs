use proptest::prelude::*;

use super::*;
use crate::golden::packets::parse;

const HEAD: &str = "0 lan eth 02:00:00:00:00:10 > 02:00:00:00:00:01 / ";

fn frame(layers: &str) -> Vec<u8> {
    parse(&format!("{HEAD}{layers}"))
        .unwrap_or_else(|error| panic!("{error}"))
        .remove("lan")
        .unwrap()
        .remove(0)
        .bytes
}

fn told(expected: &str, got: &str) -> Vec<String> {
    diff(&frame(expected), &frame(got)).iter().map(ToString::to_string).collect()
}

#[test]
fn every_field_is_named() {
    let frame = frame(
        "ipv4 10.0.0.1 > 10.0.0.2 id 7 df tos 0xb8 options 94040000 / tcp 1 > 2 syn ack 9 seq 5 mss 1460 / payload \"hi\"",
    );
    let fields: Vec<String> =
        describe(&frame).fields.iter().map(|field| format!("{} {}", field.name, field.value)).collect();
    let checksum = |name: &str, fields: &[String]| {
        let found = fields.iter().find(|field| field.starts_with(name)).unwrap();
        assert!(found.ends_with("(right)"), "{found}");
        found.clone()
    };
    let expected = [
        "eth.dst 02:00:00:00:00:01",
        "eth.src 02:00:00:00:00:10",
        "eth.type 0x0800",
        "ipv4.src 10.0.0.1",
        "ipv4.dst 10.0.0.2",
        "ipv4.header_length 24",
        "ipv4.tos 0xb8",
        "ipv4.total_length 50",
        "ipv4.id 7",
        "ipv4.df true",
        "ipv4.mf false",
        "ipv4.offset 0",
        "ipv4.ttl 64",
        "ipv4.protocol 6 (tcp)",
        &checksum("ipv4.checksum", &fields),
        "ipv4.options 4 bytes: 94 04 00 00",
        "tcp.src 1",
        "tcp.dst 2",
        "tcp.seq 5",
        "tcp.ack 9",
        "tcp.flags SYN ACK",
        "tcp.window 65535",
        "tcp.urgent 0",
        &checksum("tcp.checksum", &fields),
        "tcp.option MaximumSegmentSize(1460)",
        "tcp.options 4 bytes: 02 04 05 b4",
        "payload 2 bytes: 68 69",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_difference_is_told_by_its_field() {
    let packet =
        |ttl: u8, port: u16| format!("ipv4 10.0.0.1 > 10.0.0.2 ttl {ttl} / udp 1 > {port} / payload len 20");
    assert_eq!(told(&packet(63, 53), &packet(64, 53)), ["ipv4.ttl: expected 63, got 64"]);
    let both = ["ipv4.ttl: expected 63, got 64", "udp.dst: expected 53, got 54"];
    assert_eq!(told(&packet(63, 53), &packet(64, 54)), both);
    assert_eq!(
        told("ipv4 10.0.0.1 > 10.0.0.2 / udp 1 > 2", "ipv4 10.0.0.1 > 10.0.0.2 / udp 1 > 2 checksum 1"),
        ["udp.checksum: expected 0xebd8 (right), got 0x0001 (wrong, should be 0xebd8)"]
    );
    assert_eq!(
        told("payload \"same until here\"", "payload \"same until there\""),
        ["payload: expected 68 65 72 65 at byte 11 of 15, got 74 68 65 72 65 at byte 11 of 16"]
    );
    let vlan = told("vlan 5 / payload 00", "payload 00");
    assert_eq!(vlan[0], "vlan.tpid: expected 0x8100, got no such field");
}

#[test]
fn a_quoted_packet_has_its_own_fields() {
    let error = |port: u16| {
        format!(
            "ipv4 203.0.113.1 > 10.0.0.1 / icmp time-exceeded / [ ipv4 10.0.0.1 > 10.0.0.2 ttl 1 / tcp {port} > 80 seq 77 \
             | truncate 28 ]"
        )
    };
    assert_eq!(told(&error(1024), &error(1025)), ["quoted.tcp.src: expected 1024, got 1025"]);
    let frame = frame(&error(1024));
    let described = describe(&frame);
    let value = |name: &str| {
        described.fields.iter().find(|field| field.name == name).map(|field| field.value.as_str())
    };
    assert_eq!(value("icmp.type"), Some("11 (time exceeded in transit)"));
    assert!(value("icmp.checksum").is_some_and(|value| value.ends_with("(right)")));
    assert!(value("quoted.ipv4.checksum").is_some_and(|value| value.ends_with("(right)")));
    assert_eq!(
        (value("quoted.tcp.seq"), value("quoted.missing")),
        (Some("77"), Some("12 bytes of the packet's 40"))
    );
    assert_eq!(
        described.summary,
        "icmp 203.0.113.1 > 10.0.0.1 time exceeded in transit [tcp 10.0.0.1:1024 > 10.0.0.2:80 ttl 1 len 40] ttl 64 len 56"
    );
}

#[test]
fn what_cannot_be_decoded_is_said() {
    assert!(summary(&[1, 2, 3]).starts_with("malformed ethernet"));
    let bad = frame("ipv4 10.0.0.1 > 10.0.0.2 version 5 / udp 1 > 2");
    assert_eq!(summary(&bad), "malformed ipv4");
    assert_eq!(summary(&frame("vlan 3 | truncate 16")), "malformed vlan");
    let cut = frame("ipv6 ::1 > ::2 next 0 length 3 / payload 000000");
    assert_eq!(summary(&cut), "malformed ipv6 extension ::1 > ::2 hlim 64 len 43");
}

fn samples() -> Vec<Vec<u8>> {
    [
        "arp who-has 10.0.0.1 tell 10.0.0.2 | pad 60",
        "vlan 7 / ipv4 10.0.0.1 > 10.0.0.2 options 94040000 / udp 1 > 2 / payload \"hello\" | pad 64",
        "ipv4 10.0.0.1 > 10.0.0.2 / tcp 1 > 2 ack mss 1 sackok ts 1 2 / payload len 9",
        "ipv4 10.0.0.1 > 10.0.0.2 / icmp port-unreachable / [ ipv4 10.0.0.2 > 10.0.0.1 / udp 5 > 6 / payload len 8 ]",
        "ipv6 ::1 > ::2 / hop / routing type 4 / frag offset 0 id 3 / dstopt / udp 5 > 6 / payload len 8",
        "ipv6 fe80::1 > fe80::2 / icmpv6 na fe80::1 solicited target-mac 02:00:00:00:00:10",
        "ipv6 ::1 > ::2 / icmpv6 packet-too-big mtu 1280 / [ ipv6 ::2 > ::1 / tcp 1 > 2 syn ]",
    ]
    .map(frame)
    .to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_difference_is_missed_and_no_frame_makes_it_panic(
        sample in prop::sample::select(samples()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
    ) {
        let mut changed = sample.clone();
        for (at, value) in damage {
            let at = at.index(changed.len());
            changed[at] = value;
        }
        changed.truncate(end.index(changed.len() * 2));
        prop_assert_eq!(diff(&sample, &changed).is_empty(), sample == changed);
        prop_assert_eq!(diff(&changed, &sample).is_empty(), sample == changed);
    }
}
