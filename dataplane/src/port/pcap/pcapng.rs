//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng): sections, interfaces, and the three kinds of packet block.
//! Blocks of any other kind are passed over.

use std::io::BufRead;

use super::reader::{Packet, Record, Source};
use super::{ETHERNET, Fault, Order, PcapError};
use crate::clock::{LATEST, Nanos};

/// Interfaces of one section that are kept; each costs a few bytes for as long as the section lasts.
pub(super) const MAX_INTERFACES: usize = 65_536;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// The bytes of a block besides its body: type, total length, and total length once more.
const FRAMING: u32 = 12;
/// Of an interface description's options, as many bytes as are looked at.
const OPTIONS: usize = 4096;

/// The section that is being read: its byte order and interfaces.
#[derive(Debug)]
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link_type: u16,
    /// Bytes; 0 means no limit.
    snapshot: u32,
    /// `if_tsresol`: units of a second, as a power of ten, or of two with the top bit set.
    resolution: u8,
    /// `if_tsoffset`, in seconds.
    offset: i64,
}

impl Interface {
    fn nanos(&self, units: u64) -> Nanos {
        let units = u128::from(units);
        let exponent = self.resolution & 0x7f;
        let nanos = match (self.resolution & 0x80 != 0, exponent) {
            (true, _) => (units * 1_000_000_000) >> exponent,
            (false, 0..=9) => units * 10u128.pow(9 - u32::from(exponent)),
            (false, _) => 10u128.checked_pow(u32::from(exponent) - 9).map_or(0, |divisor| units / divisor),
        };
        // At most 2^64 * 10^9 nanoseconds, give or take an offset of 2^63 * 10^9: far within an i128.
        let nanos = nanos as i128 + i128::from(self.offset) * 1_000_000_000;
        nanos.clamp(0, i128::from(LATEST)) as Nanos
    }
}

impl Section {
    /// Reads a section header block, whose type at `start` has been read already.
    pub(super) fn open<R: BufRead>(
        source: &mut Source<R>,
        start: u64,
        packets: u64,
    ) -> Result<Self, PcapError> {
        let mut fixed = [0; 20];
        source.exact(&mut fixed, start, packets)?;
        let order = match fixed[4..8] {
            [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
            [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
            _ => return Err(source.at(start, Fault::NotACapture(SECTION_HEADER.to_be_bytes()))),
        };
        let total = order.u32(&fixed, 0);
        let (major, minor) = (order.u16(&fixed, 8), order.u16(&fixed, 10));
        if major != 1 {
            return Err(source.at(start, Fault::Version(major, minor, "pcapng")));
        }
        let body = body_len(SECTION_HEADER, total, 16).map_err(|fault| source.at(start, fault))?;
        let section = Self { order, interfaces: Vec::new() };
        section.close_block(source, Block { start, total, left: body - 16 }, packets)?;
        Ok(section)
    }

    /// Reads blocks up to and including the next packet.
    pub(super) fn advance<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
        packet: &mut Packet,
    ) -> Result<Option<Record>, PcapError> {
        loop {
            let start = source.offset;
            let mut field = [0; 4];
            match source.fill(&mut field)? {
                0 if !source.cut => return Ok(None),
                4 => {}
                _ => return Err(source.cut_off(start, packet.count)),
            }
            let kind = self.order.u32(&field, 0);
            if kind == SECTION_HEADER {
                *self = Self::open(source, start, packet.count)?;
                continue;
            }
            source.exact(&mut field, start, packet.count)?;
            let total = self.order.u32(&field, 0);
            let least = match kind {
                INTERFACE_DESCRIPTION => 8,
                PACKET | ENHANCED_PACKET => 20,
                SIMPLE_PACKET => 4,
                _ => 0,
            };
            let left = body_len(kind, total, least).map_err(|fault| source.at(start, fault))?;
            let mut block = Block { start, total, left };
            let record = match kind {
                INTERFACE_DESCRIPTION => {
                    self.describe(source, &mut block, packet.count)?;
                    None
                }
                PACKET | ENHANCED_PACKET => Some(self.packet(source, &mut block, kind, packet)?),
                SIMPLE_PACKET => Some(self.simple_packet(source, &mut block, packet)?),
                _ => None,
            };
            // A packet whose own block is incomplete is not among those that are whole.
            self.close_block(source, block, packet.count - u64::from(record.is_some()))?;
            if record.is_some() {
                return Ok(record);
            }
        }
    }

    fn describe<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
        block: &mut Block,
        packets: u64,
    ) -> Result<(), PcapError> {
        if self.interfaces.len() == MAX_INTERFACES {
            return Err(source.at(block.start, Fault::Interfaces));
        }
        let mut body = [0; 8 + OPTIONS];
        let read = body.len().min(block.left as usize);
        let body = body.get_mut(..read).unwrap_or_default();
        source.exact(body, block.start, packets)?;
        block.left -= read as u32;
        let (link_type, snapshot) = (self.order.u16(body, 0), self.order.u32(body, 4));
        let mut interface = Interface { link_type, snapshot, resolution: 6, offset: 0 };
        let mut at = 8;
        while at + 4 <= body.len() {
            let (code, len) = (self.order.u16(body, at), self.order.u16(body, at + 2));
            let value = body.get(at + 4..at + 4 + usize::from(len)).unwrap_or_default();
            match (code, value) {
                (0, _) => break,
                (9, &[resolution]) => interface.resolution = resolution,
                (14, [_, _, _, _, _, _, _, _]) => {
                    let (first, second) = (self.order.u32(value, 0), self.order.u32(value, 4));
                    let (high, low) =
                        if self.order == Order::Big { (first, second) } else { (second, first) };
                    interface.offset = (u64::from(high) << 32 | u64::from(low)) as i64;
                }
                _ => {}
            }
            at += 4 + usize::from(len).next_multiple_of(4);
        }
        self.interfaces.push(interface);
        Ok(())
    }

