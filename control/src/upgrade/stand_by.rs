//! The process that was started, after another has taken over: it stands by for whoever waits for it, a shell or a supervisor that
//! knows no other.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::iterator::Signals;

/// How often signals and the other process are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Passes signals on to the other process, and ends as it does.
///
/// # Errors
/// The other process has failed, in words; it has said why.
pub(crate) fn stand_by(mut child: Child, mut signals: Signals) -> Result<(), String> {
    let process = Pid::from_raw(child.id() as i32);
    loop {
        for signal in signals.pending() {
            if let Ok(signal) = Signal::try_from(signal) {
                let _ = kill(process, signal);
            }
        }
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let how =
                    status.signal().map_or_else(|| status.to_string(), |signal| format!("signal {signal}"));
                return Err(format!("the process that had taken over has failed ({how})"));
            }
            Ok(None) => thread::sleep(LOOK),
            Err(error) => return Err(format!("the process that had taken over is lost: {error}")),
        }
    }
}
