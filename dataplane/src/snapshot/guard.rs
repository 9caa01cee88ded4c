//! What is asked of packets that come in by an interface with protection, and the lists that this goes by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::lists::ListMask;
use crate::table::sources::{METERS, Pace};

/// What packets that come in by an interface are to be refused for. All off by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Its name in the configuration.
    pub name: String,
    /// Sources of [`BOGONS4`] and [`BOGONS6`], but for those of the interface's own subnets.
    pub bogons: bool,
    /// Sources that the route does not lead back to.
    pub reverse_path: ReversePath,
    /// One address at both ends.
    pub land: bool,
    /// TCP with flags that no TCP sends.
    pub tcp_flags: bool,
    /// TCP and UDP from port 0.
    pub port_zero: bool,
    /// Fragments that only serve to hide something, or to use up the receiver's memory (RFC 1858, RFC 3128).
    pub tiny_fragments: bool,
    /// UDP from these ports that is of no session; ascending.
    pub answers: Vec<u16>,
    /// Whom no session may be with, by the lists that they are in.
    pub block: ListMask,
    /// Who is not blocked, whatever other lists say.
    pub allow: ListMask,
    /// What each source may do.
    pub per_source: Option<SourceLimits>,
    /// What each source may do at each service: an address with protocol and port.
    pub per_service: Option<SourceLimits>,
    /// ICMP, and as many of ICMPv6, packets a second by all interfaces with this guard; 0 for any number.
    pub icmp_per_second: u64,
}

/// What a source may do. 0 for any number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceLimits {
    /// Packets a second.
    pub packets: u64,
    /// Bits a second, of whole Ethernet frames without FCS.
    pub bits: u64,
    /// New sessions a second.
    pub new_sessions: u32,
    /// Sessions at a time, over all interfaces with this guard; of all services together.
    pub sessions: u32,
    /// Up to these prefix lengths, IPv4 and IPv6, addresses are one source.
    pub prefix: [u8; 2],
    /// For how many sources there is memory at a time, in each worker.
    pub most: u32,
}

impl SourceLimits {
    /// As meters have them: a tenth of a second's worth at once, 64 packets and 100 kB at least, and a second's worth of new
    /// sessions.
    pub fn paces(&self) -> [Pace; METERS] {
        [
            Pace { per_second: self.packets, burst: (self.packets / 10).max(64) },
            Pace { per_second: self.bits, burst: (self.bits / 10).max(800_000) },
            Pace { per_second: self.new_sessions.into(), burst: self.new_sessions.into() },
        ]
    }
}

impl Guard {
    /// Which lists block an address that is in `lists`; none if one allows it.
    #[inline]
    pub fn blocking(&self, lists: ListMask) -> ListMask {
        if lists & self.allow == 0 { lists & self.block } else { 0 }
    }

    /// Whether every packet is to be counted.
    #[inline]
    pub fn counts_packets(&self) -> bool {
        let counts = |limits: &SourceLimits| limits.packets > 0 || limits.bits > 0;
        self.icmp_per_second > 0 || [&self.per_source, &self.per_service].into_iter().flatten().any(counts)
    }

    /// Whether sessions are to be counted.
    #[inline]
    pub fn counts_sessions(&self) -> bool {
        let counts = |limits: &SourceLimits| limits.new_sessions > 0 || limits.sessions > 0;
        [&self.per_source, &self.per_service].into_iter().flatten().any(counts)
    }

    /// Whether the sessions that a source has at a time are bounded.
    pub fn bounds_sessions(&self) -> bool {
        self.per_source.as_ref().is_some_and(|limits| limits.sessions > 0)
    }
}

/// Which sources are refused by the route that leads back to them (RFC 3704).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReversePath {
    /// None.
    #[default]
    Any,
    /// Those to which no route leads, or one that drops.
    Loose,
    /// Those to which no route leads out by the interface that they came in by. One of several equal routes is enough.
    Strict,
}

