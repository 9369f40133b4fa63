//! Messages: receivers that dedupe, senders that are asked (H5, O5, I10), messages that go out with a
//! transaction, lock keys.

use std::time::Duration;

use sqlx::{Postgres, Sqlite};
use unanimity_proto::v1::Operation::{CheckBack, Deliver};
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::{self, BranchOperation};
use unanimity_sdk::{
    BranchOptions, ClientError, ErrorCode, Fence, FenceDatabase, FenceError, LocalError, LocalTransaction,
    MessageHooks, OnCommit, Participant, PreparedMessage, Retry, StepTarget, TransactionError, TryError, Xid,
};

use crate::support::databases::{Guard, TestDatabase, fence};
use crate::support::eventually;
use crate::support::fake::{Fake, OnCommit as Scripted};
use crate::support::stock::{Mood, Reserve, Take, stock, take};

struct World<DB: TestDatabase> {
    fake: Fake,
    fence: Fence<DB>,
    hooks: Reserve,
    participant: Participant<DB>,
    _guard: Guard,
}

/// What a local transaction of the tests does, whatever its database.
trait Sells: FenceDatabase {
    fn sell(tx: &mut LocalTransaction<'static, Self>)
    -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// Loses the local transaction, and swallows that.
    fn lose(tx: &mut LocalTransaction<'static, Self>) -> impl Future<Output = ()> + Send;
    async fn open(fence: &Fence<Self>) -> LocalTransaction<'static, Self>;
}

macro_rules! sells {
    ($db:ty, $begin:literal, $lose:literal) => {
        impl Sells for $db {
            async fn sell(tx: &mut LocalTransaction<'static, Self>) -> Result<(), sqlx::Error> {
                sqlx::query("UPDATE stock SET sold = sold + 1").execute(&mut **tx).await.map(drop)
            }

            async fn lose(tx: &mut LocalTransaction<'static, Self>) {
                let _ = sqlx::raw_sql($lose).execute(&mut **tx).await;
            }

            async fn open(fence: &Fence<Self>) -> LocalTransaction<'static, Self> {
                fence.pool().begin_with($begin).await.unwrap()
            }
        }
    };
}

// As a trigger's RAISE(ROLLBACK) does; and a failed statement, which fails the whole transaction.
sells!(Sqlite, "BEGIN", "INSERT OR ROLLBACK INTO stock VALUES ('a', 0, 0, 0)");
sells!(Postgres, "BEGIN", "INSERT INTO stock VALUES ('a', 0, 0, 0)");

impl<DB: TestDatabase + Sells> World<DB>
where
    Reserve: MessageHooks<DB, Payload = Take>,
{
    async fn start() -> Option<Self> {
        let Some((fence, guard)) = fence::<DB>().await else {
            eprintln!("SKIPPED: no server for this database on this machine");
            return None;
        };
        let (fake, hooks) = (Fake::start().await, Reserve::default());
        fake.with(|state| state.remembers = true);
        let participant = Participant::builder("orders", fence.clone())
            .receiver("take", hooks.clone())
            .sender("placed")
            .in_doubt_after(Duration::ZERO)
            .in_doubt_every(Duration::from_millis(20))
            .collect_after(Duration::from_millis(100))
            .collect_every(Duration::from_millis(20))
            .attach(&fake.client())
            .await
            .unwrap();
        Some(Self { fake, fence, hooks, participant, _guard: guard })
    }

    async fn prepared(&self) -> PreparedMessage {
        let message = self.fake.client().message("order-placed").deliver(("mail", "send"), &7).unwrap();
        message.check_back("orders", "placed").prepare().await.unwrap()
    }

    fn asked(&self, xid: Xid) -> BranchOperation {
        BranchOperation {
            xid: xid.to_string(),
            key: "sender".into(),
            operation: CheckBack.into(),
            name: "placed".into(),
            attempt: 1,
            kind: v1::BranchKind::Sender.into(),
            ..Default::default()
        }
    }

    async fn check_back(&self, xid: Xid) -> Outcome {
        self.fake.ask(self.asked(xid)).await.outcome()
    }

    async fn sold(&self) -> i64 {
        stock(self.fence.pool()).await.2
    }

    async fn rows(&self) -> i64 {
        DB::number(self.fence.pool(), "SELECT count(*) FROM unanimity_fence").await
    }
}

macro_rules! conformance {
    ($(async fn $name:ident($world:ident) $body:block)+) => {
        $(async fn $name<DB: TestDatabase + Sells>()
        where
            Reserve: MessageHooks<DB, Payload = Take>,
        {
            let Some($world) = World::<DB>::start().await else { return };
            $body
            $world.participant.shutdown().await;
        })+

        mod sqlite { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<super::Sqlite>().await; })+ }
        mod postgres { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<super::Postgres>().await; })+ }
    };
}

