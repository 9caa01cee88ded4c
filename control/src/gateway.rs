//! `sluice run`: takes the devices into service, starts the workers and the control process (`supervise.rs`), answers what that
//! asks (`link/`), ends in order. This process is the data plane: packets want nothing of the other one.

mod devices;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sluice_dataplane::arena::{ArenaError, FramePool, Pages};
use sluice_dataplane::clock::{Clock, Nanos, SECOND};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::crossing;
use sluice_dataplane::fib::FibError;
use sluice_dataplane::live::{Habit, Post, Running};
use sluice_dataplane::port::Port;
use sluice_dataplane::port::af_xdp::{self, AfXdpPort, DeviceChange, DeviceControl, OpenError};
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::verdict::DropReason;
use sluice_dataplane::worker::{Closed, Worker};
use tracing::{info, warn};

use crate::accounting::{self, Accounting};
use crate::alarm::Alarm;
use crate::api::{self, ApiError};
use crate::commit::{self, Store};
use crate::config::{self, Poll, Report};
use crate::device::machine::Machine;
use crate::diff::Loaded;
use crate::export::{Collector, SinkStatus, wall};
use crate::host::{self, Follower, HostError};
use crate::intake::{self, Intake, IntakeError};
use crate::link::{Desk, Errand, Greeting};
use crate::lists::Keeper;
use crate::log;
use crate::plan::{self, Plan, TooFewCores};
use crate::reload::{self, News, Reload, Uplinks};
use crate::routes::{FollowError, RouteFollower, RouteTable, SharedRoutes};
use crate::service::{self, Manager};
use crate::state::{Ends, State};
use crate::supervise::Supervisor;
use crate::uplink::{self, Ledger, Look, UplinkError, UplinkFollower};
use crate::watch::Watch;
pub(crate) use devices::check_mtus;
use devices::describe;

/// Drivers whose frames may come from a sender on this very machine, with the checksum left to hardware that never sees
/// them.
pub const VIRTUAL_DRIVERS: [&str; 8] =
    ["veth", "virtio_net", "tun", "tap", "bridge", "macvlan", "netkit", "xen_netfront"];

/// How often devices are looked at.
const TEND: Duration = Duration::from_millis(250);
/// How often signals and workers are looked at: a worker that stalls is to be noticed within 100 ms.
const LOOK: Duration = Duration::from_millis(20);

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

