//! `[guard.NAME]`: what packets are refused for.

use std::collections::HashMap;

use sluice_dataplane::snapshot::guard::AMPLIFIERS;

use super::lists::Lists;
use crate::config::model::{Guard, Refusal, ReversePath, SourceLimits};
use crate::config::reader::{At, Table, choice, integer, text};
use crate::config::report::{Sink, nearest, quote};
use crate::config::schema;
use crate::config::units::{self, Tokens, Wrong};

/// Most guards; interfaces share them.
const MOST_GUARDS: usize = 256;

/// The guards, and what other sections ask of them.
pub(super) struct Guards<'t> {
    /// Each with the place of its name.
    pub(super) guards: Vec<At<Guard>>,
    names: HashMap<&'t str, usize>,
}

impl<'t> Guards<'t> {
    pub(super) fn read(file: &Table<'t>, lists: &Lists<'t>, sink: &mut Sink<'_>) -> Self {
        let mut guards = Self { guards: Vec::new(), names: HashMap::new() };
        let tables = file.named("guard", &schema::GUARD, sink);
        if let Some((name, _)) = tables.get(MOST_GUARDS) {
            sink.error(&name.span, format!("there are {} guards", tables.len()))
                .help(format!("at most {MOST_GUARDS}; interfaces can share one"));
        }
        for (name, table) in tables.into_iter().take(MOST_GUARDS) {
            guards.names.insert(name.value, guards.guards.len());
            let mut guard = table.map_or(Guard::default(), |table| read_guard(&table, lists, sink));
            name.value.clone_into(&mut guard.name);
            guards.guards.push(At { value: guard, span: name.span });
        }
        guards
    }

    /// The guard that `name` refers to.
    pub(super) fn resolve(&self, name: &At<String>, sink: &mut Sink<'_>) -> Option<usize> {
        let index = self.names.get(name.value.as_str()).copied();
        if index.is_none() {
            let draft = sink.error(&name.span, format!("no guard is called {}", quote(&name.value)));
            match nearest(&name.value, self.names.keys().copied()) {
                Some(near) => draft.help(format!("did you mean `{near}`?")),
                None => draft.help("write it as [guard.NAME]"),
            };
        }
        index
    }
}

fn read_guard(table: &Table<'_>, lists: &Lists<'_>, sink: &mut Sink<'_>) -> Guard {
    let drop = match table.string("drop") {
        Some("all") => Refusal::ALL.iter().map(|&(_, refusal)| refusal).collect(),
        _ => super::values(&table.many("drop", choice(&Refusal::ALL), sink)),
    };
    let modes = [("strict", ReversePath::Strict), ("loose", ReversePath::Loose)];
    let reverse_path = table.one("reverse-path", choice(&modes), sink).map(|at| at.value);
    let ports = table.many("answer-ports", integer(1..=65_535), sink);
    let mut answer_ports: Vec<u16> = ports.iter().map(|at| at.value as u16).collect();
    if table.has("answer-ports") && !drop.contains(&Refusal::UnaskedAnswers) {
        sink.error(&table.key_span("answer-ports"), "`answer-ports` without \"unasked-answers\" in `drop`")
            .help("add it there, or leave `answer-ports` out");
    }
    if ports.is_empty() {
        answer_ports = AMPLIFIERS.iter().map(|&(port, _)| port).collect();
    }
    answer_ports.sort_unstable();
    answer_ports.dedup();
    let per_source = table.table("per-source", &schema::PER_SOURCE, sink);
    let per_service = table.table("per-service", &schema::PER_SERVICE, sink);
    let icmp = table.one("icmp", text(packet_rate), sink);
    let names = table.many("lists", text(|text| Ok(text.to_owned())), sink);
    Guard {
        name: String::new(),
        drop,
        reverse_path: reverse_path.unwrap_or_default(),
        answer_ports,
        lists: names.iter().filter_map(|name| lists.resolve(name, sink)).collect(),
        per_source: per_source.map(|table| read_limits(&table, sink)),
        per_service: per_service.map(|table| read_limits(&table, sink)),
        icmp: icmp.map_or(0, |at| at.value),
    }
}

fn read_limits(table: &Table<'_>, sink: &mut Sink<'_>) -> SourceLimits {
    let packets = table.one("packets", text(packet_rate), sink).map_or(0, |at| at.value);
    let bits = table.one("rate", text(units::bit_rate), sink).map_or(0, |at| at.value);
    let has_sessions = table.section.keys.contains(&"sessions");
    let sessions = has_sessions.then(|| table.one("sessions", integer(1..=16 << 20), sink)).flatten();
    let mut number =
        |key, range, default| table.one(key, integer(range), sink).map_or(default, |at| at.value);
    let limits = SourceLimits {
        packets,
        bits,
        new_sessions: number("new-sessions", 1..=10_000_000, 0),
        sessions: sessions.map_or(0, |at| at.value),
        prefix: [number("ipv4-prefix", 1..=32, 32) as u8, number("ipv6-prefix", 1..=128, 64) as u8],
        most: number("most", 16..=4 << 20, 65_536),
    };
    if !["packets", "rate", "new-sessions", "sessions"].iter().any(|key| table.has(key)) {
        sink.error(&table.span, "bounds that bound nothing")
            .help("add `packets = \"10 kpps\"`, `rate = \"100 Mbit/s\"` or `new-sessions = 100`");
    }
    limits
}

fn packet_rate(text: &str) -> Result<u64, Wrong> {
    match units::rate(text)? {
        Tokens::Packets(packets) => Ok(packets),
        Tokens::Bytes(_) => {
            Err(Wrong::new(format!("{} counts bits", quote(text)))
                .help("packets a second, such as \"10 kpps\""))
        }
    }
}
