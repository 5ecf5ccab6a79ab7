//! `grpc.health.v1`: SERVING while the store answers, and NOT_SERVING otherwise and after the shutdown has begun.

use super::gate::SERVICES;
use futures_util::stream::{self, BoxStream, StreamExt};
use runtime::Shutdown;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The health of chat's services, which is that of the whole server (the service named "").
#[derive(Clone)]
pub(crate) struct StoreHealth {
    available: watch::Receiver<bool>,
    shutdown: Shutdown,
}

impl StoreHealth {
    pub(crate) fn new(available: watch::Receiver<bool>, shutdown: Shutdown) -> Self {
        Self {
            available,
            shutdown,
        }
    }

    fn now(&mut self) -> ServingStatus {
        if *self.available.borrow_and_update() && !self.shutdown.is_requested() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }

    /// Waits for a status that differs from the last one. `None` if none can follow, so that no watcher holds up the shutdown.
    async fn next(&mut self, last: Option<ServingStatus>) -> Option<ServingStatus> {
        loop {
            let now = self.now();
            if Some(now) != last {
                return Some(now);
            }
            if self.shutdown.is_requested() {
                return None;
            }
            tokio::select! {
                changed = self.available.changed() => changed.ok()?,
                () = self.shutdown.requested() => {}
            }
        }
    }
}

#[tonic::async_trait]
impl Health for StoreHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        known(request.get_ref())?;
        Ok(Response::new(response(self.clone().now())))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        known(request.get_ref())?;
        let statuses = stream::unfold((self.clone(), None), async |(mut health, last)| {
            let status = health.next(last).await?;
            Some((Ok(response(status)), (health, Some(status))))
        });
        Ok(Response::new(statuses.boxed()))
    }
}

fn known(request: &HealthCheckRequest) -> Result<(), Status> {
    match request.service.as_str() {
        service if service.is_empty() || SERVICES.contains(&service) => Ok(()),
        _ => Err(Status::not_found("no such service")),
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