/// Runs a gateway until SIGTERM or SIGINT. What there is to say goes to the log.
pub fn run(path: &Path, socket: Option<PathBuf>) -> Result<(), RunError> {
    let (mut loaded, mut warnings) = Loaded::read(path)?;
    log::set(loaded.config.log);
    log::start("data plane");
    let system = |what| move |source| RunError::System { what, source };
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(system("cannot install signal handlers"))?;
    let socket_of_config = socket.is_none();
    // Another gateway's socket is another gateway's state.
    let folder = socket.as_ref().map(|socket| PathBuf::from(format!("{}.state", socket.display())));
    let folder = folder.unwrap_or_else(|| loaded.config.state.clone());
    // Bound before any state or device is touched: a second gateway with the same socket changes nothing. What may run
    // instead of the file has the same socket, as a commit that wants another is refused.
    let socket = socket.unwrap_or_else(|| loaded.config.control_socket.clone());
    let listener = api::listen(&socket, &loaded.config.control_access)?;
    let place = Place(socket.clone());
    let mut store = Store::open(&folder);
    let start = commit::at_start(&mut store, path, &loaded.text, commit::seconds());
    if let Some((name, text)) = start.instead {
        (loaded, warnings) = Loaded::new(&name, &text)?;
        log::set(loaded.config.log);
    }
    start.lines.iter().for_each(|line| warn!("{line}"));
    let Loaded { config: configured, text, .. } = loaded;
    // Control keeps it from here on.
    drop(store);
    warnings.iter().for_each(|warning| warn!("{warning}"));
    let mut config = configured.clone();
    let metrics = config
        .metrics
        .map(|address| TcpListener::bind(address).map_err(|source| RunError::Metrics { address, source }));
    let metrics = metrics.transpose()?;

    // Dropped last: devices are set back once they are closed.
    let Intake { mut changes, queues, lines } = intake::admit(&config)?;
    lines.iter().for_each(|line| info!("{line}"));
    let plan = plan::plan(&config.workers, &queues, &Machine::read().cores)?;
    if plan.idle() > 0 {
        let (idle, all) = (plan.idle(), plan.workers.len());
        warn!("workers: {idle} of {all} have no queue to receive from; more `channels` would give them some");
    }

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
    snapshot.seed = seed();
    let (lists, lines) = Keeper::open(&config, wall::now() / 1_000_000);
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
    let pool = FramePool::new(snapshot.sizes.frames, false)?;
    if pool.pages() == Pages::Ordinary {
        warn!(
            "packet memory: no huge pages free, and the kernel gives none; it runs on ordinary pages, at some 8 cycles a packet"
        );
    }
    let mut pools = pool.split(plan.workers.len());
    let frames = pools.iter().map(FramePool::count).min().unwrap_or(0);
    let specs = devices::port_specs(&config, &facts, &plan, frames);
    let (ports, controls) = af_xdp::open_for(&mut pools, &specs)?;
    for control in &controls {
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
    let clock = Clock::monotonic();
    let records =
        config.nat_log.is_some().then(|| workers.iter_mut().map(Worker::nat_events).collect::<Vec<_>>());
    let records = records.map(|readers| Collector::new(readers, clock));
    let habit = if config.workers.poll == Poll::Busy { Habit::Busy } else { Habit::Adaptive };
    let cores = || plan.workers.iter().map(|worker| worker.core);
    let posts = workers.into_iter().zip(cores()).map(|(worker, core)| Post { worker, core }).collect();
    let (running, pinned) =
        Running::start(posts, habit, clock).map_err(system("cannot start the workers' threads"))?;
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
    let state = Arc::new(state.with_exports(statuses.clone()).with_accounting(accounts));
    let exporters =
        sources.start(&statuses, &state, clock).map_err(system("cannot start the threads of exporters"))?;
    let greeting = Greeting {
        file: path.to_owned(),
        socket: socket.clone(),
        socket_of_config,
        state: folder,
        text,
        ..Greeting::default()
    };
    let (errands, to_do) = mpsc::channel();
    let desk = Arc::new(Desk::new(&state, greeting, records, errands));
    let supervisor = Supervisor::start(desk.clone(), listener, metrics, vec![path.into()]);
    let supervisor = supervisor.map_err(system("cannot start the control process"))?;
    let on = on_cores(&plan);
    let ready = format!("ready: {on}; `sluice show counters --socket {}`", socket.display());
    let mut gateway =
        Gateway { running: &running, state: &state, reload, desk, supervisor, to_do, manager: None };

    let died = attend(&mut signals, &mut gateway, &ready).map_err(system("cannot start a thread"));
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
    Ok(())
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
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What is looked after while it runs.
struct Gateway<'a> {
    running: &'a Running,
    state: &'a State,
    reload: Reload,
    desk: Arc<Desk>,
    supervisor: Supervisor,
    to_do: Receiver<Errand>,
    /// Once the gateway is ready.
    manager: Option<Manager>,
}

impl Gateway<'_> {
    /// Does what control asks for. Returns whether the gateway is to end.
    fn run_errands(&mut self) -> bool {
        for errand in self.to_do.try_iter() {
            match errand {
                Errand::Adopt { name, text, loaded, reply } => self.reload.request(name, text, loaded, reply),
                Errand::TryOut { name, text, reply } => {
                    // Who asked may be gone.
                    let _ = reply.try_send(self.reload.try_out(&name, &text, self.state));
                }
                Errand::Stop => return true,
            }
        }
        false
    }

    /// Goes on with a reload. Control says what came of it.
    /// What it says is of the kernel's addresses.
    fn go_on(&mut self) -> Vec<String> {
        match self.reload.go_on(self.state) {
            Some(News::Adopted(text)) => self.desk.adopted(text),
            Some(News::Settled(outcome)) => self.desk.settled(outcome),
            Some(News::Readdressed(lines)) => return lines,
            Some(News::SettledAddresses(outcome)) => return vec![outcome.words("the kernel's addresses")],
            None => {}
        }
        Vec::new()
    }
}

