//! The control side of Sluice: configuration, command line, API, replay; and `sluice run`, which ties them to the data
//! plane.

pub mod accounting;
pub mod alarm;
pub mod api;
pub mod bench;
pub mod capture;
pub mod cli;
pub mod commit;
pub mod config;
pub mod control;
pub mod device;
pub mod diff;
pub mod doctor;
pub mod drops;
pub mod explain;
pub mod export;
pub mod figures;
pub mod gaps;
pub mod gateway;
pub mod golden;
pub mod host;
pub mod intake;
#[cfg(test)]
mod lab;
pub mod link;
pub mod lists;
pub mod log;
pub mod metrics;
pub mod nat_query;
pub mod nat_view;
pub mod plan;
pub mod qos_view;
pub mod reload;
pub mod replay;
pub mod routes;
pub mod service;
pub mod state;
pub mod supervise;
pub mod table;
pub mod tech_support;
pub mod top;
mod top_view;
pub mod trace;
pub mod upgrade;
pub mod uplink;
pub mod watch;
pub mod words;
