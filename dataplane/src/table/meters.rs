//! Meters made on demand, one for each key that comes: for policers of a source, a destination or a flow each.
//!
//! Bounded, and no key is ever without a meter. While there is room, a new key gets a place of its own. After that it gets
//! that of another: a hand goes round all places and looks at a few, and of these the meter goes that lacks least. Most lack
//! nothing, for an idle meter soon is full again; a full one that is forgotten and made anew is the same meter. Where none is
//! full, the key that loses its meter begins with a full one when it comes back. So whoever sends from many addresses takes
//! nothing from anybody; and it cannot have its own heavy use forgotten, as a meter that lacks much stays longest.

use super::hash::HashTable;
use super::tcm::Buckets;
use super::tcm::model::Profile;

/// What a meter is found by.
pub type MeterKey = [u64; 2];

/// Places that are looked at for one that can be had.
const CHOICE: u32 = 8;

/// Meters of one profile by key.
pub struct Meters {
    table: HashTable<MeterKey, Buckets>,
    /// The next place to be looked at.
    hand: u32,
    forgotten: u64,
}

impl core::fmt::Debug for Meters {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Meters").field("len", &self.len()).field("forgotten", &self.forgotten).finish()
    }
}

impl Meters {
    /// For so many keys at a time, at least one. Takes all its memory. `seed` should be secret and random.
    #[must_use]
    pub fn new(most: u32, seed: u64) -> Self {
        Self { table: HashTable::with_capacity(most.max(1), seed), hand: 0, forgotten: 0 }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.table.len()
    }

    /// Whether there is none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many were forgotten that were not full.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Memory taken, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// First step of a look-up in steps, whose cache misses overlap over many keys: fetches the bucket, and returns the hash.
    #[inline]
    pub fn begin(&self, key: &MeterKey) -> u64 {
        let hash = self.table.hash(key);
        self.table.prefetch_bucket(hash);
        hash
    }

    /// Second step: fetches the meter, and returns its likely place.
    #[inline]
    pub fn candidate(&self, hash: u64) -> u32 {
        self.table.candidate(hash)
    }

    /// Third step: the key's meter, which is made if there is none. `profile` is that of all meters here.
    #[inline]
    pub fn confirm(
        &mut self,
        candidate: u32,
        key: &MeterKey,
        hash: u64,
        profile: &Profile,
        now_ns: u64,
    ) -> Option<&mut Buckets> {
        let place = match self.table.confirm(candidate, key, hash) {
            Some((place, _)) => place,
            None => self.make(key, hash, profile, now_ns)?,
        };
        self.table.value_mut(place)
    }

    #[inline(never)]
    fn make(&mut self, key: &MeterKey, hash: u64, profile: &Profile, now_ns: u64) -> Option<u32> {
        // Another packet of the burst may have made it since the first step.
        if let Some(place) = self.table.find_hashed(key, hash) {
            return Some(place);
        }
        if self.table.is_full() {
            self.make_room(profile, now_ns);
        }
        self.table.insert_hashed(*key, hash, profile.meter(now_ns)).ok()
    }

