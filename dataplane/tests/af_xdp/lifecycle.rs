//! Opening, closing, and what happens when something is in the way.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use sluice_dataplane::arena::FramePool;
use sluice_dataplane::port::af_xdp::{
    AttachedMode, DeviceChange, OpenError, PortSpec, XdpMode, device_facts, open,
};
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
            assert!(matches!(&error, OpenError::ProgramAttached { device, .. } if device == "a"), "{error}");
            let said = error.to_string();
            assert!(
                said.contains("(`redirect`, tag ") && said.contains(" in native mode, by the bpf_link "),
                "{said}"
            );
            assert!(said.contains("`bpftool link show id "), "{said}");
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
fn another_program_is_replaced_where_told() {
    in_namespace("another_program_is_replaced_where_told", || {
        veth("a", "b", 1);
        let (mut pool, mut other) =
            (FramePool::new(1024, false).unwrap(), FramePool::new(1024, false).unwrap());
        let wanted = PortSpec { replace: true, ..spec("a") };
        // By a bpf_link: its holder gets no more frames, and is none the worse for it.
        let (mut displaced, link) =
            open(&mut other, &[PortSpec { mode: XdpMode::Generic, ..spec("a") }]).unwrap();
        displaced[0].close(&mut other);
        let (mut ports, controls) = open(&mut pool, std::slice::from_ref(&wanted)).unwrap();
        drop(link);
        assert!(is_attached("a"));
        let wire = Wire::new("b");
        wire.send(&frames(1)[0]);
        assert_eq!(receive(&mut ports[0], &mut pool, 1), frames(1));
        ports[0].close(&mut pool);
        drop(controls);
        until(|| !is_attached("a"));

        // By netlink, as `ip` does it: two instructions, "return XDP_DROP".
        let object = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("drop.o");
        let source = "__attribute__((section(\"xdp\"), used)) int drop_all(void *ctx) { return 1; }";
        let mut clang = Command::new("clang")
            .args(["-target", "bpf", "-O2", "-g", "-c", "-x", "c", "-", "-o"])
            .arg(&object)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut clang.stdin.take().unwrap(), source.as_bytes()).unwrap();
        assert!(clang.wait().unwrap().success());
        ip(&format!("link set dev a xdpgeneric obj {} sec xdp", object.display()));
        let error = open(&mut pool, &[spec("a")]).err().unwrap().to_string();
        assert!(error.contains("in generic mode, by netlink; `ip link set dev a xdpgeneric off`"), "{error}");
        let (mut ports, _controls) = open(&mut pool, &[wanted]).unwrap();
        wire.send(&frames(1)[0]);
        assert_eq!(receive(&mut ports[0], &mut pool, 1), frames(1));
        ports[0].close(&mut pool);
        assert_eq!((pool.free(), other.free()), (1024, 1024));
    });
}

#[test]
fn a_driver_that_cannot_is_told_and_replaced() {
    in_namespace("a_driver_that_cannot_is_told_and_replaced", || {
        veth("below", "b", 1);
        ip("link add name a link below type macvlan");
        let mut pool = FramePool::new(1024, false).unwrap();
        for mode in [XdpMode::Native, XdpMode::ZeroCopy] {
            let error = open(&mut pool, &[PortSpec { mode, ..spec("a") }]).err().unwrap();
            assert!(matches!(&error, OpenError::Attach { mode: "native", .. }), "{error}");
            assert!(error.to_string().contains("the driver macvlan has no native XDP"), "{error}");
        }
        let (mut ports, controls) =
            open(&mut pool, &[PortSpec { mode: XdpMode::Auto, ..spec("a") }]).unwrap();
        let info = controls[0].info();
        assert_eq!((info.mode, info.achieved()), (AttachedMode::Generic, "generic"));
        let reason = info.fallback.as_deref().unwrap();
        assert_eq!(reason, "generic mode, as native was refused: the driver macvlan has no native XDP");
        ports[0].close(&mut pool);
    });
}

#[test]
fn copies_are_explained() {
    in_namespace("copies_are_explained", || {
        veth("a", "b", 1);
        let mut pool = FramePool::new(1024, false).unwrap();
        let spec = |mode| [PortSpec { mode, ..spec("a") }];
        let error = open(&mut pool, &spec(XdpMode::ZeroCopy)).err().unwrap().to_string();
        assert!(error.contains("the driver veth has no zero-copy; xdp = \"auto\""), "{error}");
        for (mode, achieved, fallback) in [
            (
                XdpMode::Auto,
                "native",
                Some("copies, as zero-copy was refused: the driver veth has no zero-copy"),
            ),
            (XdpMode::Native, "native", None),
            (XdpMode::Generic, "generic", None),
        ] {
            let (mut ports, controls) = open(&mut pool, &spec(mode)).unwrap();
            let info = controls[0].info();
            assert_eq!((info.achieved(), info.fallback.as_deref()), (achieved, fallback));
            ports[0].close(&mut pool);
        }
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
        assert!(refused(PortSpec { batch: 65, ..spec("a") }).contains("1 to 64 frames, not 65"));
        assert!(
            refused(PortSpec { rx_ring: 1024, ..spec("a") })
                .contains("up to 1280 frames, but there are 1024")
        );
        let kernel = vec![sluice_dataplane::port::af_xdp::KernelMatch::EtherType(0x88cc); 35];
        assert!(refused(PortSpec { kernel, ..spec("a") }).contains("at most 34"));
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
        assert_eq!(controls[0].tend(), None);
        ip("link del dev a");
        assert_eq!((controls[0].tend(), controls[0].tend()), (Some(DeviceChange::Gone), None));
        send(port, &mut pool, &frames(20));
        assert!(receive(port, &mut pool, 1).is_empty());
        let faults = controls[0].faults();
        assert!(faults.wakeups > 0 && faults.last_errno != 0, "{faults:?}");
        assert_eq!(port.close(&mut pool), 532);
        assert_eq!(pool.free(), 1024);
    });
}

