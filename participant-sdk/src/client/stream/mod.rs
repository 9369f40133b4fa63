//! The command stream: what a client's clones ask one node, on one gRPC stream.
//!
//! ```text
//!   call ──► queue ──► body of the request: takes what is there when the connection is free ──► coordinator
//!   call ◄── answer by id ◄── task: reads the stream, hears tickets ◄─────────────────────────┘
//! ```
//! The body takes commands out of the queue by itself, so that none passes a task on its way out. The stream opens
//! with the first command, or when its node is one of a cluster's. When it breaks, commands that were sent have no answer:
//! whether they had an effect is unknown, and their callers ask again with the same words (protocol M3). What was not
//! sent yet goes out on the next stream; at once to another node, where there is one. A coordinator that has no such
//! stream is asked by calls, from then on for good.

mod body;
mod keep;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};
use unanimity_proto::v1;
use unanimity_proto::v1::answer::Kind as Answer;
use unanimity_proto::v1::command::Kind;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;

use self::keep::End;
use crate::client::nodes::DoorEar;
use crate::client::route::Failed;
use crate::error::ClientError;

/// Bytes of payloads in one message, and of a command that goes by the stream at all: one that is larger would
/// hold up those behind it.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Commands that wait to be sent. The coordinator holds back who has 1,024 in hand; this is what may wait
/// behind them.
const QUEUE_MAX: usize = 16_384;
/// Commands that wait for how a transaction ends, at once: they hold a place of the 1,024 for seconds, and are
/// not to keep commits from them. More ask by calls.
const WAITS_MAX: usize = 256;

/// The stream to one node. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct CommandStream {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    waits: Arc<Semaphore>,
    /// The coordinator's streams take no looks.
    no_looks: AtomicBool,
}

/// Room for a command that is answered when a transaction ends. Kept until its answer has come, whoever still
/// waits for that: so long it holds a place at the coordinator.
#[derive(Debug)]
pub(super) struct RoomToWait {
    _permit: OwnedSemaphorePermit,
}

/// Why a command has no answer.
#[derive(Debug)]
enum Lost {
    /// It may have been carried out.
    Broken(Arc<str>),
    /// No stream could be opened.
    NotOpened(Status),
    /// The coordinator has no streams: it is to be called.
    NoStreams,
}

type AnswerTo = oneshot::Sender<Result<Answer, Lost>>;
type Answered = oneshot::Receiver<Result<Answer, Lost>>;

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Queued>,
    /// Sent and not answered, by id.
    in_hand: HashMap<u64, Asker>,
    last_id: u64,
    /// Which body may take from the queue: the one of the present stream.
    turn: u64,
    /// Whoever waits for something in the queue.
    taker: Option<Waker>,
    no_streams: bool,
}

#[derive(Debug)]
struct Queued {
    command: v1::Command,
    bytes: usize,
    asker: Asker,
}

/// Who is owed an answer.
#[derive(Debug)]
struct Asker {
    answer: AnswerTo,
    room: Option<RoomToWait>,
}

impl CommandStream {
    /// A stream that opens when it is first used, or is `wanted`. What it is told goes to the ear. Needs a tokio runtime.
    pub(super) fn new(
        service: CoordinatorClient<Channel>,
        ear: DoorEar,
        wanted: watch::Receiver<bool>,
    ) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default() });
        let task = tokio::spawn(keep::run(Arc::clone(&shared), service, ear, wanted));
        Self { shared, task, waits: Arc::new(Semaphore::new(WAITS_MAX)), no_looks: AtomicBool::new(false) }
    }

    /// Room to ask how a transaction ends; `None` if as many wait as may, or the coordinator is not asked so.
    pub(super) fn room_to_wait(&self) -> Option<RoomToWait> {
        if self.no_looks.load(Ordering::Relaxed) {
            return None;
        }
        Arc::clone(&self.waits).try_acquire_owned().ok().map(|permit| RoomToWait { _permit: permit })
    }

    /// The coordinator's streams take no looks: from now on they go by calls.
    pub(super) fn no_looks(&self) {
        self.no_looks.store(true, Ordering::Relaxed);
    }

    /// Asks one thing, at once. The answer comes within `timeout`, if the coordinator is there; the caller's own
    /// clock is to watch over that. `None`: it is to be asked by a call.
    pub(super) fn ask(
        &self,
        kind: Kind,
        timeout: Duration,
    ) -> impl Future<Output = Result<Option<Answer>, Failed>> + Send {
        self.ask_in(kind, timeout, None)
    }

    /// The same for what may be answered late.
    pub(super) fn ask_in(
        &self,
        kind: Kind,
        timeout: Duration,
        room: Option<RoomToWait>,
    ) -> impl Future<Output = Result<Option<Answer>, Failed>> + Send {
        // Not inside of the future, which would carry the command's size about.
        let pushed = self.push(kind, timeout, room);
        async move {
            match pushed? {
                Some((id, answered)) => self.answer(id, answered).await,
                None => Ok(None),
            }
        }
    }

    /// Puts a command into the queue, if it may go by the stream.
    fn push(
        &self,
        kind: Kind,
        timeout: Duration,
        room: Option<RoomToWait>,
    ) -> Result<Option<(u64, Answered)>, ClientError> {
        let bytes = bytes_of(&kind);
        if bytes > BATCH_BYTES_MAX {
            return Ok(None);
        }
        let (answer, answered) = oneshot::channel();
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut state = self.shared.lock();
        if state.no_streams {
            return Ok(None);
        }
        if state.queue.len() >= QUEUE_MAX {
            return Err(ClientError::too_busy("too many commands of this process wait to be sent"));
        }
        state.last_id += 1;
        let id = state.last_id;
        let command = v1::Command { id, timeout_ms, kind: Some(kind) };
        state.queue.push_back(Queued { command, bytes, asker: Asker { answer, room } });
        let taker = state.taker.take();
        drop(state);
        if let Some(taker) = taker {
            taker.wake();
        }
        Ok(Some((id, answered)))
    }

    async fn answer(&self, id: u64, answered: Answered) -> Result<Option<Answer>, Failed> {
        let mut waiting = Waiting { shared: &self.shared, id, answered: false };
        let result = answered.await;
        waiting.answered = true;
        match result {
            Ok(Ok(Answer::Error(error))) => Err(refused(error)),
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(Lost::NoStreams)) => Ok(None),
            Ok(Err(Lost::NotOpened(status))) => Err(status.into()),
            Ok(Err(Lost::Broken(why))) => Err(ClientError::no_answer(&*why).into()),
            Err(_) => Err(ClientError::no_answer("the command was lost").into()),
        }
    }
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        self.task.abort();
        // The body is not ours: it ends when it looks again.
        let taker = self.shared.end_turn();
        if let Some(taker) = taker {
            taker.wake();
        }
    }
}

