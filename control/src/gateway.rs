//! `sluice run`: takes the devices into service, starts the worker, answers questions, ends in order.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sluice_dataplane::arena::{ArenaError, FramePool, Pages};
use sluice_dataplane::live::{Habit, Running};
use sluice_dataplane::port::Port;
use sluice_dataplane::port::af_xdp::{
    self, AttachedMode, BusyPoll, DeviceChange, DeviceControl, KernelMatch, OpenError, PortSpec, XdpMode,
};
use sluice_dataplane::worker::Worker;
use sluice_pkt::ethernet::Mac;

use crate::api::{self, ApiError};
use crate::config::{self, Config, Device, DeviceFacts, Host, KernelFilter, Link, Poll, Report, Workers};
use crate::device::machine::Machine;
use crate::host::{self, Follower, HostError};
use crate::intake::{self, Intake, IntakeError};
use crate::plan::{self, TooFewCores};
use crate::state::State;

/// Drivers whose frames may come from a sender on this very machine, with the checksum left to hardware that never sees
/// them.
pub const VIRTUAL_DRIVERS: [&str; 8] =
    ["veth", "virtio_net", "tun", "tap", "bridge", "macvlan", "netkit", "xen_netfront"];

/// How often devices are looked at.
const TEND: Duration = Duration::from_millis(250);

/// Why the gateway could not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(#[from] Report),
    /// A device cannot be taken into service.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// A device must not be taken, or is not fit.
    #[error("{0}")]
    Intake(#[from] IntakeError),
    /// The kernel cannot answer for the box's addresses.
    #[error("{0}")]
    Host(#[from] HostError),
    /// There are not enough cores.
    #[error("{0}")]
    Plan(#[from] TooFewCores),
    /// A device cannot be asked for its properties.
    #[error(
        "{device}: cannot read the device's properties: {source}; `ip link show {device}` tells whether it is there"
    )]
    Facts {
        /// The device.
        device: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The device carries less than the configuration says.
    #[error(
        "interfaces.{interface}: mtu = {configured}, but the device {device} has {actual}; \
         `ip link set dev {device} mtu {configured}`, or write mtu = {actual}"
    )]
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU in the configuration.
        configured: u16,
        /// Its device.
        device: String,
        /// The device's MTU.
        actual: u32,
    },
    /// No memory.
    #[error("{0}")]
    Memory(#[from] ArenaError),
    /// The control socket.
    #[error("{0}")]
    Api(#[from] ApiError),
    /// Anything else of the system.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The worker ended by itself.
    #[error(
        "the worker has died; the lines above say where. Please report it with the configuration and the version"
    )]
    WorkerDied,
    /// Frames are missing at the end.
    #[error(
        "at the end {home} of {frames} packet buffers were accounted for, and conservation was {conserved}"
    )]
    Unaccounted {
        /// Buffers that came home.
        home: u32,
        /// Buffers in all.
        frames: u32,
        /// Whether every packet is accounted for.
        conserved: bool,
    },
}

