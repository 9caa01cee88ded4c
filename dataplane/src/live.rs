//! Workers on pinned threads of their own, in the machine's time.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::bell::{self, Bell, Ear};
use crate::clock::{Clock, MILLISECOND, Nanos};
use crate::counters::Counters;
use crate::crossing::Heartbeat;
use crate::port::af_xdp::{MOST_DESCRIPTORS, wait};
use crate::pulse::{self, Meter, Pulse};
use crate::worker::{Closed, Worker};

/// Empty polls for this long, and an adaptive worker goes to sleep.
const IDLE: Nanos = MILLISECOND / 5;
/// How long workers may take to stand still and write their state.
const PATIENCE: Duration = Duration::from_secs(5);
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

/// A worker, and where it is to run.
pub struct Post {
    /// The worker.
    pub worker: Worker,
    /// Its core.
    pub core: usize,
}

/// What others see of a worker that runs.
#[derive(Clone, Debug)]
pub struct Signs {
    /// When it turned last.
    pub heartbeat: Heartbeat,
    /// How its loop goes.
    pub pulse: Pulse,
}

/// How long a worker that stands still waits before it looks whether it is to go on.
const STANDING: Duration = Duration::from_millis(1);

/// What the workers are to do.
const RUN: u8 = 0;
/// Come to an end.
const STOP: u8 = 1;
/// Stand still, and write their state.
const PAUSE: u8 = 2;
/// Leave everything as it is to another process.
const LEAVE: u8 = 3;

/// A worker's number, and the state that it has written, or why not.
type Written = (usize, Result<Vec<u8>, String>);

/// Workers that run.
pub struct Running {
    threads: Vec<JoinHandle<Option<(Counters, Closed)>>>,
    signs: Vec<Signs>,
    order: Arc<AtomicU8>,
    written: Mutex<Receiver<Written>>,
    clock: Clock,
}

impl Running {
    /// Starts each worker on its core, all by one clock. With them comes by worker whether it got its core; one that did
    /// not runs wherever it may.
    ///
    /// # Errors
    /// If a thread cannot be had; none runs then.
    pub fn start(posts: Vec<Post>, habit: Habit, clock: Clock) -> std::io::Result<(Self, Vec<bool>)> {
        let order = Arc::new(AtomicU8::new(RUN));
        let (write, written) = mpsc::sync_channel(posts.len().max(1));
        let bells = posts.iter().map(|_| bell::pair()).collect::<std::io::Result<Vec<_>>>()?;
        let (bells, ears): (Vec<Bell>, Vec<Ear>) = bells.into_iter().unzip();
        let mut running = Self {
            threads: Vec::new(),
            signs: Vec::new(),
            order: order.clone(),
            written: Mutex::new(written),
            clock,
        };
        let mut pinned = Vec::new();
        for (index, (Post { worker, core }, ear)) in posts.into_iter().zip(ears).enumerate() {
            let (tell, told) = mpsc::sync_channel(1);
            let (meter, pulse) = pulse::channel();
            let signs = Signs { heartbeat: worker.heartbeat(), pulse };
            let others =
                if bells.len() > 1 { Others { me: index, bells: bells.clone() } } else { Others::default() };
            let orders = Orders { order: order.clone(), write: write.clone(), me: index };
            let body = move || {
                // Asked of the kernel: the list of cores in use leaves out those that are isolated, which are the best.
                let _ = tell.send(core_affinity::set_for_current(core_affinity::CoreId { id: core }));
                run(worker, habit, clock, meter, ear, &others, &orders)
            };
            match thread::Builder::new().name(format!("sluice-worker-{index}")).spawn(body) {
                Ok(thread) => running.threads.push(thread),
                Err(error) => {
                    running.stop();
                    return Err(error);
                }
            }
            running.signs.push(signs);
            pinned.push(told.recv().unwrap_or(false));
        }
        Ok((running, pinned))
    }

    /// What others see of each worker.
    pub fn signs(&self) -> &[Signs] {
        &self.signs
    }

