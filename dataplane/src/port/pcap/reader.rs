//! Reads classic pcap, and hands pcapng to its own module. Packets stream through one buffer that is never enlarged.

use std::io::BufRead;
use std::sync::Arc;

use super::pcapng::Section;
use super::{ETHERNET, Fault, MAX_RECORD, Order, PcapError};
use crate::clock::Nanos;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Kuznetzov's modified format: eight more bytes in each record's header.
const MODIFIED: u32 = 0xa1b2_cd34;
/// A pcapng section header block's type, the same in both byte orders.
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// What a capture says about a packet besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was captured: nanoseconds since the Unix epoch. A pcapng simple packet has the time of the one before.
    pub time: Nanos,
    /// Its length on the wire, in bytes; more than was captured if the capture's snapshot length cut it.
    pub wire_len: u32,
}

/// A capture that is being read, packet by packet.
#[derive(Debug)]
pub struct Reader<R> {
    pub(super) source: Source<R>,
    format: Format,
    pub(super) packet: Packet,
    ended: bool,
}

#[derive(Debug)]
enum Format {
    Classic { order: Order, nanos_per_unit: u64, header: usize },
    Pcapng(Section),
}

/// The packet read last.
#[derive(Debug)]
pub(super) struct Packet {
    /// [`MAX_RECORD`] bytes.
    buffer: Box<[u8]>,
    len: usize,
    /// Its time, as the file has it.
    pub(super) time: Nanos,
    /// How many have been read.
    pub(super) count: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads the capture's header. `name` stands for the file in errors.
    pub fn new(name: &str, inner: R) -> Result<Self, PcapError> {
        let mut source = Source { inner, name: name.to_owned(), offset: 0, cut: false };
        let mut magic = [0; 4];
        let read = source.fill(&mut magic)?;
        let format = match (read, magic) {
            (0, _) => return Err(source.whole(Fault::Empty)),
            (4, SECTION) => Format::Pcapng(Section::open(&mut source, 0, 0)?),
            (4, _) => Self::classic(&mut source, magic)?,
            _ => return Err(source.whole(Fault::NotACapture(magic))),
        };
        let buffer = vec![0; MAX_RECORD].into_boxed_slice();
        let packet = Packet { buffer, len: 0, time: 0, count: 0 };
        Ok(Self { source, format, packet, ended: false })
    }

    fn classic(source: &mut Source<R>, magic: [u8; 4]) -> Result<Format, PcapError> {
        let known = |magic| matches!(magic, MICROSECONDS | NANOSECONDS | MODIFIED);
        let order = match magic {
            _ if known(u32::from_le_bytes(magic)) => Order::Little,
            _ if known(u32::from_be_bytes(magic)) => Order::Big,
            _ => return Err(source.whole(Fault::NotACapture(magic))),
        };
        let mut rest = [0; 20];
        source.exact(&mut rest, 0, 0)?;
        let (major, minor) = (order.u16(&rest, 0), order.u16(&rest, 2));
        if major != 2 {
            return Err(source.at(4, Fault::Version(major, minor, "pcap")));
        }
        // The upper half tells of an FCS behind the frames; whatever lies behind an IP packet is padding to the parser.
        let link_type = order.u32(&rest, 16) as u16;
        if link_type != ETHERNET {
            return Err(source.at(20, Fault::LinkType(link_type)));
        }
        let magic = order.u32(&magic, 0);
        let nanos_per_unit = if magic == NANOSECONDS { 1 } else { 1000 };
        Ok(Format::Classic { order, nanos_per_unit, header: if magic == MODIFIED { 24 } else { 16 } })
    }

    /// Reads the next packet; [`Self::bytes`] has its bytes. `None` at the end, and ever after an error.
    pub fn advance(&mut self) -> Result<Option<Record>, PcapError> {
        if self.ended {
            return Ok(None);
        }
        let next = match &mut self.format {
            Format::Pcapng(section) => section.advance(&mut self.source, &mut self.packet),
            &mut Format::Classic { order, nanos_per_unit, header } => {
                self.advance_classic(order, nanos_per_unit, header)
            }
        };
        self.ended = !matches!(next, Ok(Some(_)));
        if self.ended {
            self.packet.len = 0;
        }
        next
    }

