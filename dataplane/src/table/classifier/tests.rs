//! Each field alone, and the order of rules.

use super::*;

const ANY: Rule<u32> = Rule {
    src: (0, 0),
    dst: (0, 0),
    protocol: None,
    src_port: PortRange::ANY,
    dst_port: PortRange::ANY,
    icmp_type: None,
    icmp_code: None,
    established: None,
    result: 0,
};
const TCP: Tuple<u32> = Tuple {
    src: 0x0a01_0203,
    dst: 0xc633_6407,
    protocol: 6,
    src_port: 40_000,
    dst_port: 443,
    has_ports: true,
    icmp: None,
    established: false,
};
const PING: Tuple<u32> =
    Tuple { protocol: 1, src_port: 0, dst_port: 0, has_ports: false, icmp: Some((8, 0)), ..TCP };

#[test]
fn each_field_decides_alone() {
    let port = |first, last| PortRange { first, last };
    let cases = [
        ("anything", ANY, TCP, true),
        ("source in prefix", Rule { src: (0x0a00_0000, 0xff00_0000), ..ANY }, TCP, true),
        ("stray host bits", Rule { src: (0x0a99_9999, 0xff00_0000), ..ANY }, TCP, true),
        ("source outside", Rule { src: (0x0b00_0000, 0xff00_0000), ..ANY }, TCP, false),
        ("destination host", Rule { dst: (0xc633_6407, u32::MAX), ..ANY }, TCP, true),
        ("destination off by one", Rule { dst: (0xc633_6406, u32::MAX), ..ANY }, TCP, false),
        ("non-contiguous mask", Rule { dst: (0x0000_0007, 0x0000_00ff), ..ANY }, TCP, true),
        ("protocol", Rule { protocol: Some(6), ..ANY }, TCP, true),
        ("other protocol", Rule { protocol: Some(17), ..ANY }, TCP, false),
        ("protocol 0 is not any", Rule { protocol: Some(0), ..ANY }, TCP, false),
        ("source port", Rule { src_port: port(40_000, 40_000), ..ANY }, TCP, true),
        ("source port below", Rule { src_port: port(40_001, 65_535), ..ANY }, TCP, false),
        ("destination port at the end", Rule { dst_port: port(1, 443), ..ANY }, TCP, true),
        ("destination port above", Rule { dst_port: port(0, 442), ..ANY }, TCP, false),
        ("empty range", Rule { dst_port: port(444, 442), ..ANY }, TCP, false),
        ("any port, no ports", ANY, PING, true),
        ("port 0, no ports", Rule { dst_port: port(0, 0), ..ANY }, PING, false),
        ("nearly any source port, no ports", Rule { src_port: port(0, 65_534), ..ANY }, PING, false),
        ("ICMP type", Rule { icmp_type: Some(8), ..ANY }, PING, true),
        ("other ICMP type", Rule { icmp_type: Some(0), ..ANY }, PING, false),
        ("ICMP code", Rule { icmp_type: Some(8), icmp_code: Some(0), ..ANY }, PING, true),
        ("other ICMP code", Rule { icmp_type: Some(8), icmp_code: Some(1), ..ANY }, PING, false),
        ("ICMP type, no ICMP", Rule { icmp_type: Some(0), ..ANY }, TCP, false),
        ("ICMP code, no ICMP", Rule { icmp_code: Some(0), ..ANY }, TCP, false),
        ("established wanted", Rule { established: Some(true), ..ANY }, TCP, false),
        ("new wanted", Rule { established: Some(false), ..ANY }, TCP, true),
        ("established", Rule { established: Some(true), ..ANY }, Tuple { established: true, ..TCP }, true),
    ];
    for (name, rule, tuple, want) in cases {
        assert_eq!(rule.matches(&tuple), want, "{name}");
    }
}

#[test]
fn the_first_match_answers() {
    let rules = vec![
        Rule { protocol: Some(17), result: 10, ..ANY },
        Rule { dst_port: PortRange { first: 80, last: 443 }, result: 20, ..ANY },
        Rule { protocol: Some(6), result: 30, ..ANY },
    ];
    let classifier = Classifier::new(rules);
    assert_eq!(classifier.len(), 3);
    assert_eq!(classifier.lookup(&TCP), Some(20));
    assert_eq!(classifier.lookup(&Tuple { dst_port: 22, ..TCP }), Some(30));
    assert_eq!(classifier.lookup(&Tuple { protocol: 17, ..TCP }), Some(10));
    assert_eq!(classifier.lookup(&PING), None);
    assert!(Classifier::<u32>::new(Vec::new()).is_empty());
}

#[test]
fn ipv6_addresses_are_compared_whole() {
    let host = 0x2001_0db8_0000_0000_0000_0000_0000_0001_u128;
    let wide = Rule {
        src: (host, u128::MAX << 64),
        dst: (0, 0),
        protocol: None,
        src_port: PortRange::ANY,
        dst_port: PortRange::ANY,
        icmp_type: None,
        icmp_code: None,
        established: None,
        result: 1,
    };
    let tuple = |src| Tuple {
        src,
        dst: 0,
        protocol: 58,
        src_port: 0,
        dst_port: 0,
        has_ports: false,
        icmp: Some((128, 0)),
        established: false,
    };
    let classifier = Classifier::new(vec![Rule { src: (host, u128::MAX), result: 0, ..wide }, wide]);
    assert_eq!(classifier.lookup(&tuple(host)), Some(0));
    assert_eq!(classifier.lookup(&tuple(host + 1)), Some(1));
    assert_eq!(classifier.lookup(&tuple(host | 1 << 127)), None);
}
