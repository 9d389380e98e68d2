//! The calls of the native REST face, one function each: read, convert, ask the service, answer. The attribute above
//! each is its entry in `/openapi.json`. Called by the router.

use super::{
    App, answer,
    body::{Json, Media, RawBody, parse},
    bulk, dto, json,
    path::{Document, Force, NoQuery, NodesQuery, ReadQuery, Table, WriteQuery},
    problem::ApiError,
};
use crate::{
    rt::time,
    types::{
        DocumentId, StoredPoint,
        operation::{DeleteRequest, PageAnswer, SearchesAnswer},
    },
};
use axum::{extract::State, response::Response};
use http::StatusCode;

type Answer = Result<Response, ApiError>;

/// Create a table
#[utoipa::path(post, path = "/api/v1/tables", tag = "tables", request_body = dto::CreateTable,
    responses((status = 201, description = "The table", body = dto::TableAnswer)))]
pub async fn create_table(State(app): State<App>, _: NoQuery, Json(body): Json<dto::CreateTable>) -> Answer {
    let (name, spec) = body.into_spec()?;
    let info = app.service.create_collection(name, spec).await?;
    Ok(answer::with_status(StatusCode::CREATED, &dto::TableAnswer::from(&info)))
}

/// List the tables
#[utoipa::path(get, path = "/api/v1/tables", tag = "tables",
    responses((status = 200, description = "All tables, by name", body = dto::TablesAnswer)))]
pub async fn list_tables(State(app): State<App>, _: NoQuery) -> Answer {
    let tables = app.service.list_collections().await?;
    Ok(answer::ok(&dto::TablesAnswer { tables: tables.iter().map(dto::TableAnswer::from).collect() }))
}

/// Look at a table
#[utoipa::path(get, path = "/api/v1/tables/{table}", tag = "tables", params(("table" = String, Path, description = "Name of the table")),
    responses((status = 200, description = "The table", body = dto::TableAnswer)))]
pub async fn get_table(State(app): State<App>, _: NoQuery, Table(name): Table) -> Answer {
    Ok(answer::ok(&dto::TableAnswer::from(&app.service.collection(&name).await?)))
}

/// Delete a table and its documents
#[utoipa::path(delete, path = "/api/v1/tables/{table}", tag = "tables", params(("table" = String, Path, description = "Name of the table"),
        ("force" = Option<bool>, Query, description = "Delete it although a shard has no leader; false if absent. Clients that still reach a majority of such a shard, and not the coordinator, may go on using it for a while")),
    responses((status = 200, description = "The table is gone", body = dto::TableDeleted)))]
pub async fn delete_table(State(app): State<App>, Force(force): Force, Table(name): Table) -> Answer {
    app.service.delete_collection(&name, force).await?;
    Ok(answer::ok(&dto::TableDeleted { table_name: name.to_string(), deleted: true }))
}

/// Counts, index, memory and disk of a table
#[utoipa::path(get, path = "/api/v1/tables/{table}/stats", tag = "tables", params(("table" = String, Path, description = "Name of the table")),
    responses((status = 200, description = "The figures", body = dto::StatsAnswer)))]
pub async fn table_stats(State(app): State<App>, _: NoQuery, Table(name): Table) -> Answer {
    Ok(answer::ok(&dto::StatsAnswer::from(&app.service.stats(&name).await?)))
}

/// Write one document, or a batch
///
/// A request is checked whole before anything is written; the documents of one shard are then written all or none (a table has one shard unless it was created with more). Existing documents are replaced. For bulk loads the body may be
/// `application/octet-stream`: u32 count, u32 dimension, count × u64 ids, count × dimension × f32, all little-endian.
#[utoipa::path(post, path = "/api/v1/tables/{table}/documents", tag = "documents", params(("ack" = Option<dto::AckWord>, Query, description = "When the write is acknowledged: quorum if absent; all waits for every replica; async for the leader's disk alone (a delete is then taken as quorum)"),
        ("Idempotency-Key" = Option<String>, Header, description = "The client's own name for this write, 1 to 64 characters: a retry with the same key takes effect once and is given the first answer"),
        ("table" = String, Path, description = "Name of the table")),
    request_body(content((dto::WriteRequest = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 200, description = "Written and durable", body = dto::WriteAnswerBody)))]
