//! Room in the neighbour table: who makes way for whom.

use std::net::IpAddr;

use super::super::link;
use super::{Egress, Neighbors, NextHop, State, address_of, interface_of};
use crate::clock::{Nanos, SECOND};
use crate::snapshot::{Interface, Route, Snapshot};
use crate::verdict::DropReason;

/// A neighbour that no new flow has used for so long may be evicted for a new one.
pub const IDLE: Nanos = 60 * SECOND;
/// Places examined for one that may be evicted.
const EXAMINED: u32 = 64;

impl Neighbors {
    pub(super) fn make_room_unresolved(&mut self, now: Nanos) -> Result<(), DropReason> {
        if self.unresolved.len() < self.unresolved_limit {
            return Ok(());
        }
        if now < self.next_purge {
            return Err(DropReason::NeighborTableFull);
        }
        self.next_purge = now.saturating_add(SECOND);
        let table = &mut self.table;
        self.unresolved.retain(|&index| {
            let failed = table.value(index.into()).is_some_and(|entry| entry.state == State::Failed);
            !(failed && table.remove(index.into()).is_some())
        });
        if self.unresolved.len() == self.unresolved_limit {
            return Err(DropReason::NeighborTableFull);
        }
        self.epoch = self.epoch.wrapping_add(1);
        Ok(())
    }

    /// Makes room for one more resolved neighbour. One that is `wanted` may take the place of an idle one, others only that
    /// of one that nobody ever wanted: who merely talks on the link does not push out who is talked to.
    pub(super) fn make_room_resolved(&mut self, wanted: bool, now: Nanos) -> bool {
        if self.resolved < self.resolved_limit {
            return true;
        }
        for _ in 0..EXAMINED.min(self.table.slots()) {
            let index = self.hand;
            self.hand = if index + 1 < self.table.slots() { index + 1 } else { 0 };
            let Some((_, entry)) = self.table.get(index).filter(|(_, entry)| entry.state.is_resolved())
            else {
                continue;
            };
            let used = entry.used != 0;
            let idle = entry.invented || entry.used.saturating_add(IDLE) <= now;
            // One that was asked for at this very moment may be that of a packet which is on its way still.
            if !used || wanted && idle && entry.used < now {
                self.remove_resolved(index);
                if used {
                    self.epoch = self.epoch.wrapping_add(1);
                }
                return true;
            }
        }
        false
    }

    fn remove_resolved(&mut self, index: u32) {
        self.table.remove(index);
        self.resolved -= 1;
        if let Some(hop) = self.hops.get_mut(index as usize) {
            hop.resolved = false;
        }
    }

    /// Another configuration has been adopted: where packets go is to be looked up anew.
    pub fn renew(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// Goes on with taking over another configuration: examines the places from `from` on, as many as `count`. Neighbours
    /// stay whose interface is what it was, with its port, its tags and its MAC address, and on whose link they still are.
    /// Returns where to go on, as long as there is more.
    pub fn adopt(&mut self, snapshot: &Snapshot, from: u32, count: u32) -> Option<u32> {
        let end = self.table.slots().min(from.saturating_add(count));
        for index in from..end {
            let Some((key, entry)) = self.table.get(index) else { continue };
            let (interface, address, resolved) =
                (interface_of(key), address_of(key), entry.state.is_resolved());
            let link = snapshot.interfaces.get(usize::from(interface));
            let link = link.filter(|link| is_next_hop(snapshot, interface, link, address));
            let hop =
                link.map(|link| NextHop { resolved, ..NextHop::new(link, interface, address, entry.mac) });
            let Some(old) = self.hops.get_mut(index as usize) else { continue };
            match hop {
                Some(hop)
                    if hop == NextHop { egress: Egress { mtu: hop.egress.mtu, ..old.egress }, ..*old } =>
                {
                    *old = hop
                }
                _ if resolved => {
                    self.remove_resolved(index);
                    self.renew();
                }
                _ => {
                    self.unresolved.retain(|&other| u32::from(other) != index);
                    self.table.remove(index);
                    self.discard_held(index, DropReason::NeighborUnreachable);
                    self.renew();
                }
            }
        }
        (end < self.table.slots()).then_some(end)
    }
}

/// Whether packets may be sent to this address on the link of this interface.
fn is_next_hop(snapshot: &Snapshot, interface: u16, link: &Interface, address: IpAddr) -> bool {
    let is_connected = |route: Option<u32>| {
        let route = route.and_then(|index| snapshot.way(index)).map(|way| way.route);
        matches!(route, Some(Route::Connected { interface: on }) if on == interface)
    };
    let is_gateway = |route: &Route| match *route {
        Route::Via4 { interface: on, gateway } => (on, IpAddr::V4(gateway)) == (interface, address),
        Route::Via6 { interface: on, gateway } => (on, IpAddr::V6(gateway)) == (interface, address),
        _ => false,
    };
    let is_ours = link::ours(snapshot, link, address).is_some();
    let routed = || match address {
        IpAddr::V4(v4) => is_connected(snapshot.look_up4(&v4.octets())),
        IpAddr::V6(v6) => is_connected(snapshot.look_up6(&v6.octets())),
    };
    !is_ours && (link::is_on_link(link, address) || routed() || snapshot.leads_to(is_gateway))
}
