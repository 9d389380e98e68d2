//! `/openapi.json` (OpenAPI 3.1, made from the handlers' attributes and the dto types) and `/docs`, the page that reads it.
//! Both are built once. Called by the router; a test keeps document and router equal.

use super::{App, administration, aliases, dto, handlers, health, payload_indexes, problem::Problem};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, header};
use std::sync::LazyLock;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Ref, RefOr, Response as ApiResponse,
        content::ContentBuilder,
        path::{Operation, PathItem},
    },
};

/// The description of the face.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "VectorSphere",
        description = "Native REST API of the VectorSphere vector database. Every error is an RFC 9457 problem with a \
                       stable `code`. Every answer carries `x-request-id`."
    ),
    paths(
        handlers::create_table,
        handlers::list_tables,
        handlers::get_table,
        handlers::delete_table,
        handlers::table_stats,
        payload_indexes::list_indexes,
        payload_indexes::put_index,
        payload_indexes::delete_index,
        aliases::table_aliases,
        aliases::list_aliases,
        aliases::change_aliases,
        handlers::write_documents,
        handlers::get_document,
        handlers::put_document,
        handlers::patch_document,
        handlers::delete_document,
        handlers::delete_documents,
        handlers::list_documents,
        handlers::search,
        handlers::cluster_status,
        handlers::cluster_nodes,
        handlers::cluster_verify,
        administration::rebalance,
        administration::drain,
        administration::cancel_drain,
        administration::remove,
        administration::split,
        administration::merge,
        administration::history,
        handlers::limits,
        health::health,
        health::healthz,
        health::livez,
        health::readyz,
        openapi_json,
        docs,
    ),
    components(schemas(Problem, dto::WireId, dto::Components, dto::AckWord)),
    tags(
        (name = "tables", description = "Named sets of documents with vectors of one shape"),
        (name = "aliases", description = "Other names of tables"),
        (name = "indexes", description = "Fields of the metadata that filters find without reading documents"),
        (name = "documents", description = "Vectors with an id and attributes"),
        (name = "search", description = "Nearest neighbours"),
        (name = "cluster", description = "The cluster and its bounds"),
        (name = "health", description = "For load balancers and orchestrators"),
        (name = "description", description = "This description"),
    ),
    modifiers(&Problems)
)]
pub struct Description;

/// Adds the error answers that every operation has.
struct Problems;

impl Modify for Problems {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for item in openapi.paths.paths.values_mut() {
            for operation in operations(item) {
                for (status, description) in [("4XX", "The request is refused"), ("5XX", "The request failed")] {
                    let response = RefOr::T(problem_response(description));
                    operation.responses.responses.insert(status.to_owned(), response);
                }
            }
        }
    }
}

fn problem_response(description: &str) -> ApiResponse {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let mut response = ApiResponse::new(description);
    response.content.insert(super::problem::MEDIA_TYPE.to_owned(), content.into());
    response
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
}

static JSON: LazyLock<Bytes> =
    LazyLock::new(|| Bytes::from(Description::openapi().to_json().expect("invariant: the description is JSON")));

const PAGE: &str = include_str!("docs.html");

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "description",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub async fn openapi_json(State(_): State<App>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], JSON.clone()).into_response()
}

/// This description, to look at and to try
#[utoipa::path(get, path = "/docs", tag = "description",
    responses((status = 200, description = "One page, nothing loaded from elsewhere", content_type = "text/html")))]
pub async fn docs(State(_): State<App>) -> Response {
    // The page holds its own script and style and may talk to this server only.
    const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, PAGE).into_response()
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
