//! From prefixes to the nodes that readers walk.

use std::sync::atomic::{AtomicU32, Ordering};

use super::LpmError;
use super::blocks::{Block, Blocks, UNIT};
use super::walk::{
    CHILD, FAR, FIRST_WINDOW, LIST, ROOT_BITS, RUN_BITS, SECOND_WINDOW, SKIP, STRIDE, child, is_list, parse,
    room_of, window_of,
};

/// Bits that one half of an address has: a walk looks at the first half, and then, rarely, at the second.
const HALF: u32 = 64;
/// So many bits that all prefixes have in common are tested at once; fewer are left to a node.
const SKIP_FROM: u32 = 4;

/// The most ends, and so the most prefixes, of a list.
const MOST_LISTED: usize = 16;

/// A prefix, and the entry that it leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefix {
    /// Address bits, from the top; those of IPv4 are the first 32. Zero beyond the length.
    pub(super) halves: [u64; 2],
    pub(super) length: u8,
    pub(super) entry: u32,
}

impl Prefix {
    /// Its length within a half, above 64 where it goes on in the next.
    fn length_in(&self, half: usize) -> u32 {
        u32::from(self.length) - HALF * half as u32
    }
}

/// Writes nodes into words that no reader knows of yet.
pub(super) struct Compiler<'a> {
    pub(super) words: &'a [AtomicU32],
    pub(super) blocks: &'a mut Blocks,
    /// Blocks taken so far.
    pub(super) taken: Vec<Block>,
}

