//! JSON listings as tables for people: one column a key, nested objects flattened, units from the keys' names.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use crate::drops;
use crate::state::Topic;

/// Renders the answer about a topic as suits it on a terminal.
pub fn render_topic(topic: Topic, value: &Value) -> String {
    match (topic, value) {
        (Topic::Flows, Value::Array(sessions)) => {
            rows_table(&sessions.iter().flat_map(directions).collect::<Vec<_>>())
        }
        (Topic::Qos, Value::Array(classes)) => rows_table(&classes.iter().map(in_tree).collect::<Vec<_>>()),
        (Topic::Drops, Value::Array(reasons)) => drops::render(reasons),
        (Topic::Routes, Value::Object(_)) => routes(value),
        (Topic::Workers, Value::Array(workers)) => {
            rows_table(&workers.iter().map(|worker| without(worker, "gaps_ns")).collect::<Vec<_>>())
        }
        (Topic::Interfaces, Value::Array(interfaces)) => interfaces.iter().map(block).collect(),
        _ => render(value),
    }
}

/// A session as two rows, one a direction, each short enough to be read.
fn directions(session: &Value) -> Vec<Value> {
    let row = |way: &str| {
        let flow = session.get(way).filter(|flow| !flow.is_null())?;
        let path =
            |ends: &Value| Some(format!("{} > {}", ends["source"].as_str()?, ends["destination"].as_str()?));
        let rule = if flow["denied"] == true {
            format!("{} (denied)", scalar(&flow["rule"]))
        } else {
            scalar(&flow["rule"])
        };
        Some(json!({
            "protocol": session["protocol"],
            "state": session["state"],
            "in": flow["in"],
            "from_>_to": path(flow),
            "leaves_as": path(&flow["translated"]),
            "rule": rule,
            "packets": flow["packets"],
            "bytes": flow["bytes"],
            "idle_seconds": flow["idle_seconds"],
        }))
    };
    ["forward", "reply"].into_iter().filter_map(row).collect()
}

/// A row without one of its columns.
fn without(row: &Value, key: &str) -> Value {
    let mut row = row.clone();
    if let Value::Object(row) = &mut row {
        row.shift_remove(key);
    }
    row
}

