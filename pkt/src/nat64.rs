//! IPv4 addresses in IPv6 ones (RFC 6052), and what translation between the families makes of ICMP errors (RFC 7915).

use crate::{icmpv4, icmpv6};

/// The well-known prefix, 64:ff9b::/96 (RFC 6052 2.1).
pub const WELL_KNOWN: u128 = 0x0064_ff9b << 96;

/// A prefix of IPv6 addresses that stand for IPv4 ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Embedding {
    prefix: u128,
    length: u8,
}

impl Embedding {
    /// Of a prefix of 32, 40, 48, 56, 64 or 96 bits whose bits 64 to 71 are zero (RFC 6052 2.2); `None` for others. Bits
    /// behind it are not looked at.
    pub fn new(prefix: u128, length: u8) -> Option<Self> {
        let is_one = matches!(length, 32 | 40 | 48 | 56 | 64 | 96);
        let prefix = if is_one { prefix & (u128::MAX << (128 - u32::from(length))) } else { 0 };
        (is_one && prefix & RESERVED == 0).then_some(Self { prefix, length })
    }

    /// Whether it is the well-known prefix, which stands for addresses of the Internet alone.
    pub fn is_well_known(&self) -> bool {
        *self == Self { prefix: WELL_KNOWN, length: 96 }
    }

    /// Whether an address has the prefix.
    pub fn covers(&self, address: u128) -> bool {
        (address ^ self.prefix) >> (128 - u32::from(self.length)) == 0
    }

    /// Whether an IPv4 address may be written by it: every one, but for the well-known prefix those that are not global
    /// (RFC 6052 3.1).
    pub fn may_hold(&self, address: u32) -> bool {
        !self.is_well_known() || is_global(address)
    }

    /// The IPv6 address of an IPv4 one. Bits 64 to 71 stay zero, and so do those behind it.
    pub fn embed(&self, address: u32) -> u128 {
        let address = u128::from(address);
        if self.length == 96 {
            return self.prefix | address;
        }
        let wide = address << (96 - u32::from(self.length));
        let (before, behind) = (wide & !LOW, wide & LOW);
        self.prefix | before | behind >> 8
    }

    /// The IPv4 address that an IPv6 one stands for; `None` without the prefix, or if bits 64 to 71 are not zero.
    pub fn extract(&self, address: u128) -> Option<u32> {
        if !self.covers(address) || address & RESERVED != 0 {
            return None;
        }
        if self.length == 96 {
            return Some(address as u32);
        }
        let wide = address & !LOW | (address & LOW) << 8;
        Some((wide >> (96 - u32::from(self.length))) as u32)
    }
}

/// Bits 64 to 71.
const RESERVED: u128 = 0xff << 56;
/// Bits 64 and behind.
const LOW: u128 = u64::MAX as u128;

/// Whether an IPv4 address is of the Internet: none of those that RFC 6890 sets apart.
pub fn is_global(address: u32) -> bool {
    const APART: [(u32, u32); 15] = [
        (0x0000_0000, 8),
        (0x0a00_0000, 8),
        (0x6440_0000, 10),
        (0x7f00_0000, 8),
        (0xa9fe_0000, 16),
        (0xac10_0000, 12),
        (0xc000_0000, 24),
        (0xc000_0200, 24),
        (0xc058_6300, 24),
        (0xc0a8_0000, 16),
        (0xc612_0000, 15),
        (0xc633_6400, 24),
        (0xcb00_7100, 24),
        (0xe000_0000, 4),
        (0xf000_0000, 4),
    ];
    !APART.iter().any(|&(prefix, length)| (address ^ prefix) >> (32 - length) == 0)
}

/// An ICMP error's type, code and the word behind its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// MTU, pointer, or nothing.
    pub rest: u32,
}

/// MTUs of the links between, by which that of an error is bounded.
#[derive(Clone, Copy, Debug)]
pub struct Mtus {
    /// Of the link by which IPv4 packets leave.
    pub v4: u16,
    /// Of the link by which IPv6 packets leave.
    pub v6: u16,
}

/// What an IPv4 header is shorter than an IPv6 one.
const DIFFERENCE: u32 = 20;

