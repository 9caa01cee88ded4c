//! Telling the links which addresses are ours, so that switches and neighbours forget who had them before.

use std::net::IpAddr;

use super::Context;
use crate::clock::{Nanos, SECOND};
use crate::snapshot::Snapshot;

/// How often each address is announced, and how far apart (after RFC 5227 2.3 and RFC 4861 7.2.6).
const ROUNDS: u8 = 3;
const INTERVAL: Nanos = SECOND;
/// How many announcements one tick sends at most.
const PER_TICK: usize = 32;

/// What is to be announced, and how far that has come.
#[derive(Debug)]
pub(super) struct Announcements {
    /// By interface and address, each once.
    addresses: Vec<(u16, IpAddr)>,
    /// Those before are announced already.
    first: usize,
    next: usize,
    rounds_left: u8,
    due: Nanos,
}

impl Announcements {
    /// All addresses, NAT's among them, except on ports that replay a capture.
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        Self::of(addresses(snapshot), 0)
    }

    /// The addresses of a configuration that takes the place of another.
    pub(super) fn after(old: &Snapshot, new: &Snapshot) -> Self {
        let old = addresses(old);
        let is_old = |address: &(u16, IpAddr)| old.binary_search(address).is_ok();
        let (mut known, fresh): (Vec<_>, Vec<_>) = addresses(new).into_iter().partition(is_old);
        let first = known.len();
        known.extend(fresh);
        Self::of(known, first)
    }

    fn of(addresses: Vec<(u16, IpAddr)>, first: usize) -> Self {
        let due = if first == addresses.len() { Nanos::MAX } else { 0 };
        Self { addresses, first, next: first, rounds_left: ROUNDS, due }
    }

    /// Goes on with another configuration's; `fresh` holds this one's afterwards.
    pub(super) fn adopt(&mut self, fresh: &mut Self) {
        if self.due != Nanos::MAX {
            // Cut short in the middle: all that stay are announced from the start.
            (fresh.first, fresh.next, fresh.due) = (0, 0, 0);
        }
        std::mem::swap(self, fresh);
    }

    /// Another worker announces.
    pub(super) fn silence(&mut self) {
        self.due = Nanos::MAX;
    }

    pub(super) fn next_due(&self) -> Nanos {
        self.due
    }

    /// The next address to announce.
    fn poll(&mut self, now: Nanos) -> Option<(u16, IpAddr)> {
        if now < self.due {
            return None;
        }
        let address = self.addresses.get(self.next).copied();
        self.next += 1;
        if address.is_none() {
            self.next = self.first;
            self.rounds_left = self.rounds_left.saturating_sub(1);
            self.due = if self.rounds_left == 0 { Nanos::MAX } else { now.saturating_add(INTERVAL) };
        }
        address
    }
}

/// In ascending order.
fn addresses(snapshot: &Snapshot) -> Vec<(u16, IpAddr)> {
    let mut addresses = Vec::new();
    for (interface, link) in snapshot.interfaces.iter().enumerate() {
        let v4 = link.v4.iter().map(|&(address, _)| IpAddr::V4(address));
        let v6 = link.v6.iter().map(|&(address, _)| IpAddr::V6(address));
        addresses.extend(v4.chain(v6).map(|address| (interface as u16, address)));
    }
    addresses.extend(snapshot.local4.iter().map(|(&address, &(on, _))| (on, IpAddr::V4(address))));
    addresses.extend(snapshot.local6.iter().map(|(&address, &(on, _))| (on, IpAddr::V6(address))));
    // The kernel announces its own.
    let silent = |interface: u16| {
        let link = snapshot.interfaces.get(usize::from(interface));
        let port = link.and_then(|link| snapshot.ports.get(usize::from(link.port)));
        port.is_none_or(|port| port.invent_neighbors || port.host_is_kernel)
    };
    addresses.retain(|&(interface, _)| !silent(interface));
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

impl Context<'_> {
    pub(super) fn announce(&mut self) {
        for _ in 0..PER_TICK {
            let Some((interface, address)) = self.local.announcements.poll(self.now) else { return };
            let Some(link) = self.snapshot.interfaces.get(usize::from(interface)) else { continue };
            match address {
                IpAddr::V4(address) => self.announce_arp(link, address),
                IpAddr::V6(address) => self.announce_nd(link, address),
            }
        }
    }
}
