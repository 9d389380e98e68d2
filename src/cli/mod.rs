//! The command line: arguments in, exit code out.
//!
//! Promise: answers go to standard output, everything else to standard error; every way to fail has a documented exit
//! code ([`exit`]). Part of the roof; called by `main.rs` alone.

pub mod alias;
pub mod args;
pub mod bench;
pub mod client;
pub mod cluster;
pub mod config_cmd;
pub mod context;
pub mod dev;
pub mod doctor;
pub mod exit;
pub mod export;
#[cfg(test)]
mod fake;
pub mod import;
pub mod listing;
pub mod quickstart;
pub mod search;
pub mod serve;
pub mod table;
pub mod verify;

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

pub use args::{Cli, Command};
pub use context::{CliError, Context, OutputFormat};
pub use exit::ExitCode;

use crate::index::kernels;
use crate::rt;

/// Parses the process's arguments, runs the command on a runtime of its own, and prints its error if it fails.
pub fn main(arguments: Vec<OsString>) -> std::process::ExitCode {
    // Usage errors and --help print themselves and end the process with clap's codes: 2 and 0, as documented.
    let cli = Cli::parse_from(args::seed_spellings(arguments, std::path::Path::exists));
    let ended = choose_kernels(std::env::var("VECTORSPHERE_SIMD").ok().as_deref()).and_then(|()| {
        rt::block_on(rt::compute::cores(), run(cli))
            .unwrap_or_else(|error| Err(CliError::internal(format!("no runtime: {error}"))))
    });
    ended.unwrap_or_else(|error| {
        eprintln!("vectorsphere: {error}");
        error.exit_code.into()
    })
}

/// The instruction set of the index: for comparing, every choice gives the same answers.
///
/// # Errors
/// A wish this machine cannot meet, with exit code 2: who compares must not measure something else unawares.
fn choose_kernels(wish: Option<&str>) -> Result<(), CliError> {
    let wish = wish.filter(|wish| !wish.is_empty());
    let known = kernels::names();
    if let Some(wish) = wish.filter(|wish| !known.contains(wish)) {
        let known = known.join(", ");
        return Err(CliError::usage(format!("VECTORSPHERE_SIMD is {wish:?}; this machine has {known}")));
    }
    kernels::choose(wish);
    Ok(())
}

/// Runs one command.
///
/// # Errors
/// Whatever the command fails with.
pub async fn run(cli: Cli) -> Result<std::process::ExitCode, CliError> {
    let context = Context { endpoint: cli.endpoint, output: cli.output };
    let code = match cli.command {
        Command::Serve(args) => serve::run(args).await?.into(),
        Command::Quickstart(args) => quickstart::run(args, &context).await?.into(),
        Command::Table(args) => table::run(args, &context).await?.into(),
        Command::Import(args) => import::run(args, &context).await?.into(),
        Command::Export(args) => export::run(args, &context).await?.into(),
        Command::Search(args) => search::run(args, &context).await?.into(),
        Command::Bench(args) => bench::run(args, &context).await?.into(),
        Command::Cluster(command) => cluster::run(&command, &context).await?.into(),
        Command::Verify => verify::run(&context).await?.into(),
        Command::Config(command) => config_cmd::run(&command, &context)?.into(),
        Command::Doctor(args) => doctor::run(&args, &context).await?.into(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "vectorsphere", &mut std::io::stdout());
            ExitCode::Ok.into()
        }
    };
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_are_not_there_are_refused_with_those_that_are() {
        let error = choose_kernels(Some("mmx")).unwrap_err();
        assert_eq!(error.exit_code, 2);
        assert!(error.message.contains("mmx") && error.message.contains("this machine has scalar"), "{error}");
        assert!(choose_kernels(None).is_ok() && choose_kernels(Some("")).is_ok());
    }
}
