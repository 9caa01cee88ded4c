//! What has left by class and by host, each octet handed out once, for accounts to be kept elsewhere; and what becomes of the
//! packets of those whose quota is used up.

use super::Shapers;
use super::port::PortShaper;
use crate::snapshot::{NONE16, Over};
use crate::table::hash::HashTable;
use crate::table::shaper::HostOctets;

/// Octets on the wire, the shaper's overhead included, that have not been handed out before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OctetRow {
    /// Index into [`Snapshot::classes`](crate::snapshot::Snapshot::classes).
    pub class: u16,
    /// Of this host of the class alone, an address of IPv4 as one of IPv6 that is mapped; of the whole class if none.
    pub host: Option<u128>,
    /// How many.
    pub octets: u64,
}

/// Whose quota is used up, or is not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Index into [`Snapshot::classes`](crate::snapshot::Snapshot::classes).
    pub class: u16,
    /// This host of the class alone.
    pub host: Option<u128>,
    /// What becomes of its packets.
    pub over: Over,
}

/// All whose quota is used up at a worker.
#[derive(Default)]
pub(super) struct SpentTable {
    /// By class; empty if no class has used up its own.
    classes: Vec<Over>,
    /// By class and host; `None` if no class has a quota for each host.
    hosts: Option<Box<HashTable<HostOf, Over>>>,
}

impl std::fmt::Debug for SpentTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpentTable").field("classes", &self.classes).finish_non_exhaustive()
    }
}

/// A host of a class, as tables know it.
pub(super) type HostOf = [u64; 3];

pub(super) fn named(class: u16, host: u128) -> HostOf {
    [class.into(), host as u64, (host >> 64) as u64]
}

/// The class and the host that are [named](named) so.
pub(super) fn host_of(&[class, low, high]: &HostOf) -> (u16, u128) {
    (class as u16, u128::from(high) << 64 | u128::from(low))
}

impl SpentTable {
    /// For so many classes, and so many hosts.
    pub(super) fn new(classes: usize, hosts: u32, seed: u64) -> Self {
        let table = || Box::new(HashTable::with_capacity(hosts, seed.rotate_left(24)));
        Self { classes: vec![Over::Pass; classes], hosts: (hosts > 0).then(table) }
    }

    pub(super) fn set(&mut self, spent: Spent) {
        let Spent { class, host, over } = spent;
        let Some(host) = host else {
            if let Some(of) = self.classes.get_mut(usize::from(class)) {
                *of = over;
            }
            return;
        };
        let Some(hosts) = &mut self.hosts else { return };
        let key = named(class, host);
        if let Some(index) = hosts.find(&key) {
            hosts.remove(index);
        }
        if over != Over::Pass {
            // One that finds no room goes on.
            let _ = hosts.insert(key, over);
        }
    }

    /// Whether a host could be in it.
    #[inline]
    pub(super) fn has_hosts(&self) -> bool {
        self.hosts.as_ref().is_some_and(|hosts| !hosts.is_empty())
    }

    #[inline]
    pub(super) fn of_class(&self, class: u16) -> Over {
        self.classes.get(usize::from(class)).copied().unwrap_or_default()
    }

    pub(super) fn of_host(&self, class: u16, host: u128) -> Over {
        let hosts = self.hosts.as_ref();
        let found = hosts.and_then(|hosts| hosts.value(hosts.find(&named(class, host))?));
        found.copied().unwrap_or_default()
    }

    /// Those of another configuration go on.
    pub(super) fn carry(&mut self, old: &Self, class_of: &[u16], knows: impl Fn(Over) -> Over) {
        let new = |class: u16| class_of.get(usize::from(class)).copied().filter(|&class| class != NONE16);
        for (class, &over) in (0..).zip(&old.classes) {
            if let Some(class) = new(class) {
                self.set(Spent { class, host: None, over: knows(over) });
            }
        }
        for (_, key, &over) in old.hosts.iter().flat_map(|hosts| hosts.iter()) {
            let (class, host) = host_of(key);
            if let Some(class) = new(class) {
                self.set(Spent { class, host: Some(host), over: knows(over) });
            }
        }
    }
}

