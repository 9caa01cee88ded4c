//! Any line as a request to the control socket, and as the answer to one.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use sluice_control::api::{Answer, reply};
use sluice_control::config;
use sluice_control::state::State;
use sluice_dataplane::counters::{self, Counters};

static STATE: LazyLock<State> = LazyLock::new(|| {
    let (config, _) =
        config::load_str("demo.toml", include_str!("../../configs/demo.toml")).expect("it is valid");
    let snapshot = Arc::new(config::compile(&config, &[]));
    let (_, reader) = counters::channel(&Counters::new(&snapshot));
    State::new(snapshot, reader, None, Vec::new())
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(line) = std::str::from_utf8(bytes) else { return };
    let answer = serde_json::to_string(&reply(&STATE, line)).expect("an answer is JSON");
    assert!(!answer.contains('\n'));
    assert!(serde_json::from_str::<Answer>(&answer).is_ok());
    drop(serde_json::from_str::<Answer>(line));
});
