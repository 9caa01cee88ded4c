//! Every key of the configuration file, by section. The reader refuses all others.

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// What messages and the reference call it.
    pub name: &'static str,
    /// The keys that it may have.
    pub keys: &'static [&'static str],
}

/// The file itself.
pub const FILE: Section = Section {
    name: "the file",
    keys: &[
        "interfaces",
        "routes",
        "kernel-routes",
        "acls",
        "guard",
        "lists",
        "nat",
        "limits",
        "shapers",
        "icmp",
        "workers",
        "tables",
        "timeouts",
        "control",
        "log",
        "metrics",
        "accounting",
        "export",
        "version",
    ],
};
/// `[interfaces.NAME]`
pub const INTERFACE: Section = Section {
    name: "[interfaces.NAME]",
    keys: &[
        "device",
        "address",
        "mtu",
        "mac",
        "acl",
        "guard",
        "mss-clamp",
        "checksum",
        "xdp",
        "xdp-replace",
        "channels",
        "rx-ring",
        "tx-ring",
        "kernel",
        "host",
        "takeover",
        "parent",
        "vlan",
    ],
};
/// `[[routes]]`
pub const ROUTE: Section =
    Section { name: "[[routes]]", keys: &["to", "via", "interface", "weight", "blackhole", "unreachable"] };
/// `[kernel-routes]`
pub const KERNEL_ROUTES: Section =
    Section { name: "[kernel-routes]", keys: &["tables", "protocols", "most-ipv4", "most-ipv6"] };
/// `[acls.NAME]`
pub const ACL: Section = Section { name: "[acls.NAME]", keys: &["default", "rules"] };
/// A rule of an ACL.
pub const RULE: Section = Section {
    name: "a rule of an ACL",
    keys: &["name", "protocol", "from", "to", "from-port", "to-port", "icmp-type", "established", "action"],
};
/// `[guard.NAME]`
pub const GUARD: Section = Section {
    name: "[guard.NAME]",
    keys: &["drop", "reverse-path", "answer-ports", "lists", "per-source", "per-service", "icmp"],
};
/// `[guard.NAME.per-source]`
pub const PER_SOURCE: Section = Section {
    name: "[guard.NAME.per-source]",
    keys: &["packets", "rate", "new-sessions", "sessions", "ipv4-prefix", "ipv6-prefix", "most"],
};
/// `[guard.NAME.per-service]`
pub const PER_SERVICE: Section = Section {
    name: "[guard.NAME.per-service]",
    keys: &["packets", "rate", "new-sessions", "ipv4-prefix", "ipv6-prefix", "most"],
};
/// `[lists.NAME]`
pub const LIST: Section = Section { name: "[lists.NAME]", keys: &["kind", "file", "prefixes"] };
/// `[nat]`
pub const NAT: Section = Section {
    name: "[nat]",
    keys: &["source", "static", "exempt", "forward", "nat64", "prefix", "port-control", "port-rest", "log"],
};
/// `[[nat.source]]`
pub const SOURCE_NAT: Section = Section {
    name: "[[nat.source]]",
    keys: &[
        "out",
        "from",
        "to",
        "ports",
        "mapping",
        "filtering",
        "port-choice",
        "block-size",
        "max-blocks",
        "block-hold",
        "deterministic",
        "max-ports",
        "max-sessions",
        "port-control",
        "max-new-per-second",
    ],
};
/// `[[nat.static]]`
pub const STATIC_NAT: Section = Section { name: "[[nat.static]]", keys: &["out", "inside", "outside"] };
/// `[[nat.exempt]]`
pub const NAT_EXEMPTION: Section =
    Section { name: "[[nat.exempt]]", keys: &["out", "from", "to", "protocol", "to-port"] };
/// `[nat.log]`
pub const NAT_LOG: Section =
    Section { name: "[nat.log]", keys: &["records", "file", "syslog", "ipfix", "domain"] };
/// `[nat.port-control]`
pub const PORT_CONTROL: Section =
    Section { name: "[nat.port-control]", keys: &["min-lifetime", "max-lifetime", "max-mappings"] };
/// `[nat.port-rest]`
pub const PORT_REST: Section = Section { name: "[nat.port-rest]", keys: &["time", "most"] };
/// `[[nat.forward]]`
pub const FORWARD: Section =
    Section { name: "[[nat.forward]]", keys: &["in", "protocol", "address", "port", "to"] };
