//! The load, and the sink.

use std::io::BufRead;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::Instant;

use aya::maps::{MapData, PerCpuArray};
use aya::programs::{Xdp, XdpFlags};
use aya::{Ebpf, EbpfLoader};
use sluice_dataplane::port::af_xdp::device_facts;

use super::test_run::live_frames;
use super::{Done, Load};

/// Bytes of a frame of 64 bytes without its FCS.
const FRAME: usize = 60;
const IP: usize = 14;
const UDP: usize = 34;
const FIRST_PORT: u32 = 1024;
/// Frames that the kernel makes at a time.
const BATCH: u32 = 64;

/// What a program counts: its index in the map.
#[derive(Clone, Copy)]
enum Count {
    Loaded = 0,
    Sunk = 1,
}

/// Sends until its input ends.
pub(super) fn load(options: &Load) -> Done {
    let (frame, sum) = template(options);
    let facts = device_facts(&options.device)?;
    let mut ebpf = EbpfLoader::new()
        .set_global("ifindex", &facts.ifindex, true)
        .set_global("flows", &options.flows.clamp(1, 65_536 - FIRST_PORT), true)
        .set_global("first_port", &FIRST_PORT, true)
        .set_global("sum", &sum, true)
        .load_file(&options.object)?;
    program(&mut ebpf, "load")?;
    let counts = counts(&mut ebpf)?;
    // One system call, as the kernel takes tens of milliseconds to clear up after each. It ends with the process.
    thread::spawn(move || {
        let run = |load: &mut Xdp| Ok(live_frames(load.fd()?.as_fd(), &frame, u32::MAX, BATCH)?);
        if let Err(error) = program(&mut ebpf, "load").and_then(run) {
            println!("the load ends: {error}");
        }
    });
    answer(&counts, Count::Loaded)
}

/// Drops and counts until its input ends.
pub(super) fn sink(object: &Path, device: &str) -> Done {
    let mut ebpf = EbpfLoader::new().load_file(object)?;
    let counts = counts(&mut ebpf)?;
    program(&mut ebpf, "sink")?.attach(device, XdpFlags::DRV_MODE)?;
    answer(&counts, Count::Sunk)
}

/// A count by core, and the time, for each line of input.
fn answer(counts: &PerCpuArray<MapData, u64>, count: Count) -> Done {
    let begun = Instant::now();
    for line in std::io::stdin().lock().lines() {
        line?;
        let cores: Vec<u64> = counts.get(&(count as u32), 0)?.iter().copied().collect();
        println!(r#"{{"seconds": {:.6}, "by_core": {cores:?}}}"#, begun.elapsed().as_secs_f64());
    }
    Ok(())
}

fn counts(ebpf: &mut Ebpf) -> Done<PerCpuArray<MapData, u64>> {
    Ok(PerCpuArray::try_from(ebpf.take_map("counts").ok_or("no map `counts`")?)?)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Done<&'a mut Xdp> {
    let program: &mut Xdp = ebpf.program_mut(name).ok_or("no such program in the object")?.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    Ok(program)
}

/// A frame without source port and UDP checksum, and the sum of what the checksum covers.
fn template(options: &Load) -> ([u8; FRAME], u32) {
    let mut frame = [0; FRAME];
    let ip_len = (FRAME - IP) as u16;
    let udp_len = (FRAME - UDP) as u16;
    frame[..6].copy_from_slice(&options.to_mac);
    frame[6..12].copy_from_slice(&options.from_mac);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[IP] = 0x45;
    frame[IP + 2..IP + 4].copy_from_slice(&ip_len.to_be_bytes());
    frame[IP + 8..IP + 10].copy_from_slice(&[64, 17]);
    frame[IP + 12..IP + 16].copy_from_slice(&options.from.octets());
    frame[IP + 16..IP + 20].copy_from_slice(&options.to.ip().octets());
    let checksum = !fold(words(&frame[IP..UDP])) as u16;
    frame[IP + 10..IP + 12].copy_from_slice(&checksum.to_ne_bytes());
    frame[UDP + 2..UDP + 4].copy_from_slice(&options.to.port().to_be_bytes());
    frame[UDP + 4..UDP + 6].copy_from_slice(&udp_len.to_be_bytes());
    let pseudo = u32::from(17_u16.to_be()) + u32::from(udp_len.to_be());
    (frame, fold(words(&frame[IP + 12..]) + pseudo))
}

/// The words of RFC 1071, in the byte order of this machine.
fn words(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]]))).sum()
}

fn fold(mut sum: u32) -> u32 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
