//! Keyed hashing of table keys.
//!
//! Keys come from the network, so whoever sends packets picks them. The hash is therefore keyed with a secret
//! seed, and both operands of every multiplication are masked with words derived from it: no input value is
//! known to zero a product or to cancel another without knowledge of the seed. It resists flooding by a sender
//! who cannot observe bucket positions; it is not a cryptographic MAC. Keys of 16 bytes, those of IPv4 flows, are hashed by
//! rounds of AES in its place.

use core::hash::Hasher;

use super::aes;

/// What keys are hashed with: a seed, and what follows from it, reckoned once.
#[derive(Clone, Copy, Debug)]
pub struct Secret {
    seed: u64,
    mask: u64,
    last: u64,
    /// Whether the CPU does rounds of AES, so that no loop needs to ask.
    aes: bool,
}

impl Secret {
    /// That of a seed, which should be secret and random.
    #[inline]
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (mask, last) = secrets(seed);
        Self { seed, mask, last, aes: aes::is_fast() }
    }

    /// As [`hash_words`].
    #[inline(always)]
    #[must_use]
    pub const fn hash<const N: usize>(&self, words: &[u64; N]) -> u64 {
        fold(words, self.seed, (self.mask, self.last))
    }
}

/// What a table can be keyed with.
pub trait Key: Copy + Eq {
    /// The 64-bit hash of this key under a secret. Every bit of the result must depend on every bit of the key:
    /// tables take the bucket from the low bits and the tag from the high 16.
    fn hash_with(&self, secret: &Secret) -> u64;

    /// The same under the secret of a seed.
    #[inline(always)]
    fn hash(&self, seed: u64) -> u64 {
        self.hash_with(&Secret::new(seed))
    }
}

/// Fractional digits of pi: words without structure, to tell the derived secrets apart.
const PI: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

/// Folded multiply: the low half of the 128-bit product XOR the high half.
#[inline(always)]
#[must_use]
pub const fn mix(a: u64, b: u64) -> u64 {
    let product = (a as u128).wrapping_mul(b as u128);
    product as u64 ^ (product >> 64) as u64
}

/// Hashes a fixed number of words under `seed`: one multiplication for each two words and one to finish.
#[inline(always)]
#[must_use]
pub const fn hash_words<const N: usize>(words: &[u64; N], seed: u64) -> u64 {
    // Functions of the seed alone: hoisted out of any loop over keys.
    fold(words, seed, secrets(seed))
}

#[inline(always)]
const fn secrets(seed: u64) -> (u64, u64) {
    (mix(seed ^ PI[0], PI[1]), mix(seed ^ PI[2], PI[3]))
}

#[inline(always)]
const fn fold<const N: usize>(words: &[u64; N], seed: u64, (mask, last): (u64, u64)) -> u64 {
    let mut state = seed;
    // By index, as the length is known and no check is left.
    let mut at = 0;
    while at + 1 < N {
        state = mix(words[at] ^ state, words[at + 1] ^ mask);
        at += 2;
    }
    if N % 2 == 1 {
        state = mix(words[N - 1] ^ state, mask);
    }
    mix(state ^ last, mask | 1)
}

impl<const N: usize> Key for [u64; N] {
    #[inline(always)]
    fn hash_with(&self, secret: &Secret) -> u64 {
        if let [a, b] = *self.as_slice() {
            return aes::hash([a, b], [secret.mask, secret.last], secret.aes);
        }
        secret.hash(self)
    }
}

impl Key for u32 {
    #[inline(always)]
    fn hash_with(&self, secret: &Secret) -> u64 {
        secret.hash(&[u64::from(*self)])
    }
}

/// Hashes addresses for a [`HashMap`](std::collections::HashMap) whose keys a configuration names. Senders of packets choose
/// what is looked up there, not what is in it, so that the hash needs no secret.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.0 = mix(self.0 ^ u64::from_le_bytes(word) ^ PI[0], PI[1]);
        }
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.0 = mix(self.0 ^ u64::from(word) ^ PI[0], PI[1]);
    }

    #[inline]
    fn write_usize(&mut self, _length: usize) {
        // Addresses of a family are all of one length.
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

impl Key for u64 {
    #[inline(always)]
    fn hash_with(&self, secret: &Secret) -> u64 {
        secret.hash(&[*self])
    }
}

impl Key for u128 {
    #[inline(always)]
    fn hash_with(&self, secret: &Secret) -> u64 {
        [*self as u64, (*self >> 64) as u64].hash_with(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: [u64; 3] = [0, 1, 0x9e37_79b9_7f4a_7c15];

    /// Chi-squared over the equal bins that `bin` assigns to sequential 5-tuple-like keys.
    fn chi_squared(bins: usize, seed: u64, bin: impl Fn(u64) -> usize) -> f64 {
        let keys = bins * 64;
        let mut seen = vec![0u32; bins];
        for i in 0..keys as u64 {
            // Addresses and ports that count up, as a scan's do.
            let hash = [0x0a00_0001_c633_6401, 0x0006_0000_01bb_0400 + i].hash(seed);
            seen[bin(hash)] += 1;
        }
        seen.iter().map(|&n| (f64::from(n) - 64.0).powi(2) / 64.0).sum()
    }

    #[test]
    fn sequential_keys_spread_over_the_low_and_the_high_bits() {
        let bins = 4096;
        for seed in SEEDS {
            for (name, shift) in [("low", 0), ("middle", 24), ("high", 52)] {
                let x = chi_squared(bins, seed, |hash| (hash >> shift) as usize % bins);
                // Mean 4095, deviation 90: six deviations either side.
                assert!((3550.0..4640.0).contains(&x), "{name} bits, seed {seed:#x}: {x}");
            }
        }
    }

    #[test]
    fn each_input_bit_flips_about_half_of_the_output() {
        fn check<const N: usize>(seed: u64) {
            for word in 0..N {
                for bit in 0..64 {
                    let mut flips = 0;
                    for sample in 0..64u64 {
                        let mut key = [sample.wrapping_mul(PI[3]); N];
                        let before = key.hash(seed);
                        key[word] ^= 1 << bit;
                        flips += (before ^ key.hash(seed)).count_ones();
                    }
                    // 64 samples of 64 bits: mean 2048, deviation 32.
                    assert!((1750..2350).contains(&flips), "{N} words, word {word} bit {bit}: {flips}");
                }
            }
        }
        for seed in SEEDS {
            check::<1>(seed);
            check::<2>(seed);
            check::<5>(seed);
        }
    }

    #[test]
    fn the_seed_changes_everything_even_for_zero_keys() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..10_000u64 {
            assert!(seen.insert([0u64; 2].hash(seed)));
            assert!(seen.insert(0xdead_beef_u32.hash(seed)));
        }
    }

    #[test]
    fn order_of_words_counts() {
        for seed in SEEDS {
            assert_ne!([1u64, 2].hash(seed), [2u64, 1].hash(seed));
            assert_ne!([1u64, 2, 3, 4, 5].hash(seed), [3u64, 4, 1, 2, 5].hash(seed));
        }
        assert_eq!(u128::MAX.hash(7), [u64::MAX; 2].hash(7));
    }
}
