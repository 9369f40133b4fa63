//! Where an operation goes, what it is given, and when it is tried again.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use unanimity_proto::{policy_from_wire, target_from_wire, v1};
use unanimity_types::{BranchKey, CallPolicy, ErrorCode, Target};
use utoipa::ToSchema;

use crate::api::http::problem::Failure;

/// Where an operation goes: one of `url`, `grpc`, or `participant` with `operation`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetBody {
    /// A URL that is called by POST.
    #[schema(example = "http://127.0.0.1:9001/confirm")]
    pub(crate) url: Option<String>,
    /// The address of a server with the gRPC service `unanimity.v1.BranchCallback`.
    pub(crate) grpc: Option<String>,
    /// The name of an attached participant.
    pub(crate) participant: Option<String>,
    /// The name of its hooks.
    pub(crate) operation: Option<String>,
}

impl TargetBody {
    /// The target; `what` says in errors whose it is.
    pub(super) fn into_target(self, what: &str) -> Result<Target, Failure> {
        let kind = match (self.url, self.grpc, self.participant, self.operation) {
            (Some(url), None, None, None) => v1::target::Kind::Url(url),
            (None, Some(grpc), None, None) => v1::target::Kind::Grpc(grpc),
            (None, None, Some(participant), Some(operation)) => {
                v1::target::Kind::Participant(v1::ParticipantTarget { participant, operation })
            }
            _ => {
                let message = format!(
                    "{what}: a target is {{\"url\": …}}, {{\"grpc\": …}} or {{\"participant\": …, \"operation\": …}}"
                );
                return Err(Failure::new(ErrorCode::InvalidTarget, message));
            }
        };
        target_from_wire(v1::Target { kind: Some(kind) })
            .map_err(|invalid| Failure::new(invalid.code, format!("{what}: {}", invalid.message)))
    }
}

/// When an operation is tried again, where that differs from the coordinator's own policy.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryBody {
    /// The upper end of the first wait; it doubles with each attempt.
    #[schema(example = 200)]
    pub(crate) initial_ms: Option<u64>,
    /// The longest wait.
    #[schema(example = 30_000)]
    pub(crate) cap_ms: Option<u64>,
    /// After so many failed attempts no more are made: an action turns its saga back, a compensation or
    /// delivery is parked. 0 or nothing: never.
    #[schema(example = 10)]
    pub(crate) give_up_after: Option<u32>,
}

/// The policy of a plan's call from its two fields.
pub(super) fn policy(
    retry: Option<RetryBody>,
    timeout_ms: Option<u64>,
    what: &str,
) -> Result<CallPolicy, Failure> {
    let retry = retry.unwrap_or_default();
    if timeout_ms == Some(0) {
        let message = format!("{what}: timeout_ms is more than 0");
        return Err(Failure::new(ErrorCode::InvalidTimeout, message));
    }
    let wire = v1::CallPolicy {
        initial_ms: retry.initial_ms.unwrap_or(0),
        cap_ms: retry.cap_ms.unwrap_or(0),
        give_up_after: retry.give_up_after.unwrap_or(0),
        timeout_ms: timeout_ms.unwrap_or(0),
    };
    policy_from_wire(Some(wire))
        .map_err(|invalid| Failure::new(invalid.code, format!("{what}: {}", invalid.message)))
}

/// The same for a branch, which is no plan.
pub(super) fn branch_policy(
    retry: Option<RetryBody>,
    timeout_ms: Option<u64>,
) -> Result<CallPolicy, Failure> {
    policy(retry, timeout_ms, "branch").map_err(|failure| failure.without_plan())
}

/// A payload's bytes as they came: whoever signed or hashed them gets the same.
pub(super) fn payload(json: Option<Box<RawValue>>) -> Bytes {
    json.map_or_else(Bytes::new, |json| Bytes::copy_from_slice(json.get().as_bytes()))
}

/// A branch's key.
pub(in crate::api::http) fn key(what: &str, text: String) -> Result<BranchKey, Failure> {
    BranchKey::new(text).map_err(|error| Failure::new(ErrorCode::InvalidName, format!("{what}: {error}")))
}
