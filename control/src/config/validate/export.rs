//! `[export]`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::nat_log::{IPFIX_PORT, socket_address};
use crate::config::model::{Export, IpfixExport, SflowExport, Transport};
use crate::config::reader::{At, Table, choice, integer, text};
use crate::config::report::{Sink, quote};
use crate::config::schema;
use crate::config::units::{self, Wrong};

/// Registered for sFlow.
const SFLOW_PORT: u16 = 6343;
/// Least time between two reports of a session.
const SHORTEST: Duration = Duration::from_secs(1);

pub(super) fn read(file: &Table<'_>, sink: &mut Sink<'_>) -> Export {
    let Some(table) = file.table("export", &schema::EXPORT, sink) else { return Export::default() };
    Export { ipfix: ipfix(&table, sink), sflow: sflow(&table, sink) }
}

fn ipfix(export: &Table<'_>, sink: &mut Sink<'_>) -> Option<IpfixExport> {
    let table = export.table("ipfix", &schema::EXPORT_IPFIX, sink)?;
    let at = |text: &str| collector(text, IPFIX_PORT);
    let collector = table.required("collector", "\"192.0.2.10:4739\"", text(at), sink);
    let words = [("udp", Transport::Udp), ("tcp", Transport::Tcp)];
    let transport = table.one("transport", choice(&words), sink);
    let domain = table.one("domain", integer(0..=u32::MAX), sink);
    let active = table.one("active-timeout", text(timeout), sink);
    let idle = table.one("idle-timeout", text(timeout), sink);
    Some(IpfixExport {
        collector: collector?.value,
        transport: transport.map_or_else(Transport::default, |at| at.value),
        domain: domain.map_or(0, |at| at.value),
        active_timeout: active.map_or(Duration::from_secs(60), |at: At<Duration>| at.value),
        idle_timeout: idle.map_or(Duration::from_secs(15), |at: At<Duration>| at.value),
    })
}

fn sflow(export: &Table<'_>, sink: &mut Sink<'_>) -> Option<SflowExport> {
    let table = export.table("sflow", &schema::EXPORT_SFLOW, sink)?;
    let at = |text: &str| collector(text, SFLOW_PORT);
    let collector = table.required("collector", "\"192.0.2.10:6343\"", text(at), sink);
    let agent = table.one("agent", text(address), sink);
    let sampling = table.one("sampling", integer(1..=1 << 24), sink);
    let counters = table.one("counters", text(timeout), sink);
    Some(SflowExport {
        collector: collector?.value,
        agent: agent.map(|at| at.value),
        sampling: sampling.map_or(1000, |at| at.value),
        counters: counters.map_or(Duration::from_secs(20), |at: At<Duration>| at.value),
    })
}

fn collector(text: &str, port: u16) -> Result<SocketAddr, Wrong> {
    socket_address(text, port).ok_or_else(|| {
        Wrong::new(format!("{} is not an address with a port", quote(text)))
            .help(format!("such as \"192.0.2.10:{port}\""))
    })
}

fn address(text: &str) -> Result<IpAddr, Wrong> {
    text.parse()
        .map_err(|_| Wrong::new(format!("{} is not an address", quote(text))).help("such as \"192.0.2.1\""))
}

fn timeout(text: &str) -> Result<Duration, Wrong> {
    let time = units::duration(text)?;
    if time < SHORTEST {
        return Err(Wrong::new(format!("{} is too short", quote(text))).help("at least \"1s\""));
    }
    Ok(time)
}
