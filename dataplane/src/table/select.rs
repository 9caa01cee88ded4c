//! Choices without a branch, for what no predictor can know.
// What older compilers lack is behind the configuration `vector`, see build.rs.
#![allow(clippy::incompatible_msrv)]

/// One of two values, without a branch where the compiler can be told so.
#[inline(always)]
pub(super) fn select<T>(condition: bool, yes: T, no: T) -> T {
    #[cfg(vector)]
    {
        core::hint::select_unpredictable(condition, yes, no)
    }
    #[cfg(not(vector))]
    {
        if condition { yes } else { no }
    }
}

/// The lesser of two numbers that are less than 2^63 apart. By their difference, as compilers make a branch of a move that
/// depends on a comparison with memory.
#[inline(always)]
pub(super) fn least(a: u64, b: u64) -> u64 {
    let over = a.wrapping_sub(b) as i64;
    b.wrapping_add(over.min(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lesser_is_chosen_and_the_condition_kept() {
        for (a, b) in [(0, 0), (1, 0), (0, 1), (1 << 62, 3), (3, 1 << 62), (u64::MAX, u64::MAX - 5)] {
            assert_eq!(least(a, b), a.min(b));
            assert_eq!((select(a < b, a, b), select(a >= b, a, b)), (a.min(b), a.max(b)));
        }
    }
}
