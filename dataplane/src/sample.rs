//! Packet samples for sFlow: one of so many received packets, the beginning of it, goes into a ring that the control side reads. A
//! ring that is full costs samples, which are counted, and never time.
//!
//! How many packets are skipped is drawn anew each time, uniformly, so that no rhythm of the traffic meets that of the sampling
//! (RFC 3176 3.1). Without a sampler there is one test a burst.

use ringbuf::traits::{Consumer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

use crate::burst::Burst;

/// Bytes of a packet that a sample holds.
pub const HEADER: usize = 128;
/// Samples that may wait for the control side.
const ROOM: usize = 4096;

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The port that it came in by.
    pub port: u16,
    /// Its length, with the Ethernet header, bytes.
    pub len: u32,
    /// How many of its bytes there are.
    pub header_len: u8,
    /// Its first bytes.
    pub header: [u8; HEADER],
    /// Packets of the worker that it was chosen from so far: all that came in by any port.
    pub pool: u64,
    /// Samples that have found no room so far.
    pub lost: u64,
}

impl Sample {
    /// Its first bytes.
    pub fn bytes(&self) -> &[u8] {
        self.header.get(..usize::from(self.header_len)).unwrap_or_default()
    }
}

/// The worker's end.
pub struct Sampler {
    ring: HeapProd<Sample>,
    every: u32,
    /// Packets until the next sample.
    left: u32,
    random: u64,
    pool: u64,
    made: u64,
    lost: u64,
}

/// The reader's end.
pub struct SampleReader(HeapCons<Sample>);

impl SampleReader {
    /// The next sample, oldest first.
    pub fn take(&mut self) -> Option<Sample> {
        self.0.try_pop()
    }
}

/// Samples one of `every` packets on the average; what is drawn follows from the seed.
pub fn channel(every: u32, seed: u64) -> (Sampler, SampleReader) {
    let (ring, reader) = HeapRb::new(ROOM).split();
    let every = every.clamp(1, u32::MAX / 2);
    let mut sampler = Sampler { ring, every, left: 0, random: seed | 1, pool: 0, made: 0, lost: 0 };
    sampler.left = sampler.draw();
    (sampler, SampleReader(reader))
}

impl Sampler {
    /// Samples made, and of these those that found no room.
    pub fn counts(&self) -> (u64, u64) {
        (self.made, self.lost)
    }

    /// A burst has come in.
    #[inline]
    pub fn look(&mut self, burst: &Burst) {
        let count = burst.len() as u32;
        self.pool += u64::from(count);
        if self.left > count {
            self.left -= count;
        } else {
            self.sample(burst, count);
        }
    }

    #[inline(never)]
    fn sample(&mut self, burst: &Burst, count: u32) {
        let mut rest = count;
        while self.left <= rest {
            rest -= self.left;
            // The packet that the count has come to.
            let i = (count - rest - 1) as usize;
            let (bytes, mut header) = (burst.bytes(i), [0; HEADER]);
            let header_len = bytes.len().min(HEADER);
            header.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
            let sample = Sample {
                port: burst.port,
                len: burst.packet_len(i) as u32,
                header_len: header_len as u8,
                header,
                pool: self.pool - u64::from(rest),
                lost: self.lost,
            };
            self.made += 1;
            self.lost += u64::from(self.ring.try_push(sample).is_err());
            self.left = self.draw();
        }
        self.left -= rest;
    }

    /// 1 to 2N - 1, which is N on the average (xorshift64).
    fn draw(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        1 + (((self.random >> 32) * u64::from(2 * self.every - 1)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::FramePool;

    #[test]
    fn one_of_so_many_is_taken_and_none_is_taken_twice() {
        let mut pool = FramePool::new(64, false).unwrap();
        let (mut sampler, mut reader) = channel(10, 7);
        let (mut burst, mut taken, mut came) = (Box::<Burst>::default(), Vec::new(), 0u32);
        for round in 0..2000u32 {
            burst.port = 3;
            for _ in 0..round % 64 {
                let mut frame = pool.take().unwrap();
                came += 1;
                let _ = frame.copy_from(&[came.to_be_bytes().as_slice(), &[0; 196]].concat());
                burst.push(frame).map_err(drop).unwrap();
            }
            sampler.look(&burst);
            taken.extend(std::iter::from_fn(|| reader.take()));
            for frame in (0..burst.len()).filter_map(|i| burst.take(i)).collect::<Vec<_>>() {
                pool.give(frame);
            }
            burst.clear();
        }
        let share = came as usize / taken.len();
        assert!((9..=11).contains(&share), "one of {share}");
        for sample in &taken {
            // The pool says which packet it was.
            assert_eq!(sample.bytes()[..4], (sample.pool as u32).to_be_bytes());
            assert_eq!((sample.port, sample.len, sample.bytes().len()), (3, 200, HEADER));
        }
        assert!(taken.windows(2).all(|pair| pair[0].pool < pair[1].pool));
        assert_eq!((sampler.counts(), sampler.pool), ((taken.len() as u64, 0), u64::from(came)));
    }

    #[test]
    fn one_of_one_is_every_packet() {
        let mut pool = FramePool::new(8, false).unwrap();
        let (mut sampler, mut reader) = channel(1, 7);
        let mut burst = Box::<Burst>::default();
        for _ in 0..5 {
            burst.push(pool.take().unwrap()).map_err(drop).unwrap();
        }
        sampler.look(&burst);
        assert_eq!(
            std::iter::from_fn(|| reader.take()).map(|sample| sample.pool).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
    }
}
