//! What packets are refused for, by interface.

use std::path::PathBuf;

use serde::Serialize;

use super::Prefix;

/// What is asked of packets that come in by the interfaces that name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Guard {
    /// Its name.
    pub name: String,
    /// What is refused.
    pub drop: Vec<Refusal>,
    /// Which sources are refused by the route back to them.
    pub reverse_path: ReversePath,
    /// UDP source ports of [`Refusal::UnaskedAnswers`].
    pub answer_ports: Vec<u16>,
    /// The lists that it goes by: indices.
    pub lists: Vec<usize>,
    /// What each source may do.
    pub per_source: Option<SourceLimits>,
    /// What each source may do at each service.
    pub per_service: Option<SourceLimits>,
    /// ICMP, packets a second; 0 for any number.
    pub icmp: u64,
}

/// What a source may do; 0 for any number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceLimits {
    /// Packets a second.
    pub packets: u64,
    /// Bits a second.
    pub bits: u64,
    /// New sessions a second.
    pub new_sessions: u32,
    /// Sessions at a time.
    pub sessions: u32,
    /// Up to which prefix lengths addresses are one source, IPv4 and IPv6.
    pub prefix: [u8; 2],
    /// For how many sources there is memory.
    pub most: u32,
}

/// A list of prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct List {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: ListKind,
    /// A file of prefixes, a line each.
    pub file: Option<PathBuf>,
    /// Prefixes besides.
    pub prefixes: Vec<Prefix>,
}

/// What a list does to the prefixes that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListKind {
    /// Nobody speaks with them.
    Block,
    /// No other list blocks them.
    Allow,
}

/// A kind of packets that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// From addresses that the Internet has not.
    Bogons,
    /// With one address at both ends.
    Land,
    /// TCP with flags that no TCP sends.
    BadTcpFlags,
    /// From port 0.
    PortZero,
    /// Fragments that serve to hide something.
    TinyFragments,
    /// Answers of UDP services that nobody has asked for.
    UnaskedAnswers,
}

impl Refusal {
    /// All, with the words of the file.
    pub const ALL: [(&str, Self); 6] = [
        ("bogons", Self::Bogons),
        ("land", Self::Land),
        ("bad-tcp-flags", Self::BadTcpFlags),
        ("port-zero", Self::PortZero),
        ("tiny-fragments", Self::TinyFragments),
        ("unasked-answers", Self::UnaskedAnswers),
    ];
}

/// Which sources are refused by the route back to them (RFC 3704).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReversePath {
    /// None.
    #[default]
    Off,
    /// Those to which no route leads.
    Loose,
    /// Those to which no route leads out by the interface that they came in by.
    Strict,
}