/// Routes, and whether there are more.
fn routes(listing: &Value) -> String {
    let rows = listing["routes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = rows_table(rows);
    if listing["truncated"] == true {
        let total = &listing["total"];
        text.push_str(&format!(
            "and more: there are {total} prefixes; `sluice show routes 198.51.100.0/24` lists those within one\n"
        ));
    }
    text
}

/// A class under its parent, without what never was.
fn in_tree(class: &Value) -> Value {
    let mut row = class.clone();
    let path = class["class"].as_str().unwrap_or_default();
    let (parents, name) = path.rsplit_once('/').map_or((0, path), |(up, name)| (up.split('/').count(), name));
    if let Value::Object(row) = &mut row {
        if row.get("class").is_some_and(Value::is_string) {
            row.insert("class".into(), format!("{:1$}{name}", "", 2 * (parents + 1)).into());
        }
        for value in row.values_mut().filter(|value| value.is_object()) {
            if let Value::Object(causes) = value {
                causes.retain(|_, count| *count != 0);
            }
        }
    }
    row
}

/// An object with many keys, a line each.
fn block(value: &Value) -> String {
    let mut table = new_table();
    for (key, value) in flatten(value, "").iter().filter(|(_, value)| !is_empty(value)) {
        table.add_row([heading(key), scalar(value)]);
    }
    format!("{table}\n\n")
}

/// Renders a listing: an array of objects as a table; an object of several listings as one after the other.
pub fn render(value: &Value) -> String {
    match value {
        Value::Array(rows) => rows_table(rows),
        Value::Object(object) => object_text(object),
        other => format!("{}\n", scalar(other)),
    }
}

fn object_text(object: &Map<String, Value>) -> String {
    let mut text = String::new();
    let mut plain = new_table();
    for (key, value) in object {
        match value {
            Value::Object(inner) if inner.values().any(Value::is_object) => {
                let rows: Vec<Value> = inner.iter().map(|(name, figures)| named(name, figures)).collect();
                text.push_str(&format!("{}\n{}\n", heading(key), rows_table(&rows)));
            }
            Value::Object(inner) => {
                // Of counters by reason, those that are not zero.
                let shown = inner.iter().filter(|(_, value)| **value != 0);
                let rows: Vec<Value> = shown.map(|(name, value)| named(name, value)).collect();
                text.push_str(&format!("{}\n{}\n", heading(key), rows_table(&rows)));
            }
            Value::Array(rows) => text.push_str(&format!("{}\n{}\n", heading(key), rows_table(rows))),
            other => {
                plain.add_row([heading(key), scalar(other)]);
            }
        }
    }
    if !plain.is_empty() {
        right_align(&mut plain, 1);
        text.push_str(&format!("{plain}\n"));
    }
    text
}

fn named(name: &str, value: &Value) -> Value {
    let mut row = Map::new();
    row.insert("name".into(), name.into());
    match value {
        Value::Object(figures) => row.extend(figures.clone()),
        other => {
            row.insert("count".into(), other.clone());
        }
    }
    Value::Object(row)
}

fn rows_table(rows: &[Value]) -> String {
    if rows.is_empty() {
        return "  none\n".into();
    }
    let flat: Vec<Vec<(String, Value)>> = rows.iter().map(|row| flatten(row, "")).collect();
    let mut columns: Vec<String> = Vec::new();
    for (key, _) in flat.iter().flatten() {
        if !columns.contains(key) {
            columns.push(key.clone());
        }
    }
    // A column that is empty everywhere says nothing.
    columns.retain(|column| flat.iter().flatten().any(|(key, value)| key == column && !is_empty(value)));
    let mut table = new_table();
    table.set_header(columns.iter().map(|column| heading(column)));
    for row in &flat {
        let cell = |column: &String| {
            let value = row.iter().find(|(key, _)| key == column);
            value.map_or_else(String::new, |(_, value)| scalar(value))
        };
        table.add_row(columns.iter().map(cell));
    }
    for (index, column) in columns.iter().enumerate() {
        if flat.iter().flatten().any(|(key, value)| key == column && value.is_number()) {
            right_align(&mut table, index);
        }
    }
    format!("{table}\n")
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn flatten(value: &Value, prefix: &str) -> Vec<(String, Value)> {
    let Value::Object(object) = value else { return vec![(prefix.into(), value.clone())] };
    let join = |key: &str| if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
    let pairs = object.iter().flat_map(|(key, value)| match value {
        Value::Object(_) => flatten(value, &join(key)),
        _ => vec![(join(key), value.clone())],
    });
    pairs.collect()
}

fn heading(key: &str) -> String {
    key.replace('_', " ")
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(fraction) => format!("{fraction:.1}"),
            None => number.to_string(),
        },
        Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(" "),
        Value::Object(_) => value.to_string(),
    }
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn right_align(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_a_table_without_empty_columns() {
        let rows = json!([
            { "name": "lan", "rx_packets": 7, "via": null, "ways": { "source": "10.0.0.1" } },
            { "name": "wan", "rx_packets": 12345, "via": null },
        ]);
        let text = render(&rows);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains("rx packets") && lines[0].contains("ways.source") && !text.contains("via"));
        assert!(lines[1].contains("     7  10.0.0.1"), "{text}");
    }

    #[test]
    fn a_session_is_two_rows() {
        let way = |source: &str, destination: &str| json!({ "in": "lan", "source": source, "destination": destination, "translated": null, "packets": 3, "denied": false, "rule": null });
        let mut session = json!({ "protocol": "udp", "state": "opening", "forward": way("a", "b"), "reply": way("b", "a") });
        let text = render_topic(Topic::Flows, &json!([session]));
        assert!(text.contains("a > b") && text.contains("b > a") && !text.contains("leaves as"), "{text}");
        session["reply"] = Value::Null;
        assert_eq!(render_topic(Topic::Flows, &json!([session])).lines().count(), 2);
    }

    #[test]
    fn counters_show_the_drops_that_happened() {
        let counters = json!({ "ports": { "lan": { "rx_packets": 1 } }, "drops": { "runt": 0, "no_route": 3 }, "held": 0 });
        let text = render(&counters);
        assert!(text.contains("no_route") && !text.contains("runt") && text.contains("held"));
        assert_eq!(render(&json!([])), "  none\n");
    }
}
