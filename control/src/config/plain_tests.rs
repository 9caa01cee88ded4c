use proptest::prelude::*;
use proptest::test_runner::Config as Cases;

use super::super::{load_plain, load_slowly};
use super::*;

const HEAD: &str = r#"
[interfaces.lan] # [[routes]]
device = "eth1"
address = ["192.168.1.1/24", "fd00::1/64"]
acl = "in"
[interfaces.wan]
device = "eth0"
address = "203.0.113.2/24"
[acls.in]
rules = [
  { name = "a [[", action = "accept" }, # ]]
]
"#;

/// As it is read plainly, and by the parser alone.
fn both(text: &str) -> [Option<String>; 2] {
    let plainly = Plain::find(text).and_then(|plain| load_plain("c.toml", text, &plain));
    [plainly, load_slowly("c.toml", text).ok()].map(|loaded| loaded.map(|loaded| format!("{loaded:?}")))
}

/// A table of a route, right or wrong, as people and programs may write it.
fn table() -> impl Strategy<Value = String> {
    let header = ["[[routes]]", "[[routes]]", "[[routes]]", "[[routes]] ", "  [[routes]]\r", "[[ routes ]]"];
    let to = [
        "10.1.0.0/16",
        "10.2.0.0/16",
        "10.0.0.0/8",
        "default",
        "2001:db8::/32",
        "10.1.0.1",
        "10.1.0.1/16",
        "192.168.1.0/24",
        "x",
    ];
    let way = [
        "via = \"203.0.113.1\"",
        "via = \"203.0.113.3\"",
        "via=\"192.168.1.9\"",
        "via = '203.0.113.1'",
        "via = \"fd00::2\"",
        "interface = \"wan\"",
        "interface = \"lan\"\nvia = \"192.168.1.7\"",
        "interface = \"off\"",
        "blackhole = true",
        "blackhole = false",
        "unreachable = true",
        "via = \"203.0.113.2\"",
        "via = \"203.0.113.0\"",
        "via = \"203.0.113.1\"\nvia = \"203.0.113.1\"",
        "via = \"203.0.113.1\"\nmetric = 1",
        "",
    ];
    let more = [
        "",
        "",
        "",
        "weight = 7",
        "weight = 256",
        "weight = 257",
        "weight = 07",
        "# \"\"\"",
        "\t# {",
        "x",
        "weight = 1 # one",
    ];
    let next = [
        "",
        "",
        "",
        "\n\n",
        "[timeouts]\nudp = \"6min\"\n",
        "[[limits]]\nname = \"[[routes]]\"\nout = \"wan\"\nrate = \"1 Gbit/s\"\n",
    ];
    let of = |words: &[&'static str]| prop::sample::select(words.to_vec());
    (of(&header), of(&to), of(&way), of(&more), of(&next))
        .prop_map(|(header, to, way, more, next)| format!("{header}\nto = \"{to}\"\n{way}\n{more}\n{next}"))
}

proptest! {
    #![proptest_config(Cases { failure_persistence: None, ..Cases::with_cases(2000) })]

    #[test]
    fn what_is_read_plainly_means_what_the_parser_says(
        tables in prop::collection::vec(table(), 1..5),
        head in any::<bool>(),
    ) {
        let tables = tables.concat();
        let text = if head { format!("{HEAD}{tables}") } else { format!("{tables}{HEAD}") };
        let [plainly, slowly] = both(&text);
        prop_assert!(plainly.is_none() || plainly == slowly, "{text}");
    }

    #[test]
    fn any_text_is_borne(
        text in "(\\[\\[routes\\]\\]|to = \"|\"|'|\n|\r|#|\\[|\\]|\\{|é|\\\\|=| |.){0,30}",
    ) {
        let [plainly, slowly] = both(&text);
        prop_assert!(plainly.is_none() || plainly == slowly, "{text}");
        if let Some(plain) = Plain::find(&text) {
            prop_assert_eq!(plain.only(|_| true), text.as_str());
            prop_assert_eq!(plain.rest().len(), text.len());
        }
    }
}

#[test]
fn what_is_plain_is_read_plainly() {
    let text = format!(
        "{HEAD}[[routes]]\r\nto = \"default\"\r\n\r\nvia = \"203.0.113.1\"\n# more\n\
         [[routes]]\nto=\"10.0.0.0/8\"\ninterface = \"wan\"\nweight = 3\n\
         [[routes]]\nto = \"10.9.0.0/16\"\nblackhole = true\n[kernel-routes]\n"
    );
    let [plainly, slowly] = both(&text);
    assert!(plainly.is_some());
    assert_eq!(plainly, slowly);
    let plain = Plain::find(&text).unwrap();
    assert_eq!(plain.route(1).values(), [Some("10.0.0.0/8"), None, Some("wan"), Some("3"), None, None]);
    let kept = plain.only(|route| route == 2);
    let want = "[[routes]]\nto = \"10.9.0.0/16\"\nblackhole = true\n[kernel-routes]\n";
    assert_eq!(kept, format!("{HEAD}{want}"));
}

#[test]
fn what_would_take_a_parser_is_left_to_it() {
    let route = "[[routes]]\nto = \"10.0.0.0/8\"\nvia = \"203.0.113.1\"\n";
    for before in [
        "x = \"\"\"\n",
        "x = '''\n",
        "x = \"\n",
        "x = ]\n",
        "[routes.x]\n",
        "\"routes\" = []\n",
        "\"rout\\u0065s\" = []\n",
    ] {
        assert!(Plain::find(&format!("{before}{route}")).is_none(), "{before}");
    }
    assert_eq!(Plain::find(&format!("x = [\n{route}")).unwrap().len(), 0);
}
