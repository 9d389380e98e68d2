//! The operators' port (:9090): `/metrics` for Prometheus and `/health`. Called by the roof.
//!
//! It asks for no admission: it must answer when everything else is refused.

use super::rest::health;
use crate::{service::Service, telemetry::metrics::CONTENT_TYPE};
use axum::{Router, extract::State, response::IntoResponse, routing::get};
use futures_util::future::BoxFuture;
use http::{HeaderValue, header};
use std::sync::Arc;

/// Writes the metrics as text (OpenMetrics).
pub type MetricsText = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// The port as a router. `metrics` is called once a scrape.
pub fn router(service: Service, metrics: MetricsText) -> Router {
    let metrics = get(move || async move {
        ([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], metrics().await).into_response()
    });
    let health = get(|State(service): State<Service>| async move {
        let report = service.health();
        health::respond(report.live && report.ready, report, true)
    });
    Router::new().route("/metrics", metrics).route("/health", health).with_state(service)
}
