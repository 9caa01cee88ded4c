//! Which external port a binding gets, by the way in which its pool is given out: port by port, in blocks, or by arithmetic.

use super::blocks::Blocks;
use super::subscribers::{BlockRow, Subscriber};
use super::{Change, Event, External, Nat};
use crate::clock::Nanos;
use crate::session::NONE;
use crate::snapshot::{Allocation, Pool};
use crate::table::key::mix;
use crate::verdict::DropReason;

/// An external port that was found for a binding.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) position: u32,
    pub(super) port: u16,
}

impl Nat {
    pub(super) fn external_mut(&mut self, pool: u16, position: u32) -> Option<&mut External> {
        let index = *self.pools.get(usize::from(pool))?.externals.get(position as usize)?;
        self.externals.get_mut(index as usize)
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random, 0xd6e8_feb8_6659_fd93)
    }

    /// Takes an external port by the way in which the pool is given out.
    pub(super) fn find_port(
        &mut self,
        pool: u16,
        of: &Pool,
        inside: (u32, u16),
        space: usize,
        subscriber: u32,
    ) -> Result<Found, DropReason> {
        match &of.allocation {
            Allocation::Ports => {
                let positions = self.positions(pool, inside.0);
                self.first_port(pool, positions, of.ports, inside.1, space)
                    .ok_or(DropReason::NatPortsExhausted)
            }
            Allocation::Deterministic(plan) => {
                let (position, ports) = plan.block(inside.0).ok_or(DropReason::NatPortsExhausted)?;
                self.take_port(pool, position as u32, ports, inside.1, space).ok_or(DropReason::NatPortLimit)
            }
            Allocation::Blocks(_) => self.find_in_blocks(pool, inside, space, subscriber),
        }
    }

    /// The pool's addresses in the order in which an inside one tries them.
    fn positions(&self, pool: u16, inside: u32) -> impl Iterator<Item = u32> + use<> {
        let count = self.pools.get(usize::from(pool)).map_or(0, |state| state.externals.len()) as u32;
        let first = mix(u64::from(inside) ^ self.seed, 0x9e37_79b9_7f4a_7c15);
        (0..count).map(move |i| ((first % u64::from(count) + u64::from(i)) % u64::from(count)) as u32)
    }

    fn first_port(
        &mut self,
        pool: u16,
        mut positions: impl Iterator<Item = u32>,
        ports: (u16, u16),
        wanted: u16,
        space: usize,
    ) -> Option<Found> {
        positions.find_map(|position| self.take_port(pool, position, ports, wanted, space))
    }

    /// Takes a port of an address within a range: the one that is wanted if it can be had, else one by chance.
    fn take_port(
        &mut self,
        pool: u16,
        position: u32,
        (first, last): (u16, u16),
        wanted: u16,
        space: usize,
    ) -> Option<Found> {
        let ports = &mut self.external_mut(pool, position)?.ports[space];
        if (first..=last).contains(&wanted) && ports.take(wanted) {
            return Some(Found { position, port: wanted });
        }
        let draw = self.draw();
        let from = first + (draw % (u64::from(last.saturating_sub(first)) + 1)) as u16;
        let ports = &mut self.external_mut(pool, position)?.ports[space];
        let port = ports.next_free(from, first..=last).filter(|&port| ports.take(port))?;
        Some(Found { position, port })
    }

    /// Takes a port of the subscriber's blocks, or of a further one: of the address that it has, while there are any.
    fn find_in_blocks(
        &mut self,
        pool: u16,
        inside: (u32, u16),
        space: usize,
        subscriber: u32,
    ) -> Result<Found, DropReason> {
        let Some(&mut Subscriber { first_block, blocks: held, .. }) = self.subscribers.get_mut(subscriber)
        else {
            return Err(DropReason::NatPortsExhausted);
        };
        let mut number = first_block;
        while let Some(blocks) = self.blocks_mut(pool).filter(|_| number != NONE) {
            let (position, ports, next) =
                (blocks.position(number), blocks.range(number), blocks.next(number));
            if let Some(found) = self.take_port(pool, position, ports, inside.1, space) {
                self.hold_block_port(pool, number);
                return Ok(found);
            }
            number = next;
        }
        let draw = self.draw();
        let positions = self.positions(pool, inside.0);
        let Some(blocks) = self.blocks_mut(pool) else { return Err(DropReason::NatPortsExhausted) };
        if held >= blocks.most() {
            return Err(DropReason::NatPortLimit);
        }
        let own = (first_block != NONE).then(|| blocks.position(first_block));
        let taken = own
            .into_iter()
            .chain(positions)
            .find_map(|position| blocks.take(position, subscriber, first_block, draw));
        let number = taken.ok_or(DropReason::NatPortsExhausted)?;
        let (position, ports) = (blocks.position(number), blocks.range(number));
        if let Some(subscriber) = self.subscribers.get_mut(subscriber) {
            (subscriber.first_block, subscriber.blocks) = (number, held + 1);
        }
        self.hold_block_port(pool, number);
        self.record_block(pool, number, Change::BlockAllocated, self.now);
        self.take_port(pool, position, ports, inside.1, space).ok_or_else(|| {
            // Every port of it is forwarded. It goes back in time.
            self.release_block_port(pool, number);
            DropReason::NatPortsExhausted
        })
    }

    pub(super) fn blocks_mut(&mut self, pool: u16) -> Option<&mut Blocks> {
        self.pools.get_mut(usize::from(pool))?.blocks.as_mut()
    }

    pub(super) fn hold_block_port(&mut self, pool: u16, number: u32) {
        if let Some(blocks) = self.blocks_mut(pool) {
            blocks.hold_port(number);
        }
    }

    pub(super) fn release_block_port(&mut self, pool: u16, number: u32) {
        let now = self.now;
        if let Some(blocks) = self.blocks_mut(pool) {
            blocks.release_port(number, now);
        }
    }

    pub(super) fn give_block(&mut self, pool: u16, number: u32, at: Nanos) {
        self.record_block(pool, number, Change::BlockReleased, at);
        let Some(blocks) = self.pools.get_mut(usize::from(pool)).and_then(|state| state.blocks.as_mut())
        else {
            return;
        };
        let holder = blocks.holder(number).map_or(NONE, |(subscriber, _)| subscriber);
        if let Some(subscriber) = self.subscribers.get_mut(holder) {
            subscriber.first_block = blocks.remove(subscriber.first_block, number);
            subscriber.blocks = subscriber.blocks.saturating_sub(1);
        }
        blocks.give(number);
        self.subscribers.leave(holder);
    }

    fn record_block(&mut self, pool: u16, number: u32, change: Change, at: Nanos) {
        if !self.recorder.wants_blocks() {
            return;
        }
        if let Some(BlockRow { inside, external, ports, .. }) = self.block_of(pool, number) {
            self.recorder.record(Event { at, change, protocol: 0, inside, inside_port: 0, external, ports });
        }
    }

    fn block_of(&self, pool: u16, number: u32) -> Option<BlockRow> {
        let state = self.pools.get(usize::from(pool))?;
        let blocks = state.blocks.as_ref()?;
        let (subscriber, ports_used) = blocks.holder(number)?;
        let external = *state.externals.get(blocks.position(number) as usize)?;
        Some(BlockRow {
            pool,
            inside: self.subscribers.address(subscriber)?,
            external: self.externals.get(external as usize)?.address,
            ports: blocks.range(number),
            ports_used,
        })
    }

    /// The block at an index over the blocks of all pools, if it is taken.
    pub fn block(&self, mut index: u32) -> Option<BlockRow> {
        for (pool, state) in self.pools.iter().enumerate() {
            let count = state.blocks.as_ref().map_or(0, Blocks::count);
            if index < count {
                return self.block_of(pool as u16, index);
            }
            index -= count;
        }
        None
    }

    /// How far indices of blocks go.
    pub fn block_slots(&self) -> u32 {
        self.pools.iter().flat_map(|pool| &pool.blocks).map(Blocks::count).sum()
    }

    /// Blocks of a pool that are taken.
    pub fn blocks_taken(&self, pool: u16) -> u32 {
        let blocks = self.pools.get(usize::from(pool)).and_then(|pool| pool.blocks.as_ref());
        blocks.map_or(0, Blocks::taken)
    }
}

/// The blocks of a pool that is given out in blocks.
pub(super) fn blocks(pool: &Pool, mine: impl Fn(u32) -> bool) -> Option<Blocks> {
    match pool.allocation {
        Allocation::Blocks(rule) => Some(Blocks::new(rule, pool.ports, pool.addresses.len(), mine)),
        _ => None,
    }
}
