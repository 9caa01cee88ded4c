//! `sluice bench pipeline`, on a small scale: every feature forwards every packet, and the report is complete.

use clap::Parser;
use serde_json::Value;
use sluice_control::bench::{BenchError, PipelineOptions, pipeline};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    options: PipelineOptions,
}

fn options(args: &[&str]) -> PipelineOptions {
    Cli::try_parse_from([&["bench"], args].concat()).unwrap().options
}

fn run(args: &[&str]) -> Value {
    let report = pipeline(&options(args)).unwrap();
    assert!(report.to_string().contains("cycles per packet"));
    serde_json::to_value(&report).unwrap()
}

#[test]
fn every_set_of_features_forwards_every_packet() {
    let sets =
        ["route", "route,acl", "route,nat", "route,police", "route,shape", "route,acl,nat,police,shape"];
    let hosts = ["none", "accounts", "queues"];
    for (features, hosts) in sets.into_iter().zip(hosts.into_iter().cycle()).chain([(sets[5], hosts[1])]) {
        // Neither count is a multiple of a burst.
        let args = ["--flows", "250", "--packets", "10001", "--acl-rules", "7"];
        let report = run(&[&args[..], &["--features", features, "--hosts", hosts]].concat());
        let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key} of {features}"));
        assert_eq!((number("flows"), number("packets"), number("drops")), (250.0, 10_001.0, 0.0));
        assert_eq!(report["conserved"], true);
        let positive = [
            "mpps",
            "ns_per_packet",
            "cycles_per_packet",
            "generator_cycles_per_packet",
            "tsc_hz",
            "first_packets_ns",
            "bytes_per_flow",
        ];
        for key in positive {
            assert!(number(key) > 0.0, "{key} of {features}");
        }
        assert!((number("mpps") * number("ns_per_packet") - 1000.0).abs() < 0.1);
        let stages = report["stages"].as_object().unwrap();
        for stage in ["admit", "look_up", "forward", "transmit"] {
            assert!(stages[stage].as_f64().unwrap() > 0.0, "{stage} of {features}");
        }
        assert!(!stages.contains_key("first_packets"), "a session was made twice: {features}");
    }
}

#[test]
fn every_family_protocol_and_order_goes_both_ways() {
    for (family, frame) in [("4", "64"), ("6", "78")] {
        for protocol in ["udp", "tcp"] {
            for order in ["random", "seq", "zipf"] {
                let features = if family == "4" { "route,acl,nat,police" } else { "route,acl,police" };
                let args =
                    ["--flows", "250", "--packets", "5001", "--features", features, "--both-directions"];
                let kind =
                    ["--family", family, "--frame-size", frame, "--protocol", protocol, "--order", order];
                let report = run(&[&args[..], &kind].concat());
                assert_eq!((&report["packets"], &report["drops"]), (&5001.into(), &0.into()), "{kind:?}");
                assert_eq!(
                    (&report["both_directions"], &report["protocol"]),
                    (&true.into(), &protocol.into())
                );
                assert!(!report["stages"].as_object().unwrap().contains_key("parse"), "{kind:?}");
            }
        }
    }
}

#[test]
fn the_largest_frames_in_sequence_and_more_flows_than_packets_are_fine() {
    let report = run(&["--flows", "300", "--packets", "100", "--frame-size", "1518", "--order", "seq"]);
    assert_eq!((&report["packets"], &report["frame_size"]), (&100.into(), &1518.into()));
}

#[test]
fn a_pool_of_several_addresses_serves_all_flows() {
    let report = run(&["--flows", "130000", "--packets", "1000", "--features", "route,nat"]);
    assert_eq!(report["flows"], 130_000);
}

#[test]
fn new_sessions_come_and_go_beside_the_others() {
    for features in ["route", "route,acl,nat,police"] {
        let flows = ["--flows", "500", "--packets", "200000", "--both-directions"];
        let report =
            run(&[&flows[..], &["--new-flows-per-second", "20000", "--features", features]].concat());
        let number = |key: &str| report["new_flows"][key].as_f64().unwrap();
        // The packets of 20 ms, in virtual time: 400 sessions, 64 at a time.
        assert!((number("made") - 400.0).abs() <= 64.0, "{features}: {report}");
        assert_eq!(number("per_second"), 20_000.0);
        // They live 0.5 to 1.6 seconds.
        assert!((10_500.0..34_000.0).contains(&number("live")), "{features}: {report}");
        for key in ["first_packet_ns", "standing_cycles_alone", "standing_cycles_beside"] {
            assert!(number(key) > 0.0, "{key}: {report}");
        }
    }
    assert!(run(&["--flows", "10", "--packets", "10"]).get("new_flows").is_none());
}

#[test]
fn wrong_options_are_refused_in_words() {
    let cases = [
        (vec!["--flows", "0"], "--flows must be 1 to 16777216, not 0"),
        (vec!["--packets", "0"], "--packets must be at least 1, not 0"),
        (vec!["--frame-size", "63"], "--frame-size must be 64 to 1518, not 63"),
        (vec!["--frame-size", "1519"], "--frame-size must be 64 to 1518, not 1519"),
        (vec!["--family", "6"], "--frame-size must be 66 to 1518, not 64"),
        (
            vec!["--family", "6", "--frame-size", "66", "--features", "route,nat"],
            "--family 6 does not go with these features: NAT is for IPv4, and there are 4 and 6",
        ),
        (
            vec!["--new-flows-per-second", "2000001"],
            "--new-flows-per-second must be 1 to 2000000, not 2000001",
        ),
        (vec!["--acl-rules", "0"], "--acl-rules must be 1 to 60000, not 0"),
        (
            vec!["--features", "acl,nat"],
            "--features must contain route: every packet is routed; write --features route,acl,nat",
        ),
    ];
    for (args, expected) in cases {
        assert_eq!(pipeline(&options(&args)).unwrap_err().to_string(), expected);
    }
    let error = pipeline(&options(&["--core", "100000"])).unwrap_err();
    assert!(matches!(error, BenchError::Core { core: 100_000, .. }));
    let error = Cli::try_parse_from(["bench", "--features", "route,teleport"]).unwrap_err().to_string();
    assert!(error.contains("teleport") && error.contains("police"));
}