pub async fn write_documents(
    State(app): State<App>,
    WriteQuery(options): WriteQuery,
    Table(name): Table,
    body: RawBody,
) -> Answer {
    let write = match body.media {
        Media::Json => {
            let id = options.request_id;
            parse(body.bytes, move |bytes| json::read::<dto::WriteRequest>(bytes)?.into_write(id)).await?
        }
        Media::OctetStream => {
            parse(body.bytes, |bytes| Ok(dto::Write { points: bulk::read(bytes)?, batch: false })).await?
        }
    };
    let ids: Vec<DocumentId> = write.points.iter().map(|point| point.id.clone()).collect();
    let written = app.service.upsert(&name, write.points, &options).await;
    let written = written.map_err(|error| dto::Write::locate(write.batch, error))?;
    Ok(answer::ok(&dto::WriteAnswerBody::new(ids, written)))
}

/// Read a document
#[utoipa::path(get, path = "/api/v1/tables/{table}/documents/{document_id}", tag = "documents",
    params(
        ("table" = String, Path, description = "Name of the table"),
        ("document_id" = String, Path, description = "Name of the document"),
        ("with_vector" = Option<bool>, Query, description = "Give the vector; true if absent"),
        ("consistency" = Option<dto::ConsistencyWord>, Query, description = "How fresh the read must be"),
        ("session" = Option<String>, Query, description = "The token of an earlier answer"),
        ("on_unavailable" = Option<dto::OnUnavailableWord>, Query, description = "What to do when a shard cannot answer"),
    ),
    responses((status = 200, description = "The document", body = dto::DocumentAnswer)))]
pub async fn get_document(
    State(app): State<App>,
    Table(name): Table,
    Document(id): Document,
    read: ReadQuery,
) -> Answer {
    let found = app.service.get(&name, &id, &read.options).await?;
    Ok(answer::ok(&dto::DocumentAnswer::alone(&found, read.with_vector)))
}

/// Write a document of this id, whole
#[utoipa::path(put, path = "/api/v1/tables/{table}/documents/{document_id}", tag = "documents",
    params(("ack" = Option<dto::AckWord>, Query, description = "When the write is acknowledged: quorum if absent; all waits for every replica; async for the leader's disk alone (a delete is then taken as quorum)"),
        ("Idempotency-Key" = Option<String>, Header, description = "The client's own name for this write, 1 to 64 characters: a retry with the same key takes effect once and is given the first answer"),
        ("table" = String, Path, description = "Name of the table"), ("document_id" = String, Path, description = "Name of the document")),
    request_body = dto::DocumentBody,
    responses((status = 200, description = "Created or replaced, and durable", body = dto::WriteAnswerBody)))]
pub async fn put_document(
    State(app): State<App>,
    WriteQuery(options): WriteQuery,
    Table(name): Table,
    Document(id): Document,
    Json(body): Json<dto::DocumentBody>,
) -> Answer {
    let point = body.into_replacement(id)?;
    let id = point.id.clone();
    let written = app.service.replace(&name, point, &options).await?;
    Ok(answer::ok(&dto::WriteAnswerBody::new(vec![id], written)))
}

/// Change a document
///
/// Keys of `metadata` are set one by one, null removes a key; vectors given are replaced; the rest stays.
#[utoipa::path(patch, path = "/api/v1/tables/{table}/documents/{document_id}", tag = "documents",
    params(("ack" = Option<dto::AckWord>, Query, description = "When the write is acknowledged: quorum if absent; all waits for every replica; async for the leader's disk alone (a delete is then taken as quorum)"),
        ("Idempotency-Key" = Option<String>, Header, description = "The client's own name for this write, 1 to 64 characters: a retry with the same key takes effect once and is given the first answer"),
        ("table" = String, Path, description = "Name of the table"), ("document_id" = String, Path, description = "Name of the document")),
    request_body = dto::DocumentBody,
    responses((status = 200, description = "Changed and durable", body = dto::WriteAnswerBody)))]
