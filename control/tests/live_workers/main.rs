//! Several workers: a gateway with two of them between two namespaces, on veth pairs of four queues. Without the privilege
//! each test says so and passes.
#![allow(unsafe_code)]

mod flows;
mod lab;
#[path = "../netns/mod.rs"]
mod netns;

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use flows::{Ends, FLOWS, WINDOW};
use lab::{Setup, Wire, mac, station};
use netns::{Station, in_ipv4_namespace, ip, until};
use sluice_control::device::{Changes, Inventory, Wanted};

/// Two workers, on one core if there are no more.
fn config(host: &str, more: &str) -> String {
    let has_two = thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    let cores = if has_two { "[0, 1]" } else { "[0, 0]" };
    format!(
        r#"
[interfaces.lan]
device = "lan0"
address = "192.0.2.1/24"
host = "{host}"

[interfaces.wan]
device = "wan0"
address = "203.0.113.1/24"
host = "{host}"

[[routes]]
to = "10.1.0.0/16"
via = "192.0.2.2"

[[routes]]
to = "198.51.100.0/24"
via = "203.0.113.2"

[workers]
cores = {cores}
{more}"#
    )
}

/// Two stations behind the gateway's devices, which have `queues` queues at each end.
fn stations(queues: u32) -> [Station; 2] {
    [station("lan0", queues, "192.0.2.2/24"), station("wan0", queues, "203.0.113.2/24")]
}

