//! `vectorsphere search`: the place of the command in the grammar; the branch with the data commands brings its body.

use clap::Args;

use super::context::{CliError, Context};
use super::exit::ExitCode;

/// Arguments of `search`.
#[derive(Args, Clone, Debug, Default)]
pub struct SearchArgs {}

/// Runs the command.
///
/// # Errors
/// Always, exit code 70: this build has no `search`.
pub async fn run(_args: SearchArgs, _context: &Context) -> Result<ExitCode, CliError> {
    Err(CliError::internal("this build has no `search` command"))
}
