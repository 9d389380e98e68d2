//! The command line: arguments in, exit code out.
//!
//! Promise: answers go to standard output, everything else to standard error; every way to fail has a documented exit
//! code ([`exit`]). Part of the roof; called by `main.rs` alone.

pub mod args;
pub mod bench;
pub mod client;
pub mod config_cmd;
pub mod context;
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

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

pub use args::{Cli, Command};
pub use context::{CliError, Context, OutputFormat};
pub use exit::ExitCode;

use crate::rt;

/// Parses the process's arguments, runs the command on a runtime of its own, and prints its error if it fails.
pub fn main(arguments: Vec<OsString>) -> std::process::ExitCode {
    // Usage errors and --help print themselves and end the process with clap's codes: 2 and 0, as documented.
    let cli = Cli::parse_from(args::seed_spellings(arguments));
    // For comparing kernels; every choice gives the same answers.
    crate::index::kernels::choose(std::env::var("VECTORSPHERE_SIMD").ok().as_deref());
    let ended = rt::block_on(rt::compute::cores(), run(cli))
        .unwrap_or_else(|error| Err(CliError::internal(format!("no runtime: {error}"))));
    ended.unwrap_or_else(|error| {
        eprintln!("vectorsphere: {error}");
        error.exit_code.into()
    })
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
        Command::Config(command) => config_cmd::run(&command, &context)?.into(),
        Command::Doctor(args) => doctor::run(&args, &context).await?.into(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "vectorsphere", &mut std::io::stdout());
            ExitCode::Ok.into()
        }
    };
    Ok(code)
}
