//! The participant by itself: in doubt, collection, sessions, attention.

use std::time::Duration;

use sqlx::Sqlite;
use unanimity_proto::v1::branch_callback_client::BranchCallbackClient;
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::coordinator_message::Kind;
use unanimity_proto::v1::{self, Operation};
use unanimity_sdk::{BuildError, Fence, Participant, ParticipantBuilder, TryError};

use crate::fence::{again, context, key};
use crate::support::databases::{Guard, TestDatabase, fence};
use crate::support::eventually;
use crate::support::fake::{Fake, LOG};
use crate::support::stock::{Mood, Reserve, Take, stock, take};

async fn parts() -> (Fake, Fence<Sqlite>, Reserve, Guard) {
    let (fence, guard) = fence::<Sqlite>().await.unwrap();
    (Fake::start().await, fence, Reserve::default(), guard)
}

/// A builder whose loops turn fast.
fn fast(fence: &Fence<Sqlite>, hooks: &Reserve) -> ParticipantBuilder<Sqlite> {
    Participant::builder("inventory", fence.clone())
        .tcc("reserve", hooks.clone())
        .in_doubt_after(Duration::ZERO)
        .in_doubt_every(Duration::from_millis(20))
        .collect_every(Duration::from_millis(20))
}

async fn rows(fence: &Fence<Sqlite>) -> i64 {
    Sqlite::number(fence.pool(), "SELECT count(*) FROM unanimity_fence").await
}

#[tokio::test]
async fn branches_in_doubt_are_settled_as_the_coordinator_says() {
    let (fake, fence, hooks, _guard) = parts().await;
    let participant = fast(&fence, &hooks).attach(&fake.client()).await.unwrap();
    let tried = async |answer: &'static str, settled| {
        let (context, xid) = context();
        if !answer.is_empty() {
            fake.answer(xid, answer, settled);
        }
        participant.try_in::<Reserve>(&context, take(1)).await.unwrap();
        xid
    };
    tried("committed", true).await;
    tried("aborted", true).await;
    tried("active", false).await;
    let forgotten = tried("forgotten", false).await;
    tried("a_word_of_a_later_version", true).await;
    eventually("two are settled", async || hooks.counts() == (5, 1, 1)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(hooks.counts(), (5, 1, 1));
    assert_eq!(stock(fence.pool()).await, (96, 3, 1));
    let health = participant.health().await.unwrap();
    assert_eq!((health.open, health.in_doubt), (3, 3));
    assert_eq!(health.attention.len(), 1);
    assert_eq!((health.attention[0].code, health.attention[0].xid), ("forgotten", Some(forgotten)));
    assert!(health.attention[0].count > 1);
    assert!(health.attached && health.oldest_open.is_some());
    let inquiries = fake.with(|state| state.inquiries.clone());
    assert!(inquiries.iter().all(|inquiry| inquiry.log_id == LOG.to_string() && inquiry.xids.len() <= 1_000));
    assert!(inquiries.iter().any(|inquiry| inquiry.witnesses.iter().any(|w| w.partition == 3 && w.seq > 0)));
    // C8: each with its row's age, so that the coordinator can say what it forgot.
    assert!(inquiries.iter().all(|inquiry| inquiry.ages_ms.len() == inquiry.xids.len()));
    assert!(inquiries.iter().flat_map(|inquiry| &inquiry.ages_ms).all(|age| (1..600_000).contains(age)));
    participant.shutdown().await;
}

#[tokio::test]
async fn m21_many_branches_in_doubt_are_asked_about_in_batches() {
    let (fake, fence, hooks, _guard) = parts().await;
    // Rows as a participant that died has left them.
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
         INSERT INTO unanimity_fence SELECT printf('00000000-0000-4000-8000-%012d', i), 'k', 'inventory', 'reserve',
             'tried', '{LOG}', CAST('{{\"quantity\":0}}' AS BLOB), CAST('1' AS BLOB), 3, 2, 9, 77, i, i, 'tcc' FROM n"
    );
    Sqlite::execute(fence.pool(), &sql).await;
    let participant = fast(&fence, &hooks).attach(&fake.client()).await.unwrap();
    eventually("all are asked about", async || {
        let asked: std::collections::HashSet<_> =
            fake.with(|state| state.inquiries.iter().flat_map(|i| i.xids.clone()).collect());
        asked.len() == 1_200
    })
    .await;
    // Not one by one: a few inquiries for each sweep.
    let first_sweep = fake.with(|state| state.inquiries.iter().take(5).map(|i| i.xids.len()).sum::<usize>());
    assert_eq!(first_sweep, 1_200);
    // C8: rows of 1970 are older than any history.
    let old =
        fake.with(|state| state.inquiries.iter().flat_map(|i| i.ages_ms.clone()).all(|age| age > 1 << 40));
    assert!(old, "each row's age goes with it");
    // The rows' witnesses survived the restart.
    assert!(fake.with(|state| state.inquiries[0].witnesses.iter().any(|w| w.seq == 77)));
    participant.shutdown().await;
}

