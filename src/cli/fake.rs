//! A small server of the native REST API in memory, over the real HTTP transport, for the tests of the commands: tables,
//! documents (JSON and binary), listing with a cursor, exact search; and misbehaviour on demand. Tests only.

use crate::rt::{
    Shutdown,
    http::{HttpOptions, serve},
    net::Listener,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

/// What the server holds and how it misbehaves.
#[derive(Debug, Default)]
pub struct World {
    pub tables: BTreeMap<String, FakeTable>,
    pub aliases: BTreeMap<String, String>,
    /// Ids whose documents are refused, and their whole request with them.
    pub refused: BTreeSet<String>,
    /// Whether a refusal names the document.
    pub names_the_document: bool,
    /// Requests with documents that are still answered 503 first.
    pub busy: u32,
    /// Requests with documents after which every further one is answered 401.
    pub forbids_after: Option<u32>,
    /// Requests with documents, and how many of them were binary.
    pub adds: u32,
    pub binary_adds: u32,
    /// Triggered by the request of this number.
    pub trip: Option<(u32, Shutdown)>,
}

/// One table.
#[derive(Debug, Default)]
pub struct FakeTable {
    pub description: Value,
    pub documents: BTreeMap<String, (Vec<f32>, Map<String, Value>)>,
}

type Shared = Arc<Mutex<World>>;

/// A running fake; it stops when this is dropped.
pub struct Fake {
    pub endpoint: String,
    pub world: Shared,
    shutdown: Shutdown,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Fake {
    /// Serves `world` on a free port.
    pub async fn start(world: World) -> Fake {
        let world: Shared = Arc::new(Mutex::new(world));
        let router = Router::new()
            .route("/api/v1/tables", post(create).get(tables))
            .route("/api/v1/aliases", post(change_aliases).get(aliases))
            .route("/api/v1/tables/{table}", get(table).delete(delete))
            .route("/api/v1/tables/{table}/documents", post(add))
            .route("/api/v1/tables/{table}/documents/{id}", get(document))
            .route("/api/v1/tables/{table}/documents/list", post(list))
            .route("/api/v1/tables/{table}/search", post(search))
            .layer(DefaultBodyLimit::disable())
            .with_state(world.clone());
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = Shutdown::new();
        drop(crate::rt::spawn("fake", serve(listener, router, HttpOptions::default(), shutdown.clone())));
        Fake { endpoint, world, shutdown }
    }

    /// The ids of a table's documents, numbers in their order.
    pub fn ids(&self, table: &str) -> Vec<String> {
        let world = self.world.lock().unwrap();
        let mut ids: Vec<String> = world.tables[table].documents.keys().cloned().collect();
        ids.sort_by_key(|id| (id.len(), id.clone()));
        ids
    }
}

fn problem(status: StatusCode, body: Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

fn absent() -> Response {
    problem(StatusCode::NOT_FOUND, json!({"title": "No such table", "code": "not_found"}))
}

async fn create(State(world): State<Shared>, Json(body): Json<Value>) -> Response {
    let name = body["table_name"].as_str().unwrap().to_owned();
    let mut world = world.lock().unwrap();
    if world.tables.contains_key(&name) {
        return problem(StatusCode::CONFLICT, json!({"title": "The table exists", "code": "conflict"}));
    }
    let mut description = body;
    if description.get("metric").is_none() {
        description["metric"] = "cosine".into();
    }
    world.tables.insert(name, FakeTable { description: description.clone(), ..Default::default() });
    (StatusCode::CREATED, Json(description)).into_response()
}

fn describe(table: &FakeTable) -> Value {
    let mut description = table.description.clone();
    description["documents_count"] = table.documents.len().into();
    description
}

async fn tables(State(world): State<Shared>) -> Response {
    let world = world.lock().unwrap();
    Json(json!({"tables": world.tables.values().map(describe).collect::<Vec<_>>()})).into_response()
}

async fn table(State(world): State<Shared>, Path(name): Path<String>) -> Response {
    world.lock().unwrap().tables.get(&name).map_or_else(absent, |table| Json(describe(table)).into_response())
}

async fn delete(State(world): State<Shared>, Path(name): Path<String>) -> Response {
    world.lock().unwrap().tables.remove(&name).map_or_else(absent, |_| StatusCode::NO_CONTENT.into_response())
}

async fn aliases(State(world): State<Shared>) -> Response {
    let world = world.lock().unwrap();
    let all = world.aliases.iter().map(|(alias, table)| json!({"alias_name": alias, "table_name": table}));
    Json(json!({"aliases": all.collect::<Vec<_>>()})).into_response()
}

async fn change_aliases(State(world): State<Shared>, Json(body): Json<Value>) -> Response {
    let aliases = &mut world.lock().unwrap().aliases;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for change in body["changes"].as_array().unwrap() {
        let (kind, change) = change.as_object().unwrap().iter().next().unwrap();
        let alias = text(&change["alias_name"]);
        match kind.as_str() {
            "create" => drop(aliases.insert(alias, text(&change["table_name"]))),
            "delete" => drop(aliases.remove(&alias)),
            _ => {
                let table = aliases.remove(&alias).unwrap();
                aliases.insert(text(&change["new_alias_name"]), table);
            }
        }
    }
    Json(json!({"changed": 1, "behind": []})).into_response()
}

type Documents = Vec<(String, Vec<f32>, Map<String, Value>)>;

fn decode(headers: &HeaderMap, body: &[u8]) -> Documents {
    if headers[header::CONTENT_TYPE] == "application/octet-stream" {
        let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap()) as usize;
        let (count, dimension) = (word(0), word(4));
        assert_eq!(body.len(), 8 + count * (8 + 4 * dimension));
        let (ids, values) = body[8..].split_at(8 * count);
        let values: Vec<f32> = values.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        let ids = ids.chunks_exact(8).map(|id| u64::from_le_bytes(id.try_into().unwrap()).to_string());
        return ids.zip(values.chunks_exact(dimension)).map(|(id, vector)| (id, vector.to_vec(), Map::new())).collect();
    }
    let body: Value = serde_json::from_slice(body).unwrap();
    let one = |document: &Value| {
        let vector = document["vector"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let metadata = document.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        (document["document_id"].as_str().unwrap().to_owned(), vector, metadata)
    };
    body["documents"].as_array().unwrap().iter().map(one).collect()
}

async fn add(State(world): State<Shared>, Path(name): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let mut world = world.lock().unwrap();
    world.adds += 1;
    if let Some((at, shutdown)) = &world.trip
        && world.adds == *at
    {
        shutdown.trigger();
    }
    if world.busy > 0 {
        world.busy -= 1;
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "0")], "busy").into_response();
    }
    if world.forbids_after.is_some_and(|after| world.adds > after) {
        return problem(StatusCode::UNAUTHORIZED, json!({"title": "Who are you?", "code": "unauthenticated"}));
    }
    let documents = decode(&headers, &body);
    if headers[header::CONTENT_TYPE] == "application/octet-stream" {
        world.binary_adds += 1;
    }
    if let Some((id, ..)) = documents.iter().find(|(id, ..)| world.refused.contains(id)) {
        let mut body =
            json!({"title": "Refused", "code": "not_liked", "field": "vector", "expected": "better", "got": "this"});
        if world.names_the_document {
            body["document_id"] = id.clone().into();
        }
        return problem(StatusCode::BAD_REQUEST, body);
    }
    let Some(table) = world.tables.get_mut(&name) else { return absent() };
    let ids: Vec<String> = documents.iter().map(|(id, ..)| id.clone()).collect();
    table.documents.extend(documents.into_iter().map(|(id, vector, metadata)| (id, (vector, metadata))));
    Json(json!({"document_ids": ids, "version": 1, "session": ""})).into_response()
}

