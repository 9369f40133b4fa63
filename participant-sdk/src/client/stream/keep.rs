//! A command stream from its opening to its end, and the next one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use unanimity_proto::v1;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;

use super::Shared;
use super::body::Body;
use crate::backoff::Backoff;
use crate::client::nodes::DoorEar;

/// How long a stream may take to open, besides the connection's own time-out.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// The same where another node can be asked.
const OPEN_WITHIN_OF_SEVERAL: Duration = Duration::from_secs(4);
/// The coordinator says something every 10 s: after three times that it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// After so much silence with commands in hand a node is asked whether it is there, if another one can do its work: it
/// may have been stopped with its connections open, and then every caller would wait for its whole time.
const DOUBT_AFTER: Duration = Duration::from_secs(2);
/// How long it may take to say that it is: a call that needs nothing, so this is a very busy machine.
const SIGN_WITHIN: Duration = Duration::from_secs(3);

/// How a stream ended.
pub(super) enum End {
    Broken(Arc<str>),
    NotOpened(Status),
    NoStreams,
}

/// Keeps a stream while there is something to send, or while it is wanted.
pub(super) async fn run(
    shared: Arc<Shared>,
    service: CoordinatorClient<Channel>,
    ear: DoorEar,
    mut wanted: watch::Receiver<bool>,
) {
    // Callers repeat what failed at a pace of their own: this only keeps a coordinator that ends every
    // stream at once from being asked without a pause.
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    // While nobody asks anything.
    let mut idle_backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
    loop {
        tokio::select! {
            () = shared.demand() => {}
            Ok(_) = wanted.wait_for(|wanted| *wanted) => {}
        }
        let turn = shared.next_turn();
        let end = serve(&shared, turn, &service, &ear, &mut backoff).await;
        // Whoever gave them out is not heard of any more.
        let alone = ear.alone();
        ear.closed();
        shared.lose(&end, alone);
        match end {
            End::Broken(why) => {
                idle_backoff.reset();
                tracing::debug!(%why, "the command stream broke");
            }
            End::NotOpened(status) => tracing::debug!(%status, "no command stream could be opened"),
            End::NoStreams => {
                tracing::info!("the coordinator has no command streams: it is called for each command");
                ear.opened();
                return;
            }
        }
        sleep(backoff.next()).await;
        tokio::select! {
            () = sleep(idle_backoff.next()) => {}
            () = shared.demand() => {}
        }
    }
}

/// One stream, from its opening to its end.
async fn serve(
    shared: &Arc<Shared>,
    turn: u64,
    service: &CoordinatorClient<Channel>,
    ear: &DoorEar,
    backoff: &mut Backoff,
) -> End {
    let body = Body { shared: Arc::clone(shared), turn, gathered: false };
    let within = if ear.alone() { OPEN_WITHIN } else { OPEN_WITHIN_OF_SEVERAL };
    let opened = match timeout(within, service.clone().commands(body)).await {
        Ok(opened) => opened,
        Err(_) => return End::NotOpened(Status::unavailable(format!("no command stream within {within:?}"))),
    };
    let mut incoming = match opened {
        Ok(response) => response.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return End::NoStreams,
        Err(status) => return End::NotOpened(status),
    };
    ear.opened();
    let status = match read(shared, &mut incoming, service, ear, backoff).await {
        Ok(why) => return End::Broken(why.into()),
        Err(status) => status,
    };
    End::Broken(format!("the command stream broke: {}", crate::error::shorten(status.message())).into())
}

/// Reads until the stream ends; says why, if it was not by an error.
async fn read(
    shared: &Shared,
    incoming: &mut Streaming<v1::AnswerBatch>,
    service: &CoordinatorClient<Channel>,
    ear: &DoorEar,
    backoff: &mut Backoff,
) -> Result<&'static str, Status> {
    let mut found = Vec::new();
    let mut heard_at = Instant::now();
    // It goes off too early, looks, and is set anew, so that messages cost no timer.
    let alarm = sleep_until(heard_at + DOUBT_AFTER);
    tokio::pin!(alarm);
    loop {
        let batch = tokio::select! {
            received = incoming.message() => match received? {
                Some(batch) => batch,
                None => return Ok("the coordinator ended the command stream"),
            },
            () = &mut alarm => {
                if heard_at.elapsed() >= SILENCE_MAX {
                    return Ok("the command stream was silent for 30 s");
                }
                if heard_at.elapsed() >= DOUBT_AFTER && shared.is_owed() && !ear.alone() {
                    // What comes meanwhile is a sign as well.
                    tokio::select! {
                        lives = gives_a_sign(service.clone()) => {
                            if !lives {
                                return Ok("the node gives no sign of life");
                            }
                            alarm.as_mut().reset(Instant::now() + DOUBT_AFTER);
                            continue;
                        }
                        received = incoming.message() => match received? {
                            Some(batch) => {
                                alarm.as_mut().reset(Instant::now() + DOUBT_AFTER);
                                batch
                            }
                            None => return Ok("the coordinator ended the command stream"),
                        },
                    }
                } else {
                    alarm.as_mut().reset(Instant::now().max(heard_at) + DOUBT_AFTER);
                    continue;
                }
            }
        };
        heard_at = Instant::now();
        backoff.reset();
        ear.hear(&batch);
        shared.deliver(batch.answers, &mut found);
    }
}

/// Whether a node answers at all, and be it with an error.
async fn gives_a_sign(mut service: CoordinatorClient<Channel>) -> bool {
    timeout(SIGN_WITHIN, service.get_info(v1::GetInfoRequest {})).await.is_ok()
}
