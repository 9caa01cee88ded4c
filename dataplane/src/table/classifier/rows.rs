//! A layer: some of the rules, as a row for each rank of one dimension, the layer's root. A row lists the rules that
//! allow the rank, in their order. Long ones are cut by another dimension, as far as that shortens what is compared.
//!
//! A rule is compared in four dimensions at once, by eight lanes of 16 bits: each dimension's lowest value, and the
//! complement of its highest. A packet has its value in the one lane and the complement in the other; a rule matches
//! if none of its lanes is above the packet's. A packet without ports has zeros in all port lanes: so it matches rules
//! that allow every port, and no others.

use std::collections::HashMap;

use super::boxes::{Boxes, Cuboid, DESTINATION, DESTINATION_PORT, KIND, Range, SOURCE, SOURCE_PORT};
use super::simd::{Keys, Lanes, Line, Vector};

/// What a layer's rows are chosen by. Listed with the two dimensions that are compared along with the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Root {
    Destination,
    Source,
    Kind,
    /// One row, of rules that allow every kind.
    None,
}

impl Root {
    /// Its dimension.
    pub(super) fn dimension(self) -> Option<usize> {
        match self {
            Self::Destination => Some(DESTINATION),
            Self::Source => Some(SOURCE),
            Self::Kind => Some(KIND),
            Self::None => None,
        }
    }

    /// The dimensions that are compared, in the order of the lanes.
    fn compared(self) -> [usize; 4] {
        let others = match self {
            Self::Destination => [KIND, SOURCE],
            Self::Source => [KIND, DESTINATION],
            Self::Kind | Self::None => [SOURCE, DESTINATION],
        };
        [SOURCE_PORT, DESTINATION_PORT, others[0], others[1]]
    }
}

/// Where each compared dimension's lowest value and its complement of the highest are.
const LANES: [(usize, usize); 4] = [(0, 2), (1, 3), (4, 5), (6, 7)];

/// Rules in a line.
const LINE: usize = 4;
/// The most lines that one comparison takes. As many follow the last row, which may be read but never count.
const WIDEST: usize = 4;
/// Rows of this many rules are not cut.
const SHORT: usize = 8;
/// Keys in a cut.
const CUT: usize = 32;
/// Cuts below each other.
const DEPTH: usize = 6;
/// No rule.
pub(super) const NONE: u16 = u16::MAX;
/// A rule that matches nothing: no lane and its complement are both at the maximum.
const NEVER: Lanes = Lanes([u16::MAX; 8]);

/// Rules in order, or a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    /// The first line, or the cut.
    at: u32,
    /// How many lines. Of a cut 0.
    lines: u16,
    /// The lane that a cut looks at, plus one. Of a list 0.
    lane: u16,
}

/// Chooses among up to 33 rows by one lane.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Cut {
    keys: Keys<u16, CUT>,
    rows: [Row; CUT + 1],
}

/// See the module's description.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) root: Root,
    /// How many lines are compared at first: 1, 2 or 4.
    pub(super) width: usize,
    rows: Vec<Row>,
    lines: Vec<Line>,
    /// Which rule each place in `lines` is.
    rules: Vec<u16>,
    cuts: Vec<Cut>,
}

impl Layer {
    /// Looks packets up: `ranks` are theirs in the root's dimension. Lowers `best` to the first rule that matches.
    #[inline(always)]
    pub(super) fn look_up<V: Vector>(&self, vector: V, ranks: &[u16], packets: &[Lanes], best: &mut [u16]) {
        match self.width {
            1 => self.compare::<V, 1>(vector, ranks, packets, best),
            2 => self.compare::<V, 2>(vector, ranks, packets, best),
            _ => self.compare::<V, 4>(vector, ranks, packets, best),
        }
    }

    #[inline(always)]
    fn compare<V: Vector, const WIDTH: usize>(
        &self,
        vector: V,
        ranks: &[u16],
        packets: &[Lanes],
        best: &mut [u16],
    ) {
        for ((&rank, packet), best) in ranks.iter().zip(packets).zip(best) {
            let Some(row) = self.rows.get(usize::from(rank)) else { continue };
            let mut row = *row;
            while row.lane != 0 {
                let Some(cut) = self.cuts.get(row.at as usize) else { break };
                let value = packet.0[usize::from(row.lane - 1) % 8];
                row = cut.rows[vector.below16(&cut.keys, value)];
            }
            let mut found = self.first::<V, WIDTH>(vector, row, packet);
            while found == NONE && usize::from(row.lines) > WIDTH {
                row = Row { at: row.at + WIDTH as u32, lines: row.lines - WIDTH as u16, lane: 0 };
                found = self.first::<V, WIDTH>(vector, row, packet);
            }
            *best = (*best).min(found);
        }
    }

    /// The first rule that matches, of a row's first lines.
    #[inline(always)]
    fn first<V: Vector, const WIDTH: usize>(&self, vector: V, row: Row, packet: &Lanes) -> u16 {
        let at = row.at as usize;
        let Some(lines) = self.lines.get(at..).and_then(|lines| lines.first_chunk::<WIDTH>()) else {
            return NONE;
        };
        let own = u64::from(vector.matches(lines, packet)) & ((1 << (8 * row.lines.min(4))) - 1);
        // Behind the row's own places there is one that is no rule.
        let place = own.trailing_zeros() as usize / 2;
        if own == 0 { NONE } else { self.rules.get(LINE * at + place).copied().unwrap_or(NONE) }
    }

    pub(super) fn describe(&self) -> String {
        format!("{:?} width {} rows {} lines {} cuts {}", self.root, self.width, self.rows.len(), self.lines.len(), self.cuts.len())
    }

