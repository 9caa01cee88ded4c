//! How a worker's loop goes: numbers that the worker alone writes, and that anybody may read at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::burst::BURST;
use crate::clock::tsc;
use crate::probe::Probe;

/// Sums since the worker's start. [`tsc`] says what a tick is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// Turns of the loop.
    pub turns: u64,
    /// Packets taken from ports.
    pub packets: u64,
    /// Ticks of turns in which there was something to do.
    pub busy: u64,
    /// Ticks of all other turns, those asleep among them.
    pub idle: u64,
    /// Ticks asleep, of an adaptive worker.
    pub asleep: u64,
    /// Bursts by how many packets a port gave at once; those of none are not counted.
    pub bursts: [u64; BURST + 1],
    /// Turns by how many ticks they took, from the end of the one before on, at the [`place`] of that number.
    pub lengths: [u64; LENGTHS],
}

/// Places of [`Turns::lengths`]: up to 2^32 ticks, some seconds.
pub const LENGTHS: usize = (32 - STEPS.ilog2() as usize + 1) * STEPS as usize;
/// Places between a power of two and the next, so that each is an eighth wide.
const STEPS: u64 = 8;

/// Where a number of ticks is counted; more than there are places for at the last. Places rise with the ticks, and each power of
/// two begins one.
#[inline]
pub fn place(ticks: u64) -> usize {
    let above = ticks.max(STEPS).ilog2() - STEPS.ilog2();
    ((u64::from(above) * STEPS + (ticks >> above)) as usize).min(LENGTHS - 1)
}

/// The least number of ticks that is counted at a place.
pub fn least(place: usize) -> u64 {
    let place = place as u64;
    match (place / STEPS).checked_sub(1) {
        Some(above) => (STEPS + place % STEPS) << above,
        None => place,
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            turns: 0,
            packets: 0,
            busy: 0,
            idle: 0,
            asleep: 0,
            bursts: [0; BURST + 1],
            lengths: [0; LENGTHS],
        }
    }
}

impl Turns {
    /// What has come since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut bursts = self.bursts;
        bursts.iter_mut().zip(earlier.bursts).for_each(|(count, before)| *count = count.wrapping_sub(before));
        let mut lengths = self.lengths;
        lengths
            .iter_mut()
            .zip(earlier.lengths)
            .for_each(|(count, before)| *count = count.wrapping_sub(before));
        Self {
            turns: self.turns.wrapping_sub(earlier.turns),
            packets: self.packets.wrapping_sub(earlier.packets),
            busy: self.busy.wrapping_sub(earlier.busy),
            idle: self.idle.wrapping_sub(earlier.idle),
            asleep: self.asleep.wrapping_sub(earlier.asleep),
            bursts,
            lengths,
        }
    }
}

#[derive(Debug)]
struct Cells {
    thread: AtomicU32,
    /// As in [`Turns`].
    sums: [AtomicU64; 5],
    bursts: [AtomicU64; BURST + 1],
    lengths: [AtomicU64; LENGTHS],
}

/// The reader's end.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Cells>);

impl Pulse {
    /// The kernel's number of the worker's thread; zero before it runs.
    pub fn thread(&self) -> u32 {
        self.0.thread.load(Relaxed)
    }

    /// The sums now. Each is true, but they are not of one moment.
    pub fn turns(&self) -> Turns {
        let [turns, packets, busy, idle, asleep] =
            std::array::from_fn(|i| self.0.sums.get(i).map_or(0, |sum| sum.load(Relaxed)));
        let bursts = std::array::from_fn(|i| self.0.bursts.get(i).map_or(0, |count| count.load(Relaxed)));
        let lengths = std::array::from_fn(|i| self.0.lengths.get(i).map_or(0, |count| count.load(Relaxed)));
        Turns { turns, packets, busy, idle, asleep, bursts, lengths }
    }
}

/// The worker's end. As a [`Probe`] it counts bursts.
#[derive(Debug)]
pub struct Meter {
    cells: Arc<Cells>,
    /// Ticks at the end of the last turn.
    last: u64,
    sums: Turns,
}

