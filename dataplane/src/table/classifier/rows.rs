//! Builds a [`Layer`]: sweeps over the root's ranks, and makes a row wherever the rules change that allow the rank. Rows
//! that list the same rules are one.

use core::hash::{BuildHasherDefault, Hasher};
use std::collections::HashMap;

use super::Address;
use super::boxes::{Boxes, Cuboid, Range};
use super::layer::{CUT, LANES, LINE, Layer, NEVER, NONE, Root, Row, WIDTH};
use super::simd::{Keys, Lanes, Line};

/// Rows of so many rules are not cut.
const SHORT: usize = LINE * WIDTH;
/// Cuts below each other.
const DEPTH: usize = 6;
/// Lines that cuts may add for each of the first thousand rules, which still fit the nearer caches, and for any other.
const LINES: [usize; 2] = [64, 12];
/// Layers up to this many bytes are taken to lie in a cache near enough.
const NEAR: usize = 1 << 20;
/// How many earlier rules are looked at to find one that hides a rule.
const WIDE: usize = 8;

/// A quick hash of lists of numbers.
#[derive(Debug, Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            let mixed =
                u128::from(self.0 ^ u64::from_le_bytes(word) ^ 0x9e37_79b9_7f4a_7c15) * 0xf39c_c060_5ced_c835;
            self.0 = (mixed >> 64) as u64 ^ mixed as u64;
        }
    }
}

/// Makes a layer.
#[derive(Debug)]
pub(super) struct Builder<'a, A> {
    boxes: &'a Boxes<A>,
    dimensions: [usize; 4],
    layer: Layer,
    /// Rows by what they list.
    made: HashMap<Vec<u16>, Row, BuildHasherDefault<Fold>>,
    /// Whole rows by what they list, hidden rules too.
    whole: HashMap<Vec<u16>, Row, BuildHasherDefault<Fold>>,
    /// How many lines cuts may still add.
    budget: usize,
    /// How many rules lists have, by the cuts ahead of them.
    depths: [usize; DEPTH + 1],
}

impl<'a, A: Address> Builder<'a, A> {
    /// A layer of some boxes, by their numbers, in order.
    pub(super) fn build(boxes: &'a Boxes<A>, root: Root, members: &[u16]) -> Layer {
        let mut builder = Self {
            boxes,
            dimensions: root.compared(),
            layer: Layer {
                root,
                rows: Vec::new(),
                lines: vec![Line([NEVER; LINE]); WIDTH],
                depth: 0,
                far: false,
                rules: vec![NONE; LINE * WIDTH],
                keys: vec![Keys([u16::MAX; CUT])],
                parts: vec![Row::default(); CUT + 1],
            },
            made: HashMap::default(),
            whole: HashMap::default(),
            budget: 256 + LINES[0] * members.len().min(1000) + LINES[1] * members.len(),
            depths: [0; DEPTH + 1],
        };
        let last = root.dimension().map_or(0, |dimension| boxes.last[dimension]);
        let range = |member: u16| {
            let cuboid = boxes.boxes.get(usize::from(member));
            root.dimension().zip(cuboid).map_or((0, 0), |(dimension, cuboid)| cuboid.ranges[dimension])
        };
        // (where, the member, whether it begins); the ends come first.
        let mut events = Vec::with_capacity(2 * members.len());
        for &member in members {
            let (low, high) = range(member);
            events.push((u32::from(low), true, member));
            events.push((u32::from(high) + 1, false, member));
        }
        events.sort_unstable();
        let mut active: Vec<u16> = Vec::new();
        let mut row = Row::default();
        let mut rows = Vec::with_capacity(usize::from(last) + 1);
        for events in events.chunk_by(|a, b| a.0 == b.0) {
            let here = events.first().map_or(0, |event| event.0) as usize;
            rows.resize(here.min(usize::from(last) + 1), row);
            for &(_, begins, member) in events {
                match (active.binary_search(&member), begins) {
                    (Err(at), true) => active.insert(at, member),
                    (Ok(at), false) => {
                        active.remove(at);
                    }
                    _ => {}
                }
            }
            row = match builder.whole.get(&active) {
                Some(&row) => row,
                None => {
                    let row = builder.row(&active, &[(0, u16::MAX); 4], 0);
                    builder.whole.insert(active.clone(), row);
                    row
                }
            };
        }
        rows.resize(usize::from(last) + 1, row);
        builder.finish(rows)
    }

