//! What the API says, as sheets. Rates are made of two answers where the API has sums alone.

use serde_json::{Map, Value};

use super::ask::Answers;
use super::sheet::{Cell, Column, Sheet};

/// The sheets, in the order of their tabs.
pub(super) const TABS: [&str; 6] = ["Ports", "Workers", "Flows", "Hosts", "Drops", "Classes"];
/// The place of a tab.
pub(super) const FLOWS: usize = 2;
/// The place of a tab.
pub(super) const HOSTS: usize = 3;

const PORTS: [Column; 8] = [
    Column::words("port", 8),
    Column::number("rx pps", 7),
    Column::number("rx bit/s", 8),
    Column::number("tx pps", 7),
    Column::number("tx bit/s", 8),
    Column::number("lost/s", 7),
    Column::number("lost", 7),
    Column::word("xdp", 17),
];
const WORKERS: [Column; 10] = [
    Column::number("worker", 6),
    Column::number("core", 4),
    Column::words("state", 8),
    Column::number("pps", 7),
    Column::number("cyc/pkt", 7),
    Column::number("busy %", 6),
    Column::number("burst 50", 8),
    Column::number("99 %", 5),
    Column::number("crossed%", 8),
    Column::number("stalls", 6),
];
const FLOW_COLUMNS: [Column; 7] = [
    Column::word("proto", 5),
    Column::words("from", 21),
    Column::words("to", 21),
    Column::number("bit/s", 7),
    Column::number("pps", 7),
    Column::word("state", 7),
    Column::number("age s", 6),
];
const HOST_COLUMNS: [Column; 6] = [
    Column::words("host", 20),
    Column::number("flows", 6),
    Column::number("up bit/s", 9),
    Column::number("down bit/s", 10),
    Column::number("up pps", 8),
    Column::number("down pps", 8),
];
const DROPS: [Column; 4] = [
    Column::words("reason", 24),
    Column::number("drops/s", 9),
    Column::number("drops", 9),
    Column::number("share %", 8),
];
const CLASSES: [Column; 9] = [
    Column::word("port", 6),
    Column::words("class", 12),
    Column::number("bit/s", 7),
    Column::number("of %", 5),
    Column::number("wait p50", 8),
    Column::number("p99 ms", 7),
    Column::number("backlog", 7),
    Column::number("drops", 7),
    Column::number("marks", 6),
];

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

/// How much a sum has grown, by second. A gateway that was started anew counts from nothing.
fn rate(now: &Value, before: &Value, seconds: f64) -> f64 {
    let grown = float(now) - float(before);
    if seconds > 0.0 && grown > 0.0 && before.is_number() { grown / seconds } else { 0.0 }
}

/// All sheets, of the last answers and those before.
pub(super) fn sheets(now: &Answers, before: &Answers) -> [Sheet; TABS.len()] {
    [ports(now, before), workers(now), flows(now), hosts(now), drops(now, before), classes(now)]
}

/// What is lost ahead of the gateway.
fn lost(interfaces: &Value, port: &str) -> Value {
    let row = rows(interfaces).iter().find(|row| row["port"] == port && row["driver"].is_string());
    let causes = ["kernel_rx_dropped", "kernel_rx_ring_full", "kernel_fill_ring_empty"];
    row.map_or(Value::Null, |row| causes.iter().map(|cause| float(&row[*cause])).sum::<f64>().into())
}

fn ports(now: &Answers, before: &Answers) -> Sheet {
    let seconds = now.at - before.at;
    let row = |(name, port): (&String, &Value)| {
        let old = &before.counters["ports"][name.as_str()];
        let rate = |key: &str, factor: f64| Cell::number(factor * rate(&port[key], &old[key], seconds));
        let (lost_now, lost_before) = (lost(&now.interfaces, name), lost(&before.interfaces, name));
        let device =
            rows(&now.interfaces).iter().find(|row| row["port"] == name.as_str() && row["xdp"].is_string());
        vec![
            Cell::text(name.as_str()),
            rate("rx_packets", 1.0),
            rate("rx_bytes", 8.0),
            rate("tx_packets", 1.0),
            rate("tx_bytes", 8.0),
            Cell::number(self::rate(&lost_now, &lost_before, seconds)),
            Cell::number(float(&lost_now)),
            Cell::text(device.map_or("-".into(), |row| word(&row["xdp"]))),
        ]
    };
    Sheet {
        columns: &PORTS,
        rows: fields(&now.counters["ports"]).map(row).collect(),
        if_empty: "There are no ports.",
    }
}

