//! Random numbers that are the same everywhere, so that other programs can make the same data from the same seed.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(in crate::bench) struct Random(pub(in crate::bench) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`, which is not 0.
    pub(in crate::bench) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// One of them, which are not none.
    pub(super) fn one_of<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len() as u64) as usize]
    }

    /// The place of one of the weights, each as likely as it is heavy.
    pub(super) fn weighted<T>(&mut self, values: &[(T, u32)]) -> usize {
        let sum: u32 = values.iter().map(|&(_, weight)| weight).sum();
        let mut at = self.below(sum.into()) as u32;
        values
            .iter()
            .position(|&(_, weight)| {
                let here = at < weight;
                at = at.wrapping_sub(weight);
                here
            })
            .unwrap_or(0)
    }

    /// 0 to n - 1 in a random order.
    pub(super) fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut values: Vec<u32> = (0..n).collect();
        for i in (1..values.len()).rev() {
            values.swap(i, self.below(i as u64 + 1) as usize);
        }
        values
    }
}

/// Zipf's distribution with exponent 1: rank k, from 0, has weight 1 / (k + 1).
pub(super) struct Zipf(Vec<f64>);

impl Zipf {
    pub(super) fn new(n: u32) -> Self {
        let mut sum = 0.0;
        Self(
            (0..n)
                .map(|rank| {
                    sum += 1.0 / (f64::from(rank) + 1.0);
                    sum
                })
                .collect(),
        )
    }

    pub(super) fn next(&self, random: &mut Random) -> usize {
        let unit = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
        let all = self.0.last().copied().unwrap_or(0.0);
        self.0.partition_point(|&sum| sum < unit * all).min(self.0.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        let mut random = Random(1_234_567);
        let first: Vec<_> = (0..3).map(|_| random.next()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn the_first_rank_is_as_frequent_as_zipf_says() {
        let (zipf, mut random) = (Zipf::new(1000), Random(1));
        let first = (0..100_000).filter(|_| zipf.next(&mut random) == 0).count();
        // One in H(1000), which is 7.485.
        assert!((12_900..13_900).contains(&first), "{first}");
        let mut order = random.permutation(1000);
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
    }
}
