//! The classifier's comparisons, many at once: AVX-512, AVX2, and a scalar twin that says what they mean.
//!
//! A [`Kernel`] is compiled once for each instruction set, whole, so that the comparisons are inlined into its loops.
#![allow(unsafe_code)]
// What older compilers lack is behind the configuration `vector`, see build.rs.
#![allow(clippy::incompatible_msrv)]

/// What one packet is compared by, or one rule: see [`super::rows`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(16))]
pub struct Lanes(pub(super) [u16; 8]);

/// Four rules, one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub(super) [Lanes; 4]);

/// Sorted keys that are searched at once; unused ones at the end are the type's maximum, which is below nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Keys<K, const N: usize>(pub(super) [K; N]);

/// An instruction set. A value of the type is the proof that this CPU has it.
pub trait Vector: Copy {
    /// How many of `keys` are below `x`.
    fn below16(self, keys: &Keys<u16, 32>, x: u16) -> usize;
    /// How many of `keys` are below `x`.
    fn below32(self, keys: &Keys<u32, 16>, x: u32) -> usize;
    /// How many of `keys` are below `x`.
    fn below64(self, keys: &Keys<u64, 16>, x: u64) -> usize;
    /// The rules of up to four lines of which no lane is above the packet's: bit `2 * i` for rule `i`.
    fn matches<const N: usize>(self, lines: &[Line; N], packet: &Lanes) -> u32;
}

/// Work that is compiled for each instruction set. `run` has to be `inline(always)`.
pub(super) trait Kernel {
    /// Does it.
    fn run<V: Vector>(self, vector: V);
}

/// The instruction set of this CPU.
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    /// None that helps.
    Scalar,
    #[cfg(vector)]
    Avx2(Avx2),
    #[cfg(vector)]
    Avx512(Avx512),
}

impl Level {
    /// The best one that this CPU has.
    pub(super) fn detect() -> Self {
        #[cfg(vector)]
        {
            if let Some(vector) = Avx512::detect() {
                return Self::Avx512(vector);
            }
            if let Some(vector) = Avx2::detect() {
                return Self::Avx2(vector);
            }
        }
        Self::Scalar
    }

    /// Every one that this CPU has.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        #[cfg(vector)]
        {
            let wide = [Avx2::detect().map(Self::Avx2), Avx512::detect().map(Self::Avx512)];
            [Self::Scalar].into_iter().chain(wide.into_iter().flatten()).collect()
        }
        #[cfg(not(vector))]
        vec![Self::Scalar]
    }

    /// Runs `kernel` with it.
    #[inline]
    pub(super) fn run(self, kernel: impl Kernel) {
        match self {
            Self::Scalar => kernel.run(Scalar),
            // SAFETY: an `Avx2` exists only where `detect` found what `run_avx2` enables.
            #[cfg(vector)]
            Self::Avx2(vector) => unsafe { run_avx2(vector, kernel) },
            // SAFETY: an `Avx512` exists only where `detect` found what `run_avx512` enables.
            #[cfg(vector)]
            Self::Avx512(vector) => unsafe { run_avx512(vector, kernel) },
        }
    }
}

/// One at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar;

impl Vector for Scalar {
    #[inline(always)]
    fn below16(self, keys: &Keys<u16, 32>, x: u16) -> usize {
        keys.0.iter().map(|&key| usize::from(key < x)).sum()
    }

    #[inline(always)]
    fn below32(self, keys: &Keys<u32, 16>, x: u32) -> usize {
        keys.0.iter().map(|&key| usize::from(key < x)).sum()
    }

    #[inline(always)]
    fn below64(self, keys: &Keys<u64, 16>, x: u64) -> usize {
        keys.0.iter().map(|&key| usize::from(key < x)).sum()
    }

    #[inline(always)]
    fn matches<const N: usize>(self, lines: &[Line; N], packet: &Lanes) -> u32 {
        let mut set = 0;
        for (i, rule) in lines.iter().flat_map(|line| &line.0).enumerate() {
            let fits = rule.0.iter().zip(&packet.0).all(|(rule, packet)| rule <= packet);
            set |= u32::from(fits) << (2 * i);
        }
        set
    }
}

#[cfg(vector)]
pub(super) use x86::{Avx2, Avx512};
#[cfg(vector)]
use x86::{run_avx2, run_avx512};

#[cfg(vector)]
mod x86 {
    use core::arch::x86_64::*;

