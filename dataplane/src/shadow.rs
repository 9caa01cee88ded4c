//! What another configuration would make of the sessions that a worker has, found out aside: copies of them are decided anew in a
//! shard of their own, by the very code that a worker has for it ([`redecide`]). No worker is stopped, and nothing changes.

use std::io;
use std::net::IpAddr;

use crate::arena::FramePool;
use crate::clock::SECOND;
use crate::crossing::Crossing;
use crate::nat::{Binding, Change, Restore, Share};
use crate::session::{FlowAction, FlowKey, NONE, NewSession};
use crate::shard::Shard;
use crate::snapshot::{NONE16, Sizes, Snapshot};
use crate::stage::owner::Owners;
use crate::stage::redecide::{self, Goes, Why};

/// A session with all that makes it.
#[derive(Clone, Copy, Debug)]
pub struct SessionCopy {
    /// By what packets of each direction are found; none where that is the same.
    pub keys: [Option<FlowKey>; 2],
    /// What is done to them.
    pub actions: [FlowAction; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Differentiated services code point of its first packet.
    pub dscp: u8,
    /// Whether its first packet came from outside, to its binding.
    pub inbound: bool,
    /// The binding that it holds, and with NAT64 the inside address of that.
    pub binding: Option<(Binding, Option<u128>)>,
    /// The next hop of each direction: interface and address.
    pub hops: [Option<(u16, IpAddr)>; 2],
    /// Packets of both directions.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The generation of the configuration under which it was decided.
    pub policy: u32,
}

/// The session at an index, if it is live.
pub fn copy(index: u32, shard: &Shard) -> Option<SessionCopy> {
    let session = shard.sessions.get(index)?;
    let flows = [0, 1].map(|direction: usize| {
        let (family, index) = (session.family_of(direction), session.flows[direction]);
        shard.sessions.key_of(family, index).zip(shard.sessions.flow(family, index))
    });
    let action = |direction: usize| flows[direction].map_or(FlowAction::default(), |(_, flow)| flow.action);
    let now = |direction: usize| flows[direction].map_or((0, 0), |(_, flow)| (flow.packets, flow.bytes()));
    let [forward, reply] = [now(0), now(1)];
    let host = shard.nat.inside6(session.binding).map(|(host, _)| host);
    Some(SessionCopy {
        keys: flows.map(|flow| flow.map(|(key, _)| key)),
        actions: [action(0), action(1)],
        protocol: session.protocol,
        dscp: session.dscp,
        inbound: session.is_inbound(),
        binding: shard.nat.get(session.binding).map(|binding| (*binding, host)),
        hops: [0, 1].map(|direction| shard.neighbors.who(action(direction).next_hop)),
        packets: session.packets.iter().sum::<u64>() + u64::from(forward.0) + u64::from(reply.0),
        bytes: session.bytes.iter().sum::<u64>() + forward.1 + reply.1,
        policy: session.policy,
    })
}

/// What would come of a session.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    /// As the present configuration has it.
    pub before: Result<Goes, Why>,
    /// As the other one would.
    pub after: Result<Goes, Why>,
}

/// A shard aside, with copies of a worker's sessions.
pub struct Shadow {
    shard: Shard,
    restore: Restore,
    /// Sizes, pools and links, as the shard was made with them.
    made_of: Snapshot,
    copies: Vec<SessionCopy>,
}

/// What a shard aside is made of: of a snapshot what tables hang on, and no more.
fn bare(of: &Snapshot, sessions: u32) -> Snapshot {
    let mut ports = of.ports.clone();
    ports.iter_mut().for_each(|port| port.invent_neighbors = true);
    Snapshot {
        generation: of.generation,
        seed: of.seed,
        ports,
        interfaces: of.interfaces.clone(),
        pools: of.pools.clone(),
        forwards: of.forwards.clone(),
        sizes: Sizes { sessions, fragments: 16, frames: 16, neighbors: of.sizes.neighbors },
        ..Snapshot::default()
    }
}

impl Shadow {
    /// For so many sessions of worker `me` of `workers`, which go by a configuration.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(present: &Snapshot, sessions: u32, me: usize, workers: usize) -> io::Result<Self> {
        let made_of = bare(present, sessions.max(16));
        let pool = FramePool::new(1, false).map_err(|error| io::Error::other(error.to_string()))?;
        let mut shard = Shard::new(&made_of, pool);
        if workers > 1 {
            let owners = Owners::new(present, workers);
            shard.crossing = Some(Box::new(Crossing::alone(me as u8, owners, &made_of)));
        }
        let restore = Restore::new(&shard.nat);
        Ok(Self { shard, restore, made_of, copies: Vec::with_capacity(sessions as usize) })
    }

    /// Puts a session in. False if there is no room.
    pub fn insert(&mut self, copy: &SessionCopy) -> bool {
        let Some(key) = copy.keys[0] else { return false };
        let keys = [key, copy.keys[1].unwrap_or(key)];
        let mut actions = copy.actions;
        for (action, hop) in actions.iter_mut().zip(copy.hops) {
            action.next_hop = hop.map_or(NONE16, |(interface, address)| {
                let resolved = self.shard.neighbors.resolve(&self.made_of, interface, address, SECOND);
                resolved.unwrap_or(NONE16)
            });
        }
        let Shard { nat, sessions, counters, .. } = &mut self.shard;
        let binding = match &copy.binding {
            Some((like, host)) => self.restore.binding(like, *host, nat),
            None => None,
        };
        let binding = binding.unwrap_or(NONE);
        let remote = actions[0].new.destination().to_bits();
        let permit = nat.hold(binding, remote, false);
        let (protocol, inbound, dscp) = (copy.protocol, copy.inbound, copy.dscp);
        let new = NewSession { keys, actions, protocol, binding, permit, inbound, dscp };
        let made = sessions.create(&new, SECOND, nat, counters).is_some();
        if made {
            self.copies.push(*copy);
        }
        made
    }

    /// The sessions, in the order in which they were put in.
    pub fn copies(&self) -> &[SessionCopy] {
        &self.copies
    }

    /// Decides all sessions by the configuration that they have and by another one, in the order in which they were put in; the other
    /// one has another generation. To be done once.
    pub fn decide(&mut self, present: &Snapshot, next: &Snapshot, mut each: impl FnMut(&SessionCopy, Fate)) {
        let shard = &mut self.shard;
        let count = self.copies.len() as u32;
        // Places are given out from the first one on.
        let before: Vec<_> = (0..count).map(|index| redecide::consider(index, shard, present)).collect();
        let made_of = bare(next, self.made_of.sizes.sessions);
        let layout = shard.nat.layout().clone();
        let mut change = Change::new(&layout, layout.next(&made_of), &made_of, &Share::default());
        shard.nat.adopt(&mut change);
        shard.sessions.policy = next.generation;
        for ((index, copy), before) in (0..count).zip(&self.copies).zip(before) {
            each(copy, Fate { before, after: redecide::reconsider(index, shard, next) });
        }
    }
}
