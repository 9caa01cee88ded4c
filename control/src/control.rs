//! The control process: serves the API and the metrics, keeps the log of NAT, reads the configuration again on SIGHUP. All that
//! it knows of packets it asks the data plane for, which has started it and goes on without it.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::api::{self, ApiError};
use crate::config;
use crate::export::Logger;
use crate::link::{self, DataPlane, Greeting};
use crate::service;

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

/// Runs control, over the link that is its standard input, until the gateway ends. What there is to say goes to `log`.
pub fn run(log: &mut dyn Write) -> Result<(), ControlError> {
    let system = |what| move |source| ControlError::System { what, source };
    let link =
        io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from).map_err(ControlError::NoLink)?;
    let (listener, metrics) = link::take_over(&link).map_err(ControlError::NoLink)?;
    // Before the first thread, as rights are each thread's own. It opens no device; its sockets are open.
    if let Err(error) = service::renounce_all() {
        say(log, format_args!("control: more rights than needed are kept: {error}"));
    }
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(system("cannot install signal handlers"))?;
    let data_plane = Arc::new(DataPlane::at(link).map_err(system("cannot start a thread"))?);
    let greeting = data_plane.greet().map_err(ControlError::Refused)?;
    let logger =
        log_of_nat(&greeting, &data_plane).map_err(system("cannot start the thread of NAT's log"))?;
    let server = api::serve(listener, &greeting.socket, metrics, data_plane.clone())?;
    data_plane.serving().map_err(ControlError::Refused)?;

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
            Err(words) => say(log, format_args!("control: {words}")),
        }
        if hang_up {
            reload(&greeting, &data_plane, log).map_err(system("cannot start a thread"))?;
        }
        thread::sleep(LOOK);
    };
    drop(server);
    drop(logger);
    if ended { Ok(()) } else { Err(ControlError::DataPlaneDied) }
}

/// The log of NAT, if the configuration wants one.
fn log_of_nat(greeting: &Greeting, data_plane: &Arc<DataPlane>) -> io::Result<Option<Logger>> {
    let name = greeting.file.display().to_string();
    // The data plane runs by it, so it is right.
    let Ok((config, _)) = config::load_str(&name, &greeting.text) else { return Ok(None) };
    let Some(log) = config.nat_log else { return Ok(None) };
    let (data_plane, mut next) = (data_plane.clone(), 0);
    let source = move |sinks: &[_]| {
        let batch = data_plane.records(next, sinks.to_vec()).unwrap_or_default();
        next = batch.next().max(next);
        batch.records
    };
    Logger::start(&log, &greeting.sinks, source).map(|(logger, _)| Some(logger))
}

/// Has the data plane adopt the file as it is now, on a thread that may wait.
fn reload(greeting: &Greeting, data_plane: &Arc<DataPlane>, log: &mut dyn Write) -> io::Result<()> {
    let name = greeting.file.display().to_string();
    let refused = |report| format!("{name}: not adopted, all stays as it was:\n{report}");
    let text = config::read(&greeting.file).map_err(refused).and_then(|bytes| {
        String::from_utf8(bytes).or_else(|wrong| {
            let report = config::load_bytes(&name, wrong.as_bytes()).map(|_| String::new());
            report.map_err(refused)
        })
    });
    match text {
        Err(words) => say(log, format_args!("{words}")),
        Ok(text) => {
            let data_plane = data_plane.clone();
            let adopt = move || match data_plane.adopt(name, text) {
                Ok(lines) => lines.iter().for_each(|line| say(&mut io::stderr(), format_args!("{line}"))),
                Err(words) => say(&mut io::stderr(), format_args!("{words}")),
            };
            thread::Builder::new().name("sluice-reload".into()).spawn(adopt)?;
        }
    }
    Ok(())
}

/// Says a line, at once and whole, as the data plane says its own in the same place.
fn say(log: &mut dyn Write, line: std::fmt::Arguments<'_>) {
    let _ = log.write_all(format!("{line}\n").as_bytes()).and_then(|()| log.flush());
}