    fn finish(self, rows: Vec<Row>) -> Layer {
        let mut layer = self.layer;
        layer.rows = rows;
        let all: usize = self.depths.iter().sum();
        let mut within = 0;
        layer.depth = self
            .depths
            .iter()
            .position(|&rules| {
                within += rules;
                within * 10 >= all * 9
            })
            .unwrap_or(0);
        layer.far = layer.memory() > NEAR;
        // What a place behind the last one may be.
        layer.rules.resize(layer.rules.len() + 32, NONE);
        layer
    }

    /// The row that lists `members`, within a part of the compared dimensions.
    fn row(&mut self, members: &[u16], part: &[Range; 4], depth: usize) -> Row {
        let members = self.visible(members, part);
        if let Some(&row) = self.made.get(&members) {
            return row;
        }
        let cut = if members.len() > SHORT && depth < DEPTH { self.cut(&members, part, depth) } else { None };
        let row = cut.unwrap_or_else(|| self.list(&members, depth));
        self.made.insert(members, row);
        row
    }

    /// Without members of which an earlier one takes every packet, as far as that is quickly seen.
    fn visible(&self, members: &[u16], part: &[Range; 4]) -> Vec<u16> {
        let mut kept: Vec<u16> = Vec::with_capacity(members.len());
        let mut wide: [Option<&Cuboid>; WIDE] = [None; WIDE];
        let mut free = 0;
        for &member in members {
            let Some(cuboid) = self.boxes.boxes.get(usize::from(member)) else { continue };
            let hides = |wide: &Cuboid| {
                self.dimensions.iter().zip(part).enumerate().all(|(i, (&dimension, part))| {
                    let (outer, inner) = (wide.ranges[dimension], cuboid.ranges[dimension]);
                    // Packets without ports are in the part of port 0, so a part is no bound on what they ask for.
                    let inner = if i < 2 { inner } else { (inner.0.max(part.0), inner.1.min(part.1)) };
                    outer.0 <= inner.0 && outer.1 >= inner.1
                })
            };
            if wide.iter().map_while(|wide| *wide).any(hides) {
                continue;
            }
            kept.push(member);
            // Those with ports hide little.
            if cuboid.ranges[0] == (0, u16::MAX) && cuboid.ranges[1] == (0, u16::MAX) {
                if let Some(wide) = wide.get_mut(free) {
                    *wide = Some(cuboid);
                    free += 1;
                }
            }
        }
        kept
    }

    fn list(&mut self, members: &[u16], depth: usize) -> Row {
        if members.is_empty() {
            return Row::default();
        }
        let at = self.layer.lines.len();
        for i in 0..members.len().div_ceil(LINE * WIDTH) * WIDTH {
            let four = members.get(LINE * i..).unwrap_or(&[]);
            let cuboid = |i: usize| four.get(i).and_then(|&member| self.boxes.boxes.get(usize::from(member)));
            let rules: [_; LINE] = core::array::from_fn(|i| cuboid(i).map_or(NONE, |cuboid| cuboid.rule));
            let line = Line(core::array::from_fn(|i| cuboid(i).map_or(NEVER, |cuboid| self.lanes(cuboid))));
            self.layer.lines.push(line);
            self.layer.rules.extend(rules);
        }
        let lines = self.layer.lines.len() - at;
        self.depths[depth.min(DEPTH)] += members.len();
        Row::list(at, lines)
    }