fn rows(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

/// Many flows both ways: none lost, none out of order, and every packet accounted for.
fn flows_go_both_ways(setup: &Setup, external: Option<[u8; 4]>) {
    let [lan, wan] = &stations(4);
    ip("address add 192.0.2.1/24 dev lan0");
    ip("address add 203.0.113.1/24 dev wan0");
    let mut gateway = setup.start();
    let ends = Ends {
        lan: &Wire::new(lan),
        wan: &Wire::new(wan),
        gateway: [mac("lan0"), mac("wan0")],
        stations: [lan.within(|| mac("eth0")), wan.within(|| mac("eth0"))],
        external,
    };
    // Neighbours first, at both workers: what waits for them is bounded.
    until("neighbours", || flows::run(&ends, 64, 1, 1).returned == 64);
    let before = setup.show("counters");
    let begun = Instant::now();
    let outcome = flows::run(&ends, FLOWS, 10, WINDOW);
    let took = begun.elapsed();
    let workers = setup.show("workers");
    thread::sleep(Duration::from_millis(100));
    let after = setup.show("counters");
    let crossed = after["crossing"]["crossed"].as_u64().unwrap_or(0);
    println!("{} packets each way in {took:?}, {crossed} crossed in all", outcome.sent);
    for row in rows(&workers) {
        println!(
            "worker {}: {} packets a second in bursts of {} (median), {} turns; {} % crossed in the last second",
            row["worker"],
            row["packets_per_second"],
            row["burst_p50"],
            row["loops_per_second"],
            row["crossed_percent"]
        );
    }
    let lines = gateway.lines();
    assert_eq!(
        (outcome.sent, outcome.returned, outcome.disordered),
        (FLOWS * 10, FLOWS * 10, 0),
        "{after:#} {lines:#?}"
    );
    assert!(rows(&workers).iter().all(|row| row["packets_per_second"].as_u64() > Some(0)), "{workers:#}");
    assert_eq!(after["conserved"], true, "{after:#}");
    let drops = |counters: &Value| {
        counters["drops"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>()
    };
    assert_eq!(drops(&after), drops(&before), "{after:#}");
    let interfaces = setup.show("interfaces");
    for row in rows(&interfaces) {
        for count in ["kernel_rx_dropped", "kernel_rx_ring_full", "kernel_fill_ring_empty"] {
            assert_eq!(row[count], 0, "{row:#}");
        }
    }
    // Those of sessions that others carry come in by and by.
    until("every packet is listed", || {
        let flows = setup.show("flows");
        assert!(rows(&flows).len() >= FLOWS, "{} sessions", rows(&flows).len());
        let packets =
            |way: &str| rows(&flows).iter().filter_map(|row| row[way]["packets"].as_u64()).sum::<u64>();
        packets("forward") + packets("reply") >= 20 * FLOWS as u64
    });
    let (status, _) = gateway.end();
    assert!(status.success(), "{:#?}", gateway.lines());
}

const NAT: &str = "[[nat.source]]\nout = \"wan\"\nfrom = \"10.1.0.0/16\"\n";
const EXTERNAL: [u8; 4] = [203, 0, 113, 1];

#[test]
fn ten_thousand_flows_go_both_ways() {
    in_ipv4_namespace("ten_thousand_flows_go_both_ways", || {
        flows_go_both_ways(&Setup::new(&config("sluice", "")), None);
    });
}

#[test]
fn ten_thousand_flows_go_both_ways_through_nat() {
    in_ipv4_namespace("ten_thousand_flows_go_both_ways_through_nat", || {
        flows_go_both_ways(&Setup::new(&config("sluice", NAT)), Some(EXTERNAL));
    });
}

/// What an operator is told of NAT, over the API: what is given out to whom, by pool, external address, block, subscriber and
/// binding, what was refused, and who has a port.
///
/// proves: RFC 6888 REQ-10
#[test]
fn what_nat_gives_out_is_shown() {
    in_ipv4_namespace("what_nat_gives_out_is_shown", || {
        let limits = "block-size = 128\nmax-blocks = 1\nmax-sessions = 1000\nmax-new-per-second = 100000\n";
        let setup = Setup::new(&config("sluice", &format!("{NAT}{limits}")));
        let [lan, wan] = &stations(4);
        ip("address add 192.0.2.1/24 dev lan0");
        ip("address add 203.0.113.1/24 dev wan0");
        let gateway = setup.start();
        let ends = Ends {
            lan: &Wire::new(lan),
            wan: &Wire::new(wan),
            gateway: [mac("lan0"), mac("wan0")],
            stations: [lan.within(|| mac("eth0")), wan.within(|| mac("eth0"))],
            external: Some(EXTERNAL),
        };
        // Neighbours first: what waits for them is bounded.
        until("neighbours", || flows::run(&ends, 64, 1, 1).returned == 64);
        assert_eq!(flows::run(&ends, 300, 1, 64).returned, 300);
        let nat = setup.show("nat");
        let pool = &nat["pools"][0];
        assert_eq!(
            [&pool["bindings"], &pool["blocks_used"], &pool["max_sessions"], &pool["max_new_per_second"]],
            [&300.into(), &3.into(), &1000.into(), &100_000.into()] as [&Value; 4],
            "{pool:#}"
        );
        assert_eq!(nat["external"][0]["udp_ports_used"], 300, "{:#}", nat["external"]);
        assert_eq!((rows(&nat["subscribers"]).len(), rows(&nat["blocks"]).len()), (3, 3));
        for row in rows(&nat["subscribers"]) {
            let figures = ["sessions", "ports", "blocks"].map(|figure| row[figure].as_u64());
            assert_eq!(figures, [Some(100), Some(100), Some(1)], "{row:#}");
        }
        assert!(rows(&nat["blocks"]).iter().all(|row| row["ports_used"] == 100));
        assert_eq!(rows(&nat["bindings"]).len(), 300);
        let binding = &rows(&nat["bindings"])[17];
        let (inside, external) = (binding["inside"].as_str().unwrap(), binding["external"].as_str().unwrap());
        let (address, port) = external.split_once(':').unwrap();
        let who = setup.ask(&["nat", "who", address, port]);
        let hits: Vec<_> =
            rows(&who).iter().map(|hit| (hit["by"].as_str(), hit["inside"].as_str())).collect();
        let host = inside.split_once(':').map(|(host, _)| host);
        assert_eq!(hits.len(), 2, "the block and the binding: {who:#}");
        assert!(hits.contains(&(Some("block"), host)) && hits.contains(&(Some("binding"), host)), "{who:#}");
        let counters = setup.show("counters");
        let live = [&counters["nat_bindings"], &counters["sessions"]].map(Value::as_u64);
        assert_eq!(live, [Some(300), Some(300)], "{counters:#}");
        drop(gateway);
    });
}

/// What the kernel knows of neighbours, every worker is told.
#[test]
fn ten_thousand_flows_go_both_ways_where_the_kernel_is_the_host() {
    in_ipv4_namespace("ten_thousand_flows_go_both_ways_where_the_kernel_is_the_host", || {
        flows_go_both_ways(&Setup::new(&config("kernel", NAT)), Some(EXTERNAL));
    });
}

#[test]
fn workers_that_have_nothing_to_do_sleep() {
    in_ipv4_namespace("workers_that_have_nothing_to_do_sleep", || {
        let _stations = stations(4);
        let setup = Setup::new(&config("sluice", ""));
        let gateway = setup.start();
        thread::sleep(Duration::from_secs(1));
        let threads = gateway.threads();
        assert_eq!(threads.len(), 2);
        let used = || threads.iter().map(|&thread| gateway.core_time(thread)).collect::<Vec<_>>();
        let (before, begun) = (used(), Instant::now());
        thread::sleep(Duration::from_secs(2));
        let (after, took) = (used(), begun.elapsed());
        for (before, after) in before.into_iter().zip(after) {
            let share = (after - before).as_secs_f64() / took.as_secs_f64();
            println!("idle, a worker takes {:.2} % of a core", share * 100.0);
            assert!(share < 0.03, "{share}");
        }
        for row in rows(&setup.show("workers")) {
            assert_eq!(
                (&row["state"], &row["packets_per_second"]),
                (&"running".into(), &0.into()),
                "{row:#}"
            );
            assert!(row["idle_percent"].as_f64() > Some(99.0), "{row:#}");
            assert!(row["asleep_percent"].as_f64() > Some(90.0), "{row:#}");
        }
    });
}

/// The thread of one worker alone is stopped, as a debugger does it.
#[test]
fn a_worker_that_stalls_is_told() {
    in_ipv4_namespace("a_worker_that_stalls_is_told", || {
        let _stations = stations(2);
        let setup = Setup::new(&config("sluice", ""));
        let gateway = setup.start();
        let thread = gateway.threads()[1];
        thread::sleep(Duration::from_millis(1100));
        let none: *mut libc::c_void = std::ptr::null_mut();
        // SAFETY: concerns a thread of our own child; no memory is handed over.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, none, none) };
        if seized != 0 {
            println!("SKIP a_worker_that_stalls_is_told: {}", std::io::Error::last_os_error());
            return;
        }
        let begun = Instant::now();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none) }, 0);
        // SAFETY: waits for that thread; where to store its status is not asked for.
        assert_eq!(unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) }, thread);
        let is_it =
            |line: &str| line.starts_with("worker 1: no turn of its loop") && line.contains("is stopped");
        let told = || gateway.line(is_it);
        until("the stall is told", || told().is_some());
        let (at, line) = told().unwrap();
        println!("told after {:?}: {line}", at - begun);
        let rows_now = setup.show("workers");
        let states: Vec<&Value> = rows(&rows_now).iter().map(|row| &row["state"]).collect();
        assert_eq!(states[1], "stalled", "{rows_now:#}");
        // SAFETY: as above; the thread goes on.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_DETACH, thread, none, none) }, 0);
        until("it goes on", || gateway.line(|line| line.starts_with("worker 1: goes on, after ")).is_some());
        let rows_now = setup.show("workers");
        assert_eq!(
            (&rows_now[1]["state"], rows_now[1]["stalls"].as_u64() >= Some(1)),
            (&"running".into(), true)
        );
        // What it says itself: how long the worker had been silent when it was noticed.
        let silent = line.split(" for ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        assert!(silent.is_some_and(|ms| ms <= 100), "{line}");
    });
}

