//! A replay by several workers: each packet goes to one of them, whichever, as by a NIC that knows nothing of flows, and to
//! its end before the next one comes in. So the outcome is the same each time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_dataplane::arena::FramePool;
use sluice_dataplane::burst::Burst;
use sluice_dataplane::clock::Nanos;
use sluice_dataplane::counters::Counters;
use sluice_dataplane::crossing;
use sluice_dataplane::port::pcap::PcapPort;
use sluice_dataplane::port::{Outbox, Port, Refused, Sent};
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::stage::owner::MOST_WORKERS;
use sluice_dataplane::table::key::mix;
use sluice_dataplane::worker::Worker;

use super::{DRAIN, Pace, ReplayError, SEED};

/// Which worker may receive by which port, for one packet.
type Turn = Arc<Mutex<Option<(usize, usize)>>>;
type Shared = Arc<Mutex<PcapPort>>;

/// One worker's part of a port.
struct Part {
    port: Shared,
    index: usize,
    worker: usize,
    turn: Turn,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port for Part {
    fn receive(&mut self, now: Nanos, pool: &mut FramePool, burst: &mut Burst) -> Refused {
        let turn = lock(&self.turn).take_if(|turn| *turn == (self.worker, self.index));
        if turn.is_none() {
            return Refused::default();
        }
        lock(&self.port).receive_some(1, now, pool, burst)
    }

    fn transmit(&mut self, now: Nanos, pool: &mut FramePool, outbox: &mut Outbox) -> Sent {
        lock(&self.port).transmit(now, pool, outbox)
    }

    fn close(&mut self, pool: &mut FramePool) -> u32 {
        // The others may still send.
        if Arc::strong_count(&self.port) > 1 { 0 } else { lock(&self.port).close(pool) }
    }
}

/// Replays what the ports hold by so many workers, 16 at the most; the sum of their counters.
pub(super) fn run(
    snapshot: &Arc<Snapshot>,
    ports: Vec<PcapPort>,
    count: usize,
    pace: Pace,
) -> Result<Counters, ReplayError> {
    let turn = Turn::default();
    let ports: Vec<Shared> = ports.into_iter().map(|port| Arc::new(Mutex::new(port))).collect();
    let mut workers = Vec::new();
    for worker in 0..count.min(MOST_WORKERS) {
        let part = |(index, port): (usize, &Shared)| {
            Box::new(Part { port: port.clone(), index, worker, turn: turn.clone() }) as Box<dyn Port>
        };
        let parts = ports.iter().enumerate().map(part).collect();
        workers.push(Worker::new(snapshot.clone(), parts, FramePool::new(snapshot.sizes.frames, true)?));
    }
    crossing::connect(&mut workers);
    Ok(drive(workers, &ports, &turn, pace))
}

fn drive(mut workers: Vec<Worker>, ports: &[Shared], turn: &Turn, mut pace: Pace) -> Counters {
    let (mut now, mut packets) = (0, 0u64);
    loop {
        let arrivals = ports.iter().enumerate().filter_map(|(i, port)| Some((lock(port).next_arrival()?, i)));
        let Some((arrival, port)) = arrivals.min() else { break };
        let due = if now == 0 { arrival } else { next_due(&workers).max(now + 1) };
        now = arrival.min(due).max(now);
        pace.wait(now);
        if arrival <= now {
            packets += 1;
            pace.took(1);
            let any = mix(packets ^ SEED, 0x9e37_79b9_7f4a_7c15) % workers.len() as u64;
            *lock(turn) = Some((any as usize, port));
        }
        settle(&mut workers, now);
    }
    let end = now.saturating_add(DRAIN);
    while workers.iter().any(|worker| worker.held() > 0) && now < end {
        now = next_due(&workers).clamp(now + 1, end);
        settle(&mut workers, now);
    }
    let mut drained = vec![false; workers.len()];
    while drained.contains(&false) && now < end.saturating_add(DRAIN) {
        drained = workers.iter_mut().map(|worker| worker.drain(now)).collect();
        now += 1;
    }
    let mut sum: Option<Counters> = None;
    for mut worker in workers {
        let counters = worker.close(now).0;
        match &mut sum {
            Some(sum) => sum.merge(counters),
            None => sum = Some(counters),
        }
    }
    ports.iter().for_each(|port| _ = lock(port).finish());
    sum.unwrap_or_default()
}

fn next_due(workers: &[Worker]) -> Nanos {
    workers.iter().map(Worker::next_due).min().unwrap_or(Nanos::MAX)
}

/// Polls them by turns until none has anything to do.
fn settle(workers: &mut [Worker], now: Nanos) {
    while workers.iter_mut().map(|worker| worker.poll(now)).sum::<usize>() > 0 {}
}
