//! Two parsed files side by side. Values that mean the same count as the same: `"5min"` and `"300s"`, `443` and `"443"`, a
//! value alone and in a list.

use std::collections::HashMap;
use std::fmt::Write;

use toml::de::{DeTable, DeValue};

use super::{Change, Kind};
use crate::config::{Magnitude, magnitude};

/// Takes what is different; it is put into words only if somebody wants them.
pub(super) type Tell<'a> = &'a mut dyn FnMut(&dyn Fn() -> Change);

/// Sections whose keys are names that the file gives, and whose tables are one thing each.
const NAMED: [&str; 3] = ["interfaces", "acls", "shapers"];

/// Lists of tables: by which keys an entry is known again, and whether the order counts.
const LISTS: [(&str, &[&str], bool); 10] = [
    ("routes", &["to"], false),
    ("rules", &["name"], true),
    ("classes", &["name"], true),
    ("limits", &["name"], true),
    ("nat.source", &["out", "from"], true),
    ("nat.nat64", &["out", "prefix"], true),
    ("nat.static", &["out", "outside"], false),
    ("nat.exempt", &["out", "from", "to", "protocol"], false),
    ("nat.forward", &["in", "protocol", "address", "port"], false),
    ("nat.prefix", &["out", "inside"], false),
];

/// Compares tables, whose keys follow `path`.
pub(super) fn tables(path: &str, old: &DeTable<'_>, new: &DeTable<'_>, tell: Tell<'_>) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, value) in new {
        let key = key.get_ref().as_ref();
        values(&join(key), old.get(key).map(|old| old.get_ref()), Some(value.get_ref()), tell);
    }
    for (key, value) in old.iter().filter(|(key, _)| !new.contains_key(key.get_ref().as_ref())) {
        values(&join(key.get_ref()), Some(value.get_ref()), None, tell);
    }
}

/// Compares what is, or is not, at `path`.
fn values(path: &str, old: Option<&DeValue<'_>>, new: Option<&DeValue<'_>>, tell: Tell<'_>) {
    let none = DeTable::new();
    let is_named =
        path.split_once('.').is_some_and(|(section, name)| NAMED.contains(&section) && !name.contains('.'));
    match (old, new) {
        (Some(DeValue::Table(old)), Some(DeValue::Table(new))) => tables(path, old, new, tell),
        (Some(DeValue::Table(old)), None) if !is_named => tables(path, old, &none, tell),
        (None, Some(DeValue::Table(new))) if !is_named => tables(path, &none, new, tell),
        _ if [old, new].into_iter().flatten().all(is_list_of_tables) => {
            lists(path, &entries(old), &entries(new), tell);
        }
        (Some(old), Some(new)) if same(old, new) => {}
        _ => {
            let kind = match (old, new) {
                (None, _) if is_named => Kind::Added,
                (_, None) if is_named => Kind::Removed,
                _ => Kind::Changed,
            };
            tell(&|| Change { what: path.to_owned(), kind, old: old.map(show), new: new.map(show) });
        }
    }
}

fn is_list_of_tables(value: &DeValue<'_>) -> bool {
    matches!(value, DeValue::Array(list)
        if !list.is_empty() && list.iter().all(|entry| matches!(entry.get_ref(), DeValue::Table(_))))
}

fn entries<'v, 't>(list: Option<&'v DeValue<'t>>) -> Vec<&'v DeTable<'t>> {
    let Some(DeValue::Array(list)) = list else { return Vec::new() };
    let table = |entry: &'v toml::Spanned<DeValue<'t>>| match entry.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    };
    list.iter().filter_map(table).collect()
}

/// Compares lists of tables: entries are known again by their names, or by what they are about, or else by all that they say.
fn lists(path: &str, old: &[&DeTable<'_>], new: &[&DeTable<'_>], tell: Tell<'_>) {
    let tail = path.rsplit('.').next().unwrap_or(path);
    let list = LISTS.iter().find(|(name, ..)| *name == path || *name == tail);
    let (keys, is_ordered): (&[&str], _) =
        list.map_or((&["name"], false), |&(_, keys, ordered)| (keys, ordered));
    let [before, after] = [old, new].map(|entries| ids(entries, keys));
    let place_of: HashMap<&str, usize> =
        before.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
    let mut found = vec![false; old.len()];
    let mut order = Vec::new();
    for (place, (id, entry)) in after.iter().zip(new).enumerate() {
        match place_of.get(id.as_str()) {
            Some(&was) => {
                found[was] = true;
                order.push((was, place));
                if !is_same_table(old[was], entry) {
                    tables(&format!("{path} {id}"), old[was], entry, tell);
                }
            }
            None => tell(&|| {
                let what = if is_ordered { format!("{path}, place {}", place + 1) } else { path.to_owned() };
                Change { what, kind: Kind::Added, old: None, new: Some(show_table(entry)) }
            }),
        }
    }
    for (entry, _) in old.iter().zip(&found).filter(|(_, found)| !**found) {
        tell(&|| Change {
            what: path.to_owned(),
            kind: Kind::Removed,
            old: Some(show_table(entry)),
            new: None,
        });
    }
    if is_ordered {
        for (was, place) in moved(&order) {
            let [old, new] = [was, place].map(|place| Some((place + 1).to_string()));
            tell(&|| Change {
                what: format!("{path} {}", after[place]),
                kind: Kind::Moved,
                old: old.clone(),
                new: new.clone(),
            });
        }
    }
}

