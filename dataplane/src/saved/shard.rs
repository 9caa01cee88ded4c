//! What a worker owns, written and read.

use super::figures;
use super::{Saved, Tag, Unreadable, Writer};
use crate::clock::Nanos;
use crate::session::{NONE, SavedSession};
use crate::shard::Shard;
use crate::snapshot::{NONE16, Snapshot};
use crate::stage::redecide;

/// What has been taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Sessions that go on.
    pub sessions: u64,
    /// Sessions that would not be made again by the configuration as it is compiled now; they have ended.
    pub ended: u64,
    /// Sessions that found no room, or whose binding could not be had.
    pub lost: u64,
    /// NAT bindings.
    pub bindings: u64,
    /// Bindings that could not be had.
    pub bindings_lost: u64,
    /// Neighbours.
    pub neighbors: u64,
}

impl Restored {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.ended += other.ended;
        self.lost += other.lost;
        self.bindings += other.bindings;
        self.bindings_lost += other.bindings_lost;
        self.neighbors += other.neighbors;
    }
}

/// Writes all that is to go on. Nothing of it changes.
pub fn save(shard: &Shard, snapshot: &Snapshot, writer: &mut Writer) {
    writer.section(Tag::Places);
    for name in places(snapshot) {
        writer.record(|fields| _ = fields.bytes(name.as_bytes()));
    }
    figures::save(&shard.counters, snapshot, writer);
    shard.limiters.save(snapshot, writer);
    shard.neighbors.save(writer);
    shard.nat.save(writer);
    writer.section(Tag::Sessions);
    shard.sessions.save(writer);
}

/// The names of ports and of interfaces, in the order in which they are numbered.
fn places(snapshot: &Snapshot) -> impl Iterator<Item = String> + '_ {
    let ports = snapshot.ports.iter().map(|port| format!("port {}", port.name));
    ports.chain(snapshot.interfaces.iter().map(|interface| format!("interface {}", interface.name)))
}

/// Takes in a state, into a worker that has none. Each session is decided anew, as its first packet would be, and goes on if the
/// answer is the same.
///
/// # Errors
/// It is of other ports or interfaces; nothing is taken in then.
pub fn restore(
    saved: &Saved<'_>,
    shard: &mut Shard,
    snapshot: &Snapshot,
    now: Nanos,
) -> Result<Restored, Unreadable> {
    let names = saved.section(Tag::Places).map(|mut record| record.text());
    if !places(snapshot).eq(names) {
        return Err(Unreadable::Other("ports or interfaces"));
    }
    figures::restore(saved, snapshot, &mut shard.counters);
    shard.limiters.restore(saved, snapshot);
    let neighbors = shard.neighbors.restore(saved, snapshot, now);
    let bindings = shard.nat.restore(saved, snapshot, now);
    let mut restored = Restored {
        neighbors: neighbors.len() as u64,
        bindings: bindings.len() as u64,
        bindings_lost: (saved.section(Tag::Bindings).count() - bindings.len()) as u64,
        ..Restored::default()
    };
    // So that each next hop is looked up when the next packet comes.
    shard.sessions.stamp = shard.neighbors.epoch();
    let mut live = Vec::new();
    // Those from inside say who may come in from outside, and so are first.
    for from_outside in [false, true] {
        let sessions = saved.section(Tag::Sessions).map(SavedSession::read);
        for session in sessions.filter(|session| session.inbound == from_outside) {
            let Shard { sessions, nat, .. } = &mut *shard;
            let binding = match session.binding {
                NONE => Some(NONE),
                before => bindings.get(&before).copied(),
            };
            let index = binding.and_then(|binding| {
                let permit = nat.hold(binding, session.remote(), session.inbound);
                let next_hop = |before| neighbors.get(&before).copied().unwrap_or(NONE16);
                let index = sessions.restore(&session, (binding, permit), next_hop, nat);
                if index.is_none() {
                    nat.release(binding, permit);
                }
                index
            });
            match index {
                Some(index) => live.push(index),
                None => restored.lost += 1,
            }
        }
    }
    for index in live {
        let kept = redecide::session_anew(index, shard, snapshot);
        *if kept { &mut restored.sessions } else { &mut restored.ended } += 1;
    }
    shard.nat.settle(&bindings);
    Ok(restored)
}
