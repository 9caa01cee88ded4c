//! Routes in service that change while workers run: one [`Writer`] changes them in place, and workers look up meanwhile.
//!
//! A prefix leads to a slot, a slot to a way out, or to several slots side by side among which a flow chooses. A slot is
//! written before any prefix leads to it, and written again only once every worker has begun a poll after the last prefix
//! had left it. Each worker says which [epoch](Fib::epoch) it has seen; it looks up its flows' next hops anew at another one.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::snapshot::Route;
use crate::table::lpm::{Lpm, LpmError, Reader};

/// Slots in all.
const SLOTS: usize = 1 << 16;
/// The most ways among which a route's flows choose.
pub const MOST_WAYS: usize = 64;

/// Why a route is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FibError {
    /// The prefix, or memory for prefixes.
    #[error("{0}")]
    Lpm(#[from] LpmError),
    /// There are 65,536 different ways already, or more than [`MOST_WAYS`] in one route.
    #[error("there are too many different next hops")]
    Ways,
}

/// A way out, and the share of flows that it has of a route, in proportion to others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// Where it leads; not [`Route::Several`].
    pub route: Route,
    /// At least 1.
    pub weight: u16,
}

/// A route's target: kind, interface and weight in a word; the gateway's address in two.
#[derive(Default)]
struct Slot([AtomicU64; 3]);

impl Slot {
    fn store(&self, Way { route, weight }: Way) {
        let (kind, low, address) = match route {
            Route::Connected { interface } => (1, u64::from(interface), 0),
            Route::Via4 { interface, gateway } => (2, interface.into(), gateway.to_bits().into()),
            Route::Via6 { interface, gateway } => (3, interface.into(), gateway.to_bits()),
            Route::Blackhole => (4, 0, 0),
            Route::Unreachable => (5, 0, 0),
            Route::Prohibited => (6, 0, 0),
            Route::Several { first, count } => (7, first.into(), u128::from(count)),
        };
        let head = kind << 56 | u64::from(weight) << 32 | low;
        for (word, value) in self.0.iter().zip([head, address as u64, (address >> 64) as u64]) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn load(&self) -> Option<Way> {
        let [head, low, high] = [0, 1, 2].map(|word| self.0[word].load(Ordering::Relaxed));
        let interface = head as u16;
        let route = match head >> 56 {
            1 => Route::Connected { interface },
            2 => Route::Via4 { interface, gateway: Ipv4Addr::from_bits(low as u32) },
            3 => {
                let gateway = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
                Route::Via6 { interface, gateway }
            }
            4 => Route::Blackhole,
            5 => Route::Unreachable,
            6 => Route::Prohibited,
            7 => Route::Several { first: head as u32, count: low as u16 },
            _ => return None,
        };
        Some(Way { route, weight: (head >> 32) as u16 })
    }
}

/// What workers read.
pub struct Fib {
    v4: Reader<4>,
    v6: Reader<16>,
    slots: Box<[Slot]>,
    epoch: AtomicU32,
    seen: Box<[AtomicU32]>,
}

impl Fib {
    /// The slot of the longest prefix that holds an address.
    #[inline]
    #[must_use]
    pub fn look_up4(&self, address: &[u8; 4]) -> Option<u32> {
        self.v4.lookup(address)
    }

    /// As [`look_up4`](Self::look_up4).
    #[inline]
    #[must_use]
    pub fn look_up6(&self, address: &[u8; 16]) -> Option<u32> {
        self.v6.lookup(address)
    }

    /// As [`Lpm::lookup_burst`].
    #[inline]
    pub fn look_up_burst4(&self, addresses: &[[u8; 4]], results: &mut [u32]) {
        self.v4.lookup_burst(addresses, results);
    }

    /// As [`Lpm::lookup_burst`].
    #[inline]
    pub fn look_up_burst6(&self, addresses: &[[u8; 16]], results: &mut [u32]) {
        self.v6.lookup_burst(addresses, results);
    }

