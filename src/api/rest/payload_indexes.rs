//! The calls on payload indexes, one function each. Called by the router.

use super::{
    App, answer,
    body::{RawBody, parse},
    dto, json,
    path::{Field, NoQuery, Table},
    problem::ApiError,
};
use axum::{extract::State, response::Response};

type Answer = Result<Response, ApiError>;

/// List the indexed fields
#[utoipa::path(get, path = "/api/v1/tables/{table}/indexes", tag = "indexes", params(("table" = String, Path, description = "Name of the table")),
    responses((status = 200, description = "The indexed fields of the metadata", body = dto::FieldIndexesAnswer)))]
pub async fn list_indexes(State(app): State<App>, _: NoQuery, Table(name): Table) -> Answer {
    let indexes = app.service.payload_indexes(&name).await?;
    Ok(answer::ok(&dto::FieldIndexesAnswer { indexes: indexes.iter().map(dto::FieldIndexAnswer::from).collect() }))
}

/// Index a field of the metadata
///
/// Filters on an indexed field find their documents without reading every one. The index is filled in the background; filters
/// work all the while. Indexing a field again changes nothing, or its `type`.
#[utoipa::path(put, path = "/api/v1/tables/{table}/indexes/{field}", tag = "indexes",
    params(("table" = String, Path, description = "Name of the table"), ("field" = String, Path, description = "Path into the metadata, as filters name it")),
    request_body(content = Option<dto::FieldIndexBody>, description = "May be left out"),
    responses((status = 200, description = "The field is indexed, or will be once `state` is `ready`", body = dto::FieldIndexAnswer)))]
pub async fn put_index(
    State(app): State<App>,
    _: NoQuery,
    Table(name): Table,
    Field(field): Field,
    body: RawBody,
) -> Answer {
    let body = body.json()?;
    let kind = if body.is_empty() {
        dto::FieldIndexBody::default()
    } else {
        parse(body, json::read::<dto::FieldIndexBody>).await?
    };
    let info = app.service.put_payload_index(&name, field, kind.kind()).await?;
    Ok(answer::ok(&dto::FieldIndexAnswer::from(&info)))
}

/// Stop indexing a field
///
/// Filters on it go on to work, by reading documents.
#[utoipa::path(delete, path = "/api/v1/tables/{table}/indexes/{field}", tag = "indexes",
    params(("table" = String, Path, description = "Name of the table"), ("field" = String, Path, description = "Path into the metadata, as filters name it")),
    responses((status = 200, description = "The index is gone", body = dto::FieldIndexDeleted)))]
pub async fn delete_index(State(app): State<App>, _: NoQuery, Table(name): Table, Field(field): Field) -> Answer {
    app.service.delete_payload_index(&name, &field).await?;
    Ok(answer::ok(&dto::FieldIndexDeleted { field: field.to_string(), deleted: true }))
}
