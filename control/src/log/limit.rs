//! How often one place in the code may say something: so much at once, and then one line a minute while it goes on.

use std::collections::HashMap;
use std::time::Duration;

use tracing::callsite::Identifier;

/// Lines at once: as many as a start with all its devices, or a configuration with all its warnings, has to say.
const AT_ONCE: u32 = 200;
/// Until another one may follow.
const PAUSE: Duration = Duration::from_secs(60);

/// The places that have said something.
#[derive(Debug, Default)]
pub(super) struct Limits(HashMap<Identifier, Bucket>);

#[derive(Debug)]
struct Bucket {
    /// Lines that may come at once.
    room: u32,
    /// Since when that is counted.
    since: Duration,
    left_out: u64,
}

impl Limits {
    /// Whether a place may say something at this time, which goes on from call to call: how many lines were left out since the
    /// last one.
    pub(super) fn admit(&mut self, place: Identifier, now: Duration) -> Option<u64> {
        let new = || Bucket { room: AT_ONCE, since: now, left_out: 0 };
        self.0.entry(place).or_insert_with(new).admit(now)
    }
}

impl Bucket {
    fn admit(&mut self, now: Duration) -> Option<u64> {
        let minutes =
            u32::try_from(now.saturating_sub(self.since).as_secs() / PAUSE.as_secs()).unwrap_or(u32::MAX);
        if minutes > 0 {
            self.room = self.room.saturating_add(minutes).min(AT_ONCE);
            self.since = now;
        }
        if self.room == 0 {
            self.left_out += 1;
            return None;
        }
        self.room -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_and_then_one_a_minute() {
        let mut bucket = Bucket { room: AT_ONCE, since: Duration::ZERO, left_out: 0 };
        // Fifty a second, for three minutes.
        let times = (0..9000).map(|n| Duration::from_millis(20 * n));
        let said: Vec<(u64, u64)> =
            times.filter_map(|now| bucket.admit(now).map(|left_out| (now.as_secs(), left_out))).collect();
        assert_eq!(said.len(), AT_ONCE as usize + 2);
        assert!(said[..AT_ONCE as usize].iter().all(|&(second, left_out)| second < 4 && left_out == 0));
        assert_eq!(said[AT_ONCE as usize..], [(60, 2800), (120, 2999)]);
        // An hour's silence makes room for sixty.
        let later = Duration::from_secs(180 + 3600);
        assert_eq!((0..100).filter(|_| bucket.admit(later).is_some()).count(), 61);
    }
}
