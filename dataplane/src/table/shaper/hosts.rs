//! Hosts of classes: leaves that are made on demand, and given back when they are empty and have saved all that they can.
//!
//! So a host that goes silent to be made anew with full buckets gains nothing by it.

use crate::arena::HugeVec;
use crate::table::index::Index;
use crate::table::key::hash_words;
use crate::table::prefetch::prefetch_at;

use super::config::{filled, room};
use super::node::Node;
use super::octets::HostOctets;
use super::stats::Counts;
use super::{CAUSES, Hosts, NONE, NodeId, Rates, Shaper, fat};

/// A host without packets is known for so long at least, ns.
const LINGERS: u64 = 250_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    pub(super) key: u128,
    /// Its class, by place.
    pub(super) class: u32,
    /// The next free one.
    next: u32,
    /// Octets that have been [handed out](super::octets).
    pub(super) taken: u64,
}

/// What is known of a class that has hosts.
#[derive(Clone, Copy, Debug)]
struct Hosted {
    hosts: Hosts,
    /// Its place among all classes that packets wait in.
    place: u32,
    /// Hosts at present.
    known: u32,
    /// They, by how much they hold.
    fat: fat::Lists,
}

#[derive(Debug)]
pub(super) struct HostPool {
    /// The node of the first.
    pub(super) base: u32,
    pub(super) hosts: HugeVec<Host>,
    index: Index,
    free: u32,
    used: u32,
    pub(super) capacity: u32,
    classes: HugeVec<Hosted>,
    /// For each class: its place in `classes`, or `NONE`.
    places: HugeVec<u32>,
    /// Of hosts that are not known any more; no more than there can be hosts.
    pub(super) gone: HugeVec<HostOctets>,
    pub(super) octets_lost: u64,
}

impl HostPool {
    pub(super) fn new(base: u32, capacity: u32) -> Self {
        let index = Index::with_capacity(capacity);
        let (hosts, classes, places) = (room(capacity), room(base), filled(base, NONE));
        let (gone, octets_lost) = (room(capacity), 0);
        Self { base, hosts, index, free: NONE, used: 0, capacity, classes, places, gone, octets_lost }
    }

    pub(super) fn used(&self) -> u32 {
        self.used
    }

    pub(super) fn bytes(&self) -> usize {
        self.hosts.capacity() * size_of::<Host>()
            + self.index.bytes()
            + self.classes.capacity() * size_of::<Hosted>()
            + self.places.capacity() * size_of::<u32>()
            + self.gone.capacity() * size_of::<HostOctets>()
    }

    /// Adds a class with hosts, and gives its place among those.
    pub(super) fn add_class(&mut self, node: NodeId, place: u32, hosts: Hosts) -> u32 {
        self.classes.push(Hosted { hosts, place, known: 0, fat: fat::Lists::new() });
        let hosted = self.classes.len() as u32 - 1;
        if let Some(of) = self.places.get_mut(node.0 as usize) {
            *of = hosted;
        }
        hosted
    }

    /// The place of a class among all that packets wait in, if it has hosts.
    #[inline(always)]
    pub(super) fn class_with(&self, node: NodeId) -> Option<u32> {
        if self.capacity == 0 {
            return None;
        }
        let hosted = *self.places.get(node.0 as usize)?;
        self.classes.get(hosted as usize).map(|class| class.place)
    }

    /// What each host of a class gets.
    pub(super) fn rates(&self, hosted: u32) -> Option<Rates> {
        self.classes.get(hosted as usize).map(|class| class.hosts.rates)
    }

    /// A free host, for this key.
    fn take(&mut self, class: u32, key: u128) -> Option<u32> {
        let number = self.free;
        let host = Host { key, class, next: NONE, taken: 0 };
        if let Some(free) = self.hosts.get_mut(number as usize) {
            self.free = free.next;
            *free = host;
            return Some(number);
        }
        let number = self.hosts.len() as u32;
        (number < self.capacity).then(|| {
            self.hosts.push(host);
            number
        })
    }
}

impl<T> Shaper<T> {
    #[inline(always)]
    pub(super) fn host_hash(&self, place: u32, host: u128) -> u64 {
        hash_words(&[u64::from(place), host as u64, (host >> 64) as u64], self.seed)
    }

    /// The leaf of a host that is known.
    #[inline(always)]
    pub(super) fn find_host(&self, place: u32, host: u128, hash: u64) -> Option<u32> {
        let HostPool { base, hosts, index, .. } = &self.hosts;
        let is_it =
            |number: u32| hosts.get(number as usize).is_some_and(|of| of.key == host && of.class == place);
        index.find(hash, is_it).map(|number| base + number)
    }

    /// Starts to fetch what [`find_host`](Self::find_host) reads first.
    #[inline(always)]
    pub(super) fn prefetch_host(&self, hash: u64) {
        self.hosts.index.prefetch(hash);
    }

    /// The likely leaf of a host, which starts to be fetched.
    #[inline(always)]
    pub(super) fn host_candidate(&self, hash: u64) -> u32 {
        let HostPool { base, hosts, index, .. } = &self.hosts;
        let Some(number) = index.find(hash, |_| true) else { return NONE };
        prefetch_at(hosts, number as usize);
        base + number
    }

