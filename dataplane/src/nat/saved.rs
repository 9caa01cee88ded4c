//! NAT for the process that takes over: accounts, blocks, bindings, leases, and ports that rest. External addresses are named by
//! themselves, and pools by their place in the configuration, which both processes go by.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::binding::{Inside, key, space};
use super::layout::Way;
use super::lease::Lease;
use super::resting::{Rest, UDP};
use super::{Binding, Nat};
use crate::clock::Nanos;
use crate::saved::{Fields, Record, Saved, Tag, Writer};
use crate::session::NONE;
use crate::snapshot::{Allocation, NONE16, Snapshot};

/// Which index bindings have now, by the one that they had.
pub(crate) type Moved = HashMap<u32, u32>;

/// In a binding's flags.
const IS_RECORDED: u8 = 1;
const HAS_SERVED: u8 = 2;
const HAS_OUTBOUND: u8 = 4;

fn put_inside(address: IpAddr, fields: &mut Fields<'_>) {
    match address {
        IpAddr::V4(v4) => fields.u8(4).u128(v4.to_bits().into()),
        IpAddr::V6(v6) => fields.u8(6).u128(v6.to_bits()),
    };
}

fn take_inside(record: &mut Record<'_>) -> IpAddr {
    match (record.u8(), record.u128()) {
        (6, bits) => Ipv6Addr::from_bits(bits).into(),
        (_, bits) => Ipv4Addr::from_bits(bits as u32).into(),
    }
}

/// Where things are now.
struct Places {
    /// External addresses, by themselves.
    slots: HashMap<u32, u32>,
    /// Blocks, by the index that they had.
    blocks: HashMap<u32, u32>,
}

impl Nat {
    /// Writes sections. What is about to end, as no pool of the configuration has it, is left out.
    pub(crate) fn save(&self, writer: &mut Writer) {
        writer.section(Tag::Nat);
        let (recorded, lost) = self.recorded();
        writer.record(|fields| _ = fields.u64(self.random).u64(recorded).u64(lost));
        writer.section(Tag::Accounts);
        for index in 0..self.subscriber_slots() {
            let Some(row) = self.subscriber(index) else { continue };
            let (Some(pool), Some(spent)) = (row.pool, self.subscribers.spent(index)) else { continue };
            writer.record(|fields| {
                fields.u16(pool);
                put_inside(row.inside, fields);
                fields.u64(spent[0]).u64(spent[1]);
            });
        }
        writer.section(Tag::Blocks);
        for index in self.blocks.by_age() {
            let Some(block) = self.blocks.get(index).filter(|_| self.is_current(index)) else { continue };
            let Some(row) = self.subscriber(block.subscriber) else { continue };
            let Some(pool) = row.pool else { continue };
            writer.record(|fields| {
                fields.u32(index).u16(pool);
                put_inside(row.inside, fields);
                fields.u32(block.address.to_bits()).u16(block.ports.0).u16(block.ports.1);
                fields.u64(block.since);
            });
        }
        writer.section(Tag::Bindings);
        for index in 0..self.slots() {
            self.save_binding(index, writer);
        }
        writer.section(Tag::Leases);
        self.leases.save(writer);
        writer.section(Tag::Resting);
        for (end, rest) in self.resting.iter() {
            writer.record(|fields| {
                fields.u32(end.0).u16(end.1).u64(rest.until).u8(rest.inside.is_some().into());
                fields.u32(rest.inside.unwrap_or(0));
            });
        }
    }

    fn save_binding(&self, index: u32, writer: &mut Writer) {
        let Some((key, binding)) = self.bindings.get(index) else { return };
        // One that another has taken the place of lets nobody new in.
        if !super::lease::is_kept(binding) || key[0] as u16 == NONE16 {
            return;
        }
        let named = self.layout.pools.iter().find(|pool| pool.is_called(binding.pool));
        let Some(pool) = named.map(|pool| pool.index) else { return };
        if binding.has_port() && !self.is_of(index, pool) {
            return;
        }
        let mut flags = if binding.is_recorded { IS_RECORDED } else { 0 };
        flags |= if binding.has_served { HAS_SERVED } else { 0 };
        flags |= if binding.last_outbound.is_some() { HAS_OUTBOUND } else { 0 };
        writer.record(|fields| {
            fields.u32(index).u16(pool).u8(binding.protocol).u8(flags);
            put_inside(self.inside_address(binding), fields);
            fields.u16(binding.inside.1).u32(binding.external.0).u16(binding.external.1);
            // The remote end, where the mapping depends on it.
            fields.u32((key[1] >> 32) as u32).u16((key[1] >> 16) as u16);
            fields.u32(binding.block).u32(binding.last_outbound.unwrap_or(0));
        });
    }

