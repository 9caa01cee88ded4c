//! One shaped rate for several workers: each has a shaper of its own, whose rates are its parts.
//!
//! Each worker publishes what each class wants here, of late and with what waits, and reads the others' every few
//! milliseconds. All reckon alike what each class gets of the whole ([`allocate`]); a worker's part of a class's rate is the
//! share of that which its own packets ask for, and an equal part of what nobody asks for. The parts together are the rate,
//! at the port and at every class within.

use std::sync::atomic::Ordering;

use super::allocate::{Share, allocate};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::crossing::Offered;
use crate::snapshot::{Class, Snapshot};
use crate::stage::owner::MOST_WORKERS;
use crate::table::meter::Rate;

/// How often the parts are reckoned anew.
const INTERVAL: Nanos = 4 * MILLISECOND;
/// Over how long a wish is averaged, and in which what waits should be gone.
const MEMORY: Nanos = 20 * MILLISECOND;
/// What a worker without a wish gets, of an equal part.
const IDLE_PART: u64 = 64;

/// By worker.
type ByWorker = [u64; MOST_WORKERS];

/// One worker's view of what all want.
#[derive(Debug)]
pub(super) struct Parts {
    me: usize,
    workers: usize,
    /// Bits per second, by worker and class.
    wants: Offered,
    last: Nanos,
    /// By class: bytes as last seen, and bits per second of late.
    offers: Vec<(u64, u64)>,
    shares: Vec<Share>,
    gets: Vec<ByWorker>,
}

/// What a worker may use of a class, or of the port: bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// In any case.
    pub(super) guaranteed: u64,
    /// At most.
    pub(super) max: u64,
}

impl Parts {
    /// For worker `me` of those that publish in `wants`.
    pub(super) fn new(me: usize, wants: Offered, snapshot: &Snapshot) -> Self {
        let classes = snapshot.classes.len();
        let workers = wants.len().clamp(1, MOST_WORKERS);
        let share = |(index, class): (usize, &Class)| {
            let bits = |rate: Option<Rate>| rate.map(|rate| rate.bits_per_second);
            Share {
                parent: class.parent,
                holds: snapshot.classes.iter().any(|other| other.parent == Some(index as u16)),
                priority: class.priority,
                weight: class.rate.weight,
                guaranteed: bits(class.rate.guaranteed).unwrap_or(0),
                max: bits(class.rate.max).unwrap_or(u64::MAX),
                ..Share::default()
            }
        };
        Self {
            me,
            workers,
            wants,
            last: 0,
            offers: vec![(0, 0); classes],
            shares: snapshot.classes.iter().enumerate().map(share).collect(),
            gets: vec![[0; MOST_WORKERS]; classes],
        }
    }

