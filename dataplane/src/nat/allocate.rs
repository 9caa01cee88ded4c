//! Which external port a binding gets, by the way in which its pool is given out: port by port, in blocks, or by arithmetic.

use super::events::{Event, EventKind};
use super::external::{Wish, draw, take_port};
use super::layout::PoolLayout;
use super::resting::{UDP, take_own};
use super::subscribers::BlockRow;
use super::{Binding, Nat};
use crate::clock::Nanos;
use crate::session::NONE;
use crate::snapshot::{Allocation, PortBlocks};
use crate::table::key::mix;
use crate::verdict::DropReason;

/// An external port that was found for a binding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Place of its address.
    pub(super) slot: u32,
    pub(super) port: u16,
    /// The block that it is of, or [`NONE`].
    pub(super) block: u32,
}

/// The places of a pool's addresses, in the order in which an inside address tries them: the same for all of its ports.
pub(super) fn places(pool: &PoolLayout, inside: u32, seed: u64) -> impl Iterator<Item = u32> + '_ {
    let first = mix(u64::from(inside) ^ seed, 0x9e37_79b9_7f4a_7c15) as usize;
    let count = pool.order.len();
    (0..count).filter_map(move |i| pool.order.get(first.wrapping_add(i) % count).copied())
}

impl Nat {
    /// Takes an external port for an inside address by the way in which the pool is given out.
    pub(super) fn find_port(
        &mut self,
        pool: u16,
        inside: u32,
        space: usize,
        wish: &Wish,
        subscriber: u32,
    ) -> Result<Found, DropReason> {
        let Self { layout, externals, resting, random, seed, .. } = &mut *self;
        let pool = layout.pools.get(usize::from(pool)).ok_or(DropReason::NatPortsExhausted)?;
        let mut take = |slot: u32, range| {
            let external = externals.get_mut(slot as usize)?;
            let own = if space == UDP { take_own(resting, external, range, wish, inside) } else { None };
            let port = own.or_else(|| take_port(&mut external.ports[space], range, wish, random))?;
            Some(Found { slot, port, block: NONE })
        };
        match &pool.allocation {
            Allocation::Ports => places(pool, inside, *seed)
                .find_map(|slot| take(slot, pool.ports))
                .ok_or(DropReason::NatPortsExhausted),
            Allocation::Deterministic(plan) => {
                let (position, ports) = plan.block(inside).ok_or(DropReason::NatPortsExhausted)?;
                let slot = pool.order.get(position).ok_or(DropReason::NatPortsExhausted)?;
                take(*slot, ports).ok_or(DropReason::NatPortLimit)
            }
            Allocation::Blocks(_) => {
                let pool = pool.index;
                self.find_in_blocks(pool, inside, space, wish, subscriber)
            }
        }
    }

    /// Takes a port of the subscriber's blocks, or of a further one: of the address that it has, while there are any.
    fn find_in_blocks(
        &mut self,
        pool: u16,
        inside: u32,
        space: usize,
        wish: &Wish,
        subscriber: u32,
    ) -> Result<Found, DropReason> {
        let Self { layout, externals, blocks, resting, subscribers, random, seed, .. } = self;
        let exhausted = DropReason::NatPortsExhausted;
        let pool = layout.pools.get(usize::from(pool)).ok_or(exhausted)?;
        let Allocation::Blocks(PortBlocks { most, .. }) = pool.allocation else { return Err(exhausted) };
        let account = subscribers.get_mut(subscriber).ok_or(exhausted)?;
        let (mut held, mut own, mut at) = (0, None, account.first_block);
        while let Some(block) = blocks.get(at) {
            let is_current = layout.slots.get(block.slot as usize).is_some_and(|slot| block.is_of(slot));
            if is_current && pool.has_slot(block.slot) {
                (held, own) = (held + 1, own.or(Some(block.slot)));
                let port = externals.get_mut(block.slot as usize).and_then(|external| {
                    let own = if space == UDP {
                        take_own(resting, external, block.ports, wish, inside)
                    } else {
                        None
                    };
                    own.or_else(|| take_port(&mut external.ports[space], block.ports, wish, random))
                });
                if let Some(port) = port {
                    let slot = block.slot;
                    blocks.hold_port(at);
                    return Ok(Found { slot, port, block: at });
                }
            }
            at = block.next;
        }
        if held >= most {
            return Err(DropReason::NatPortLimit);
        }
        let chance = draw(random);
        let list = (subscriber, account.first_block);
        let taken = own.into_iter().chain(places(pool, inside, *seed)).find_map(|place| {
            let grid = externals.get_mut(place as usize)?.grid.as_mut()?;
            blocks.take((place, layout.slots.get(place as usize)?), grid, list, chance)
        });
        let index = taken.ok_or(exhausted)?;
        (account.first_block, account.blocks) = (index, account.blocks + 1);
        blocks.hold_port(index);
        let &super::blocks::Block { slot, ports: range, .. } = blocks.get(index).ok_or(exhausted)?;
        let ports = externals.get_mut(slot as usize).map(|external| &mut external.ports[space]);
        let port = ports.and_then(|ports| take_port(ports, range, wish, random));
        self.record_block(index, EventKind::BlockAllocated, self.now);
        port.map(|port| Found { slot, port, block: index }).ok_or_else(|| {
            // Every port of it is forwarded. It goes back in time.
            self.release_block_port(index);
            exhausted
        })
    }

