use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

const SEED: u64 = 0x5eed;

/// A key whose hash is what the test says: equal tags, equal buckets, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Chosen {
    id: u16,
    hash: u64,
}

impl Key for Chosen {
    fn hash_with(&self, _: &Secret) -> u64 {
        self.hash
    }
}

/// The hash of key `id` in one of the ways in which hashes can go wrong.
fn chosen(way: u8, id: u16) -> Chosen {
    let n = u64::from(id);
    let hash = match way {
        0 => 0,                       // all the same: one probe sequence, one tag
        1 => n << 48,                 // one home bucket, a tag each, sequences that part
        2 => n,                       // a bucket each, one tag
        3 => u64::MAX - n % 3,        // three homes, at the end of the table
        4 => (n % 2) << 48 | (n % 5), // tags 0 and 1 mean the same
        _ => [n, n].hash(SEED),       // as it should be
    };
    Chosen { id, hash }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u16, u64),
    Remove(u16),
    /// Removes whatever is at the slot, or nothing.
    RemoveSlot(u32),
    Update(u16, u64),
    Find(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..80u16;
    prop_oneof![
        5 => (id.clone(), any::<u64>()).prop_map(|(id, value)| Step::Insert(id, value)),
        2 => id.clone().prop_map(Step::Remove),
        1 => (0..70u32).prop_map(Step::RemoveSlot),
        1 => (id.clone(), any::<u64>()).prop_map(|(id, value)| Step::Update(id, value)),
        1 => id.prop_map(Step::Find),
    ]
}

/// What must hold between operations, whatever came before.
fn check(table: &HashTable<Chosen, u64>, model: &HashMap<Chosen, (u32, u64)>) {
    assert_eq!(table.len() as usize, model.len());
    assert_eq!(table.is_empty(), model.is_empty());
    assert_eq!(table.is_full(), model.len() == table.capacity() as usize);
    assert!(table.slots() <= table.capacity());
    let listed: HashMap<_, _> = table.iter().map(|(index, key, value)| (*key, (index, *value))).collect();
    assert_eq!(&listed, model);
    // Each overflow count is the number of entries that passed, and none is left behind by a removal.
    let mut passed = vec![0; table.buckets.len()];
    for (key, &(index, _)) in model {
        let mut at = key.hash as usize & table.mask;
        while !table.buckets[at]
            .tags
            .equal(tag_of(key.hash))
            .any(|lane| table.buckets[at].indices[lane] == index)
        {
            passed[at] += 1;
            at = (at + step_of(tag_of(key.hash))) & table.mask;
        }
    }
    assert_eq!(table.buckets.iter().map(|bucket| bucket.overflow).collect::<Vec<_>>(), passed);
    let lanes: usize = table.buckets.iter().map(|bucket| LANES - bucket.tags.equal(0).count()).sum();
    assert_eq!(lanes, model.len());
}

proptest! {
    #![proptest_config(crate::table::cases(300))]

    #[test]
    fn behaves_as_a_map(
        way in 0..6u8, capacity in 0..70u32, steps in prop::collection::vec(step(), 0..250),
    ) {
        let mut table = HashTable::with_capacity(capacity, SEED);
        let mut model: HashMap<Chosen, (u32, u64)> = HashMap::new();
        let memory = table.bytes();
        for step in steps {
            match step {
                Step::Insert(id, value) => {
                    let key = chosen(way, id);
                    if model.contains_key(&key) {
                        continue;
                    }
                    match table.insert(key, value) {
                        Ok(index) => {
                            prop_assert!(model.values().all(|&(other, _)| other != index));
                            model.insert(key, (index, value));
                        }
                        Err(Full) => prop_assert_eq!(model.len(), capacity as usize),
                    }
                }
                Step::Remove(id) => {
                    let key = chosen(way, id);
                    let found = table.find(&key);
                    prop_assert_eq!(found, model.get(&key).map(|&(index, _)| index));
                    if let Some(index) = found {
                        let value = model.remove(&key).map(|(_, value)| value);
                        prop_assert_eq!(table.remove(index).map(|(_, value)| value), value);
                        prop_assert_eq!(table.get(index), None);
                        prop_assert_eq!(table.remove(index), None);
                    }
                }
                Step::RemoveSlot(index) => {
                    let removed = table.remove(index);
                    let held = model.iter().find(|(_, at)| at.0 == index).map(|(&key, at)| (key, at.1));
                    prop_assert_eq!(removed, held);
                    model.retain(|_, at| at.0 != index);
                }
                Step::Update(id, value) => {
                    let key = chosen(way, id);
                    let held = model.get_mut(&key).map(|(index, held)| {
                        *held = value;
                        *index
                    });
                    let index = table.find(&key);
                    prop_assert_eq!(index, held);
                    if let Some((_, held)) = index.and_then(|index| table.get_mut(index)) {
                        *held = value;
                    }
                }
                Step::Find(id) => {
                    let key = chosen(way, id);
                    let found = table.find_hashed(&key, table.hash(&key)).and_then(|index| table.get(index));
                    prop_assert_eq!(found.map(|(_, value)| *value), model.get(&key).map(|&(_, value)| value));
                }
            }
            check(&table, &model);
        }
        let keys: Vec<_> = (0..80).map(|id| chosen(way, id)).collect();
        for key in &keys {
            let hash = table.hash(key);
            table.prefetch_bucket(hash);
            let found = table.confirm(table.candidate(hash), key, hash);
            prop_assert_eq!(found.map(|(index, &value)| (index, value)), model.get(key).copied());
        }
        prop_assert_eq!(table.bytes(), memory);
    }
}

