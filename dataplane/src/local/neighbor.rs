//! Next hops and what is known of them: the neighbour table of ARP and ND, after RFC 4861 7.3 for both.
//!
//! | state | means | until |
//! |---|---|---|
//! | Incomplete | is asked for; packets wait | an answer: Reachable; overheard: Stale; three requests without answer: Failed |
//! | Reachable | has answered | a minute has passed: Probe; another MAC address is heard: Stale |
//! | Stale | was overheard | five seconds after its first use: Probe; an answer: Reachable |
//! | Probe | is asked by unicast; packets go on | an answer: Reachable; three requests without answer: Failed |
//! | Failed | packets are refused | three seconds have passed and it is wanted: Incomplete; it is heard of: as Incomplete |
//!
//! Flows hold a next hop's index and never say that they use it, so every neighbour that was ever resolved is taken to be
//! in use and is probed each minute: it never expires under a flow's feet. One that was only overheard is not probed.
//!
//! A scan of a subnet must exhaust nothing (RFC 6583). A quarter of the table is for neighbours that are not resolved, the
//! rest for those that are, and neither takes the other's room. New questions have a rate, and so a scan makes no storm.

mod hop;
mod list;
mod room;
mod saved;
mod shared;

use std::collections::VecDeque;
use std::net::IpAddr;

use sluice_pkt::ethernet::Mac;

use self::hop::NOWHERE;
pub use self::hop::{Egress, NextHop, invented_mac};
pub use self::list::Neighbor;
use self::list::{NeighborKey, address_of, interface_of, key, key_of_ourselves};
pub use self::room::IDLE;
use self::shared::Shared;
pub use self::shared::{Told, Word};
use super::link;
use crate::arena::Frame;
use crate::burst::Burst;
use crate::clock::{Nanos, SECOND};
use crate::hold::{HoldQueue, Undelivered};
use crate::snapshot::{Interface, Snapshot};
use crate::table::hash::HashTable;
use crate::table::meter::PacketMeter;
use crate::verdict::DropReason;

/// Between two requests for one neighbour (RFC 4861 10: RETRANS_TIMER; RFC 1122 2.3.2.1: one a second at most).
pub const RETRANSMIT: Nanos = SECOND;
/// Requests without an answer until a neighbour counts as unreachable (RFC 4861 10: MAX_MULTICAST_SOLICIT).
pub const ATTEMPTS: u8 = 3;
/// For how long a neighbour that has answered is not asked again.
pub const REACHABLE: Nanos = 60 * SECOND;
/// From the first use of a neighbour that was only overheard to its first probe (RFC 4861 10: DELAY_FIRST_PROBE_TIME).
pub const DELAY: Nanos = 5 * SECOND;
/// For how long packets to an unreachable neighbour are refused before it is asked for again.
pub const NEGATIVE: Nanos = 3 * SECOND;
/// Neighbours that are newly asked for, per second and in a burst; known ones are probed regardless.
pub const NEW_PER_SECOND: u64 = 100;
/// The most frames that wait for one neighbour (RFC 4861 7.2.2 asks for one at least).
const PER_NEIGHBOR: u8 = 8;
/// What a request costs of [`Neighbors::poll`]'s budget, in places examined.
const REQUEST_COST: u32 = 32;
const NEVER: Nanos = Nanos::MAX;

/// How much is known of a neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Asked for; packets wait.
    #[default]
    Incomplete,
    /// Has answered within the last minute.
    Reachable,
    /// Its address was overheard; it has not answered us.
    Stale,
    /// Is being asked whether it is still there; packets go on meanwhile.
    Probe,
    /// Has not answered; packets are refused.
    Failed,
}

impl State {
    /// The word for listings (RFC 4861 7.3.2).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Probe => "probe",
            Self::Failed => "failed",
        }
    }

    /// Whether packets can be sent.
    pub const fn is_resolved(self) -> bool {
        matches!(self, Self::Reachable | Self::Stale | Self::Probe)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    state: State,
    mac: Mac,
    /// When `state` began or was last confirmed.
    since: Nanos,
    /// When `resolve` last asked for it; 0 is never, and then no flow has its index.
    used: Nanos,
    /// When something is to be done, or [`NEVER`].
    due: Nanos,
    /// Requests without an answer.
    attempts: u8,
    held: u8,
    /// The MAC address is made up.
    invented: bool,
    /// Nothing is ever sent to it on our account (replay).
    quiet: bool,
}

