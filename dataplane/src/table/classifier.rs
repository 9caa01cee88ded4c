//! First match over rules on the 5-tuple, tried in order.
//!
//! `A` is the address as a number: `u32` for IPv4, `u128` for IPv6.

use core::ops::BitAnd;

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port; below `first`, the range is empty.
    pub last: u16,
}

impl PortRange {
    /// Every port: no restriction, so that packets without ports match too.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// Whether `port` lies within.
    #[inline]
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// One rule. Every field must match; `None`, [`PortRange::ANY`] and a mask of 0 match anything. A rule with
/// lists of prefixes or ranges is several of these with one `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule<A> {
    /// Source address: value and mask.
    pub src: (A, A),
    /// Destination address: value and mask.
    pub dst: (A, A),
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Source port. Other than [`PortRange::ANY`], it matches no packet without ports.
    pub src_port: PortRange,
    /// Destination port, likewise.
    pub dst_port: PortRange,
    /// ICMP type. Where given, it matches no packet without one.
    pub icmp_type: Option<u8>,
    /// ICMP code, likewise.
    pub icmp_code: Option<u8>,
    /// Whether the packet belongs to a live session.
    pub established: Option<bool>,
    /// What [`Classifier::lookup`] answers.
    pub result: u32,
}

/// What is known of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port; meaningful with `has_ports`.
    pub src_port: u16,
    /// Destination port; meaningful with `has_ports`.
    pub dst_port: u16,
    /// Whether the packet carries ports: false for ICMP and for fragments but the first.
    pub has_ports: bool,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
    /// Whether the packet belongs to a live session.
    pub established: bool,
}

/// An address as a number.
pub trait Address: Copy + PartialEq + BitAnd<Output = Self> {}
impl Address for u32 {}
impl Address for u128 {}

impl<A: Address> Rule<A> {
    /// Whether the rule matches.
    #[inline]
    #[must_use]
    pub fn matches(&self, tuple: &Tuple<A>) -> bool {
        let ports =
            |range: PortRange, port| range == PortRange::ANY || (tuple.has_ports && range.contains(port));
        tuple.src & self.src.1 == self.src.0 & self.src.1
            && tuple.dst & self.dst.1 == self.dst.0 & self.dst.1
            && self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
            && ports(self.src_port, tuple.src_port)
            && ports(self.dst_port, tuple.dst_port)
            && self.icmp_type.is_none_or(|kind| tuple.icmp.is_some_and(|icmp| icmp.0 == kind))
            && self.icmp_code.is_none_or(|code| tuple.icmp.is_some_and(|icmp| icmp.1 == code))
            && self.established.is_none_or(|established| established == tuple.established)
    }
}

/// An ordered list of rules.
#[derive(Clone, Debug)]
pub struct Classifier<A> {
    rules: Vec<Rule<A>>,
}

impl<A: Address> Classifier<A> {
    /// A classifier that tries `rules` from the first to the last.
    #[must_use]
    pub fn new(rules: Vec<Rule<A>>) -> Self {
        Self { rules }
    }

    /// The result of the first rule that matches.
    #[inline]
    #[must_use]
    pub fn lookup(&self, tuple: &Tuple<A>) -> Option<u32> {
        self.rules.iter().find(|rule| rule.matches(tuple)).map(|rule| rule.result)
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule, and so never an answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

#[cfg(test)]
mod tests {
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
            (
                "established",
                Rule { established: Some(true), ..ANY },
                Tuple { established: true, ..TCP },
                true,
            ),
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
}
