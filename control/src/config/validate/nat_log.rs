//! `[nat.log]`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::config::model::{NatLog, NatRecords, Syslog};
use crate::config::reader::{Table, choice, integer, text};
use crate::config::report::{Sink, quote};
use crate::config::schema;
use crate::config::units::Wrong;

/// Registered for syslog over UDP (RFC 5426).
const SYSLOG_PORT: u16 = 514;
/// Registered for IPFIX (RFC 7011 10.3).
pub(super) const IPFIX_PORT: u16 = 4739;
/// Longest path of a Unix socket.
const LONGEST_PATH: usize = 107;

pub(super) fn read(nat: &Table<'_>, sink: &mut Sink<'_>) -> Option<NatLog> {
    let table = nat.table("log", &schema::NAT_LOG, sink)?;
    let words = [("blocks", NatRecords::Blocks), ("bindings", NatRecords::Bindings)];
    let records = table.one("records", choice(&words), sink);
    let file = table.one("file", text(path), sink);
    let syslog = table.one("syslog", text(syslog), sink);
    let ipfix = table.one("ipfix", text(collector), sink);
    let domain = table.one("domain", integer(0..=u32::MAX), sink);
    if !["file", "syslog", "ipfix"].into_iter().any(|key| table.has(key)) {
        sink.error(&table.span, "[nat.log] says not where to")
            .help("add `file`, `syslog` or `ipfix`, or leave the section out");
    }
    Some(NatLog {
        records: records.map_or_else(NatRecords::default, |at| at.value),
        file: file.map(|at| at.value),
        syslog: syslog.map(|at| at.value),
        ipfix: ipfix.map(|at| at.value),
        domain: domain.map_or(0, |at| at.value),
    })
}

fn path(text: &str) -> Result<PathBuf, Wrong> {
    if !text.starts_with('/') || text.contains('\0') || text.ends_with('/') {
        return Err(Wrong::new(format!("{} is not the absolute path of a file", quote(text)))
            .help("such as \"/var/log/sluice-nat.log\""));
    }
    Ok(PathBuf::from(text))
}

pub(super) fn socket_address(text: &str, port: u16) -> Option<SocketAddr> {
    let address = text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, port));
    text.parse().ok().or(address).filter(|address: &SocketAddr| address.port() > 0)
}

fn syslog(text: &str) -> Result<Syslog, Wrong> {
    const HELP: &str = "such as \"192.0.2.10:514\" for a server, or \"/dev/log\" for the local one";
    if text.starts_with('/') {
        if text.len() > LONGEST_PATH {
            return Err(Wrong::new(format!("the path {} is too long for a socket", quote(text)))
                .help(format!("at most {LONGEST_PATH} bytes")));
        }
        return Ok(Syslog::Unix(PathBuf::from(text)));
    }
    let wrong = || Wrong::new(format!("{} is neither an address nor a path", quote(text))).help(HELP);
    socket_address(text, SYSLOG_PORT).map(Syslog::Udp).ok_or_else(wrong)
}

fn collector(text: &str) -> Result<SocketAddr, Wrong> {
    let wrong = || Wrong::new(format!("{} is not an address with a port", quote(text)));
    socket_address(text, IPFIX_PORT).ok_or_else(|| wrong().help("such as \"192.0.2.10:4739\""))
}