#[test]
fn a_device_may_vanish_and_come_back() {
    in_namespace("a_device_may_vanish_and_come_back", || {
        const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
        veth("a", "b", 1);
        let mut pool = FramePool::new(2048, false).unwrap();
        let mac = Some(MAC);
        let (mut ports, controls) = open(&mut pool, &[PortSpec { mac, ..spec("a") }]).unwrap();
        let (port, control) = (&mut ports[0], &controls[0]);
        let old = control.info();
        for round in 0..3 {
            // Some with the kernel, some not fetched, some not sent.
            Wire::new("b").send(&frames(1)[0]);
            let descriptors = port.descriptors().to_vec();
            ip("link del dev a");
            assert_eq!(control.tend(), Some(DeviceChange::Gone));
            send(port, &mut pool, &frames(20));
            // There, but held by another.
            veth("a", "b", 1);
            let mut other = FramePool::new(1024, false).unwrap();
            let (mut others, held) = open(&mut other, &[spec("a")]).unwrap();
            let Some(DeviceChange::Failed(reason)) = control.tend() else { panic!("the device is not free") };
            assert!(reason.contains("has an XDP program already"), "{reason}");
            others[0].close(&mut other);
            drop(held);
            until(|| !is_attached("a"));
            let Some(DeviceChange::Back(info)) = control.tend() else { panic!("the device is back") };
            assert!(info.ifindex != old.ifindex && *info == control.info());
            assert_eq!(control.tend(), None);

            // The worker takes the new queues with its next call.
            assert!(receive(port, &mut pool, 0).is_empty());
            let wire = Wire::new("b");
            wire.send(&frames(1)[0]);
            assert_eq!(receive(port, &mut pool, 1), frames(1), "round {round}");
            send(port, &mut pool, &frames(200));
            assert_eq!(wire.receive_many(200), frames(200));
            assert_eq!(port.descriptors().len(), descriptors.len());
            until(|| {
                port.transmit(0, &mut pool, &mut Outbox::new(1));
                port.lent() == 512
            });
            assert_eq!((port.lent(), pool.free()), (512, 1536), "a frame stayed with the old device");
        }
        assert_eq!(port.close(&mut pool), 512);
        assert_eq!(pool.free(), 2048);
    });
}

/// Gives the calling thread no more than these capabilities (by number).
fn keep_capabilities(kept: &[u32]) {
    let set = kept.iter().fold(0u64, |set, bit| set | 1 << bit);
    // linux/capability.h: version 3, this thread; effective, permitted and inheritable, in two halves.
    let header = [0x2008_0522u32, 0];
    let data = [set as u32, set as u32, 0, (set >> 32) as u32, (set >> 32) as u32, 0];
    // SAFETY: concerns this thread alone; the kernel reads both arrays, which are as long as it expects.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

#[test]
fn what_privilege_is_missing_is_said() {
    in_namespace("what_privilege_is_missing_is_said", || {
        veth("a", "b", 1);
        ip("link set dev a down");
        let mut pool = FramePool::new(1024, false).unwrap();
        let mut refused = || open(&mut pool, &[spec("a")]).err().unwrap().to_string();
        keep_capabilities(&[CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK]);
        let error = refused();
        assert!(error.contains("`a`: loading the XDP program is not permitted; run as root, or"), "{error}");
        keep_capabilities(&[]);
        let error = refused();
        assert!(
            error.contains("not permitted; run as root, or with the capabilities CAP_NET_ADMIN"),
            "{error}"
        );
        assert_eq!(pool.free(), 1024);
    });
}

#[test]
fn too_little_locked_memory_is_said() {
    const ALONE: &str = "SLUICE_TEST_MEMLOCK";
    const NAME: &str = "too_little_locked_memory_is_said";
    // The limit is a whole process's, so the test runs itself as one of its own.
    if std::env::var_os(ALONE).is_some() {
        in_namespace(NAME, || {
            veth("a", "b", 1);
            let mut pool = FramePool::new(1024, false).unwrap();
            let limit = libc::rlimit { rlim_cur: 65536, rlim_max: 65536 };
            // SAFETY: reads the structure.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }, 0);
            keep_capabilities(&[CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN, CAP_BPF]);
            let error = open(&mut pool, &[spec("a")]).err().unwrap().to_string();
            assert!(error.contains("may not lock 2097152 bytes") && error.contains("`ulimit -l`"), "{error}");
            assert_eq!(pool.free(), 1024);
        });
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("lifecycle::{NAME}"), "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
}