    /// Takes in what was written, into tables that are empty. Sessions are counted by [`hold`](Self::hold), as when they are made;
    /// then [`settle`](Self::settle) ends what none of them uses.
    pub(crate) fn restore(&mut self, saved: &Saved<'_>, snapshot: &Snapshot, now: Nanos) -> Moved {
        self.now = now;
        if let Some(mut record) = saved.section(Tag::Nat).next() {
            self.random = record.u64();
            (self.recorder.recorded, self.recorder.lost) = (record.u64(), record.u64());
        }
        let slots = (0..).zip(&self.layout.slots).filter(|(_, slot)| slot.in_use);
        let slots = slots.map(|(at, slot)| (slot.address.to_bits(), at)).collect();
        let mut places = Places { slots, blocks: HashMap::new() };
        for mut record in saved.section(Tag::Accounts) {
            let (pool, inside) = (record.u16(), take_inside(&mut record));
            let account = self.inside_number(inside).and_then(|inside| self.enter(pool, inside).ok());
            if let Some(subscriber) = account.and_then(|account| self.subscribers.get_mut(account)) {
                subscriber.spent = [record.u64(), record.u64()];
            }
            self.settle_host(inside);
        }
        for mut record in saved.section(Tag::Blocks) {
            if let Some((before, block)) = self.restore_block(&mut record, &places) {
                places.blocks.insert(before, block);
            }
        }
        let mut moved = Moved::new();
        for mut record in saved.section(Tag::Bindings) {
            if let Some((before, binding)) = self.restore_binding(&mut record, &places) {
                moved.insert(before, binding);
            }
        }
        for mut record in saved.section(Tag::Leases) {
            // Of another configuration, so that each is looked at anew.
            let (before, lease) = Lease::read(&mut record, snapshot.generation.wrapping_sub(1));
            if let Some(&index) = moved.get(&before) {
                self.restore_lease(index, lease);
            }
        }
        for mut record in saved.section(Tag::Resting) {
            self.restore_rest(&mut record, &places);
        }
        moved
    }

    /// Ends bindings and accounts that were taken in and that nothing uses.
    pub(crate) fn settle(&mut self, moved: &Moved) {
        moved.values().for_each(|&index| self.drop_unused(index));
        (0..self.subscriber_slots()).for_each(|index| self.leave(index));
    }

    /// A host of IPv6 for which nothing was taken in has no number.
    fn settle_host(&mut self, inside: IpAddr) {
        if let IpAddr::V6(v6) = inside {
            if let Ok(number) = self.host(v6.to_bits()) {
                self.forget_host(number);
            }
        }
    }

    /// What stands for an inside address; a host of IPv6 that had no number has one from now on.
    fn inside_number(&mut self, inside: IpAddr) -> Option<u32> {
        match inside {
            IpAddr::V4(v4) => Some(v4.to_bits()),
            IpAddr::V6(v6) => self.host(v6.to_bits()).ok(),
        }
    }

    /// A block: the index that it had, and the one that it has.
    fn restore_block(&mut self, record: &mut Record<'_>, places: &Places) -> Option<(u32, u32)> {
        let (before, pool, inside) = (record.u32(), record.u16(), take_inside(record));
        let (address, ports, since) = (record.u32(), (record.u16(), record.u16()), record.u64());
        let &slot = places.slots.get(&address)?;
        let inside = self.inside_number(inside)?;
        let account = self.enter(pool, inside).ok().filter(|&account| account != NONE)?;
        let first = self.subscribers.get_mut(account)?.first_block;
        let grid = self.externals.get_mut(slot as usize).and_then(|external| external.grid.as_mut());
        let taken = grid.and_then(|grid| {
            let slot = (slot, self.layout.slots.get(slot as usize)?);
            self.blocks.take_again(slot, grid, (account, first), ports, since)
        });
        match (taken, self.subscribers.get_mut(account)) {
            (Some(block), Some(subscriber)) => {
                (subscriber.first_block, subscriber.blocks) = (block, subscriber.blocks + 1);
            }
            _ => self.leave(account),
        }
        taken.map(|block| (before, block))
    }

