//! Queues of flows: from one pool, made when a flow's first packet comes.
//!
//! A queue that is given back keeps its name until it is taken for another flow, the one that was given back first ahead of
//! others. So a flow that comes back finds it, and giving back costs nothing. When a leaf gets empty all of its queues
//! are given back at once: they go by the leaf's epoch, which is then another.

use crate::arena::HugeVec;
use crate::table::index::Index;
use crate::table::key::hash_words;
use crate::table::prefetch::prefetch_at;

use super::NONE;
use super::codel;
use super::config::room;

/// A flow's queue, one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Flow {
    pub(super) leaf: u32,
    hash: u32,
    /// The leaf's when it was made; another if it has been given back.
    pub(super) epoch: u32,
    /// Slots of the first and the last packet.
    pub(super) head: u32,
    pub(super) tail: u32,
    /// Neighbours in its list.
    prev: u32,
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
    /// Given back, longest ago first.
    free: Ends,
    capacity: u32,
}

impl Flows {
    pub(super) fn new(capacity: u32) -> Self {
        let capacity = capacity.clamp(1, 1 << 23);
        Self { flows: room(capacity), index: Index::with_capacity(capacity), free: [NONE; 2], capacity }
    }

    pub(super) fn bytes(&self) -> usize {
        self.flows.capacity() * size_of::<Flow>() + self.index.bytes()
    }

    #[inline(always)]
    pub(super) fn hash(seed: u64, leaf: u32, hash: u32) -> u64 {
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

    /// The likely queue of this name, which starts to be fetched.
    #[inline(always)]
    pub(super) fn candidate(&self, name: u64) -> u32 {
        let found = self.index.find(name, |_| true).unwrap_or(NONE);
        prefetch_at(&self.flows, found as usize);
        found
    }

    /// The queue of a flow, and whether it has been in use; made if there is none. `None` if all are in use. `name` is its
    /// [`hash`](Self::hash).
    #[inline]
    pub(super) fn find_or_make(
        &mut self,
        seed: u64,
        name: u64,
        leaf: u32,
        hash: u32,
        epoch: u32,
    ) -> Option<(u32, bool)> {
        let flows = &self.flows;
        let is_it =
            |flow: u32| flows.get(flow as usize).is_some_and(|flow| flow.leaf == leaf && flow.hash == hash);
        let fresh = Flow {
            leaf,
            hash,
            epoch,
            head: NONE,
            tail: NONE,
            prev: NONE,
            next: NONE,
            deficit: 0,
            packets: 0,
            bytes: 0,
            codel: codel::State::default(),
        };
        if let Some(found) = self.index.find(name, is_it) {
            if self.get(found)?.epoch == epoch {
                return Some((found, true));
            }
            let mut free = self.free;
            self.remove(&mut free, found);
            self.free = free;
            *self.get_mut(found)? = fresh;
            return Some((found, false));
        }
        let made = if (self.flows.len() as u32) < self.capacity {
            self.flows.push(fresh);
            self.flows.len() as u32 - 1
        } else {
            let mut free = self.free;
            let taken = free[0];
            let old = *self.get(taken)?;
            self.remove(&mut free, taken);
            self.free = free;
            let flows = &self.flows;
            let name_of =
                |flow: u32| flows.get(flow as usize).map_or(0, |flow| Self::hash(seed, flow.leaf, flow.hash));
            self.index.remove(Self::hash(seed, old.leaf, old.hash), taken, name_of);
            *self.get_mut(taken)? = fresh;
            taken
        };
        self.index.insert(name, made);
        Some((made, false))
    }

    /// Gives a queue back that is in no list.
    pub(super) fn give_back(&mut self, flow: u32) {
        if let Some(flow) = self.get_mut(flow) {
            flow.epoch = 0;
        }
        let mut free = self.free;
        self.push(&mut free, flow);
        self.free = free;
    }

    /// Gives all of a list back, whose leaf has another epoch from now on.
    pub(super) fn give_back_all(&mut self, list: &mut Ends) {
        let [first, last] = std::mem::replace(list, [NONE; 2]);
        let end = self.free[1];
        let Some(link) = self.get_mut(first) else { return };
        link.prev = end;
        match self.get_mut(end) {
            Some(end) => end.next = first,
            None => self.free[0] = first,
        }
        self.free[1] = last;
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
        let last = list[1];
        let Some(link) = self.get_mut(flow) else { return };
        (link.prev, link.next) = (last, NONE);
        match self.get_mut(last) {
            Some(last) => last.next = flow,
            None => list[0] = flow,
        }
        list[1] = flow;
    }

    /// Takes a queue out of its list.
    #[inline]
    pub(super) fn remove(&mut self, list: &mut Ends, flow: u32) {
        let Some(&Flow { prev, next, .. }) = self.get(flow) else { return };
        match self.get_mut(prev) {
            Some(prev) => prev.next = next,
            None => list[0] = next,
        }
        match self.get_mut(next) {
            Some(next) => next.prev = prev,
            None => list[1] = prev,
        }
    }
}
