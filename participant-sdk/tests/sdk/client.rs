//! The transaction manager's side.

use std::time::Duration;

use unanimity_proto::v1::Wait;
use unanimity_sdk::{
    AbortCause, AbortReason, Client, ClientError, ErrorCode, SendInTransaction as _, Status,
    TransactionError, Xid,
};

use crate::support::eventually;
use crate::support::fake::{Fake, OnCommit};

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("no coffee")]
struct NoCoffee;

#[tokio::test]
async fn ok_commits_and_err_aborts() {
    let fake = Fake::start().await;
    let client = fake.client();
    let committed = client
        .transaction("place-order")
        .timeout(Duration::from_secs(7))
        .run(async |tx| Ok::<_, NoCoffee>((tx.xid(), unanimity_sdk::Context::current().map(|c| c.xid()))))
        .await
        .unwrap();
    assert_eq!(Some(committed.0), committed.1, "the transaction is the current one");
    let error = client.transaction("").run(async |_| Err::<(), _>(NoCoffee)).await.unwrap_err();
    let xid = error.xid().unwrap();
    assert!(matches!(error, TransactionError::User { error: NoCoffee, .. }));
    fake.with(|state| {
        assert_eq!(state.begun[0].name, "place-order");
        assert_eq!(state.begun[0].timeout_ms, 7_000);
        assert_eq!(state.commits.len(), 1);
        assert_eq!(state.commits[0].xid, committed.0.to_string());
        assert_eq!(
            state.commits[0].votes.as_ref().map(|v| v.keys.len()),
            Some(0),
            "no votes is a statement as well"
        );
        assert_eq!(state.commits[0].wait(), Wait::Decided);
        assert_eq!(state.aborts, [xid.to_string()]);
    });
}

/// The future must be usable where futures are moved between threads: handlers, spawned tasks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_runs_in_a_spawned_task() {
    let fake = Fake::start().await;
    let client = fake.client();
    let name = String::from("borrowed by the closure");
    let task = tokio::spawn(async move {
        let run = client.transaction("x").wait_finished().run(async |tx| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let _ = (&name, tx.xid());
            Ok::<_, NoCoffee>(name.len())
        });
        run.await
    });
    assert_eq!(task.await.unwrap().unwrap(), 23);
    assert_eq!(fake.with(|state| state.commits[0].wait()), Wait::Decided);
    assert_eq!(fake.with(|state| state.waits.clone()), [Wait::Finished]);
}

/// The default timeout is the coordinator's, who may be configured: no other is to be guessed, since
/// participants refuse to try when it is over.
#[tokio::test]
async fn a_timeout_that_was_not_set_is_not_told() {
    let fake = Fake::start().await;
    let tx = fake.client().begin("x").await.unwrap();
    assert_eq!(tx.context().remaining(), None);
    assert_eq!(fake.with(|state| state.begun[0].timeout_ms), 0);
    let timeout = Duration::from_secs(5);
    let tx = fake.client().transaction("x").timeout(timeout).begin().await.unwrap();
    assert!(tx.context().remaining().is_some_and(|left| left <= timeout));
}

#[tokio::test]
async fn begin_is_repeated_with_the_same_xid() {
    let fake = Fake::start().await;
    fake.with(|state| state.fail_begins = 2);
    let tx = fake.client().begin("x").await.unwrap();
    fake.with(|state| {
        assert_eq!(state.begun.len(), 3);
        assert!(state.begun.iter().all(|begun| begun.xid == tx.xid().to_string()));
    });
    tx.abort().await.unwrap();
}

#[tokio::test]
async fn a_commit_is_repeated_with_the_same_xid_and_votes() {
    let fake = Fake::start().await;
    fake.with(|state| state.on_commit.extend([OnCommit::Unavailable, OnCommit::Hang, OnCommit::Unavailable]));
    fake.client().transaction("x").run(async |_| Ok::<_, NoCoffee>(())).await.unwrap();
    fake.with(|state| {
        assert_eq!(state.commits.len(), 4);
        assert!(state.commits.iter().all(|commit| *commit == state.commits[0]));
        assert!(state.aborts.is_empty());
    });
}

#[tokio::test]
async fn an_abort_by_the_coordinator_comes_with_its_reason() {
    let fake = Fake::start().await;
    for (action, reason, retryable) in [
        (OnCommit::Aborted("branch_not_voted"), AbortReason::BranchNotVoted, false),
        (OnCommit::Aborted("owner_changed"), AbortReason::OwnerChanged, true),
        (OnCommit::AlreadyAborted, AbortReason::Deadline, true),
    ] {
        fake.with(|state| state.on_commit.push_back(action));
        let error = fake.client().transaction("x").run(async |_| Ok::<_, NoCoffee>(())).await.unwrap_err();
        assert_eq!(error.is_retryable(), retryable, "{error}");
        assert!(
            matches!(error, TransactionError::Aborted { reason: AbortCause::Coordinator(r), .. } if r == reason)
        );
    }
}

#[tokio::test]
async fn a_commit_that_nobody_answers_is_an_unknown_outcome_with_the_xid() {
    let fake = Fake::start().await;
    let client = Client::builder(fake.url()).commit_retry_for(Duration::from_millis(600)).connect().unwrap();
    fake.with(|state| state.on_commit.extend(std::iter::repeat_n(OnCommit::Unavailable, 1_000)));
    let tx = client.begin("x").await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, TransactionError::OutcomeUnknown { .. }), "{error}");
    assert_eq!(error.xid(), Some(tx.xid()));
    assert!(!error.is_retryable(), "the work must not be done again before the outcome is known");
    let info = client.wait_decided(tx.xid(), Duration::from_secs(1)).await.unwrap();
    assert_eq!(info.status, Status::Committed);
    // Committing again is legal, and still no abort goes out by itself.
    fake.with(|state| state.on_commit.clear());
    tx.commit().await.unwrap();
    drop(tx);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(fake.with(|state| state.aborts.is_empty()));
}

