//! Which of the 65,536 ports of an address are in use.

use core::ops::RangeInclusive;

use crate::table::prefetch::prefetch_at;

const WORDS: usize = 1024;

/// A set of ports, 8 KiB.
#[derive(Clone, Debug)]
pub struct PortBitmap {
    words: Box<[u64; WORDS]>,
    in_use: u32,
}

impl Default for PortBitmap {
    fn default() -> Self {
        Self::new()
    }
}

#[inline(always)]
fn place(port: u16) -> (usize, u64) {
    (usize::from(port / 64), 1 << (port % 64))
}

impl PortBitmap {
    /// Memory behind it, bytes.
    pub const BYTES: usize = WORDS * size_of::<u64>();

    /// A set with every port free.
    #[must_use]
    pub fn new() -> Self {
        Self { words: Box::new([0; WORDS]), in_use: 0 }
    }

    /// Takes `port`; `false` when it is in use already.
    #[inline]
    pub fn take(&mut self, port: u16) -> bool {
        let (word, bit) = place(port);
        let free = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.in_use += u32::from(free);
        free
    }

    /// Gives `port` back; `false` when it was free already.
    #[inline]
    pub fn give(&mut self, port: u16) -> bool {
        let (word, bit) = place(port);
        let taken = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        self.in_use -= u32::from(taken);
        taken
    }

    /// Starts to fetch what tells of `port`.
    #[inline]
    pub fn prefetch(&self, port: u16) {
        prefetch_at(&*self.words, place(port).0);
    }

    /// Whether `port` is in use.
    #[inline]
    #[must_use]
    pub fn is_taken(&self, port: u16) -> bool {
        let (word, bit) = place(port);
        self.words[word] & bit != 0
    }

    /// Ports in use.
    #[inline]
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// The first free port at or after `from` within `range`, going on at the start of the range after its
    /// end. A `from` outside the range counts as its start. `None` when every port of the range is in use.
    #[must_use]
    pub fn next_free(&self, from: u16, range: RangeInclusive<u16>) -> Option<u16> {
        self.next_free_among(u64::MAX, from, range)
    }

    /// As [`next_free`](Self::next_free), of the even ports alone, or of the odd ones.
    #[must_use]
    pub fn next_free_of_parity(&self, odd: bool, from: u16, range: RangeInclusive<u16>) -> Option<u16> {
        const EVEN: u64 = 0x5555_5555_5555_5555;
        self.next_free_among(if odd { !EVEN } else { EVEN }, from, range)
    }

    fn next_free_among(&self, ports: u64, from: u16, range: RangeInclusive<u16>) -> Option<u16> {
        let (first, last) = (*range.start(), *range.end());
        if !range.contains(&from) {
            return self.first_free(ports, first, last);
        }
        self.first_free(ports, from, last).or_else(|| self.first_free(ports, first, from))
    }

    /// The lowest free port from `first` to `last` whose bit is set in each word of `ports`; a word of 64 at a time.
    fn first_free(&self, ports: u64, first: u16, last: u16) -> Option<u16> {
        for word in first / 64..=last / 64 {
            let mut free = !self.words[usize::from(word)] & ports;
            if word == first / 64 {
                free &= u64::MAX << (first % 64);
            }
            if free != 0 {
                let port = word * 64 + free.trailing_zeros() as u16;
                return (port <= last).then_some(port);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_port_can_be_taken_once_and_given_back() {
        let mut ports = PortBitmap::new();
        let mut from = 60_000;
        for taken in 0..=u16::MAX {
            let port = ports.next_free(from, 0..=u16::MAX).unwrap();
            assert_eq!(port, taken.wrapping_add(60_000));
            assert!(ports.take(port));
            assert!(!ports.take(port));
            from = port;
        }
        assert_eq!(ports.in_use(), 65_536);
        assert_eq!(ports.next_free(0, 0..=u16::MAX), None);
        for port in 0..=u16::MAX {
            assert!(ports.give(port));
            assert!(!ports.give(port));
        }
        assert_eq!(ports.in_use(), 0);
    }

    #[test]
    fn an_empty_range_has_nothing_free() {
        #[expect(clippy::reversed_empty_ranges)]
        let range = 2000..=1000;
        assert_eq!(PortBitmap::new().next_free(1500, range.clone()), None);
        assert_eq!(PortBitmap::new().next_free(2000, range), None);
    }

    /// Few ports, at word borders and at both ends, so that ranges fill up.
    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![0..10u16, 60..70u16, 125..131u16, 65_530..=65_535u16]
    }

    proptest! {
        #![proptest_config(crate::table::cases(300))]

        #[test]
        fn behaves_as_a_set_of_ports(
            steps in prop::collection::vec((0..4u8, port(), port(), port()), 0..200),
        ) {
            let mut ports = PortBitmap::new();
            let mut model = BTreeSet::new();
            for (step, port, first, last) in steps {
                match step {
                    0 | 1 => prop_assert_eq!(ports.take(port), model.insert(port)),
                    2 => prop_assert_eq!(ports.give(port), model.remove(&port)),
                    _ => {
                        let free = |port: &u16| !model.contains(port);
                        let start = if (first..=last).contains(&port) { port } else { first };
                        let want = (start..=last).find(free).or_else(|| (first..=last).find(free));
                        prop_assert_eq!(ports.next_free(port, first..=last), want);
                        let alike = |other: &u16| free(other) && other % 2 == port % 2;
                        let want = (start..=last).find(alike).or_else(|| (first..=last).find(alike));
                        prop_assert_eq!(ports.next_free_of_parity(port % 2 == 1, port, first..=last), want);
                    }
                }
                prop_assert_eq!(ports.is_taken(port), model.contains(&port));
                prop_assert_eq!(ports.in_use() as usize, model.len());
            }
        }
    }
}
