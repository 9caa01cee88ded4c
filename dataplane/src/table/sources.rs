//! Rates of many sources, each with a few meters, in a table that nobody can fill to the harm of others.
//!
//! A source's place is one of three in the set that its hash names: two cache lines, one look-up, nothing to link or to
//! free. A place has what its source's token buckets lack. What they lack is earned back with time, so a place that has not been
//! used for a while is as good as empty: its source begins with full buckets whether it is remembered or not. So the place for a
//! source that is new is that of the three whose buckets are full again first.
//!
//! Somebody who sends from random addresses takes places, but each of them lacks one packet, and gives way to the next at once. A source that is
//! forgotten begins anew with full buckets, so an honest one loses nothing; and one that is over its rate lacks the
//! most, and is the last to be forgotten. Nobody is refused because the table is full. With an exact table that would be the
//! same ([`meters`](super::meters)), at the price of another cache line and of lists; a table without evictions gives an attacker
//! just that to aim at.

use super::key::hash_words;
use super::prefetch::prefetch_from;
use crate::arena::{HugePages, HugeVec};

/// Meters of a source.
pub const METERS: usize = 3;
/// Places of a set: as many as two cache lines have room for.
const WAYS: usize = 3;
/// What a token costs; at a rate of R a second, a nanosecond earns R of these.
const UNITS: u64 = 1_000_000_000;

/// The rate of one meter, in tokens of whatever it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Tokens a second, up to 10^12; 0 for any number.
    pub per_second: u64,
    /// Tokens that can be had at once. More than 18,446,744,073 count as that.
    pub burst: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// The source's hash, or 0.
    tag: u64,
    /// The time as of which `lacks` is, ns.
    last: u64,
    /// What each bucket lacks, in units.
    lacks: [u64; METERS],
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(128))]
struct Set([Way; WAYS]);

/// Rates of many sources. See the module's description.
pub struct Sources {
    sets: HugeVec<Set>,
    mask: usize,
    rates: [u64; METERS],
    depths: [u64; METERS],
    seed: u64,
    forgotten: u64,
}

impl core::fmt::Debug for Sources {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sources").field("sets", &self.sets.len()).field("forgotten", &self.forgotten).finish()
    }
}

impl Sources {
    /// For so many sources at a time: with as many, one set in fifty or fewer has more of them than places. Takes all its memory.
    /// `seed` should be secret and random.
    #[must_use]
    pub fn new(most: u32, paces: [Pace; METERS], seed: u64) -> Self {
        let count = (most.max(1) as usize).next_power_of_two();
        let mut sets = HugeVec::with_capacity_in(count, HugePages);
        sets.resize(count, Set::default());
        Self {
            sets,
            mask: count - 1,
            rates: paces.map(|pace| pace.per_second),
            depths: paces.map(|pace| pace.burst.min(u64::MAX / UNITS) * UNITS),
            seed,
            forgotten: 0,
        }
    }

    /// Memory taken, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.sets.capacity() * size_of::<Set>()
    }

    /// How many were forgotten whose buckets were not full.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// First step of a look-up, whose cache misses overlap over many sources: what the source is found by, and its set starts
    /// to be fetched.
    #[inline(always)]
    #[must_use]
    pub fn begin(&self, source: &[u64; 3]) -> u64 {
        let hash = hash_words(source, self.seed).max(1);
        prefetch_from(&self.sets, hash as usize & self.mask);
        hash
    }

    /// Second step: takes these tokens at the time `now_ns`. False, and none taken, where one of the meters has not so many. Time
    /// that runs backwards earns nothing.
    #[inline]
    pub fn spend(&mut self, hash: u64, now_ns: u64, tokens: [u32; METERS]) -> bool {
        let Self { sets, mask, rates, depths, forgotten, .. } = self;
        let Some(Set(ways)) = sets.get_mut(hash as usize & *mask) else { return true };
        let found = ways.iter().position(|way| way.tag == hash);
        let place = found.unwrap_or_else(|| make_room(ways, rates, now_ns, forgotten));
        let Some(way) = ways.get_mut(place) else { return true };
        if found.is_none() {
            *way = Way { tag: hash, last: now_ns, lacks: [0; METERS] };
        }
        let elapsed = now_ns.saturating_sub(way.last);
        let (mut after, mut passes) = (way.lacks, true);
        for (((lack, &rate), &depth), tokens) in after.iter_mut().zip(&*rates).zip(&*depths).zip(tokens) {
            let earned = lack.saturating_sub(elapsed.saturating_mul(rate));
            let wanted = earned.saturating_add(u64::from(tokens) * UNITS);
            // Without a rate nothing is ever lacking.
            let counts = rate > 0 && tokens > 0;
            passes &= !counts || wanted <= depth;
            *lack = if counts { wanted } else { earned };
        }
        if passes {
            (way.lacks, way.last) = (after, way.last.max(now_ns));
        }
        passes
    }
}

