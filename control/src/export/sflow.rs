//! sFlow version 5 datagrams: samples of packets with their first bytes, and counters of ports (sflow_version_5.txt, July 2004).

use std::collections::HashMap;
use std::net::IpAddr;

use sluice_dataplane::counters::PortCount;
use sluice_dataplane::sample::Sample;

/// Longest datagram, bytes.
const LONGEST: usize = 1400;
/// What an agent does not know, in counters of four bytes.
const UNKNOWN: u32 = u32::MAX;
/// Bytes of a flow sample ahead of the packet's.
const FLOW_SAMPLE: usize = 40 + 8 + 16;
const COUNTER_SAMPLE: usize = 8 + 12 + 8 + 88;
/// The FCS, which counts as a part of the frame but is not there.
const FCS: u32 = 4;

/// An agent. Ports are numbered from 1, in the order of the configuration.
pub(super) struct Agent {
    address: IpAddr,
    rate: u32,
    datagrams: u32,
    /// Samples so far, by port: of packets and of counters.
    sequences: HashMap<u16, [u32; 2]>,
}

/// A packet's sample, and what goes with it.
pub(super) struct FlowSample {
    pub(super) sample: Sample,
    /// Packets that it was chosen from so far: those received by its port.
    pub(super) pool: u64,
    /// Samples lost so far.
    pub(super) lost: u64,
}

impl Agent {
    /// One that has sent nothing, and samples one of `rate` packets.
    pub(super) fn new(address: IpAddr, rate: u32) -> Self {
        Self { address, rate, datagrams: 0, sequences: HashMap::new() }
    }

    fn begin(&mut self, uptime: u32) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(LONGEST);
        put(&mut datagram, 5);
        match self.address {
            IpAddr::V4(address) => {
                put(&mut datagram, 1);
                datagram.extend(address.octets());
            }
            IpAddr::V6(address) => {
                put(&mut datagram, 2);
                datagram.extend(address.octets());
            }
        }
        self.datagrams = self.datagrams.wrapping_add(1);
        for word in [0, self.datagrams, uptime, 0] {
            put(&mut datagram, word);
        }
        datagram
    }

    fn sequence(&mut self, port: u16, kind: usize) -> u32 {
        let sequence = &mut self.sequences.entry(port).or_default()[kind];
        *sequence = sequence.wrapping_add(1);
        *sequence
    }

    /// A datagram with as many of the samples as fit, and how many those are. `uptime` is in milliseconds.
    pub(super) fn flows(&mut self, uptime: u32, samples: &[FlowSample]) -> (Vec<u8>, usize) {
        let mut datagram = self.begin(uptime);
        let mut taken = 0;
        for FlowSample { sample, pool, lost } in samples {
            let header = sample.bytes();
            let padded = header.len().next_multiple_of(4);
            if datagram.len() + FLOW_SAMPLE + padded > LONGEST {
                break;
            }
            let (port, sequence) = (u32::from(sample.port) + 1, self.sequence(sample.port, 0));
            // What follows the length of a sample is 32 bytes, and the record's 8 and 16.
            put(&mut datagram, 1);
            put(&mut datagram, (FLOW_SAMPLE - 8 + padded) as u32);
            for word in [sequence, port, self.rate, *pool as u32, *lost as u32, port, 0, 1] {
                put(&mut datagram, word);
            }
            // A raw packet header, of Ethernet.
            put(&mut datagram, 1);
            put(&mut datagram, (16 + padded) as u32);
            for word in [1, sample.len + FCS, FCS, header.len() as u32] {
                put(&mut datagram, word);
            }
            datagram.extend(header);
            datagram.resize(datagram.len() + padded - header.len(), 0);
            taken += 1;
        }
        (finish(datagram, self.address, taken), taken)
    }

    /// Datagrams with the counters of all ports.
    pub(super) fn counters(&mut self, uptime: u32, ports: &[(PortCount, u64)]) -> Vec<Vec<u8>> {
        let all: Vec<_> = (0u16..).zip(ports).collect();
        let mut datagrams = Vec::new();
        for some in all.chunks((LONGEST - 64) / COUNTER_SAMPLE) {
            let mut datagram = self.begin(uptime);
            for &(port, (count, lost)) in some {
                let (number, sequence) = (u32::from(port) + 1, self.sequence(port, 1));
                put(&mut datagram, 2);
                put(&mut datagram, (COUNTER_SAMPLE - 8) as u32);
                for word in [sequence, number, 1] {
                    put(&mut datagram, word);
                }
                put(&mut datagram, 1);
                put(&mut datagram, 88);
                interface(&mut datagram, number, count, *lost);
            }
            datagrams.push(finish(datagram, self.address, some.len()));
        }
        datagrams
    }
}