#[test]
fn two_workers_die_and_begin_again_in_time() {
    in_ipv4_namespace("two_workers_die_and_begin_again_in_time", || {
        let _stations = stations(4);
        let setup = Setup::new(&config("sluice", ""));
        let mut readiness = Vec::new();
        for _ in 0..4 {
            let begun = Instant::now();
            let gateway = setup.start();
            let (ready, line) = gateway.line(|line| line.starts_with("ready:")).unwrap();
            assert!(line.starts_with("ready: worker 0 on core 0, worker 1 on core "), "{line}");
            readiness.push(ready - begun);
            // SIGKILL.
            drop(gateway);
        }
        println!("ready after {readiness:?}; the first had nobody before it");
        // The machine may have been busy with something else, but not each time.
        assert!(readiness[1..].iter().any(|took| *took < Duration::from_secs(2)), "{readiness:?}");

        let mut gateway = setup.start();
        let (status, took) = gateway.end();
        println!("stopped after {took:?}");
        assert!(status.success() && took < Duration::from_secs(1), "{took:?}: {:#?}", gateway.lines());
        let (_, last) = gateway.line(|line| line.starts_with("stopped in")).unwrap();
        assert!(last.contains("16384 of 16384 packet buffers home, conserved: true"), "{last}");
    });
}

#[test]
fn a_device_gets_as_many_channels_as_there_are_workers() {
    in_ipv4_namespace("a_device_gets_as_many_channels_as_there_are_workers", || {
        let _stations = stations(2);
        let facts = |device| Inventory::read(None).unwrap().device(device).unwrap().unwrap();
        let one = Wanted { channels: Some(1), ..Wanted::default() };
        let mut changes = Changes::default();
        changes.make(&one, &facts("wan0")).unwrap();
        let setup = Setup::new(&config("sluice", ""));
        let mut gateway = setup.start();
        let lines = gateway.lines();
        let said = "wan0: 2 channels while in service, in place of 1";
        assert!(lines.iter().any(|line| line == said), "{lines:#?}");
        assert_eq!(facts("wan0").queues, 2);
        gateway.end();
        assert_eq!(facts("wan0").queues, 1);
    });
}

#[test]
fn too_few_queues_are_told() {
    in_ipv4_namespace("too_few_queues_are_told", || {
        let _stations = stations(1);
        let said = Setup::new(&config("sluice", "")).refused();
        assert!(said.contains("too few queues (1) for 2 workers"), "{said}");
        assert!(said.contains("channels = 2") && said.contains("[workers] count = 1"), "{said}");
    });
}
