//! Neighbours of several workers: each has a table of its own, and tells the others what it hears. On the wire one of them
//! asks for a neighbour, which the hash of its address names; the others tell that one what they want.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::list::key;
use super::{Entry, Evidence, NEGATIVE, NEVER, Neighbors, News, Request, State};
use crate::clock::Nanos;
use crate::snapshot::Snapshot;
use crate::stage::owner::Owners;
use crate::verdict::DropReason;

/// Messages that wait to be sent, at most. Who waits for one that is lost asks again a second later.
const ROOM: usize = 256;

/// What a worker tells others of a neighbour.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// To whom; to all if none is named.
    pub to: Option<u8>,
    /// On whose link.
    pub interface: u16,
    /// Its address.
    pub address: IpAddr,
    /// What.
    pub word: Word,
}

/// What is said of a neighbour.
#[derive(Clone, Copy, Debug)]
pub enum Word {
    /// It was heard.
    Heard(News),
    /// It is to be asked for; whether it is known, and may be gone.
    Wanted(bool),
    /// It does not answer.
    Lost,
}

/// What binds one worker's table to the others'.
#[derive(Debug)]
pub(super) struct Shared {
    me: u8,
    owners: Owners,
    telling: VecDeque<Told>,
}

impl Neighbors {
    /// Makes it the table of one of several workers. It must be empty.
    pub(crate) fn share(&mut self, me: u8, owners: Owners) {
        self.shared = Some(Box::new(Shared { me, owners, telling: VecDeque::with_capacity(ROOM) }));
    }

    /// Whether other workers have tables, too.
    pub(in crate::local) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// The next message for others.
    pub(crate) fn tell(&mut self) -> Option<Told> {
        self.shared.as_mut()?.telling.pop_front()
    }

    fn say(&mut self, told: Told) {
        if let Some(shared) = &mut self.shared {
            if shared.telling.len() < ROOM {
                shared.telling.push_back(told);
            }
        }
    }

    pub(super) fn tell_news(&mut self, interface: u16, address: IpAddr, news: News) {
        self.say(Told { to: None, interface, address, word: Word::Heard(news) });
    }

    /// Who did not answer the one that asks has not answered anybody.
    pub(super) fn tell_lost(&mut self, interface: u16, address: IpAddr) {
        self.say(Told { to: None, interface, address, word: Word::Lost });
    }

    /// Leaves a request to the worker that makes it. False if that is this one.
    pub(in crate::local) fn leave_to_another(&mut self, request: &Request, snapshot: &Snapshot) -> bool {
        let Request { interface, address, mac } = *request;
        let Some(shared) = &self.shared else { return false };
        let asker = shared.owners.of_neighbor(&key(interface, address), snapshot);
        if asker == shared.me {
            return false;
        }
        let word = Word::Wanted(mac.is_some());
        self.say(Told { to: Some(asker), interface, address, word });
        true
    }

    /// Takes in what another worker tells.
    pub(crate) fn told(&mut self, snapshot: &Snapshot, told: &Told, from: u8, now: Nanos) {
        let Told { interface, address, word, .. } = *told;
        match word {
            Word::Heard(news) => _ = self.take_in(snapshot, interface, address, news, now),
            Word::Lost => {
                let index = self.table.find(&key(interface, address));
                let state = index.and_then(|index| self.table.value(index)).map(|entry| entry.state);
                if let (Some(index), Some(State::Incomplete | State::Probe)) = (index, state) {
                    self.fail(index, DropReason::NeighborUnreachable, now);
                }
            }
            Word::Wanted(probe) => self.want(snapshot, interface, address, probe, from, now),
        }
    }

    /// Another worker wants a neighbour that this one asks for on behalf of all.
    fn want(
        &mut self,
        snapshot: &Snapshot,
        interface: u16,
        address: IpAddr,
        probe: bool,
        from: u8,
        now: Nanos,
    ) {
        let now = now.max(1);
        let key = key(interface, address);
        let Some(index) = self.table.find(&key) else {
            let Some(link) = snapshot.interfaces.get(usize::from(interface)) else { return };
            // The other one has kept to the rate of questions.
            if self.make_room_unresolved(now).is_ok() {
                let entry = Entry { since: now, used: now, due: NEVER, ..Entry::default() };
                if let Some(index) = self.insert(key, link, entry, now) {
                    self.arm(index.into(), now);
                }
            }
            return;
        };
        let Some((_, entry)) = self.table.get_mut(index) else { return };
        entry.used = now;
        let (state, mac, since) = (entry.state, entry.mac, entry.since);
        match state {
            State::Reachable => self.reply(from, interface, address, mac, Evidence::Answer),
            State::Stale => {
                if !probe {
                    self.reply(from, interface, address, mac, Evidence::Announcement);
                }
                let due = if probe { now } else { now.saturating_add(super::DELAY) };
                self.arm(index, due);
            }
            State::Failed if now >= since.saturating_add(NEGATIVE) => {
                self.unresolved.retain(|&other| u32::from(other) != index);
                self.unresolved.push_back(index as u16);
                if let Some((_, entry)) = self.table.get_mut(index) {
                    (entry.state, entry.since, entry.attempts) = (State::Incomplete, now, 0);
                }
                self.arm(index, now);
            }
            State::Failed => self.say(Told { to: Some(from), interface, address, word: Word::Lost }),
            State::Incomplete | State::Probe => {}
        }
    }

    fn reply(
        &mut self,
        to: u8,
        interface: u16,
        address: IpAddr,
        mac: sluice_pkt::ethernet::Mac,
        evidence: Evidence,
    ) {
        let news = News { mac: Some(mac), evidence, overrides: true };
        self.say(Told { to: Some(to), interface, address, word: Word::Heard(news) });
    }
}
