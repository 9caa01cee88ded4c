//! Which chunks a port has lent to the kernel.

use crate::arena::CHUNK;

/// A bit per chunk of the pool. It makes sure that a descriptor from the kernel stands for a chunk that this port has
/// lent, once; and it knows, when the sockets are closed, which chunks will not come back by any ring.
#[derive(Debug, Default)]
pub(super) struct Lent {
    words: Vec<u64>,
    count: u32,
}

impl Lent {
    /// For a pool of `chunks`; its memory is taken now.
    pub(super) fn new(chunks: u32) -> Self {
        Self { words: vec![0; chunks.div_ceil(64) as usize], count: 0 }
    }

    /// Which chunks are lent, a bit each.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Those are lent that another's [words](Self::words) say.
    pub(super) fn set(&mut self, words: &[u64]) {
        for (own, &word) in self.words.iter_mut().zip(words.iter().chain(std::iter::repeat(&0))) {
            *own = word;
        }
        self.count = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// How many chunks are lent.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Notes that the chunk with this UMEM address goes to the kernel.
    #[inline]
    pub(super) fn lend(&mut self, address: u64) {
        let chunk = address / CHUNK as u64;
        if let Some(word) = self.words.get_mut((chunk / 64) as usize) {
            *word |= 1 << (chunk % 64);
            self.count += 1;
        }
    }

    /// Notes that the chunk with this UMEM address has come back. False if it was not lent.
    #[inline]
    pub(super) fn take_back(&mut self, address: u64) -> bool {
        let chunk = address / CHUNK as u64;
        let Some(word) = self.words.get_mut((chunk / 64) as usize) else { return false };
        let bit = 1 << (chunk % 64);
        if *word & bit == 0 {
            return false;
        }
        *word &= !bit;
        self.count -= 1;
        true
    }

    /// Takes back every chunk that is still lent, and calls `each` with its index.
    pub(super) fn take_back_all(&mut self, mut each: impl FnMut(u32)) {
        for (i, word) in self.words.iter_mut().enumerate() {
            while *word != 0 {
                each(i as u32 * 64 + word.trailing_zeros());
                *word &= *word - 1;
            }
        }
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_once() {
        let mut lent = Lent::new(65);
        let address = |chunk: u64| chunk * CHUNK as u64 + 300;
        for chunk in [0, 3, 64] {
            lent.lend(address(chunk));
        }
        assert!(lent.take_back(address(3)) && !lent.take_back(address(3)));
        assert!(
            !lent.take_back(address(1)) && !lent.take_back(address(1 << 30)) && !lent.take_back(u64::MAX)
        );
        assert_eq!(lent.count(), 2);
        let mut rest = Vec::new();
        lent.take_back_all(|chunk| rest.push(chunk));
        assert_eq!((rest, lent.count()), (vec![0, 64], 0));
    }
}
