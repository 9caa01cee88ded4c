use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::ask::Answers;
use super::model::Model;
use super::screen;
use super::sheet::metric;

fn answers(at: f64, packets: u64) -> Answers {
    let flow = |port: u16, bits: u64, pps: u64| {
        json!({
            "protocol": "tcp", "state": "established", "age_seconds": 12.3,
            "forward": { "source": format!("192.168.1.10:{port}"), "destination": "198.51.100.7:443" },
            "bits_per_second": bits, "packets_per_second": pps,
        })
    };
    Answers {
        at,
        counters: json!({
            "ports": {
                "lan": { "rx_packets": packets, "rx_bytes": packets * 1000, "tx_packets": 0, "tx_bytes": 0 },
                "wan": { "rx_packets": 0, "rx_bytes": 0, "tx_packets": packets, "tx_bytes": packets * 1000 },
            },
            "drops": { "acl_deny": packets / 10, "no_route": 0, "rate_limited": 7 },
            "sessions": 1234,
            "conserved": true,
        }),
        interfaces: json!([
            { "port": "lan", "driver": "veth", "xdp": "native", "kernel_rx_ring_full": packets / 100 },
            { "port": "wan", "driver": "veth", "xdp": "native, zero-copy" },
        ]),
        workers: json!([{
            "worker": 0, "core": 2, "state": "running", "packets_per_second": 12345, "cycles_per_packet": 99,
            "idle_percent": 55.55, "burst_p50": 8, "burst_p99": 64, "crossed_percent": 0.0, "stalls": 0,
        }]),
        classes: json!([]),
        flows: json!([flow(1, 5_000_000, 500), flow(2, 9_000_000, 100), flow(3, 1_000_000, 900)]),
        hosts: json!([{ "host": "192.168.1.10", "flows": 3, "sent_bits_per_second": 15_000_000 }]),
    }
}

struct Shown {
    model: Model,
    terminal: Terminal<TestBackend>,
}

impl Shown {
    fn new(width: u16, height: u16) -> Self {
        let terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        Self { model: Model::new("/run/sluice.sock".into(), false), terminal }
    }

    fn press(&mut self, keys: &str) {
        keys.chars().for_each(|key| self.model.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE)));
    }

    fn lines(&mut self) -> Vec<String> {
        self.terminal.draw(|frame| screen::draw(frame, &mut self.model)).unwrap();
        let buffer = self.terminal.backend().buffer();
        let width = usize::from(buffer.area.width);
        let rows = buffer.content.chunks(width);
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
            .collect()
    }
}

fn shown() -> Shown {
    let mut shown = Shown::new(80, 24);
    shown.model.take(Ok(answers(1.0, 1000)));
    shown.model.take(Ok(answers(3.0, 5000)));
    shown
}

#[test]
fn ports_with_their_rates_fit_on_80_columns() {
    let lines = shown().lines();
    let want = [
        "rx 2.00k pps 16.0Mbit/s  tx 2.00k pps 16.0Mbit/s  drops 200/s  sessions 1.23k",
        " 1 Ports   2 Workers   3 Flows   4 Hosts   5 Drops   6 Classes",
        "port          rx pps rx bit/s  tx pps tx bit/s  lost/s    lost xdp",
        "lan            2.00k    16.0M       0        0      20      50 native",
        "wan                0        0   2.00k    16.0M       0       0 native, zero-copy",
    ];
    assert_eq!(lines[..5], want, "{lines:#?}");
    assert_eq!(lines[23], "h help  / search  < > sort  r reverse  p pause  q end");
}