/// `[[nat.nat64]]`
pub const NAT64: Section = Section {
    name: "[[nat.nat64]]",
    keys: &[
        "out",
        "prefix",
        "from",
        "to",
        "ports",
        "mapping",
        "filtering",
        "port-choice",
        "block-size",
        "max-blocks",
        "block-hold",
        "max-ports",
        "max-sessions",
        "max-new-per-second",
    ],
};
/// `[[nat.prefix]]`
pub const PREFIX_NAT: Section = Section { name: "[[nat.prefix]]", keys: &["out", "inside", "outside"] };
/// `[[limits]]`
pub const LIMIT: Section = Section {
    name: "[[limits]]",
    keys: &[
        "name",
        "in",
        "out",
        "protocol",
        "from",
        "to",
        "from-port",
        "to-port",
        "icmp-type",
        "class",
        "rate",
        "burst",
        "model",
        "cir",
        "cbs",
        "pir",
        "pbs",
        "eir",
        "ebs",
        "colour",
        "conform",
        "exceed",
        "violate",
        "per",
        "most",
    ],
};
/// What a limit marks packets with.
pub const MARK: Section = Section { name: "a mark", keys: &["dscp", "pcp"] };
/// `[shapers.NAME]`
pub const SHAPER: Section =
    Section { name: "[shapers.NAME]", keys: &["rate", "overhead", "frames", "classes"] };
/// `[[shapers.NAME.classes]]`
pub const CLASS: Section = Section {
    name: "[[shapers.NAME.classes]]",
    keys: &[
        "name",
        "parent",
        "default",
        "in",
        "out",
        "protocol",
        "from",
        "to",
        "from-port",
        "to-port",
        "icmp-type",
        "dscp",
        "acl-rule",
        "priority",
        "guaranteed",
        "max",
        "weight",
        "burst",
        "per",
        "each-guaranteed",
        "each-max",
        "accounts",
        "most",
        "target",
        "interval",
        "ecn",
        "mark",
        "quota",
        "each-quota",
        "period",
        "over-quota",
    ],
};
/// `[icmp]`
pub const ICMP: Section = Section { name: "[icmp]", keys: &["errors-per-second"] };
/// `[workers]`
pub const WORKERS: Section = Section {
    name: "[workers]",
    keys: &["cores", "count", "poll", "batch", "busy-poll", "busy-poll-budget"],
};
/// `[tables]`
pub const TABLES: Section =
    Section { name: "[tables]", keys: &["sessions", "when-full", "neighbors", "fragments", "frames"] };
/// `[timeouts]`
pub const TIMEOUTS: Section = Section {
    name: "[timeouts]",
    keys: &["udp", "icmp", "tcp-established", "tcp-transitory", "other", "fragment"],
};
/// `[control]`
pub const CONTROL: Section = Section { name: "[control]", keys: &["socket", "mode", "group", "state"] };
/// `[log]`
pub const LOG: Section = Section { name: "[log]", keys: &["format", "level"] };
/// `[metrics]`
pub const METRICS: Section = Section { name: "[metrics]", keys: &["listen"] };

/// `[accounting]`
pub const ACCOUNTING: Section = Section { name: "[accounting]", keys: &["file"] };
/// `[export]`
pub const EXPORT: Section = Section { name: "[export]", keys: &["ipfix", "sflow"] };
/// `[export.ipfix]`
pub const EXPORT_IPFIX: Section = Section {
    name: "[export.ipfix]",
    keys: &["collector", "transport", "domain", "active-timeout", "idle-timeout"],
};
/// `[export.sflow]`
pub const EXPORT_SFLOW: Section =
    Section { name: "[export.sflow]", keys: &["collector", "agent", "sampling", "counters"] };

/// All of them, in the order of the reference.
pub const SECTIONS: [&Section; 33] = [
    &FILE,
    &INTERFACE,
    &ROUTE,
    &KERNEL_ROUTES,
    &ACL,
    &RULE,
    &GUARD,
    &PER_SOURCE,
    &PER_SERVICE,
    &LIST,
    &NAT,
    &SOURCE_NAT,
    &STATIC_NAT,
    &NAT_EXEMPTION,
    &FORWARD,
    &NAT64,
    &PREFIX_NAT,
    &PORT_CONTROL,
    &NAT_LOG,
    &LIMIT,
    &SHAPER,
    &CLASS,
    &ICMP,
    &WORKERS,
    &TABLES,
    &TIMEOUTS,
    &CONTROL,
    &LOG,
    &METRICS,
    &ACCOUNTING,
    &EXPORT,
    &EXPORT_IPFIX,
    &EXPORT_SFLOW,
];
