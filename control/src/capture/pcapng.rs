//! Writes pcapng (draft-ietf-opsawg-pcapng): one section, an interface for each port, and what is known of a packet in its
//! comment.

use std::io::{self, Write};

use super::Packet;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_IFDROP: u16 = 5;

/// A file that is being written.
pub struct Writer<W> {
    out: W,
    ports: u16,
}

/// A block, or its options.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn word(&mut self, word: u16) -> &mut Self {
        self.bytes(&word.to_le_bytes())
    }

    fn long(&mut self, long: u32) -> &mut Self {
        self.bytes(&long.to_le_bytes())
    }

    /// Nanoseconds, upper half first.
    fn time(&mut self, at: u64) -> &mut Self {
        self.long((at >> 32) as u32).long(at as u32)
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn padded(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn option(&mut self, code: u16, value: &[u8]) -> &mut Self {
        let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
        self.word(code).word(value.len() as u16).padded(value)
    }

    fn end_of_options(&mut self) -> &mut Self {
        self.long(0)
    }
}

impl<W: Write> Writer<W> {
    /// Begins a file, with an interface for each port, and one for packets whose port is not known.
    ///
    /// # Errors
    /// The writer's. So for all below.
    pub fn new(out: W, ports: &[String]) -> io::Result<Self> {
        let mut writer = Self { out, ports: ports.len() as u16 };
        let mut section = Bytes::default();
        // Version 1.0, and a length that is not known.
        section.long(BYTE_ORDER).word(1).word(0).bytes(&[0xff; 8]);
        let program = concat!("sluice ", env!("CARGO_PKG_VERSION"));
        section.option(SHB_USERAPPL, program.as_bytes()).end_of_options();
        writer.block(SECTION, &section)?;
        for name in ports.iter().map(String::as_str).chain(["unknown"]) {
            let mut interface = Bytes::default();
            interface.word(ETHERNET).word(0).long(0);
            interface.option(IF_NAME, name.as_bytes()).option(IF_TSRESOL, &[9]).end_of_options();
            writer.block(INTERFACE, &interface)?;
        }
        Ok(writer)
    }

    fn block(&mut self, kind: u32, body: &Bytes) -> io::Result<()> {
        let len = (body.0.len() as u32 + 12).to_le_bytes();
        self.out.write_all(&[&kind.to_le_bytes(), &len, &body.0[..], &len].concat())
    }

    /// Adds a packet.
    pub fn packet(&mut self, packet: &Packet) -> io::Result<()> {
        let digits =
            packet.bytes.as_bytes().chunks_exact(2).filter_map(|pair| std::str::from_utf8(pair).ok());
        let bytes: Vec<u8> = digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
        let port = packet.port.filter(|port| *port < self.ports).unwrap_or(self.ports);
        let mut block = Bytes::default();
        block.long(port.into()).time(packet.at);
        block.long(bytes.len() as u32).long(packet.len).padded(&bytes);
        block.option(OPT_COMMENT, comment(packet).as_bytes());
        // Inbound or outbound.
        let direction: u32 = if packet.way == "out" { 2 } else { 1 };
        block.option(EPB_FLAGS, &direction.to_le_bytes()).end_of_options();
        self.block(ENHANCED_PACKET, &block)
    }

    /// Ends the file, with how many packets found no room in the gateway; by which ports they would have gone is not known.
    pub fn finish(mut self, at: u64, lost: u64) -> io::Result<W> {
        let mut block = Bytes::default();
        block.long(self.ports.into()).time(at);
        block.option(ISB_IFDROP, &lost.to_le_bytes());
        block.option(OPT_COMMENT, format!("{lost} packets found no room and are missing").as_bytes());
        block.end_of_options();
        self.block(STATISTICS, &block)?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Has everything written that was added.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn comment(packet: &Packet) -> String {
    let mut comment = match packet.way.as_str() {
        "in" => "received".to_owned(),
        "out" => "sent".to_owned(),
        _ => format!("dropped: {}", packet.reason.as_deref().unwrap_or("?")),
    };
    if let Some(rule) = &packet.rule {
        comment.push_str(&format!(", rule {rule}"));
    }
    comment + &format!(", worker {}, generation {}", packet.worker, packet.generation)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    fn file() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &["lan".to_owned(), "wan".to_owned()]).unwrap();
        let packet = Packet {
            at: 1_700_000_000_123_456_789,
            way: "drop".to_owned(),
            port: Some(1),
            worker: 3,
            generation: 7,
            reason: Some("acl_deny".to_owned()),
            rule: Some("edge/telnet".to_owned()),
            len: 1000,
            bytes: format!("0200000000010200000000020806{}", "00".repeat(47)),
        };
        writer.packet(&packet).unwrap();
        let unknown = Packet { port: None, reason: None, rule: None, way: "out".to_owned(), ..packet };
        writer.packet(&unknown).unwrap();
        writer.finish(1_700_000_001_000_000_000, 5).unwrap()
    }

    #[test]
    fn blocks_have_their_length_at_both_ends() {
        let (file, mut at, mut kinds) = (file(), 0, Vec::new());
        let long = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        while at < file.len() {
            let len = long(at + 4) as usize;
            assert_eq!((len % 4, long(at + len - 4) as usize), (0, len));
            kinds.push(long(at));
            at += len;
        }
        assert_eq!(kinds, [SECTION, 1, 1, 1, 6, 6, 5]);
    }

    #[test]
    fn tshark_reads_it() {
        let mut file_on_disk = tempfile::NamedTempFile::new().unwrap();
        file_on_disk.write_all(&file()).unwrap();
        let fields = ["frame.interface_name", "frame.time_epoch", "frame.len", "frame.comment"];
        let fields = fields.iter().flat_map(|field| ["-e", field]);
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(file_on_disk.path()).args(["-T", "fields"]).args(fields);
        // Where there is none, there is nothing to compare with.
        let Ok(said) = tshark.output() else { return };
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines,
            [
                "wan\t1700000000.123456789\t1000\tdropped: acl_deny, rule edge/telnet, worker 3, generation 7",
                "unknown\t1700000000.123456789\t1000\tsent, worker 3, generation 7",
            ]
        );
    }
}
