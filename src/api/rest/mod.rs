//! The native REST face: `/api/v1`, health, `/openapi.json` and `/docs`.
//!
//! Promise: every error is a problem body with a stable code; nothing of a request is acted on before all of it has been
//! read and checked; memory and time that a request can take are bounded before it takes them. Called by the roof, which
//! serves [`router`] with `rt::http`.

mod administration;
mod aliases;
mod answer;
mod body;
mod bulk;
pub mod dto;
mod handlers;
pub(super) mod health;
pub(super) mod json;
pub(super) mod observe;
mod openapi;
mod path;
mod payload_indexes;
mod problem;

pub use observe::{refusal, request_id};
pub use openapi::Description;
pub use problem::Problem;

use problem::ApiError;

use crate::{
    api::{admission::Admission, errors::METHOD_NOT_ALLOWED},
    service::Service,
    telemetry::metrics::HttpMetrics,
    types::{Error, ErrorKind, limits},
};
use axum::{
    Router,
    extract::Request,
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, patch, post, put},
};
use http::{Method, StatusCode};
use std::sync::Arc;
use tower_http::{
    compression::{CompressionLayer, predicate::SizeAbove},
    decompression::RequestDecompressionLayer,
};

/// The bounds of the face.
#[derive(Clone, Debug)]
pub struct RestOptions {
    /// One body, after decompression; more is answered 413.
    pub body_bytes_max: usize,
    /// Answers at least this large are compressed for clients that take gzip.
    pub gzip_bytes_min: u64,
}

impl Default for RestOptions {
    fn default() -> RestOptions {
        RestOptions { body_bytes_max: limits::REQUEST_BYTES_MAX, gzip_bytes_min: 32 * 1024 }
    }
}

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App {
    service: Service,
    admission: Arc<Admission>,
    options: Arc<RestOptions>,
    metrics: HttpMetrics,
}

/// The face as a router. Give the listener's `HttpOptions::body_bytes_max` at least `options.body_bytes_max`.
pub fn router(service: Service, admission: Arc<Admission>, options: RestOptions, metrics: HttpMetrics) -> Router {
    let compression = CompressionLayer::new().compress_when(SizeAbove::new(options.gzip_bytes_min));
    let app = App { service, admission, options: Arc::new(options), metrics };
    let router = routes().into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler));
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        .layer(middleware::from_fn_with_state(app.clone(), observe::observe))
        .layer(compression)
        .with_state(app)
}

/// One call of the face.
struct Route {
    #[cfg_attr(not(test), expect(dead_code, reason = "the handler has it; a test compares it with the description"))]
    method: Method,
    path: &'static str,
    handler: MethodRouter<App>,
}

/// Every call. The router has these and no others.
fn routes() -> Vec<Route> {
    let route = |method, path, handler| Route { method, path, handler };
    const TABLE: &str = "/api/v1/tables/{table}";
    const FIELD: &str = "/api/v1/tables/{table}/indexes/{field}";
    const DRAIN: &str = "/api/v1/cluster/nodes/{node}/drain";
    const DOCUMENT: &str = "/api/v1/tables/{table}/documents/{document_id}";
    vec![
        route(Method::POST, "/api/v1/tables", post(handlers::create_table)),
        route(Method::GET, "/api/v1/tables", get(handlers::list_tables)),
        route(Method::GET, TABLE, get(handlers::get_table)),
        route(Method::DELETE, TABLE, delete(handlers::delete_table)),
        route(Method::GET, "/api/v1/tables/{table}/stats", get(handlers::table_stats)),
        route(Method::GET, "/api/v1/tables/{table}/indexes", get(payload_indexes::list_indexes)),
        route(Method::PUT, FIELD, put(payload_indexes::put_index)),
        route(Method::DELETE, FIELD, delete(payload_indexes::delete_index)),
        route(Method::GET, "/api/v1/tables/{table}/aliases", get(aliases::table_aliases)),
        route(Method::GET, "/api/v1/aliases", get(aliases::list_aliases)),
        route(Method::POST, "/api/v1/aliases", post(aliases::change_aliases)),
        route(Method::POST, "/api/v1/tables/{table}/documents", post(handlers::write_documents)),
        route(Method::GET, DOCUMENT, get(handlers::get_document)),
        route(Method::PUT, DOCUMENT, put(handlers::put_document)),
        route(Method::PATCH, DOCUMENT, patch(handlers::patch_document)),
        route(Method::DELETE, DOCUMENT, delete(handlers::delete_document)),
        route(Method::POST, "/api/v1/tables/{table}/documents/delete", post(handlers::delete_documents)),
        route(Method::POST, "/api/v1/tables/{table}/documents/list", post(handlers::list_documents)),
        route(Method::POST, "/api/v1/tables/{table}/search", post(handlers::search)),
        route(Method::GET, "/api/v1/cluster/status", get(handlers::cluster_status)),
        route(Method::GET, "/api/v1/cluster/nodes", get(handlers::cluster_nodes)),
        route(Method::POST, "/api/v1/cluster/verify", post(handlers::cluster_verify)),
        route(Method::POST, "/api/v1/cluster/rebalance", post(administration::rebalance)),
        route(Method::POST, DRAIN, post(administration::drain)),
        route(Method::DELETE, DRAIN, delete(administration::cancel_drain)),
        route(Method::DELETE, "/api/v1/cluster/nodes/{node}", delete(administration::remove)),
        route(Method::POST, "/api/v1/cluster/split", post(administration::split)),
        route(Method::POST, "/api/v1/cluster/merge", post(administration::merge)),
        route(Method::GET, "/api/v1/cluster/history", get(administration::history)),
        route(Method::GET, "/api/v1/limits", get(handlers::limits)),
        route(Method::GET, "/health", get(health::health)),
        route(Method::GET, "/healthz", get(health::healthz)),
        route(Method::GET, "/livez", get(health::livez)),
        route(Method::GET, "/readyz", get(health::readyz)),
        route(Method::GET, "/openapi.json", get(openapi::openapi_json)),
        route(Method::GET, "/docs", get(openapi::docs)),
    ]
}

/// Health is never refused for load and never logged.
fn is_health(path: &str) -> bool {
    matches!(path, "/health" | "/healthz" | "/livez" | "/readyz")
}

async fn no_route(request: Request) -> ApiError {
    let shown: String = request.uri().path().chars().take(120).collect();
    ApiError(
        Error::new(ErrorKind::NotFound, "route_not_found", "there is no such path")
            .expected("a path listed at /openapi.json")
            .got(shown),
    )
}

/// The path exists: OPTIONS is told its methods, any other method is refused. axum adds `Allow` to both.
async fn no_method(request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let error = Error::invalid(METHOD_NOT_ALLOWED, "this path does not have this method");
    ApiError(error.expected("a method of the Allow header").got(request.method())).into_response()
}
