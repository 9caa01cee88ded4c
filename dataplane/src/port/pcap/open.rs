//! Captures as they lie on the disk: as they are, or compressed by gzip (RFC 1952) or Zstandard (RFC 8878). Both are
//! unpacked as they are read, so a capture may be larger than memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{PcapError, Reader};

/// Bytes that are read at once.
const BUFFER: usize = 1 << 16;

/// A capture that is being read, however it was packed.
pub(super) type FileReader = Reader<Box<dyn BufRead + Send>>;

/// A file, and how many bytes have been read of it and others.
struct Counted {
    file: File,
    bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}

/// Opens a capture. The bytes that are read of it, as it lies on the disk, are added to `bytes`.
///
/// # Errors
/// The file cannot be opened, or does not begin like a capture of Ethernet frames.
pub(super) fn open(path: &Path, bytes: &Arc<AtomicU64>) -> Result<FileReader, PcapError> {
    let file = File::open(path).map_err(|error| PcapError::open(path, error))?;
    let name = path.display().to_string();
    let mut file = BufReader::with_capacity(BUFFER, Counted { file, bytes: bytes.clone() });
    let unpacked: Box<dyn BufRead + Send> = match file.fill_buf() {
        Ok([0x1f, 0x8b, ..]) => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file))),
        Ok([0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) => {
            Box::new(BufReader::with_capacity(BUFFER, Zstd::new(file)))
        }
        // What else it may be, or why it cannot be read, the reader finds.
        _ => Box::new(file),
    };
    Reader::new(&name, unpacked)
}

/// The frames of a Zstandard file, one behind the other.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    within: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), within: false }
    }

    /// Reads the header of the next frame that has data; false at the file's end.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => drop(io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within {
                self.within = self.begin()?;
                if !self.within {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
                let missing = BlockDecodingStrategy::UptoBytes(buffer.len() - self.decoder.can_collect());
                self.decoder.decode_blocks(&mut self.source, missing).map_err(io::Error::other)?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.within = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::super::Writer;
    use super::*;

    fn capture(packets: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new("test", &mut bytes).unwrap();
        for i in 0..packets {
            writer.write(i as u64, format!("packet number {i} of all that there are").as_bytes()).unwrap();
        }
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn read(bytes: &[u8]) -> Result<usize, (usize, PcapError)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let read = Arc::default();
        let mut reader = open(file.path(), &read).map_err(|error| (0, error))?;
        let mut count = 0;
        loop {
            match reader.advance() {
                Ok(Some(record)) => {
                    let expected = format!("packet number {count} of all that there are");
                    assert_eq!((record.time, reader.bytes()), (count as u64, expected.as_bytes()));
                    count += 1;
                }
                Ok(None) => {
                    assert_eq!(read.load(Relaxed), bytes.len() as u64);
                    return Ok(count);
                }
                Err(error) => return Err((count, error)),
            }
        }
    }

    #[test]
    fn a_capture_is_unpacked_as_it_is_read() {
        let plain = capture(5000);
        assert_eq!(read(&plain).unwrap(), 5000);
        assert_eq!(read(&gzip(&plain)).unwrap(), 5000);
        assert_eq!(read(&zstd(&plain)).unwrap(), 5000);
    }

    #[test]
    fn pieces_packed_by_themselves_are_one_capture() {
        let plain = capture(5000);
        let (first, second) = plain.split_at(70_001);
        assert_eq!(read(&[gzip(first), gzip(second)].concat()).unwrap(), 5000);
        let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(first)].concat();
        assert_eq!(read(&[skipped.clone(), zstd(second)].concat()).unwrap(), 5000);
        assert_eq!(read(&[zstd(first), skipped[..11].to_vec(), zstd(second)].concat()).unwrap(), 5000);
    }

    #[test]
    fn what_is_cut_off_or_broken_gives_what_came_before() {
        let (packed, other) = (gzip(&capture(5000)), zstd(&capture(5000)));
        let (count, error) = read(&packed[..packed.len() / 2]).unwrap_err();
        assert!(count > 1000 && error.is_cut_off(), "{count} {error}");
        let (count, error) = read(&other[..other.len() - 3]).unwrap_err();
        assert!(count > 0, "{error}");
        assert!(error.to_string().contains("cannot be read: "), "{error}");
        for at in (4..packed.len()).step_by(97) {
            let mut bent = packed.clone();
            bent[at] ^= 0x5a;
            _ = read_any(&bent);
        }
        for at in (4..other.len()).step_by(97) {
            let mut bent = other.clone();
            bent[at] ^= 0x5a;
            _ = read_any(&bent);
        }
    }

    /// Whatever is in it.
    fn read_any(bytes: &[u8]) -> Result<usize, PcapError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut reader = open(file.path(), &Arc::default())?;
        let mut count = 0;
        while reader.advance()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}
