//! Queues of flows: from one pool, made when a flow's first packet comes.
//!
//! A queue belongs to its leaf for as long as it goes by the leaf's epoch. When a leaf gets empty its epoch is another: so all of
//! its queues are given back at once. One that was given back keeps its name until it is taken for another flow, by a hand that
//! goes round (as the clock of page replacement does); so a flow that comes back before that finds it.

use crate::arena::HugeVec;
use crate::table::index::Index;
use crate::table::key::hash_words;
use crate::table::prefetch::prefetch_at;

use super::NONE;
use super::codel;
use super::config::room;
use super::node::Node;

/// Queues that are looked at for one that has been given back.
const LOOKS: usize = 32;

/// A flow's queue, one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Flow {
    pub(super) leaf: u32,
    pub(super) hash: u32,
    /// The leaf's when it was made; another if it has been given back.
    epoch: u32,
    /// Slots of the first and the last packet.
    pub(super) head: u32,
    pub(super) tail: u32,
    /// The one behind it in its list.
    pub(super) next: u32,
    /// What it may send in this turn, bytes.
    pub(super) deficit: i32,
    pub(super) packets: u32,
    pub(super) bytes: u32,
    pub(super) codel: codel::State,
}

const _: () = assert!(size_of::<Flow>() == 64);

/// First and last of a list of flows.
pub(super) type Ends = [u32; 2];

#[derive(Debug)]
pub(super) struct Flows {
    flows: HugeVec<Flow>,
    index: Index,
    hand: u32,
    capacity: u32,
}

impl Flow {
    fn new(leaf: u32, hash: u32, epoch: u32) -> Self {
        Self {
            leaf,
            hash,
            epoch,
            head: NONE,
            tail: NONE,
            next: NONE,
            deficit: 0,
            packets: 0,
            bytes: 0,
            codel: codel::State::default(),
        }
    }

    /// Whether it is a queue of this leaf, whose epoch this is.
    #[inline(always)]
    pub(super) fn is_of(&self, leaf: u32, epoch: u32) -> bool {
        self.leaf == leaf && self.epoch == epoch
    }
}

impl Flows {
    pub(super) fn new(capacity: u32) -> Self {
        let capacity = capacity.clamp(1, 1 << 23);
        Self { flows: room(capacity), index: Index::with_capacity(capacity), hand: 0, capacity }
    }

    pub(super) fn bytes(&self) -> usize {
        self.flows.capacity() * size_of::<Flow>() + self.index.bytes()
    }

    /// A flow's name: what it is found by.
    #[inline(always)]
    pub(super) fn name(seed: u64, leaf: u32, hash: u32) -> u64 {
        hash_words(&[u64::from(leaf) << 32 | u64::from(hash)], seed)
    }

    #[inline(always)]
    pub(super) fn get(&self, flow: u32) -> Option<&Flow> {
        self.flows.get(flow as usize)
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, flow: u32) -> Option<&mut Flow> {
        self.flows.get_mut(flow as usize)
    }

    /// Starts to fetch what a search reads first.
    #[inline(always)]
    pub(super) fn prefetch(&self, name: u64) {
        self.index.prefetch(name);
    }

    /// Starts to fetch a queue.
    #[inline(always)]
    pub(super) fn prefetch_queue(&self, flow: u32) {
        prefetch_at(&self.flows, flow as usize);
    }

    /// The likely queue of this name, which starts to be fetched.
    #[inline(always)]
    pub(super) fn candidate(&self, name: u64) -> u32 {
        let found = self.index.find(name, |_| true).unwrap_or(NONE);
        prefetch_at(&self.flows, found as usize);
        found
    }

    /// The queue of a flow, and whether it has been in use; made if there is none. `None` if all that are looked at are in use.
    /// `candidate` is what [`candidate`](Self::candidate) said, or `NONE`.
    #[inline(always)]
    pub(super) fn find_or_make(
        &mut self,
        seed: u64,
        candidate: u32,
        (leaf, hash): (u32, u32),
        nodes: &[Node],
    ) -> Option<(u32, bool)> {
        let is_it = |flow: &Flow| flow.leaf == leaf && flow.hash == hash;
        let found = match self.get(candidate) {
            Some(flow) if is_it(flow) => candidate,
            _ => self.search(Self::name(seed, leaf, hash), is_it),
        };
        let epoch = nodes[leaf as usize].epoch;
        let Some(flow) = self.get_mut(found) else { return self.make(seed, leaf, hash, nodes) };
        let in_use = flow.epoch == epoch;
        if !in_use {
            *flow = Flow::new(leaf, hash, epoch);
        }
        Some((found, in_use))
    }

    #[inline]
    fn search(&self, name: u64, is_it: impl Fn(&Flow) -> bool) -> u32 {
        self.index.find(name, |flow| self.get(flow).is_some_and(&is_it)).unwrap_or(NONE)
    }

    #[cold]
    fn make(&mut self, seed: u64, leaf: u32, hash: u32, nodes: &[Node]) -> Option<(u32, bool)> {
        let fresh = Flow::new(leaf, hash, nodes[leaf as usize].epoch);
        let made = if (self.flows.len() as u32) < self.capacity {
            self.flows.push(fresh);
            self.flows.len() as u32 - 1
        } else {
            let taken = self.given_back(nodes)?;
            let flows = &self.flows;
            let name_of =
                |flow: u32| flows.get(flow as usize).map_or(0, |flow| Self::name(seed, flow.leaf, flow.hash));
            self.index.remove(name_of(taken), taken, name_of);
            *self.get_mut(taken)? = fresh;
            taken
        };
        self.index.insert(Self::name(seed, leaf, hash), made);
        Some((made, false))
    }

    /// The next queue that has been given back.
    fn given_back(&mut self, nodes: &[Node]) -> Option<u32> {
        (0..LOOKS).find_map(|_| {
            let flow = self.hand;
            self.hand = if flow + 1 < self.capacity { flow + 1 } else { 0 };
            let of = self.get(flow)?;
            let leaf = nodes.get(of.leaf as usize)?;
            (leaf.epoch != of.epoch).then_some(flow)
        })
    }

    /// Gives a queue back that is in no list.
    pub(super) fn give_back(&mut self, flow: u32) {
        if let Some(flow) = self.get_mut(flow) {
            flow.epoch = 0;
        }
    }

    /// No queue that was given back is known by this leaf any more: its epochs begin anew.
    #[cold]
    pub(super) fn forget(&mut self, leaf: u32) {
        self.flows.iter_mut().filter(|flow| flow.leaf == leaf).for_each(|flow| flow.epoch = 0);
    }

    /// Bytes that wait in a list.
    pub(super) fn bytes_of(&self, list: Ends) -> u64 {
        let next = |flow: &&Flow| self.get(flow.next);
        std::iter::successors(self.get(list[0]), next).map(|flow| u64::from(flow.bytes)).sum()
    }

    /// Puts a queue at the end of a list.
    #[inline]
    pub(super) fn push(&mut self, list: &mut Ends, flow: u32) {
        let last = std::mem::replace(&mut list[1], flow);
        if let Some(flow) = self.get_mut(flow) {
            flow.next = NONE;
        }
        match self.get_mut(last) {
            Some(last) => last.next = flow,
            None => list[0] = flow,
        }
    }

    /// Takes the first queue out of a list.
    #[inline]
    pub(super) fn pop(&mut self, list: &mut Ends) {
        list[0] = self.get(list[0]).map_or(NONE, |flow| flow.next);
        if list[0] == NONE {
            list[1] = NONE;
        }
    }
}
