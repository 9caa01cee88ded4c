//! Sleeping until frames arrive, for a worker that has been idle for a while.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::time::Duration;

/// Descriptors that are waited for at most; a worker with more wakes by its time-out.
pub const MOST_DESCRIPTORS: usize = 64;

/// Sleeps until one of the descriptors is readable, at most for `timeout`, a minute at the longest. A signal
/// ends the sleep early. Returns whether a descriptor was ready.
pub fn wait(descriptors: &[RawFd], timeout: Duration) -> bool {
    let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; MOST_DESCRIPTORS];
    let count = descriptors.len().min(MOST_DESCRIPTORS);
    for (slot, &fd) in polled.iter_mut().zip(descriptors) {
        slot.fd = fd;
    }
    // Milliseconds, as poll(2) counts them, are too coarse for a shaper.
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().min(60) as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: `polled` has at least `count` entries, which live through the call, as does `timeout`; ppoll(2) only reads and
    // writes those, and a descriptor that is no longer open is reported in its entry. No signal mask is given.
    unsafe {
        libc::ppoll(polled.as_mut_ptr(), count as libc::nfds_t, &raw const timeout, std::ptr::null()) > 0
    }
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
