use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config as Cases;

use super::*;

const FILE: &str = r#"
[interfaces.lan]
device = "eth1"
address = "192.168.1.1/24"
acl = "in"
[interfaces.wan]
device = "eth0"
address = "203.0.113.2/24"
[[routes]]
to = "default"
via = "203.0.113.1"
[[routes]]
to = "10.0.0.0/8"
via = "192.168.1.9"
[acls.in]
rules = [
  { name = "dns", protocol = "udp", to-port = 53, action = "accept" },
  { name = "web", protocol = "tcp", to-port = [80, 443], action = "accept" },
  { name = "ssh", protocol = "tcp", to-port = 22, action = "accept" },
]
[[nat.source]]
out = "wan"
from = "192.168.1.0/24"
to = "203.0.113.2-203.0.113.9"
[[limits]]
name = "up"
out = "wan"
rate = "50 Mbit/s"
[timeouts]
udp = "6min"
"#;

fn loaded(text: &str) -> Loaded {
    Loaded::new("c.toml", text).unwrap_or_else(|report| panic!("{report}")).0
}

fn diff(changes: &[(&str, &str)]) -> Diff {
    let mut text = FILE.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    between(&loaded(FILE), &loaded(&text), true)
}

fn lines(changes: &[(&str, &str)]) -> Vec<String> {
    diff(changes).changes.iter().map(ToString::to_string).collect()
}

#[test]
fn spelling_is_no_change() {
    for change in [
        ("\"6min\"", "\"360s\" # six minutes"),
        ("\"50 Mbit/s\"", "\"50000kbit\""),
        ("to-port = 53", "to-port = [\"53\"]"),
        ("\n[timeouts]", "\n\n\n[timeouts]"),
    ] {
        assert_eq!(diff(&[change]), Diff::default(), "{change:?}");
    }
    // Beside a real change it is none either.
    assert_eq!(lines(&[("\"6min\"", "\"360s\""), ("\"50 Mbit/s\"", "\"60 Mbit/s\"")]).len(), 1);
}

#[test]
fn each_change_is_said_in_the_words_of_the_file() {
    type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);
    let cases: [Case; 10] = [
        (&[("\"6min\"", "\"2min\"")], &["~ timeouts.udp: \"6min\" -> \"2min\""]),
        (&[("udp = \"6min\"", "")], &["~ timeouts.udp: \"6min\" -> default"]),
        (
            &[("[timeouts]", "[icmp]\nerrors-per-second = 7\n[timeouts]")],
            &["~ icmp.errors-per-second: default -> 7"],
        ),
        (
            &[("203.0.113.9", "203.0.113.8")],
            &[
                "~ nat.source \"wan\" \"192.168.1.0/24\".to: \"203.0.113.2-203.0.113.9\" -> \"203.0.113.2-203.0.113.8\"",
            ],
        ),
        (&[("50 Mbit/s", "60 Mbit/s")], &["~ limits \"up\".rate: \"50 Mbit/s\" -> \"60 Mbit/s\""]),
        (
            &[("192.168.1.9", "192.168.1.8")],
            &["~ routes \"10.0.0.0/8\".via: \"192.168.1.9\" -> \"192.168.1.8\""],
        ),
        (
            &[("10.0.0.0/8", "10.9.0.0/16")],
            &[
                "+ routes: { to = \"10.9.0.0/16\", via = \"192.168.1.9\" }",
                "- routes: { to = \"10.0.0.0/8\", via = \"192.168.1.9\" }",
            ],
        ),
        (&[("[80, 443]", "443")], &["~ acls.in.rules \"web\".to-port: [80, 443] -> 443"]),
        (
            &[("rules = [", "rules = [ { protocol = \"icmp\", action = \"drop\" },")],
            &["+ acls.in.rules, place 1: { protocol = \"icmp\", action = \"drop\" }"],
        ),
        (
            &[
                ("{ name = \"dns\"", "{ name = \"x\""),
                ("name = \"ssh\"", "name = \"dns\""),
                ("{ name = \"x\"", "{ name = \"ssh\""),
            ],
            &[
                "~ acls.in.rules \"ssh\".protocol: \"tcp\" -> \"udp\"",
                "~ acls.in.rules \"ssh\".to-port: 22 -> 53",
                "~ acls.in.rules \"dns\".protocol: \"udp\" -> \"tcp\"",
                "~ acls.in.rules \"dns\".to-port: 53 -> 22",
                "> acls.in.rules \"ssh\": place 3 -> 1",
                "> acls.in.rules \"dns\": place 1 -> 3",
            ],
        ),
    ];
    for (changes, want) in cases {
        assert_eq!(lines(changes), want, "{changes:?}");
        assert_eq!(diff(changes).restart, None);
    }
}

