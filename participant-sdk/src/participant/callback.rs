//! The hooks as a gRPC service, for participants that are called at an address.

use unanimity_proto::v1;
use unanimity_proto::v1::branch_callback_server::BranchCallback;

use crate::fence::FenceDatabase;
use crate::participant::Participant;
use crate::participant::order::{Answer, Order};

/// The service behind [`crate::Participant::grpc_service`].
pub struct Callback<DB: FenceDatabase> {
    participant: Participant<DB>,
}

impl<DB: FenceDatabase> Callback<DB> {
    pub(super) fn new(participant: Participant<DB>) -> Self {
        Self { participant }
    }
}

impl<DB: FenceDatabase> std::fmt::Debug for Callback<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callback").field("participant", &self.participant.name()).finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl<DB: FenceDatabase> BranchCallback for Callback<DB> {
    async fn execute(
        &self,
        request: tonic::Request<v1::BranchOperation>,
    ) -> Result<tonic::Response<v1::BranchResult>, tonic::Status> {
        let shared = &self.participant.shared;
        let operation = request.into_inner();
        let call_id = operation.call_id;
        let done = if shared.stop.is_cancelled() {
            Answer::Unknown("the participant shuts down".into())
        } else if shared.permits.available_permits() == 0 {
            // Never a queue that the caller cannot see: it asks again.
            Answer::Unknown("too busy".into())
        } else {
            shared.client.witnesses().observe_wire(operation.position.as_ref());
            match Order::from_wire(operation) {
                Ok(order) => shared.carry_out(order).await,
                Err(done) => done,
            }
        };
        Ok(tonic::Response::new(done.to_wire(call_id)))
    }
}
