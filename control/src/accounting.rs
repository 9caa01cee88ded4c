//! Accounts of what leaves: octets by class and by host of a class with `per` since their period began, the 95th percentile of
//! the month, and quotas.
//!
//! The workers count; every ten seconds of the clock on the wall, or twice a second while some quota is heeded, they are asked for
//! what has left since, and each octet is handed out once. So an account is exact but for what a worker that does not answer, or a process that dies, has not handed out.

mod book;
mod file;
mod period;

use std::path::PathBuf;

use serde_json::{Value, json};
use sluice_dataplane::snapshot::{Over, Snapshot};
use sluice_dataplane::stage::shape::{OctetRow, Spent};

use self::book::Book;
pub use self::book::{Account, Who};
use crate::export::wall;

/// Between two looks, seconds, as long as nothing hangs on them.
pub const EVERY: u64 = 10;
/// Between two looks while some quota is heeded, microseconds.
const HEEDED_EVERY: u64 = 500_000;
/// Between two times that accounts are written to their file, seconds.
const SAVED_EVERY: u64 = 60;

/// The look that is due, and as of which full second, both since 1970: what is taken in at the end of a sample or a period is its.
/// Of a time in microseconds.
pub fn look(now: u64, snapshot: &Snapshot) -> (u64, u64) {
    let is_heeded = snapshot.classes.iter().any(|class| class.quota.is_heeded());
    let every = if is_heeded { HEEDED_EVERY } else { EVERY * 1_000_000 };
    let at = now - now % every;
    (at, at.div_ceil(1_000_000))
}

/// Accounts, and the file that they outlive the process in.
#[derive(Debug, Default)]
pub struct Accounting {
    book: Book,
    file: Option<PathBuf>,
    saved: u64,
}

impl Accounting {
    /// With what the file has, if there is one. And what there is to say.
    pub fn open(file: Option<PathBuf>) -> (Self, Option<String>) {
        let (accounts, said) = file.as_deref().map_or((Vec::new(), None), file::read);
        (Self { book: Book::new(accounts), file, saved: 0 }, said)
    }

    /// Takes in what has left up to `now`, in seconds since 1970, of the generations given. Returns for whom something has
    /// changed; classes are those of `snapshot`.
    pub fn take_in(&mut self, now: u64, rows: &[(u32, OctetRow)], snapshot: &Snapshot) -> Vec<Spent> {
        self.book.take_in(now, rows, snapshot);
        self.book.changes(snapshot)
    }

    /// Writes the file if it is time to, or anyway. Returns what there is to say.
    pub fn save(&mut self, now: u64, anyway: bool) -> Option<String> {
        let file = self.file.as_deref().filter(|_| anyway || now.abs_diff(self.saved) >= SAVED_EVERY)?;
        self.saved = now;
        let error = file::write(file, &self.book.accounts()).err()?;
        Some(format!("accounting: {}: cannot write the accounts: {error}", file.display()))
    }

    /// The listing.
    pub fn show(&self, snapshot: &Snapshot) -> Value {
        let row = |account: &Account| {
            let quota = self.book.quota(&account.who, snapshot);
            json!({
                "port": account.who.port,
                "class": account.who.class,
                "host": account.who.host,
                "since": wall::show(account.since * 1_000_000),
                "octets": account.octets,
                "quota_octets": quota.map(|(octets, _)| octets),
                "over_quota": quota.filter(|&(octets, _)| account.octets >= octets).map(|(_, over)| match over {
                    Over::Pass => "pass".to_owned(),
                    Over::Drop => "drop".to_owned(),
                    Over::Class(class) => format!("class:{}", snapshot.class_path(class)),
                }),
                "month_since": wall::show(account.month * 1_000_000),
                "samples": account.samples,
                "p95_bits_per_second": account.p95(),
            })
        };
        self.book.accounts().into_iter().map(row).collect()
    }

    /// Each account, with its quota in octets.
    pub fn each<'a>(
        &'a self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (&'a Account, Option<u64>)> + 'a {
        let quota = |account: &Account| self.book.quota(&account.who, snapshot).map(|(octets, _)| octets);
        self.book.accounts().into_iter().map(move |account| (account, quota(account)))
    }
}
