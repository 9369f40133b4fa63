//! An attached session: operations come over a stream that we opened to a node, results go back.
//!
//! ```text
//!   Hello (log and witnesses that we know) ──►
//!                                     ◄────── Welcome (log, interval of heartbeats)
//!                                     ◄────── operations ── a task each ──► results, in batches
//!   Heartbeat ──►                     ◄────── Heartbeat; three silent intervals end the session
//!   Goodbye ──► the rest of the results ──► end        (or ◄── Goodbye: the node stops)
//! ```
//!
//! Crash contract: results belong to a session. When it ends, work in hand goes on and its results
//! are dropped; the coordinator asks again and the fence answers as the first time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use unanimity_proto::v1;
use unanimity_proto::v1::coordinator_message::Kind as FromCoordinator;
use unanimity_proto::v1::participant_message::Kind as FromParticipant;
use unanimity_proto::v1::participants_client::ParticipantsClient;
use unanimity_types::Limits;

use crate::client::{Ear, parse_log_id};
use crate::error::ClientError;
use crate::fence::FenceDatabase;
use crate::participant::Shared;
use crate::participant::order::{Answer, Order};

/// The version of the session's protocol.
const PROTOCOL_VERSION: u32 = 1;
/// How long the coordinator may take to welcome us.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// How long the coordinator may take to end a stream that we ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Operations in hand at most, whatever the concurrency.
const IN_HAND_MAX: usize = 4_096;
/// Results in one message.
const BATCH_MAX: usize = 256;

/// How a session ended.
pub(super) enum End {
    /// We stop.
    Stopped,
    /// The coordinator's node stops, or closed the stream in order.
    Goodbye,
    /// There is a younger session with that node: whatever became of this one is no loss.
    Replaced,
    /// It was not the node that was meant, but this one. It had ended the session that there was with it before we
    /// could know (coordinators do not read `Hello.node` from their beginning on), so this one was kept while it
    /// lasted; the attempt failed all the same.
    Another(String),
}

/// One session at an address, from its hello to its end: with the node of that name, if it is given.
pub(super) async fn run<DB: FenceDatabase>(
    shared: &Arc<Shared<DB>>,
    (address, channel): (&str, Channel),
    node: Option<&str>,
    show_log: bool,
) -> Result<End, ClientError> {
    // Until it is open: an open one hears of the stop itself.
    let opened = tokio::select! {
        opened = open(shared, channel, hello(shared, node, show_log)) => opened?,
        () = shared.stop.cancelled() => return Ok(End::Stopped),
    };
    let Opened { welcome, incoming, outgoing } = opened;
    let _attached = shared.sessions.attach(&welcome.node);
    shared.client.nodes().met(address, &welcome.node);
    let ear = shared.client.nodes().ear();
    if let Some(topology) = &welcome.topology {
        ear.hear(topology);
    }
    // 0 or nonsense from a stranger must give neither a busy loop nor a session that never ends.
    let interval = match welcome.heartbeat_interval_ms {
        0 => Duration::from_secs(10),
        millis => Duration::from_millis(millis.clamp(50, 60_000)),
    };
    tracing::info!(participant = %shared.name, instance = %shared.instance, node = %welcome.node, "attached");
    let ended = Session::new(shared, ear, outgoing, interval).run(incoming).await;
    match ended {
        Ok(End::Stopped) => Ok(End::Stopped),
        _ if node.is_some_and(|meant| meant != welcome.node) => Ok(End::Another(welcome.node)),
        Err(_) if shared.sessions.is_doubled(&welcome.node) => Ok(End::Replaced),
        ended => ended,
    }
}

struct Opened {
    welcome: v1::Welcome,
    incoming: Streaming<v1::CoordinatorMessage>,
    outgoing: mpsc::Sender<v1::ParticipantMessage>,
}

