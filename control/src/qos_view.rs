//! Shapers and their classes, as listings have them.

use serde_json::{Map, Value, json};
use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::stage::shape::ClassRow;
use sluice_dataplane::table::meter::Rate;
use sluice_dataplane::table::shaper::Cause;

use crate::config::code_point_name;

/// The words for why packets were dropped; those of the drop reasons.
pub(crate) const CAUSES: [(&str, &[Cause]); 5] = [
    ("full", &[Cause::Full, Cause::Fattest]),
    ("class_full", &[Cause::Limit]),
    ("hosts", &[Cause::Hosts]),
    ("delay", &[Cause::Codel]),
    ("frames", &[Cause::Shed]),
];

/// What all workers say of each class, added up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) bits_per_second: u64,
    pub(crate) borrowed_per_second: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) marks: u64,
    pub(crate) drops: [u64; CAUSES.len()],
    pub(crate) backlog_packets: u64,
    pub(crate) backlog_bytes: u64,
    pub(crate) wait_p50: Option<Nanos>,
    pub(crate) wait_p99: Option<Nanos>,
}

impl Sum {
    fn of(rows: &[ClassRow], class: usize, now: Nanos) -> Option<Self> {
        let mut rows = rows.iter().filter(|row| usize::from(row.class) == class).peekable();
        rows.peek()?;
        Some(rows.fold(Self::default(), |sum, row| sum.add(row, now)))
    }

    fn add(mut self, row: &ClassRow, now: Nanos) -> Self {
        let per_second = |bytes: u64| {
            let elapsed = u128::from(now.saturating_sub(row.since).max(1));
            (u128::from(bytes) * 8 * u128::from(SECOND) / elapsed) as u64
        };
        self.bits_per_second += per_second(row.bytes);
        self.borrowed_per_second += per_second(row.borrowed);
        self.packets += row.stats.packets;
        self.bytes += row.stats.bytes;
        self.marks += row.stats.marks;
        for (sum, (_, causes)) in self.drops.iter_mut().zip(CAUSES) {
            *sum += causes.iter().filter_map(|&cause| row.stats.drops.get(cause as usize)).sum::<u64>();
        }
        self.backlog_packets += row.stats.backlog_packets;
        self.backlog_bytes += row.stats.backlog_bytes;
        // Of several workers, that at which packets wait the longest.
        self.wait_p50 = self.wait_p50.max(row.wait_p50);
        self.wait_p99 = self.wait_p99.max(row.wait_p99);
        self
    }

    fn figures(&self) -> Map<String, Value> {
        let milliseconds = |wait: Option<Nanos>| wait.map(|wait| (wait / 1000) as f64 / 1000.0);
        let borrowed = match self.bits_per_second {
            0 => 0,
            all => 100 * self.borrowed_per_second / all,
        };
        let drops =
            CAUSES.iter().zip(self.drops).map(|((name, _), count)| ((*name).to_owned(), count.into()));
        let figures = json!({
            "bits_per_second": self.bits_per_second,
            "borrowed_percent": borrowed,
            "backlog_packets": self.backlog_packets,
            "backlog_bytes": self.backlog_bytes,
            "wait_p50_ms": milliseconds(self.wait_p50),
            "wait_p99_ms": milliseconds(self.wait_p99),
            "sent_packets": self.packets,
            "sent_bytes": self.bytes,
            "ecn_marks": self.marks,
            "drops": drops.collect::<Map<String, Value>>(),
        });
        if let Value::Object(figures) = figures { figures } else { Map::new() }
    }
}

/// Each class with its port's name and its own, parents' ahead of it.
pub(crate) fn sums(snapshot: &Snapshot, rows: &[ClassRow], now: Nanos) -> Vec<(String, String, Sum)> {
    let mut sums = Vec::new();
    for (index, shaper) in snapshot.shapers.iter().enumerate() {
        let Some(port) = snapshot.ports.get(usize::from(shaper.port)) else { continue };
        for class in snapshot.classes_of(index) {
            if let Some(sum) = Sum::of(rows, class, now) {
                sums.push((port.name.clone(), snapshot.class_path(class as u16), sum));
            }
        }
    }
    sums
}

/// Each shaper, and under it its classes, parents ahead of what is in them.
pub fn show(snapshot: &Snapshot, rows: &[ClassRow], now: Nanos) -> Value {
    let bits = |rate: Option<Rate>| rate.map(|rate| rate.bits_per_second);
    let mut lines = Vec::new();
    for (index, shaper) in snapshot.shapers.iter().enumerate() {
        let port = snapshot.ports.get(usize::from(shaper.port)).map(|port| port.name.as_str());
        lines.push(json!({ "port": port, "class": null, "max_bits_per_second": bits(shaper.rate) }));
        for number in snapshot.classes_of(index) {
            let Some(class) = snapshot.classes.get(number) else { continue };
            let mut line = json!({
                "port": port,
                "class": snapshot.class_path(number as u16),
                "guaranteed_bits_per_second": bits(class.rate.guaranteed),
                "max_bits_per_second": bits(class.rate.max),
                "mark": class.mark.map(code_point_name),
            });
            if let (Value::Object(line), Some(sum)) = (&mut line, Sum::of(rows, number, now)) {
                line.extend(sum.figures());
            }
            lines.push(line);
        }
    }
    lines.into()
}
