//! Datagrams that come in fragments: what the first one of each said, which pieces of it have passed, and those that wait, for
//! the first one or for all.

use sluice_pkt::checksum::Sum;

use super::identification::Identifications;
use crate::arena::Frame;
use crate::burst::Burst;
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::hold::{HoldQueue, Undelivered};
use crate::snapshot::Snapshot;
use crate::table::hash::HashTable;
use crate::verdict::DropReason;

/// How long a fragment waits for the first one of its datagram.
pub(crate) const PATIENCE: Nanos = 2 * SECOND;
/// Datagrams whose first fragment is awaited at a time, at most.
const AWAITED: u32 = 256;
/// Fragments of one datagram that wait: all of a datagram of 64 KiB over a link of 1,500 bytes.
const PER_DATAGRAM: u8 = 45;
/// Pieces of one datagram that are told apart: all of a datagram of 64 KiB over a link of 576 bytes (RFC 791 3.2).
const PIECES: usize = 128;
/// How many slots of a full table are looked at for one that has expired: a flood of fragments must not buy a walk
/// through all of it with each packet.
const EXAMINED: u32 = 64;
/// How often those that wait are looked at.
const LOOK: Nanos = 100 * MILLISECOND;
const NEVER: Nanos = Nanos::MAX;

/// Addresses, identification, protocol and ingress interface.
pub(crate) type DatagramKey = [u64; 5];

/// What the first fragment of a datagram said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FirstFragment {
    pub(crate) ports: (u16, u16),
    pub(crate) icmp_type: u8,
    pub(crate) protocol: u8,
    /// It lacks a checksum, which is to be computed of all pieces: none passes before all have come.
    pub(crate) is_summed: bool,
    /// What it leaves with if its source is translated; chosen where the first fragment came in.
    pub(crate) identification: Option<u16>,
    pub(crate) expires: Nanos,
}

/// Where a fragment lies in its datagram, in units of 8 bytes: from, up to, and whether it is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) last: bool,
}

/// What a checksum over a whole datagram needs to know of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// The folded sum of its bytes (RFC 1071).
    pub(super) sum: u16,
    /// How many they are.
    pub(super) octets: u16,
}

/// What becomes of a fragment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Course {
    /// It goes on; the first one of its datagram said this.
    Passes(FirstFragment),
    /// So does this one, the first of a datagram all of which is there, with a checksum that makes this the content.
    Sums(FirstFragment, Content),
    /// It waits for others.
    Waits,
}

#[derive(Clone, Copy, Debug)]
struct Datagram {
    first: FirstFragment,
    /// The pieces that have passed, none over another.
    pieces: [(u16, u16); PIECES],
    count: u8,
    /// Units of 8 bytes that have passed.
    passed: u16,
    /// Units of 8 bytes in all; 0 as long as the last fragment has not come.
    whole: u16,
    /// Of a datagram that gets a checksum: its content, and how many pieces have gone on since all are there.
    content: Content,
    gone: u8,
    /// Pieces have overlapped: nothing of it passes any more (RFC 5722 4, RFC 1858 for IPv4).
    forged: bool,
}

impl Default for Datagram {
    fn default() -> Self {
        Self {
            first: FirstFragment::default(),
            pieces: [(0, 0); PIECES],
            count: 0,
            passed: 0,
            whole: 0,
            content: Content { sum: 0, octets: 0 },
            gone: 0,
            forged: false,
        }
    }
}

impl Datagram {
    fn is_complete(&self) -> bool {
        self.whole != 0 && self.passed >= self.whole
    }

    /// Whether what comes now is of the same datagram.
    fn goes_on(&self) -> bool {
        !self.is_complete() || self.first.is_summed
    }

