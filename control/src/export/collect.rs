//! Records on their way from the workers to whoever keeps the log: kept until they are known to have arrived.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use sluice_dataplane::clock::Clock;
use sluice_dataplane::nat::EventReader;

use super::{Record, wall};

/// Records that are kept while nobody fetches them. The workers' rings hold more behind them, and count what is lost.
const ROOM: usize = 65_536;
/// Records that are fetched at once.
const BATCH: usize = 4096;

/// Records in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The number of the first; those of the others follow.
    pub first: u64,
    /// The records.
    pub records: Vec<Record>,
}

impl Batch {
    /// The number of the next one, which says that these have arrived.
    pub fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }
}

/// The workers' records, of which each is given out until the next is asked for: a log that dies on its way loses none, and may
/// see some twice.
pub struct Collector {
    readers: Vec<EventReader>,
    clock: Clock,
    kept: VecDeque<Record>,
    first: u64,
}

impl Collector {
    /// Of workers whose events are in the time of `clock`.
    pub fn new(readers: Vec<EventReader>, clock: Clock) -> Self {
        Self { readers, clock, kept: VecDeque::new(), first: 0 }
    }

    /// Empties the rings, as far as there is room; to be called every 20 ms.
    pub fn collect(&mut self) {
        let (now, ticks) = (wall::now(), self.clock.now());
        let (mut room, before) = (ROOM.saturating_sub(self.kept.len()), self.kept.len());
        for reader in &mut self.readers {
            while let Some(event) = (room > 0).then(|| reader.take()).flatten() {
                self.kept.push_back(Record::new(&event, now, ticks.saturating_sub(event.at)));
                room -= 1;
            }
        }
        // Each worker's are in order, and those of one moment stay so.
        if self.readers.len() > 1 {
            self.kept.make_contiguous().get_mut(before..).unwrap_or_default().sort_by_key(|record| record.at);
        }
    }

    /// Gives out records, oldest first; those before the number `next` have arrived, and are forgotten.
    pub fn fetch(&mut self, next: u64) -> Batch {
        let arrived = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let arrived = arrived.min(self.kept.len());
        self.kept.drain(..arrived);
        self.first += arrived as u64;
        Batch { first: self.first, records: self.kept.iter().take(BATCH).copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use sluice_dataplane::nat::EventKind;

    use super::*;

    #[test]
    fn records_are_given_out_until_they_have_arrived() {
        let mut collector = Collector::new(Vec::new(), Clock::Virtual(0));
        let record = |at| Record {
            at,
            kind: EventKind::BindingCreated,
            protocol: 6,
            inside: [10, 0, 0, 1].into(),
            inside_port: 1,
            external: [192, 0, 2, 1].into(),
            ports: (2, 2),
        };
        collector.kept.extend((0..5000).map(record));
        let first = collector.fetch(0);
        assert_eq!((first.first, first.records.len(), first.next()), (0, BATCH, BATCH as u64));
        // Who fetched died; another begins where it does not know.
        assert_eq!(collector.fetch(0), first);
        let second = collector.fetch(first.next());
        assert_eq!((second.records[0].at, second.next()), (BATCH as u64, 5000));
        assert_eq!(collector.fetch(0), second, "an old number forgets nothing");
        assert_eq!(collector.fetch(u64::MAX), Batch { first: 5000, records: Vec::new() });
        let text = serde_json::to_string(&second).unwrap();
        assert_eq!(serde_json::from_str::<Batch>(&text).unwrap(), second);
    }
}
