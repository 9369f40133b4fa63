//! A scripted coordinator: the real services, answers as the test says.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use unanimity_proto::error_to_status;
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::coordinator_message::Kind as ToParticipant;
use unanimity_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use unanimity_proto::v1::participant_message::Kind as FromParticipant;
use unanimity_proto::v1::participants_server::{Participants, ParticipantsServer};
use unanimity_proto::v1::{self};
use unanimity_sdk::{BranchKey, Client, ErrorCode, Xid};

/// What the fake does with the next commit.
#[derive(Debug, Clone)]
pub(crate) enum OnCommit {
    Unavailable,
    Hang,
    Aborted(&'static str),
    AlreadyAborted,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) log_id: uuid::Uuid,
    pub(crate) begun: Vec<v1::BeginRequest>,
    pub(crate) fail_begins: usize,
    pub(crate) registered: HashMap<(String, String), v1::RegisterBranchRequest>,
    pub(crate) refuse_registrations: bool,
    /// Registrations are done, and answered when this has a permit.
    pub(crate) hold_registrations: Option<Arc<tokio::sync::Semaphore>>,
    pub(crate) commits: Vec<v1::CommitRequest>,
    pub(crate) on_commit: VecDeque<OnCommit>,
    pub(crate) aborts: Vec<String>,
    /// Registrations end with a lock conflict with this holder.
    pub(crate) lock_holder: Option<Xid>,
    /// Remember how transactions stand, instead of calling all of them committed.
    pub(crate) remembers: bool,
    pub(crate) standing: HashMap<String, v1::Status>,
    /// What is told of a transaction, if not the above.
    pub(crate) told: HashMap<String, v1::Transaction>,
    /// Somebody else has committed what we are asked to abort.
    pub(crate) committed_by_another: bool,
    pub(crate) waits: Vec<v1::Wait>,
    pub(crate) inquiries: Vec<v1::InquireRequest>,
    /// By xid: the answer, and whether it is settled. Without an entry: active.
    pub(crate) answers: HashMap<String, (&'static str, bool)>,
    pub(crate) hellos: Vec<v1::Hello>,
    /// Whom those hellos meant that were refused; as a coordinator that does not read this, it refuses none.
    pub(crate) refused: Vec<String>,
    pub(crate) takes_any: bool,
    pub(crate) retries: Vec<v1::RetryTransactionRequest>,
    pub(crate) goodbyes: usize,
    pub(crate) seq: u64,
    /// As a coordinator of before there were command streams.
    pub(crate) no_streams: bool,
    /// The command streams that were opened, and how many commands each of their messages had.
    pub(crate) streams: usize,
    pub(crate) batches: Vec<usize>,
    /// What the first answers of a stream tell.
    pub(crate) tickets: Option<v1::Tickets>,
    pub(crate) open_streams: CancellationToken,
    /// Sessions are welcomed in silence after that.
    pub(crate) mute: bool,
    /// Its name, and the cluster that it tells of on streams and sessions, if it is one of several nodes.
    pub(crate) node: String,
    pub(crate) topology: Option<v1::Topology>,
    /// Where every command is told to go instead.
    pub(crate) owner_at: Option<String>,
    /// What is asked is done and never answered.
    pub(crate) hang: bool,
    /// The looks by calls and by streams.
    pub(crate) gets: Vec<v1::GetTransactionRequest>,
    pub(super) tellers: Vec<mpsc::Sender<Result<v1::AnswerBatch, Status>>>,
    session: Option<mpsc::Sender<Result<v1::CoordinatorMessage, Status>>>,
    waiting: HashMap<u64, oneshot::Sender<v1::BranchResult>>,
    calls: u64,
}

#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    stop: CancellationToken,
}

