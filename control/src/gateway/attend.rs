//! Looking after a gateway that runs: signals, what control asks for, reloads, upgrades, devices, accounts, lists.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;
use sluice_dataplane::arena::Memory;
use sluice_dataplane::clock::{Nanos, SECOND};
use sluice_dataplane::live::Running;
use sluice_dataplane::port::af_xdp::{DeviceChange, DeviceControl};
use sluice_dataplane::verdict::DropReason;
use tracing::{info, warn};

use super::devices::describe;
use super::handover::{Estate, Pending};
use crate::accounting;
use crate::alarm::Alarm;
use crate::device::Changes;
use crate::export::{SinkStatus, wall};
use crate::link::{Desk, Errand};
use crate::reload::{News, Reload};
use crate::service::Manager;
use crate::state::State;
use crate::supervise::Supervisor;

/// How often devices are looked at.
const TEND: Duration = Duration::from_millis(250);
/// How often signals and workers are looked at: a worker that stalls is to be noticed within 100 ms.
const LOOK: Duration = Duration::from_millis(20);

/// What is looked after while it runs.
pub(super) struct Gateway<'a> {
    pub(super) running: &'a Running,
    pub(super) state: &'a State,
    pub(super) reload: Reload,
    pub(super) desk: Arc<Desk>,
    pub(super) supervisor: Supervisor,
    pub(super) to_do: Receiver<Errand>,
    /// Once the gateway is ready.
    pub(super) manager: Option<Manager>,
    pub(super) memory: &'a Memory,
    pub(super) changes: &'a Changes,
    /// The file that this program was started from.
    pub(super) own: &'a Path,
    /// Another program that is about to take over.
    pub(super) pending: Option<Pending>,
}

impl Gateway<'_> {
    /// Does what control asks for. Returns whether the gateway is to end.
    fn run_errands(&mut self) -> bool {
        while let Ok(errand) = self.to_do.try_recv() {
            match errand {
                Errand::Adopt { name, text, loaded, reply } => self.reload.request(name, text, loaded, reply),
                Errand::Upgrade { reply, .. } if self.pending.is_some() => {
                    let _ = reply.try_send(Err("an upgrade is under way".into()));
                }
                Errand::Upgrade { program, reply } => self.offer(program, reply),
                Errand::TryOut { name, text, reply } => {
                    // Who asked may be gone.
                    let _ = reply.try_send(self.reload.try_out(&name, &text, self.state));
                }
                Errand::Stop => return true,
            }
        }
        false
    }

    /// Starts a program that is to take over.
    fn offer(&mut self, program: Option<PathBuf>, reply: SyncSender<Result<String, String>>) {
        let Self { state, memory, changes, desk, supervisor, own, .. } = &*self;
        let estate = Estate { state, memory, changes, desk, supervisor };
        match estate.offer(program, reply, own) {
            Ok(pending) => self.pending = Some(pending),
            Err((words, reply)) => {
                self.state.upgrade_failed(words.clone());
                let _ = reply.try_send(Err(words));
            }
        }
    }

    /// Looks whether another program is ready to take over. Returns what there is to say if it will not be.
    fn wants_to_go(&mut self) -> Result<bool, String> {
        let Some(pending) = &mut self.pending else { return Ok(false) };
        match pending.look() {
            Ok(is_ready) => Ok(is_ready && self.reload.is_idle()),
            Err(words) => {
                self.pending = None;
                self.state.upgrade_failed(words.clone());
                Err(format!("not upgraded, and all goes on as it was: {words}"))
            }
        }
    }

    /// Goes on with a reload. Control says what came of it; what is returned is to be said here, of the kernel's addresses.
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
/// Returns a worker that ended first; none is also returned when another program is ready to take over.
pub(super) fn attend(
    signals: &mut Signals,
    gateway: &mut Gateway<'_>,
    ready: &str,
) -> io::Result<Option<usize>> {
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
        let mut told = None;
        while !ends.load(Ordering::Relaxed) {
            let (lists, lines) = state.lists().look(wall::now() / 1_000_000);
            lines.into_iter().for_each(|line| drop(told_of_lists.send(line)));
            if lists.is_some() {
                let _ = change.send(());
            }
            // What workers go by comes first: packets that the program lets through are theirs to judge.
            let generation = state.snapshot().generation;
            if told.replace(generation) != Some(generation) {
                state.tell_blocked().into_iter().for_each(|line| drop(told_of_lists.send(line)));
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
                gateway.pending = None;
                break died;
            }
            match gateway.wants_to_go() {
                Ok(true) => break None,
                Ok(false) => {}
                Err(line) => warn!("{line}"),
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
