//! Single-producer single-consumer rings in memory that is shared with the kernel: what the four rings of an AF_XDP
//! socket have in common. Nothing here makes a system call; the tests put a producer and a consumer on the same memory.
//!
//! Each side counts the entries that it has ever handed over, modulo 2^32, in an index of its own; an entry's place is
//! its number modulo the ring's size. A side publishes its index with release order once the entries are written (or
//! read), and reads the other's with acquire order, and only if what it saw last does not suffice.
#![allow(unsafe_code)]

use std::any::Any;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::table::prefetch::prefetch_line;

/// Where a ring lies in memory.
pub(super) struct Layout<T> {
    pub(super) producer: NonNull<AtomicU32>,
    pub(super) consumer: NonNull<AtomicU32>,
    pub(super) flags: NonNull<AtomicU32>,
    pub(super) entries: NonNull<T>,
    /// How many entries there are: a power of two.
    pub(super) size: u32,
    /// Whatever keeps the memory mapped.
    pub(super) _memory: Box<dyn Any + Send + Sync>,
}

// SAFETY: a layout is the only way to its side of a ring; the memory may be used from any thread, and lives as long.
unsafe impl<T: Send> Send for Layout<T> {}

impl<T> Layout<T> {
    /// The other side's or our index.
    fn index(&self, at: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: whoever made the layout vouched for the pointers, for as long as `_memory` lives.
        unsafe { at.as_ref() }
    }

    fn place(&self, index: u32) -> *mut T {
        // SAFETY: the mask keeps the place below `size`, and so within the entries.
        unsafe { self.entries.as_ptr().add((index & (self.size - 1)) as usize) }
    }
}

/// Our side of a ring that the kernel consumes: fill, or transmit.
pub(super) struct Producer<T> {
    layout: Layout<T>,
    /// Our index, as published.
    next: u32,
    /// The consumer's index, as last seen.
    seen: u32,
}

impl<T: Copy> Producer<T> {
    /// # Safety
    /// The layout's pointers must be valid for as long as its `_memory` lives, its size a power of two, and nobody else
    /// may be the producer of this ring.
    pub(super) unsafe fn new(layout: Layout<T>) -> Self {
        let next = layout.index(layout.producer).load(Ordering::Relaxed);
        let seen = layout.index(layout.consumer).load(Ordering::Acquire);
        Self { layout, next, seen }
    }

    /// Goes on where another has left the ring, who was its producer until now.
    pub(super) fn look_again(&mut self) {
        self.next = self.layout.index(self.layout.producer).load(Ordering::Acquire);
        self.seen = self.layout.index(self.layout.consumer).load(Ordering::Acquire);
    }

    /// How many entries may be put in, if that is fewer than `want`; else `want`.
    #[inline]
    pub(super) fn room(&mut self, want: u32) -> u32 {
        let mut room = self.layout.size - self.next.wrapping_sub(self.seen).min(self.layout.size);
        if room < want {
            self.seen = self.layout.index(self.layout.consumer).load(Ordering::Acquire);
            room = self.layout.size - self.next.wrapping_sub(self.seen).min(self.layout.size);
        }
        room.min(want)
    }

    /// Puts in what `entry` makes: at most `max` entries, fewer if the ring is full or `entry` has no more. The consumer
    /// sees all of them at once, at the end. Returns how many.
    #[inline]
    pub(super) fn produce(&mut self, max: u32, mut entry: impl FnMut() -> Option<T>) -> u32 {
        let room = self.room(max);
        let mut count = 0;
        while count < room {
            let Some(value) = entry() else { break };
            // SAFETY: the place is within the entries, and ours until the index is published: the ring has room.
            unsafe { self.layout.place(self.next.wrapping_add(count)).write(value) };
            count += 1;
        }
        if count != 0 {
            self.next = self.next.wrapping_add(count);
            self.layout.index(self.layout.producer).store(self.next, Ordering::Release);
        }
        count
    }

    /// How many entries the consumer has not reported as taken.
    #[inline]
    pub(super) fn pending(&mut self) -> u32 {
        self.seen = self.layout.index(self.layout.consumer).load(Ordering::Acquire);
        self.next.wrapping_sub(self.seen)
    }

