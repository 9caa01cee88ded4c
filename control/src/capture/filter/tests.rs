use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sluice_dataplane::matcher::Seen;
use sluice_dataplane::snapshot::NONE16;
use sluice_pkt::parse::parse_head;

use super::*;

/// A packet as a plain evaluator knows it.
#[derive(Clone, Copy, Debug)]
struct Plain {
    ends: [IpAddr; 2],
    ports: [u16; 2],
    is_tcp: bool,
    syn: bool,
}

impl Plain {
    fn frame(&self) -> Vec<u8> {
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match self.ends {
            [IpAddr::V4(source), IpAddr::V4(destination)] => {
                link.ipv4(source.octets(), destination.octets(), 64)
            }
            [source, destination] => {
                let [source, destination] = [source, destination].map(|end| match end {
                    IpAddr::V6(end) => end.octets(),
                    IpAddr::V4(end) => end.to_ipv6_mapped().octets(),
                });
                link.ipv6(source, destination, 64)
            }
        };
        let mut frame = Vec::new();
        let [source, destination] = self.ports;
        let written = match (self.is_tcp, self.syn) {
            (true, true) => ip.tcp(source, destination, 1, 1000).syn().write(&mut frame, &[]),
            (true, false) => ip.tcp(source, destination, 1, 1000).ack(1).write(&mut frame, &[]),
            _ => ip.udp(source, destination).write(&mut frame, &[]),
        };
        written.unwrap();
        frame
    }

    fn wanted(&self, condition: &Plainly) -> bool {
        let either = |end: End, [source, destination]: [bool; 2]| match end {
            End::Source => source,
            End::Destination => destination,
            End::Either => source || destination,
        };
        match condition {
            Plainly::Word("tcp") => self.is_tcp,
            Plainly::Word("udp") => !self.is_tcp,
            Plainly::Word("ip") => self.ends[0].is_ipv4(),
            Plainly::Word("ip6") => self.ends[0].is_ipv6(),
            Plainly::Word("syn") => self.is_tcp && self.syn,
            Plainly::Word("ack") => self.is_tcp && !self.syn,
            Plainly::Word(_) => false,
            Plainly::Host(end, host) => either(*end, self.ends.map(|end| end == *host)),
            Plainly::Ports(end, first, last) => {
                either(*end, self.ports.map(|port| *first <= port && port <= *last))
            }
            Plainly::Not(inner) => !self.wanted(inner),
            Plainly::And(left, right) => self.wanted(left) && self.wanted(right),
            Plainly::Or(left, right) => self.wanted(left) || self.wanted(right),
        }
    }
}

/// A condition that can be typed.
#[derive(Clone, Debug)]
enum Plainly {
    Word(&'static str),
    Host(End, IpAddr),
    Ports(End, u16, u16),
    Not(Box<Plainly>),
    And(Box<Plainly>, Box<Plainly>),
    Or(Box<Plainly>, Box<Plainly>),
}

impl Plainly {
    fn text(&self) -> String {
        let end = |end: &End| match end {
            End::Source => "src ",
            End::Destination => "dst ",
            End::Either => "",
        };
        match self {
            Self::Word(word) => (*word).to_owned(),
            Self::Host(of, host) => format!("{}host {host}", end(of)),
            Self::Ports(of, first, last) if first == last => format!("{}port {first}", end(of)),
            Self::Ports(of, first, last) => format!("{}portrange {first}-{last}", end(of)),
            Self::Not(inner) => format!("not ({})", inner.text()),
            Self::And(left, right) => format!("({}) and ({})", left.text(), right.text()),
            Self::Or(left, right) => format!("({}) or ({})", left.text(), right.text()),
        }
    }
}

fn host() -> impl Strategy<Value = IpAddr> {
    (0..2u8, 0..3u8).prop_map(|(family, last)| match family {
        0 => Ipv4Addr::new(192, 0, 2, last).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
    })
}

fn condition() -> impl Strategy<Value = Plainly> {
    let end = prop_oneof![Just(End::Source), Just(End::Destination), Just(End::Either)];
    let leaf = prop_oneof![
        proptest::sample::select(vec!["tcp", "udp", "ip", "ip6", "syn", "ack", "icmp", "arp"])
            .prop_map(Plainly::Word),
        (end.clone(), host()).prop_map(|(end, host)| Plainly::Host(end, host)),
        (end, 0..4u16, 0..3u16).prop_map(|(end, first, more)| Plainly::Ports(end, first, first + more)),
    ];
    leaf.prop_recursive(5, 24, 2, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|inner| Plainly::Not(Box::new(inner))),
            pair.clone().prop_map(|(left, right)| Plainly::And(Box::new(left), Box::new(right))),
            pair.prop_map(|(left, right)| Plainly::Or(Box::new(left), Box::new(right))),
        ]
    })
}