/// Where news of a neighbour come from, and so what they are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It answers us: it can hear us, too.
    Answer,
    /// It asks us something.
    Question,
    /// It tells everybody.
    Announcement,
}

/// News of a neighbour.
#[derive(Clone, Copy, Debug)]
pub struct News {
    /// Its MAC address; an ND message may leave it out.
    pub mac: Option<Mac>,
    /// Where the news come from.
    pub evidence: Evidence,
    /// Whether they outweigh what is known (RFC 4861 4.4, the override flag).
    pub overrides: bool,
}

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// On whose link.
    pub(super) interface: u16,
    /// Who is asked for.
    pub(super) address: IpAddr,
    /// Its MAC address, if it is only asked whether it is still there.
    pub(super) mac: Option<Mac>,
}

/// The neighbour table of one worker.
pub struct Neighbors {
    table: HashTable<NeighborKey, Entry>,
    /// By index, as in `table`.
    hops: Vec<NextHop>,
    /// The unresolved, Incomplete and Failed, in the order in which they became that.
    unresolved: VecDeque<u16>,
    unresolved_limit: usize,
    resolved: u32,
    resolved_limit: u32,
    requests: PacketMeter,
    holds: HoldQueue,
    epoch: u32,
    /// The next place to examine for one that may be evicted.
    hand: u32,
    /// Failed neighbours make room together, once a second, as each time costs all flows a look-up.
    next_purge: Nanos,
    /// The next place of the sweep for what is due.
    cursor: u32,
    /// When a sweep is to be made; it lies in the past while one is.
    next_due: Nanos,
    /// The soonest time due among the places that this sweep has been at.
    upcoming: Nanos,
    /// What binds it to the tables of other workers.
    shared: Option<Box<Shared>>,
}

impl std::fmt::Debug for Neighbors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbors").field("entries", &self.table.len()).field("held", &self.held()).finish()
    }
}

impl Neighbors {
    /// Takes all memory for the neighbours and held frames that the snapshot asks for.
    pub fn new(snapshot: &Snapshot) -> Self {
        let size = snapshot.sizes.neighbors.clamp(2, 65_534);
        let unresolved_limit = (size / 4).max(1);
        Self {
            table: HashTable::with_capacity(size, snapshot.seed),
            hops: vec![NOWHERE; size as usize],
            unresolved: VecDeque::with_capacity(unresolved_limit as usize),
            unresolved_limit: unresolved_limit as usize,
            resolved: 0,
            resolved_limit: size - unresolved_limit,
            requests: PacketMeter::new(NEW_PER_SECOND, NEW_PER_SECOND),
            holds: HoldQueue::new(snapshot.sizes.frames),
            epoch: 0,
            hand: 0,
            next_purge: 0,
            cursor: 0,
            next_due: NEVER,
            upcoming: NEVER,
            shared: None,
        }
    }

    /// Whether an address on an interface's link is one of a broadcast.
    pub(crate) fn is_broadcast(snapshot: &Snapshot, interface: u16, address: IpAddr) -> bool {
        let link = snapshot.interfaces.get(usize::from(interface));
        link.is_some_and(|link| link::is_broadcast(link, address))
    }

    /// The next hop with this index; an unresolved one that leads nowhere if there is none.
    #[inline]
    pub fn hop(&self, index: u16) -> &NextHop {
        self.hops.get(usize::from(index)).unwrap_or(&NOWHERE)
    }

    /// Changes whenever an index may mean another neighbour than before.
    #[inline]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// How many frames wait here.
    pub fn held(&self) -> u64 {
        self.holds.len() as u64
    }

    /// When there is somebody to ask or to give up; it may lie in the past.
    #[inline]
    pub fn next_due(&self) -> Nanos {
        self.next_due
    }

