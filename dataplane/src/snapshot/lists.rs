//! Lists of prefixes that are blocked, or allowed whatever other lists say.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::guard::{Guard, covers4, covers6};
use crate::table::lpm::{Lpm, LpmError, Reader};

/// The most lists: each is a bit of what a look-up gives.
pub const MOST_LISTS: usize = 30;

/// A set of lists, a bit each in their order.
pub type ListMask = u32;

/// All lists of a configuration. What was read from files and what was added while it runs are apart, so that neither is made
/// anew for the other. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// Their names, in order.
    pub names: Vec<String>,
    /// What is in the configuration and its files.
    pub fixed: Arc<PrefixSets>,
    /// What was added while it runs.
    pub added: Arc<PrefixSets>,
}

impl Lists {
    /// Which lists hold an address.
    #[inline]
    pub fn of(&self, address: IpAddr) -> ListMask {
        self.fixed.of(address) | self.added.of(address)
    }

    /// Which lists hold each of these addresses of IPv4, up to 64.
    pub fn of_burst4(&self, addresses: &[[u8; 4]], masks: &mut [ListMask]) {
        both(&self.fixed.v4, &self.added.v4, addresses, masks);
    }

    /// As [`of_burst4`](Self::of_burst4), of IPv6.
    pub fn of_burst6(&self, addresses: &[[u8; 16]], masks: &mut [ListMask]) {
        both(&self.fixed.v6, &self.added.v6, addresses, masks);
    }
}

fn both<const N: usize>(
    fixed: &Option<Reader<N>>,
    added: &Option<Reader<N>>,
    addresses: &[[u8; N]],
    masks: &mut [ListMask],
) {
    masks.iter_mut().for_each(|mask| *mask = 0);
    let mut found = [0; 64];
    for table in [fixed, added].into_iter().flatten() {
        for (addresses, masks) in addresses.chunks(64).zip(masks.chunks_mut(64)) {
            table.lookup_burst(addresses, &mut found);
            for (mask, &found) in masks.iter_mut().zip(&found).take(addresses.len()) {
                *mask |= held(Some(found));
            }
        }
    }
}

/// The lists that a look-up's result stands for; all bits are "none".
fn held(found: Option<u32>) -> ListMask {
    found.filter(|&found| found >> MOST_LISTS == 0).unwrap_or(0)
}

/// Prefixes of some lists: for each address all lists that have a prefix which holds it, in one look-up.
#[derive(Clone, Default)]
pub struct PrefixSets {
    v4: Option<Reader<4>>,
    v6: Option<Reader<16>>,
    len: usize,
}

impl fmt::Debug for PrefixSets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefixSets").field("len", &self.len).finish()
    }
}

impl PrefixSets {
    /// Of prefixes (address, length) with the number of their list, below [`MOST_LISTS`]. Bits beyond a length are ignored.
    ///
    /// # Errors
    /// A length that the family has not; no memory for so many.
    pub fn new(prefixes: impl IntoIterator<Item = (IpAddr, u8, usize)>) -> Result<Self, LpmError> {
        let (v4, v6) = by_family(prefixes)?;
        let len = v4.len() + v6.len();
        Ok(Self { v4: table(v4, holds4)?, v6: table(v6, holds6)?, len })
    }

    /// How many different prefixes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn of(&self, address: IpAddr) -> ListMask {
        held(match address {
            IpAddr::V4(address) => self.v4.as_ref().and_then(|table| table.lookup(&address.octets())),
            IpAddr::V6(address) => self.v6.as_ref().and_then(|table| table.lookup(&address.octets())),
        })
    }
}

/// The prefixes of a family with the lists that have them, in order of addresses, shorter ones first.
type Ordered<const N: usize> = BTreeMap<([u8; N], u8), ListMask>;