#[test]
fn flows_are_sorted_and_searched() {
    let mut shown = shown();
    shown.press("3");
    let ports = |shown: &mut Shown| -> Vec<char> {
        let lines = shown.lines();
        let rows = lines[3..].iter().filter(|line| line.starts_with("tcp"));
        rows.filter_map(|line| line.split_whitespace().nth(1)?.chars().last()).collect()
    };
    assert_eq!(ports(&mut shown), ['2', '1', '3']);
    assert!(!shown.model.wants_packets());
    shown.press(">");
    assert_eq!(ports(&mut shown), ['3', '1', '2']);
    assert!(shown.model.wants_packets());
    shown.press("r");
    assert_eq!(ports(&mut shown), ['2', '1', '3']);
    shown.press("/:3");
    assert_eq!(shown.lines()[23], "/:3_");
    assert_eq!(ports(&mut shown), ['3']);
    shown.model.key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));
    assert!(shown.lines()[23].ends_with("only /:3"));
    shown.model.key(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
    assert_eq!(ports(&mut shown).len(), 3);
}

#[test]
fn drops_that_never_were_are_left_out_and_the_most_frequent_come_first() {
    let mut shown = shown();
    shown.press("5");
    let lines = shown.lines();
    assert!(lines[3].starts_with("acl_deny") && lines[3].ends_with("98.6"), "{lines:#?}");
    assert!(lines[4].starts_with("rate_limited") && lines[5].is_empty());
}

#[test]
fn what_was_paused_stands_still() {
    let mut shown = shown();
    shown.press("p");
    let before = shown.lines();
    shown.model.take(Ok(answers(4.0, 50_000)));
    assert_eq!(shown.lines(), before);
    assert!(before[23].ends_with("PAUSED"));
    shown.press("p");
    shown.model.take(Ok(answers(5.0, 51_000)));
    assert!(shown.lines()[0].starts_with("rx 1.00k pps"));
}

#[test]
fn a_gateway_that_is_gone_is_said_and_one_that_comes_back_counts_from_nothing() {
    let mut shown = shown();
    shown.model.take(Err("nobody there".into()));
    let lines = shown.lines();
    assert_eq!(
        lines[23],
        "no answer, what is above is old, trying again: nobody there".replace("old,", "old;")
    );
    assert!(lines[3].starts_with("lan"));
    shown.model.take(Ok(answers(9.0, 10)));
    assert!(shown.lines()[0].starts_with("rx 0 pps"));
    shown.model.take(Ok(answers(10.0, 20)));
    assert!(shown.lines()[0].starts_with("rx 10 pps"));
}

#[test]
fn no_size_and_no_key_is_too_much() {
    for (width, height) in [(1, 1), (3, 2), (20, 5), (300, 100)] {
        let mut shown = Shown::new(width, height);
        shown.lines();
        shown.model.take(Ok(answers(1.0, 1000)));
        for key in "123456hh?x/abc".chars() {
            shown.press(&key.to_string());
            shown.lines();
        }
        shown.model.key(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
        for code in
            [KeyCode::End, KeyCode::PageDown, KeyCode::Up, KeyCode::Home, KeyCode::Left, KeyCode::BackTab]
        {
            for _ in 0..20 {
                shown.model.key(KeyEvent::new(code, KeyModifiers::NONE));
                shown.lines();
            }
        }
    }
}

#[test]
fn answers_of_another_shape_panic_nowhere() {
    let mut shown = Shown::new(80, 24);
    let odd = [
        json!(null),
        json!([1, "x", null, [], {}]),
        json!({ "ports": [], "drops": 3 }),
        json!({ "ports": { "a": 1 } }),
    ];
    for value in odd {
        let answers = Answers {
            at: 1.0,
            counters: value.clone(),
            interfaces: value.clone(),
            workers: value.clone(),
            classes: value.clone(),
            flows: value.clone(),
            hosts: value,
        };
        shown.model.take(Ok(answers));
        for tab in "123456".chars() {
            shown.press(&tab.to_string());
            shown.lines();
        }
    }
}

#[test]
fn numbers_have_three_digits() {
    let cases = [
        (0.0, "0"),
        (7.0, "7"),
        (0.5, "0.50"),
        (999.0, "999"),
        (999.7, "1.00k"),
        (1234.0, "1.23k"),
        (12_345.0, "12.3k"),
        (999_949.0, "1.00M"),
        (1e9, "1.00G"),
        (1e16, "10P"),
    ];
    for (value, text) in cases {
        assert_eq!(metric(value), text);
    }
}