    /// The leaf of a host, made if there is none; `None` if there is no room for it. `guess` is its likely leaf, or `NONE`.
    #[inline(always)]
    pub(super) fn host(&mut self, place: u32, host: u128, guess: u32) -> Option<u32> {
        let guessed = self.hosts.hosts.get(guess.wrapping_sub(self.hosts.base) as usize);
        if guessed.is_some_and(|of| of.key == host && of.class == place) {
            return Some(guess);
        }
        let hash = self.host_hash(place, host);
        self.find_host(place, host, hash).or_else(|| self.make_host(place, host, hash))
    }

    #[cold]
    fn make_host(&mut self, place: u32, host: u128, hash: u64) -> Option<u32> {
        let class = self.classes.get_mut(place as usize)?;
        let of = self.hosts.classes.get_mut(class.hosted as usize)?;
        let rates = (of.known < of.hosts.most).then_some(of.hosts.rates)?;
        let number = self.hosts.take(place, host)?;
        self.hosts.classes[class.hosted as usize].known += 1;
        self.hosts.used += 1;
        self.hosts.index.insert(hash, number);
        let id = self.hosts.base + number;
        let up = self.nodes[class.node.0 as usize].lists;
        let node = &mut self.nodes[id as usize];
        let epoch = node.epoch;
        *node = Node { class: place, epoch, ..Node::new(class.node.0, up, &rates, self.mtu) };
        self.sent[id as usize] = Counts::default();
        self.drops[id as usize] = [0; CAUSES];
        Some(id)
    }

    /// Whether a node is a host.
    #[inline(always)]
    pub(super) fn is_host(&self, node: u32) -> bool {
        node >= self.hosts.base
    }

    /// The host that a leaf is of; 0 where its class has none.
    pub(super) fn host_key(&self, leaf: u32) -> u128 {
        let number = leaf.checked_sub(self.hosts.base);
        number.and_then(|number| self.hosts.hosts.get(number as usize)).map_or(0, |host| host.key)
    }

    /// A host has no packets any more.
    #[inline(always)]
    pub(super) fn host_is_idle(&mut self, host: u32, now: u64) {
        let node = &mut self.nodes[host as usize];
        if !node.is_idle {
            node.is_idle = true;
            self.wheel.arm_by(host, now.saturating_add(LINGERS));
        }
    }

    /// Gives an idle host back; or waits until it has been without packets for long enough, and has saved all that it can.
    pub(super) fn give_host_back(&mut self, id: u32, now: u64) {
        let node = &mut self.nodes[id as usize];
        let due = node.buckets.full().max(node.buckets.last().saturating_add(LINGERS));
        if due > now {
            node.is_idle = true;
            self.wheel.arm(id, due);
            return;
        }
        let number = id - self.hosts.base;
        if let Some(octets) = self.take_octets(number) {
            self.keep_octets(octets);
        }
        let Some(&Host { key, class: place, .. }) = self.hosts.hosts.get(number as usize) else { return };
        let hash = self.host_hash(place, key);
        let (hosts, seed) = (&self.hosts.hosts, self.seed);
        let hash_of = |number: u32| {
            let host = hosts.get(number as usize);
            host.map_or(0, |&Host { key, class, .. }| {
                hash_words(&[u64::from(class), key as u64, (key >> 64) as u64], seed)
            })
        };
        self.hosts.index.remove(hash, number, hash_of);
        if let Some(host) = self.hosts.hosts.get_mut(number as usize) {
            host.next = std::mem::replace(&mut self.hosts.free, number);
            host.class = NONE;
        }
        self.hosts.used -= 1;
        let hosted = self.classes[place as usize].hosted;
        let class = &mut self.hosts.classes[hosted as usize];
        class.known -= 1;
        class.fat.move_to(&mut self.links, id, &mut self.nodes[id as usize].fat, 0);
    }

    /// One of the hosts of a class that hold the most.
    pub(super) fn fattest_host(&mut self, place: u32) -> Option<u32> {
        let hosted = self.classes.get(place as usize)?.hosted;
        let fat = &mut self.hosts.classes.get_mut(hosted as usize)?.fat;
        fat.fattest(
            &mut self.links,
            &mut *self.nodes,
            |nodes, host| nodes[host as usize].packets,
            |nodes, host| &mut nodes[host as usize].fat,
        )
    }

    /// Changes what each host of a class gets. Takes a time in proportion to the number of hosts that are known.
    pub fn set_host_rates(&mut self, now: u64, class: NodeId, rates: &Rates) {
        let Some(place) = self.hosts.class_with(class) else { return };
        let hosted = self.classes[place as usize].hosted;
        self.hosts.classes[hosted as usize].hosts.rates = *rates;
        for number in 0..self.hosts.hosts.len() as u32 {
            if self.hosts.hosts[number as usize].class == place {
                self.change_rates(now, self.hosts.base + number, rates);
            }
        }
    }

    /// Puts a host among the fat ones of its class, if it has come to be one.
    #[inline(always)]
    pub(super) fn host_has_grown(&mut self, id: u32, place: u32) {
        let node = &mut self.nodes[id as usize];
        let level = fat::level(node.packets);
        if level > node.fat {
            let hosted = self.classes[place as usize].hosted;
            self.hosts.classes[hosted as usize].fat.move_to(&mut self.links, id, &mut node.fat, level);
        }
    }
}