fn workers(now: &Answers) -> Sheet {
    let row = |(index, row): (usize, &Value)| {
        let number = |key: &str| Cell::plain(row[key].as_f64());
        let busy = row["idle_percent"].as_f64().map(|idle| ((100.0 - idle) * 10.0).round() / 10.0);
        vec![
            Cell::plain(row["worker"].as_f64().or(Some(index as f64))),
            number("core"),
            Cell::text(word(&row["state"])),
            Cell::number(float(&row["packets_per_second"])),
            number("cycles_per_packet"),
            Cell::plain(busy),
            number("burst_p50"),
            number("burst_p99"),
            number("crossed_percent"),
            number("stalls"),
        ]
    };
    Sheet {
        columns: &WORKERS,
        rows: rows(&now.workers).iter().enumerate().map(row).collect(),
        if_empty: "There are no workers.",
    }
}

fn flows(now: &Answers) -> Sheet {
    let row = |row: &Value| {
        let forward = if row["forward"].is_object() { &row["forward"] } else { &row["reply"] };
        vec![
            Cell::text(word(&row["protocol"])),
            Cell::text(word(&forward["source"])),
            Cell::text(word(&forward["destination"])),
            Cell::number(float(&row["bits_per_second"])),
            Cell::number(float(&row["packets_per_second"])),
            Cell::text(match row["state"].as_str() {
                Some("established") => "up".into(),
                _ => word(&row["state"]),
            }),
            Cell::plain(row["age_seconds"].as_f64().map(f64::round)),
        ]
    };
    Sheet {
        columns: &FLOW_COLUMNS,
        rows: rows(&now.flows).iter().map(row).collect(),
        if_empty: "No session moves anything. One that has just begun is found within eight seconds.",
    }
}

fn hosts(now: &Answers) -> Sheet {
    let row = |row: &Value| {
        let number = |key: &str| Cell::number(float(&row[key]));
        vec![
            Cell::text(word(&row["host"])),
            Cell::plain(row["flows"].as_f64()),
            number("sent_bits_per_second"),
            number("received_bits_per_second"),
            number("sent_packets_per_second"),
            number("received_packets_per_second"),
        ]
    };
    Sheet {
        columns: &HOST_COLUMNS,
        rows: rows(&now.hosts).iter().map(row).collect(),
        if_empty: "No session moves anything. One that has just begun is found within eight seconds.",
    }
}

fn drops(now: &Answers, before: &Answers) -> Sheet {
    let all: f64 = fields(&now.counters["drops"]).map(|(_, count)| float(count)).sum();
    let row = |(reason, count): (&String, &Value)| {
        let share = (float(count) / all.max(1.0) * 1000.0).round() / 10.0;
        vec![
            Cell::text(reason.as_str()),
            Cell::number(rate(count, &before.counters["drops"][reason.as_str()], now.at - before.at)),
            Cell::number(float(count)),
            Cell::plain(Some(share)),
        ]
    };
    let counted = fields(&now.counters["drops"]).filter(|(_, count)| float(count) > 0.0);
    Sheet { columns: &DROPS, rows: counted.map(row).collect(), if_empty: "No packet has been dropped." }
}

fn classes(now: &Answers) -> Sheet {
    let row = |row: &Value| {
        let bits = float(&row["bits_per_second"]);
        let most = row["max_bits_per_second"].as_f64().or(row["guaranteed_bits_per_second"].as_f64());
        let wait = |key: &str| Cell::plain(row[key].as_f64().map(|ms| (ms * 10.0).round() / 10.0));
        vec![
            Cell::text(word(&row["port"])),
            Cell::text(word(&row["class"])),
            Cell::number(bits),
            Cell::plain(most.filter(|&most| most > 0.0).map(|most| (bits / most * 100.0).round())),
            wait("wait_p50_ms"),
            wait("wait_p99_ms"),
            Cell::number(float(&row["backlog_packets"])),
            Cell::number(fields(&row["drops"]).map(|(_, count)| float(count)).sum()),
            Cell::number(float(&row["ecn_marks"])),
        ]
    };
    let classes = rows(&now.classes).iter().filter(|row| row["class"].is_string());
    Sheet { columns: &CLASSES, rows: classes.map(row).collect(), if_empty: "No port has a shaper." }
}

/// The line above all sheets.
pub(super) fn summary(now: &Answers, before: &Answers) -> String {
    let seconds = now.at - before.at;
    let sum = |key: &str| -> f64 {
        let ports = fields(&now.counters["ports"]);
        ports
            .map(|(name, port)| rate(&port[key], &before.counters["ports"][name.as_str()][key], seconds))
            .sum()
    };
    let drops: f64 = fields(&now.counters["drops"])
        .map(|(reason, count)| rate(count, &before.counters["drops"][reason.as_str()], seconds))
        .sum();
    let metric = super::sheet::metric;
    format!(
        "rx {} pps {}bit/s  tx {} pps {}bit/s  drops {}/s  sessions {}{}",
        metric(sum("rx_packets")),
        metric(8.0 * sum("rx_bytes")),
        metric(sum("tx_packets")),
        metric(8.0 * sum("tx_bytes")),
        metric(drops),
        metric(float(&now.counters["sessions"])),
        if now.counters["conserved"] == false { "  NOT CONSERVED" } else { "" }
    )
}
