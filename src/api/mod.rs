//! The faces of the server: native REST ([`rest`]), gRPC ([`grpc`]) and the operators' port ([`monitoring`]).
//!
//! Promise: a face decodes, converts into `types`, calls one function of `service`, and encodes the answer. What a
//! request means is decided below; what an error is called outside is decided in [`errors`], once. Called by the roof,
//! which builds one [`Faces`] a node and serves its parts.

mod admission;
pub mod development;
pub mod errors;
pub mod grpc;
pub mod monitoring;
pub mod rest;

pub use admission::Admission;
pub use rest::health::respond as respond_health;

use crate::{
    rt::rng,
    service::Service,
    telemetry::metrics::Metrics,
    types::{DocumentId, RequestId, limits},
};
use axum::Router;
use futures_util::future::BoxFuture;
use rest::RestOptions;
use std::sync::Arc;

/// Bounds and instruments of all faces.
#[derive(Clone, Debug)]
pub struct Options {
    /// Requests in flight over all faces; more are answered "unavailable". Health is exempt.
    pub requests_max: usize,
    /// Bytes of bodies in flight together, after decompression; more is answered "unavailable".
    pub bodies_bytes_max: usize,
    pub rest: RestOptions,
    pub metrics: Metrics,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            requests_max: 1_024,
            bodies_bytes_max: 4 * limits::REQUEST_BYTES_MAX,
            rest: RestOptions::default(),
            metrics: Metrics::new(),
        }
    }
}

/// The faces of one node. Every listener of a face serves the same router, under the same bounds.
pub struct Faces {
    rest: Router,
    grpc: Router,
    monitoring: Router,
}

impl Faces {
    /// The faces over `service`.
    pub fn new(service: Service, options: Options) -> Faces {
        let Options { requests_max, bodies_bytes_max, rest, metrics } = options;
        let admission = Admission::new(requests_max, bodies_bytes_max);
        admission.publish(&metrics);
        let (counted, registry) = (service.clone(), metrics.clone());
        let scrape = move || -> BoxFuture<'static, String> {
            let (counted, registry) = (counted.clone(), registry.clone());
            Box::pin(async move {
                counted.tell_metrics().await;
                registry.encode()
            })
        };
        Faces {
            rest: rest::router(service.clone(), admission.clone(), rest, metrics.http.clone()),
            grpc: grpc::routes(service.clone(), admission, metrics.grpc.clone()),
            monitoring: monitoring::router(service, Arc::new(scrape)),
        }
    }

    /// Native REST, health, description: for the HTTP listeners.
    pub fn rest(&self) -> Router {
        self.rest.clone()
    }

    /// `vectorsphere.v1.VectorService`, health and (in production) reflection: for `rt::rpc::serve`.
    pub fn grpc(&self) -> Router {
        self.grpc.clone()
    }

    /// Metrics and health: for the operators' listener.
    pub fn monitoring(&self) -> Router {
        self.monitoring.clone()
    }
}

/// The id of a document that came without one, at `row` of its write: a random UUID; of a request that has an id of its own, always
/// the same, so that a retry writes the documents it wrote before.
fn invented_id(request: Option<RequestId>, row: usize) -> DocumentId {
    request.map_or_else(|| DocumentId::Text(rng::uuid_v4().to_string()), |request| request.document_id(row))
}
