//! Between protobuf and the domain: requests in with every rule of the proto file, answers out. Called by the calls of
//! `grpc`.

use super::{
    proto::{self, delete_request::Selector, document_id::Id},
    status,
};
use crate::{
    api::{
        invented_id,
        rest::{dto, json},
    },
    service::{ClusterStatus, NodeInfo},
    types::{
        Ack, DocumentId, Error, Filter, Payload, Point, RequestId, Session, StoredPoint, Vector, VectorName,
        WriteOptions,
        limits::BATCH_POINTS_MAX,
        operation::{Consistency, DeleteRequest, OnUnavailable, ReadOptions, Search, SearchesAnswer, ShardsAnswer},
    },
};
use bytes::Bytes;
use std::time::Duration;
use tonic::metadata::MetadataMap;

/// How to write, as a call's metadata says: `ack` and `idempotency-key`.
///
/// # Errors
/// `bad_ack`, `bad_request_id`.
pub fn write_options(metadata: &MetadataMap) -> Result<WriteOptions, Error> {
    let text = |name| metadata.get(name).map(|value| value.to_str().unwrap_or(""));
    WriteOptions::from_texts(text("ack"), text("idempotency-key"))
}

/// The same for a stream: how its requests write unless they say otherwise.
///
/// # Errors
/// `bad_ack`; `bad_request_id` if the stream has an `idempotency-key`, which can be one request's only.
pub(super) fn stream_options(metadata: &MetadataMap) -> Result<WriteOptions, Error> {
    if metadata.contains_key("idempotency-key") {
        return Err(Error::invalid("bad_request_id", "a stream has no request id; its requests have their own")
            .at("idempotency-key")
            .expected("request_id in each request"));
    }
    write_options(metadata)
}

/// How one request writes: as it says itself, else as `defaults` do.
///
/// # Errors
/// `unknown_value`, `bad_request_id`.
pub(super) fn options_of(ack: i32, request_id: &str, defaults: WriteOptions) -> Result<WriteOptions, Error> {
    let ack = match proto::Ack::try_from(ack) {
        Ok(proto::Ack::Unspecified) => defaults.ack,
        Ok(proto::Ack::Quorum) => Ack::Quorum,
        Ok(proto::Ack::All) => Ack::All,
        Ok(proto::Ack::Async) => Ack::Async,
        Err(_) => return Err(unknown_value("ack", ack)),
    };
    let own = (!request_id.is_empty()).then(|| RequestId::from_text(request_id)).transpose()?;
    Ok(WriteOptions { ack, request_id: own.or(defaults.request_id) })
}

/// The points of an upsert, by the request of this id.
///
/// # Errors
/// Those of the parts, with row, document and field (`documents[3].vector[2]`).
pub(super) fn points(request: proto::UpsertRequest, id: Option<RequestId>) -> Result<Vec<Point>, Error> {
    check_count("documents", request.documents.len())?;
    let point =
        |(row, document)| point(document, || invented_id(id, row)).map_err(|error| in_documents(error.row(row)));
    request.documents.into_iter().enumerate().map(point).collect()
}

/// Puts `documents[i]` before the field of an error that names a row.
pub(super) fn in_documents(error: Error) -> Error {
    match error.detail().row {
        Some(row) => error.at(format!("documents[{row}]")),
        None => error,
    }
}

fn check_count(field: &str, count: usize) -> Result<(), Error> {
    if (1..=BATCH_POINTS_MAX).contains(&count) {
        return Ok(());
    }
    let code = if count == 0 { "empty_batch" } else { "batch_too_large" };
    Err(Error::invalid(code, "the request has too few or too many documents")
        .at(field)
        .expected(format!("1 to {BATCH_POINTS_MAX}"))
        .got(count))
}

fn point(document: proto::Document, invented: impl FnOnce() -> DocumentId) -> Result<Point, Error> {
    let id = match document.id {
        Some(id) => document_id(id).map_err(|error| error.at("id"))?,
        None => invented(),
    };
    let vector = vector(document.vector, &document.vector_f32_le).map_err(|error| error.document(&id))?;
    let payload = payload(&document.metadata_json).map_err(|error| error.document(&id))?;
    Ok(Point { id, vectors: vec![(VectorName::default(), vector)], payload, if_version: document.if_version })
}

