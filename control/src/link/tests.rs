use std::sync::mpsc;
use std::time::Instant;

use sluice_dataplane::clock::Clock;

use super::*;
use crate::config::Workers;
use crate::device::machine::Core;
use crate::plan;
use crate::watch::Watch;

fn state() -> Arc<State> {
    let cores = [Core { id: 0, node: 0, silicon: 0, isolated: false }];
    let plan = plan::plan(&Workers::default(), &[], &cores).unwrap();
    let watch = Watch::new(Clock::Virtual(0), []);
    Arc::new(State::new(Arc::default(), Vec::<crate::state::Ends>::new(), Vec::new(), plan, watch))
}

/// A desk, its link, and what it is asked to have done.
fn desk(state: &Arc<State>) -> (Arc<Desk>, UnixStream, mpsc::Receiver<Errand>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (errands, to_do) = mpsc::channel();
    let greeting = Greeting { text: "as it was".into(), ..Greeting::default() };
    let desk = Arc::new(Desk::new(state, greeting, None, errands));
    serve(theirs, desk.clone()).unwrap();
    (desk, ours, to_do)
}

#[test]
fn control_takes_over_what_runs() {
    let state = state();
    let (desk, link, to_do) = desk(&state);
    let data_plane = DataPlane::at(link).unwrap();
    assert_eq!(data_plane.greet().unwrap().text, "as it was");
    assert!(!desk.is_serving());
    data_plane.serving().unwrap();
    assert!(desk.is_serving());
    assert_eq!(data_plane.pulse().unwrap(), Pulse::default());
    desk.hang_up();
    assert!(data_plane.pulse().unwrap().hang_up);
    assert!(!data_plane.pulse().unwrap().hang_up, "told once");
    assert!(data_plane.metrics().unwrap().contains("\nsluice_conserved 1\n"));
    assert!(data_plane.show(Topic::Counters).unwrap().get().contains("\"conserved\":true"));

    let sinks = vec![SinkStatus { sink: "file x".into(), written: 3, ..SinkStatus::default() }];
    assert_eq!(data_plane.records(7, sinks.clone()).unwrap(), Batch { first: 7, records: Vec::new() });
    assert_eq!(state.nat_log(), sinks);
    // The next control process goes on counting where this one has come to.
    desk.expect();
    assert_eq!(data_plane.greet().unwrap().sinks, sinks);

    thread::scope(|scope| {
        let file = "[interfaces.lan]\ndevice = \"eth1\"\naddress = \"192.168.1.1/24\"\n";
        let wrong = data_plane.adopt("c.toml".into(), file.replace("lan", "l n")).unwrap_err();
        assert!(wrong.starts_with("c.toml: not adopted, all stays as it was:\nc.toml:1:"), "{wrong}");
        let adopted = scope.spawn(|| data_plane.adopt("c.toml".into(), file.into()));
        let Ok(Errand::Adopt { name, text, reply, .. }) = to_do.recv() else { panic!("no errand") };
        assert_eq!((name.as_str(), text.as_str()), ("c.toml", file));
        // What is short is answered meanwhile.
        assert_eq!(data_plane.outcome(), Ok(None));
        reply.send(Err("no".into())).unwrap();
        assert_eq!(adopted.join().unwrap(), Err("no".into()));
    });
    desk.adopted("new".into());
    let outcome = Outcome { generation: 1, kept: 2, ended: 3, milliseconds: 4, adopt_nanoseconds: 5 };
    desk.settled(outcome);
    assert_eq!(data_plane.outcome(), Ok(Some(outcome)));
    assert_eq!(data_plane.greet().unwrap().text, "new");
    data_plane.stop().unwrap();
    assert!(matches!(to_do.recv(), Ok(Errand::Stop)));
    desk.end();
    assert!(data_plane.pulse().unwrap().ended);
}

#[test]
fn another_version_is_refused_in_words_and_junk_ends_nothing() {
    let state = state();
    let (_desk, link, _to_do) = desk(&state);
    let ask = |body: &[u8]| {
        send(&link, 5, body).unwrap();
        let (number, answer) = receive(&link).unwrap();
        assert_eq!(number, 5);
        String::from_utf8(answer).unwrap()
    };
    let greet = format!("{{\"Greet\":{{\"version\":{}}}}}", VERSION + 1);
    assert!(ask(greet.as_bytes()).contains("not of one `sluice`"));
    for junk in [&b""[..], b"{}", b"\xff", b"{\"Greet\":{}}", b"[[[[", b"{\"State\":{\"nothing\":{}}}"] {
        assert!(ask(junk).starts_with("{\"Err\":\"this is no question"), "{junk:?}");
    }
    assert!(ask(b"\"Pulse\"").starts_with("{\"Ok\":"));
    // A length that cannot be is the end of the link.
    (&link).write_all(&[0xff; 16]).unwrap();
    assert!(receive(&link).is_err());
}

/// A control process that takes none of its answers ends its own link, and holds up no other.
#[test]
fn who_takes_no_answers_is_cut_off() {
    let state = state();
    let (desk, link, _to_do) = desk(&state);
    link.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let begun = Instant::now();
    let show = b"{\"State\":{\"metrics\":{}}}";
    while send(&link, 1, show).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is still served");
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    serve(theirs, desk).unwrap();
    assert!(DataPlane::at(ours).unwrap().greet().is_ok());
}

#[test]
fn a_data_plane_that_is_gone_is_noticed() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let data_plane = DataPlane::at(ours).unwrap();
    thread::scope(|scope| {
        let asked = scope.spawn(|| data_plane.greet());
        assert!(receive(&theirs).is_ok());
        drop(theirs);
        assert_eq!(asked.join().unwrap(), Err("the data plane has ended".into()));
    });
    assert!(!data_plane.is_there());
    assert!(data_plane.greet().is_err());
}

#[test]
fn sockets_are_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let api = UnixListener::bind(folder.path().join("s")).unwrap();
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    for metrics in [None, Some(&metrics)] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        hand_over(&ours, &api, metrics).unwrap();
        let (taken, taken_metrics) = take_over(&theirs).unwrap();
        assert_eq!(taken.local_addr().unwrap().as_pathname(), Some(folder.path().join("s").as_path()));
        assert_eq!(
            taken_metrics.map(|socket| socket.local_addr().unwrap()),
            metrics.map(|socket| socket.local_addr().unwrap())
        );
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    assert!(take_over(&theirs).is_err());
}

#[test]
fn descriptors_arrive_in_their_order_however_many() {
    use std::io::Read;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let pairs: Vec<_> = (0..150u8).map(|_| UnixStream::pair().unwrap()).collect();
    let (near, far): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let far: Vec<OwnedFd> = far.into_iter().map(OwnedFd::from).collect();
    send_descriptors(&ours, &far).unwrap();
    send(&ours, 7, b"behind them").unwrap();
    let received = receive_descriptors(&theirs, 150).unwrap();
    for (number, (mut near, far)) in near.into_iter().zip(received).enumerate() {
        near.write_all(&[number as u8]).unwrap();
        let mut byte = [0];
        UnixStream::from(far).read_exact(&mut byte).unwrap();
        assert_eq!(usize::from(byte[0]), number);
    }
    assert_eq!(receive(&theirs).unwrap(), (7, b"behind them".to_vec()));
    drop(ours);
    assert!(receive_descriptors(&theirs, 1).is_err());
}
