//! What waits: slots of a fixed number, chained to queues by numbers of 32 bits.

use crate::arena::HugeVec;

use super::NONE;
use super::config::room;

/// A packet that waits, or a free slot.
#[derive(Debug)]
pub(super) struct Slot<T> {
    item: Option<T>,
    /// When it came.
    pub(super) since: u64,
    /// The one behind it in its queue, or the next free one.
    pub(super) next: u32,
    /// Bytes on the wire.
    pub(super) len: u32,
}

#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: HugeVec<Slot<T>>,
    free: u32,
    used: u32,
    capacity: u32,
}

impl<T> Slots<T> {
    pub(super) fn new(capacity: u32) -> Self {
        let capacity = capacity.min(NONE - 1);
        Self { slots: room(capacity), free: NONE, used: 0, capacity }
    }

    pub(super) fn used(&self) -> u32 {
        self.used
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<T>>()
    }

    /// Puts an item into a free slot; gives it back if there is none.
    #[inline]
    pub(super) fn put(&mut self, item: T, since: u64, len: u32) -> Result<u32, T> {
        let (slot, fresh) = (self.free, self.slots.len() as u32);
        if slot == NONE && fresh >= self.capacity {
            return Err(item);
        }
        self.used += 1;
        let filled = Slot { item: Some(item), since, next: NONE, len };
        if let Some(held) = self.slots.get_mut(slot as usize) {
            self.free = held.next;
            *held = filled;
            return Ok(slot);
        }
        self.slots.push(filled);
        Ok(fresh)
    }

    #[inline(always)]
    pub(super) fn get(&self, slot: u32) -> Option<&Slot<T>> {
        self.slots.get(slot as usize)
    }

    /// The item in a slot, to be marked.
    #[inline(always)]
    pub(super) fn item_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.item.as_mut()
    }

    /// Puts `next` behind `slot` in its queue.
    #[inline(always)]
    pub(super) fn chain(&mut self, slot: u32, next: u32) {
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.next = next;
        }
    }

    /// Frees a slot, and gives what was in it.
    #[inline]
    pub(super) fn take(&mut self, slot: u32) -> Option<T> {
        let held = self.slots.get_mut(slot as usize)?;
        let item = held.item.take()?;
        held.next = self.free;
        self.free = slot;
        self.used -= 1;
        Some(item)
    }

    /// Starts to fetch a slot.
    #[inline(always)]
    pub(super) fn prefetch(&self, slot: u32) {
        crate::table::prefetch::prefetch_at(&self.slots, slot as usize);
    }
}