    /// A binding: the index that it had, and the one that it has.
    fn restore_binding(&mut self, record: &mut Record<'_>, places: &Places) -> Option<(u32, u32)> {
        let (before, pool, protocol, flags) = (record.u32(), record.u16(), record.u8(), record.u8());
        let inside = (take_inside(record), record.u16());
        let index = self.bind_again(record, (pool, protocol, flags), inside, places);
        self.settle_host(inside.0);
        Some((before, index?))
    }

    fn bind_again(
        &mut self,
        record: &mut Record<'_>,
        (at, protocol, flags): (u16, u8, u8),
        (address, port): (IpAddr, u16),
        places: &Places,
    ) -> Option<u32> {
        let (external, remote) = ((record.u32(), record.u16()), (record.u32(), record.u16()));
        let (block, last_outbound) = (record.u32(), record.u32());
        let pool = self.layout.pools.get(usize::from(at))?;
        let (id, allocation, behavior) = (pool.id, pool.allocation.clone(), pool.behavior);
        if address.is_ipv6() != behavior.is_nat64 {
            return None;
        }
        let inside = (self.inside_number(address)?, port);
        let mut binding = Binding {
            inside,
            is_nat64: behavior.is_nat64,
            external,
            protocol,
            mapping: behavior.mapping,
            filtering: behavior.filtering,
            last_outbound: (flags & HAS_OUTBOUND != 0).then_some(last_outbound),
            pool: id,
            slot: NONE,
            block: NONE,
            subscriber: NONE,
            has_served: flags & HAS_SERVED != 0,
            ..Binding::default()
        };
        if let Some(space) = space(protocol) {
            let slot = *places.slots.get(&external.0)?;
            let pool = self.layout.pools.get(usize::from(at))?;
            binding.slot = slot;
            if let Allocation::Blocks(_) = allocation {
                binding.block = *places.blocks.get(&block)?;
            }
            let ports = &mut self.externals.get_mut(slot as usize)?.ports[space];
            if !self.layout.has(pool, slot, space, external.1) || !ports.take(external.1) {
                return None;
            }
            self.blocks.hold_port(binding.block);
        } else {
            // Of addresses alone, which its key names, too.
            binding.mapping = crate::snapshot::NatMapping::AddressAndPortDependent;
            binding.filtering = crate::snapshot::NatFiltering::AddressAndPortDependent;
        }
        binding.subscriber = self.enter(at, inside.0).unwrap_or(NONE);
        let inside = Inside { address: inside.0, port, pool: id, protocol };
        let mapping = binding.mapping;
        // It is not made here, and was recorded when it was.
        let index = self.insert_unrecorded(self.name(key(inside, mapping, remote)), binding).ok()?;
        if let Some((_, binding)) = self.bindings.get_mut(index) {
            binding.is_recorded = flags & IS_RECORDED != 0;
        }
        Some(index)
    }

    fn restore_lease(&mut self, index: u32, lease: Lease) {
        let Some(inside) = self.get(index).map(|binding| binding.inside.0) else { return };
        if self.leases.insert(index, inside, lease) {
            if let Some((_, binding)) = self.bindings.get_mut(index) {
                (binding.is_leased, binding.has_served) = (true, true);
            }
        }
    }

    fn restore_rest(&mut self, record: &mut Record<'_>, places: &Places) {
        let (end, until, has_inside) = ((record.u32(), record.u16()), record.u64(), record.u8() != 0);
        let inside = has_inside.then_some(record.u32());
        let Some(&slot) = places.slots.get(&end.0) else { return };
        let way = self.layout.slots.get(slot as usize).map(|slot| slot.way);
        let is_mine = way != Some(Way::Ports) || self.share.is_mine(end.1);
        let external = self.externals.get_mut(slot as usize).filter(|_| is_mine);
        if external.is_some_and(|external| {
            let taken = external.ports[UDP].take(end.1);
            external.resting += u32::from(taken);
            taken
        }) {
            if let Some((end, rest)) = self.resting.add(end, Rest { slot, inside, until }) {
                self.end_rest(end, &rest);
            }
        }
    }
}