    /// Takes a piece in. The same one twice is a duplicate, and passes.
    fn pass(&mut self, piece: Piece, content: impl FnOnce() -> Option<Content>) -> Result<(), DropReason> {
        let seen = self.pieces.get(..usize::from(self.count)).unwrap_or_default();
        if self.forged {
            return Err(DropReason::FragmentOverlap);
        }
        if seen.contains(&(piece.from, piece.to)) {
            return Ok(());
        }
        if seen.iter().any(|&(from, to)| piece.from < to && from < piece.to) {
            self.forged = true;
            return Err(DropReason::FragmentOverlap);
        }
        if self.first.is_summed {
            let Content { sum, octets } = content().ok_or(DropReason::Nat64Checksum)?;
            let octets = self.content.octets.checked_add(octets).ok_or(DropReason::FragmentMalformed)?;
            self.content =
                Content { sum: Sum::of(&[]).add_u16(self.content.sum).add_u16(sum).fold(), octets };
        }
        let Some(slot) = self.pieces.get_mut(usize::from(self.count)) else {
            return Err(DropReason::FragmentTableFull);
        };
        *slot = (piece.from, piece.to);
        self.count += 1;
        self.passed += piece.to - piece.from;
        if piece.last {
            self.whole = piece.to;
        }
        Ok(())
    }
}

/// A datagram whose first fragment is awaited, or all of which is.
#[derive(Clone, Copy, Debug, Default)]
struct Awaited {
    until: Nanos,
    held: u8,
    is_summed: bool,
}

/// Datagrams that have come in fragments of late.
pub struct Fragments {
    table: HashTable<DatagramKey, Datagram>,
    /// Next slot to be looked at for expiry.
    sweep: u32,
    awaited: HashTable<DatagramKey, Awaited>,
    holds: HoldQueue,
    due: Nanos,
    pub(super) identifications: Identifications,
}

impl Fragments {
    /// Takes the memory for as many datagrams as the snapshot says.
    pub fn new(snapshot: &Snapshot) -> Self {
        let datagrams = snapshot.sizes.fragments;
        Self {
            table: HashTable::with_capacity(datagrams, snapshot.seed),
            sweep: 0,
            awaited: HashTable::with_capacity(AWAITED.min(datagrams / 4).max(1), snapshot.seed),
            holds: HoldQueue::new(snapshot.sizes.frames),
            due: NEVER,
            identifications: Identifications::new(snapshot.seed),
        }
    }

    /// Gives out those identifications only that are worker `me`'s, of so many, from now on.
    pub fn share(&mut self, me: u8, workers: usize) {
        self.identifications.share(me, workers);
    }

    /// The identification with which fragments of a datagram leave from behind NAT.
    pub(super) fn identification(&self, key: &DatagramKey) -> Option<u16> {
        self.table.value(self.table.find(key)?)?.first.identification
    }

    /// Takes in what the first fragment of a datagram says; later ones that wait for it are ready then. Returns it with the
    /// identification that the datagram has from now on.
    ///
    /// # Errors
    /// There is no room for it.
    pub(crate) fn learn(
        &mut self,
        key: DatagramKey,
        mut first: FirstFragment,
        now: Nanos,
    ) -> Result<FirstFragment, DropReason> {
        let found = self.table.find(&key);
        let live = found.and_then(|index| self.table.value(index)).filter(|known| known.first.expires >= now);
        // A copy of the first fragment may come when all others have passed.
        let before = live.and_then(|known| known.first.identification);
        let goes_on = live.is_some_and(Datagram::goes_on);
        first.identification = before
            .or(first.identification)
            .or_else(|| Some(self.identifications.next(key[1] as u32, first.protocol)));
        match found.and_then(|index| self.table.value_mut(index)) {
            Some(datagram) if goes_on => datagram.first = first,
            // Another datagram of the same identification, or one that has come to its end.
            Some(datagram) => *datagram = Datagram { first, ..Datagram::default() },
            None => {
                self.expire(now, if self.table.is_full() { EXAMINED } else { 2 });
                let datagram = Datagram { first, ..Datagram::default() };
                self.table.insert(key, datagram).map_err(|_| DropReason::FragmentTableFull)?;
            }
        }
        self.wake(&key);
        Ok(first)
    }

    /// Lets those go on that wait for others of their datagram.
    fn wake(&mut self, key: &DatagramKey) {
        if let Some(index) = self.awaited.find(key) {
            self.awaited.remove(index);
            self.holds.wake(index as u16);
        }
    }