pub(crate) const LOG: uuid::Uuid = uuid::Uuid::from_u128(0x10c);

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { log_id: LOG, node: "fake".into(), ..State::default() }));
        let fake = Self { state, address, stop: CancellationToken::new() };
        let server = tonic::transport::Server::builder()
            .add_service(CoordinatorServer::new(fake.clone()))
            .add_service(ParticipantsServer::new(fake.clone()));
        let stop = fake.stop.clone();
        tokio::spawn(async move {
            let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
            tokio::select! { result = serving => result.unwrap(), () = stop.cancelled() => {} }
        });
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends what the script lets every call end with: another owner's address, or no answer at all.
    pub(super) async fn scripted(&self) -> Result<(), Status> {
        if self.with(|state| state.hang) {
            std::future::pending::<()>().await;
        }
        match self.with(|state| state.owner_at.clone()) {
            Some(owner_address) => {
                let detail = v1::ErrorDetail { owner_address, ..Default::default() };
                Err(refused(ErrorCode::NotOwner, detail))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::builder(self.url())
            .call_timeout(Duration::from_secs(2))
            .begin_retry_for(Duration::from_secs(5))
            .commit_retry_for(Duration::from_secs(5))
            .connect()
            .unwrap()
    }

    pub(crate) fn with<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        action(&mut self.state.lock().unwrap())
    }

    pub(crate) fn answer(&self, xid: Xid, answer: &'static str, settled: bool) {
        self.with(|state| state.answers.insert(xid.to_string(), (answer, settled)));
    }

    /// Breaks the session without a word.
    pub(crate) fn break_session(&self) {
        self.with(|state| state.session = None);
    }

    pub(crate) async fn send(&self, kind: ToParticipant) {
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        let session = loop {
            if let Some(session) = self.with(|state| state.session.clone()) {
                break session;
            }
            assert!(tokio::time::Instant::now() < end, "no session within 10 s");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        session.send(Ok(v1::CoordinatorMessage { kind: Some(kind) })).await.unwrap();
    }

    /// Sends an operation to the attached participant and waits for its result.
    pub(crate) async fn deliver(
        &self,
        operation: v1::Operation,
        xid: Xid,
        key: &BranchKey,
    ) -> (Outcome, String) {
        let result = self.post(operation, xid, key, "reserve").await;
        let result = tokio::time::timeout(Duration::from_secs(20), result).await.expect("a result").unwrap();
        (result.outcome(), result.error)
    }

    pub(crate) async fn post(
        &self,
        operation: v1::Operation,
        xid: Xid,
        key: &BranchKey,
        name: &str,
    ) -> oneshot::Receiver<v1::BranchResult> {
        let (sender, receiver) = oneshot::channel();
        let message = self.with(|state| {
            state.calls += 1;
            state.waiting.insert(state.calls, sender);
            let registered = state.registered.get(&(xid.to_string(), key.to_string()));
            v1::BranchOperation {
                call_id: state.calls,
                xid: xid.to_string(),
                branch_id: 1,
                key: key.to_string(),
                operation: operation.into(),
                name: name.to_owned(),
                payload: registered.map(|r| r.payload.clone()).unwrap_or_default(),
                attempt: 1,
                position: None,
                log_id: state.log_id.to_string(),
                transaction_name: String::new(),
                timeout_ms: 10_000,
                ..Default::default()
            }
        });
        self.send(ToParticipant::Operations(v1::BranchOperations { operations: vec![message] })).await;
        receiver
    }

    /// Sends an operation with all its fields to the attached participant and waits for its result.
    pub(crate) async fn ask(&self, operation: v1::BranchOperation) -> v1::BranchResult {
        let result = self.ask_later(operation).await;
        tokio::time::timeout(Duration::from_secs(20), result).await.expect("a result").unwrap()
    }

    /// The same, without waiting.
    pub(crate) async fn ask_later(
        &self,
        mut operation: v1::BranchOperation,
    ) -> oneshot::Receiver<v1::BranchResult> {
        let (sender, receiver) = oneshot::channel();
        self.with(|state| {
            state.calls += 1;
            state.waiting.insert(state.calls, sender);
            operation.call_id = state.calls;
            operation.log_id = state.log_id.to_string();
        });
        self.send(ToParticipant::Operations(v1::BranchOperations { operations: vec![operation] })).await;
        receiver
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    fn position(state: &mut State) -> Option<v1::LogPosition> {
        state.seq += 1;
        Some(v1::LogPosition { partition: 3, epoch: 2, epoch_tag: 9, seq: state.seq })
    }
}

fn refused(code: ErrorCode, detail: v1::ErrorDetail) -> Status {
    error_to_status(code, "scripted", detail)
}

#[tonic::async_trait]
impl Coordinator for Fake {
    type CommandsStream = ReceiverStream<Result<v1::AnswerBatch, Status>>;

    async fn commands(
        &self,
        request: Request<Streaming<v1::CommandBatch>>,
    ) -> Result<Response<Self::CommandsStream>, Status> {
        self.serve_commands(request.into_inner())
    }

    async fn begin(&self, request: Request<v1::BeginRequest>) -> Result<Response<v1::BeginResponse>, Status> {
        let request = request.into_inner();
        let answer = self.with(|state| {
            state.begun.push(request.clone());
            if state.fail_begins > 0 {
                state.fail_begins -= 1;
                return Err(Status::unavailable("scripted"));
            }
            let status = *state.standing.entry(request.xid.clone()).or_insert(v1::Status::Active);
            Ok(Response::new(v1::BeginResponse {
                xid: request.xid,
                status: status.into(),
                position: Self::position(state),
                log_id: state.log_id.to_string(),
            }))
        });
        self.scripted().await?;
        answer
    }

    async fn register_branch(
        &self,
        request: Request<v1::RegisterBranchRequest>,
    ) -> Result<Response<v1::RegisterBranchResponse>, Status> {
        let request = request.into_inner();
        let held = self.with(|state| state.hold_registrations.clone());
        let answer = self.with(|state| {
            if state.refuse_registrations {
                let detail = v1::ErrorDetail { status: v1::Status::Aborted.into(), ..Default::default() };
                return Err(refused(ErrorCode::AlreadyDecided, detail));
            }
            if let Some(holder) = state.lock_holder {
                let detail = v1::ErrorDetail { xid: holder.to_string(), ..Default::default() };
                return Err(refused(ErrorCode::LockConflict, detail));
            }
            let key = request.key.clone();
            let known = state.registered.insert((request.xid.clone(), key.clone()), request.clone());
            assert!(known.is_none_or(|known| known == request), "another body under one key");
            Ok(Response::new(v1::RegisterBranchResponse {
                branch_id: 1,
                key,
                position: Self::position(state),
                log_id: state.log_id.to_string(),
            }))
        });
        if let Some(held) = held {
            let _ = held.acquire().await.unwrap();
        }
        self.scripted().await?;
        answer
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let request = request.into_inner();
        let action = self.with(|state| {
            state.commits.push(request.clone());
            state.on_commit.pop_front()
        });
        self.scripted().await?;
        let standing = self.with(|state| state.standing.get(&request.xid).copied());
        let (status, reason) = match action {
            None if self.with(|state| state.remembers) && standing == Some(v1::Status::Aborted) => {
                (v1::Status::Aborted, "requested")
            }
            None => {
                self.with(|state| state.standing.insert(request.xid.clone(), v1::Status::Committed));
                (v1::Status::Committing, "")
            }
            Some(OnCommit::Aborted(reason)) => (v1::Status::Aborting, reason),
            Some(OnCommit::Unavailable) => return Err(Status::unavailable("scripted")),
            Some(OnCommit::Hang) => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                return Err(Status::unavailable("scripted"));
            }
            Some(OnCommit::AlreadyAborted) => {
                let detail = v1::ErrorDetail {
                    status: v1::Status::Aborted.into(),
                    abort_reason: "deadline".into(),
                    ..Default::default()
                };
                return Err(refused(ErrorCode::AlreadyDecided, detail));
            }
        };
        Ok(Response::new(v1::DecideResponse {
            xid: request.xid,
            status: status.into(),
            abort_reason: reason.into(),
            position: self.with(Self::position),
        }))
    }

    async fn abort(
        &self,
        request: Request<v1::AbortRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let xid = request.into_inner().xid;
        let answer = self.with(|state| {
            state.aborts.push(xid.clone());
            let committed = state.standing.get(&xid) == Some(&v1::Status::Committed);
            if state.committed_by_another || (state.remembers && committed) {
                let detail = v1::ErrorDetail { status: v1::Status::Committed.into(), ..Default::default() };
                return Err(refused(ErrorCode::AlreadyDecided, detail));
            }
            state.standing.insert(xid.clone(), v1::Status::Aborted);
            Ok(Response::new(v1::DecideResponse {
                xid,
                status: v1::Status::Aborting.into(),
                abort_reason: "requested".into(),
                position: Self::position(state),
            }))
        });
        self.scripted().await?;
        answer
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::Transaction>, Status> {
        let request = request.into_inner();
        self.with(|state| {
            state.waits.push(request.wait());
            state.gets.push(request.clone());
        });
        self.scripted().await?;
        let xid = request.xid;
        if let Some(told) = self.with(|state| state.told.get(&xid).cloned()) {
            return Ok(Response::new(told));
        }
        if self.with(|state| state.remembers) {
            let Some(status) = self.with(|state| state.standing.get(&xid).copied()) else {
                return Err(refused(ErrorCode::TransactionNotFound, v1::ErrorDetail::default()));
            };
            return Ok(Response::new(v1::Transaction { xid, status: status.into(), ..Default::default() }));
        }
        if self.with(|state| !state.begun.iter().any(|begun| begun.xid == xid)) {
            return Err(refused(ErrorCode::TransactionNotFound, v1::ErrorDetail::default()));
        }
        Ok(Response::new(v1::Transaction {
            xid,
            name: "n".into(),
            status: v1::Status::Committed.into(),
            ..Default::default()
        }))
    }

    async fn vote(&self, _: Request<v1::VoteRequest>) -> Result<Response<v1::VoteResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_transactions(
        &self,
        _: Request<v1::ListTransactionsRequest>,
    ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn inquire(
        &self,
        request: Request<v1::InquireRequest>,
    ) -> Result<Response<v1::InquireResponse>, Status> {
        let request = request.into_inner();
        self.with(|state| {
            let mine = request.log_id == state.log_id.to_string();
            let answers = request
                .xids
                .iter()
                .map(|xid| {
                    let (answer, settled) = match mine {
                        true => state.answers.get(xid).copied().unwrap_or(("active", false)),
                        false => ("not_mine", false),
                    };
                    v1::Inquiry { xid: xid.clone(), answer: answer.into(), settled }
                })
                .collect();
            state.inquiries.push(request);
            let positions = Self::position(state).into_iter().collect();
            Ok(Response::new(v1::InquireResponse { answers, positions }))
        })
    }

    async fn retry_transaction(
        &self,
        request: Request<v1::RetryTransactionRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let request = request.into_inner();
        let xid = request.xid.clone();
        self.with(|state| state.retries.push(request));
        self.scripted().await?;
        let position = self.with(Self::position);
        Ok(Response::new(v1::DecideResponse {
            xid,
            status: v1::Status::Committing.into(),
            position,
            ..Default::default()
        }))
    }

    async fn resolve_branch(
        &self,
        _: Request<v1::ResolveBranchRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn accept_loss(
        &self,
        _: Request<v1::AcceptLossRequest>,
    ) -> Result<Response<v1::AcceptLossResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn record_restored(
        &self,
        _: Request<v1::RecordRestoredRequest>,
    ) -> Result<Response<v1::RecordRestoredResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn move_partition(
        &self,
        _: Request<v1::MovePartitionRequest>,
    ) -> Result<Response<v1::MovePartitionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Result<Response<v1::Info>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_cluster(&self, _: Request<v1::GetClusterRequest>) -> Result<Response<v1::Cluster>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn drain_node(
        &self,
        _: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl Participants for Fake {
    type AttachStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::ParticipantMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut incoming = request.into_inner();
        let (session, outgoing) = mpsc::channel(64);
        let fake = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                match message.kind {
                    Some(FromParticipant::Hello(hello)) => {
                        if fake.with(|state| {
                            let is_another = !hello.node.is_empty() && hello.node != state.node;
                            let is_refused = is_another && !state.takes_any;
                            if is_refused {
                                state.refused.push(hello.node.clone());
                            }
                            is_refused
                        }) {
                            let refusal = refused(ErrorCode::Unavailable, v1::ErrorDetail::default());
                            let _ = session.send(Err(refusal)).await;
                            return;
                        }
                        // As a coordinator does with the older session of the same instance.
                        if let Some(older) = fake.with(|state| state.session.take()) {
                            let _ = older.send(Err(Status::aborted("another session began"))).await;
                        }
                        let welcome = v1::Welcome {
                            log_id: fake.with(|state| state.log_id.to_string()),
                            partitions: 4,
                            node: fake.with(|state| state.node.clone()),
                            // Three of them without a sign end the session: longer than a busy machine is silent.
                            heartbeat_interval_ms: 1_000,
                            positions: Vec::new(),
                            protocol_version: 1,
                            topology: fake.with(|state| state.topology.clone()),
                        };
                        let kind = Some(ToParticipant::Welcome(welcome));
                        let _ = session.send(Ok(v1::CoordinatorMessage { kind })).await;
                        fake.with(|state| {
                            state.hellos.push(hello);
                            state.session = Some(session.clone());
                        });
                    }
                    Some(FromParticipant::Results(results)) => {
                        for result in results.results {
                            let waiting = fake.with(|state| state.waiting.remove(&result.call_id));
                            if let Some(waiting) = waiting {
                                let _ = waiting.send(result);
                            }
                        }
                    }
                    Some(FromParticipant::Heartbeat(_)) if fake.with(|state| state.mute) => {}
                    Some(FromParticipant::Heartbeat(_)) => {
                        let topology = fake.with(|state| state.topology.clone());
                        let heartbeat = v1::Heartbeat { topology, ..Default::default() };
                        let kind = Some(ToParticipant::Heartbeat(heartbeat));
                        let _ = session.send(Ok(v1::CoordinatorMessage { kind })).await;
                    }
                    Some(FromParticipant::Goodbye(_)) => fake.with(|state| state.goodbyes += 1),
                    None => {}
                }
                // Broken from our side: dropping the last sender ends the stream.
                if fake.with(|state| state.session.is_none()) {
                    return;
                }
            }
            // Only if no younger session took its place.
            fake.with(|state| state.session.take_if(|current| current.same_channel(&session)));
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