fn by_family(
    prefixes: impl IntoIterator<Item = (IpAddr, u8, usize)>,
) -> Result<(Ordered<4>, Ordered<16>), LpmError> {
    let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
    for (address, length, list) in prefixes {
        let bit: ListMask = 1 << list.min(MOST_LISTS - 1);
        match address {
            IpAddr::V4(address) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                *v4.entry(((address.to_bits() & mask).to_be_bytes(), length)).or_insert(0) |= bit;
            }
            IpAddr::V6(address) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                *v6.entry(((address.to_bits() & mask).to_be_bytes(), length)).or_insert(0) |= bit;
            }
            IpAddr::V4(_) => return Err(LpmError::Length(length, 32)),
            IpAddr::V6(_) => return Err(LpmError::Length(length, 128)),
        }
    }
    Ok((v4, v6))
}

fn holds4((prefix, length): &([u8; 4], u8), address: &[u8; 4]) -> bool {
    covers4((*prefix).into(), *length, (*address).into())
}

fn holds6((prefix, length): &([u8; 16], u8), address: &[u8; 16]) -> bool {
    covers6((*prefix).into(), *length, (*address).into())
}

/// Visits prefixes with the lists of the shorter ones that hold them, and with their own besides.
fn walk<const N: usize>(
    prefixes: Ordered<N>,
    holds: impl Fn(&([u8; N], u8), &[u8; N]) -> bool,
    mut each: impl FnMut(([u8; N], u8), ListMask, ListMask),
) {
    // Those that hold the present one: in this order they are a stack.
    let mut around: Vec<(([u8; N], u8), ListMask)> = Vec::new();
    for (prefix, lists) in prefixes {
        while around.last().is_some_and(|(outer, _)| !holds(outer, &prefix.0)) {
            around.pop();
        }
        let outer = around.last().map_or(0, |&(_, lists)| lists);
        let lists = lists | outer;
        each(prefix, outer, lists);
        if lists != outer {
            around.push((prefix, lists));
        }
    }
}

/// A table whose values have the lists of the shorter prefixes in them. Those that add nothing to these are left out.
fn table<const N: usize>(
    prefixes: Ordered<N>,
    holds: impl Fn(&([u8; N], u8), &[u8; N]) -> bool,
) -> Result<Option<Reader<N>>, LpmError> {
    if prefixes.is_empty() {
        return Ok(None);
    }
    let mut entries = Vec::with_capacity(prefixes.len());
    walk(prefixes, holds, |(address, length), outer, lists| {
        if lists != outer {
            entries.push((address, length, lists));
        }
    });
    Lpm::build(entries).map(|mut table| Some(table.reader()))
}

