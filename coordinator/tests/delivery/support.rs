//! What the tests share: calls, a place for replies, a coordinator that is not one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use unanimity_coordinator::delivery::{AllowList, Delivery, DeliveryConfig, Home, ParticipantsService};
use unanimity_coordinator::engine::{self, BranchCall, BranchReply, Dispatcher as _, ResultSink};
use unanimity_core::ResultOutcome;
use unanimity_proto::v1::coordinator_message::Kind as FromCoordinator;
use unanimity_proto::v1::participant_message::Kind as ToCoordinator;
use unanimity_proto::v1::participants_client::ParticipantsClient;
use unanimity_proto::{error_from_status, v1};
use unanimity_types::{
    BranchId, BranchKey, BranchKind, Epoch, LogId, LogPosition, Name, Operation, PartitionId, Seq, Target,
    Xid,
};
use uuid::Uuid;

pub(crate) const LOG_ID: &str = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";
/// Far more than any test needs, far less than a CI run lasts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn config() -> DeliveryConfig {
    DeliveryConfig {
        allow: AllowList::loopback(),
        connect_timeout: Duration::from_millis(500),
        request_timeout: Duration::from_millis(600),
        heartbeat_interval: Duration::from_millis(300),
        hello_timeout: Duration::from_millis(500),
        write_timeout: Duration::from_millis(800),
        ..DeliveryConfig::default()
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

pub(crate) fn participant(participant: &str) -> Target {
    Target::Participant { participant: name(participant), operation: name("hooks") }
}

pub(crate) fn position(seq: u64) -> LogPosition {
    LogPosition { partition: PartitionId(0), epoch: Epoch(3), epoch_tag: 7, seq: Seq(seq) }
}

/// A call; its branch id tells it from the others.
pub(crate) fn call(target: Target, branch: u32) -> BranchCall {
    BranchCall {
        xid: Xid::new(Uuid::from_u128(u128::from(branch) + 1)),
        transaction_name: Some(name("place-order")),
        branch_id: BranchId(branch),
        key: BranchKey::new(format!("key-{branch}")).expect("a key"),
        operation: Operation::Confirm,
        target,
        payload: Bytes::from_static(b"{\"sku\":\"a\",\"n\":1.50}"),
        attempt: 2,
        position: position(9),
        kind: BranchKind::Tcc,
        role: None,
        inputs: Vec::new(),
        result: None,
        timeout: None,
        own_pace: false,
        instance: None,
    }
}

/// A delivery and what it answered.
pub(crate) struct Bench {
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) sink: ResultSink,
    pub(crate) replies: mpsc::UnboundedReceiver<BranchReply>,
}

impl Bench {
    pub(crate) fn new(config: DeliveryConfig) -> Self {
        let (sink, replies) = ResultSink::new();
        Self { delivery: Delivery::new(config), sink, replies }
    }

    pub(crate) fn dispatch(&self, target: Target, branch: u32) {
        self.send(call(target, branch));
    }

    pub(crate) fn send(&self, call: BranchCall) {
        self.delivery.dispatch(call, &self.sink);
    }

    pub(crate) async fn reply(&mut self) -> BranchReply {
        tokio::time::timeout(PATIENCE, self.replies.recv()).await.expect("a reply in time").expect("a reply")
    }

    /// One call and its outcome.
    pub(crate) async fn ask(&mut self, target: Target) -> ResultOutcome {
        self.ask_for(call(target, 1)).await
    }

    /// The same with a call of one's own.
    pub(crate) async fn ask_for(&mut self, call: BranchCall) -> ResultOutcome {
        self.send(call);
        let reply = self.reply().await;
        assert_eq!(reply.attempt, 2);
        assert_eq!(reply.position, position(9));
        self.nothing_more().await;
        reply.outcome
    }

    /// So many replies, by branch; panics at a second one for a branch.
    pub(crate) async fn collect(&mut self, count: usize) -> HashMap<u32, ResultOutcome> {
        let mut outcomes = HashMap::new();
        while outcomes.len() < count {
            let reply = self.reply().await;
            let second = outcomes.insert(reply.branch_id.0, reply.outcome);
            assert!(second.is_none(), "branch {} was answered twice", reply.branch_id);
        }
        outcomes
    }

    pub(crate) async fn nothing_more(&mut self) {
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(self.replies.try_recv().is_err(), "a reply that nobody is owed");
        assert_eq!(self.delivery.calls(), 0);
    }
}

pub(crate) fn is_unknown(outcome: &ResultOutcome) -> bool {
    matches!(outcome, ResultOutcome::Unknown { .. })
}

pub(crate) fn text(outcome: &ResultOutcome) -> &str {
    match outcome {
        ResultOutcome::Done | ResultOutcome::Result(_) | ResultOutcome::Voted(_) => "done",
        ResultOutcome::Refused { error }
        | ResultOutcome::Sealed { error }
        | ResultOutcome::Unknown { error, .. }
        | ResultOutcome::NotYet { error }
        | ResultOutcome::Unusable { error }
        | ResultOutcome::NotSent { error, .. } => error,
    }
}

/// A coordinator that remembers what it was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeHome(pub(crate) Arc<Mutex<Told>>);

#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) witnesses: Vec<LogPosition>,
    pub(crate) available: Vec<String>,
    pub(crate) refuse: Option<engine::Error>,
}