    /// What a slot holds.
    #[inline]
    #[must_use]
    pub fn way(&self, slot: u32) -> Option<Way> {
        self.slots.get(slot as usize)?.load()
    }

    /// All that any route leads to, and perhaps what one led to shortly before.
    pub fn ways(&self) -> impl Iterator<Item = Way> + '_ {
        self.slots.iter().filter_map(Slot::load)
    }

    /// Changes whenever routes have changed.
    #[inline]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// A worker begins a poll: whatever it looked up before is forgotten. Returns the epoch from here on.
    #[inline]
    pub fn begin_poll(&self, worker: usize) -> u32 {
        let epoch = self.epoch();
        if let Some(seen) = self.seen.get(worker) {
            if seen.load(Ordering::Relaxed) != epoch {
                seen.store(epoch, Ordering::Release);
            }
        }
        epoch
    }
}

impl fmt::Debug for Fib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fib").field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

/// The ways of one or more prefixes.
#[derive(Debug)]
struct Target {
    ways: Vec<Way>,
    /// Prefixes that lead there.
    uses: u32,
}

/// What was taken out of the readers' sight by an epoch.
#[derive(Debug)]
struct Retired {
    epoch: u32,
    marks: [u64; 2],
    targets: Vec<u32>,
}

/// The one that changes the routes.
pub struct Writer {
    fib: Arc<Fib>,
    v4: Lpm<4>,
    v6: Lpm<16>,
    targets: HashMap<u32, Target>,
    by_ways: HashMap<Vec<Way>, u32>,
    /// The first slot that was never used; free runs of slots by their length.
    fresh: u32,
    free: HashMap<u32, Vec<u32>>,
    unused: Vec<u32>,
    retired: VecDeque<Retired>,
    changed: bool,
}

impl Writer {
    /// Takes memory for about so many prefixes of IPv4 and IPv6, for so many workers.
    ///
    /// # Errors
    /// More than fit into 128 MiB of each kind.
    pub fn new(prefixes: [usize; 2], workers: usize) -> Result<Self, FibError> {
        let (mut v4, mut v6) = (Lpm::new(), Lpm::new());
        v4.reserve(prefixes[0])?;
        v6.reserve(prefixes[1])?;
        let fib = Fib {
            v4: v4.reader(),
            v6: v6.reader(),
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            epoch: AtomicU32::new(0),
            seen: (0..workers).map(|_| AtomicU32::new(0)).collect(),
        };
        Ok(Self {
            fib: Arc::new(fib),
            v4,
            v6,
            targets: HashMap::new(),
            by_ways: HashMap::new(),
            fresh: 0,
            free: HashMap::new(),
            unused: Vec::new(),
            retired: VecDeque::new(),
            changed: false,
        })
    }

    /// What workers read.
    #[must_use]
    pub fn fib(&self) -> Arc<Fib> {
        self.fib.clone()
    }

    /// How many prefixes there are, of IPv4 and IPv6.
    #[must_use]
    pub fn len(&self) -> [usize; 2] {
        [self.v4.len(), self.v6.len()]
    }

