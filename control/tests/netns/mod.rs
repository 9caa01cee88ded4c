//! Network namespaces on veth pairs, for tests with a gateway between them.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod gateway;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// How long what has to come may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `ip`, and returns what it says.
pub(crate) fn ip(arguments: &str) -> String {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().expect("ip (iproute2) is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a test in a network namespace of its own, on a thread that alone is in it; it goes with the thread. Without the
/// privilege it says so and does nothing.
pub(crate) fn in_namespace(name: &str, test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let run = || {
            // SAFETY: concerns this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                println!("SKIP {name}: no network namespace: {}", io::Error::last_os_error());
                return;
            }
            ip("link set dev lo up");
            test();
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// The same, without IPv6.
pub(crate) fn in_ipv4_namespace(name: &str, test: impl FnOnce() + Send) {
    in_namespace(name, || {
        set_ipv6(false);
        test();
    });
}

/// Whether devices of the calling thread's namespace speak IPv6. Where they do not, there are no frames but ours, and no
/// link-local addresses that come in their own time.
pub(crate) fn set_ipv6(on: bool) {
    for scope in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        let _ = std::fs::write(path, if on { "0" } else { "1" });
    }
}

/// Fails if it is not done within five seconds.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A process that is killed when dropped.
pub(crate) struct Held(pub(crate) Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace with one end of a veth pair, whose other end is in the calling thread's. Gone when dropped.
pub(crate) struct Station {
    holder: Held,
    peer: String,
}

impl Station {
    /// The near end is `device`, which is up; the far one `peer`, which is not. Each has `queues` queues.
    pub(crate) fn new(device: &str, peer: &str, queues: u32) -> Self {
        let holder = Held(Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn().unwrap());
        let pid = holder.0.id();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        until("a namespace", || {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs != own)
        });
        let count = format!("numrxqueues {queues} numtxqueues {queues}");
        ip(&format!("link add name {device} {count} type veth peer name {peer} {count} netns {pid}"));
        ip(&format!("link set dev {device} up"));
        Self { holder, peer: peer.to_owned() }
    }

    /// Brings the far end up, with these addresses and routes.
    pub(crate) fn up(self, addresses: &[&str], routes: &[&str]) -> Self {
        self.within(|| {
            ip("link set dev lo up");
            ip(&format!("link set dev {} up", self.peer));
            for address in addresses {
                ip(&format!("address add {address} dev {} nodad", self.peer));
            }
            routes.iter().for_each(|route| _ = ip(&format!("route add {route}")));
        });
        self
    }

    /// Does something on a thread in the namespace.
    pub(crate) fn within<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.holder.0.id())).unwrap();
        thread::scope(|scope| {
            let run = || {
                // SAFETY: an open namespace, and concerns this thread alone.
                assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
                what()
            };
            scope.spawn(run).join().unwrap()
        })
    }
}
