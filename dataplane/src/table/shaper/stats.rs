//! What is counted for each node.

use super::{NodeId, Shaper};
use crate::table::prefetch::prefetch_at;

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// No room: all slots that the class may take are taken, and it is the fattest itself, or nobody is fat; or there is no
    /// such class.
    Full,
    /// Its class held as many as it may.
    Limit,
    /// It made room for another's: it waited in the fattest queue.
    Fattest,
    /// As [`Fattest`](Self::Fattest), because the caller said that buffers are low.
    Shed,
    /// CoDel: its queue has been too long for too long.
    Codel,
    /// There is no room for another host.
    Hosts,
}

/// Causes that there are.
pub const CAUSES: usize = 6;

/// What leaves a node is counted here, on half a cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub(super) struct Counts {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) borrowed: u64,
    pub(super) marks: u64,
}

/// What has become of a node's packets, those of its children included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sent.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// How many of these were beyond its guaranteed rate.
    pub borrowed_bytes: u64,
    /// Packets with a mark of congestion that was set here.
    pub marks: u64,
    /// Packets dropped, by [`Cause`].
    pub drops: [u64; CAUSES],
    /// Packets that wait.
    pub backlog_packets: u64,
    /// Their bytes on the wire.
    pub backlog_bytes: u64,
}

/// Parts of a doubling.
const PARTS: u32 = 4;
/// Below this many nanoseconds all are one bucket: a power of two.
const SHORTEST: u32 = 10;
/// From this power of two on, 69 seconds, likewise.
const LONGEST: u32 = 36;
const BUCKETS: usize = ((LONGEST - SHORTEST) * PARTS + 2) as usize;

/// How long packets have waited: four buckets for each doubling, from a microsecond to a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Modulo 2^32, so that the difference of two times is right.
    counts: [u32; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    pub(super) const fn new() -> Self {
        Self { counts: [0; BUCKETS] }
    }

    #[inline]
    fn bucket(waited: u64) -> usize {
        let power = waited.max(1).ilog2();
        if power < SHORTEST {
            return 0;
        }
        let part = (waited >> (power - PARTS.ilog2())) as u32 % PARTS;
        (((power - SHORTEST) * PARTS + part + 1) as usize).min(BUCKETS - 1)
    }

    /// The longest wait of a bucket, ns.
    fn end(bucket: usize) -> u64 {
        let Some(part) = (bucket as u32).checked_sub(1) else { return (1 << SHORTEST) - 1 };
        let power = SHORTEST + part / PARTS;
        (1 << power) + (u64::from(part % PARTS + 1) << (power - PARTS.ilog2())) - 1
    }

    #[inline(always)]
    fn record(&mut self, bucket: usize) {
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.wrapping_add(1);
        }
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts;
        counts.iter_mut().zip(&earlier.counts).for_each(|(now, then)| *now = now.wrapping_sub(*then));
        Self { counts }
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, other)| *own = own.wrapping_add(*other));
    }

    /// The wait in ns, rounded up by a quarter at most, that `permille` of the packets did not exceed; `None` if there were none.
    #[must_use]
    pub fn quantile(&self, permille: u32) -> Option<u64> {
        let all: u64 = self.counts.iter().map(|&count| u64::from(count)).sum();
        let wanted = (all * u64::from(permille.min(1000))).div_ceil(1000).max(1);
        let mut seen = 0;
        let reached = self.counts.iter().position(|&count| {
            seen += u64::from(count);
            seen >= wanted
        });
        reached.map(Self::end)
    }
}

/// Waits that are yet to be recorded, while what is counted there is fetched.
pub(super) struct Waits {
    /// Class, by place, and bucket.
    waits: [(u32, u32); 32],
    len: usize,
}

impl Waits {
    pub(super) fn new() -> Self {
        Self { waits: [(0, 0); 32], len: 0 }
    }

    /// Notes that a packet of a class has waited so long.
    #[inline(always)]
    pub(super) fn note(&mut self, sojourns: &mut [Histogram], place: u32, waited: u64) {
        let bucket = Histogram::bucket(waited);
        if let Some(of) = sojourns.get(place as usize) {
            prefetch_at(&of.counts, bucket);
        }
        if let Some(wait) = self.waits.get_mut(self.len) {
            *wait = (place, bucket as u32);
        }
        self.len += 1;
        if self.len == self.waits.len() {
            self.record(sojourns);
        }
    }

