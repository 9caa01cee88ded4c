//! What is told to others. The log of NAT: what the workers record of blocks and bindings, handed on to a file, to syslog and to an IPFIX collector.
//!
//! The data plane empties the workers' rings into a bounded queue (`collect.rs`). A thread of control fetches from it, and hands
//! what there is to a thread for each sink (`outlet.rs`). No sink is waited for: what one does not take at once is lost to it, and
//! counted; one that hangs, in a write to a dead disk, holds up no other. If nobody fetches, the queue fills and then the rings,
//! and the workers count what is lost.
//!
//! What passes by flows, and samples of packets, go to collectors from threads of the data plane (`collectors.rs`).

mod collect;
pub mod collectors;
mod flows;
pub mod ipfix;
mod outlet;
mod sflow;
mod sink;
pub mod syslog;
pub mod wall;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sluice_dataplane::nat::{Event, EventKind};

pub use self::collect::{Batch, Collector};
use self::outlet::{Figures, Outlet};
use self::sink::sinks;
use crate::config::NatLog;

/// How often it is asked for records when there were none.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the end of the process waits for the last records to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// What has become of a block or a binding, in the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, in microseconds since 1970-01-01T00:00:00Z.
    pub at: u64,
    /// What.
    #[serde(with = "Kind")]
    pub kind: EventKind,
    /// IP protocol of a binding; 0 for a block, which is for all.
    pub protocol: u8,
    /// Inside address, with NAT64 of IPv6.
    pub inside: IpAddr,
    /// Inside port or echo identifier of a binding.
    pub inside_port: u16,
    /// External address.
    pub external: Ipv4Addr,
    /// First and last external port; a binding's are the same.
    pub ports: (u16, u16),
}

/// [`EventKind`] as it goes over the link.
#[derive(Serialize, Deserialize)]
#[serde(remote = "EventKind")]
enum Kind {
    BlockAllocated,
    BlockReleased,
    BindingCreated,
    BindingReleased,
}

impl Record {
    /// Of an event that was `ago` nanoseconds before the time `now`.
    fn new(event: &Event, now: u64, ago: u64) -> Self {
        let Event { kind, protocol, inside, inside_port, external, ports, .. } = *event;
        Self { at: now.saturating_sub(ago / 1000), kind, protocol, inside, inside_port, external, ports }
    }
}

/// How one sink does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Which it is, and where.
    pub sink: String,
    /// Records that it took.
    pub written: u64,
    /// Records that it did not take.
    pub lost: u64,
    /// What went wrong last.
    pub error: Option<String>,
}

/// The figures of all sinks.
#[derive(Clone, Debug, Default)]
pub struct Statuses(Vec<Arc<Figures>>);

impl Statuses {
    /// As they are now.
    pub fn read(&self) -> Vec<SinkStatus> {
        self.0.iter().map(|figures| figures.read()).collect()
    }
}

/// A log that is kept; dropping it writes what is left.
pub struct Logger {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Logger {
    /// Keeps the log of what `source` gives. It is asked again at once while it gives something, otherwise every 20 ms; what it
    /// gets is how the sinks do. Their figures go on from `before`.
    ///
    /// # Errors
    /// There is no thread to be had. A sink that cannot be opened is tried again later.
    pub fn start(
        config: &NatLog,
        before: &[SinkStatus],
        mut source: impl FnMut(&[SinkStatus]) -> Vec<Record> + Send + 'static,
    ) -> std::io::Result<(Self, Statuses)> {
        let opened: Vec<(Outlet, JoinHandle<()>)> =
            sinks(config).into_iter().map(|sink| Outlet::open(sink, before)).collect::<Result<_, _>>()?;
        let (outlets, mut threads): (Vec<Outlet>, Vec<JoinHandle<()>>) = opened.into_iter().unzip();
        let statuses = Statuses(outlets.iter().map(Outlet::figures).collect());
        let (stop, reported) = (Arc::new(AtomicBool::new(false)), statuses.clone());
        let stopped = stop.clone();
        let body = move || {
            loop {
                let ends = stopped.load(Relaxed);
                let records: Arc<[Record]> = source(&reported.read()).into();
                if !records.is_empty() {
                    outlets.iter().for_each(|outlet| outlet.hand(&records));
                } else if ends {
                    break;
                } else {
                    thread::sleep(PAUSE);
                }
            }
        };
        // The sinks' threads end once this one has.
        threads.push(thread::Builder::new().name("sluice-nat-log".into()).spawn(body)?);
        Ok((Self { stop, threads }, statuses))
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        end(&self.stop, &mut self.threads, PATIENCE);
    }
}

/// Has threads come to an end. One that hangs in a write or a connection ends with the process.
fn end(stop: &AtomicBool, threads: &mut Vec<JoinHandle<()>>, patience: Duration) {
    stop.store(true, Relaxed);
    let begun = Instant::now();
    while !threads.iter().all(JoinHandle::is_finished) && begun.elapsed() < patience {
        thread::sleep(Duration::from_millis(1));
    }
    for thread in threads.drain(..).filter(JoinHandle::is_finished) {
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    /// Any record that a worker makes.
    pub(super) fn record() -> impl Strategy<Value = Record> {
        let kind = prop_oneof![
            Just(EventKind::BlockAllocated),
            Just(EventKind::BlockReleased),
            Just(EventKind::BindingCreated),
            Just(EventKind::BindingReleased)
        ];
        let protocol = prop_oneof![Just(1u8), Just(6), Just(17)];
        let ends = (any::<u32>(), any::<u16>(), any::<u32>(), any::<(u16, u16)>());
        let host = proptest::option::of(any::<u128>());
        (0..1u64 << 52, kind, protocol, ends, host).prop_map(
            |(at, kind, protocol, (inside, inside_port, external, (a, b)), host)| {
                let is_block = matches!(kind, EventKind::BlockAllocated | EventKind::BlockReleased);
                Record {
                    at,
                    kind,
                    protocol: if is_block { 0 } else { protocol },
                    inside: match host {
                        Some(host) => Ipv6Addr::from_bits(host).into(),
                        None => Ipv4Addr::from_bits(inside).into(),
                    },
                    inside_port: if is_block { 0 } else { inside_port },
                    external: Ipv4Addr::from_bits(external),
                    ports: if is_block { (a.min(b), a.max(b)) } else { (a, a) },
                }
            },
        )
    }
}
