//! Static NAT: inside addresses that have an external address each, for all protocols and ports and both directions
//! (basic NAT, RFC 3022 2.1). It has no state: what a packet's address becomes follows from the address alone.

/// A prefix behind NAT and the external prefix of the same length; the rest of an address stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticNat {
    /// The interface on whose link the external addresses are.
    pub interface: u16,
    /// First inside address.
    pub inside: u32,
    /// First external address.
    pub outside: u32,
    /// The bits of the prefix.
    pub mask: u32,
}

impl StaticNat {
    const fn to_outside(self, address: u32) -> u32 {
        self.outside | address & !self.mask
    }

    const fn to_inside(self, address: u32) -> u32 {
        self.inside | address & !self.mask
    }
}

/// All static NAT of a configuration. Its look-ups are binary searches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticTable {
    /// By interface and inside address.
    by_inside: Vec<StaticNat>,
    /// By external address.
    by_outside: Vec<StaticNat>,
}

impl StaticTable {
    /// The table of these entries, whose inside prefixes on one interface share no address, and whose external prefixes
    /// share none at all.
    pub fn new(entries: impl IntoIterator<Item = StaticNat>) -> Self {
        let mut by_inside: Vec<StaticNat> = entries.into_iter().collect();
        let mut by_outside = by_inside.clone();
        by_inside.sort_unstable_by_key(|entry| (entry.interface, entry.inside));
        by_outside.sort_unstable_by_key(|entry| entry.outside);
        Self { by_inside, by_outside }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_inside.is_empty()
    }

    /// The external address that an inside one has on an interface's link.
    pub fn outside_of(&self, interface: u16, inside: u32) -> Option<u32> {
        let behind =
            self.by_inside.partition_point(|entry| (entry.interface, entry.inside) <= (interface, inside));
        let entry = self.by_inside.get(behind.checked_sub(1)?)?;
        let is_it = entry.interface == interface && entry.inside == inside & entry.mask;
        is_it.then(|| entry.to_outside(inside))
    }

    /// The inside address behind an external one, and the interface on whose link that is.
    pub fn inside_of(&self, outside: u32) -> Option<(u16, u32)> {
        let behind = self.by_outside.partition_point(|entry| entry.outside <= outside);
        let entry = self.by_outside.get(behind.checked_sub(1)?)?;
        (entry.outside == outside & entry.mask).then(|| (entry.interface, entry.to_inside(outside)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(length: u32) -> u32 {
        u32::MAX.checked_shl(32 - length).unwrap_or(0)
    }

    /// Prefixes side by side, so that the neighbours of each are asked for too.
    fn entries(lengths: &[(u32, u16)]) -> Vec<StaticNat> {
        let mut entries = Vec::new();
        let (mut inside, mut outside) = (0x0a00_0000u32, 0xcb00_0000u32);
        for &(length, interface) in lengths {
            let size = !mask(length) + 1;
            inside = inside.next_multiple_of(size);
            outside = outside.next_multiple_of(size);
            entries.push(StaticNat { interface, inside, outside, mask: mask(length) });
            // The next one begins here, or leaves one address free.
            inside += size + u32::from(interface == 1);
            outside += size + u32::from(interface == 0);
        }
        entries
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 200,
            rng_seed: proptest::test_runner::RngSeed::Fixed(1),
            failure_persistence: None,
            ..Default::default()
        })]

        #[test]
        fn look_ups_find_what_a_walk_finds(
            lengths in prop::collection::vec((26..=32u32, 0..2u16), 0..12),
            offsets in prop::collection::vec(0..600u32, 40),
        ) {
            let entries = entries(&lengths);
            let table = StaticTable::new(entries.iter().rev().copied());
            prop_assert_eq!(table.is_empty(), entries.is_empty());
            for offset in offsets {
                let (inside, outside) = (0x0a00_0000 + offset, 0xcb00_0000 + offset);
                for interface in 0..2 {
                    let walk = entries.iter().find(|e| e.interface == interface && inside & e.mask == e.inside);
                    let walk = walk.map(|e| e.outside + (inside - e.inside));
                    prop_assert_eq!(table.outside_of(interface, inside), walk);
                    if let Some(outside) = walk {
                        prop_assert_eq!(table.inside_of(outside), Some((interface, inside)));
                    }
                }
                let walk = entries.iter().find(|e| outside & e.mask == e.outside);
                let walk = walk.map(|e| (e.interface, e.inside + (outside - e.outside)));
                prop_assert_eq!(table.inside_of(outside), walk);
            }
        }
    }

    #[test]
    fn the_whole_of_ipv4_has_bounds() {
        let all = StaticNat { interface: 3, inside: 0, outside: 0, mask: 0 };
        let table = StaticTable::new([all]);
        assert_eq!((table.outside_of(3, u32::MAX), table.inside_of(0)), (Some(u32::MAX), Some((3, 0))));
        assert_eq!(table.outside_of(2, 7), None);
        assert_eq!(StaticTable::default().inside_of(7), None);
    }
}