fn document_id(id: proto::DocumentId) -> Result<DocumentId, Error> {
    match id.id {
        Some(Id::Num(number)) => Ok(DocumentId::Num(number)),
        Some(Id::Text(text)) => DocumentId::from_text(text),
        None => Err(Error::invalid("missing_field", "the id is empty").expected("num or text").got("neither")),
    }
}

/// A vector from whichever of its two forms is given.
fn vector(list: Vec<f32>, bytes: &Bytes) -> Result<Vector, Error> {
    match (list.is_empty(), bytes.is_empty()) {
        (_, true) => Vector::new(list).map_err(|error| error.at("vector")),
        (false, false) => Err(Error::invalid("ambiguous_body", "a vector is given in one form")
            .at("vector")
            .expected("vector or vector_f32_le")
            .got("both")),
        (true, false) => {
            let (components, rest) = bytes.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(Error::invalid("bad_vector_bytes", "the bytes are not whole components")
                    .at("vector_f32_le")
                    .expected("a multiple of 4 bytes")
                    .got(bytes.len()));
            }
            let components = components.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            Vector::new(components).map_err(|error| error.at("vector_f32_le"))
        }
    }
}

fn payload(bytes: &Bytes) -> Result<Payload, Error> {
    if bytes.is_empty() {
        return Ok(Payload::default());
    }
    let metadata = json::read::<dto::Metadata>(bytes).map_err(|error| error.at("metadata_json"))?;
    Payload::new(metadata.0).map_err(|error| error.at("metadata_json"))
}

fn filter(bytes: &Bytes) -> Result<Option<Filter>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let value = json::read::<dto::FilterJson>(bytes).map_err(|error| error.at("filter_json"))?;
    Filter::from_json(&value.0).map(Some).map_err(|error| error.at("filter_json"))
}

/// A search and how to read.
///
/// # Errors
/// Those of the parts and of [`Search::check`].
pub(super) fn search(request: proto::SearchRequest) -> Result<(Search, ReadOptions), Error> {
    let vector = vector(request.vector, &request.vector_f32_le)?;
    let search = Search {
        threshold: request.threshold,
        filter: filter(&request.filter_json)?,
        with_payload: request.with_metadata.unwrap_or(true),
        with_vector: request.with_vector,
        exact: request.exact,
        nprobe: request.nprobe.map(|nprobe| nprobe as usize),
        recall_target: request.recall_target,
        explain: request.explain,
        ..Search::nearest(vector, request.top_k as usize)
    };
    search.check()?;
    let options = read_options(request.consistency, &request.session, request.on_unavailable)?;
    Ok((search, options))
}

fn read_options(consistency: i32, session: &str, on_unavailable: i32) -> Result<ReadOptions, Error> {
    let session = if session.is_empty() { None } else { Some(Session::from_text(session)?) };
    let consistency = match proto::Consistency::try_from(consistency) {
        Ok(proto::Consistency::Unspecified) if session.is_some() => Consistency::Session,
        Ok(proto::Consistency::Unspecified | proto::Consistency::Linearizable) => Consistency::Linearizable,
        Ok(proto::Consistency::Session) if session.is_none() => {
            return Err(Error::invalid("missing_field", "session consistency needs a session")
                .at("session")
                .expected("the session of an earlier answer")
                .got("nothing"));
        }
        Ok(proto::Consistency::Session) => Consistency::Session,
        Ok(proto::Consistency::Eventual) => Consistency::Eventual,
        Err(_) => return Err(unknown_value("consistency", consistency)),
    };
    let on_unavailable = match proto::OnUnavailable::try_from(on_unavailable) {
        Ok(proto::OnUnavailable::Unspecified | proto::OnUnavailable::Fail) => OnUnavailable::Fail,
        Ok(proto::OnUnavailable::Partial) => OnUnavailable::Partial,
        Err(_) => return Err(unknown_value("on_unavailable", on_unavailable)),
    };
    Ok(ReadOptions { consistency, session, on_unavailable })
}

fn unknown_value(field: &str, got: i32) -> Error {
    Error::invalid("unknown_value", "there is no such value").at(field).expected("a value of the enum").got(got)
}

