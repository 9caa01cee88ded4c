//! What one worker owns alone. No lock guards it, and no other thread ever sees it.

use crate::adopt::Adoption;
use crate::arena::FramePool;
use crate::clock::Nanos;
use crate::counters::Counters;
use crate::crossing::Crossing;
use crate::firsts::Firsts;
use crate::local::neighbor::Neighbors;
use crate::local::{self, Local};
use crate::nat::Nat;
use crate::port::Outbox;
use crate::session::{Batch, Key4, Key6, Sessions};
use crate::snapshot::Snapshot;
use crate::stage::FirstPackets;
use crate::stage::sources::SourceRates;
use crate::stage::syn::HeldSyns;
use crate::stage::{fragment::Fragments, police::Limiters, shape::Shapers};
use crate::trace::Tracer;

/// How many frames wait for one port at most, beyond what its own ring holds.
const OUTBOX: usize = 512;

/// The state of one worker, apart from its ports.
pub struct Shard {
    /// Packet buffers.
    pub pool: FramePool,
    /// Sessions and their flows.
    pub sessions: Sessions,
    /// Look-ups of IPv4 flows under way.
    pub batch4: Box<Batch<Key4>>,
    /// Look-ups of IPv6 flows under way.
    pub batch6: Box<Batch<Key6>>,
    /// What is decided about the first packets of a burst; not here while that is done.
    pub first: Option<Box<FirstPackets>>,
    /// NAT bindings and the external ports in use.
    pub nat: Nat,
    /// Token buckets of the limits.
    pub limiters: Limiters,
    /// What sources have sent.
    pub sources: SourceRates,
    /// Packets that wait before they leave by a port with a shaper.
    pub shapers: Shapers,
    /// What first fragments said.
    pub fragments: Fragments,
    /// Next hops.
    pub neighbors: Neighbors,
    /// The gateway's own answers and announcements.
    pub local: Local,
    /// Frames that wait to be transmitted, by port; behind them, for each port, those that come in there again.
    pub outboxes: Vec<Outbox>,
    /// Counters.
    pub counters: Counters,
    /// TCP SYNs from outside that NAT has nobody for.
    pub syns: HeldSyns,
    /// The exchange with other workers, where there are any.
    pub crossing: Option<Box<Crossing>>,
    /// The configuration that was adopted last, while there are sessions from before it.
    pub transition: Option<Box<Adoption>>,
    /// A sample of first packets.
    pub firsts: Firsts,
    /// While somebody traces packets.
    pub tracer: Option<Box<Tracer>>,
}

impl Shard {
    /// Takes all the memory that the snapshot asks for.
    pub fn new(snapshot: &Snapshot, pool: FramePool) -> Self {
        Self {
            pool,
            sessions: Sessions::new(snapshot),
            batch4: Box::default(),
            batch6: Box::default(),
            first: Some(Box::default()),
            nat: Nat::new(snapshot),
            limiters: Limiters::new(snapshot),
            sources: SourceRates::new(snapshot),
            shapers: Shapers::new(snapshot, 1),
            fragments: Fragments::new(snapshot),
            neighbors: Neighbors::new(snapshot),
            local: Local::new(snapshot),
            outboxes: (0..2 * snapshot.ports.len()).map(|_| Outbox::new(OUTBOX)).collect(),
            counters: Counters::new(snapshot),
            syns: HeldSyns::new(snapshot),
            crossing: None,
            transition: None,
            firsts: Firsts::default(),
            tracer: None,
        }
    }

    /// What the gateway's own stack works with.
    pub fn local<'a>(&'a mut self, snapshot: &'a Snapshot, now: Nanos) -> local::Context<'a> {
        local::Context {
            pool: &mut self.pool,
            outboxes: &mut self.outboxes,
            counters: &mut self.counters,
            neighbors: &mut self.neighbors,
            local: &mut self.local,
            snapshot,
            now,
        }
    }
}
