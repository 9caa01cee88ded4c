//! The local API: HTTP over a Unix socket, answers in JSON. Every listing of the command line uses it and nothing else.
//! docs/api.md says what can be asked; `/v1/openapi.json` says it to programs.

mod client;
mod places;
mod server;

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_dataplane::session::By;

use crate::config::Access;
use crate::config::Prefix;
use crate::nat_query::Query;
use crate::state::Topic;

pub use self::server::{Server, answer_to, openapi, serve, serve_with};

/// How long a gateway that was killed may hold its socket: as long as its memory takes to be released.
const DYING: Duration = Duration::from_secs(2);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A listing.
    Show(Topic),
    /// The routes within a prefix, or the one by which an address goes.
    Routes(Prefix),
    /// Who has an external port, or which ports an inside address has.
    Nat(Query),
    /// The sessions that move the most, and how many of them.
    TopFlows(TopBy, u32),
    /// The hosts whose sessions move the most, likewise.
    TopHosts(TopBy, u32),
}

/// By what sessions and hosts are the largest.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum TopBy {
    /// Bits a second.
    #[default]
    Bps,
    /// Packets a second.
    Pps,
}

impl From<TopBy> for By {
    fn from(by: TopBy) -> Self {
        match by {
            TopBy::Bps => Self::Bits,
            TopBy::Pps => Self::Packets,
        }
    }
}

impl TopBy {
    const fn name(self) -> &'static str {
        match self {
            Self::Bps => "bps",
            Self::Pps => "pps",
        }
    }
}

impl Request {
    /// The path that it is asked by.
    fn path(self) -> String {
        match self {
            Self::TopFlows(by, limit) => format!("/v1/top/flows?by={}&limit={limit}", by.name()),
            Self::TopHosts(by, limit) => format!("/v1/top/hosts?by={}&limit={limit}", by.name()),
            Self::Show(topic) => format!("/v1/show/{}", topic.name()),
            Self::Routes(within) => format!("/v1/show/routes?within={within}"),
            Self::Nat(Query::Who { address, port }) => format!("/v1/nat/who?address={address}&port={port}"),
            // The colons of IPv6 may stand in a query (RFC 3986 3.4).
            Self::Nat(Query::Where { subscriber }) => format!("/v1/nat/where?subscriber={subscriber}"),
        }
    }
}

/// What can go wrong with the socket.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Another gateway has it.
    #[error(
        "{0}: another gateway answers on this control socket; stop it, or give this one a socket of its own (--socket)"
    )]
    InUse(PathBuf),
    /// Something that is no socket is in its place.
    #[error(
        "{0}: there is a file of that name that is no socket; remove it, or give another name (--socket)"
    )]
    NoSocket(PathBuf),
    /// Nobody answers.
    #[error(
        "{path}: no gateway answers on this control socket ({source}); is `sluice run` up, and does it use this socket?"
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The socket is not for this user.
    #[error(
        "{path}: you may not use this control socket; it is for its owner and group (`ls -l {path}`), see [control] of \
         the configuration"
    )]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// There is no such group.
    #[error("control.group: there is no group {0} here; `groupadd --system {0}` makes it")]
    NoGroup(String),
    /// The system refuses.
    #[error("{path}: cannot serve the control socket: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The gateway says no.
    #[error("the gateway says: {0}")]
    Refused(String),
    /// The answer makes no sense.
    #[error("the gateway's answer cannot be read: {0}; is it of another version?")]
    Garbled(String),
}

/// Takes the socket. One that a dead gateway left behind is replaced.
/// From then on it can be used by those whom `access` names.
pub fn listen(path: &Path, access: &Access) -> Result<UnixListener, ApiError> {
    let failed = |source| ApiError::Socket { path: path.into(), source };
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(ApiError::NoSocket(path.into()));
        }
        if is_served(path) {
            return Err(ApiError::InUse(path.into()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let group = access.group.as_deref().map(group).transpose()?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Nobody else before it is the group's.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(failed)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(access.mode)).map_err(failed)?;
    Ok(listener)
}

fn group(name: &str) -> Result<u32, ApiError> {
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(ApiError::NoGroup(name.into())),
    }
}

/// Whether somebody lives behind the socket. A gateway that was killed takes connections until the kernel has released its
/// memory, but never answers; one that says nothing for long is there all the same.
fn is_served(path: &Path) -> bool {
    let patience = Instant::now() + DYING;
    let request = Request::Show(Topic::Workers);
    while UnixStream::connect(path).is_ok() {
        let left = patience.saturating_duration_since(Instant::now());
        if left.is_zero()
            || !matches!(client::ask(path, request, Some(left)), Err(ApiError::Unreachable { .. }))
        {
            return true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Asks for what is at a path.
pub fn get(path: &Path, target: &str) -> Result<Value, ApiError> {
    client::talk(path, target, None, None)
}

/// Sends something to a path.
pub fn post(path: &Path, target: &str, body: &Value) -> Result<Value, ApiError> {
    client::talk(path, target, Some(body.to_string()), None)
}

/// Asks the gateway that serves the socket.
pub fn ask(path: &Path, request: Request) -> Result<Value, ApiError> {
    client::ask(path, request, None)
}

/// Asks what would become of a packet in words.
pub fn explain(path: &Path, packet: &str) -> Result<Value, ApiError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let quote = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    let packet: String = packet.bytes().map(quote).collect();
    get(path, &format!("/v1/explain?packet={packet}"))
}

#[cfg(test)]
mod tests;