#[test]
fn one_rule_that_moves_is_one_change() {
    let dns = "  { name = \"dns\", protocol = \"udp\", to-port = 53, action = \"accept\" },\n";
    let moved = lines(&[
        (dns, ""),
        ("to-port = 22, action = \"accept\" },\n", &format!("to-port = 22, action = \"accept\" }},\n{dns}")),
    ]);
    assert_eq!(moved, ["> acls.in.rules \"dns\": place 1 -> 3"]);
}

#[test]
fn interfaces_come_and_go_as_a_whole_and_want_a_restart() {
    let guest = "[interfaces.guest]\nparent = \"lan\"\nvlan = 10\naddress = \"192.168.2.1/24\"\n[[routes]]\nto = \"default\"";
    let diff = diff(&[("[[routes]]\nto = \"default\"", guest)]);
    assert_eq!(
        diff.to_string(),
        "+ interfaces.guest: { parent = \"lan\", vlan = 10, address = \"192.168.2.1/24\" }\n\
         wants a restart: interfaces: lan, wan became lan, wan, guest, in this order\n"
    );
    assert!(diff.restart.is_some() && diff.count == 1);
}

#[test]
fn many_changes_are_counted() {
    let routes: String = (0..3000)
        .map(|n| format!("[[routes]]\nto = \"10.{}.{}.0/24\"\nvia = \"192.168.1.9\"\n", n / 250, n % 250))
        .collect();
    let many = between(&loaded(FILE), &loaded(&format!("{FILE}{routes}")), true);
    assert_eq!((many.count, many.changes.len()), (3000, MOST_WORDS));
    assert_eq!(many.summary(2).last().unwrap(), "and 2998 more");
}

/// A file with these routes: the number of each is its destination, with its next hop and weight.
fn with_routes(routes: &BTreeMap<u8, (u8, u8)>, order: bool) -> String {
    let table = |(to, (via, weight)): (&u8, &(u8, u8))| {
        let weight = if *weight == 0 { String::new() } else { format!("weight = {weight}\n") };
        format!("[[routes]]\nto = \"10.{to}.0.0/16\"\nvia = \"192.168.1.{via}\"\n{weight}")
    };
    let tables: Vec<String> = routes.iter().map(table).collect();
    let tables = if order { tables.concat() } else { tables.into_iter().rev().collect() };
    FILE.replace("[[routes]]\nto = \"10.0.0.0/8\"\nvia = \"192.168.1.9\"\n", &tables)
}

fn some_routes() -> impl Strategy<Value = (BTreeMap<u8, (u8, u8)>, bool)> {
    (prop::collection::btree_map(0..20u8, (2..5u8, 0..3u8), 0..12), any::<bool>())
}

proptest! {
    #![proptest_config(Cases { failure_persistence: None, ..Cases::with_cases(300) })]

    #[test]
    fn routes_compared_as_they_stand_differ_as_the_parser_says(old in some_routes(), new in some_routes(), most in 0..30usize) {
        let texts = [with_routes(&old.0, old.1), with_routes(&new.0, new.1)];
        let all = |texts: [&str; 2]| {
            let mut said = Vec::new();
            let [before, after] = texts.map(|text| DeTable::parse(text).unwrap());
            tree::tables("", before.get_ref(), after.get_ref(), &mut |change| said.push(change().to_string()));
            said.sort();
            said
        };
        let want = all(texts.each_ref().map(String::as_str));
        let left = routes::split(texts.each_ref().map(String::as_str), usize::MAX).unwrap();
        prop_assert_eq!(left.uncounted, 0);
        prop_assert_eq!(&all(left.texts.each_ref().map(String::as_str)), &want);
        let left = routes::split(texts.each_ref().map(String::as_str), most).unwrap();
        prop_assert_eq!(left.uncounted + all(left.texts.each_ref().map(String::as_str)).len(), want.len());
    }
}