    use super::{Kernel, Keys, Lanes, Line, Vector};

    /// 256 bits. Made by `detect` alone.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Avx2(());

    /// 512 bits. Made by `detect` alone.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Avx512(());

    impl Avx2 {
        pub(super) fn detect() -> Option<Self> {
            let has = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("popcnt");
            has.then_some(Self(()))
        }
    }

    impl Avx512 {
        pub(super) fn detect() -> Option<Self> {
            let has = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            Avx2::detect().filter(|_| has).map(|_| Self(()))
        }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    pub(super) fn run_avx2(vector: Avx2, kernel: impl Kernel) {
        kernel.run(vector);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,bmi1,bmi2,popcnt")]
    pub(super) fn run_avx512(vector: Avx512, kernel: impl Kernel) {
        kernel.run(vector);
    }

    impl Vector for Avx2 {
        #[inline(always)]
        fn below16(self, keys: &Keys<u16, 32>, x: u16) -> usize {
            let base = keys.0.as_ptr();
            // SAFETY: `self` proves AVX2; both loads lie within the 64 bytes of `keys`, aligned to 64.
            let above = unsafe {
                let x = _mm256_set1_epi16(x as i16);
                let half = |offset| {
                    let keys = _mm256_load_si256(base.add(offset).cast());
                    _mm256_cmpeq_epi16(_mm256_max_epu16(keys, x), keys)
                };
                _mm256_movemask_epi8(_mm256_packs_epi16(half(0), half(16)))
            };
            above.count_zeros() as usize
        }

        #[inline(always)]
        fn below32(self, keys: &Keys<u32, 16>, x: u32) -> usize {
            let base = keys.0.as_ptr();
            // SAFETY: `self` proves AVX2; both loads lie within the 64 bytes of `keys`, aligned to 64.
            let above = unsafe {
                let x = _mm256_set1_epi32(x as i32);
                let half = |offset| {
                    let keys = _mm256_load_si256(base.add(offset).cast());
                    let above = _mm256_cmpeq_epi32(_mm256_max_epu32(keys, x), keys);
                    _mm256_movemask_ps(_mm256_castsi256_ps(above))
                };
                half(0) | half(8) << 8
            };
            16 - above.count_ones() as usize
        }

        #[inline(always)]
        fn below64(self, keys: &Keys<u64, 16>, x: u64) -> usize {
            let base = keys.0.as_ptr();
            // SAFETY: `self` proves AVX2; the four loads lie within the 128 bytes of `keys`, aligned to 64.
            let below = unsafe {
                let sign = _mm256_set1_epi64x(i64::MIN);
                let x = _mm256_set1_epi64x(x as i64 ^ i64::MIN);
                let quarter = |offset| {
                    let keys = _mm256_xor_si256(_mm256_load_si256(base.add(offset).cast()), sign);
                    _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(x, keys)))
                };
                quarter(0) | quarter(4) << 4 | quarter(8) << 8 | quarter(12) << 12
            };
            below.count_ones() as usize
        }

        #[inline(always)]
        fn matches<const N: usize>(self, lines: &[Line; N], packet: &Lanes) -> u32 {
            let mut halves = 0;
            for (i, line) in lines.iter().enumerate() {
                let base = core::ptr::from_ref(line).cast::<__m256i>();
                // SAFETY: `self` proves AVX2; `Lanes` is 16 bytes aligned to 16, a line 64 aligned to 64.
                let set = unsafe {
                    let packet =
                        _mm256_broadcastsi128_si256(_mm_load_si128(core::ptr::from_ref(packet).cast()));
                    let half = |offset| {
                        let above = _mm256_subs_epu16(_mm256_load_si256(base.add(offset)), packet);
                        let fits = _mm256_cmpeq_epi64(above, _mm256_setzero_si256());
                        _mm256_movemask_pd(_mm256_castsi256_pd(fits))
                    };
                    half(0) | half(1) << 4
                };
                halves |= (set as u32) << (8 * i);
            }
            halves & halves >> 1 & 0x5555_5555
        }
    }

    impl Vector for Avx512 {
        #[inline(always)]
        fn below16(self, keys: &Keys<u16, 32>, x: u16) -> usize {
            // SAFETY: `self` proves AVX-512 F and BW; `keys` is 64 bytes, aligned to 64.
            let below = unsafe {
                let keys = _mm512_load_si512(keys.0.as_ptr().cast());
                _mm512_cmplt_epu16_mask(keys, _mm512_set1_epi16(x as i16))
            };
            below.count_ones() as usize
        }

