//! The external addresses, and which of their ports a worker may give out.

use std::net::Ipv4Addr;

use sluice_pkt::ipv4;

use super::blocks::Grid;
use super::layout::{Layout, Slot, Way};
use crate::snapshot::PortChoice;
use crate::stage::owner::Owners;
use crate::table::bitmap::PortBitmap;
use crate::table::key::mix;

/// The ports of one external address, by protocol.
#[derive(Debug)]
pub(super) struct External {
    pub(super) address: Ipv4Addr,
    /// TCP, UDP, ICMP; see [`space`](super::binding::space).
    pub(super) ports: [PortBitmap; 3],
    /// Of these, how many are taken because other workers give them out.
    pub(super) others: [u32; 3],
    /// Of those of UDP, how many rest.
    pub(super) resting: u32,
    /// Its free blocks, if it is given out in blocks.
    pub(super) grid: Option<Grid>,
}

/// Which external ports and blocks are a worker's to give out: all, if it is alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    of: Option<(u8, Owners)>,
}

impl Share {
    pub(super) fn new(me: u8, owners: &Owners) -> Self {
        Self { of: Some((me, *owners)) }
    }

    pub(super) fn is_mine(&self, port: u16) -> bool {
        self.of.is_none_or(|(me, owners)| owners.of_port(port) == me)
    }

    pub(super) fn is_my_block(&self, address: Ipv4Addr, number: u32) -> bool {
        self.of.is_none_or(|(me, owners)| owners.of_block(address.to_bits(), number) == me)
    }
}

impl External {
    /// Those of a layout, each in its place, with the ports taken that port forwards have.
    pub(super) fn all(layout: &Layout, share: &Share) -> Vec<Self> {
        let mut all: Vec<Self> = layout.slots.iter().map(|slot| Self::new(slot, share)).collect();
        for r in &layout.reserved {
            let Some(external) = all.get_mut(r.slot as usize) else { continue };
            (r.first..=r.last).for_each(|port| _ = external.ports[r.space].take(port));
        }
        all
    }

    /// With all ports free that are this worker's to give out.
    pub(super) fn new(slot: &Slot, share: &Share) -> Self {
        let mut ports = [PortBitmap::new(), PortBitmap::new(), PortBitmap::new()];
        let mut others = [0; 3];
        if slot.way == Way::Ports {
            for (ports, others) in ports.iter_mut().zip(&mut others) {
                for port in (0..=u16::MAX).filter(|&port| !share.is_mine(port)) {
                    ports.take(port);
                    *others += 1;
                }
            }
        }
        Self { address: slot.address, ports, others, resting: 0, grid: Grid::of(slot, share) }
    }

    /// Memory, bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + 3 * PortBitmap::BYTES + self.grid.as_ref().map_or(0, Grid::bytes)
    }
}

/// What port an endpoint would have.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub(super) choice: PortChoice,
    /// Its own.
    pub(super) inside: u16,
    /// Even if that is, and odd if not, where there is one (RFC 4787 REQ-4).
    pub(super) parity: bool,
}

impl Wish {
    /// That of an inside port, where ports are chosen like this.
    pub(super) fn new(choice: PortChoice, inside: u16, protocol: u8) -> Self {
        Self { choice, inside, parity: protocol == ipv4::UDP }
    }
}

/// Takes the port that [`choose_port`] names.
pub(super) fn take_port(
    ports: &mut PortBitmap,
    range: (u16, u16),
    wish: &Wish,
    random: &mut u64,
) -> Option<u16> {
    choose_port(ports, range, wish, random).filter(|&port| ports.take(port))
}

/// A free port of a range: that of the inside where it is to be kept (RFC 4787 4.2.1), or else a random one (RFC 6056),
/// below 1024 for one below and above for one above while there are such (RFC 4787 REQ-3a).
pub(super) fn choose_port(
    ports: &PortBitmap,
    range: (u16, u16),
    wish: &Wish,
    random: &mut u64,
) -> Option<u16> {
    let is_kept = wish.choice == PortChoice::Preserve && (range.0..=range.1).contains(&wish.inside);
    if is_kept && !ports.is_taken(wish.inside) {
        return Some(wish.inside);
    }
    let alike = alike(range, wish.inside).filter(|alike| *alike != range);
    let found = alike.and_then(|alike| find_port(ports, alike, wish, random));
    found.or_else(|| find_port(ports, range, wish, random))
}

/// The ports of a range on the same side of 1024, if there are any.
fn alike((first, last): (u16, u16), inside: u16) -> Option<(u16, u16)> {
    let alike = if inside < 1024 { (first, last.min(1023)) } else { (first.max(1024), last) };
    (alike.0 <= alike.1).then_some(alike)
}

fn find_port(ports: &PortBitmap, range: (u16, u16), wish: &Wish, random: &mut u64) -> Option<u16> {
    let width = u64::from(range.1.saturating_sub(range.0)) + 1;
    let (from, all) = (range.0 + (draw(random) % width) as u16, range.0..=range.1);
    let even = wish.parity.then(|| ports.next_free_of_parity(wish.inside % 2 == 1, from, all.clone()));
    even.flatten().or_else(|| ports.next_free(from, all))
}

pub(super) fn draw(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix(*random, 0xd6e8_feb8_6659_fd93)
}
