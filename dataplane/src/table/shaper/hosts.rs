//! Hosts of classes: leaves that are made on demand, and given back when they are empty and have saved all that they can.
//!
//! So a host that goes silent to be made anew with full buckets gains nothing by it.

use crate::arena::HugeVec;
use crate::table::index::Index;
use crate::table::key::hash_words;
use crate::table::prefetch::prefetch_at;

use super::config::room;
use super::node::Node;
use super::stats::Counts;
use super::{CAUSES, NONE, NodeId, Rates, Shaper, fat};

/// A host without packets is known for so long at least, ns.
const LINGERS: u64 = 100_000_000;

#[derive(Clone, Copy, Debug)]
struct Host {
    key: u128,
    /// Its class, by place.
    class: u32,
    /// The next free one.
    next: u32,
}

#[derive(Debug)]
pub(super) struct HostPool {
    /// The node of the first.
    base: u32,
    hosts: HugeVec<Host>,
    index: Index,
    free: u32,
    used: u32,
    capacity: u32,
}

impl HostPool {
    pub(super) fn new(base: u32, capacity: u32) -> Self {
        let index = Index::with_capacity(capacity);
        Self { base, hosts: room(capacity), index, free: NONE, used: 0, capacity }
    }

    pub(super) fn used(&self) -> u32 {
        self.used
    }

    pub(super) fn bytes(&self) -> usize {
        self.hosts.capacity() * size_of::<Host>() + self.index.bytes()
    }

    /// A free host, for this key.
    fn take(&mut self, class: u32, key: u128) -> Option<u32> {
        let number = self.free;
        let host = Host { key, class, next: NONE };
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
        prefetch_at(&self.nodes, (base + number) as usize);
        base + number
    }

    /// The leaf of a host, made if there is none; `None` if there is no room for it.
    #[inline]
    pub(super) fn host(&mut self, place: u32, host: u128) -> Option<u32> {
        let hash = self.host_hash(place, host);
        self.find_host(place, host, hash).or_else(|| self.make_host(place, host, hash))
    }

    fn make_host(&mut self, place: u32, host: u128, hash: u64) -> Option<u32> {
        let class = self.classes.get_mut(place as usize)?;
        let hosts = class.hosts.filter(|hosts| class.known < hosts.most)?;
        let number = self.hosts.take(place, host)?;
        class.known += 1;
        self.hosts.used += 1;
        self.hosts.index.insert(hash, number);
        let id = self.hosts.base + number;
        let node = &mut self.nodes[id as usize];
        let epoch = node.epoch;
        *node = Node { class: place, epoch, ..Node::new(class.node.0, 0, self.mtu, &hosts.rates, self.mtu) };
        self.sent[id as usize] = Counts::default();
        self.drops[id as usize] = [0; CAUSES];
        Some(id)
    }

    /// Whether a node is a host.
    #[inline(always)]
    pub(super) fn is_host(&self, node: u32) -> bool {
        node >= self.hosts.base
    }

    /// A host has no packets any more.
    #[inline]
    pub(super) fn host_is_idle(&mut self, host: u32, now: u64) {
        self.wheel.arm_by(host, now.saturating_add(LINGERS));
    }

    /// Gives an idle host back, or waits until it has saved all that it can.
    pub(super) fn give_host_back(&mut self, id: u32, now: u64) {
        let full = self.nodes[id as usize].buckets.full();
        if full > now {
            self.wheel.arm(id, full);
            return;
        }
        let number = id - self.hosts.base;
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
        let class = &mut self.classes[place as usize];
        class.known -= 1;
        class.fat.move_to(&mut self.links, id, &mut self.nodes[id as usize].fat, 0);
    }

    /// Changes what each host of a class gets. Takes a time in proportion to the number of hosts that are known.
    pub fn set_host_rates(&mut self, now: u64, class: NodeId, rates: &Rates) {
        let Some(place) = self.nodes.get(class.0 as usize).map(|node| node.class) else { return };
        let Some(hosts) = self.classes.get_mut(place as usize).and_then(|class| class.hosts.as_mut()) else {
            return;
        };
        hosts.rates = *rates;
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
            self.classes[place as usize].fat.move_to(&mut self.links, id, &mut node.fat, level);
        }
    }
}
