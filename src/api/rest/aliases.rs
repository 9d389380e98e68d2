//! The calls on aliases, one function each. Called by the router.

use super::{
    App, answer,
    body::Json,
    dto,
    path::{NoQuery, Table},
    problem::ApiError,
};
use axum::{extract::State, response::Response};

type Answer = Result<Response, ApiError>;

/// Change aliases
///
/// An alias is another name of a table, under which requests for its documents, indexes and figures find it. All changes of a
/// request are made in one step, in their order, or none is. Creating an alias that is there lets it name the other table from then
/// on: nobody finds it missing meanwhile. No table may have the name of an alias; a table's aliases go when it is deleted.
#[utoipa::path(post, path = "/api/v1/aliases", tag = "aliases", request_body = dto::AliasesBody,
    responses((status = 200, description = "The changes are made", body = dto::AliasesChangedAnswer)))]
pub async fn change_aliases(State(app): State<App>, _: NoQuery, Json(body): Json<dto::AliasesBody>) -> Answer {
    let changed = app.service.change_aliases(body.into_changes()?).await?;
    Ok(answer::ok(&dto::AliasesChangedAnswer::from(changed)))
}

/// List the aliases
#[utoipa::path(get, path = "/api/v1/aliases", tag = "aliases",
    responses((status = 200, description = "All aliases, by name", body = dto::AliasesAnswer)))]
pub async fn list_aliases(State(app): State<App>, _: NoQuery) -> Answer {
    Ok(answer::ok(&dto::AliasesAnswer::from(app.service.aliases().await)))
}

/// List the aliases of a table
#[utoipa::path(get, path = "/api/v1/tables/{table}/aliases", tag = "aliases", params(("table" = String, Path, description = "Name of the table, or an alias of it")),
    responses((status = 200, description = "Its aliases, by name", body = dto::AliasesAnswer)))]
pub async fn table_aliases(State(app): State<App>, _: NoQuery, Table(name): Table) -> Answer {
    Ok(answer::ok(&dto::AliasesAnswer::from(app.service.aliases_of(&name).await?)))
}