        #[inline(always)]
        fn below32(self, keys: &Keys<u32, 16>, x: u32) -> usize {
            // SAFETY: `self` proves AVX-512 F; `keys` is 64 bytes, aligned to 64.
            let below = unsafe {
                let keys = _mm512_load_si512(keys.0.as_ptr().cast());
                _mm512_cmplt_epu32_mask(keys, _mm512_set1_epi32(x as i32))
            };
            below.count_ones() as usize
        }

        #[inline(always)]
        fn below64(self, keys: &Keys<u64, 16>, x: u64) -> usize {
            let base = keys.0.as_ptr();
            // SAFETY: `self` proves AVX-512 F; both loads lie within the 128 bytes of `keys`, aligned to 64.
            let below = unsafe {
                let x = _mm512_set1_epi64(x as i64);
                let half = |offset| _mm512_cmplt_epu64_mask(_mm512_load_si512(base.add(offset).cast()), x);
                u16::from(half(0)) | u16::from(half(8)) << 8
            };
            below.count_ones() as usize
        }

        #[inline(always)]
        fn matches<const N: usize>(self, lines: &[Line; N], packet: &Lanes) -> u32 {
            let mut halves = 0;
            for (i, line) in lines.iter().enumerate() {
                // SAFETY: `self` proves AVX-512 F and BW; `Lanes` is 16 bytes aligned to 16, a line 64 aligned to 64.
                let set = unsafe {
                    let packet = _mm512_broadcast_i32x4(_mm_load_si128(core::ptr::from_ref(packet).cast()));
                    let above =
                        _mm512_subs_epu16(_mm512_load_si512(core::ptr::from_ref(line).cast()), packet);
                    _mm512_testn_epi64_mask(above, above)
                };
                halves |= u32::from(set) << (8 * i);
            }
            halves & halves >> 1 & 0x5555_5555
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Compare<'a> {
        keys: [u64; 32],
        x: u64,
        lines: &'a [Line; 4],
        packet: Lanes,
    }

    fn sorted<K: Ord, const N: usize>(mut keys: [K; N]) -> Keys<K, N> {
        keys.sort();
        Keys(keys)
    }

    impl Kernel for Compare<'_> {
        #[inline(always)]
        fn run<V: Vector>(self, vector: V) {
            let x = self.x;
            let keys = sorted(self.keys.map(|key| key as u16));
            assert_eq!(vector.below16(&keys, x as u16), Scalar.below16(&keys, x as u16));
            let keys = sorted::<_, 16>(core::array::from_fn(|i| self.keys[i] as u32));
            assert_eq!(vector.below32(&keys, x as u32), Scalar.below32(&keys, x as u32));
            let keys = sorted::<_, 16>(core::array::from_fn(|i| self.keys[i]));
            assert_eq!(vector.below64(&keys, x), Scalar.below64(&keys, x));
            let (lines, packet) = (self.lines, &self.packet);
            assert_eq!(vector.matches(lines, packet), Scalar.matches(lines, packet));
            assert_eq!(vector.matches(&[lines[0]], packet), Scalar.matches(&[lines[0]], packet));
        }
    }

    /// Numbers that meet each other and the ends of their type.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..4u64,
            Just(u64::MAX),
            Just(u64::MAX - 1),
            Just(0x8000_8000_8000_8000),
            Just(0x7fff_7fff_7fff_7fff),
            any::<u64>()
        ]
    }

    proptest! {
        #![proptest_config(crate::table::cases(2_000))]

        #[test]
        fn vector_and_scalar_agree(
            keys in proptest::array::uniform32(number()),
            x in number(),
            rules in proptest::collection::vec(proptest::array::uniform8(0..3u16), 16),
            packet in proptest::array::uniform8(1..4u16),
            flip in 0..2u16,
        ) {
            // Near zero, or near the maximum.
            let lanes = |lanes: [u16; 8]| Lanes(lanes.map(|lane| if flip == 1 { !lane } else { lane }));
            let lines = core::array::from_fn(|i| Line(core::array::from_fn(|j| lanes(rules[4 * i + j]))));
            for level in Level::all() {
                level.run(Compare { keys, x, lines: &lines, packet: lanes(packet) });
            }
        }
    }
}
