//! `sluice doctor`: what is in the way of running well on this box, and what to type. It changes nothing.
//!
//! `machine` examines the box, `device` each device, `drivers` knows what drivers can do. They are functions of facts
//! read before, so that every answer can be tested without the hardware.

use std::fmt;

use serde::Serialize;

use crate::config::{Config, Device, Interface, Link};
use crate::device::machine::Machine;
use crate::device::{Facts, Inventory, NetlinkError, Session};
use crate::intake;
use crate::plan::{self, PortQueues};

mod device;
mod drivers;
mod machine;
#[cfg(test)]
mod tests;

/// How a point stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing to do.
    Fine,
    /// It works, at a price.
    Warning,
    /// `sluice run` would refuse, or lose packets.
    Problem,
}

impl Level {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What was found at one point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The device; none for the box as a whole.
    pub device: Option<String>,
    /// What was looked at, such as `queues`.
    pub point: &'static str,
    /// How it stands.
    pub level: Level,
    /// What there is.
    pub text: String,
    /// What to type or write, where there is something to do.
    pub remedy: Option<String>,
}

impl Finding {
    fn fine(point: &'static str, text: impl Into<String>) -> Self {
        Self { device: None, point, level: Level::Fine, text: text.into(), remedy: None }
    }

    fn warning(point: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warning, remedy: Some(remedy.into()), ..Self::fine(point, text) }
    }

    fn problem(point: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Problem, remedy: Some(remedy.into()), ..Self::fine(point, text) }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// The worst of the findings.
    pub level: Level,
    /// How many are warnings.
    pub warnings: usize,
    /// How many are problems.
    pub problems: usize,
    /// The box first, then the devices.
    pub findings: Vec<Finding>,
    /// What the findings were made of: the box.
    pub machine: Machine,
    /// And the devices.
    pub devices: Vec<Facts>,
}

/// A device with what the configuration says of it.
struct Patient<'a> {
    facts: &'a Facts,
    interface: Option<&'a Interface>,
    settings: Option<&'a Device>,
    /// Whether there are VLANs on it.
    vlans: bool,
    /// Workers, each of which needs a queue.
    workers: usize,
    /// What `sluice run` makes of its channels.
    channels: Option<u32>,
    /// Nodes of the workers that own its queues.
    worker_nodes: Vec<u32>,
}

/// Examines devices: those named; else those of the configuration; else all with hardware behind them.
///
/// # Errors
/// When the kernel does not tell of its devices.
pub fn examine(names: &[String], config: Option<&Config>) -> Result<Diagnosis, NetlinkError> {
    let mut inventory = Inventory::read(Session::find())?;
    let names = match (names, config) {
        ([], Some(config)) => devices(config).map(|(_, _, device)| device.device.clone()).collect(),
        ([], None) => inventory.physical(),
        _ => names.to_vec(),
    };
    let mut facts = Vec::new();
    let mut missing = Vec::new();
    for name in names {
        match inventory.device(&name)? {
            Some(found) => facts.push(found),
            None => missing.push(name),
        }
    }
    let mut diagnosis = diagnose(Machine::read(), facts, config);
    for name in missing {
        let finding = Finding::problem(
            "device",
            "there is no such device here",
            "`ip link` lists those that there are",
        );
        diagnosis.add(Finding { device: Some(name), ..finding });
    }
    Ok(diagnosis)
}

/// The findings of facts.
fn diagnose(machine: Machine, facts: Vec<Facts>, config: Option<&Config>) -> Diagnosis {
    let workers = config.map(|config| config.workers.clone()).unwrap_or_default();
    let settings = |facts: &Facts| {
        let mut found = config.into_iter().flat_map(devices);
        found.find(|(_, _, device)| device.device == facts.name)
    };
    let channels = |facts: &Facts| {
        let configured = settings(facts).and_then(|(_, _, device)| device.channels);
        intake::channels(configured, facts, workers.count)
    };
    let ports: Vec<PortQueues> = facts
        .iter()
        .map(|facts| PortQueues {
            port: facts.name.clone(),
            queues: channels(facts).unwrap_or(facts.queues).max(1),
            node: facts.numa_node,
        })
        .collect();
    let plan = plan::plan(&workers, &ports, &machine.cores);

    let mut findings = machine::examine(&machine, &plan, &workers, config, facts.len());
    for (port, facts) in facts.iter().enumerate() {
        let own = settings(facts);
        let owners = plan.iter().flat_map(|plan| &plan.workers);
        let owners = owners.filter(|worker| worker.queues.iter().any(|queue| queue.port == port));
        let patient = Patient {
            facts,
            interface: own.map(|(_, interface, _)| interface),
            settings: own.map(|(_, _, device)| device),
            vlans: own.is_some_and(|(index, _, _)| has_vlans(config, index)),
            workers: workers.count,
            channels: channels(facts),
            worker_nodes: owners.filter_map(|worker| worker.node).collect(),
        };
        let found = device::examine(&patient, &machine);
        findings
            .extend(found.into_iter().map(|finding| Finding { device: Some(facts.name.clone()), ..finding }));
    }
    let mut diagnosis = Diagnosis {
        level: Level::Fine,
        warnings: 0,
        problems: 0,
        findings: Vec::new(),
        machine,
        devices: facts,
    };
    findings.into_iter().for_each(|finding| diagnosis.add(finding));
    diagnosis
}

fn devices(config: &Config) -> impl Iterator<Item = (usize, &Interface, &Device)> {
    config.interfaces.iter().enumerate().filter_map(|(index, interface)| match &interface.link {
        Link::Device(device) => Some((index, interface, device)),
        Link::Vlan { .. } => None,
    })
}

fn has_vlans(config: Option<&Config>, index: usize) -> bool {
    let mut links = config.into_iter().flat_map(|config| &config.interfaces).map(|interface| &interface.link);
    links.any(|link| matches!(link, Link::Vlan { parent, .. } if *parent == index))
}

impl Diagnosis {
    fn add(&mut self, finding: Finding) {
        self.level = self.level.max(finding.level);
        match finding.level {
            Level::Fine => {}
            Level::Warning => self.warnings += 1,
            Level::Problem => self.problems += 1,
        }
        self.findings.push(finding);
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut of = None;
        for finding in &self.findings {
            if of != Some(&finding.device) {
                let gap = if of.is_some() { "\n" } else { "" };
                writeln!(f, "{gap}{}", finding.device.as_deref().unwrap_or("this machine"))?;
                of = Some(&finding.device);
            }
            writeln!(f, "  {:8} {:14} {}", finding.level.name(), finding.point, finding.text)?;
            if let Some(remedy) = &finding.remedy {
                writeln!(f, "  {:8} {:14} -> {remedy}", "", "")?;
            }
        }
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let (warnings, problems) = (self.warnings, self.problems);
        writeln!(f, "\n{problems} problem{}, {warnings} warning{}", plural(problems), plural(warnings))
    }
}