/// Waits for a signal to end, and looks after devices, workers and control. Says `ready` when control serves for the first time.
/// Returns a worker that ended first.
fn attend(signals: &mut Signals, gateway: &mut Gateway<'_>, ready: &str) -> io::Result<Option<usize>> {
    let state = gateway.state;
    let ends = AtomicBool::new(false);
    let (tell, told) = mpsc::channel();
    // On a thread of its own, as a device that comes back takes its time.
    let tending = || {
        while !ends.load(Ordering::Relaxed) {
            let lines = state.devices().iter().filter_map(tend);
            lines.for_each(|line| drop(tell.send(line)));
            thread::park_timeout(TEND);
        }
    };
    let told_of_accounts = tell.clone();
    let accounting = || {
        let mut last = None;
        while !ends.load(Ordering::Relaxed) {
            let (now, due) = accounting_turn(state, &mut last);
            let line = due.then(|| state.accounting().save(now, false)).flatten();
            line.into_iter().for_each(|line| drop(told_of_accounts.send(line)));
            state.end_lonely_capture();
            state.collect_traces();
            thread::park_timeout(TEND);
        }
        let now = wall::now() / 1_000_000;
        state.account(now);
        // Said by the next start, which finds what there is.
        state.accounting().save(now, true);
    };
    let told_of_lists = tell.clone();
    let (change, changed) = mpsc::channel();
    let listing = || {
        while !ends.load(Ordering::Relaxed) {
            let (lists, lines) = state.lists().look(wall::now() / 1_000_000);
            lines.into_iter().for_each(|line| drop(told_of_lists.send(line)));
            if lists.is_some() {
                let _ = change.send(());
            }
            thread::park_timeout(TEND);
        }
    };
    let (mut alarm, mut counted) = (Alarm::default(), 0);
    thread::scope(|scope| {
        let tender = thread::Builder::new().name("sluice-devices".into()).spawn_scoped(scope, tending)?;
        let accountant =
            thread::Builder::new().name("sluice-accounts".into()).spawn_scoped(scope, accounting)?;
        let lister = thread::Builder::new().name("sluice-lists".into()).spawn_scoped(scope, listing)?;
        let died = loop {
            changed.try_iter().for_each(|()| gateway.reload.take_lists());
            let mut wants_end = gateway.run_errands();
            for signal in signals.pending() {
                wants_end |= signal != SIGHUP;
                if signal == SIGHUP {
                    gateway.desk.hang_up();
                }
            }
            gateway.desk.collect();
            gateway.go_on().iter().for_each(|line| info!("{line}"));
            let died = gateway.running.finished();
            if wants_end || died.is_some() {
                break died;
            }
            state.watch().look().iter().for_each(|line| warn!("{line}"));
            told.try_iter().for_each(|line| warn!("{line}"));
            gateway.supervisor.tend().iter().for_each(|line| warn!("{line}"));
            let now = state.watch().now();
            match &mut gateway.manager {
                Some(manager) => manager.feed(now, |since| state.watch().all_turned_since(since)),
                None if gateway.desk.is_serving() => {
                    info!("{ready}");
                    gateway.manager = Some(Manager::ready(now));
                }
                None => {}
            }
            if now.saturating_sub(counted) >= SECOND {
                counted = now;
                state.sample_drops();
                shortages(&mut alarm, state, now).iter().for_each(|line| warn!("{line}"));
            }
            thread::sleep(LOOK);
        };
        ends.store(true, Ordering::Relaxed);
        tender.thread().unpark();
        accountant.thread().unpark();
        lister.thread().unpark();
        Ok(died)
    })
}

/// Takes in the accounts, if it is time to. Returns the time, seconds, and whether it did.
fn accounting_turn(state: &State, last: &mut Option<u64>) -> (u64, bool) {
    let now = wall::now();
    let (look, at) = accounting::look(now, &state.snapshot());
    let is_due = last.replace(look) != Some(look);
    if is_due {
        state.account(at);
    }
    (now / 1_000_000, is_due)
}

/// What there is to say of what has run short, or was lost.
fn shortages(alarm: &mut Alarm, state: &State, now: Nanos) -> Vec<String> {
    let counters = state.counters();
    let mut lines = Vec::new();
    for (reason, what) in [
        (DropReason::NatPortsExhausted, "found no free port in a pool"),
        (DropReason::NatPortLimit, "were over the ports of their inside address"),
        (DropReason::NatSessionLimit, "were over the sessions of their inside address"),
        (DropReason::NatRateLimit, "were over the new sessions a second of their inside address"),
    ] {
        let count = counters.drops.get(reason as usize).copied().unwrap_or(0);
        if let Some(packets) = alarm.look(reason.name(), count, now) {
            lines.push(format!(
                "nat: {packets} packets {what} ({}); `sluice show nat` has the pools",
                reason.name()
            ));
        }
    }
    if let Some(records) = alarm.look("records", counters.nat_unrecorded, now) {
        lines.push(format!("nat log: {records} records lost, as they are not written fast enough"));
    }
    for SinkStatus { sink, lost, error, .. } in state.nat_log() {
        if let Some(records) = alarm.look(&sink, lost, now) {
            let why = error.unwrap_or_default();
            lines.push(format!("nat log: {sink} has lost {records} records: {why}"));
        }
    }
    lines
}

/// Looks after a device, and returns what there is to say.
fn tend(device: &DeviceControl) -> Option<String> {
    let name = device.name();
    Some(match device.tend()? {
        DeviceChange::Gone => {
            let device = device.info().device;
            format!("{name}: the device {device} is gone; the port goes on when it is back")
        }
        DeviceChange::Back(_) => format!("{}, back again", describe(device)),
        DeviceChange::Failed(reason) => {
            format!("{name}: it is back, but not in service: {reason}; it is tried again")
        }
    })
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
