//! The command line from outside: `sluice replay` over good and broken captures, `check`, and `show` without a gateway.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sluice_control::golden::packets;
use sluice_dataplane::port::pcap::Reader;
use sluice_dataplane::verdict::DropReason;

const CLIENT: &str = "eth 02:00:00:00:00:10 > 02:00:00:00:00:01 / ipv4 192.168.1.10 > 198.51.100.7";
const SERVER: &str = "eth 02:00:00:00:00:20 > 02:00:00:00:00:02 / ipv4 198.51.100.7 > 203.0.113.2";

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn sluice(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A folder with captures, and replays of them with `demo.toml`.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file; returns the words that hand it to `port`.
    fn file(&self, port: &str, name: &str, bytes: &[u8]) -> [String; 2] {
        fs::write(self.path(name), bytes).unwrap();
        ["--in".into(), format!("{port}={}", self.path(name).display())]
    }

    fn replay<S: AsRef<OsStr>>(&self, further: impl IntoIterator<Item = S>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.arg("replay").arg("--config").arg(configs().join("demo.toml")).arg("--json");
        command.args(further).output().unwrap()
    }

    /// What the replay of one file as `lan` says when it refuses it: one line, without the program's name and folder.
    fn refusal(&self, bytes: &[u8]) -> String {
        let output = self.replay(self.file("lan", "given.pcap", bytes));
        self.complaint(&output)
    }

    fn complaint(&self, output: &Output) -> String {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let text = stderr(output);
        assert_eq!(text.lines().count(), 1, "{text}");
        let folder = format!("{}/", self.0.path().display());
        text.trim_end().strip_prefix("sluice: ").unwrap().replace(&folder, "")
    }
}

/// The figures of a replay that went well.
fn figures(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures["conserved"], true, "{figures:#}");
    figures
}

/// A capture of what one port receives, in the words of `packets.txt`.
fn capture(words: &str) -> Vec<u8> {
    let ports = packets::parse(words).unwrap();
    assert_eq!(ports.len(), 1);
    packets::capture(ports.values().next().unwrap()).unwrap()
}

/// Datagrams of a client at these times (seconds).
fn datagrams(times: &[&str]) -> Vec<u8> {
    let lines = times.iter().enumerate();
    let lines =
        lines.map(|(i, time)| format!("{time} lan {CLIENT} / udp {} > 53 / payload \"hello\"\n", 4000 + i));
    capture(&lines.collect::<String>())
}