    /// Memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(self.rows.as_slice())
            + size_of_val(self.lines.as_slice())
            + size_of_val(self.rules.as_slice())
            + size_of_val(self.cuts.as_slice())
    }
}

/// Makes a layer.
#[derive(Debug)]
pub(super) struct Builder<'a, A> {
    boxes: &'a Boxes<A>,
    dimensions: [usize; 4],
    layer: Layer,
    /// Rows by what they list.
    made: HashMap<Vec<u16>, Row>,
    /// How many lines cuts may still add.
    budget: usize,
    /// How often each row length has been looked up by a rule's own packets.
    lengths: [usize; 3],
}

impl<'a, A: super::Address> Builder<'a, A> {
    /// A layer of some boxes, by their numbers, in order.
    pub(super) fn build(boxes: &'a Boxes<A>, root: Root, members: &[u16]) -> Layer {
        let mut builder = Self {
            boxes,
            dimensions: root.compared(),
            layer: Layer {
                root,
                width: 1,
                rows: Vec::new(),
                lines: Vec::new(),
                rules: Vec::new(),
                cuts: Vec::new(),
            },
            made: HashMap::new(),
            budget: 4 * members.len() + 64,
            lengths: [0; 3],
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
            row = builder.row(&active, &[(0, u16::MAX); 4], 0);
        }
        rows.resize(usize::from(last) + 1, row);
        builder.finish(rows)
    }

    fn finish(self, rows: Vec<Row>) -> Layer {
        let mut layer = self.layer;
        layer.rows = rows;
        let [one, two, more] = self.lengths;
        layer.width = if more * 8 > one + two + more {
            4
        } else if (two + more) * 8 > one + two + more {
            2
        } else {
            1
        };
        layer.lines.resize(layer.lines.len() + WIDEST, Line([NEVER; LINE]));
        layer.rules.resize(LINE * layer.lines.len() + 1, NONE);
        layer
    }

    /// The row that lists `members`, within a part of the compared dimensions.
    fn row(&mut self, members: &[u16], part: &[Range; 4], depth: usize) -> Row {
        let members = self.visible(members, part);
        if let Some(&row) = self.made.get(&members) {
            return row;
        }
        let cut = if members.len() > SHORT && depth < DEPTH { self.cut(&members, part, depth) } else { None };
        let row = cut.unwrap_or_else(|| self.list(&members));
        self.made.insert(members, row);
        row
    }

    /// Without members of which an earlier one takes every packet.
    fn visible(&self, members: &[u16], part: &[Range; 4]) -> Vec<u16> {
        let mut kept: Vec<u16> = Vec::with_capacity(members.len());
        let mut widest: Vec<&Cuboid> = Vec::new();
        for &member in members {
            let Some(cuboid) = self.boxes.boxes.get(usize::from(member)) else { continue };
            let hides = |wide: &&Cuboid| {
                self.dimensions.iter().zip(part).enumerate().all(|(i, (&dimension, part))| {
                    let (outer, inner) = (wide.ranges[dimension], cuboid.ranges[dimension]);
                    // What is without ports is in every part, and asks for every port.
                    let inner = if i < 2 { inner } else { (inner.0.max(part.0), inner.1.min(part.1)) };
                    outer.0 <= inner.0 && outer.1 >= inner.1
                })
            };
            if widest.iter().any(hides) {
                continue;
            }
            kept.push(member);
            if widest.len() < 16 {
                widest.push(cuboid);
            }
        }
        kept
    }

    fn list(&mut self, members: &[u16]) -> Row {
        let at = self.layer.lines.len();
        for four in members.chunks(LINE) {
            let cuboid = |i: usize| four.get(i).and_then(|&member| self.boxes.boxes.get(usize::from(member)));
            let rules: [_; LINE] = core::array::from_fn(|i| cuboid(i).map_or(NONE, |cuboid| cuboid.rule));
            let line = Line(core::array::from_fn(|i| cuboid(i).map_or(NEVER, |cuboid| self.lanes(cuboid))));
            self.layer.lines.push(line);
            self.layer.rules.extend(rules);
        }
        let lines = self.layer.lines.len() - at;
        self.lengths[lines.saturating_sub(1).min(2)] += members.len();
        Row { at: at as u32, lines: lines as u16, lane: 0 }
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
        let mut rows = [Row::default(); CUT + 1];
        for (child, row) in rows.iter_mut().enumerate().take(keys.len() + 1) {
            let low = if child == 0 { part[i].0 } else { keys.get(child - 1).map_or(0, |key| key + 1) };
            let high = keys.get(child).copied().unwrap_or(part[i].1);
            let mut part = *part;
            part[i] = (low, high);
            let overlaps = |member: &&u16| {
                let cuboid = self.boxes.boxes.get(usize::from(**member));
                cuboid.is_some_and(|c| c.ranges[dimension].0 <= high && c.ranges[dimension].1 >= low)
            };
            let members: Vec<u16> = members.iter().filter(overlaps).copied().collect();
            *row = self.row(&members, &part, depth + 1);
        }
        let keys = Keys(core::array::from_fn(|i| keys.get(i).copied().unwrap_or(u16::MAX)));
        self.layer.cuts.push(Cut { keys, rows });
        Some(Row { at: self.layer.cuts.len() as u32 - 1, lines: 0, lane: LANES[i].0 as u16 + 1 })
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
    let steps = keys.len();
    keys.dedup();
    if keys.len() > CUT {
        // A place where many begin or end counts often.
        let _ = steps;
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
        counts[part(low)] += 1;
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