fn shown(id: &str, (vector, metadata): &(Vec<f32>, Map<String, Value>), with_vector: bool) -> Value {
    let mut document = json!({"document_id": id, "metadata": metadata, "version": 1});
    if with_vector {
        document["vector"] = json!(vector);
    }
    document
}

async fn document(State(world): State<Shared>, Path((name, id)): Path<(String, String)>) -> Response {
    let world = world.lock().unwrap();
    let found = world.tables.get(&name).and_then(|table| table.documents.get(&id));
    found.map_or_else(absent, |document| Json(shown(&id, document, true)).into_response())
}

async fn list(State(world): State<Shared>, Path(name): Path<String>, Json(body): Json<Value>) -> Response {
    let world = world.lock().unwrap();
    let Some(table) = world.tables.get(&name) else { return absent() };
    let after = body.get("cursor").and_then(Value::as_str).unwrap_or("");
    let limit = body["limit"].as_u64().unwrap() as usize;
    let rest: Vec<_> = table.documents.iter().filter(|(id, _)| id.as_str() > after).collect();
    let with_vector = body["with_vector"].as_bool().unwrap_or(false);
    let page: Vec<Value> = rest.iter().take(limit).map(|(id, document)| shown(id, document, with_vector)).collect();
    let cursor = rest.get(..limit).filter(|_| rest.len() > limit).and_then(<[_]>::last).map(|(id, _)| (*id).clone());
    Json(json!({"documents": page, "cursor": cursor})).into_response()
}

async fn search(State(world): State<Shared>, Path(name): Path<String>, Json(body): Json<Value>) -> Response {
    let world = world.lock().unwrap();
    let Some(table) = world.tables.get(&name) else { return absent() };
    let query: Vec<f64> = body["vector"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let cosine = |vector: &[f32]| {
        let dot = |a: &mut dyn Iterator<Item = (f64, f64)>| a.map(|(x, y)| x * y).sum::<f64>();
        let vector: Vec<f64> = vector.iter().map(|x| f64::from(*x)).collect();
        let pair = |a: &[f64], b: &[f64]| dot(&mut a.iter().copied().zip(b.iter().copied()));
        pair(&query, &vector) / (pair(&query, &query) * pair(&vector, &vector)).sqrt()
    };
    let mut scored: Vec<_> =
        table.documents.iter().map(|(id, (vector, metadata))| (cosine(vector), id, metadata)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let top = scored.iter().take(body["top_k"].as_u64().unwrap() as usize);
    let results: Vec<Value> =
        top.map(|(score, id, metadata)| json!({"document_id": id, "score": score, "metadata": metadata})).collect();
    Json(json!({"results": results, "shards": {"total": 1, "ok": 1, "failed": []}, "took_ms": 0.1})).into_response()
}
