//! How the gateway itself is: health on the public port, and on the operators' port metrics, health and every node's state and
//! statistics (`GET /backends`).

use super::link::Link;
use crate::{
    api::respond_health,
    rt::time::now,
    service::{Check, HealthReport},
    telemetry::metrics::{BackendRow, CONTENT_TYPE, Metrics},
    traffic::{BackendStatistics, Balancer, State},
};
use axum::{Json, Router, extract::Query, response::IntoResponse, routing::get};
use http::{HeaderValue, header};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Whether a node takes requests.
pub fn is_ready(balancer: &Balancer<Arc<Link>>) -> bool {
    balancer.statistics(now()).iter().any(|one| one.state == State::In && one.is_known)
}

#[derive(Deserialize)]
struct Asked {
    verbose: Option<String>,
}

/// The gateway's own health calls.
pub fn health(balancer: Balancer<Arc<Link>>) -> Router {
    let whole = balancer.clone();
    let live = balancer.clone();
    let ready = get(async move |Query(asked): Query<Asked>| {
        let report = report(&whole);
        respond_health(report.ready, report, is_verbose(&asked))
    });
    let live = get(async move |Query(asked): Query<Asked>| respond_health(true, report(&live), is_verbose(&asked)));
    Router::new()
        .route("/health", ready.clone())
        .route("/healthz", ready.clone())
        .route("/readyz", ready)
        .route("/livez", live)
}

fn is_verbose(asked: &Asked) -> bool {
    asked.verbose.as_deref().is_some_and(|value| value != "false")
}

/// The operators' port.
pub fn router(balancer: Balancer<Arc<Link>>, metrics: Metrics) -> Router {
    let counted = balancer.clone();
    metrics.watch_backends(move || counted.statistics(now()).into_iter().map(row).collect());
    let text = get(async move || {
        ([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], metrics.encode()).into_response()
    });
    let listed = balancer.clone();
    let backends =
        get(async move || Json(json!({"backends": listed.statistics(now()).iter().map(shown).collect::<Vec<_>>()})));
    let health = get(async move || {
        let report = report(&balancer);
        respond_health(report.ready, report, true)
    });
    Router::new().route("/metrics", text).route("/backends", backends).route("/health", health)
}

fn report(balancer: &Balancer<Arc<Link>>) -> HealthReport {
    let all = balancer.statistics(now());
    let takes = |one: &&BackendStatistics| one.state == State::In && one.is_known;
    let ready = all.iter().filter(takes).count();
    let detail = format!("{ready} of {} known nodes take requests", all.len());
    let nodes = Check { name: "nodes", ok: ready > 0, detail };
    HealthReport { live: true, ready: ready > 0, checks: vec![nodes] }
}

fn shown(one: &BackendStatistics) -> Value {
    json!({
        "node": &*one.name, "state": word(one.state), "weight": one.weight, "in_flight": one.in_flight,
        "requests": one.requests, "failures": one.failures, "abandoned": one.abandoned, "ejections": one.ejections,
        "latency_ms": one.latency.map(|latency| latency.as_secs_f64() * 1e3),
    })
}

fn word(state: State) -> &'static str {
    match state {
        State::In => "in",
        State::Draining => "draining",
        State::NotReady => "not_ready",
        State::Ejected => "ejected",
    }
}

fn row(one: BackendStatistics) -> BackendRow {
    BackendRow {
        node: one.name.to_string(),
        is_in: one.state == State::In,
        in_flight: one.in_flight,
        requests: one.requests,
        failures: one.failures,
        abandoned: one.abandoned,
        ejections: one.ejections,
        latency: one.latency.unwrap_or_default(),
    }
}
