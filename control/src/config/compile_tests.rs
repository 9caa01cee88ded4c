//! Tests of `compile.rs`.

use proptest::prelude::*;
use sluice_dataplane::table::classifier::Tuple;

use super::*;
use crate::config::load_str;

fn compiled(text: &str) -> Snapshot {
    match load_str("test.toml", text) {
        Ok((config, _)) => {
            let facts = DeviceFacts { mac: Mac([2, 0, 0, 0, 0xaa, 1]), virtual_link: true };
            compile(&config, &[facts])
        }
        Err(report) => panic!("{report}"),
    }
}

const HOME: &str = r#"
    [interfaces.lan]
    device = "eth1"
    address = ["192.168.1.1/24", "192.168.1.2/24", "fd00:1::1/64"]
    acl = "a"
    [interfaces.guest]
    parent = "lan"
    vlan = [2000, 20]
    address = "192.168.20.1/24"
    [interfaces.wan]
    address = "203.0.113.2/24"
    mac = "02:00:00:00:00:99"
    checksum = "complete"
    [[routes]]
    to = "default"
    via = "203.0.113.1"
    [[routes]]
    to = "fc00::/7"
    unreachable = true
    [acls.a]
    default = "reject"
    rules = [
      { established = true, action = "accept" },
      { name = "web", protocol = "tcp", from = ["192.168.1.0/24", "fd00:1::/64"], to-port = [80, "8000-8100"], action = "accept" },
      { protocol = ["icmp", "icmpv6"], icmp-type = "echo-request", action = "drop" },
    ]
    [[nat.source]]
    out = "wan"
    from = "192.168.1.0/24"
    to = "203.0.113.8/30"
    [[nat.source]]
    out = "wan"
    from = "192.168.20.0/24"
    to = "203.0.113.8/30"
    [[nat.forward]]
    in = "wan"
    protocol = ["tcp", "udp"]
    address = "203.0.113.5"
    port = "8000-8003"
    to = "192.168.1.10:80"
    [[limits]]
    name = "l"
    out = "guest"
    rate = "8 Mbit/s"
"#;

#[test]
fn interfaces_and_ports() {
    let snapshot = compiled(HOME);
    let ports: Vec<(&str, bool)> =
        snapshot.ports.iter().map(|port| (port.name.as_str(), port.complete_checksums)).collect();
    assert_eq!(ports, [("lan", true), ("wan", true)]);
    let [lan, guest, wan] = &snapshot.interfaces[..] else { panic!("three interfaces") };
    assert_eq!((lan.port, guest.port, wan.port), (0, 0, 1));
    assert_eq!(guest.tags, Tags { count: 2, ids: [2000, 20] });
    assert_eq!((guest.mac, wan.mac), (Mac([2, 0, 0, 0, 0xaa, 1]), Mac([2, 0, 0, 0, 0, 0x99])));
    assert_eq!(lan.v6[1], ("fe80::ff:fe00:aa01".parse().unwrap(), 64));
    assert!(guest.v6.is_empty());
    assert_eq!((lan.acl, wan.acl), (Some(0), None));
    assert_eq!(snapshot.interface_of(0, guest.tags), Some(1));
}

#[test]
fn addresses_of_ours_lie_on_their_link() {
    let snapshot = compiled(HOME);
    let use_of = |address: &str| snapshot.local4.get(&address.parse().unwrap()).copied();
    assert_eq!(use_of("192.168.1.2"), Some((0, LocalUse::Interface)));
    assert_eq!(use_of("203.0.113.2"), Some((2, LocalUse::Interface)));
    assert_eq!(use_of("203.0.113.11"), Some((2, LocalUse::Nat)));
    assert_eq!(use_of("203.0.113.5"), Some((2, LocalUse::Nat)));
    assert_eq!(use_of("203.0.113.12"), None);
    assert_eq!(snapshot.local6.len(), 1);
}

#[test]
fn routes_hold_subnets_and_static_routes() {
    let snapshot = compiled(HOME);
    let route = |address: &str| -> Option<snapshot::Route> {
        let number = match address.parse().unwrap() {
            IpAddr::V4(address) => snapshot.routes4.lookup(&address.octets()),
            IpAddr::V6(address) => snapshot.routes6.lookup(&address.octets()),
        };
        number.and_then(|number| snapshot.routes.get(number as usize).copied())
    };
    assert_eq!(route("192.168.1.77"), Some(snapshot::Route::Connected { interface: 0 }));
    assert_eq!(route("192.168.20.77"), Some(snapshot::Route::Connected { interface: 1 }));
    let gateway = "203.0.113.1".parse().unwrap();
    assert_eq!(route("192.0.2.1"), Some(snapshot::Route::Via4 { interface: 2, gateway }));
    assert_eq!(route("fd00:2::1"), Some(snapshot::Route::Unreachable));
    assert_eq!(route("fd00:1::7"), Some(snapshot::Route::Connected { interface: 0 }));
    assert_eq!(route("2001:db8::1"), None);
    let prefix = |&(address, length, _): &(IpAddr, u8, u32)| Prefix { address, length }.to_string();
    let listed: Vec<String> = snapshot.route_list.iter().map(prefix).collect();
    assert_eq!(
        listed,
        ["192.168.1.0/24", "fd00:1::/64", "192.168.20.0/24", "203.0.113.0/24", "0.0.0.0/0", "fc00::/7"]
    );
}

