//! A participant that writes nothing, attached: answers every operation at once, batch by batch.
//!
//! The SDK's participant has a fence; this one shows what a session alone costs. Should the session end
//! it is opened again, as the SDK does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Endpoint;
use unanimity_proto::v1;
use unanimity_proto::v1::coordinator_message::Kind as FromCoordinator;
use unanimity_proto::v1::participant_message::Kind as FromParticipant;
use unanimity_proto::v1::participants_client::ParticipantsClient;
use unanimity_types::Limits;

use crate::participants::Answerer;
use crate::places::OPERATION;

/// What a coordinator gives an instance at most.
const CONCURRENCY: u32 = 1_024;
/// How long to wait before a lost session is opened again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Batches of answers that wait to be sent.
const OUTGOING_MAX: usize = 1_024;

/// Keeps the session of a service open until the task is dropped. Says `true` while it is open.
pub(super) async fn run(url: String, name: String, answerer: Arc<Answerer>, open: watch::Sender<bool>) {
    loop {
        if let Err(status) = session(&url, &name, &answerer, &open).await {
            answerer.remember(format!("{name}: {}", status.message()));
        }
        open.send_replace(false);
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn session(
    url: &str,
    name: &str,
    answerer: &Answerer,
    open: &watch::Sender<bool>,
) -> Result<(), Status> {
    let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let channel = Endpoint::from_shared(url.to_owned())
        .map_err(unavailable)?
        .tcp_nodelay(true)
        .connect()
        .await
        .map_err(unavailable)?;
    let mut client = ParticipantsClient::new(channel)
        .max_decoding_message_size(Limits::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(Limits::MESSAGE_BYTES_MAX);
    let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
    let send = async |kind| {
        let message = v1::ParticipantMessage { kind: Some(kind) };
        outgoing.send(message).await.map_err(|_| Status::unavailable("the stream is closed"))
    };
    send(FromParticipant::Hello(hello(name))).await?;
    let mut incoming = client.attach(ReceiverStream::new(messages)).await?.into_inner();
    let mut heartbeat = Duration::from_secs(5);
    let mut beat = Instant::now() + heartbeat;
    loop {
        let message = tokio::select! {
            message = incoming.message() => message?,
            () = tokio::time::sleep_until(beat) => {
                send(FromParticipant::Heartbeat(v1::Heartbeat::default())).await?;
                beat = Instant::now() + heartbeat;
                continue;
            }
        };
        let Some(message) = message else { return Ok(()) };
        match message.kind {
            Some(FromCoordinator::Operations(batch)) => {
                let results = answerer.answer(&batch.operations);
                let results = FromParticipant::Results(v1::BranchResults { results });
                if answerer.takes.is_zero() {
                    send(results).await?;
                } else {
                    let (outgoing, takes) = (outgoing.clone(), answerer.takes);
                    tokio::spawn(async move {
                        tokio::time::sleep(takes).await;
                        // Nobody hears it when the session is over.
                        let _ = outgoing.send(v1::ParticipantMessage { kind: Some(results) }).await;
                    });
                }
            }
            Some(FromCoordinator::Welcome(welcome)) => {
                heartbeat = Duration::from_millis(welcome.heartbeat_interval_ms.clamp(50, 60_000));
                beat = Instant::now() + heartbeat;
                open.send_replace(true);
            }
            Some(FromCoordinator::Goodbye(_)) => return Ok(()),
            Some(FromCoordinator::Heartbeat(_)) | None => {}
        }
    }
}

fn hello(name: &str) -> v1::Hello {
    v1::Hello {
        participant: name.to_owned(),
        instance: format!("bench-{}", std::process::id()),
        operations: vec![OPERATION.to_owned()],
        concurrency: CONCURRENCY,
        sdk: concat!("unanimity-bench/", env!("CARGO_PKG_VERSION")).to_owned(),
        protocol_version: 1,
        ..Default::default()
    }
}
