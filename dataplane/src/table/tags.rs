//! Comparing the eight tags of a bucket at once.
#![allow(unsafe_code)]

/// Tags in a bucket.
pub(super) const LANES: usize = 8;

/// One bucket's tags, aligned for one vector load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub(super) struct Tags(pub(super) [u16; LANES]);

/// A set of lanes, lowest first; lane `i` is bit `2 * i + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lanes(u32);

impl Iterator for Lanes {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        // At most 7, which the mask tells the compiler.
        let lane = (self.0.trailing_zeros() / 2) as usize % LANES;
        self.0 &= self.0 - 1;
        Some(lane)
    }
}

impl Tags {
    /// The lanes that hold `tag`.
    #[inline(always)]
    pub(super) fn equal(&self, tag: u16) -> Lanes {
        #[cfg(target_arch = "x86_64")]
        {
            self.equal_sse2(tag)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self.equal_scalar(tag)
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn equal_sse2(&self, tag: u16) -> Lanes {
        use core::arch::x86_64::{_mm_cmpeq_epi16, _mm_load_si128, _mm_movemask_epi8, _mm_set1_epi16};
        // SAFETY: `Tags` is 16 bytes, aligned to 16; SSE2 is part of x86_64.
        let equal = unsafe {
            let tags = _mm_load_si128(core::ptr::from_ref(self).cast());
            _mm_movemask_epi8(_mm_cmpeq_epi16(tags, _mm_set1_epi16(tag as i16)))
        };
        // Two bits a lane came: keep the upper one.
        Lanes(equal as u32 & 0xaaaa)
    }

    #[cfg(any(test, not(target_arch = "x86_64")))]
    fn equal_scalar(&self, tag: u16) -> Lanes {
        let mut lanes = 0;
        for (lane, &held) in self.0.iter().enumerate() {
            lanes |= u32::from(held == tag) << (2 * lane + 1);
        }
        Lanes(lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_and_scalar_agree_for_every_set_of_lanes() {
        for tag in [0, 1, 0x00ff, 0xff00, 0x7fff, 0x8000, 0xffff] {
            // Off by one bit in either byte, so that a compare of bytes would be found out.
            for other in [tag ^ 1, tag ^ 0x100, !tag] {
                for set in 0..=255u8 {
                    let tags = Tags(core::array::from_fn(|i| if set >> i & 1 == 1 { tag } else { other }));
                    assert_eq!(tags.equal(tag), tags.equal_scalar(tag));
                    let want: Vec<usize> = (0..LANES).filter(|i| set >> i & 1 == 1).collect();
                    assert_eq!(tags.equal(tag).collect::<Vec<_>>(), want);
                }
            }
        }
    }
}