    /// Takes in a fragment, which lies there in its datagram, and has this content, if that can be summed.
    ///
    /// # Errors
    /// It overlaps others, is one of too many, or cannot be summed where that is needed.
    pub(super) fn pass(
        &mut self,
        key: &DatagramKey,
        piece: Piece,
        content: impl FnOnce() -> Option<Content>,
        now: Nanos,
    ) -> Result<Course, DropReason> {
        let found = self.table.find(key);
        let live = found.and_then(|index| self.table.value_mut(index));
        let Some(datagram) = live.filter(|datagram| datagram.first.expires >= now) else {
            return Ok(Course::Waits);
        };
        datagram.pass(piece, content)?;
        let first = datagram.first;
        if !first.is_summed {
            return Ok(Course::Passes(first));
        }
        if !datagram.is_complete() {
            return Ok(Course::Waits);
        }
        let content = datagram.content;
        datagram.gone = datagram.gone.saturating_add(1);
        // What comes after the last is of another one with the same identification, and has to wait for that.
        if let Some(over) = found.filter(|_| datagram.gone >= datagram.count) {
            self.table.remove(over);
        }
        self.wake(key);
        Ok(if piece.from == 0 { Course::Sums(first, content) } else { Course::Passes(first) })
    }

    /// Keeps a fragment until the first one of its datagram comes, or all of them, if it is to be summed. Gives it back if as many wait as may.
    pub(crate) fn hold(
        &mut self,
        key: DatagramKey,
        port: u16,
        frame: Frame,
        now: Nanos,
    ) -> Result<(), Frame> {
        let found = self.awaited.find(&key).or_else(|| {
            let until = now.saturating_add(PATIENCE);
            self.due = self.due.min(until);
            let datagram = self.table.find(&key).and_then(|index| self.table.value(index));
            let is_summed = datagram.is_some_and(|datagram| datagram.first.is_summed);
            self.awaited.insert(key, Awaited { until, held: 0, is_summed }).ok()
        });
        let awaited = found.and_then(|index| Some((index, self.awaited.value_mut(index)?)));
        let Some((index, awaited)) = awaited.filter(|(_, awaited)| awaited.held < PER_DATAGRAM) else {
            return Err(frame);
        };
        self.holds.wait(index as u16, port, frame)?;
        awaited.held += 1;
        Ok(())
    }

    fn expire(&mut self, now: Nanos, slots: u32) {
        for _ in 0..slots.min(self.table.slots()) {
            if self.table.get(self.sweep).is_some_and(|(_, datagram)| datagram.first.expires < now) {
                self.table.remove(self.sweep);
            }
            self.sweep = if self.sweep + 1 < self.table.slots() { self.sweep + 1 } else { 0 };
        }
    }

    /// Gives up what has waited too long.
    pub(crate) fn tick(&mut self, now: Nanos) {
        if now < self.due {
            return;
        }
        self.due = NEVER;
        for index in 0..self.awaited.slots() {
            let Some((_, awaited)) = self.awaited.get(index) else { continue };
            if awaited.until <= now {
                let is_summed = awaited.is_summed;
                self.awaited.remove(index);
                let reason = if is_summed { DropReason::Nat64Checksum } else { DropReason::FragmentUnknown };
                self.holds.fail(index as u16, reason);
            } else {
                self.due = self.due.min(awaited.until).max(now.saturating_add(LOOK));
            }
        }
    }

    /// When something is to be given up.
    pub(crate) fn next_due(&self) -> Nanos {
        self.due
    }

    /// Fragments that wait.
    pub(crate) fn held(&self) -> u64 {
        self.holds.len() as u64
    }

    /// Whether fragments are ready to go on.
    pub(crate) fn is_ready(&self) -> bool {
        self.holds.is_ready()
    }

    /// Fills an empty burst with them.
    pub(crate) fn release(&mut self, burst: &mut Burst) {
        self.holds.release(burst);
    }

    /// Takes out a fragment that has waited in vain.
    pub(crate) fn undelivered(&mut self) -> Option<Undelivered> {
        self.holds.undelivered()
    }