/// Runs a gateway until SIGTERM or SIGINT. What there is to say goes to `log`, a line each.
pub fn run(path: &Path, socket: Option<PathBuf>, log: &mut dyn Write) -> Result<(), RunError> {
    let (mut config, warnings) = config::load(path)?;
    for warning in warnings {
        say(log, format_args!("{warning}"));
    }
    let system = |what| move |source| RunError::System { what, source };
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(system("cannot install signal handlers"))?;
    let socket = socket.unwrap_or_else(|| config.control_socket.clone());
    // Bound before any device is touched: a second gateway with the same socket changes nothing.
    let listener = api::listen(&socket)?;

    // Dropped last: devices are set back once they are closed.
    let Intake { mut changes, queues, lines } = intake::admit(&config)?;
    lines.iter().for_each(|line| say(log, format_args!("{line}")));
    let plan = plan::plan(&config.workers, &queues, &Machine::read().cores)?;
    if plan.idle() > 0 {
        let (idle, all) = (plan.idle(), plan.workers.len());
        say(
            log,
            format_args!(
                "workers: {idle} of {all} have no queue to receive from; more `channels` would give them some"
            ),
        );
    }

    let hosting = match host::plan(&mut config)? {
        Some((hosting, lines)) => {
            lines.iter().for_each(|line| say(log, format_args!("{line}")));
            Some(hosting)
        }
        None => None,
    };
    let facts = device_facts(&config)?;
    check_mtus(&config)?;
    let mut snapshot = config::compile(&config, &facts);
    snapshot.seed = seed();
    let snapshot = Arc::new(snapshot);
    let mut pool = FramePool::new(snapshot.sizes.frames, false)?;
    if pool.pages() == Pages::Ordinary {
        say(
            log,
            format_args!(
                "packet memory: no huge pages free; it runs on ordinary pages, at some 8 cycles a packet"
            ),
        );
    }
    let specs = port_specs(&config, &facts, pool.count());
    let (ports, controls) = af_xdp::open(&mut pool, &specs)?;
    for control in &controls {
        say(log, format_args!("{}", describe(control)));
        let info = control.info();
        if info.mode == AttachedMode::Generic && VIRTUAL_DRIVERS.contains(&info.driver.as_str()) {
            say(
                log,
                format_args!(
                    "{}: in generic mode local senders keep their segmentation offload, and their frames of up to 64 kB are \
                     dropped; `ethtool -K PEER tso off gso off` at the other end, or native mode, avoids that",
                    info.device
                ),
            );
        }
    }
    let ports = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
    let mut worker = Worker::new(snapshot.clone(), ports, pool);
    let follower = match hosting {
        Some(hosting) => {
            let tables = controls.iter().filter_map(DeviceControl::host_table).collect();
            Some(Follower::start(hosting, tables, worker.mirror())?)
        }
        None => None,
    };
    let state = Arc::new(State::new(snapshot, worker.reader(), worker.inspector(), controls, plan.clone()));

    let core = plan.workers.first().map_or(0, |worker| worker.core);
    let habit = if config.workers.poll == Poll::Busy { Habit::Busy } else { Habit::Adaptive };
    let (running, pinned) =
        Running::start(worker, core, habit).map_err(system("cannot start the worker's thread"))?;
    if !pinned {
        say(log, format_args!("worker 0: core {core} is not ours to use; it runs unpinned"));
    }
    let server = api::serve(listener, &socket, state.clone())?;
    say(
        log,
        format_args!("ready: worker 0 on core {core}; `sluice show counters --socket {}`", socket.display()),
    );

    let died = wait_for_end(&mut signals, &running, state.devices(), log);
    let begun = Instant::now();
    drop((server, follower));
    let Some((counters, closed)) = running.stop() else { return Err(RunError::WorkerDied) };
    if died {
        return Err(RunError::WorkerDied);
    }
    let conserved = state.with_kernel(counters).conserved();
    // The devices go with the last hold on the state.
    drop(state);
    changes.take_back().iter().for_each(|line| say(log, format_args!("{line}")));
    let milliseconds = begun.elapsed().as_millis();
    say(
        log,
        format_args!(
            "stopped in {milliseconds} ms: {} of {} packet buffers home, conserved: {conserved}",
            closed.home, closed.frames
        ),
    );
    if closed.home != closed.frames || !conserved {
        return Err(RunError::Unaccounted { home: closed.home, frames: closed.frames, conserved });
    }
    Ok(())
}

fn say(log: &mut dyn Write, line: std::fmt::Arguments<'_>) {
    // A log that is gone (a closed pipe) is no reason to stop forwarding.
    let _ = writeln!(log, "{line}").and_then(|()| log.flush());
}

