//! Words of the network: prefixes, address and port ranges, MAC addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::report::quote;
use super::units::Wrong;

/// An address with a prefix length. As a network its host bits are zero; as an interface's address they need not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Length of the network part in bits, 0 to 32 or 128.
    pub length: u8,
}

impl Prefix {
    /// The network that the address lies in: host bits zeroed.
    pub fn network(self) -> Self {
        Self { address: self.first(), length: self.length }
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    /// The lowest address of the network.
    pub fn first(self) -> IpAddr {
        from_bits(self.is_ipv4(), to_bits(self.address) & !self.host_mask())
    }

    /// The highest address of the network; with IPv4, /30 and shorter, its broadcast address.
    pub fn last(self) -> IpAddr {
        from_bits(self.is_ipv4(), to_bits(self.address) | self.host_mask())
    }

    /// Whether `address` lies in the network.
    pub fn contains(self, address: IpAddr) -> bool {
        self.first() <= address && address <= self.last() && self.is_ipv4() == address.is_ipv4()
    }

    /// Whether every address of `other` lies in this network.
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether the networks share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Whether `address` is one that no host may have: the network's own or its broadcast address in IPv4 (not in a
    /// /31, RFC 3021), the subnet-router anycast address in IPv6 (RFC 4291 2.6.1; not in a /127, RFC 6164).
    pub fn reserves(self, address: IpAddr) -> bool {
        match self.is_ipv4() {
            true => self.length <= 30 && (address == self.first() || address == self.last()),
            false => self.length <= 126 && address == self.first(),
        }
    }

    fn host_mask(self) -> u128 {
        let bits = if self.is_ipv4() { 32 } else { 128 };
        match bits - u32::from(self.length).min(bits) {
            128 => u128::MAX,
            host => (1 << host) - 1,
        }
    }
}

/// For each prefix the place of the first that is the same. Sorted, as a million do not fit the caches of a table.
pub(crate) fn first_alike(prefixes: impl ExactSizeIterator<Item = Prefix>) -> Vec<usize> {
    let mut firsts: Vec<usize> = (0..prefixes.len()).collect();
    let key = |(at, prefix): (usize, Prefix)| (to_bits(prefix.address), prefix.length, prefix.is_ipv4(), at);
    let mut sorted: Vec<_> = prefixes.enumerate().map(key).collect();
    sorted.sort_unstable();
    for alike in sorted.chunk_by(|a, b| (a.0, a.1, a.2) == (b.0, b.1, b.2)) {
        for (.., at) in alike {
            if let (Some(first), Some((.., place))) = (firsts.get_mut(*at), alike.first()) {
                *first = *place;
            }
        }
    }
    firsts
}

/// Address as a number; an IPv4 address in the low 32 bits.
fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_bits(ipv4: bool, bits: u128) -> IpAddr {
    match ipv4 {
        // An IPv4 address came from 32 bits, and masking keeps it there.
        true => Ipv4Addr::from_bits(bits as u32).into(),
        false => Ipv6Addr::from_bits(bits).into(),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// IPv4 addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct AddressRange {
    /// The lowest.
    pub first: Ipv4Addr,
    /// The highest.
    pub last: Ipv4Addr,
}

impl AddressRange {
    /// Whether `address` is one of them.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.first <= address && address <= self.last
    }

    /// How many there are.
    pub fn count(self) -> u64 {
        u64::from(self.last.to_bits() - self.first.to_bits()) + 1
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// Ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl PortRange {
    /// How many there are.
    pub fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// Whether every port of `other` is one of them.
    pub fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether the ranges share a port.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// A number of digits alone; `parse` would take a sign too.
pub(crate) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// An IPv4 or IPv6 address.
pub(crate) fn address(text: &str) -> Result<IpAddr, Wrong> {
    text.parse().map_err(|_| {
        let wrong = Wrong::new(format!("{} is not an IP address", quote(text)));
        match text.split_once('/').is_some_and(|(address, _)| address.parse::<IpAddr>().is_ok()) {
            true => wrong.help("leave the prefix length out here"),
            false => wrong.help("such as \"192.168.1.1\" or \"fd00:1::1\""),
        }
    })
}

/// An IPv4 address.
pub(crate) fn ipv4_address(text: &str) -> Result<Ipv4Addr, Wrong> {
    match address(text)? {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => {
            Err(Wrong::new(format!("{} is not an IPv4 address", quote(text))).help("NAT is for IPv4"))
        }
    }
}

/// `address/length`, host bits allowed.
pub(crate) fn interface_address(text: &str) -> Result<Prefix, Wrong> {
    let wrong = || Wrong::new(format!("{} is not an address with a prefix length", quote(text)));
    let Some((address, length)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => wrong().help(format!("add the length of the subnet, such as \"{text}/24\"")),
            Ok(IpAddr::V6(_)) => wrong().help(format!("add the length of the subnet, such as \"{text}/64\"")),
            Err(_) => wrong().help("such as \"192.168.1.1/24\" or \"fd00:1::1/64\""),
        });
    };
    let address: IpAddr =
        address.parse().map_err(|_| wrong().help("such as \"192.168.1.1/24\" or \"fd00:1::1/64\""))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if address.is_ipv4() {
        if let Ok(mask) = length.parse::<Ipv4Addr>() {
            if mask.to_bits().leading_ones() == mask.to_bits().count_ones() {
                return Err(wrong().help(format!("write \"{address}/{}\"", mask.to_bits().count_ones())));
            }
        }
    }
    match decimal(length).filter(|&length| length <= most) {
        Some(length) => Ok(Prefix { address, length }),
        None => Err(wrong().help(format!("the length is a number from 0 to {most}"))),
    }
}

/// A network: `address/length` with no host bits, or a single address.
pub(crate) fn prefix(text: &str) -> Result<Prefix, Wrong> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Prefix { address, length: if address.is_ipv4() { 32 } else { 128 } });
    }
    let prefix = interface_address(text).map_err(|wrong| Wrong {
        message: format!("{} is neither an address nor a prefix", quote(text)),
        help: Some(
            wrong
                .help
                .unwrap_or_else(|| "such as \"192.168.1.0/24\", \"192.168.1.7\" or \"fd00:1::/64\"".into()),
        ),
    })?;
    if prefix != prefix.network() {
        let help =
            format!("the network is \"{}\", the single address \"{}\"", prefix.network(), prefix.address);
        return Err(Wrong::new(format!("{} has bits set behind the prefix length", quote(text))).help(help));
    }
    Ok(prefix)
}

