//! `vectorsphere export`: the place of the command in the grammar; the branch with the data commands brings its body.

use clap::Args;

use super::context::{CliError, Context};
use super::exit::ExitCode;

/// Arguments of `export`.
#[derive(Args, Clone, Debug, Default)]
pub struct ExportArgs {}

/// Runs the command.
///
/// # Errors
/// Always, exit code 70: this build has no `export`.
pub async fn run(_args: ExportArgs, _context: &Context) -> Result<ExitCode, CliError> {
    Err(CliError::internal("this build has no `export` command"))
}
