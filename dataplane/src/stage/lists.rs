//! Lists: nobody speaks with a blocked prefix by an interface whose guard has the list. A session is refused by its first
//! packet: by where that comes from ([`run`]), and by where it leads ([`out`]). So none that stands has to be looked at: a list
//! that grows is another generation.
//!
//! Exits: drops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_pkt::parse::L3;

use super::{FirstPackets, addresses4, addresses6, nat64};
use crate::burst::{BURST, Burst, Mask};
use crate::shard::Shard;
use crate::snapshot::lists::ListMask;
use crate::snapshot::{Guard, Snapshot};
use crate::verdict::DropReason;

/// Drops what comes from a blocked prefix, ahead of all that would be decided about it; returns the others.
pub fn run(burst: &mut Burst, mask: Mask, shard: &mut Shard, snapshot: &Snapshot) -> Mask {
    if snapshot.lists.names.is_empty() || snapshot.is_inner(burst.port) {
        return mask;
    }
    let (mut v4, mut v6) = ([[0; 4]; BURST], [[0; 16]; BURST]);
    let (mut who4, mut who6, mut count4, mut count6) = (Mask::NONE, Mask::NONE, 0, 0);
    for i in mask {
        if guard_of(burst.interfaces[i], snapshot).is_none_or(|guard| guard.block == 0) {
            continue;
        }
        let (bytes, headers) = (burst.bytes(i), &burst.headers[i]);
        if headers.l3 == L3::Ipv4 {
            v4[count4] = addresses4(bytes, headers).0.to_be_bytes();
            count4 += 1;
            who4.add(i);
        } else {
            v6[count6] = addresses6(bytes, headers).0.to_be_bytes();
            count6 += 1;
            who6.add(i);
        }
    }
    let mut found = [0; BURST];
    snapshot.lists.of_burst4(&v4[..count4], &mut found[..count4]);
    who4.zip(found).for_each(|(i, lists)| judge(burst, i, burst.interfaces[i], lists, shard, snapshot));
    snapshot.lists.of_burst6(&v6[..count6], &mut found[..count6]);
    who6.zip(found).for_each(|(i, lists)| judge(burst, i, burst.interfaces[i], lists, shard, snapshot));
    mask.and(burst.live)
}

/// Drops first packets that lead to a blocked prefix.
pub fn out(burst: &mut Burst, first: &FirstPackets, shard: &mut Shard, snapshot: &Snapshot) {
    if snapshot.lists.names.is_empty() {
        return;
    }
    for i in first.open(burst) {
        let decision = &first.decisions[i];
        if guard_of(decision.egress, snapshot).is_none_or(|guard| guard.block == 0) {
            continue;
        }
        let dst: IpAddr = match (burst.headers[i].l3, decision.cross) {
            (L3::Ipv4, nat64::Cross::No) | (L3::Ipv6, nat64::Cross::ToV4) => {
                Ipv4Addr::from_bits(decision.dst.0).into()
            }
            (L3::Ipv4, _) => Ipv6Addr::from_bits(burst.ends6[i].dst).into(),
            _ => {
                let ends = addresses6(burst.bytes(i), &burst.headers[i]);
                Ipv6Addr::from_bits(decision.prefix.apply(ends).1).into()
            }
        };
        judge(burst, i, decision.egress, snapshot.lists.of(dst), shard, snapshot);
    }
}

fn judge(
    burst: &mut Burst,
    i: usize,
    interface: u16,
    lists: ListMask,
    shard: &mut Shard,
    snapshot: &Snapshot,
) {
    let blocking = guard_of(interface, snapshot).map_or(0, |guard| guard.blocking(lists));
    if blocking == 0 {
        return;
    }
    if let Some(hits) = shard.counters.blocked.get_mut(blocking.trailing_zeros() as usize) {
        *hits += 1;
    }
    burst.drop(i, DropReason::Blocklisted);
}

/// Whether no session may be with this address by an interface.
pub(super) fn refuses(address: IpAddr, interface: u16, snapshot: &Snapshot) -> bool {
    let guard = guard_of(interface, snapshot).filter(|guard| guard.block != 0);
    guard.is_some_and(|guard| guard.blocking(snapshot.lists.of(address)) != 0)
}

pub(super) fn guard_of(interface: u16, snapshot: &Snapshot) -> Option<&Guard> {
    let interface = snapshot.interfaces.get(usize::from(interface))?;
    snapshot.guards.get(usize::from(interface.guard?))
}
