//! What the node says about itself: health, metrics, the list of endpoints.

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;

use super::State;
use crate::log::PartitionRow;
use crate::telemetry::{state_detail, state_word};

/// OpenMetrics' own content type.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const INDEX: &str = "\
Unanimity, a distributed transaction coordinator.

  POST /v1/transactions                        begin
  POST /v1/transactions/{xid}/branches         register a branch
  POST /v1/transactions/{xid}/commit           commit
  POST /v1/transactions/{xid}/abort            abort
  GET  /v1/transactions/{xid}                  one transaction
  GET  /v1/transactions                        a page of them
  POST /v1/transactions/{xid}/retry            operator: try again now
  POST /v1/transactions/{xid}/branches/{branch_id}/resolve
                                               operator: settle a branch by hand
  POST /v1/inquiries                           what became of these?
  GET  /v1/info                                this coordinator and its partitions
  POST /v1/partitions/{partition}/accept-loss  operator: go on with a log that lost its tail
  GET  /v1/cluster                             the nodes, and each partition with its owner
  POST /v1/cluster/nodes/{node}/drain          operator: a node is to own nothing
  POST /v1/cluster/nodes/{node}/undrain        operator: it may again

  GET  /openapi.json   all of the above, for tools
  GET  /healthz        the process lives
  GET  /readyz         what is to work here works
  GET  /metrics        for Prometheus

The same port speaks gRPC: unanimity.v1.Coordinator, unanimity.v1.Participants, health, reflection.
";

pub(super) async fn index() -> &'static str {
    INDEX
}

/// The process lives. Whether it can work is `/readyz`: a restart would not bring a database back.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The partitions that are to work here and do not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    partitions: Vec<NotRunning>,
    /// What will hurt, and no restart of this node would mend: it is ready all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct NotRunning {
    partition: u16,
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

pub(super) async fn readyz(Shared(state): Shared<State>) -> Response {
    let info = state.handlers.info();
    let partitions: Vec<NotRunning> = info
        .states
        .iter()
        .filter(|info| !info.is_well())
        .map(|info| NotRunning {
            partition: info.partition.0,
            state: state_word(&info.state),
            detail: state_detail(&info.state).to_owned(),
        })
        .collect();
    let reason = if state.closing.is_cancelled() {
        Some("this node is shutting down".to_owned())
    } else {
        state.handlers.router().and_then(|router| router.out_of_service())
    };
    let ready = partitions.is_empty() && reason.is_none();
    let mut warnings = state.warnings.borrow().clone();
    warnings.extend(state.handlers.router().map(|router| router.view()).into_iter().flat_map(|view| {
        let unserved = |row: &PartitionRow| {
            Some(format!("nobody can serve partition {}: {}", row.partition, view.unserved(row.partition)?))
        };
        view.cluster.partitions.iter().filter_map(unserved).collect::<Vec<_>>()
    }));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(Readiness { ready, reason, partitions, warnings })).into_response()
}

pub(super) async fn metrics(Shared(state): Shared<State>) -> Response {
    let text = state.metrics.encode(state.handlers.coordinator());
    ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}

pub(super) async fn openapi() -> axum::Json<utoipa::openapi::OpenApi> {
    axum::Json(super::document())
}
