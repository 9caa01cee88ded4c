//! Ahead: fetches what the decision about a first packet will look at, some packets before its turn, so that their cache
//! misses overlap. It decides nothing, and guesses where it cannot know: a wrong guess costs time alone.

use sluice_pkt::parse::{Headers, L3};

use super::nat::Source;
use super::{FirstPackets, acl, addresses6, nat};
use crate::burst::{BURST, Burst, Mask};
use crate::nat::{Foreseen, Likely, Wanted};
use crate::session::{addresses, key4, key6, ports};
use crate::shard::Shard;
use crate::snapshot::{Snapshot, SourceNat};

/// How many packets ahead most is fetched. A decision takes so long that a few are enough.
const FAR: usize = 8;
/// How many packets ahead that which depends on the external port is fetched: closer, as there is less to guess then.
const NEAR: usize = 4;

/// What is known of a packet that is bound in a pool.
#[derive(Clone, Copy)]
struct Way {
    pool: u16,
    egress: u16,
    likely: Likely,
}

/// Which packets are still to come.
pub struct Ahead {
    far: Mask,
    near: Mask,
    /// Those that are bound in a pool of source NAT.
    ways: [Option<Way>; BURST],
    foreseen: Foreseen,
}

impl Ahead {
    /// Begins with the first ones of these packets.
    pub fn begin(
        burst: &Burst,
        mask: Mask,
        first: &FirstPackets,
        shard: &Shard,
        snapshot: &Snapshot,
    ) -> Self {
        shard.sessions.fetch_free(mask.count());
        let foreseen = shard.nat.foresee();
        let mut ahead = Self { far: mask, near: mask, ways: [None; BURST], foreseen };
        for _ in 0..FAR {
            ahead.fetch_far(burst, first, shard, snapshot);
        }
        for _ in 0..NEAR {
            ahead.fetch_near(burst, first, shard, snapshot);
        }
        ahead
    }

    /// The next packet's turn has come: goes on with another one.
    pub fn step(&mut self, burst: &Burst, first: &FirstPackets, shard: &Shard, snapshot: &Snapshot) {
        self.fetch_far(burst, first, shard, snapshot);
        self.fetch_near(burst, first, shard, snapshot);
    }

    fn fetch_far(&mut self, burst: &Burst, first: &FirstPackets, shard: &Shard, snapshot: &Snapshot) {
        let Some(i) = self.far.next() else { return };
        let headers = &burst.headers[i];
        let Some(egress) = first.places[i][1].interface(snapshot) else { return };
        if headers.l3 != L3::Ipv4 {
            return fetch6(addresses6(burst.bytes(i), headers), headers, egress, shard);
        }
        let (src, dst) = first.ends4(i);
        let ends = [(src, headers.src_port), (dst, headers.dst_port)];
        let source = nat::source_of(ends, headers.protocol, egress, snapshot);
        // A translated packet has other answers.
        if !source.is_changed() || acl::asks_established(headers, burst.interfaces[i], snapshot) {
            fetch_answers4(dst, ends[0], headers, egress, shard);
        }
        let Source::Pool(&SourceNat { pool, .. }) = source else { return };
        let likely =
            wanted((src, dst), headers, pool, snapshot).and_then(|wanted| shard.nat.fetch_bind(&wanted));
        self.ways[i] = likely.map(|likely| Way { pool, egress, likely });
    }

    fn fetch_near(&mut self, burst: &Burst, first: &FirstPackets, shard: &Shard, snapshot: &Snapshot) {
        let Some(i) = self.near.next() else { return };
        let Some(Way { pool, egress, likely }) = self.ways[i] else { return };
        let (headers, (src, dst)) = (&burst.headers[i], first.ends4(i));
        let external = wanted((src, dst), headers, pool, snapshot)
            .and_then(|wanted| shard.nat.fetch_external(&wanted, likely, &mut self.foreseen));
        if let Some(external) = external {
            fetch_answers4(dst, external, headers, egress, shard);
        }
    }
}

fn wanted<'a>(
    (src, dst): (u32, u32),
    headers: &Headers,
    pool: u16,
    snapshot: &'a Snapshot,
) -> Option<Wanted<'a>> {
    let of = snapshot.pools.get(usize::from(pool))?;
    let (inside, remote) = ((src, headers.src_port), (dst, headers.dst_port));
    Some(Wanted { pool, of, inside, remote, protocol: headers.protocol })
}

/// The flow of a packet's answers, if they come from `src` to this end.
fn fetch_answers4(src: u32, to: (u32, u16), headers: &Headers, interface: u16, shard: &Shard) {
    let flows = &shard.sessions.v4;
    let key = key4(addresses(src, to.0), ports(headers.dst_port, to.1), headers.protocol, interface);
    flows.prefetch_bucket(flows.hash(&key));
}

/// As [`fetch_answers4`].
fn fetch6((src, dst): (u128, u128), headers: &Headers, egress: u16, shard: &Shard) {
    let flows = &shard.sessions.v6;
    let key = key6(dst, src, ports(headers.dst_port, headers.src_port), headers.protocol, egress);
    flows.prefetch_bucket(flows.hash(&key));
}
