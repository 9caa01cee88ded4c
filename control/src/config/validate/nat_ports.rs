//! How `[[nat.source]]` and `[[nat.nat64]]` give out ports: in blocks or by arithmetic, and how many an inside address may have.

use std::time::Duration;

use super::interfaces::Network;
use crate::config::model::{Allocation, Filtering, KernelFilter, Link, PortRest, SourceNat, is_stand_in};
use crate::config::protocol::{TCP, UDP, protocol_name};
use crate::config::reader::{At, Table, boolean, integer, text};
use crate::config::report::{Sink, Span};
use crate::config::schema;
use crate::config::units::{self, show_duration};

/// Most blocks of an inside address.
const MOST_BLOCKS: u32 = 64;
/// Most blocks of a pool.
const MOST_IN_POOL: u64 = 16 << 20;
/// RFC 6888 REQ-8.
const HOLD: Duration = Duration::from_secs(120);

/// Most ports that rest at a worker.
const MOST_RESTING: u32 = 1 << 20;

/// Reads `[nat.port-rest]`.
pub(super) fn read_rest(nat: &Table<'_>, sources: &[At<SourceNat>], sink: &mut Sink<'_>) -> PortRest {
    let mut rest = PortRest::default();
    let Some(table) = nat.table("port-rest", &schema::PORT_REST, sink) else { return rest };
    if !sources.iter().any(|source| source.value.filtering == Filtering::EndpointIndependent) {
        sink.warning(&table.span, "no rule has ports that rest")
            .help("ports rest where `filtering = \"endpoint-independent\"`; leave the section out");
    }
    if let Some(At { value, span }) = table.one("time", text(units::duration), sink) {
        if value < HOLD {
            sink.warning(
                &span,
                format!("{} is shorter than the 2min of RFC 6888 REQ-8", show_duration(value)),
            )
            .help("with less than \"2min\", one host may get what is still sent to another");
        }
        rest.time = value;
    }
    if let Some(most) = table.one("most", integer(0..=MOST_RESTING), sink) {
        rest.most = most.value;
    }
    rest
}

/// Reads the keys about ports.
pub(super) fn read(table: &Table<'_>, mut source: SourceNat, sink: &mut Sink<'_>) -> Option<SourceNat> {
    let size = table.one("block-size", integer(1..=65_535), sink);
    let most = table.one("max-blocks", integer(1..=MOST_BLOCKS), sink);
    let hold = table.one("block-hold", text(units::duration), sink);
    // Arithmetic is for inside addresses of IPv4.
    let may_be_fixed = table.section.name != schema::NAT64.name;
    let is_fixed = may_be_fixed && table.one("deterministic", boolean, sink).is_some_and(|at| at.value);
    source.max_ports = table.one("max-ports", integer(1..=1 << 24), sink).map(|at| at.value);
    source.max_sessions = table.one("max-sessions", integer(1..=1 << 24), sink).map(|at| at.value);
    source.max_new = table.one("max-new-per-second", integer(1..=1_000_000), sink).map(|at| at.value);
    let of_blocks = [("max-blocks", most.is_some()), ("block-hold", hold.is_some())];
    for (key, _) in of_blocks.into_iter().filter(|(_, given)| *given) {
        if is_fixed {
            sink.error(&table.key_span(key), format!("`{key}` with `deterministic = true`"))
                .help("there each subscriber has one block, for good: leave it out");
        } else if !table.has("block-size") {
            sink.error(&table.key_span(key), format!("`{key}` without `block-size`"))
                .help("add `block-size = 512`, or leave it out");
        }
    }
    let ports = source.ports.count();
    if let Some(At { value, span }) = size.as_ref().filter(|size| size.value > ports) {
        let draft =
            sink.error(span, format!("a block of {value} ports is more than the {ports} of an address"));
        let draft = match table.has("ports") {
            true => draft.also(&table.key_span("ports"), "which are given here"),
            false => draft,
        };
        draft.help("a smaller block, or more `ports`");
        return None;
    }
    if is_fixed && source.pool.iter().any(|range| is_stand_in(range.first)) {
        sink.error(
            &table.key_span("deterministic"),
            "a deterministic mapping to an address that comes and goes",
        )
        .help("the interface has its addresses from the kernel: give the pool others in `to`");
        return None;
    }
    if is_fixed {
        source.allocation = Allocation::Deterministic { size: size.as_ref().map(|at| at.value) };
        let span = size.map_or_else(|| table.key_span("deterministic"), |at| at.span);
        return check_fixed(table, &source, &span, sink).then_some(source);
    }
    let Some(size) = size else { return Some(source) };
    let hold = hold.map_or(HOLD, |At { value, span }| {
        if value < HOLD {
            sink.warning(
                &span,
                format!("{} is shorter than the 2min of RFC 6888 REQ-8", show_duration(value)),
            )
            .help("with less than \"2min\", one subscriber may get what is still sent to another");
        }
        value
    });
    if u64::from(ports / size.value) * source.addresses() > MOST_IN_POOL {
        sink.error(&size.span, format!("the pool has more than {MOST_IN_POOL} blocks"))
            .help("larger blocks, or fewer addresses");
        return None;
    }
    source.allocation = Allocation::Blocks { size: size.value, most: most.map_or(4, |at| at.value), hold };
    Some(source)
}