/// The place whose buckets are full first, or are already.
#[inline(never)]
fn make_room(ways: &[Way; WAYS], rates: &[u64; METERS], now: u64, forgotten: &mut u64) -> usize {
    let wait = |way: &Way| {
        let full = way.lacks.iter().zip(rates).map(|(lack, &rate)| lack / rate.max(1)).max().unwrap_or(0);
        way.last.saturating_add(full).saturating_sub(now)
    };
    let mut best = (0, u64::MAX);
    for (place, way) in ways.iter().enumerate() {
        if way.tag == 0 {
            return place;
        }
        let wait = wait(way);
        if wait < best.1 {
            best = (place, wait);
        }
    }
    *forgotten += u64::from(best.1 > 0);
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::meter::PacketMeter;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    const MILLISECOND: u64 = SECOND / 1000;

    fn packets(per_second: u64, burst: u64) -> [Pace; METERS] {
        [Pace { per_second, burst }, Pace::default(), Pace::default()]
    }

    fn ask(sources: &mut Sources, source: u64, now: u64) -> bool {
        let hash = sources.begin(&[source, 0, 0]);
        sources.spend(hash, now, [1, 100, 0])
    }

    #[test]
    fn a_set_is_two_cache_lines() {
        assert_eq!((size_of::<Set>(), align_of::<Set>()), (128, 128));
    }

    proptest! {
        #![proptest_config(crate::table::cases(100))]

        #[test]
        fn each_source_gets_what_a_token_bucket_gives(
            rate in 1..100_000u64, burst in 1..50u64,
            asked in prop::collection::vec((0..4u64, 0..50_000_000u64), 0..300),
        ) {
            let mut sources = Sources::new(64, packets(rate, burst), 7);
            let mut model: Vec<PacketMeter> = (0..4).map(|_| PacketMeter::new(rate, burst)).collect();
            let mut now = SECOND;
            for (source, gap) in asked {
                now += gap;
                prop_assert_eq!(ask(&mut sources, source, now), model[source as usize].allow(now, 1));
            }
        }
    }

    #[test]
    fn all_meters_must_have_tokens_and_a_refusal_takes_none() {
        let paces = [
            Pace { per_second: 1000, burst: 10 },
            Pace { per_second: 8000, burst: 8000 },
            Pace { per_second: 1, burst: 1 },
        ];
        let mut sources = Sources::new(8, paces, 7);
        let hash = sources.begin(&[1, 2, 3]);
        assert!(sources.spend(hash, 0, [1, 8000, 0]));
        assert!(!sources.spend(hash, 0, [1, 1, 0]), "no bits are left");
        assert!(sources.spend(hash, 0, [0, 0, 1]) && !sources.spend(hash, 0, [0, 0, 1]));
        for _ in 0..9 {
            assert!(sources.spend(hash, 0, [1, 0, 0]));
        }
        assert!(!sources.spend(hash, 0, [1, 0, 0]));
        assert!(sources.spend(hash, SECOND, [10, 8000, 1]));
        assert!(!sources.spend(hash, SECOND / 2, [1, 0, 0]), "time that runs backwards earns nothing");
    }

    /// Honest sources within their rate are never refused, however many others there are; and one that is over its rate
    /// gets no more than that, although it does its best to be forgotten.
    #[test]
    fn a_flood_of_random_sources_harms_nobody_and_hides_nobody() {
        const HONEST: u64 = 2000;
        let mut sources = Sources::new(4096, packets(100, 20), 7);
        let bytes = sources.bytes();
        let (mut random, mut heavy, mut seconds) = (1u64 << 40, 0u64, 0);
        for millisecond in 0..5000u64 {
            let now = SECOND + millisecond * MILLISECOND;
            for _ in 0..400 {
                random += 1;
                ask(&mut sources, random, now);
            }
            // Half of their rate, in turn.
            for source in (0..HONEST).filter(|source| source % 20 == millisecond % 20) {
                assert!(ask(&mut sources, source, now), "{source} at {millisecond} ms");
            }
            // Ten times its rate.
            heavy += u64::from(ask(&mut sources, 1 << 50, now));
            seconds = millisecond / 1000 + 1;
        }
        assert!(sources.forgotten() > 0, "the table was full");
        assert!((400..=600).contains(&heavy), "{heavy} packets in {seconds} s");
        assert_eq!(sources.bytes(), bytes);
    }
}
