//! How a rate is shared out in a tree of classes, by what each asks for. A fluid model of what the shaper does packet by
//! packet: for the parts of several workers.

/// A class, as sharing out sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// The class around it, whose index is lower; `None` for those of the port.
    pub(super) parent: Option<u16>,
    /// Whether it holds others.
    pub(super) holds: bool,
    /// Those with a lower number get theirs first.
    pub(super) priority: u8,
    /// Its part among equals.
    pub(super) weight: u16,
    /// Bits per second that it gets in any case.
    pub(super) guaranteed: u64,
    /// Bits per second that it never exceeds.
    pub(super) max: u64,
    /// Bits per second that it asks for; of a class that holds others what they ask for is added.
    pub(super) wants: u64,
    /// Bits per second that it gets.
    pub(super) gets: u64,
}

/// Shares `rate` bits per second out: sets what each class `gets`. Returns what nobody asked for.
pub(super) fn allocate(classes: &mut [Share], rate: u64) -> u64 {
    for class in &mut *classes {
        class.gets = 0;
    }
    for index in (0..classes.len()).rev() {
        let Some(class) = classes.get_mut(index) else { continue };
        class.wants = class.wants.min(class.max);
        let (wants, parent) = (class.wants, class.parent);
        if let Some(parent) = parent.and_then(|parent| classes.get_mut(usize::from(parent))) {
            parent.wants = parent.wants.saturating_add(wants);
        }
    }
    let left = within(classes, None, rate);
    for index in 0..classes.len() {
        let Some(gets) = classes.get(index).filter(|class| class.holds).map(|class| class.gets) else {
            continue;
        };
        within(classes, Some(index as u16), gets);
    }
    left
}

/// Shares out among the classes of one parent. Returns what is left.
fn within(classes: &mut [Share], parent: Option<u16>, rate: u64) -> u64 {
    let mut left = rate;
    let mut priorities = 0u8;
    for class in classes.iter_mut().filter(|class| class.parent == parent) {
        class.gets = class.wants.min(class.guaranteed).min(left);
        left -= class.gets;
        priorities |= 1 << (class.priority & 7);
    }
    for priority in (0..8).filter(|priority| priorities >> priority & 1 == 1) {
        left = by_weight(classes, |class| class.parent == parent && class.priority & 7 == priority, left);
    }
    left
}

/// Shares out by weight, until each has what it wants or nothing is left.
fn by_weight(classes: &mut [Share], is_one: impl Fn(&Share) -> bool, mut left: u64) -> u64 {
    // Each round satisfies a class at least, or is the last one.
    loop {
        let wanting = |class: &&mut Share| is_one(class) && class.gets < class.wants;
        let weights: u64 = classes.iter_mut().filter(wanting).map(|class| u64::from(class.weight)).sum();
        if weights == 0 || left == 0 {
            return left;
        }
        let (before, mut is_satisfied) = (left, false);
        for class in classes.iter_mut().filter(wanting) {
            let part = (u128::from(before) * u128::from(class.weight) / u128::from(weights)) as u64;
            let wants = class.wants - class.gets;
            is_satisfied |= wants <= part;
            let given = wants.min(part);
            class.gets += given;
            left -= given;
        }
        if !is_satisfied {
            return left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FREE: Share = Share {
        parent: None,
        holds: false,
        priority: 7,
        weight: 1,
        guaranteed: 0,
        max: u64::MAX,
        wants: 0,
        gets: 0,
    };

    fn gets(classes: &mut [Share], rate: u64) -> Vec<u64> {
        allocate(classes, rate);
        classes.iter().map(|class| class.gets).collect()
    }

    #[test]
    fn guarantees_come_first_then_priority_then_weight() {
        let mut classes = [
            Share { priority: 0, max: 20, wants: 50, ..FREE },
            Share { guaranteed: 30, wants: 1000, ..FREE },
            Share { weight: 3, wants: 1000, ..FREE },
            Share { wants: 5, ..FREE },
        ];
        // 30 guaranteed, 20 with priority, 5 as wanted, and 45 as one to three.
        assert_eq!(gets(&mut classes, 100), [20, 30 + 11, 33, 5]);
        assert_eq!(gets(&mut [FREE; 2], 100), [0, 0]);
    }

    #[test]
    fn what_a_class_gets_is_shared_out_within_it() {
        let mut classes = [
            Share { holds: true, max: 40, ..FREE },
            Share { parent: Some(0), guaranteed: 10, wants: 100, ..FREE },
            Share { parent: Some(0), wants: 100, ..FREE },
            Share { wants: 100, ..FREE },
        ];
        assert_eq!(gets(&mut classes, 100), [40, 25, 15, 60]);
        let mut classes = classes.map(|class| Share { wants: if class.holds { 0 } else { 10 }, ..class });
        assert_eq!(gets(&mut classes, 100), [20, 10, 10, 10]);
    }

    fn tree() -> impl Strategy<Value = Vec<Share>> {
        let class = (any::<u16>(), 0u8..8, 1u16..100, 0u64..1000, 0u64..3000, 0u64..3000);
        prop::collection::vec(class, 1..20).prop_map(|classes| {
            let one = |(index, (parent, priority, weight, guaranteed, max, wants))| Share {
                holds: true,
                parent: (parent % 3 > 0 && index > 0).then(|| parent % index),
                priority,
                weight,
                guaranteed,
                max,
                wants,
                gets: 0,
            };
            (0..).zip(classes).map(one).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

        #[test]
        fn nobody_gets_more_than_it_wants_and_nothing_is_left_while_one_wants(
            tree in tree(),
            rate in 0u64..10_000,
        ) {
            let mut classes = tree;
            let left = allocate(&mut classes, rate);
            let top: u64 = classes.iter().filter(|c| c.parent.is_none()).map(|c| c.gets).sum();
            prop_assert_eq!(top + left, rate);
            for (index, class) in classes.iter().enumerate() {
                prop_assert!(class.gets <= class.wants && class.wants <= class.max);
                let children: u64 = classes.iter().filter(|c| c.parent == Some(index as u16)).map(|c| c.gets).sum();
                prop_assert!(children <= class.gets);
            }
            let wanting = classes.iter().filter(|c| c.parent.is_none() && c.gets < c.wants).count() as u64;
            // What rounding leaves.
            prop_assert!(wanting == 0 || left <= 8 * wanting);
        }
    }
}