    /// Takes out any fragment that waits.
    pub(crate) fn drain(&mut self) -> Option<(u16, Frame)> {
        self.holds.drain()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: fn() -> Option<Content> = || None;

    fn piece(from: u16, to: u16, last: bool) -> Piece {
        Piece { from, to, last }
    }

    #[test]
    fn duplicates_pass_and_overlaps_end_the_datagram() {
        let mut datagram = Datagram::default();
        assert_eq!(datagram.pass(piece(0, 10, false), NONE), Ok(()));
        assert_eq!(datagram.pass(piece(20, 25, true), NONE), Ok(()));
        assert_eq!(datagram.pass(piece(0, 10, false), NONE), Ok(()));
        assert!(!datagram.is_complete());
        assert_eq!(datagram.pass(piece(10, 20, false), NONE), Ok(()));
        assert!(datagram.is_complete());
        assert_eq!(datagram.pass(piece(9, 11, false), NONE), Err(DropReason::FragmentOverlap));
        assert_eq!(datagram.pass(piece(0, 10, false), NONE), Err(DropReason::FragmentOverlap));
    }

    #[test]
    fn a_complete_datagram_makes_way_for_the_next_of_its_identification() {
        let mut fragments = Fragments::new(&Snapshot::default());
        let first = FirstFragment { expires: SECOND, ..FirstFragment::default() };
        let key = [1; 5];
        for end in [30, 40] {
            fragments.learn(key, first, 0).unwrap();
            for piece in [piece(0, 10, false), piece(10, end, true)] {
                assert!(matches!(fragments.pass(&key, piece, NONE, 0), Ok(Course::Passes(_))));
            }
        }
        assert!(fragments.pass(&key, piece(10, 20, true), NONE, 0).is_err());
        let late = fragments.pass(&key, piece(10, 20, true), NONE, SECOND + 1);
        assert!(matches!(late, Ok(Course::Waits)), "it has expired");
    }

    #[test]
    fn a_datagram_that_is_summed_passes_when_all_of_it_is_there_and_the_next_is_another() {
        let mut fragments = Fragments::new(&Snapshot::default());
        let first = FirstFragment { expires: SECOND, is_summed: true, ..FirstFragment::default() };
        let key = [1; 5];
        let content = |sum, octets| move || Some(Content { sum, octets });
        for _ in 0..2 {
            fragments.learn(key, first, 0).unwrap();
            let waits = |course| matches!(course, Ok(Course::Waits));
            assert!(waits(fragments.pass(&key, piece(0, 2, false), content(0xfffe, 16), 0)));
            assert!(waits(fragments.pass(&key, piece(2, 4, false), content(3, 16), 0)));
            let last = fragments.pass(&key, piece(4, 5, true), content(4, 3), 0);
            assert!(matches!(last, Ok(Course::Passes(_))));
            // They come once more, as they have waited.
            fragments.learn(key, first, 0).unwrap();
            let first = fragments.pass(&key, piece(0, 2, false), NONE, 0);
            assert!(matches!(first, Ok(Course::Sums(_, Content { sum: 6, octets: 35 }))), "{first:?}");
            assert!(matches!(fragments.pass(&key, piece(2, 4, false), NONE, 0), Ok(Course::Passes(_))));
        }
        fragments.learn(key, first, 0).unwrap();
        assert!(fragments.pass(&key, piece(0, 2, false), NONE, 0).is_err(), "a chain is not summed");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        /// Against a map of the units that have come: what passes never covers a unit by two different pieces.
        #[test]
        fn what_passes_never_overlaps(pieces in prop::collection::vec((0u16..60, 1u16..12), 1..40)) {
            let mut datagram = Datagram::default();
            let mut owner = vec![None; 80];
            let mut forged = false;
            for (from, len) in pieces {
                let this = (from, from + len);
                let units = usize::from(this.0)..usize::from(this.1);
                let overlaps = owner[units.clone()].iter().any(|unit| unit.is_some_and(|other| other != this));
                let known = owner[units.clone()].iter().all(|unit| *unit == Some(this));
                forged |= overlaps;
                prop_assert_eq!(datagram.pass(piece(this.0, this.1, false), NONE).is_ok(), !forged, "{:?} {}", this, known);
                if !forged {
                    owner[units].fill(Some(this));
                }
            }
        }
    }
}
