//! Longest-prefix match over addresses of `BYTES` bytes: 4 for IPv4, 16 for IPv6. A million routes; changed in place while
//! readers look up.
//!
//! Two cache misses for IPv4, which overlap over a burst: a root word, chosen by the first 19 bits, has a bitmap of where
//! among the next 32 values of the address another answer begins, and the answers lie side by side. What is longer than
//! 24 bits, and so most of IPv6, goes on in nodes of 64, and past bits that all prefixes there have in common, in one step.
//! It is what poptrie (Asai and Ohara, SIGCOMM 2015) does, with a root that is compressed too: a full table of IPv4 takes
//! 11 MB, and stays in the last-level cache where a plain array for 24 bits does not.
//!
//! [`Lpm`] is the writer's; any number of [`Reader`]s look up beside it and never wait. A change makes the nodes of
//! a root word anew, and stores that word last. The old nodes are retired; who knows that every look-up begun before has
//! ended says so by [`reclaim`](Lpm::reclaim).

mod blocks;
mod compile;
#[cfg(vector)]
mod vector;
mod walk;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use self::blocks::{Block, Blocks, UNIT};
use self::compile::{Compiler, Prefix, blocks_of};
use self::walk::{CHILD, Keys, ROOT_BITS, Shared};

/// Why a prefix was refused. The table is then unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LpmError {
    /// The length exceeds the address's bits.
    #[error("prefix length {0} exceeds the address's {1} bits")]
    Length(u8, usize),
    /// The value exceeds [`MAX_VALUE`].
    #[error("value {0} exceeds {MAX_VALUE}")]
    Value(u32),
    /// No memory is left: 128 MiB are used, or what was [reserved](Lpm::reserve) and readers are in it.
    #[error("the table is full")]
    Full,
}

/// The largest value that a prefix can map to.
pub const MAX_VALUE: u32 = CHILD - 2;

/// What [`lookup_burst`](Lpm::lookup_burst) answers where no prefix matches.
pub const NO_MATCH: u32 = u32::MAX;

/// A prefix as the writer keeps it: address, zero beyond the length, and length.
type Route<const BYTES: usize> = ([u8; BYTES], u8);

/// A table of prefixes, and what its one writer knows of it. See the module's description.
pub struct Lpm<const BYTES: usize> {
    shared: Arc<Shared>,
    /// All prefixes, those that hold others ahead of them.
    routes: BTreeMap<Route<BYTES>, u32>,
    /// How many there are of each length up to the root's bits.
    short: [u32; ROOT_BITS as usize + 1],
    /// Root words that have one answer for all their addresses: what they share, by the answer.
    constants: HashMap<u32, Constant>,
    blocks: Blocks,
}

#[derive(Clone, Copy, Debug)]
struct Constant {
    word: u64,
    uses: u32,
}

/// Looks up in a table that its writer may change meanwhile. Cheap to clone.
#[derive(Clone)]
pub struct Reader<const BYTES: usize>(Arc<Shared>);

impl<const BYTES: usize> Reader<BYTES> {
    /// As [`Lpm::lookup`].
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: &[u8; BYTES]) -> Option<u32> {
        self.0.lookup(address).checked_sub(1)
    }

    /// As [`Lpm::lookup_burst`].
    #[inline]
    pub fn lookup_burst(&self, addresses: &[[u8; BYTES]], results: &mut [u32]) {
        self.0.lookup_burst(addresses, results);
    }
}

