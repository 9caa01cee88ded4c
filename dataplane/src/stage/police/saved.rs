//! Limits for the process that takes over: what they counted, and what is left in their buckets. Limits that are more than a bucket
//! go on counting with full buckets and no meters.

use super::{Limiters, asked};
use crate::counters::{Count, LimitCount};
use crate::saved::{Saved, Tag, Writer};
use crate::snapshot::Snapshot;

impl Limiters {
    /// Writes a section.
    pub(crate) fn save(&self, snapshot: &Snapshot, writer: &mut Writer) {
        writer.section(Tag::Limits);
        for ((limit, limiter), count) in snapshot.limits.iter().zip(&self.all).zip(self.counts()) {
            writer.record(|fields| {
                let (credit, last) = limiter.meter.saved();
                fields.bytes(limit.name.as_bytes()).u64(limit.rate.bits_per_second).u64(limit.burst);
                fields.u8(limit.policer.is_some().into()).u64(credit).u64(last);
                let [green, yellow, red] = count.colors;
                for Count { packets, bytes } in [count.passed, count.dropped, green, yellow, red] {
                    fields.u64(packets).u64(bytes);
                }
            });
        }
    }

    /// Goes on with limits of the same names; with their buckets, if they are of the same figures.
    pub(crate) fn restore(&mut self, saved: &Saved<'_>, snapshot: &Snapshot) {
        let mut is_free = vec![true; snapshot.limits.len()];
        for mut record in saved.section(Tag::Limits) {
            let name = record.text();
            let named = |(limit, is_free): (&crate::snapshot::Limit, &bool)| *is_free && limit.name == name;
            let Some(at) = snapshot.limits.iter().zip(&is_free).position(named) else { continue };
            is_free[at] = false;
            let limit = &snapshot.limits[at];
            let figures = (record.u64(), record.u64(), record.u8() != 0);
            let bucket = (record.u64(), record.u64());
            let mut next = || Count { packets: record.u64(), bytes: record.u64() };
            let (passed, dropped, colors) = (next(), next(), [next(), next(), next()]);
            let count = LimitCount { passed, dropped, colors, ..LimitCount::default() };
            if let Some(limiter) = self.all.get_mut(at) {
                (limiter.passed, limiter.dropped) = (count.passed, count.dropped);
                if figures == (limit.rate.bits_per_second, limit.burst, limit.policer.is_some()) {
                    limiter.meter.go_on(bucket);
                }
            }
            if let Some(Some(metered)) = self.metered.get_mut(at) {
                metered.go_on(&count, None);
            }
        }
        let Self { all, metered, shares } = self;
        if let Some(shares) = shares {
            shares.begin(|limit| asked(all, metered, limit));
        }
    }
}
