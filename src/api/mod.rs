//! stand-in
use crate::service::Service;
use crate::telemetry::metrics::Metrics;
#[derive(Clone, Default)]
pub struct Options {}
pub struct Faces;
impl Faces {
    pub fn new(_: Service, _: Options) -> Self {
        Faces
    }
    pub fn rest(&self) -> axum::Router {
        axum::Router::new()
    }
    pub fn monitoring(&self) -> axum::Router {
        axum::Router::new()
    }
}
