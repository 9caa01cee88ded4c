//! `sluice tech-support`: everything that a report of a bug needs, in one text file. It changes nothing, and a part that
//! cannot be had is a line that says why.

mod mask;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde_json::json;

use self::mask::Mask;
use crate::api::{self, Request};
use crate::config;
use crate::doctor;
use crate::state::Topic;

/// The most of one part, in bytes; what is over is cut off, and it is said.
const MOST: usize = 4 << 20;
/// What the kernel tells of itself.
const FILES: [&str; 8] = [
    "/proc/version",
    "/proc/cmdline",
    "/proc/meminfo",
    "/proc/interrupts",
    "/proc/softirqs",
    "/proc/net/softnet_stat",
    "/sys/devices/system/cpu/online",
    "/etc/os-release",
];
/// What other programs tell, if they are there.
const COMMANDS: [&[&str]; 7] = [
    &["lscpu"],
    &["ip", "-details", "-statistics", "link", "show"],
    &["ip", "address", "show"],
    &["ip", "rule", "show"],
    &["ip", "route", "show", "table", "main"],
    &["ip", "-6", "route", "show", "table", "main"],
    &["journalctl", "--unit=sluice", "--lines=1000", "--no-pager", "--output=short-iso-precise"],
];

/// What is wanted in the file.
#[derive(Debug)]
pub struct Options {
    /// The control socket of the gateway.
    pub socket: PathBuf,
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Whether sessions and bindings are listed.
    pub tables: bool,
    /// Whether addresses are masked.
    pub mask: bool,
}

/// Writes the file, which nobody but the user may read; `-` is standard output.
///
/// # Errors
/// The file is there already, or cannot be written.
pub fn write(options: &Options, path: &Path) -> io::Result<()> {
    let text = collect(options);
    if path.as_os_str() == "-" {
        return io::stdout().lock().write_all(text.as_bytes());
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn collect(options: &Options) -> String {
    let mut text = format!("# Sluice {}\n", env!("CARGO_PKG_VERSION"));
    for topic in Topic::value_variants() {
        if matches!(topic, Topic::Flows | Topic::Nat) && !options.tables {
            continue;
        }
        let answer = api::ask(&options.socket, Request::Show(*topic));
        let answer = answer.map(|value| format!("{value:#}")).map_err(|error| error.to_string());
        part(&mut text, &format!("sluice show {} --json", topic.name()), answer);
    }
    let config = options.config.as_ref().map(|path| {
        part(
            &mut text,
            &path.display().to_string(),
            fs::read_to_string(path).map_err(|error| error.to_string()),
        );
        let loaded = config::load(path);
        let said = match &loaded {
            Ok((_, warnings)) => Ok(warnings.iter().map(|warning| format!("{warning}\n")).collect()),
            Err(report) => Ok(report.to_string()),
        };
        part(&mut text, &format!("sluice check {}", path.display()), said);
        loaded.ok().map(|(config, _)| config)
    });
    let diagnosis = doctor::examine(&[], config.flatten().as_ref());
    let diagnosis =
        diagnosis.map(|found| format!("{found}\n{:#}", json!(found))).map_err(|error| error.to_string());
    part(&mut text, "sluice doctor", diagnosis);
    for path in FILES {
        part(&mut text, path, fs::read_to_string(path).map_err(|error| error.to_string()));
    }
    for command in COMMANDS {
        part(&mut text, &command.join(" "), run(command));
    }
    if options.mask { Mask::new().text(&text) } else { text }
}

fn part(text: &mut String, title: &str, content: Result<String, String>) {
    let (mut content, said) = match content {
        Ok(content) => (content, String::new()),
        Err(error) => (String::new(), format!("(not to be had: {error})\n")),
    };
    let end = (0..=MOST.min(content.len())).rev().find(|&end| content.is_char_boundary(end)).unwrap_or(0);
    let cut = content.len() - end;
    content.truncate(end);
    let _ = write!(text, "\n## {title}\n\n{}\n{said}", content.trim_end());
    if cut > 0 {
        let _ = writeln!(text, "(cut off: {cut} more bytes)");
    }
}

fn run(command: &[&str]) -> Result<String, String> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let output = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr).trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_without_a_gateway_and_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("c.toml");
        fs::write(&config, "[interfaces.lan]\ndevice = \"lan0\"\naddress = \"198.51.100.77/24\"\n").unwrap();
        let options = Options {
            socket: folder.path().join("no.sock"),
            config: Some(config),
            tables: false,
            mask: true,
        };
        let path = folder.path().join("out.txt");
        write(&options, &path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for words in
            ["## sluice show counters --json", "no gateway answers", "## sluice check", "## /proc/version"]
        {
            assert!(text.contains(words), "{words}");
        }
        assert!(!text.contains("198.51.100.77"));
        assert!(!text.contains("show flows"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&options, &path).is_err(), "nothing is written over");
    }

    #[test]
    fn a_long_part_is_cut_and_a_missing_program_said() {
        let mut text = String::new();
        part(&mut text, "long", Ok("ä".repeat(MOST)));
        assert!(text.len() < MOST + 100);
        assert!(text.contains("more bytes)"));
        assert!(run(&["no-such-program-anywhere"]).is_err());
    }
}
