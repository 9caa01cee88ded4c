//! Identifications of IPv4 datagrams that leave in fragments from behind NAT (RFC 6864 4.3, RFC 7857 10). Hosts that share an
//! external address know nothing of each other, so that two datagrams with one identification may be on their way to one
//! destination, whose fragments would be put together wrong. So each gets another one, the same for all of its fragments.
//!
//! A datagram in one piece keeps its identification: nobody looks at it, unless it is cut beyond us.

use sluice_pkt::checksum::Delta;
use sluice_pkt::ipv4;
use sluice_pkt::parse::{Flags, Headers};

use super::{Fragments, datagram};
use crate::session::FlowAction;
use crate::table::key::{hash_words, mix};

/// Destinations are counted together where they have the same hash, which only makes identifications more different.
const COUNTERS: usize = 1024;

/// Counts identifications by destination and protocol.
#[derive(Debug)]
pub(crate) struct Identifications {
    counters: Box<[u16]>,
    /// Of so many workers, which one this is: each has identifications of its own.
    workers: u16,
    me: u16,
    seed: u64,
}

impl Identifications {
    /// Those of the only worker. The first ones are random.
    pub(crate) fn new(seed: u64) -> Self {
        let counters = (0..COUNTERS as u64).map(|n| mix(n ^ seed, 0xd6e8_feb8_6659_fd93) as u16).collect();
        Self { counters, workers: 1, me: 0, seed }
    }

    /// Takes those only that are worker `me`'s, of so many.
    pub(crate) fn share(&mut self, me: u8, workers: usize) {
        (self.me, self.workers) = (me.into(), workers.clamp(1, 256) as u16);
    }

    /// The next one for a datagram to this address.
    pub(crate) fn next(&mut self, destination: u32, protocol: u8) -> u16 {
        let hash = hash_words(&[u64::from(destination), protocol.into()], self.seed);
        let Some(counter) = self.counters.get_mut(hash as usize % COUNTERS) else { return 0 };
        let each = (1 << 16) / u32::from(self.workers);
        *counter = counter.wrapping_add(1);
        if u32::from(*counter) >= each {
            *counter = (u32::from(*counter) % each) as u16;
        }
        *counter * self.workers + self.me
    }
}

impl Fragments {
    /// The identification of a datagram in one piece that NAT64 makes for an address, and that may be cut on its way.
    pub(in crate::stage) fn next_identification(&mut self, destination: u32, protocol: u8) -> u16 {
        self.identifications.next(destination, protocol)
    }
}

/// Gives a packet, which is still as it came, the identification that it leaves with: that of its datagram, if it is a
/// fragment, or else the next one, as it is about to be cut.
#[cold]
pub(in crate::stage) fn renew(
    bytes: &mut [u8],
    headers: &Headers,
    action: &FlowAction,
    interface: u16,
    fragments: &mut Fragments,
) {
    let Some(ip) = ipv4::Header::at(bytes, headers.l3_offset.into()) else { return };
    if ip.source() == action.new.source() {
        return;
    }
    let (old, destination) = (ip.identification(), action.new.destination().to_bits());
    let new = if headers.flags.has(Flags::FRAGMENT) {
        let Some(new) = fragments.identification(&datagram(bytes, headers, interface)) else { return };
        new
    } else {
        fragments.identifications.next(destination, headers.protocol)
    };
    if let Some(mut ip) = ipv4::Header::at_mut(bytes, headers.l3_offset.into()) {
        ip.set_identification(new);
        let checksum = ip.checksum();
        ip.set_checksum(Delta::of_u16(old, new).apply(checksum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifications_come_back_as_late_as_they_can_and_no_two_workers_share_one() {
        for workers in [1usize, 2, 3, 7, 16] {
            let mut owner = vec![None; 1 << 16];
            for me in 0..workers {
                let mut identifications = Identifications::new(7);
                identifications.share(me as u8, workers);
                let each = (1 << 16) / workers;
                for _ in 0..each {
                    let id = usize::from(identifications.next(9, ipv4::UDP));
                    assert_eq!(owner[id].replace(me), None, "{id} of {workers}");
                }
                let again = usize::from(identifications.next(9, ipv4::UDP));
                assert_eq!(owner[again], Some(me), "all of them are used up");
            }
        }
    }
}
