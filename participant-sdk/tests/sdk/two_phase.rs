//! Two-phase branches of a participant by itself: which resource manager an order goes to, what is
//! answered, and what the in-doubt loop does with each answer of the coordinator.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use unanimity_proto::v1::branch_callback_client::BranchCallbackClient;
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::{self, Operation};
use unanimity_sdk::xa::{
    Alarm, Gid, InDoubt, OnePhase, Prepared, PreparedBranch, ResourceManager, Settled, TwoPhaseCall, XaError,
};
use unanimity_sdk::{BranchKey, LogId, NoFence, Participant, ParticipantBuilder, Xid};
use uuid::Uuid;

use crate::support::eventually;
use crate::support::fake::{Fake, LOG};

/// Lists what it is told to, and remembers what it was asked.
#[derive(Clone, Default)]
struct Scripted {
    listed: Arc<Mutex<Vec<PreparedBranch>>>,
    calls: Arc<Mutex<Vec<(&'static str, TwoPhaseCall)>>>,
    alarms: bool,
}

impl Scripted {
    fn called(&self, operation: &'static str, call: &TwoPhaseCall) {
        self.calls.lock().unwrap().push((operation, call.clone()));
        self.listed.lock().unwrap().retain(|branch| branch.gid != call.gid);
    }

    fn operations(&self) -> BTreeSet<(&'static str, Xid)> {
        self.calls.lock().unwrap().iter().map(|(operation, call)| (*operation, call.gid.xid())).collect()
    }
}

impl ResourceManager for Scripted {
    async fn prepare(&self, call: &TwoPhaseCall) -> Prepared {
        self.called("prepare", call);
        Prepared::ReadOnly
    }

    async fn commit(&self, call: &TwoPhaseCall) -> Settled {
        self.called("commit", call);
        if self.alarms { Settled::Alarm(Alarm::CommitLost(call.gid)) } else { Settled::Done }
    }

    async fn rollback(&self, call: &TwoPhaseCall) -> Settled {
        self.called("rollback", call);
        Settled::Done
    }

    async fn commit_one_phase(&self, call: &TwoPhaseCall) -> OnePhase {
        self.called("commit_one_phase", call);
        OnePhase::Refused("a constraint".to_owned())
    }

