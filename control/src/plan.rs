//! Which worker runs on which core, and which receive queue of which port it owns.
//!
//! A pure function of configuration, devices and machine, so that `sluice show workers` and a restart give the same map.

use serde::{Deserialize, Serialize};

use crate::config::Workers;
use crate::device::machine::Core;

/// The receive queues of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortQueues {
    /// The port's name.
    pub port: String,
    /// How many; at least one.
    pub queues: u32,
    /// The NUMA node that its device is at, where that is known.
    pub node: Option<u32>,
}

/// A receive queue: the port by its index, and the queue's number on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Queue {
    /// Index of the port.
    pub port: usize,
    /// Number of the queue.
    pub queue: u32,
}

/// What a worker runs on, and owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerPlan {
    /// Its core.
    pub core: usize,
    /// The core's NUMA node; none for a core that this process does not see.
    pub node: Option<u32>,
    /// In ascending order.
    pub queues: Vec<Queue>,
}

/// The map: every queue of every port has exactly one worker, and no worker more than one queue more than another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// At least one.
    pub workers: Vec<WorkerPlan>,
    ports: Vec<String>,
}

/// Why there is no map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "[workers]: {wanted} workers, but this process has {have} cores; write count = {have}, or name `cores`"
)]
pub struct TooFewCores {
    /// Workers configured.
    pub wanted: usize,
    /// Cores that there are.
    pub have: usize,
}

/// A worker as `sluice show workers` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerRow {
    /// Its number.
    pub worker: usize,
    /// Its core.
    pub core: usize,
    /// The core's NUMA node.
    pub numa_node: Option<u32>,
    /// The receive queues that it owns, as `PORT/QUEUE`.
    pub queues: Vec<String>,
}

/// Makes the map. Cores that are not named are chosen: for each worker one of the node that has most queues for each of
/// its workers, of those an isolated one, one whose silicon no other worker uses, the last.
///
/// # Errors
/// If cores are to be chosen and there are too few.
pub fn plan(workers: &Workers, ports: &[PortQueues], cores: &[Core]) -> Result<Plan, TooFewCores> {
    let chosen: Vec<usize> = if workers.cores.is_empty() {
        choose_cores(workers.count.max(1), ports, cores)?
    } else {
        workers.cores.clone()
    };
    let node = |id| cores.iter().find(|core| core.id == id).map(|core| core.node);
    let mut workers: Vec<WorkerPlan> =
        chosen.into_iter().map(|core| WorkerPlan { core, node: node(core), queues: Vec::new() }).collect();
    share_out(&mut workers, ports);
    Ok(Plan { workers, ports: ports.iter().map(|port| port.port.clone()).collect() })
}

impl Plan {
    /// The rows of `sluice show workers`.
    pub fn rows(&self) -> Vec<WorkerRow> {
        let name = |queue: &Queue| {
            let port = self.ports.get(queue.port).map_or("", String::as_str);
            format!("{port}/{}", queue.queue)
        };
        let row = |(worker, plan): (usize, &WorkerPlan)| WorkerRow {
            worker,
            core: plan.core,
            numa_node: plan.node,
            queues: plan.queues.iter().map(name).collect(),
        };
        self.workers.iter().enumerate().map(row).collect()
    }

    /// By queue of a port, the worker that owns it.
    pub fn owners(&self, port: usize) -> Vec<usize> {
        let queues = self.workers.iter().enumerate().flat_map(|(worker, plan)| {
            plan.queues.iter().filter(|queue| queue.port == port).map(move |queue| (queue.queue, worker))
        });
        let mut queues: Vec<(u32, usize)> = queues.collect();
        queues.sort_unstable();
        queues.into_iter().map(|(_, worker)| worker).collect()
    }

    /// Workers that have nothing to receive.
    pub fn idle(&self) -> usize {
        self.workers.iter().filter(|worker| worker.queues.is_empty()).count()
    }
}