impl Compiler<'_> {
    /// The root word for `prefixes`, all within its slot, longer than the root's bits, by address and then by length;
    /// or, as an error, the one entry for all of the slot.
    pub(super) fn slot(&mut self, prefixes: &[Prefix], default: u32) -> Result<Result<u64, u32>, LpmError> {
        if prefixes.is_empty() {
            return Ok(Err(default));
        }
        let entries: [u32; 1 << RUN_BITS] = self.spread(prefixes, 0, ROOT_BITS, RUN_BITS, default)?;
        let (bitmap, runs) = runs(&entries);
        if runs.len() == 1 {
            return Ok(Err(entries[0]));
        }
        Ok(Ok(self.word(bitmap, &runs)?))
    }

    /// A root word with these runs.
    pub(super) fn word(&mut self, bitmap: u64, runs: &[u32]) -> Result<u64, LpmError> {
        let block = self.take(runs.len())?;
        self.write(block, 0, runs);
        Ok(u64::from(block.first * UNIT as u32) << 32 | bitmap)
    }

    /// The entry for addresses whose first `position` bits of that half are known; all prefixes are longer.
    fn entry(
        &mut self,
        prefixes: &[Prefix],
        half: usize,
        position: u32,
        default: u32,
    ) -> Result<u32, LpmError> {
        let [first, ..] = prefixes else { return Ok(default) };
        if position == HALF {
            return self.far(prefixes, default);
        }
        if let Some(kind) = list_of(prefixes, half, position) {
            if let Some((ends, entries)) = ranges(prefixes, half, kind, default) {
                return self.list(kind, &ends, &entries);
            }
        }
        // By their order, the first and the last differ earliest, and only the first can hold all others.
        let last = prefixes.last().unwrap_or(first);
        let differ = (first.halves[half] ^ last.halves[half]).leading_zeros();
        let common = differ.min(first.length_in(half));
        if prefixes.len() == 1 || common >= position + SKIP_FROM {
            return self.skip(prefixes, half, common, default);
        }
        let position = position.min(HALF - STRIDE);
        let entries: [u32; 1 << STRIDE] = self.spread(prefixes, half, position, STRIDE, default)?;
        let (bitmap, runs) = runs(&entries);
        if runs.len() == 1 {
            return Ok(entries[0]);
        }
        let block = self.take(UNIT + runs.len())?;
        self.write(block, 0, &[bitmap as u32, (bitmap >> 32) as u32]);
        self.write(block, UNIT, &runs);
        Ok(child(block.first, HALF - STRIDE - position))
    }

    /// A node that goes on where the first `length` bits of the half are those of the prefixes.
    fn skip(&mut self, prefixes: &[Prefix], half: usize, length: u32, default: u32) -> Result<u32, LpmError> {
        let [first, rest @ ..] = prefixes else { return Ok(default) };
        let inside = if first.length_in(half) == length {
            self.entry(rest, half, length, first.entry)?
        } else {
            self.entry(prefixes, half, length, default)?
        };
        if inside == default {
            return Ok(default);
        }
        let wanted = first.halves[half] & (u64::MAX << (HALF - length));
        let block = self.take(UNIT + 2)?;
        self.write(block, 0, &[wanted as u32, (wanted >> 32) as u32, default, inside]);
        Ok(child(block.first, HALF - length) | SKIP)
    }

    /// A list of ranges: where each but the last one ends, and their entries.
    fn list(&mut self, kind: u32, ends: &[u32], entries: &[u32]) -> Result<u32, LpmError> {
        if let [entry] = entries {
            return Ok(*entry);
        }
        let kind = kind + u32::from(ends.len() > room_of(kind));
        let room = room_of(kind);
        let block = self.take(room + entries.len())?;
        for at in 0..room {
            self.write(block, at, &[ends.get(at).copied().unwrap_or(u32::MAX)]);
        }
        self.write(block, room, entries);
        Ok(child(block.first, kind))
    }

    /// A node that goes on with the second half of the address.
    fn far(&mut self, prefixes: &[Prefix], default: u32) -> Result<u32, LpmError> {
        let inside = self.entry(prefixes, 1, 0, default)?;
        let block = self.take(1)?;
        self.write(block, 0, &[inside]);
        Ok(child(block.first, FAR))
    }

    /// The entry for each value of the `bits` bits at `position`.
    fn spread<const N: usize>(
        &mut self,
        mut prefixes: &[Prefix],
        half: usize,
        position: u32,
        bits: u32,
        default: u32,
    ) -> Result<[u32; N], LpmError> {
        let mut entries = [default; N];
        let end = position + bits;
        let place = |prefix: &Prefix| (prefix.halves[half] >> (HALF - end)) as usize % N;
        // Those that hold others come ahead of them.
        while let Some(first) = prefixes.first() {
            let at = place(first);
            let length = first.length_in(half);
            if length <= end {
                let width = 1usize << (end - length);
                entries[at..N.min(at + width)].fill(first.entry);
                prefixes = &prefixes[1..];
            } else {
                let same = prefixes.iter().position(|prefix| place(prefix) != at).unwrap_or(prefixes.len());
                let (inside, rest) = prefixes.split_at(same);
                entries[at] = self.entry(inside, half, end, entries[at])?;
                prefixes = rest;
            }
        }
        Ok(entries)
    }

    fn take(&mut self, words: usize) -> Result<Block, LpmError> {
        let block = self.blocks.take(words, self.words.len()).ok_or(LpmError::Full)?;
        self.taken.push(block);
        Ok(block)
    }

    fn write(&self, block: Block, offset: usize, values: &[u32]) {
        let at = block.first as usize * UNIT + offset;
        for (word, &value) in self.words[at..].iter().zip(values) {
            // Published by the root word, which is stored last.
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// The kind of list that prefixes may become; of a single one a skip is smaller.
fn list_of(prefixes: &[Prefix], half: usize, position: u32) -> Option<u32> {
    let (kind, window) = match position {
        SECOND_WINDOW.. => (LIST + 2, SECOND_WINDOW),
        FIRST_WINDOW.. => (LIST, FIRST_WINDOW),
        _ => return None,
    };
    let fits = |prefix: &Prefix| prefix.length_in(half) <= window + 32;
    ((2..=MOST_LISTED).contains(&prefixes.len()) && prefixes.iter().all(fits)).then_some(kind)
}

/// The ranges that have one entry each of the values that a list of this kind compares, as far as it holds them: the last
/// value of each but the last range, and the entries.
fn ranges(prefixes: &[Prefix], half: usize, kind: u32, default: u32) -> Option<(Vec<u32>, Vec<u32>)> {
    let (mut ends, mut entries) = (Vec::new(), vec![default]);
    let mut begin = |start: u32, entry: u32| {
        // Nothing lies ahead of it, or what began there is hidden.
        if start == 0 || ends.last() == Some(&(start - 1)) {
            entries.pop();
            ends.pop();
        }
        if entries.last() != Some(&entry) {
            if !entries.is_empty() {
                ends.push(start.wrapping_sub(1));
            }
            entries.push(entry);
        }
    };
    // Those that the present value lies in, with their last values.
    let mut around: Vec<(u32, u32)> = Vec::new();
    let leave = |around: &mut Vec<(u32, u32)>, begin: &mut dyn FnMut(u32, u32), before: u32| {
        while let Some(&(last, _)) = around.last().filter(|inner| inner.0 < before) {
            around.pop();
            begin(last + 1, around.last().map_or(default, |outer| outer.1));
        }
    };
    for prefix in prefixes {
        let start = window_of(kind, prefix.halves[half]);
        leave(&mut around, &mut begin, start);
        begin(start, prefix.entry);
        let rest = u64::MAX.checked_shr(prefix.length_in(half)).unwrap_or(0);
        around.push((start | window_of(kind, rest), prefix.entry));
    }
    leave(&mut around, &mut begin, u32::MAX);
    (ends.len() <= MOST_LISTED).then_some((ends, entries))
}

/// Equal neighbours in one: a bit for each place but the first where a new run begins, and the runs' entries.
fn runs(entries: &[u32]) -> (u64, Vec<u32>) {
    let mut bitmap = 0;
    let mut runs = Vec::with_capacity(entries.len());
    for (at, &entry) in entries.iter().enumerate() {
        if runs.last() != Some(&entry) {
            bitmap |= 1 << at;
            runs.push(entry);
        }
    }
    (bitmap & !1, runs)
}

/// Calls `found` for each block that a root word leads to.
pub(super) fn blocks_of(word: u64, words: &[AtomicU32], found: &mut impl FnMut(Block)) {
    let base = (word >> 32) as usize;
    let runs = (word as u32).count_ones() as usize + 1;
    blocks_below(base, runs, words, found);
    found(Block::new((base / UNIT) as u32, runs));
}

fn blocks_below(at: usize, entries: usize, words: &[AtomicU32], found: &mut impl FnMut(Block)) {
    for word in &words[at..at + entries] {
        let entry = word.load(Ordering::Relaxed);
        if entry & CHILD == 0 {
            continue;
        }
        let (at, shift) = parse(entry);
        let block = Block::new((at / UNIT) as u32, 0);
        if entry & SKIP != 0 {
            blocks_below(at + UNIT, 2, words, found);
            found(Block::new(block.first, UNIT + 2));
        } else if shift == FAR {
            blocks_below(at, 1, words, found);
            found(Block::new(block.first, 1));
        } else if is_list(shift) {
            let room = room_of(shift);
            let is_end = |word: &&AtomicU32| word.load(Ordering::Relaxed) != u32::MAX;
            let ends = words[at..at + room].iter().filter(is_end).count();
            found(Block::new(block.first, room + ends + 1));
        } else {
            let ones = |word: &AtomicU32| word.load(Ordering::Relaxed).count_ones() as usize;
            let runs = ones(&words[at]) + ones(&words[at + 1]) + 1;
            blocks_below(at + UNIT, runs, words, found);
            found(Block::new(block.first, UNIT + runs));
        }
    }
}
