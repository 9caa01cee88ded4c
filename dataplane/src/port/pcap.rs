//! Captures as ports: classic pcap and pcapng in, also gzip or Zstandard of them, classic pcap with nanoseconds out.
//!
//! The files come from anywhere, so nothing in them is believed: every length is held against a bound before it is
//! used, and whatever is wrong becomes a [`PcapError`] that names the file, the byte and the fault.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

mod open;
mod pcapng;
mod port;
mod reader;
mod writer;

pub use port::{Faults, PcapPort, first_unicast_destination, same_file};
pub use reader::{Reader, Record};
pub use writer::Writer;

/// The longest record that is read or written, in bytes (libpcap's `MAXIMUM_SNAPLEN`).
pub const MAX_RECORD: usize = 262_144;

/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;

/// What is wrong with a capture, and where.
#[derive(Clone, Debug, thiserror::Error)]
pub struct PcapError {
    /// The file, as it was named.
    pub file: String,
    /// Bytes from the file's start to the header, record or block at fault; `None` if it is the file as a whole.
    pub offset: Option<u64>,
    /// What is wrong there.
    pub fault: Fault,
}

impl fmt::Display for PcapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{}: at byte {offset}: {}", self.file, self.fault),
            None => write!(f, "{}: {}", self.file, self.fault),
        }
    }
}

impl PcapError {
    fn open(path: &Path, error: io::Error) -> Self {
        Self { file: path.display().to_string(), offset: None, fault: Fault::Open(Arc::new(error)) }
    }

    /// Whether the capture merely ends within a record, as when its writer was interrupted: all that came before is
    /// sound.
    pub fn is_cut_off(&self) -> bool {
        matches!(self.fault, Fault::CutOff { .. })
    }
}

/// The faults of a capture file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// The file could not be opened or created.
    #[error("cannot be opened: {0}")]
    Open(Arc<io::Error>),
    /// Reading failed.
    #[error("cannot be read: {0}")]
    Read(Arc<io::Error>),
    /// Writing failed.
    #[error("cannot be written: {0}")]
    Write(Arc<io::Error>),
    /// Input and output are one file.
    #[error("is both the input and the output, and would be overwritten while it is read")]
    SameFile,
    /// No byte in it.
    #[error("the file is empty; a capture has a header even when it holds no packet")]
    Empty,
    /// The file begins like no capture does.
    #[error("neither a pcap nor a pcapng capture (the file begins with {})", hex(.0))]
    NotACapture([u8; 4]),
    /// A version of the format that is not known.
    #[error("version {0}.{1} of {2} is not known")]
    Version(u16, u16, &'static str),
    /// Not a capture of Ethernet frames.
    #[error("link type {0} ({name}) is not Ethernet; capture on an Ethernet interface", name = link_type_name(*.0))]
    LinkType(u16),
    /// The file ends within a header, a record or a block.
    #[error("the file is cut off within what begins here; whole packets before it: {packets}")]
    CutOff {
        /// How many packets came before.
        packets: u64,
    },
    /// A record's length is over [`MAX_RECORD`].
    #[error("packet {packet} claims to have {bytes} captured bytes; a record holds {MAX_RECORD} at most")]
    TooLong {
        /// The packet's number in the file, from 1.
        packet: u64,
        /// The length that is claimed.
        bytes: u64,
    },
    /// A pcapng block whose total length is under what its kind needs, or no multiple of four.
    #[error("a pcapng block of type {kind:#010x} cannot have a total length of {bytes} bytes")]
    BlockLength {
        /// The block's type.
        kind: u32,
        /// Its total length, as it says.
        bytes: u32,
    },
    /// The total lengths at a pcapng block's two ends differ.
    #[error("a pcapng block says {0} bytes at its start and {1} at its end")]
    BlockEnd(u32, u32),
    /// A packet's captured bytes run past its pcapng block.
    #[error("packet {packet} claims to have {bytes} captured bytes, more than its block holds")]
    PastBlock {
        /// The packet's number in the file, from 1.
        packet: u64,
        /// The length that is claimed.
        bytes: u64,
    },
    /// A packet of an interface that its section does not describe.
    #[error(
        "packet {packet} came in by interface {interface}, which no interface description block describes"
    )]
    NoInterface {
        /// The packet's number in the file, from 1.
        packet: u64,
        /// The interface's number in the section, from 0.
        interface: u32,
    },
    /// More interfaces in a section than are kept.
    #[error("a section describes more than {} interfaces", pcapng::MAX_INTERFACES)]
    Interfaces,
}

fn hex(bytes: &[u8; 4]) -> String {
    let [a, b, c, d] = bytes;
    format!("{a:02x} {b:02x} {c:02x} {d:02x}")
}

/// The names of the link types that people meet most.
fn link_type_name(link_type: u16) -> &'static str {
    match link_type {
        0 | 108 => "BSD loopback",
        9 | 50 | 51 => "PPP",
        12 | 14 | 101 => "raw IP, without Ethernet headers",
        105 => "802.11",
        113 => "Linux cooked, as of \"-i any\"",
        127 => "802.11 with radiotap headers",
        147..=162 => "private use",
        187 | 201 => "Bluetooth",
        189 | 220 | 249 => "USB",
        195 | 230 => "802.15.4",
        228 => "raw IPv4",
        229 => "raw IPv6",
        239 => "NFLOG",
        276 => "Linux cooked v2, as of \"-i any\"",
        _ => "not one of the common ones",
    }
}

/// The byte order of a file or a pcapng section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    /// The 16-bit field at `at`; zero if it lies beyond the bytes.
    fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let Some(&field) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return 0 };
        match self {
            Self::Little => u16::from_le_bytes(field),
            Self::Big => u16::from_be_bytes(field),
        }
    }

    /// The 32-bit field at `at`; zero if it lies beyond the bytes.
    fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let Some(&field) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return 0 };
        match self {
            Self::Little => u32::from_le_bytes(field),
            Self::Big => u32::from_be_bytes(field),
        }
    }
}