conformance! {
    async fn o3_a_repeated_delivery_has_one_effect(world) {
        let xid = Xid::new(uuid::Uuid::new_v4());
        let message = BranchOperation {
            xid: xid.to_string(),
            key: "1".into(),
            operation: Deliver.into(),
            name: "take".into(),
            payload: r#"{"quantity":3}"#.into(),
            attempt: 1,
            kind: v1::BranchKind::Message.into(),
            ..Default::default()
        };
        for (mood, outcome) in [(Mood::Fails, Outcome::Unknown), (Mood::Panics, Outcome::Unknown), (Mood::RollsBack, Outcome::Unknown), (Mood::Refuses, Outcome::Refused)] {
            world.hooks.set(mood);
            let result = world.fake.ask(message.clone()).await;
            assert_eq!(result.outcome(), outcome, "{mood:?}: {}", result.error);
            assert_eq!((world.sold().await, world.rows().await), (0, 0), "{mood:?}");
        }
        world.hooks.set(Mood::Well);
        for _ in 0..3 {
            let result = world.fake.ask(message.clone()).await;
            assert_eq!(result.outcome(), Outcome::Done, "{}", result.error);
        }
        assert_eq!((world.sold().await, world.hooks.counts().0), (3, 5));
        // Another delivery of the same message is another one.
        let second = BranchOperation { key: "2".into(), ..message.clone() };
        assert_eq!(world.fake.ask(second).await.outcome(), Outcome::Done);
        assert_eq!(world.sold().await, 6);
        // H9: its row goes when the message is settled, not before.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(world.rows().await, 2);
        world.fake.answer(xid, "committed", true);
        eventually("the rows are collected", async || world.rows().await == 0).await;
    }

    async fn i10_a_message_goes_with_its_local_transaction(world) {
        let message = world.prepared().await;
        let xid = message.xid();
        message.in_local_transaction(&world.fence, |tx| Box::pin(async move { DB::sell(tx).await })).await.unwrap();
        assert_eq!(world.sold().await, 1);
        let commit = world.fake.with(|state| state.commits.pop()).unwrap();
        assert_eq!((commit.xid, commit.votes), (xid.to_string(), None));
        for _ in 0..2 {
            assert_eq!(world.check_back(xid).await, Outcome::Done);
        }
        let begun = world.fake.with(|state| state.begun[0].clone());
        assert_eq!((begun.mode(), begun.timeout_ms), (v1::Mode::Message, 60_000));
        let plan = begun.message.unwrap();
        assert!(!plan.submit && plan.check_back.is_some() && &*plan.deliveries[0].payload == b"7");
    }

    async fn a_handler_may_send_a_message_in_a_task_of_its_own(world) {
        let (message, fence) = (world.prepared().await, world.fence.clone());
        let work = async move {
            message.in_local_transaction(&fence, |tx| Box::pin(async move { DB::sell(tx).await })).await
        };
        tokio::spawn(work).await.unwrap().unwrap();
        assert_eq!(world.sold().await, 1);
    }

    async fn o1_a_local_transaction_that_rolls_back_sends_nothing(world) {
        let message = world.prepared().await;
        let xid = message.xid();
        let result = message
            .in_local_transaction(&world.fence, |tx| Box::pin(async move {
                DB::sell(tx).await.unwrap();
                Err::<(), _>("changed my mind")
            }))
            .await;
        assert!(matches!(result, Err(LocalError::User("changed my mind"))));
        eventually("it is given up", async || world.fake.with(|state| state.aborts == [xid.to_string()])).await;
        assert_eq!((world.check_back(xid).await, world.sold().await), (Outcome::Refused, 0));
        assert!(world.fake.with(|state| state.commits.is_empty()));
    }

    async fn o2_a_submit_that_was_lost_is_found_by_the_check_back(world) {
        let message = world.prepared().await;
        let xid = message.xid();
        let mut tx = DB::open(&world.fence).await;
        world.fence.mark_sent(&mut tx, &message).await.unwrap();
        DB::sell(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        drop(message);
        assert_eq!(world.check_back(xid).await, Outcome::Done);
        assert!(world.fake.with(|state| state.commits.is_empty()));
        // Its row stays until the message is settled.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(world.rows().await, 1);
        world.fake.answer(xid, "committed", true);
        eventually("the row is collected", async || world.rows().await == 0).await;
    }

    async fn h5_after_a_no_the_local_transaction_cannot_commit(world) {
        let message = world.prepared().await;
        assert_eq!(world.check_back(message.xid()).await, Outcome::Refused);
        let mut tx = DB::open(&world.fence).await;
        DB::sell(&mut tx).await.unwrap();
        let error = world.fence.mark_sent(&mut tx, &message).await.unwrap_err();
        assert!(matches!(error, FenceError::MessageRefused), "{error:?}");
        tx.rollback().await.unwrap();
        let result = message.in_local_transaction(&world.fence, |tx| Box::pin(async move { DB::sell(tx).await })).await;
        assert!(matches!(result, Err(LocalError::Fence(FenceError::MessageRefused))), "{result:?}");
        assert_eq!(world.sold().await, 0);
    }

    async fn h5_a_check_back_that_cannot_be_understood_is_no_no(world) {
        let prepared = world.prepared().await;
        let mut garbled = world.asked(prepared.xid());
        garbled.key = "\u{0}".into();
        assert_eq!(world.fake.ask(garbled).await.outcome(), Outcome::Unknown);
    }

    async fn h5_o5_a_check_back_waits_for_the_open_local_transaction(world) {
        for commits in [true, false] {
            let message = world.prepared().await;
            let xid = message.xid();
            let before = world.sold().await;
            let mut tx = DB::open(&world.fence).await;
            world.fence.mark_sent(&mut tx, &message).await.unwrap();
            DB::sell(&mut tx).await.unwrap();
            let answer = world.fake.ask_later(world.asked(xid)).await;
            // PostgreSQL gives up after its lock_timeout of 500 ms, SQLite after 5 s: never "no".
            let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap().unwrap();
            assert_eq!(answer.outcome(), Outcome::NotYet, "{}", answer.error);
            let answer = world.fake.ask_later(world.asked(xid)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if commits {
                tx.commit().await.unwrap();
            } else {
                tx.rollback().await.unwrap();
            }
            let expected = if commits { Outcome::Done } else { Outcome::Refused };
            let answer = answer.await.unwrap().outcome();
            assert!(answer == expected || answer == Outcome::NotYet, "{answer:?}");
            assert_eq!(world.check_back(xid).await, expected);
            assert_eq!(world.sold().await, before + i64::from(commits));
        }
    }

    async fn h5_of_many_check_backs_and_one_local_transaction_one_wins(world) {
        for _ in 0..10 {
            let message = world.prepared().await;
            let (xid, before) = (message.xid(), world.sold().await);
            let asking = (0..4).map(|_| {
                let (fake, asked) = (world.fake.clone(), world.asked(xid));
                tokio::spawn(async move { fake.ask(asked).await.outcome() })
            });
            let asking: Vec<_> = asking.collect();
            let sent = message.in_local_transaction(&world.fence, |tx| Box::pin(async move { DB::sell(tx).await })).await;
            for answer in futures::future::join_all(asking).await {
                match answer.unwrap() {
                    Outcome::Done => assert!(sent.is_ok(), "{sent:?}"),
                    Outcome::Refused => assert!(sent.is_err()),
                    _ => {}
                }
            }
            assert_eq!(world.sold().await, before + i64::from(sent.is_ok()));
            assert_eq!(world.check_back(xid).await == Outcome::Done, sent.is_ok());
        }
    }

    async fn a_message_is_sent_once_and_not_after_its_time(world) {
        let message = world.prepared().await;
        let mut tx = DB::open(&world.fence).await;
        world.fence.mark_sent(&mut tx, &message).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = DB::open(&world.fence).await;
        let error = world.fence.mark_sent(&mut tx, &message).await.unwrap_err();
        assert!(matches!(error, FenceError::MessageAlreadySent), "{error:?}");
        tx.rollback().await.unwrap();
        let client = world.fake.client();
        let message = client.message("").deliver(("a", "b"), &()).unwrap().check_back("orders", "placed");
        let message = message.timeout(Duration::from_millis(5)).prepare().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut tx = DB::open(&world.fence).await;
        assert!(matches!(world.fence.mark_sent(&mut tx, &message).await, Err(FenceError::MessageTooLate)));
    }

    async fn a_local_transaction_that_its_closure_lost_is_not_sent(world) {
        let message = world.prepared().await;
        let xid = message.xid();
        let result = message
            .in_local_transaction(&world.fence, |tx| Box::pin(async move {
                DB::lose(tx).await;
                Ok::<_, sqlx::Error>(())
            }))
            .await;
        assert!(result.is_err(), "{result:?}");
        eventually("it is given up", async || world.fake.with(|state| state.aborts == [xid.to_string()])).await;
        assert_eq!(world.check_back(xid).await, Outcome::Refused);
    }

    async fn a_message_that_was_given_up_although_its_local_transaction_committed_is_told(world) {
        let message = world.prepared().await;
        let xid = message.xid();
        world.fake.with(|state| state.on_commit.push_back(Scripted::Aborted("requested")));
        let result = message.in_local_transaction(&world.fence, |tx| Box::pin(async move { DB::sell(tx).await })).await;
        assert!(matches!(result, Err(LocalError::NotSent(TransactionError::Aborted { .. }))), "{result:?}");
        world.fake.answer(xid, "aborted", true);
        eventually("attention", async || {
            world.participant.health().await.unwrap().attention.iter().any(|a| a.code == "contradiction")
        })
        .await;
    }
}

#[tokio::test]
async fn bad_messages_are_refused_before_they_are_sent() {
    let fake = Fake::start().await;
    let client = fake.client();
    let to = |target: StepTarget| client.message("x").deliver(target, &1).unwrap();
    let fine = || to(("a", "b").into()).check_back("a", "b");
    for (message, part) in [
        (client.message("x").check_back("a", "b"), "at least one receiver"),
        (to(("a", "b").into()), "check_back"),
        (fine().key("sender"), "sender's own"),
        (fine().key("1").deliver(("c", "d"), &2).unwrap().key("1"), "two receivers"),
        (fine().give_up_after(0), "at least one"),
        (to(StepTarget::http("nowhere")).check_back("a", "b"), "http://"),
        (to(("a", "b").into()).check_back("", "b"), ""),
        ((0..101).fold(fine(), |m, _| m.deliver(("a", "b"), &1).unwrap()), "at most 100"),
    ] {
        let error = message.prepare().await.unwrap_err();
        assert!(matches!(error, ClientError::Invalid { .. }) && error.to_string().contains(part), "{error}");
    }
    let huge = "x".repeat(1024 * 1024);
    let error = client.message("x").deliver(("a", "b"), &huge).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::PayloadTooLarge));
    assert!(fake.with(|state| state.begun.is_empty()));
}

