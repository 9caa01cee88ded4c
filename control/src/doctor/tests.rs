//! Findings of made-up boxes and devices.

use super::*;
use crate::config;
use crate::device::machine::{Core, HugePages};
use crate::device::{AttachedProgram, Channels, Feature, XdpSupport};

/// Two isolated cores of four, memory enough.
fn machine() -> Machine {
    let core = |id| Core { id, node: 0, silicon: id, isolated: id >= 2 };
    Machine {
        release: "6.18.1".into(),
        cores: (0..4).map(core).collect(),
        tickless: vec![2, 3],
        irqbalance: false,
        lockable: None,
        huge_pages: Some(HugePages { size: 2 << 20, free: 64, total: 64 }),
    }
}

/// A NIC that wants for nothing.
fn nic(name: &str) -> Facts {
    Facts {
        name: name.into(),
        driver: "ice".into(),
        physical: true,
        mac: vec![2, 0, 0, 0, 0, 1],
        mtu: 1500,
        queues: 4,
        channels: Some(Channels { combined: 4, combined_max: 16, ..Channels::default() }),
        rss: Some((0..128).map(|entry| entry % 4).collect()),
        numa_node: Some(0),
        // Basic, redirect, transmit, zero copy, fragments.
        xdp_support: Some(XdpSupport { features: 0b10_1111, ..XdpSupport::default() }),
        ..Facts::default()
    }
}

fn config(text: &str) -> Config {
    config::load_str("test.toml", text).unwrap().0
}

/// The level, the text and the remedy at a point.
fn at<'a>(diagnosis: &'a Diagnosis, point: &str) -> (Level, &'a str, &'a str) {
    let mut found = diagnosis.findings.iter().filter(|finding| finding.point == point);
    let finding = found.next().unwrap_or_else(|| panic!("nothing at {point}"));
    assert!(found.next().is_none(), "{point} twice");
    (finding.level, &finding.text, finding.remedy.as_deref().unwrap_or(""))
}

fn of_device(facts: Facts) -> Diagnosis {
    diagnose(machine(), vec![facts], None)
}

fn of_machine(machine: Machine) -> Diagnosis {
    diagnose(machine, vec![nic("eth1")], None)
}

#[test]
fn a_good_box_is_fine_at_every_point() {
    let diagnosis = diagnose(machine(), vec![nic("eth1"), nic("eth2")], None);
    assert_eq!(diagnosis.level, Level::Fine, "{diagnosis}");
    assert!(diagnosis.findings.iter().all(|finding| finding.remedy.is_none()));
    assert!(diagnosis.to_string().ends_with("\n0 problems, 0 warnings\n"), "{diagnosis}");
}

#[test]
fn whatever_is_not_fine_has_a_remedy() {
    let bad = Facts {
        driver: "e1000e".into(),
        xdp_support: Some(XdpSupport::default()),
        mtu: 16_000,
        rss: Some(vec![0; 128]),
        addresses: vec!["192.0.2.1/24".into(), "fe80::1/64".into()],
        default_route: vec!["IPv4".into()],
        numa_node: Some(1),
        features: VLAN_AND_LRO_STUCK.map(|name| (name.to_owned(), Feature { on: true, fixed: true })).into(),
        xdp: vec![AttachedProgram { id: 7, name: Some("other".into()), mode: "native" }],
        ..nic("eth1")
    };
    let poor = Machine {
        release: "5.4.0".into(),
        cores: vec![Core { id: 0, node: 0, silicon: 0, isolated: false }],
        tickless: Vec::new(),
        irqbalance: true,
        lockable: Some(65_536),
        huge_pages: None,
    };
    let diagnosis = diagnose(poor, vec![bad], None);
    let expected_fine = ["queues", "filters", "metadata"];
    for finding in &diagnosis.findings {
        let is_fine = expected_fine.contains(&finding.point);
        assert_eq!(finding.level == Level::Fine, is_fine, "{finding:?}");
        assert_eq!(finding.remedy.is_none(), is_fine, "{finding:?}");
    }
    assert_eq!((diagnosis.level, diagnosis.problems), (Level::Problem, 5), "{diagnosis}");
}

const VLAN_AND_LRO_STUCK: [&str; 2] = ["rx-vlan-hw-parse", "rx-lro"];

#[test]
fn kernels() {
    let kernel = |release: &str| {
        let diagnosis = of_machine(Machine { release: release.into(), ..machine() });
        at(&diagnosis, "kernel").0
    };
    assert_eq!(kernel("5.10.0-30-amd64"), Level::Problem);
    assert_eq!(kernel("5.11"), Level::Warning);
    assert_eq!(kernel("6.5.0"), Level::Warning);
    assert_eq!(kernel("6.6"), Level::Fine);
}