    /// Takes back the port of a binding that ends.
    pub(super) fn give_port(&mut self, binding: &Binding) {
        let Binding { slot, protocol, external: (_, port), subscriber, block, .. } = *binding;
        if let Some(space) = super::binding::space(protocol) {
            // One that a port forward has got meanwhile stays taken.
            let is_free = !self.layout.is_reserved(slot, space, port) && !self.rest(binding);
            if let Some(external) = self.externals.get_mut(slot as usize).filter(|_| is_free) {
                external.ports[space].give(port);
            }
        }
        if let Some(subscriber) = self.subscribers.get_mut(subscriber) {
            subscriber.ports = subscriber.ports.saturating_sub(u32::from(binding.has_port()));
        }
        self.release_block_port(block);
    }

    /// A block whose address is now cut otherwise does not rest.
    fn release_block_port(&mut self, index: u32) {
        self.blocks.release_port(index, self.now);
        let is_over =
            self.blocks.get(index).is_some_and(|block| block.in_use == 0 && !self.is_current(index));
        if is_over {
            self.give_block(index, self.now);
        }
    }

    /// Whether the address of a block is still cut like this.
    pub(super) fn is_current(&self, index: u32) -> bool {
        let block = self.blocks.get(index);
        block.is_some_and(|block| self.layout.slots.get(block.slot as usize).is_some_and(|s| block.is_of(s)))
    }

    /// Makes a block free, as of the time `at`.
    pub(super) fn give_block(&mut self, index: u32, at: Nanos) {
        self.record_block(index, EventKind::BlockReleased, at);
        let is_current = self.is_current(index);
        let Some(block) = self.blocks.get(index) else { return };
        let (holder, slot) = (block.subscriber, block.slot);
        if let Some(subscriber) = self.subscribers.get_mut(holder) {
            subscriber.first_block = self.blocks.remove(subscriber.first_block, index);
            subscriber.blocks = subscriber.blocks.saturating_sub(1);
        }
        let grid = self.externals.get_mut(slot as usize).and_then(|external| external.grid.as_mut());
        self.blocks.give(index, grid.filter(|_| is_current));
        self.leave(holder);
    }

    fn record_block(&mut self, index: u32, kind: EventKind, at: Nanos) {
        if !self.recorder.wants_blocks() {
            return;
        }
        if let Some(BlockRow { inside, external, ports, .. }) = self.block(index) {
            self.recorder.record(Event { at, kind, protocol: 0, inside, inside_port: 0, external, ports });
        }
    }

    /// The block at an index, if it is taken.
    pub fn block(&self, index: u32) -> Option<BlockRow> {
        let block = self.blocks.get(index)?;
        Some(BlockRow {
            inside: self.holder(block.subscriber)?,
            external: block.address,
            ports: block.ports,
            ports_used: block.in_use,
        })
    }

    /// How far indices of blocks go.
    pub fn block_slots(&self) -> u32 {
        self.blocks.slots()
    }

    /// Blocks that are taken.
    pub fn blocks_taken(&self) -> u32 {
        self.blocks.taken()
    }
}
