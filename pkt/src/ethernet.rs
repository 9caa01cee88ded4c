//! Ethernet II: MAC addresses, EtherTypes and the 14-byte header.

use crate::header::Field;
use std::fmt;
use std::str::FromStr;

header! {
    /// An Ethernet II header, without the tags that may follow it.
    Header: 14 bytes;
    /// Where the frame goes to.
    DESTINATION @ 0: Mac, destination, set_destination;
    /// Where the frame comes from.
    SOURCE @ 6: Mac, source, set_source;
    /// What follows; a value under [`MIN_ETHERTYPE`] is the length of an 802.3 frame.
    ETHERTYPE @ 12: u16, ethertype, set_ethertype;
}

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag (C-tag).
pub const VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag (S-tag), the outer one of QinQ.
pub const QINQ: u16 = 0x88a8;
/// EtherType that equipment older than 802.1ad writes for an outer tag.
pub const QINQ_OLD: u16 = 0x9100;
/// The smallest EtherType; below it the field is a length, and an LLC header follows (IEEE 802.3 3.2.6).
pub const MIN_ETHERTYPE: u16 = 0x0600;

/// Whether the EtherType announces a VLAN tag.
#[inline]
pub const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, VLAN | QINQ | QINQ_OLD)
}

impl Header<[u8; LEN]> {
    /// An untagged header.
    pub fn new(destination: Mac, source: Mac, ethertype: u16) -> Self {
        let mut header = Self([0; LEN]);
        header.set_destination(destination);
        header.set_source(source);
        header.set_ethertype(ethertype);
        header
    }
}

/// An EUI-48 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations, `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names one station: the group bit is clear and it is not all zero.
    #[inline]
    pub const fn is_unicast(self) -> bool {
        let [a, b, c, d, e, f] = self.0;
        !self.is_multicast() && a | b | c | d | e | f != 0
    }

    /// Whether the group bit is set; broadcast is such an address too.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it is [`Mac::BROADCAST`].
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }
}

impl Field for Mac {
    const LEN: usize = 6;
    #[inline(always)]
    fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self {
        Self(Field::get(bytes, at))
    }
    #[inline(always)]
    fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize) {
        self.0.put(bytes, at);
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not six pairs of hexadecimal digits with `:` or `-` between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacSyntax;

impl fmt::Display for MacSyntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MAC address is six pairs of hexadecimal digits, such as 02:00:5e:10:00:01")
    }
}

impl std::error::Error for MacSyntax {}

impl FromStr for Mac {
    type Err = MacSyntax;

    fn from_str(text: &str) -> Result<Self, MacSyntax> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut parts = text.split(separator);
        let mut octets = [0; 6];
        for octet in &mut octets {
            let part = parts.next().ok_or(MacSyntax)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(MacSyntax);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacSyntax)?;
        }
        if parts.next().is_some() { Err(MacSyntax) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_back_as_it_prints() {
        let mac = Mac([0x02, 0x00, 0x5e, 0x10, 0xab, 0xff]);
        assert_eq!(mac.to_string(), "02:00:5e:10:ab:ff");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert_eq!("02-00-5E-10-AB-FF".parse(), Ok(mac));
    }

    #[test]
    fn what_is_no_mac_is_refused() {
        for text in [
            "",
            "02:00:5e:10:ab",
            "02:00:5e:10:ab:ff:00",
            "2:0:5e:10:ab:ff",
            "+2:00:5e:10:ab:ff",
            "02:00-5e:10:ab:ff",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacSyntax), "{text}");
        }
    }

    #[test]
    fn kinds_of_mac() {
        assert!(
            Mac::BROADCAST.is_multicast() && Mac::BROADCAST.is_broadcast() && !Mac::BROADCAST.is_unicast()
        );
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!Mac([0; 6]).is_unicast() && !Mac([0; 6]).is_multicast());
        assert!(Mac([0x33, 0x33, 0, 0, 0, 1]).is_multicast());
    }

    #[test]
    fn header_fields_lie_where_the_wire_has_them() {
        let header = Header::new(Mac([1, 2, 3, 4, 5, 6]), Mac([7, 8, 9, 10, 11, 12]), IPV4);
        assert_eq!(header.0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0]);
        let read = Header::at(&header.0, 0).unwrap();
        assert_eq!(
            (read.destination(), read.source(), read.ethertype()),
            (Mac([1, 2, 3, 4, 5, 6]), header.source(), IPV4)
        );
        assert_eq!(Header::at(&header.0, 1), None);
        assert_eq!(Header::at(&header.0, usize::MAX), None);
    }
}
