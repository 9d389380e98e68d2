//! How the program ends: the documented exit codes, and how a configuration that is not usable becomes one.
//!
//! Promise: the numbers are part of the command line's interface and stand in every `--help` that starts or checks a
//! node. Used by every command; errors themselves are [`CliError`].

use super::context::CliError;
use crate::config::{ConfigError, Problem};

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, or stopped as asked.
    Ok = 0,
    /// The command did its work and found something wrong (a check failed, rows were rejected).
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// The data directory is in use by another process.
    DataInUse = 3,
    /// The data cannot be used: damaged, or of a newer version.
    DataUnusable = 4,
    /// The node or cluster cannot be reached.
    Unreachable = 5,
    /// A defect of the program.
    Internal = 70,
    /// Stopped by the user in the middle of a command.
    Interrupted = 130,
}

/// The table of exit codes for `--help`.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0    done, or stopped as asked
  1    the command found something wrong (a check failed, rows were rejected)
  2    wrong usage or configuration
  3    the data directory is in use by another process
  4    the data cannot be used: damaged, or of a newer version
  5    the node or cluster cannot be reached
  70   a defect of the program
  130  interrupted in the middle of a command";

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        (code as u8).into()
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let advice = "`vectorsphere config explain KEY` tells what a key means and accepts";
        CliError::usage(format!("the configuration is not usable:\n{error}\n{advice}"))
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        ConfigError::from(problem).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        let codes = [
            ExitCode::Ok,
            ExitCode::Failed,
            ExitCode::Usage,
            ExitCode::DataInUse,
            ExitCode::DataUnusable,
            ExitCode::Unreachable,
            ExitCode::Internal,
            ExitCode::Interrupted,
        ];
        for code in codes {
            let number = format!("  {} ", code as u8);
            assert!(EXIT_CODES_HELP.lines().any(|line| line.starts_with(&number)), "{code:?}");
        }
        assert_eq!(EXIT_CODES_HELP.lines().count(), codes.len() + 1);
    }

    #[test]
    fn errors_of_the_commands_use_the_documented_codes() {
        assert_eq!(CliError::usage("x").exit_code, ExitCode::Usage as u8);
        assert_eq!(CliError::failed("x").exit_code, ExitCode::Failed as u8);
        assert_eq!(CliError::unreachable("x").exit_code, ExitCode::Unreachable as u8);
        assert_eq!(CliError::internal("x").exit_code, ExitCode::Internal as u8);
        assert_eq!(CliError::interrupted("x").exit_code, ExitCode::Interrupted as u8);
        assert_eq!(CliError::from(Problem::BadAssignment { got: "x".into() }).exit_code, ExitCode::Usage as u8);
    }
}