pub async fn patch_document(
    State(app): State<App>,
    WriteQuery(options): WriteQuery,
    Table(name): Table,
    Document(id): Document,
    Json(body): Json<dto::DocumentBody>,
) -> Answer {
    let patch = body.into_patch(id)?;
    let id = patch.id.clone();
    let written = app.service.patch(&name, patch, &options).await?;
    Ok(answer::ok(&dto::WriteAnswerBody::new(vec![id], written)))
}

/// Delete a document
///
/// Deleting what is not there is no error: `deleted` is then 0.
#[utoipa::path(delete, path = "/api/v1/tables/{table}/documents/{document_id}", tag = "documents",
    params(("ack" = Option<dto::AckWord>, Query, description = "When the write is acknowledged: quorum if absent; all waits for every replica; async for the leader's disk alone (a delete is then taken as quorum)"),
        ("Idempotency-Key" = Option<String>, Header, description = "The client's own name for this write, 1 to 64 characters: a retry with the same key takes effect once and is given the first answer"),
        ("table" = String, Path, description = "Name of the table"), ("document_id" = String, Path, description = "Name of the document")),
    responses((status = 200, description = "It is not there (any more)", body = dto::DeleteAnswerBody)))]
pub async fn delete_document(
    State(app): State<App>,
    WriteQuery(options): WriteQuery,
    Table(name): Table,
    Document(id): Document,
) -> Answer {
    let deleted = app.service.delete(&name, DeleteRequest::Ids(vec![id]), &options).await?;
    Ok(answer::ok(&dto::DeleteAnswerBody::from(deleted)))
}

/// Delete documents by ids or by filter
#[utoipa::path(post, path = "/api/v1/tables/{table}/documents/delete", tag = "documents", params(("ack" = Option<dto::AckWord>, Query, description = "When the write is acknowledged: quorum if absent; all waits for every replica; async for the leader's disk alone (a delete is then taken as quorum)"),
        ("Idempotency-Key" = Option<String>, Header, description = "The client's own name for this write, 1 to 64 characters: a retry with the same key takes effect once and is given the first answer"),
        ("table" = String, Path, description = "Name of the table")),
    request_body = dto::DeleteBody,
    responses((status = 200, description = "They are gone", body = dto::DeleteAnswerBody)))]
pub async fn delete_documents(
    State(app): State<App>,
    WriteQuery(options): WriteQuery,
    Table(name): Table,
    Json(body): Json<dto::DeleteBody>,
) -> Answer {
    let deleted = app.service.delete(&name, body.into_request()?, &options).await?;
    Ok(answer::ok(&dto::DeleteAnswerBody::from(deleted)))
}

/// List documents, page by page
#[utoipa::path(post, path = "/api/v1/tables/{table}/documents/list", tag = "documents", params(("table" = String, Path, description = "Name of the table")),
    request_body = dto::ListBody,
    responses((status = 200, description = "A page, in the order of ids", body = dto::ListAnswerBody)))]
pub async fn list_documents(
    State(app): State<App>,
    _: NoQuery,
    Table(name): Table,
    Json(body): Json<dto::ListBody>,
) -> Answer {
    let (request, options) = body.into_request()?;
    let with_vector = request.with_vector;
    let page = app.service.list(&name, request, &options).await?;
    let estimated_bytes = estimate(&page.page.points);
    let encode = move |page: &PageAnswer| answer::encode(&dto::ListAnswerBody::new(page, with_vector));
    Ok(answer::large(page, estimated_bytes, encode).await)
}

/// Find the documents nearest to a vector
///
/// One search, or up to a thousand as `searches`. Every search sees every write acknowledged before it began, unless
/// `consistency` says otherwise.
#[utoipa::path(post, path = "/api/v1/tables/{table}/search", tag = "search", params(("table" = String, Path, description = "Name of the table")),
    request_body = dto::SearchRequest,
    responses((status = 200, description = "What was found, best first", body = dto::SearchAnswerBody)))]
