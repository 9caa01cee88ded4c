//! `[[limits]]`: policers.

use std::collections::HashMap;

use super::interfaces::Network;
use super::matches::{self, Combinations};
use super::word;
use crate::config::model::{Direction, Limit, LimitAction, Link, Model, Shaper, Unit};
use crate::config::reader::{At, Table, choice, integer, text, text_or_number};
use crate::config::report::{Sink, Span, nearest, quote};
use crate::config::units::{self, Tokens};
use crate::config::{dscp, per, schema};

/// Most limits; the data plane numbers them in a byte.
const MOST_LIMITS: usize = 254;
/// Bytes of an Ethernet header with two VLAN tags.
const LARGEST_HEADER: u64 = 22;
/// The largest burst of a limit that is more than one bucket, in bytes: what a meter of three colours holds.
const LARGEST_BURST: u64 = 288_000_000;
/// Meters of a limit that does not say how many.
const METERS: u32 = 65_536;

/// The keys of each model, and those that go with none.
const MODELS: [(&str, [&str; 4]); 3] = [
    ("srtcm", ["cir", "cbs", "ebs", "ebs"]),
    ("trtcm", ["cir", "cbs", "pir", "pbs"]),
    ("rfc4115", ["cir", "cbs", "eir", "ebs"]),
];
const PLAIN: [&str; 2] = ["rate", "burst"];
const OF_MODELS: [&str; 6] = ["cir", "cbs", "pir", "pbs", "eir", "ebs"];

pub(super) fn read(
    file: &Table<'_>,
    network: &Network<'_>,
    shapers: &[Shaper],
    sink: &mut Sink<'_>,
) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut combinations = Combinations::none();
    let mut seen: HashMap<String, Span> = HashMap::new();
    for table in file.tables("limits", &schema::LIMIT, MOST_LIMITS, sink) {
        let Some(limit) = read_limit(&table, network, shapers, sink) else { continue };
        combinations.add(&limit.matches, &table.span, sink);
        let span = table.key_span("name");
        if let Some(first) = seen.get(&limit.name) {
            sink.error(&span, format!("two limits are called {}", quote(&limit.name)))
                .also(first, "the first is here")
                .help("a name stands for one counter: choose another");
        } else {
            seen.insert(limit.name.clone(), span);
        }
        limits.push(limit);
    }
    limits
}

fn read_limit(
    table: &Table<'_>,
    network: &Network<'_>,
    shapers: &[Shaper],
    sink: &mut Sink<'_>,
) -> Option<Limit> {
    if !table.has("name") {
        table.missing("name", "\"guests\"", sink);
    }
    let name = word(table, "name", sink);
    let (direction, key) = match (table.has("in"), table.has("out")) {
        (true, true) => {
            sink.error(&table.key_span("out"), "a limit has `in` or `out`, not both")
                .also(&table.key_span("in"), "`in` is here")
                .help("write a limit for each direction");
            return None;
        }
        (false, true) => (Direction::Egress, "out"),
        (false, false) => {
            sink.error(&table.span, "a limit has neither `in` nor `out`")
                .help("name the interface by which its packets come in, or go out");
            return None;
        }
        (true, false) => (Direction::Ingress, "in"),
    };
    let interface = network.required(table, key, sink);
    let matches = matches::read(table, sink);
    let classes = classes(table, interface.as_ref(), network, shapers, sink);
    let models: Vec<(&str, usize)> = MODELS.iter().enumerate().map(|(i, (word, _))| (*word, i)).collect();
    let model = table.one("model", choice(&models), sink);
    if table.has("model") && model.is_none() {
        return None;
    }
    let model = model.map(|at| at.value);
    refuse_keys_of_others(table, model, sink);
    let per = table.one("per", text(per::per), sink);
    let most = table.one("most", integer(16..=16_777_216), sink);
    if table.has("most") && !table.has("per") {
        sink.error(&table.key_span("most"), "a limit without `per` has one meter")
            .help("leave `most` out, or add `per = \"source\"`");
    }
    let aware = table.one("colour", choice(&[("blind", false), ("aware", true)]), sink);
    let actions = actions(table, model.is_some(), sink);
    let interface = interface.map(|at| at.value);
    let mtu = interface.map_or(1500, |interface| network.interfaces[interface].mtu);
    let figures = figures(table, model, mtu, sink)?;
    let limit = Limit {
        name: name?.value,
        direction,
        interface: interface?,
        matches,
        classes,
        unit: figures.unit,
        rate: figures.rate,
        burst: figures.burst,
        model: figures.model,
        aware: aware.is_some_and(|at| at.value),
        actions: actions?,
        per: per.map(|at| at.value),
        most: most.map_or(METERS, |at| at.value),
    };
    let largest = figures.largest.filter(|largest| largest.value > LARGEST_BURST && !limit.is_plain());
    if let Some(largest) = largest {
        sink.error(&largest.span, format!("a burst of {} B is too large for a meter", largest.value))
            .help("at most 288 MB; a limit that only has `rate` and `burst` takes up to 4096 MiB");
    }
    Some(limit)
}

