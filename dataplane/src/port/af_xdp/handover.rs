//! A device in service, from one process to another: its descriptors, and what is to be known of it besides. The sockets, their
//! rings and the XDP program go on meanwhile, as all of them belong to their descriptors and not to a process.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::control::{Held, SharedSocket};
use super::device::device_facts;
use super::lent::Lent;
use super::port::{Chain, Receiver, Sender};
use super::program::{AttachedMode, Count, Handles, Passed, Program};
use super::sides::Sides;
use super::socket::{KernelDrops, Socket};
use super::{AfXdpPort, DeviceControl, DeviceInfo, PortSpec};
use crate::arena::Memory;
use crate::port::PortState;
use crate::saved::{Fields, Record};

/// A device as it is handed over.
#[derive(Debug)]
pub struct Handed {
    /// Its descriptors, in an order that [`inherit`] knows.
    pub descriptors: Vec<OwnedFd>,
    /// What is to be known of it.
    pub facts: Vec<u8>,
}

impl DeviceControl {
    /// What another process needs to go on with the device.
    ///
    /// # Errors
    /// It cannot be had, in words: the device is gone for now, or there are no descriptors left.
    pub fn hand_over(&self) -> Result<Handed, String> {
        let state = self.state();
        let in_words = |error: std::io::Error| format!("{}: {error}", self.name());
        if state.missing.is_some() {
            return Err(format!(
                "{}: the device {} is not there; wait until it is back",
                self.name(),
                self.spec.device
            ));
        }
        let Held { info, program, sockets, batches, polled, memberships } = &state.held;
        let mut descriptors = Vec::new();
        for socket in sockets {
            descriptors.push(socket.duplicate().map_err(in_words)?);
        }
        descriptors.extend(program.handles.duplicate().map_err(in_words)?);
        descriptors.push(memberships.try_clone().map_err(in_words)?);
        let mut facts = Vec::new();
        let fields = &mut Fields::new(&mut facts);
        fields.u32(sockets.len() as u32).u32(info.ifindex).u8(u8::from(info.mode == AttachedMode::Native));
        fields.u8(info.zero_copy.into()).u32(info.group);
        fields.u8(info.fallback.is_some().into()).bytes(info.fallback.as_deref().unwrap_or("").as_bytes());
        fields.u32(self.spec.rx_ring).u32(self.spec.tx_ring).u8((*polled).into());
        fields.u32(self.spec.owners.len() as u32);
        self.spec.owners.iter().for_each(|&owner| _ = fields.u32(owner as u32));
        batches.iter().for_each(|&batch| _ = fields.u32(batch));
        fields.u8(program.handles.has_lists().into());
        let Passed { matched, no_socket, blocked } = state.passed;
        for Count { packets, bytes } in [matched, no_socket, blocked] {
            fields.u64(packets).u64(bytes);
        }
        let KernelDrops { rx_dropped, rx_ring_full, fill_ring_empty, rx_invalid, tx_invalid } = state.drops;
        fields.u64(rx_dropped).u64(rx_ring_full).u64(fill_ring_empty).u64(rx_invalid).u64(tx_invalid);
        Ok(Handed { descriptors, facts })
    }
}

/// The ports of devices that another process hands over: each worker's, in the order of the specs, and the devices. Rings are
/// mapped, but nothing is taken from them before the ports [go on](crate::port::Port::go_on). `frames` are those that each worker
/// has.
///
/// # Errors
/// In words. Nothing about the devices has changed.
pub fn inherit(
    memory: &Memory,
    frames: &[u32],
    specs: &[PortSpec],
    handed: Vec<Handed>,
) -> Result<(Vec<Vec<AfXdpPort>>, Vec<DeviceControl>), String> {
    if specs.len() != handed.len() {
        return Err(format!(
            "{} devices are handed over, and the configuration has {}",
            handed.len(),
            specs.len()
        ));
    }
    let mut by_worker: Vec<Vec<AfXdpPort>> = frames.iter().map(|_| Vec::with_capacity(specs.len())).collect();
    let mut controls = Vec::with_capacity(specs.len());
    for (spec, handed) in specs.iter().zip(handed) {
        let (ports, control) = device(memory, frames, spec.clone(), handed)
            .map_err(|reason| format!("{}: {}: {reason}", spec.name, spec.device))?;
        controls.push(control);
        by_worker.iter_mut().zip(ports).for_each(|(own, port)| own.push(port));
    }
    Ok((by_worker, controls))
}