/// Time (ns) and bytes of each packet in a capture.
fn read(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let mut reader = Reader::new("output", bytes.as_slice()).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.advance().unwrap() {
        found.push((record.time, reader.bytes().to_vec()));
    }
    found
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_figures_have_their_fixed_shape() {
    let bench = Bench::new();
    let lan = bench.file("lan", "lan.pcap", &datagrams(&["0", "0.5", "0.5"]));
    let out = bench.path("out");
    let output = bench.replay(lan.iter().map(OsStr::new).chain(["--out".as_ref(), out.as_os_str()]));
    let figures = figures(&output);
    assert!(output.stderr.is_empty(), "{output:?}");
    let top = ["ports", "drops", "punted", "held", "originated", "split_extra", "conserved"];
    assert!(top.iter().all(|key| keys(&figures).contains(key)), "{figures:#}");
    assert_eq!(keys(&figures["ports"]), BTreeSet::from(["lan", "wan"]));
    let counts = BTreeSet::from(["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"]);
    assert!(figures["ports"].as_object().unwrap().values().all(|port| keys(port) == counts));
    assert_eq!(keys(&figures["drops"]), DropReason::ALL.iter().map(|reason| reason.name()).collect());

    // 14 + 20 + 8 + 5 bytes each, in and out.
    assert_eq!(
        (&figures["ports"]["lan"]["rx_packets"], &figures["ports"]["lan"]["rx_bytes"]),
        (&3.into(), &141.into())
    );
    let sent = read(&out.join("wan.pcap"));
    let forwarded = sent.iter().filter(|(_, bytes)| bytes[12..14] == [8, 0]).count();
    assert_eq!(forwarded, 3);
    for port in ["lan", "wan"] {
        let sent = read(&out.join(format!("{port}.pcap")));
        let bytes: usize = sent.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(figures["ports"][port]["tx_packets"], sent.len());
        assert_eq!(figures["ports"][port]["tx_bytes"], bytes);
    }
}

#[test]
fn two_replays_give_the_same_bytes() {
    let bench = Bench::new();
    let lan = bench.file("lan", "lan.pcap", &datagrams(&["0", "0.1", "0.2", "3", "3", "700"]));
    let once = |name: &str| {
        let out = bench.path(name);
        let output = bench.replay(lan.iter().map(OsStr::new).chain(["--out".as_ref(), out.as_os_str()]));
        figures(&output);
        (output.stdout, fs::read(out.join("lan.pcap")).unwrap(), fs::read(out.join("wan.pcap")).unwrap())
    };
    assert_eq!(once("first"), once("second"));
}

#[test]
fn no_folder_is_needed_for_the_figures() {
    let bench = Bench::new();
    let lan = bench.file("lan", "lan.pcap", &datagrams(&["0"]));
    assert_eq!(figures(&bench.replay(&lan))["ports"]["lan"]["rx_packets"], 1);
    assert_eq!(fs::read_dir(bench.0.path()).unwrap().count(), 1);
}

#[test]
fn without_an_input_nothing_comes_in() {
    let figures = figures(&Bench::new().replay::<&str>([]));
    assert!(figures["ports"].as_object().unwrap().values().all(|port| port["rx_packets"] == 0));
}

#[test]
fn what_is_no_capture_is_refused() {
    let bench = Bench::new();
    assert_eq!(
        bench.refusal(b""),
        "given.pcap: the file is empty; a capture has a header even when it holds no packet"
    );
    assert_eq!(
        bench.refusal(b"this is a letter, not a capture"),
        "given.pcap: neither a pcap nor a pcapng capture (the file begins with 74 68 69 73)"
    );
    let mut raw_ip = datagrams(&["0"]);
    raw_ip[20] = 101;
    assert_eq!(
        bench.refusal(&raw_ip),
        "given.pcap: at byte 20: link type 101 (raw IP, without Ethernet headers) is not Ethernet; capture on an Ethernet interface"
    );
    assert_eq!(
        bench.refusal(&datagrams(&["0"])[..23]),
        "given.pcap: at byte 0: the file is cut off within what begins here; whole packets before it: 0"
    );
    fs::create_dir(bench.path("folder.pcap")).unwrap();
    let folder = format!("lan={}", bench.path("folder.pcap").display());
    assert_eq!(
        bench.complaint(&bench.replay(["--in", &folder])),
        "folder.pcap: at byte 0: cannot be read: Is a directory (os error 21)"
    );
    let missing = format!("lan={}", bench.path("none.pcap").display());
    assert_eq!(
        bench.complaint(&bench.replay(["--in", &missing])),
        "none.pcap: cannot be opened: No such file or directory (os error 2)"
    );
}

#[test]
fn a_capture_cut_off_is_replayed_up_to_there_with_a_warning() {
    let bench = Bench::new();
    let whole = datagrams(&["0", "1", "2"]);
    let lan = bench.file("lan", "lan.pcap", &whole[..whole.len() - 10]);
    let output = bench.replay(&lan);
    assert_eq!(figures(&output)["ports"]["lan"]["rx_packets"], 2);
    let text = stderr(&output);
    assert!(text.starts_with("sluice: warning: ") && text.lines().count() == 1, "{text}");
    assert!(
        text.contains(
            "lan.pcap: at byte 150: the file is cut off within what begins here; whole packets before it: 2"
        ),
        "{text}"
    );
}

#[test]
fn a_capture_that_turns_into_garbage_is_replayed_up_to_there_and_fails() {
    let bench = Bench::new();
    let mut bytes = datagrams(&["0", "1"]);
    bytes.extend_from_slice(&[0xff; 16]);
    let output = bench.replay(bench.file("lan", "lan.pcap", &bytes));
    assert_eq!(output.status.code(), Some(1));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&figures["ports"]["lan"]["rx_packets"], &figures["conserved"]), (&2.into(), &true.into()));
    let text = stderr(&output);
    assert!(
        text.contains("lan.pcap: at byte 150: packet 3 claims to have 4294967295 captured bytes"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn ports_are_named_as_the_configuration_does() {
    let bench = Bench::new();
    let bytes = datagrams(&["0"]);
    let dmz = bench.file("dmz", "a.pcap", &bytes);
    assert_eq!(
        bench.complaint(&bench.replay(&dmz)),
        "--in dmz: the configuration has no port of that name; its ports are lan, wan"
    );
    for wrong in ["lan", "=a.pcap", "lan="] {
        let output = bench.replay(["--in", wrong]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("write it as PORT=FILE"), "{output:?}");
    }
}

#[test]
fn captures_of_one_port_are_merged_by_time() {
    let bench = Bench::new();
    let whole = bench.file("lan", "whole.pcap", &datagrams(&["0", "1", "2"]));
    let out = |name: &str| bench.path(name).into_os_string();
    let replay = |inputs: &[String], name: &str| {
        let further = [OsStr::new("--out").to_owned(), out(name), "--speed".into(), "40x".into()];
        let output = bench.replay(inputs.iter().map(|word| OsStr::new(word).to_owned()).chain(further));
        (figures(&output), fs::read(bench.path(name).join("wan.pcap")).unwrap())
    };
    let words = |first: &str, second: &str, time: &str| {
        capture(&format!("{time} lan {CLIENT} / udp {first} > 53 / payload \"{second}\"\n"))
    };
    let first = [words("4000", "hello", "0"), words("4002", "hello", "2")];
    let packed = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let parts = [
        bench.file("lan", "a.pcap", &first[0]),
        bench.file("lan", "c.pcap.gz", &packed(&first[1])),
        bench.file("lan", "b.pcap", &words("4001", "hello", "1")),
    ];
    assert_eq!(replay(&whole, "one"), replay(&parts.concat(), "two"));
}

#[test]
fn an_output_never_takes_the_place_of_an_input() {
    let bench = Bench::new();
    let bytes = datagrams(&["0"]);
    let out = bench.0.path().to_str().unwrap();
    for (port, name) in [("lan", "lan.pcap"), ("lan", "wan.pcap"), ("wan", "lan.pcap")] {
        let input = bench.file(port, name, &bytes);
        let complaint =
            bench.complaint(&bench.replay(input.iter().map(String::as_str).chain(["--out", out])));
        assert_eq!(
            complaint,
            format!("{name}: the output would overwrite this input; give another folder with --out")
        );
        assert_eq!(fs::read(bench.path(name)).unwrap(), bytes);
        fs::remove_file(bench.path(name)).unwrap();
    }
    let input = bench.file("lan", "original.pcap", &bytes);
    std::os::unix::fs::symlink(bench.path("original.pcap"), bench.path("wan.pcap")).unwrap();
    bench.complaint(&bench.replay(input.iter().map(String::as_str).chain(["--out", out])));
    assert_eq!(fs::read(bench.path("original.pcap")).unwrap(), bytes);
}

#[test]
fn a_folder_that_cannot_be_made_is_told() {
    let bench = Bench::new();
    let input = bench.file("lan", "file", &datagrams(&["0"]));
    let out = bench.path("file/out");
    let output = bench.replay(input.iter().map(OsStr::new).chain(["--out".as_ref(), out.as_os_str()]));
    assert_eq!(bench.complaint(&output), "cannot make the folder file/out: Not a directory (os error 20)");
}

/// The reply is let in by `wan`'s ACL only behind the request, which came in by `lan`.
#[test]
fn packets_of_all_ports_arrive_in_the_order_of_their_times() {
    let bench = Bench::new();
    let ping = |time: &str| format!("{time} lan {CLIENT} / icmp echo-request id 7 seq 1\n");
    let answers = ["1.5", "2.5"].map(|time| format!("{time} wan {SERVER} / icmp echo-reply id 1024 seq 1\n"));
    let lan = bench.file("lan", "lan.pcap", &capture(&[ping("1"), ping("2")].concat()));
    let out = bench.path("out");
    let replayed = |wan: [String; 2]| {
        let files = lan.iter().chain(&wan).map(OsStr::new);
        let output = bench.replay(files.chain(["--out".as_ref(), out.as_os_str()]));
        figures(&output);
        let sent = read(&out.join("wan.pcap"));
        let request = sent.iter().find(|(_, bytes)| bytes[12..14] == [8, 0]).unwrap().1.clone();
        let back = read(&out.join("lan.pcap"));
        let back =
            back.iter().filter(|(_, bytes)| bytes[12..14] == [8, 0]).map(|(time, _)| time % 10_000_000_000);
        (u16::from_be_bytes([request[38], request[39]]), back.collect::<Vec<_>>())
    };
    let (identifier, _) = replayed(bench.file("wan", "wan.pcap", &capture(&answers.concat())));
    let answers = answers.concat().replace("id 1024", &format!("id {identifier}"));
    let early = format!("0.5 wan {SERVER} / icmp echo-reply id {identifier} seq 1\n");
    let (_, back) = replayed(bench.file("wan", "wan.pcap", &capture(&(early + &answers))));
    assert_eq!(back, [1_500_000_000, 2_500_000_000]);
}

#[test]
fn times_that_go_back_are_taken_for_the_latest_one() {
    let bench = Bench::new();
    let line = |time: &str| format!("{time} lan {CLIENT} / udp 4000 > 53 / payload \"hello\"\n");
    let mut arrivals =
        packets::parse(&["3", "5", "9", "9.5"].map(line).concat()).unwrap().remove("lan").unwrap();
    arrivals[..3].rotate_left(1);
    let lan = bench.file("lan", "lan.pcap", &packets::capture(&arrivals).unwrap());
    let out = bench.path("out");
    let output = bench.replay(lan.iter().map(OsStr::new).chain(["--out".as_ref(), out.as_os_str()]));
    assert_eq!(figures(&output)["ports"]["lan"]["rx_packets"], 4);
    let sent = read(&out.join("wan.pcap"));
    let times: Vec<_> =
        sent.iter().filter(|(_, bytes)| bytes[12..14] == [8, 0]).map(|(time, _)| *time).collect();
    assert_eq!(
        times.iter().map(|time| time - times[0]).collect::<Vec<_>>(),
        [0, 4_000_000_000, 4_000_000_000, 4_500_000_000]
    );
}

/// Seconds and microseconds of every record, as a file of another program may have them.
fn with_times(mut bytes: Vec<u8>, seconds: u32, fraction: u32) -> Vec<u8> {
    let mut at = 24;
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        bytes[at..at + 4].copy_from_slice(&seconds.to_le_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&fraction.to_le_bytes());
        at += 16 + len;
    }
    bytes
}

#[test]
fn any_time_will_do() {
    let bench = Bench::new();
    for (seconds, fraction) in [(0, 0), (0, u32::MAX), (u32::MAX, 999_999_999), (u32::MAX, u32::MAX)] {
        let lan = bench.file("lan", "lan.pcap", &with_times(datagrams(&["0", "1"]), seconds, fraction));
        let out = bench.path("out");
        let output = bench.replay(lan.iter().map(OsStr::new).chain(["--out".as_ref(), out.as_os_str()]));
        assert_eq!(figures(&output)["ports"]["lan"]["rx_packets"], 2, "{seconds}");
        let sent = read(&out.join("wan.pcap"));
        assert!(sent.iter().all(|(time, _)| time / 1_000_000_000 >= u64::from(seconds)), "{seconds}");
    }
}

/// pcapng has 64 bits for the time, in units of up to a second; the latest are the end of what nanoseconds can count.
#[test]
fn the_end_of_time_will_do() {
    let bench = Bench::new();
    let packet = packets::parse(&format!("0 lan {CLIENT} / udp 1 > 2 / payload len 2"))
        .unwrap()
        .remove("lan")
        .unwrap();
    let bytes = &packet[0].bytes;
    let block = |kind: u32, body: &[u8]| {
        let total = (body.len() + 12) as u32;
        [&kind.to_le_bytes()[..], &total.to_le_bytes(), body, &total.to_le_bytes()].concat()
    };
    let section =
        block(0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    let interface = block(1, &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes.len(), 44);
    let len = 44u32.to_le_bytes();
    let packet = |time: [u8; 8]| block(6, &[&[0; 4][..], &time, &len, &len, bytes].concat());
    let file = [section, interface, packet([0; 8]), packet([255; 8]), packet([255; 8])].concat();
    let out = bench.path("out");
    let lan = bench.file("lan", "lan.pcapng", &file);
    let output = bench.replay(lan.iter().map(OsStr::new).chain(["--out".as_ref(), out.as_os_str()]));
    let figures = figures(&output);
    assert_eq!(figures["ports"]["lan"]["rx_packets"], 3);
    assert_eq!(read(&out.join("wan.pcap")).iter().filter(|(_, bytes)| bytes[12..14] == [8, 0]).count(), 3);
}

#[test]
fn a_wrong_configuration_is_reported_as_check_does() {
    let bench = Bench::new();
    let path = bench.path("wrong.toml");
    fs::write(&path, "[interfaces.lan]\naddress = \"192.168.1.1/33\"\n").unwrap();
    let replay = sluice(["replay".as_ref(), "--config".as_ref(), path.as_os_str()]);
    let check = sluice(["check".as_ref(), path.as_os_str()]);
    assert_eq!((replay.status.code(), check.status.code()), (Some(1), Some(1)));
    let (replay, check) = (stderr(&replay), stderr(&check));
    assert!(check.contains("wrong.toml:2:11: error: "), "{check}");
    assert!(check.contains("address = \"192.168.1.1/33\""), "{check}");
    assert!(replay.contains(check.trim_end()), "{replay}\n{check}");

    let missing = sluice(["replay".as_ref(), "--config".as_ref(), bench.path("none.toml").as_os_str()]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("none.toml: error: cannot read the file: No such file"), "{missing:?}");
}

#[test]
fn check_says_fine_or_what_is_wrong() {
    for name in ["demo.toml", "home-gateway.toml", "datacenter-edge.toml"] {
        let output = sluice(["check".as_ref(), configs().join(name).as_os_str()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().ends_with(": fine, 0 warnings\n"));
        let output = sluice(["check".as_ref(), "--json".as_ref(), configs().join(name).as_os_str()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["errors"], &report["warnings"]), (&0.into(), &0.into()));
        assert_eq!(report["diagnostics"], Value::Array(Vec::new()));
    }
    let bench = Bench::new();
    let path = bench.path("wrong.toml");
    fs::write(&path, "[interfaces.lan]\naddress = \"192.168.1.1/24\"\nadress = 1\n").unwrap();
    let output = sluice(["check".as_ref(), "--json".as_ref(), path.as_os_str()]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"], 1, "{report:#}");
    let found = &report["diagnostics"][0];
    assert_eq!(
        (&found["severity"], &found["place"]["line"], &found["place"]["column"]),
        (&"error".into(), &3.into(), &1.into())
    );
    assert_eq!(found["place"]["excerpt"], "adress = 1");
    assert!(found["help"].as_str().unwrap().contains("address"), "{found:#}");

    for (name, bytes) in [("empty.toml", &b""[..]), ("binary.toml", b"\xff\xfe\0\0"), ("text.toml", b"hello")]
    {
        fs::write(bench.path(name), bytes).unwrap();
        let output = sluice(["check".as_ref(), bench.path(name).as_os_str()]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(name) && stderr(&output).contains("error"), "{output:?}");
    }
}

#[test]
fn show_without_a_gateway_says_so() {
    let bench = Bench::new();
    let socket = bench.path("none.sock");
    for topic in ["counters", "flows", "nat", "acl", "interfaces", "neighbors", "routes"] {
        let output = sluice([
            "show".as_ref(),
            topic.as_ref(),
            "--json".as_ref(),
            "--socket".as_ref(),
            socket.as_os_str(),
        ]);
        let complaint = bench.complaint(&output);
        assert!(complaint.starts_with("none.sock: no gateway answers on this control socket"), "{complaint}");
    }
}
