//! Where a step, a delivery or a check-back goes.

use unanimity_proto::{target_from_wire, v1};
use unanimity_types::Target;

use crate::error::ClientError;

/// Where an operation goes. Checked when it is sent; a pair of names is a participant's.
///
/// ```
/// use unanimity_sdk::StepTarget;
///
/// let booked_by = StepTarget::participant("flights", "book");
/// assert_eq!(booked_by, ("flights", "book").into());
/// let cancelled_at = StepTarget::http("https://flights.example/cancel");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTarget(v1::target::Kind);

impl StepTarget {
    /// Any attached instance of a participant, to the hooks of this name.
    #[must_use]
    pub fn participant(participant: impl Into<String>, operation: impl Into<String>) -> Self {
        let target = v1::ParticipantTarget { participant: participant.into(), operation: operation.into() };
        Self(v1::target::Kind::Participant(target))
    }

    /// A URL that is called by `POST`. The coordinator calls only what its allow list names.
    #[must_use]
    pub fn http(url: impl Into<String>) -> Self {
        Self(v1::target::Kind::Url(url.into()))
    }

    /// A server with the service `unanimity.v1.BranchCallback`, for example `http://10.0.0.7:9000`.
    #[must_use]
    pub fn grpc(address: impl Into<String>) -> Self {
        Self(v1::target::Kind::Grpc(address.into()))
    }

    pub(crate) fn check(&self) -> Result<Target, ClientError> {
        target_from_wire(v1::Target { kind: Some(self.0.clone()) })
            .map_err(|error| ClientError::Invalid { code: error.code, message: error.message })
    }
}

impl<P: Into<String>, O: Into<String>> From<(P, O)> for StepTarget {
    fn from((participant, operation): (P, O)) -> Self {
        Self::participant(participant, operation)
    }
}
