//! A worker on its own pinned thread, in the machine's time.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::{Clock, MILLISECOND, Nanos};
use crate::counters::Counters;
use crate::port::af_xdp::{MOST_DESCRIPTORS, wait};
use crate::worker::{Closed, Worker};

/// Empty polls for this long, and an adaptive worker goes to sleep.
const IDLE: Nanos = MILLISECOND / 5;
/// The longest sleep: what is due with time, and questions from the control side, wait no longer.
const SLEEP: Nanos = 10 * MILLISECOND;

/// How a worker waits for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// It spins: the lowest latency, and a whole core.
    Busy,
    /// It sleeps in poll(2) while nothing comes.
    Adaptive,
}

/// A worker that runs.
pub struct Running {
    thread: JoinHandle<(Counters, Closed)>,
    stop: Arc<AtomicBool>,
}

impl Running {
    /// Starts a worker on a core. Where the core cannot be had, it runs wherever it may, and says so by
    /// [`pinned`](Self::start)'s second value.
    pub fn start(worker: Worker, core: usize, habit: Habit) -> std::io::Result<(Self, bool)> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (tell, pinned) = mpsc::sync_channel(1);
        let body = move || {
            // Asked of the kernel: the list of cores in use leaves out those that are isolated, which are the best.
            let _ = tell.send(core_affinity::set_for_current(core_affinity::CoreId { id: core }));
            run(worker, habit, &stopped)
        };
        let thread = thread::Builder::new().name("sluice-worker-0".into()).spawn(body)?;
        Ok((Self { thread, stop }, pinned.recv().unwrap_or(false)))
    }

    /// Whether the worker has ended by itself, which it never should.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the worker: its last counters, and where its frames are. `None` if it had died.
    pub fn stop(self) -> Option<(Counters, Closed)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok()
    }
}

fn run(mut worker: Worker, habit: Habit, stop: &AtomicBool) -> (Counters, Closed) {
    let clock = Clock::monotonic();
    let mut descriptors: Vec<RawFd> = Vec::with_capacity(MOST_DESCRIPTORS);
    let mut busy_until = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        if worker.poll(now) > 0 {
            busy_until = now + IDLE;
        } else if habit == Habit::Adaptive && now > busy_until {
            worker.publish(now);
            let due = worker.next_due().clamp(now, now + SLEEP);
            // A port whose device came back has others than before.
            descriptors.clear();
            let ports = worker.ports().iter().flat_map(|port| port.descriptors());
            descriptors.extend(ports.take(MOST_DESCRIPTORS));
            wait(&descriptors, Duration::from_nanos(due - now));
        }
    }
    worker.close(clock.now())
}
