//! NPTv6 (RFC 6296): one IPv6 prefix in the place of another, and no checksum changes.
//!
//! What the prefix does to the sum of an address's words is taken back at one of its other words. So TCP, UDP and ICMPv6,
//! whose checksums cover the addresses, stay as they are, and so does every protocol that the translator does not know.

/// A prefix inside and the one that stands for it outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixPair {
    inside: u128,
    outside: u128,
    length: u8,
    /// What is added to a word on the way out, in one's complement; on the way in it is taken off.
    adjustment: u16,
}

/// The longest prefix: behind it lies one word that can be adjusted.
pub const LONGEST: u8 = 112;

/// Bits of the shortest prefix that leaves no word of the subnet's to adjust.
const SUBNET_END: u8 = 48;

impl PrefixPair {
    /// Of two prefixes with their lengths; the shorter is extended with zeros (RFC 6296 3.1). `None` if one is longer than
    /// [`LONGEST`]. Bits behind a prefix are not looked at.
    pub fn new((inside, inside_length): (u128, u8), (outside, outside_length): (u128, u8)) -> Option<Self> {
        let length = inside_length.max(outside_length);
        if length > LONGEST {
            return None;
        }
        let (inside, outside) = (inside & mask(inside_length), outside & mask(outside_length));
        let adjustment = add(sum(inside), !sum(outside));
        Some(Self { inside, outside, length, adjustment })
    }

    /// Bits of both prefixes.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address has the inside prefix.
    #[inline]
    pub fn is_inside(&self, address: u128) -> bool {
        (address ^ self.inside) & mask(self.length) == 0
    }

    /// Whether an address has the outside prefix.
    #[inline]
    pub fn is_outside(&self, address: u128) -> bool {
        (address ^ self.outside) & mask(self.length) == 0
    }

    /// The outside address of an inside one (RFC 6296 3.2). `None` if it is not inside, or is one of the few that have no
    /// counterpart: those whose word to adjust would have to be all ones, which is another way to write zero.
    pub fn outward(&self, address: u128) -> Option<u128> {
        self.is_inside(address).then(|| self.map(address, self.outside, self.adjustment)).flatten()
    }

    /// The inside address of an outside one (RFC 6296 3.3); `None` likewise.
    pub fn inward(&self, address: u128) -> Option<u128> {
        self.is_outside(address).then(|| self.map(address, self.inside, !self.adjustment)).flatten()
    }

    /// The subnet is adjusted where the prefixes leave one (RFC 6296 3.4); otherwise the first word of the interface
    /// identifier that is not all ones (3.5), of those that lie behind the prefixes.
    fn map(&self, address: u128, prefix: u128, adjustment: u16) -> Option<u128> {
        let address = prefix | address & !mask(self.length);
        let words =
            if self.length <= SUBNET_END { 3..4 } else { u32::from(self.length.div_ceil(16)).max(4)..8 };
        for shift in words.map(|word| 112 - 16 * word) {
            let word = (address >> shift) as u16;
            if word != u16::MAX {
                let adjusted = match add(word, adjustment) {
                    u16::MAX => 0,
                    other => other,
                };
                return Some(address & !(0xffff << shift) | u128::from(adjusted) << shift);
            }
        }
        None
    }
}

const fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - length as u32) }
}

/// One's complement sum of an address's words.
fn sum(address: u128) -> u16 {
    (0..8).fold(0, |sum, word| add(sum, (address >> (16 * word)) as u16))
}

