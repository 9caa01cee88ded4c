//! A port whose frames come from one capture and go to another.

use std::fs::File;
use std::io::{BufRead, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::open::{FileReader, open};
use super::{Fault, PcapError, Reader, Record, Writer};
use crate::arena::{FramePool, MAX_PACKET};
use crate::burst::Burst;
use crate::clock::Nanos;
use crate::port::{Outbox, Port, Refused, Sent};

/// Of a capture, how many packets [`first_unicast_destination`] looks at.
const SCAN: usize = 10_000;

/// What went wrong with a port's files. It can be held while a worker owns the port, and read when that is done.
#[derive(Debug, Default)]
pub struct Faults {
    inputs: Mutex<Vec<PcapError>>,
    output: OnceLock<PcapError>,
}

impl Faults {
    /// Why inputs ended before their ends. What came before was delivered.
    pub fn inputs(&self) -> Vec<PcapError> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn of_input(&self, error: PcapError) {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).push(error);
    }

    /// Why packets are missing from the output.
    pub fn output(&self) -> Option<&PcapError> {
        self.output.get()
    }
}

/// A capture, and the packet of it that is next.
struct Input {
    reader: FileReader,
    /// The packet that has been read but has not arrived yet; its bytes are the reader's.
    waiting: Option<Record>,
    /// Arrival of the newest packet read: time does not go back, whatever the capture says.
    latest: Nanos,
}

impl Input {
    fn new(reader: FileReader) -> Self {
        Self { reader, waiting: None, latest: 0 }
    }

    /// The next packet, read if it has not been yet.
    fn peek(&mut self, faults: &Faults) -> Option<Record> {
        if self.waiting.is_none() {
            match self.reader.advance() {
                Ok(Some(record)) => {
                    self.latest = self.latest.max(record.time);
                    self.waiting = Some(Record { time: self.latest, ..record });
                }
                Ok(None) => {}
                // The reader says it once.
                Err(error) => faults.of_input(error),
            }
        }
        self.waiting
    }
}

/// A port that receives what captures hold, each packet at its own time, and records what it is given to transmit.
pub struct PcapPort {
    inputs: Vec<Input>,
    bytes_read: Arc<AtomicU64>,
    output: Option<Writer<Box<dyn Write + Send>>>,
    /// Where a chain is made one piece.
    buffer: Vec<u8>,
    faults: Arc<Faults>,
}

impl PcapPort {
    /// A port between files: it receives what `inputs` hold together, in the order of time, and without any nothing;
    /// without `output` what it transmits is counted and discarded. The output is created, or emptied, and has a header
    /// even if nothing is ever transmitted.
    ///
    /// # Errors
    /// The files cannot be opened, the output is an input, or an input does not begin like a capture of Ethernet frames.
    pub fn open<'a>(
        inputs: impl IntoIterator<Item = &'a Path>,
        output: Option<&Path>,
    ) -> Result<Self, PcapError> {
        let mut port = Self::silent();
        for input in inputs {
            if let Some(output) = output.filter(|output| same_file(input, output)) {
                let file = output.display().to_string();
                return Err(PcapError { file, offset: None, fault: Fault::SameFile });
            }
            port.inputs.push(Input::new(open(input, &port.bytes_read)?));
        }
        if let Some(path) = output {
            let file = File::create(path).map_err(|error| PcapError::open(path, error))?;
            port = port.with_output(&path.display().to_string(), BufWriter::with_capacity(1 << 16, file))?;
        }
        Ok(port)
    }

    /// A port that receives the capture `input`, which errors call `name`, and discards what it transmits.
    ///
    /// # Errors
    /// The input does not begin like a capture of Ethernet frames.
    pub fn from_reader(name: &str, input: impl BufRead + Send + 'static) -> Result<Self, PcapError> {
        let inputs = vec![Input::new(Reader::new(name, Box::new(input) as Box<_>)?)];
        Ok(Self { inputs, ..Self::silent() })
    }

    /// As [`Self::from_reader`], of a capture in memory.
    ///
    /// # Errors
    /// As [`Self::from_reader`].
    pub fn from_bytes(input: impl Into<Vec<u8>>) -> Result<Self, PcapError> {
        Self::from_reader("memory", std::io::Cursor::new(input.into()))
    }

    /// Makes the port record what it transmits in `output`, which errors call `name`.
    ///
    /// # Errors
    /// The capture's header cannot be written.
    pub fn with_output(mut self, name: &str, output: impl Write + Send + 'static) -> Result<Self, PcapError> {
        self.output = Some(Writer::new(name, Box::new(output) as Box<_>)?);
        Ok(self)
    }

    fn silent() -> Self {
        Self {
            inputs: Vec::new(),
            bytes_read: Arc::default(),
            output: None,
            buffer: vec![0; MAX_PACKET],
            faults: Arc::default(),
        }
    }

    /// What goes wrong with the files from here on.
    pub fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults)
    }

    /// How many bytes have been read of the inputs' files, as they lie on the disk. It can be held while a worker owns the
    /// port.
    pub fn bytes_read(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes_read)
    }

    /// Completes the output.
    ///
    /// # Errors
    /// What was the first to go wrong with the inputs, or else with the output.
    pub fn finish(&mut self) -> Result<(), PcapError> {
        self.write(Writer::flush);
        match self.faults.inputs().first().or(self.faults.output()) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// The input whose packet is the next, and that packet. Of two at the same time, that of the first input.
    fn peek(&mut self) -> Option<(&mut Input, Record)> {
        let faults = &self.faults;
        let waiting =
            self.inputs.iter_mut().filter_map(|input| input.peek(faults).map(|record| (input, record)));
        waiting.min_by_key(|(_, record)| record.time)
    }

    /// Writes to the output, if there is one that has not failed.
    fn write(
        &mut self,
        write: impl FnOnce(&mut Writer<Box<dyn Write + Send>>) -> Result<(), PcapError>,
    ) -> bool {
        match self.output.as_mut().map(write) {
            Some(Err(error)) => {
                self.output = None;
                drop(self.faults.output.set(error));
                false
            }
            _ => true,
        }
    }
}

