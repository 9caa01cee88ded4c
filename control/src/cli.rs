//! The command line: what is asked for, and how the answer is printed.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde_json::{Value, json};

use crate::api::{self, Request};
use crate::bench;
use crate::commit::cli;
use crate::config::{self, Config};
use crate::doctor;
use crate::export::wall;
use crate::nat_query::Query;
use crate::state::Topic;
use crate::{
    capture, control, explain, gateway, lists, log, replay, table, tech_support, top, trace, upgrade,
};

/// Exit codes: 0 fine, 1 the thing asked about is wrong or did not work, 2 the question was (clap's own).
const FAILED: u8 = 1;
/// Between two listings of `show --watch`.
const WATCH: Duration = Duration::from_secs(1);

/// A packet forwarder for gateway boxes: ACLs, NAT and rate limits over AF_XDP.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT
    #[command(after_help = "Example: sluice run /etc/sluice/sluice.toml")]
    Run(RunArgs),
    /// The control process of a gateway, which `run` starts
    #[command(hide = true)]
    Control {
        /// The configuration file, for who lists the processes
        file: PathBuf,
    },
    /// Say what is wrong with a configuration, with line and column, and what would be right
    #[command(after_help = "Example: sluice check configs/home-gateway.toml")]
    Check(CheckArgs),
    /// Say what on this machine is in the way of running well, and what to type; changes nothing
    #[command(
        after_help = "Example: sluice doctor eth1 eth2\n         sluice doctor --config /etc/sluice/sluice.toml"
    )]
    Doctor(DoctorArgs),
    /// Put captures through the pipeline: no privilege, no device, the same bytes each time
    #[command(
        after_help = "Example: sluice replay --config configs/demo.toml --in lan=lan.pcap --in wan=wan.pcap --out out/"
    )]
    Replay(replay::cli::ReplayArgs),
    /// Say what a file would change of what runs; exits with 0 if nothing, 1 if something, 2 if it cannot tell
    #[command(after_help = "Example: sluice diff /etc/sluice/sluice.toml")]
    Diff(cli::DiffArgs),
    /// Take in another configuration, all of it or nothing
    #[command(after_help = "Example: sluice commit /etc/sluice/sluice.toml --confirm 5min -m 'new uplink'")]
    Commit(cli::CommitArgs),
    /// Keep the commit that waits to be confirmed
    Confirm(cli::Whom),
    /// Go back to an earlier commit, or take back the one that waits to be confirmed
    #[command(after_help = "Example: sluice rollback 41")]
    Rollback(cli::RollbackArgs),
    /// List the commits, the last one first
    History(cli::Whom),
    /// Have another program, mostly a newer version, take over from the running one, with all sessions
    #[command(after_help = "Example: sluice upgrade --binary /usr/local/bin/sluice-next")]
    Upgrade(upgrade::cli::UpgradeArgs),
    /// The successor of a gateway, which `upgrade` has it start
    #[command(hide = true)]
    Succeed {
        /// The configuration file, for who lists the processes
        file: PathBuf,
    },
    /// Ask a running gateway
    #[command(after_help = "Example: sluice show counters --json")]
    Show(ShowArgs),
    /// Watch a running gateway on the whole screen: ports, workers, top flows and hosts, drops, classes
    #[command(after_help = "Example: sluice top --interval 2")]
    Top(TopArgs),
    /// Say what would become of a packet, stage by stage, and by which rule; sends nothing
    #[command(
        after_help = "Examples: sluice explain \"in lan tcp 192.168.1.5:1234 > 198.51.100.7:443\"\n          sluice explain \"in wan udp [2001:db8::1]:53 > [2001:db8:1::5]:4000 ttl 1\" --config new.toml"
    )]
    Explain(ExplainArgs),
    /// Block prefixes for a while, and list what is blocked
    Block(lists::cli::BlockArgs),
    /// Write packets to a file as they come in, leave, or die, with why
    #[command(
        after_help = "Examples: sluice capture --match \"udp port 53 and host 192.0.2.1\" --count 100 -w dns.pcapng\n          sluice capture --drops acl_deny --seconds 60 -w denied.pcapng"
    )]
    Capture(capture::cli::CaptureArgs),
    /// Follow packets through the stages: what each did to them, by which rule, and what it cost
    Trace(trace::cli::TraceArgs),
    /// Find out which inside address has, or has had, an external port, and the other way round
    Nat(NatArgs),
    /// Measure
    Bench(BenchArgs),
    /// Put everything that a report of a bug needs into one text file
    #[command(
        after_help = "Example: sluice tech-support --mask --config /etc/sluice/sluice.toml\n\nNothing is sent anywhere. Read \
                      the file before you give it away: names and comments of the configuration stay as they are, with \
                      --mask too."
    )]
    TechSupport(TechSupportArgs),
    /// Print what makes a shell complete commands and options
    #[command(after_help = "Example: sluice completions bash >/usr/share/bash-completion/completions/sluice")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command
    #[command(after_help = "Example: sluice man /usr/local/share/man/man1")]
    Man {
        /// The folder that they are written to
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The configuration file
    #[arg(value_name = "FILE", required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The configuration file, in the form that replay uses
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
    /// The control socket, instead of the configuration's
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The configuration file
    file: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    /// Devices; by default those of the configuration, or without one all that have hardware behind them
    #[arg(value_name = "DEVICE")]
    devices: Vec<String>,
    /// The configuration that is to run here
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the findings, and the facts they were made of, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// What to list
    topic: Topic,
    /// Of routes: a prefix, whose more specific ones are listed too, or an address, whose route is
    #[arg(value_parser = crate::routes::within)]
    within: Option<config::Prefix>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    /// Print it anew each second, until interrupted
    #[arg(long)]
    watch: bool,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_SOCKET)]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct TopArgs {
    /// Seconds between two looks at the gateway
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_SOCKET)]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The packet: `in INTERFACE PROTOCOL SOURCE > DESTINATION`, then, where wanted, `ttl N`, `size BYTES`, `dscp N`, and TCP
    /// flags; the protocol is tcp, udp, icmp, icmp6, gre, esp or sctp
    packet: String,
    /// Go by this configuration, instead of that of a running gateway
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The control socket of the gateway to ask, where no configuration is given
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct NatArgs {
    #[command(subcommand)]
    what: NatCommand,
}

