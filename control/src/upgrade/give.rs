//! The old process's end: starts the other program, and hands over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use sluice_dataplane::clock::Nanos;

use super::{Answer, Offer, Order, PROGRAM, VERSION, program};
use crate::link;

/// How long the other program may take to get ready.
const GET_READY: Duration = Duration::from_secs(50);
/// How long it may take to read the state. The workers stand still meanwhile.
const READ: Duration = Duration::from_secs(4);
/// How long it may take over a piece of what it is sent.
const PATIENCE: Duration = Duration::from_secs(5);

/// The program that is about to take over. Dropped before it was told to go, it is ended.
pub(crate) struct Successor {
    child: Option<Child>,
    stream: UnixStream,
    answers: Receiver<Answer>,
    begun: Instant,
    path: String,
}

impl Offer {
    /// Of this program.
    pub(crate) fn new() -> Self {
        Self {
            version: VERSION,
            program: PROGRAM.to_owned(),
            greeting: Default::default(),
            has_metrics: false,
            plan: Default::default(),
            generation: 0,
            seed: 0,
            frames: 0,
            pages: 0,
            devices: Vec::new(),
            undo: Vec::new(),
            memberships: 0,
            blocked: Vec::new(),
            upgrades: 0,
        }
    }
}

fn send(stream: &UnixStream, what: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(what).map_err(io::Error::other)?;
    link::send(stream, 0, &body)
}

impl Successor {
    /// Starts a program, and offers it what there is. It may take its time to get ready.
    ///
    /// # Errors
    /// It may not be started, or cannot be, in words.
    pub(crate) fn start(path: &Path, offer: Offer, descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        let program = program::checked(path)?;
        let path = program.display().to_string();
        let cannot = |error: io::Error| format!("{path}: cannot be started: {error}");
        let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
        ours.set_write_timeout(Some(PATIENCE)).map_err(cannot)?;
        let mut command = Command::new(&program);
        command.arg("succeed").arg(&offer.greeting.file).stdin(OwnedFd::from(theirs));
        // The manager's watchdog is meant for whoever is the main process.
        command.env_remove("WATCHDOG_PID");
        let child = command.spawn().map_err(cannot)?;
        // Its end of the socket is its own alone, so that we hear when it is gone.
        drop(command);
        let (tell, answers) = channel();
        let stream = ours.try_clone().map_err(cannot)?;
        let talk = move || {
            let offered = send(&ours, &offer).and_then(|()| link::send_descriptors(&ours, &descriptors));
            drop(descriptors);
            while offered.is_ok() {
                let Ok((_, body)) = link::receive(&ours) else { return };
                let Ok(answer) = serde_json::from_slice(&body) else { return };
                if tell.send(answer).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("sluice-upgrade".into()).spawn(talk);
        let successor = Self { child: Some(child), stream, answers, begun: Instant::now(), path };
        thread.map_err(|error| format!("{}: cannot be talked to: {error}", successor.path))?;
        Ok(successor)
    }

    /// Whether it is ready; none as long as that is not known. To be asked every 20 ms.
    ///
    /// # Errors
    /// It will not be, in words.
    pub(crate) fn look(&mut self) -> Option<Result<String, String>> {
        Some(match self.answers.try_recv() {
            Ok(Answer::Ready { program }) => Ok(program),
            Ok(other) => Err(self.refusal(other)),
            Err(TryRecvError::Disconnected) => Err(self.ended()),
            Err(TryRecvError::Empty) if self.begun.elapsed() >= GET_READY => {
                Err(format!("{}: it was not ready within {} s", self.path, GET_READY.as_secs()))
            }
            Err(TryRecvError::Empty) => return None,
        })
    }

    /// Gives it what the workers have written, who stopped at `stopped` by their clock.
    ///
    /// # Errors
    /// It cannot go on with that, in words.
    pub(crate) fn hand_over(
        &mut self,
        states: &[OwnedFd],
        stopped: Nanos,
        machine: Nanos,
    ) -> Result<(), String> {
        let order = Order::Take { workers: states.len(), stopped, machine };
        let sent = send(&self.stream, &order).and_then(|()| link::send_descriptors(&self.stream, states));
        sent.map_err(|error| format!("{}: does not take the state: {error}", self.path))?;
        match self.answers.recv_timeout(READ) {
            Ok(Answer::Restored) => Ok(()),
            Ok(other) => Err(self.refusal(other)),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("{}: has not read the state within {} s", self.path, READ.as_secs()))
            }
        }
    }

    /// Tells it to go: from now on the devices are its own. If this process stays, signals are to be passed on.
    ///
    /// # Errors
    /// It has ended; then the devices are nobody's but ours.
    pub(crate) fn go(&mut self, stays: bool) -> Result<(), String> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => {}
            _ => return Err(self.ended()),
        }
        send(&self.stream, &Order::Go { stays }).map_err(|_| self.ended())
    }

    /// The process that goes on, as the control process of this one has ended.
    pub(crate) fn let_go(mut self) -> Option<Child> {
        // It waits for this.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.child.take()
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    fn refusal(&self, answer: Answer) -> String {
        match answer {
            Answer::Refused { words } => format!("{}: {words}", self.path),
            other => format!("{}: says {other:?} out of turn", self.path),
        }
    }

    fn ended(&mut self) -> String {
        let path = &self.path;
        let Some(child) = &mut self.child else { return format!("{path}: has ended") };
        // It has let go of the socket, and so is about to end, if it has not.
        let patience = Instant::now() + Duration::from_millis(500);
        loop {
            match child.try_wait() {
                Ok(Some(status)) => {
                    return format!(
                        "{path}: has ended ({status}); is it a `sluice` that knows `sluice upgrade`?"
                    );
                }
                _ if Instant::now() >= patience => return format!("{path}: says nothing that is understood"),
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A state as a file in memory.
///
/// # Errors
/// There is no memory for it.
pub(crate) fn in_memory(state: &[u8]) -> io::Result<OwnedFd> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let file = nix::sys::memfd::memfd_create(c"sluice-state", flags)?;
    let mut writing = std::fs::File::from(file.as_fd().try_clone_to_owned()?);
    io::Write::write_all(&mut writing, state)?;
    Ok(file)
}
