//! The gRPC face: `vectorsphere.v1.VectorService` over the same service functions as REST, `grpc.health.v1.Health`, and
//! reflection in production builds. Called by the roof, which serves [`routes`] with `rt::rpc`.
//!
//! # Errors
//! A refused call has the status code that `errors` gives its kind and a message that names field, expected and got. The
//! same parts stand in its metadata for programs: `vs-code` (the code REST gives), `vs-row`, and, because they may be any
//! text, `vs-field-bin`, `vs-expected-bin`, `vs-got-bin`, `vs-document-id-bin` in UTF-8. Every answer carries
//! `x-request-id`, the caller's or a new one.

mod calls;
mod cluster;
mod convert;
mod health;
mod status;
mod streams;

/// Messages, server and client, generated from `proto/vectorsphere/v1/vector_service.proto`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto {
    tonic::include_proto!("vectorsphere.v1");

    /// What reflection serves.
    pub const DESCRIPTOR: &[u8] = tonic::include_file_descriptor_set!("vectorsphere_v1_descriptor");
}

use super::{Admission, rest::observe};
use crate::{
    rt::{self, time},
    service::Service,
    telemetry::metrics::GrpcMetrics,
    types::{Error, limits},
};
use axum::{Router, body::Body};
use futures_util::stream::BoxStream;
use http::HeaderValue;
use prost::Message;
use proto::vector_service_server::{VectorService, VectorServiceServer};
use std::{convert::Infallible, sync::Arc};
use tonic::{Code, Request, Response, Status, Streaming, codec::CompressionEncoding, server::NamedService};
use tracing::Instrument;

/// The face as a router of gRPC services.
pub fn routes(service: Service, admission: Arc<Admission>, metrics: GrpcMetrics) -> Router {
    let face = Face { service: service.clone(), admission, metrics };
    // The bound holds before and after decompression. Answers are compressed for clients that ask for it.
    let vectors = VectorServiceServer::new(face)
        .max_decoding_message_size(limits::REQUEST_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip);
    let router = add(Router::new(), vectors);
    let router = add(router, health::server(service));
    let router = if rt::SIMULATED { router } else { with_reflection(router) };
    router.fallback(async || Status::unimplemented("there is no such service or method").into_http::<Body>())
}

/// Adds a generated service at the path its name gives it.
fn add<S>(router: Router, service: S) -> Router
where
    S: tower::Service<http::Request<Body>, Response = http::Response<tonic::body::Body>, Error = Infallible>,
    S: NamedService + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    router.route_service(&format!("/{}/{{*method}}", S::NAME), service)
}

fn with_reflection(router: Router) -> Router {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => add(add(router, v1), v1alpha),
        _ => unreachable!("invariant: the descriptors were made by this build"),
    }
}

/// The whole answer to the call of this `id` that `error` is: for a face that is not this service (the gateway).
pub fn refusal(error: &Error, id: HeaderValue) -> http::Response<Body> {
    status::of(error, id).into_http()
}

#[derive(Clone)]
struct Face {
    service: Service,
    admission: Arc<Admission>,
    metrics: GrpcMetrics,
}

