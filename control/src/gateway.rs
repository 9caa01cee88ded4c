//! `sluice run`: takes the devices into service, starts the workers and the control process (`supervise.rs`), answers what that
//! asks (`link/`), ends in order. This process is the data plane: packets want nothing of the other one.

mod attend;
mod devices;
mod ground;
mod handover;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Instant, SystemTime};

use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sluice_dataplane::arena::{ArenaError, FramePool};
use sluice_dataplane::clock::{Clock, Nanos};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::crossing;
use sluice_dataplane::fib::FibError;
use sluice_dataplane::live::{Habit, Post, Running};
use sluice_dataplane::port::Port;
use sluice_dataplane::port::af_xdp::{AfXdpPort, DeviceControl, OpenError};
use sluice_dataplane::saved::Restored;
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::worker::{Closed, Worker};
use tracing::{info, warn};

use crate::accounting::Accounting;
use crate::api::ApiError;
use crate::config::{self, Poll, Report};
use crate::export::{Collector, wall};
use crate::host::{self, Follower, HostError};
use crate::intake::IntakeError;
use crate::link::{Desk, Greeting};
use crate::lists::Keeper;
use crate::plan::{Plan, TooFewCores};
use crate::reload::{self, Reload, Uplinks};
use crate::routes::{FollowError, RouteFollower, RouteTable, SharedRoutes};
use crate::service::{self, Manager};
use crate::state::{Ends, State};
use crate::supervise::Supervisor;
use crate::upgrade::{self, Stopped, Taken, Taker, Upgraded, own_program};
use crate::uplink::{self, Ledger, Look, UplinkError, UplinkFollower};
use crate::watch::Watch;
use attend::{Gateway, attend};
pub(crate) use devices::check_mtus;
use devices::describe;
use ground::{Ground, Opened};

/// Drivers whose frames may come from a sender on this very machine, with the checksum left to hardware that never sees
/// them.
pub const VIRTUAL_DRIVERS: [&str; 8] =
    ["veth", "virtio_net", "tun", "tap", "bridge", "macvlan", "netkit", "xen_netfront"];

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
    /// No memory for so many routes.
    #[error("kernel-routes: {0}")]
    Routes(FibError),
    /// The kernel's routes.
    #[error("{0}")]
    Follow(#[from] FollowError),
    /// The kernel's addresses.
    #[error("{0}")]
    Uplink(#[from] UplinkError),
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
    /// The address of the metrics.
    #[error(
        "metrics.listen: cannot listen at {address}: {source}; it takes an address that the kernel has, and a free port"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// What another gateway hands over cannot be taken over.
    #[error("{0}")]
    Inherit(String),
    /// Anything else of the system.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A worker ended by itself.
    #[error(
        "worker {0} has died; the lines above say where. Please report it with the configuration and the version"
    )]
    WorkerDied(usize),
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

/// Runs a gateway until SIGTERM or SIGINT, or until another program has taken over. What there is to say goes to the log.
///
/// # Errors
/// See [`RunError`].
pub fn run(path: &Path, socket: Option<PathBuf>) -> Result<Ended, RunError> {
    let ground = |signals| Ok((Ground::fresh(path, socket)?, signals));
    let (ground, signals) = signals().and_then(ground)?;
    run_on(ground, None, signals)
}

/// Takes over from the gateway that has started this process, and runs as [`run`] does.
///
/// # Errors
/// As [`run`]. If it could not take over, the other gateway goes on as it was.
pub fn succeed() -> Result<Ended, RunError> {
    let (taker, given) = Taker::new().map_err(RunError::Inherit)?;
    let ground = signals().and_then(|signals| Ok((Ground::inherited(&taker, given)?, signals)));
    let ended = ground.and_then(|(ground, signals)| run_on(ground, Some(&taker), signals));
    // Once it has been told to go, nobody hears it.
    ended.inspect_err(|error| taker.refuse(&error.to_string()))
}

/// How a gateway has come to its end.
#[derive(Debug)]
pub enum Ended {
    /// In order.
    Stopped,
    /// It goes on in another process, a child of this one.
    Succeeded(Child, Signals),
}

fn signals() -> Result<Signals, RunError> {
    let installed = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    installed.map_err(|source| RunError::System { what: "cannot install signal handlers", source })
}