    /// The index of the neighbour with this address on the link of this interface. It is asked for if it is not known.
    /// The index stays what it is until the [epoch](Self::epoch) changes.
    ///
    /// # Errors
    /// The reason to drop the packet: the neighbour does not answer, there is no room for it, too many others are
    /// asked for, or the address is one of a broadcast.
    pub fn resolve(
        &mut self,
        snapshot: &Snapshot,
        interface: u16,
        address: IpAddr,
        now: Nanos,
    ) -> Result<u16, DropReason> {
        let now = now.max(1);
        let key = key(interface, address);
        if let Some(index) = self.table.find(&key) {
            self.touch(index, now)?;
            return Ok(index as u16);
        }
        let Some(link) = snapshot.interfaces.get(usize::from(interface)) else {
            return Err(DropReason::NeighborUnreachable);
        };
        if link::is_broadcast(link, address) {
            return Err(DropReason::Multicast);
        }
        let mut entry = Entry { since: now, used: now, due: NEVER, ..Entry::default() };
        if invents(snapshot, link) {
            (entry.state, entry.invented, entry.quiet) = (State::Reachable, true, true);
            entry.mac = invented_mac(address);
            return self.insert(key, link, entry, now).ok_or(DropReason::NeighborTableFull);
        }
        self.make_room_unresolved(now)?;
        self.may_ask(now)?;
        let index = self.insert(key, link, entry, now).ok_or(DropReason::NeighborTableFull)?;
        self.arm(index.into(), now);
        Ok(index)
    }

