//! A client's commands as one stream: many in each message, answers as they come, tickets beside them.
//!
//! ```text
//!   CommandBatch ──► desk: a slot, a place among the calls in hand ──► futures, all in this one task
//!   AnswerBatch  ◄── desk: answers that are due ◄──────────────────────┘
//! ```
//! # Why no command needs a task of its own
//! The calls' handlers run in tasks of their own, because a client that hangs up drops the call's future, and
//! a command of several steps (locks, a look into history) must not stop between two of them. Here the futures
//! belong to the stream's task, which nobody drops: when the client is gone it stays until the last command has
//! ended, and only then gives its place up. A deadline answers the client and lets the command go on. A command
//! that panics answers so and takes no other with it.
//!
//! # Bounds
//! Commands of a message and bytes of a message; commands owed an answer on one stream (then no more is read, and
//! HTTP/2's flow control holds the client back); streams of the node; the calls in hand of the whole node, of
//! which each command is one. A client that does not take its answers is cut off. A peer that went without a
//! word is found by HTTP/2's pings, as on every connection; an idle client may stay: it is told tickets.

mod desk;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use unanimity_proto::v1::answer::Kind as Answered;
use unanimity_proto::v1::command::Kind;
use unanimity_proto::{error_to_status, ticket_to_wire, v1};
use unanimity_types::{ErrorCode, LogId, PartitionId, Ticket};

use self::desk::{Desk, Job};
use super::routed::route;
use crate::api::guard::Calls;
use crate::api::handlers::Handlers;
use crate::cluster::{By, TopologyNews};
use crate::config::Config;
use crate::engine::Error;
use crate::telemetry::Metrics;

/// Commands in one message. The SDK sends 64: more saves nothing, and this much is no client of good will.
const BATCH_COMMANDS_MAX: usize = 1_000;
/// Commands of one stream that are owed an answer. A block takes milliseconds, so this is some 100,000
/// commands/s, and at most 16 MiB where nothing moves.
const OWED_MAX: usize = 1_024;
/// Answers in one message: far below what clients take, whatever errors say.
const ANSWERS_MAX: usize = 512;
/// Bytes of a transaction that is answered on a stream, and of all of them in one message, but for the last.
const FOUND_BYTES_MAX: usize = 16 * 1024;
const FOUND_BYTES_IN_MESSAGE_MAX: usize = 1024 * 1024;
/// Messages between the task and its stream. Few: answers gather in the task, into larger messages.
const OUTGOING_MESSAGES_MAX: usize = 4;
/// How long a client may refuse to take what is sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last word of a stream may take to get rid of.
const LAST_WORD_WAIT: Duration = Duration::from_secs(1);
/// How often tickets are looked at: a generation lasts ten seconds.
const TICKETS_INTERVAL: Duration = Duration::from_secs(1);
/// How often all are told again, news or not: clients give up a stream that is silent for three times as long,
/// and a ticket that they have not heard for half as long again.
const ALL_TICKETS_INTERVAL: Duration = Duration::from_secs(10);
/// Streams at once, if connections do not bound them before: SDK clients open one on each.
const STREAMS_MAX: usize = 4_096;

type Outbound = mpsc::Sender<Result<v1::AnswerBatch, Status>>;

/// What all streams of a node share.
#[derive(Debug)]
pub(super) struct Commands {
    handlers: Handlers,
    calls: Calls,
    metrics: Arc<Metrics>,
    streams: Arc<Semaphore>,
    request_timeout: Duration,
    /// How many partitions the log has, and which it is.
    log: (u16, LogId),
    closing: CancellationToken,
}

impl Commands {
    pub(super) fn new(
        handlers: &Handlers,
        config: &Config,
        calls: &Calls,
        metrics: &Arc<Metrics>,
        closing: CancellationToken,
    ) -> Self {
        Self {
            handlers: handlers.clone(),
            calls: calls.clone(),
            metrics: Arc::clone(metrics),
            streams: Arc::new(Semaphore::new(config.limits.connections_max.min(STREAMS_MAX))),
            request_timeout: config.timeouts.request(),
            log: (handlers.info().partitions, handlers.info().log_id),
            closing,
        }
    }

