//! The control side of Sluice: configuration, command line, API, replay; and `sluice run`, which ties them to the data
//! plane.

pub mod alarm;
pub mod api;
pub mod bench;
pub mod cli;
pub mod commit;
pub mod config;
pub mod control;
pub mod device;
pub mod diff;
pub mod doctor;
pub mod drops;
pub mod export;
pub mod figures;
pub mod gateway;
pub mod golden;
pub mod host;
pub mod intake;
pub mod link;
pub mod metrics;
pub mod nat_query;
pub mod nat_view;
pub mod plan;
pub mod qos_view;
pub mod reload;
pub mod replay;
pub mod service;
pub mod state;
pub mod supervise;
pub mod table;
pub mod tech_support;
pub mod top;
mod top_view;
pub mod watch;
pub mod words;
