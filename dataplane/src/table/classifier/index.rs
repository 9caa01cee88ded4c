//! The built form of a chunk of rules.

use super::boxes::{Boxes, Kinds};
use super::layer::{Layer, NONE, Root};
use super::plan::plan;
use super::ranks::Ranks;
use super::rows::Builder;
use super::simd::{Kernel, Lanes, Level, Vector};
use super::{Address, BURST, Rule, Tuple};

/// Finds the first of a chunk's rules that matches, for packets of which it is known whether they are established.
#[derive(Clone, Debug)]
pub(super) struct Index<A: Address> {
    kinds: Kinds,
    sources: A::Ranks,
    destinations: A::Ranks,
    layers: Vec<Layer>,
    /// Rules that are in no layer, by their numbers, in order.
    odd: Vec<u16>,
}

impl<A: Address> Index<A> {
    pub(super) fn new(rules: &[Rule<A>], established: bool) -> Self {
        let mut boxes = Boxes::new(rules, established);
        let plan = plan(&boxes);
        let mut odd = core::mem::take(&mut boxes.odd);
        odd.extend(
            plan.left.iter().filter_map(|&i| boxes.boxes.get(usize::from(i))).map(|cuboid| cuboid.rule),
        );
        odd.sort_unstable();
        let layers = plan.layers.iter().map(|(root, members)| Builder::build(&boxes, *root, members));
        Self {
            layers: layers.collect(),
            sources: A::Ranks::new(&boxes.source_keys),
            destinations: A::Ranks::new(&boxes.destination_keys),
            kinds: boxes.kinds,
            odd,
        }
    }

    /// The number of the first rule that matches each of up to [`BURST`] tuples; [`NONE`] where there is none.
    pub(super) fn look_up(
        &self,
        level: Level,
        rules: &[Rule<A>],
        tuples: &[Tuple<A>],
        best: &mut [u16; BURST],
    ) {
        best.fill(NONE);
        level.run(Search { index: self, tuples, best });
        if self.odd.is_empty() {
            return;
        }
        for (tuple, best) in tuples.iter().zip(best) {
            let earlier = self.odd.iter().take_while(|&&number| number < *best);
            let found = earlier
                .into_iter()
                .find(|&&number| rules.get(usize::from(number)).is_some_and(|rule| rule.matches(tuple)));
            *best = found.copied().unwrap_or(*best);
        }
    }

    /// Memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.sources.memory()
            + self.destinations.memory()
            + self.layers.iter().map(Layer::memory).sum::<usize>()
            + size_of_val(self.odd.as_slice())
    }
}

/// A burst's look-ups in the layers.
struct Search<'a, A: Address> {
    index: &'a Index<A>,
    tuples: &'a [Tuple<A>],
    best: &'a mut [u16; BURST],
}

/// A value and its complement, for two lanes.
#[inline(always)]
fn pair(value: u16) -> [u16; 2] {
    [value, !value]
}

impl<A: Address> Kernel for Search<'_, A> {
    #[inline(always)]
    fn run<V: Vector>(self, vector: V) {
        let Self { index, tuples, best } = self;
        let count = tuples.len().min(BURST);
        let (mut sources, mut destinations, mut kinds) = ([0; BURST], [0; BURST], [0; BURST]);
        let tuples = tuples.get(..count).unwrap_or(&[]);
        index.sources.rank(vector, tuples.iter().map(|tuple| tuple.src), &mut sources);
        index.destinations.rank(vector, tuples.iter().map(|tuple| tuple.dst), &mut destinations);
        let mut packets = [Lanes::default(); BURST];
        for ((packet, kind), tuple) in packets.iter_mut().zip(&mut kinds).zip(tuples) {
            *kind = index.kinds.of(tuple.protocol, tuple.icmp);
            if tuple.has_ports {
                let (source, destination) = (pair(tuple.src_port), pair(tuple.dst_port));
                packet.0 = [source[0], destination[0], source[1], destination[1], 0, 0, 0, 0];
            }
        }
        let none = [0; BURST];
        for layer in &index.layers {
            let (ranks, compared) = match layer.root {
                Root::Destination => (&destinations, [&kinds, &sources]),
                Root::Source => (&sources, [&kinds, &destinations]),
                Root::Kind => (&kinds, [&sources, &destinations]),
                Root::None => (&none, [&sources, &destinations]),
            };
            for ((packet, first), second) in packets.iter_mut().zip(compared[0]).zip(compared[1]).take(count)
            {
                let (first, second) = (pair(*first), pair(*second));
                [_, _, _, _, packet.0[4], packet.0[5], packet.0[6], packet.0[7]] =
                    [0, 0, 0, 0, first[0], first[1], second[0], second[1]];
            }
            let packets = packets.get(..count).unwrap_or(&[]);
            layer.look_up(vector, ranks, packets, best);
        }
    }
}