#[tokio::test]
async fn m20_dropping_before_the_commit_was_sent_aborts() {
    let fake = Fake::start().await;
    let client = fake.client();
    let run = client.transaction("x").run(async |_| {
        std::future::pending::<()>().await;
        Ok::<_, NoCoffee>(())
    });
    assert!(tokio::time::timeout(Duration::from_millis(200), run).await.is_err());
    eventually("an abort", async || fake.with(|state| state.aborts.len()) == 1).await;
    // By hand as well, and when the closure panics.
    drop(client.begin("x").await.unwrap());
    eventually("an abort", async || fake.with(|state| state.aborts.len()) == 2).await;
    let panics = tokio::spawn(async move {
        client.transaction("x").run(async |_| -> Result<(), NoCoffee> { panic!("oh") }).await
    });
    assert!(panics.await.is_err());
    eventually("an abort", async || fake.with(|state| state.aborts.len()) == 3).await;
    assert!(fake.with(|state| state.commits.is_empty()));
}

#[tokio::test]
async fn m20_dropping_after_the_commit_was_sent_never_aborts() {
    let fake = Fake::start().await;
    fake.with(|state| state.on_commit.push_back(OnCommit::Hang));
    let client = fake.client();
    let run = client.transaction("x").run(async |_| Ok::<_, NoCoffee>(()));
    assert!(tokio::time::timeout(Duration::from_millis(300), run).await.is_err());
    assert_eq!(fake.with(|state| state.commits.len()), 1);
    // It even goes on in the background: the first attempt hangs, the second is answered.
    eventually("a second attempt", async || fake.with(|state| state.commits.len()) == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(fake.with(|state| state.aborts.is_empty()), "an abort after a commit was sent");
}

#[tokio::test]
async fn a_transaction_begun_on_a_dead_coordinator_is_an_error_within_bounds() {
    let fake = Fake::start().await;
    fake.stop();
    let client = Client::builder(fake.url())
        .begin_retry_for(Duration::from_millis(500))
        .connect_timeout(Duration::from_millis(200))
        .connect()
        .unwrap();
    let started = std::time::Instant::now();
    let error = client.transaction("x").run(async |_| Ok::<_, NoCoffee>(())).await.unwrap_err();
    assert!(matches!(error, TransactionError::Begin(ClientError::NoAnswer { .. })), "{error:?}");
    assert!(error.is_retryable() && error.xid().is_none());
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn bad_input_is_refused_before_it_is_sent() {
    let fake = Fake::start().await;
    let client = fake.client();
    for (name, timeout, code) in [
        ("n".repeat(129), 1_000, ErrorCode::InvalidName),
        ("a\0b".into(), 1_000, ErrorCode::InvalidName),
        ("ok".into(), 0, ErrorCode::InvalidTimeout),
        ("ok".into(), 32 * 24 * 3_600_000, ErrorCode::InvalidTimeout),
    ] {
        let error =
            client.transaction(name).timeout(Duration::from_millis(timeout)).begin().await.unwrap_err();
        assert_eq!(error.code(), Some(code));
    }
    assert!(fake.with(|state| state.begun.is_empty()));
    for url in ["", "127.0.0.1:7460", "https://x", "http://", "http://a b"] {
        assert!(matches!(Client::connect(url), Err(ClientError::InvalidUrl { .. })), "{url:?}");
    }
    let unknown = client.status(Xid::new(uuid::Uuid::from_u128(7))).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::TransactionNotFound));
}

#[tokio::test]
async fn a_wait_of_no_time_is_a_look() {
    let fake = Fake::start().await;
    let client = fake.client();
    for limit in [Duration::ZERO, Duration::from_micros(300)] {
        let tx = client.begin("x").await.unwrap();
        client.wait_finished(tx.xid(), limit).await.unwrap();
        // On the wire 0 ms is "as long as you like".
        assert_eq!(fake.with(|state| state.waits.pop()), Some(Wait::Unspecified), "{limit:?}");
        tx.abort().await.unwrap();
    }
}

/// The same xid may be in the hands of two processes: what one is told must not be what the other
/// made untrue (I4).
#[tokio::test]
async fn i4_what_another_has_committed_is_never_told_to_be_aborted() {
    let fake = Fake::start().await;
    fake.with(|state| state.committed_by_another = true);
    let client = fake.client();
    let tx = client.begin("x").await.unwrap();
    // A call without an answer: the manager aborts instead of committing, and is told the truth.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let lost = reqwest::Client::new().post("http://127.0.0.1:1/").send_in(&tx).await;
    assert!(lost.is_err());
    tx.commit().await.unwrap();
    tx.commit().await.unwrap();

    let tx = client.begin("x").await.unwrap();
    let error = tx.abort().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::AlreadyDecided));
    tx.commit().await.unwrap();

    let error = client.transaction("x").run(async |_| Err::<(), _>(NoCoffee)).await.unwrap_err();
    assert!(
        matches!(error, TransactionError::OutcomeUnknown { .. }),
        "not aborted by its own code: {error:?}"
    );
}
