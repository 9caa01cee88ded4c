//! Deterministic NAT (RFC 7422): which external address and ports a subscriber has is a matter of arithmetic, so that nobody
//! need keep a log of it.
//!
//! Subscribers are numbered through in the order of their addresses, and so are the blocks of ports: those of the first
//! external address, then those of the second. Each subscriber has the block of its number.

use std::cmp::Reverse;

/// Subscribers' addresses that follow on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
    /// Subscribers with lower addresses.
    before: u64,
}

/// The mapping of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deterministic {
    /// Ascending, and apart from each other.
    ranges: Vec<Range>,
    subscribers: u64,
    first_port: u16,
    /// Ports of a subscriber.
    size: u32,
    /// Subscribers of an external address.
    per_address: u32,
}

impl Deterministic {
    /// For the subscribers of these prefixes (address and mask), on so many external addresses, each with ports from the
    /// first to the last. A subscriber gets `size` ports, or for 0 as many as there are for each. `None` if they do not
    /// suffice for all, or if there are no subscribers.
    pub fn new(prefixes: &[(u32, u32)], addresses: u32, ports: (u16, u16), size: u32) -> Option<Self> {
        let mut spans: Vec<(u32, u32)> = prefixes.iter().map(|&(a, mask)| (a & mask, a | !mask)).collect();
        spans.sort_unstable_by_key(|&(first, last)| (first, Reverse(last)));
        let (mut ranges, mut subscribers): (Vec<Range>, u64) = (Vec::new(), 0);
        for (first, last) in spans {
            // Prefixes overlap only if one holds the other.
            if ranges.last().is_some_and(|range| first <= range.last) {
                continue;
            }
            ranges.push(Range { first, last, before: subscribers });
            subscribers += u64::from(last - first) + 1;
        }
        let width = u32::from(ports.1.checked_sub(ports.0)?) + 1;
        let size = match size {
            0 => {
                let share = subscribers.checked_div(addresses.into())?;
                let each = share + u64::from(share * u64::from(addresses) < subscribers);
                width.checked_div(u32::try_from(each).ok()?)?
            }
            size => size,
        };
        let per_address = width.checked_div(size)?;
        let fits = subscribers > 0 && u64::from(per_address) * u64::from(addresses) >= subscribers;
        fits.then_some(Self { ranges, subscribers, first_port: ports.0, size, per_address })
    }

    /// How many subscribers there are.
    pub fn subscribers(&self) -> u64 {
        self.subscribers
    }

    /// Ports of each subscriber.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// A subscriber's external address, by its place in the pool, and the first and last of its ports.
    pub fn block(&self, subscriber: u32) -> Option<(usize, (u16, u16))> {
        let at = self.ranges.partition_point(|range| range.last < subscriber);
        let range = self.ranges.get(at).filter(|range| range.first <= subscriber)?;
        let number = range.before + u64::from(subscriber - range.first);
        let per_address = u64::from(self.per_address);
        let first = u64::from(self.first_port) + number % per_address * u64::from(self.size);
        let last = first + u64::from(self.size) - 1;
        let position = usize::try_from(number / per_address).ok()?;
        Some((position, (u16::try_from(first).ok()?, u16::try_from(last).ok()?)))
    }

