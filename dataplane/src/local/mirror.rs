//! Neighbours where the kernel alone speaks ARP and ND: instead of asking on the link, the worker asks the control side,
//! which asks the kernel and hands back what that knows.

use std::net::IpAddr;

use ringbuf::traits::{Consumer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use sluice_pkt::ethernet::Mac;

use super::Context;
use super::neighbor::{Evidence, News};

/// Questions, and answers, that may be on their way. A question that finds no room is asked again a second later.
const ROOM: usize = 1024;
/// Answers taken in at a time.
const PER_TICK: usize = 64;

/// A neighbour that the worker wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The interface on whose link it is.
    pub interface: u16,
    /// Its address.
    pub address: IpAddr,
}

/// A neighbour that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The interface on whose link it is.
    pub interface: u16,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: Mac,
    /// Whether it has just answered the kernel; else the kernel remembers it.
    pub confirmed: bool,
}

/// The worker's end.
pub struct Mirror {
    wanted: HeapProd<Wanted>,
    known: HeapCons<Known>,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mirror")
    }
}

/// The control side's end.
pub struct MirrorControl {
    wanted: HeapCons<Wanted>,
    known: HeapProd<Known>,
}

/// Both ends. Takes all memory.
pub fn channel() -> (Mirror, MirrorControl) {
    let (asks, wanted) = HeapRb::new(ROOM).split();
    let (known, answers) = HeapRb::new(ROOM).split();
    (Mirror { wanted: asks, known: answers }, MirrorControl { wanted, known })
}

impl MirrorControl {
    /// What the worker wants to know next.
    pub fn wanted(&mut self) -> Option<Wanted> {
        self.wanted.try_pop()
    }

    /// Hands over what the kernel knows. False if there is no room now.
    pub fn tell(&mut self, known: Known) -> bool {
        self.known.try_push(known).is_ok()
    }
}

impl Mirror {
    pub(super) fn ask(&mut self, wanted: Wanted) {
        // Whoever waits is asked for again, or given up, in time.
        let _ = self.wanted.try_push(wanted);
    }
}

impl Context<'_> {
    /// Takes in what the control side has handed over.
    pub(super) fn take_in_known(&mut self) {
        let Some(mirror) = &mut self.local.mirror else { return };
        for known in mirror.known.pop_iter().take(PER_TICK) {
            let Some(link) = self.snapshot.interfaces.get(usize::from(known.interface)) else { continue };
            if !super::is_station(link, known.mac) {
                continue;
            }
            let evidence = if known.confirmed { Evidence::Answer } else { Evidence::Announcement };
            let news = News { mac: Some(known.mac), evidence, overrides: true };
            self.neighbors.learn(self.snapshot, known.interface, known.address, news, self.now);
        }
    }
}