/// Runs on what there is. A successor says by `taker` when it is ready, and goes on where the workers before have stopped.
fn run_on(ground: Ground, taker: Option<&Taker>, mut signals: Signals) -> Result<Ended, RunError> {
    let system = |what| move |source| RunError::System { what, source };
    let own = own_program();
    let Ground {
        path, config: configured, text, socket, socket_of_config, folder, listener, metrics, ..
    } = ground;
    // Dropped last: devices are set back once they are closed. A successor has neither of them before it is told to go.
    let mut changes = ground.changes;
    let mut place = taker.is_none().then(|| Place(Some(socket.clone())));
    let (plan, mut config) = (ground.plan, configured.clone());

    let mut look = devices::look(&config)?;
    let given = look.as_mut().map(Look::read).transpose()?;
    if let Some(given) = &given {
        given.words(None, &config).iter().for_each(|line| info!("{line}"));
        uplink::put_in(&mut config, given).iter().for_each(|line| warn!("{line}"));
    }
    let hosting = match host::plan(&mut config, &Vec::new())? {
        Some((hosting, lines)) => {
            lines.iter().for_each(|line| info!("{line}"));
            Some(hosting)
        }
        None => None,
    };
    let facts = devices::device_facts(&config)?;
    check_mtus(&config)?;
    let mut snapshot = config::compile(&config, &facts);
    (snapshot.seed, snapshot.generation) = (ground.seed, ground.generation);
    let now = wall::now() / 1_000_000;
    let (mut lists, lines) = Keeper::open(&config, now);
    for (prefix, seconds, note) in taker.iter().flat_map(|taker| taker.offer.blocked.clone()) {
        // The workers are told as soon as they turn. One that cannot be blocked any more is none of this configuration's.
        let _ = lists.add(&prefix, seconds, note, now);
    }
    lines.iter().for_each(|line| warn!("{line}"));
    snapshot.lists = lists.lists();
    let routes = match &config.kernel_routes {
        Some(settings) => {
            let mut table = RouteTable::new(settings, plan.workers.len()).map_err(RunError::Routes)?;
            table.set_file(config::file_routes(&config));
            snapshot.fib = Some(table.fib());
            Some(SharedRoutes::new(table))
        }
        None => None,
    };
    let devices = devices::of_routes(&config, hosting.as_ref());
    let snapshot = Arc::new(snapshot);
    let specs = |frames| devices::port_specs(&config, &facts, &plan, frames);
    let Opened { memory, pools, ports, controls } =
        ground.devices.open(snapshot.sizes.frames, plan.workers.len(), specs)?;
    for control in controls.iter().filter(|_| taker.is_none()) {
        info!(interface = control.name(), "{}", describe(control));
        if let Some(advice) = devices::advice(control) {
            warn!(interface = control.name(), "{advice}");
        }
    }
    // Before the first thread: rights are each thread's own, and threads have those of whom they come from.
    if let Err(error) = service::renounce() {
        warn!("more rights than needed are kept: {error}");
    }
    let mut workers = workers(&snapshot, ports, pools);
    let follower = match hosting {
        Some(hosting) => {
            let tables = controls.iter().filter_map(DeviceControl::host_table).collect();
            let narrowed = hosting.narrowed().clone();
            let mirrors = workers.iter_mut().map(Worker::mirror).collect();
            Some((Follower::start(hosting, tables, mirrors)?, narrowed))
        }
        None => None,
    };
    let adopters = workers.iter_mut().filter_map(Worker::adopter).collect();
    let shown = routes.clone();
    let routes = match routes {
        Some(routes) => {
            let (follower, took) = RouteFollower::start(routes.clone(), devices)?;
            let ([v4, v6], _, _) = routes.lock().totals();
            let took = took.as_millis();
            info!("routes: {v4} of IPv4 and {v6} of IPv6, the kernel's read in {took} ms");
            Some((routes, follower))
        }
        None => None,
    };
    let ledger = look.is_some().then(|| Arc::new(Ledger::new(&uplink::places(&config))));
    let uplinks = match (look, given, &ledger) {
        (Some(look), Some(given), Some(ledger)) => Some(Uplinks {
            follower: UplinkFollower::start(look, given.clone())?,
            given,
            ledger: ledger.clone(),
        }),
        _ => None,
    };
    let reload = Reload::new(reload::Running {
        config: configured,
        facts,
        socket_of_config,
        adopters,
        follower,
        routes,
        uplinks,
    });
    let ends = |worker: &mut Worker| Ends { counters: worker.reader(), inspector: worker.inspector() };
    let ends: Vec<Ends> = workers.iter_mut().map(ends).collect();

    let sources = devices::sources(&config, &mut workers, seed());
    let records =
        config.nat_log.is_some().then(|| workers.iter_mut().map(Worker::nat_events).collect::<Vec<_>>());
    let (clock, taken) = match taker {
        None => (Clock::monotonic(), None),
        Some(taker) => {
            let found = take_over(taker, &mut workers);
            if found.is_err() {
                reload.leave();
            }
            let (clock, stopped, restored, stays) = found?;
            // There is no way back from here.
            changes.own();
            place = Some(Place(Some(socket.clone())));
            service::dies_with_its_parent(stays);
            (clock, Some((stopped, restored)))
        }
    };
    let records = records.map(|readers| Collector::new(readers, clock));
    let habit = if config.workers.poll == Poll::Busy { Habit::Busy } else { Habit::Adaptive };
    let cores = || plan.workers.iter().map(|worker| worker.core);
    let posts = workers.into_iter().zip(cores()).map(|(worker, core)| Post { worker, core }).collect();
    let (running, pinned) =
        Running::start(posts, habit, clock).map_err(system("cannot start the workers' threads"))?;
    let taken = taken.map(|(stopped, restored)| {
        let gap = upgrade::machine_time().saturating_sub(stopped);
        Taken::new(taker.map_or("", Taker::from), gap, &restored)
    });
    taken.iter().for_each(|taken| info!("{}", taken.words()));
    for (worker, core) in cores().enumerate().filter(|(worker, _)| pinned.get(*worker) != Some(&true)) {
        warn!(worker, core, "worker {worker}: core {core} is not ours to use; it runs unpinned");
    }
    keep_off(cores());
    let counters = ends.iter().map(|ends| ends.counters.clone());
    let watch = Watch::new(clock, cores().zip(running.signs().iter().cloned()).zip(counters));
    let state = State::new(snapshot, ends, controls, plan.clone(), watch)
        .with_routes(shown)
        .with_uplinks(ledger)
        .with_lists(lists);
    let statuses = sources.statuses();
    let (accounts, said) = Accounting::open(config.accounting.clone());
    said.iter().for_each(|line| warn!("{line}"));
    let upgrades = taker.map_or(0, |taker| taker.offer.upgrades + 1);
    let upgraded = Upgraded { upgrades, taken, ..Upgraded::default() };
    let state = state.with_exports(statuses.clone()).with_accounting(accounts).with_upgraded(upgraded);
    let state = Arc::new(state);
    let exporters =
        sources.start(&statuses, &state, clock).map_err(system("cannot start the threads of exporters"))?;
    let greeting = Greeting {
        file: path.clone(),
        socket: socket.clone(),
        socket_of_config,
        state: folder,
        text,
        sinks: taker.map_or_else(Vec::new, |taker| taker.offer.greeting.sinks.clone()),
    };
    let (errands, to_do) = mpsc::channel();
    let desk = Arc::new(Desk::new(&state, greeting, records, errands));
    // The old process's control writes down what there is, ahead of ours.
    taker.iter().for_each(|taker| taker.alone());
    let supervisor = Supervisor::start(desk.clone(), listener, metrics, vec![path.into()]);
    let supervisor = supervisor.map_err(system("cannot start the control process"))?;
    let on = on_cores(&plan);
    let ready = format!("ready: {on}; `sluice show counters --socket {}`", socket.display());
    let mut gateway = Gateway {
        running: &running,
        state: &state,
        reload,
        desk,
        supervisor,
        to_do,
        manager: None,
        memory: &memory,
        changes: &changes,
        own: &own,
        pending: None,
    };

    let died = loop {
        let attended = attend(&mut signals, &mut gateway, &ready);
        let Some(mut pending) = gateway.pending.take().filter(|_| matches!(attended, Ok(None))) else {
            break attended.map_err(system("cannot start a thread"));
        };
        // Who was started by systemd is not waited for, as that is told of the other process.
        let stays = !service::is_managed();
        match pending.hand_over(&running, stays) {
            Ok(()) => {
                Manager::succeeded_by(pending.successor.id());
                let Gateway { reload, supervisor, .. } = gateway;
                reload.leave();
                changes.leave();
                place.take().map(Place::keep);
                drop(reload);
                running.leave();
                drop(exporters);
                supervisor.end();
                drop(state);
                return Ok(pending
                    .successor
                    .let_go()
                    .map_or(Ended::Stopped, |child| Ended::Succeeded(child, signals)));
            }
            Err(words) => {
                warn!("not upgraded, and all goes on as it was: {words}");
                state.upgrade_failed(words);
            }
        }
    };
    Manager::stopping();
    let begun = Instant::now();
    drop(place);
    let Gateway { reload, supervisor, .. } = gateway;
    drop(reload);
    let ended = running.stop();
    drop(exporters);
    supervisor.end();
    if let Some(worker) = died?.or(ended.iter().position(Option::is_none)) {
        return Err(RunError::WorkerDied(worker));
    }
    let mut counters = Counters { workers: 0, ..Counters::new(&state.snapshot()) };
    let mut closed = Closed { frames: 0, home: 0 };
    for (own, frames) in ended.into_iter().flatten() {
        counters.merge(own);
        closed.frames += frames.frames;
        closed.home += frames.home;
    }
    let conserved = state.with_kernel(counters).conserved();
    // The devices go with the last hold on the state.
    drop(state);
    changes.take_back().iter().for_each(|line| info!("{line}"));
    let milliseconds = begun.elapsed().as_millis();
    info!(
        "stopped in {milliseconds} ms: {} of {} packet buffers home, conserved: {conserved}",
        closed.home, closed.frames
    );
    if closed.home != closed.frames || !conserved {
        return Err(RunError::Unaccounted { home: closed.home, frames: closed.frames, conserved });
    }
    Ok(Ended::Stopped)
}

