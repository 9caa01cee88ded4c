//! Records as lines of syslog (RFC 5424), and back. The message is made of words `KEY=VALUE`, so that it can still be read when
//! a syslog server has put another header before it.

use std::net::{SocketAddr, SocketAddrV4};

use sluice_dataplane::nat::EventKind;

use super::{Record, wall};
use crate::config::{protocol_name, protocol_number};

/// Facility local0, severity informational.
const PRIORITY: u8 = 16 * 8 + 6;
/// A sequence number of RFC 5424 7.3.1 begins anew behind this.
const LAST: u32 = 0x7fff_ffff;

/// What the lines of one sender have in common.
#[derive(Clone, Debug)]
pub struct Sender {
    host: String,
    process: u32,
    sequence: u32,
}

/// A line that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A record.
    Record(Record),
    /// The gateway has started, without any block or binding, at this time.
    Started(u64),
}

impl Sender {
    /// This process.
    pub fn this() -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self::new(name.trim(), std::process::id())
    }

    /// A process of a host.
    pub fn new(host: &str, process: u32) -> Self {
        let printable = host.bytes().all(|byte| byte.is_ascii_graphic());
        let host = if host.is_empty() || !printable { "-" } else { host };
        Self { host: host.to_owned(), process, sequence: 0 }
    }

    /// The line for a record, without an end of line.
    pub fn line(&mut self, record: &Record) -> String {
        let name = event_name(record.kind);
        let Record { inside, external, ports: (first, last), .. } = record;
        let message = match record.kind {
            EventKind::BlockAllocated | EventKind::BlockReleased => {
                format!("event={name} inside={inside} external={external} ports={first}-{last}")
            }
            EventKind::BindingCreated | EventKind::BindingReleased => format!(
                "event={name} protocol={} inside={} external={external}:{first}",
                protocol_name(record.protocol),
                SocketAddr::new(*inside, record.inside_port)
            ),
        };
        self.compose(record.at, name, &message)
    }

    /// The line that says that all starts from nothing.
    pub fn started(&mut self, at: u64) -> String {
        self.compose(at, "started", "event=started")
    }

    fn compose(&mut self, at: u64, name: &str, message: &str) -> String {
        self.sequence = if self.sequence >= LAST { 1 } else { self.sequence + 1 };
        format!(
            "<{PRIORITY}>1 {} {} sluice {} {name} [meta sequenceId=\"{}\"] {message}",
            wall::show(at),
            self.host,
            self.process,
            self.sequence
        )
    }
}

fn event_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::BlockAllocated => "block-allocated",
        EventKind::BlockReleased => "block-released",
        EventKind::BindingCreated => "binding-created",
        EventKind::BindingReleased => "binding-released",
    }
}

/// Reads a line back; `None` if it is none of these.
pub fn parse(line: &str) -> Option<Line> {
    let value =
        |key: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let at = line.split_ascii_whitespace().find_map(wall::parse)?;
    let kind = match value("event")? {
        "started" => return Some(Line::Started(at)),
        "block-allocated" => EventKind::BlockAllocated,
        "block-released" => EventKind::BlockReleased,
        "binding-created" => EventKind::BindingCreated,
        "binding-released" => EventKind::BindingReleased,
        _ => return None,
    };
    let (inside, external) = (value("inside")?, value("external")?);
    let record = match kind {
        EventKind::BlockAllocated | EventKind::BlockReleased => {
            let (first, last) = value("ports")?.split_once('-')?;
            Record {
                at,
                kind,
                protocol: 0,
                inside: inside.parse().ok()?,
                inside_port: 0,
                external: external.parse().ok()?,
                ports: (first.parse().ok()?, last.parse().ok()?),
            }
        }
        EventKind::BindingCreated | EventKind::BindingReleased => {
            let inside: SocketAddr = inside.parse().ok()?;
            let external: SocketAddrV4 = external.parse().ok()?;
            let protocol = protocol_number(value("protocol")?)?;
            let ports = (external.port(), external.port());
            let (inside, inside_port, external) = (inside.ip(), inside.port(), *external.ip());
            Record { at, kind, protocol, inside, inside_port, external, ports }
        }
    };
    Some(Line::Record(record))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::export::tests::record;

    /// proves: RFC 6888 REQ-12
    #[test]
    fn lines_are_as_rfc_5424_has_them() {
        let block = Record {
            at: 1_767_225_600_000_007,
            kind: EventKind::BlockAllocated,
            protocol: 0,
            inside: Ipv4Addr::new(100, 64, 0, 7).into(),
            inside_port: 0,
            external: Ipv4Addr::new(203, 0, 113, 1),
            ports: (1024, 1535),
        };
        let mut sender = Sender::new("gw", 42);
        assert_eq!(
            sender.line(&block),
            "<134>1 2026-01-01T00:00:00.000007Z gw sluice 42 block-allocated [meta sequenceId=\"1\"] \
             event=block-allocated inside=100.64.0.7 external=203.0.113.1 ports=1024-1535"
        );
        let binding = Record {
            kind: EventKind::BindingReleased,
            protocol: 17,
            inside_port: 5000,
            ports: (1030, 1030),
            ..block
        };
        assert_eq!(
            sender.line(&binding),
            "<134>1 2026-01-01T00:00:00.000007Z gw sluice 42 binding-released [meta sequenceId=\"2\"] \
             event=binding-released protocol=udp inside=100.64.0.7:5000 external=203.0.113.1:1030"
        );
        let host = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
        let line = sender.line(&Record { inside: host.into(), ..binding });
        assert!(line.ends_with("protocol=udp inside=[2001:db8::7]:5000 external=203.0.113.1:1030"), "{line}");
        assert!(Sender::new("a b", 1).line(&block).contains("Z - sluice 1 "));
    }

    #[test]
    fn a_line_with_another_header_is_read() {
        let line = "2026-01-01T01:00:00+01:00 gw sluice[42]: event=block-released inside=100.64.0.7 \
                    external=203.0.113.1 ports=1024-1535";
        let Some(Line::Record(record)) = parse(line) else { panic!("not read") };
        assert_eq!((record.at, record.kind), (1_767_225_600_000_000, EventKind::BlockReleased));
        assert_eq!(parse("2026-01-01T00:00:00Z gw kernel: event horizon"), None);
        let mut sender = Sender::new("gw", 1);
        assert_eq!(parse(&sender.started(5)), Some(Line::Started(5)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_written_reads_back(record in record()) {
            prop_assert_eq!(parse(&Sender::new("gw", 1).line(&record)), Some(Line::Record(record)));
        }

        #[test]
        fn no_line_panics(line in "\\PC{0,80}", near in "(2026-01-01T00:00:00Z |event=block-allocated |inside=[0-9.:]{0,9} |ports=[0-9-]{0,9} ){0,6}") {
            let _ = (parse(&line), parse(&near));
        }
    }
}
