//! Windows of look-ups, timed: cases in turn, and medians.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Serialize;
use sluice_dataplane::clock::tsc;

use super::TableError;
use crate::bench::run::Progress;
use crate::bench::stages::median;

/// Look-ups that are timed together: what the kernel takes from the core spoils a few of these, and not the median.
pub(super) const WINDOW: usize = 16_384;
/// No pass of a case takes longer than this; windows left over are not done.
const LONGEST: Duration = Duration::from_millis(500);

/// One figure. The names are those of the JSON object.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// The table.
    pub table: &'static str,
    /// What was done with it.
    pub case: String,
    /// Entries that it holds: flows, rules, routes, meters.
    pub entries: u64,
    /// Look-ups in a burst.
    pub burst: u16,
    /// Nanoseconds an operation: the median of the windows.
    pub ns_per_op: f64,
    /// TSC cycles an operation.
    pub cycles_per_op: f64,
    /// Million operations a second.
    pub mops: f64,
    /// Milliseconds that filling the table took.
    pub build_ms: f64,
    /// Memory of the table, bytes.
    pub bytes: u64,
    /// The same for each entry.
    pub bytes_per_entry: f64,
    /// Operations of one way through the data.
    pub operations: u64,
    /// How many of these found something; for meters, were green.
    pub hits: u64,
    /// Sum of their results, modulo 2^64.
    pub checksum: u64,
    /// Whether each result was compared with that of a plain search.
    pub checked: bool,
}

impl Row {
    /// With the times of its windows, in cycles an operation.
    pub(super) fn of(mut self, samples: &mut [f64]) -> Self {
        self.cycles_per_op = median(samples);
        self.ns_per_op = self.cycles_per_op * 1e9 / tsc::frequency();
        self.mops = 1e3 / self.ns_per_op;
        self.bytes_per_entry = self.bytes as f64 / self.entries.max(1) as f64;
        self
    }
}

/// All figures of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The core that it ran on.
    pub core: usize,
    /// TSC cycles per second.
    pub tsc_hz: u64,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Figures {
    pub(super) fn new(core: usize, rows: Vec<Row>) -> Self {
        Self { core, tsc_hz: tsc::frequency().round() as u64, rows }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        if cfg!(debug_assertions) {
            writeln!(f, "an unoptimised build: the figures say little")?;
        }
        writeln!(f, "core {}, TSC {:.3} GHz", self.core, self.tsc_hz as f64 / 1e9)?;
        writeln!(
            f,
            "{:6} {:24} {:>9} {:>8} {:>8} {:>9} {:>10} {:>9} {:>7}",
            "table", "case", "entries", "ns/op", "cycles", "Mops", "build ms", "B/entry", "hits %"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:6} {:24} {:9} {:8.2} {:8.2} {:9.1} {:10.1} {:9.1} {:7.1}{}",
                row.table,
                row.case,
                row.entries,
                row.ns_per_op,
                row.cycles_per_op,
                row.mops,
                row.build_ms,
                row.bytes_per_entry,
                row.hits as f64 * 100.0 / row.operations.max(1) as f64,
                if row.checked { "  checked" } else { "" },
            )?;
        }
        Ok(())
    }
}

/// One case: does the operations from `start` up to `end`.
pub(super) struct Case<'a> {
    pub(super) row: Row,
    /// How often a round goes through the data.
    pub(super) repeat: usize,
    pub(super) run: Box<dyn FnMut(usize, usize) + 'a>,
}

/// Fills in the times, measuring the cases in turn.
pub(super) fn in_turn(rounds: u16, mut cases: Vec<Case<'_>>) -> Vec<Row> {
    let mut samples = vec![Vec::new(); cases.len()];
    let mut progress = Progress::new("measuring");
    for round in 0..=rounds {
        for (case, samples) in cases.iter_mut().zip(&mut samples) {
            let total = case.row.operations as usize;
            let began = Instant::now();
            let (mut windows, mut taken) = (windows(total, case.row.burst, case.repeat), Vec::new());
            while let Some((start, end)) =
                windows.next().filter(|_| taken.is_empty() || began.elapsed() < LONGEST)
            {
                taken.push(cycles(end - start, || (case.run)(start, end)));
            }
            // The first round is for the caches.
            if round > 0 {
                samples.append(&mut taken);
            }
        }
        progress.show(u64::from(round) * 100 / u64::from(rounds));
    }
    drop(progress);
    cases.into_iter().map(|case| case.row).zip(&mut samples).map(|(row, samples)| row.of(samples)).collect()
}

/// Where the windows of so many ways through the data begin and end. A burst is not cut.
fn windows(total: usize, burst: u16, repeat: usize) -> impl Iterator<Item = (usize, usize)> {
    let burst = usize::from(burst).max(1);
    let window = WINDOW / burst * burst;
    let once = move |_| (0..total).step_by(window).map(move |start| (start, total.min(start + window)));
    (0..repeat).flat_map(once)
}

/// TSC cycles that each of so many operations takes.
pub(super) fn cycles(operations: usize, work: impl FnOnce()) -> f64 {
    let before = tsc::now();
    work();
    tsc::now().saturating_sub(before) as f64 / operations.max(1) as f64
}

/// Sums up a way through the data, and compares it with the plain results if there are some. 0 is nothing found.
pub(super) fn judge(row: &mut Row, found: &[u64], plain: Option<&[u64]>) -> Result<(), TableError> {
    row.operations = found.len() as u64;
    row.hits = found.iter().filter(|&&result| result != 0).count() as u64;
    row.checksum = found.iter().fold(0, |sum, &result| sum.wrapping_add(result));
    let Some(plain) = plain else { return Ok(()) };
    row.checked = true;
    let wrong = found.iter().zip(plain).position(|(found, plain)| found != plain);
    wrong.map_or(Ok(()), |number| {
        Err(TableError::Wrong { case: row.case.clone(), number, found: found[number], wanted: plain[number] })
    })
}

/// Calls `plain` for each number below `count`, with progress; or not at all.
pub(super) fn plainly(check: bool, count: usize, mut plain: impl FnMut(usize) -> u64) -> Option<Vec<u64>> {
    let mut progress = Progress::new("checking");
    check.then(|| {
        (0..count)
            .map(|number| {
                if number % 1024 == 0 {
                    progress.show(number as u64 * 100 / count as u64);
                }
                plain(number)
            })
            .collect()
    })
}

/// Milliseconds that `work` takes, and what it gives.
pub(in crate::bench) fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = black_box(work());
    (start.elapsed().as_secs_f64() * 1e3, result)
}