/// Source prefixes of IPv4 that no packet of the Internet comes from: what IANA's special-purpose registry (RFC 6890) has as
/// not globally reachable. What no gateway forwards anyway is not in it: "this network", loopback, link-local, multicast and
/// reserved addresses.
pub const BOGONS4: [(Ipv4Addr, u8); 9] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
];

/// As [`BOGONS4`], for IPv6: all that is not global unicast (2000::/3, RFC 4291) or of NAT64's well-known prefix, and what is
/// reserved of that. Link-local addresses are not in it, as they are never forwarded.
pub const BOGONS6: [(Ipv6Addr, u8); 12] = [
    (Ipv6Addr::UNSPECIFIED, 16),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 8),
    (Ipv6Addr::new(0x200, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0x400, 0, 0, 0, 0, 0, 0, 0), 6),
    (Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x2001, 0x10, 0, 0, 0, 0, 0, 0), 28),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
];

/// UDP services whose answers are many times as long as what asks for them, so that they are sent to victims who never
/// asked (CISA TA14-017A); by port, ascending.
pub const AMPLIFIERS: [(u16, &str); 25] = [
    (17, "quote of the day"),
    (19, "chargen"),
    (53, "DNS"),
    (69, "TFTP"),
    (111, "portmap"),
    (123, "NTP"),
    (137, "NetBIOS names"),
    (161, "SNMP"),
    (389, "CLDAP"),
    (427, "SLP"),
    (520, "RIP"),
    (623, "IPMI"),
    (1434, "SQL Server browser"),
    (1900, "SSDP"),
    (3283, "Apple remote desktop"),
    (3389, "RDP"),
    (3478, "STUN"),
    (3702, "WS-Discovery"),
    (5093, "Sentinel licences"),
    (5353, "mDNS"),
    (5683, "CoAP"),
    (10001, "Ubiquiti discovery"),
    (11211, "memcached"),
    (32414, "Plex discovery"),
    (37810, "DVR discovery"),
];

/// Whether no packet of the Internet comes from this address.
pub fn is_bogon(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => BOGONS4.iter().any(|&(prefix, length)| covers4(prefix, length, address)),
        IpAddr::V6(address) => BOGONS6.iter().any(|&(prefix, length)| covers6(prefix, length, address)),
    }
}

/// Whether an address lies in a prefix.
pub(crate) fn covers4(prefix: Ipv4Addr, length: u8, address: Ipv4Addr) -> bool {
    let differ = prefix.to_bits() ^ address.to_bits();
    differ.leading_zeros() >= length.into()
}

/// As [`covers4`].
pub(crate) fn covers6(prefix: Ipv6Addr, length: u8, address: Ipv6Addr) -> bool {
    let differ = prefix.to_bits() ^ address.to_bits();
    differ.leading_zeros() >= length.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bogons_are_told_from_the_addresses_beside_them() {
        let cases = [
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("100.63.255.255", false),
            ("100.64.0.1", true),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("192.0.1.0", false),
            ("198.17.255.255", false),
            ("198.19.255.255", true),
            ("8.8.8.8", false),
            ("::1", true),
            ("64:ff9b::808:808", false),
            ("64:ff9b:1::1", true),
            ("100::1", true),
            ("7ff::1", true),
            ("2001::1", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
            ("2606:4700::1", false),
            ("3fff:fff:ffff::1", true),
            ("3fff:1000::1", false),
            ("fd00::1", true),
            ("fe80::1", false),
            ("fec0::1", true),
        ];
        for (address, is) in cases {
            assert_eq!(is_bogon(address.parse().unwrap()), is, "{address}");
        }
    }

    #[test]
    fn lists_are_in_order() {
        assert!(AMPLIFIERS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(BOGONS4.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(BOGONS6.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (prefix, length) in BOGONS4 {
            assert!(prefix.to_bits().trailing_zeros() >= 32 - u32::from(length), "{prefix}/{length}");
        }
        for (prefix, length) in BOGONS6 {
            let host = prefix.to_bits().checked_shl(length.into()).unwrap_or(0);
            assert_eq!(host, 0, "{prefix}/{length}");
        }
    }
}