#[test]
fn memory_is_measured_by_the_configuration() {
    let small = Machine {
        lockable: Some(16 << 20),
        huge_pages: Some(HugePages { size: 2 << 20, free: 3, total: 5 }),
        ..machine()
    };
    // 8192 buffers of 2 KiB.
    let diagnosis = of_machine(small.clone());
    assert_eq!(at(&diagnosis, "locked memory").0, Level::Fine);
    assert!(at(&diagnosis, "huge pages").2.contains("vm.nr_hugepages=10"), "{diagnosis}");
    let config = config("[interfaces.eth1]\naddress = \"10.0.0.1/24\"\n[tables]\nframes = 16384\n");
    let diagnosis = diagnose(small, vec![nic("eth1")], Some(&config));
    assert_eq!(at(&diagnosis, "locked memory").0, Level::Problem);
    assert!(at(&diagnosis, "huge pages").2.contains("vm.nr_hugepages=18"), "{diagnosis}");
}

#[test]
fn cores_that_are_shared_are_named() {
    let mut shared = machine();
    shared.cores.iter_mut().for_each(|core| core.isolated = false);
    shared.tickless.clear();
    let diagnosis = of_machine(shared);
    let (level, text, remedy) = at(&diagnosis, "isolation");
    assert_eq!(
        (level, remedy.contains("isolcpus=3 nohz_full=3 rcu_nocbs=3")),
        (Level::Warning, true),
        "{text}"
    );
    assert_eq!(at(&diagnosis, "tick").0, Level::Warning);
    let named = config("[interfaces.eth1]\naddress = \"10.0.0.1/24\"\n[workers]\ncores = [9]\n");
    let diagnosis = diagnose(machine(), vec![nic("eth1")], Some(&named));
    assert_eq!(at(&diagnosis, "cores"), (Level::Problem, at(&diagnosis, "cores").1, "cores are 0,1,2,3"));
}

#[test]
fn queues_against_the_configuration() {
    let with = |channels: u32, facts: Facts| {
        let text = format!("[interfaces.eth1]\naddress = \"10.0.0.1/24\"\nchannels = {channels}\n");
        let diagnosis = diagnose(machine(), vec![facts], Some(&config(&text)));
        at(&diagnosis, "queues").0
    };
    assert_eq!(with(16, nic("eth1")), Level::Fine);
    assert_eq!(with(17, nic("eth1")), Level::Problem);
    assert_eq!(with(4, Facts { channels: None, ..nic("eth1") }), Level::Fine);
    assert_eq!(with(2, Facts { channels: None, ..nic("eth1") }), Level::Problem);
}

#[test]
fn queues_against_the_workers() {
    let with = |count: usize, facts: Facts| {
        let text = format!("[interfaces.eth1]\naddress = \"10.0.0.1/24\"\n[workers]\ncount = {count}\n");
        let diagnosis = diagnose(machine(), vec![facts], Some(&config(&text)));
        let (level, text, remedy) = at(&diagnosis, "queues");
        (level, text.to_owned(), remedy.to_owned())
    };
    let two = || Facts {
        queues: 2,
        channels: Some(Channels { combined: 2, combined_max: 4, ..Channels::default() }),
        ..nic("eth1")
    };
    assert_eq!(with(2, two()).1, "2 receive queues of up to 4");
    assert_eq!(with(3, two()).1, "2 receive queues; `sluice run` makes it 3, one for each worker");
    let (level, _, remedy) = with(3, Facts { channels: None, ..two() });
    assert_eq!((level, remedy.as_str()), (Level::Problem, "[workers] count = 2"));
}

#[test]
fn an_rss_table_that_leaves_queues_out() {
    let diagnosis = of_device(Facts { rss: Some(vec![0, 1, 0, 1]), ..nic("eth1") });
    let (level, text, remedy) = at(&diagnosis, "rss");
    assert_eq!((level, remedy), (Level::Warning, "`ethtool -X eth1 equal 4`"), "{text}");
    assert_eq!(at(&of_device(Facts { rss: None, queues: 1, ..nic("eth1") }), "rss").0, Level::Fine);
}

#[test]
fn the_mtu_against_the_configuration() {
    let config = config("[interfaces.eth1]\naddress = \"10.0.0.1/24\"\nmtu = 1400\n");
    let level = |mtu| {
        let diagnosis = diagnose(machine(), vec![Facts { mtu, ..nic("eth1") }], Some(&config));
        at(&diagnosis, "mtu").0
    };
    assert_eq!([level(1300), level(1400), level(1500)], [Level::Problem, Level::Fine, Level::Warning]);
}

