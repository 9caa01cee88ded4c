//! The control process: serves the API and the metrics, keeps the log of NAT and the history of configurations, reads the
//! configuration again on SIGHUP. All that
//! it knows of packets it asks the data plane for, which has started it and goes on without it.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{debug, info, warn};

use crate::api::{self, ApiError};
use crate::capture;
use crate::commit::{self, Adopts, Keeper, Store};
use crate::config::{self, NatLog};
use crate::diff::{self, Loaded};
use crate::export::Logger;
use crate::link::{self, DataPlane, Greeting};
use crate::lists;
use crate::log;
use crate::reload::Outcome;
use crate::{service, trace, upgrade};

/// How often signals are looked at, and the data plane is asked what it wants.
const LOOK: Duration = Duration::from_millis(20);

/// Why control could not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It was not started by a data plane.
    #[error("`sluice control` is started by `sluice run`, and not to be typed: its input is no link ({0})")]
    NoLink(io::Error),
    /// The data plane refuses.
    #[error("{0}")]
    Refused(String),
    /// The data plane has ended without having been told.
    #[error("the data plane has died; packets are not forwarded any more")]
    DataPlaneDied,
    /// The API.
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
}

/// Runs control, over the link that is its standard input, until the gateway ends. What there is to say goes to the log.
pub fn run() -> Result<(), ControlError> {
    let system = |what| move |source| ControlError::System { what, source };
    log::start("control");
    let link =
        io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from).map_err(ControlError::NoLink)?;
    let (listener, metrics) = link::take_over(&link).map_err(ControlError::NoLink)?;
    // Before the first thread, as rights are each thread's own. It opens no device; its sockets are open.
    if let Err(error) = service::renounce_all() {
        warn!("control: more rights than needed are kept: {error}");
    }
    if let Err(error) = service::take_descriptors() {
        warn!("control: fewer clients than could be are served at once: {error}");
    }
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(system("cannot install signal handlers"))?;
    let data_plane = Arc::new(DataPlane::at(link).map_err(system("cannot start a thread"))?);
    let greeting = data_plane.greet().map_err(ControlError::Refused)?;
    log::set(config::log_of(&greeting.text));
    // The data plane runs by it, so it is right.
    let (running, _) = Loaded::new(&greeting.file.display().to_string(), &greeting.text)
        .map_err(|report| ControlError::Refused(report.to_string()))?;
    let logger = log_of_nat(running.config.nat_log.as_ref(), &greeting, &data_plane);
    let logger = logger.map_err(system("cannot start the thread of NAT's log"))?;
    let (commits, desk) = Commits::start(&greeting, running, &data_plane)?;
    let more = commit::api::routes(desk)
        .merge(capture::api::routes(data_plane.clone()))
        .merge(trace::api::routes(data_plane.clone()))
        .merge(diff::api::routes(data_plane.clone()))
        .merge(lists::api::routes(data_plane.clone()))
        .merge(upgrade::api::routes(data_plane.clone()));
    let server = api::serve_with(listener, &greeting.socket, metrics, data_plane.clone(), more)?;
    data_plane.serving().map_err(ControlError::Refused)?;
    debug!("control: it serves the API");

    let ended = loop {
        let mut hang_up = false;
        for signal in signals.pending() {
            hang_up |= signal == SIGHUP;
            if signal != SIGHUP {
                // That it is about to end already is fine.
                let _ = data_plane.stop();
            }
        }
        match data_plane.pulse() {
            Ok(pulse) if pulse.ended => break true,
            Ok(pulse) => hang_up |= pulse.hang_up,
            Err(_) if !data_plane.is_there() => break false,
            Err(words) => warn!("control: {words}"),
        }
        if hang_up {
            commits.hang_up.store(true, Relaxed);
        }
        thread::sleep(LOOK);
    };
    drop(server);
    drop(commits);
    drop(logger);
    if ended { Ok(()) } else { Err(ControlError::DataPlaneDied) }
}

/// The log of NAT, if the configuration wants one.
fn log_of_nat(
    log: Option<&NatLog>,
    greeting: &Greeting,
    data_plane: &Arc<DataPlane>,
) -> io::Result<Option<Logger>> {
    let Some(log) = log else { return Ok(None) };
    let (data_plane, mut next) = (data_plane.clone(), 0);
    let source = move |sinks: &[_]| {
        let batch = data_plane.records(next, sinks.to_vec()).unwrap_or_default();
        next = batch.next().max(next);
        batch.records
    };
    Logger::start(log, &greeting.sinks, source).map(|(logger, _)| Some(logger))
}

/// The keeper of configurations, on a thread that may wait; it ends when dropped.
struct Commits {
    hang_up: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Commits {
    fn start(
        greeting: &Greeting,
        running: Loaded,
        data_plane: &Arc<DataPlane>,
    ) -> Result<(Self, commit::Desk), ControlError> {
        let mut store = Store::open(&greeting.state);
        for complaint in store.complaints() {
            warn!("{complaint}");
        }
        let last = store.last().filter(|last| store.text(last.id).as_ref() == Some(&greeting.text));
        let name = last.map_or_else(|| running.file.clone(), |last| last.file.clone());
        let running = Loaded { file: name, ..running };
        let (file, now) = (greeting.file.clone(), Instant::now());
        let (mut keeper, desk) = Keeper::new(file, running, greeting.socket_of_config, store, now);
        let [hang_up, stop] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let mut plane = Plane { data_plane: data_plane.clone(), before: None };
        let (wanted, ends) = (hang_up.clone(), stop.clone());
        let keep = move || {
            while !ends.load(Relaxed) {
                if wanted.swap(false, Relaxed) {
                    keeper.hang_up();
                }
                keeper.go_on(&mut plane, Instant::now()).iter().for_each(|line| info!("{line}"));
                thread::sleep(LOOK);
            }
        };
        let thread = thread::Builder::new().name("sluice-commit".into()).spawn(keep);
        let thread =
            thread.map_err(|source| ControlError::System { what: "cannot start a thread", source })?;
        Ok((Self { hang_up, stop, thread: Some(thread) }, desk))
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The data plane, as what adopts configurations.
struct Plane {
    data_plane: Arc<DataPlane>,
    /// While it adopts one: the generation that was settled last.
    before: Option<Option<u32>>,
}

impl Adopts for Plane {
    fn adopt(&mut self, name: &str, text: &str) -> Result<Vec<String>, String> {
        let before = self.data_plane.outcome()?.map(|outcome| outcome.generation);
        let said = self.data_plane.adopt(name.to_owned(), text.to_owned())?;
        log::set(config::log_of(text));
        self.before = Some(before);
        Ok(said)
    }

    fn settled(&mut self) -> Option<Outcome> {
        let before = self.before?;
        let outcome = self.data_plane.outcome().ok().flatten();
        let outcome = outcome.filter(|outcome| before != Some(outcome.generation))?;
        self.before = None;
        Some(outcome)
    }
}