fn choose_cores(count: usize, ports: &[PortQueues], cores: &[Core]) -> Result<Vec<usize>, TooFewCores> {
    if count > cores.len() {
        return Err(TooFewCores { wanted: count, have: cores.len() });
    }
    let queues_at = |node: u32| -> u64 {
        ports.iter().filter(|port| port.node == Some(node)).map(|port| u64::from(port.queues)).sum()
    };
    let mut taken: Vec<Core> = Vec::with_capacity(count);
    while taken.len() < count {
        let workers_at = |node| taken.iter().filter(|core| core.node == node).count() as u64;
        let free = cores.iter().filter(|core| !taken.contains(core));
        let best = free.max_by(|a, b| {
            // Queues for each worker of the node, this one counted, compared without dividing.
            let need = (queues_at(a.node) * (workers_at(b.node) + 1))
                .cmp(&(queues_at(b.node) * (workers_at(a.node) + 1)));
            let shares = |core: &Core| taken.iter().any(|other| other.silicon == core.silicon);
            let rank = |core: &Core| (core.isolated, !shares(core), core.id);
            need.then_with(|| rank(a).cmp(&rank(b)))
        });
        let Some(&best) = best else { return Err(TooFewCores { wanted: count, have: cores.len() }) };
        taken.push(best);
    }
    Ok(taken.into_iter().map(|core| core.id).collect())
}

