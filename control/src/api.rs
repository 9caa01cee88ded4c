//! The local API: one JSON object a line over a Unix socket, one answer a line. Every listing of the command line uses it
//! and nothing else.
//!
//! Request: `{"show": "counters"}`. Answer: `{"ok": …}` or `{"error": "…"}`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::nat_query::Query;
use crate::state::{State, Topic};

/// Longest request.
const LONGEST: u64 = 64 << 10;
/// Clients that are served at once; more are sent away.
const CLIENTS: usize = 16;
/// How long a client may take to ask, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a gateway that was killed may hold its socket: as long as its memory takes to be released.
const DYING: Duration = Duration::from_secs(2);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// A listing.
    Show(Topic),
    /// Who has an external port, or which ports an inside address has.
    Nat(Query),
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// What was asked for.
    Ok(Value),
    /// Why not.
    Error(String),
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
pub fn listen(path: &Path) -> Result<UnixListener, ApiError> {
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
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

/// Whether somebody lives behind the socket. A gateway that was killed takes connections until the kernel has released its
/// memory, but never answers; one that says nothing for long is there all the same.
fn is_served(path: &Path) -> bool {
    let patience = Instant::now() + DYING;
    let request = Request::Show(Topic::Workers);
    while UnixStream::connect(path).is_ok() {
        let left = patience.saturating_duration_since(Instant::now());
        if left.is_zero() || !matches!(exchange(path, request, Some(left)), Err(ApiError::Unreachable { .. }))
        {
            return true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

/// A server that runs; dropping it removes the socket, and lets go of the gateway's state.
pub struct Server {
    path: PathBuf,
    _state: Arc<State>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves the socket from threads of its own.
pub fn serve(listener: UnixListener, path: &Path, state: Arc<State>) -> Result<Server, ApiError> {
    let clients = Arc::new(AtomicUsize::new(0));
    // The thread outlives the server, in accept(2); the devices that the state holds must not.
    let weak = Arc::downgrade(&state);
    let accept = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors, most likely: they come back when clients leave.
                thread::sleep(Duration::from_millis(50));
                continue;
            };
            let place = Place::take(&clients);
            let Some(state) = weak.upgrade() else { return };
            let client = move || match place {
                Some(_place) => drop(converse(&stream, |line| reply(&state, line))),
                None => {
                    drop(converse(&stream, |_| Answer::Error("too many clients at once; try again".into())))
                }
            };
            drop(thread::Builder::new().name("sluice-api".into()).spawn(client));
        }
    };
    let thread = thread::Builder::new().name("sluice-api-accept".into()).spawn(accept);
    thread.map_err(|source| ApiError::Socket { path: path.into(), source })?;
    Ok(Server { path: path.into(), _state: state })
}

/// One of the places for clients; dropping it frees it.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(clients: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(clients.clone());
        (clients.fetch_add(1, Ordering::Relaxed) < CLIENTS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn converse(stream: &UnixStream, answer: impl Fn(&str) -> Answer) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    let mut bytes = serde_json::to_vec(&answer(&line))?;
    bytes.push(b'\n');
    (&mut &*stream).write_all(&bytes)
}

/// The answer to a line that a client sent.
pub fn reply(state: &State, line: &str) -> Answer {
    let answer = |request| match request {
        Request::Show(topic) => state.show(topic),
        Request::Nat(query) => state.nat_query(query),
    };
    match serde_json::from_str(line).map(answer) {
        Ok(Ok(value)) => Answer::Ok(value),
        Ok(Err(error)) => Answer::Error(error),
        Err(error) => Answer::Error(format!("not a request: {error}")),
    }
}

/// Asks the gateway that serves the socket.
pub fn ask(path: &Path, request: Request) -> Result<Value, ApiError> {
    exchange(path, request, None)
}

fn exchange(path: &Path, request: Request, patience: Option<Duration>) -> Result<Value, ApiError> {
    let unreachable = |source| ApiError::Unreachable { path: path.into(), source };
    let garbled = |error: serde_json::Error| ApiError::Garbled(error.to_string());
    let mut stream = UnixStream::connect(path).map_err(unreachable)?;
    stream.set_read_timeout(patience).map_err(unreachable)?;
    let mut bytes = serde_json::to_vec(&request).map_err(garbled)?;
    bytes.push(b'\n');
    stream.write_all(&bytes).map_err(unreachable)?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).map_err(unreachable)? == 0 {
        return Err(unreachable(io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&line).map_err(garbled)? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(error) => Err(ApiError::Refused(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Workers;
    use crate::device::machine::Core;
    use crate::plan::{self, PortQueues};
    use crate::state::Ends;
    use crate::watch::Watch;
    use sluice_dataplane::clock::Clock;
    use sluice_dataplane::counters::{self, Counters};
    use sluice_dataplane::snapshot::Snapshot;

    fn server(folder: &Path) -> (PathBuf, Server) {
        let path = folder.join("api.sock");
        let snapshot = Arc::new(Snapshot::default());
        let cores = [Core { id: 0, node: 0, silicon: 0, isolated: false }];
        let queues = [PortQueues { port: "lan".into(), queues: 2, node: None }];
        let plan = plan::plan(&Workers::default(), &queues, &cores).unwrap();
        let (_, counters) = counters::channel(&Counters::new(&snapshot));
        let watch = Watch::new(Clock::Virtual(0), []);
        let ends = Ends { counters, inspector: None };
        let state = Arc::new(State::new(snapshot, [ends], Vec::new(), plan, watch));
        let server = serve(listen(&path).unwrap(), &path, state).unwrap();
        (path, server)
    }

    fn raw(path: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(request).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn it_answers_and_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let (path, server) = server(folder.path());
        let counters = ask(&path, Request::Show(Topic::Counters)).unwrap();
        assert_eq!(counters["conserved"], true);
        assert!(matches!(ask(&path, Request::Show(Topic::Flows)), Err(ApiError::Refused(_))));
        for junk in [&b"\n"[..], b"{\"show\":\"nothing\"}\n", b"\xff\xfe\n", b"{", &[b'['; 100_000]] {
            let answer = raw(&path, junk);
            assert!(answer.is_empty() || answer.starts_with("{\"error\":"), "{answer}");
        }
        drop(server);
        assert!(matches!(ask(&path, Request::Show(Topic::Acl)), Err(ApiError::Unreachable { .. })));
    }

    #[test]
    fn a_silent_client_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _server) = server(folder.path());
        let silent: Vec<_> = (0..CLIENTS - 1).map(|_| UnixStream::connect(&path).unwrap()).collect();
        assert!(ask(&path, Request::Show(Topic::Acl)).is_ok());
        drop(silent);
    }

    #[test]
    fn the_map_of_workers_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _server) = server(folder.path());
        let rows = ask(&path, Request::Show(Topic::Workers)).unwrap();
        let expected = serde_json::json!({
            "worker": 0, "core": 0, "numa_node": 0, "queues": ["lan/0", "lan/1"],
        });
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&rows[0][key], value, "{key}");
        }
        assert_eq!(rows.as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_socket_in_use_is_left_alone_and_a_dead_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (path, server) = server(folder.path());
        assert!(matches!(listen(&path), Err(ApiError::InUse(_))));
        drop(server);
        let dead = folder.path().join("dead.sock");
        drop(UnixListener::bind(&dead).unwrap());
        assert!(listen(&dead).is_ok());
        // One that is about to die: it takes connections, but says nothing.
        let dying = folder.path().join("dying.sock");
        let listener = UnixListener::bind(&dying).unwrap();
        let dies = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            drop(listener);
        });
        assert!(listen(&dying).is_ok());
        dies.join().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(matches!(listen(&file), Err(ApiError::NoSocket(_))));
    }
}
