//! A gateway between two stations, as a process.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;

use super::{Held, PATIENCE};

pub(crate) const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

/// A gateway that runs, and is killed when dropped.
pub(crate) struct Gateway {
    pub(crate) process: Held,
    lines: Receiver<String>,
    pub(crate) folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.toml"), config).unwrap();
        Self::within(folder)
    }

    /// Starts it once more, with what is left of one that has died.
    pub(crate) fn again(self) -> Self {
        let Self { folder, .. } = self;
        Self::within(folder)
    }

    fn within(folder: tempfile::TempDir) -> Self {
        let mut command = Command::new(SLUICE);
        command.arg("run").arg(folder.path().join("c.toml")).arg("--socket").arg(folder.path().join("s"));
        let mut child = command.env_remove("SSH_CONNECTION").stderr(Stdio::piped()).spawn().unwrap();
        let (tell, lines) = channel();
        let stderr = child.stderr.take().unwrap();
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
        });
        let gateway = Self { process: Held(child), lines, folder };
        gateway.until("ready: ");
        gateway
    }

    /// Reads the log up to a line with these words, and returns it; with it what was said before.
    pub(crate) fn until(&self, words: &str) -> (String, Vec<String>) {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return (line, before),
                Ok(line) => before.push(line),
                Err(_) => panic!("no {words:?} in the log: {before:#?}"),
            }
        }
    }

    /// Has it read another configuration.
    pub(crate) fn hang_up(&self, config: &str) {
        std::fs::write(self.folder.path().join("c.toml"), config).unwrap();
        signal("HUP", self.process.0.id());
    }

    /// The process of control.
    pub(crate) fn control(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.process.0.id());
        std::fs::read_to_string(children).unwrap().trim().parse().expect("one child")
    }

    /// A listing.
    pub(crate) fn show(&self, topic: &str) -> Value {
        let mut command = Command::new(SLUICE);
        command.args(["show", topic, "--json", "--socket"]).arg(self.folder.path().join("s"));
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) {
        signal("TERM", self.process.0.id());
        self.ends_in_order();
    }

    /// Waits for its end, with every packet accounted for.
    pub(crate) fn ends_in_order(&mut self) {
        let (line, _) = self.until("stopped in ");
        assert!(line.contains("conserved: true"), "{line}");
        assert!(self.process.0.wait().unwrap().success());
    }
}

/// Sends a process a signal.
pub(crate) fn signal(name: &str, process: u32) {
    let arguments = [format!("-{name}"), process.to_string()];
    assert!(Command::new("kill").args(arguments).status().unwrap().success());
}