impl<const BYTES: usize> Default for Lpm<BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const BYTES: usize> Lpm<BYTES> {
    /// A table with no prefix.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared::new()),
            routes: BTreeMap::new(),
            short: [0; ROOT_BITS as usize + 1],
            constants: HashMap::new(),
            blocks: Blocks::new(),
        }
    }

    /// A table of `(address, length, value)` prefixes. Of equal prefixes the last wins.
    ///
    /// # Errors
    /// As [`insert`](Self::insert), for the first prefix that it refuses.
    pub fn build(prefixes: impl IntoIterator<Item = ([u8; BYTES], u8, u32)>) -> Result<Self, LpmError> {
        let mut table = Self::new();
        let routes = prefixes.into_iter().map(|(address, length, value)| {
            let route = Self::route(address, length)?;
            if value > MAX_VALUE { Err(LpmError::Value(value)) } else { Ok((route, value)) }
        });
        table.routes = routes.collect::<Result<_, _>>()?;
        for &(_, length) in table.routes.keys() {
            if let Some(count) = table.short.get_mut(usize::from(length)) {
                *count += 1;
            }
        }
        if let Some(&value) = table.routes.get(&([0; BYTES], 0)) {
            table.shared.default.store(value + 1, Ordering::Release);
        }
        table.rebuild(0, 1 << ROOT_BITS, 0)?;
        Ok(table)
    }

    /// A prefix as a key.
    fn route(address: [u8; BYTES], length: u8) -> Result<Route<BYTES>, LpmError> {
        if usize::from(length) > BYTES * 8 {
            return Err(LpmError::Length(length, BYTES * 8));
        }
        Ok((masked(address, length), length))
    }

    /// Adds a prefix, or replaces its value. Bits of the address beyond the length are ignored.
    ///
    /// # Errors
    /// A length above `8 * BYTES`, a value above [`MAX_VALUE`], no memory; the table is then unchanged.
    pub fn insert(&mut self, address: [u8; BYTES], length: u8, value: u32) -> Result<(), LpmError> {
        let route = Self::route(address, length)?;
        if value > MAX_VALUE {
            return Err(LpmError::Value(value));
        }
        self.change(route, Some(value)).map(|_| ())
    }

    /// Takes a prefix out, and says what its value was; `None` if it was not there.
    ///
    /// # Errors
    /// A length above `8 * BYTES`, no memory for the nodes that take its place; the table is then unchanged.
    pub fn remove(&mut self, address: [u8; BYTES], length: u8) -> Result<Option<u32>, LpmError> {
        self.change(Self::route(address, length)?, None)
    }

    /// The value of exactly this prefix.
    #[must_use]
    pub fn get(&self, address: [u8; BYTES], length: u8) -> Option<u32> {
        self.routes.get(&Self::route(address, length).ok()?).copied()
    }

    fn change(&mut self, route: Route<BYTES>, value: Option<u32>) -> Result<Option<u32>, LpmError> {
        let old = self.put(route, value);
        if old == value {
            return Ok(old);
        }
        let (address, length) = route;
        if length == 0 {
            // Kept apart, so that a change of the default route is one store.
            self.shared.default.store(value.map_or(0, |value| value + 1), Ordering::Release);
            return Ok(old);
        }
        let first = address.top() >> (32 - ROOT_BITS);
        let count = 1 << ROOT_BITS.saturating_sub(length.into());
        let cover = self.cover(address, length.min(ROOT_BITS as u8 + 1));
        if let Err(error) = self.rebuild(first, count, cover) {
            self.put(route, old);
            return Err(error);
        }
        Ok(old)
    }

    /// Sets, or with `None` removes, what the writer keeps of a prefix. Returns what it was.
    fn put(&mut self, route: Route<BYTES>, value: Option<u32>) -> Option<u32> {
        let old = match value {
            Some(value) => self.routes.insert(route, value),
            None => self.routes.remove(&route),
        };
        self.count(route.1, i32::from(value.is_some()) - i32::from(old.is_some()));
        old
    }

    fn count(&mut self, length: u8, by: i32) {
        if let Some(count) = self.short.get_mut(usize::from(length)) {
            *count = count.wrapping_add_signed(by);
        }
    }

    /// The entry of the longest prefix that holds the address and is shorter than `length`, but for the default route.
    fn cover(&self, address: [u8; BYTES], length: u8) -> u32 {
        let lengths = (1..length).rev().filter(|&length| self.short[usize::from(length)] > 0);
        let found = lengths.filter_map(|length| self.routes.get(&(masked(address, length), length))).next();
        found.map_or(0, |value| value + 1)
    }

    /// Makes `count` root words from `first` on anew; `cover` is the entry of what holds them all.
    fn rebuild(&mut self, first: u32, count: u32, cover: u32) -> Result<(), LpmError> {
        let alone = Arc::get_mut(&mut self.shared).map(|shared| {
            if shared.root.is_empty() {
                shared.make_root();
            }
        });
        if alone.is_some() {
            self.blocks.reclaim(u64::MAX);
        }
        let words = loop {
            let mut compiler =
                Compiler { words: &self.shared.words, blocks: &mut self.blocks, taken: Vec::new() };
            let words = compile(&mut compiler, &self.routes, &mut self.constants, first, count, cover);
            if let Ok(words) = words {
                break words;
            }
            for block in std::mem::take(&mut compiler.taken) {
                self.blocks.free(block);
            }
            self.constants.retain(|_, constant| constant.uses > 0);
            self.grow()?;
        };
        for (slot, new) in (first as usize..).zip(words) {
            let Some(word) = self.shared.root.get(slot) else { break };
            let old = word.swap(new, Ordering::Release);
            self.used(new, 1);
            if !is_constant(old) {
                let (blocks, alone) = (&mut self.blocks, alone.is_some());
                blocks_of(old, &self.shared.words, &mut |block| match alone {
                    true => blocks.free(block),
                    false => blocks.retire(block),
                });
            } else if let Some(block) = self.used(old, -1) {
                // Freed at the next change if nobody reads.
                self.blocks.retire(block);
            }
        }
        Ok(())
    }

    /// Counts a constant root word; returns what it shared when the last of its kind is gone.
    fn used(&mut self, word: u64, by: i32) -> Option<Block> {
        if !is_constant(word) || word == 0 {
            return None;
        }
        let at = (word >> 32) as usize;
        let entry = self.shared.words.get(at)?.load(Ordering::Relaxed);
        let constant = self.constants.get_mut(&entry)?;
        constant.uses = constant.uses.wrapping_add_signed(by);
        if constant.uses > 0 {
            return None;
        }
        self.constants.remove(&entry);
        Some(Block::new((at / UNIT) as u32, 1))
    }

    /// Doubles the memory of nodes, while nobody reads.
    fn grow(&mut self) -> Result<(), LpmError> {
        let words = self.shared.words.len();
        self.resize(words * 2)
    }

    fn resize(&mut self, words: usize) -> Result<(), LpmError> {
        let shared = Arc::get_mut(&mut self.shared).ok_or(LpmError::Full)?;
        if words > MOST_WORDS {
            return Err(LpmError::Full);
        }
        if words > shared.words.len() {
            shared.words.resize_with(words, AtomicU32::default);
        }
        Ok(())
    }

    /// Takes memory for some `prefixes` in all, and for as many to be replaced before they are reclaimed. It can only be had
    /// as long as there is no [`Reader`]; until then the table grows by itself.
    ///
    /// # Errors
    /// [`LpmError::Full`] if a reader is there.
    pub fn reserve(&mut self, prefixes: usize) -> Result<(), LpmError> {
        self.resize(prefixes.saturating_mul(WORDS_PER_PREFIX).clamp(1, MOST_WORDS))
    }

    /// One that looks up in this table from now on.
    #[must_use]
    pub fn reader(&mut self) -> Reader<BYTES> {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            if shared.root.is_empty() {
                shared.make_root();
            }
        }
        Reader(Arc::clone(&self.shared))
    }

    /// A mark for [`reclaim`](Self::reclaim): all that has been taken out of the readers' sight so far.
    #[must_use]
    pub fn retired(&self) -> u64 {
        self.blocks.retired()
    }

    /// Frees what was retired by the time that [`retired`](Self::retired) gave `mark`. The caller knows that every look-up
    /// begun before then has ended. Said too early, look-ups may give wrong answers, and nothing worse.
    pub fn reclaim(&mut self, mark: u64) {
        self.blocks.reclaim(mark);
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: &[u8; BYTES]) -> Option<u32> {
        self.shared.lookup(address).checked_sub(1)
    }

    /// Looks many addresses up, up to 64 at once. Each result is the value of the longest prefix that holds the address, or
    /// [`NO_MATCH`]. Addresses without a result, and results without an address, are left alone.
    #[inline]
    pub fn lookup_burst(&self, addresses: &[[u8; BYTES]], results: &mut [u32]) {
        self.shared.lookup_burst(addresses, results);
    }

    /// How many prefixes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// All prefixes with their values, by address, and those that hold others ahead of them.
    pub fn iter(&self) -> impl Iterator<Item = ([u8; BYTES], u8, u32)> {
        self.routes.iter().map(|(&(address, length), &value)| (address, length, value))
    }

    /// Memory that readers see, in bytes. The writer's list of prefixes comes on top.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.shared.root.capacity() * size_of::<AtomicU64>()
            + self.shared.words.capacity() * size_of::<AtomicU32>()
            + self.blocks.bytes()
    }
}