    /// How long it has been since the parts were reckoned, if that is to be done again.
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        now.saturating_sub(self.last) >= INTERVAL
    }

    /// What was offered to a class of late goes on in another configuration.
    pub(super) fn carry(&mut self, old: &Self, class_of: &[u16]) {
        self.last = old.last;
        for (offer, &new) in old.offers.iter().zip(class_of) {
            if let Some(carried) = self.offers.get_mut(usize::from(new)) {
                *carried = *offer;
            }
        }
    }

    /// Publishes what each class wants here: `state` tells of a class that packets wait in how many bytes it was given so
    /// far, and how many wait.
    pub(super) fn publish(&mut self, now: Nanos, mut state: impl FnMut(u16) -> (u64, u64)) {
        let elapsed = now.saturating_sub(self.last).clamp(1, SECOND);
        self.last = now;
        let Some(row) = self.wants.get(self.me) else { return };
        for ((class, offer), published) in (0..).zip(&mut self.offers).zip(&row.0) {
            let (given, waiting) = state(class);
            let per_second =
                |bytes: u64, time: Nanos| u128::from(bytes) * 8 * u128::from(SECOND) / u128::from(time);
            let new = per_second(given.saturating_sub(offer.0), elapsed);
            let (memory, time) = (u128::from(MEMORY), u128::from(elapsed));
            offer.0 = given;
            offer.1 = ((u128::from(offer.1) * memory + new * time) / (memory + time)) as u64;
            let wants = offer.1.saturating_add(per_second(waiting, MEMORY) as u64);
            published.store(wants, Ordering::Relaxed);
        }
    }

    /// Reckons this worker's parts of a shaper, whose classes are those from `first` on: of the port, and of each class.
    pub(super) fn reckon(
        &mut self,
        rate: u64,
        classes: std::ops::Range<usize>,
        mut each: impl FnMut(Option<u16>, Part),
    ) {
        let first = classes.start;
        let Some(shares) = self.shares.get_mut(classes.clone()) else { return };
        let Some(gets) = self.gets.get_mut(classes) else { return };
        let wants = |worker: usize, index: usize| {
            self.wants
                .get(worker)
                .and_then(|row| row.0.get(first + index))
                .map_or(0, |n| n.load(Ordering::Relaxed))
        };
        // Parents are named by their place among all; here, among these.
        for share in shares.iter_mut() {
            share.parent = share.parent.map(|parent| parent - first as u16);
        }
        for (index, (share, gets)) in shares.iter_mut().zip(gets.iter_mut()).enumerate() {
            *gets =
                std::array::from_fn(|worker| if worker < self.workers { wants(worker, index) } else { 0 });
            share.wants = gets.iter().fold(0, |sum, &wants| sum.saturating_add(wants));
        }
        let left = split(shares, gets, rate);
        let mut whole = [0; MOST_WORKERS];
        for (share, gets) in shares.iter().zip(gets.iter()) {
            if share.parent.is_none() {
                whole.iter_mut().zip(gets).for_each(|(sum, gets)| *sum += gets);
            }
        }
        each(None, Part { guaranteed: 0, max: part(&whole, left, rate, self.me, self.workers) });
        for (index, (share, gets)) in shares.iter_mut().zip(gets.iter()).enumerate() {
            let got = share.gets;
            let of = |bound: u64| match bound {
                0 | u64::MAX => bound,
                bound => part(gets, bound.saturating_sub(got), bound, self.me, self.workers),
            };
            each(Some((first + index) as u16), Part { guaranteed: of(share.guaranteed), max: of(share.max) });
            share.parent = share.parent.map(|parent| parent + first as u16);
        }
    }
}

/// Shares the rate out among classes, and what each gets among workers by what they want. Returns what nobody asks for.
fn split(shares: &mut [Share], gets: &mut [ByWorker], rate: u64) -> u64 {
    let left = allocate(shares, rate);
    for index in (0..shares.len()).rev() {
        let (Some(share), Some(wants)) = (shares.get(index).copied(), gets.get(index).copied()) else {
            continue;
        };
        let total: u128 = wants.iter().map(|&wants| u128::from(wants)).sum();
        let portions: ByWorker = wants
            .map(|wants| (u128::from(share.gets) * u128::from(wants)).checked_div(total).unwrap_or(0) as u64);
        if let Some(gets) = gets.get_mut(index).filter(|_| !share.holds) {
            *gets = portions;
        }
        let Some(portions) = gets.get(index).copied() else { continue };
        let parent = share.parent.and_then(|parent| gets.get_mut(usize::from(parent)));
        if let Some(parent) = parent {
            parent.iter_mut().zip(portions).for_each(|(sum, portion)| *sum += portion);
        }
    }
    left
}

