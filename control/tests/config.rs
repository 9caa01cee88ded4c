//! The configuration from outside: wrong files and their exact reports, the ready configurations, the reference.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sluice_control::config::{self, schema};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// Each NAME.toml in `tests/config` yields exactly NAME.expected. With the variable SLUICE_REGENERATE set, the expected
/// reports are written anew: look at the difference before you keep it.
#[test]
fn wrong_files_are_reported_to_the_letter() {
    let mut different = Vec::new();
    let cases = files("control/tests/config", "toml");
    assert!(cases.len() >= 60, "{} cases", cases.len());
    for path in cases {
        let name = path.file_name().unwrap().to_str().unwrap();
        let report = match config::load_bytes(name, &fs::read(&path).unwrap()) {
            Ok((_, warnings)) => warnings.iter().map(|warning| format!("{warning}\n")).collect(),
            Err(report) => report.to_string(),
        };
        assert!(!report.is_empty(), "{name} has nothing wrong with it");
        let expected = path.with_extension("expected");
        if std::env::var_os("SLUICE_REGENERATE").is_some() {
            fs::write(&expected, &report).unwrap();
        } else if fs::read_to_string(&expected).ok().as_deref() != Some(&report) {
            different.push(format!("{name} yields\n{report}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn every_diagnostic_says_what_would_be_right() {
    for path in files("control/tests/config", "toml") {
        let diagnostics = match config::load(&path) {
            Ok((_, warnings)) => warnings,
            Err(report) => report.diagnostics,
        };
        for found in diagnostics {
            assert!(found.help.is_some() || found.message.starts_with("this is not TOML"), "{found}");
        }
    }
}

#[test]
fn ready_configurations_load_without_a_warning() {
    let paths = files("configs", "toml");
    assert!(paths.len() >= 3);
    for path in paths {
        match config::load(&path) {
            Ok((_, warnings)) => assert!(warnings.is_empty(), "{}", warnings[0]),
            Err(report) => panic!("{report}"),
        }
    }
}

#[test]
fn the_demo_and_the_home_gateway_have_the_ports_lan_and_wan() {
    for name in ["demo.toml", "home-gateway.toml"] {
        let (config, _) = config::load(&root().join("configs").join(name)).unwrap();
        let names: Vec<&str> = config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names[..2], ["lan", "wan"], "{name}");
    }
}

/// The reference has a heading for each section, and under it a row for each of its keys.
#[test]
fn the_reference_names_every_key() {
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    for section in
        schema::SECTIONS.into_iter().filter(|section| !["the file", "[nat]"].contains(&section.name))
    {
        let heading = match section.name {
            "a rule of an ACL" => "## Rules of an ACL".to_owned(),
            name => format!("## `{name}`"),
        };
        let text = page.split_once(&heading).unwrap_or_else(|| panic!("no heading {heading}")).1;
        let text = text.split("\n## ").next().unwrap();
        for key in section.keys {
            assert!(text.contains(&format!("| `{key}` |")), "{heading} does not name `{key}`");
        }
    }
}

/// Every example of the reference is a configuration without errors, once the two interfaces are there that it names.
#[test]
fn examples_of_the_reference_are_valid() {
    const INTERFACES: &str = "[interfaces.lan]\naddress = \"192.168.1.1/24\"\n[interfaces.wan]\naddress = [\"203.0.113.2/24\", \"2001:db8:2::2/64\"]\n";
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let examples: Vec<&str> =
        page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 10, "{} examples", examples.len());
    for example in examples {
        let text = if example.contains("[interfaces.") {
            example.to_owned()
        } else {
            format!("{INTERFACES}{example}")
        };
        if let Err(report) = config::load_str("configuration.md", &text) {
            panic!("{report}\n{example}");
        }
    }
}

#[test]
fn files_that_cannot_be_a_configuration_are_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let missing = config::load(&directory.path().join("missing.toml")).unwrap_err().to_string();
    assert!(missing.contains("cannot read the file: No such file"), "{missing}");
    let is_directory = config::load(directory.path()).unwrap_err().to_string();
    assert!(is_directory.contains("cannot read the file"), "{is_directory}");
    let huge = directory.path().join("huge.toml");
    fs::File::create(&huge).unwrap().set_len(129 << 20).unwrap();
    assert!(config::load(&huge).unwrap_err().to_string().contains("larger than 128 MiB"));
}

#[test]
fn deep_and_wide_files_end_in_time() {
    let rule = "{ protocol = \"tcp\", to = [\"10.0.0.1\", \"10.0.0.2\"], to-port = 80, action = \"drop\" },";
    let interface = "[interfaces.a]\naddress = \"10.1.0.1/24\"\nacl = \"a\"\n";
    let wide = [
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{ a = ".repeat(100_000)),
        "[a]\n".repeat(100_000),
        format!("{}x = 1", "a.".repeat(100_000)),
        (0..50_000).map(|n| format!("key{n} = 1\n")).collect(),
        (0..20_000).map(|n| format!("[interfaces.i{n}]\naddress = \"10.0.0.1/8\"\n")).collect(),
        format!("{interface}[acls.a]\nrules = [{}]", rule.repeat(50_000)),
        format!("{interface}{}", "[[nat.source]]\nout = \"a\"\nto = \"10.1.0.7\"\nports = 5\n".repeat(4096)),
        format!("{interface}{}", "[[routes]]\nto = \"10.9.0.0/16\"\nvia = \"10.1.0.2\"\n".repeat(50_000)),
    ];
    for text in wide {
        let begin = std::time::Instant::now();
        let found = match config::load_str("wide.toml", &text) {
            Ok((_, warnings)) => warnings.len(),
            Err(report) => report.to_string().len(),
        };
        assert!(found > 0 && begin.elapsed().as_secs() < 10, "{:.60} took {:?}", text, begin.elapsed());
    }
}

fn good() -> Vec<String> {
    files("configs", "toml").iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Lines removed, doubled or moved; characters replaced; values swapped for others of the file: no panic, and never
    /// a refusal without a reason.
    #[test]
    fn mutated_configurations_are_loaded_or_refused(
        which in 0usize..3,
        edits in prop::collection::vec((0u8..6, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut text = good()[which].clone().into_bytes();
        for (kind, first, second, byte) in edits {
            if text.is_empty() {
                break;
            }
            let lines: Vec<Vec<u8>> = text.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
            let (a, b) = (first.index(lines.len()), second.index(lines.len()));
            let mut edited = lines.clone();
            match kind {
                0 => drop(edited.remove(a)),
                1 => edited.insert(b, lines[a].clone()),
                2 => edited.swap(a, b),
                3 => {
                    let at = second.index(lines[a].len());
                    edited[a][at] = byte;
                }
                4 => {
                    // The value of one key becomes that of another.
                    let split = |line: &[u8]| line.iter().position(|&b| b == b'=');
                    if let (Some(i), Some(j)) = (split(&lines[a]), split(&lines[b])) {
                        edited[a].truncate(i);
                        edited[a].extend_from_slice(&lines[b][j..]);
                    }
                }
                _ => edited.truncate(a),
            }
            text = edited.concat();
        }
        match config::load_bytes("mutated.toml", &text) {
            Ok((config, _)) => prop_assert!(!config.interfaces.is_empty()),
            Err(report) => {
                prop_assert!(report.errors > 0 && !report.diagnostics.is_empty());
                prop_assert!(report.to_string().contains("error"));
            }
        }
    }
}