    /// Records them.
    #[inline]
    pub(super) fn record(&mut self, sojourns: &mut [Histogram]) {
        for &(place, bucket) in self.waits.iter().take(std::mem::take(&mut self.len)) {
            if let Some(of) = sojourns.get_mut(place as usize) {
                of.record(bucket as usize);
            }
        }
    }
}

impl<T> Shaper<T> {
    /// What has become of the packets of a class, or of all by [`ROOT`](super::ROOT). For one with other classes in it this takes
    /// a time in proportion to how many there are.
    #[must_use]
    pub fn stats(&self, node: NodeId) -> Option<Stats> {
        let id = node.0 as usize;
        self.nodes[..self.configured as usize].get(id)?;
        let (sent, drops) = (self.sent.get(id)?, self.drops.get(id)?);
        let mut stats = Stats {
            packets: sent.packets,
            bytes: sent.bytes,
            borrowed_bytes: sent.borrowed,
            marks: sent.marks,
            drops: *drops,
            ..Stats::default()
        };
        for class in self.leaves(node) {
            stats.backlog_packets += u64::from(class.1.used);
            stats.backlog_bytes += class.1.bytes;
        }
        Some(stats)
    }

    /// Bytes on the wire that a class, or the port, has sent.
    #[must_use]
    pub fn sent_bytes(&self, node: NodeId) -> u64 {
        self.sent.get(node.0 as usize).map_or(0, |sent| sent.bytes)
    }

    /// What has become of the packets of a host that is known. Takes a time in proportion to the number of its flows.
    #[must_use]
    pub fn host_stats(&self, class: NodeId, host: u128) -> Option<Stats> {
        let place = self.nodes.get(class.0 as usize)?.class;
        let id = self.find_host(place, host, self.host_hash(place, host))? as usize;
        let (node, sent) = (self.nodes.get(id)?, self.sent.get(id)?);
        Some(Stats {
            packets: sent.packets,
            bytes: sent.bytes,
            borrowed_bytes: sent.borrowed,
            marks: sent.marks,
            drops: *self.drops.get(id)?,
            backlog_packets: node.packets.into(),
            backlog_bytes: self.flows.bytes_of(node.fresh) + self.flows.bytes_of(node.stale),
        })
    }

    /// How long packets of a class have waited that were sent.
    #[must_use]
    pub fn sojourns(&self, node: NodeId) -> Histogram {
        let mut all = Histogram::new();
        for (place, _) in self.leaves(node) {
            all.add(&self.sojourns[place]);
        }
        all
    }

    /// The classes within a node in which packets wait, itself perhaps.
    fn leaves(&self, node: NodeId) -> impl Iterator<Item = (usize, &super::config::Class)> {
        let is_in = move |id: NodeId| self.parents(id.0).any(|up| up == node.0);
        self.classes.iter().enumerate().filter(move |(_, class)| is_in(class.node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_to_within_a_quarter() {
        for shift in 10..36 {
            for waited in [1u64 << shift, (1 << shift) + 1, (1 << shift) * 3 / 2, (2 << shift) - 1] {
                let end = Histogram::end(Histogram::bucket(waited));
                assert!(end >= waited && end - waited <= waited / 4, "{waited} {end}");
            }
        }
        assert_eq!([0, 1, 1023, 1024, u64::MAX].map(Histogram::bucket), [0, 0, 0, 1, BUCKETS - 1]);
    }

    #[test]
    fn quantiles_are_of_what_was_recorded_since() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(500), None);
        histogram.record(Histogram::bucket(1 << 30));
        let before = histogram.clone();
        for wait in 1..=100 {
            histogram.record(Histogram::bucket(wait * 1_000_000));
        }
        let since = histogram.since(&before);
        let [half, most] = [500, 990].map(|permille| since.quantile(permille).unwrap());
        assert!((50_000_000..62_500_000).contains(&half), "{half}");
        assert!((99_000_000..124_000_000).contains(&most), "{most}");
    }
}
