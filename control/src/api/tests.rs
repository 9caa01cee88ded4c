use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use sluice_dataplane::clock::Clock;
use sluice_dataplane::counters::{self, Counters};
use sluice_dataplane::snapshot::Snapshot;

use super::*;
use crate::config::Workers;
use crate::device::machine::Core;
use crate::link::DataPlane;
use crate::plan::{self, PortQueues};
use crate::state::{Ends, State};
use crate::watch::Watch;

fn server_with(folder: &Path, metrics: Option<TcpListener>) -> (PathBuf, Server) {
    let path = folder.join("api.sock");
    let snapshot = Arc::new(Snapshot::default());
    let cores = [Core { id: 0, node: 0, silicon: 0, isolated: false }];
    let queues = [PortQueues { port: "lan".into(), queues: 2, node: None }];
    let plan = plan::plan(&Workers::default(), &queues, &cores).unwrap();
    let (_, counters) = counters::channel(&Counters::new(&snapshot));
    let watch = Watch::new(Clock::Virtual(0), []);
    let ends = Ends { counters, inspector: None };
    let state = Arc::new(State::new(snapshot, [ends], Vec::new(), plan, watch));
    let gateway = Arc::new(DataPlane::within(state).unwrap());
    let server = serve(listen(&path, &Access::default()).unwrap(), &path, metrics, gateway).unwrap();
    (path, server)
}

fn server(folder: &Path) -> (PathBuf, Server) {
    server_with(folder, None)
}

fn raw(path: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &Path, target: &str) -> String {
    raw(path, format!("GET {target} HTTP/1.1\r\nhost: sluice\r\nconnection: close\r\n\r\n").as_bytes())
}

#[test]
fn it_answers_and_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let (path, server) = server(folder.path());
    let counters = ask(&path, Request::Show(Topic::Counters)).unwrap();
    assert_eq!(counters["conserved"], true);
    assert!(matches!(ask(&path, Request::Show(Topic::Flows)), Err(ApiError::Refused(_))));
    for (target, status) in [
        ("/v1/show/nothing", "404"),
        ("/v2/show/counters", "404"),
        ("/v1/nat/who?address=203.0.113.1", "400"),
        ("/v1/nat/who?address=x&port=1", "400"),
        ("/v1/nat/where?subscriber=::1%00", "400"),
        ("/v1/explain?packet=in%20lan", "400"),
    ] {
        let answer = get(&path, target);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(serde_json::from_str::<Value>(body).unwrap()["error"].is_string(), "{target}: {answer}");
    }
    let post = b"POST /v1/show/counters HTTP/1.1\r\nhost: sluice\r\ncontent-length: 2\r\n\r\n{}";
    assert!(raw(&path, post).starts_with("HTTP/1.1 405 "));
    for junk in [&b"\n"[..], b"{\"show\":\"nothing\"}\n", b"\xff\xfe\n", b"GET", &[b'['; 100_000]] {
        let answer = raw(&path, junk);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(ask(&path, Request::Show(Topic::Counters)).is_ok());
    drop(server);
    assert!(matches!(ask(&path, Request::Show(Topic::Acl)), Err(ApiError::Unreachable { .. })));
}

#[test]
fn clients_that_say_or_take_nothing_keep_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _server) = server(folder.path());
    let silent: Vec<_> = (0..300).map(|_| UnixStream::connect(&path).unwrap()).collect();
    // Their answers are never read.
    let deaf: Vec<_> = (0..150)
        .map(|_| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream
                .write_all("GET /v1/openapi.json HTTP/1.1\r\nhost: s\r\n\r\n".repeat(50).as_bytes())
                .unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..20 {
        assert!(ask(&path, Request::Show(Topic::Acl)).is_ok());
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop((silent, deaf));
}

#[test]
fn who_finds_no_place_is_told_so() {
    crate::service::take_descriptors().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (path, _server) = server(folder.path());
    let clients: Vec<_> = (0..places::CLIENTS).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let answer = get(&path, "/v1/show/acl");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
    drop(clients);
    let end = Instant::now() + Duration::from_secs(5);
    while ask(&path, Request::Show(Topic::Acl)).is_err() {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(10));
    }
}