/// What each entry is known by; of several alike, the later ones with their number.
fn ids(entries: &[&DeTable<'_>], keys: &[&str]) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(entries.len());
    let id = |entry: &&DeTable<'_>| {
        let mut id = String::new();
        for value in keys.iter().filter_map(|key| entry.get(*key)) {
            if !id.is_empty() {
                id.push(' ');
            }
            write_value(&mut id, value.get_ref());
        }
        if id.is_empty() {
            id = show_table(entry);
        }
        let times = seen.entry(id.clone()).and_modify(|times| *times += 1).or_insert(1);
        if *times > 1 {
            let _ = write!(id, " ({times})");
        }
        id
    };
    entries.iter().map(id).collect()
}

/// Of entries with their places before and after, in the order of those after, the fewest that must have moved: all but a
/// longest rising sequence.
fn moved(order: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // The last entry of the best sequence of each length, and for each entry the one before it.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![None; order.len()];
    for (at, &(was, _)) in order.iter().enumerate() {
        let length = ends.partition_point(|&end| order[end].0 < was);
        before[at] = length.checked_sub(1).map(|shorter| ends[shorter]);
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut stays = vec![false; order.len()];
    let mut at = ends.last().copied();
    while let Some(entry) = at {
        stays[entry] = true;
        at = before[entry];
    }
    let mut ranks: Vec<usize> = order.iter().map(|&(was, _)| was).collect();
    ranks.sort_unstable();
    let has_rank = |at: usize| ranks.get(at) == order.get(at).map(|(was, _)| was);
    // One that keeps its rank while others pass it by has not moved, in people's eyes; then all others have.
    let is_odd = (0..order.len()).any(|at| !stays[at] && has_rank(at));
    let has_moved = |at: &usize| if is_odd { !has_rank(*at) } else { !stays[*at] };
    (0..order.len()).filter(has_moved).map(|at| order[at]).collect()
}

fn is_same_table(old: &DeTable<'_>, new: &DeTable<'_>) -> bool {
    old.len() == new.len()
        && old.iter().all(|(key, old)| {
            new.get(key.get_ref().as_ref()).is_some_and(|new| same(old.get_ref(), new.get_ref()))
        })
}

fn same(old: &DeValue<'_>, new: &DeValue<'_>) -> bool {
    match (old, new) {
        (DeValue::Array(old), DeValue::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| same(old.get_ref(), new.get_ref()))
        }
        (DeValue::Array(list), alone) | (alone, DeValue::Array(list)) => {
            list.len() == 1 && list.iter().all(|entry| same(entry.get_ref(), alone))
        }
        (DeValue::Table(old), DeValue::Table(new)) => is_same_table(old, new),
        _ => scalar(old) == scalar(new),
    }
}

/// A value by what it means.
#[derive(PartialEq)]
enum Scalar {
    Magnitude(Magnitude),
    Words(String),
}

fn scalar(value: &DeValue<'_>) -> Scalar {
    match value {
        DeValue::String(text) => {
            magnitude(text).map_or_else(|| Scalar::Words(text.as_ref().to_owned()), Scalar::Magnitude)
        }
        // Numbers may stand in quotes.
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Scalar::Words(number.to_string()),
            Err(_) => Scalar::Words(number.as_str().to_owned()),
        },
        other => Scalar::Words(show(other)),
    }
}

/// As it would stand in the file, in one line.
fn show(value: &DeValue<'_>) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    text
}

fn show_table(table: &DeTable<'_>) -> String {
    let mut text = String::new();
    write_table(&mut text, table);
    text
}

fn write_table(text: &mut String, table: &DeTable<'_>) {
    text.push_str("{ ");
    for (at, (key, value)) in table.iter().enumerate() {
        let _ = write!(text, "{}{} = ", if at == 0 { "" } else { ", " }, key.get_ref());
        write_value(text, value.get_ref());
    }
    text.push_str(" }");
}

fn write_value(text: &mut String, value: &DeValue<'_>) {
    let _ = match value {
        DeValue::String(string) => write!(text, "{string:?}"),
        DeValue::Integer(number) => write!(text, "{}", number.as_str()),
        DeValue::Float(number) => write!(text, "{}", number.as_str()),
        DeValue::Boolean(value) => write!(text, "{value}"),
        DeValue::Datetime(value) => write!(text, "{value}"),
        DeValue::Array(list) => {
            text.push('[');
            for (at, value) in list.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                write_value(text, value.get_ref());
            }
            text.push(']');
            Ok(())
        }
        DeValue::Table(table) => {
            write_table(text, table);
            Ok(())
        }
    };
}
