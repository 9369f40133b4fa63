//! A participant that writes nothing, called by gRPC.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use unanimity_proto::v1;
use unanimity_proto::v1::branch_callback_server::{BranchCallback, BranchCallbackServer};
use unanimity_types::Limits;

use crate::participants::Answerer;

struct Service(Arc<Answerer>);

#[tonic::async_trait]
impl BranchCallback for Service {
    async fn execute(
        &self,
        request: Request<v1::BranchOperation>,
    ) -> Result<Response<v1::BranchResult>, Status> {
        let mut results = self.0.answer(std::slice::from_ref(request.get_ref()));
        results.pop().map(Response::new).ok_or_else(|| Status::internal("no answer"))
    }
}

/// Serves until the task is dropped.
pub(super) async fn serve(listener: TcpListener, answerer: Arc<Answerer>) {
    let service = BranchCallbackServer::new(Service(Arc::clone(&answerer)))
        .max_decoding_message_size(Limits::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(Limits::MESSAGE_BYTES_MAX);
    let server = tonic::transport::Server::builder().tcp_nodelay(true).add_service(service);
    if let Err(error) = server.serve_with_incoming(TcpListenerStream::new(listener)).await {
        answerer.remember(format!("the gRPC server ended: {error}"));
    }
}