    /// The index of the next hop by which packets leave by an interface and come in by it again at once.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn ourselves(
        &mut self,
        snapshot: &Snapshot,
        interface: u16,
        is_ipv4: bool,
        now: Nanos,
    ) -> Result<u16, DropReason> {
        let key = key_of_ourselves(interface, is_ipv4);
        if let Some(index) = self.table.find(&key) {
            return Ok(index as u16);
        }
        let Some(link) = snapshot.interfaces.get(usize::from(interface)) else {
            return Err(DropReason::NeighborUnreachable);
        };
        let (state, mac, now) = (State::Reachable, link.mac, now.max(1));
        let entry = Entry { state, mac, since: now, used: now, due: NEVER, quiet: true, ..Entry::default() };
        let index = self.insert(key, link, entry, now).ok_or(DropReason::NeighborTableFull)?;
        if let Some(hop) = self.hops.get_mut(usize::from(index)) {
            hop.egress.port = snapshot.inner(link.port);
        }
        Ok(index)
    }

    /// Notes that a new flow uses the neighbour, and sees to it that it is asked for if it must be.
    fn touch(&mut self, index: u32, now: Nanos) -> Result<(), DropReason> {
        let Some((_, entry)) = self.table.get_mut(index) else { return Err(DropReason::NeighborUnreachable) };
        let first = std::mem::replace(&mut entry.used, now) == 0;
        match entry.state {
            State::Stale if first && !entry.quiet => self.arm(index, now.saturating_add(DELAY)),
            State::Failed if now < entry.since.saturating_add(NEGATIVE) => {
                return Err(DropReason::NeighborUnreachable);
            }
            State::Failed => {
                self.may_ask(now)?;
                self.unresolved.retain(|&other| u32::from(other) != index);
                self.unresolved.push_back(index as u16);
                if let Some((_, entry)) = self.table.get_mut(index) {
                    (entry.state, entry.since, entry.attempts) = (State::Incomplete, now, 0);
                }
                self.arm(index, now);
            }
            _ => {}
        }
        Ok(())
    }

    fn may_ask(&mut self, now: Nanos) -> Result<(), DropReason> {
        if self.requests.allow(now, 1) { Ok(()) } else { Err(DropReason::NeighborRequestRate) }
    }

    /// Lets a frame, as it came in by `port`, wait until its next hop is known. Of several, the oldest are kept.
    ///
    /// # Errors
    /// Gives the frame back with the reason to drop it: as many wait as may, or the neighbour does not answer.
    pub fn hold(
        &mut self,
        index: u16,
        port: u16,
        frame: Frame,
        now: Nanos,
    ) -> Result<(), (Frame, DropReason)> {
        if let Err(reason) = self.touch(index.into(), now.max(1)) {
            return Err((frame, reason));
        }
        let Some((_, entry)) = self.table.get_mut(index.into()) else {
            return Err((frame, DropReason::NeighborUnreachable));
        };
        if entry.held == PER_NEIGHBOR {
            return Err((frame, DropReason::NeighborQueueFull));
        }
        let resolved = entry.state.is_resolved();
        self.holds.wait(index, port, frame).map_err(|frame| (frame, DropReason::NeighborQueueFull))?;
        if resolved {
            self.holds.wake(index);
        } else {
            entry.held += 1;
        }
        Ok(())
    }

    /// Whether held frames have a next hop now.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.holds.is_ready()
    }

    /// Fills an empty burst with held frames whose next hop is now known, for another way through the pipeline. All of
    /// them came in by one port, which the burst's `port` is set to; frames of another port are for the next call.
    pub fn release(&mut self, burst: &mut Burst) {
        self.holds.release(burst);
    }

    /// Takes out a frame whose next hop was given up.
    pub(super) fn undelivered(&mut self) -> Option<Undelivered> {
        self.holds.undelivered()
    }

    /// Takes out any held frame, for a shutdown.
    pub fn drain(&mut self) -> Option<(u16, Frame)> {
        self.holds.drain()
    }

    /// Takes in news of the neighbour with this address. Returns whether they were of use.
    ///
    /// Only a question, or anything on a replayed port, makes a neighbour known that was not, and only if its address is on
    /// the link. The caller has made sure that the MAC address is a station's and the IP address none of ours.
    pub fn learn(
        &mut self,
        snapshot: &Snapshot,
        interface: u16,
        address: IpAddr,
        news: News,
        now: Nanos,
    ) -> bool {
        self.tell_news(interface, address, news);
        self.take_in(snapshot, interface, address, news, now)
    }

    fn take_in(
        &mut self,
        snapshot: &Snapshot,
        interface: u16,
        address: IpAddr,
        news: News,
        now: Nanos,
    ) -> bool {
        let key = key(interface, address);
        match (self.table.find(&key), news.mac) {
            (Some(index), mac) => self.update(index, mac, news, now),
            (None, Some(mac)) => {
                let Some(link) = snapshot.interfaces.get(usize::from(interface)) else { return false };
                let quiet = invents(snapshot, link);
                if !(quiet || news.evidence == Evidence::Question) || !link::is_on_link(link, address) {
                    return false;
                }
                let entry =
                    Entry { state: State::Stale, mac, since: now, due: NEVER, quiet, ..Entry::default() };
                self.insert(key, link, entry, now).is_some()
            }
            (None, None) => false,
        }
    }

    /// RFC 4861 7.2.3 and 7.2.5.
    fn update(&mut self, index: u32, mac: Option<Mac>, news: News, now: Nanos) -> bool {
        let Some((_, before)) = self.table.get(index) else { return false };
        let before = *before;
        let resolved = before.state.is_resolved();
        let Some(mac) = mac.or(resolved.then_some(before.mac)) else { return false };
        if resolved && !before.invented {
            if mac != before.mac && !news.overrides {
                if before.state == State::Reachable {
                    self.enter(index, State::Stale, now);
                }
                return true;
            }
            if mac == before.mac && news.evidence != Evidence::Answer {
                return true;
            }
        }
        if !resolved {
            if !self.make_room_resolved(before.used != 0, now) {
                self.fail(index, DropReason::NeighborTableFull, now);
                return true;
            }
            self.unresolved.retain(|&other| u32::from(other) != index);
            self.resolved += 1;
        }
        if let Some((_, entry)) = self.table.get_mut(index) {
            (entry.mac, entry.invented, entry.held) = (mac, false, 0);
        }
        if let Some(hop) = self.hops.get_mut(index as usize) {
            hop.set_mac(mac);
            hop.resolved = true;
        }
        let answered = news.evidence == Evidence::Answer;
        self.enter(index, if answered { State::Reachable } else { State::Stale }, now);
        self.holds.wake(index as u16);
        true
    }

    /// Begins a state in which packets go on, with the time until the neighbour is probed.
    fn enter(&mut self, index: u32, state: State, now: Nanos) {
        let Some((_, entry)) = self.table.get_mut(index) else { return };
        (entry.state, entry.since) = (state, now);
        let due = match state {
            _ if entry.quiet => NEVER,
            State::Reachable => now.saturating_add(REACHABLE),
            State::Stale if entry.used != 0 => now.saturating_add(DELAY),
            _ => NEVER,
        };
        self.arm(index, due);
    }

    /// What is to be asked next. It examines at most `budget` places, and takes from the budget what it has done.
    pub(super) fn poll(&mut self, now: Nanos, budget: &mut u32) -> Option<Request> {
        if now < self.next_due {
            return None;
        }
        while *budget > 0 {
            if self.cursor >= self.table.slots() {
                self.cursor = 0;
                self.next_due = std::mem::replace(&mut self.upcoming, NEVER);
                return None;
            }
            let index = self.cursor;
            self.cursor += 1;
            *budget -= 1;
            let Some((_, entry)) = self.table.get(index) else { continue };
            let request = if entry.due <= now { self.fire(index, now) } else { None };
            let due = self.table.get(index).map_or(NEVER, |(_, entry)| entry.due);
            self.upcoming = self.upcoming.min(due);
            if request.is_some() {
                *budget = budget.saturating_sub(REQUEST_COST);
                return request;
            }
        }
        None
    }

    /// Does what is due: asks, or gives up.
    fn fire(&mut self, index: u32, now: Nanos) -> Option<Request> {
        let (key, entry) = self.table.get_mut(index)?;
        if matches!(entry.state, State::Reachable | State::Stale) {
            (entry.state, entry.since, entry.attempts) = (State::Probe, now, 0);
        }
        if entry.attempts == ATTEMPTS {
            let (interface, address) = (interface_of(key), address_of(key));
            self.tell_lost(interface, address);
            self.fail(index, DropReason::NeighborUnreachable, now);
            return None;
        }
        entry.attempts += 1;
        entry.due = now.saturating_add(RETRANSMIT);
        let mac = (entry.state == State::Probe).then_some(entry.mac);
        Some(Request { interface: interface_of(key), address: address_of(key), mac })
    }

    /// Gives a neighbour up, and what waits for it.
    fn fail(&mut self, index: u32, reason: DropReason, now: Nanos) {
        let Some((_, entry)) = self.table.get_mut(index) else { return };
        let was_resolved = entry.state.is_resolved();
        (entry.state, entry.since, entry.due, entry.held) = (State::Failed, now, NEVER, 0);
        self.discard_held(index, reason);
        if let Some(hop) = self.hops.get_mut(index as usize) {
            hop.resolved = false;
        }
        if was_resolved {
            self.resolved -= 1;
            if self.make_room_unresolved(now).is_ok() {
                self.unresolved.push_back(index as u16);
            } else {
                self.table.remove(index);
                self.epoch = self.epoch.wrapping_add(1);
            }
        }
    }

    fn discard_held(&mut self, index: u32, reason: DropReason) {
        self.holds.fail(index as u16, reason);
        // So that `tick` sees to them at once.
        self.next_due = 0;
    }

    fn arm(&mut self, index: u32, due: Nanos) {
        if let Some((_, entry)) = self.table.get_mut(index) {
            entry.due = due;
            self.next_due = self.next_due.min(due);
            self.upcoming = self.upcoming.min(due);
        }
    }

    fn insert(&mut self, key: NeighborKey, link: &Interface, entry: Entry, now: Nanos) -> Option<u16> {
        let resolved = entry.state.is_resolved();
        if resolved && !self.make_room_resolved(entry.used != 0, now) {
            return None;
        }
        let index = self.table.insert(key, entry).ok()?;
        let mut hop = NextHop::new(link, interface_of(&key), address_of(&key), entry.mac);
        hop.resolved = resolved;
        *self.hops.get_mut(index as usize)? = hop;
        if resolved {
            self.resolved += 1;
        } else {
            self.unresolved.push_back(index as u16);
        }
        Some(index as u16)
    }
}

fn invents(snapshot: &Snapshot, link: &Interface) -> bool {
    snapshot.ports.get(usize::from(link.port)).is_some_and(|port| port.invent_neighbors)
}