impl Shapers {
    /// Hands out octets, up to `room` rows, from a place on, 0 at first. The place to go on from; `None` at the end.
    pub fn take_octets(&mut self, from: u32, room: usize, mut each: impl FnMut(OctetRow)) -> Option<u32> {
        let (mut left, mut begin) = (room, 0);
        for shaper in self.ports.iter_mut().flatten() {
            while left > 0 {
                let Some(row) = shaper.take_gone() else { break };
                each(row);
                left -= 1;
            }
            let end = begin + shaper.octet_places();
            let mut at = from.clamp(begin, end);
            while at < end {
                if left == 0 {
                    return Some(at);
                }
                // A place without octets counts, too, so that no call takes long.
                left -= 1;
                if let Some(row) = shaper.take_octets(at - begin) {
                    each(row);
                }
                at += 1;
            }
            begin = end;
        }
        (left == 0).then_some(begin)
    }

    /// Notes whose quota is used up, or is not any more.
    pub fn set_spent(&mut self, spent: Spent) {
        self.spent.set(spent);
    }
}

impl PortShaper {
    fn octet_places(&self) -> u32 {
        self.queue_places() + self.accounts.as_ref().map_or(0, |accounts| accounts.places())
    }

    /// Of classes and hosts with queues; behind them are those of accounts.
    fn queue_places(&self) -> u32 {
        self.nodes.len() as u32 + self.tree.host_places()
    }

    fn take_octets(&mut self, at: u32) -> Option<OctetRow> {
        if let Some(account) = at.checked_sub(self.queue_places()) {
            let (place, host, octets) = self.accounts.as_mut()?.take(account)?;
            return Some(OctetRow { class: self.classes.start as u16 + place, host: Some(host), octets });
        }
        let Some(place) = at.checked_sub(self.nodes.len() as u32) else {
            return self.take_class_octets(at as usize);
        };
        let octets = self.tree.take_octets(place)?;
        self.row_of(octets)
    }

    fn take_gone(&mut self) -> Option<OctetRow> {
        let octets = self.tree.take_gone()?;
        self.row_of(octets)
    }

    fn row_of(&self, HostOctets { class, host, octets }: HostOctets) -> Option<OctetRow> {
        let place = self.nodes.iter().position(|&node| node == class)?;
        Some(OctetRow { class: (self.classes.start + place) as u16, host: Some(host), octets })
    }

    fn take_class_octets(&mut self, place: usize) -> Option<OctetRow> {
        let sent = self.tree.sent_bytes(*self.nodes.get(place)?);
        let taken = self.taken.get_mut(place)?;
        let octets = sent.wrapping_sub(std::mem::replace(taken, sent));
        let class = (self.classes.start + place) as u16;
        (octets > 0).then_some(OctetRow { class, host: None, octets })
    }

    /// Takes over what another configuration's has not handed out yet.
    pub(super) fn owe(&mut self, old: &mut Self, class_of: &[u16]) {
        let start = self.classes.start;
        let mut at = 0..old.octet_places();
        let rows = std::iter::from_fn(|| match at.next() {
            Some(at) => Some(old.take_octets(at)),
            None => old.take_gone().map(Some),
        });
        for OctetRow { class, host, octets } in rows.flatten() {
            let new =
                class_of.get(usize::from(class)).and_then(|&class| usize::from(class).checked_sub(start));
            let Some(place) = new else { continue };
            let Some(&node) = self.nodes.get(place) else { continue };
            match host {
                Some(host) if self.counts_hosts(place) => {
                    if let Some(accounts) = &mut self.accounts {
                        accounts.owe(place as u16, host, octets);
                    }
                }
                Some(host) => self.tree.keep_octets(HostOctets { class: node, host, octets }),
                None => {
                    if let Some(taken) = self.taken.get_mut(place) {
                        *taken = taken.wrapping_sub(octets);
                    }
                }
            }
        }
    }
}
