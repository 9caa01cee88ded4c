use super::*;
use crate::config;

const FILE: &str = r#"
[interfaces.lan]
device = "eth1"
address = "192.168.1.1/24"

[interfaces.wan]
device = "eth0"
address = "kernel"

[[nat.source]]
out = "wan"
from = "192.168.1.0/24"
to = "interface"

[[nat.forward]]
in = "wan"
protocol = "tcp"
port = 8080
to = "192.168.1.10:80"
"#;
const WAN: usize = 1;

fn load(text: &str) -> Config {
    config::load_str("c.toml", text).unwrap_or_else(|report| panic!("{report}")).0
}

fn given(addresses: &[&str]) -> Given {
    let prefix = |text: &&str| {
        let (address, length) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
    };
    Given { addresses: vec![(WAN, addresses.iter().map(prefix).collect())], routes: Vec::new() }
}

fn with(text: &str, given: &Given) -> (Config, Vec<String>) {
    let mut config = load(text);
    let lines = put_in(&mut config, given);
    (config, lines)
}

fn addresses(config: &Config) -> Vec<String> {
    config.interfaces[WAN].addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn before_the_first_address_nat_has_none_and_forwards_wait() {
    let (config, lines) = with(FILE, &given(&[]));
    let snapshot = config::compile(&config, &[]);
    assert!(lines.is_empty());
    assert_eq!((snapshot.pools.len(), snapshot.pools[0].addresses.len()), (1, 0));
    assert!(snapshot.forwards.is_empty() && snapshot.interfaces[WAN].v4.is_empty());
    assert_eq!(snapshot.local4.len(), 1, "the lan's alone");
}

#[test]
fn an_address_is_put_in_wherever_it_was_stood_in_for() {
    let (config, lines) = with(FILE, &given(&["203.0.113.7/24", "203.0.113.9/24"]));
    let first: Ipv4Addr = "203.0.113.7".parse().unwrap();
    let snapshot = config::compile(&config, &[]);
    assert!(lines.is_empty(), "{lines:?}");
    assert_eq!(snapshot.pools[0].addresses, [first], "the first is the primary one");
    assert_eq!(snapshot.forwards[0].address, first);
    assert_eq!(addresses(&config), ["203.0.113.7/24", "203.0.113.9/24"]);
}

#[test]
fn an_address_within_a_subnet_of_the_link_is_of_that_subnet() {
    let virtual_first = given(&["203.0.113.9/32", "203.0.113.7/24", "2001:db8::5/128", "2001:db8::7/64"]);
    let (config, lines) = with(FILE, &virtual_first);
    assert!(lines.is_empty(), "{lines:?}");
    assert_eq!(addresses(&config), ["203.0.113.9/24", "203.0.113.7/24", "2001:db8::5/64", "2001:db8::7/64"]);
}

#[test]
fn what_cannot_be_an_interfaces_is_left_out_and_what_clashes_is_said() {
    let odd = given(&["169.254.3.4/16", "fe80::1/64", "127.0.0.1/8", "192.168.1.7/24", "203.0.113.255/24"]);
    let (config, lines) = with(FILE, &odd);
    assert!(addresses(&config).is_empty());
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(
        line,
        "wan: 192.168.1.7/24 of the kernel is left out, as its subnet overlaps 192.168.1.0/24 of lan"
    );

    let small = FILE.replace("address = \"kernel\"", "address = \"kernel\"\nmtu = 1000");
    let (config, lines) = with(&small, &given(&["203.0.113.7/24", "2001:db8::5/64"]));
    assert_eq!(addresses(&config), ["203.0.113.7/24"]);
    assert!(lines[0].ends_with("the MTU 1000 is too small for IPv6"), "{lines:?}");
}

#[test]
fn configured_addresses_stay_first_and_are_not_there_twice() {
    let both = FILE.replace("\"kernel\"", "[\"198.51.100.1/24\", \"kernel\"]");
    let (config, lines) = with(&both, &given(&["203.0.113.7/24", "198.51.100.1/24", "198.51.100.9/32"]));
    assert!(lines.is_empty(), "{lines:?}");
    assert_eq!(addresses(&config), ["198.51.100.1/24", "203.0.113.7/24", "198.51.100.9/24"]);
    assert_eq!(config.source_nat[0].pool[0].first, Ipv4Addr::new(198, 51, 100, 1));
}

#[test]
fn two_pools_do_not_share_a_port_by_chance() {
    let other = "\n[[nat.source]]\nout = \"wan\"\nfrom = \"10.0.0.0/8\"\nto = \"203.0.113.7\"\n";
    let (config, lines) = with(&format!("{FILE}{other}"), &given(&["203.0.113.7/24"]));
    assert!(lines[0].contains("203.0.113.7, now of wan, is in another pool"), "{lines:?}");
    assert!(config::compile(&config, &[]).pools[0].addresses.is_empty());
}

#[test]
fn a_default_route_of_the_file_wins() {
    let to = default_of(IpAddr::from([0, 0, 0, 0]));
    let gateway = IpAddr::from([203, 0, 113, 1]);
    let route = Route { to, target: Target::Via { address: gateway, interface: WAN }, weight: 1 };
    let given = Given { routes: vec![route], ..given(&["203.0.113.7/24"]) };
    assert_eq!(*with(FILE, &given).0.routes, [route]);
    let own = format!("{FILE}\n[[routes]]\nto = \"default\"\nvia = \"203.0.113.254\"\ninterface = \"wan\"\n");
    let config = with(&own, &given).0;
    assert_eq!(config.routes.len(), 1);
    assert_ne!(config.routes[0], route);
}

#[test]
fn what_is_different_is_said() {
    let config = load(FILE);
    let (none, first, second) = (given(&[]), given(&["203.0.113.7/24"]), given(&["198.51.100.9/24"]));
    assert_eq!(none.words(None, &config), ["wan: the kernel has no address there"]);
    assert_eq!(first.words(Some(&none), &config), ["wan: the kernel has 203.0.113.7/24 there"]);
    assert!(first.words(Some(&first), &config).is_empty());
    assert_eq!(second.changed(&first).collect::<Vec<_>>(), [WAN]);
    assert!(none.is_less_than(&first) && !second.is_less_than(&first) && !first.is_less_than(&none));
}
