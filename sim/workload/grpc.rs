//! The gRPC face: tonic's generated client over the product's own channel.
use super::{
    answer::{Failure, Reply},
    client::{Look, PARTLY_TIMEOUT, Put, TIMEOUT, Wait},
    vectors,
};
use crate::check::search::Hit;
use tonic::{Code, Status};
use vectorsphere::rt::rpc::{self, Channel, RpcOptions};

#[allow(clippy::all)]
mod proto {
    //! Generated from proto/vectorsphere/v1.
    tonic::include_proto!("vectorsphere.v1");
}
use proto::{
    Ack, DeleteRequest, Document, DocumentId, DocumentIds, OnUnavailable, SearchRequest, UpsertRequest,
    delete_request::Selector, document_id::Id, vector_service_client::VectorServiceClient,
};

pub struct Grpc {
    client: VectorServiceClient<Channel>,
    table: String,
    dimension: usize,
}

impl Grpc {
    pub fn new(address: &str, table: &str, dimension: usize) -> Grpc {
        let channel = rpc::connect(address, &RpcOptions::default()).expect("a well-formed address");
        Grpc { client: VectorServiceClient::new(channel), table: table.to_string(), dimension }
    }

    /// The same node's table of another name.
    pub fn named(&self, table: &str) -> Grpc {
        Grpc { client: self.client.clone(), table: table.to_string(), dimension: self.dimension }
    }

    /// The version and the session token.
    pub async fn put(&self, puts: &[Put], wait: Wait, request_id: Option<&str>) -> Reply<(u64, String)> {
        let document = |put: &Put| Document {
            id: Some(number(put.id)),
            vector: vectors::of(put.value, self.dimension),
            metadata_json: put.metadata().to_string().into_bytes().into(),
            if_version: put.if_version,
            ..Document::default()
        };
        let documents = puts.iter().map(document).collect();
        let ack = match wait {
            Wait::Leader => Ack::Async,
            Wait::Usual | Wait::Majority => Ack::Unspecified,
        };
        let upsert =
            UpsertRequest { table: self.table.clone(), documents, ack: ack.into(), ..UpsertRequest::default() };
        let request = request(upsert, request_id);
        let answer = self.client.clone().upsert(request).await.map_err(failure)?.into_inner();
        Ok((answer.version, answer.session))
    }

    pub async fn delete(&self, id: u64, request_id: Option<&str>) -> Reply<bool> {
        let selector = Some(Selector::Ids(DocumentIds { ids: vec![number(id)] }));
        let request =
            request(DeleteRequest { table: self.table.clone(), selector, ..DeleteRequest::default() }, request_id);
        Ok(self.client.clone().delete(request).await.map_err(failure)?.into_inner().deleted == 1)
    }

    pub async fn delete_where(&self, filter: &serde_json::Value) -> Reply<u64> {
        let selector = Some(Selector::FilterJson(filter.to_string().into_bytes().into()));
        let request = request(DeleteRequest { table: self.table.clone(), selector, ..DeleteRequest::default() }, None);
        Ok(self.client.clone().delete(request).await.map_err(failure)?.into_inner().deleted)
    }

    /// Hits, and the shards that did not answer.
    pub async fn search(&self, look: &Look) -> Reply<(Vec<Hit>, Vec<u64>)> {
        let on_unavailable = if look.partly { OnUnavailable::Partial } else { OnUnavailable::Fail };
        let mut request = request(
            SearchRequest {
                table: self.table.clone(),
                vector: vectors::of(look.value, self.dimension),
                top_k: look.top_k as u32,
                with_vector: true,
                exact: look.exact,
                filter_json: look.filter.iter().flat_map(|filter| filter.to_string().into_bytes()).collect(),
                on_unavailable: on_unavailable.into(),
                ..SearchRequest::default()
            },
            None,
        );
        if look.partly {
            request.set_timeout(PARTLY_TIMEOUT);
        }
        let answer = self.client.clone().search(request).await.map_err(failure)?.into_inner();
        let shards = answer.shards.expect("an answer tells of its shards");
        assert!(shards.total == shards.ok + shards.failed.len() as u32, "{shards:?}");
        let hit = |result: proto::SearchResult| {
            let metadata: serde_json::Value = serde_json::from_slice(&result.metadata_json).unwrap_or_default();
            let Some(value) = metadata["value"].as_u64() else { panic!("a hit without its value: {metadata}") };
            let Some(DocumentId { id: Some(Id::Num(id)) }) = result.id else { panic!("a hit without its number") };
            Hit { id, value, vector_matches: vectors::matches(&result.vector, value) }
        };
        let failed = shards.failed.iter().map(|failed| failed.shard).collect();
        Ok((answer.results.into_iter().map(hit).collect(), failed))
    }
}

fn number(id: u64) -> DocumentId {
    DocumentId { id: Some(Id::Num(id)) }
}

/// The metadata key by which a retried write is known again.
const REQUEST_ID: &str = "idempotency-key";

fn request<T>(message: T, id: Option<&str>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(TIMEOUT);
    if let Some(id) = id {
        request.metadata_mut().insert(REQUEST_ID, id.parse().expect("printable"));
    }
    request
}

/// A connection that breaks under a call is UNAVAILABLE too, so for a write that code does not say "nothing happened".
fn failure(status: Status) -> Failure {
    let why = format!("{:?}: {}", status.code(), status.message());
    assert!(status.code() != Code::Internal, "the node reports a bug: {why}");
    match status.code() {
        Code::Aborted | Code::AlreadyExists => Failure::Conflict,
        Code::InvalidArgument
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::ResourceExhausted => Failure::Refused(why),
        _ => Failure::Unknown(why),
    }
}
