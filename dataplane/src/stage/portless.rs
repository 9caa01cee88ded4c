//! Protocols without ports behind source NAT: GRE, ESP and all others but TCP, UDP and ICMP. Only their source address can
//! change, so an answer is told by the remote address alone: at a time one inside host speaks with a remote address by such
//! a protocol and an external address, as is usual for PPTP (RFC 2637) and IPsec.
//!
//! The session holds the external address, as no two have the same answers; so who is free is asked of the flow table. Its
//! binding is for the account of the inside address and for the log alone. All that the hosts behind NAT say to a remote address by such a protocol has one owner.

use std::net::Ipv4Addr;

use sluice_pkt::ipv4;

use super::Decision;
use crate::session::{Flow, Key4, addresses, key4, ports};
use crate::snapshot::{Allocation, LocalUse, Pool, Snapshot};
use crate::table::hash::HashTable;
use crate::table::key::mix;
use crate::verdict::DropReason;

/// Most external addresses that are tried for a packet.
const TRIES: usize = 64;

/// Whether sessions of this protocol are told apart by addresses alone.
pub(super) fn is_portless(protocol: u8) -> bool {
    !matches!(protocol, ipv4::TCP | ipv4::UDP | ipv4::ICMP)
}

/// The external address for a session of the decision's ends by a protocol without ports, or why there is none. The first one
/// that is tried follows from the inside address, as that of its bindings does.
pub(super) fn choose(
    pool: &Pool,
    decision: &Decision,
    protocol: u8,
    flows: &HashTable<Key4, Flow>,
    snapshot: &Snapshot,
) -> Result<Ipv4Addr, DropReason> {
    let (inside, remote) = (decision.src.0, decision.dst.0);
    let (first, tries) = match &pool.allocation {
        // Its subscriber's address alone.
        Allocation::Deterministic(plan) => {
            (plan.block(inside).map(|(position, _)| position).ok_or(DropReason::NatPortsExhausted)?, 1)
        }
        _ => (mix(u64::from(inside) ^ snapshot.seed, 0x9e37_79b9_7f4a_7c15) as usize, TRIES),
    };
    let count = pool.addresses.len();
    let mut reason = DropReason::NatKernelAddress;
    for i in 0..count.min(tries) {
        let Some(&external) = pool.addresses.get(first.wrapping_add(i) % count) else { continue };
        if is_kernels(external, snapshot) {
            continue;
        }
        let answers = key4(addresses(remote, external.to_bits()), ports(0, 0), protocol, decision.egress);
        let holder = flows.find(&answers).and_then(|flow| flows.value(flow));
        if holder.is_none_or(|flow| flow.action.new.destination().to_bits() == inside) {
            return Ok(external);
        }
        reason = DropReason::NatRemoteTaken;
    }
    Err(reason)
}

/// Whether a session may keep its external address, now that this pool is that of the rule which applies to it.
pub(super) fn may_keep(external: Ipv4Addr, pool: &Pool, snapshot: &Snapshot) -> bool {
    pool.addresses.contains(&external) && !is_kernels(external, snapshot)
}

/// Whether source NAT gives this address out.
pub(super) fn is_pooled(address: Ipv4Addr, snapshot: &Snapshot) -> bool {
    snapshot.pools.iter().any(|pool| pool.addresses.contains(&address))
}

/// Whether packets to an address are the kernel's where no port says that they are NAT's.
fn is_kernels(address: Ipv4Addr, snapshot: &Snapshot) -> bool {
    let Some(&(interface, LocalUse::Interface)) = snapshot.local4.get(&address) else { return false };
    let port = snapshot.interfaces.get(usize::from(interface)).map(|interface| interface.port);
    port.and_then(|port| snapshot.ports.get(usize::from(port))).is_some_and(|port| port.host_is_kernel)
}