pub async fn search(State(app): State<App>, _: NoQuery, Table(name): Table, body: RawBody) -> Answer {
    let began = time::now();
    let body = body.json()?;
    let dto::Searches { searches, batch, options } =
        parse(body, |bytes| json::read::<dto::SearchRequest>(bytes)?.into_searches()).await?;
    let found = app.service.search(&name, searches, &options).await;
    let found = found.map_err(|error| dto::Searches::locate(batch, error))?;
    let took_ms = began.elapsed().as_micros() as f64 / 1e3;
    let estimated_bytes =
        found.answers.iter().flat_map(|answer| &answer.hits).map(|hit| estimate_one(&hit.point)).sum();
    let encode = move |found: &SearchesAnswer| answer::encode(&dto::SearchAnswerBody::new(found, batch, took_ms));
    Ok(answer::large(found, estimated_bytes, encode).await)
}

/// How the cluster is
#[utoipa::path(get, path = "/api/v1/cluster/status", tag = "cluster",
    responses((status = 200, description = "Verdict, master, nodes, every replica of every shard", body = dto::ClusterAnswer)))]
pub async fn cluster_status(State(app): State<App>, _: NoQuery) -> Answer {
    let placement = app.service.cluster_placement().await?;
    Ok(answer::ok(&dto::ClusterAnswer::new(&app.service.cluster_status().await, placement.as_ref())))
}

/// The nodes of the cluster
#[utoipa::path(get, path = "/api/v1/cluster/nodes", tag = "cluster",
    params(
        ("tags" = Option<String>, Query, description = "Only nodes that have all of these tags, separated by commas"),
        ("group" = Option<String>, Query, description = "Only nodes of this group"),
        ("zone" = Option<String>, Query, description = "Only nodes in this zone"),
        ("version" = Option<String>, Query, description = "Only nodes that run this version"),
        ("status" = Option<String>, Query, description = "Only nodes that are `up`, `starting`, `stopping` or `unreachable`")),
    responses((status = 200, description = "The nodes", body = dto::NodesAnswer)))]
pub async fn cluster_nodes(State(app): State<App>, NodesQuery(wanted): NodesQuery) -> Answer {
    let nodes = app.service.nodes().await;
    let nodes = nodes.iter().filter(|node| wanted.passes(node)).map(dto::NodeAnswer::from).collect();
    Ok(answer::ok(&dto::NodesAnswer { nodes }))
}

/// Compare all replicas of all shards
///
/// Every node reads everything it stores; the first record in which two replicas differ is named.
#[utoipa::path(post, path = "/api/v1/cluster/verify", tag = "cluster",
    responses((status = 200, description = "The verdict of each shard", body = dto::VerifyAnswer)))]
pub async fn cluster_verify(State(app): State<App>, _: NoQuery) -> Answer {
    Ok(answer::ok(&dto::VerifyAnswer::from(&app.service.verify().await?)))
}

/// Every bound of this server
#[utoipa::path(get, path = "/api/v1/limits", tag = "cluster",
    responses((status = 200, description = "The bounds by name", body = dto::LimitsAnswer)))]
pub async fn limits(State(app): State<App>, _: NoQuery) -> Answer {
    Ok(answer::ok(&dto::LimitsAnswer(app.service.limits())))
}

fn estimate(points: &[StoredPoint]) -> usize {
    points.iter().map(estimate_one).sum()
}

/// Bytes of JSON that a point is likely to become; only good enough to choose where to encode.
fn estimate_one(point: &StoredPoint) -> usize {
    const BYTES_PER_COMPONENT: usize = 12;
    const BYTES_PER_KEY: usize = 48;
    let vectors = point.vectors.as_deref().unwrap_or_default();
    let components: usize = vectors.iter().map(|(_, vector)| vector.len()).sum();
    let keys = point.payload.as_ref().map_or(0, |payload| payload.as_object().len());
    64 + components * BYTES_PER_COMPONENT + keys * BYTES_PER_KEY
}
