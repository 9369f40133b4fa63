//! `grpc.health.v1`: SERVING only while every partition works, the node does not stop and its cluster has it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use unanimity_proto::v1::coordinator_server::CoordinatorServer;
use unanimity_proto::v1::participants_server::ParticipantsServer;

use super::service::CoordinatorService;
use crate::cluster::Router;
use crate::delivery::ParticipantsService;
use crate::engine::Coordinator;

/// How soon a change is told: load balancers ask every few seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The health service, kept up to date by a task that ends with the node.
pub(super) fn service(
    coordinator: Coordinator,
    router: Option<Arc<Router>>,
    closing: CancellationToken,
) -> HealthServer<HealthService> {
    let (reporter, service) = reporter_and_service();
    tokio::spawn(async move {
        let mut told = None;
        loop {
            let is_closing = closing.is_cancelled();
            let is_out = router.as_ref().is_some_and(|router| router.out_of_service().is_some());
            let is_serving = !is_closing && !is_out && coordinator.is_ready();
            if told != Some(is_serving) {
                told = Some(is_serving);
                let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
                let coordinator =
                    <CoordinatorServer<CoordinatorService> as tonic::server::NamedService>::NAME;
                let participants =
                    <ParticipantsServer<ParticipantsService> as tonic::server::NamedService>::NAME;
                for name in ["", coordinator, participants] {
                    reporter.set_service_status(name, status).await;
                }
            }
            if is_closing {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = closing.cancelled() => {}
            }
        }
    });
    service
}

fn reporter_and_service() -> (tonic_health::server::HealthReporter, HealthServer<HealthService>) {
    let reporter = tonic_health::server::HealthReporter::new();
    let service = HealthService::from_health_reporter(reporter.clone());
    (reporter, HealthServer::new(service))
}