#[derive(Debug, Subcommand)]
enum NatCommand {
    /// Which inside address has this external address and port
    #[command(
        after_help = "Example: sluice nat who 203.0.113.7 4711 2026-01-31T20:15:00Z --log /var/log/sluice-nat.log"
    )]
    Who {
        /// The external address
        address: Ipv4Addr,
        /// The external port, or echo identifier
        port: u16,
        /// When, with the offset from UTC; a log alone can tell
        #[arg(value_name = "TIME", value_parser = time)]
        time: Option<u64>,
        #[command(flatten)]
        source: NatSource,
    },
    /// Which external addresses and ports this inside address has
    #[command(after_help = "Example: sluice nat where 100.64.0.7 --config /etc/sluice/sluice.toml")]
    Where {
        /// The inside address
        subscriber: IpAddr,
        /// When, with the offset from UTC; a log alone can tell
        #[arg(value_name = "TIME", value_parser = time)]
        time: Option<u64>,
        #[command(flatten)]
        source: NatSource,
    },
}

#[derive(Debug, Args)]
struct NatSource {
    /// Answer from a log that `[nat.log]` or a syslog server has written; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Answer from a configuration alone, where NAT is deterministic
    #[arg(long, value_name = "FILE", conflicts_with = "log")]
    config: Option<PathBuf>,
    /// The control socket of the gateway to ask, where neither is given
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct BenchArgs {
    #[command(subcommand)]
    what: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Cycles per packet of the pipeline, over memory ports on one pinned core
    #[command(
        after_help = "Example: sluice bench pipeline --flows 65536 --packets 20000000 --features route,acl,nat,police"
    )]
    Pipeline(PipelineArgs),
    /// Nanoseconds a look-up of one table: flows, ACL, routes, meters
    Table(TableArgs),
    /// Nanoseconds a packet of the shaper: into its queue, and out again
    #[command(after_help = "Example: sluice bench shaper --queues 65536 --standing 2")]
    Shaper(ShaperArgs),
}