/// The most words of nodes: what an entry can name.
const MOST_WORDS: usize = UNIT << 24;
/// Words of nodes that a prefix takes at most in tables as they are, IPv6's included, and as many again.
const WORDS_PER_PREFIX: usize = 32;

/// Whether a root word has one answer for all its addresses.
fn is_constant(word: u64) -> bool {
    word as u32 == 0
}

/// The address with all bits beyond the length zero.
fn masked<const BYTES: usize>(mut address: [u8; BYTES], length: u8) -> [u8; BYTES] {
    for (at, byte) in address.iter_mut().enumerate() {
        let kept = usize::from(length).saturating_sub(at * 8).min(8);
        *byte &= !(0xff_u16 >> kept) as u8;
    }
    address
}

/// Root words for what the prefixes say.
fn compile<const BYTES: usize>(
    compiler: &mut Compiler<'_>,
    routes: &BTreeMap<Route<BYTES>, u32>,
    constants: &mut HashMap<u32, Constant>,
    first: u32,
    count: u32,
    cover: u32,
) -> Result<Vec<u64>, LpmError> {
    let mut words = Vec::with_capacity(count as usize);
    let mut defaults = vec![cover; count as usize];
    let mut inside = Vec::new();
    let (from, to) = (bounds(first, 0), bounds(first + (count - 1), u8::MAX));
    let mut routes = routes.range((from, 1)..=(to, u8::MAX)).peekable();
    for slot in 0..count {
        inside.clear();
        // A short prefix comes ahead of all that lie in it.
        while let Some(&(&(address, length), &value)) = routes.peek() {
            if address.top() >> (32 - ROOT_BITS) != first + slot {
                break;
            }
            let entry = value + 1;
            if u32::from(length) <= ROOT_BITS {
                let width = 1 << (ROOT_BITS - u32::from(length));
                let end = count.min(slot + width);
                defaults[slot as usize..end as usize].fill(entry);
            } else {
                inside.push(Prefix { halves: address.halves(), length, entry });
            }
            routes.next();
        }
        words.push(match compiler.slot(&inside, defaults[slot as usize])? {
            Ok(word) => word,
            Err(0) => 0,
            Err(entry) => match constants.get(&entry) {
                Some(constant) => constant.word,
                None => {
                    let word = compiler.word(0, &[entry])?;
                    constants.insert(entry, Constant { word, uses: 0 });
                    word
                }
            },
        });
    }
    Ok(words)
}