    /// Takes a stream in. Answers at once: what is sent ahead is read by the stream's task.
    pub(super) fn open(
        self: &Arc<Self>,
        inbound: Streaming<v1::CommandBatch>,
    ) -> Result<ReceiverStream<Result<v1::AnswerBatch, Status>>, Status> {
        if self.closing.is_cancelled() {
            return Err(refusal(ErrorCode::Unavailable, "this node is shutting down; try another one"));
        }
        let room = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let detail = v1::ErrorDetail { retry_after_ms: 1_000, ..Default::default() };
            let message = "this node has as many streams of commands as it takes; try another one, or later";
            error_to_status(ErrorCode::TooBusy, message, detail)
        })?;
        let (outbound, stream) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        let serving = Serving::new(Arc::clone(self), room);
        tokio::spawn(serving.run(inbound, outbound));
        Ok(ReceiverStream::new(stream))
    }
}

fn refusal(code: ErrorCode, because: &str) -> Status {
    error_to_status(code, because, v1::ErrorDetail::default())
}

/// How a stream ends.
enum End {
    /// The client is gone: nobody hears an answer.
    Gone,
    /// The client does not read.
    Blocked,
    /// All that was taken is answered. With a status, the client is told why there is no more.
    Answered(Option<Status>),
}

/// One stream.
struct Serving {
    commands: Arc<Commands>,
    desk: Desk,
    /// Cancelled when the node stops or the client is gone: ends what is only waited for.
    ending: CancellationToken,
    /// No more is read: what the client is told when the last answer is out.
    last_word: Option<Option<Status>>,
    tickets: TicketNews,
    topology: Option<TopologyNews>,
    /// Since when there is something to send and the client does not take it.
    blocked_since: Option<Instant>,
    /// Its place among the allowed number, kept until its last command has ended.
    _room: OwnedSemaphorePermit,
}

impl Serving {
    fn new(commands: Arc<Commands>, room: OwnedSemaphorePermit) -> Self {
        Self {
            desk: Desk::new(commands.calls.hand(), &commands.metrics, commands.request_timeout),
            ending: commands.closing.child_token(),
            last_word: None,
            tickets: TicketNews::new(commands.log, Instant::now()),
            topology: commands.handlers.topology(),
            blocked_since: None,
            _room: room,
            commands,
        }
    }

