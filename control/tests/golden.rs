//! Every case of `pcap-tests/`. `SLUICE_REGEN=NAME` (or `all`) makes a case anew; see `pcap-tests/README.md`.

use std::error::Error;
use std::path::Path;

use sluice_control::golden::{Case, regenerate_named, run_all};
use sluice_control::replay;

fn replay_case(case: &Case, out: &Path) -> Result<serde_json::Value, Box<dyn Error>> {
    if let Some(unknown) = case.arguments.iter().find(|argument| *argument != "--strict-l2") {
        return Err(format!("arguments.txt: unknown argument {unknown}").into());
    }
    let options = replay::Options {
        config: case.config.clone(),
        inputs: case.inputs.clone(),
        out: Some(out.to_owned()),
        strict_l2: !case.arguments.is_empty(),
        workers: 1,
        speed: replay::Speed::default(),
    };
    Ok(replay::run(&options)?.counters)
}

#[test]
fn every_case_gives_what_it_must() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcap-tests");
    let scratch = tempfile::tempdir().unwrap();
    if let Ok(name) = std::env::var("SLUICE_REGEN") {
        return regenerate_named(&root, &name, scratch.path(), &replay_case)
            .unwrap_or_else(|error| panic!("{error}"));
    }
    let (count, failures) = run_all(&root, scratch.path(), &replay_case).unwrap();
    assert!(count >= 25, "only {count} cases");
    assert!(failures.is_empty(), "{} of {count} cases fail\n{}", failures.len(), failures.join("\n"));
}
