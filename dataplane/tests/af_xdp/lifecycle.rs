//! Opening, closing, and what happens when something is in the way.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use sluice_dataplane::arena::FramePool;
use sluice_dataplane::port::af_xdp::{AttachedMode, OpenError, PortSpec, XdpMode, device_facts, open};
use sluice_dataplane::port::{Outbox, Port};

use crate::lab::{Wire, frames, in_namespace, ip, receive, send, spec, until, veth};

fn is_attached(device: &str) -> bool {
    ip(&format!("-j -d link show dev {device}")).contains(r#""prog":"#)
}

#[test]
fn nothing_stays_after_a_port() {
    in_namespace("nothing_stays_after_a_port", || {
        veth("a", "b", 1);
        ip("link set dev a down");
        let mut pool = FramePool::new(1024, false).unwrap();
        for _ in 0..3 {
            let (mut ports, controls) = open(&mut pool, &[spec("a")]).unwrap();
            assert!(is_attached("a"));
            assert_eq!((ports[0].lent(), pool.free()), (512, 512));
            assert_eq!(ports[0].close(&mut pool), 512);
            assert_eq!((ports[0].close(&mut pool), pool.free()), (0, 1024));
            drop(controls);
            until(|| !is_attached("a"));
            assert!(!is_attached("a"));
        }
        let facts = device_facts("a").unwrap();
        assert_eq!((facts.driver.as_str(), facts.mtu, facts.queues), ("veth", 1500, 1));
        assert!(ip("-j link show dev a").contains(&facts.mac.map(|byte| format!("{byte:02x}")).join(":")));
    });
}

#[test]
fn a_queue_without_a_socket_is_the_kernels() {
    in_namespace("a_queue_without_a_socket_is_the_kernels", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let (mut ports, controls) = open(&mut pool, &[spec("a")]).unwrap();
        ports[0].close(&mut pool);
        let (wire, kernel) = (Wire::new("b"), Wire::new("a"));
        frames(10).iter().for_each(|frame| wire.send(frame));
        assert_eq!(kernel.receive_many(10), frames(10));
        let passed = controls[0].passed();
        assert_eq!((passed.no_socket.packets, passed.matched.packets), (10, 0));
        assert_eq!(passed.no_socket.bytes, frames(10).iter().map(|frame| frame.len() as u64).sum::<u64>());
    });
}

#[test]
fn a_killed_process_leaves_nothing_behind() {
    const HOLD: &str = "SLUICE_TEST_HOLD";
    const NAME: &str = "a_killed_process_leaves_nothing_behind";
    // The test runs itself as the process that is killed, in its own namespace.
    if std::env::var_os(HOLD).is_some() {
        let mut pool = FramePool::new(1024, false).unwrap();
        let _held = open(&mut pool, &[spec("a")]).unwrap();
        println!("holding");
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    in_namespace(NAME, || {
        veth("a", "b", 1);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("lifecycle::{NAME}"), "--nocapture"])
            .env(HOLD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("holding")), "the child could not open the device");
        assert!(is_attached("a"));
        child.kill().unwrap();
        child.wait().unwrap();
        until(|| !is_attached("a"));
        assert!(!is_attached("a"));
        let mut pool = FramePool::new(1024, false).unwrap();
        let (mut ports, _controls) = open(&mut pool, &[spec("a")]).unwrap();
        let wire = Wire::new("b");
        wire.send(&frames(1)[0]);
        assert_eq!(receive(&mut ports[0], &mut pool, 1), frames(1));
        ports[0].close(&mut pool);
    });
}

#[test]
fn a_device_has_one_master() {
    in_namespace("a_device_has_one_master", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let mut other = FramePool::new(1024, false).unwrap();
        let (mut ports, controls) = open(&mut pool, &[spec("a")]).unwrap();
        for mode in [XdpMode::Native, XdpMode::Generic, XdpMode::Auto] {
            let error = open(&mut other, &[PortSpec { mode, ..spec("a") }]).err().unwrap();
            assert!(matches!(&error, OpenError::ProgramAttached(device) if device == "a"), "{error}");
            assert!(error.to_string().contains("has an XDP program already"), "{error}");
        }
        // The program gone, the queue is held still.
        drop(controls);
        let error = open(&mut other, &[spec("a")]).err().unwrap();
        assert!(matches!(&error, OpenError::QueueBusy { device, queue: 0 } if device == "a"), "{error}");
        assert_eq!(other.free(), 1024);
        ports[0].close(&mut pool);
        let (mut ports, _controls) = open(&mut other, &[spec("a")]).unwrap();
        ports[0].close(&mut other);
        assert_eq!((pool.free(), other.free()), (1024, 1024));
    });
}