    /// Whether there is no prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == [0; 2]
    }

    /// Memory that workers read, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes() + SLOTS * size_of::<Slot>()
    }

    /// The slot to which a prefix leads.
    fn slot(&self, address: IpAddr, length: u8) -> Option<u32> {
        match address {
            IpAddr::V4(v4) => self.v4.get(v4.octets(), length),
            IpAddr::V6(v6) => self.v6.get(v6.octets(), length),
        }
    }

    /// Leads a prefix by these ways, in place of those that it had. None: it is taken out. Several ways are equal but for
    /// their weights.
    ///
    /// # Errors
    /// See [`FibError`]; then it leads where it did. Memory may be there later, after [`publish`](Self::publish) and
    /// [`reclaim`](Self::reclaim).
    pub fn set(&mut self, address: IpAddr, length: u8, ways: &[Way]) -> Result<(), FibError> {
        let before = self.slot(address, length);
        if ways.is_empty() {
            match address {
                IpAddr::V4(v4) => drop(self.v4.remove(v4.octets(), length)?),
                IpAddr::V6(v6) => drop(self.v6.remove(v6.octets(), length)?),
            }
        } else {
            let slot = self.target(ways)?;
            if before == Some(slot) {
                return Ok(());
            }
            let inserted = match address {
                IpAddr::V4(v4) => self.v4.insert(v4.octets(), length, slot),
                IpAddr::V6(v6) => self.v6.insert(v6.octets(), length, slot),
            };
            if let Err(error) = inserted {
                self.leave(slot, 0);
                return Err(error.into());
            }
            if let Some(target) = self.targets.get_mut(&slot) {
                target.uses += 1;
            }
        }
        if let Some(before) = before {
            self.leave(before, 1);
        }
        self.changed = true;
        Ok(())
    }

    /// So many prefixes less lead to a target.
    fn leave(&mut self, slot: u32, by: u32) {
        let Some(target) = self.targets.get_mut(&slot) else { return };
        target.uses = target.uses.saturating_sub(by);
        if target.uses == 0 {
            self.unused.push(slot);
        }
    }

    /// The slot of these ways, written if it is not there.
    fn target(&mut self, ways: &[Way]) -> Result<u32, FibError> {
        if let Some(&slot) = self.by_ways.get(ways) {
            return Ok(slot);
        }
        if ways.len() > MOST_WAYS {
            return Err(FibError::Ways);
        }
        let length = if ways.len() == 1 { 1 } else { ways.len() as u32 + 1 };
        let slot = self.take(length)?;
        let put = |slot: u32, way: Way| {
            if let Some(place) = self.fib.slots.get(slot as usize) {
                place.store(way);
            }
        };
        match ways {
            [one] => put(slot, *one),
            several => {
                let count = several.len() as u16;
                put(slot, Way { route: Route::Several { first: slot + 1, count }, weight: 1 });
                (slot + 1..).zip(several).for_each(|(slot, way)| put(slot, *way));
            }
        }
        self.by_ways.insert(ways.to_vec(), slot);
        self.targets.insert(slot, Target { ways: ways.to_vec(), uses: 0 });
        Ok(slot)
    }

    fn take(&mut self, length: u32) -> Result<u32, FibError> {
        if let Some(slot) = self.free.get_mut(&length).and_then(Vec::pop) {
            return Ok(slot);
        }
        let slot = self.fresh;
        if (slot + length) as usize > SLOTS {
            return Err(FibError::Ways);
        }
        self.fresh += length;
        Ok(slot)
    }

    /// Lets workers know that routes have changed, if they have. They see each change at once, and at the next poll look up
    /// anew what they know of their flows.
    pub fn publish(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let epoch = self.fib.epoch.load(Ordering::Relaxed).wrapping_add(1);
        self.fib.epoch.store(epoch, Ordering::Release);
        let marks = [self.v4.retired(), self.v6.retired()];
        let mut targets = std::mem::take(&mut self.unused);
        // One that has been led to again meanwhile stays.
        targets.sort_unstable();
        targets.dedup();
        targets.retain(|slot| self.targets.get(slot).is_some_and(|target| target.uses == 0));
        for slot in &targets {
            if let Some(target) = self.targets.get(slot) {
                self.by_ways.remove(&target.ways);
            }
        }
        self.retired.push_back(Retired { epoch, marks, targets });
    }

    /// Frees what no worker can see any more.
    pub fn reclaim(&mut self) {
        while let Some(oldest) = self.retired.front() {
            let epoch = oldest.epoch;
            let has_passed = |seen: &AtomicU32| seen.load(Ordering::Acquire).wrapping_sub(epoch) as i32 >= 0;
            if !self.fib.seen.iter().all(has_passed) {
                return;
            }
            let Some(Retired { marks, targets, .. }) = self.retired.pop_front() else { return };
            self.v4.reclaim(marks[0]);
            self.v6.reclaim(marks[1]);
            for slot in targets {
                let Some(target) = self.targets.remove(&slot) else { continue };
                let length = if target.ways.len() == 1 { 1 } else { target.ways.len() as u32 + 1 };
                self.free.entry(length).or_default().push(slot);
            }
        }
    }

    /// Whether something waits for a worker to pass.
    #[must_use]
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("prefixes", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(interface: u16, last: u8) -> Way {
        Way { route: Route::Via4 { interface, gateway: [192, 0, 2, last].into() }, weight: u16::from(last) }
    }

    #[test]
    fn slots_hold_what_was_stored() {
        let gateway = "2001:db8::1:2".parse().unwrap();
        for route in [
            Route::Connected { interface: 7 },
            Route::Via4 { interface: 65_534, gateway: [255, 0, 0, 1].into() },
            Route::Via6 { interface: 3, gateway },
            Route::Blackhole,
            Route::Unreachable,
            Route::Prohibited,
            Route::Several { first: 65_000, count: 64 },
        ] {
            let (slot, way) = (Slot::default(), Way { route, weight: 256 });
            assert_eq!(slot.load(), None);
            slot.store(way);
            assert_eq!(slot.load(), Some(way));
        }
    }

    #[test]
    fn a_slot_is_used_again_once_every_worker_has_passed() {
        let mut writer = Writer::new([100, 100], 2).unwrap();
        let fib = writer.fib();
        let to = |last: u8| IpAddr::from([10, 0, 0, last]);
        writer.set(to(0), 24, &[via(0, 1), via(1, 2)]).unwrap();
        writer.set(to(0), 25, &[via(0, 1), via(1, 2)]).unwrap();
        writer.publish();
        let slot = fib.look_up4(&[10, 0, 0, 1]).unwrap();
        assert_eq!(fib.way(slot).unwrap().route, Route::Several { first: slot + 1, count: 2 });
        assert_eq!(fib.way(slot + 2), Some(via(1, 2)));
        writer.set(to(0), 25, &[]).unwrap();
        writer.set(to(0), 24, &[via(1, 2)]).unwrap();
        writer.publish();
        assert_ne!(fib.look_up4(&[10, 0, 0, 1]), Some(slot));
        fib.begin_poll(0);
        writer.reclaim();
        assert!(writer.has_retired());
        writer.set(to(9), 32, &[via(2, 1), via(2, 2)]).unwrap();
        assert_ne!(fib.look_up4(&[10, 0, 0, 9]), Some(slot));
        fib.begin_poll(1);
        writer.reclaim();
        writer.set(to(8), 32, &[via(2, 3), via(2, 4)]).unwrap();
        assert_eq!(fib.look_up4(&[10, 0, 0, 8]), Some(slot));
    }

    #[test]
    fn ways_that_come_back_before_they_are_forgotten_are_the_same() {
        let mut writer = Writer::new([100, 100], 0).unwrap();
        let to = IpAddr::from([10, 0, 0, 0]);
        writer.set(to, 24, &[via(0, 1)]).unwrap();
        let slot = writer.slot(to, 24);
        for _ in 0..3 {
            writer.set(to, 24, &[via(0, 2)]).unwrap();
            writer.set(to, 24, &[via(0, 1)]).unwrap();
            assert_eq!(writer.slot(to, 24), slot);
        }
        writer.publish();
        writer.reclaim();
        assert_eq!(writer.fib().look_up4(&[10, 0, 0, 1]), slot);
        assert_eq!(writer.fib().way(slot.unwrap()), Some(via(0, 1)));
        // Beyond what is configured there is an error, and all stays.
        let many: Vec<Way> = (0..=MOST_WAYS as u8).map(|last| via(0, last)).collect();
        assert_eq!(writer.set(to, 24, &many), Err(FibError::Ways));
        assert_eq!(writer.slot(to, 24), slot);
    }
}
