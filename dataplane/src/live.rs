//! Workers on pinned threads of their own, in the machine's time.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::{Clock, MILLISECOND, Nanos};
use crate::counters::Counters;
use crate::port::af_xdp::{MOST_DESCRIPTORS, wait};
use crate::pulse::{self, Meter, Pulse};
use crate::worker::{Closed, Worker};

/// Empty polls for this long, and an adaptive worker goes to sleep.
const IDLE: Nanos = MILLISECOND / 5;
/// The longest sleep of a worker that is alone: what is due with time, and questions from the control side, wait no longer.
const SLEEP: Nanos = 10 * MILLISECOND;
/// The same, of one among several: nor do the others' questions.
const LIGHT_SLEEP: Nanos = MILLISECOND;
/// For how long a worker that ends waits for the others to be through with what it lent them.
const DRAIN: Nanos = 300 * MILLISECOND;

/// How a worker waits for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// It spins: the lowest latency, and a whole core.
    Busy,
    /// It sleeps in poll(2) while nothing comes.
    Adaptive,
}

/// A worker, and where it is to run.
pub struct Post {
    /// The worker.
    pub worker: Worker,
    /// Its core.
    pub core: usize,
}

/// Workers that run.
pub struct Running {
    threads: Vec<JoinHandle<(Counters, Closed)>>,
    pulses: Vec<Pulse>,
    common: Arc<Common>,
}

/// What the threads have in common.
struct Common {
    stop: AtomicBool,
    /// By worker: whether it has nothing left with the others, or has died.
    through: Vec<AtomicBool>,
}

impl Running {
    /// Starts each worker on its core, all by one clock. With them comes by worker whether it got its core; one that did
    /// not runs wherever it may.
    ///
    /// # Errors
    /// If a thread cannot be had; none runs then.
    pub fn start(posts: Vec<Post>, habit: Habit, clock: Clock) -> std::io::Result<(Self, Vec<bool>)> {
        let through = posts.iter().map(|_| AtomicBool::new(false)).collect();
        let common = Arc::new(Common { stop: AtomicBool::new(false), through });
        let mut running = Self { threads: Vec::new(), pulses: Vec::new(), common: common.clone() };
        let mut pinned = Vec::new();
        for (index, Post { worker, core }) in posts.into_iter().enumerate() {
            let common = common.clone();
            let (tell, told) = mpsc::sync_channel(1);
            let (meter, pulse) = pulse::channel();
            let body = move || {
                // Asked of the kernel: the list of cores in use leaves out those that are isolated, which are the best.
                let _ = tell.send(core_affinity::set_for_current(core_affinity::CoreId { id: core }));
                let _through = Through { common: &common, index };
                run(worker, index, habit, clock, meter, &common)
            };
            match thread::Builder::new().name(format!("sluice-worker-{index}")).spawn(body) {
                Ok(thread) => running.threads.push(thread),
                Err(error) => {
                    running.stop();
                    return Err(error);
                }
            }
            running.pulses.push(pulse);
            pinned.push(told.recv().unwrap_or(false));
        }
        Ok((running, pinned))
    }

    /// How each worker's loop goes.
    pub fn pulses(&self) -> &[Pulse] {
        &self.pulses
    }

    /// A worker that has ended by itself, which none ever should.
    pub fn finished(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    /// Ends the workers: by worker its last counters, and where its frames are; `None` for one that had died.
    pub fn stop(self) -> Vec<Option<(Counters, Closed)>> {
        self.common.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().ok()).collect()
    }
}

/// However a worker's thread ends, the others do not wait for it.
struct Through<'a> {
    common: &'a Common,
    index: usize,
}

impl Drop for Through<'_> {
    fn drop(&mut self) {
        self.common.is_through(self.index);
    }
}

impl Common {
    fn is_through(&self, index: usize) {
        if let Some(through) = self.through.get(index) {
            through.store(true, Ordering::Release);
        }
    }

    fn all_through(&self) -> bool {
        self.through.iter().all(|through| through.load(Ordering::Acquire))
    }
}

fn run(
    mut worker: Worker,
    index: usize,
    habit: Habit,
    clock: Clock,
    mut meter: Meter,
    common: &Common,
) -> (Counters, Closed) {
    let sleep = if common.through.len() > 1 { LIGHT_SLEEP } else { SLEEP };
    let mut descriptors: Vec<RawFd> = Vec::with_capacity(MOST_DESCRIPTORS);
    let mut busy_until = 0;
    meter.begin();
    while !common.stop.load(Ordering::Relaxed) {
        let now = clock.now();
        meter.beat(now);
        let work = worker.poll_probed(now, &mut meter) > 0;
        meter.turn(work);
        if work {
            busy_until = now + IDLE;
        } else if habit == Habit::Adaptive && now > busy_until {
            worker.publish(now);
            let due = worker.next_due().clamp(now, now + sleep);
            // A port whose device came back has others than before.
            descriptors.clear();
            let ports = worker.ports().iter().flat_map(|port| port.descriptors());
            descriptors.extend(ports.take(MOST_DESCRIPTORS));
            wait(&descriptors, Duration::from_nanos(due - now));
            meter.slept();
        }
    }
    drain(&mut worker, index, clock, common);
    worker.close(clock.now())
}

/// Serves the others until nobody has lent anything to anybody. No port may be closed before.
fn drain(worker: &mut Worker, index: usize, clock: Clock, common: &Common) {
    let patience = clock.now() + DRAIN;
    loop {
        let now = clock.now();
        if is_drained(worker, now) {
            common.is_through(index);
        }
        if common.all_through() || now > patience {
            return;
        }
        thread::yield_now();
    }
}

/// Workers that are not connected lend nothing to each other.
fn is_drained(_worker: &mut Worker, _now: Nanos) -> bool {
    true
}
