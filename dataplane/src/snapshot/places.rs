//! Where in the configuration's file things stand, for listings; workers never look here.

/// Lines of the file, from 1, by the indices of what they make; 0 for what stands nowhere.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The file's name; empty if it has none.
    pub file: String,
    /// Of [`Snapshot::interfaces`](super::Snapshot::interfaces).
    pub interfaces: Vec<u32>,
    /// Of [`Snapshot::rules`](super::Snapshot::rules).
    pub rules: Vec<u32>,
    /// Of [`Snapshot::routes`](super::Snapshot::routes); subnets stand where their interface does.
    pub routes: Vec<u32>,
    /// Of [`Snapshot::source_nat`](super::Snapshot::source_nat).
    pub source_nat: Vec<u32>,
    /// Of [`Snapshot::nat64`](super::Snapshot::nat64).
    pub nat64: Vec<u32>,
    /// Of [`Snapshot::exemptions`](super::Snapshot::exemptions).
    pub exemptions: Vec<u32>,
    /// Of static NAT: its interface, first inside and first external address, and the line.
    pub statics: Vec<(u16, u32, u32, u32)>,
    /// Of [`Snapshot::forwards`](super::Snapshot::forwards).
    pub forwards: Vec<u32>,
    /// Of [`Snapshot::prefixes`](super::Snapshot::prefixes).
    pub prefixes: Vec<u32>,
    /// Of [`Snapshot::limits`](super::Snapshot::limits).
    pub limits: Vec<u32>,
    /// Of [`Snapshot::classes`](super::Snapshot::classes); one that nobody has named stands where its shaper does.
    pub classes: Vec<u32>,
}

impl Places {
    /// The place of an entry of one of the lists above: `sluice.toml:12`.
    pub fn of(&self, lines: &[u32], index: usize) -> Option<String> {
        lines.get(index).and_then(|&line| self.at(line))
    }

    /// A line with the file's name; none for 0.
    pub fn at(&self, line: u32) -> Option<String> {
        (line > 0).then(|| match self.file.as_str() {
            "" => format!("line {line}"),
            file => format!("{file}:{line}"),
        })
    }
}
