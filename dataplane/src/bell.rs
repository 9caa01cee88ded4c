//! How workers wake each other: one that sleeps in poll(2) for its ports' sake hears of messages by a descriptor more.
//!
//! A worker says that it sleeps before it looks for messages a last time; the others leave a message before they look
//! whether it sleeps. With a fence in between on both sides, one of the two sees the other.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// By which others wake a worker.
#[derive(Clone, Debug)]
pub struct Bell {
    asleep: Arc<AtomicBool>,
    rope: Arc<UnixStream>,
}

/// The worker's end.
#[derive(Debug)]
pub struct Ear {
    asleep: Arc<AtomicBool>,
    stream: UnixStream,
}

/// Makes the two ends.
///
/// # Errors
/// If there are no descriptors left.
pub fn pair() -> io::Result<(Bell, Ear)> {
    let (rope, stream) = UnixStream::pair()?;
    rope.set_nonblocking(true)?;
    stream.set_nonblocking(true)?;
    let asleep = Arc::new(AtomicBool::new(false));
    Ok((Bell { asleep: asleep.clone(), rope: Arc::new(rope) }, Ear { asleep, stream }))
}

impl Bell {
    /// Whether the worker sleeps, or is about to. To be asked behind [`messages_left`].
    #[inline]
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// Wakes it.
    #[cold]
    pub fn ring(&self) {
        // If there is no room, it has been rung often enough.
        let _ = (&*self.rope).write(&[0]);
    }
}

/// Orders what was left for others ahead of the look whether they sleep.
#[inline]
pub fn messages_left() {
    fence(Ordering::SeqCst);
}

impl Ear {
    /// Readable once the bell is rung.
    pub fn descriptor(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// The worker is about to sleep, and looks for messages once more.
    pub fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// It is awake.
    pub fn get_up(&mut self) {
        self.asleep.store(false, Ordering::Relaxed);
        let mut rings = [0; 64];
        while self.stream.read(&mut rings).is_ok_and(|count| count == rings.len()) {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::port::af_xdp::wait;

    #[test]
    fn who_sleeps_is_woken() {
        let (bell, mut ear) = pair().unwrap();
        assert!(!bell.is_asleep());
        ear.lie_down();
        assert!(bell.is_asleep());
        bell.ring();
        assert!(wait(&[ear.descriptor()], Duration::from_secs(60)));
        ear.get_up();
        assert!(!bell.is_asleep() && !wait(&[ear.descriptor()], Duration::from_millis(1)));
        (0..100_000).for_each(|_| bell.ring());
        ear.get_up();
        assert!(!wait(&[ear.descriptor()], Duration::from_millis(1)));
    }

    /// Were a message overlooked, it would wait for the sleep's end.
    #[test]
    fn no_message_is_overlooked() {
        const COUNT: u64 = 2000;
        let (bell, mut ear) = pair().unwrap();
        let (left, taken) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for message in 1..=COUNT {
                    left.store(message, Ordering::Release);
                    messages_left();
                    if bell.is_asleep() {
                        bell.ring();
                    }
                    while taken.load(Ordering::Acquire) < message {
                        thread::yield_now();
                    }
                }
            });
            while taken.load(Ordering::Relaxed) < COUNT {
                ear.lie_down();
                let message = left.load(Ordering::Acquire);
                if message == taken.load(Ordering::Relaxed) {
                    assert!(wait(&[ear.descriptor()], Duration::from_secs(60)), "overlooked");
                }
                ear.get_up();
                taken.store(left.load(Ordering::Acquire), Ordering::Release);
            }
        });
    }
}