#[test]
fn offloads_that_cannot_be_switched_off() {
    let with = |feature: &str, fixed, text: &str| {
        let features = [(feature.to_owned(), Feature { on: true, fixed })].into();
        diagnose(machine(), vec![Facts { features, ..nic("eth1") }], Some(&config(text)))
    };
    let plain = "[interfaces.eth1]\naddress = \"10.0.0.1/24\"\n";
    let vlans =
        &format!("{plain}[interfaces.guest]\nparent = \"eth1\"\nvlan = 20\naddress = \"10.0.1.1/24\"\n");
    assert_eq!(at(&with("rx-vlan-hw-parse", false, vlans), "vlan tags").0, Level::Fine);
    assert_eq!(at(&with("rx-vlan-hw-parse", true, plain), "vlan tags").0, Level::Warning);
    assert_eq!(at(&with("rx-vlan-hw-parse", true, vlans), "vlan tags").0, Level::Problem);
    assert_eq!(at(&with("rx-lro", false, plain), "lro").0, Level::Fine);
    assert_eq!(at(&with("rx-lro", true, plain), "lro").0, Level::Problem);
    assert_eq!(at(&with("rx-gro-hw", true, plain), "lro").0, Level::Warning);
    assert!(at(&with("rx-vlan-filter", true, vlans), "filters").1.contains("VLAN filter"));
}

#[test]
fn virtual_links_in_generic_mode_warn_of_segments() {
    let xdp_support = Some(XdpSupport { features: 0b111, rx_metadata: 0b111, tx_metadata: 0 });
    let veth = Facts { driver: "veth".into(), physical: false, xdp_support, ..nic("eth1") };
    let diagnosis = of_device(veth.clone());
    assert_eq!((at(&diagnosis, "driver").0, at(&diagnosis, "gso").0), (Level::Fine, Level::Fine));
    assert!(at(&diagnosis, "metadata").1.starts_with("receive timestamps, RSS hashes, VLAN tags offered;"));
    let generic = config("[interfaces.eth1]\naddress = \"10.0.0.1/24\"\nxdp = \"generic\"\n");
    let diagnosis = diagnose(machine(), vec![veth], Some(&generic));
    assert_eq!((at(&diagnosis, "driver").0, at(&diagnosis, "gso").0), (Level::Warning, Level::Warning));
    assert!(at(&diagnosis, "gso").2.contains("tso off gso off"));
}

#[test]
fn who_else_uses_the_device() {
    let session = Session::parse("192.0.2.7 50522 198.51.100.1 22");
    let used = Facts { session, default_route: vec!["IPv4".into()], ..nic("eth1") };
    let diagnosis = of_device(used.clone());
    assert_eq!(at(&diagnosis, "access").0, Level::Problem);
    assert!(at(&diagnosis, "access").1.contains("192.0.2.7"), "{diagnosis}");
    let allowed = config("[interfaces.eth1]\naddress = \"10.0.0.1/24\"\ntakeover = true\n");
    assert_eq!(at(&diagnose(machine(), vec![used], Some(&allowed)), "access").0, Level::Warning);
    let program = AttachedProgram { id: 7, name: Some("other".into()), mode: "native" };
    let diagnosis = of_device(Facts { xdp: vec![program], ..nic("eth1") });
    let (level, text, remedy) = at(&diagnosis, "xdp program");
    assert_eq!(level, Level::Problem);
    assert!(
        text.contains("other, id 7") && remedy.contains("ip link set dev eth1 xdp off"),
        "{text} {remedy}"
    );
}

#[test]
fn the_kernel_as_the_host_must_have_the_addresses() {
    let config = config("[interfaces.eth1]\naddress = \"10.0.0.1/24\"\nhost = \"kernel\"\n");
    let with = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        diagnose(machine(), vec![Facts { addresses, ..nic("eth1") }], Some(&config))
    };
    assert_eq!(at(&with(&["10.0.0.1/24"]), "addresses").0, Level::Fine);
    let missing = with(&["10.0.0.2/24"]);
    let (level, _, remedy) = at(&missing, "addresses");
    assert_eq!((level, remedy), (Level::Problem, "`ip address add 10.0.0.1/24 dev eth1`"));
}

#[test]
fn workers_of_another_node_are_told() {
    let named = config("[interfaces.eth1]\naddress = \"10.0.0.1/24\"\n[workers]\ncores = [0]\n");
    let far = Facts { numa_node: Some(1), ..nic("eth1") };
    let diagnosis = diagnose(machine(), vec![far], Some(&named));
    assert!(at(&diagnosis, "numa").2.contains("cores of node 1"), "{diagnosis}");
}