async fn open<DB: FenceDatabase>(
    shared: &Arc<Shared<DB>>,
    channel: Channel,
    hello: v1::Hello,
) -> Result<Opened, ClientError> {
    // Deep enough for bursts; a peer that does not read for so long is dead (see `send`).
    let (outgoing, messages) = mpsc::channel(64);
    outgoing
        .try_send(v1::ParticipantMessage { kind: Some(FromParticipant::Hello(hello)) })
        .map_err(|_| ClientError::no_answer("the stream is closed"))?;
    let mut client = ParticipantsClient::new(channel)
        .max_decoding_message_size(Limits::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(Limits::MESSAGE_BYTES_MAX);
    let opening = async {
        let mut incoming = client.attach(ReceiverStream::new(messages)).await?.into_inner();
        let first = incoming.message().await?;
        Ok::<_, ClientError>((incoming, first))
    };
    let (incoming, first) = tokio::time::timeout(WELCOME_WITHIN, opening)
        .await
        .map_err(|_| ClientError::no_answer("no welcome"))??;
    let Some(FromCoordinator::Welcome(welcome)) = first.and_then(|message| message.kind) else {
        return Err(ClientError::protocol("the session did not begin with a welcome"));
    };
    check_welcome(shared, &welcome)?;
    Ok(Opened { welcome, incoming, outgoing })
}

fn hello<DB: FenceDatabase>(shared: &Shared<DB>, node: Option<&str>, show_log: bool) -> v1::Hello {
    let log_id = shared.client.log_id().filter(|_| show_log);
    let mut operations: Vec<_> = shared.hooks.keys().cloned().collect();
    operations.sort();
    v1::Hello {
        participant: shared.name.clone(),
        instance: shared.instance.clone(),
        operations,
        concurrency: u32::try_from(shared.settings.concurrency).unwrap_or(u32::MAX),
        sdk: concat!("unanimity-sdk/", env!("CARGO_PKG_VERSION")).into(),
        witnesses: if log_id.is_some() { shared.client.witnesses().to_wire() } else { Vec::new() },
        log_id: log_id.map(|id| id.to_string()).unwrap_or_default(),
        protocol_version: PROTOCOL_VERSION,
        node: node.unwrap_or_default().to_owned(),
    }
}

/// Checks that it is the log that we know: what another log says of our branches means nothing
/// (protocol C8).
fn check_welcome<DB: FenceDatabase>(shared: &Shared<DB>, welcome: &v1::Welcome) -> Result<(), ClientError> {
    if welcome.protocol_version != PROTOCOL_VERSION {
        let message = format!(
            "the coordinator speaks version {} of the session's protocol, this SDK version {PROTOCOL_VERSION}",
            welcome.protocol_version
        );
        shared.attention.raise("protocol_version", None, message.as_str());
        return Err(ClientError::protocol(message));
    }
    let log_id =
        parse_log_id(&welcome.log_id).ok_or_else(|| ClientError::protocol("the welcome names no log"))?;
    let witnesses = shared.client.witnesses();
    if let Err(known) = witnesses.meet(log_id) {
        let message =
            format!("the coordinator has the log {log_id}, this participant's open branches are in {known}");
        shared.attention.raise("log_changed", None, message.as_str());
        if !shared.settings.accept_new_log {
            return Err(ClientError::protocol(format!(
                "{message}; point it at the coordinator of that log, or allow it with accept_new_log()"
            )));
        }
        witnesses.switch(log_id);
    } else if !shared.settings.accept_new_log {
        shared.attention.clear("log_changed");
    }
    witnesses.observe_all(&welcome.positions);
    shared.attention.clear("protocol_version");
    Ok(())
}

/// An open session.
struct Session<'a, DB: FenceDatabase> {
    shared: &'a Arc<Shared<DB>>,
    ear: Ear,
    outgoing: mpsc::Sender<v1::ParticipantMessage>,
    /// Without a bound of its own: a result for each operation in hand, and those are bounded.
    results: mpsc::UnboundedSender<v1::BranchResult>,
    finished: mpsc::UnboundedReceiver<v1::BranchResult>,
    interval: Duration,
    last_heard: Instant,
    last_sent: Instant,
    in_hand: usize,
}

impl<'a, DB: FenceDatabase> Session<'a, DB> {
    fn new(
        shared: &'a Arc<Shared<DB>>,
        ear: Ear,
        outgoing: mpsc::Sender<v1::ParticipantMessage>,
        interval: Duration,
    ) -> Self {
        let (results, finished) = mpsc::unbounded_channel();
        let now = Instant::now();
        Self {
            shared,
            ear,
            outgoing,
            results,
            finished,
            interval,
            last_heard: now,
            last_sent: now,
            in_hand: 0,
        }
    }