    /// Whether the kernel looks at the ring only if woken (`XDP_RING_NEED_WAKEUP`).
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.layout.index(self.layout.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// Our side of a ring that the kernel produces: receive, or completion.
pub(super) struct Consumer<T> {
    layout: Layout<T>,
    /// Our index, as published.
    next: u32,
    /// The producer's index, as last seen.
    seen: u32,
}

impl<T: Copy> Consumer<T> {
    /// Entries of a cache line. Another core wrote them, and one line after the other would be waited for.
    const PER_LINE: usize = 64 / size_of::<T>();

    /// # Safety
    /// As for [`Producer::new`], as the consumer; and the producer must write valid values of `T`.
    pub(super) unsafe fn new(layout: Layout<T>) -> Self {
        let next = layout.index(layout.consumer).load(Ordering::Relaxed);
        let seen = layout.index(layout.producer).load(Ordering::Acquire);
        Self { layout, next, seen }
    }

    /// Goes on where another has left the ring, who was its consumer until now.
    pub(super) fn look_again(&mut self) {
        self.next = self.layout.index(self.layout.consumer).load(Ordering::Acquire);
        self.seen = self.layout.index(self.layout.producer).load(Ordering::Acquire);
    }

    /// Hands at most `max` entries to `take`, oldest first, and gives their places back to the producer at the end.
    /// Returns how many.
    #[inline]
    pub(super) fn consume(&mut self, max: u32, mut take: impl FnMut(T)) -> u32 {
        let mut count = self.seen.wrapping_sub(self.next).min(self.layout.size);
        if count < max {
            self.seen = self.layout.index(self.layout.producer).load(Ordering::Acquire);
            count = self.seen.wrapping_sub(self.next).min(self.layout.size);
        }
        count = count.min(max);
        for i in (0..count).step_by(Self::PER_LINE) {
            prefetch_line(self.layout.place(self.next.wrapping_add(i)));
        }
        for i in 0..count {
            // SAFETY: the place is within the entries, and the producer has published it and will not write to it
            // before our index is.
            take(unsafe { self.layout.place(self.next.wrapping_add(i)).read() });
        }
        if count != 0 {
            self.next = self.next.wrapping_add(count);
            self.layout.index(self.layout.consumer).store(self.next, Ordering::Release);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use std::sync::Arc;

    struct Memory {
        producer: AtomicU32,
        consumer: AtomicU32,
        flags: AtomicU32,
        entries: Vec<u64>,
    }

    /// Both ends of a ring in ordinary memory, whose indices start at `start`.
    fn pair(size: u32, start: u32) -> (Producer<u64>, Consumer<u64>, Arc<Memory>) {
        let mut entries = vec![0u64; size as usize];
        let places = NonNull::new(entries.as_mut_ptr()).unwrap();
        let memory = Arc::new(Memory {
            producer: AtomicU32::new(start),
            consumer: AtomicU32::new(start),
            flags: AtomicU32::new(0),
            entries,
        });
        let layout = || Layout {
            producer: NonNull::from(&memory.producer),
            consumer: NonNull::from(&memory.consumer),
            flags: NonNull::from(&memory.flags),
            entries: places,
            size: memory.entries.len() as u32,
            _memory: Box::new(memory.clone()),
        };
        // SAFETY: both layouts keep the memory alive; there is one producer, and one consumer.
        unsafe { (Producer::new(layout()), Consumer::new(layout()), memory.clone()) }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            rng_seed: RngSeed::Fixed(1),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_goes_in_comes_out_in_order(
            log_size in 0u32..7,
            start in prop_oneof![Just(0u32), (u32::MAX - 300)..=u32::MAX],
            steps in prop::collection::vec((any::<bool>(), 0u32..100), 1..60),
        ) {
            let size = 1 << log_size;
            let (mut producer, mut consumer, _memory) = pair(size, start);
            let (mut put, mut got) = (0u64, 0u64);
            for (is_put, n) in steps {
                if is_put {
                    let room = size - (put - got) as u32;
                    prop_assert_eq!(producer.room(n), n.min(room));
                    let count = producer.produce(n, || { put += 1; Some(put) });
                    prop_assert_eq!(count, n.min(room));
                } else {
                    let held = (put - got) as u32;
                    let mut in_order = true;
                    let count = consumer.consume(n, |value| { got += 1; in_order &= value == got });
                    prop_assert!(in_order);
                    prop_assert_eq!(count, n.min(held));
                }
                prop_assert_eq!(producer.pending() as u64, put - got);
            }
        }
    }

    #[test]
    fn two_threads_agree() {
        const COUNT: u64 = 200_000;
        let (mut producer, mut consumer, _memory) = pair(64, u32::MAX - 1000);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut next = 0;
                while next < COUNT {
                    let left = (COUNT - next) as u32;
                    let mut value = next;
                    next += producer.produce(left.min(7), || {
                        value += 1;
                        Some(value)
                    }) as u64;
                    std::thread::yield_now();
                }
            });
            let mut got = 0;
            while got < COUNT {
                let mut wrong = 0;
                consumer.consume(11, |value| {
                    got += 1;
                    wrong += (value != got) as u32;
                });
                assert_eq!(wrong, 0);
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn an_entry_that_is_not_made_is_not_published() {
        let (mut producer, mut consumer, memory) = pair(8, 0);
        let mut source = [5u64, 6].into_iter();
        assert_eq!(producer.produce(8, || source.next()), 2);
        let mut out = Vec::new();
        assert_eq!(consumer.consume(8, |value| out.push(value)), 2);
        assert_eq!((out, consumer.consume(8, |_| ())), (vec![5, 6], 0));
        assert!(!producer.needs_wakeup());
        memory.flags.store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }
}
