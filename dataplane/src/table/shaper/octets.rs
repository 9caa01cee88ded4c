//! Octets of hosts, each handed out once: those of hosts that are known, and those of hosts that were given back meanwhile.

use super::{NodeId, Shaper};

/// Octets of a host that have not been handed out before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOctets {
    /// Its class.
    pub class: NodeId,
    /// Its key.
    pub host: u128,
    /// Bytes on the wire.
    pub octets: u64,
}

impl<T> Shaper<T> {
    /// Octets of a host that is not known any more.
    pub fn take_gone(&mut self) -> Option<HostOctets> {
        self.hosts.gone.pop()
    }

    /// How far places of hosts go.
    #[must_use]
    pub fn host_places(&self) -> u32 {
        self.hosts.hosts.len() as u32
    }

    /// Octets of the host at a place, if it is known and there are any.
    pub fn take_octets(&mut self, place: u32) -> Option<HostOctets> {
        let sent = self.sent.get((self.hosts.base + place) as usize)?.bytes;
        let host = self.hosts.hosts.get_mut(place as usize)?;
        let class = self.classes.get(host.class as usize)?.node;
        let octets = sent - std::mem::replace(&mut host.taken, sent);
        (octets > 0).then_some(HostOctets { class, host: host.key, octets })
    }

    /// Octets of hosts that nobody asked for in time.
    #[must_use]
    pub fn octets_lost(&self) -> u64 {
        self.hosts.octets_lost
    }

    /// Keeps octets of a host that is not known any more, or was another shaper's.
    pub fn keep_octets(&mut self, gone: HostOctets) {
        if self.hosts.gone.len() < self.hosts.capacity as usize {
            self.hosts.gone.push(gone);
        } else {
            self.hosts.octets_lost += gone.octets;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cause, ClassConfig, Config, Hosts, Kind, Overhead, Packet, ROOT, Rates, Sink};
    use super::*;
    use std::collections::HashMap;

    struct Nowhere(u64);

    impl Sink<()> for Nowhere {
        fn send(&mut self, (): (), _: NodeId) {
            self.0 += 1;
        }

        fn mark(&mut self, (): &mut ()) -> bool {
            false
        }

        fn drop(&mut self, (): (), _: NodeId, _: Cause) {}
    }

    #[test]
    fn each_octet_is_handed_out_once_whether_its_host_is_known_or_not() {
        let most = 8;
        let mut shaper = Shaper::new(&Config {
            rates: Rates::default(),
            overhead: Overhead { bytes: 24, ..Overhead::default() },
            mtu: 1538,
            classes: 1,
            hosts: most,
            flows: 64,
            slots: 64,
            seed: 1,
        });
        let hosts = Kind::Hosts(Hosts { rates: Rates::default(), most });
        let class = shaper.add_class(ROOT, &ClassConfig::new(hosts)).unwrap();
        let (mut taken, mut sent) = (HashMap::<u128, u64>::new(), HashMap::<u128, u64>::new());
        let mut now = 0;
        for round in 0..200u64 {
            // Few of many hosts at a time, with pauses in which they are forgotten.
            now += [1_000_000, 300_000_000, 20_000_000][round as usize % 3];
            let host = u128::from(round % 7);
            let len = 100 + (round * 37 % 1400) as u32;
            let packet = Packet { class, host, flow: 1, len, item: () };
            shaper.enqueue_burst(now, &mut vec![packet], &mut Nowhere(0));
            let mut sink = Nowhere(0);
            shaper.dequeue(now, 64, &mut sink);
            *sent.entry(host).or_default() += sink.0 * u64::from(len + 24);
            if round % 5 == 4 {
                while let Some(gone) = shaper.take_gone() {
                    *taken.entry(gone.host).or_default() += gone.octets;
                }
                for place in 0..shaper.host_places() {
                    if let Some(known) = shaper.take_octets(place) {
                        assert_eq!(known.class, class);
                        *taken.entry(known.host).or_default() += known.octets;
                    }
                    assert_eq!(shaper.take_octets(place), None);
                }
            }
        }
        assert_eq!(taken, sent);
        assert_eq!(shaper.octets_lost(), 0);
    }

    #[test]
    fn octets_that_nobody_asks_for_take_no_more_room_than_there_is() {
        let most = 2;
        let config = Config { hosts: most, classes: 1, slots: 16, flows: 16, mtu: 1500, ..Config::default() };
        let mut shaper = Shaper::<()>::new(&config);
        let hosts = Kind::Hosts(Hosts { rates: Rates::default(), most });
        let class = shaper.add_class(ROOT, &ClassConfig::new(hosts)).unwrap();
        for host in 0..3 {
            shaper.keep_octets(HostOctets { class, host, octets: 10 });
        }
        assert_eq!(shaper.octets_lost(), 10);
        assert_eq!(std::iter::from_fn(|| shaper.take_gone()).count(), 2);
    }
}
