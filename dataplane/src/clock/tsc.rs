//! The processor's time-stamp counter: finer and cheaper than a clock, for measurements of the packet path.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// How long [`frequency`] watches the counter.
const CALIBRATION: Duration = Duration::from_millis(50);

/// The counter now. It runs at one rate whatever the core's own; elsewhere than on x86-64 it counts nanoseconds. Compare
/// values of one core only.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn now() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC; it reads a register and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The counter now, in nanoseconds.
#[cfg(not(target_arch = "x86_64"))]
pub fn now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Ticks per second, measured against the monotonic clock. Takes 50 ms.
pub fn frequency() -> f64 {
    let (clock, ticks) = (Instant::now(), now());
    std::thread::sleep(CALIBRATION);
    let (elapsed, ticks) = (clock.elapsed(), now().saturating_sub(ticks));
    ticks as f64 / elapsed.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let mut last = now();
        let first = last;
        for _ in 0..100_000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
        assert!(last > first);
    }

    #[test]
    fn its_frequency_is_that_of_a_processor() {
        assert!((1e8..1e11).contains(&frequency()));
    }
}
