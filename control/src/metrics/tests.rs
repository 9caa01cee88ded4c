use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sluice_dataplane::pulse::Turns;

use super::*;
use crate::config;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A page that has every metric.
fn page() -> String {
    let text = std::fs::read_to_string(root().join("configs/home-gateway.toml")).unwrap();
    let (mut config, _) = config::load_str("c.toml", &text).unwrap_or_else(|report| panic!("{report}"));
    let limits = "[interfaces.lan]\naddress = \"192.168.1.1/24\"\n[[limits]]\nname = \"l\"\nin = \"lan\"\nrate = \"1Mbit\"\nper = \"source\"\n";
    if let Ok((other, _)) = config::load_str("l.toml", limits) {
        config.limits = other.limits;
    }
    let snapshot = config::compile(&config, &[]);
    let counters = Counters::new(&snapshot);
    let sink = [SinkStatus { sink: "ipfix udp 192.0.2.1:4739".into(), ..SinkStatus::default() }];
    let one = Loop { state: Health::Running, stalls: 0, turns: Turns::default(), crossed: 0 };
    let mut page = Page::default();
    build_info(&mut page);
    packets(&mut page, &snapshot, &counters);
    sessions(&mut page, &snapshot, &counters);
    nat_log(&mut page, &counters, &sink);
    exports(&mut page, &counters, &sink);
    policy(&mut page, &snapshot, &counters);
    let sum = Sum { wait_p50: Some(1), wait_p99: Some(2), ..Sum::default() };
    classes(&mut page, &[("wan".into(), "all/bulk".into(), sum)]);
    devices(&mut page, &[("wan".into(), [1, 2, 3])]);
    workers(&mut page, &[one]);
    page.text()
}

/// The names that begin with `sluice_`, in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_of_name(c)).filter(|word| word.starts_with("sluice_")).map(str::to_owned).collect()
}

#[test]
fn what_the_dashboard_and_the_alerts_name_is_on_the_page() {
    let page = page();
    let on_page: BTreeSet<String> =
        page.lines().filter(|line| !line.starts_with('#')).flat_map(names).collect();
    for file in ["configs/grafana-dashboard.json", "configs/prometheus-alerts.yml"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let named = names(&text);
        assert!(named.len() > 5, "{file} names {}", named.len());
        let missing: Vec<_> = named.difference(&on_page).collect();
        assert!(missing.is_empty(), "{file} names {missing:?}");
    }
    let dashboard = std::fs::read_to_string(root().join("configs/grafana-dashboard.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
}

#[test]
fn every_family_is_in_the_reference() {
    let reference = std::fs::read_to_string(root().join("docs/counters.md")).unwrap();
    // `{a,b}` in a name there stands for both.
    let mut known = BTreeSet::new();
    for word in reference.split('`').filter(|word| word.starts_with("sluice_")) {
        let mut all = vec![String::new()];
        let mut rest = word;
        while let Some((before, inside)) = rest.split_once('{') {
            let (choices, after) = inside.split_once('}').unwrap();
            all.iter_mut().for_each(|name| name.push_str(before));
            if after.is_empty() {
                rest = "";
                break;
            }
            all = all
                .iter()
                .flat_map(|name| choices.split(',').map(move |part| format!("{name}{part}")))
                .collect();
            rest = after;
        }
        all.iter_mut().for_each(|name| name.push_str(rest));
        known.extend(all);
    }
    let page = page();
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: Vec<_> = families.filter(|family| !known.contains(*family)).collect();
    assert!(missing.is_empty(), "docs/counters.md does not name {missing:?}");
}

#[test]
fn promtool_finds_nothing_wrong() {
    let run = |arguments: &[&str], input: &str| {
        let command = Command::new("promtool")
            .args(arguments)
            .current_dir(root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = command else {
            println!("SKIP promtool: it is not here (apt-get install prometheus)");
            return;
        };
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    };
    run(&["check", "metrics"], &page());
    run(&["check", "rules", "configs/prometheus-alerts.yml"], "");
    run(&["test", "rules", "control/tests/metrics/alerts.yml"], "");
}
