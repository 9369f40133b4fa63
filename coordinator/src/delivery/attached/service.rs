//! The gRPC service `unanimity.v1.Participants`.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use unanimity_proto::v1::participants_server::{Participants, ParticipantsServer};
use unanimity_proto::{error_to_status, v1};
use unanimity_types::{ErrorCode, Limits};

use super::home::Home;
use super::session::Session;
use crate::delivery::dispatcher::Delivery;

/// Messages between a session and its stream. Few: batches gather in the session, where they are
/// bounded and can still go to another instance.
const OUTGOING_MESSAGES_MAX: usize = 4;

/// Takes in instances that attach.
#[derive(Debug, Clone)]
pub struct ParticipantsService {
    home: Arc<dyn Home>,
    delivery: Arc<Delivery>,
}

impl ParticipantsService {
    /// The service for a coordinator and its delivery, which learns the log's identity from it.
    #[must_use]
    pub fn new(home: impl Home, delivery: Arc<Delivery>) -> Self {
        delivery.learn_log_id(home.log_id());
        Self { home: Arc::new(home), delivery }
    }

    /// The service for a tonic server, with its limits set.
    #[must_use]
    pub fn into_server(self) -> ParticipantsServer<Self> {
        ParticipantsServer::new(self)
            .max_decoding_message_size(Limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(Limits::MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Participants for ParticipantsService {
    type AttachStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    /// Answers at once and says everything else on the stream: a client may wait for this answer
    /// before it says hello.
    async fn attach(
        &self,
        request: Request<Streaming<v1::ParticipantMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let Some(room) = self.delivery.session_room() else {
            let detail = v1::ErrorDetail { retry_after_ms: 1_000, ..Default::default() };
            let message = "this node has as many sessions as it may; try another one, or later";
            return Err(error_to_status(ErrorCode::TooBusy, message, detail));
        };
        let (outbound, stream) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        let session = Session::new(
            Arc::clone(&self.home),
            Arc::clone(&self.delivery),
            request.into_inner(),
            outbound,
            room,
        );
        // A task of its own: the stream's future is dropped with the connection, and answers that
        // are on their way must still be passed on in order.
        tokio::spawn(session.run());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
