//! Where records go: each sink takes what it can at once, and waits for nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::Record;
use super::ipfix::{Exporter, TEMPLATES};
use super::syslog::Sender;
use crate::config::{NatLog, Syslog};

/// A file gets so many bytes at a time: a pipe takes as many wholly or not at all.
const CHUNK: usize = 4096;
/// What cannot be opened is tried again, and a file looked for under its name, after so many microseconds.
const AGAIN: u64 = 1_000_000;

/// A place that records go to.
pub(super) trait Sink: Send {
    /// Which it is, and where.
    fn name(&self) -> String;

    /// Says that all starts from nothing.
    fn begin(&mut self, now: u64) -> io::Result<()>;

    /// Takes records at the time `now`. Returns how many, and why not all if that is known.
    fn write(&mut self, now: u64, records: &[Record]) -> Result<usize, (usize, io::Error)>;
}

/// The sinks of a configuration.
pub(super) fn sinks(config: &NatLog) -> Vec<Box<dyn Sink>> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    if let Some(path) = &config.file {
        sinks.push(Box::new(Lines::new(path.clone())));
    }
    if let Some(to) = &config.syslog {
        sinks.push(Box::new(Datagrams { to: to.clone(), link: Link::default(), sender: Sender::this() }));
    }
    if let Some(to) = config.ipfix {
        let exporter = Exporter::new(config.domain);
        sinks.push(Box::new(Ipfix { to, link: Link::default(), exporter, templates_due: 0 }));
    }
    sinks
}

/// A file or a named pipe, a line a record.
struct Lines {
    path: PathBuf,
    file: Option<File>,
    /// When to look whether the file is still the one of that name, or to try again to open it.
    look_due: u64,
    sender: Sender,
}

