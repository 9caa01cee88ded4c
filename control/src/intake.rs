//! Before devices are taken into service: nobody is to be locked out, and they are to be fit for it.

use crate::config::{Config, Device, Link};
use crate::device::{ChangeError, Changes, Facts, Inventory, NetlinkError, Session, Wanted};
use crate::plan::PortQueues;

/// Why a device is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The box would lose its default route.
    #[error(
        "interfaces.{interface}: the default route ({families}) leaves by {device}, which Sluice would take from the kernel; \
         name another device and keep {device} for management, or, if that is meant, write `takeover = true` in \
         [interfaces.{interface}]"
    )]
    DefaultRoute {
        /// The interface.
        interface: String,
        /// Its device.
        device: String,
        /// `IPv4`, `IPv6` or both.
        families: String,
    },
    /// The operator would lose the connection.
    #[error(
        "interfaces.{interface}: your SSH session from {} runs over {device}, which Sluice would take from the kernel; name \
         another device, or come in by another way (a console, or ssh over another device), or, if that is meant, write \
         `takeover = true` in [interfaces.{interface}]", .session.client
    )]
    Session {
        /// The interface.
        interface: String,
        /// Its device.
        device: String,
        /// The connection.
        session: Session,
    },
    /// A device cannot be made fit.
    #[error("{0}")]
    Change(#[from] ChangeError),
    /// The kernel does not tell of its devices.
    #[error("cannot ask the kernel for its devices: {0}; does a sandbox forbid netlink sockets?")]
    Netlink(#[from] NetlinkError),
}

/// Devices that are fit to be opened.
pub struct Intake {
    /// What was set on them. To be taken back once they are closed.
    pub changes: Changes,
    /// Their queues, in the order of the configuration's devices.
    pub queues: Vec<PortQueues>,
    /// What there is to say.
    pub lines: Vec<String>,
}

/// Examines the devices of a configuration, all before any is changed, and makes them fit. A device that is not there is
/// left for the one who opens it to miss.
///
/// # Errors
/// See [`IntakeError`]; every change is taken back then.
pub fn admit(config: &Config) -> Result<Intake, IntakeError> {
    let mut inventory = Inventory::read(Session::find())?;
    let mut admitted = Vec::new();
    let mut lines = Vec::new();
    for (index, interface) in config.interfaces.iter().enumerate() {
        let Link::Device(device) = &interface.link else { continue };
        let Some(facts) = inventory.device(&device.device)? else { continue };
        if let Err(error) = may_take(&interface.name, &facts) {
            // There the default route is to come, and the kernel's own traffic goes on by it.
            let is_expected = has_from_kernel(config, index) && facts.session.is_none();
            if !device.takeover && !is_expected {
                return Err(error);
            }
            lines.extend(device.takeover.then(|| taken_over(&facts)));
        }
        admitted.push((wanted(config, index, device, &facts), facts));
    }
    let mut changes = Changes::default();
    for (wanted, facts) in &admitted {
        lines.extend(changes.make(wanted, facts)?);
    }
    let queues = admitted.iter().map(|(wanted, facts)| PortQueues {
        port: wanted.interface.clone(),
        queues: wanted.channels.unwrap_or(facts.queues).max(1),
        node: facts.numa_node,
    });
    Ok(Intake { queues: queues.collect(), changes, lines })
}

/// The channels that a device is to be given, none to leave them. Each worker needs a queue to send on: where the
/// configuration says nothing, and there are too few, there are to be as many as workers, if the device can.
pub(crate) fn channels(configured: Option<u32>, facts: &Facts, workers: usize) -> Option<u32> {
    let most = facts.channels.map_or(0, |channels| channels.most());
    let needed = u32::try_from(workers).ok().filter(|&workers| facts.queues < workers && workers <= most);
    configured.or(needed)
}

/// Whether an interface that this one carries, or it itself, has its addresses from the kernel.
fn has_from_kernel(config: &Config, index: usize) -> bool {
    let is_on = |(at, link): (usize, &Link)| match link {
        Link::Vlan { parent, .. } => *parent == index,
        Link::Device(_) => at == index,
    };
    let mut all = config.interfaces.iter().enumerate();
    all.any(|(at, interface)| interface.from_kernel && is_on((at, &interface.link)))
}

fn wanted(config: &Config, index: usize, device: &Device, facts: &Facts) -> Wanted {
    let is_ours = |link: &Link| matches!(link, Link::Vlan { parent, .. } if *parent == index);
    Wanted {
        interface: config.interfaces.get(index).map(|interface| interface.name.clone()).unwrap_or_default(),
        channels: channels(device.channels, facts, config.workers.count),
        vlans: config.interfaces.iter().any(|interface| is_ours(&interface.link)),
    }
}

fn may_take(interface: &str, facts: &Facts) -> Result<(), IntakeError> {
    let (interface, device) = (interface.to_owned(), facts.name.clone());
    if let Some(session) = facts.session {
        return Err(IntakeError::Session { interface, device, session });
    }
    if !facts.default_route.is_empty() {
        let families = facts.default_route.join(" and ");
        return Err(IntakeError::DefaultRoute { interface, device, families });
    }
    Ok(())
}

fn taken_over(facts: &Facts) -> String {
    let what = match &facts.session {
        Some(session) => format!("the SSH session from {}", session.client),
        None => format!("the default route ({})", facts.default_route.join(" and ")),
    };
    format!("{}: {what} goes by it; taken over, as configured", facts.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_out_are_said() {
        let free = Facts { name: "eth0".into(), ..Facts::default() };
        assert!(may_take("wan", &free).is_ok());
        let routed = Facts { default_route: vec!["IPv4".into(), "IPv6".into()], ..free.clone() };
        let error = may_take("wan", &routed).unwrap_err().to_string();
        for words in ["interfaces.wan", "IPv4 and IPv6", "another device", "`takeover = true`"] {
            assert!(error.contains(words), "{error}");
        }
        let session = Session::parse("192.0.2.7 50522 198.51.100.1 22");
        let error = may_take("wan", &Facts { session, ..routed }).unwrap_err().to_string();
        for words in ["192.0.2.7 runs over eth0", "another device", "`takeover = true`"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