/// Somebody who waits for an answer. Who waits no longer is forgotten.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // Not sent yet: the body leaves out what nobody waits for.
            let mut state = self.shared.lock();
            if state.in_hand.get(&self.id).is_some_and(|asker| asker.room.is_none()) {
                state.in_hand.remove(&self.id);
            }
        }
    }
}

fn refused(error: v1::CommandError) -> Failed {
    let code = i32::try_from(error.status).map_or(Code::Unknown, Code::from_i32);
    Failed::told(code, &error.message, error.detail)
}

/// What a command brings to a message, roughly.
fn bytes_of(kind: &Kind) -> usize {
    /// Beside payloads: an xid, names, targets.
    const REST: usize = 512;
    let payloads = match kind {
        Kind::Register(request) => request.payload.len(),
        Kind::Begin(request) => {
            let steps = request.saga.iter().flat_map(|plan| &plan.steps);
            let deliveries = request.message.iter().flat_map(|plan| &plan.deliveries);
            steps.map(|step| step.payload.len() + REST).sum::<usize>()
                + deliveries.map(|delivery| delivery.payload.len() + REST).sum::<usize>()
                + request.message.as_ref().map_or(0, |plan| plan.check_back_payload.len())
        }
        // A key may have 512 bytes; most have a tenth of that.
        Kind::Commit(request) => {
            request.votes.iter().flat_map(|votes| &votes.keys).map(|key| key.len() + 8).sum()
        }
        Kind::Vote(_) | Kind::Abort(_) | Kind::Get(_) => 0,
    };
    payloads + REST
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing inside can panic half-way, so a poisoned lock still guards sound data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a new body take from the queue, and no other.
    fn next_turn(&self) -> u64 {
        let mut state = self.lock();
        state.turn += 1;
        state.turn
    }

    fn end_turn(&self) -> Option<Waker> {
        let mut state = self.lock();
        state.turn += 1;
        state.taker.take()
    }

    /// Waits until there is something to send.
    async fn demand(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            if state.queue.is_empty() {
                state.wait(cx);
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Whether anybody waits for an answer.
    fn is_owed(&self) -> bool {
        !self.lock().in_hand.is_empty()
    }

    /// Ends a turn: what was sent has no answer, and what waits neither if there was no stream, or another node can
    /// be asked.
    fn lose(&self, end: &End, alone: bool) {
        let (sent, waiting, taker) = {
            let mut state = self.lock();
            state.turn += 1;
            let waiting = match end {
                End::Broken(_) if alone => VecDeque::new(),
                End::Broken(_) | End::NotOpened(_) => std::mem::take(&mut state.queue),
                End::NoStreams => {
                    state.no_streams = true;
                    std::mem::take(&mut state.queue)
                }
            };
            (std::mem::take(&mut state.in_hand), waiting, state.taker.take())
        };
        // The old body, which now ends.
        if let Some(taker) = taker {
            taker.wake();
        }
        for asker in sent.into_values().chain(waiting.into_iter().map(|queued| queued.asker)) {
            let _ = asker.answer.send(Err(match end {
                End::Broken(why) => Lost::Broken(Arc::clone(why)),
                End::NotOpened(status) => Lost::NotOpened(status.clone()),
                End::NoStreams => Lost::NoStreams,
            }));
        }
    }

    /// Passes answers on. Those that nobody waits for any more are let go.
    fn deliver(&self, answers: Vec<v1::Answer>, found: &mut Vec<(AnswerTo, Option<Answer>)>) {
        {
            let mut state = self.lock();
            found.extend(
                answers
                    .into_iter()
                    .filter_map(|answer| Some((state.in_hand.remove(&answer.id)?.answer, answer.kind))),
            );
        }
        // Without the lock: who is woken may ask the next thing at once.
        for (answer_to, answer) in found.drain(..) {
            let nonsense = || Lost::Broken("the answer is of a kind that this version does not know".into());
            let _ = answer_to.send(answer.ok_or_else(nonsense));
        }
    }
}

impl State {
    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.taker {
            Some(taker) => taker.clone_from(cx.waker()),
            None => self.taker = Some(cx.waker().clone()),
        }
    }
}
