//! What is to be said when a resource runs short: one line at once, and then one a minute while it goes on.

use sluice_dataplane::clock::{Nanos, SECOND};

/// Between two lines about one thing.
const PAUSE: Nanos = 60 * SECOND;

/// Looks at numbers that grow while something is wrong.
#[derive(Debug, Default)]
pub struct Alarm {
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    name: String,
    /// The number as it was when it was last told of.
    told: u64,
    at: Option<Nanos>,
}

impl Alarm {
    /// Whether there is something to say about a number at this time: how much has come since the last line.
    pub fn look(&mut self, name: &str, count: u64, now: Nanos) -> Option<u64> {
        let index = self.watched.iter().position(|watched| watched.name == name).unwrap_or_else(|| {
            self.watched.push(Watched { name: name.to_owned(), told: 0, at: None });
            self.watched.len() - 1
        });
        let watched = self.watched.get_mut(index)?;
        let grown = count.saturating_sub(watched.told);
        let is_due = watched.at.is_none_or(|at| now.saturating_sub(at) >= PAUSE);
        if grown == 0 || !is_due {
            return None;
        }
        (watched.told, watched.at) = (count, Some(now));
        Some(grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_at_once_and_then_one_a_minute() {
        let mut alarm = Alarm::default();
        let seen: Vec<(u64, u64)> = (0..180)
            .filter_map(|second| {
                // A thousand a second for two minutes.
                let count = 1000 * u64::min(second, 120);
                alarm.look("ports", count, second * SECOND).map(|grown| (second, grown))
            })
            .collect();
        assert_eq!(seen, [(1, 1000), (61, 60_000), (121, 59_000)]);
        assert_eq!(alarm.look("ports", 120_001, 400 * SECOND), Some(1));
        assert_eq!(alarm.look("sessions", 7, 400 * SECOND), Some(7), "each for itself");
    }
}
