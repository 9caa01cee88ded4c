//! A keyed hash of 16 bytes by rounds of AES: fewer instructions than multiplications take, and one register for the key.
//!
//! After two rounds each byte of the result depends on each of the key. But four bytes that lie on a diagonal can be such
//! that one byte alone differs between the rounds, and a column of the result has as few values as that byte: the third
//! round ends that.
#![allow(unsafe_code)]

/// Whether this CPU does rounds of AES.
#[inline(always)]
pub(super) fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("aes")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Half of what three rounds make of `words` under the key `secret`, which is that of each round, too. `fast` is what
/// [`is_fast`] says; the hash is the same either way.
#[inline(always)]
pub(super) fn hash(words: [u64; 2], secret: [u64; 2], fast: bool) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if fast {
        return hash_by_instruction(words, secret);
    }
    let _ = fast;
    hash_by_table(words, secret)
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn hash_by_instruction([a, b]: [u64; 2], [c, d]: [u64; 2]) -> u64 {
    use core::arch::x86_64::{_mm_cvtsi128_si64, _mm_set_epi64x, _mm_xor_si128};
    // SAFETY: SSE2 is part of x86_64. That AES is, too, the caller has asked; by its instruction and not by its intrinsic,
    // since that could not become part of a loop of a function without the feature.
    unsafe {
        let key = _mm_set_epi64x(d as i64, c as i64);
        let mut state = _mm_xor_si128(_mm_set_epi64x(b as i64, a as i64), key);
        core::arch::asm!(
            "aesenc {state}, {key}",
            "aesenc {state}, {key}",
            "aesenc {state}, {key}",
            state = inout(xmm_reg) state,
            key = in(xmm_reg) key,
            options(pure, nomem, nostack, preserves_flags),
        );
        _mm_cvtsi128_si64(state) as u64
    }
}

#[cold]
#[inline(never)]
fn hash_by_table([a, b]: [u64; 2], [c, d]: [u64; 2]) -> u64 {
    let bytes = |low: u64, high: u64| (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
    let key = bytes(c, d);
    let mut state = bytes(a ^ c, b ^ d);
    for _ in 0..3 {
        state = round(state, key);
    }
    u128::from_le_bytes(state) as u64
}

/// A round of AES, as FIPS 197 has it (5.1): SubBytes, ShiftRows, MixColumns, AddRoundKey.
fn round(state: [u8; 16], key: [u8; 16]) -> [u8; 16] {
    // Row r of column c, in bytes that are column after column.
    let shifted = |c: usize, r: usize| S_BOX[usize::from(state[(c + r) % 4 * 4 + r])];
    core::array::from_fn(|i| {
        let (c, r) = (i / 4, i % 4);
        let [x, y, z, w] = [0, 1, 2, 3].map(|next| shifted(c, (r + next) % 4));
        double(x) ^ double(y) ^ y ^ z ^ w ^ key[i]
    })
}

/// Twice a number of GF(2^8) (FIPS 197, 4.2.1).
const fn double(x: u8) -> u8 {
    (x << 1) ^ ((x >> 7) * 0x1b)
}

/// FIPS 197, 5.1.1: the inverse in GF(2^8), and an affine map.
static S_BOX: [u8; 256] = s_box();

const fn s_box() -> [u8; 256] {
    let mut boxes = [0x63; 256];
    // 3 generates all numbers but 0, and so does its inverse 0xf6: both go through them, one against the other.
    let (mut number, mut inverse) = (1u8, 1u8);
    loop {
        number ^= double(number);
        inverse ^= inverse << 1;
        inverse ^= inverse << 2;
        inverse ^= inverse << 4;
        if inverse & 0x80 != 0 {
            inverse ^= 9;
        }
        boxes[number as usize] = 0x63
            ^ inverse
            ^ inverse.rotate_left(1)
            ^ inverse.rotate_left(2)
            ^ inverse.rotate_left(3)
            ^ inverse.rotate_left(4);
        if number == 1 {
            return boxes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_that_of_the_standard() {
        // FIPS 197, appendix B: the state at the start of round 1, its key, and the state at the start of round 2.
        let start = 0x193d_e3be_a0f4_e22b_9ac6_8d2a_e9f8_4808u128;
        let key = 0xa0fa_fe17_8854_2cb1_23a3_3939_2a6c_7605u128;
        let next = 0xa49c_7ff2_689f_352b_6b5b_ea43_026a_5049u128;
        assert_eq!(round(start.to_be_bytes(), key.to_be_bytes()), next.to_be_bytes());
    }

    #[test]
    fn instruction_and_table_agree() {
        if !is_fast() {
            return;
        }
        let mut words = [[0u64; 2], [u64::MAX; 2]];
        for step in 0..10_000u64 {
            let [a, b] = &mut words;
            assert_eq!(hash(*a, *b, true), hash(*a, *b, false));
            a[(step % 2) as usize] = hash(*a, *b, false) ^ step;
            b[(step / 2 % 2) as usize] = hash(*b, *a, false);
        }
    }

    /// Bytes on one diagonal, which after two rounds would give a column 256 values.
    #[test]
    fn a_diagonal_reaches_more_than_one_byte() {
        for secret in [[0, 1], [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]] {
            let mut seen = std::collections::HashSet::new();
            for i in 0..1u64 << 16 {
                // Bytes 0 and 5; the others of the diagonal are 10 and 15.
                seen.insert(hash([i & 0xff | (i >> 8) << 40, 0], secret, is_fast()) as u32);
            }
            assert!(seen.len() > 65_000, "{}", seen.len());
        }
    }
}
