//! From the parsed file to a [`Config`]: each section in its own module, in the order in which they need each other.

use toml::de::DeTable;

use super::model::{Config, Prefix};
use super::places::Places;
use super::plain::Plain;
use super::reader::{At, Table, text, text_or_number};
use super::report::Sink;
use super::{net, schema};

mod acls;
mod earlier;
mod export;
mod guards;
mod interfaces;
mod limits;
mod lint;
mod lists;
mod matches;
mod nat;
mod nat6;
mod nat_log;
mod nat_ports;
mod nat_static;
mod port_control;
mod routes;
mod settings;
mod shapers;

use interfaces::Network;
use routes::Routes;

/// Reads the file, of which plain routes may have been taken out. Errors are in `sink`; `None`, or a `Config` with errors beside it, is of no use to anybody.
pub(super) fn file(value: &DeTable<'_>, plain: Option<&Plain<'_>>, sink: &mut Sink<'_>) -> Option<Config> {
    let file = Table::file(value, &schema::FILE, sink);
    settings::version(&file, sink);
    let acls = acls::Acls::read(&file, sink);
    let lists = lists::Lists::read(&file, sink);
    let guards = guards::Guards::read(&file, &lists, sink);
    let network = Network::read(&file, &acls, &guards, sink)?;
    let routes = Routes::read(&file, plain, &network, sink)?;
    let kernel_routes = routes::kernel(&file, sink);
    let nat = nat::read(&file, &network, &routes, sink);
    let shapers = shapers::read(&file, &network, &acls, sink);
    let limits = limits::read(&file, &network, &shapers, sink);
    let workers = settings::workers(&file, sink);
    let tables = settings::tables(&file, &network, &shapers, workers.count, sink);
    nat::check_workers(&nat, workers.count, sink);
    let timeouts = settings::timeouts(&file, sink);
    let icmp_errors_per_second = settings::icmp_errors_per_second(&file, sink);
    let (control_socket, control_access, state) = settings::control(&file, sink);
    let log = settings::log(&file, sink);
    let metrics = settings::metrics(&file, sink);
    let accounting = settings::accounting(&file, sink);
    let export = export::read(&file, sink);
    if sink.errors() == 0 {
        lint::all(&network, &acls, (&guards, &lists), &nat, sink);
    }
    Some(Config {
        interfaces: network.interfaces,
        routes: routes.all.into_iter().map(|route| route.value).collect(),
        kernel_routes,
        acls: acls.acls.into_iter().map(|acl| acl.value).collect(),
        guards: guards.guards.into_iter().map(|guard| guard.value).collect(),
        lists: lists.lists.into_iter().map(|list| list.value).collect(),
        source_nat: nat.sources.into_iter().map(|source| source.value).collect(),
        static_nat: nat.statics.into_iter().map(|entry| entry.value).collect(),
        nat_exemptions: nat.exemptions,
        forwards: nat.forwards.into_iter().map(|forward| forward.value).collect(),
        port_control: nat.port_control,
        port_rest: nat.port_rest,
        nat_log: nat.log,
        prefixes: nat.prefixes.into_iter().map(|rule| rule.value).collect(),
        limits,
        shapers,
        icmp_errors_per_second,
        workers,
        tables,
        timeouts,
        control_socket,
        control_access,
        state,
        log,
        metrics,
        accounting,
        export,
        places: Places::default(),
    })
}

/// What the log is like, of a file that is valid as a whole.
pub(super) fn log(value: &DeTable<'_>, sink: &mut Sink<'_>) -> super::model::Log {
    settings::log(&Table::file(value, &schema::FILE, sink), sink)
}

/// A name that something refers to or is called by, as it stands.
fn word(table: &Table<'_>, key: &str, sink: &mut Sink<'_>) -> Option<At<String>> {
    table.one(key, text(|text| Ok(text.to_owned())), sink)
}

/// The prefixes under a key.
fn prefixes(table: &Table<'_>, key: &str, sink: &mut Sink<'_>) -> Vec<At<Prefix>> {
    table.many(key, text(net::prefix), sink)
}

/// The port ranges under a key.
fn ports(table: &Table<'_>, key: &str, sink: &mut Sink<'_>) -> Vec<At<super::PortRange>> {
    table.many(key, text_or_number(net::port_range), sink)
}

/// The values alone.
fn values<T: Copy>(list: &[At<T>]) -> Vec<T> {
    list.iter().map(|at| at.value).collect()
}