#[tokio::test]
async fn h9_rows_go_only_when_the_coordinator_says_settled() {
    let (fake, fence, hooks, _guard) = parts().await;
    let builder = fast(&fence, &hooks).collect_after(Duration::from_millis(300));
    let participant = builder.attach(&fake.client()).await.unwrap();
    let (first, settled) = context();
    let (second, unsettled) = context();
    for (context, xid) in [(&first, settled), (&second, unsettled)] {
        participant.try_in::<Reserve>(context, take(1)).await.unwrap();
        fake.deliver(Operation::Cancel, xid, &key()).await;
    }
    fake.answer(settled, "aborted", true);
    fake.answer(unsettled, "aborted", false);
    assert_eq!(rows(&fence).await, 2, "nothing goes before its age");
    eventually("one is collected", async || rows(&fence).await == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(rows(&fence).await, 1);
    // Open rows are never collected, whatever the coordinator says.
    let (third, open) = context();
    participant.try_in::<Reserve>(&third, take(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    fake.answer(open, "active", true);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rows(&fence).await, 2);
    participant.shutdown().await;
}

#[tokio::test]
async fn a_broken_or_silent_session_is_opened_again() {
    let (fake, fence, hooks, _guard) = parts().await;
    let participant =
        fast(&fence, &hooks).in_doubt_after(Duration::from_secs(60)).attach(&fake.client()).await.unwrap();
    let (context, xid) = context();
    participant.try_in::<Reserve>(&context, take(1)).await.unwrap();
    eventually("a session", async || fake.with(|state| state.hellos.len()) == 1).await;
    fake.break_session();
    eventually("a second session", async || fake.with(|state| state.hellos.len()) == 2).await;
    fake.with(|state| state.mute = true);
    eventually("a third session", async || fake.with(|state| state.hellos.len()) >= 3).await;
    fake.with(|state| state.mute = false);
    // An operation whose result was lost with its session comes again.
    hooks.set(Mood::Slow(Duration::from_millis(300)));
    let lost = fake.post(Operation::Confirm, xid, &key(), "reserve").await;
    eventually("the hook runs", async || hooks.counts().1 == 1).await;
    fake.break_session();
    assert_eq!(fake.deliver(Operation::Confirm, xid, &key()).await.0, Outcome::Done);
    drop(lost);
    assert_eq!(hooks.counts().1, 1, "the work went on without its session");
    fake.send(Kind::Goodbye(v1::Goodbye { reason: "rolling restart".into() })).await;
    let before = fake.with(|state| state.hellos.len());
    eventually("a session after the goodbye", async || fake.with(|state| state.hellos.len()) > before).await;
    // What was seen is shown, and with which log.
    let hello = fake.with(|state| state.hellos.last().cloned()).unwrap();
    assert_eq!((hello.log_id.as_str(), hello.protocol_version), (LOG.to_string().as_str(), 1));
    assert_eq!(hello.operations, ["reserve"]);
    assert!(hello.witnesses.iter().any(|witness| witness.seq > 0));
    participant.shutdown().await;
}

#[tokio::test]
async fn shutdown_says_goodbye_and_finishes_what_is_in_hand() {
    let (fake, fence, hooks, _guard) = parts().await;
    let participant = fast(&fence, &hooks).attach(&fake.client()).await.unwrap();
    let (context, xid) = context();
    participant.try_in::<Reserve>(&context, take(1)).await.unwrap();
    hooks.set(Mood::Slow(Duration::from_millis(300)));
    let result = fake.post(Operation::Confirm, xid, &key(), "reserve").await;
    eventually("the hook runs", async || hooks.counts().1 == 1).await;
    let started = std::time::Instant::now();
    participant.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(result.await.unwrap().outcome(), Outcome::Done);
    assert_eq!(fake.with(|state| state.goodbyes), 1);
    assert_eq!(stock(fence.pool()).await, (99, 0, 1));
    assert!(matches!(participant.try_in::<Reserve>(&again(xid), take(1)).await, Err(TryError::ShuttingDown)));
}

#[tokio::test]
async fn c8_another_log_is_not_worked_with() {
    let (fake, fence, hooks, _guard) = parts().await;
    let participant = fast(&fence, &hooks).attach(&fake.client()).await.unwrap();
    let (context, xid) = context();
    participant.try_in::<Reserve>(&context, take(1)).await.unwrap();
    participant.shutdown().await;

    // Another log at the same address; the process starts again, its row is still open.
    fake.with(|state| state.log_id = uuid::Uuid::from_u128(0xbad));
    fake.answer(xid, "aborted", true);
    let participant = fast(&fence, &hooks).attach(&fake.client()).await.unwrap();
    eventually("attention", async || {
        let codes: Vec<_> = participant.health().await.unwrap().attention.iter().map(|a| a.code).collect();
        codes.contains(&"log_changed") && codes.contains(&"not_mine")
    })
    .await;
    let health = participant.health().await.unwrap();
    assert!(!health.attached);
    assert_eq!(
        fake.with(|state| state.hellos.last().map(|hello| hello.log_id.clone())),
        Some(LOG.to_string())
    );
    participant.shutdown().await;

    // Allowed, it works with the new log; the old row stays as it is, with attention.
    let participant = fast(&fence, &hooks).accept_new_log().attach(&fake.client()).await.unwrap();
    eventually("attached", async || participant.health().await.unwrap().attached).await;
    let (_, other) = self::context();
    let fresh = unanimity_sdk::Context::from_header(&format!("{other};call=c1;timeout=9000")).unwrap();
    participant.try_in::<Reserve>(&fresh, take(1)).await.unwrap();
    assert_eq!(fake.deliver(Operation::Confirm, other, &key()).await.0, Outcome::Done);
    // Even an explicit order of the new log does not touch the old log's branch.
    assert_eq!(fake.deliver(Operation::Cancel, xid, &key()).await.0, Outcome::Unknown);
    assert_eq!(stock(fence.pool()).await, (98, 1, 1));
    participant.shutdown().await;
}

#[tokio::test]
async fn hostile_operations_are_refused() {
    let (fake, fence, hooks, _guard) = parts().await;
    let participant = fast(&fence, &hooks).attach(&fake.client()).await.unwrap();
    let (context, xid) = context();
    participant.try_in::<Reserve>(&context, take(1)).await.unwrap();
    assert_eq!(fake.deliver(Operation::Try, xid, &key()).await.0, Outcome::Refused);
    assert_eq!(fake.deliver(Operation::Unspecified, xid, &key()).await.0, Outcome::Refused);
    for name in ["a\0b", &"n".repeat(200)] {
        let result = fake.post(Operation::Confirm, xid, &key(), name).await;
        assert_eq!(result.await.unwrap().outcome(), Outcome::Refused);
    }
    // The fence knows the operation's name better than the message.
    let result = fake.post(Operation::Confirm, xid, &key(), "no-such-hooks").await;
    assert_eq!(result.await.unwrap().outcome(), Outcome::Done);
    participant.shutdown().await;
}

#[tokio::test]
async fn payloads_over_the_limit_are_not_sent() {
    let (fake, fence, hooks, _guard) = parts().await;
    let participant = fast(&fence, &hooks).attach(&fake.client()).await.unwrap();
    let (context, _) = context();
    let payload = Take { quantity: 1, ballast: "x".repeat(1024 * 1024) };
    let error = participant.try_in::<Reserve>(&context, payload).await.unwrap_err();
    assert!(matches!(error, TryError::Payload(_)) && !error.is_retryable());
    let payload = Take { quantity: 1, ballast: "x".repeat(1024 * 1024 - 100) };
    participant.try_in::<Reserve>(&context, payload).await.unwrap();
    assert_eq!((fake.with(|state| state.registered.len()), rows(&fence).await), (1, 1));
    participant.shutdown().await;
}

#[tokio::test]
async fn a_branch_after_the_decision_is_not_tried() {
    let (fake, fence, hooks, _guard) = parts().await;
    fake.with(|state| state.refuse_registrations = true);
    let participant = fast(&fence, &hooks).attach(&fake.client()).await.unwrap();
    let (context, _) = context();
    let error = participant.try_in::<Reserve>(&context, take(1)).await.unwrap_err();
    assert!(matches!(error, TryError::Registration(_)) && !error.is_retryable(), "{error}");
    assert_eq!((hooks.counts(), rows(&fence).await), ((0, 0, 0), 0));
    participant.shutdown().await;
}

#[tokio::test]
async fn the_hooks_can_be_served_at_an_address() {
    let (fake, fence, hooks, _guard) = parts().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let participant = fast(&fence, &hooks).called_at(&fake.client(), &address).await.unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(participant.grpc_service())
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    tokio::spawn(server);
    let (context, xid) = context();
    participant.try_in::<Reserve>(&context, take(4)).await.unwrap();
    let registered = fake.with(|state| state.registered.values().next().cloned()).unwrap();
    let target = registered.targets.unwrap().one.unwrap().kind;
    assert_eq!(target, Some(v1::target::Kind::Grpc(address.clone())));
    let mut callback = BranchCallbackClient::connect(address).await.unwrap();
    let operation = v1::BranchOperation {
        call_id: 77,
        xid: xid.to_string(),
        key: key().to_string(),
        operation: Operation::Cancel.into(),
        name: "reserve".into(),
        ..Default::default()
    };
    hooks.set(Mood::Panics);
    let result = callback.execute(operation.clone()).await.unwrap().into_inner();
    assert_eq!((result.outcome(), result.call_id), (Outcome::Unknown, 77));
    assert!(result.error.contains("had enough"));
    hooks.set(Mood::Well);
    assert_eq!(callback.execute(operation).await.unwrap().into_inner().outcome(), Outcome::Done);
    assert_eq!(stock(fence.pool()).await, (100, 0, 0));
    assert!(fake.with(|state| state.hellos.is_empty()));
    participant.shutdown().await;
}

#[tokio::test]
async fn a_caller_that_stops_waiting_leaves_nothing_in_hand() {
    let (fake, fence, hooks, _guard) = parts().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let participant = fast(&fence, &hooks).called_at(&fake.client(), &address).await.unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(participant.grpc_service())
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    tokio::spawn(server);
    let (context, xid) = context();
    participant.try_in::<Reserve>(&context, take(4)).await.unwrap();
    hooks.set(Mood::Slow(Duration::from_millis(300)));
    let operation = v1::BranchOperation {
        xid: xid.to_string(),
        key: key().to_string(),
        operation: Operation::Confirm.into(),
        name: "reserve".into(),
        ..Default::default()
    };
    let mut callback = BranchCallbackClient::connect(address).await.unwrap();
    let mut request = tonic::Request::new(operation);
    // tonic drops the handler when its caller's deadline has passed.
    request.set_timeout(Duration::from_millis(100));
    assert!(callback.execute(request).await.is_err());
    assert_eq!(participant.health().await.unwrap().in_hand, 1);
    eventually("the work goes on", async || stock(fence.pool()).await == (96, 0, 4)).await;
    eventually("none in hand", async || participant.health().await.unwrap().in_hand == 0).await;
    participant.shutdown().await;
}

#[tokio::test]
async fn a_participant_that_cannot_work_does_not_start() {
    let (fake, fence, hooks, _guard) = parts().await;
    let client = fake.client();
    let build = |name: &str| Participant::builder(name, fence.clone());
    let started = build("").tcc("reserve", hooks.clone()).attach(&client).await;
    assert!(matches!(started, Err(BuildError::Name { .. })));
    let started = build("inventory").tcc("a\0", hooks.clone()).attach(&client).await;
    assert!(matches!(started, Err(BuildError::Name { .. })));
    assert!(matches!(build("inventory").attach(&client).await, Err(BuildError::NoOperations)));
    let started = build("inventory").tcc("x", hooks.clone()).tcc("x", hooks.clone()).attach(&client).await;
    assert!(matches!(started, Err(BuildError::DuplicateOperation(_))));
    let started = build("inventory").tcc("x", hooks.clone()).called_at(&client, "ftp://x").await;
    assert!(matches!(started, Err(BuildError::Address(_))));
    // Not migrated.
    let (pool, _other) = Sqlite::fresh().await.unwrap();
    let started = Participant::builder("inventory", Fence::new(pool)).tcc("x", hooks).attach(&client).await;
    assert!(matches!(started, Err(BuildError::Fence(_))));
}