/// First to workers of the port's own node, as far as their shares go; then to whoever has room.
fn share_out(workers: &mut [WorkerPlan], ports: &[PortQueues]) {
    let total: usize = ports.iter().map(|port| port.queues as usize).sum();
    let share = total / workers.len();
    let mut extra = total % workers.len();
    let mut left = Vec::new();
    let mut give = |queue: Queue, node: Option<u32>, extra: &mut usize| {
        let on_port = |worker: &WorkerPlan| worker.queues.iter().filter(|q| q.port == queue.port).count();
        let fits = |worker: &WorkerPlan| {
            let has_room = worker.queues.len() < share || (worker.queues.len() == share && *extra > 0);
            has_room && (node.is_none() || worker.node == node)
        };
        // Of equals the first, so that the same queues of two ports meet on one worker.
        let mut fitting = workers.iter_mut().filter(|worker| fits(worker)).collect::<Vec<_>>();
        fitting.sort_by_key(|worker| (on_port(worker), worker.queues.len()));
        let Some(worker) = fitting.into_iter().next() else { return false };
        if worker.queues.len() == share {
            *extra -= 1;
        }
        worker.queues.push(queue);
        true
    };
    for (port, PortQueues { queues, node, .. }) in ports.iter().enumerate() {
        for queue in (0..*queues).map(|queue| Queue { port, queue }) {
            if node.is_none() || !give(queue, *node, &mut extra) {
                left.push(queue);
            }
        }
    }
    for queue in left {
        let given = give(queue, None, &mut extra);
        debug_assert!(given, "shares add up to all queues");
    }
    workers.iter_mut().for_each(|worker| worker.queues.sort_unstable());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn core(id: usize, node: u32) -> Core {
        Core { id, node, silicon: id, isolated: false }
    }

    fn port(name: &str, queues: u32, node: Option<u32>) -> PortQueues {
        PortQueues { port: name.into(), queues, node }
    }

    fn workers(count: usize) -> Workers {
        Workers { count, ..Workers::default() }
    }

    fn queues(plan: &Plan) -> Vec<Vec<String>> {
        plan.rows().into_iter().map(|row| row.queues).collect()
    }

    #[test]
    fn one_worker_owns_all_queues_on_the_last_core() {
        let ports = [port("lan", 2, None), port("wan", 1, None)];
        let plan = plan(&workers(1), &ports, &[core(0, 0), core(1, 0)]).unwrap();
        assert_eq!(plan.workers[0].core, 1);
        assert_eq!(queues(&plan), [["lan/0", "lan/1", "wan/0"]]);
    }

    #[test]
    fn the_same_queues_of_two_ports_meet_on_one_worker() {
        let ports = [port("lan", 4, None), port("wan", 4, None)];
        let plan = plan(&workers(2), &ports, &[core(0, 0), core(1, 0)]).unwrap();
        assert_eq!(
            queues(&plan),
            [["lan/0", "lan/2", "wan/0", "wan/2"], ["lan/1", "lan/3", "wan/1", "wan/3"]]
        );
    }

    #[test]
    fn owners_are_in_the_order_of_the_queues() {
        let ports = [port("lan", 3, None), port("wan", 2, None)];
        let plan = plan(&workers(2), &ports, &[core(0, 0), core(1, 0)]).unwrap();
        assert_eq!((plan.owners(0), plan.owners(1), plan.owners(2)), (vec![0, 1, 0], vec![1, 0], vec![]));
    }

    #[test]
    fn cores_are_taken_at_the_nodes_of_the_devices() {
        let cores: Vec<Core> = (0..8).map(|id| core(id, id as u32 / 4)).collect();
        let near = plan(&workers(2), &[port("lan", 8, Some(0))], &cores).unwrap();
        assert!(near.workers.iter().all(|worker| worker.node == Some(0)));
        let both = [port("lan", 4, Some(0)), port("wan", 4, Some(1))];
        let both = plan(&workers(4), &both, &cores).unwrap();
        for worker in &both.workers {
            let own = worker.node.unwrap() as usize;
            assert!(worker.queues.len() == 2 && worker.queues.iter().all(|queue| queue.port == own));
        }
    }

    #[test]
    fn isolated_cores_come_first_and_then_silicon_of_its_own() {
        let mut cores: Vec<Core> = (0..4).map(|id| Core { silicon: id % 2, ..core(id, 0) }).collect();
        let chosen = |cores: &[Core], count| {
            let plan = plan(&workers(count), &[port("lan", 4, None)], cores).unwrap();
            plan.workers.iter().map(|worker| worker.core).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&cores, 4), [3, 2, 1, 0]);
        assert_eq!(chosen(&cores, 2), [3, 2]);
        cores[0].isolated = true;
        assert_eq!(chosen(&cores, 2), [0, 3]);
        let threads: Vec<Core> = (0..4).map(|id| Core { silicon: id / 2 * 2, ..core(id, 0) }).collect();
        assert_eq!(chosen(&threads, 2), [3, 1]);
    }

    #[test]
    fn named_cores_are_taken_as_they_are() {
        let named = Workers { cores: vec![5, 1], count: 2, ..Workers::default() };
        let plan = plan(&named, &[port("lan", 1, None)], &[core(0, 0), core(1, 0)]).unwrap();
        assert_eq!(plan.workers.iter().map(|worker| worker.core).collect::<Vec<_>>(), [5, 1]);
        assert_eq!((plan.workers[0].node, plan.workers[1].node, plan.idle()), (None, Some(0), 1));
    }

    #[test]
    fn more_workers_than_cores_are_refused() {
        let error = plan(&workers(3), &[port("lan", 1, None)], &[core(0, 0)]).unwrap_err();
        assert_eq!(error, TooFewCores { wanted: 3, have: 1 });
        assert!(error.to_string().contains("count = 1"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

        /// Every queue has one worker, the load is even, the order of the machine's cores does not matter, and a worker
        /// has a foreign queue only if those of the queue's node are full.
        #[test]
        fn every_queue_is_owned_once_and_evenly(
            ports in prop::collection::vec((1u32..20, prop::option::of(0u32..3)), 1..6),
            nodes in prop::collection::vec((0u32..3, any::<bool>(), 0usize..8), 1..12),
            count in 1usize..12,
        ) {
            let ports: Vec<PortQueues> =
                ports.iter().enumerate().map(|(i, &(queues, node))| port(&format!("p{i}"), queues, node)).collect();
            let cores: Vec<Core> = nodes
                .iter()
                .enumerate()
                .map(|(id, &(node, isolated, silicon))| Core { id, node, silicon: silicon.min(id), isolated })
                .collect();
            let count = count.min(cores.len());
            let made = plan(&workers(count), &ports, &cores).unwrap();
            let mut reversed = cores.clone();
            reversed.reverse();
            prop_assert_eq!(&plan(&workers(count), &ports, &reversed).unwrap(), &made);

            let mut owned: Vec<Queue> = made.workers.iter().flat_map(|worker| worker.queues.clone()).collect();
            owned.sort_unstable();
            let all: Vec<Queue> = ports
                .iter()
                .enumerate()
                .flat_map(|(port, queues)| (0..queues.queues).map(move |queue| Queue { port, queue }))
                .collect();
            prop_assert_eq!(owned, all);

            let loads = || made.workers.iter().map(|worker| worker.queues.len());
            prop_assert!(loads().max().unwrap() - loads().min().unwrap() <= 1);
            let mut taken: Vec<usize> = made.workers.iter().map(|worker| worker.core).collect();
            taken.sort_unstable();
            taken.dedup();
            prop_assert_eq!(taken.len(), count);

            let least = loads().min().unwrap();
            for worker in &made.workers {
                for queue in &worker.queues {
                    let node = ports[queue.port].node;
                    if node.is_some() && worker.node != node {
                        let own = |q: &Queue| ports[q.port].node == node;
                        let full = made.workers.iter().filter(|other| other.node == node).all(|other| {
                            other.queues.len() >= least && other.queues.iter().all(own)
                        });
                        prop_assert!(full, "{queue:?} could have stayed at its node");
                    }
                }
            }
        }
    }
}
