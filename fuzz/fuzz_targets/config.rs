//! Any bytes as a configuration: a report with places that exist, or a configuration that compiles.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_control::config;

fuzz_target!(|bytes: &[u8]| {
    match config::load_bytes("fuzz.toml", bytes) {
        Ok((config, _)) => {
            let snapshot = config::compile(&config, &[]);
            assert!(snapshot.ports.len() <= snapshot.interfaces.len());
        }
        Err(report) => {
            assert!(report.errors > 0 && !report.diagnostics.is_empty());
            let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
            for place in report.diagnostics.iter().filter_map(|found| found.place.as_ref()) {
                assert!((1..=lines).contains(&place.line) && place.column >= 1);
            }
            assert!(!report.to_string().is_empty());
        }
    }
});