/// Makes the two ends.
pub fn channel() -> (Meter, Pulse) {
    let cells = Arc::new(Cells {
        thread: AtomicU32::new(0),
        sums: Default::default(),
        bursts: [const { AtomicU64::new(0) }; BURST + 1],
        lengths: [const { AtomicU64::new(0) }; LENGTHS],
    });
    (Meter { cells: cells.clone(), last: tsc::now(), sums: Turns::default() }, Pulse(cells))
}

impl Meter {
    /// The loop begins, on the calling thread.
    pub fn begin(&mut self) {
        self.last = tsc::now();
        // A link such as `1204/task/1207`.
        let link = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        let thread = link.file_name().and_then(|name| name.to_str()?.parse().ok());
        self.cells.thread.store(thread.unwrap_or(0), Relaxed);
    }

    /// A turn ends, in which there was something to do or not.
    #[inline]
    pub fn turn(&mut self, busy: bool) {
        let ticks = self.lap();
        self.sums.turns += 1;
        *if busy { &mut self.sums.busy } else { &mut self.sums.idle } += ticks;
        let place = place(ticks);
        if let (Some(count), Some(cell)) = (self.sums.lengths.get_mut(place), self.cells.lengths.get(place)) {
            *count += 1;
            cell.store(*count, Relaxed);
        }
        self.publish();
    }

    /// The worker has slept since its turn ended.
    #[inline]
    pub fn slept(&mut self) {
        let ticks = self.lap();
        self.sums.idle += ticks;
        self.sums.asleep += ticks;
    }

    fn lap(&mut self) -> u64 {
        let now = tsc::now();
        now.wrapping_sub(std::mem::replace(&mut self.last, now))
    }

    fn publish(&mut self) {
        let Turns { turns, packets, busy, idle, asleep, .. } = self.sums;
        for (cell, sum) in self.cells.sums.iter().zip([turns, packets, busy, idle, asleep]) {
            cell.store(sum, Relaxed);
        }
    }
}

impl Probe for Meter {
    #[inline]
    fn burst(&mut self, packets: usize) {
        if packets == 0 {
            return;
        }
        self.sums.packets += packets as u64;
        if let (Some(count), Some(cell)) = (self.sums.bursts.get_mut(packets), self.cells.bursts.get(packets))
        {
            *count += 1;
            cell.store(*count, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_worker_counts_is_read() {
        let (mut meter, pulse) = channel();
        assert_eq!((pulse.thread(), pulse.turns()), (0, Turns::default()));
        meter.begin();
        meter.burst(64);
        meter.burst(0);
        meter.turn(true);
        let first = pulse.turns();
        assert_eq!((first.turns, first.packets, first.bursts[64], first.bursts[0]), (1, 64, 1, 0));
        assert!(first.busy > 0 && first.idle == 0);
        assert_eq!((first.lengths.iter().sum::<u64>(), first.lengths[place(first.busy)]), (1, 1));
        meter.burst(3);
        meter.slept();
        meter.turn(false);
        let then = pulse.turns().since(&first);
        assert_eq!((then.turns, then.packets, then.bursts[3], then.busy), (1, 3, 1, 0));
        assert!(then.idle >= then.asleep && then.asleep > 0);
        assert!(std::path::Path::new(&format!("/proc/self/task/{}", pulse.thread())).exists());
    }

    #[test]
    fn places_are_an_eighth_wide_and_rise() {
        assert_eq!((place(0), place(1), place(15), place(u64::MAX)), (0, 1, 15, LENGTHS - 1));
        for at in 0..LENGTHS {
            let (first, next) = (least(at), least(at + 1));
            assert!(first < next && (next - first) * STEPS <= first.max(STEPS));
            assert_eq!((place(first), place(next - 1)), (at, at));
        }
        assert!((3..32).all(|power| least(place(1 << power)) == 1 << power));
    }
}
