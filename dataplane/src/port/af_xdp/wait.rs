//! Sleeping until frames arrive, for a worker that has been idle for a while.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::time::Duration;

/// Descriptors that are waited for at most; a worker with more wakes by its time-out.
pub const MOST_DESCRIPTORS: usize = 64;

/// Sleeps until one of the descriptors is readable, at most for `timeout` (in whole milliseconds, rounded up). A signal
/// ends the sleep early. Returns whether a descriptor was ready.
pub fn wait(descriptors: &[RawFd], timeout: Duration) -> bool {
    let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; MOST_DESCRIPTORS];
    let count = descriptors.len().min(MOST_DESCRIPTORS);
    for (slot, &fd) in polled.iter_mut().zip(descriptors) {
        slot.fd = fd;
    }
    let milliseconds = timeout.as_micros().div_ceil(1000).min(60_000) as libc::c_int;
    // SAFETY: `polled` has at least `count` entries, which live through the call; poll(2) only reads and writes those, and
    // a descriptor that is no longer open is reported in its entry.
    unsafe { libc::poll(polled.as_mut_ptr(), count as libc::nfds_t, milliseconds) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn it_wakes_for_data_and_for_the_time() {
        let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let fds = [there.as_raw_fd()];
        assert!(!wait(&fds, Duration::from_millis(5)));
        here.write_all(b"frame").unwrap();
        assert!(wait(&fds, Duration::from_secs(60)));
        assert!(!wait(&[], Duration::from_millis(1)));
    }
}
