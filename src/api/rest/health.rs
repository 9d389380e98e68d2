//! Health of the node, for load balancers and orchestrators: never refused for load, never logged. `/livez` asks whether
//! to restart the node, `/readyz` whether to send it requests, `/health` and `/healthz` both. Called by the router and
//! by `monitoring`.

use super::{App, answer, dto, path::Verbose};
use crate::service::HealthReport;
use axum::{extract::State, response::Response};
use http::StatusCode;

/// Live and ready
#[utoipa::path(get, path = "/health", tag = "health", params(("verbose" = Option<bool>, Query, description = "List each check")),
    responses((status = 200, description = "Well", body = dto::HealthAnswer), (status = 503, description = "Not well", body = dto::HealthAnswer)))]
pub async fn health(State(app): State<App>, Verbose(verbose): Verbose) -> Response {
    let report = app.service.health();
    respond(report.live && report.ready, report, verbose)
}

/// Live and ready
#[utoipa::path(get, path = "/healthz", tag = "health", params(("verbose" = Option<bool>, Query, description = "List each check")),
    responses((status = 200, description = "Well", body = dto::HealthAnswer), (status = 503, description = "Not well", body = dto::HealthAnswer)))]
pub async fn healthz(state: State<App>, verbose: Verbose) -> Response {
    health(state, verbose).await
}

/// Whether the process works at all
#[utoipa::path(get, path = "/livez", tag = "health", params(("verbose" = Option<bool>, Query, description = "List each check")),
    responses((status = 200, description = "Live", body = dto::HealthAnswer), (status = 503, description = "Restart it", body = dto::HealthAnswer)))]
pub async fn livez(State(app): State<App>, Verbose(verbose): Verbose) -> Response {
    let report = app.service.health();
    respond(report.live, report, verbose)
}

/// Whether to send it requests
#[utoipa::path(get, path = "/readyz", tag = "health", params(("verbose" = Option<bool>, Query, description = "List each check")),
    responses((status = 200, description = "Ready", body = dto::HealthAnswer), (status = 503, description = "Not yet, or no more", body = dto::HealthAnswer)))]
pub async fn readyz(State(app): State<App>, Verbose(verbose): Verbose) -> Response {
    let report = app.service.health();
    respond(report.ready, report, verbose)
}

/// The answer for a node that is or is not `well`.
pub fn respond(well: bool, report: HealthReport, verbose: bool) -> Response {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer::with_status(status, &dto::HealthAnswer::new(well, report, verbose))
}