    async fn run(mut self, mut inbound: Streaming<v1::CommandBatch>, outbound: Outbound) {
        // Cancelled when nobody hears an answer any more, as the client is gone.
        let given_up = CancellationToken::new();
        let handlers = self.commands.handlers.in_place(self.ending.clone(), given_up.clone());
        let mut in_hand = FuturesUnordered::new();
        // Of the message that was read last: what there was no room for yet.
        let mut waiting = Vec::new().into_iter();
        let alarm = sleep_until(Instant::now());
        tokio::pin!(alarm);
        // Whether whoever else is ready to run had its turn since the first answer came.
        let mut gathered = false;
        let closing = self.commands.closing.clone();
        let end = {
            let (closed, closing) = (outbound.closed(), closing.cancelled());
            tokio::pin!(closed, closing);
            loop {
                while self.desk.owed() < OWED_MAX
                    && let Some(command) = waiting.next()
                {
                    if let Some(job) = self.desk.take(command) {
                        in_hand.push(carry_out(&handlers, job));
                    }
                }
                let wake = match self.step(&handlers) {
                    Ok(wake) => wake,
                    Err(end) => break end,
                };
                if wake < alarm.deadline() || alarm.is_elapsed() {
                    alarm.as_mut().reset(wake);
                }
                if self.desk.has_answers() && !gathered && !in_hand.is_empty() {
                    gathered = true;
                    // The runtime lets us run right after the first answer of a block. Those beside it come
                    // meanwhile, and go into the same message.
                    yield_now().await;
                }
                let reading = self.last_word.is_none() && waiting.len() == 0 && self.desk.owed() < OWED_MAX;
                let sending = self.blocked_since.is_some();
                tokio::select! {
                    // What is answered first, then what is asked, then the message out: so it carries as much as
                    // there is. Each is bounded by what is owed.
                    biased;
                    () = &mut closed => break End::Gone,
                    Some((slot, result)) = in_hand.next(), if !in_hand.is_empty() => {
                        self.desk.done(slot, result);
                    }
                    received = next_batch(&mut inbound), if reading => match received {
                        Ok(batch) => waiting = batch.into_iter(),
                        Err(last_word) => self.last_word = Some(last_word),
                    },
                    permit = outbound.reserve(), if sending => match permit {
                        Ok(permit) => {
                            permit.send(Ok(self.message()));
                            gathered = false;
                        }
                        Err(_) => break End::Gone,
                    },
                    () = &mut closing, if self.last_word.is_none() => {
                        // What was read is answered; what is on its way is repeated elsewhere.
                        let because = "this node is shutting down; send the rest to another one";
                        self.last_word = Some(Some(refusal(ErrorCode::Unavailable, because)));
                    }
                    () = TopologyNews::changed(&mut self.topology) => {}
                    () = &mut alarm => {}
                }
            }
        };
        let status = match end {
            End::Answered(status) => status,
            End::Gone => None,
            End::Blocked => Some(refusal(ErrorCode::DeadlineExceeded, "it does not take its answers")),
        };
        if let Some(status) = status {
            let _ = timeout(LAST_WORD_WAIT, outbound.send(Err(status))).await;
        }
        drop((inbound, outbound));
        // What was read and not begun is as good as never sent.
        drop(waiting);
        // Nothing that was begun stops half-way; what only waits does, be it for an owner.
        self.ending.cancel();
        given_up.cancel();
        while let Some((slot, result)) = in_hand.next().await {
            self.desk.done(slot, result);
            // To nobody; its place among the calls in hand is free.
            drop(self.desk.answers(usize::MAX, usize::MAX));
        }
    }

    /// Does what is due, and says when to look again at the latest.
    fn step(&mut self, handlers: &Handlers) -> Result<Instant, End> {
        let now = Instant::now();
        self.desk.expire(now);
        self.tickets.look(handlers, now);
        let news = self.tickets.is_due() || self.topology.as_mut().is_some_and(|news| news.is_due(now));
        if !self.desk.has_answers() && !news {
            self.blocked_since = None;
        } else if self.blocked_since.is_none() {
            self.blocked_since = Some(now);
        }
        if self.desk.owed() == 0
            && let Some(status) = self.last_word.take()
        {
            return Err(End::Answered(status));
        }
        let blocked_until = self.blocked_since.map(|since| since + WRITE_TIMEOUT);
        if blocked_until.is_some_and(|until| now >= until) {
            return Err(End::Blocked);
        }
        let topology_at = self.topology.as_ref().map(TopologyNews::due_at);
        let wakes = [blocked_until, self.desk.look_at(), topology_at.filter(|at| *at > now)];
        Ok(wakes.into_iter().flatten().fold(self.tickets.look_at, Instant::min))
    }

    /// What goes out next.
    fn message(&mut self) -> v1::AnswerBatch {
        self.blocked_since = None;
        v1::AnswerBatch {
            answers: self.desk.answers(ANSWERS_MAX, FOUND_BYTES_IN_MESSAGE_MAX),
            tickets: self.tickets.take(),
            topology: self.topology.as_mut().and_then(|news| news.take(Instant::now())),
        }
    }
}