fn device(
    memory: &Memory,
    frames: &[u32],
    mut spec: PortSpec,
    Handed { descriptors, facts }: Handed,
) -> Result<(Vec<AfXdpPort>, DeviceControl), String> {
    let mut record = Record::new(&facts);
    let (queues, ifindex, is_native) = (record.u32(), record.u32(), record.u8() != 0);
    let (zero_copy, group) = (record.u8() != 0, record.u32());
    let (has_fallback, fallback) = (record.u8() != 0, record.text());
    // What the rings have, whatever they would be given now.
    (spec.rx_ring, spec.tx_ring) = (record.u32(), record.u32());
    let polled = record.u8() != 0;
    spec.owners = (0..record.u32().min(queues)).map(|_| record.u32() as usize).collect();
    let mut next = || record.u32();
    let batches: Vec<u32> = (0..queues.min(1 << 16)).map(|_| next()).collect();
    let has_lists = record.u8() != 0;
    let mut next = || record.u64();
    let mut count = || Count { packets: next(), bytes: next() };
    let passed = Passed { matched: count(), no_socket: count(), blocked: count() };
    let drops = KernelDrops {
        rx_dropped: next(),
        rx_ring_full: next(),
        fill_ring_empty: next(),
        rx_invalid: next(),
        tx_invalid: next(),
    };
    let found = device_facts(&spec.device).map_err(|error| error.to_string())?;
    if found.ifindex != ifindex {
        return Err("it is another device than before".into());
    }
    let sides =
        Sides::new(&spec.owners, queues, frames.len()).ok_or("there are fewer queues than workers")?;
    let mut descriptors = descriptors.into_iter();
    let sockets: Vec<OwnedFd> = descriptors.by_ref().take(queues as usize).collect();
    let handles = Handles::of(&mut descriptors, spec.host_is_kernel, has_lists);
    let handles = handles.ok_or("descriptors are missing")?;
    let memberships = descriptors.next().ok_or("descriptors are missing")?;
    let mode = if is_native { AttachedMode::Native } else { AttachedMode::Generic };
    let program = Program::inherit(handles, mode)?;

    let mut ports: Vec<AfXdpPort> = frames
        .iter()
        .map(|_| AfXdpPort {
            receivers: Vec::new(),
            sender: None,
            sockets: Vec::new(),
            descriptors: Vec::new(),
            lent: Lent::new(memory.count()),
            turn: 0,
            batch: spec.batch as usize,
            polled,
            zero_copy,
            faults: Arc::default(),
            renewal: Arc::default(),
        })
        .collect();
    let mut shared = Vec::with_capacity(sockets.len());
    let of_queues = sockets.into_iter().zip(&sides.receivers).zip(&sides.senders).zip(&batches);
    for (((socket, &receiver), &sender), &batch) in of_queues {
        let socket = Socket::inherit(socket);
        let in_words = |error: std::io::Error| format!("mapping its rings: {error}");
        let (fd, receive) = (socket.as_raw_fd(), socket.receive_rings(spec.rx_ring).map_err(in_words)?);
        let send = sender.map(|_| socket.send_rings(spec.tx_ring)).transpose().map_err(in_words)?;
        let socket = SharedSocket::new(socket);
        if let Some(port) = ports.get_mut(receiver) {
            let (fill, rx) = receive;
            let longest = found.longest();
            port.receivers.push(Receiver { fd, fill, rx, wanted: 0, longest, chain: Chain::None });
            port.descriptors.push(fd);
            port.sockets.push(socket.hold());
        }
        if let (Some((ring, completion)), Some(port)) =
            (send, sender.and_then(|worker| ports.get_mut(worker)))
        {
            let size = spec.tx_ring;
            let batch = if zero_copy { size } else { batch.max(1) };
            port.sender = Some(Sender { fd, ring, completion, room: 0, size, batch });
            port.sockets.push(socket.hold());
        }
        shared.push(socket);
    }
    let info = DeviceInfo {
        device: spec.device.clone(),
        driver: found.driver,
        mac: found.mac,
        mtu: found.mtu,
        queues,
        ifindex,
        mode,
        zero_copy,
        group,
        pages: memory.pages(),
        fallback: has_fallback.then_some(fallback),
    };
    let held = Held { info, program, sockets: shared, batches, polled, memberships };
    let control =
        DeviceControl::new(spec, held, &ports, memory.clone(), frames.to_vec()).after(passed, drops);
    Ok((ports, control))
}

impl AfXdpPort {
    /// Where the port stands.
    pub(super) fn stand(&self) -> PortState {
        PortState {
            lent: self.lent.words().to_vec(),
            wanted: self.receivers.iter().map(|receiver| receiver.wanted).collect(),
            midway: self.receivers.iter().map(|receiver| receiver.chain.midway()).collect(),
            room: self.sender.as_ref().map_or(0, |sender| sender.room),
        }
    }

    /// Goes on there: the rings are as they are now.
    pub(super) fn take_up(&mut self, state: &PortState) {
        self.lent.set(&state.lent);
        let midway = state.midway.iter().chain(std::iter::repeat(&0));
        for ((receiver, &wanted), bytes) in self.receivers.iter_mut().zip(&state.wanted).zip(midway) {
            receiver.wanted = wanted;
            // What had come of it is free memory again.
            receiver.chain = bytes.checked_sub(1).map_or(Chain::None, Chain::Refused);
            receiver.fill.look_again();
            receiver.rx.look_again();
        }
        if let Some(sender) = &mut self.sender {
            sender.room = state.room;
            sender.ring.look_again();
            sender.completion.look_again();
        }
    }
}
