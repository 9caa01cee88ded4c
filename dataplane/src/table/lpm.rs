//! Longest-prefix match over addresses of `BYTES` bytes: 4 for IPv4, 16 for IPv6.
//!
//! A multibit trie with a stride of eight bits. Prefixes are leaf-pushed: a slot holds either a child node or
//! the answer, so a look-up reads one word for each byte of address that it needs and never goes back.

/// Slots in a node.
const FANOUT: usize = 256;
/// Marks a slot as a child; the rest is the node's number. A slot of 0 is empty; any other is a value plus one.
const CHILD: u32 = 1 << 31;

/// Why a prefix was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LpmError {
    /// The length exceeds the address's bits.
    #[error("prefix length {0} exceeds the address's {1} bits")]
    Length(u8, usize),
    /// The value exceeds [`MAX_VALUE`].
    #[error("value {0} exceeds {MAX_VALUE}")]
    Value(u32),
}

/// The largest value that a prefix can map to.
pub const MAX_VALUE: u32 = CHILD - 2;

/// A table of prefixes. See the module's description.
#[derive(Clone, Debug)]
pub struct Lpm<const BYTES: usize> {
    /// Nodes of 256 slots each, the root first.
    slots: Vec<u32>,
    /// The length of the prefix behind each slot's value. Read by `insert` alone.
    lengths: Vec<u8>,
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
        Self { slots: vec![0; FANOUT], lengths: vec![0; FANOUT] }
    }

    /// A table of `(address, length, value)` prefixes. Of equal prefixes the last wins.
    ///
    /// # Errors
    /// As [`insert`](Self::insert), for the first prefix that it refuses.
    pub fn build(prefixes: impl IntoIterator<Item = ([u8; BYTES], u8, u32)>) -> Result<Self, LpmError> {
        let mut table = Self::new();
        for (address, length, value) in prefixes {
            table.insert(address, length, value)?;
        }
        Ok(table)
    }

    /// Adds a prefix, or replaces its value. Bits of the address beyond the length are ignored.
    ///
    /// # Errors
    /// A length above `8 * BYTES`, a value above [`MAX_VALUE`]; the table is then unchanged.
    pub fn insert(&mut self, address: [u8; BYTES], length: u8, value: u32) -> Result<(), LpmError> {
        if usize::from(length) > BYTES * 8 {
            return Err(LpmError::Length(length, BYTES * 8));
        }
        if value > MAX_VALUE {
            return Err(LpmError::Value(value));
        }
        // The node whose slots the prefix covers whole: /1 to /8 end in the root, /9 to /16 one below.
        let depth = usize::from(length.saturating_sub(1) / 8);
        let mut node = 0;
        for &byte in address.iter().take(depth) {
            node = self.child(node * FANOUT + usize::from(byte));
        }
        let in_node = usize::from(length) - depth * 8;
        let width = FANOUT >> in_node;
        let byte = address.get(depth).copied().unwrap_or(0);
        let first = usize::from(byte) / width * width;
        self.fill(node, first, width, length, value + 1);
        Ok(())
    }

    /// The node below `slot`, made if need be: its slots inherit the answer that stood there.
    fn child(&mut self, slot: usize) -> usize {
        let held = self.slots[slot];
        if held & CHILD != 0 {
            return (held & !CHILD) as usize;
        }
        // Far below 2^31: that many nodes would be over 2 TiB.
        let node = self.slots.len() / FANOUT;
        self.slots.resize(self.slots.len() + FANOUT, held);
        self.lengths.resize(self.lengths.len() + FANOUT, self.lengths[slot]);
        self.slots[slot] = CHILD | node as u32;
        node
    }

    /// Gives `width` slots of `node`, and all below them, to a prefix, except where a longer one already holds.
    fn fill(&mut self, node: usize, first: usize, width: usize, length: u8, leaf: u32) {
        for slot in node * FANOUT + first..node * FANOUT + first + width {
            let held = self.slots[slot];
            if held & CHILD != 0 {
                self.fill((held & !CHILD) as usize, 0, FANOUT, length, leaf);
            } else if self.lengths[slot] <= length {
                self.slots[slot] = leaf;
                self.lengths[slot] = length;
            }
        }
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: &[u8; BYTES]) -> Option<u32> {
        let mut node = 0;
        for &byte in address {
            let held = *self.slots.get(node * FANOUT + usize::from(byte))?;
            if held & CHILD == 0 {
                return held.checked_sub(1);
            }
            node = (held & !CHILD) as usize;
        }
        None
    }

    /// Memory taken, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.slots.capacity() * size_of::<u32>() + self.lengths.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(text: &str) -> [u8; 4] {
        text.parse::<std::net::Ipv4Addr>().unwrap().octets()
    }

    #[test]
    fn the_longest_of_nested_prefixes_wins_in_any_order() {
        let prefixes = [
            ("0.0.0.0", 0, 0),
            ("10.0.0.0", 8, 1),
            ("10.1.0.0", 15, 2),
            ("10.1.2.0", 24, 3),
            ("10.1.2.3", 32, 4),
        ];
        let wants = [
            ("192.0.2.1", 0),
            ("10.200.0.1", 1),
            ("10.0.0.1", 2),
            ("10.1.255.255", 2),
            ("10.1.2.2", 3),
            ("10.1.2.3", 4),
            ("10.1.2.4", 3),
            ("10.2.0.0", 1),
            ("255.255.255.255", 0),
        ];
        let forward = Lpm::build(prefixes.map(|(a, l, v)| (v4(a), l, v))).unwrap();
        let backward = Lpm::build(prefixes.iter().rev().map(|&(a, l, v)| (v4(a), l, v))).unwrap();
        for (address, want) in wants {
            assert_eq!(forward.lookup(&v4(address)), Some(want), "{address}");
            assert_eq!(backward.lookup(&v4(address)), Some(want), "{address}, reversed");
        }
    }

    #[test]
    fn empty_edges_and_errors() {
        let mut table = Lpm::<4>::new();
        assert_eq!(table.lookup(&v4("10.0.0.1")), None);
        assert_eq!(table.insert(v4("10.0.0.0"), 33, 1), Err(LpmError::Length(33, 32)));
        assert_eq!(table.insert(v4("10.0.0.0"), 8, MAX_VALUE + 1), Err(LpmError::Value(MAX_VALUE + 1)));
        assert_eq!(table.lookup(&v4("10.0.0.1")), None);
        table.insert(v4("10.255.255.255"), 8, MAX_VALUE).unwrap();
        assert_eq!(table.lookup(&v4("10.0.0.1")), Some(MAX_VALUE));
        assert_eq!(table.lookup(&v4("11.0.0.0")), None);
        table.insert(v4("10.0.0.0"), 8, 7).unwrap();
        assert_eq!(table.lookup(&v4("10.0.0.1")), Some(7), "the last of equal prefixes wins");
        assert_eq!(Lpm::<16>::build([([0; 16], 129, 0)]).unwrap_err(), LpmError::Length(129, 128));
        assert!(table.bytes() >= FANOUT * 5);
    }

    fn holds<const N: usize>(prefix: &[u8; N], length: u8, address: &[u8; N]) -> bool {
        (0..usize::from(length)).all(|bit| (prefix[bit / 8] ^ address[bit / 8]) >> (7 - bit % 8) & 1 == 0)
    }

    fn linear<const N: usize>(prefixes: &[([u8; N], u8, u32)], address: &[u8; N]) -> Option<u32> {
        let matching = prefixes.iter().filter(|(prefix, length, _)| holds(prefix, *length, address));
        // `max_by_key` gives the last of equals.
        matching.max_by_key(|(_, length, _)| *length).map(|&(_, _, value)| value)
    }

    /// Bytes from a small alphabet, so that prefixes nest and addresses fall into them.
    fn address<const N: usize>() -> impl Strategy<Value = [u8; N]> {
        let byte = prop_oneof![Just(0u8), Just(1), Just(10), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
        prop::collection::vec(byte, N).prop_map(|bytes| bytes.try_into().unwrap())
    }

    fn prefixes<const N: usize>() -> impl Strategy<Value = Vec<([u8; N], u8, u32)>> {
        let bits = N as u8 * 8;
        let length =
            prop_oneof![4 => 0..=bits, 1 => Just(0), 1 => Just(bits), 2 => (0..=N as u8).prop_map(|n| n * 8)];
        prop::collection::vec((address::<N>(), length, 0..=MAX_VALUE), 0..40)
    }

    fn agrees<const N: usize>(prefixes: &[([u8; N], u8, u32)], probes: &[[u8; N]]) {
        let table = Lpm::build(prefixes.iter().copied()).unwrap();
        // Each prefix's own address and its neighbours too, where an error of one bit would show.
        let own = prefixes.iter().flat_map(|&(prefix, length, _)| {
            let mut flipped = prefix;
            let bit = usize::from(length.saturating_sub(1));
            flipped[bit / 8] ^= 0x80 >> (bit % 8);
            [prefix, flipped]
        });
        for probe in probes.iter().copied().chain(own) {
            assert_eq!(table.lookup(&probe), linear(prefixes, &probe), "{probe:?}");
        }
    }

    proptest! {
        #![proptest_config(crate::table::cases(200))]

        #[test]
        fn agrees_with_a_linear_search_v4(
            prefixes in prefixes::<4>(), probes in prop::collection::vec(address::<4>(), 50),
        ) {
            agrees(&prefixes, &probes);
        }

        #[test]
        fn agrees_with_a_linear_search_v6(
            prefixes in prefixes::<16>(), probes in prop::collection::vec(address::<16>(), 50),
        ) {
            agrees(&prefixes, &probes);
        }
    }
}