#[test]
fn records_and_buckets_lie_on_as_few_cache_lines_as_can_be() {
    #[derive(Default)]
    struct Small([u64; 6]);
    let mut table = HashTable::with_capacity(1000, SEED);
    for i in 0..1000u64 {
        table.insert([i, 0], Small([i; 6])).unwrap();
    }
    assert_eq!(size_of::<Record<[u64; 2], Small>>(), 64);
    assert_eq!(size_of::<Record<[u64; 5], [u64; 3]>>(), 64);
    assert_eq!(size_of::<Record<[u64; 5], [u64; 4]>>(), 96);
    assert_eq!(size_of::<Bucket>(), 64);
    assert_eq!(table.records.as_ptr().addr() % 64, 0);
    assert_eq!(table.buckets.as_ptr().addr() % 64, 0);
    assert_eq!(table.value(999).map(|value| value.0), Some([999; 6]));
    // 1,000 entries: 256 buckets, 1,000 records and as many links.
    assert_eq!(table.bytes() - size_of_val(&table), 256 * 64 + 1000 * 64 + 1000 * 4);
}

#[test]
fn fills_to_the_last_entry_churns_and_empties_without_moving() {
    const N: u32 = 20_000;
    let mut table = HashTable::with_capacity(N, SEED);
    let memory = (table.records.as_ptr(), table.links.as_ptr(), table.bytes());
    let key = |n: u64| [n << 32 | 0x0a00_0001, n * 0x1_0001];
    for n in 0..u64::from(N) {
        assert_eq!(table.insert(key(n), n), Ok(n as u32));
    }
    assert!(table.is_full());
    assert_eq!(table.insert(key(u64::MAX >> 32), 0), Err(Full));
    // Two generations of turnover at full load.
    for n in 0..2 * u64::from(N) {
        let index = table.find(&key(n)).unwrap();
        assert_eq!(table.remove(index), Some((key(n), n)));
        assert_eq!(table.find(&key(n)), None);
        assert_eq!(
            table.insert(key(n + u64::from(N)), n + u64::from(N)),
            Ok(index),
            "the slot is used again"
        );
    }
    assert_eq!(table.slots(), N);
    for index in 0..N {
        assert!(table.remove(index).is_some());
    }
    assert!(table.is_empty());
    assert!(table.buckets.iter().all(|bucket| bucket.overflow == 0 && bucket.tags == Tags([0; LANES])));
    assert_eq!(memory, (table.records.as_ptr(), table.links.as_ptr(), table.bytes()));
}

#[test]
fn few_searches_leave_the_first_bucket_at_full_load() {
    const N: u32 = 1 << 16;
    let mut table = HashTable::with_capacity(N, SEED);
    for n in 0..u64::from(N) {
        table.insert([n, !n], ()).unwrap();
    }
    let passes: u32 = table.buckets.iter().map(|bucket| bucket.overflow).sum();
    // Poisson with mean 4: 0.84 % of entries meet a full bucket.
    assert!(passes < N / 50, "{passes}");
}

#[test]
fn an_index_is_answered_by_what_lives_there() {
    let mut table = HashTable::with_capacity(2, SEED);
    let index = table.insert(7u32, String::from("a")).unwrap();
    assert!(table.contains(index));
    assert_eq!(table.get_mut(index).map(|(key, value)| (*key, value.as_str())), Some((7, "a")));
    if let Some(value) = table.value_mut(index) {
        value.push('b');
    }
    assert_eq!(table.remove(index), Some((7, String::from("ab"))));
    assert!(!table.contains(index));
    assert_eq!(table.get_mut(index), None);
    assert_eq!(table.value(index), Some(&String::new()), "an emptied slot holds the default value");
    assert_eq!(table.value(1), None, "a slot that was never used");
    for index in [1, 2, END, NONE] {
        assert_eq!((table.get(index), table.value(index)), (None, None));
        assert_eq!((table.remove(index), table.contains(index)), (None, false));
        table.prefetch_record(index);
    }
    table.prefetch_bucket(u64::MAX);
}
