//! A gateway that runs is handed over to another program: what that is offered, and how the workers stop for it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use sluice_dataplane::arena::Memory;
use sluice_dataplane::live::Running;

use crate::device::Changes;
use crate::export::wall;
use crate::link::Desk;
use crate::state::State;
use crate::supervise::Supervisor;
use crate::upgrade::{self, Offer, Successor};

/// Another program that is getting ready to take over.
pub(super) struct Pending {
    pub(super) successor: Successor,
    /// Who wants to hear whether it is; none once that has been said.
    reply: Option<SyncSender<Result<String, String>>>,
    is_ready: bool,
}

/// What a successor is offered, besides what is asked of others.
pub(super) struct Estate<'a> {
    pub(super) state: &'a State,
    pub(super) memory: &'a Memory,
    pub(super) changes: &'a Changes,
    pub(super) desk: &'a Desk,
    pub(super) supervisor: &'a Supervisor,
}

impl Estate<'_> {
    /// Starts a program that is to take over.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn offer(
        &self,
        program: Option<PathBuf>,
        reply: SyncSender<Result<String, String>>,
        own: &std::path::Path,
    ) -> Result<Pending, (String, SyncSender<Result<String, String>>)> {
        let program = program.unwrap_or_else(|| own.to_owned());
        let started = self.descriptors().and_then(|(offer, given)| Successor::start(&program, offer, given));
        match started {
            Ok(successor) => Ok(Pending { successor, reply: Some(reply), is_ready: false }),
            Err(words) => Err((words, reply)),
        }
    }

    fn descriptors(&self) -> Result<(Offer, Vec<OwnedFd>), String> {
        let in_words = |error: std::io::Error| error.to_string();
        let memory = self.memory.descriptor().ok_or(
            "packet memory cannot be handed over: it lies in pages that no other process can map, as this kernel has no huge \
             pages for those that can (Linux 6.1 has, or `sysctl vm.nr_hugepages`); restart in place of an upgrade",
        )?;
        let (listener, metrics) = self.supervisor.sockets().map_err(in_words)?;
        let snapshot = self.state.snapshot();
        let mut offer = Offer::new();
        offer.has_metrics = metrics.is_some();
        let mut given = vec![listener, memory.try_clone_to_owned().map_err(in_words)?];
        given.extend(metrics);
        for device in self.state.devices() {
            let handed = device.hand_over()?;
            offer.devices.push((handed.descriptors.len(), handed.facts));
            given.extend(handed.descriptors);
        }
        let (undo, memberships) = self.changes.hand_over().map_err(in_words)?;
        (offer.undo, offer.memberships) = (undo, memberships.len());
        given.extend(memberships);
        offer.greeting = self.desk.greeting();
        offer.greeting.sinks = self.state.nat_log();
        offer.plan = self.state.plan().clone();
        (offer.generation, offer.seed) = (snapshot.generation, snapshot.seed);
        offer.frames = self.memory.count();
        offer.pages = upgrade::page_code(self.memory.pages());
        offer.blocked = self.state.lists().by_hand(wall::now() / 1_000_000);
        offer.upgrades = self.state.upgraded_so_far().upgrades;
        Ok((offer, given))
    }
}

impl Pending {
    /// Looks how it does; to be called every 20 ms. Once it is ready, or will not be, whoever asked for it is told.
    ///
    /// # Errors
    /// It will not be, in words.
    pub(super) fn look(&mut self) -> Result<bool, String> {
        if self.is_ready {
            return Ok(true);
        }
        match self.successor.look() {
            None => Ok(false),
            Some(found) => {
                if let Some(reply) = self.reply.take() {
                    let _ = reply.try_send(found.clone());
                }
                self.is_ready = true;
                found.map(|_| true)
            }
        }
    }

    /// Stops the workers, and has the other program go on with what they were.
    ///
    /// # Errors
    /// Why they go on here, in words.
    pub(super) fn hand_over(&mut self, running: &Running, stays: bool) -> Result<(), String> {
        let machine = upgrade::machine_time();
        let (states, stopped) = running.pause();
        let done = self.give(states, (stopped, machine), stays);
        if done.is_err() {
            running.resume();
        }
        done
    }

    fn give(
        &mut self,
        states: Vec<Result<Vec<u8>, String>>,
        (stopped, machine): (u64, u64),
        stays: bool,
    ) -> Result<(), String> {
        let states = states.into_iter().collect::<Result<Vec<_>, _>>()?;
        let files: Result<Vec<OwnedFd>, _> = states.iter().map(|state| upgrade::in_memory(state)).collect();
        let files = files.map_err(|error| format!("no memory for the state: {error}"))?;
        drop(states);
        self.successor.hand_over(&files, stopped, machine)?;
        self.successor.go(stays)
    }
}
