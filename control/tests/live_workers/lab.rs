//! Network namespaces on veth pairs of several queues, a gateway between them, and sockets for whole frames.

use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::netns::{Station, set_ipv6, until};

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");
/// A namespace with one end of a veth pair of several queues, `eth0`, with an address and without IPv6.
pub(crate) fn station(device: &str, queues: u32, address: &str) -> Station {
    let station = Station::new(device, "eth0", queues);
    station.within(|| set_ipv6(false));
    station.up(&[address], &[])
}

/// The MAC address of a device of the calling thread's namespace.
pub(crate) fn mac(device: &str) -> [u8; 6] {
    sluice_dataplane::port::af_xdp::device_facts(device).unwrap().mac
}

/// A folder with a configuration, and a socket.
pub(crate) struct Setup(TempDir);

impl Setup {
    pub(crate) fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.toml"), config).unwrap();
        Self(folder)
    }

    /// Starts a gateway, and waits until it is ready, for as long as it takes.
    pub(crate) fn start(&self) -> Gateway {
        let begun = Instant::now();
        let mut command = Command::new(SLUICE);
        command.arg("run").arg(self.0.path().join("c.toml")).arg("--socket").arg(self.0.path().join("s"));
        let mut child = command.env_remove("SSH_CONNECTION").stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = said.clone();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().unwrap().push((Instant::now(), line));
            }
        });
        let mut gateway = Gateway { child, said };
        while gateway.line(|line| line.starts_with("ready:")).is_none() {
            assert!(begun.elapsed() < Duration::from_secs(30), "not ready: {:#?}", gateway.lines());
            assert!(gateway.child.try_wait().unwrap().is_none(), "it has ended: {:#?}", gateway.lines());
            thread::sleep(Duration::from_millis(1));
        }
        gateway
    }

    /// What a gateway says that does not start.
    pub(crate) fn refused(&self) -> String {
        let mut command = Command::new(SLUICE);
        command.arg("run").arg(self.0.path().join("c.toml")).arg("--socket").arg(self.0.path().join("s"));
        let output = command.env_remove("SSH_CONNECTION").output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub(crate) fn show(&self, topic: &str) -> Value {
        self.ask(&["show", topic])
    }

    /// What a command answers as JSON.
    pub(crate) fn ask(&self, words: &[&str]) -> Value {
        let mut command = Command::new(SLUICE);
        command.args(words).args(["--json", "--socket"]).arg(self.0.path().join("s"));
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
    }
}

/// A gateway that runs; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    said: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gateway {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.said.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }

    /// The first line of that kind, and when it came.
    pub(crate) fn line(&self, kind: impl Fn(&str) -> bool) -> Option<(Instant, String)> {
        self.said.lock().unwrap().iter().find(|(_, line)| kind(line)).cloned()
    }

    /// SIGTERM: how it ended, and how long that took.
    pub(crate) fn end(&mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        // SAFETY: our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) }, 0);
        let status = self.child.wait().unwrap();
        let took = begun.elapsed();
        // Its last line may be on the way still.
        until("the last line", || {
            status.code() != Some(0) || self.line(|line| line.starts_with("stopped in")).is_some()
        });
        (status, took)
    }

    /// The kernel's numbers of the workers' threads, in the order of the workers.
    pub(crate) fn threads(&self) -> Vec<i32> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut workers: Vec<(String, i32)> = std::fs::read_dir(&tasks)
            .unwrap()
            .flatten()
            .filter_map(|task| {
                let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
                let thread = task.file_name().to_str()?.parse().ok()?;
                name.starts_with("sluice-worker-").then(|| (name.trim().to_owned(), thread))
            })
            .collect();
        workers.sort_unstable();
        workers.into_iter().map(|(_, thread)| thread).collect()
    }

    /// For how long a thread has had a core so far.
    pub(crate) fn core_time(&self, thread: i32) -> Duration {
        let path = format!("/proc/{}/task/{thread}/schedstat", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
    }
}

/// A packet socket on a station's device: sends whole frames, and receives those that come in.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    pub(crate) fn new(station: &Station) -> Self {
        station.within(|| {
            // SAFETY: a new descriptor, checked below.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            // SAFETY: new, and ours.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            for (level, option, value) in [
                (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20),
                (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
            ] {
                let value: i32 = value;
                // SAFETY: options that take an int.
                let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), 4) };
                assert_eq!(result, 0, "{}", io::Error::last_os_error());
            }
            // SAFETY: integers, for which zero is a value.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_IP as u16).to_be();
            // SAFETY: a NUL-terminated name.
            address.sll_ifindex = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) } as i32;
            // SAFETY: an address of the socket's family, and its length.
            let result = unsafe { libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32) };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
            Self(socket)
        })
    }

    /// False if the device's queue is full.
    pub(crate) fn send(&self, frame: &[u8]) -> bool {
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: a slice and its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), flags) };
        sent == frame.len() as isize
    }

    /// The next frame, if there is one by now.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: a slice and its length.
        let length =
            unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
        buffer.get_mut(..usize::try_from(length).ok()?)
    }
}