impl Home for FakeHome {
    fn log_id(&self) -> LogId {
        LogId(LOG_ID.parse().expect("a uuid"))
    }

    fn partitions(&self) -> u16 {
        1
    }

    fn node(&self) -> String {
        "node-1".to_owned()
    }

    fn positions(&self) -> Vec<LogPosition> {
        vec![position(9)]
    }

    fn witness(&self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<(), engine::Error>> {
        let mut told = self.0.lock().expect("told");
        told.witnesses.extend(positions);
        let refuse = told.refuse.clone();
        async move { refuse.map_or(Ok(()), Err) }.boxed()
    }

    fn participant_available(&self, participant: Name) -> BoxFuture<'_, ()> {
        self.0.lock().expect("told").available.push(participant.to_string());
        async {}.boxed()
    }
}

/// Serves sessions on a port of its own.
pub(crate) async fn serve(delivery: &Arc<Delivery>, home: &FakeHome) -> SocketAddr {
    serve_service(ParticipantsService::new(home.clone(), Arc::clone(delivery))).await
}

/// The same for a service that is there.
pub(crate) async fn serve_service(service: ParticipantsService) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service.into_server())
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
    );
    address
}

pub(crate) fn hello(participant: &str, instance: &str) -> v1::Hello {
    v1::Hello {
        participant: participant.to_owned(),
        instance: instance.to_owned(),
        operations: vec!["hooks".to_owned()],
        concurrency: 0,
        sdk: "test/1".to_owned(),
        log_id: LOG_ID.to_owned(),
        witnesses: Vec::new(),
        protocol_version: 1,
        node: String::new(),
    }
}

/// An instance's side of a session.
pub(crate) struct Session {
    pub(crate) out: mpsc::Sender<v1::ParticipantMessage>,
    pub(crate) messages: Streaming<v1::CoordinatorMessage>,
    /// Operations received and not handed out yet.
    pub(crate) operations: Vec<v1::BranchOperation>,
}

impl Session {
    /// Opens a stream and says hello.
    pub(crate) async fn open(address: SocketAddr, hello: v1::Hello) -> Result<(Self, v1::Welcome), Status> {
        let mut session = Self::connect(address).await?;
        session.send(ToCoordinator::Hello(hello)).await;
        match session.next().await? {
            FromCoordinator::Welcome(welcome) => Ok((session, welcome)),
            other => panic!("not a welcome: {other:?}"),
        }
    }

    pub(crate) async fn attach(address: SocketAddr, participant: &str, instance: &str) -> Self {
        Self::open(address, hello(participant, instance)).await.expect("attached").0
    }

    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, Status> {
        let client = ParticipantsClient::connect(format!("http://{address}")).await;
        let mut client = client.map_err(|error| Status::unavailable(error.to_string()))?;
        let (out, stream) = mpsc::channel(64);
        let messages = client.attach(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { out, messages, operations: Vec::new() })
    }

    pub(crate) async fn send(&self, kind: ToCoordinator) {
        let _ = self.out.send(v1::ParticipantMessage { kind: Some(kind) }).await;
    }

    /// The next message; the stream's end is a status too.
    pub(crate) async fn next(&mut self) -> Result<FromCoordinator, Status> {
        let message =
            tokio::time::timeout(PATIENCE, self.messages.message()).await.expect("a message in time")?;
        Ok(message.ok_or_else(|| Status::ok("ended"))?.kind.expect("a kind"))
    }

    /// The next operation; answers heartbeats meanwhile.
    pub(crate) async fn operation(&mut self) -> Result<v1::BranchOperation, Status> {
        while self.operations.is_empty() {
            match self.next().await? {
                FromCoordinator::Operations(batch) => self.operations = batch.operations,
                FromCoordinator::Heartbeat(_) => self.heartbeat(Vec::new()).await,
                FromCoordinator::Goodbye(_) => {}
                FromCoordinator::Welcome(_) => panic!("welcome twice"),
            }
        }
        Ok(self.operations.remove(0))
    }

    pub(crate) async fn heartbeat(&self, positions: Vec<v1::LogPosition>) {
        self.send(ToCoordinator::Heartbeat(v1::Heartbeat { positions, topology: None })).await;
    }

    pub(crate) async fn answer(&self, call_id: u64, outcome: v1::branch_result::Outcome, error: &str) {
        let error = error.to_owned();
        self.answer_all(v1::BranchResult { call_id, outcome: outcome.into(), error, ..Default::default() })
            .await;
    }

    pub(crate) async fn answer_all(&self, result: v1::BranchResult) {
        self.send(ToCoordinator::Results(v1::BranchResults { results: vec![result] })).await;
    }

    /// Takes operations and says done, until the session ends. Says which branches.
    pub(crate) fn work(mut self, delay: Duration) -> tokio::task::JoinHandle<Vec<u32>> {
        tokio::spawn(async move {
            let mut branches = Vec::new();
            while let Ok(operation) = self.operation().await {
                tokio::time::sleep(delay).await;
                branches.push(operation.branch_id);
                self.answer(operation.call_id, v1::branch_result::Outcome::Done, "").await;
            }
            branches
        })
    }

    /// The status that the session ends with.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

pub(crate) fn code_of(status: &Status) -> String {
    error_from_status(status).map(|detail| detail.code).unwrap_or_default()
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