    async fn run(mut self, mut incoming: Streaming<v1::CoordinatorMessage>) -> Result<End, ClientError> {
        let mut batch = Vec::new();
        // Set when either side said goodbye: how it will end, and when at the latest.
        let mut ending: Option<(End, Instant)> = None;
        let shared = self.shared;
        let stopped = shared.stop.cancelled();
        tokio::pin!(stopped);
        // One timer for all that is due some day: it goes off, looks, and is set anew, so that messages
        // cost none.
        let alarm = tokio::time::sleep_until(self.last_sent + self.interval);
        tokio::pin!(alarm);
        loop {
            if let Some((_, limit)) = &ending
                && (self.in_hand == 0 || Instant::now() >= *limit)
            {
                break;
            }
            tokio::select! {
                message = incoming.message() => {
                    self.last_heard = Instant::now();
                    match message? {
                        None if ending.is_some() => break,
                        None => return Ok(End::Goodbye),
                        Some(message) => match message.kind {
                            Some(FromCoordinator::Operations(operations)) => self.take(operations, ending.is_some()).await?,
                            Some(FromCoordinator::Heartbeat(heartbeat)) => {
                                self.shared.client.witnesses().observe_all(&heartbeat.positions);
                                if let Some(topology) = &heartbeat.topology {
                                    self.ear.hear(topology);
                                }
                            }
                            Some(FromCoordinator::Goodbye(goodbye)) => {
                                tracing::info!(participant = %self.shared.name, reason = %goodbye.reason, "the coordinator's node says goodbye");
                                let limit = Instant::now() + self.shared.settings.drain_for;
                                ending.get_or_insert((End::Goodbye, limit));
                                let due = limit.min(alarm.deadline());
                                alarm.as_mut().reset(due);
                            }
                            // A second welcome, or a message of a later version.
                            Some(FromCoordinator::Welcome(_)) | None => {}
                        },
                    }
                }
                count = self.finished.recv_many(&mut batch, BATCH_MAX) => {
                    // The runtime lets us run right after the first operation that ended. Those that it had
                    // ready beside it end before we are back, and go into the same message.
                    if count < self.in_hand && count < BATCH_MAX {
                        tokio::task::yield_now().await;
                        while batch.len() < BATCH_MAX && let Ok(result) = self.finished.try_recv() {
                            batch.push(result);
                        }
                    }
                    self.in_hand = self.in_hand.saturating_sub(batch.len());
                    let results = std::mem::take(&mut batch);
                    self.send(FromParticipant::Results(v1::BranchResults { results })).await?;
                }
                () = &mut stopped, if !matches!(ending, Some((End::Stopped, _))) => {
                    let reason = "the participant stops".to_owned();
                    self.send(FromParticipant::Goodbye(v1::Goodbye { reason })).await?;
                    let limit = Instant::now() + self.shared.settings.drain_for;
                    ending = Some((End::Stopped, limit));
                    let due = limit.min(alarm.deadline());
                    alarm.as_mut().reset(due);
                }
                () = &mut alarm => {
                    let now = Instant::now();
                    let silent_until = self.last_heard + 3 * self.interval;
                    if now >= silent_until && ending.is_none() {
                        return Err(ClientError::no_answer("three heartbeats of the coordinator are missing"));
                    }
                    if now >= silent_until {
                        break;
                    }
                    if now >= self.last_sent + self.interval {
                        let positions = self.shared.client.witnesses().to_wire();
                        self.send(FromParticipant::Heartbeat(v1::Heartbeat { positions, topology: None })).await?;
                    }
                    let due = silent_until.min(self.last_sent + self.interval);
                    alarm.as_mut().reset(ending.as_ref().map_or(due, |(_, limit)| due.min(*limit)));
                }
            }
        }
        // Half-close and let the coordinator end the stream: dropping it at once could overtake the
        // last results and the goodbye.
        drop(self.outgoing);
        let rest = async { while let Ok(Some(_)) = incoming.message().await {} };
        let _ = tokio::time::timeout(LAST_WORDS, rest).await;
        Ok(ending.map_or(End::Goodbye, |(end, _)| end))
    }

    /// Starts a task for each operation.
    async fn take(&mut self, operations: v1::BranchOperations, ending: bool) -> Result<(), ClientError> {
        // Somebody who sends far more than we asked for is told so instead of being queued.
        let room = (4 * self.shared.settings.concurrency).min(IN_HAND_MAX);
        let mut refused = Vec::new();
        let positions = operations.operations.iter().filter_map(|operation| operation.position.as_ref());
        self.shared.client.witnesses().observe_all(positions);
        for operation in operations.operations {
            let call_id = operation.call_id;
            if ending || self.in_hand >= room {
                let why = if ending { "the participant stops" } else { "too busy" };
                refused.push(Answer::Unknown(why.into()).to_wire(call_id));
                continue;
            }
            let order = match Order::from_wire(operation) {
                Ok(order) => order,
                Err(done) => {
                    refused.push(done.to_wire(call_id));
                    continue;
                }
            };
            self.in_hand += 1;
            let (shared, results) = (Arc::clone(self.shared), self.results.clone());
            self.shared.tasks.spawn(async move {
                // In this task: it is one that nobody cancels.
                let done = shared.carry_out_here(order).await;
                // The session is gone: the coordinator asks again.
                let _ = results.send(done.to_wire(call_id));
            });
        }
        if !refused.is_empty() {
            self.send(FromParticipant::Results(v1::BranchResults { results: refused })).await?;
        }
        Ok(())
    }

    async fn send(&mut self, kind: FromParticipant) -> Result<(), ClientError> {
        let message = v1::ParticipantMessage { kind: Some(kind) };
        // A peer that reads nothing for three intervals is dead, even if its connection is not.
        match self.outgoing.send_timeout(message, 3 * self.interval).await {
            Ok(()) => {
                self.last_sent = Instant::now();
                Ok(())
            }
            Err(_) => Err(ClientError::no_answer("the coordinator takes no messages")),
        }
    }
}
