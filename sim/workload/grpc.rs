//! The gRPC face: tonic's generated client over the product's own channel.
use super::{
    client::{Failure, Reply, TIMEOUT},
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
    DeleteRequest, Document, DocumentId, DocumentIds, SearchRequest, UpsertRequest, delete_request::Selector,
    document_id::Id, vector_service_client::VectorServiceClient,
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

    pub async fn put(&self, points: &[(u64, u64)], if_version: Option<u64>) -> Reply<u64> {
        let document = |(id, value): &(u64, u64)| Document {
            id: Some(number(*id)),
            vector: vectors::of(*value, self.dimension),
            metadata_json: format!("{{\"value\":{value}}}").into_bytes().into(),
            if_version,
            ..Document::default()
        };
        let documents = points.iter().map(document).collect();
        let request = request(UpsertRequest { table: self.table.clone(), documents });
        Ok(self.client.clone().upsert(request).await.map_err(failure)?.into_inner().version)
    }

    pub async fn delete(&self, id: u64) -> Reply<bool> {
        let selector = Some(Selector::Ids(DocumentIds { ids: vec![number(id)] }));
        let request = request(DeleteRequest { table: self.table.clone(), selector });
        Ok(self.client.clone().delete(request).await.map_err(failure)?.into_inner().deleted == 1)
    }

    pub async fn search(&self, value: u64, top_k: usize, exact: bool) -> Reply<Vec<Hit>> {
        let request = request(SearchRequest {
            table: self.table.clone(),
            vector: vectors::of(value, self.dimension),
            top_k: top_k as u32,
            with_vector: true,
            exact,
            ..SearchRequest::default()
        });
        let results = self.client.clone().search(request).await.map_err(failure)?.into_inner().results;
        let hit = |result: proto::SearchResult| {
            let metadata: serde_json::Value = serde_json::from_slice(&result.metadata_json).unwrap_or_default();
            let Some(value) = metadata["value"].as_u64() else { panic!("a hit without its value: {metadata}") };
            let Some(DocumentId { id: Some(Id::Num(id)) }) = result.id else { panic!("a hit without its number") };
            Hit { id, value, vector_matches: vectors::matches(&result.vector, value) }
        };
        Ok(results.into_iter().map(hit).collect())
    }
}

fn number(id: u64) -> DocumentId {
    DocumentId { id: Some(Id::Num(id)) }
}

fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(TIMEOUT);
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