impl PcapPort {
    /// As [`Port::receive`], but at most so many packets.
    pub fn receive_some(
        &mut self,
        most: usize,
        now: Nanos,
        pool: &mut FramePool,
        burst: &mut Burst,
    ) -> Refused {
        let mut refused = Refused::default();
        for _ in 0..burst.room().min(most) {
            let next = self.peek().filter(|(_, record)| record.time <= now);
            let Some((input, record)) = next else { break };
            input.waiting = None;
            let bytes = input.reader.bytes();
            let count = if record.wire_len as usize > MAX_PACKET {
                &mut refused.too_long
            } else if record.wire_len as usize > bytes.len() {
                &mut refused.truncated
            } else if let Some(frame) = pool.copy_in(bytes) {
                if let Err(frame) = burst.push(frame) {
                    pool.give(frame);
                }
                continue;
            } else {
                &mut refused.no_frame
            };
            *count += 1;
            refused.bytes += u64::from(record.wire_len);
        }
        refused
    }
}

impl Port for PcapPort {
    fn receive(&mut self, now: Nanos, pool: &mut FramePool, burst: &mut Burst) -> Refused {
        self.receive_some(usize::MAX, now, pool, burst)
    }

    fn transmit(&mut self, now: Nanos, pool: &mut FramePool, outbox: &mut Outbox) -> Sent {
        let mut sent = Sent::default();
        for frame in outbox.take(usize::MAX) {
            sent.packets += 1;
            sent.bytes += frame.len() as u64;
            let mut buffer = std::mem::take(&mut self.buffer);
            self.write(|writer| writer.write(now, frame.whole(&mut buffer)));
            self.buffer = buffer;
            pool.give(frame);
        }
        sent
    }

    fn close(&mut self, _pool: &mut FramePool) -> u32 {
        self.write(Writer::flush);
        self.inputs.clear();
        self.output = None;
        0
    }

    fn next_arrival(&mut self) -> Option<Nanos> {
        self.peek().map(|(_, record)| record.time)
    }
}

/// Whether two paths lead to one file that exists.
pub fn same_file(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    identity(a).is_some_and(|a| Some(a) == identity(b))
}

/// The destination of the first IPv4 or IPv6 packet in a capture that was sent to one station: the MAC address that
/// the gateway had where the capture was taken. Looks at the first 10,000 packets, behind VLAN tags too. What is wrong
/// further on in the file ends the search without an error: the port will meet it.
///
/// # Errors
/// The file cannot be opened, or does not begin like a capture of Ethernet frames.
pub fn first_unicast_destination(path: &Path) -> Result<Option<[u8; 6]>, PcapError> {
    let mut reader = open(path, &Arc::default())?;
    for _ in 0..SCAN {
        let Ok(Some(_)) = reader.advance() else { break };
        if let Some(mac) = unicast_destination(reader.bytes()) {
            return Ok(Some(mac));
        }
    }
    Ok(None)
}

