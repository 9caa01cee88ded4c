//! How a port whose device went away and came back gets the new device's queues: the control side opens them and leaves
//! them here; the worker takes them between two bursts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::AfXdpPort;

/// A place for one port.
#[derive(Default)]
pub(super) struct Renewal {
    is_there: AtomicBool,
    port: Mutex<Option<Box<AfXdpPort>>>,
}

impl Renewal {
    /// Leaves a port here. Returns the one that lay here still, untouched, if there was one.
    pub(super) fn leave(&self, port: AfXdpPort) -> Option<Box<AfXdpPort>> {
        let mut place = self.port.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.is_there.store(true, Ordering::Release);
        place.replace(Box::new(port))
    }

    /// Takes the port that lies here. Never waits: one that is just being left is taken at the next call.
    #[inline]
    pub(super) fn take(&self) -> Option<Box<AfXdpPort>> {
        if self.is_there.load(Ordering::Relaxed) { self.take_now() } else { None }
    }

    #[cold]
    fn take_now(&self) -> Option<Box<AfXdpPort>> {
        let mut place = self.port.try_lock().ok()?;
        self.is_there.store(false, Ordering::Relaxed);
        place.take()
    }
}
