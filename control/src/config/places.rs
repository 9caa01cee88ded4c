//! Where the parts of a valid configuration stand in its file, for those who tell what matched.

use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Sink;

/// Lines of the file, from 1, in the order of the lists of [`Config`](super::Config). They are no part of what it means: any two are
/// equal.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Places {
    /// The file's name.
    pub file: String,
    /// `[interfaces.NAME]`
    pub interfaces: Vec<u32>,
    /// Of each ACL, what says what becomes of packets that match no rule.
    pub defaults: Vec<u32>,
    /// `[[routes]]`
    pub routes: Vec<u32>,
    /// `[[nat.source]]`, and behind them `[[nat.nat64]]`
    pub sources: Vec<u32>,
    /// `[[nat.static]]`
    pub statics: Vec<u32>,
    /// `[[nat.exempt]]`
    pub exemptions: Vec<u32>,
    /// `[[nat.forward]]`
    pub forwards: Vec<u32>,
    /// `[[nat.prefix]]`
    pub prefixes: Vec<u32>,
    /// `[[limits]]`
    pub limits: Vec<u32>,
    /// `[shapers.NAME]`, each with its classes.
    pub shapers: Vec<(u32, Vec<u32>)>,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    /// Of a file that has been read.
    pub(super) fn read(file: &DeTable<'_>, name: &str, sink: &Sink<'_>) -> Self {
        let nat = file.get("nat").and_then(|nat| table(nat));
        let in_nat = |key: &str| nat.map(|nat| entries(nat, key, sink)).unwrap_or_default();
        let default = |(name, acl): (u32, Option<&DeTable<'_>>)| {
            let default = acl.and_then(|acl| acl.get_key_value("default"));
            default.map_or(name, |(key, _)| sink.line(&key.span()))
        };
        let shaper = |(name, shaper): (u32, Option<&DeTable<'_>>)| {
            (name, shaper.map(|shaper| entries(shaper, "classes", sink)).unwrap_or_default())
        };
        Self {
            file: name.to_owned(),
            interfaces: named(file, "interfaces", sink).map(|(line, _)| line).collect(),
            defaults: named(file, "acls", sink).map(default).collect(),
            routes: entries(file, "routes", sink),
            sources: [in_nat("source"), in_nat("nat64")].concat(),
            statics: in_nat("static"),
            exemptions: in_nat("exempt"),
            forwards: in_nat("forward"),
            prefixes: in_nat("prefix"),
            limits: entries(file, "limits", sink),
            shapers: named(file, "shapers", sink).map(shaper).collect(),
        }
    }
}

fn table<'t>(value: &'t Spanned<DeValue<'t>>) -> Option<&'t DeTable<'t>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

/// The lines of the tables of a list.
fn entries<'t>(file: &'t DeTable<'t>, key: &str, sink: &Sink<'_>) -> Vec<u32> {
    match file.get(key).map(Spanned::get_ref) {
        Some(DeValue::Array(list)) => list.iter().map(|entry| sink.line(&entry.span())).collect(),
        _ => Vec::new(),
    }
}

/// The named tables under a key, each with the line of its name.
fn named<'t>(
    file: &'t DeTable<'t>,
    key: &str,
    sink: &'t Sink<'_>,
) -> impl Iterator<Item = (u32, Option<&'t DeTable<'t>>)> + use<'t> {
    let tables = file.get(key).and_then(|value| table(value));
    let all = tables.into_iter().flat_map(|tables| tables.iter());
    all.map(|(name, value)| (sink.line(&name.span()), table(value)))
}
