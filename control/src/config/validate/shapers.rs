//! `[shapers.NAME]`: what leaves by a device, in classes.

mod class;
mod quota;
mod rates;

use super::acls::Acls;
use super::interfaces::Network;
use super::matches::Combinations;
use crate::config::model::{Class, Link, Overhead, Shaper};
use crate::config::reader::{At, Table, integer, text, text_or_number};
use crate::config::report::{Sink, Span, nearest, quote};
use crate::config::schema;
use crate::config::units::{self, Wrong};

/// Most classes of all shapers; what a worker looks at now and then.
const MOST_CLASSES: usize = 512;
/// Packet buffers in which packets wait, without `frames`.
const FRAMES: u32 = 4096;
/// Most classes within each other.
const DEEPEST: usize = 3;

pub(super) fn read(
    file: &Table<'_>,
    network: &Network<'_>,
    acls: &Acls<'_>,
    sink: &mut Sink<'_>,
) -> Vec<Shaper> {
    let mut shapers = Vec::new();
    let mut combinations = Combinations::none();
    let mut left = MOST_CLASSES;
    for (name, table) in file.named("shapers", &schema::SHAPER, sink) {
        let name = At { value: name.value.to_owned(), span: name.span };
        let Some(interface) = network.resolve(&name, sink) else { continue };
        if let Link::Vlan { parent, .. } = network.interfaces[interface].link {
            let device = network.interfaces.get(parent).map_or("its device", |device| device.name.as_str());
            sink.error(
                &name.span,
                format!("{} is a VLAN, which shares a line with others", quote(&name.value)),
            )
            .help(format!("shape `{device}`, with a class that has `out = \"{}\"`", name.value));
            continue;
        }
        let Some(table) = table else { continue };
        shapers.push(read_shaper(&table, interface, network, acls, &mut left, &mut combinations, sink));
    }
    shapers
}

fn read_shaper(
    table: &Table<'_>,
    interface: usize,
    network: &Network<'_>,
    acls: &Acls<'_>,
    left: &mut usize,
    combinations: &mut Combinations,
    sink: &mut Sink<'_>,
) -> Shaper {
    let errors = sink.errors();
    let rate = table.one("rate", text(units::bit_rate), sink);
    let overhead = table.one("overhead", text_or_number(overhead), sink);
    let frames = table.one("frames", integer(64..=1 << 20), sink);
    let tables = table.tables("classes", &schema::CLASS, *left, sink);
    *left -= tables.len().min(*left);
    let reader = class::Reader { shaper: interface, has_rate: table.has("rate"), network, acls };
    let mut classes: Vec<Class> = tables.iter().map(|class| reader.read(class, sink)).collect();
    for (class, table) in classes.iter().zip(&tables) {
        combinations.add(&class.matches.packets, &table.span, sink);
    }
    link(&mut classes, &tables, sink);
    if sink.errors() == errors {
        quota::link(&mut classes, &tables, sink);
    }
    if sink.errors() == errors {
        class::check_reach(&classes, &tables, sink);
        rates::check(rate.as_ref(), &classes, &tables, sink);
    }
    if rate.is_none() && classes.is_empty() && sink.errors() == errors {
        sink.error(&table.span, "a shaper with neither `rate` nor classes does nothing")
            .help("add `rate = \"100 Mbit/s\"`");
    }
    Shaper {
        interface,
        frames: if rate.is_some() { frames.map_or(FRAMES, |at| at.value) } else { 0 },
        rate: rate.map(|at| at.value),
        overhead: overhead.map_or(Overhead::default(), |at| at.value),
        classes,
    }
}

/// Finds each class's parent.
fn link(classes: &mut [Class], tables: &[Table<'_>], sink: &mut Sink<'_>) {
    let errors = sink.errors();
    for (index, table) in tables.iter().enumerate() {
        let name = &classes[index].name;
        let first = classes[..index].iter().position(|other| other.name == *name && !name.is_empty());
        if let Some(first) = first {
            sink.error(&table.key_span("name"), format!("two classes are called {}", quote(name)))
                .also(&tables[first].key_span("name"), "the first is here")
                .help("a name stands for one counter: choose another");
        }
        let Some(parent) = super::word(table, "parent", sink) else { continue };
        let found = classes.iter().position(|class| class.name == parent.value);
        if found.is_none() {
            let draft = sink.error(&parent.span, format!("no class is called {}", quote(&parent.value)));
            match nearest(&parent.value, classes.iter().map(|class| class.name.as_str())) {
                Some(near) => draft.help(format!("did you mean `{near}`?")),
                None => draft.help("a parent is a class of the same shaper"),
            };
        }
        classes[index].parent = found;
    }
    if sink.errors() > errors {
        return;
    }
    for (index, table) in tables.iter().enumerate() {
        let depth = ancestors(classes, index).count();
        let span = table.key_span("parent");
        if depth > classes.len() {
            sink.error(&span, format!("{} is within itself", quote(&classes[index].name)))
                .help("follow `parent` from here: it must end at a class without one");
            break;
        }
        if depth >= DEEPEST {
            sink.error(&span, "classes are within each other too deep")
                .help(format!("{DEEPEST} at most; hosts (`per`) and the device itself do not count"));
        }
    }
}

/// A class's parent, that one's parent, and so on; more than there are classes, if that goes in circles.
fn ancestors(classes: &[Class], index: usize) -> impl Iterator<Item = usize> + '_ {
    let parent = |&index: &usize| classes.get(index).and_then(|class| class.parent);
    std::iter::successors(parent(&index), parent).take(classes.len() + 1)
}

/// The classes that a class holds.
fn children(classes: &[Class], parent: Option<usize>) -> impl Iterator<Item = usize> + '_ {
    classes.iter().enumerate().filter(move |(_, class)| class.parent == parent).map(|(index, _)| index)
}

/// What the wire adds to a frame, by the kind of line, or in bytes.
fn overhead(text: &str) -> Result<Overhead, Wrong> {
    match text {
        // Preamble and start of frame 8, FCS 4, gap 12; at least 64 bytes with FCS (IEEE 802.3).
        "ethernet" => Ok(Overhead { bytes: 24, least: 84, atm: false }),
        // PPPoE and PPP 8, FCS 4, and 4 of the line's own framing (PTM).
        "pppoe" => Ok(Overhead { bytes: 16, least: 0, atm: false }),
        // PPPoE and PPP 8, bridged in LLC 10 (RFC 2684), and 8 of AAL5.
        "atm" => Ok(Overhead { bytes: 26, least: 0, atm: true }),
        _ => text.parse().ok().filter(|bytes| (-22..=256).contains(bytes)).map_or_else(
            || {
                let wrong = Wrong::new(format!("{} is not the overhead of a line", quote(text)));
                Err(wrong.help("\"ethernet\", \"pppoe\", \"atm\", or a number of bytes a frame, -22 to 256"))
            },
            |bytes| Ok(Overhead { bytes, ..Overhead::default() }),
        ),
    }
}

/// Where a key stands, or the class where it does not.
fn place(table: &Table<'_>, key: &str) -> Span {
    table.key_span(key)
}
