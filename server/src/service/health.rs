//! `grpc.health.v1.Health`: the member as a whole, under the empty name.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

use crate::core::Core;

/// The name that stands for all services.
const WHOLE_MEMBER: &str = "";

/// The service that tells what `reporter` was told.
pub(super) fn server(reporter: &HealthReporter) -> HealthServer<impl Health + use<>> {
    HealthServer::new(HealthService::from_health_reporter(reporter.clone()))
}

/// Reports whether this member serves: it is ready, it knows a leader, and it is not stopping.
pub(super) async fn follow(core: Core, reporter: HealthReporter) {
    let mut leadership = core.leadership();
    let mut stopping = core.stopping();
    let mut ready = core.ready();
    loop {
        let has_leader = leadership.borrow_and_update().leader != 0;
        let is_stopping = *stopping.borrow_and_update();
        let is_ready = *ready.borrow_and_update();
        let status = if is_ready && has_leader && !is_stopping {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        reporter.set_service_status(WHOLE_MEMBER, status).await;
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            changed = stopping.changed() => if changed.is_err() { return },
            changed = ready.changed() => if changed.is_err() { return },
        }
    }
}