/// Says that this process is ready, and has each worker go on where the one of the process before has stopped. Returns a clock that
/// goes on as theirs, when they stopped by the machine's, what was restored, and whether the old process stays.
fn take_over(taker: &Taker, workers: &mut [Worker]) -> Result<(Clock, Nanos, Restored, bool), RunError> {
    taker.ready().map_err(RunError::Inherit)?;
    let Stopped { states, clock, machine } = taker.stopped().map_err(RunError::Inherit)?;
    if states.len() != workers.len() {
        return Err(RunError::Inherit(format!(
            "{} workers write their state, and {} read it",
            states.len(),
            workers.len()
        )));
    }
    let now = clock.now();
    let read = |(worker, state): (&mut Worker, &Vec<u8>)| worker.take_over(state, now);
    // Each on its own, as the packets wait for it.
    let restored = thread::scope(|scope| {
        let readers: Vec<_> =
            workers.iter_mut().zip(&states).map(|both| scope.spawn(move || read(both))).collect();
        let mut sum = Restored::default();
        for reader in readers {
            let restored = reader.join().map_err(|_| "a worker's state cannot be taken over".to_owned())?;
            sum.add(&restored.map_err(|error| error.to_string())?);
        }
        Ok(sum)
    });
    let restored = restored.map_err(RunError::Inherit)?;
    let stays = taker.go().map_err(RunError::Inherit)?;
    Ok((clock, machine, restored, stays))
}

