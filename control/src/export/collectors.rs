//! What passes by flows, and samples of packets, on their way from the workers to collectors. A thread for each kind empties the
//! workers' rings; a collector that takes nothing makes them overflow, which the workers count, and delays nobody else.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sluice_dataplane::clock::{Clock, Nanos};
use sluice_dataplane::sample::SampleReader;
use sluice_dataplane::session::FlowReader;
use sluice_dataplane::snapshot::Snapshot;

use super::flows::{FlowExporter, Link, Timed};
use super::outlet::Figures;
use super::sflow::{Agent, FlowSample};
use super::{Statuses, end, wall};
use crate::config::{IpfixExport, SflowExport, Transport};
use crate::state::State;

/// How often the rings are emptied.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a collector over TCP may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries to reach a collector.
const AGAIN: Duration = Duration::from_secs(1);
/// How often templates are sent over UDP.
const TEMPLATES: Duration = Duration::from_secs(60);
/// How often they are sent over UDP to begin with, as a collector that starts as we do may miss the first.
const EARLY: Duration = Duration::from_secs(5);

/// Exporters that run; dropping them sends what is left.
pub struct Collecting {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Collecting {
    fn drop(&mut self) {
        end(&self.stop, &mut self.threads, PATIENCE);
    }
}

/// What is to be exported, before there is anybody who does.
#[derive(Default)]
pub struct Sources {
    /// The configuration of flow export, and the workers' ends.
    pub flows: Option<(IpfixExport, Vec<FlowReader>)>,
    /// The configuration of packet samples, and the workers' ends.
    pub samples: Option<(SflowExport, Vec<SampleReader>)>,
}

impl Sources {
    /// The figures that the exporters will have.
    pub fn statuses(&self) -> Statuses {
        let flows = self.flows.iter().map(|(config, _)| {
            let transport = if config.transport == Transport::Tcp { "tcp" } else { "udp" };
            Arc::new(Figures::named(format!("ipfix {transport} {}", config.collector)))
        });
        let samples = self
            .samples
            .iter()
            .map(|(config, _)| Arc::new(Figures::named(format!("sflow {}", config.collector))));
        Statuses(flows.chain(samples).collect())
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// There is none to be had.
    pub fn start(self, statuses: &Statuses, state: &Arc<State>, clock: Clock) -> io::Result<Collecting> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut collecting = Collecting { stop: stop.clone(), threads: Vec::new() };
        let mut figures = statuses.0.iter().cloned();
        let snapshot = state.snapshot();
        let mut begin = |name: &str, mut work: Box<dyn FnMut() + Send>| {
            let stop = stop.clone();
            let body = move || {
                loop {
                    let ends = stop.load(Relaxed);
                    work();
                    if ends {
                        break;
                    }
                    thread::sleep(PAUSE);
                }
            };
            collecting.threads.push(thread::Builder::new().name(name.into()).spawn(body)?);
            io::Result::Ok(())
        };
        // Of each that is there, in the order of `statuses`.
        let flows = self.flows.map(|source| (source, figures.next().unwrap_or_default()));
        let samples = self.samples.map(|source| (source, figures.next().unwrap_or_default()));
        if let Some(((config, readers), figures)) = flows {
            let mut flows = Flows::new(&config, readers, clock, links(&snapshot), figures);
            begin("sluice-flows", Box::new(move || flows.step()))?;
        }
        if let Some(((config, readers), figures)) = samples {
            let mut samples = Samples::new(&config, readers, Arc::downgrade(state), figures);
            begin("sluice-samples", Box::new(move || samples.step()))?;
        }
        Ok(collecting)
    }
}

fn links(snapshot: &Snapshot) -> Vec<Link> {
    let link = |interface: &sluice_dataplane::snapshot::Interface| Link {
        name: interface.name.clone(),
        header: 14 + 4 * u64::from(interface.tags.count),
    };
    snapshot.interfaces.iter().map(link).collect()
}

/// The way to a collector.
struct Road {
    to: SocketAddr,
    transport: Transport,
    udp: Option<UdpSocket>,
    tcp: Option<TcpStream>,
    tried: Option<Instant>,
}

impl Road {
    fn new(to: SocketAddr, transport: Transport) -> Self {
        Self { to, transport, udp: None, tcp: None, tried: None }
    }

    /// Opens it, if it is not open and was not tried lately. Returns whether it has been opened now.
    fn open(&mut self) -> io::Result<bool> {
        if self.udp.is_some() || self.tcp.is_some() {
            return Ok(false);
        }
        if self.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the collector is not there"));
        }
        self.tried = Some(Instant::now());
        match self.transport {
            Transport::Udp => {
                let any: IpAddr = if self.to.is_ipv4() {
                    Ipv4Addr::UNSPECIFIED.into()
                } else {
                    Ipv6Addr::UNSPECIFIED.into()
                };
                let socket = UdpSocket::bind((any, 0))?;
                socket.set_nonblocking(true)?;
                socket.connect(self.to)?;
                self.udp = Some(socket);
            }
            Transport::Tcp => {
                let stream = TcpStream::connect_timeout(&self.to, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                self.tcp = Some(stream);
            }
        }
        Ok(true)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.open()?;
        if let Some(stream) = &mut self.tcp {
            // A message that was written in part cannot be made good.
            let written = stream.write_all(message);
            if written.is_err() {
                self.tcp = None;
            }
            return written;
        }
        self.udp
            .as_ref()
            .map_or_else(|| Err(io::ErrorKind::NotConnected.into()), |udp| udp.send(message).map(drop))
    }

