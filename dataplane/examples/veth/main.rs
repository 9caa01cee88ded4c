//! The ends of a benchmark over veth, for `scripts/bench-veth`: a load that no forwarder can take, a sink that costs next
//! to nothing, and a stopwatch for single packets.
//!
//! Load and sink are XDP programs, in `load.bpf.c`, compiled by the script. The load comes from `BPF_PROG_TEST_RUN` with
//! live frames, redirected into the veth: this takes no socket buffers, and makes three times what a sender on AF_XDP makes.

mod latency;
mod load;
mod test_run;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// What goes wrong ends the program, in words.
type Done<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
enum Command {
    /// Sends UDP of many flows, as fast as one core can, until its input ends; prints counts and time, as JSON, for each
    /// line of it
    Load(Load),
    /// Counts and drops UDP until its input ends; prints likewise
    Sink {
        /// The compiled XDP programs
        #[arg(long)]
        object: PathBuf,
        /// The device
        device: String,
    },
    /// Latency one way, between two sockets that may be in different namespaces
    #[command(subcommand)]
    Latency(Latency),
}

/// A load.
#[derive(clap::Args)]
struct Load {
    /// The compiled XDP programs
    #[arg(long)]
    object: PathBuf,
    /// The device to send on
    device: String,
    /// Its address
    #[arg(long, value_parser = mac)]
    from_mac: [u8; 6],
    /// The forwarder's address
    #[arg(long, value_parser = mac)]
    to_mac: [u8; 6],
    /// Sender
    #[arg(long)]
    from: Ipv4Addr,
    /// Receiver
    #[arg(long)]
    to: SocketAddrV4,
    /// Flows, by source port
    #[arg(long, default_value_t = 10_000)]
    flows: u32,
}

#[derive(Subcommand)]
enum Latency {
    /// Sends time stamps
    Send {
        /// Own address
        #[arg(long)]
        from: SocketAddrV4,
        /// The receiver
        to: SocketAddrV4,
        /// How many
        #[arg(long, default_value_t = 3000)]
        count: u32,
        /// A second
        #[arg(long, default_value_t = 1000)]
        rate: u32,
    },
    /// Receives them; prints quantiles as JSON once the given count is there, or nothing comes for 2 s
    Receive {
        /// Own address
        at: SocketAddrV4,
        /// How many
        #[arg(long, default_value_t = 3000)]
        count: u32,
    },
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| "write it as 02:00:00:00:00:01".into())
}

fn main() -> Done {
    match Command::parse() {
        Command::Load(options) => load::load(&options),
        Command::Sink { object, device } => load::sink(&object, &device),
        Command::Latency(Latency::Send { from, to, count, rate }) => latency::send(from, to, count, rate),
        Command::Latency(Latency::Receive { at, count }) => latency::receive(at, count),
    }
}