#[derive(Debug, Args)]
struct ShaperArgs {
    #[command(flatten)]
    options: bench::ShaperOptions,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TechSupportArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The gateway's control socket
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Replace IPv4, IPv6 and MAC addresses: the same by the same, those of one prefix by those of one prefix
    #[arg(long)]
    mask: bool,
    /// List sessions and NAT bindings, too
    #[arg(long)]
    tables: bool,
    /// The file to write; `-` for standard output
    #[arg(short, long, value_name = "FILE", default_value = "sluice-tech-support.txt")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct TableArgs {
    #[command(subcommand)]
    options: bench::TableOptions,
    /// Print the figures as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Args)]
struct PipelineArgs {
    #[command(flatten)]
    options: bench::PipelineOptions,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let failed = |text: String| {
        complain(&text);
        ExitCode::from(FAILED)
    };
    let done = match Cli::parse().command {
        Command::Run(args) => run(args),
        Command::Upgrade(args) => upgrade::cli::run(&args).map(|text| print(&text)),
        Command::Succeed { .. } => succeeded(gateway::succeed()),
        Command::Control { .. } => control::run().map_err(|error| error.to_string()),
        Command::Check(args) => return check(&args),
        Command::Doctor(args) => return run_doctor(&args),
        Command::Replay(args) => return run_replay(args),
        Command::Diff(args) => return run_diff(&args),
        Command::Commit(args) => cli::commit(&args).map(|text| print(&text)),
        Command::Confirm(whom) => cli::confirm(&whom).map(|text| print(&text)),
        Command::Rollback(args) => cli::rollback(&args).map(|text| print(&text)),
        Command::History(whom) => cli::history(&whom).map(|text| print(&text)),
        Command::Show(args) => show(&args),
        Command::Top(args) => {
            top::run(&top::Options { socket: args.socket, interval: Duration::from_secs(args.interval) })
        }
        Command::Explain(args) => run_explain(&args),
        Command::Capture(args) => capture::cli::run(&args).map(|said| {
            let _ = write!(io::stderr(), "{said}");
        }),
        Command::Block(args) => lists::cli::run(&args).map(|text| print(&text)),
        Command::Trace(args) => trace::cli::run(&args).map(|text| print(&text)),
        Command::Nat(args) => nat(&args.what),
        Command::Bench(args) => run_bench(&args),
        Command::TechSupport(args) => write_tech_support(args),
        Command::Completions { shell } => {
            completions(shell);
            Ok(())
        }
        Command::Man { folder } => clap_mangen::generate_to(Cli::command(), &folder)
            .map_err(|error| format!("{}: cannot write the manual pages: {error}", folder.display())),
    };
    done.map_or_else(failed, |()| ExitCode::SUCCESS)
}

fn write_tech_support(args: TechSupportArgs) -> Result<(), String> {
    let TechSupportArgs { config, socket, mask, tables, output } = args;
    tech_support::write(&tech_support::Options { socket, config, tables, mask }, &output)
        .map_err(|error| format!("{}: cannot write the file: {error}", output.display()))?;
    if output.as_os_str() != "-" {
        print(&format!("{}: written\n", output.display()));
    }
    Ok(())
}

fn completions(shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
    print(&String::from_utf8_lossy(&script));
}

/// Prints to standard output; a reader that has gone away (`| head`) is no error.
fn print(text: &str) {
    is_printed(text);
}

/// As [`print`]; returns whether the reader is still there.
fn is_printed(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

fn print_json(value: &Value) {
    print(&format!("{value:#}\n"));
}

fn complain(text: &str) {
    if log::has_started() {
        return tracing::error!("sluice: {}", text.trim_end());
    }
    let _ = writeln!(io::stderr(), "sluice: {}", text.trim_end());
}

fn run(args: RunArgs) -> Result<(), String> {
    let file = args.file.or(args.config).unwrap_or_default();
    succeeded(gateway::run(&file, args.socket))
}

/// What is left to do for a gateway that has ended: where another process goes on, and systemd is not told of it, whoever waits for
/// this process waits for that one.
fn succeeded(ended: Result<gateway::Ended, gateway::RunError>) -> Result<(), String> {
    match ended.map_err(|error| error.to_string())? {
        gateway::Ended::Succeeded(child, signals) if !crate::service::is_managed() => {
            upgrade::stand_by(child, signals)
        }
        _ => Ok(()),
    }
}

/// With the exit codes of diff(1).
fn run_diff(args: &cli::DiffArgs) -> ExitCode {
    match cli::diff(args) {
        Ok((differs, text)) => {
            print(&text);
            ExitCode::from(u8::from(differs))
        }
        Err(words) => {
            complain(&words);
            ExitCode::from(2)
        }
    }
}

fn check(args: &CheckArgs) -> ExitCode {
    match config::load(&args.file) {
        Ok((_, warnings)) => {
            if args.json {
                print_json(&json!({ "errors": 0, "warnings": warnings.len(), "diagnostics": warnings }));
            } else {
                warnings.iter().for_each(|warning| print(&format!("{warning}\n")));
                let plural = if warnings.len() == 1 { "" } else { "s" };
                print(&format!("{}: fine, {} warning{plural}\n", args.file.display(), warnings.len()));
            }
            ExitCode::SUCCESS
        }
        Err(report) => {
            if args.json {
                print_json(&json!(report));
            } else {
                let _ = write!(io::stderr(), "{report}");
            }
            ExitCode::from(FAILED)
        }
    }
}

fn run_doctor(args: &DoctorArgs) -> ExitCode {
    let config: Option<Config> = match args.config.as_deref().map(config::load).transpose() {
        Ok(loaded) => loaded.map(|(config, _)| config),
        Err(report) => {
            let _ = write!(io::stderr(), "{report}");
            return ExitCode::from(FAILED);
        }
    };
    let diagnosis = match doctor::examine(&args.devices, config.as_ref()) {
        Ok(diagnosis) => diagnosis,
        Err(error) => {
            complain(&format!("cannot ask the kernel for its devices: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    if args.json {
        print_json(&json!(diagnosis));
    } else {
        print(&diagnosis.to_string());
    }
    if diagnosis.problems == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

fn run_replay(args: replay::cli::ReplayArgs) -> ExitCode {
    let said = match replay::cli::run(args) {
        Ok(said) => said,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(FAILED);
        }
    };
    said.complaints.iter().for_each(|text| complain(text));
    if said.json {
        print_json(&said.figures)
    } else {
        print(&table::render(&said.figures))
    }
    if said.well { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

fn show(args: &ShowArgs) -> Result<(), String> {
    let request = match (args.within, args.topic) {
        (None, topic) => Request::Show(topic),
        (Some(within), Topic::Routes) => Request::Routes(within),
        (Some(within), topic) => {
            return Err(format!("{}: there is no listing of {within} alone", topic.name()));
        }
    };
    loop {
        let value = api::ask(&args.socket, request).map_err(|error| error.to_string())?;
        let text = match (args.json, args.watch) {
            (true, false) => format!("{value:#}\n"),
            // A line each time, for programs.
            (true, true) => format!("{value}\n"),
            (false, false) => table::render_topic(args.topic, &value),
            // From the top of an empty screen.
            (false, true) => format!("\x1b[H\x1b[2J{}", table::render_topic(args.topic, &value)),
        };
        if !is_printed(&text) || !args.watch {
            return Ok(());
        }
        thread::sleep(WATCH);
    }
}

fn run_explain(args: &ExplainArgs) -> Result<(), String> {
    let story = match &args.config {
        Some(file) => {
            let (config, _) = config::load(file).map_err(|report| report.to_string())?;
            let mut snapshot = config::compile(&config, &[]);
            snapshot.lists = lists::Keeper::open(&config, 0).0.lists();
            explain::explain(&args.packet, &snapshot)?
        }
        None => api::explain(&args.socket, &args.packet).map_err(|error| error.to_string())?,
    };
    if args.json {
        print_json(&story);
    } else {
        print(&explain::render(&story));
    }
    Ok(())
}

fn time(text: &str) -> Result<u64, String> {
    wall::parse(text).ok_or_else(|| "write it as 2026-01-31T20:15:00Z, or with an offset, +01:00".into())
}

fn nat(what: &NatCommand) -> Result<(), String> {
    let (query, time, source) = match what {
        NatCommand::Who { address, port, time, source } => {
            (Query::Who { address: *address, port: *port }, *time, source)
        }
        NatCommand::Where { subscriber, time, source } => {
            (Query::Where { subscriber: *subscriber }, *time, source)
        }
    };
    let hits = if let Some(path) = &source.log {
        let failed = |error: io::Error| format!("{}: cannot read the log: {error}", path.display());
        let hits = match path.as_os_str() == "-" {
            true => query.of_log(io::stdin().lock(), time),
            false => File::open(path).and_then(|file| query.of_log(BufReader::new(file), time)),
        };
        json!(hits.map_err(failed)?)
    } else if let Some(path) = &source.config {
        let (config, _) = config::load(path).map_err(|report| report.to_string())?;
        // Arithmetic gives the same at any time.
        json!(query.of_snapshot(&config::compile(&config, &[])))
    } else if time.is_some() {
        return Err("a running gateway knows of now alone; for another time, name its log with --log".into());
    } else {
        api::ask(&source.socket, Request::Nat(query)).map_err(|error| error.to_string())?
    };
    if source.json {
        print_json(&hits);
    } else {
        print(&table::render(&hits));
    }
    let is_found = hits.as_array().is_some_and(|hits| !hits.is_empty());
    is_found.then_some(()).ok_or_else(|| "nobody, as far as this can tell".into())
}

fn run_bench(args: &BenchArgs) -> Result<(), String> {
    let (json, value, text) = match &args.what {
        BenchCommand::Pipeline(args) => {
            let report = bench::pipeline(&args.options).map_err(|error| error.to_string())?;
            (args.json, json!(report), report.to_string())
        }
        BenchCommand::Table(args) => {
            let figures = bench::table(&args.options).map_err(|error| error.to_string())?;
            (args.json, json!(figures), figures.to_string())
        }
        BenchCommand::Shaper(args) => {
            let report = bench::shaper(&args.options).map_err(|error| error.to_string())?;
            (args.json, json!(report), report.to_string())
        }
    };
    if json {
        print_json(&value)
    } else {
        print(&text)
    }
    Ok(())
}