    /// The subscriber that has a port of the external address at this place in the pool.
    pub fn subscriber(&self, position: usize, port: u16) -> Option<u32> {
        let block = u32::from(port.checked_sub(self.first_port)?) / self.size;
        if block >= self.per_address {
            return None;
        }
        let number = position as u64 * u64::from(self.per_address) + u64::from(block);
        let at = self.ranges.partition_point(|range| range.before <= number).checked_sub(1)?;
        let range = self.ranges.get(at).filter(|_| number < self.subscribers)?;
        Some(range.first + u32::try_from(number - range.before).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CARRIER: (u32, u32) = (0x6440_0000, 0xffff_fc00);

    /// proves: RFC 7422 2
    #[test]
    fn blocks_follow_on_each_other() {
        let plan = Deterministic::new(&[CARRIER], 16, (1024, 65535), 1000).unwrap();
        assert_eq!((plan.subscribers(), plan.size()), (1024, 1000));
        assert_eq!(plan.block(0x6440_0000), Some((0, (1024, 2023))));
        assert_eq!(plan.block(0x6440_003f), Some((0, (64_024, 65_023))));
        assert_eq!(plan.block(0x6440_0040), Some((1, (1024, 2023))));
        assert_eq!(plan.subscriber(1, 2023), Some(0x6440_0040));
        assert_eq!(plan.subscriber(1, 1023), None);
        assert_eq!(plan.subscriber(0, 65_024), None, "the rest of the ports is nobody's");
        assert_eq!(plan.block(0x6440_0400), None);
    }

    #[test]
    fn without_a_size_all_ports_are_shared_out() {
        let plan = Deterministic::new(&[CARRIER], 16, (1024, 65535), 0).unwrap();
        assert_eq!(plan.size(), 64_512 / 64);
        let alone = Deterministic::new(&[(1, u32::MAX)], 4, (1024, 65535), 0).unwrap();
        assert_eq!(alone.size(), 64_512);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Deterministic::new(&[CARRIER], 16, (1024, 65535), 1009).is_none());
        assert!(Deterministic::new(&[(0, 0)], 1, (1024, 65535), 0).is_none());
        assert!(Deterministic::new(&[], 1, (1024, 65535), 64).is_none());
        assert!(Deterministic::new(&[CARRIER], 0, (1024, 65535), 0).is_none());
        assert!(Deterministic::new(&[CARRIER], 16, (2000, 1000), 0).is_none());
    }

    /// Prefixes of 16 to 32 bits, some of which overlap.
    fn prefixes() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let prefix = (0u32..8, any::<u32>(), 18u32..=32).prop_map(|(place, bits, length)| {
            let mask = u32::MAX << (32 - length);
            ((place << 18 | bits & 0x3ffff) & mask, mask)
        });
        prop::collection::vec(prefix, 1..6)
    }

    proptest! {
        #![proptest_config(crate::table::cases(300))]

        /// proves: RFC 7422 2
        #[test]
        fn it_is_a_bijection(
            prefixes in prefixes(),
            addresses in 1u32..300,
            ports in (1u16..=1024, 2048u16..=u16::MAX),
            size in prop_oneof![Just(0), 1u32..2000],
            picks in prop::collection::vec(any::<prop::sample::Index>(), 20),
        ) {
            let plan = Deterministic::new(&prefixes, addresses, ports, size);
            let inside = |a: u32| prefixes.iter().any(|&(p, mask)| a & mask == p);
            let Some(plan) = plan else { return Ok(()) };
            let mut all: Vec<u32> =
                prefixes.iter().flat_map(|&(p, mask)| p..=p | !mask).collect();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(plan.subscribers(), all.len() as u64);
            for pick in &picks {
                let at = pick.index(all.len());
                let (position, (first, last)) = plan.block(all[at]).unwrap();
                prop_assert!((position as u32) < addresses && ports.0 <= first && last <= ports.1);
                prop_assert_eq!(u32::from(last - first) + 1, plan.size());
                for port in [first, last, first + (last - first) / 2] {
                    prop_assert_eq!(plan.subscriber(position, port), Some(all[at]));
                }
                // The next subscriber's block is another one.
                if let Some(next) = all.get(at + 1) {
                    let (place, (begin, _)) = plan.block(*next).unwrap();
                    prop_assert!((place, begin) > (position, last));
                }
            }
            for pick in &picks {
                let (position, port) = (pick.index(addresses as usize), pick.index(65_536) as u16);
                if let Some(subscriber) = plan.subscriber(position, port) {
                    prop_assert!(inside(subscriber));
                    let (place, (first, last)) = plan.block(subscriber).unwrap();
                    prop_assert!(place == position && (first..=last).contains(&port));
                }
            }
        }
    }
}