/// Counters of an interface, as RFC 2233 has them.
fn interface(datagram: &mut Vec<u8>, number: u32, count: &PortCount, lost: u64) {
    const ETHERNET: u32 = 6;
    const FULL_DUPLEX: u32 = 1;
    const UP: u32 = 3;
    put(datagram, number);
    put(datagram, ETHERNET);
    datagram.extend(0u64.to_be_bytes());
    put(datagram, FULL_DUPLEX);
    put(datagram, UP);
    datagram.extend(count.rx.bytes.to_be_bytes());
    for word in [count.rx.packets as u32, UNKNOWN, UNKNOWN, lost as u32, UNKNOWN, UNKNOWN] {
        put(datagram, word);
    }
    datagram.extend(count.tx.bytes.to_be_bytes());
    for word in [count.tx.packets as u32, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 0] {
        put(datagram, word);
    }
}

fn put(datagram: &mut Vec<u8>, word: u32) {
    datagram.extend(word.to_be_bytes());
}

/// Writes how many samples there are.
fn finish(mut datagram: Vec<u8>, agent: IpAddr, samples: usize) -> Vec<u8> {
    let at = if agent.is_ipv4() { 24 } else { 36 };
    if let Some(field) = datagram.get_mut(at..at + 4) {
        field.copy_from_slice(&(samples as u32).to_be_bytes());
    }
    datagram
}

#[cfg(test)]
mod tests {
    use sluice_dataplane::counters::Count;
    use sluice_dataplane::sample::HEADER;

    use super::*;

    fn sample(header_len: u8) -> FlowSample {
        let sample = Sample { port: 2, len: 1000, header_len, header: [0xab; HEADER], pool: 0, lost: 0 };
        FlowSample { sample, pool: 4096, lost: 1 }
    }

    fn words(datagram: &[u8]) -> Vec<u32> {
        assert_eq!(datagram.len() % 4, 0);
        datagram.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn a_packet_word_for_word() {
        let mut agent = Agent::new([192, 0, 2, 1].into(), 512);
        let (datagram, taken) = agent.flows(77, &[sample(6)]);
        let want = [
            5,
            1,
            0xc000_0201,
            0,
            1,
            77,
            1, // version, agent, sub-agent, sequence, uptime, samples
            1,
            64,
            1,
            3,
            512,
            4096,
            1,
            3,
            0,
            1, // a flow sample: of port 3, unknown where to, one record
            1,
            24,
            1,
            1004,
            4,
            6,
            0xabab_abab,
            0xabab_0000, // its header
        ];
        assert_eq!((words(&datagram), taken), (want.to_vec(), 1));
    }

    #[test]
    fn datagrams_are_not_fragmented() {
        let mut agent = Agent::new("2001:db8::1".parse().unwrap(), 1);
        let samples: Vec<FlowSample> = (0..20).map(|_| sample(128)).collect();
        let (datagram, taken) = agent.flows(0, &samples);
        assert!(datagram.len() <= LONGEST && taken == 7);
        let counts = vec![(PortCount::default(), 0); 30];
        let datagrams = agent.counters(0, &counts);
        assert!(datagrams.iter().all(|datagram| datagram.len() <= LONGEST));
        assert_eq!(datagrams.iter().map(|datagram| words(datagram)[9]).sum::<u32>(), 30);
    }

    #[test]
    fn counters_of_a_port() {
        let mut agent = Agent::new([192, 0, 2, 1].into(), 512);
        let count =
            PortCount { rx: Count { packets: 5, bytes: 1 << 33 }, tx: Count { packets: 6, bytes: 7 } };
        let datagrams = agent.counters(0, &[(count, 8)]);
        let unknown = UNKNOWN;
        let want = [
            2, 108, 1, 1, 1, 1, 88, 1, 6, 0, 0, 1, 3, 2, 0, 5, unknown, unknown, 8, unknown, unknown, 0, 7,
            6, unknown, unknown, unknown, unknown, 0,
        ];
        assert_eq!(words(&datagrams[0])[7..], want);
    }
}
