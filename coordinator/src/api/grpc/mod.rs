//! gRPC: the services `Coordinator` and `Participants`, health and reflection.

mod carry;
mod commands;
mod convert;
mod health;
mod peers;
mod routed;
mod service;

use std::sync::Arc;

use axum::Router;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use unanimity_proto::v1;
use unanimity_proto::v1::coordinator_server::CoordinatorServer;
use unanimity_proto::v1::participants_server::ParticipantsServer;
use unanimity_proto::v1::peers_server::PeersServer;

use super::guard::Calls;
use super::handlers::Handlers;
use crate::config::Config;
use crate::delivery::ParticipantsService;
use crate::engine::Error;
use crate::telemetry::Metrics;

pub(super) use {service::resolve_as, service::vote_set};

/// The one stream of the service `Coordinator`.
pub(super) const COMMANDS: &str = "/unanimity.v1.Coordinator/Commands";

/// The methods that metrics name. A test compares the list with the descriptors.
pub(super) const METHODS: &[&str] = &[
    "/unanimity.v1.Coordinator/Begin",
    "/unanimity.v1.Coordinator/RegisterBranch",
    "/unanimity.v1.Coordinator/Commit",
    "/unanimity.v1.Coordinator/Abort",
    "/unanimity.v1.Coordinator/GetTransaction",
    "/unanimity.v1.Coordinator/ListTransactions",
    "/unanimity.v1.Coordinator/Inquire",
    "/unanimity.v1.Coordinator/RetryTransaction",
    "/unanimity.v1.Coordinator/ResolveBranch",
    "/unanimity.v1.Coordinator/AcceptLoss",
    "/unanimity.v1.Coordinator/RecordRestored",
    "/unanimity.v1.Coordinator/MovePartition",
    "/unanimity.v1.Coordinator/Vote",
    "/unanimity.v1.Coordinator/GetInfo",
    "/unanimity.v1.Coordinator/GetCluster",
    "/unanimity.v1.Coordinator/DrainNode",
    COMMANDS,
    "/unanimity.v1.Participants/Attach",
    "/unanimity.v1.Peers/Lock",
    "/unanimity.v1.Peers/Unlock",
    "/unanimity.v1.Peers/InquirePartition",
    "/unanimity.v1.Peers/Witness",
    "/unanimity.v1.Peers/ListOpen",
    "/unanimity.v1.Peers/Look",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// All gRPC services as routes, without a fallback of their own: tonic's would answer every unknown
/// path of the port with 200.
pub(super) fn routes(
    handlers: &Handlers,
    participants: ParticipantsService,
    config: &Config,
    calls: &Calls,
    metrics: &Arc<Metrics>,
    closing: CancellationToken,
) -> Router {
    let max = config.limits.message_bytes_max;
    let commands = commands::Commands::new(handlers, config, calls, metrics, closing.clone());
    let coordinator =
        CoordinatorServer::new(service::CoordinatorService::new(handlers.clone(), Arc::new(commands)))
            .max_decoding_message_size(max);
    let participants = ParticipantsServer::new(participants).max_decoding_message_size(max);
    let peers = PeersServer::new(peers::PeersService::new(
        handlers.coordinator().clone(),
        handlers.router().cloned(),
    ))
    .max_decoding_message_size(max);
    let health = health::service(handlers.coordinator().clone(), handlers.router().cloned(), closing);
    let mut routes =
        Routes::new(coordinator).add_service(participants).add_service(peers).add_service(health);
    match tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(unanimity_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
    {
        Ok(reflection) => routes = routes.add_service(reflection),
        // The descriptors are compiled in; if they were broken the rest would still work.
        Err(error) => tracing::error!(%error, "no gRPC reflection"),
    }
    routes.into_axum_router().reset_fallback()
}

/// Whether a request is gRPC's, so that its errors must be too.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"))
}

/// An error as gRPC says it.
pub(super) fn status(error: &Error) -> tonic::Status {
    unanimity_proto::error_to_status(error.code, &error.message, detail(error))
}

/// An error as a command stream says it: what [`status`] says, without a status of its own.
fn command_error(error: Error) -> v1::CommandError {
    let detail = v1::ErrorDetail { code: error.code.as_str().to_owned(), ..detail(&error) };
    let status = unanimity_proto::grpc_code(error.code) as i32;
    v1::CommandError { status: status.unsigned_abs(), message: error.message, detail: Some(detail) }
}

fn detail(error: &Error) -> v1::ErrorDetail {
    v1::ErrorDetail {
        code: String::new(),
        // A lock's conflict is about its holder: whoever asked knows its own xid.
        xid: error.holder.or(error.xid).map(|xid| xid.to_string()).unwrap_or_default(),
        status: error.status.map_or(v1::Status::Unspecified, v1::Status::from) as i32,
        retry_after_ms: error
            .retry_after
            .map_or(0, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        abort_reason: error.abort_reason.map(|reason| reason.to_string()).unwrap_or_default(),
        owner_address: error.owner.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    /// The parts of `google.protobuf.FileDescriptorSet` that the test reads.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Set {
        #[prost(message, repeated, tag = "1")]
        files: Vec<File>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct File {
        #[prost(string, tag = "2")]
        package: String,
        #[prost(message, repeated, tag = "6")]
        services: Vec<Service>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Service {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(message, repeated, tag = "2")]
        methods: Vec<Method>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Method {
        #[prost(string, tag = "1")]
        name: String,
    }

    #[test]
    fn metrics_know_every_method_that_we_serve() {
        let set = Set::decode(unanimity_proto::DESCRIPTORS).expect("descriptors");
        let mut served = BTreeSet::new();
        for file in set.files {
            for service in file.services.iter().filter(|service| service.name != "BranchCallback") {
                for method in &service.methods {
                    served.insert(format!("/{}.{}/{}", file.package, service.name, method.name));
                }
            }
        }
        let known: BTreeSet<String> = METHODS
            .iter()
            .filter(|path| path.starts_with("/unanimity"))
            .map(|path| (*path).to_owned())
            .collect();
        assert_eq!(served, known);
    }
}
