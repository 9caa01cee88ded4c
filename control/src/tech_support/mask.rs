//! Addresses in a text replaced by others, so that the text can be given away: the same address by the same one in one
//! file, and addresses of one prefix by addresses of one prefix (Xu, Fan, Ammar, Moon: Prefix-Preserving IP Address
//! Anonymization, ICNP 2002), with SipHash under a random key as the function.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Leading bits of an IPv4 address that say little of who it is.
const KEPT4: u32 = 8;
/// The same of IPv6: 2001::/16 is nobody's alone.
const KEPT6: u32 = 16;
/// Of a MAC address the vendor's part stays, as drivers and bugs go by vendors.
const KEPT_MAC: usize = 3;

/// Replaces addresses. Each mask has a key of its own, which nobody else knows.
pub(super) struct Mask<S = RandomState>(S);

impl Mask {
    /// With a random key.
    pub(super) fn new() -> Self {
        Self(RandomState::new())
    }
}

impl<S: BuildHasher> Mask<S> {
    /// The text with all IPv4, IPv6 and MAC addresses replaced. Loopback, multicast, link-local prefixes, unspecified
    /// addresses and netmasks stay, and so does whether an IPv4 address is a private one (RFC 1918).
    pub(super) fn text(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_part) {
            let (before, from) = rest.split_at(start);
            let (token, after) = from.split_at(from.find(|c| !is_part(c)).unwrap_or(from.len()));
            masked.push_str(before);
            // A word that ends in letters of the hexadecimal kind, such as `dead`, is none of ours.
            let is_in_word = before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
                || after.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_');
            match self.token(token).filter(|_| !is_in_word) {
                Some(other) => masked.push_str(&other),
                None => masked.push_str(token),
            }
            rest = after;
        }
        masked + rest
    }

    /// What an address, with or without a port or the full stop of a sentence, becomes.
    fn token(&self, token: &str) -> Option<String> {
        let bare = token.trim_end_matches(['.', ':']);
        let bare = if token.ends_with("::") { token } else { bare };
        let tail = &token[bare.len()..];
        let whole =
            self.mac(bare).or_else(|| bare.parse().ok().map(|address| self.address(address).to_string()));
        let other = whole.or_else(|| {
            let (address, port) = bare.rsplit_once(':')?;
            let address: Ipv4Addr = address.parse().ok()?;
            Some(format!("{}:{port}", self.v4(address)))
        });
        other.map(|other| other + tail)
    }

    fn address(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(address) => self.v4(address).into(),
            IpAddr::V6(address) => self.v6(address).into(),
        }
    }

    fn v4(&self, address: Ipv4Addr) -> Ipv4Addr {
        let bits = address.to_bits();
        let is_netmask = bits.leading_ones() + bits.trailing_zeros() >= 32;
        let stays =
            is_netmask || address.is_loopback() || address.is_link_local() || address.octets()[0] == 0;
        if stays || address.octets()[0] >= 224 {
            return address;
        }
        let kept = match address.octets() {
            [172, 16..=31, ..] => 12,
            [192, 168, ..] => 16,
            _ => KEPT4,
        };
        Ipv4Addr::from_bits((self.bits(u128::from(bits) << 96, kept, 32) >> 96) as u32)
    }

    fn v6(&self, address: Ipv6Addr) -> Ipv6Addr {
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return address;
        }
        if let Some(v4) = address.to_ipv4_mapped() {
            return self.v4(v4).to_ipv6_mapped();
        }
        let kept = if address.is_unicast_link_local() { 64 } else { KEPT6 };
        Ipv6Addr::from_bits(self.bits(address.to_bits(), kept, 128))
    }

    /// Each bit from `kept` on is turned over or not, as a function of those before it. A tail of zeros, as a prefix has,
    /// stays one.
    fn bits(&self, bits: u128, kept: u32, length: u32) -> u128 {
        let end = (128 - bits.trailing_zeros()).min(length);
        (kept..end).fold(bits, |masked, index| {
            let before = if index == 0 { 0 } else { bits >> (128 - index) };
            let turn = u128::from(self.0.hash_one((length, index, before)) & 1);
            masked ^ (turn << (127 - index))
        })
    }

    fn mac(&self, token: &str) -> Option<String> {
        let parts: Vec<&str> = token.split(':').collect();
        let is_byte = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
        if parts.len() != 6 || !parts.iter().all(is_byte) {
            return None;
        }
        if parts.iter().all(|part| *part == "00") || parts.iter().all(|part| part.eq_ignore_ascii_case("ff"))
        {
            return None;
        }
        let [a, b, c, ..] = self.0.hash_one(&parts).to_le_bytes();
        Some(format!("{}:{a:02x}:{b:02x}:{c:02x}", parts[..KEPT_MAC].join(":")))
    }
}

/// Whether a character may be part of an address.
fn is_part(c: char) -> bool {
    c.is_ascii_hexdigit() || matches!(c, ':' | '.')
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use super::*;

    type Fixed = Mask<BuildHasherDefault<DefaultHasher>>;

    fn mask() -> Fixed {
        Mask(BuildHasherDefault::default())
    }

    #[test]
    fn addresses_go_and_the_words_around_them_stay() {
        let text = "lan 198.51.100.7:443 > [2001:db8::7]:53, from 198.51.100.0/24 by 52:54:00:12:34:56.";
        let masked = mask().text(text);
        for gone in ["198.51.100.7", "2001:db8::7", "198.51.100.0", "12:34:56"] {
            assert!(!masked.contains(gone), "{masked}");
        }
        assert!(masked.starts_with("lan 198."), "{masked}");
        for stays in [":443 > [2001:", "]:53, from 198.", "/24 by 52:54:00:"] {
            assert!(masked.contains(stays), "{masked}");
        }
        assert!(masked.ends_with('.'));
        assert_eq!(masked, mask().text(text), "the same for the same key");
    }

    #[test]
    fn what_names_nobody_stays() {
        let text = "127.0.0.1 ::1 :: 0.0.0.0/0 255.255.255.0 224.0.0.18 ff02::1 169.254.1.1 ff:ff:ff:ff:ff:ff at 12:30:45, \
                    1.85 dead:beef cafe.toml 3.5. version 0.1.0: face2 bad; generation 12";
        assert_eq!(mask().text(text), text);
    }

    #[test]
    fn prefixes_are_preserved() {
        let mask = mask();
        let addresses =
            [0xc633_6407_u32, 0xc633_6408, 0xc633_6507, 0xc634_0001, 0xc0a8_0101, 0xc0a8_0102, 0x0a01_0203];
        for a in addresses {
            for b in addresses {
                let of = |bits: u32| mask.v4(Ipv4Addr::from_bits(bits));
                let common = (a ^ b).leading_zeros();
                let masked = (of(a).to_bits() ^ of(b).to_bits()).leading_zeros();
                assert_eq!(common, masked, "{} {}", of(a), of(b));
            }
        }
        for private in ["10.1.2.3", "172.20.1.2", "192.168.7.8"] {
            let masked = mask.v4(private.parse().unwrap());
            assert!(masked.is_private(), "{masked}");
            assert_ne!(masked.to_string(), private);
        }
        let [a, b] = ["2001:db8:1:2::3", "2001:db8:1:2::4"].map(|text| mask.v6(text.parse().unwrap()));
        assert_eq!(a.segments()[..4], b.segments()[..4]);
        assert_ne!(a, b);
        assert!(mask.v6("fe80::1234".parse().unwrap()).is_unicast_link_local());
        assert_eq!(mask.v4(Ipv4Addr::new(198, 51, 100, 0)).octets()[3], 0, "a prefix stays one");
    }
}
