//! `[nat.port-control]`, and `port-control` of `[[nat.source]]`: what inside hosts may ask of their mappings.

use std::time::Duration;

use super::interfaces::Network;
use crate::config::model::{Host, Link, Mapping, PortControl, SourceNat};
use crate::config::reader::{At, Table, boolean, integer, text};
use crate::config::report::Sink;
use crate::config::schema;
use crate::config::units::{self, Wrong, show_duration};

/// The shortest lifetime that may be asked for (RFC 6887 15: two minutes).
const SHORTEST: Duration = Duration::from_secs(120);
/// The longest (RFC 6887 15: a day).
const LONGEST: Duration = Duration::from_secs(86_400);

/// Reads the section. `is_used` whether some rule lets hosts ask.
pub(super) fn read(nat: &Table<'_>, is_used: bool, sink: &mut Sink<'_>) -> PortControl {
    let mut control = PortControl::default();
    let Some(table) = nat.table("port-control", &schema::PORT_CONTROL, sink) else { return control };
    if !is_used {
        sink.warning(&table.span, "no rule lets hosts ask for mappings")
            .help("add `port-control = true` to a rule of [[nat.source]], or leave the section out");
    }
    let shortest = table.one("min-lifetime", text(lifetime), sink);
    let longest = table.one("max-lifetime", text(lifetime), sink);
    if let Some(most) = table.one("max-mappings", integer(1..=1024), sink) {
        control.max_mappings = most.value;
    }
    control.min_lifetime = shortest.as_ref().map_or(control.min_lifetime, |at| at.value);
    control.max_lifetime = longest.as_ref().map_or(control.max_lifetime, |at| at.value);
    let place = longest.or(shortest);
    if let Some(At { span, .. }) = place.filter(|_| control.max_lifetime < control.min_lifetime) {
        let [shortest, longest] = [control.min_lifetime, control.max_lifetime].map(show_duration);
        sink.error(&span, format!("the longest lifetime, {longest}, is under the shortest, {shortest}"))
            .help("a longer `max-lifetime`, or a shorter `min-lifetime`");
        return PortControl::default();
    }
    control
}

fn lifetime(text: &str) -> Result<Duration, Wrong> {
    let time = units::duration(text)?;
    if !(SHORTEST..=LONGEST).contains(&time) || time.subsec_nanos() != 0 {
        return Err(Wrong::new(format!("a mapping cannot live {}", show_duration(time)))
            .help("whole seconds, from \"2min\" to \"1d\""));
    }
    Ok(time)
}

/// Reads a rule's key.
pub(super) fn read_rule(
    table: &Table<'_>,
    mut source: SourceNat,
    network: &Network<'_>,
    sink: &mut Sink<'_>,
) -> SourceNat {
    let Some(asked) = table.one("port-control", boolean, sink).filter(|at| at.value) else { return source };
    if source.mapping != Mapping::EndpointIndependent {
        sink.error(&asked.span, "`port-control` with mappings that depend on the remote end")
            .also(&table.key_span("mapping"), "as is said here")
            .help("a mapping that a host asks for is for all: leave `mapping` out");
    }
    let kernels = network.interfaces.iter().enumerate().find(|(index, interface)| {
        let is_kernels = matches!(&interface.link, Link::Device(device) if device.host == Host::Kernel);
        *index != source.out && is_kernels
    });
    if let Some((_, interface)) = kernels {
        sink.warning(&asked.span, format!("hosts behind `{}` cannot ask for mappings", interface.name))
            .help("the kernel answers for the box's addresses there: what they ask never comes to Sluice");
    }
    source.port_control = true;
    source
}