#[tokio::test]
async fn a_message_goes_out_with_a_transaction_and_is_one_of_its_votes() {
    let fake = Fake::start().await;
    let retry = Retry { initial: Duration::from_millis(5), cap: Duration::from_secs(1) };
    fake.client()
        .transaction("order")
        .run(async |tx| {
            let message = OnCommit::to(("mail", "send")).payload(&"order 7")?.retry(retry).give_up_after(9);
            let first = tx.send_on_commit(message).await?;
            let second = tx.send_on_commit(OnCommit::to(StepTarget::http("http://x/y")).key("mine")).await?;
            assert_eq!(second.as_str(), "mine");
            assert_ne!(first, second);
            Ok::<_, ClientError>(())
        })
        .await
        .unwrap();
    fake.with(|state| {
        let commit = &state.commits[0];
        assert_eq!(commit.votes.as_ref().unwrap().keys.len(), 2);
        for key in &commit.votes.as_ref().unwrap().keys {
            let registered = &state.registered[&(commit.xid.clone(), key.clone())];
            assert_eq!(registered.kind(), v1::BranchKind::Message);
            if key != "mine" {
                assert_eq!(&*registered.payload, b"\"order 7\"");
                let policy = registered.policy.unwrap();
                assert_eq!((policy.initial_ms, policy.cap_ms, policy.give_up_after), (5, 1_000, 9));
            }
        }
    });
}

