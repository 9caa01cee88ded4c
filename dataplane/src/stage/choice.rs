//! Which of several equal ways a flow goes: by rendezvous hashing (Thaler and Ravishankar, 1998) of the flow and the way,
//! so that a way that is lost moves its own flows alone, and one that is added takes its share of all others'. A flow that
//! has gone by a way stays with it for as long as it is among them.

use std::net::IpAddr;

use crate::snapshot::{Route, Snapshot};
use crate::table::key::hash_words;

/// Not zero, as a zero word would then hide the one beside it; the same everywhere, so that a flow keeps its way over restarts.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a flow chooses by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Choice {
    /// A hash of the flow, the same for all of its packets at every worker.
    spread: u64,
    /// The interface and the neighbour by which it has gone so far.
    current: Option<(u16, IpAddr)>,
}

impl Choice {
    /// Of a flow whose packets come with this source, and these ports (or what stands for them).
    pub(super) fn of(src: IpAddr, dst: IpAddr, ports: (u16, u16), protocol: u8) -> Self {
        let words = |address: IpAddr| match address {
            IpAddr::V4(v4) => [0, v4.to_bits().into()],
            IpAddr::V6(v6) => [(v6.to_bits() >> 64) as u64, v6.to_bits() as u64],
        };
        let ([a, b], [c, d]) = (words(src), words(dst));
        let last = u64::from(ports.0) << 32 | u64::from(ports.1) << 16 | u64::from(protocol);
        Self { spread: hash_words(&[a, b, c, d, last], SEED), current: None }
    }

    /// It has gone by this neighbour, if that is known.
    pub(super) fn staying(self, current: Option<(u16, IpAddr)>) -> Self {
        Self { current, ..self }
    }

    /// The way of a flow to `dst` by the route with this index. `None` if there is no such route.
    #[inline]
    pub(super) fn resolve(&self, index: u32, dst: IpAddr, snapshot: &Snapshot) -> Option<Route> {
        match snapshot.way(index)?.route {
            Route::Several { first, count } => self.among(first, count, dst, snapshot),
            route => Some(route),
        }
    }

    #[cold]
    fn among(&self, first: u32, count: u16, dst: IpAddr, snapshot: &Snapshot) -> Option<Route> {
        let mut best: Option<(f64, Route)> = None;
        for way in (first..).take(count.into()).filter_map(|index| snapshot.way(index)) {
            let Some(hop) = hop_of(&way.route, dst) else { continue };
            if self.current == Some(hop) {
                return Some(way.route);
            }
            let score = score(self.spread, &way.route, way.weight);
            if best.is_none_or(|(most, _)| score > most) {
                best = Some((score, way.route));
            }
        }
        best.map(|(_, route)| route)
    }
}

/// Interface and neighbour to which a route hands packets to `dst`.
fn hop_of(route: &Route, dst: IpAddr) -> Option<(u16, IpAddr)> {
    match *route {
        Route::Connected { interface } => Some((interface, dst)),
        Route::Via4 { interface, gateway } => Some((interface, gateway.into())),
        Route::Via6 { interface, gateway } => Some((interface, gateway.into())),
        _ => None,
    }
}

/// The weighted score of a way for a flow; the highest wins. With `u` uniform in (0, 1) a way of weight `w` wins with the
/// probability of its share if it scores `-w / ln u`.
fn score(spread: u64, route: &Route, weight: u16) -> f64 {
    let [a, b, c] = match *route {
        Route::Via4 { interface, gateway } => [interface.into(), gateway.to_bits().into(), 4],
        Route::Via6 { interface, gateway } => {
            let bits = gateway.to_bits();
            [interface.into(), (bits >> 64) as u64 ^ (bits as u64).rotate_left(32), 6]
        }
        Route::Connected { interface } => [interface.into(), 0, 0],
        _ => [0; 3],
    };
    let hash = hash_words(&[spread, a, b, c], SEED);
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight.max(1)) / uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 5));

    fn snapshot(weights: &[u16]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.routes.push(Route::Several { first: 1, count: weights.len() as u16 });
        snapshot.weights.push(1);
        for (last, weight) in (1..).zip(weights) {
            snapshot.routes.push(Route::Via4 { interface: 0, gateway: [192, 0, 2, last].into() });
            snapshot.weights.push(*weight);
        }
        snapshot
    }

    fn flow(number: u32) -> Choice {
        Choice::of(IpAddr::V4(number.into()), DST, (1000, 80), 6)
    }

    #[test]
    fn flows_are_shared_by_weight() {
        let snapshot = snapshot(&[1, 2, 5]);
        let mut counts = [0u32; 3];
        for number in 0..80_000 {
            let Some(Route::Via4 { gateway, .. }) = flow(number).resolve(0, DST, &snapshot) else { panic!() };
            counts[usize::from(gateway.octets()[3]) - 1] += 1;
        }
        for (count, want) in counts.into_iter().zip([10_000, 20_000, 50_000u32]) {
            assert!(count.abs_diff(want) < want / 20, "{counts:?}");
        }
    }

    #[test]
    fn the_loss_of_a_way_moves_its_own_flows_alone() {
        let (mut before, mut after) = (snapshot(&[1, 3, 1, 2]), snapshot(&[1, 3, 1, 2]));
        after.routes.remove(2);
        after.weights.remove(2);
        after.routes[0] = Route::Several { first: 1, count: 3 };
        let lost = before.routes[2];
        for number in 0..10_000 {
            let [old, new] = [&before, &after].map(|table| flow(number).resolve(0, DST, table).unwrap());
            assert!(old == new || old == lost);
            // When it comes back, who has found another way stays there.
            let current = hop_of(&new, DST);
            assert_eq!(flow(number).staying(current).resolve(0, DST, &before), Some(new));
        }
        before.routes.truncate(1);
        assert_eq!(flow(0).resolve(0, DST, &before), None);
    }
}
