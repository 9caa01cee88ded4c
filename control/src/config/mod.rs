//! The configuration: a TOML file, read with its places, checked as a whole, and handed on as a [`Config`].
//!
//! `schema` names the keys, `reader` takes values out of the parsed file, `units`, `net`, `dscp` and `protocol` read the values
//! themselves, `validate` checks them against each other, `report` says what is wrong, and `compile` makes of a valid
//! configuration what the data plane reads.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::de::DeTable;

mod compile;
mod dscp;
mod model;
mod net;
mod per;
mod places;
mod plain;
mod protocol;
mod reader;
mod report;
pub mod schema;
mod units;
mod validate;

pub use compile::{DeviceFacts, compile, file_routes, lists_with};
pub use dscp::code_point_name;
pub use model::*;
pub use places::Places;
pub use protocol::{ICMP, ICMPV6, TCP, UDP, protocol_name, protocol_number};
pub use report::{Diagnostic, Place, Related, Report, Severity};
pub(crate) use units::{Magnitude, magnitude};

pub(crate) use plain::Plain;
use report::Sink;

/// A time as the configuration has it, such as `5min`.
pub fn duration(text: &str) -> Option<std::time::Duration> {
    units::duration(text).ok()
}

/// What the log is like by a configuration that has been found valid.
pub fn log_of(text: &str) -> Log {
    let Ok(file) = DeTable::parse(text) else { return Log::default() };
    validate::log(file.get_ref(), &mut Sink::new("", text))
}

/// The control socket, where the configuration names no other.
pub const DEFAULT_SOCKET: &str = "/run/sluice.sock";
/// Where commits are kept, where it names nothing else.
pub const DEFAULT_STATE: &str = "/var/lib/sluice";
/// The list of what is blocked by hand.
pub const BY_HAND: &str = "by-hand";
/// Largest configuration file in bytes.
pub(crate) const LARGEST_FILE: u64 = 128 << 20;

/// Reads and validates a configuration file; with it come the warnings. No file makes it panic or loop.
///
/// # Errors
/// Everything that is wrong, when the file cannot be read, is larger than 128 MiB, or is not a valid configuration.
pub fn load(path: &Path) -> Result<(Config, Vec<Diagnostic>), Report> {
    load_bytes(&path.display().to_string(), &read(path)?)
}

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read, or is larger than 128 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, Report> {
    let name = path.display().to_string();
    let refuse = |message: String| {
        let mut sink = Sink::new(&name, "");
        sink.error_in_file(message);
        Err(sink.finish())
    };
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)) {
        Err(error) => refuse(format!("cannot read the file: {error}")),
        Ok(_) if bytes.len() as u64 > LARGEST_FILE => refuse("the file is larger than 128 MiB".into()),
        Ok(_) => Ok(bytes),
    }
}

/// [`load`] for bytes at hand; `name` is the file's name in messages.
///
/// # Errors
/// As for [`load`]; also when they are not UTF-8.
pub fn load_bytes(name: &str, bytes: &[u8]) -> Result<(Config, Vec<Diagnostic>), Report> {
    match std::str::from_utf8(bytes) {
        Ok(text) => load_str(name, text),
        Err(error) => {
            let shown = String::from_utf8_lossy(bytes);
            let mut sink = Sink::new(name, &shown);
            let at = error.valid_up_to();
            sink.error(&(at..at + 1), "the file is not UTF-8 text here")
                .help("save it with the encoding UTF-8");
            Err(sink.finish())
        }
    }
}

/// [`load`] for text at hand; `name` is the file's name in messages.
///
/// # Errors
/// As for [`load`].
pub fn load_str(name: &str, text: &str) -> Result<(Config, Vec<Diagnostic>), Report> {
    let plain = Plain::of_large(text).and_then(|plain| load_plain(name, text, &plain));
    plain.map_or_else(|| load_slowly(name, text), Ok)
}

fn load_slowly(name: &str, text: &str) -> Result<(Config, Vec<Diagnostic>), Report> {
    let mut sink = Sink::new(name, text);
    let config = match DeTable::parse(text) {
        Ok(file) => {
            let config = validate::file(file.get_ref(), None, &mut sink);
            config.map(|config| Config { places: Places::read(file.get_ref(), name, &sink), ..config })
        }
        Err(error) => {
            sink.error(&error.span().unwrap_or(0..0), format!("this is not TOML: {}", error.message()));
            None
        }
    };
    match (config, sink.finish()) {
        (Some(config), report) if report.errors == 0 => Ok((config, report.diagnostics)),
        (_, report) => Err(report),
    }
}

/// A configuration without errors whose routes are all plain.
fn load_plain(name: &str, text: &str, plain: &Plain<'_>) -> Option<(Config, Vec<Diagnostic>)> {
    let rest = plain.rest();
    let file = DeTable::parse(&rest).ok()?;
    if file.get_ref().contains_key("routes") {
        return None;
    }
    let mut sink = Sink::new(name, text);
    let mut config = validate::file(file.get_ref(), Some(plain), &mut sink)?;
    config.places = Places { routes: plain.lines(&sink), ..Places::read(file.get_ref(), name, &sink) };
    let report = sink.finish();
    (report.errors == 0).then_some((config, report.diagnostics))
}
