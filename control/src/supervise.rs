//! Control, as a process of its own, seen from the data plane: it is started, and started again when it ends. Packets do not
//! wait for it.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::link::{self, Desk};

/// Before it is started again: at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];
/// Control that has lived for so long has done well, and is started again at once.
const GOOD_LIFE: Duration = Duration::from_secs(30);
/// Control that says nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the end of the gateway waits for control to write down what is left.
const PATIENCE: Duration = Duration::from_secs(3);
/// The program that runs, also when its file has been replaced meanwhile.
const SELF: &str = "/proc/self/exe";

/// The control process, kept alive.
pub struct Supervisor {
    desk: Arc<Desk>,
    /// Held here, so that clients wait in their queue while there is no control, and are not sent away.
    api: UnixListener,
    metrics: Option<TcpListener>,
    arguments: Vec<OsString>,
    child: Option<Child>,
    started: Instant,
    /// When it ended without a word, or was given up.
    lost: Option<Instant>,
    pause: Duration,
    due: Instant,
    was_serving: bool,
}

impl Supervisor {
    /// Starts control, which is to serve these sockets.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        desk: Arc<Desk>,
        api: UnixListener,
        metrics: Option<TcpListener>,
        arguments: Vec<OsString>,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let mut supervisor = Self {
            desk,
            api,
            metrics,
            arguments,
            child: None,
            started: now,
            lost: None,
            pause: PAUSE[0],
            due: now,
            was_serving: false,
        };
        supervisor.spawn()?;
        Ok(supervisor)
    }

    /// The sockets that it serves, once more: the API's, and that of the metrics.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn sockets(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let metrics =
            self.metrics.as_ref().map(|metrics| metrics.try_clone().map(OwnedFd::from)).transpose()?;
        Ok((self.api.try_clone()?.into(), metrics))
    }

    fn spawn(&mut self) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        link::hand_over(&ours, &self.api, self.metrics.as_ref())?;
        self.desk.expect();
        link::serve(ours, self.desk.clone())?;
        let mut command = Command::new(SELF);
        command.arg("control").args(&self.arguments).stdin(OwnedFd::from(theirs));
        // The system's manager hears from this process alone.
        ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]
            .into_iter()
            .for_each(|name| _ = command.env_remove(name));
        self.child = Some(command.spawn()?);
        (self.started, self.was_serving) = (Instant::now(), false);
        Ok(())
    }

    /// Looks after it; to be called every 20 ms. Returns what there is to say.
    pub fn tend(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(child) = &mut self.child {
            if let Ok(Some(status)) = child.try_wait() {
                self.child = None;
                self.give_up();
                lines.push(format!(
                    "control has ended ({}); packets go on, and it is started again",
                    how(status)
                ));
            } else if self.desk.silence() >= SILENCE {
                let _ = child.kill();
                let seconds = SILENCE.as_secs();
                lines.push(format!("control has said nothing for {seconds} s: it is killed; packets go on"));
                // Once.
                self.desk.expect();
            } else if !self.was_serving && self.desk.is_serving() {
                self.was_serving = true;
                if let Some(lost) = self.lost.take() {
                    lines.push(format!("control answers again, after {} ms", lost.elapsed().as_millis()));
                }
            }
        } else if Instant::now() >= self.due {
            if let Err(error) = self.spawn() {
                self.give_up();
                lines.push(format!(
                    "control cannot be started: {error}; packets go on, and it is tried again"
                ));
            }
        }
        lines
    }

    /// Plans when to start it again.
    fn give_up(&mut self) {
        let now = Instant::now();
        self.lost.get_or_insert(now);
        if now - self.started >= GOOD_LIFE {
            self.pause = PAUSE[0];
        }
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE[1]);
    }

    /// Waits for it to end, as the workers have.
    pub fn end(self) {
        self.desk.end();
        let Some(mut child) = self.child else { return };
        let begun = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if begun.elapsed() >= PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// `exit status: 1`, `signal: 9 (SIGKILL)`
fn how(status: ExitStatus) -> String {
    status.to_string()
}