/// IPv4 addresses: one, `a-b`, or a prefix.
pub(crate) fn address_range(text: &str) -> Result<AddressRange, Wrong> {
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (ipv4_address(first.trim())?, ipv4_address(last.trim())?);
        if first > last {
            let wrong = Wrong::new(format!("the range {} ends before it begins", quote(text)));
            return Err(wrong.help(format!("write \"{last}-{first}\"")));
        }
        return Ok(AddressRange { first, last });
    }
    let prefix = prefix(text)?;
    match (prefix.first(), prefix.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ok(AddressRange { first, last }),
        _ => Err(Wrong::new(format!("{} is not of IPv4", quote(text))).help("NAT is for IPv4")),
    }
}

/// A port from 1 to 65535, or `low-high`.
pub(crate) fn port_range(text: &str) -> Result<PortRange, Wrong> {
    let wrong = || Wrong::new(format!("{} is not a port", quote(text))).help("such as 443 or \"8000-8100\"");
    let port = |text: &str| decimal(text.trim()).filter(|&port| port > 0).ok_or_else(wrong);
    let Some((first, last)) = text.split_once('-') else {
        return port(text).map(|port| PortRange { first: port, last: port });
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        let wrong = Wrong::new(format!("the range {} ends before it begins", quote(text)));
        return Err(wrong.help(format!("write \"{last}-{first}\"")));
    }
    Ok(PortRange { first, last })
}

