//! What `cargo test --features sim` runs in an ordinary build: it builds this same test target again with
//! `--cfg madsim`, in a target directory of its own, and runs that with the same arguments, environment and exit code.
//!
//! `SIM_TARGET_DIR` names that directory (default: `sim` inside the ordinary target directory, so that neither build
//! throws the other's work away).
use std::{
    env,
    ffi::OsString,
    path::PathBuf,
    process::{Command, exit},
};

pub fn main() {
    let mut cargo = simulated_build();
    cargo.arg("--").args(env::args_os().skip(1));
    match cargo.status() {
        Ok(status) => exit(status.code().unwrap_or(101)),
        Err(error) => {
            eprintln!("sim: cannot run cargo ({:?}): {error}", cargo.get_program());
            exit(101);
        }
    }
}

fn simulated_build() -> Command {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    // The profile; the flags and the folder it names are overruled below.
    cargo.current_dir(&root).args(["test", "--config", "sim/cargo-sim.toml"]);
    cargo.args(["--quiet", "--test", "sim", "--features", features(), "--target-dir"]);
    cargo.arg(target_directory(root));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    forget_outer_build(&mut cargo);
    add_flag(&mut cargo);
    cargo
}

fn features() -> &'static str {
    if cfg!(feature = "mutants") { "sim,mutants" } else { "sim" }
}

fn target_directory(root: PathBuf) -> PathBuf {
    let of = |name: &str| env::var_os(name).map(PathBuf::from);
    of("SIM_TARGET_DIR").unwrap_or_else(|| of("CARGO_TARGET_DIR").unwrap_or_else(|| root.join("target")).join("sim"))
}

/// Flags in the environment replace those of configuration files, so `--cfg madsim` is added to whichever kind is set.
fn add_flag(cargo: &mut Command) {
    match env::var("CARGO_ENCODED_RUSTFLAGS") {
        Ok(flags) if !flags.is_empty() => {
            cargo.env("CARGO_ENCODED_RUSTFLAGS", format!("{flags}\u{1f}--cfg\u{1f}madsim"));
        }
        _ => {
            let flags = env::var("RUSTFLAGS").unwrap_or_default();
            cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", format!("{flags} --cfg madsim").trim());
        }
    }
}

/// The outer cargo tells this process about itself; the inner build must not see that, or it would build crates again
/// whose build scripts watch those variables.
fn forget_outer_build(cargo: &mut Command) {
    const PREFIXES: [&str; 3] = ["CARGO_PKG_", "CARGO_BIN_", "CARGO_MANIFEST_"];
    const NAMES: [&str; 3] = ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if PREFIXES.iter().any(|prefix| text.starts_with(prefix)) || NAMES.contains(&text.as_ref()) {
            cargo.env_remove(&name);
        }
    }
}
