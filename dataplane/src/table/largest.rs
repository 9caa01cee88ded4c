//! The largest of many: a list of bounded length, in which each member's weight may change at any time.

/// A member, by a number of the user's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry<T> {
    /// Who.
    pub index: u32,
    /// By which it is among the largest.
    pub weight: u64,
    /// What is kept of it.
    pub value: T,
}

/// At most so many entries as it was made for. To find or to replace one is a walk over all: it is for lists of some hundred
/// entries, which seldom change hands.
#[derive(Clone, Debug)]
pub struct Largest<T> {
    entries: Vec<Entry<T>>,
    room: usize,
    /// The place of the least, as long as the list is full.
    least: usize,
}

impl<T: Copy> Largest<T> {
    /// An empty list with room for so many.
    pub fn new(room: usize) -> Self {
        Self { entries: Vec::with_capacity(room), room, least: 0 }
    }

    /// The entries, in no order.
    pub fn entries(&self) -> &[Entry<T>] {
        &self.entries
    }

    /// What is kept of a member.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.iter_mut().find(|entry| entry.index == index).map(|entry| &mut entry.value)
    }

    /// Whether an entry of this weight that is not in the list would get in.
    #[inline]
    pub fn wants(&self, weight: u64) -> bool {
        weight > 0
            && (self.entries.len() < self.room
                || self.entries.get(self.least).is_some_and(|l| weight > l.weight))
    }

    /// Puts in one that is not in the list. Returns whether it is now, and who had to go.
    pub fn offer(&mut self, entry: Entry<T>) -> (bool, Option<u32>) {
        if !self.wants(entry.weight) {
            return (false, None);
        }
        let gone = if self.entries.len() < self.room {
            self.entries.push(entry);
            None
        } else {
            self.entries.get_mut(self.least).map(|least| std::mem::replace(least, entry).index)
        };
        self.find_least();
        (true, gone)
    }

    /// Gives a member another weight. One of nothing is no member any more; false for it, and for who was none.
    pub fn weigh(&mut self, index: u32, weight: u64) -> bool {
        let Some(at) = self.entries.iter().position(|entry| entry.index == index) else { return false };
        if weight == 0 {
            self.entries.swap_remove(at);
        } else if let Some(entry) = self.entries.get_mut(at) {
            entry.weight = weight;
        }
        self.find_least();
        weight > 0
    }

    fn find_least(&mut self) {
        let places = self.entries.iter().enumerate();
        self.least = places.min_by_key(|(_, entry)| entry.weight).map_or(0, |(at, _)| at);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::table::cases(200))]

        /// A member stays until somebody larger comes, and nobody who is larger than the least is left out when it is offered.
        #[test]
        fn it_keeps_what_a_sorted_map_keeps(steps in prop::collection::vec((0..40u32, 0..100u64), 0..200)) {
            let mut list = Largest::new(8);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for (index, weight) in steps {
                if model.contains_key(&index) {
                    prop_assert_eq!(list.weigh(index, weight), weight > 0);
                    if weight > 0 { model.insert(index, weight); } else { model.remove(&index); }
                } else {
                    prop_assert!(!list.weigh(index, weight));
                    let least = model.values().min().copied().unwrap_or(0);
                    let gets_in = weight > 0 && (model.len() < 8 || weight > least);
                    prop_assert_eq!(list.wants(weight), gets_in);
                    let (is_in, gone) = list.offer(Entry { index, weight, value: () });
                    prop_assert_eq!(is_in, gets_in);
                    prop_assert_eq!(gone.is_some(), gets_in && model.len() == 8);
                    if let Some(gone) = gone {
                        prop_assert_eq!(model.remove(&gone), Some(least));
                    }
                    if is_in {
                        model.insert(index, weight);
                    }
                }
                let entries = list.entries().iter().map(|entry| (entry.index, entry.weight));
                prop_assert_eq!(entries.collect::<BTreeMap<_, _>>(), model.clone());
            }
        }
    }
}