#[test]
fn rules_keep_their_order_and_their_families() {
    let snapshot = compiled(HOME);
    let [acl] = &snapshot.acls[..] else { panic!("one ACL") };
    let packet = Tuple {
        src: u32::from(Ipv4Addr::new(192, 168, 1, 5)),
        dst: 1,
        protocol: TCP,
        src_port: 5000,
        dst_port: 8050,
        has_ports: true,
        icmp: None,
        established: false,
    };
    assert_eq!(acl.v4.lookup(&packet), Some(1));
    assert_eq!(acl.v4.lookup(&Tuple { established: true, ..packet }), Some(0));
    assert_eq!(acl.v4.lookup(&Tuple { dst_port: 81, ..packet }), None);
    let ping = Tuple { protocol: ICMP, has_ports: false, icmp: Some((8, 0)), ..packet };
    assert_eq!(acl.v4.lookup(&ping), Some(2));
    assert_eq!(acl.v4.lookup(&Tuple { icmp: Some((128, 0)), ..ping }), None);
    assert_eq!((acl.v4.len(), acl.v6.len()), (4, 4));
    let names: Vec<&str> = snapshot.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["rule 1", "web", "rule 3", "default"]);
    assert_eq!(snapshot.rules[1].text, "tcp from 192.168.1.0/24,fd00:1::/64 to-port 80,8000-8100");
    assert_eq!(snapshot.rules[usize::from(acl.default)].action, AclAction::Reject);
}

