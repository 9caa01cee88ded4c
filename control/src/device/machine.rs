//! The box around the devices: kernel, cores, memory, limits.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

/// A core that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Core {
    /// Its number.
    pub id: usize,
    /// Its NUMA node.
    pub node: u32,
    /// The lowest number of the hardware threads that share this core's silicon, itself among them.
    pub silicon: usize,
    /// Whether the scheduler puts nothing on it by itself (`isolcpus=`).
    pub isolated: bool,
}

/// Free and all huge pages of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// Bytes of one.
    pub size: u64,
    /// Those that nobody has taken.
    pub free: u64,
    /// All.
    pub total: u64,
}

/// What there is to know of the box.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Machine {
    /// The kernel's release, such as `6.12.0-1-amd64`.
    pub release: String,
    /// In ascending order of their numbers.
    pub cores: Vec<Core>,
    /// Cores without the timer's tick while one task runs (`nohz_full=`).
    pub tickless: Vec<usize>,
    /// Whether irqbalance runs.
    pub irqbalance: bool,
    /// Bytes that this process may lock (RLIMIT_MEMLOCK); none for no limit, or with CAP_IPC_LOCK.
    pub lockable: Option<u64>,
    /// Huge pages of 2 MiB.
    pub huge_pages: Option<HugePages>,
}

impl Machine {
    /// Reads it. What the system does not tell stays empty.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let list = |path: &str| parse_list(&text(path));
        let status = text("/proc/self/status");
        let isolated = list("/sys/devices/system/cpu/isolated");
        let mut usable = field(&status, "Cpus_allowed_list:").map(parse_list).unwrap_or_default();
        // Isolated cores are left out of what a process gets by itself, and may be asked for.
        usable.extend(&isolated);
        let online = list("/sys/devices/system/cpu/online");
        let nodes = nodes();
        let cores = online.into_iter().filter(|id| usable.contains(id)).map(|id| {
            let siblings = format!("/sys/devices/system/cpu/cpu{id}/topology/thread_siblings_list");
            Core {
                id,
                node: nodes.get(&id).copied().unwrap_or(0),
                silicon: list(&siblings).first().copied().unwrap_or(id),
                isolated: isolated.contains(&id),
            }
        });
        Self {
            release: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            cores: cores.collect(),
            tickless: list("/sys/devices/system/cpu/nohz_full"),
            irqbalance: runs("irqbalance"),
            lockable: if may_lock_all(&status) { None } else { lock_limit(&text("/proc/self/limits")) },
            huge_pages: huge_pages(2048),
        }
    }

    /// Major and minor number of the kernel's release; zeros where it has another form.
    pub fn kernel(&self) -> (u32, u32) {
        let mut numbers =
            self.release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// A list of the kernel's: `0-3,8,10-11`. What is not of this form is left out.
fn parse_list(text: &str) -> Vec<usize> {
    /// More cores than Linux can have.
    const MOST: usize = 1 << 16;
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            if last < MOST {
                numbers.extend(first..=last);
            }
        }
    }
    numbers
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The node of each core.
fn nodes() -> BTreeMap<usize, u32> {
    let mut nodes = BTreeMap::new();
    for entry in fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_string_lossy().strip_prefix("node").and_then(|number| number.parse().ok());
        let Some(node) = number else { continue };
        let cores = fs::read_to_string(entry.path().join("cpulist")).unwrap_or_default();
        nodes.extend(parse_list(&cores).into_iter().map(|core| (core, node)));
    }
    nodes
}

/// Whether a process of this name runs.
fn runs(name: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .any(|entry| fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name))
}

/// CAP_IPC_LOCK is bit 14 of the effective capabilities.
fn may_lock_all(status: &str) -> bool {
    let capabilities = field(status, "CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    capabilities.is_some_and(|bits| bits & (1 << 14) != 0)
}

/// The soft limit; none for "unlimited".
fn lock_limit(limits: &str) -> Option<u64> {
    field(limits, "Max locked memory")?.split_whitespace().next()?.parse().ok()
}

fn huge_pages(kilobytes: u64) -> Option<HugePages> {
    let directory = format!("/sys/kernel/mm/hugepages/hugepages-{kilobytes}kB");
    let number =
        |name: &str| fs::read_to_string(format!("{directory}/{name}")).ok()?.trim().parse::<u64>().ok();
    Some(HugePages {
        size: kilobytes * 1024,
        free: number("free_hugepages")?,
        total: number("nr_hugepages")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores() {
        assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list("\n"), [0usize; 0]);
        assert_eq!(parse_list("(null)\n"), [0usize; 0]);
        assert_eq!(parse_list("3-1,x,0-99999999999,2"), [2]);
    }

    #[test]
    fn releases_have_two_numbers_in_front() {
        let kernel = |release: &str| Machine { release: release.into(), ..Machine::default() }.kernel();
        assert_eq!(kernel("6.12.0-1-amd64"), (6, 12));
        assert_eq!(kernel("5.4-custom"), (5, 4));
        assert_eq!(kernel(""), (0, 0));
    }

    #[test]
    fn the_limit_and_the_capability_on_locked_memory() {
        let limits =
            "Max processes  100  100  processes\nMax locked memory         8388608    8388608    bytes\n";
        assert_eq!(lock_limit(limits), Some(8_388_608));
        assert_eq!(lock_limit("Max locked memory         unlimited   unlimited  bytes\n"), None);
        assert!(may_lock_all("CapEff:\t000001ffffffffff\n"));
        assert!(!may_lock_all("CapEff:\t0000000000000000\n") && !may_lock_all(""));
    }

    #[test]
    fn this_machine_has_a_core() {
        let machine = Machine::read();
        assert!(!machine.cores.is_empty() && machine.kernel() > (0, 0));
        assert!(machine.cores.windows(2).all(|pair| pair[0].id < pair[1].id));
    }
}
