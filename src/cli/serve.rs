//! `vectorsphere serve`: configuration, logs, then the node or the gateway.
//!
//! Promise: whatever is wrong with the configuration ends the program with exit code 2 before anything is opened or
//! bound; what was set and has no effect yet is logged once at start. Called by `cli::run`.

use super::args::ServeArgs;
use super::config_cmd::{load_config, require_startable};
use super::context::CliError;
use super::exit::ExitCode;
use crate::config::{Config, Loaded, LogFormat, Mode};
use crate::gateway::Gateway;
use crate::node::{Addresses, Node, StartError};
use crate::rt;
use crate::telemetry::logs::{self, Style};
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::task::Poll;

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

/// Starts a node and serves until told to stop, the disk fails or it turns out that the node cannot take part in its cluster.
///
/// # Errors
/// As [`prepare`]; then the exit codes of [`crate::node::StartError`]; 4 if the disk failed while it served.
pub async fn run(args: ServeArgs) -> Result<ExitCode, CliError> {
    let config = prepare(&args)?;
    if config.mode == Mode::Gateway {
        return run_gateway(&args, &config).await;
    }
    let mut terminated = pin!(rt::signal::terminated());
    // Listens from here on: a signal that comes while the node starts, or at once after, still stops it in order.
    let asked_early = poll_fn(|context| Poll::Ready(terminated.as_mut().poll(context))).await;
    let started = rt::time::now();
    let node = Node::start(&config).await.map_err(|error| not_started(&error))?;
    let ready_ms = started.elapsed().as_secs_f64() * 1e3;
    let addresses = node.addresses();
    tracing::info!(http = ?addresses.http, grpc = %addresses.grpc, monitoring = %addresses.monitoring,
        data_dir = %config.data_dir.display(), simd = crate::index::active_simd(), ready_ms, "ready");
    if let Some(path) = &args.ready_file {
        write_ready_file(path, addresses)?;
    }
    let failed = node.failed().clone();
    let has_failed = tokio::select! {
        biased;
        () = failed.wait() => true,
        asked = async { match asked_early { Poll::Ready(asked) => asked, Poll::Pending => terminated.await } } => {
            asked.map_err(|error| CliError::internal(format!("cannot wait for signals: {error}")))?;
            tracing::info!("stopping: no new connections, requests under way are finished");
            false
        }
    };
    let why = has_failed.then(|| node.refused().map_or_else(disk_failed, not_started));
    node.stop().await;
    if let Some(why) = why {
        return Err(why);
    }
    tracing::info!("stopped");
    Ok(ExitCode::Ok)
}

/// Starts a gateway and serves until told to stop.
async fn run_gateway(args: &ServeArgs, config: &Config) -> Result<ExitCode, CliError> {
    let mut terminated = pin!(rt::signal::terminated());
    let asked_early = poll_fn(|context| Poll::Ready(terminated.as_mut().poll(context))).await;
    let gateway = Gateway::start(config).await.map_err(|error| CliError::usage(error.to_string()))?;
    let addresses = *gateway.addresses();
    tracing::info!(gateway = %addresses.gateway, monitoring = %addresses.monitoring, "ready");
    if let Some(path) = &args.ready_file {
        let http = addresses.gateway;
        let ready = serde_json::json!({
            "http": http, "gateway": http, "monitoring": addresses.monitoring, "pid": std::process::id(),
        });
        write_whole(path, &ready)?;
    }
    let asked = match asked_early {
        Poll::Ready(asked) => asked,
        Poll::Pending => terminated.await,
    };
    asked.map_err(|error| CliError::internal(format!("cannot wait for signals: {error}")))?;
    tracing::info!("stopping: no new connections, requests under way are finished");
    gateway.stop().await;
    tracing::info!("stopped");
    Ok(ExitCode::Ok)
}

fn disk_failed() -> CliError {
    let message = "the disk failed; the node has stopped because it could no longer promise what it writes";
    CliError { message: message.to_owned(), exit_code: ExitCode::DataUnusable as u8 }
}

fn not_started(error: &StartError) -> CliError {
    CliError { message: error.to_string(), exit_code: error.exit_code() }
}

/// Tells whoever started the process where it listens: the file appears whole, once everything is served.
fn write_ready_file(path: &Path, addresses: &Addresses) -> Result<(), CliError> {
    let ready = serde_json::json!({
        "http": addresses.http.first(), "http_all": addresses.http, "grpc": addresses.grpc, "monitoring": addresses.monitoring,
        "peer": addresses.peer, "pid": std::process::id(),
    });
    write_whole(path, &ready)
}

/// Writes a file that others wait for: there whole, or not there.
///
/// # Errors
/// What the system says.
pub(super) fn write_whole(path: &Path, ready: &serde_json::Value) -> Result<(), CliError> {
    let temporary = path.with_extension("tmp");
    let written = std::fs::write(&temporary, ready.to_string()).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|error| CliError::failed(format!("cannot write {}: {error}", path.display())))
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