/// What to delete.
///
/// # Errors
/// `missing_field`, `empty_batch`, `bad_document_id`, `bad_filter`.
pub(super) fn selected(request: proto::DeleteRequest) -> Result<DeleteRequest, Error> {
    let missing = |got: &str| {
        Error::invalid("missing_field", "say what to delete").expected("ids or a filter that is not empty").got(got)
    };
    match request.selector {
        None => Err(missing("neither")),
        Some(Selector::FilterJson(bytes)) => {
            let filter = filter(&bytes)?.ok_or_else(|| missing("nothing").at("filter_json"))?;
            dto::delete_by(filter).map_err(|error| error.at("filter_json"))
        }
        Some(Selector::Ids(list)) => {
            check_count("ids", list.ids.len())?;
            let id = |(i, id)| document_id(id).map_err(|error| error.at(format!("ids[{i}]")));
            list.ids.into_iter().enumerate().map(id).collect::<Result<_, _>>().map(DeleteRequest::Ids)
        }
    }
}

/// An id as the caller spelled it.
pub(super) fn wire_id(id: &DocumentId) -> proto::DocumentId {
    let id = match id {
        DocumentId::Num(number) => Id::Num(*number),
        DocumentId::Text(text) => Id::Text(text.clone()),
    };
    proto::DocumentId { id: Some(id) }
}

/// The answer of the one search.
///
/// # Errors
/// `internal` if the explanation cannot be written as JSON.
pub(super) fn found(answer: SearchesAnswer, took_ms: f64) -> Result<proto::SearchResponse, Error> {
    let only = answer.answers.into_iter().next();
    let explain = only.as_ref().and_then(|only| only.explain.as_ref()).map(dto::ExplainBody::from);
    let explain_json = match explain {
        Some(explain) => serde_json::to_vec(&explain).map_err(|error| Error::internal(error.to_string()))?.into(),
        None => Bytes::new(),
    };
    let hits = only.map(|only| only.hits).unwrap_or_default();
    Ok(proto::SearchResponse {
        results: hits.into_iter().map(|hit| result(hit.point, hit.score)).collect(),
        shards: Some(shards(&answer.shards)),
        session: answer.session.to_string(),
        took_ms,
        explain_json,
    })
}

fn result(point: StoredPoint, score: f32) -> proto::SearchResult {
    let unnamed = |(name, vector): (VectorName, Vec<f32>)| name.as_str().is_empty().then_some(vector);
    proto::SearchResult {
        id: Some(wire_id(&point.id)),
        score,
        metadata_json: point.payload.map(|payload| payload.to_json().into()).unwrap_or_default(),
        vector: point.vectors.into_iter().flatten().find_map(unnamed).unwrap_or_default(),
        version: point.version,
    }
}

fn shards(answer: &ShardsAnswer) -> proto::ShardsInfo {
    let failure = |shard: &u64| proto::ShardFailure { shard: *shard };
    proto::ShardsInfo { total: answer.total, ok: answer.ok, failed: answer.failed.iter().map(failure).collect() }
}

/// What went wrong with one request of a stream.
pub(super) fn failure(error: &Error) -> proto::Failure {
    let detail = error.detail();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    proto::Failure {
        status: status::code(error) as i32,
        code: error.code().to_owned(),
        message: error.to_string(),
        field: text(&detail.field),
        expected: text(&detail.expected),
        got: text(&detail.got),
        row: detail.row.map(|row| row as u64),
        document_id: text(&detail.document_id),
    }
}

/// The cluster in one look.
pub(super) fn cluster_info(status: ClusterStatus) -> proto::ClusterInfo {
    let node = |node: NodeInfo| proto::NodeInfo {
        id: node.id,
        status: node.status.to_owned(),
        zone: node.zone.unwrap_or_default(),
        version: node.version,
        http: node.http,
        grpc: node.grpc,
        roles: node.roles.into_iter().map(str::to_owned).collect(),
        weight: node.weight,
        draining: node.draining,
        tags: node.labels.tags.into_iter().collect(),
        group: node.labels.group,
    };
    proto::ClusterInfo {
        cluster_name: status.cluster_name,
        verdict: status.verdict.to_owned(),
        reasons: status.reasons,
        master: status.master.unwrap_or_default(),
        nodes: status.nodes.into_iter().map(node).collect(),
        tables: status.collections,
        shards: status.shards,
        documents: status.points,
        version: status.version.to_owned(),
    }
}

/// Milliseconds with microseconds behind the point.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