/// A thousand clients at once: half of them ask and never read, and each of the others gets its answer.
#[test]
fn a_thousand_clients_are_served_though_half_of_them_never_read() {
    crate::service::take_descriptors().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (path, _server) = server(folder.path());
    let question = "GET /v1/openapi.json HTTP/1.1\r\nhost: s\r\n\r\n";
    let connect = |times: usize| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(question.repeat(times).as_bytes()).unwrap();
        stream
    };
    let deaf: Vec<_> = (0..500).map(|_| connect(50)).collect();
    let mut others: Vec<_> = (0..500).map(|_| connect(1)).collect();
    for stream in &mut others {
        let mut begin = [0; 15];
        stream.read_exact(&mut begin).unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200 OK");
    }
    // All at once there are places for, not for 24 more.
    assert!(ask(&path, Request::Show(Topic::Counters)).is_ok());
    drop((deaf, others));
}

fn whole(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let file = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().path();
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(file).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// A second gateway at the same socket, whose file is a commit of the first that waits to be confirmed, and is late.
#[test]
fn a_second_gateway_leaves_the_commits_of_the_first_alone() {
    use crate::commit::{Entry, Pending, Store};

    let folder = tempfile::tempdir().unwrap();
    let (path, _server) = server(folder.path());
    let state = PathBuf::from(format!("{}.state", path.display()));
    let text = "[interfaces.lan]\ndevice = \"no-such-device\"\naddress = \"192.168.1.1/24\"\n";
    let file = folder.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    let mut store = Store::open(&state);
    for text in ["good", text] {
        store.add(store.next(), text);
    }
    assert_eq!(store.last().map(|Entry { id, .. }| *id), Some(2));
    store.set_pending(Some(Pending { id: 2, back_to: 1, deadline: 1 }));
    assert!(store.complaints().is_empty());
    drop(store);
    let before = whole(&state);
    let refused = crate::gateway::run(&file, Some(path.clone()));
    assert!(matches!(refused, Err(crate::gateway::RunError::Api(ApiError::InUse(_)))), "{refused:?}");
    assert_eq!(whole(&state), before);
    assert!(ask(&path, Request::Show(Topic::Counters)).is_ok());
}

/// Answers as somebody else than root, and with a keeper that refuses all.
fn answer(request: &[u8], user: u32) -> String {
    let snapshot = Arc::new(Snapshot::default());
    let cores = [Core { id: 0, node: 0, silicon: 0, isolated: false }];
    let plan = plan::plan(&Workers::default(), &[], &cores).unwrap();
    let (_, counters) = counters::channel(&Counters::new(&snapshot));
    let ends = Ends { counters, inspector: None };
    let state = State::new(snapshot, [ends], Vec::new(), plan, Watch::new(Clock::Virtual(0), []));
    let gateway = Arc::new(DataPlane::within(Arc::new(state)).unwrap());
    let (desk, jobs) = std::sync::mpsc::channel::<crate::commit::Job>();
    thread::spawn(move || {
        let refusal = || crate::commit::Refusal::Conflict("as the test wants it".into());
        jobs.iter().for_each(|job| (job.reply)(Err(refusal())));
    });
    let more = crate::commit::api::routes(desk).merge(crate::capture::api::routes(gateway.clone()));
    String::from_utf8_lossy(&answer_to(request, gateway, more, user).unwrap()).into_owned()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[test]
fn who_may_only_look_is_told_so() {
    let file = r#"{"file":"c.toml","text":""}"#;
    for (path, body) in [
        ("/v1/config/commit", file),
        ("/v1/config/confirm", "{}"),
        ("/v1/config/rollback", "{}"),
        ("/v1/capture", "{}"),
        ("/v1/capture/1/stop", "{}"),
    ] {
        let said = answer(&post(path, body), 12_345);
        assert!(said.starts_with("HTTP/1.1 403 "), "{path}: {said}");
        assert!(
            said.contains("user 12345 may") && said.contains("root and the gateway's own user"),
            "{said}"
        );
        let said = answer(&post(path, body), 0);
        assert!(!said.starts_with("HTTP/1.1 403 "), "{path}: {said}");
    }
    // To look is for both.
    for user in [0, 12_345] {
        assert!(answer(&post("/v1/config/diff", file), user).starts_with("HTTP/1.1 409 "));
        assert!(
            answer(b"GET /v1/show/counters HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n", user)
                .starts_with("HTTP/1.1 200 ")
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    for (path, body) in [
        ("/v1/config/commit", ""),
        ("/v1/config/commit", "[]"),
        ("/v1/config/commit", "{\"file\":1}"),
        ("/v1/config/commit", "{\"file\":\"c\",\"text\":\"\\ud800\"}"),
        ("/v1/config/diff", "{\"file\":\"c\""),
        ("/v1/config/rollback", "{\"to\":-1}"),
        ("/v1/capture", "{"),
        ("/v1/capture", "{\"match\":7}"),
    ] {
        let said = answer(&post(path, body), 0);
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 "), "{path}: {said}");
        assert!(serde_json::from_str::<Value>(body).unwrap()["error"].is_string(), "{path}: {said}");
    }
    // A body that is cut off, lengths that cannot be, and two of them.
    for request in [
        &b"POST /v1/config/diff HTTP/1.1\r\nhost: s\r\ncontent-length: 9\r\n\r\n{"[..],
        b"POST /v1/config/diff HTTP/1.1\r\nhost: s\r\ncontent-length: -9\r\n\r\n{}",
        b"POST /v1/config/diff HTTP/1.1\r\nhost: s\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /v1/config/diff HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
        b"POST /v1/config/diff HTTP/1.1\r\nhost: s\r\ncontent-length: 999999999999\r\n\r\n{}",
    ] {
        let said = answer(request, 0);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..proptest::test_runner::Config::with_cases(60) })]

    #[test]
    fn any_request_is_answered_or_cut_off(
        request in "(GET|POST|PUT| |/v1/config/diff|/v1/capture|/v1/show/routes\\?within=|/metrics| HTTP/1.1\r\n|host: s\r\n|content-length: 2\r\n|\r\n|\\{\\}|%|.){1,12}",
        user in 0..2u32,
    ) {
        let said = answer(format!("{request}\r\n\r\n").as_bytes(), user);
        proptest::prop_assert!(said.is_empty() || said.starts_with("HTTP/1.1 "), "{said}");
    }
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
fn metrics_are_served_by_both_sockets_and_nothing_else_over_tcp() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (path, _server) = server_with(folder.path(), Some(listener));
    let remote = |target: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for answer in [get(&path, "/metrics"), remote("/metrics")] {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("\nsluice_conserved 1\n"), "{answer}");
        assert!(answer.contains("\nsluice_dropped_packets_total{reason=\"acl_deny\"} 0\n"), "{answer}");
    }
    assert!(remote("/v1/show/counters").starts_with("HTTP/1.1 404 "));
}

#[test]
fn the_description_names_every_path() {
    let described = openapi();
    let paths: Vec<&str> = described["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "/metrics",
            "/v1/block",
            "/v1/block/remove",
            "/v1/capture",
            "/v1/capture/{id}",
            "/v1/capture/{id}/stop",
            "/v1/config",
            "/v1/config/commit",
            "/v1/config/confirm",
            "/v1/config/diff",
            "/v1/config/diff/live",
            "/v1/config/history",
            "/v1/config/rollback",
            "/v1/explain",
            "/v1/nat/where",
            "/v1/nat/who",
            "/v1/show/{topic}",
            "/v1/top/flows",
            "/v1/top/hosts",
            "/v1/trace",
            "/v1/trace/clear",
            "/v1/upgrade"
        ]
    );
}

