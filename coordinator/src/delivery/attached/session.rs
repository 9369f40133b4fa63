//! One session: a task that owns both directions of one instance's stream.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};
use unanimity_proto::v1::coordinator_message::Kind as ToInstance;
use unanimity_proto::v1::participant_message::Kind as FromInstance;
use unanimity_proto::{InvalidWire, error_to_status, position_to_wire, v1};
use unanimity_types::{ErrorCode, LogPosition};

use super::hello::{self, PROTOCOL_VERSION};
use super::home::Home;
use super::participant::Attachment;
use crate::cluster::TopologyNews;
use crate::delivery::callbacks::Phase;
use crate::delivery::config::DeliveryConfig;
use crate::delivery::dispatcher::{Delivery, SessionRoom};
use crate::engine;

/// How long the last word of a session may take to get rid of.
const LAST_WORD_WAIT: Duration = Duration::from_secs(1);
/// Silent intervals that end a session.
const SILENT_INTERVALS: u32 = 3;

type Outbound = mpsc::Sender<Result<v1::CoordinatorMessage, Status>>;

/// A session before its hello.
pub(super) struct Session {
    home: Arc<dyn Home>,
    delivery: Arc<Delivery>,
    inbound: Streaming<v1::ParticipantMessage>,
    outbound: Outbound,
    /// Its place among the allowed number, kept until it ends.
    _room: SessionRoom,
}

/// Why a session ends, for the calls in its hand and for the instance.
struct End {
    because: &'static str,
    /// `None`: the stream just ends.
    status: Option<Status>,
}

impl End {
    fn quietly(because: &'static str) -> Self {
        Self { because, status: None }
    }

    fn with(because: &'static str, code: ErrorCode) -> Self {
        Self { because, status: Some(error_to_status(code, because, v1::ErrorDetail::default())) }
    }
}

impl Session {
    pub(super) fn new(
        home: Arc<dyn Home>,
        delivery: Arc<Delivery>,
        inbound: Streaming<v1::ParticipantMessage>,
        outbound: Outbound,
        room: SessionRoom,
    ) -> Self {
        Self { home, delivery, inbound, outbound, _room: room }
    }

    /// The whole session.
    pub(super) async fn run(mut self) {
        let status = match self.greet().await {
            Ok(mut serving) => {
                let end = serving.serve(&mut self).await;
                tracing::info!(because = end.because, "a session ended");
                serving.attachment.ended_because = end.because;
                // Its calls are answered before the instance hears of the end.
                drop(serving);
                end.status
            }
            Err(status) => {
                tracing::warn!(%status, "an instance was refused");
                Some(status)
            }
        };
        if let Some(status) = status {
            let _ = timeout(LAST_WORD_WAIT, self.outbound.send(Err(status))).await;
        }
    }

    /// From the first message to the welcome.
    async fn greet(&mut self) -> Result<Serving, Status> {
        let config = &self.delivery.shared.config;
        // Before anything that waits, so that no change is missed.
        let phase = self.delivery.shared.phase.subscribe();
        let first = timeout(config.hello_timeout, self.inbound.message())
            .await
            .map_err(|_| refusal(ErrorCode::DeadlineExceeded, "no hello in time"))??;
        let Some(FromInstance::Hello(hello)) = first.and_then(|message| message.kind) else {
            return Err(refusal(ErrorCode::InvalidRequest, "the first message of a session is a hello"));
        };
        let here = (self.home.log_id(), &*self.home.node());
        let hello = hello::check(hello, here, config).map_err(|error| invalid(&error))?;
        if !hello.witnesses.is_empty() {
            timeout(config.hello_timeout, self.home.witness(hello.witnesses))
                .await
                .map_err(|_| refusal(ErrorCode::Unavailable, "the log did not answer in time"))?
                .map_err(|error| status_of(&error))?;
        }
        let (participant, instance, sdk) =
            (hello.participant, hello.instance.name.clone(), hello.instance.sdk.clone());
        let attachment = self
            .delivery
            .attach(&participant, hello.instance)
            .ok_or_else(|| refusal(ErrorCode::Unavailable, "this node is shutting down; attach elsewhere"))?;
        tracing::info!(%participant, %instance, sdk, "an instance attached");
        let mut topology = self.home.topology();
        let welcome = v1::Welcome {
            log_id: self.home.log_id().to_string(),
            partitions: self.home.partitions().into(),
            node: self.home.node(),
            heartbeat_interval_ms: u64::try_from(config.heartbeat_interval.as_millis()).unwrap_or(u64::MAX),
            positions: wire_positions(&*self.home),
            protocol_version: PROTOCOL_VERSION,
            topology: topology.as_mut().and_then(|news| news.take(Instant::now())),
        };
        // The channel is empty, so this does not wait; and operations are sent by this task, so they
        // come after.
        let _ = self.outbound.send(Ok(message(ToInstance::Welcome(welcome)))).await;
        let home = Arc::clone(&self.home);
        let side = FuturesUnordered::new();
        // Beside the session: the engine's mailboxes may be full.
        side.push(async move { home.participant_available(participant).map(Ok).await }.boxed());
        let now = Instant::now();
        Ok(Serving {
            attachment,
            phase,
            side,
            topology,
            heard_at: now,
            heartbeat_at: now + config.heartbeat_interval,
            blocked_since: None,
            goodbye: Goodbye::NotYet,
        })
    }
}

