//! Together: which first packets are decided in one go, stage by stage. They are such that none of them can be of a session
//! that another one makes, so that it is all the same in which order a stage sees them; and what a stage will look at has been
//! fetched for all of them in one before it, so that their cache misses overlap. All others are decided alone, in their turn.

use sluice_pkt::parse::{Flags, L3};

use super::nat::Source;
use super::{FirstPackets, acl, addresses6, flow, nat, portless, sessionless};
use crate::burst::{BURST, Burst, Mask};
use crate::nat::{Begun, Name, Wanted};
use crate::session::{addresses, key4, key6, ports};
use crate::shard::Shard;
use crate::snapshot::{Guard, Snapshot};

/// How many packets are decided together at most: as many as a core fetches for at once.
const TOGETHER: usize = 16;

/// What is known of a packet before its turn comes, and what steps between two stages have found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foreseen {
    /// The interface that it leaves by, and what becomes of its source there.
    pub(super) source: Option<(u16, Source)>,
    /// The name of its binding, if that is made in steps.
    pub(super) name: Option<Name>,
    /// What the first step has found.
    pub(super) begun: Option<Begun>,
    /// The hash of its answers' flow.
    pub(super) answers: u64,
}

impl Foreseen {
    pub(super) const NOTHING: Self = Self { source: None, name: None, begun: None, answers: 0 };
}

/// The first packets of a burst, some after the other.
pub struct Groups {
    rest: Mask,
    /// None of them may be decided with another.
    each_alone: bool,
}

impl Groups {
    /// Of these packets.
    pub fn of(mask: Mask, first: &FirstPackets, shard: &Shard, snapshot: &Snapshot) -> Self {
        // Of two from one source, one may be its last.
        let has_bounds = snapshot.guards.iter().any(Guard::bounds_sessions);
        let has_room = shard.sessions.has_room(BURST);
        let is_open = !first.asked && shard.transition.is_none() && has_room && !has_bounds;
        Self { rest: mask, each_alone: !is_open || mask.count() < 2 }
    }

    /// Gives their turn to the next ones that are still first packets. False if there are none left, nor any that turned out to
    /// be of a session.
    pub fn next(
        &mut self,
        burst: &mut Burst,
        first: &mut FirstPackets,
        shard: &mut Shard,
        snapshot: &Snapshot,
    ) -> bool {
        let (mut group, mut found) = (Mask::NONE, Mask::NONE);
        let (mut flows, mut names) = (Few::default(), Few::default());
        for i in self.rest {
            first.foreseen[i] = Foreseen::NOTHING;
            let may_be_joined = !self.each_alone && foresee(burst, i, first, shard, snapshot).is_some();
            let flow = match burst.headers[i].l3 {
                L3::Ipv4 => shard.batch4.key(i).1,
                _ => shard.batch6.key(i).1,
            };
            let name = first.foreseen[i].name.as_ref().map(Name::hash);
            let is_apart =
                !may_be_joined || flows.may_have(flow) || name.is_some_and(|name| names.may_have(name));
            if is_apart && !group.is_empty() {
                break;
            }
            self.rest.remove(i);
            if !flow::find_first(burst, i, first, shard, snapshot) {
                found.add(i);
                continue;
            }
            group.add(i);
            flows.add(flow);
            name.into_iter().for_each(|name| names.add(name));
            if !may_be_joined || group.count() == TOGETHER {
                break;
            }
        }
        shard.sessions.fetch_free(group.count());
        shard.nat.fetch_free(group.count());
        first.turn(group, found);
        !group.is_empty() || !found.is_empty()
    }
}

/// Some bits of a few hashes.
#[derive(Default)]
struct Few {
    tags: [u16; TOGETHER],
    count: usize,
}

impl Few {
    fn tag(hash: u64) -> u16 {
        // Those that are not used yet are 0.
        (hash >> 32) as u16 | 1
    }

    #[inline(always)]
    fn may_have(&self, hash: u64) -> bool {
        let tag = Self::tag(hash);
        self.tags.iter().fold(false, |has, &other| has | (other == tag))
    }

    #[inline(always)]
    fn add(&mut self, hash: u64) {
        self.tags[self.count % TOGETHER] = Self::tag(hash);
        self.count += 1;
    }
}

/// What can be foreseen of a packet, if it may be decided with others. Starts to fetch what the first stages look at.
///
/// It makes a session by whose flows none of the others can come: it leaves by another port than that by which all of them came.
/// And whether it is an answer that was asked for does not hang on the others' sessions: that would be one of the same
/// tuple, or of the same one the other way round, which comes by another interface than the way to its source.
fn foresee(
    burst: &Burst,
    i: usize,
    first: &mut FirstPackets,
    shard: &Shard,
    snapshot: &Snapshot,
) -> Option<()> {
    let (headers, ingress) = (&burst.headers[i], burst.interfaces[i]);
    let [from, to] = &first.places[i];
    let egress = to.sole_interface(snapshot)?;
    let port = snapshot.interfaces.get(usize::from(egress))?.port;
    if headers.flags.has(Flags::ICMP_ERROR) || sessionless(headers) || port == snapshot.physical(burst.port) {
        return None;
    }
    let asks_established = acl::asks_established(headers, ingress, snapshot) || !snapshot.guards.is_empty();
    if asks_established && from.interface(snapshot) != Some(ingress) {
        return None;
    }
    let backwards = ports(headers.dst_port, headers.src_port);
    if headers.l3 != L3::Ipv4 {
        if asks_established {
            let (src, dst) = addresses6(burst.bytes(i), headers);
            let key = key6(dst, src, backwards, headers.protocol, egress);
            shard.sessions.v6.prefetch_bucket(shard.sessions.v6.hash(&key));
        }
        let is_plain = snapshot.prefixes.is_empty() && snapshot.nat64.is_empty();
        return is_plain.then_some(());
    }
    let (src, dst) = first.ends4(i);
    if portless::is_portless(headers.protocol)
        || to.is_local4()
        || snapshot.forwards.iter().any(|forward| forward.address.to_bits() == dst)
    {
        return None;
    }
    if asks_established {
        let key = key4(addresses(dst, src), backwards, headers.protocol, egress);
        shard.sessions.v4.prefetch_bucket(shard.sessions.v4.hash(&key));
    }
    let ends = [(src, headers.src_port), (dst, headers.dst_port)];
    let source = nat::source_of(ends, headers.protocol, egress, snapshot);
    first.foreseen[i].source = Some((egress, source));
    if let Source::Pool(pool) = source {
        let of = snapshot.pools.get(usize::from(pool))?;
        let [inside, remote] = ends;
        let name = shard.nat.foresee(&Wanted { pool, of, inside, remote, protocol: headers.protocol });
        first.foreseen[i].name = name.filter(|_| !of.has_subscribers() && !of.addresses.is_empty());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_have_what_was_added() {
        let hash = |i: u64| (i * 2 + 2) << 32;
        let mut few = Few::default();
        for i in 0..TOGETHER as u64 {
            assert!(!few.may_have(hash(i)), "{i}");
            few.add(hash(i));
        }
        assert!((0..TOGETHER as u64).all(|i| few.may_have(hash(i))));
        assert!(!Few::default().may_have(0), "an unused place is like no hash");
    }
}