    fn advance_classic(
        &mut self,
        order: Order,
        nanos_per_unit: u64,
        header: usize,
    ) -> Result<Option<Record>, PcapError> {
        let start = self.source.offset;
        let mut bytes = [0; 24];
        let bytes = bytes.get_mut(..header).unwrap_or_default();
        match self.source.fill(bytes)? {
            0 if !self.source.cut => return Ok(None),
            read if read < header => return Err(self.source.cut_off(start, self.packet.count)),
            _ => {}
        }
        let (seconds, fraction) = (u64::from(order.u32(bytes, 0)), u64::from(order.u32(bytes, 4)));
        let captured = order.u32(bytes, 8);
        self.packet.time = seconds * 1_000_000_000 + fraction * nanos_per_unit;
        self.packet.read(&mut self.source, start, captured)?;
        Ok(Some(Record { time: self.packet.time, wire_len: order.u32(bytes, 12).max(captured) }))
    }

    /// The captured bytes of the packet that [`Self::advance`] returned last.
    pub fn bytes(&self) -> &[u8] {
        self.packet.buffer.get(..self.packet.len).unwrap_or_default()
    }
}

impl Packet {
    /// Reads `captured` bytes as the next packet, whose record began at `start`.
    pub(super) fn read<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
        start: u64,
        captured: u32,
    ) -> Result<(), PcapError> {
        let Some(bytes) = self.buffer.get_mut(..captured as usize) else {
            let fault = Fault::TooLong { packet: self.count + 1, bytes: u64::from(captured) };
            return Err(source.at(start, fault));
        };
        source.exact(bytes, start, self.count)?;
        self.len = bytes.len();
        self.count += 1;
        Ok(())
    }
}

/// The file, and how far it has been read.
#[derive(Debug)]
pub(super) struct Source<R> {
    inner: R,
    name: String,
    /// In bytes of the capture, unpacked if it was packed.
    pub(super) offset: u64,
    /// What unpacks it says that there should be more.
    pub(super) cut: bool,
}

impl<R: BufRead> Source<R> {
    /// Fills `buffer` as far as the file goes; returns how many bytes were read.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, PcapError> {
        let mut read = 0;
        while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    self.cut = true;
                    break;
                }
                Err(error) => return Err(self.at(self.offset + read as u64, Fault::Read(Arc::new(error)))),
            }
        }
        self.offset += read as u64;
        Ok(read)
    }

    /// Fills all of `buffer`, which belongs to what began at `start`, behind `packets` whole packets.
    pub(super) fn exact(&mut self, buffer: &mut [u8], start: u64, packets: u64) -> Result<(), PcapError> {
        match self.fill(buffer)? {
            read if read < buffer.len() => Err(self.cut_off(start, packets)),
            _ => Ok(()),
        }
    }

    /// Passes over `bytes` of what began at `start`.
    pub(super) fn skip(&mut self, mut bytes: u64, start: u64, packets: u64) -> Result<(), PcapError> {
        while bytes > 0 {
            let here = match self.inner.fill_buf() {
                Ok([]) => return Err(self.cut_off(start, packets)),
                Ok(buffer) => bytes.min(buffer.len() as u64),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(self.cut_off(start, packets));
                }
                Err(error) => return Err(self.at(self.offset, Fault::Read(Arc::new(error)))),
            };
            self.inner.consume(here as usize);
            self.offset += here;
            bytes -= here;
        }
        Ok(())
    }

    pub(super) fn at(&self, offset: u64, fault: Fault) -> PcapError {
        PcapError { file: self.name.clone(), offset: Some(offset), fault }
    }

    pub(super) fn whole(&self, fault: Fault) -> PcapError {
        PcapError { file: self.name.clone(), offset: None, fault }
    }

    pub(super) fn cut_off(&self, start: u64, packets: u64) -> PcapError {
        self.at(start, Fault::CutOff { packets })
    }
}
