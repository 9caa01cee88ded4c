//! Writes classic pcap with nanoseconds, little endian on every machine, so that equal replays give equal bytes.

use std::io::Write;
use std::sync::Arc;

use super::{ETHERNET, Fault, MAX_RECORD, PcapError};
use crate::clock::{Nanos, SECOND};

/// A capture that is being written.
#[derive(Debug)]
pub struct Writer<W> {
    name: String,
    inner: W,
}

impl<W: Write> Writer<W> {
    /// Writes the capture's header. `name` stands for the file in errors. `inner` should be buffered.
    pub fn new(name: &str, inner: W) -> Result<Self, PcapError> {
        let mut header = [0; 24];
        header[0..4].copy_from_slice(&0xa1b2_3c4d_u32.to_le_bytes());
        header[4..6].copy_from_slice(&2u16.to_le_bytes());
        header[6..8].copy_from_slice(&4u16.to_le_bytes());
        header[16..20].copy_from_slice(&(MAX_RECORD as u32).to_le_bytes());
        header[20..22].copy_from_slice(&ETHERNET.to_le_bytes());
        let mut writer = Self { name: name.to_owned(), inner };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Appends a packet, which was captured whole. The format has 32 bits for the seconds: a time beyond the year 2106 is
    /// written as its last second. Bytes beyond [`MAX_RECORD`] are cut off, as a snapshot length does.
    pub fn write(&mut self, time: Nanos, bytes: &[u8]) -> Result<(), PcapError> {
        self.write_snapped(time, bytes, bytes.len())
    }

    /// As [`Self::write`], for a packet of `wire_len` bytes of which no more than `bytes` were captured.
    pub fn write_snapped(&mut self, time: Nanos, bytes: &[u8], wire_len: usize) -> Result<(), PcapError> {
        let seconds = u32::try_from(time / SECOND).unwrap_or(u32::MAX);
        let wire_len = u32::try_from(wire_len).unwrap_or(u32::MAX);
        let bytes = bytes.get(..MAX_RECORD).unwrap_or(bytes);
        let mut header = [0; 16];
        header[0..4].copy_from_slice(&seconds.to_le_bytes());
        header[4..8].copy_from_slice(&((time % SECOND) as u32).to_le_bytes());
        header[8..12].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&wire_len.to_le_bytes());
        self.put(&header)?;
        self.put(bytes)
    }

    /// Brings all that was written to the file.
    pub fn flush(&mut self) -> Result<(), PcapError> {
        let result = self.inner.flush();
        self.name_error(result)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), PcapError> {
        let result = self.inner.write_all(bytes);
        self.name_error(result)
    }

    fn name_error(&self, result: std::io::Result<()>) -> Result<(), PcapError> {
        result.map_err(|error| PcapError {
            file: self.name.clone(),
            offset: None,
            fault: Fault::Write(Arc::new(error)),
        })
    }
}
