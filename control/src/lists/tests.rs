use std::fs;
use std::net::IpAddr;

use super::*;
use crate::config::load_str;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(lists: &str) -> config::Config {
    let text = format!(
        "[interfaces.wan]\naddress = \"192.0.2.1/24\"\nguard = \"g\"\n[guard.g]\nlists = [\"bad\", \"good\"]\n{lists}"
    );
    load_str("c.toml", &text).unwrap_or_else(|report| panic!("{report}")).0
}

#[test]
fn a_file_is_read_again_when_it_has_changed_and_is_quiet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.txt");
    fs::write(&path, "198.51.100.0/24\n").unwrap();
    let config = config(&format!(
        "[lists.bad]\nkind = \"block\"\nfile = \"{}\"\n[lists.good]\nkind = \"allow\"\nprefixes = \"198.51.100.7\"\n",
        path.display()
    ));
    let (mut keeper, said) = Keeper::open(&config, 100);
    assert_eq!(said, [format!("lists.bad: 1 prefixes from {}", path.display())]);
    let lists = keeper.lists();
    assert_eq!((lists.of(address("198.51.100.1")), lists.of(address("198.51.100.7"))), (2, 6));
    let (none, said) = keeper.look(101);
    assert!(none.is_none() && said.is_empty());

    fs::write(&path, "203.0.113.0/24\n203.0.114.0/24\nnonsense\n").unwrap();
    assert!(keeper.look(102).0.is_none(), "it may still be written");
    let (lists, said) = keeper.look(103);
    let lists = lists.unwrap();
    assert_eq!((lists.of(address("198.51.100.1")), lists.of(address("203.0.113.9"))), (0, 2));
    assert!(said[0].contains("2 prefixes") && said[0].contains("line 3"), "{said:?}");
    assert!(keeper.look(104).0.is_none());

    let guard = Guard { block: 2, allow: 4, ..Guard::default() };
    assert_eq!(
        keeper.verdicts(&guard),
        [(address("203.0.113.0"), 24, true), (address("203.0.114.0"), 24, true),]
    );

    // A file that goes, or has become something else, takes nothing away.
    fs::write(&path, "<html>\n").unwrap();
    keeper.look(105);
    let (none, said) = keeper.look(106);
    assert!(none.is_none() && said[0].contains("its 2 prefixes stay"), "{said:?}");
    fs::remove_file(&path).unwrap();
    keeper.look(107);
    assert!(keeper.look(108).0.is_none());
    assert_eq!(keeper.lists().of(address("203.0.113.9")), 2);
    let shown = keeper.show(&[0, 5], 110);
    assert_eq!(shown["lists"][1]["packets_refused"], 5);
    assert_eq!(shown["lists"][1]["read_seconds_ago"], 7);
}

#[test]
fn what_is_blocked_by_hand_ends_by_itself() {
    let config = config(
        "[lists.bad]\nkind = \"block\"\nprefixes = \"10.0.0.0/8\"\n[lists.good]\nkind = \"allow\"\nprefixes = \"10.1.0.0/16\"\n",
    );
    let (mut keeper, _) = Keeper::open(&config, 100);
    assert_eq!(keeper.add("198.51.100.9/24", Some(60), None, 100).unwrap()["prefix"], "198.51.100.0/24");
    assert_eq!(keeper.add("2001:db8::1", None, Some("scans".into()), 100).unwrap()["note"], "scans");
    let lists = keeper.look(101).0.unwrap();
    assert_eq!((lists.of(address("198.51.100.1")), lists.of(address("2001:db8::1"))), (1, 1));
    assert_eq!(lists.of(address("10.1.2.3")), 6);
    // Another time is no change of the list.
    keeper.add("198.51.100.0/24", Some(100), None, 120).unwrap();
    assert!(keeper.look(219).0.is_none());
    let lists = keeper.look(220).0.unwrap();
    assert_eq!(lists.of(address("198.51.100.1")), 0);
    assert_eq!(keeper.remove("2001:db8::1", 221).unwrap()["seconds_left"], Value::Null);
    assert!(keeper.look(221).0.is_some());
    for (prefix, seconds) in [("0.0.0.0/0", None), ("x", None), ("10.0.0.0/33", None), ("1.2.3.4", Some(0))] {
        assert!(keeper.add(prefix, seconds, None, 0).is_err(), "{prefix}");
    }
    assert!(keeper.remove("9.9.9.9", 0).is_err());
    assert!(Keeper::default().add("9.9.9.9", None, None, 0).unwrap_err().contains("guard"));
}

#[test]
fn another_configuration_reads_only_files_that_it_did_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.txt");
    fs::write(&path, "198.51.100.0/24\n").unwrap();
    let with = |more: &str| {
        config(&format!(
            "[lists.bad]\nkind = \"block\"\nfile = \"{}\"\n[lists.good]\nkind = \"allow\"\nprefixes = [{more}]\n",
            path.display()
        ))
    };
    let (mut keeper, _) = Keeper::open(&with("\"9.9.9.9\""), 100);
    keeper.add("203.0.113.7", None, None, 100).unwrap();
    keeper.look(100);
    let (next, said) = keeper.next(&with("\"9.9.9.9\", \"8.8.8.8\""), 101);
    assert!(said.is_empty());
    assert_eq!(keeper.lists().of(address("8.8.8.8")), 0, "nothing has changed yet");
    keeper.take(next);
    let lists = keeper.lists();
    let of = |text| lists.of(address(text));
    assert_eq!((of("8.8.8.8"), of("198.51.100.1"), of("203.0.113.7")), (4, 2, 1));
}