/// Waits for a signal to end, and looks after the devices. True if the worker ended first.
fn wait_for_end(
    signals: &mut Signals,
    running: &Running,
    devices: &[DeviceControl],
    log: &mut dyn Write,
) -> bool {
    let mut tended = Instant::now();
    loop {
        for signal in signals.pending() {
            if signal != SIGHUP {
                return false;
            }
            say(
                log,
                format_args!("SIGHUP: this version does not reload; restart to change the configuration"),
            );
        }
        if running.is_finished() {
            return true;
        }
        if tended.elapsed() >= TEND {
            devices.iter().for_each(|device| tend(device, log));
            tended = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn tend(device: &DeviceControl, log: &mut dyn Write) {
    let name = device.name();
    match device.tend() {
        Some(DeviceChange::Gone) => {
            let device = device.info().device;
            say(log, format_args!("{name}: the device {device} is gone; the port goes on when it is back"));
        }
        Some(DeviceChange::Back(_)) => say(log, format_args!("{}, back again", describe(device))),
        Some(DeviceChange::Failed(reason)) => {
            say(log, format_args!("{name}: it is back, but not in service: {reason}; it is tried again"));
        }
        None => {}
    }
}

fn devices(config: &Config) -> impl Iterator<Item = (&str, &Device)> {
    config.interfaces.iter().filter_map(|interface| match &interface.link {
        Link::Device(device) => Some((interface.name.as_str(), device)),
        Link::Vlan { .. } => None,
    })
}

fn device_facts(config: &Config) -> Result<Vec<DeviceFacts>, RunError> {
    let facts = devices(config).map(|(_, device)| match af_xdp::device_facts(&device.device) {
        Ok(facts) => Ok(DeviceFacts {
            mac: Mac(facts.mac),
            virtual_link: VIRTUAL_DRIVERS.contains(&facts.driver.as_str()),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(OpenError::NoDevice(device.device.clone()).into())
        }
        Err(source) => Err(RunError::Facts { device: device.device.clone(), source }),
    });
    facts.collect()
}

/// A packet that is longer than the device's MTU would be lost without a word.
fn check_mtus(config: &Config) -> Result<(), RunError> {
    for (index, interface) in config.interfaces.iter().enumerate() {
        let Some(device) = config.device(index) else { continue };
        let Ok(facts) = af_xdp::device_facts(device) else { continue };
        if facts.mtu < u32::from(interface.mtu) {
            return Err(RunError::Mtu {
                interface: interface.name.clone(),
                configured: interface.mtu,
                device: device.into(),
                actual: facts.mtu,
            });
        }
    }
    Ok(())
}

/// Each queue's rings get a share of the frames, where the configuration does not size them; a quarter stays free for
/// packets on their way.
fn port_specs(config: &Config, facts: &[DeviceFacts], frames: u32) -> Vec<PortSpec> {
    let queues = |device: &Device| af_xdp::device_facts(&device.device).map_or(1, |facts| facts.queues);
    let rings: u32 = devices(config).map(|(_, device)| queues(device) + 1).sum();
    let share = frames / 4 * 3 / rings.max(1);
    let ring = if share == 0 { 64 } else { (1 << share.ilog2()).clamp(64, 2048) };
    let Workers { batch, busy_poll, busy_poll_budget: budget, .. } = config.workers;
    let spec = |((name, device), facts): ((&str, &Device), &DeviceFacts)| PortSpec {
        name: name.into(),
        device: device.device.clone(),
        mode: match device.xdp {
            config::XdpMode::Auto => XdpMode::Auto,
            config::XdpMode::ZeroCopy => XdpMode::ZeroCopy,
            config::XdpMode::Native => XdpMode::Native,
            config::XdpMode::Generic => XdpMode::Generic,
        },
        kernel: device.kernel.iter().map(kernel_match).collect(),
        mac: Some(device.mac.unwrap_or(facts.mac.0)),
        replace: device.xdp_replace,
        owners: Vec::new(),
        rx_ring: device.rx_ring.unwrap_or(ring),
        tx_ring: device.tx_ring.unwrap_or(ring),
        batch,
        busy_poll: (busy_poll != 0).then_some(BusyPoll { microseconds: busy_poll, budget }),
        apart: false,
        host_is_kernel: device.host == Host::Kernel,
    };
    devices(config).zip(facts).map(spec).collect()
}

fn kernel_match(filter: &KernelFilter) -> KernelMatch {
    match *filter {
        KernelFilter::EtherType(ethertype) => KernelMatch::EtherType(ethertype),
        KernelFilter::Protocol(protocol) => KernelMatch::Protocol { protocol, port: None },
        KernelFilter::Tcp(port) => KernelMatch::Protocol { protocol: config::TCP, port: Some(port) },
        KernelFilter::Udp(port) => KernelMatch::Protocol { protocol: config::UDP, port: Some(port) },
        KernelFilter::Stp => KernelMatch::EtherType(af_xdp::LLC),
    }
}

fn describe(control: &DeviceControl) -> String {
    let info = control.info();
    let plural = if info.queues == 1 { "" } else { "s" };
    let mut text = format!(
        "{}: {} ({}), {} XDP, group {}, {} queue{plural}, MTU {}",
        control.name(),
        info.device,
        info.driver,
        info.achieved(),
        info.group,
        info.queues,
        info.mtu
    );
    if let Some(fallback) = &info.fallback {
        text.push_str(&format!(" ({fallback})"));
    }
    text
}

/// Secret, and another one at each start: table positions and ports cannot be foreseen.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    let read =
        std::fs::File::open("/dev/urandom").and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes));
    match read {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64),
    }
}
