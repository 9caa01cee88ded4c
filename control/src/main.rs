//! `sluice`: one binary. See [`sluice_control::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice_control::cli::main()
}