    /// An enhanced packet block, or an obsolete packet block, which has a count of drops beside a 16-bit interface.
    fn packet<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
        block: &mut Block,
        kind: u32,
        packet: &mut Packet,
    ) -> Result<Record, PcapError> {
        let mut fixed = [0; 20];
        source.exact(&mut fixed, block.start, packet.count)?;
        block.left -= 20;
        let number =
            if kind == PACKET { u32::from(self.order.u16(&fixed, 0)) } else { self.order.u32(&fixed, 0) };
        let interface = self.interface(source, block.start, number, packet.count + 1)?;
        let captured = self.order.u32(&fixed, 12);
        packet.time = interface
            .nanos(u64::from(self.order.u32(&fixed, 4)) << 32 | u64::from(self.order.u32(&fixed, 8)));
        block.read_packet(source, captured, packet)?;
        Ok(Record { time: packet.time, wire_len: self.order.u32(&fixed, 16).max(captured) })
    }

    /// A simple packet block: of the section's first interface, with no time of its own.
    fn simple_packet<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
        block: &mut Block,
        packet: &mut Packet,
    ) -> Result<Record, PcapError> {
        let mut field = [0; 4];
        source.exact(&mut field, block.start, packet.count)?;
        block.left -= 4;
        let wire_len = self.order.u32(&field, 0);
        let interface = self.interface(source, block.start, 0, packet.count + 1)?;
        let captured = if interface.snapshot == 0 { wire_len } else { wire_len.min(interface.snapshot) };
        block.read_packet(source, captured, packet)?;
        Ok(Record { time: packet.time, wire_len })
    }

    fn interface<R: BufRead>(
        &self,
        source: &Source<R>,
        start: u64,
        number: u32,
        packet: u64,
    ) -> Result<Interface, PcapError> {
        match self.interfaces.get(number as usize) {
            None => Err(source.at(start, Fault::NoInterface { packet, interface: number })),
            Some(interface) if interface.link_type != ETHERNET => {
                Err(source.at(start, Fault::LinkType(interface.link_type)))
            }
            Some(&interface) => Ok(interface),
        }
    }

    /// Passes over what is left of a block (options, padding), and holds its two lengths against each other.
    fn close_block<R: BufRead>(
        &self,
        source: &mut Source<R>,
        block: Block,
        packets: u64,
    ) -> Result<(), PcapError> {
        source.skip(u64::from(block.left), block.start, packets)?;
        let mut end = [0; 4];
        source.exact(&mut end, block.start, packets)?;
        match self.order.u32(&end, 0) {
            end if end == block.total => Ok(()),
            end => Err(source.at(block.start, Fault::BlockEnd(block.total, end))),
        }
    }
}

/// The block that is being read.
struct Block {
    start: u64,
    total: u32,
    /// Bytes of its body that have not been read.
    left: u32,
}

impl Block {
    fn read_packet<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
        captured: u32,
        packet: &mut Packet,
    ) -> Result<(), PcapError> {
        let Some(left) = self.left.checked_sub(captured) else {
            let fault = Fault::PastBlock { packet: packet.count + 1, bytes: u64::from(captured) };
            return Err(source.at(self.start, fault));
        };
        packet.read(source, self.start, captured)?;
        self.left = left;
        Ok(())
    }
}

/// The length of the body of a block of `total` bytes whose kind needs `least` bytes of body.
fn body_len(kind: u32, total: u32, least: u32) -> Result<u32, Fault> {
    match total.checked_sub(FRAMING) {
        Some(body) if body >= least && total % 4 == 0 => Ok(body),
        _ => Err(Fault::BlockLength { kind, bytes: total }),
    }
}
