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
}

/// What each worker was asked of each limit, in bytes, since the limits are what they are; or what each class wants, bits per
/// second. By worker, then by limit or class.
pub(crate) type Offered = Arc<[Row]>;

/// One worker's numbers, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Row(pub(crate) Box<[AtomicU64]>);

/// For so many workers, each with so many limits or classes.
pub(crate) fn offered(workers: usize, limits: usize) -> Offered {
    (0..workers).map(|_| Row((0..limits).map(|_| AtomicU64::new(0)).collect())).collect()
}

/// The numbers of all workers.
pub(crate) type Statuses = Arc<[Status]>;

impl Status {
    /// For so many workers.
    pub(crate) fn all(workers: usize) -> Statuses {
        (0..workers).map(|_| Self::default()).collect()
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
