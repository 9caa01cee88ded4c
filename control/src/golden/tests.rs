use std::fs::File;
use std::io::BufWriter;

use serde_json::json;
use sluice_dataplane::port::pcap::Writer;
use tempfile::TempDir;

use super::*;

const PACKETS: &str = "lan = eth 02:00:00:00:00:10 > 02:00:00:00:00:01\n\
                       0.1 lan $lan / ipv4 10.0.0.1 > 10.0.0.2 / udp 1 > 2\n\
                       0.2 lan $lan / ipv4 10.0.0.1 > 10.0.0.2 / udp 1 > 3\n";

/// A gateway that sends what `lan` receives out by `wan`, after `change`.
fn gateway(change: impl Fn(usize, &mut Vec<u8>)) -> impl Fn(&Case, &Path) -> Result<Value, Box<dyn Error>> {
    move |case, out| {
        let mut writer = Writer::new("wan.pcap", BufWriter::new(File::create(out.join("wan.pcap"))?))?;
        Writer::new("lan.pcap", File::create(out.join("lan.pcap"))?)?;
        let (_, input) = case.inputs.first().ok_or("the case has no input")?;
        let packets = read_packets(input)?;
        for (i, (time, mut bytes)) in packets.iter().cloned().enumerate() {
            change(i, &mut bytes);
            writer.write(time, &bytes)?;
        }
        writer.flush()?;
        Ok(json!({"ports": {"wan": {"tx_packets": packets.len()}}, "conserved": true}))
    }
}

fn new_case(packets: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.toml"), "").unwrap();
    fs::write(dir.path().join("packets.txt"), packets).unwrap();
    dir
}

fn run(dir: &TempDir, replay: &Replay<'_>) -> Vec<String> {
    run_case(dir.path(), tempfile::tempdir().unwrap().path(), replay).unwrap()
}

#[test]
fn a_regenerated_case_passes_and_another_gateway_fails_it() {
    let dir = new_case(PACKETS);
    let good = gateway(|_, _| {});
    regenerate(dir.path(), tempfile::tempdir().unwrap().path(), &good).unwrap();
    let mut files: Vec<String> = files(dir.path())
        .unwrap()
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    // Nothing left by lan, so that there is no expectation of it.
    let expected = ["config.toml", "counters.json", "lan.in.pcap", "packets.txt", "wan.expected.pcap"];
    assert_eq!(files, expected);
    assert_eq!(run(&dir, &good), [""; 0]);

    let bad = gateway(|i, bytes| bytes[37] = if i == 1 { 9 } else { bytes[37] });
    let differences = run(&dir, &bad);
    assert_eq!(differences.len(), 1);
    assert!(
        differences[0].starts_with("wan: packet 2 (udp 10.0.0.1:1 > 10.0.0.2:3 ttl 64 len 28) differs:\n")
    );
    assert!(differences[0].contains("\n    udp.dst: expected 3, got 9"), "{}", differences[0]);
}

#[test]
fn the_inputs_must_be_what_the_text_says() {
    let dir = new_case(PACKETS);
    let replay = gateway(|_, _| {});
    regenerate(dir.path(), tempfile::tempdir().unwrap().path(), &replay).unwrap();
    fs::write(dir.path().join("packets.txt"), PACKETS.replace("1 > 3", "1 > 4") + "0 wan payload 00")
        .unwrap();
    assert_eq!(
        run(&dir, &replay),
        [
            "lan.in.pcap is not what packets.txt says; regenerate the case",
            "wan.in.pcap is not what packets.txt says; regenerate the case",
        ]
    );
}

#[test]
fn what_is_wrong_with_a_case_is_said() {
    let replay = gateway(|_, _| {});
    let error = |dir: &TempDir| {
        run_case(dir.path(), tempfile::tempdir().unwrap().path(), &replay).unwrap_err().to_string()
    };
    let dir = new_case("0 lan nonsense");
    assert!(error(&dir).contains("packets.txt: line 1, column 7: unknown layer `nonsense`"));
    fs::write(dir.path().join("packets.txt"), "").unwrap();
    assert!(error(&dir).ends_with("the replay failed: the case has no input"));
    fs::write(dir.path().join("packets.txt"), PACKETS).unwrap();
    regenerate(dir.path(), tempfile::tempdir().unwrap().path(), &replay).unwrap();
    fs::write(dir.path().join("counters.json"), "{").unwrap();
    assert!(error(&dir).contains("counters.json: EOF"));
    fs::write(dir.path().join("wan.expected.pcap"), "").unwrap();
    assert!(error(&dir).contains("the file is empty"));
}

#[test]
fn cases_are_the_folders_with_a_configuration() {
    let root = tempfile::tempdir().unwrap();
    for name in ["b", "a", "none"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    for name in ["b", "a"] {
        fs::write(root.path().join(name).join("config.toml"), "").unwrap();
    }
    fs::write(root.path().join("README.md"), "").unwrap();
    let names: Vec<String> = cases(root.path()).unwrap().into_iter().map(|case| case.name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn all_cases_run_and_those_that_fail_are_told() {
    let root = tempfile::tempdir().unwrap();
    for name in ["fine", "broken"] {
        let dir = root.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("config.toml"), "").unwrap();
        fs::write(dir.join("packets.txt"), PACKETS).unwrap();
        fs::write(dir.join("arguments.txt"), "--strict-l2\n").unwrap();
    }
    let scratch = || tempfile::tempdir().unwrap();
    let replay = gateway(|_, _| {});
    regenerate_named(root.path(), "all", scratch().path(), &replay).unwrap();
    assert_eq!(run_all(root.path(), scratch().path(), &replay).unwrap(), (2, vec![]));
    assert_eq!(cases(root.path()).unwrap()[0].arguments, ["--strict-l2"]);

    fs::write(root.path().join("broken/counters.json"), "{\"conserved\": false}").unwrap();
    let (count, failures) = run_all(root.path(), scratch().path(), &replay).unwrap();
    let told = "case broken:\n  counters.conserved: expected false, got true\n  counters.ports: expected none, got \
                {\"wan\":{\"tx_packets\":2}}";
    assert_eq!((count, failures), (2, vec![told.to_owned()]));
    regenerate_named(root.path(), "broken", scratch().path(), &replay).unwrap();
    assert!(run_all(root.path(), scratch().path(), &replay).unwrap().1.is_empty());
    let error = regenerate_named(root.path(), "borken", scratch().path(), &replay).unwrap_err();
    assert!(error.to_string().starts_with("there is no case borken in "));
}
