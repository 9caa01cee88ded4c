//! A layer: some of the rules, as a row for each rank of one dimension, the layer's root. A row lists the rules that
//! allow the rank, in their order. Long ones are cut by another dimension, as far as that shortens what is compared.
//!
//! A rule is compared in four dimensions at once, by eight lanes of 16 bits: each dimension's lowest value, and the
//! complement of its highest. A packet has its value in the one lane and the complement in the other; a rule matches
//! if none of its lanes is above the packet's. A packet without ports has zeros in all port lanes: so it matches rules
//! that allow every port, and no others.

use super::super::prefetch::prefetch_at;
use super::super::select::select;
use super::BURST;
use super::boxes::{DESTINATION, DESTINATION_PORT, KIND, SOURCE, SOURCE_PORT};
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
    pub(super) fn compared(self) -> [usize; 4] {
        let others = match self {
            Self::Destination => [KIND, SOURCE],
            Self::Source => [KIND, DESTINATION],
            Self::Kind | Self::None => [SOURCE, DESTINATION],
        };
        [SOURCE_PORT, DESTINATION_PORT, others[0], others[1]]
    }
}

/// Where each compared dimension's lowest value and its complement of the highest are.
pub(super) const LANES: [(usize, usize); 4] = [(0, 2), (1, 3), (4, 5), (6, 7)];

/// Rules in a line.
pub(super) const LINE: usize = 4;
/// Lines that are compared together; every list takes a multiple.
pub(super) const WIDTH: usize = 2;
/// Keys in a cut.
pub(super) const CUT: usize = 32;
/// No rule.
pub(super) const NONE: u16 = u16::MAX;
/// A rule that matches nothing: no lane and its complement are both at the maximum.
pub(super) const NEVER: Lanes = Lanes([u16::MAX; 8]);

/// Rules in order, or a cut, in one word: which line is the first and how many there are, or which cut and which lane it
/// looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row(u64);

impl Row {
    const CUT: u64 = 1 << 63;

    pub(super) fn list(at: usize, lines: usize) -> Self {
        Self(at as u64 | (lines as u64) << 32)
    }

    pub(super) fn cut(at: usize, lane: usize) -> Self {
        Self(at as u64 | (lane as u64) << 32 | Self::CUT)
    }

    #[inline(always)]
    fn at(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline(always)]
    fn lines(self) -> usize {
        (self.0 >> 32) as usize
    }

    #[inline(always)]
    fn lane(self) -> usize {
        (self.0 >> 32) as usize % 8
    }

    #[inline(always)]
    fn is_cut(self) -> bool {
        self.0 & Self::CUT != 0
    }
}

/// See the module's description.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) root: Root,
    /// How many cuts most packets go through; the others do as if, since a branch that is not foreseen takes longer.
    pub(super) depth: usize,
    /// Whether it is too large for the nearer caches, and so fetched ahead.
    pub(super) far: bool,
    /// By rank.
    pub(super) rows: Vec<Row>,
    /// The lists. The first one, which is that of no rules, matches nothing.
    pub(super) lines: Vec<Line>,
    /// Which rule each place in `lines` is.
    pub(super) rules: Vec<u16>,
    /// What a cut compares its lane with. The first one is that of no cut.
    pub(super) keys: Vec<Keys<u16, CUT>>,
    /// Each cut's rows.
    pub(super) parts: Vec<Row>,
}

impl Layer {
    /// Looks packets up: `ranks` are theirs in the root's dimension. Lowers `best` to the first rule that matches.
    #[inline(always)]
    pub(super) fn look_up<V: Vector>(
        &self,
        vector: V,
        ranks: &[u16; BURST],
        packets: &[Lanes],
        best: &mut [u16],
    ) {
        let mut rows = [Row::default(); BURST];
        for (row, &rank) in rows.iter_mut().zip(ranks) {
            *row = self.rows.get(usize::from(rank)).copied().unwrap_or_default();
            if self.far {
                prefetch_at(&self.keys, if row.is_cut() { row.at() } else { 0 });
            }
        }
        for (row, packet) in rows.iter_mut().zip(packets) {
            for _ in 0..self.depth {
                let cut = if row.is_cut() { row.at() } else { 0 };
                *row = select(row.is_cut(), self.part(vector, cut, row.lane(), packet), *row);
            }
            while row.is_cut() {
                *row = self.part(vector, row.at(), row.lane(), packet);
            }
            if self.far {
                for line in 0..WIDTH {
                    prefetch_at(&self.lines, row.at() + line);
                }
                prefetch_at(&self.rules, LINE * row.at());
            }
        }
        self.compare(vector, &rows, packets, best);
    }

    /// The part of a cut that a packet is in.
    #[inline(always)]
    fn part<V: Vector>(&self, vector: V, cut: usize, lane: usize, packet: &Lanes) -> Row {
        let part = self.keys.get(cut).map_or(0, |keys| vector.below16(keys, packet.0[lane % 8]));
        self.parts.get(cut * (CUT + 1) + part).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn compare<V: Vector>(&self, vector: V, rows: &[Row], packets: &[Lanes], best: &mut [u16]) {
        for ((row, packet), best) in rows.iter().zip(packets).zip(best) {
            let mut at = row.at();
            let mut found = self.first(vector, at, packet);
            if row.lines() > WIDTH {
                let end = at + row.lines() - WIDTH;
                while at < end && found == NONE {
                    at += WIDTH;
                    found = self.first(vector, at, packet);
                }
            }
            *best = (*best).min(found);
        }
    }

    /// The first rule that matches among those of [`WIDTH`] lines.
    #[inline(always)]
    fn first<V: Vector>(&self, vector: V, at: usize, packet: &Lanes) -> u16 {
        let Some(lines) = self.lines.get(at..).and_then(|lines| lines.first_chunk::<WIDTH>()) else {
            return NONE;
        };
        let set = vector.matches(lines, packet);
        // Without a match, a place that is no rule.
        let place = set.trailing_zeros() as usize / 2;
        let rule = self.rules.get(LINE * at + place).copied().unwrap_or(NONE);
        select(set == 0, NONE, rule)
    }

    /// Memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(self.rows.as_slice())
            + size_of_val(self.lines.as_slice())
            + size_of_val(self.rules.as_slice())
            + size_of_val(self.keys.as_slice())
            + size_of_val(self.parts.as_slice())
    }
}