/// Worker `me`'s part of a bound, by what each gets, and an equal part of what is left.
fn part(gets: &ByWorker, left: u64, bound: u64, me: usize, workers: usize) -> u64 {
    let workers = workers.max(1);
    let least = bound / workers as u64 / IDLE_PART;
    let of = |gets: u64| gets.saturating_add(left / workers as u64).max(least);
    let sum: u128 = gets.iter().take(workers).map(|&gets| u128::from(of(gets))).sum();
    let ours = gets.get(me).map_or(0, |&gets| of(gets));
    (u128::from(bound) * u128::from(ours) / sum.max(1)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crossing::offered;
    use crate::snapshot::ClassRate;

    const M: u64 = 1_000_000;

    fn class(parent: Option<u16>, guaranteed: u64, max: u64) -> Class {
        let rate = |bits| Some(Rate { bits_per_second: bits }).filter(|_| bits > 0);
        let rate = ClassRate { guaranteed: rate(guaranteed), max: rate(max), ..ClassRate::default() };
        Class { parent, rate, ..Class::default() }
    }

    /// Two of office, one beside it; what they want at each of the workers.
    fn parts(wants: &[[u64; 4]]) -> Vec<Vec<(Option<u16>, Part)>> {
        let classes =
            vec![class(None, 0, 50 * M), class(Some(0), 5 * M, 0), class(Some(0), 0, 0), class(None, 0, 0)];
        let snapshot = Snapshot { classes, ..Snapshot::default() };
        let published = offered(wants.len(), 4);
        let mut all: Vec<Parts> =
            (0..wants.len()).map(|me| Parts::new(me, published.clone(), &snapshot)).collect();
        for (row, wants) in published.iter().zip(wants) {
            row.0.iter().zip(wants).for_each(|(slot, wants)| slot.store(*wants, Ordering::Relaxed));
        }
        let reckon = |parts: &mut Parts| {
            let mut found = Vec::new();
            parts.reckon(100 * M, 0..4, |class, part| found.push((class, part)));
            found
        };
        all.iter_mut().map(reckon).collect()
    }

    #[test]
    fn the_parts_are_the_whole_at_every_class() {
        let cases: [&[[u64; 4]]; 4] = [
            &[[0; 4], [0; 4]],
            &[[0, 5 * M, 0, 0], [0, 0, 900 * M, 900 * M]],
            &[[0, M, M, M], [0, M, 0, 0], [0, 0, 0, 20 * M]],
            &[[0, 0, 0, 900 * M], [0, 0, 0, 0]],
        ];
        for wants in cases {
            let parts = parts(wants);
            for (place, bound) in [(0, 100 * M), (1, 50 * M)] {
                let sum: u64 = parts.iter().map(|of| of[place].1.max).sum();
                assert!(sum <= bound && sum + 16 > bound, "{wants:?}: {sum}");
            }
            let guaranteed: u64 = parts.iter().map(|of| of[2].1.guaranteed).sum();
            assert!(guaranteed <= 5 * M && guaranteed + 16 > 5 * M, "{wants:?}: {guaranteed}");
            assert!(parts.iter().flatten().all(|(class, part)| class.is_none() || part.max > 0));
        }
    }

    #[test]
    fn a_small_class_gets_what_it_needs_where_it_is_however_much_is_wanted_elsewhere() {
        let parts = parts(&[[0, 5 * M, 0, 0], [0, 0, 900 * M, 900 * M]]);
        let of = |worker: usize, place: usize| parts[worker][place].1;
        assert!(of(0, 0).max >= 5 * M && of(0, 1).max >= 5 * M, "{parts:?}");
        assert!(of(0, 2).guaranteed > 49 * M / 10);
        assert!(of(1, 0).max > 93 * M && of(1, 1).max > 44 * M, "{parts:?}");
    }

    #[test]
    fn what_is_wanted_of_late_is_published() {
        let snapshot = Snapshot { classes: vec![class(None, 0, 0)], ..Snapshot::default() };
        let published = offered(2, 1);
        let mut parts = Parts::new(1, published.clone(), &snapshot);
        let mut at = |now: Nanos, state: (u64, u64)| {
            assert!(parts.is_due(now));
            parts.publish(now, |_| state);
            published[1].0[0].load(Ordering::Relaxed)
        };
        let last = (1..=100).map(|i| at(i * INTERVAL, (i * 5000, 0))).last().unwrap();
        assert!((99 * M / 10..=10 * M).contains(&last), "5,000 bytes in 4 ms are 10 Mbit/s: {last}");
        let waiting = at(101 * INTERVAL, (505_000, 25_000));
        assert!(
            (199 * M / 10..=20 * M).contains(&waiting),
            "and 25,000 that wait are as much again: {waiting}"
        );
    }
}
