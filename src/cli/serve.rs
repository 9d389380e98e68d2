//! `vectorsphere serve`: configuration, logs, then the node.
//!
//! Promise: whatever is wrong with the configuration ends the program with exit code 2 before anything is opened or
//! bound; what was set and has no effect yet is logged once at start. Called by `cli::run`.

use super::args::ServeArgs;
use super::config_cmd::{load_config, require_startable};
use super::context::CliError;
use super::exit::ExitCode;
use crate::config::{Config, Loaded, LogFormat};
use crate::telemetry::logs::{self, Style};

/// Loads the configuration and starts the logs: everything before the node itself.
///
/// # Errors
/// Exit code 2 where the configuration is not usable or names a mode of a cluster.
pub fn prepare(args: &ServeArgs) -> Result<Config, CliError> {
    let loaded = load_config(&args.config)?;
    require_startable(&loaded)?;
    start_logs(&loaded.config);
    tell(&loaded);
    Ok(loaded.config)
}

/// Starts a node and serves until told to stop.
///
/// # Errors
/// As [`prepare`]; then exit code 70, because this build has no node to start.
pub async fn run(args: ServeArgs) -> Result<ExitCode, CliError> {
    let _config = prepare(&args)?;
    Err(CliError::internal("this build has no node to start"))
}

fn start_logs(config: &Config) {
    let style = match config.log.format {
        LogFormat::Auto => Style::Auto,
        LogFormat::Text => Style::Text,
        LogFormat::Json => Style::Json,
    };
    logs::init(&config.log.level, style);
}

fn tell(loaded: &Loaded) {
    for notice in &loaded.notices {
        tracing::warn!(key = notice.key, origin = %notice.origin, reason = notice.reason, "accepted, has no effect yet");
    }
    if loaded.config.security.insecure {
        tracing::warn!("security.insecure: nothing asks callers who they are");
    }
}