/// Whether a guard blocks a prefix, as far as no longer one says otherwise: the least that tells the same of each address by
/// its longest prefix, where none says "no".
///
/// # Errors
/// A length that the family has not.
pub fn verdicts(
    prefixes: impl IntoIterator<Item = (IpAddr, u8, usize)>,
    guard: &Guard,
) -> Result<Vec<(IpAddr, u8, bool)>, LpmError> {
    let (v4, v6) = by_family(prefixes)?;
    let mut verdicts = Vec::new();
    let mut judge = |address: IpAddr, length, outer, lists| {
        let [was, is] = [outer, lists].map(|lists| guard.blocking(lists) != 0);
        if was != is {
            verdicts.push((address, length, is));
        }
    };
    walk(v4, holds4, |(address, length), outer, lists| judge(address.into(), length, outer, lists));
    walk(v6, holds6, |(address, length), outer, lists| judge(address.into(), length, outer, lists));
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn prefixes() -> impl Strategy<Value = Vec<(IpAddr, u8, usize)>> {
        // Few values, so that prefixes hold each other.
        let address = (0..4u32, 0..4u32, 0..4u32).prop_map(|(a, b, c)| a << 30 | b << 16 | c);
        let prefix = (address, any::<bool>(), 0..=32u8, 0..4usize).prop_map(|(bits, is_v4, length, list)| {
            if is_v4 {
                (IpAddr::from(Ipv4Addr::from_bits(bits)), length, list)
            } else {
                (IpAddr::from(Ipv6Addr::from_bits(u128::from(bits) << 96)), length, list)
            }
        });
        prop::collection::vec(prefix, 0..40)
    }

    fn holds((prefix, length, _): &(IpAddr, u8, usize), address: IpAddr) -> bool {
        match (prefix, address) {
            (IpAddr::V4(prefix), IpAddr::V4(address)) => covers4(*prefix, *length, address),
            (IpAddr::V6(prefix), IpAddr::V6(address)) => covers6(*prefix, *length, address),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(crate::table::cases(25))]

        #[test]
        fn an_address_is_in_all_lists_that_hold_it(
            fixed in prefixes(), added in prefixes(), asked in prefixes(),
        ) {
            let lists = Lists {
                names: Vec::new(),
                fixed: Arc::new(PrefixSets::new(fixed.iter().copied()).unwrap()),
                added: Arc::new(PrefixSets::new(added.iter().copied()).unwrap()),
            };
            let want = |address| {
                let all = fixed.iter().chain(&added).filter(|prefix| holds(prefix, address));
                all.fold(0, |mask, (_, _, list)| mask | 1 << list)
            };
            let addresses: Vec<IpAddr> = asked.iter().map(|&(address, _, _)| address).collect();
            for &address in &addresses {
                prop_assert_eq!(lists.of(address), want(address), "{}", address);
            }
            let v4: Vec<[u8; 4]> = addresses
                .iter()
                .filter_map(|address| if let IpAddr::V4(v4) = address { Some(v4.octets()) } else { None })
                .collect();
            let mut masks = vec![7; v4.len()];
            lists.of_burst4(&v4, &mut masks);
            for (address, mask) in v4.iter().zip(masks) {
                prop_assert_eq!(mask, want((*address).into()));
            }
            let v6: Vec<[u8; 16]> = addresses
                .iter()
                .filter_map(|address| if let IpAddr::V6(v6) = address { Some(v6.octets()) } else { None })
                .collect();
            let mut masks = vec![7; v6.len()];
            lists.of_burst6(&v6, &mut masks);
            for (address, mask) in v6.iter().zip(masks) {
                prop_assert_eq!(mask, want((*address).into()));
            }
        }
    }

    proptest! {
        #![proptest_config(crate::table::cases(200))]

        #[test]
        fn verdicts_say_what_the_masks_say(prefixes in prefixes(), asked in prefixes()) {
            let guard = Guard { block: 0b0110, allow: 0b1000, ..Guard::default() };
            let verdicts = verdicts(prefixes.iter().copied(), &guard).unwrap();
            for (address, _, _) in asked {
                let lists = prefixes.iter().filter(|prefix| holds(prefix, address));
                let lists = lists.fold(0, |mask, (_, _, list)| mask | 1 << list);
                let longest = verdicts
                    .iter()
                    .filter(|&&(prefix, length, _)| holds(&(prefix, length, 0), address))
                    .max_by_key(|(_, length, _)| *length);
                let said = longest.is_some_and(|&(_, _, is_blocked)| is_blocked);
                prop_assert_eq!(said, guard.blocking(lists) != 0, "{}", address);
            }
        }
    }

    #[test]
    fn a_million_prefixes_are_held() {
        let prefixes = (0..1_000_000u32).map(|n| (Ipv4Addr::from_bits(n << 8 | 1 << 30).into(), 24, 1));
        let sets = PrefixSets::new(prefixes).unwrap();
        assert_eq!(sets.len(), 1_000_000);
        assert_eq!(sets.of(Ipv4Addr::from_bits(999_999 << 8 | 1 << 30 | 77).into()), 2);
        assert_eq!(sets.of(Ipv4Addr::new(1, 2, 3, 4).into()), 0);
    }

    #[test]
    fn a_length_that_the_family_has_not_is_refused() {
        assert!(PrefixSets::new([(Ipv4Addr::LOCALHOST.into(), 33, 0)]).is_err());
        assert!(PrefixSets::new([(Ipv6Addr::LOCALHOST.into(), 129, 0)]).is_err());
    }
}
