//! What each worker lets everybody see: numbers with one writer each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::Nanos;

/// One worker's numbers, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Status {
    /// When it last polled.
    beat: AtomicU64,
    /// It receives no more, and none of its frames is lent.
    drained: AtomicBool,
    /// Bytes that each limit was asked about.
    pub(crate) offered: Box<[AtomicU64]>,
}

/// The numbers of all workers.
pub(crate) type Statuses = Arc<[Status]>;

impl Status {
    /// For so many workers, each with so many limits.
    pub(crate) fn all(workers: usize, limits: usize) -> Statuses {
        let status = |_| {
            let offered = (0..limits).map(|_| AtomicU64::new(0)).collect();
            Self { offered, ..Self::default() }
        };
        (0..workers).map(status).collect()
    }

    pub(crate) fn beat(&self, now: Nanos) {
        self.beat.store(now, Ordering::Relaxed);
    }

    pub(crate) fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Release);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }
}

/// Tells whether a worker still polls.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    statuses: Statuses,
    worker: usize,
}

impl Heartbeat {
    pub(crate) fn new(statuses: Statuses, worker: usize) -> Self {
        Self { statuses, worker }
    }

    /// When the worker last polled, in its own clock's time; 0 if it never has.
    pub fn last(&self) -> Nanos {
        self.statuses.get(self.worker).map_or(0, |status| status.beat.load(Ordering::Relaxed))
    }
}