fn unicast_destination(frame: &[u8]) -> Option<[u8; 6]> {
    let &destination = frame.first_chunk()?;
    let mut rest = frame.get(12..)?;
    while let [0x81, 0x00, ..] | [0x88, 0xa8, ..] = rest {
        rest = rest.get(4..)?;
    }
    let ip = matches!(rest, [0x08, 0x00, ..] | [0x86, 0xdd, ..]);
    (ip && destination[0] & 1 == 0 && destination != [0; 6]).then_some(destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(packets: &[(Nanos, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new("test", &mut bytes).unwrap();
        for (time, packet) in packets {
            writer.write(*time, packet).unwrap();
        }
        bytes
    }

    fn received(burst: &mut Burst, pool: &mut FramePool) -> Vec<Vec<u8>> {
        let packets = (0..burst.len())
            .map(|i| {
                let frame = burst.take(i).unwrap();
                let bytes = frame.bytes().to_vec();
                pool.give(frame);
                bytes
            })
            .collect();
        burst.clear();
        packets
    }

    #[test]
    fn packets_arrive_at_their_time_which_never_goes_back() {
        let capture = capture(&[(5, b"a"), (9, b"b"), (3, b"c"), (20, b"d")]);
        let mut port = PcapPort::from_bytes(capture).unwrap();
        let (mut pool, mut burst) = (FramePool::new(8, false).unwrap(), Burst::default());
        assert_eq!(port.next_arrival(), Some(5));
        assert_eq!(port.receive(4, &mut pool, &mut burst), Refused::default());
        assert!(burst.is_empty());
        port.receive(9, &mut pool, &mut burst);
        assert_eq!(received(&mut burst, &mut pool), [b"a", b"b", b"c"]);
        assert_eq!(port.next_arrival(), Some(20));
        port.receive(Nanos::MAX, &mut pool, &mut burst);
        assert_eq!(received(&mut burst, &mut pool), [b"d"]);
        assert_eq!((port.next_arrival(), pool.free()), (None, 8));
        port.finish().unwrap();
    }

    #[test]
    fn several_captures_are_merged_by_time() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        std::fs::write(&paths[0], capture(&[(1, b"1a"), (4, b"4a"), (4, b"4A")])).unwrap();
        std::fs::write(&paths[1], capture(&[(2, b"2b"), (4, b"4b"), (9, b"9b")])).unwrap();
        let mut cut = capture(&[(3, b"3c"), (5, b"gone")]);
        cut.truncate(cut.len() - 1);
        std::fs::write(&paths[2], cut).unwrap();
        let mut port = PcapPort::open(paths.iter().map(|path| path.as_path()), None).unwrap();
        let (mut pool, mut burst) = (FramePool::new(8, false).unwrap(), Burst::default());
        port.receive(4, &mut pool, &mut burst);
        assert_eq!(received(&mut burst, &mut pool), [b"1a", b"2b", b"3c", b"4a", b"4A", b"4b"]);
        assert_eq!(port.next_arrival(), Some(9));
        assert!(port.faults().inputs().iter().all(PcapError::is_cut_off));
        assert_eq!(port.faults().inputs().len(), 1);
    }

    #[test]
    fn what_cannot_be_received_is_refused_by_reason() {
        let mut bytes = capture(&[(1, &[7; MAX_PACKET + 1]), (2, &[8; MAX_PACKET]), (3, &[9; 60])]);
        // The last record's length on the wire: 100 bytes of which 60 were captured.
        let at = bytes.len() - 64;
        bytes[at..at + 4].copy_from_slice(&100u32.to_le_bytes());
        let (mut pool, mut burst) = (FramePool::new(6, false).unwrap(), Burst::default());
        let mut port = PcapPort::from_bytes(bytes.clone()).unwrap();
        let refused = port.receive(9, &mut pool, &mut burst);
        let expected = Refused { too_long: 1, truncated: 1, no_frame: 0, bytes: MAX_PACKET as u64 + 1 + 100 };
        assert_eq!(refused, expected);
        assert_eq!((burst.len(), burst.packet_len(0)), (1, MAX_PACKET));
        let mut second = PcapPort::from_bytes(bytes).unwrap();
        assert_eq!(second.receive(9, &mut pool, &mut burst).no_frame, 1);
        received(&mut burst, &mut pool);
    }

    #[test]
    fn a_burst_takes_what_it_has_room_for() {
        let packets: Vec<(Nanos, &[u8])> = (0..100).map(|_| (0, &b"x"[..])).collect();
        let mut port = PcapPort::from_bytes(capture(&packets)).unwrap();
        let (mut pool, mut burst) = (FramePool::new(100, false).unwrap(), Burst::default());
        port.receive(0, &mut pool, &mut burst);
        assert_eq!(received(&mut burst, &mut pool).len(), 64);
        port.receive(0, &mut pool, &mut burst);
        assert_eq!(received(&mut burst, &mut pool).len(), 36);
    }

    #[test]
    fn a_capture_cut_off_gives_what_it_has_and_says_so() {
        let mut bytes = capture(&[(1, b"whole"), (2, b"half of it is gone")]);
        bytes.truncate(bytes.len() - 9);
        let mut port = PcapPort::from_bytes(bytes).unwrap();
        let faults = port.faults();
        let (mut pool, mut burst) = (FramePool::new(2, false).unwrap(), Burst::default());
        port.receive(9, &mut pool, &mut burst);
        assert_eq!(received(&mut burst, &mut pool), [b"whole"]);
        port.close(&mut pool);
        let error = &faults.inputs()[0];
        assert!(error.is_cut_off());
        assert_eq!(
            error.to_string(),
            "memory: at byte 45: the file is cut off within what begins here; whole packets before it: 1"
        );
        assert_eq!(port.finish().unwrap_err().to_string(), error.to_string());
    }

    #[test]
    fn what_is_transmitted_can_be_received() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first.pcap"), dir.path().join("second.pcap"));
        std::fs::write(&first, capture(&[(1, b"one"), (2_000_000_003, b"two")])).unwrap();
        let mut port = PcapPort::open([first.as_path()], Some(&second)).unwrap();
        let (mut pool, mut burst) = (FramePool::new(4, false).unwrap(), Burst::default());
        let mut outbox = Outbox::new(4);
        while let Some(now) = port.next_arrival() {
            port.receive(now, &mut pool, &mut burst);
            outbox.push(burst.take(0).unwrap()).unwrap();
            burst.clear();
            assert_eq!(port.transmit(now, &mut pool, &mut outbox), Sent { packets: 1, bytes: 3 });
        }
        port.finish().unwrap();
        assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn an_output_that_fails_is_told_and_loses_no_frame() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut port = PcapPort::silent().with_output("out.pcap", Full(24 + 20)).unwrap();
        let mut pool = FramePool::new(3, false).unwrap();
        let mut outbox = Outbox::new(3);
        for _ in 0..3 {
            let mut frame = pool.take().unwrap();
            frame.copy_from(b"four");
            outbox.push(frame).unwrap();
        }
        assert_eq!(port.transmit(0, &mut pool, &mut outbox), Sent { packets: 3, bytes: 12 });
        assert_eq!(pool.free(), 3);
        let error = port.finish().unwrap_err().to_string();
        assert!(error.starts_with("out.pcap: cannot be written: "), "{error}");
    }

    #[test]
    fn an_input_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("only.pcap");
        let bytes = capture(&[(1, b"precious")]);
        std::fs::write(&path, &bytes).unwrap();
        let error = PcapPort::open([path.as_path()], Some(&path)).err().unwrap();
        assert!(matches!(error.fault, Fault::SameFile));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        let error = PcapPort::open([dir.path().join("none.pcap").as_path()], None).err().unwrap();
        assert!(error.to_string().contains("none.pcap: cannot be opened: No such file"), "{error}");
    }

    #[test]
    fn the_gateways_own_address_is_found() {
        let frame = |destination: u8, rest: &[u8]| {
            let mut frame = vec![destination, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
            frame.extend_from_slice(rest);
            frame
        };
        let broadcast = frame(0xff, &[0x08, 0x00]);
        let arp = frame(0x02, &[0x08, 0x06]);
        let runt = vec![0x02; 5];
        let tagged = frame(0x06, &[0x88, 0xa8, 0, 1, 0x81, 0x00, 0, 2, 0x86, 0xdd]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.pcap");
        std::fs::write(&path, capture(&[(1, &broadcast), (2, &arp), (3, &runt), (4, &tagged)])).unwrap();
        assert_eq!(first_unicast_destination(&path).unwrap(), Some([6, 0, 0, 0, 0, 1]));
        std::fs::write(&path, capture(&[(1, &broadcast), (2, &arp), (3, &runt)])).unwrap();
        assert_eq!(first_unicast_destination(&path).unwrap(), None);
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(first_unicast_destination(&path).unwrap_err().fault, Fault::Empty));
    }
}
