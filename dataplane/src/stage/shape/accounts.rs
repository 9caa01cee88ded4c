//! Accounts of hosts that have no queue of their own: whose a packet is that waits is kept by the number of its frame, until it
//! leaves or is lost.
//!
//! So what is counted is what leaves, as for a host with a queue. There is room for a fixed number of hosts; an account goes
//! when all of it has been handed out and none of its host's packets wait.

use super::octets::{HostOf, host_of, named};
use crate::arena::{Frame, HugePages, HugeVec};
use crate::table::hash::{HashTable, NONE};

/// See the module's description.
pub(super) struct Accounts {
    hosts: HashTable<HostOf, Account>,
    /// By number of a frame: the account that its packet is of.
    of: HugeVec<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Octets that have left and are not handed out.
    octets: u64,
    /// Packets that wait.
    waiting: u32,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("hosts", &self.hosts.len()).finish_non_exhaustive()
    }
}

impl Accounts {
    /// For so many hosts, and packets in frames with numbers below `frames`. Takes all its memory.
    pub(super) fn new(hosts: u32, frames: u32, seed: u64) -> Self {
        let mut of = HugeVec::with_capacity_in(frames as usize, HugePages);
        of.resize(frames as usize, NONE);
        Self { hosts: HashTable::with_capacity(hosts, seed.rotate_left(40)), of }
    }

    /// A packet of a class's host waits in this frame from now on. If there is no room for the host, its octets are the
    /// class's alone.
    pub(super) fn begin(&mut self, frame: &Frame, class: u16, host: u128) {
        let key = named(class, host);
        let hash = self.hosts.hash(&key);
        let found = self.hosts.find_hashed(&key, hash);
        let found = found.or_else(|| self.hosts.insert_hashed(key, hash, Account::default()).ok());
        let Some(account) = found.and_then(|at| self.hosts.value_mut(at)) else { return };
        let place = self.of.get_mut(frame.number() as usize);
        if let (Some(of), Some(at)) = (place, found) {
            account.waiting += 1;
            *of = at;
        }
    }

    /// The packet in this frame has left, with so many octets on the wire; none, if it was lost.
    #[inline]
    pub(super) fn end(&mut self, frame: &Frame, octets: u64) {
        let of = self.of.get_mut(frame.number() as usize).map(|of| std::mem::replace(of, NONE));
        if let Some(account) = of.filter(|&of| of != NONE).and_then(|of| self.hosts.value_mut(of)) {
            account.waiting = account.waiting.saturating_sub(1);
            account.octets += octets;
        }
    }

    /// Whose packet waits in this frame.
    pub(super) fn host(&self, frame: &Frame) -> Option<u128> {
        let (key, _) = self.hosts.get(*self.of.get(frame.number() as usize)?)?;
        Some(host_of(key).1)
    }

    /// Adds octets that another configuration's accounts have not handed out. What finds no room is the class's alone.
    pub(super) fn owe(&mut self, class: u16, host: u128, octets: u64) {
        let key = named(class, host);
        let found = self.hosts.find(&key).or_else(|| self.hosts.insert(key, Account::default()).ok());
        if let Some(account) = found.and_then(|at| self.hosts.value_mut(at)) {
            account.octets += octets;
        }
    }

    /// How far places of accounts go.
    pub(super) fn places(&self) -> u32 {
        self.hosts.slots()
    }

    /// Octets at a place that have not been handed out: of which class and host. An account without any is given up if
    /// nothing of it waits.
    pub(super) fn take(&mut self, place: u32) -> Option<(u16, u128, u64)> {
        let (key, account) = self.hosts.get_mut(place)?;
        let (class, host) = host_of(key);
        let octets = std::mem::take(&mut account.octets);
        if octets == 0 && account.waiting == 0 {
            self.hosts.remove(place);
        }
        (octets > 0).then_some((class, host, octets))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::arena::FramePool;

    #[derive(Clone, Debug)]
    enum Step {
        Begin(u16, u128),
        Leave(usize, u64),
        Lose(usize),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..2u16, 0..4u128).prop_map(|(class, host)| Step::Begin(class, host)),
            3 => (any::<usize>(), 60..1500u64).prop_map(|(which, octets)| Step::Leave(which, octets)),
            1 => any::<usize>().prop_map(Step::Lose),
            1 => Just(Step::Take),
        ]
    }

    fn take(accounts: &mut Accounts, taken: &mut HashMap<(u16, u128), u64>) {
        for place in 0..accounts.places() {
            if let Some((class, host, octets)) = accounts.take(place) {
                *taken.entry((class, host)).or_default() += octets;
            }
        }
    }

    proptest! {
        #![proptest_config(crate::table::cases(200))]

        #[test]
        fn each_octet_that_leaves_is_handed_out_once_and_none_that_is_lost(
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut pool = FramePool::new(32, false).unwrap();
            let mut accounts = Accounts::new(8, 32, 1);
            let (mut waiting, mut taken, mut left) = (Vec::new(), HashMap::new(), HashMap::new());
            for step in steps {
                match step {
                    Step::Begin(class, host) => {
                        let Some(frame) = pool.take() else { continue };
                        accounts.begin(&frame, class, host);
                        prop_assert_eq!(accounts.host(&frame), Some(host));
                        waiting.push((frame, class, host));
                    }
                    Step::Leave(which, octets) if !waiting.is_empty() => {
                        let (frame, class, host) = waiting.swap_remove(which % waiting.len());
                        accounts.end(&frame, octets);
                        *left.entry((class, host)).or_default() += octets;
                        pool.give(frame);
                    }
                    Step::Lose(which) if !waiting.is_empty() => {
                        let (frame, ..) = waiting.swap_remove(which % waiting.len());
                        accounts.end(&frame, 0);
                        pool.give(frame);
                    }
                    Step::Take => take(&mut accounts, &mut taken),
                    _ => {}
                }
            }
            take(&mut accounts, &mut taken);
            prop_assert_eq!(&taken, &left);
            // What has nothing that waits is given up.
            take(&mut accounts, &mut taken);
            for (frame, ..) in waiting {
                accounts.end(&frame, 0);
                pool.give(frame);
            }
            take(&mut accounts, &mut taken);
            prop_assert_eq!(accounts.hosts.len(), 0);
        }
    }

    #[test]
    fn hosts_that_find_no_room_harm_none_that_have() {
        let mut pool = FramePool::new(4, false).unwrap();
        let mut accounts = Accounts::new(1, 4, 1);
        let frames: Vec<Frame> = (0..3).filter_map(|_| pool.take()).collect();
        for (frame, host) in frames.iter().zip([7, 8, 7]) {
            accounts.begin(frame, 0, host);
        }
        frames.iter().for_each(|frame| accounts.end(frame, 100));
        accounts.owe(0, 9, 50);
        assert_eq!((accounts.take(0), accounts.take(0)), (Some((0, 7, 200)), None));
        frames.into_iter().for_each(|frame| pool.give(frame));
    }
}