    fn lanes(&self, cuboid: &Cuboid) -> Lanes {
        let mut lanes = [0; 8];
        for (&dimension, (low, high)) in self.dimensions.iter().zip(LANES) {
            lanes[low] = cuboid.ranges[dimension].0;
            lanes[high] = !cuboid.ranges[dimension].1;
        }
        Lanes(lanes)
    }

    /// A cut of `members` by the dimension that shortens them most, if any is worth it.
    fn cut(&mut self, members: &[u16], part: &[Range; 4], depth: usize) -> Option<Row> {
        let mut best: Option<(usize, usize, Vec<u16>, Vec<u32>)> = None;
        for (i, (&dimension, part)) in self.dimensions.iter().zip(part).enumerate() {
            let ranges = members.iter().filter_map(|&member| {
                let range = self.boxes.boxes.get(usize::from(member))?.ranges[dimension];
                Some((range.0.max(part.0), range.1.min(part.1)))
            });
            let keys = keys(ranges.clone(), *part);
            if keys.is_empty() {
                continue;
            }
            let counts = counts(ranges, &keys);
            let total: usize = counts.iter().map(|&count| count as usize).sum();
            // What is compared, on average over the rules and their packets.
            let mean = counts.iter().map(|&count| (count as usize).pow(2)).sum::<usize>() / total.max(1);
            if best.as_ref().is_none_or(|best| mean < best.0) {
                best = Some((mean, i, keys, counts));
            }
        }
        let (mean, i, keys, counts) = best?;
        let added = counts.iter().map(|&count| count as usize).sum::<usize>() / LINE + counts.len();
        if mean * 4 > members.len() * 3 || added > self.budget {
            return None;
        }
        self.budget -= added;
        let dimension = self.dimensions[i];
        let ranges: Vec<(u16, Range)> = members
            .iter()
            .filter_map(|&member| {
                Some((member, self.boxes.boxes.get(usize::from(member))?.ranges[dimension]))
            })
            .collect();
        let mut rows = [Row::default(); CUT + 1];
        let mut low = part[i].0;
        for (child, row) in rows.iter_mut().enumerate().take(keys.len() + 1) {
            let high = keys.get(child).copied().unwrap_or(part[i].1);
            let mut part = *part;
            part[i] = (low, high);
            let members: Vec<u16> = ranges
                .iter()
                .filter(|(_, range)| range.0 <= high && range.1 >= low)
                .map(|range| range.0)
                .collect();
            *row = self.row(&members, &part, depth + 1);
            low = high.saturating_add(1);
        }
        let keys = Keys(core::array::from_fn(|i| keys.get(i).copied().unwrap_or(u16::MAX)));
        self.layer.keys.push(keys);
        self.layer.parts.extend(rows);
        Some(Row::cut(self.layer.keys.len() - 1, LANES[i].0))
    }
}

/// Up to [`CUT`] of the places where ranges begin or end within `part`, evenly chosen.
fn keys(ranges: impl Iterator<Item = Range>, part: Range) -> Vec<u16> {
    let mut keys = Vec::new();
    for (low, high) in ranges {
        if low > part.0 {
            keys.push(low - 1);
        }
        if high < part.1 {
            keys.push(high);
        }
    }
    keys.sort_unstable();
    keys.dedup();
    if keys.len() > CUT {
        let all = keys;
        keys = (1..=CUT).filter_map(|i| all.get(i * all.len() / (CUT + 1)).copied()).collect();
        keys.dedup();
    }
    keys
}

/// How many ranges each part between `keys` meets.
fn counts(ranges: impl Iterator<Item = Range>, keys: &[u16]) -> Vec<u32> {
    let mut counts = vec![0u32; keys.len() + 2];
    for (low, high) in ranges {
        let part = |x: u16| keys.partition_point(|&key| key < x);
        counts[part(low)] = counts[part(low)].wrapping_add(1);
        counts[part(high) + 1] = counts[part(high) + 1].wrapping_sub(1);
    }
    let mut met = 0u32;
    for count in &mut counts {
        met = met.wrapping_add(*count);
        *count = met;
    }
    counts.pop();
    counts
}
