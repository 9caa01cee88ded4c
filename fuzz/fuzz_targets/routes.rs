//! Any text as a configuration behind some interfaces and ahead of many plain routes: read with the parser or without, it
//! means the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_control::config;

const HEAD: &str = "[interfaces.lan]\ndevice = \"eth1\"\naddress = \"192.168.1.1/24\"\n";

fuzz_target!(|text: &str| {
    let mut long = format!("{HEAD}{text}\n");
    for number in 0..2000 {
        let (high, low) = (number / 250, number % 250);
        long.push_str(&format!("[[routes]]\nto = \"10.{high}.{low}.0/24\"\nvia = \"192.168.1.9\"\n"));
    }
    // A comment behind a header is more than plain.
    let slow = long.replace("[[routes]]\nto = \"10.0.0.0/24\"", "[[routes]] #\nto = \"10.0.0.0/24\"");
    let [quick, slow] = [long, slow].map(|text| config::load_str("fuzz.toml", &text));
    match (quick, slow) {
        (Ok(quick), Ok(slow)) => assert_eq!(quick, slow),
        (Err(quick), Err(slow)) => assert_eq!(quick.errors, slow.errors),
        (quick, slow) => panic!("{quick:?} and {slow:?}"),
    }
});