#[test]
fn a_driver_that_cannot_is_told_and_replaced() {
    in_namespace("a_driver_that_cannot_is_told_and_replaced", || {
        veth("a", "b", 1);
        // Beyond a page veth wants a program that knows frames of several buffers.
        ip("link set dev a mtu 3600");
        ip("link set dev b mtu 3600");
        let mut pool = FramePool::new(1024, false).unwrap();
        let error = open(&mut pool, &[spec("a")]).err().unwrap();
        assert!(matches!(&error, OpenError::Attach { mode: "native", .. }), "{error}");
        let (mut ports, controls) =
            open(&mut pool, &[PortSpec { mode: XdpMode::Auto, ..spec("a") }]).unwrap();
        let info = controls[0].info();
        assert_eq!(info.mode, AttachedMode::Generic);
        let reason = info.fallback.as_deref().unwrap();
        assert!(reason.starts_with("generic mode, as native was refused: "), "{reason}");
        ports[0].close(&mut pool);
    });
}

#[test]
fn copies_are_explained() {
    in_namespace("copies_are_explained", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let (mut ports, controls) = open(&mut pool, &[spec("a")]).unwrap();
        let info = controls[0].info();
        assert!(!info.zero_copy);
        let reason = info.fallback.as_deref().unwrap();
        assert!(reason.contains("zero copy was refused"), "{reason}");
        ports[0].close(&mut pool);
    });
}

#[test]
fn what_cannot_be_opened_is_said() {
    in_namespace("what_cannot_be_opened_is_said", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let mut refused = |spec: PortSpec| open(&mut pool, &[spec]).err().unwrap().to_string();
        assert!(refused(spec("none")).contains("there is no network device `none`"));
        assert!(refused(PortSpec { rx_ring: 1000, ..spec("a") }).contains("not 1000"));
        assert!(
            refused(PortSpec { rx_ring: 1024, ..spec("a") })
                .contains("up to 1280 frames, but there are 1024")
        );
        let kernel = vec![sluice_dataplane::port::af_xdp::KernelMatch::EtherType(0x88cc); 33];
        assert!(refused(PortSpec { kernel, ..spec("a") }).contains("at most 32"));
        let mut spread = FramePool::new(1024, true).unwrap();
        assert!(matches!(open(&mut spread, &[spec("a")]), Err(OpenError::Gaps)));
        // One that cannot be opened takes the others with it.
        assert!(open(&mut pool, &[spec("a"), spec("none")]).is_err());
        until(|| !is_attached("a"));
        assert!(!is_attached("a"));
        assert_eq!(pool.free(), 1024);
    });
}

#[test]
fn a_device_may_go_down_and_come_up() {
    in_namespace("a_device_may_go_down_and_come_up", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let (mut ports, controls) = open(&mut pool, &[spec("a")]).unwrap();
        let (port, wire) = (&mut ports[0], Wire::new("b"));
        ip("link set dev a down");
        send(port, &mut pool, &frames(20));
        let faults = controls[0].faults();
        assert!(faults.wakeups > 0 && faults.last_errno == libc::ENETDOWN, "{faults:?}");
        ip("link set dev a up");
        port.transmit(0, &mut pool, &mut Outbox::new(1));
        assert_eq!(wire.receive_many(20), frames(20));
        wire.send(&frames(1)[0]);
        assert_eq!(receive(port, &mut pool, 1), frames(1));
        port.close(&mut pool);
        assert_eq!(pool.free(), 1024);
    });
}

#[test]
fn a_device_may_vanish() {
    in_namespace("a_device_may_vanish", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let (mut ports, controls) = open(&mut pool, &[spec("a")]).unwrap();
        let port = &mut ports[0];
        ip("link del dev a");
        send(port, &mut pool, &frames(20));
        assert!(receive(port, &mut pool, 1).is_empty());
        let faults = controls[0].faults();
        assert!(faults.wakeups > 0 && faults.last_errno != 0, "{faults:?}");
        assert_eq!(port.close(&mut pool), 532);
        assert_eq!(pool.free(), 1024);
    });
}