/// The workers, each with its ports and frames, and with its rings to the others.
fn workers(snapshot: &Arc<Snapshot>, ports: Vec<Vec<AfXdpPort>>, pools: Vec<FramePool>) -> Vec<Worker> {
    let worker = |(ports, pool): (Vec<AfXdpPort>, FramePool)| {
        let ports = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
        Worker::new(snapshot.clone(), ports, pool)
    };
    let mut workers: Vec<Worker> = ports.into_iter().zip(pools).map(worker).collect();
    crossing::connect(&mut workers);
    workers
}

/// The calling thread, and all that it starts from now on, leaves the workers' cores alone, if there are others.
fn keep_off(cores: impl Iterator<Item = usize>) {
    let this = Pid::from_raw(0);
    let Ok(mut allowed) = sched_getaffinity(this) else { return };
    for core in cores {
        let _ = allowed.unset(core);
    }
    // With none left the kernel refuses, and all stays as it is.
    let _ = sched_setaffinity(this, &allowed);
}

/// `worker 0 on core 2, worker 1 on core 3`
fn on_cores(plan: &Plan) -> String {
    let workers = plan.workers.iter().enumerate();
    let workers = workers.map(|(worker, plan)| format!("worker {worker} on core {}", plan.core));
    workers.collect::<Vec<_>>().join(", ")
}

/// A control socket's name, which goes with the gateway and stays when control alone ends.
struct Place(Option<PathBuf>);

impl Place {
    /// The name stays.
    fn keep(mut self) -> PathBuf {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.as_ref().map(std::fs::remove_file);
    }
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
