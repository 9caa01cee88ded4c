//! Shapers as a whole, in virtual time.

mod bounds;
mod fairness;
mod fluid;
mod life;
mod rates;

use super::*;
use crate::table::meter::Rate;

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const MILLISECOND: u64 = 1_000_000;

/// A time to begin at.
pub(super) const START: u64 = 7 * SECOND;

/// What came out.
#[derive(Default)]
pub(super) struct Out {
    pub(super) sent: Vec<(u64, NodeId)>,
    pub(super) dropped: Vec<(u64, NodeId, Cause)>,
    pub(super) marked: Vec<u64>,
    /// Whether senders understand marks.
    pub(super) ecn: bool,
}

impl Sink<u64> for Out {
    fn send(&mut self, item: u64, class: NodeId) {
        self.sent.push((item, class));
    }

    fn mark(&mut self, item: &mut u64) -> bool {
        if self.ecn {
            self.marked.push(*item);
        }
        self.ecn
    }

    fn drop(&mut self, item: u64, class: NodeId, cause: Cause) {
        self.dropped.push((item, class, cause));
    }
}

impl Out {
    pub(super) fn causes(&self, cause: Cause) -> usize {
        self.dropped.iter().filter(|&&(.., of)| of == cause).count()
    }
}

pub(super) fn rate(bits_per_second: u64) -> Option<Rate> {
    Some(Rate { bits_per_second })
}

pub(super) fn max(bits_per_second: u64) -> Rates {
    Rates { max: rate(bits_per_second), ..Rates::default() }
}

/// A leaf whose queues are as long as they come to be.
pub(super) fn patient(kind: Kind) -> ClassConfig {
    let codel = Codel { target: u64::MAX, interval: u64::MAX, ecn: false };
    ClassConfig { codel, ..ClassConfig::new(kind) }
}

pub(super) fn packet(class: NodeId, flow: u32, len: u32, item: u64) -> Packet<u64> {
    Packet { class, host: 0, flow, len, item }
}

/// Numbers that look random.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound.max(1)
    }
}
