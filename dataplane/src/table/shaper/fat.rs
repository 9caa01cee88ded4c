//! Who holds the most: nodes in lists by the logarithm of what they hold.
//!
//! A node that comes to hold twice as much moves up at once; one that holds less moves down when it is looked at. So who
//! goes up and down by a few packets costs nothing, and to find a fat one costs no more than others' growth has.

use super::NONE;

/// A power of two has a list.
const LEVELS: usize = 32;
/// The most that are moved down before the search is given up.
const LOOKS: usize = 32;

/// The first of each list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lists {
    firsts: [u32; LEVELS],
    used: u32,
}

/// Where a node is in a list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    prev: u32,
    next: u32,
}

/// The number of the list for so much, and one more; 0 for nothing.
#[inline(always)]
pub(super) fn level(held: u32) -> u8 {
    (u32::BITS - held.leading_zeros()) as u8
}

impl Lists {
    pub(super) const fn new() -> Self {
        Self { firsts: [NONE; LEVELS], used: 0 }
    }

    /// Puts `node`, whose level is `at`, on the list of `level`; 0 is none.
    pub(super) fn move_to(&mut self, links: &mut [Link], node: u32, at: &mut u8, level: u8) {
        if *at > 0 {
            let Link { prev, next } = links[node as usize];
            if let Some(next) = links.get_mut(next as usize) {
                next.prev = prev;
            }
            match links.get_mut(prev as usize) {
                Some(prev) => prev.next = next,
                None => self.set_first(*at, next),
            }
        }
        *at = level;
        if level > 0 {
            let first = self.firsts[usize::from(level - 1) % LEVELS];
            links[node as usize] = Link { prev: NONE, next: first };
            if let Some(first) = links.get_mut(first as usize) {
                first.prev = node;
            }
            self.set_first(level, node);
        }
    }

    fn set_first(&mut self, level: u8, node: u32) {
        let number = usize::from(level - 1) % LEVELS;
        self.firsts[number] = node;
        let bit = 1 << number;
        self.used = if node == NONE { self.used & !bit } else { self.used | bit };
    }

    /// One of those that hold the most, to within a factor of two; `held` tells what a node holds now, and where it is.
    pub(super) fn fattest<N: ?Sized>(
        &mut self,
        links: &mut [Link],
        nodes: &mut N,
        held: impl Fn(&N, u32) -> u32,
        at: impl Fn(&mut N, u32) -> &mut u8,
    ) -> Option<u32> {
        for _ in 0..LOOKS {
            let listed = level(self.used);
            let node = *self.firsts.get(usize::from(listed).checked_sub(1)?)?;
            let level = level(held(nodes, node));
            if level >= listed {
                return Some(node);
            }
            self.move_to(links, node, at(nodes, node), level);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::table::cases(200))]

        #[test]
        fn the_fattest_is_found_to_within_a_factor_of_two(
            steps in prop::collection::vec((0..6u32, 0..2000u32), 1..100),
        ) {
            let (mut lists, mut links) = (Lists::new(), [Link::default(); 6]);
            let mut nodes = [(0u32, 0u8); 6];
            for (node, held) in steps {
                let entry = &mut nodes[node as usize];
                entry.0 = held;
                if level(held) > entry.1 {
                    lists.move_to(&mut links, node, &mut entry.1, level(held));
                }
                let most = nodes.iter().map(|node| node.0).max().unwrap_or(0);
                let found = lists.fattest(
                    &mut links,
                    &mut nodes[..],
                    |nodes, node| nodes[node as usize].0,
                    |nodes, node| &mut nodes[node as usize].1,
                );
                prop_assert_eq!(found.is_some(), most > 0);
                if let Some(found) = found {
                    prop_assert!(nodes[found as usize].0 > most / 2);
                }
            }
        }
    }
}
