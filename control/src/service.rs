//! As a service of the system: what systemd is told (sd_notify(3)), and the rights that are given up once devices are open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::time::Duration;

use caps::{CapSet, Capability, CapsHashSet};
use sd_notify::NotifyState;
use sluice_dataplane::clock::{Nanos, SECOND};

/// What is wanted for as long as the gateway runs: to open a device again that comes back, to set its offloads back, to ask
/// the kernel for neighbours; and packet memory that the device may read, beyond RLIMIT_MEMLOCK.
const NEEDED: [Capability; 5] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_IPC_LOCK,
];

/// Keeps of the calling thread's rights those that are needed, and gets no others by running a program.
///
/// # Errors
/// The kernel refuses; some rights may be gone then.
pub fn renounce() -> Result<(), caps::errors::CapsError> {
    // An old kernel without it keeps the rights to run programs with more, and none are run.
    let _ = nix::sys::prctl::set_no_new_privs();
    let held = caps::read(None, CapSet::Permitted)?;
    if held.contains(&Capability::CAP_SETPCAP) {
        for other in caps::all().difference(&NEEDED.into()) {
            // Those that the kernel does not know are not there.
            let _ = caps::drop(None, CapSet::Bounding, *other);
        }
    }
    let kept: CapsHashSet = held.intersection(&NEEDED.into()).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// Gives up all of the calling thread's rights, and gets none by running a program.
///
/// # Errors
/// The kernel refuses; some rights may be gone then.
pub fn renounce_all() -> Result<(), caps::errors::CapsError> {
    let _ = nix::sys::prctl::set_no_new_privs();
    [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted]
        .into_iter()
        .try_for_each(|set| caps::clear(None, set))
}

/// Whether systemd has started this process, or one that this has taken over from, and wants to be told how it does.
pub fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Has the kernel end this process in order when the one that started it ends, if `it_stays` to be waited for; or else not.
pub fn dies_with_its_parent(it_stays: bool) {
    let signal = it_stays.then_some(nix::sys::signal::Signal::SIGTERM);
    let _ = nix::sys::prctl::set_pdeathsig(signal);
}

/// The system's manager, which may want to hear that the workers go on.
#[derive(Debug)]
pub struct Manager {
    /// Half the time after which it takes the gateway for dead.
    period: Option<Nanos>,
    fed: Nanos,
}

impl Manager {
    /// The gateway is in service.
    pub fn ready(now: Nanos) -> Self {
        tell(NotifyState::Ready);
        Self::new(sd_notify::watchdog_enabled(), now)
    }

    fn new(patience: Option<Duration>, now: Nanos) -> Self {
        let half = |patience: Duration| u64::try_from(patience.as_nanos() / 2).unwrap_or(SECOND);
        Self { period: patience.map(half), fed: now }
    }

    /// From now on another process is the gateway.
    pub fn succeeded_by(process: u32) {
        tell(NotifyState::MainPid(process));
    }

    /// The gateway is about to end.
    pub fn stopping() {
        tell(NotifyState::Stopping);
    }

    /// Says now and then that the gateway is alive: if all workers have turned since the last time that it was said. `turned`
    /// tells whether they have since then.
    pub fn feed(&mut self, now: Nanos, turned: impl FnOnce(Nanos) -> bool) {
        if self.is_due(now, turned) {
            self.fed = now;
            tell(NotifyState::Watchdog);
        }
    }

    fn is_due(&self, now: Nanos, turned: impl FnOnce(Nanos) -> bool) -> bool {
        self.period.is_some_and(|period| now.saturating_sub(self.fed) >= period) && turned(self.fed)
    }
}

/// Nobody listens where there is no systemd.
fn tell(state: NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]);
}

/// Lets this process have as many descriptors as it may, as each client of the API takes one.
///
/// # Errors
/// What the kernel says.
pub fn take_descriptors() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_and_only_while_all_workers_turn() {
        let manager = Manager::new(Some(Duration::from_secs(4)), 10 * SECOND);
        assert!(!manager.is_due(11 * SECOND, |_| true));
        assert!(manager.is_due(12 * SECOND, |since| since == 10 * SECOND));
        assert!(!manager.is_due(20 * SECOND, |_| false));
        assert!(!Manager::new(None, 0).is_due(SECOND, |_| true));
    }

    #[test]
    fn rights_that_are_not_needed_go() {
        let thread = std::thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).unwrap();
            renounce().unwrap();
            let needed: CapsHashSet = NEEDED.into();
            for set in [CapSet::Permitted, CapSet::Effective] {
                let after = caps::read(None, set).unwrap();
                assert_eq!(after, before.intersection(&needed).copied().collect::<CapsHashSet>());
            }
            assert!(caps::read(None, CapSet::Ambient).unwrap().is_empty());
            if before.contains(&Capability::CAP_SETPCAP) {
                assert!(caps::read(None, CapSet::Bounding).unwrap().is_subset(&needed));
            }
            assert!(nix::sys::prctl::get_no_new_privs().unwrap());
        });
        thread.join().unwrap();
    }
}
