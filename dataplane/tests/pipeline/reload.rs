//! Another configuration for a gateway that runs: which sessions live on, with what mapping, and what is counted where.

mod addresses;
mod carrier;
mod fixed;
mod nat;
mod port_control;
mod sessions;
mod survivors;
mod workers;

use std::net::Ipv4Addr;
use std::sync::Arc;

use sluice_dataplane::adopt::{Adopter, Settled, hand_over};
use sluice_dataplane::clock::MILLISECOND;
use sluice_dataplane::snapshot::Snapshot;

use crate::lab::{Lab, snapshot};
use crate::packets::{End, ends, udp};

/// A gateway, and the end by which it is given other configurations.
pub(super) struct Reloading {
    pub(super) lab: Lab,
    pub(super) adopter: Adopter,
}

impl Reloading {
    pub(super) fn new() -> Self {
        Self::of(snapshot())
    }

    pub(super) fn of(snapshot: Snapshot) -> Self {
        let mut lab = Lab::new(snapshot);
        let adopter = lab.worker.adopter().expect("there is one");
        Self { lab, adopter }
    }

    /// Hands a configuration over that differs from the present one; the worker has not seen it yet.
    pub(super) fn hand_over(&mut self, change: impl FnOnce(&mut Snapshot)) {
        let mut next = Snapshot::clone(self.lab.worker.snapshot());
        next.generation += 1;
        change(&mut next);
        assert!(self.try_hand_over(next), "the last one is not settled yet");
    }

    pub(super) fn try_hand_over(&mut self, next: Snapshot) -> bool {
        hand_over(std::slice::from_mut(&mut self.adopter), &Arc::new(next)).is_some()
    }

    /// Polls until all sessions are decided, which they must be within a second.
    pub(super) fn settle(&mut self) -> Settled {
        for _ in 0..1000 {
            self.lab.wait(MILLISECOND);
            if let Some(settled) = self.adopter.settled() {
                assert_eq!(self.adopter.adopted(), self.lab.worker.snapshot().generation);
                return settled;
            }
        }
        panic!("not settled within a second");
    }

    pub(super) fn reload(&mut self, change: impl FnOnce(&mut Snapshot)) -> Settled {
        self.hand_over(change);
        self.settle()
    }

    /// Sends a datagram that is to be forwarded; the port by which it leaves, and its ends then.
    #[track_caller]
    pub(super) fn say(&mut self, port: usize, from: End, to: End) -> (usize, (End, End)) {
        let (port, out) = self.lab.forward(port, &udp(from, to, b"a datagram"));
        (port, ends(&out))
    }

    pub(super) fn live(&self) -> u32 {
        self.lab.worker.shard().sessions.live()
    }

    pub(super) fn bindings(&self) -> u32 {
        self.lab.worker.shard().nat.live()
    }

    pub(super) fn ended_by_policy(&self) -> u64 {
        self.lab.worker.shard().counters.sessions_ended_by_policy
    }

    pub(super) fn hits(&self, rule: usize) -> u64 {
        self.lab.worker.shard().counters.rules[rule].packets
    }
}

pub(super) fn kept(kept: u64) -> Settled {
    Settled { kept, ended: 0 }
}

pub(super) fn settled(kept: u64, ended: u64) -> Settled {
    Settled { kept, ended }
}

pub(super) const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
