//! The faces of the server: native REST ([`rest`]), gRPC ([`grpc`]) and the operators' port ([`monitoring`]).
//!
//! Promise: a face decodes, converts into `types`, calls one function of `service`, and encodes the answer. What a
//! request means is decided below; what an error is called outside is decided in [`errors`], once. Called by the roof,
//! which builds one [`Faces`] a node and serves its parts.

pub mod errors;
pub mod grpc;
pub mod monitoring;
pub mod rest;

use crate::{service::Service, telemetry::metrics::Metrics};
use axum::Router;
use rest::RestOptions;
use std::sync::Arc;

/// Bounds and instruments of all faces.
#[derive(Clone, Default)]
pub struct Options {
    pub rest: RestOptions,
    pub metrics: Arc<Metrics>,
}

/// The faces of one node. Every listener of a face serves the same router, under the same bounds.
pub struct Faces {
    rest: Router,
    grpc: tonic::service::Routes,
    monitoring: Router,
}

impl Faces {
    /// The faces over `service`.
    pub fn new(service: Service, options: Options) -> Faces {
        let Options { rest, metrics } = options;
        Faces {
            rest: rest::router(service.clone(), rest, metrics.http.clone()),
            grpc: grpc::routes(service.clone(), metrics.grpc.clone()),
            monitoring: monitoring::router(service, Arc::new(move || metrics.encode())),
        }
    }

    /// Native REST, health, description: for the HTTP listeners.
    pub fn rest(&self) -> Router {
        self.rest.clone()
    }

    /// `vectorsphere.v1.VectorService`, health and (in production) reflection: for `rt::rpc::serve`.
    pub fn grpc(&self) -> tonic::service::Routes {
        self.grpc.clone()
    }

    /// Metrics and health: for the operators' listener.
    pub fn monitoring(&self) -> Router {
        self.monitoring.clone()
    }
}
