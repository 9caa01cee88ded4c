//! Which worker has which side of a device's queues.
//!
//! A socket's receive and fill ring are one worker's, its transmit and completion ring one worker's, but they need not be
//! the same worker's: a worker that receives from none of a device's queues still sends by a ring of its own.

/// The workers of a device's queues, by queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sides {
    /// Who receives.
    pub(super) receivers: Vec<usize>,
    /// Who sends; none on a queue that no worker needs for it.
    pub(super) senders: Vec<Option<usize>>,
}

impl Sides {
    /// Of a device of `queues` queues and these owners, for `workers` workers. Queues beyond the owners' list, and those of
    /// owners that there are not, go round. A worker sends on the first queue that it receives from, or else on the first
    /// that is left over. None if there are fewer queues than workers, so that one could not send.
    pub(super) fn new(owners: &[usize], queues: u32, workers: usize) -> Option<Self> {
        let queues = queues as usize;
        if queues < workers || workers == 0 {
            return None;
        }
        let owner = |queue: usize| match owners.get(queue) {
            Some(&owner) if owner < workers => owner,
            _ => queue % workers,
        };
        let receivers: Vec<usize> = (0..queues).map(owner).collect();
        let mut senders = vec![None; queues];
        let mut without = Vec::new();
        for worker in 0..workers {
            match receivers.iter().position(|&receiver| receiver == worker) {
                Some(queue) => senders[queue] = Some(worker),
                None => without.push(worker),
            }
        }
        let left = senders.iter_mut().filter(|sender| sender.is_none());
        left.zip(without).for_each(|(sender, worker)| *sender = Some(worker));
        Some(Self { receivers, senders })
    }

    /// How many queues a worker receives from.
    pub(super) fn received_by(&self, worker: usize) -> usize {
        self.receivers.iter().filter(|&&receiver| receiver == worker).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_worker_sends_on_the_first_queue() {
        let sides = Sides::new(&[], 3, 1).unwrap();
        assert_eq!((sides.receivers, sides.senders), (vec![0; 3], vec![Some(0), None, None]));
    }

    #[test]
    fn who_receives_nothing_sends_on_a_queue_that_is_left() {
        let sides = Sides::new(&[0, 0, 0, 2], 4, 3).unwrap();
        assert_eq!(sides.senders, [Some(0), Some(1), None, Some(2)]);
        assert_eq!((0..3).map(|worker| sides.received_by(worker)).collect::<Vec<_>>(), [3, 0, 1]);
    }

    #[test]
    fn each_worker_needs_a_queue() {
        assert_eq!(Sides::new(&[0], 1, 2), None);
        assert!(Sides::new(&[0, 0], 2, 2).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

        #[test]
        fn everybody_sends_on_one_queue(
            owners in prop::collection::vec(0usize..6, 0..12), queues in 1u32..12, workers in 1usize..6,
        ) {
            let sides = Sides::new(&owners, queues, workers);
            prop_assert_eq!(sides.is_some(), queues as usize >= workers);
            let Some(sides) = sides else { return Ok(()) };
            prop_assert_eq!((sides.receivers.len(), sides.senders.len()), (queues as usize, queues as usize));
            prop_assert!(sides.receivers.iter().all(|&receiver| receiver < workers));
            let mut senders: Vec<usize> = sides.senders.iter().flatten().copied().collect();
            senders.sort_unstable();
            prop_assert_eq!(senders, (0..workers).collect::<Vec<_>>());
        }
    }
}
