//! The box: kernel, memory, cores.

use super::Finding;
use crate::config::{Config, Workers};
use crate::device::machine::Machine;
use crate::plan::{Plan, TooFewCores};

/// Least kernel: AF_XDP sockets that share a UMEM between devices, and bpf_link for XDP before (5.9).
const LEAST_KERNEL: (u32, u32) = (5, 11);
/// AF_XDP frames in several buffers.
const MULTI_BUFFER: (u32, u32) = (6, 6);
/// Bytes of a packet buffer.
const BUFFER: u64 = 2048;
/// Packet buffers for each device, where the configuration does not say, and at least.
const BUFFERS_PER_DEVICE: u64 = 4096;
const LEAST_BUFFERS: u64 = 8192;

pub(super) fn examine(
    machine: &Machine,
    plan: &Result<Plan, TooFewCores>,
    workers: &Workers,
    config: Option<&Config>,
    devices: usize,
) -> Vec<Finding> {
    let buffers = match config {
        Some(config) => u64::from(config.tables.frames),
        None => LEAST_BUFFERS.max(BUFFERS_PER_DEVICE * devices as u64),
    };
    let memory = buffers * BUFFER;
    let mut findings = vec![kernel(machine), locked_memory(machine, memory), huge_pages(machine, memory)];
    match plan {
        Err(error) => findings.push(Finding::problem(
            "cores",
            error.to_string(),
            format!("[workers] count = {}", error.have.max(1)),
        )),
        Ok(plan) => {
            findings.push(cores(machine, plan));
            findings.extend(isolation(machine, plan, workers));
            findings.push(irqbalance(machine, plan));
        }
    }
    findings
}

fn kernel(machine: &Machine) -> Finding {
    let release = &machine.release;
    let version = machine.kernel();
    if version < LEAST_KERNEL {
        return Finding::problem(
            "kernel",
            format!("Linux {release} is too old"),
            "install Linux 5.11 or later",
        );
    }
    if version < MULTI_BUFFER {
        return Finding::warning(
            "kernel",
            format!("Linux {release}: no AF_XDP frames in several buffers, as jumbo frames need them"),
            "Linux 6.6 or later has them",
        );
    }
    Finding::fine("kernel", format!("Linux {release}"))
}

fn locked_memory(machine: &Machine, memory: u64) -> Finding {
    const POINT: &str = "locked memory";
    match machine.lockable {
        None => Finding::fine(POINT, "no limit for this process"),
        Some(limit) if limit >= memory => Finding::fine(POINT, format!("up to {}", mebibytes(limit))),
        Some(limit) => Finding::problem(
            POINT,
            format!("{} are allowed, packet memory takes {}", mebibytes(limit), mebibytes(memory)),
            "`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the systemd unit, or run as root",
        ),
    }
}

fn huge_pages(machine: &Machine, memory: u64) -> Finding {
    const POINT: &str = "huge pages";
    let Some(pages) = machine.huge_pages else {
        return Finding::warning(
            POINT,
            "the kernel has no huge pages of 2 MiB to keep; packet memory runs on others",
            "a kernel with CONFIG_HUGETLBFS",
        );
    };
    let needed = memory.div_ceil(pages.size);
    if pages.free >= needed {
        return Finding::fine(POINT, format!("{} of 2 MiB free, packet memory takes {needed}", pages.free));
    }
    Finding::warning(
        POINT,
        format!(
            "{} of 2 MiB free, packet memory would take {needed} and runs on others, huge if the kernel finds some",
            pages.free
        ),
        format!(
            "`sysctl -w vm.nr_hugepages={}`, and the same line in /etc/sysctl.d/ for the next boot",
            pages.total + needed - pages.free
        ),
    )
}

fn cores(machine: &Machine, plan: &Plan) -> Finding {
    const POINT: &str = "cores";
    let chosen: Vec<usize> = plan.workers.iter().map(|worker| worker.core).collect();
    if let Some(core) = chosen.iter().find(|core| machine.cores.iter().all(|known| known.id != **core)) {
        return Finding::problem(
            POINT,
            format!("core {core} of [workers] cores is not there, or not for this process"),
            format!("cores are {}", list(machine.cores.iter().map(|core| core.id))),
        );
    }
    if machine.cores.len() <= chosen.len() {
        return Finding::warning(
            POINT,
            format!(
                "{} for {} of workers: nothing is left for the rest of the system",
                machine.cores.len(),
                chosen.len()
            ),
            "a core more than there are workers",
        );
    }
    let all = machine.cores.len();
    Finding::fine(POINT, format!("workers on {}; there are {all}", list(chosen.into_iter())))
}

fn isolation(machine: &Machine, plan: &Plan, workers: &Workers) -> Vec<Finding> {
    let chosen = || plan.workers.iter().map(|worker| worker.core);
    let is_isolated = |id: usize| machine.cores.iter().any(|core| core.id == id && core.isolated);
    let all = list(chosen());
    let cores_key =
        if workers.cores.is_empty() { format!(", and [workers] cores = [{all}]") } else { String::new() };
    let isolation = if chosen().all(is_isolated) {
        Finding::fine("isolation", format!("the scheduler leaves {all} alone"))
    } else {
        let busy = list(chosen().filter(|&core| !is_isolated(core)));
        Finding::warning(
            "isolation",
            format!("the scheduler puts other tasks on {busy}, which shows as latency"),
            format!("kernel command line: isolcpus={all} nohz_full={all} rcu_nocbs={all}{cores_key}"),
        )
    };
    let tick = if chosen().all(|core| machine.tickless.contains(&core)) {
        Finding::fine("tick", format!("no timer interrupts on {all} while a worker runs"))
    } else {
        Finding::warning(
            "tick",
            format!(
                "the timer interrupts {}",
                list(chosen().filter(|core| !machine.tickless.contains(core)))
            ),
            format!("kernel command line: nohz_full={all}"),
        )
    };
    vec![isolation, tick]
}

fn irqbalance(machine: &Machine, plan: &Plan) -> Finding {
    let cores = list(plan.workers.iter().map(|worker| worker.core));
    if machine.irqbalance {
        Finding::warning(
            "irqbalance",
            "it runs, and may put interrupts on the workers' cores",
            format!("`systemctl disable --now irqbalance`, or IRQBALANCE_BANNED_CPULIST={cores} for it"),
        )
    } else {
        Finding::fine("irqbalance", "it does not run")
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// As kernel parameters have it.
fn list(cores: impl Iterator<Item = usize>) -> String {
    let mut cores: Vec<usize> = cores.collect();
    cores.sort_unstable();
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}
