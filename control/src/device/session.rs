//! The connection that the operator types over.

use std::env;
use std::fs;
use std::net::IpAddr;

use serde::Serialize;

/// How far up the processes are asked.
const GENERATIONS: usize = 64;

/// An SSH connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// The operator's address.
    pub client: IpAddr,
    /// Ours.
    pub server: IpAddr,
}

impl Session {
    /// The connection that this process was started over, by SSH_CONNECTION of itself or of a process above it: sudo
    /// takes the variable out of the environment. None where there is none, as for a service.
    pub fn find() -> Option<Self> {
        if let Ok(value) = env::var("SSH_CONNECTION") {
            return Self::parse(&value);
        }
        let mut process = parent("self")?;
        for _ in 0..GENERATIONS {
            let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            let entries = environment.split(|&byte| byte == 0).map(String::from_utf8_lossy);
            let mut values =
                entries.filter_map(|entry| entry.strip_prefix("SSH_CONNECTION=").map(str::to_owned));
            if let Some(value) = values.next() {
                return Self::parse(&value);
            }
            process = parent(&process)?;
        }
        None
    }

    /// Reads `CLIENT PORT SERVER PORT`.
    pub fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let client = address(words.next()?)?;
        words.next()?;
        Some(Self { client, server: address(words.next()?)? })
    }
}

/// An address without its zone (`fe80::1%eth0`).
fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.split('%').next()?.parse().ok()?;
    Some(address.to_canonical())
}

fn parent(process: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim();
    (parent != "0").then(|| parent.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_both_ends() {
        let session = Session::parse("192.0.2.7 50522 198.51.100.1 22").unwrap();
        assert_eq!(session.client.to_string(), "192.0.2.7");
        assert_eq!(session.server.to_string(), "198.51.100.1");
        let session = Session::parse("fe80::1%eth0 50522 ::ffff:198.51.100.1 22").unwrap();
        assert_eq!(session.client.to_string(), "fe80::1");
        assert_eq!(session.server.to_string(), "198.51.100.1");
    }

    #[test]
    fn what_is_no_connection_is_none() {
        for value in ["", "192.0.2.7", "192.0.2.7 1", "a b c d", "192.0.2.7 1 x 22"] {
            assert_eq!(Session::parse(value), None, "{value}");
        }
    }
}
