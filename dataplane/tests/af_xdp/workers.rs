//! One device, several workers.

use sluice_dataplane::arena::FramePool;
use sluice_dataplane::burst::Burst;
use sluice_dataplane::port::af_xdp::{AfXdpPort, DeviceChange, OpenError, PortSpec, open_for};
use sluice_dataplane::port::{Outbox, Port};

use crate::lab::{Wire, frames, in_namespace, ip, receive, send, spec, until, veth};

fn owned(owners: &[usize]) -> [PortSpec; 1] {
    [PortSpec { owners: owners.to_vec(), rx_ring: 256, ..spec("a") }]
}

fn pools(parts: usize) -> Vec<FramePool> {
    FramePool::new(4096, false).unwrap().split(parts)
}

/// Each worker's one port.
fn single(ports: Vec<Vec<AfXdpPort>>) -> Vec<AfXdpPort> {
    ports.into_iter().flatten().collect()
}

/// Frames that the kernel spreads over the queues: UDP by source port.
fn spread(count: u16) -> Vec<Vec<u8>> {
    let frame = |port: u16| {
        let mut frame =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0];
        frame.extend([192, 0, 2, 9, 198, 51, 100, 9]);
        frame.extend(port.to_be_bytes());
        frame.extend([0, 9, 0, 26, 0, 0]);
        frame.resize(60, 0);
        frame
    };
    (1..=count).map(frame).collect()
}

/// Closes all ports at once, each on a thread of its own as workers do, and says whether every frame is home.
fn close_all(ports: Vec<AfXdpPort>, pools: Vec<FramePool>) -> bool {
    std::thread::scope(|scope| {
        let close = |(mut port, mut pool): (AfXdpPort, FramePool)| {
            scope.spawn(move || {
                port.close(&mut pool);
                pool.free() == pool.count() as usize
            })
        };
        let closing: Vec<_> = ports.into_iter().zip(pools).map(close).collect();
        closing.into_iter().all(|closed| closed.join().unwrap())
    })
}

#[test]
fn each_worker_receives_from_its_queues_and_sends_on_one() {
    in_namespace("each_worker_receives_from_its_queues_and_sends_on_one", || {
        veth("a", "b", 4);
        let mut pools = pools(2);
        let (ports, controls) = open_for(&mut pools, &owned(&[0, 1, 0, 1])).unwrap();
        let mut ports = single(ports);
        assert_eq!(
            ports.iter().map(|port| (port.descriptors().len(), port.lent())).collect::<Vec<_>>(),
            [(2, 512); 2]
        );
        let wire = Wire::new("b");
        let all = spread(400);
        all.iter().for_each(|frame| wire.send(frame));
        let mut got = [Vec::new(), Vec::new()];
        until(|| {
            for ((port, pool), got) in ports.iter_mut().zip(&mut pools).zip(&mut got) {
                let mut burst = Burst::default();
                port.receive(0, pool, &mut burst);
                for i in 0..burst.len() {
                    let frame = burst.take(i).unwrap();
                    got.push(frame.bytes().to_vec());
                    pool.give(frame);
                }
            }
            got[0].len() + got[1].len() == all.len()
        });
        assert!(got[0].len() > 100 && got[1].len() > 100, "{} and {}", got[0].len(), got[1].len());
        let mut together: Vec<_> = got.concat();
        together.sort_unstable();
        assert!(together == all, "other frames came than were sent");
        for (port, pool) in ports.iter_mut().zip(&mut pools) {
            send(port, pool, &frames(200));
            assert!(wire.receive_many(200) == frames(200));
        }
        assert_eq!((controls[0].faults(), controls[0].kernel_drops()), Default::default());
        assert!(close_all(ports, pools));
    });
}

#[test]
fn a_worker_that_receives_nothing_sends_all_the_same() {
    in_namespace("a_worker_that_receives_nothing_sends_all_the_same", || {
        veth("a", "b", 3);
        let mut pools = pools(3);
        // The queues 1 and 2 are received from by one worker, and sent on by others.
        let (ports, controls) = open_for(&mut pools, &owned(&[0, 0, 0])).unwrap();
        let mut ports = single(ports);
        assert_eq!(ports.iter().map(AfXdpPort::lent).collect::<Vec<_>>(), [768, 0, 0]);
        let wire = Wire::new("b");
        for (port, pool) in ports.iter_mut().zip(&mut pools) {
            send(port, pool, &frames(500));
            assert!(wire.receive_many(500) == frames(500));
        }
        let all = spread(200);
        all.iter().for_each(|frame| wire.send(frame));
        let mut got = receive(&mut ports[0], &mut pools[0], all.len());
        got.sort_unstable();
        assert!(got == all, "other frames came than were sent");
        assert_eq!((controls[0].faults(), controls[0].kernel_drops()), Default::default());
        assert!(close_all(ports, pools));
    });
}

/// The kernel has frames of the one who does not end; nothing is taken for home that it may still write to.
#[test]
fn frames_of_a_shared_socket_stay_away_while_somebody_has_it() {
    in_namespace("frames_of_a_shared_socket_stay_away_while_somebody_has_it", || {
        veth("a", "b", 2);
        let mut pools = pools(2);
        let (ports, _controls) = open_for(&mut pools, &owned(&[0, 0])).unwrap();
        let mut ports = single(ports);
        assert_eq!(ports[0].close(&mut pools[0]), 512);
        assert_eq!(pools[0].free(), 2048 - 512);
        ports[1].close(&mut pools[1]);
        assert_eq!(pools[1].free(), 2048);
    });
}

#[test]
fn a_device_that_comes_back_is_every_workers_again() {
    in_namespace("a_device_that_comes_back_is_every_workers_again", || {
        veth("a", "b", 2);
        let mut pools = pools(2);
        let (ports, controls) = open_for(&mut pools, &owned(&[0, 0])).unwrap();
        let mut ports = single(ports);
        for _ in 0..3 {
            ip("link del dev a");
            assert_eq!(controls[0].tend(), Some(DeviceChange::Gone));
            veth("a", "b", 2);
            assert!(matches!(controls[0].tend(), Some(DeviceChange::Back(_))));
            // Each with its next call, one after the other.
            for (port, pool) in ports.iter_mut().zip(&mut pools) {
                assert!(receive(port, pool, 0).is_empty());
            }
            let wire = Wire::new("b");
            for (port, pool) in ports.iter_mut().zip(&mut pools) {
                send(port, pool, &frames(100));
                assert!(wire.receive_many(100) == frames(100));
                until(|| {
                    port.transmit(0, pool, &mut Outbox::new(1));
                    pool.free() as u32 + port.lent() == 2048
                });
            }
            assert_eq!(ports.iter().map(AfXdpPort::lent).collect::<Vec<_>>(), [512, 0]);
        }
        assert!(close_all(ports, pools));
    });
}

#[test]
fn what_several_workers_lack_is_said() {
    in_namespace("what_several_workers_lack_is_said", || {
        veth("a", "b", 2);
        let refused = |parts, spec: PortSpec| open_for(&mut pools(parts), &[spec]).err().unwrap();
        let error = refused(3, spec("a"));
        assert!(matches!(&error, OpenError::Queues { queues: 2, workers: 3, .. }), "{error}");
        let error = refused(2, PortSpec { owners: vec![1, 1], rx_ring: 1024, ..spec("a") }).to_string();
        assert!(error.contains("up to 2304 frames, but there are 2048 for worker 1"), "{error}");
    });
}
