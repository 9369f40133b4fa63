//! Sagas from their submitter's side, and nested transactions as steps (M6).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::{Sqlite, Transaction};
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::{self, Operation};
use unanimity_sdk::{
    AbortCause, AbortReason, BranchStatus, Client, ClientError, HookError, Nested, Participant, Retry, Saga,
    Status, StepCall, StepHooks, StepTarget, TransactionError, Undo, WaitFor, Xid, nested, nested_undo,
};

use crate::support::databases::{Guard, fence};
use crate::support::fake::{Fake, OnCommit};

fn trip() -> Saga {
    Saga::new("trip")
        .step("flight")
        .action(StepTarget::participant("flights", "book"))
        .compensate(StepTarget::participant("flights", "book"))
        .payload(&"LH 400")
        .unwrap()
        .retry(Retry { initial: Duration::from_millis(10), cap: Duration::from_secs(1) })
        .give_up_after(5)
        .step_timeout(Duration::from_secs(3))
        .step("hotel")
        .action(StepTarget::http("http://hotels/book"))
        .after([])
        .step("pay")
        .action(StepTarget::grpc("http://pay:1"))
        .after(["flight", "hotel"])
        .pivot()
        .step("tickets")
        .action(("post", "send"))
        .forward_only()
}

fn told(xid: Xid, status: v1::Status) -> v1::Transaction {
    v1::Transaction {
        xid: xid.to_string(),
        status: status.into(),
        branches: vec![v1::Branch {
            key: "flight".into(),
            kind: v1::BranchKind::Step.into(),
            status: "done".into(),
            result: "\"seat 7\"".into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn xid() -> Xid {
    Xid::new(uuid::Uuid::new_v4())
}

#[tokio::test]
async fn a_saga_is_submitted_as_it_was_written() {
    let fake = Fake::start().await;
    let saga = trip().timeout(Duration::from_secs(9)).submit(&fake.client()).await.unwrap();
    assert_eq!(saga.status(), Status::Active);
    let begun = fake.with(|state| state.begun[0].clone());
    assert_eq!((begun.mode(), begun.timeout_ms, begun.name.as_str()), (v1::Mode::Saga, 9_000, "trip"));
    assert_eq!(begun.xid, saga.xid().to_string());
    let steps = begun.saga.unwrap().steps;
    let after: Vec<_> = steps.iter().map(|step| step.after.join(",")).collect();
    assert_eq!(after, ["", "", "flight,hotel", "pay"]);
    let roles: Vec<_> = steps.iter().map(v1::SagaStep::role).collect();
    use v1::StepRole::{Compensatable, ForwardOnly, Pivot};
    assert_eq!(roles, [Compensatable, Compensatable, Pivot, ForwardOnly]);
    let policy = steps[0].policy.unwrap();
    assert_eq!(
        (policy.initial_ms, policy.cap_ms, policy.give_up_after, policy.timeout_ms),
        (10, 1_000, 5, 3_000)
    );
    assert_eq!((&*steps[0].payload, steps[1].policy), (&b"\"LH 400\""[..], None));
    assert!(steps[0].compensate.is_some() && steps[1].compensate.is_none());
}

#[tokio::test]
async fn a_saga_that_cannot_be_one_is_not_sent() {
    let fake = Fake::start().await;
    let client = fake.client();
    for saga in
        [Saga::new("x"), trip().after(["nowhere"]), Saga::new("n".repeat(129)).step("a").action(("a", "b"))]
    {
        let error = saga.run(&client).await.unwrap_err();
        assert!(matches!(error, TransactionError::Begin(ClientError::Invalid { .. })), "{error}");
    }
    assert!(fake.with(|state| state.begun.is_empty()));
}

#[tokio::test]
async fn a_saga_ends_committed_aborted_or_honestly_unknown() {
    let fake = Fake::start().await;
    let client = fake.client();
    let id = xid();
    fake.with(|state| state.told.insert(id.to_string(), told(id, v1::Status::Committed)));
    let done = client.run_saga(&trip().xid(id).wait(WaitFor::Finished)).await.unwrap();
    assert_eq!(done.result_of::<String>("flight").unwrap().as_deref(), Some("seat 7"));
    assert_eq!(done.result_of::<String>("no such step").unwrap(), None);
    assert!(done.result_of::<u32>("flight").is_err());
    assert_eq!(done.branch("flight").unwrap().status, Some(BranchStatus::Done));

    let id = xid();
    let aborted = v1::Transaction { abort_reason: "gave_up".into(), ..told(id, v1::Status::Aborting) };
    fake.with(|state| state.told.insert(id.to_string(), aborted));
    let error = trip().xid(id).run(&client).await.unwrap_err();
    assert!(
        matches!(
            error,
            TransactionError::Aborted { reason: AbortCause::Coordinator(AbortReason::GaveUp), .. }
        ),
        "{error}"
    );

    let id = xid();
    fake.with(|state| state.told.insert(id.to_string(), told(id, v1::Status::Active)));
    let error = trip().xid(id).wait_at_most(Duration::from_millis(200)).run(&client).await.unwrap_err();
    assert!(matches!(error, TransactionError::OutcomeUnknown { xid, .. } if xid == id), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_submission_that_nobody_answers_may_run() {
    let fake = Fake::start().await;
    fake.with(|state| state.fail_begins = 1_000);
    let client = Client::builder(fake.url()).begin_retry_for(Duration::from_millis(300)).connect().unwrap();
    let id = xid();
    let error = trip().xid(id).submit(&client).await.unwrap_err();
    assert!(matches!(error, TransactionError::OutcomeUnknown { xid, .. } if xid == id), "{error}");
    fake.with(|state| state.fail_begins = 0);
    assert_eq!(trip().xid(id).submit(&client).await.unwrap().xid(), id);
}

/// A step that is a transaction itself.
#[derive(Clone)]
struct PlaceOrder {
    client: Client,
    ran: Arc<AtomicU32>,
    fails: Arc<AtomicU32>,
    last: Arc<std::sync::Mutex<String>>,
}

impl PlaceOrder {
    fn say(&self, what: impl std::fmt::Debug) {
        *self.last.lock().unwrap() = format!("{what:?}");
    }
}

impl StepHooks<Sqlite> for PlaceOrder {
    type Payload = ();
    type Output = ();

    async fn action(&self, _: &mut Transaction<'_, Sqlite>, call: &StepCall<()>) -> Result<(), HookError> {
        let placed = nested(&self.client, call, async |tx| {
            self.ran.fetch_add(1, Ordering::SeqCst);
            assert!(tx.context().remaining().is_some_and(|left| left <= Duration::from_secs(3)));
            match self.fails.load(Ordering::SeqCst) {
                1 => Err(std::io::Error::other("no stock")),
                2 => std::future::pending().await,
                _ => Ok(5),
            }
        });
        let placed: Nested<i32> = placed.await?;
        self.say(placed);
        Ok(())
    }

    async fn compensate(
        &self,
        _: &mut Transaction<'_, Sqlite>,
        call: &StepCall<()>,
        _: Option<()>,
    ) -> Result<(), HookError> {
        let undone: Undo = nested_undo(&self.client, call, async |_| {
            self.ran.fetch_add(100, Ordering::SeqCst);
            match self.fails.load(Ordering::SeqCst) {
                1 => Err(std::io::Error::other("no")),
                _ => Ok(()),
            }
        })
        .await?;
        self.say(undone);
        Ok(())
    }
}

struct Outer {
    fake: Fake,
    hooks: PlaceOrder,
    participant: Participant<Sqlite>,
    xid: Xid,
    _guard: Guard,
}

impl Outer {
    async fn start() -> Self {
        let (fence, guard) = fence::<Sqlite>().await.unwrap();
        let fake = Fake::start().await;
        fake.with(|state| state.remembers = true);
        let hooks = PlaceOrder {
            client: fake.client(),
            ran: Arc::default(),
            fails: Arc::default(),
            last: Arc::default(),
        };
        let participant = Participant::builder("orders", fence)
            .saga_step_external("place", hooks.clone())
            .saga_step("wrong", hooks.clone())
            .attach(&fake.client())
            .await
            .unwrap();
        Self { fake, hooks, participant, xid: xid(), _guard: guard }
    }

    fn inner(&self, suffix: &str) -> Xid {
        Xid::new(uuid::Uuid::new_v5(&self.xid.uuid(), format!("order{suffix}").as_bytes()))
    }

    fn standing(&self, suffix: &str) -> Option<v1::Status> {
        let xid = self.inner(suffix).to_string();
        self.fake.with(|state| state.standing.get(&xid).copied())
    }

    fn stand(&self, suffix: &str, status: v1::Status) {
        let xid = self.inner(suffix).to_string();
        self.fake.with(|state| state.standing.insert(xid, status));
    }

    async fn ask(&self, operation: Operation, name: &str) -> Outcome {
        let operation = v1::BranchOperation {
            xid: self.xid.to_string(),
            key: "order".into(),
            operation: operation.into(),
            name: name.into(),
            timeout_ms: 3_000,
            kind: v1::BranchKind::Step.into(),
            ..Default::default()
        };
        self.fake.ask(operation).await.outcome()
    }

    fn said(&self) -> (u32, String) {
        (self.hooks.ran.load(Ordering::SeqCst), self.hooks.last.lock().unwrap().clone())
    }
}

#[tokio::test]
async fn m6_a_nested_transaction_commits_once_and_is_undone_by_another() {
    let outer = Outer::start().await;
    assert_eq!(outer.ask(Operation::Action, "place").await, Outcome::Done);
    assert_eq!(outer.said(), (1, "Now(5)".into()));
    assert_eq!(outer.standing(""), Some(v1::Status::Committed));
    assert_eq!(outer.ask(Operation::Action, "place").await, Outcome::Done);
    assert_eq!(outer.said().0, 1, "the fence answers a repeat");
    // The first undoing aborts, the second one commits; it takes effect once.
    outer.hooks.fails.store(1, Ordering::SeqCst);
    assert_eq!(outer.ask(Operation::Compensate, "place").await, Outcome::Unknown);
    assert_eq!(outer.standing("#undo#1"), Some(v1::Status::Aborted));
    outer.hooks.fails.store(0, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(outer.ask(Operation::Compensate, "place").await, Outcome::Done);
    }
    assert_eq!(outer.said(), (201, "Undone".into()));
    assert_eq!(outer.standing("#undo#2"), Some(v1::Status::Committed));
    outer.participant.shutdown().await;
}

#[tokio::test]
async fn m6_an_aborted_nested_transaction_is_a_refused_step() {
    let outer = Outer::start().await;
    outer.hooks.fails.store(1, Ordering::SeqCst);
    assert_eq!(outer.ask(Operation::Action, "place").await, Outcome::Refused);
    assert_eq!(outer.standing(""), Some(v1::Status::Aborted));
    // Its xid is used up: also a repeat that would go well refuses, without running it.
    outer.hooks.fails.store(0, Ordering::SeqCst);
    assert_eq!(outer.ask(Operation::Action, "place").await, Outcome::Refused);
    assert_eq!(outer.said().0, 1);
    assert_eq!(outer.ask(Operation::Compensate, "place").await, Outcome::Done);
    assert_eq!(outer.said().0, 1, "nothing to undo");
    outer.participant.shutdown().await;

    // The coordinator aborts it.
    let outer = Outer::start().await;
    outer.fake.with(|state| state.on_commit.push_back(OnCommit::Aborted("branch_missing")));
    assert_eq!(outer.ask(Operation::Action, "place").await, Outcome::Refused);
    outer.participant.shutdown().await;
}

#[tokio::test]
async fn m6_what_an_attempt_that_died_has_left_is_settled_never_run_again() {
    // It had committed, and died before its own local transaction did.
    let outer = Outer::start().await;
    outer.stand("", v1::Status::Committed);
    assert_eq!(outer.ask(Operation::Action, "place").await, Outcome::Done);
    assert_eq!(outer.said(), (0, "Before".into()));
    outer.participant.shutdown().await;

    // It was in the middle: aborted, refused, and there is nothing to undo.
    let outer = Outer::start().await;
    outer.stand("", v1::Status::Active);
    assert_eq!(outer.ask(Operation::Action, "place").await, Outcome::Refused);
    assert_eq!((outer.standing(""), outer.said().0), (Some(v1::Status::Aborted), 0));
    outer.participant.shutdown().await;

    // The compensation finds it in the middle, or has never heard of it: it can commit no more.
    for standing in [Some(v1::Status::Active), None] {
        let outer = Outer::start().await;
        outer.fake.with(|state| state.on_commit.push_back(OnCommit::Hang));
        outer.hooks.fails.store(2, Ordering::SeqCst);
        let operation = v1::BranchOperation {
            xid: outer.xid.to_string(),
            key: "order".into(),
            operation: Operation::Action.into(),
            name: "place".into(),
            timeout_ms: 1,
            kind: v1::BranchKind::Step.into(),
            ..Default::default()
        };
        // Its time is over before it begins, but its row is there.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let outcome = outer.fake.ask(operation).await.outcome();
        assert_eq!(outcome, Outcome::Unknown);
        if let Some(standing) = standing {
            outer.stand("", standing);
        }
        assert_eq!(outer.ask(Operation::Compensate, "place").await, Outcome::Done);
        assert_eq!(outer.standing(""), Some(v1::Status::Aborted), "{standing:?}");
        assert_eq!(outer.said().1, "Nothing");
        outer.participant.shutdown().await;
    }
}

#[tokio::test]
async fn m6_a_step_that_would_forget_its_nested_transaction_is_told_so() {
    let outer = Outer::start().await;
    assert_eq!(outer.ask(Operation::Action, "wrong").await, Outcome::Unknown);
    assert_eq!((outer.standing(""), outer.said().0), (None, 0));
    outer.participant.shutdown().await;
}
