//! Compiles the XDP program, and says by the configuration `vector` whether the compiler knows what the vector code wants.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SOURCE: &str = "src/port/af_xdp/bpf/redirect.bpf.c";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    vector();
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={}", message.replace('\n', " | "));
            ExitCode::FAILURE
        }
    }
}

/// AVX-512 is stable since Rust 1.89. Without it, tables go by their scalar twins.
fn vector() {
    println!("cargo::rustc-check-cfg=cfg(vector)");
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version =
        Command::new(rustc).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version).into_owned();
    let mut numbers =
        version.split_whitespace().nth(1).unwrap_or_default().split('.').map_while(|n| n.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (1, 89) && env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        println!("cargo::rustc-cfg=vector");
    }
}

fn compile() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let object = PathBuf::from(variable("OUT_DIR")?).join("redirect.bpf.o");
    let endian = if variable("CARGO_CFG_TARGET_ENDIAN")? == "big" { "bpfeb" } else { "bpfel" };
    // Debian and its kin keep asm/ beside the headers of each architecture, where clang's bpf target does not look.
    let multiarch = format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH")?);

    let mut command = Command::new(&clang);
    command
        .args(["-target", endian, "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c", SOURCE, "-o"])
        .arg(&object);
    if Path::new(&multiarch).is_dir() {
        command.args(["-idirafter", &multiarch]);
    }
    let output = command.output().map_err(|error| {
        format!(
            "cannot run `{clang}`, which compiles the XDP program: {error}. Install clang (apt-get install clang), \
             or name another by the variable CLANG"
        )
    })?;
    if !output.status.success() {
        return Err(format!(
            "`{clang}` could not compile {SOURCE}. It needs clang 11 or later and the kernel's headers \
             (apt-get install clang linux-libc-dev). It said: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    Ok(())
}