/// The ICMPv6 error that says what an ICMP one does; `total_len` is that of the packet quoted. `None` for what has no
/// counterpart, which is dropped (RFC 7915 4.2).
pub fn icmp_to_icmpv6(error: IcmpError, total_len: u16, mtus: Mtus) -> Option<IcmpError> {
    let of = |kind, code, rest| Some(IcmpError { kind, code, rest });
    match (error.kind, error.code) {
        (icmpv4::UNREACHABLE, code) => match code {
            0 | 1 | 5..=8 | 11 | 12 => of(icmpv6::UNREACHABLE, icmpv6::NO_ROUTE, 0),
            9 | 10 | 13 | 15 => of(icmpv6::UNREACHABLE, icmpv6::ADMIN_PROHIBITED, 0),
            icmpv4::PROTOCOL_UNREACHABLE => of(icmpv6::PARAMETER_PROBLEM, 1, 6),
            icmpv4::PORT_UNREACHABLE => of(icmpv6::UNREACHABLE, icmpv6::PORT_UNREACHABLE, 0),
            icmpv4::FRAGMENTATION_NEEDED => {
                let told = match error.rest & 0xffff {
                    0 => plateau(total_len),
                    told => told,
                };
                let mtu = (told + DIFFERENCE).min(mtus.v6.into()).min(u32::from(mtus.v4) + DIFFERENCE);
                of(icmpv6::PACKET_TOO_BIG, 0, mtu.max(crate::ipv6::MIN_MTU.into()))
            }
            _ => None,
        },
        (icmpv4::TIME_EXCEEDED, code @ 0..=1) => of(icmpv6::TIME_EXCEEDED, code, 0),
        (icmpv4::PARAMETER_PROBLEM, 0 | 2) => {
            let pointer = match error.rest >> 24 {
                at @ 0..=1 => at,
                2 | 3 => 4,
                8 => 7,
                9 => 6,
                12..=15 => 8,
                16..=19 => 24,
                _ => return None,
            };
            of(icmpv6::PARAMETER_PROBLEM, 0, pointer)
        }
        _ => None,
    }
}

/// The ICMP error that says what an ICMPv6 one does (RFC 7915 5.2).
pub fn icmpv6_to_icmp(error: IcmpError, mtus: Mtus) -> Option<IcmpError> {
    let of = |kind, code, rest| Some(IcmpError { kind, code, rest });
    match (error.kind, error.code) {
        (icmpv6::UNREACHABLE, icmpv6::NO_ROUTE | icmpv6::BEYOND_SCOPE | icmpv6::ADDRESS_UNREACHABLE) => {
            of(icmpv4::UNREACHABLE, icmpv4::HOST_UNREACHABLE, 0)
        }
        (icmpv6::UNREACHABLE, icmpv6::ADMIN_PROHIBITED) => of(icmpv4::UNREACHABLE, 10, 0),
        (icmpv6::UNREACHABLE, icmpv6::PORT_UNREACHABLE) => {
            of(icmpv4::UNREACHABLE, icmpv4::PORT_UNREACHABLE, 0)
        }
        (icmpv6::PACKET_TOO_BIG, 0) => {
            let mtu = error.rest.min(mtus.v6.into()).saturating_sub(DIFFERENCE).min(mtus.v4.into());
            of(icmpv4::UNREACHABLE, icmpv4::FRAGMENTATION_NEEDED, mtu)
        }
        (icmpv6::TIME_EXCEEDED, code @ 0..=1) => of(icmpv4::TIME_EXCEEDED, code, 0),
        (icmpv6::PARAMETER_PROBLEM, 0) => {
            let pointer = match error.rest {
                at @ 0..=1 => at,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                24..=39 => 16,
                _ => return None,
            };
            of(icmpv4::PARAMETER_PROBLEM, 0, pointer << 24)
        }
        (icmpv6::PARAMETER_PROBLEM, 1) => of(icmpv4::UNREACHABLE, icmpv4::PROTOCOL_UNREACHABLE, 0),
        _ => None,
    }
}