fn packet() -> impl Strategy<Value = Plain> {
    let last = || 0..3u8;
    (any::<bool>(), last(), last(), 0..5u16, 0..5u16, any::<bool>(), any::<bool>()).prop_map(
        |(is_v4, source, destination, from, to, is_tcp, syn)| {
            let end = |last: u8| match is_v4 {
                true => IpAddr::from(Ipv4Addr::new(192, 0, 2, last)),
                false => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
            };
            Plain { ends: [source, destination].map(end), ports: [from, to], is_tcp, syn }
        },
    )
}

fn wants(program: &Program, frame: &[u8], came_by: u16) -> bool {
    let headers = parse_head(frame, frame.len()).unwrap();
    program.wants(&Seen { headers: &headers, bytes: frame, came_by, leaves_by: NONE16 })
}

#[test]
fn a_program_wants_what_its_text_says() {
    let config = Config { cases: 2000, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]));
    let snapshot = Snapshot::default();
    let check = |(condition, packets): (Plainly, Vec<Plain>)| {
        let program = parse(&condition.text(), &snapshot).map_err(TestCaseError::fail)?;
        for packet in packets {
            prop_assert_eq!(wants(&program, &packet.frame(), 0), packet.wanted(&condition), "{:?}", packet);
        }
        Ok(())
    };
    runner.run(&(condition(), proptest::collection::vec(packet(), 8)), check).unwrap();
}

#[test]
fn words_stand_side_by_side_as_with_tcpdump() {
    let snapshot = Snapshot::default();
    let same = |one: &str, other: &str| assert_eq!(parse(one, &snapshot), parse(other, &snapshot));
    same("udp port 53", "udp and port 53");
    same("tcp or udp port 53", "tcp or (udp and (port 53))");
    same("src 192.0.2.1", "src host 192.0.2.1");
    same("not tcp port 80", "(not tcp) and port 80");
    same("net 192.0.2.77/24", "net 192.0.2.0/24");
    assert_eq!(parse("  ", &snapshot), Ok(Program::default()));
}

#[test]
fn what_is_wrong_is_marked() {
    let snapshot = Snapshot::default();
    for (text, what, mark) in [
        ("udp port dns", "a number up to 65535", "\n           ^^^"),
        ("tcp and", "a condition is missing", "\n          ^"),
        ("(tcp or udp", "`)` is missing", "\n              ^"),
        ("tcp )", "the end is expected", "\n      ^"),
        ("net 192.0.2.0", "a prefix", "\n      ^^^^^^^^^"),
        ("net 192.0.2.0/33", "a prefix", "^"),
        ("in lan", "an interface", "\n     ^^^"),
        ("hots 192.0.2.1", "a condition is one of", "\n  ^^^^"),
        ("portrange 9-1", "a range of ports", "\n            ^^^"),
    ] {
        let said = parse(text, &snapshot).unwrap_err();
        assert!(said.contains(what) && said.contains(mark), "{said}");
    }
    assert!(parse(&"not ".repeat(1000), &snapshot).unwrap_err().contains("nested too deeply"));
    let many = vec!["tcp"; 300].join(" or ");
    assert!(parse(&many, &snapshot).unwrap_err().contains("more than 64 conditions"));
    assert!(parse(&vec!["tcp"; 64].join(" or "), &snapshot).is_ok());
}
