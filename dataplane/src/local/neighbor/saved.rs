//! Neighbours for the process that takes over: those whose MAC addresses are known. Others are asked for anew.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use sluice_pkt::ethernet::Mac;

use super::{Entry, NEVER, Neighbors, State, key};
use crate::clock::Nanos;
use crate::saved::{Saved, Tag, Writer};
use crate::snapshot::Snapshot;

/// Which index each neighbour has now, by the one that it had.
pub(crate) type Moved = HashMap<u16, u16>;

impl Neighbors {
    /// Writes a section.
    pub(crate) fn save(&self, writer: &mut Writer) {
        writer.section(Tag::Neighbors);
        for index in (0..self.table.slots()).map(|index| index as u16) {
            let Some((interface, address)) = self.who(index) else { continue };
            let Some(entry) = self.table.value(index.into()).filter(|entry| entry.state.is_resolved()) else {
                continue;
            };
            writer.record(|fields| {
                fields.u16(index).u16(interface).u8(address.is_ipv6().into());
                fields.u128(match address {
                    IpAddr::V4(v4) => v4.to_bits().into(),
                    IpAddr::V6(v6) => v6.to_bits(),
                });
                entry.mac.0.iter().for_each(|&byte| _ = fields.u8(byte));
                fields.u8((entry.state == State::Reachable).into()).u64(entry.since).u64(entry.used);
                fields.u8(entry.invented.into()).u8(entry.quiet.into());
            });
        }
    }

    /// Takes in those that were known, into a table that is empty.
    pub(crate) fn restore(&mut self, saved: &Saved<'_>, snapshot: &Snapshot, now: Nanos) -> Moved {
        let mut moved = Moved::new();
        for mut record in saved.section(Tag::Neighbors) {
            let (index, interface, is_v6, bits) = (record.u16(), record.u16(), record.u8(), record.u128());
            let address = match is_v6 {
                0 => IpAddr::from((bits as u32).to_be_bytes()),
                _ => Ipv6Addr::from_bits(bits).into(),
            };
            let mac = Mac(std::array::from_fn(|_| record.u8()));
            let state = if record.u8() != 0 { State::Reachable } else { State::Stale };
            let (since, used) = (record.u64().min(now), record.u64().min(now));
            let (invented, quiet) = (record.u8() != 0, record.u8() != 0);
            let Some(link) = snapshot.interfaces.get(usize::from(interface)) else { continue };
            let entry = Entry { state, mac, since, used, due: NEVER, invented, quiet, ..Entry::default() };
            if let Some(new) = self.insert(key(interface, address), link, entry, now) {
                self.enter(new.into(), state, since);
                moved.insert(index, new);
            }
        }
        moved
    }
}