impl Lines {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, look_due: 0, sender: Sender::this() }
    }

    fn file(&mut self, now: u64) -> io::Result<&mut File> {
        if now >= self.look_due {
            self.look_due = now + AGAIN;
            let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
            let named = fs::metadata(&self.path).map(place).ok();
            let open = self.file.as_ref().and_then(|file| file.metadata().ok()).map(place);
            if named.is_none() || named != open {
                let mut options = OpenOptions::new();
                options.create(true).append(true).mode(0o640).custom_flags(libc::O_NONBLOCK);
                self.file = None;
                self.file = Some(options.open(&self.path)?);
            }
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Sink for Lines {
    fn name(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn begin(&mut self, now: u64) -> io::Result<()> {
        let line = self.sender.started(now);
        self.file(now)?.write_all(format!("{line}\n").as_bytes())
    }

    fn write(&mut self, now: u64, records: &[Record]) -> Result<usize, (usize, io::Error)> {
        let mut written = 0;
        let mut rest = records.iter().peekable();
        while rest.peek().is_some() {
            let (mut chunk, mut count) = (String::new(), 0);
            while let Some(record) = rest.peek() {
                let line = self.sender.line(record);
                if !chunk.is_empty() && chunk.len() + line.len() + 1 > CHUNK {
                    break;
                }
                chunk.push_str(&line);
                chunk.push('\n');
                count += 1;
                rest.next();
            }
            let result = self.file(now).and_then(|file| file.write_all(chunk.as_bytes()));
            if let Err(error) = result {
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.file = None;
                }
                return Err((written, error));
            }
            written += count;
        }
        Ok(written)
    }
}

/// A socket that is connected, or will be when that is possible.
#[derive(Default)]
struct Link {
    socket: Option<Socket>,
    due: u64,
}

enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Link {
    fn socket(&mut self, now: u64, open: impl Fn() -> io::Result<Socket>) -> io::Result<&Socket> {
        if self.socket.is_none() && now >= self.due {
            self.due = now + AGAIN;
            self.socket = Some(open()?);
        }
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends a datagram. One that finds the peer gone is lost, and has the socket opened anew.
    fn send(&mut self, now: u64, bytes: &[u8], open: impl Fn() -> io::Result<Socket>) -> io::Result<()> {
        let sent = match self.socket(now, open)? {
            Socket::Udp(socket) => socket.send(bytes),
            Socket::Unix(socket) => socket.send(bytes),
        };
        // UDP tells at the next datagram that nobody took the last.
        let is_gone = |error: &io::Error| error.kind() != io::ErrorKind::WouldBlock;
        if sent.as_ref().is_err_and(is_gone) && matches!(self.socket, Some(Socket::Unix(_))) {
            self.socket = None;
        }
        sent.map(drop)
    }
}

fn udp(to: SocketAddr) -> io::Result<Socket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(to)?;
    Ok(Socket::Udp(socket))
}

/// Syslog, a datagram a record.
struct Datagrams {
    to: Syslog,
    link: Link,
    sender: Sender,
}

impl Datagrams {
    fn send(&mut self, now: u64, line: &str) -> io::Result<()> {
        let open = || match &self.to {
            Syslog::Udp(to) => udp(*to),
            Syslog::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(path)?;
                Ok(Socket::Unix(socket))
            }
        };
        self.link.send(now, line.as_bytes(), open)
    }
}

impl Sink for Datagrams {
    fn name(&self) -> String {
        match &self.to {
            Syslog::Udp(to) => format!("syslog {to}"),
            Syslog::Unix(path) => format!("syslog {}", path.display()),
        }
    }

    fn begin(&mut self, now: u64) -> io::Result<()> {
        let line = self.sender.started(now);
        self.send(now, &line)
    }

    fn write(&mut self, now: u64, records: &[Record]) -> Result<usize, (usize, io::Error)> {
        let (mut written, mut failed) = (0, None);
        for record in records {
            let line = self.sender.line(record);
            match self.send(now, &line) {
                Ok(()) => written += 1,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(written), |error| Err((written, error)))
    }
}

/// An IPFIX collector, over UDP.
struct Ipfix {
    to: SocketAddr,
    link: Link,
    exporter: Exporter,
    templates_due: u64,
}

impl Ipfix {
    fn send(&mut self, now: u64, message: &[u8]) -> io::Result<()> {
        let to = self.to;
        self.link.send(now, message, || udp(to))
    }
}

impl Sink for Ipfix {
    fn name(&self) -> String {
        format!("ipfix {}", self.to)
    }

    fn begin(&mut self, _now: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, now: u64, records: &[Record]) -> Result<usize, (usize, io::Error)> {
        let seconds = (now / 1_000_000) as u32;
        let (mut written, mut failed) = (0, None);
        if now >= self.templates_due {
            let message = self.exporter.templates(seconds);
            match self.send(now, &message) {
                Ok(()) => self.templates_due = now + TEMPLATES.as_micros() as u64,
                Err(error) => failed = Some(error),
            }
        }
        let mut rest = records;
        while !rest.is_empty() {
            let (message, taken) = self.exporter.message(seconds, rest);
            match self.send(now, &message) {
                Ok(()) => written += taken,
                Err(error) => failed = Some(error),
            }
            rest = rest.get(taken.max(1)..).unwrap_or_default();
        }
        failed.map_or(Ok(written), |error| Err((written, error)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_dataplane::nat::EventKind;

    use super::*;
    use crate::config::NatRecords;
    use crate::export::syslog::{Line, parse};

    fn records(count: u16) -> Vec<Record> {
        let record = |i| Record {
            at: 1_767_225_600_000_000 + u64::from(i),
            kind: EventKind::BlockAllocated,
            protocol: 0,
            inside: Ipv4Addr::new(100, 64, 0, 1).into(),
            inside_port: 0,
            external: Ipv4Addr::new(203, 0, 113, 1),
            ports: (i, i + 1),
        };
        (0..count).map(record).collect()
    }

    fn config() -> NatLog {
        NatLog { records: NatRecords::Blocks, file: None, syslog: None, ipfix: None, domain: 3 }
    }

    fn one(config: &NatLog) -> Box<dyn Sink> {
        sinks(config).pop().unwrap()
    }

    #[test]
    fn a_file_gets_a_line_a_record_and_is_followed_when_it_is_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nat.log");
        let mut sink = one(&NatLog { file: Some(path.clone()), ..config() });
        sink.begin(5).unwrap();
        assert_eq!(sink.write(5, &records(1000)).unwrap(), 1000);
        let moved = folder.path().join("nat.log.1");
        fs::rename(&path, &moved).unwrap();
        assert_eq!(sink.write(5 + AGAIN, &records(1)).unwrap(), 1);
        let lines = |path| fs::read_to_string(path).unwrap().lines().map(parse).collect::<Vec<_>>();
        let old = lines(&moved);
        assert_eq!((old.len(), old[0]), (1001, Some(Line::Started(5))));
        assert!(old[1..].iter().zip(records(1000)).all(|(line, record)| *line == Some(Line::Record(record))));
        assert_eq!(lines(&path).len(), 1);
    }

    #[test]
    fn a_pipe_that_nobody_reads_loses_records_and_does_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.is_ok_and(|status| status.success()));
        let mut sink = one(&NatLog { file: Some(path.clone()), ..config() });
        assert!(sink.begin(0).is_err(), "no reader");
        assert_eq!(sink.write(1, &records(3)).unwrap_err().0, 0);
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let (written, error) = sink.write(2 * AGAIN, &records(10_000)).unwrap_err();
        assert!(written > 0 && written < 10_000, "{written}");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(reader);
        assert!(sink.write(3 * AGAIN, &records(3)).is_err());
    }

    #[test]
    fn syslog_goes_to_a_server_and_to_a_local_socket() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let to = Syslog::Udp(server.local_addr().unwrap());
        let mut sink = one(&NatLog { syslog: Some(to), ..config() });
        assert_eq!(sink.write(0, &records(2)).unwrap(), 2);
        let mut buffer = [0; 2048];
        for record in records(2) {
            let length = server.recv(&mut buffer).unwrap();
            let line = std::str::from_utf8(&buffer[..length]).unwrap();
            assert_eq!(parse(line), Some(Line::Record(record)));
        }

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut sink = one(&NatLog { syslog: Some(Syslog::Unix(path.clone())), ..config() });
        assert_eq!(sink.write(0, &records(1)).unwrap_err().0, 0, "nobody is there");
        let local = UnixDatagram::bind(&path).unwrap();
        assert_eq!(sink.write(1, &records(1)).unwrap_err().0, 0, "it is not tried again at once");
        assert_eq!(sink.write(AGAIN, &records(1)).unwrap(), 1);
        local.recv(&mut buffer).unwrap();
        let (written, _) = sink.write(AGAIN, &records(10_000)).unwrap_err();
        assert!(written < 10_000, "it stalls");
    }

    /// proves: RFC 7011 8.4
    #[test]
    fn a_collector_gets_templates_again_and_again() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        collector.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut sink = one(&NatLog { ipfix: Some(collector.local_addr().unwrap()), ..config() });
        let minute = TEMPLATES.as_micros() as u64;
        let mut kinds = Vec::new();
        let mut buffer = [0; 2048];
        for (now, count) in [(0, 1), (1, 100), (minute, 0), (minute + 1, 1)] {
            assert_eq!(sink.write(now, &records(count)).unwrap(), usize::from(count));
        }
        collector.set_nonblocking(true).unwrap();
        while let Ok(length) = collector.recv(&mut buffer) {
            assert!(length <= 1400);
            assert_eq!(buffer[12..16], [0, 0, 0, 3], "the observation domain");
            kinds.push(u16::from_be_bytes([buffer[16], buffer[17]]));
        }
        assert_eq!(kinds, [2, 256, 256, 256, 2, 256]);
    }
}