const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::checksum::Sum;
    use proptest::prelude::*;

    fn bits(text: &str) -> u128 {
        text.parse::<Ipv6Addr>().unwrap().to_bits()
    }

    fn pair(inside: (&str, u8), outside: (&str, u8)) -> PrefixPair {
        PrefixPair::new((bits(inside.0), inside.1), (bits(outside.0), outside.1)).unwrap()
    }

    /// The example of RFC 6296's section 3.6.
    ///
    /// proves: RFC 6296 3.4
    #[test]
    fn the_example_of_the_rfc() {
        let pair = pair(("fd01:203:405::", 48), ("2001:db8:1::", 48));
        let (inside, outside) = (bits("fd01:203:405:1::1234"), bits("2001:db8:1:d550::1234"));
        assert_eq!(pair.outward(inside), Some(outside));
        assert_eq!(pair.inward(outside), Some(inside));
    }

    /// proves: RFC 6296 3.5
    #[test]
    fn the_first_word_of_the_identifier_that_can_be_adjusted_is() {
        let pair = pair(("fd01:203:405:1::", 64), ("2001:db8:1:2::", 64));
        let changed = |text: &str| -> Option<Vec<usize>> {
            let old: Ipv6Addr = text.parse().unwrap();
            let new = Ipv6Addr::from_bits(pair.outward(old.to_bits())?);
            Some((4..8).filter(|&i| old.segments()[i] != new.segments()[i]).collect())
        };
        assert_eq!(changed("fd01:203:405:1::9"), Some(vec![4]));
        assert_eq!(changed("fd01:203:405:1:ffff:1:2:3"), Some(vec![5]));
        assert_eq!(changed("fd01:203:405:1:ffff:ffff:ffff:3"), Some(vec![7]));
        assert_eq!(changed("fd01:203:405:1:ffff:ffff:ffff:ffff"), None);
    }

    /// proves: RFC 6296 3.5
    #[test]
    fn of_a_prefix_longer_than_64_bits_no_bit_is_adjusted() {
        let inside = (bits("fd01:203:405:1::"), 72);
        let pair = PrefixPair::new(inside, (bits("2001:db8:1:2:f00::"), 72)).unwrap();
        let host = bits("fd01:203:405:1:77:5:6:7");
        let outside = pair.outward(host).unwrap();
        assert_eq!(Ipv6Addr::from_bits(outside).segments()[..5], [0x2001, 0xdb8, 1, 2, 0xf77]);
        assert_eq!(Ipv6Addr::from_bits(outside).segments()[6..], [6, 7]);
        assert_eq!(pair.inward(outside), Some(host));
        let last = PrefixPair::new((bits("fd01::"), 112), (bits("2001:db8::"), 112)).unwrap();
        assert_eq!(last.outward(bits("fd01::ffff")), None);
        assert!(last.outward(bits("fd01::fffe")).is_some());
    }

    /// proves: RFC 6296 3.4
    #[test]
    fn a_subnet_of_all_ones_has_no_counterpart() {
        let pair = pair(("fd01:203:405::", 48), ("2001:db8:1::", 48));
        assert_eq!(pair.outward(bits("fd01:203:405:ffff::1")), None);
        assert_eq!(pair.inward(bits("2001:db8:1:ffff::1")), None);
        // What would become all ones becomes zero, which is the same number.
        let inside = (0..=u16::MAX - 1).map(|subnet| bits("fd01:203:405::1") | u128::from(subnet) << 64);
        let zero = inside.filter(|&address| pair.outward(address) == Some(bits("2001:db8:1::1")));
        assert_eq!(zero.count(), 1);
    }

    /// proves: RFC 6296 3.1
    #[test]
    fn the_shorter_prefix_is_extended_with_zeros() {
        let pair = pair(("fd01:203:405::", 48), ("2001:db8:1:ab00::", 56));
        assert_eq!(pair.length(), 56);
        assert!(pair.is_inside(bits("fd01:203:405:ff::1")) && !pair.is_inside(bits("fd01:203:405:100::1")));
        assert!(PrefixPair::new((0, 48), (0, 113)).is_none());
    }

    #[test]
    fn equal_prefixes_change_nothing() {
        let pair = pair(("2001:db8::", 32), ("2001:db8::", 32));
        let address = bits("2001:db8:7:8::9");
        assert_eq!((pair.outward(address), pair.inward(address)), (Some(address), Some(address)));
    }

    fn addresses() -> impl Strategy<Value = u128> {
        // Words of all ones and of none are where the arithmetic is special.
        let word = prop_oneof![Just(0u16), Just(u16::MAX), Just(1), Just(0xfffe), any::<u16>()];
        proptest::array::uniform8(word).prop_map(|words| Ipv6Addr::from(words).to_bits())
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: proptest::test_runner::RngSeed::Fixed(1),
            failure_persistence: None,
            cases: 4000,
            ..Default::default()
        })]

        /// proves: RFC 6296 2.6
        #[test]
        fn there_and_back_and_no_checksum_changes(
            (inside, outside) in (addresses(), addresses()),
            (first, second) in (0u8..=112, 0u8..=112),
            behind in addresses(),
        ) {
            let pair = PrefixPair::new((inside, first), (outside, second)).unwrap();
            let address = inside & mask(first) | behind & !mask(pair.length());
            match pair.outward(address) {
                Some(translated) => {
                    prop_assert!(pair.is_outside(translated));
                    prop_assert_eq!(pair.inward(translated), Some(address));
                    // Sums over data that are not all zero, as a packet's never are.
                    let sum = |address: u128| Sum::of(&address.to_be_bytes()).add_u16(1).fold() % u16::MAX;
                    prop_assert_eq!(sum(address), sum(translated));
                }
                None => {
                    let words = Ipv6Addr::from_bits(address).segments();
                    let stuck = match pair.length() {
                        ..=48 => &words[3..4],
                        longer => &words[usize::from(longer.div_ceil(16)).max(4)..],
                    };
                    prop_assert!(stuck.iter().all(|&word| word == u16::MAX));
                }
            }
        }
    }
}
