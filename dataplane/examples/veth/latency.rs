//! One-way latency: a time stamp travels in each datagram. Both ends read the machine's one real-time clock.

use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use super::Done;

/// Datagrams ahead of those that count: ARP, and a flow's first packet.
const WARM_UP: u32 = 100;
const SILENCE: Duration = Duration::from_secs(2);

fn now() -> Done<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// Sends at an even rate.
pub(super) fn send(from: SocketAddrV4, to: SocketAddrV4, count: u32, rate: u32) -> Done {
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    let step = Duration::from_secs(1) / rate.max(1);
    let mut due = Instant::now();
    for _ in 0..count + WARM_UP {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += step;
        socket.send(&now()?.to_ne_bytes())?;
    }
    Ok(())
}

/// Receives, and prints quantiles in microseconds.
pub(super) fn receive(at: SocketAddrV4, count: u32) -> Done {
    let socket = UdpSocket::bind(at)?;
    // The first one may take its time, as the sender is started later.
    socket.set_read_timeout(Some(SILENCE * 10))?;
    let mut histogram = Histogram::<u64>::new(3)?;
    let mut stamp = [0; 8];
    let mut received = 0;
    while received < count + WARM_UP {
        match socket.recv(&mut stamp) {
            Ok(8) => {}
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
        let nanos = now()?.saturating_sub(u64::from_ne_bytes(stamp));
        received += 1;
        if received == 1 {
            socket.set_read_timeout(Some(SILENCE))?;
        }
        if received > WARM_UP {
            histogram.record(nanos)?;
        }
    }
    let quantile = |q| histogram.value_at_quantile(q) as f64 / 1e3;
    println!(
        r#"{{"packets": {}, "p50_us": {:.1}, "p99_us": {:.1}, "max_us": {:.1}}}"#,
        histogram.len(),
        quantile(0.5),
        quantile(0.99),
        histogram.max() as f64 / 1e3
    );
    Ok(())
}