    /// The place that is emptied is the next to be filled, so that no step of a look-up sees it empty.
    fn make_room(&mut self, profile: &Profile, now_ns: u64) {
        let (mut victim, mut least) = (None, u64::MAX);
        for _ in 0..CHOICE.min(self.table.len()) {
            let place = self.hand;
            self.hand = (place + 1) % self.table.slots().max(1);
            let Some(meter) = self.table.value(place) else { continue };
            let lacks = profile.lacks(meter, now_ns);
            if victim.is_none() || lacks < least {
                (victim, least) = (Some(place), lacks);
            }
            if lacks == 0 {
                break;
            }
        }
        self.forgotten += u64::from(least > 0);
        if let Some(place) = victim {
            self.table.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::meter::Rate;
    use crate::table::tcm::Color;
    use crate::table::tcm::model::{Figures, Model};
    use proptest::prelude::*;
    use std::collections::HashMap;

    const SECOND: u64 = 1_000_000_000;

    fn figures(bits_per_second: u64, burst: u64) -> Figures {
        let rates = [Rate { bits_per_second }; 2];
        Figures { model: Model::SingleRate, rates, bursts: [burst, 0] }
    }

    fn ask(meters: &mut Meters, key: u64, profile: &Profile, now: u64, tokens: u16) -> bool {
        let key = [key, 0];
        let hash = meters.begin(&key);
        let candidate = meters.candidate(hash);
        let meter = meters.confirm(candidate, &key, hash, profile, now).unwrap();
        profile.color(meter, now, tokens, Color::Green) == Color::Green
    }

    #[test]
    fn a_million_sources_have_a_meter_each() {
        let profile = figures(8_000, 1500).profile();
        let mut meters = Meters::new(1_000_000, 7);
        let before = meters.bytes();
        for key in 0..1_000_000 {
            assert!(ask(&mut meters, key, &profile, 0, 1500));
        }
        for key in 0..1_000_000 {
            assert!(!ask(&mut meters, key, &profile, SECOND, 1001), "{key} has 1,000 bytes");
            assert!(ask(&mut meters, key, &profile, SECOND, 1000));
        }
        assert_eq!((meters.len(), meters.forgotten(), meters.bytes()), (1_000_000, 0, before));
        assert!(before < 100 << 20, "{before}");
    }

    /// Somebody sends one packet from each of very many addresses. A source over its rate stays held to it, and nobody is
    /// refused what its own rate allows.
    #[test]
    fn random_sources_harm_nobody() {
        // A meter that gave one packet of 64 bytes is full again after 512 ms: far longer than the table's way round.
        let profile = figures(1_000, 1500).profile();
        let mut meters = Meters::new(1000, 7);
        let (mut heavy, mut now, mut random) = (0u64, 0, 1u64 << 32);
        for step in 0..200_000u64 {
            now += 10_000;
            random += 1;
            assert!(ask(&mut meters, random, &profile, now, 64), "a new source has its burst");
            if step % 10 == 0 && ask(&mut meters, 1, &profile, now, 64) {
                heavy += 64;
            }
            if step % 10_000 == 0 {
                assert!(ask(&mut meters, 2 << 40 | step, &profile, now, 1500), "an honest one has all of it");
            }
        }
        assert!(meters.forgotten() > 190_000 && meters.len() == 1000);
        let most = 1500 + now * 1000 / 8 / SECOND;
        assert!(heavy <= most && heavy + 64 > most, "{heavy} of {most}");
    }

    #[test]
    fn steps_of_several_packets_may_mix() {
        let profile = figures(8_000, 1500).profile();
        let mut meters = Meters::new(2, 7);
        for key in [8, 9] {
            assert!(ask(&mut meters, key, &profile, 0, 1500));
        }
        // The third is new and takes the place of one that a later packet has found already.
        let steps = [10, 10, 8, 9, 10].map(|key| {
            let hash = meters.begin(&[key, 0]);
            ([key, 0], hash, meters.candidate(hash))
        });
        let colors = steps.map(|(key, hash, candidate)| {
            let meter = meters.confirm(candidate, &key, hash, &profile, 1).unwrap();
            profile.color(meter, 1, 1500, Color::Green)
        });
        assert_eq!(colors[..2], [Color::Green, Color::Red], "one meter for both");
        assert_eq!(meters.len(), 2);
    }

    #[test]
    fn a_full_meter_is_forgotten_first_and_loses_nothing() {
        let profile = figures(8_000_000, 1000).profile();
        let mut meters = Meters::new(4, 7);
        for key in 0..4 {
            assert!(ask(&mut meters, key, &profile, key * 100_000, 500));
        }
        // Only the first is full again.
        assert!(ask(&mut meters, 9, &profile, 500_000, 1000));
        assert_eq!((meters.len(), meters.forgotten()), (4, 0));
        assert!(!ask(&mut meters, 3, &profile, 500_000, 701), "the others are what they were");
        assert!(ask(&mut meters, 0, &profile, 500_000, 1000));
        assert_eq!(meters.forgotten(), 1, "the next new one had to take another's");
    }

    proptest! {
        #![proptest_config(crate::table::cases(100))]

        /// As long as only full ones were forgotten, each decides as one that was never forgotten.
        #[test]
        fn meters_are_those_of_a_table_without_bounds(
            most in 1..40u32,
            packets in prop::collection::vec((0..40u64, 0..3_000_000u64, 0..1500u16), 1..400),
        ) {
            let profile = figures(8_000_000, 2000).profile();
            let mut meters = Meters::new(most, 3);
            let mut plain: HashMap<u64, Buckets> = HashMap::new();
            let mut now = 0;
            for (key, gap, bytes) in packets {
                now += gap;
                let plain = plain.entry(key).or_insert_with(|| profile.meter(now));
                let passes = ask(&mut meters, key, &profile, now, bytes);
                prop_assert!(meters.len() <= most);
                if meters.forgotten() > 0 {
                    break;
                }
                prop_assert_eq!(passes, profile.color(plain, now, bytes, Color::Green) == Color::Green);
            }
        }
    }
}
