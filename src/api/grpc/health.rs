//! `grpc.health.v1.Health` over the node's own health report. Called by `grpc::routes`.

use super::proto::vector_service_server::SERVICE_NAME;
use crate::{rt::time, service::Service};
use futures_util::stream::{self, BoxStream, StreamExt};
use std::time::Duration;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

/// How often a watcher's state is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The health service.
pub(super) fn server(service: Service) -> HealthServer<impl Health> {
    HealthServer::new(NodeHealth(service))
}

struct NodeHealth(Service);

/// The state of a name: the whole server (empty) or the one service; `None` for any other.
fn state(service: &Service, name: &str) -> Option<ServingStatus> {
    if !name.is_empty() && name != SERVICE_NAME {
        return None;
    }
    let report = service.health();
    Some(if report.live && report.ready { ServingStatus::Serving } else { ServingStatus::NotServing })
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

#[tonic::async_trait]
impl Health for NodeHealth {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match state(&self.0, &request.get_ref().service) {
            Some(status) => Ok(Response::new(answer(status))),
            None => Err(Status::not_found("there is no such service")),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// The state now, and again whenever it changes. An unknown service is told so and watched on, as the protocol says.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (service, name) = (self.0.clone(), request.into_inner().service);
        let changes = stream::unfold((service, name, None), |(service, name, told)| async move {
            loop {
                let status = state(&service, &name).unwrap_or(ServingStatus::ServiceUnknown);
                if told != Some(status) {
                    return Some((Ok(answer(status)), (service, name, Some(status))));
                }
                time::sleep(WATCH_INTERVAL).await;
            }
        });
        Ok(Response::new(changes.boxed()))
    }
}