/// The classes of the shaper of the device that packets go out by.
fn classes(
    table: &Table<'_>,
    interface: Option<&At<usize>>,
    network: &Network<'_>,
    shapers: &[Shaper],
    sink: &mut Sink<'_>,
) -> Vec<usize> {
    if !table.has("class") {
        return Vec::new();
    }
    if !table.has("out") {
        sink.error(&table.key_span("class"), "a class is of packets that go out")
            .help("name the interface by which they do, such as `out = \"wan\"`");
        return Vec::new();
    }
    let Some(interface) = interface else { return Vec::new() };
    let device = match network.interfaces[interface.value].link {
        Link::Device(_) => interface.value,
        Link::Vlan { parent, .. } => parent,
    };
    let name = &network.interfaces[device].name;
    let Some(shaper) = shapers.iter().find(|shaper| shaper.interface == device) else {
        sink.error(&table.key_span("class"), format!("`{name}` has no classes"))
            .help(format!("they are those of `[shapers.{name}]`"));
        return Vec::new();
    };
    let mut found = Vec::new();
    for wanted in table.many("class", text(|text| Ok(text.to_owned())), sink) {
        match shaper.classes.iter().position(|class| class.name == wanted.value) {
            Some(class) => found.push(class),
            None => {
                let message = format!("`[shapers.{name}]` has no class {}", quote(&wanted.value));
                let draft = sink.error(&wanted.span, message);
                match nearest(&wanted.value, shaper.classes.iter().map(|class| class.name.as_str())) {
                    Some(near) => draft.help(format!("did you mean `{near}`?")),
                    None => draft.help("a class that holds others is for all of them"),
                };
            }
        }
    }
    found
}

/// Reports keys that mean nothing to this model, or without one.
fn refuse_keys_of_others(table: &Table<'_>, model: Option<usize>, sink: &mut Sink<'_>) {
    let Some((word, keys)) = model.and_then(|model| MODELS.get(model)) else {
        for key in OF_MODELS.into_iter().chain(["colour", "violate"]).filter(|key| table.has(key)) {
            let message = format!("`{key}` is for limits with a `model`");
            sink.error(&table.key_span(key), message)
                .help("add `model = \"srtcm\"`, \"trtcm\" or \"rfc4115\"; without one there are `rate`, `burst` and `exceed`");
        }
        return;
    };
    for key in PLAIN.into_iter().chain(OF_MODELS).filter(|key| table.has(key) && !keys.contains(key)) {
        let mut names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        names.dedup();
        sink.error(&table.key_span(key), format!("`{key}` means nothing to the model \"{word}\""))
            .help(format!("its rates and bursts are {}", names.join(", ")));
    }
}

/// What rates and bursts come to.
struct Figures {
    unit: Unit,
    rate: u64,
    burst: u64,
    model: Option<Model>,
    /// The largest burst in bytes, where it was given.
    largest: Option<At<u64>>,
}