impl Face {
    /// Everything around a unary call.
    async fn call<Q, A, F>(&self, method: &'static str, request: Request<Q>, handle: F) -> Result<Response<A>, Status>
    where
        Q: Message,
        F: AsyncFnOnce(Q) -> Result<A, Error>,
    {
        let id = observe::request_id(request.metadata().as_ref());
        match self.observed(method, &id, request.into_inner(), handle).await {
            Ok(answer) => {
                let mut response = Response::new(answer);
                response.metadata_mut().as_mut().insert(observe::REQUEST_ID, id);
                Ok(response)
            }
            Err(error) => Err(status::of(&error, id)),
        }
    }

    /// Everything around one request, alone or in a stream: admission, log, metrics.
    async fn observed<Q, A, F>(&self, method: &'static str, id: &HeaderValue, request: Q, handle: F) -> Result<A, Error>
    where
        Q: Message,
        F: AsyncFnOnce(Q) -> Result<A, Error>,
    {
        let span = tracing::info_span!("request", request_id = id.to_str().unwrap_or_default());
        let _in_flight = self.metrics.begin();
        let began = time::now();
        let answer = async {
            let ticket = self.admission.admit()?;
            ticket.take_body_bytes(request.encoded_len())?;
            handle(request).await
        };
        let answer = answer.instrument(span.clone()).await;
        let took = began.elapsed();
        let code = answer.as_ref().map_or_else(status::code, |_| Code::Ok);
        self.metrics.served(method, code as u32, took);
        let took_us = took.as_micros() as u64;
        span.in_scope(|| match &answer {
            Ok(_) => tracing::debug!(method, took_us, "call"),
            Err(error) if is_our_fault(code) => tracing::warn!(method, ?code, took_us, %error, "call failed"),
            Err(error) => tracing::debug!(method, ?code, took_us, %error, "call refused"),
        });
        answer
    }
}

fn is_our_fault(code: Code) -> bool {
    matches!(code, Code::Internal | Code::DataLoss | Code::Unavailable | Code::DeadlineExceeded)
}

/// The answers of a streaming call.
type Answers<A> = BoxStream<'static, Result<A, Status>>;

#[tonic::async_trait]
impl VectorService for Face {
    async fn upsert(&self, request: Request<proto::UpsertRequest>) -> Result<Response<proto::UpsertResponse>, Status> {
        let defaults = convert::write_options(request.metadata());
        self.call("vectorsphere.v1.VectorService/Upsert", request, async |request| {
            self.upserted(request, defaults?).await
        })
        .await
    }

    async fn search(&self, request: Request<proto::SearchRequest>) -> Result<Response<proto::SearchResponse>, Status> {
        self.call("vectorsphere.v1.VectorService/Search", request, async |request| self.found(request).await).await
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Result<Response<proto::DeleteResponse>, Status> {
        let defaults = convert::write_options(request.metadata());
        self.call("vectorsphere.v1.VectorService/Delete", request, async |request| {
            self.deleted(request, defaults?).await
        })
        .await
    }

    type UpsertStreamStream = Answers<proto::UpsertStreamResponse>;

    async fn upsert_stream(
        &self,
        request: Request<Streaming<proto::UpsertRequest>>,
    ) -> Result<Response<Self::UpsertStreamStream>, Status> {
        self.upserts(request)
    }

    type SearchStreamStream = Answers<proto::SearchStreamResponse>;

    async fn search_stream(
        &self,
        request: Request<Streaming<proto::SearchRequest>>,
    ) -> Result<Response<Self::SearchStreamStream>, Status> {
        self.searches(request)
    }

    type DeleteStreamStream = Answers<proto::DeleteStreamResponse>;

    async fn delete_stream(
        &self,
        request: Request<Streaming<proto::DeleteRequest>>,
    ) -> Result<Response<Self::DeleteStreamStream>, Status> {
        self.deletes(request)
    }

    async fn get_cluster_info(
        &self,
        request: Request<proto::GetClusterInfoRequest>,
    ) -> Result<Response<proto::ClusterInfo>, Status> {
        self.call("vectorsphere.v1.VectorService/GetClusterInfo", request, async |_| {
            Ok(convert::cluster_info(self.service.cluster_status().await))
        })
        .await
    }

    async fn join_cluster(
        &self,
        request: Request<proto::JoinClusterRequest>,
    ) -> Result<Response<proto::JoinClusterResponse>, Status> {
        self.call("vectorsphere.v1.VectorService/JoinCluster", request, async |request| self.joined(request).await)
            .await
    }

    async fn leave_cluster(
        &self,
        request: Request<proto::LeaveClusterRequest>,
    ) -> Result<Response<proto::LeaveClusterResponse>, Status> {
        self.call("vectorsphere.v1.VectorService/LeaveCluster", request, async |request| self.left(request).await).await
    }

    type TransferShardStream = Answers<proto::TransferShardProgress>;

    async fn transfer_shard(
        &self,
        request: Request<proto::TransferShardRequest>,
    ) -> Result<Response<Self::TransferShardStream>, Status> {
        self.transferred(request).await
    }

    async fn rebalance_shards(
        &self,
        request: Request<proto::RebalanceShardsRequest>,
    ) -> Result<Response<proto::RebalanceShardsResponse>, Status> {
        self.call("vectorsphere.v1.VectorService/RebalanceShards", request, async |request| {
            self.rebalanced(request).await
        })
        .await
    }
}