    /// One's own address on it.
    fn own(&mut self) -> Option<IpAddr> {
        self.open().ok()?;
        Some(self.udp.as_ref()?.local_addr().ok()?.ip())
    }
}

/// Flow records to an IPFIX collector.
struct Flows {
    readers: Vec<FlowReader>,
    clock: Clock,
    exporter: FlowExporter,
    road: Road,
    begun: Instant,
    templates: Option<Instant>,
    figures: Arc<Figures>,
}

impl Flows {
    fn new(
        config: &IpfixExport,
        readers: Vec<FlowReader>,
        clock: Clock,
        links: Vec<Link>,
        figures: Arc<Figures>,
    ) -> Self {
        let (exporter, road) =
            (FlowExporter::new(config.domain, links), Road::new(config.collector, config.transport));
        Self { readers, clock, exporter, road, begun: Instant::now(), templates: None, figures }
    }

    fn step(&mut self) {
        let (wall, now) = (wall::now(), self.clock.now());
        let seconds = (wall / 1_000_000) as u32;
        let time = |at: Nanos| wall.saturating_sub(now.saturating_sub(at) / 1000) / 1000;
        let mut records: Vec<Timed> = Vec::new();
        for reader in &mut self.readers {
            let timed = |record: sluice_dataplane::session::FlowRecord| Timed {
                start: time(record.start),
                end: time(record.end),
                record,
            };
            records.extend(std::iter::from_fn(|| reader.take()).map(timed));
        }
        // Over TCP each connection needs templates of its own, once.
        let opened = self.road.open();
        let every = if self.begun.elapsed() < TEMPLATES { EARLY } else { TEMPLATES };
        let is_old = |sent: Instant| self.road.transport == Transport::Udp && sent.elapsed() >= every;
        if matches!(opened, Ok(true)) || self.templates.is_none_or(is_old) {
            let status = self.figures.read();
            let messages = self.exporter.templates(seconds, status.written, status.lost);
            let sent = messages.iter().try_for_each(|message| self.road.send(message));
            self.templates = sent.is_ok().then(Instant::now).or(self.templates);
            self.figures.look(sent);
        }
        let mut rest = &records[..];
        while !rest.is_empty() {
            let (message, taken) = self.exporter.message(seconds, rest);
            let sent = self.road.send(&message);
            self.figures.count(taken as u64, sent);
            rest = rest.get(taken.max(1)..).unwrap_or_default();
        }
    }
}

/// Samples of packets, and counters of ports, to an sFlow collector.
struct Samples {
    readers: Vec<SampleReader>,
    config: SflowExport,
    agent: Option<Agent>,
    road: Road,
    begun: Instant,
    counters: Option<Instant>,
    state: Weak<State>,
    /// Samples lost, by worker.
    lost: Vec<u64>,
    figures: Arc<Figures>,
}

impl Samples {
    fn new(
        config: &SflowExport,
        readers: Vec<SampleReader>,
        state: Weak<State>,
        figures: Arc<Figures>,
    ) -> Self {
        Self {
            lost: vec![0; readers.len()],
            readers,
            config: config.clone(),
            agent: None,
            road: Road::new(config.collector, Transport::Udp),
            begun: Instant::now(),
            counters: None,
            state,
            figures,
        }
    }

    fn step(&mut self) {
        if self.agent.is_none() {
            let own = self.config.agent.or_else(|| self.road.own());
            self.agent = own.map(|address| Agent::new(address, self.config.sampling));
        }
        let is_due = self.counters.is_none_or(|sent| sent.elapsed() >= self.config.counters);
        let mut taken = Vec::new();
        for (reader, lost) in self.readers.iter_mut().zip(&mut self.lost) {
            taken.extend(std::iter::from_fn(|| reader.take()).inspect(|sample| *lost = sample.lost));
        }
        let (Some(agent), Some(state)) = (&mut self.agent, self.state.upgrade()) else { return };
        if taken.is_empty() && !is_due {
            return;
        }
        let (counts, lost) = (state.counters().ports, self.lost.iter().sum());
        let uptime = self.begun.elapsed().as_millis() as u32;
        let sample = |sample: sluice_dataplane::sample::Sample| {
            let pool = counts.get(usize::from(sample.port)).map_or(0, |count| count.rx.packets);
            FlowSample { sample, pool, lost }
        };
        let samples: Vec<FlowSample> = taken.into_iter().map(sample).collect();
        let mut rest = &samples[..];
        while !rest.is_empty() {
            let (datagram, taken) = agent.flows(uptime, rest);
            let sent = self.road.send(&datagram);
            self.figures.count(taken as u64, sent);
            rest = rest.get(taken.max(1)..).unwrap_or_default();
        }
        if is_due {
            self.counters = Some(Instant::now());
            let drops = |port: usize| {
                let drops = state.devices().get(port).map(|device| device.kernel_drops());
                drops.map_or(0, |drops| drops.rx_dropped + drops.rx_ring_full + drops.fill_ring_empty)
            };
            let ports: Vec<_> =
                counts.iter().enumerate().map(|(port, count)| (*count, drops(port))).collect();
            for datagram in agent.counters(uptime, &ports) {
                let sent = self.road.send(&datagram);
                self.figures.look(sent);
            }
        }
    }
}