/// Whether this node said goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    NotYet,
    Due,
    Said,
}

/// A session after its welcome.
struct Serving {
    attachment: Attachment,
    phase: watch::Receiver<Phase>,
    /// What the engine is told, without waiting for it.
    side: FuturesUnordered<BoxFuture<'static, Result<(), engine::Error>>>,
    topology: Option<TopologyNews>,
    heard_at: Instant,
    heartbeat_at: Instant,
    /// Since when there is something to send and the instance does not take it.
    blocked_since: Option<Instant>,
    goodbye: Goodbye,
}

impl Serving {
    async fn serve(&mut self, session: &mut Session) -> End {
        let bell = Arc::clone(&self.attachment.bell);
        let Session { home, delivery, inbound, outbound, .. } = session;
        let config = &delivery.shared.config;
        // Twice what can be in hand leaves room for answers that come after their time. The bound
        // keeps the participant's lock short: the engine's loop waits for it.
        let results_max = config.session_concurrency_max.saturating_mul(2);
        let closed = outbound.closed();
        tokio::pin!(closed);
        // One timer for all that is due some day. Where that moves on it goes off too early, looks, and is
        // set anew, so that messages cost none.
        let alarm = sleep_until(self.heartbeat_at);
        tokio::pin!(alarm);
        loop {
            let wake = match self.step(config) {
                Ok(wake) => wake,
                Err(end) => return end,
            };
            if wake < alarm.deadline() || alarm.is_elapsed() {
                alarm.as_mut().reset(wake);
            }
            let end = tokio::select! {
                permit = outbound.reserve(), if self.blocked_since.is_some() => match permit {
                    Ok(permit) => {
                        self.send(&**home, config.heartbeat_interval, permit);
                        None
                    }
                    Err(_) => Some(End::quietly("its stream is gone")),
                },
                received = inbound.message() => self.receive(home, results_max, received),
                () = bell.notified() => {
                    // The runtime lets us run right after the first call. What is ready to run beside it
                    // may have more, which then go into the same message.
                    tokio::task::yield_now().await;
                    None
                }
                () = &mut alarm => None,
                // An error would mean that delivery is gone, which the session keeps alive.
                _ = self.phase.changed() => None,
                () = TopologyNews::changed(&mut self.topology) => None,
                () = &mut closed => Some(End::quietly("its stream is gone")),
                Some(told) = self.side.next() => told.err().and_then(|error| refused_witness(&error)),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Does what is due, and says when to look again at the latest.
    fn step(&mut self, config: &DeliveryConfig) -> Result<Instant, End> {
        let now = Instant::now();
        let silent_at = self.heard_at + config.heartbeat_interval * SILENT_INTERVALS;
        if now >= silent_at {
            return Err(End::with(
                "it was silent for three heartbeat intervals",
                ErrorCode::DeadlineExceeded,
            ));
        }
        // Where the nodes are is told in a heartbeat, which does not wait for its time if they changed.
        if self.topology.as_mut().is_some_and(|news| news.is_due(now)) {
            self.heartbeat_at = self.heartbeat_at.min(now);
        }
        let heartbeat_due = now >= self.heartbeat_at;
        let mut look = self.attachment.look();
        if heartbeat_due || look.next_deadline.is_some_and(|deadline| now >= deadline) {
            self.attachment.expire(now);
            look = self.attachment.look();
        }
        if look.replaced {
            let because = "another session of the same instance began";
            return Err(End { because, status: Some(Status::aborted(because)) });
        }
        let phase = *self.phase.borrow_and_update();
        if phase == Phase::Stopped {
            return Err(End::with("this node stopped", ErrorCode::Unavailable));
        }
        if phase == Phase::Draining && self.goodbye == Goodbye::NotYet {
            self.goodbye = Goodbye::Due;
        }
        if look.in_hand == 0 && (look.draining || self.goodbye == Goodbye::Said) {
            return Err(End::quietly("it was drained"));
        }
        if !(look.outgoing || heartbeat_due || self.goodbye == Goodbye::Due) {
            self.blocked_since = None;
        } else if self.blocked_since.is_none() {
            self.blocked_since = Some(now);
        }
        let blocked_until = self.blocked_since.map(|since| since + config.write_timeout);
        if blocked_until.is_some_and(|until| now >= until) {
            return Err(End::with("it does not take what is sent to it", ErrorCode::DeadlineExceeded));
        }
        let heartbeat_at = (!heartbeat_due).then_some(self.heartbeat_at);
        let wakes = [heartbeat_at, blocked_until, look.next_deadline];
        Ok(wakes.into_iter().flatten().fold(silent_at, Instant::min))
    }

    /// Sends the most urgent thing: goodbye, operations, a heartbeat.
    fn send(
        &mut self,
        home: &dyn Home,
        heartbeat_interval: Duration,
        permit: mpsc::Permit<'_, Result<v1::CoordinatorMessage, Status>>,
    ) {
        self.blocked_since = None;
        let now = Instant::now();
        let kind = if self.goodbye == Goodbye::Due {
            self.goodbye = Goodbye::Said;
            ToInstance::Goodbye(v1::Goodbye { reason: "this node is shutting down".to_owned() })
        } else if now >= self.heartbeat_at {
            // Ahead of operations: under load they alone would say that we live, but not where the
            // partitions are that they do not come from.
            self.heartbeat_at = now + heartbeat_interval;
            let topology = self.topology.as_mut().and_then(|news| news.take(now));
            ToInstance::Heartbeat(v1::Heartbeat { positions: wire_positions(home), topology })
        } else {
            let operations = self.attachment.take_batch();
            if operations.is_empty() {
                // They went elsewhere between the look and the permit.
                return;
            }
            ToInstance::Operations(v1::BranchOperations { operations })
        };
        permit.send(Ok(message(kind)));
    }

    /// Takes a message in.
    fn receive(
        &mut self,
        home: &Arc<dyn Home>,
        results_max: usize,
        received: Result<Option<v1::ParticipantMessage>, Status>,
    ) -> Option<End> {
        let received = match received {
            Ok(Some(received)) => received,
            Ok(None) => return Some(End::quietly("its stream ended")),
            Err(_) => return Some(End::quietly("its stream broke")),
        };
        self.heard_at = Instant::now();
        match received.kind {
            Some(FromInstance::Results(results)) => {
                if results.results.len() > results_max {
                    let because = "it sent more results than it can have had operations";
                    return Some(End::with(because, ErrorCode::InvalidRequest));
                }
                self.attachment.answers(&results.results);
            }
            Some(FromInstance::Heartbeat(heartbeat)) => return self.witness(home, &heartbeat.positions),
            Some(FromInstance::Goodbye(_)) => self.attachment.drain(),
            Some(FromInstance::Hello(_)) => {
                return Some(End::with("it said hello twice", ErrorCode::InvalidRequest));
            }
            // A newer SDK's message: nothing that we asked for.
            None => {}
        }
        None
    }

    /// Shows the engine what an instance saw, if it saw more than we know to be there.
    fn witness(&mut self, home: &Arc<dyn Home>, positions: &[v1::LogPosition]) -> Option<End> {
        let positions = match hello::witnesses(positions) {
            Ok(positions) => positions,
            Err(error) => {
                return Some(End { because: "it sent an invalid heartbeat", status: Some(invalid(&error)) });
            }
        };
        let known = home.positions();
        let news: Vec<_> = positions.into_iter().filter(|position| !is_covered(position, &known)).collect();
        // One question at a time: the next heartbeat shows the same again.
        if !news.is_empty() && self.side.is_empty() {
            let home = Arc::clone(home);
            self.side.push(async move { home.witness(news).await }.boxed());
        }
        None
    }
}

/// Whether a position is of an epoch that this node holds and not beyond its end.
fn is_covered(position: &LogPosition, known: &[LogPosition]) -> bool {
    known.iter().any(|own| {
        own.partition == position.partition
            && own.epoch == position.epoch
            && own.epoch_tag == position.epoch_tag
            && own.seq >= position.seq
    })
}

/// A witness that the engine does not accept ends the session: the participant and this log do not
/// belong together. That the engine could not look now says nothing.
fn refused_witness(error: &engine::Error) -> Option<End> {
    matches!(error.code, ErrorCode::NotMine | ErrorCode::LogLostTail | ErrorCode::LogDamaged)
        .then(|| End { because: "it knows of another log than this one", status: Some(status_of(error)) })
}

fn wire_positions(home: &dyn Home) -> Vec<v1::LogPosition> {
    home.positions().into_iter().map(position_to_wire).collect()
}

fn message(kind: ToInstance) -> v1::CoordinatorMessage {
    v1::CoordinatorMessage { kind: Some(kind) }
}

fn refusal(code: ErrorCode, message: &str) -> Status {
    error_to_status(code, message, v1::ErrorDetail::default())
}

fn invalid(error: &InvalidWire) -> Status {
    refusal(error.code, &error.message)
}

fn status_of(error: &engine::Error) -> Status {
    let retry_after = error.retry_after.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    let detail = v1::ErrorDetail { retry_after_ms: retry_after, ..Default::default() };
    error_to_status(error.code, &error.message, detail)
}