/// The MTU that a router which tells none most likely has: the next plateau below the packet (RFC 1191 7.1).
fn plateau(total_len: u16) -> u32 {
    const PLATEAUS: [u16; 10] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
    PLATEAUS.into_iter().find(|&plateau| plateau < total_len).unwrap_or(68).into()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use proptest::prelude::*;

    fn embedding(text: &str, length: u8) -> Embedding {
        Embedding::new(text.parse::<Ipv6Addr>().unwrap().to_bits(), length).unwrap()
    }

    /// proves: RFC 6052 2.2
    /// proves: RFC 6052 2.4
    #[test]
    fn the_table_of_rfc_6052() {
        let address = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, length, expected) in [
            ("2001:db8::", 32, "2001:db8:c000:221::"),
            ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
            ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::", 96, "64:ff9b::192.0.2.33"),
        ] {
            let (embedding, expected) = (embedding(prefix, length), expected.parse::<Ipv6Addr>().unwrap());
            assert_eq!(Ipv6Addr::from_bits(embedding.embed(address.to_bits())), expected, "/{length}");
            assert_eq!(embedding.extract(expected.to_bits()), Some(address.to_bits()), "/{length}");
        }
    }

    /// proves: RFC 6052 3.1
    #[test]
    fn the_well_known_prefix_holds_global_addresses_alone() {
        let (well_known, own) = (embedding("64:ff9b::", 96), embedding("2001:db8::", 96));
        for (address, global) in [
            ([10, 0, 0, 1], false),
            ([192, 168, 7, 7], false),
            ([100, 64, 0, 1], false),
            ([8, 8, 8, 8], true),
        ] {
            let address = Ipv4Addr::from(address).to_bits();
            assert_eq!((well_known.may_hold(address), own.may_hold(address)), (global, true));
        }
    }

    #[test]
    fn prefixes_are_of_six_lengths_and_leave_the_ninth_byte_free() {
        let lengths: Vec<u8> = (0..=128).filter(|&length| Embedding::new(0, length).is_some()).collect();
        assert_eq!(lengths, [32, 40, 48, 56, 64, 96]);
        assert!(Embedding::new(1 << 60, 96).is_none() && Embedding::new(1 << 60, 64).is_some());
        assert_eq!(embedding("2001:db8::", 32).extract(0x2001_0db8 << 96 | 1 << 60), None);
    }

    const MTUS: Mtus = Mtus { v4: 1500, v6: 1500 };

    fn to6(kind: u8, code: u8, rest: u32) -> Option<(u8, u8, u32)> {
        let error = icmp_to_icmpv6(IcmpError { kind, code, rest }, 1500, MTUS)?;
        Some((error.kind, error.code, error.rest))
    }

    fn to4(kind: u8, code: u8, rest: u32) -> Option<(u8, u8, u32)> {
        let error = icmpv6_to_icmp(IcmpError { kind, code, rest }, MTUS)?;
        Some((error.kind, error.code, error.rest))
    }

    /// proves: RFC 7915 4.2
    #[test]
    fn the_table_of_icmp_errors() {
        let unreachable = [
            Some(0),
            Some(0),
            None,
            Some(4),
            None,
            Some(0),
            Some(0),
            Some(0),
            Some(0),
            Some(1),
            Some(1),
            Some(0),
            Some(0),
            Some(1),
            None,
            Some(1),
            None,
        ];
        for (code, expected) in (0..).zip(unreachable) {
            if ![2, 4].contains(&code) {
                assert_eq!(to6(3, code, 0), expected.map(|code| (1, code, 0)), "code {code}");
            }
        }
        assert_eq!(to6(3, 2, 0), Some((4, 1, 6)));
        assert_eq!([to6(11, 0, 0), to6(11, 1, 0)], [Some((3, 0, 0)), Some((3, 1, 0))]);
        assert_eq!([to6(4, 0, 0), to6(5, 1, 0), to6(12, 1, 0)], [None; 3]);
        let pointers = [
            Some(0),
            Some(1),
            Some(4),
            Some(4),
            None,
            None,
            None,
            None,
            Some(7),
            Some(6),
            None,
            None,
            Some(8),
            Some(8),
            Some(8),
            Some(8),
            Some(24),
            Some(24),
            Some(24),
            Some(24),
            None,
        ];
        for (at, expected) in (0u32..).zip(pointers) {
            assert_eq!(to6(12, 0, at << 24), expected.map(|at| (4, 0, at)), "pointer {at}");
        }
    }

    /// proves: RFC 7915 5.2
    #[test]
    fn the_table_of_icmpv6_errors() {
        let unreachable = [Some(1), Some(10), Some(1), Some(1), Some(3), None, None];
        for (code, expected) in (0..).zip(unreachable) {
            assert_eq!(to4(1, code, 0), expected.map(|code| (3, code, 0)), "code {code}");
        }
        assert_eq!([to4(3, 0, 0), to4(3, 1, 0)], [Some((11, 0, 0)), Some((11, 1, 0))]);
        assert_eq!([to4(4, 1, 0), to4(4, 2, 0), to4(128, 0, 0)], [Some((3, 2, 0)), None, None]);
        for (at, expected) in [(0, Some(0)), (1, Some(1)), (2, None), (3, None), (4, Some(2)), (5, Some(2))]
            .into_iter()
            .chain([
                (6, Some(9)),
                (7, Some(8)),
                (8, Some(12)),
                (23, Some(12)),
                (24, Some(16)),
                (39, Some(16)),
            ])
            .chain([(40, None)])
        {
            assert_eq!(to4(4, 0, at), expected.map(|at: u32| (12, 0, at << 24)), "pointer {at}");
        }
    }

    /// proves: RFC 7915 4.2
    /// proves: RFC 7915 5.2
    #[test]
    fn mtus_are_those_of_the_other_family_and_of_the_links() {
        assert_eq!(to6(3, 4, 1400), Some((2, 0, 1420)));
        assert_eq!(to6(3, 4, 1499), Some((2, 0, 1500)), "the IPv6 link's own");
        assert_eq!(to6(3, 4, 576), Some((2, 0, 1280)), "no IPv6 host goes below");
        assert_eq!(to6(3, 4, 0), Some((2, 0, 1500)), "of 1500 bytes: 1492 most likely");
        assert_eq!(to4(2, 0, 1300), Some((3, 4, 1280)));
        assert_eq!(to4(2, 0, 9000), Some((3, 4, 1480)));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: proptest::test_runner::RngSeed::Fixed(1),
            failure_persistence: None,
            ..Default::default()
        })]

        #[test]
        fn an_address_comes_back(prefix: u128, address: u32, length in prop::sample::select(vec![32u8, 40, 48, 56, 64, 96])) {
            let embedding = Embedding::new(prefix & !RESERVED, length).unwrap();
            let embedded = embedding.embed(address);
            prop_assert_eq!(embedding.extract(embedded), Some(address));
            prop_assert!(embedding.covers(embedded) && embedded & RESERVED == 0);
        }
    }
}