/// The next message's commands, or why there are no more.
async fn next_batch(inbound: &mut Streaming<v1::CommandBatch>) -> Result<Vec<v1::Command>, Option<Status>> {
    match inbound.message().await {
        Ok(Some(batch)) if batch.commands.len() <= BATCH_COMMANDS_MAX => Ok(batch.commands),
        Ok(Some(_)) => {
            let because = format!("a message has at most {BATCH_COMMANDS_MAX} commands");
            Err(Some(refusal(ErrorCode::InvalidRequest, &because)))
        }
        Ok(None) => Err(None),
        Err(status) if status.code() == Code::OutOfRange => {
            let because = "the message is larger than the coordinator takes; send fewer commands in one";
            Err(Some(refusal(ErrorCode::MessageTooLarge, because)))
        }
        // Broken, or no message of ours.
        Err(status) => Err(Some(status)),
    }
}

/// One command, to its end.
async fn carry_out(handlers: &Handlers, job: Job) -> (usize, Result<Answered, Error>) {
    let Job { slot, kind, deadline } = job;
    let by = By { deadline, hops: 0 };
    let work = async {
        Ok(match kind {
            Kind::Begin(request) => Answered::Begun(route(handlers, request, by).await?.answer),
            Kind::Register(request) => Answered::Registered(route(handlers, request, by).await?.answer),
            Kind::Vote(request) => Answered::Voted(route(handlers, request, by).await?.answer),
            Kind::Commit(request) => Answered::Decided(route(handlers, request, by).await?.answer),
            Kind::Abort(request) => Answered::Decided(route(handlers, request, by).await?.answer),
            Kind::Get(request) => Answered::Found(small(route(handlers, request, by).await?.answer)?),
        })
    };
    let result = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a command panicked");
        Err(Error::new(ErrorCode::Internal, "a bug in the coordinator; its log has the details"))
    });
    (slot, result)
}

/// A transaction that does not hold up what is answered beside it.
fn small(found: v1::Transaction) -> Result<v1::Transaction, Error> {
    if found.encoded_len() <= FOUND_BYTES_MAX {
        return Ok(found);
    }
    let message = format!(
        "the transaction has more than {FOUND_BYTES_MAX} bytes, which is too much for a stream of commands; ask by the call"
    );
    Err(Error::new(ErrorCode::MessageTooLarge, message))
}

/// Which tickets a client is owed.
struct TicketNews {
    /// How many the log has, and which it is.
    log: (u16, LogId),
    /// As they were when they were looked at.
    known: Vec<(PartitionId, Ticket)>,
    told: BTreeMap<PartitionId, Ticket>,
    /// All of them are due, or some.
    all: bool,
    some: bool,
    look_at: Instant,
    all_at: Instant,
}

impl TicketNews {
    fn new(log: (u16, LogId), now: Instant) -> Self {
        Self {
            log,
            known: Vec::new(),
            told: BTreeMap::new(),
            all: false,
            some: false,
            look_at: now,
            // The first message is about all of them.
            all_at: now,
        }
    }

    /// Looks for news, if it is time.
    fn look(&mut self, handlers: &Handlers, now: Instant) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + TICKETS_INTERVAL;
        self.known = handlers.coordinator().tickets();
        self.all |= now >= self.all_at;
        self.some = self.known.iter().any(|(id, ticket)| self.told.get(id) != Some(ticket));
    }

    fn is_due(&self) -> bool {
        self.all || self.some
    }

    fn take(&mut self) -> Option<v1::Tickets> {
        if !self.is_due() {
            return None;
        }
        let is_news = |(id, ticket): &&(PartitionId, Ticket)| self.told.get(id) != Some(ticket);
        let news = self.known.iter().filter(|ticket| self.all || is_news(ticket));
        let tickets = news
            .map(|(id, ticket)| v1::PartitionTicket {
                partition: u32::from(id.0),
                ticket: Some(ticket_to_wire(*ticket)),
            })
            .collect();
        if self.all {
            self.all_at = Instant::now() + ALL_TICKETS_INTERVAL;
        }
        self.told = self.known.iter().copied().collect();
        (self.all, self.some) = (false, false);
        let (partitions, log_id) = self.log;
        Some(v1::Tickets { tickets, partitions: u32::from(partitions), log_id: log_id.to_string() })
    }
}