    async fn in_doubt(&self, _: LogId) -> Result<InDoubt, XaError> {
        let mut found = InDoubt::default();
        found.ours.clone_from(&self.listed.lock().unwrap());
        Ok(found)
    }
}

fn xid() -> Xid {
    Xid::new(Uuid::new_v4())
}

fn key(text: &str) -> BranchKey {
    BranchKey::new(text).unwrap()
}

fn builder(manager: &Scripted) -> ParticipantBuilder<NoFence> {
    Participant::without_fence("bank")
        .two_phase("transfer", manager.clone())
        .in_doubt_after(Duration::from_secs(3_600))
        .in_doubt_every(Duration::from_millis(20))
}

fn order(operation: Operation, name: &str, branch_key: &str) -> v1::BranchOperation {
    v1::BranchOperation {
        xid: xid().to_string(),
        key: branch_key.to_owned(),
        operation: operation.into(),
        name: name.to_owned(),
        payload: b"7".to_vec().into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn p4_what_is_prepared_is_settled_by_the_coordinators_word_alone() {
    let (fake, manager) = (Fake::start().await, Scripted::default());
    let prepared = |answer: &'static str| {
        let xid = xid();
        fake.answer(xid, answer, false);
        let gid = Gid::new(LogId(LOG), xid, &key("k"));
        // Young: at the start everything is asked about all the same.
        manager.listed.lock().unwrap().push(PreparedBranch::new(gid, Duration::ZERO));
        xid
    };
    let (committed, aborted) = (prepared("committed"), prepared("aborted"));
    let (forgotten, foreign) = (prepared("forgotten"), prepared("not_mine"));
    prepared("active");
    prepared("a_word_of_a_later_version");
    let participant = builder(&manager).in_doubt_after(Duration::ZERO).attach(&fake.client()).await.unwrap();
    eventually("two are settled", async || manager.operations().len() == 2).await;
    eventually("two are for people", async || participant.health().await.unwrap().attention.len() == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(manager.operations(), BTreeSet::from([("commit", committed), ("rollback", aborted)]));
    let health = participant.health().await.unwrap();
    let codes: BTreeSet<_> = health.attention.iter().map(|one| (one.code, one.xid.unwrap())).collect();
    assert_eq!(codes, BTreeSet::from([("forgotten", forgotten), ("not_mine", foreign)]));
    assert_eq!(health.two_phase[0].prepared, 4);
    assert!(!health.is_well());
    participant.shutdown().await;
}

#[tokio::test]
async fn m21_prepared_branches_are_asked_about_in_batches_and_young_ones_once() {
    let (fake, manager) = (Fake::start().await, Scripted::default());
    for _ in 0..1_200 {
        let gid = Gid::new(LogId(LOG), xid(), &key("k"));
        manager.listed.lock().unwrap().push(PreparedBranch::new(gid, Duration::ZERO));
    }
    let participant = builder(&manager).attach(&fake.client()).await.unwrap();
    eventually("all are asked about", async || {
        fake.with(|state| state.inquiries.iter().map(|inquiry| inquiry.xids.len()).sum::<usize>()) == 1_200
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fake.with(|state| state.inquiries.len()), 2);
    participant.shutdown().await;
}

#[tokio::test]
async fn votes_refusals_and_alarms_are_answered_as_what_they_are() {
    let (fake, manager) = (Fake::start().await, Scripted { alarms: true, ..Scripted::default() });
    let participant = builder(&manager).attach(&fake.client()).await.unwrap();
    let vote = fake.ask(order(Operation::Prepare, "transfer", "k")).await;
    assert_eq!((vote.outcome(), vote.vote()), (Outcome::Done, v1::Vote::ReadOnly));
    let refused = fake.ask(order(Operation::CommitOnePhase, "transfer", "k")).await;
    assert_eq!((refused.outcome(), refused.error.as_str()), (Outcome::Refused, "a constraint"));
    let rolled_back = fake.ask(order(Operation::Rollback, "transfer", "k")).await;
    assert_eq!(rolled_back.outcome(), Outcome::Done);
    assert!(participant.health().await.unwrap().attention.is_empty());
    // P5: never a success.
    let alarm = fake.ask(order(Operation::Commit, "transfer", "k")).await;
    assert_eq!(alarm.outcome(), Outcome::Unknown);
    let attention = participant.health().await.unwrap().attention;
    assert_eq!((attention.len(), attention[0].code), (1, "xa_alarm"));
    // The key and the payload came along.
    let calls = manager.calls.lock().unwrap().clone();
    assert!(calls.iter().all(|(_, call)| call.key == Some(key("k")) && call.payload == b"7"));
    let unknown = fake.ask(order(Operation::Commit, "elsewhere", "k")).await;
    assert_eq!(unknown.outcome(), Outcome::Unknown);
    // There is no fence, so nothing of TCC can be answered.
    let confirm = fake.ask(order(Operation::Confirm, "transfer", "k")).await;
    assert_eq!(confirm.outcome(), Outcome::Unknown);
    participant.shutdown().await;
}

/// The coordinator names no hooks then: the branch's key says which resource manager it is.
#[tokio::test]
async fn at_an_address_a_branch_finds_its_resource_manager_by_its_key() {
    let (fake, one, other) = (Fake::start().await, Scripted::default(), Scripted::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let builder = builder(&one).two_phase("transfer#2", other.clone());
    let participant = builder.called_at(&fake.client(), url.as_str()).await.unwrap();
    let service = participant.grpc_service();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let mut coordinator = BranchCallbackClient::connect(url).await.unwrap();
    let mut send = async |key: &str| {
        let order = v1::BranchOperation { log_id: LOG.to_string(), ..order(Operation::Rollback, "", key) };
        coordinator.execute(order).await.unwrap().into_inner().outcome()
    };
    assert_eq!(send("bank/transfer#1@c").await, Outcome::Done);
    assert_eq!((one.operations().len(), other.operations().len()), (1, 0));
    assert_eq!(send("bank/transfer#2#1@c").await, Outcome::Done);
    assert_eq!((one.operations().len(), other.operations().len()), (1, 1));
    // A key that says nothing: nobody guesses.
    assert_eq!(send("k").await, Outcome::Unknown);
    assert_eq!((one.operations().len(), other.operations().len()), (1, 1));
    participant.shutdown().await;
}