#[tokio::test]
async fn h7_a_lock_conflict_names_its_holder_and_may_be_tried_again() {
    let (fence, _guard) = fence::<Sqlite>().await.unwrap();
    let fake = Fake::start().await;
    let builder = Participant::builder("inventory", fence.clone()).tcc("reserve", Reserve::default());
    let participant = builder.attach(&fake.client()).await.unwrap();
    let holder = Xid::new(uuid::Uuid::from_u128(77));
    let options = || BranchOptions::new().lock_keys(["inventory:sku-7"]).lock_wait(Duration::from_secs(2));
    let tx = fake.client().begin("x").await.unwrap();
    fake.with(|state| state.lock_holder = Some(holder));
    let started = std::time::Instant::now();
    let error = participant.try_in_with::<Reserve>(&tx, options(), take(1)).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(
        matches!(error, TryError::Registration(ClientError::LockConflict { holder: Some(by), .. }) if by == holder)
    );
    assert!(started.elapsed() < Duration::from_secs(2), "the coordinator has waited, nobody waits once more");
    fake.with(|state| state.lock_holder = None);
    participant.try_in_with::<Reserve>(&tx, options(), take(1)).await.unwrap();
    fake.with(|state| {
        let registered = state.registered.values().next().unwrap();
        assert_eq!(registered.lock_keys, ["inventory:sku-7"]);
        assert_eq!(registered.lock_wait_ms, 2_000);
    });
    for options in [
        BranchOptions::new().lock_keys((0..17).map(|n| n.to_string())),
        BranchOptions::new().lock_keys([""]),
        options().lock_wait(Duration::from_secs(31)),
    ] {
        let error = participant.try_in_with::<Reserve>(&tx, options, take(1)).await.unwrap_err();
        assert!(matches!(error, TryError::Registration(ClientError::Invalid { .. })), "{error}");
    }
    assert_eq!(fake.with(|state| state.registered.len()), 1);
    tx.abort().await.unwrap();
    participant.shutdown().await;
}
