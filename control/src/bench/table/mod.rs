//! `sluice bench table`: what a look-up costs in each of the tables, alone.

mod acl;
mod data;
mod flow;
mod lpm;
pub(super) mod measure;
mod meter;
pub(super) mod random;

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

pub use measure::{Figures, Row};

use super::BenchError;
use super::run::on_core;

/// What is measured.
#[derive(Clone, Debug, Subcommand)]
pub enum TableOptions {
    /// The flow table: a key of 16 bytes, a value of 8
    #[command(
        after_help = "Example: sluice bench table flow --entries 65536,1048576 --pattern zipf --hit 100"
    )]
    Flow(flow::Options),
    /// The classifier of ACLs
    #[command(after_help = "Example: sluice bench table acl --rules acl.rules --trace acl.trace --check")]
    Acl(acl::Options),
    /// The route table
    #[command(
        after_help = "Example: sluice bench table lpm --routes full.routes\n         sluice bench table lpm --family 6"
    )]
    Lpm(lpm::Options),
    /// Token buckets and three-colour meters
    #[command(after_help = "Example: sluice bench table meter --meters 65536")]
    Meter(meter::Options),
    /// Write the routes, rules and traces that the others make from the seed, for other programs to read
    #[command(after_help = "Example: sluice bench table data /tmp/tables")]
    Data(DataOptions),
}

/// Options that all tables have.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Look-ups in a burst
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub burst: u16,
    /// How often each case is measured, in turn with the others
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Seed of all that is made up
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Core to run on; the last that this process may use, unless given
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,
    /// Compare every result with that of a plain search, untimed; wrong ones are an error
    #[arg(long)]
    pub check: bool,
}

/// Options of `data`.
#[derive(Clone, Debug, Args)]
pub struct DataOptions {
    /// The folder, made if need be
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Seed of all that is made up
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// Why a table was not measured.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// A line is not what it should be.
    #[error("{path}, line {line}: this is not {what}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What should stand there.
        what: &'static str,
    },
    /// There is nothing to measure.
    #[error("no {0}")]
    Nothing(&'static str),
    /// The table refuses an entry.
    #[error("the table refuses an entry: {0}")]
    Refused(String),
    /// A result differs from the plain search's.
    #[error("{case}: result {number} is {found}, and a plain search says {wanted}")]
    Wrong {
        /// Which case.
        case: String,
        /// Which result, from 0.
        number: usize,
        /// The table's.
        found: u64,
        /// The plain one.
        wanted: u64,
    },
    /// The core cannot be had.
    #[error(transparent)]
    Core(#[from] BenchError),
}

impl TableError {
    fn file(path: &Path, error: io::Error) -> Self {
        Self::File { path: path.into(), error }
    }
}

/// Measures a table, on a thread pinned to one core; or writes data.
///
/// # Errors
/// A file, a core or memory that cannot be had; a wrong result.
pub fn table(options: &TableOptions) -> Result<Figures, TableError> {
    let common = match options {
        TableOptions::Flow(options) => &options.common,
        TableOptions::Acl(options) => &options.common,
        TableOptions::Lpm(options) => &options.common,
        TableOptions::Meter(options) => &options.common,
        TableOptions::Data(options) => {
            write(options)?;
            return Ok(Figures::default());
        }
    };
    on_core(common.core, |core| {
        let rows = match options {
            TableOptions::Flow(options) => flow::measure(options),
            TableOptions::Acl(options) => acl::measure(options),
            TableOptions::Lpm(options) => lpm::measure(options),
            TableOptions::Meter(options) => meter::measure(options),
            TableOptions::Data(_) => Ok(vec![]),
        }?;
        Ok(Figures::new(core, rows))
    })
}

fn write(options: &DataOptions) -> Result<(), TableError> {
    let folder = &options.folder;
    std::fs::create_dir_all(folder).map_err(|error| TableError::file(folder, error))?;
    acl::write(folder, options.seed)?;
    lpm::write(folder, options.seed)
}