/// A unicast MAC address, `02:00:00:00:00:01`.
pub(crate) fn mac(text: &str) -> Result<[u8; 6], Wrong> {
    let wrong =
        || Wrong::new(format!("{} is not a MAC address", quote(text))).help("such as \"02:00:00:00:00:01\"");
    let mut octets = [0; 6];
    let mut parts = text.split([':', '-']);
    for octet in &mut octets {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or_else(wrong)?;
        *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    if octets[0] & 1 != 0 || octets == [0; 6] {
        let help = "the lowest bit of the first octet is 0 in a unicast address";
        return Err(Wrong::new(format!("{} is no address for a port", quote(text))).help(help));
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes() {
        assert_eq!(prefix("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(prefix("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(prefix("::/0").unwrap().to_string(), "::/0");
        let wrong = prefix("192.168.1.7/24").unwrap_err();
        assert_eq!(
            wrong.help.unwrap(),
            "the network is \"192.168.1.0/24\", the single address \"192.168.1.7\""
        );
        let wrong = prefix("10.0.0.0/255.255.0.0").unwrap_err();
        assert_eq!(wrong.help.unwrap(), "write \"10.0.0.0/16\"");
        for text in ["", "10.0.0.0/33", "10.0.0.0/+8", "fd00::/129", "10.0.0/8", "/8", "10.0.0.0/", "a/b/c"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_that_are_alike_are_found() {
        let prefixes = ["10.0.0.0/8", "::/0", "10.0.0.0/9", "10.0.0.0/8", "0.0.0.0/0", "::/0", "10.0.0.0/8"];
        let prefixes = prefixes.map(|text| prefix(text).unwrap());
        assert_eq!(first_alike(prefixes.into_iter()), [0, 1, 2, 0, 4, 1, 0]);
    }

    #[test]
    fn reserved_addresses() {
        let reserved =
            |prefix: &str, address: &str| self::prefix(prefix).unwrap().reserves(address.parse().unwrap());
        assert!(reserved("192.0.2.0/24", "192.0.2.0") && reserved("192.0.2.0/24", "192.0.2.255"));
        assert!(!reserved("192.0.2.0/31", "192.0.2.0") && !reserved("192.0.2.1/32", "192.0.2.1"));
        assert!(reserved("fd00::/64", "fd00::") && !reserved("fd00::/64", "fd00::ffff:ffff:ffff:ffff"));
        assert!(!reserved("fd00::/127", "fd00::"));
    }

    #[test]
    fn ranges_of_addresses_and_ports() {
        assert_eq!(address_range("192.0.2.8/30").unwrap().to_string(), "192.0.2.8-192.0.2.11");
        assert_eq!(address_range("192.0.2.1 - 192.0.2.3").unwrap().count(), 3);
        assert_eq!(address_range("0.0.0.0/0").unwrap().count(), 1 << 32);
        assert!(address_range("192.0.2.3-192.0.2.1").is_err() && address_range("fd00::1").is_err());
        assert_eq!(port_range("8000-8100").unwrap().count(), 101);
        assert!(["0", "65536", "5-", "9-8", "http", "-1", ""].iter().all(|text| port_range(text).is_err()));
    }

    #[test]
    fn mac_addresses() {
        assert_eq!(mac("02:00:5e:10:00:ff"), Ok([2, 0, 0x5e, 0x10, 0, 0xff]));
        for text in [
            "",
            "02:00",
            "02:00:00:00:00:00:00",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
            "+2:00:00:00:00:00",
        ] {
            assert!(mac(text).is_err(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

        #[test]
        fn covers_is_containment_of_both_ends(a in any::<u32>(), b in any::<u32>(), la in 0u8..=32, lb in 0u8..=32, near in any::<bool>()) {
            let b = if near { a ^ (b >> 20) } else { b };
            let [p, q] = [(a, la), (b, lb)].map(|(bits, length)| Prefix { address: Ipv4Addr::from_bits(bits).into(), length });
            prop_assert_eq!(p.covers(q), p.contains(q.first()) && p.contains(q.last()));
            prop_assert_eq!(p.overlaps(q), p.first() <= q.last() && q.first() <= p.last());
            prop_assert!(p.contains(p.address) && p.network().covers(p));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}", near in "[0-9a-f:./-]{0,40}") {
            for text in [text, near] {
                let _ = (prefix(&text), address_range(&text), port_range(&text), mac(&text));
                let _ = (address(&text), interface_address(&text));
            }
        }
    }
}
