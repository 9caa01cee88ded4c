//! How fast a replay goes by the clock on the wall, and what it says of its progress.

use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use sluice_dataplane::clock::Nanos;

/// Between two lines of progress.
const REPORT: Duration = Duration::from_millis(200);
/// Packets between two looks at the clock.
const LOOK: u64 = 4096;

/// By how much the captures' time is sped up; none is as fast as it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed(Option<f64>);

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix(['x', 'X', '\u{d7}']).unwrap_or(text);
        match (text, number.parse::<f64>()) {
            ("max", _) => Ok(Self(None)),
            ("real", _) => Ok(Self(Some(1.0))),
            (_, Ok(factor)) if (1e-3..=1e6).contains(&factor) => Ok(Self(Some(factor))),
            _ => Err("write max, real, or a factor from 0.001x to 1000000x, for instance 10x".into()),
        }
    }
}

/// Keeps the pace of one replay.
pub(super) struct Pace {
    speed: Speed,
    begun: Instant,
    /// The first packet's time.
    first: Option<Nanos>,
    packets: u64,
    /// At this number of packets the clock is looked at.
    look: u64,
    line: Option<Line>,
}

/// The line of progress on a terminal.
struct Line {
    terminal: io::Stderr,
    shown: Instant,
    /// Bytes of all captures, and by port those that have been read.
    total: u64,
    read: Vec<Arc<AtomicU64>>,
}

impl Pace {
    /// The captures have `total` bytes, of which so many `read` have been read. Says how far it is if standard error is a
    /// terminal.
    pub(super) fn new(speed: Speed, total: u64, read: Vec<Arc<AtomicU64>>) -> Self {
        let begun = Instant::now();
        let terminal = Some(io::stderr()).filter(IsTerminal::is_terminal);
        let line = terminal.map(|terminal| Line { terminal, shown: begun, total, read });
        Self { speed, begun, first: None, packets: 0, look: 0, line }
    }

    /// Waits until it is `now`.
    pub(super) fn wait(&mut self, now: Nanos) {
        let Speed(Some(factor)) = self.speed else { return };
        let first = *self.first.get_or_insert(now);
        let due = self.begun + Duration::from_nanos((now.saturating_sub(first) as f64 / factor) as u64);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(REPORT));
            self.look = self.packets;
            self.took(0);
        }
    }

    /// So many packets more have gone through.
    pub(super) fn took(&mut self, packets: usize) {
        self.packets += packets as u64;
        if self.packets < self.look {
            return;
        }
        self.look = self.packets + LOOK;
        let Some(line) = self.line.as_mut().filter(|line| line.shown.elapsed() >= REPORT) else { return };
        line.shown = Instant::now();
        let read = line.read.iter().map(|read| read.load(Relaxed)).sum();
        let text = progress(self.packets, read, line.total, self.begun.elapsed());
        // Nothing is lost with a line of progress.
        _ = write!(line.terminal, "\r{text}\x1b[K");
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some(line) = &mut self.line {
            _ = write!(line.terminal, "\r\x1b[K");
        }
    }
}

fn progress(packets: u64, read: u64, total: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let (rate, part) = (packets as f64 / seconds, read as f64 / total.max(1) as f64);
    let left = if part > 0.0 { seconds * (1.0 - part).max(0.0) / part } else { 0.0 };
    format!(
        "replay: {:.0} % of {:.1} MB, {packets} packets, {:.2} million a second, {left:.0} s left",
        100.0 * part.min(1.0),
        total as f64 / 1e6,
        rate / 1e6,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read() {
        let read = |text: &str| text.parse::<Speed>();
        assert_eq!(read("max"), Ok(Speed(None)));
        assert_eq!(read("real"), Ok(Speed(Some(1.0))));
        assert_eq!((read("10x"), read("0.5")), (Ok(Speed(Some(10.0))), Ok(Speed(Some(0.5)))));
        for wrong in ["", "x", "0", "-1x", "nan", "inf", "fast", "1e9"] {
            assert!(read(wrong).unwrap_err().contains("for instance 10x"), "{wrong}");
        }
    }

    #[test]
    fn progress_has_rate_and_time_left() {
        let text = progress(3_000_000, 250_000_000, 1_000_000_000, Duration::from_secs(2));
        assert_eq!(text, "replay: 25 % of 1000.0 MB, 3000000 packets, 1.50 million a second, 6 s left");
        assert_eq!(
            progress(0, 0, 0, Duration::ZERO),
            "replay: 0 % of 0.0 MB, 0 packets, 0.00 million a second, 0 s left"
        );
    }

    #[test]
    fn a_pace_is_kept() {
        let mut pace = Pace::new(Speed(Some(100.0)), 0, Vec::new());
        let begun = Instant::now();
        for now in [5_000_000_000, 6_000_000_000, 9_000_000_000] {
            pace.wait(now);
        }
        assert!(begun.elapsed() >= Duration::from_millis(40));
        let mut pace = Pace::new(Speed::default(), 0, Vec::new());
        pace.wait(Nanos::MAX);
    }
}