#[test]
fn rules_with_the_same_pool_share_it() {
    let snapshot = compiled(HOME);
    assert_eq!(snapshot.pools.len(), 1);
    assert_eq!(snapshot.pools[0].addresses.len(), 4);
    assert_eq!(snapshot.source_nat.iter().map(|rule| rule.pool).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(snapshot.source_nat[0].from, [(0xc0a8_0100, 0xffff_ff00)]);
    let forwards: Vec<(u8, (u16, u16), u16)> =
        snapshot.forwards.iter().map(|forward| (forward.protocol, forward.ports, forward.to_port)).collect();
    assert_eq!(forwards, [(TCP, (8000, 8003), 80), (UDP, (8000, 8003), 80)]);
}

#[test]
fn a_limit_without_a_match_takes_everything() {
    let snapshot = compiled(HOME);
    let [limit] = &snapshot.limits[..] else { panic!("one limit") };
    assert!(limit.egress && limit.interface == 1 && limit.rate.bits_per_second == 8_000_000);
    assert_eq!(limit.burst, 50_000);
    assert_eq!((limit.v4.len(), limit.v6.len()), (1, 1));
    assert_eq!(snapshot.timeouts.tcp_established, 7440 * sluice_dataplane::clock::SECOND);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    /// The rules that a match is multiplied out to match what it matches itself, field by field.
    #[test]
    fn expansion_keeps_the_meaning(
        from in prop::collection::vec((any::<u32>(), 0u8..=3), 0..3),
        to in prop::collection::vec((any::<u32>(), 0u8..=3), 0..3),
        ports in prop::collection::vec((0u16..20, 0u16..10), 0..3),
        udp_too in any::<bool>(),
        packets in prop::collection::vec((any::<u32>(), any::<u32>(), 0u16..32, any::<bool>()), 32),
    ) {
        let prefixes = |list: &[(u32, u8)]| -> Vec<Prefix> {
            let prefix = |&(bits, length)| Prefix { address: Ipv4Addr::from_bits(bits).into(), length }.network();
            list.iter().map(prefix).collect()
        };
        let matches = Match {
            protocols: if udp_too { vec![TCP, UDP] } else { vec![TCP] },
            from: prefixes(&from),
            to: prefixes(&to),
            to_ports: ports.iter().map(|&(first, more)| PortRange { first, last: first + more }).collect(),
            ..Match::default()
        };
        let classifier = Classifier::new(expand::<u32>(&matches, None, 7));
        prop_assert_eq!(expand::<u128>(&matches, None, 7).is_empty(), !(from.is_empty() && to.is_empty()));
        for (src, dst, port, is_udp) in packets {
            let protocol = if is_udp { UDP } else { TCP };
            let within = |list: &[Prefix], bits: u32| {
                list.is_empty() || list.iter().any(|prefix| prefix.contains(Ipv4Addr::from_bits(bits).into()))
            };
            let expected = matches.protocols.contains(&protocol)
                && within(&matches.from, src)
                && within(&matches.to, dst)
                && (ports.is_empty() || matches.to_ports.iter().any(|r| r.first <= port && port <= r.last));
            let tuple = Tuple {
                src, dst, protocol, src_port: 9, dst_port: port, has_ports: true, icmp: None, established: false,
            };
            prop_assert_eq!(classifier.lookup(&tuple), expected.then_some(7));
        }
    }
}

#[test]
fn a_limit_is_for_the_classes_that_it_names_and_for_what_they_hold() {
    let text = format!(
        r#"
        {HOME}
        [shapers.wan]
        rate = "100 Mbit/s"
        classes = [
            {{ name = "guests", in = "guest" }},
            {{ name = "calls", parent = "guests", dscp = "ef" }},
            {{ name = "office", accounts = "source/24", most = 7, from = "192.168.1.0/24", each-quota = "1 GB" }},
        ]
        [shapers.lan]
        classes = [{{ name = "guests", out = "guest", mark = "ef" }}]
        [[limits]]
        name = "up"
        out = "wan"
        class = "guests"
        rate = "1 Mbit/s"
        [[limits]]
        name = "down"
        out = "guest"
        class = ["guests"]
        rate = "1 Mbit/s"
        "#
    );
    let snapshot = compiled(&text);
    let of = |name: &str| {
        let limit = snapshot.limits.iter().find(|limit| limit.name == name).unwrap();
        let classes = limit.classes.iter();
        classes.map(|&class| (snapshot.class_port(class), snapshot.class_path(class))).collect::<Vec<_>>()
    };
    let paths =
        |port: u16, paths: &[&str]| paths.iter().map(|&path| (port, path.to_owned())).collect::<Vec<_>>();
    assert_eq!(of("up"), paths(1, &["guests", "guests/calls", "guests/default"]));
    assert_eq!(of("down"), paths(0, &["guests"]));
    let office = snapshot.classes.iter().find(|class| class.name == "office").unwrap();
    assert_eq!((office.accounts, office.hosts), (Some(snapshot::HostKey::Source(24, 64)), 7));
}

#[test]
fn classes_have_parents_ahead_of_them_and_a_place_for_every_packet() {
    let text = format!(
        "{HOME}
        [shapers.wan]
        rate = \"900 Mbit/s\"
        overhead = \"ethernet\"
        classes = [
          {{ name = \"ssh\", parent = \"office\", protocol = \"tcp\", to-port = 22, mark = \"af21\" }},
          {{ name = \"guests\", in = \"guest\", max = \"100 Mbit/s\", mark = \"clear\" }},
          {{ name = \"calls\", parent = \"guests\", dscp = [\"ef\", 44], per = \"source/24\", each-max = \"1 Mbit/s\" }},
          {{ name = \"office\", weight = 3 }},
          {{ name = \"web\", acl-rule = \"web\" }},
          {{ name = \"rest\", parent = \"office\", default = true }},
        ]
        [shapers.lan]
        rate = \"1 Gbit/s\"
        frames = 64"
    );
    let snapshot = compiled(&text);
    let paths: Vec<String> =
        (0..snapshot.classes.len() as u16).map(|class| snapshot.class_path(class)).collect();
    let of = |path: &str| paths.iter().position(|other| other == path).unwrap() as u16;
    assert_eq!(
        paths,
        ["guests", "guests/calls", "guests/default", "office", "office/ssh", "office/rest", "web", "default"]
    );
    let [wan, lan] = &snapshot.shapers[..] else { panic!("two shapers") };
    let order = [
        (of("guests/calls"), of("guests/calls")),
        (of("guests"), of("guests/default")),
        (of("office/ssh"), of("office/ssh")),
        (of("web"), of("web")),
    ];
    assert_eq!((&wan.order[..], wan.default, wan.port), (&order[..], of("office/rest"), 1));
    assert_eq!((lan.default, lan.port, lan.frames), (of("default"), 0, 64));
    assert!(
        snapshot
            .classes
            .iter()
            .zip(0..)
            .all(|(class, index)| class.parent.is_none_or(|parent| parent < index))
    );
    let class = |path: &str| &snapshot.classes[usize::from(of(path))];
    let marks = ["guests/calls", "guests/default", "office/ssh", "web"].map(|path| class(path).mark);
    assert_eq!(marks, [Some(0), Some(0), Some(18), None]);
    assert_eq!(class("guests/calls").per.map(|(key, _)| key), Some(snapshot::HostKey::Source(24, 64)));
    assert_eq!(class("guests/calls").matches.dscp, Some(1 << 46 | 1 << 44));
    assert_eq!((&class("guests").matches.ingress[..], &class("web").matches.rules[..]), (&[1][..], &[1][..]));
    assert!(class("guests").matches.v4.is_none() && class("office/ssh").matches.v4.is_some());
}
