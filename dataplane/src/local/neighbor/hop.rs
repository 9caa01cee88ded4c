//! A next hop, ready to be written in front of a packet.

use std::net::IpAddr;

use sluice_pkt::ethernet::{self, Mac};
use sluice_pkt::vlan;

use crate::snapshot::Interface;
use crate::table::key::hash_words;

/// A neighbour as the transmit path needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct NextHop {
    /// Destination MAC, source MAC, VLAN tags and EtherType, as they go on the wire.
    pub header: [u8; 22],
    /// Whether the destination MAC is known; if not, packets must wait.
    pub resolved: bool,
    /// The way out.
    pub egress: Egress,
}

/// The link that a packet leaves by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Egress {
    /// Port.
    pub port: u16,
    /// Interface.
    pub interface: u16,
    /// The interface's MTU in bytes.
    pub mtu: u16,
    /// Bytes of the link header: 14, 18 or 22.
    pub header_len: u16,
}

/// What any index without a neighbour stands for.
pub(super) static NOWHERE: NextHop = NextHop {
    header: [0; 22],
    resolved: false,
    egress: Egress { port: 0, interface: 0, mtu: 0, header_len: 14 },
};

impl NextHop {
    pub(super) fn new(link: &Interface, interface: u16, address: IpAddr, mac: Mac) -> Self {
        let mut hop =
            Self { egress: Egress { port: link.port, interface, mtu: link.mtu, header_len: 14 }, ..NOWHERE };
        let ethertype = if address.is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 };
        let tags = link.tags.ids.get(..link.tags.count.into()).unwrap_or_default();
        if let Some(len) = vlan::emit(&mut hop.header, mac, link.mac, tags, ethertype) {
            hop.egress.header_len = len as u16;
        }
        hop
    }

    pub(super) fn set_mac(&mut self, mac: Mac) {
        if let Some(mut header) = ethernet::Header::at_mut(&mut self.header, 0) {
            header.set_destination(mac);
        }
    }
}

/// A locally administered unicast MAC address that is a function of the IP address alone: `02:00` and the four bytes of an
/// IPv4 address; `06` and 40 bits of a hash of an IPv6 address.
pub fn invented_mac(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            Mac([2, 0, a, b, c, d])
        }
        IpAddr::V6(v6) => {
            let hash = hash_words(&[(v6.to_bits() >> 64) as u64, v6.to_bits() as u64], 0);
            let [a, b, c, d, e, ..] = hash.to_be_bytes();
            Mac([6, a, b, c, d, e])
        }
    }
}