/// The lowest or the highest address of a root slot.
fn bounds<const BYTES: usize>(slot: u32, rest: u8) -> [u8; BYTES] {
    let top = slot << (32 - ROOT_BITS) | (u32::from_be_bytes([rest; 4]) >> ROOT_BITS);
    let mut address = [rest; BYTES];
    for (byte, top) in address.iter_mut().zip(top.to_be_bytes()) {
        *byte = top;
    }
    address
}

impl<const BYTES: usize> Clone for Lpm<BYTES> {
    fn clone(&self) -> Self {
        let mut shared = Shared::new();
        shared.default = AtomicU32::new(self.shared.default.load(Ordering::Relaxed));
        let copy32 = |word: &AtomicU32| AtomicU32::new(word.load(Ordering::Relaxed));
        let copy64 = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Relaxed));
        shared.words.clear();
        shared.words.extend(self.shared.words.iter().map(copy32));
        shared.root.extend(self.shared.root.iter().map(copy64));
        Self {
            shared: Arc::new(shared),
            routes: self.routes.clone(),
            short: self.short,
            constants: self.constants.clone(),
            blocks: self.blocks.clone(),
        }
    }
}

impl<const BYTES: usize> fmt::Debug for Lpm<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.routes.iter()).finish()
    }
}

impl<const BYTES: usize> fmt::Debug for Reader<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "lpm_tests.rs"]
mod tests;