    /// A worker that has ended by itself, which none ever should.
    pub fn finished(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    /// Ends the workers: by worker its last counters, and where its frames are; `None` for one that had died.
    pub fn stop(self) -> Vec<Option<(Counters, Closed)>> {
        self.order.store(STOP, Ordering::Release);
        self.threads.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    }

    /// Has all workers stand still between two bursts, and returns what each has
    /// [written for the one that takes its place](Worker::hand_over), or why it has not; with the time at which they were told to.
    /// They stand until they are told to [go on](Self::resume), to [leave](Self::leave) or to [stop](Self::stop).
    pub fn pause(&self) -> (Vec<Result<Vec<u8>, String>>, Nanos) {
        let now = self.clock.now();
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // Of an earlier time.
        written.try_iter().for_each(drop);
        self.order.store(PAUSE, Ordering::Release);
        let mut states: Vec<_> =
            self.threads.iter().map(|_| Err("a worker does not stand still".to_owned())).collect();
        for _ in 0..states.len() {
            let Ok((worker, state)) = written.recv_timeout(PATIENCE) else { break };
            if let Some(place) = states.get_mut(worker) {
                *place = state;
            }
        }
        (states, now)
    }

    /// Has workers that stand still go on.
    pub fn resume(&self) {
        self.order.store(RUN, Ordering::Release);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
    }

    /// Ends workers that stand still, and leaves packets, frames and devices to the process that has taken them over.
    pub fn leave(self) {
        self.order.store(LEAVE, Ordering::Release);
        for thread in self.threads {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// How a worker is told what to do.
struct Orders {
    order: Arc<AtomicU8>,
    write: SyncSender<Written>,
    me: usize,
}

impl Orders {
    fn now(&self) -> u8 {
        self.order.load(Ordering::Acquire)
    }
}

/// The other workers' bells.
#[derive(Default)]
struct Others {
    me: usize,
    bells: Vec<Bell>,
}

impl Others {
    /// Wakes those for whom something lies there.
    fn wake(&self, worker: &Worker) {
        if self.bells.is_empty() {
            return;
        }
        bell::messages_left();
        for (other, bell) in self.bells.iter().enumerate() {
            if other != self.me && bell.is_asleep() && worker.has_left_for(other) {
                bell.ring();
            }
        }
    }
}

fn run(
    mut worker: Worker,
    habit: Habit,
    clock: Clock,
    mut meter: Meter,
    mut ear: Ear,
    others: &Others,
    orders: &Orders,
) -> Option<(Counters, Closed)> {
    let mut descriptors: Vec<RawFd> = Vec::with_capacity(MOST_DESCRIPTORS);
    let mut busy_until = 0;
    let mut turn = |worker: &mut Worker, meter: &mut Meter| {
        let now = clock.now();
        let work = worker.poll_probed(now, meter) > 0;
        if work {
            others.wake(worker);
            busy_until = now + IDLE;
        }
        meter.turn(work);
        !work && now > busy_until
    };
    meter.begin();
    loop {
        match orders.now() {
            RUN => {}
            PAUSE => {
                if !stand_still(&mut worker, clock, orders) {
                    return None;
                }
                continue;
            }
            _ => break,
        }
        let is_idle = turn(&mut worker, &mut meter);
        if habit == Habit::Busy || !is_idle {
            continue;
        }
        ear.lie_down();
        // Messages that came just before.
        if turn(&mut worker, &mut meter) {
            let now = clock.now();
            worker.publish(now);
            let due = worker.next_due().clamp(now, now + SLEEP);
            // A port whose device came back has others than before.
            descriptors.clear();
            descriptors.push(ear.descriptor());
            let ports = worker.ports().iter().flat_map(|port| port.descriptors());
            descriptors.extend(ports.take(MOST_DESCRIPTORS - 1));
            wait(&descriptors, Duration::from_nanos(due - now));
            meter.slept();
        }
        ear.get_up();
    }
    // No port may be closed before nobody has lent anything to anybody.
    while !worker.drain(clock.now()) {
        thread::yield_now();
    }
    Some(worker.close(clock.now()))
}

/// Writes the worker's state, and waits for what comes of it. False if it is left to another process.
#[cold]
fn stand_still(worker: &mut Worker, clock: Clock, orders: &Orders) -> bool {
    while !worker.drain(clock.now()) {
        thread::yield_now();
    }
    let state = worker.hand_over(clock.now()).map_err(|error| error.to_string());
    let _ = orders.write.try_send((orders.me, state));
    loop {
        match orders.now() {
            PAUSE => thread::park_timeout(STANDING),
            LEAVE => return false,
            _ => {
                worker.resume();
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::FramePool;
    use crate::burst::Burst;
    use crate::crossing;
    use crate::port::{Outbox, Port, Refused, Sent};
    use crate::snapshot::{PortConfig, Snapshot};
    use std::sync::atomic::AtomicBool;

    /// A port with nothing to receive, at which one worker dies when it is told to.
    struct Idle(Option<Arc<AtomicBool>>);

    impl Port for Idle {
        fn receive(&mut self, _: Nanos, _: &mut FramePool, _: &mut Burst) -> Refused {
            let dies = self.0.as_ref().is_some_and(|dies| dies.load(Ordering::Relaxed));
            assert!(!dies, "as the test wants it");
            Refused::default()
        }

        fn transmit(&mut self, _: Nanos, _: &mut FramePool, _: &mut Outbox) -> Sent {
            Sent::default()
        }

        fn close(&mut self, _: &mut FramePool) -> u32 {
            0
        }
    }

    fn start(habit: Habit, dies: &Arc<AtomicBool>) -> (Running, Clock) {
        let port = PortConfig {
            name: "lan".into(),
            complete_checksums: false,
            any_mac: false,
            invent_neighbors: false,
            host_is_kernel: false,
        };
        let snapshot = Arc::new(Snapshot { ports: vec![port], ..Snapshot::default() });
        let pools = FramePool::new(8, false).unwrap().split(2);
        let worker = |(index, pool)| {
            let port = Idle((index == 1).then(|| dies.clone()));
            Worker::new(snapshot.clone(), vec![Box::new(port)], pool)
        };
        let mut workers: Vec<Worker> = pools.into_iter().enumerate().map(worker).collect();
        crossing::connect(&mut workers);
        let posts = workers.into_iter().map(|worker| Post { worker, core: 0 }).collect();
        let clock = Clock::monotonic();
        (Running::start(posts, habit, clock).unwrap().0, clock)
    }

    fn until(mut done: impl FnMut() -> bool) {
        while !done() {
            thread::yield_now();
        }
    }

    #[test]
    fn workers_turn_until_they_are_stopped() {
        for habit in [Habit::Busy, Habit::Adaptive] {
            let (running, clock) = start(habit, &Arc::default());
            let begun = clock.now();
            until(|| running.signs().iter().all(|signs| signs.heartbeat.last() > begun));
            until(|| running.signs().iter().all(|signs| signs.pulse.turns().turns > 10));
            let asleep = running.signs()[0].pulse.turns().asleep > 0;
            assert_eq!((running.finished(), asleep), (None, habit == Habit::Adaptive));
            let closed: Vec<Closed> = running.stop().into_iter().map(|ended| ended.unwrap().1).collect();
            assert_eq!(closed, [Closed { frames: 4, home: 4 }; 2]);
        }
    }

    #[test]
    fn workers_that_stand_still_go_on_or_leave() {
        let (running, clock) = start(Habit::Busy, &Arc::default());
        let turns = |running: &Running| {
            let begun = clock.now();
            until(|| running.signs().iter().all(|signs| signs.heartbeat.last() > begun));
        };
        turns(&running);
        for _ in 0..3 {
            let before = clock.now();
            let (states, stopped) = running.pause();
            assert!(states.iter().all(Result::is_ok) && (before..=clock.now()).contains(&stopped));
            let last: Vec<Nanos> = running.signs().iter().map(|signs| signs.heartbeat.last()).collect();
            thread::sleep(Duration::from_millis(5));
            assert!(running.signs().iter().map(|signs| signs.heartbeat.last()).eq(last), "they stand still");
            running.resume();
            turns(&running);
        }
        running.pause();
        let closed: Vec<_> = running.stop().into_iter().map(|ended| ended.unwrap().1).collect();
        assert_eq!(closed, [Closed { frames: 4, home: 4 }; 2], "those that stand still can be stopped");
        let (running, _) = start(Habit::Adaptive, &Arc::default());
        running.pause();
        running.leave();
    }

    #[test]
    fn one_that_dies_keeps_no_other_from_ending() {
        let dies = Arc::new(AtomicBool::new(false));
        let (running, _) = start(Habit::Adaptive, &dies);
        assert_eq!(running.finished(), None);
        dies.store(true, Ordering::Relaxed);
        until(|| running.finished().is_some());
        assert_eq!(running.finished(), Some(1));
        let ended = running.stop();
        assert!(ended[1].is_none());
        assert_eq!(ended[0].as_ref().unwrap().1, Closed { frames: 4, home: 4 });
    }
}
