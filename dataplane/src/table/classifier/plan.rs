//! Which rule goes to which layer.
//!
//! A rule costs a place in every row that it is in, so each goes where it takes few rows: by destination if that is
//! narrow, else by source if that is, else with other wide ones, whose rows are few. What is narrow is found by trying:
//! for some bounds, the layers' sizes and the lines that the rules' own packets would meet are computed, not built.

use super::Address;
use super::boxes::{Boxes, Cuboid, DESTINATION, KIND, SOURCE};
use super::layer::Root;

/// Layers to choose from, in the order of looking up.
const LAYERS: [Root; 6] =
    [Root::Destination, Root::Source, Root::Destination, Root::Source, Root::Kind, Root::None];
/// Bounds on the ranks that a narrow range spans.
const BOUNDS: [u16; 5] = [2, 16, 128, 1024, u16::MAX];
/// How many rules' packets are looked at.
const SAMPLES: usize = 512;
/// A layer's rows may hold so many places for each rule, and `SPARE` more in all.
const PLACES: usize = 24;
const SPARE: usize = 4096;

/// The layers to build and the boxes of each, by their numbers; and the boxes that are in none.
pub(super) struct Plan {
    pub(super) layers: Vec<(Root, Vec<u16>)>,
    pub(super) left: Vec<u16>,
}

/// Chooses.
pub(super) fn plan<A: Address>(boxes: &Boxes<A>) -> Plan {
    let mut best: Option<(u64, [u16; 2], bool)> = None;
    let mut scratch = Scratch::default();
    for wide in [true, false] {
        for destination in BOUNDS {
            for source in BOUNDS {
                let bounds = [destination, source];
                if let Some(cost) = scratch.cost(boxes, bounds, wide) {
                    if best.is_none_or(|best| cost < best.0) {
                        best = Some((cost, bounds, wide));
                    }
                }
                if destination == u16::MAX {
                    break;
                }
            }
        }
    }
    let mut members: [Vec<u16>; LAYERS.len()] = Default::default();
    let mut left = Vec::new();
    for (number, cuboid) in boxes.boxes.iter().enumerate() {
        // Where nothing fits, what is narrow and what allows every kind still does.
        let (bounds, wide) = best.map_or(([BOUNDS[0]; 2], false), |best| (best.1, best.2));
        let layer = layer(boxes, cuboid, bounds, wide);
        if best.is_none() && LAYERS[layer] == Root::Kind {
            left.push(number as u16);
        } else {
            members[layer].push(number as u16);
        }
    }
    let layers = LAYERS.into_iter().zip(members).filter(|(_, members)| !members.is_empty()).collect();
    Plan { layers, left }
}

/// The layer of a box, if so many ranks of [destination, source] are narrow. Wide ones may have rows by address.
fn layer<A: Address>(boxes: &Boxes<A>, cuboid: &Cuboid, bounds: [u16; 2], wide: bool) -> usize {
    let span = |dimension: usize| cuboid.ranges[dimension].1 - cuboid.ranges[dimension].0;
    if span(DESTINATION) <= bounds[0] {
        0
    } else if span(SOURCE) <= bounds[1] {
        1
    } else if wide && !boxes.is_whole(cuboid, DESTINATION) {
        2
    } else if wide && !boxes.is_whole(cuboid, SOURCE) {
        3
    } else if !boxes.is_whole(cuboid, KIND) {
        4
    } else {
        5
    }
}

/// Per rank: how many boxes of a layer begin less those that end, then how many are met; and whether any do.
#[derive(Debug, Default)]
struct Scratch {
    met: [Vec<u32>; LAYERS.len()],
    steps: [Vec<bool>; LAYERS.len()],
}

impl Scratch {
    /// About how many instructions a look-up takes; `None` if the rows would be too large.
    fn cost<A: Address>(&mut self, boxes: &Boxes<A>, bounds: [u16; 2], wide: bool) -> Option<u64> {
        for (root, (met, steps)) in LAYERS.iter().zip(self.met.iter_mut().zip(&mut self.steps)) {
            let ranks = root.dimension().map_or(1, |dimension| usize::from(boxes.last[dimension]) + 1);
            met.clear();
            met.resize(ranks + 1, 0);
            steps.clear();
            steps.resize(ranks + 1, false);
        }
        for cuboid in &boxes.boxes {
            let layer = layer(boxes, cuboid, bounds, wide);
            let (low, high) = LAYERS[layer].dimension().map_or((0, 0), |dimension| cuboid.ranges[dimension]);
            let (low, end) = (usize::from(low), usize::from(high) + 1);
            let (met, steps) = (&mut self.met[layer], &mut self.steps[layer]);
            met[low] = met[low].wrapping_add(1);
            met[end] = met[end].wrapping_sub(1);
            (steps[low], steps[end]) = (true, true);
        }
        let mut places = 0;
        for (met, steps) in self.met.iter_mut().zip(&self.steps) {
            let mut count = 0u32;
            for (met, &step) in met.iter_mut().zip(steps) {
                count = count.wrapping_add(*met);
                *met = count;
                if step {
                    places += count as usize;
                }
            }
        }
        if places > PLACES * boxes.boxes.len() + SPARE {
            return None;
        }
        let every = boxes.boxes.len().div_ceil(SAMPLES).max(1);
        let mut cost = 0;
        let mut samples = 0;
        for cuboid in boxes.boxes.iter().step_by(every) {
            samples += 1;
            for (root, met) in LAYERS.iter().zip(&self.met) {
                let rank = root.dimension().map_or(0, |dimension| cuboid.ranges[dimension].0);
                let lines = u64::from(met.get(usize::from(rank)).copied().unwrap_or(0).div_ceil(4));
                // Long rows are cut.
                cost += lines.div_ceil(2).min(2) * 10 + lines.saturating_sub(4).min(32) * 3;
            }
        }
        let used = self.met.iter().filter(|met| met.iter().any(|&met| met != 0)).count() as u64;
        // What is not in the second-level cache takes longer.
        let far = (places as u64 / (1 << 14)).max(1).ilog2();
        Some(used * 16 + cost / samples.max(1) + u64::from(far) * 6)
    }
}
