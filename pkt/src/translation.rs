//! What NAT makes of a packet's ends, ready to be written.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::Delta;
use crate::ipv4;

/// An address and a port.
pub type End = (Ipv4Addr, u16);

/// What a TTL that is one less does to the header checksum; it is the high byte of its word.
pub const ONE_HOP: Delta = Delta::of_u16(0x0100, 0);

/// The addresses and ports of a packet when it leaves, as they lie in it, and what they do to its checksums. Where nothing
/// is translated, they are the packet's own: to write them costs less than to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Translation {
    /// Source and destination address.
    addresses: [u8; 8],
    /// Source and destination port.
    ports: [u8; 4],
    /// What the addresses, and a TTL that is one less, do to the IPv4 header checksum.
    pub header: Delta,
    /// What addresses and ports do to the transport checksum.
    pub transport: Delta,
}

impl Translation {
    /// Of no packet.
    pub const NONE: Self = Self { addresses: [0; 8], ports: [0; 4], header: ONE_HOP, transport: Delta::NONE };

    /// Of packets of an IP protocol that come with these ends, source and destination, to those that they leave with.
    /// An echo's identifier is its asker's port, and the other port is 0.
    pub fn new(protocol: u8, [src, dst]: [End; 2], [new_src, new_dst]: [End; 2]) -> Self {
        let addresses = Delta::of_u32(src.0.to_bits(), new_src.0.to_bits())
            + Delta::of_u32(dst.0.to_bits(), new_dst.0.to_bits());
        let ports = Delta::of_u16(src.1, new_src.1) + Delta::of_u16(dst.1, new_dst.1);
        let ([a, b, c, d], [e, f, g, h]) = (new_src.0.octets(), new_dst.0.octets());
        let ([i, j], [k, l]) = (new_src.1.to_be_bytes(), new_dst.1.to_be_bytes());
        Self {
            addresses: [a, b, c, d, e, f, g, h],
            ports: [i, j, k, l],
            header: ONE_HOP + addresses,
            // ICMP has no pseudo-header in its checksum.
            transport: if protocol == ipv4::ICMP { ports } else { addresses + ports },
        }
    }

    /// Of the answers to these packets, to the ends that they leave with.
    pub fn back(&self, [new_src, new_dst]: [End; 2]) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (new_src.0.octets(), new_dst.0.octets());
        let ([i, j], [k, l]) = (new_src.1.to_be_bytes(), new_dst.1.to_be_bytes());
        Self {
            addresses: [a, b, c, d, e, f, g, h],
            ports: [i, j, k, l],
            header: ONE_HOP + ONE_HOP + -self.header,
            transport: -self.transport,
        }
    }

    /// Of packets of IPv6, one of whose addresses becomes this one.
    pub const fn of_v6(address: Ipv6Addr) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
        Self {
            addresses: [a, b, c, d, e, f, g, h],
            ports: [i, j, k, l],
            header: Delta::from_bytes([m, n]),
            transport: Delta::from_bytes([o, p]),
        }
    }

    /// What [`of_v6`](Self::of_v6) was made of.
    pub const fn v6(&self) -> Ipv6Addr {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l]) = (self.addresses, self.ports);
        let ([m, n], [o, p]) = (self.header.to_bytes(), self.transport.to_bytes());
        Ipv6Addr::from_bits(u128::from_be_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]))
    }

    /// The source address; destination address and ports: as they lie in the packet, the first byte lowest.
    #[inline(always)]
    pub(crate) const fn words(&self) -> (u32, u64) {
        let [a, b, c, d, e, f, g, h] = self.addresses;
        let [i, j, k, l] = self.ports;
        (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes([e, f, g, h, i, j, k, l]))
    }

    /// New source address.
    #[inline]
    pub const fn source(&self) -> Ipv4Addr {
        let [a, b, c, d, ..] = self.addresses;
        Ipv4Addr::new(a, b, c, d)
    }

    /// New destination address.
    #[inline]
    pub const fn destination(&self) -> Ipv4Addr {
        let [.., a, b, c, d] = self.addresses;
        Ipv4Addr::new(a, b, c, d)
    }

    /// New source port; an echo's identifier if it is the asker's.
    #[inline]
    pub const fn source_port(&self) -> u16 {
        let [a, b, ..] = self.ports;
        u16::from_be_bytes([a, b])
    }

    /// New destination port; an echo reply's identifier.
    #[inline]
    pub const fn destination_port(&self) -> u16 {
        let [.., a, b] = self.ports;
        u16::from_be_bytes([a, b])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    #[test]
    fn reads_what_it_was_made_of() {
        let old = [(Ipv4Addr::new(10, 0, 0, 1), 1), (Ipv4Addr::new(10, 0, 0, 2), 2)];
        let ends = [(Ipv4Addr::new(192, 0, 2, 1), 0x1234), (Ipv4Addr::new(198, 51, 100, 2), 0xabcd)];
        let new = Translation::new(ipv4::UDP, old, ends);
        assert_eq!([(new.source(), new.source_port()), (new.destination(), new.destination_port())], ends);
        assert_eq!(size_of::<Translation>(), 16);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..Default::default() })]

        #[test]
        fn the_way_back_is_a_translation_of_its_own(
            old in any::<[(u32, u16); 2]>(),
            new in any::<[(u32, u16); 2]>(),
            kept in any::<[bool; 2]>(),
            protocol in prop_oneof![Just(ipv4::UDP), Just(ipv4::TCP), Just(ipv4::ICMP)],
        ) {
            let [old, new] = [old, new].map(|ends| ends.map(|(address, port)| (Ipv4Addr::from_bits(address), port)));
            let new = [0, 1].map(|end| if kept[end] { old[end] } else { new[end] });
            let swapped = |[src, dst]: [End; 2]| [dst, src];
            let back = Translation::new(protocol, old, new).back(swapped(old));
            prop_assert_eq!(back, Translation::new(protocol, swapped(new), swapped(old)));
        }
    }

    #[test]
    fn an_ipv6_address_fits() {
        for bits in [0, 1, u128::MAX, 0x2001_0db8_0102_0304_0506_0708_090a_0b0c] {
            assert_eq!(Translation::of_v6(Ipv6Addr::from_bits(bits)).v6().to_bits(), bits);
        }
    }

    #[test]
    fn nothing_new_changes_the_ttl_alone() {
        let ends = [(Ipv4Addr::new(192, 0, 2, 1), 0x1234), (Ipv4Addr::new(198, 51, 100, 2), 0xabcd)];
        let new = Translation::new(ipv4::TCP, ends, ends);
        assert_eq!((new.header, new.transport), (ONE_HOP, Delta::NONE));
    }
}