/// Every subscriber must have its ports.
fn check_fixed(table: &Table<'_>, source: &SourceNat, span: &Span, sink: &mut Sink<'_>) -> bool {
    if source.from.is_empty() {
        if !table.has("from") {
            sink.error(span, "a deterministic pool without `from`")
                .help("name the subscribers: `from = \"100.64.0.0/22\"`");
        }
        return false;
    }
    if source.pool.is_empty() || source.plan().is_some() {
        return !source.pool.is_empty();
    }
    let subscribers: u64 =
        source.from.iter().map(|prefix| 1u64 << (32 - u32::from(prefix.length.min(32)))).sum();
    let (addresses, ports) = (source.addresses(), source.ports.count());
    let most = (1..=ports).rev().find(|size| u64::from(ports / size) * addresses >= subscribers);
    let wanted = match source.allocation {
        Allocation::Deterministic { size: Some(size) } => format!("{size} ports each"),
        _ => "a port each".to_owned(),
    };
    let message = format!("{subscribers} subscribers cannot have {wanted} of {addresses} x {ports} ports");
    sink.error(span, message).also(&table.key_span("from"), "the subscribers are here").help(match most {
        Some(most) => format!("at most `block-size = {most}`, or more addresses in `to`"),
        None => "more addresses in `to`, or fewer subscribers".to_owned(),
    });
    false
}

/// What a device leaves to the kernel never comes to NAT: no port of a pool may be among it.
pub(super) fn check_kernel(
    table: &Table<'_>,
    source: &SourceNat,
    network: &Network<'_>,
    sink: &mut Sink<'_>,
) {
    for KernelPort { device, place, protocol, port } in kernel_ports(network, source.out) {
        if source.ports.first <= port && port <= source.ports.last {
            let key = if table.has("ports") { "ports" } else { "out" };
            sink.error(
                &table.key_span(key),
                format!("the pool's ports {} hold {port}, which is a service's", source.ports),
            )
            .also(&place, format!("`{device}` leaves {}/{port} to the kernel here", protocol_name(protocol)))
            .help(format!("give a range in `ports` without {port}"));
        }
    }
}

/// A port that a device leaves to the kernel.
pub(super) struct KernelPort {
    /// The interface whose device it is, and where that stands.
    pub(super) device: String,
    pub(super) place: Span,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// Those of the device that carries an interface.
pub(super) fn kernel_ports(network: &Network<'_>, interface: usize) -> Vec<KernelPort> {
    let carrier = match network.interfaces.get(interface).map(|interface| &interface.link) {
        Some(Link::Vlan { parent, .. }) => *parent,
        _ => interface,
    };
    let Some(interface) = network.interfaces.get(carrier) else { return Vec::new() };
    let Link::Device(device) = &interface.link else { return Vec::new() };
    let ports = device.kernel.iter().filter_map(|filter| match filter {
        KernelFilter::Tcp(port) => Some((TCP, *port)),
        KernelFilter::Udp(port) => Some((UDP, *port)),
        _ => None,
    });
    let of = |(protocol, port)| KernelPort {
        device: interface.name.clone(),
        place: network.spans.get(carrier).cloned().unwrap_or_default(),
        protocol,
        port,
    };
    ports.map(of).collect()
}