#[test]
fn the_socket_is_for_those_whom_the_configuration_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    drop(listen(&path, &Access::default()).unwrap());
    assert_eq!(mode(&path), 0o660);
    drop(listen(&path, &Access { mode: 0o600, group: None }).unwrap());
    assert_eq!(mode(&path), 0o600);
    let nobodys = Access { mode: 0o660, group: Some("no-such-group-here".into()) };
    assert!(matches!(listen(&path, &nobodys), Err(ApiError::NoGroup(_))));
    if nix::unistd::geteuid().is_root() {
        drop(listen(&path, &Access { mode: 0o660, group: Some("adm".into()) }).unwrap());
        let adm = nix::unistd::Group::from_name("adm").unwrap().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().gid(), adm.gid.as_raw());
    }
}

#[test]
fn a_socket_in_use_is_left_alone_and_a_dead_one_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (path, server) = server(folder.path());
    let access = Access::default();
    assert!(matches!(listen(&path, &access), Err(ApiError::InUse(_))));
    drop(server);
    let dead = folder.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    assert!(listen(&dead, &access).is_ok());
    // One that is about to die: it takes connections, but says nothing.
    let dying = folder.path().join("dying.sock");
    let listener = UnixListener::bind(&dying).unwrap();
    let dies = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        drop(listener);
    });
    assert!(listen(&dying, &access).is_ok());
    dies.join().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(listen(&file, &access), Err(ApiError::NoSocket(_))));
}