fn figures(table: &Table<'_>, model: Option<usize>, mtu: u16, sink: &mut Sink<'_>) -> Option<Figures> {
    let [first, first_burst, second, second_burst] = match model.and_then(|model| MODELS.get(model)) {
        Some((_, keys)) => *keys,
        None => ["rate", "burst", "", ""],
    };
    let rate = table.required(first, "\"50 Mbit/s\"", text(units::rate), sink);
    let has_second_rate = matches!(second, "pir" | "eir");
    let second_rate =
        has_second_rate.then(|| table.required(second, "\"80 Mbit/s\"", text(units::rate), sink));
    let bursts = [first_burst, second_burst]
        .map(|key| (!key.is_empty()).then(|| table.one(key, text(units::burst), sink)).flatten());
    let rate = rate?;
    let second_rate = match second_rate {
        Some(second) => Some(second?),
        None => None,
    };
    let (unit, cir) = split(rate.value);
    let mut right = true;
    for (key, at) in second_rate.iter().map(|at| (second, at)).chain(
        [first_burst, second_burst]
            .into_iter()
            .zip(&bursts)
            .filter_map(|(key, at)| Some((key, at.as_ref()?))),
    ) {
        if split(at.value).0 != unit {
            let (of, other) = if unit == Unit::Packets { ("packets", "bytes") } else { ("bytes", "packets") };
            sink.error(&at.span, format!("`{key}` is in {other}, and `{first}` in {of}"))
                .also(&rate.span, format!("`{first}` is here"))
                .help("a limit counts either");
            right = false;
        }
    }
    if !right {
        return None;
    }
    let eir = second_rate.as_ref().map(|at| split(at.value).1);
    if let (Some(at), Some(pir), "pir") = (&second_rate, eir, second) {
        if pir < cir {
            sink.error(&at.span, "the peak rate is less than the committed rate")
                .also(&rate.span, "the committed rate is here")
                .help("`pir` is at least `cir`, which is part of it (RFC 2698)");
        }
    }
    let bytes = unit == Unit::Bytes;
    let mut largest: Option<At<u64>> = None;
    for at in bursts.iter().flatten().filter(|_| bytes) {
        check_burst(at, mtu, sink);
        let burst = split(at.value).1;
        if largest.as_ref().is_none_or(|largest| largest.value < burst) {
            largest = Some(At { value: burst, span: at.span.clone() });
        }
    }
    let [first, other] = bursts.map(|at| at.map(|at| split(at.value).1));
    let default = |rate| default_burst(unit, rate, mtu);
    let other = |rate| other.unwrap_or_else(|| default(rate));
    Some(Figures {
        unit,
        rate: cir,
        burst: first.unwrap_or_else(|| default(cir)),
        model: match (model, eir) {
            (Some(0), _) => Some(Model::SrTcm { ebs: other(cir) }),
            (Some(1), Some(pir)) => Some(Model::TrTcm { pir, pbs: other(pir) }),
            (Some(_), Some(eir)) => Some(Model::Rfc4115 { eir, ebs: other(eir) }),
            _ => None,
        },
        largest,
    })
}

fn split(tokens: Tokens) -> (Unit, u64) {
    match tokens {
        Tokens::Bytes(n) => (Unit::Bytes, n),
        Tokens::Packets(n) => (Unit::Packets, n),
    }
}

fn check_burst(at: &At<Tokens>, mtu: u16, sink: &mut Sink<'_>) {
    let (burst, largest) = (split(at.value).1, u64::from(mtu) + LARGEST_HEADER);
    if burst < largest {
        sink.error(&at.span, format!("no packet of {mtu} bytes would ever pass a burst of {burst} B"))
            .help(format!("at least {largest} B on this interface"));
    }
}

/// 50 ms of the rate, and at least two packets, of the MTU with their Ethernet headers.
fn default_burst(unit: Unit, rate: u64, mtu: u16) -> u64 {
    match unit {
        Unit::Bytes => (rate / 8 / 20).max(2 * (u64::from(mtu) + LARGEST_HEADER)),
        Unit::Packets => (rate / 20).max(2),
    }
}

/// What is done to packets of each colour. A limit without a model has two, of which the second is "beyond the rate".
fn actions(table: &Table<'_>, three: bool, sink: &mut Sink<'_>) -> Option<[LimitAction; 3]> {
    let beyond = if three { LimitAction::Pass } else { LimitAction::Drop };
    let keys = [("conform", LimitAction::Pass), ("exceed", beyond), ("violate", LimitAction::Drop)];
    let [conform, exceed, violate] = keys.map(|(key, default)| action(table, key, default, sink));
    Some([conform?, exceed?, violate?])
}

fn action(table: &Table<'_>, key: &str, default: LimitAction, sink: &mut Sink<'_>) -> Option<LimitAction> {
    if !table.has(key) {
        return Some(default);
    }
    if !table.is_table(key) {
        let words = [("pass", LimitAction::Pass), ("drop", LimitAction::Drop)];
        return table.one(key, choice(&words), sink).map(|at| at.value);
    }
    let mark = table.table(key, &schema::MARK, sink)?;
    let code = mark.one("dscp", text_or_number(dscp::code_point), sink);
    let pcp = mark.one("pcp", integer(0..=7), sink);
    if !mark.has("dscp") && !mark.has("pcp") {
        sink.error(&mark.span, format!("`{key}` marks packets with nothing"))
            .help("write { dscp = \"af12\" }, { pcp = 1 }, or both");
    }
    Some(LimitAction::Mark { dscp: code.map(|at| at.value), pcp: pcp.map(|at| at.value as u8) })
}
