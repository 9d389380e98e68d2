//! The gRPC face: `vectorsphere.v1.VectorService` over the same service functions as REST, `grpc.health.v1.Health`, and
//! reflection in production builds. Called by the roof, which serves [`routes`] with `rt::rpc`.
//!
//! # Errors
//! A refused call has the status code that `errors` gives its kind and a message that names field, expected and got. The
//! same parts stand in its metadata for programs: `vs-code` (the code REST gives), `vs-row`, and, because they may be any
//! text, `vs-field-bin`, `vs-expected-bin`, `vs-got-bin`, `vs-document-id-bin` in UTF-8. Every answer carries
//! `x-request-id`, the caller's or a new one.

mod convert;
mod health;
mod status;

/// Messages, server and client, generated from `proto/vectorsphere/v1/vector_service.proto`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto {
    tonic::include_proto!("vectorsphere.v1");

    /// What reflection serves.
    pub const DESCRIPTOR: &[u8] = tonic::include_file_descriptor_set!("vectorsphere_v1_descriptor");
}

use super::{Admission, rest::observe};
use crate::{
    rt::{self, compute, time},
    service::Service,
    telemetry::metrics::GrpcMetrics,
    types::{CollectionName, Error, limits},
};
use axum::{Router, body::Body};
use prost::Message;
use proto::vector_service_server::{VectorService, VectorServiceServer};
use std::{convert::Infallible, sync::Arc};
use tonic::{Code, Request, Response, Status, server::NamedService};
use tracing::Instrument;

/// Requests above this are converted on the compute pool.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// The face as a router of gRPC services.
pub fn routes(service: Service, admission: Arc<Admission>, metrics: GrpcMetrics) -> Router {
    let face = Face { service: service.clone(), admission, metrics };
    // Compressed requests are not taken: the bound on a message would hold before decompression only.
    let vectors = VectorServiceServer::new(face).max_decoding_message_size(limits::REQUEST_BYTES_MAX);
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

#[derive(Clone)]
struct Face {
    service: Service,
    admission: Arc<Admission>,
    metrics: GrpcMetrics,
}

impl Face {
    /// Everything around a call: admission, request id, log, metrics, and the error's way out.
    async fn call<Q, A, F>(&self, method: &'static str, request: Request<Q>, handle: F) -> Result<Response<A>, Status>
    where
        Q: Message,
        F: AsyncFnOnce(Q) -> Result<A, Error>,
    {
        let id = observe::request_id(request.metadata().as_ref());
        let shown_id = id.to_str().unwrap_or_default();
        let span = tracing::info_span!("request", request_id = shown_id);
        let _in_flight = self.metrics.begin();
        let began = time::now();
        let answer = async {
            let ticket = self.admission.admit()?;
            let request = request.into_inner();
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
        match answer {
            Ok(answer) => {
                let mut response = Response::new(answer);
                response.metadata_mut().as_mut().insert(observe::REQUEST_ID, id);
                Ok(response)
            }
            Err(error) => Err(status::of(&error, id)),
        }
    }
}

fn is_our_fault(code: Code) -> bool {
    matches!(code, Code::Internal | Code::DataLoss | Code::Unavailable | Code::DeadlineExceeded)
}

fn table(name: String) -> Result<CollectionName, Error> {
    CollectionName::new(name).map_err(|error| error.at("table"))
}

/// Runs a conversion here, or on the compute pool if the message is large.
async fn converted<Q, T>(request: Q, convert: impl FnOnce(Q) -> Result<T, Error> + Send + 'static) -> Result<T, Error>
where
    Q: Message + 'static,
    T: Send + 'static,
{
    if request.encoded_len() <= INLINE_BYTES_MAX {
        return compute::short(|| convert(request));
    }
    compute::cpu(move || convert(request)).await
}

#[tonic::async_trait]
impl VectorService for Face {
    async fn upsert(&self, request: Request<proto::UpsertRequest>) -> Result<Response<proto::UpsertResponse>, Status> {
        let began = time::now();
        let options = convert::write_options(request.metadata());
        self.call("vectorsphere.v1.VectorService/Upsert", request, async |mut request| {
            let name = table(std::mem::take(&mut request.table))?;
            let options = options?;
            let id = options.request_id;
            let points = converted(request, move |request| convert::points(request, id)).await?;
            let ids = points.iter().map(|point| convert::wire_id(&point.id)).collect();
            let written = self.service.upsert(&name, points, &options).await.map_err(convert::in_documents)?;
            Ok(proto::UpsertResponse {
                ids,
                version: written.version,
                versions: written.versions,
                session: written.session.to_string(),
                took_ms: convert::milliseconds(began.elapsed()),
            })
        })
        .await
    }

    async fn search(&self, request: Request<proto::SearchRequest>) -> Result<Response<proto::SearchResponse>, Status> {
        let began = time::now();
        self.call("vectorsphere.v1.VectorService/Search", request, async |mut request| {
            let name = table(std::mem::take(&mut request.table))?;
            let (search, options) = converted(request, convert::search).await?;
            let found = self.service.search(&name, vec![search], &options).await?;
            convert::found(found, convert::milliseconds(began.elapsed()))
        })
        .await
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Result<Response<proto::DeleteResponse>, Status> {
        let began = time::now();
        let options = convert::write_options(request.metadata());
        self.call("vectorsphere.v1.VectorService/Delete", request, async |mut request| {
            let name = table(std::mem::take(&mut request.table))?;
            let options = options?;
            let selected = converted(request, convert::selected).await?;
            let deleted = self.service.delete(&name, selected, &options).await?;
            Ok(proto::DeleteResponse {
                deleted: deleted.deleted,
                session: deleted.session.to_string(),
                took_ms: convert::milliseconds(began.elapsed()),
            })
        })
        .await
    }
}
