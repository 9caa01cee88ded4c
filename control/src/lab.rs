//! For tests: workers over ports in memory, what is injected there, and the state that is asked about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sluice_dataplane::arena::FramePool;
use sluice_dataplane::clock::{Clock, Nanos};
use sluice_dataplane::crossing;
use sluice_dataplane::port::Port;
use sluice_dataplane::port::memory::{self, MemoryPeer};
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::worker::Worker;

use crate::config::{self, Workers};
use crate::device::machine::Core;
use crate::explain::Packet;
use crate::plan;
use crate::state::{Ends, State};
use crate::watch::Watch;

/// What a file says, with neighbours that need no asking.
pub(crate) fn compiled(name: &str, text: &str, sessions: u32) -> Snapshot {
    let (file, _) = config::load_str(name, text).unwrap_or_else(|report| panic!("{report}"));
    let mut snapshot = config::compile(&file, &[]);
    snapshot.sizes.sessions = sessions;
    snapshot.ports.iter_mut().for_each(|port| port.invent_neighbors = true);
    snapshot
}

/// The far ends of all workers' ports.
pub(crate) struct Peers {
    snapshot: Arc<Snapshot>,
    of_workers: Vec<Vec<MemoryPeer>>,
}

impl Peers {
    /// A packet in words comes in at a worker.
    pub(crate) fn inject(&mut self, worker: usize, packet: &str) {
        let typed = Packet::parse(packet, &self.snapshot).unwrap();
        let frame = typed.frame(&self.snapshot).unwrap();
        assert!(self.of_workers[worker][usize::from(typed.interface)].inject(1, &frame));
    }

    /// Takes what has been sent, and forgets it.
    pub(crate) fn take_all(&mut self) {
        self.of_workers.iter_mut().flatten().for_each(|peer| while peer.collect().is_some() {});
    }
}

/// So many workers, which know each other.
pub(crate) fn workers(snapshot: &Arc<Snapshot>, count: usize) -> (Vec<Worker>, Peers) {
    let mut of_workers = Vec::new();
    let worker = |pool| {
        let (ports, theirs): (Vec<_>, Vec<MemoryPeer>) =
            snapshot.ports.iter().map(|_| memory::pair(16)).unzip();
        of_workers.push(theirs);
        let ports = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
        Worker::new(snapshot.clone(), ports, pool)
    };
    let pools = FramePool::new(64 * count as u32, false).unwrap().split(count);
    let mut workers: Vec<Worker> = pools.into_iter().map(worker).collect();
    crossing::connect(&mut workers);
    (workers, Peers { snapshot: snapshot.clone(), of_workers })
}

/// What can be asked about them.
pub(crate) fn state(snapshot: &Arc<Snapshot>, workers: &mut [Worker]) -> State {
    let ends = |worker: &mut Worker| Ends { counters: worker.reader(), inspector: worker.inspector() };
    let ends: Vec<Ends> = workers.iter_mut().map(ends).collect();
    let cores = [Core { id: 0, node: 0, silicon: 0, isolated: false }];
    let plan = plan::plan(&Workers::default(), &[], &cores).unwrap();
    State::new(snapshot.clone(), ends, Vec::new(), plan, Watch::new(Clock::Virtual(0), []))
}

/// Polls workers as long as `over` is not set, each time `step` nanoseconds later.
pub(crate) fn poll(workers: &mut [Worker], over: &AtomicBool, mut now: Nanos, step: Nanos, pause: impl Fn()) {
    while !over.load(Relaxed) {
        now += step;
        workers.iter_mut().for_each(|worker| _ = worker.poll(now));
        pause();
    }
}

/// Sets what says that a test is over when that ends, if it fails, too.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
