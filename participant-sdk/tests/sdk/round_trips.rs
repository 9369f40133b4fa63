//! How often a participant waits for its database: counted by a proxy in front of PostgreSQL.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::{PgPoolOptions, PgSslMode};
use unanimity_proto::v1::Operation::{self, Action, Cancel, Compensate, Confirm, Deliver};
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::{self};
use unanimity_sdk::{BranchKey, BranchOptions, Fence, Participant, Xid};

use crate::fence::{context, key};
use crate::support::counter::Counter;
use crate::support::databases::fence;
use crate::support::fake::Fake;
use crate::support::stock::{Reserve, stock, take};

fn operation(operation: Operation, xid: Xid, key: &BranchKey, name: &str) -> v1::BranchOperation {
    v1::BranchOperation {
        xid: xid.to_string(),
        key: key.to_string(),
        operation: operation.into(),
        name: name.into(),
        payload: br#"{"quantity":1}"#.to_vec().into(),
        attempt: 1,
        timeout_ms: 10_000,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_waits_for_its_database_four_times() {
    let Some((direct, _guard)) = fence::<Postgres>().await else { return };
    let options = (*direct.pool().connect_options()).clone();
    let (counter, port) = Counter::before(options.get_port()).await;
    let options = options.port(port).ssl_mode(PgSslMode::Disable);
    // One connection, so that every statement is prepared once.
    let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(false);
    let pool = pool.connect_with(options).await.unwrap();
    let (fake, hooks) = (Fake::start().await, Reserve::default());
    let participant = Participant::builder("inventory", Fence::new(pool))
        .tcc("reserve", hooks.clone())
        .saga_step("book", hooks.clone())
        .receiver("sell", hooks.clone())
        .in_doubt_every(Duration::from_secs(600))
        .collect_every(Duration::from_secs(600))
        .attach(&fake.client())
        .await
        .unwrap();
    for round in 0..2 {
        let mut seen = Vec::new();
        for end in [Confirm, Cancel] {
            let (context, xid) = context();
            // With a lock the registration comes first: how long it takes changes nothing here.
            let options = BranchOptions::new().lock_keys(["a"]);
            Box::pin(participant.try_in_with::<Reserve>(&context, options, take(1))).await.unwrap();
            seen.push(counter.take());
            assert_eq!(fake.deliver(end, xid, &key()).await.0, Outcome::Done);
            seen.push(counter.take());
        }
        let (_, xid) = context();
        for (kind, name) in [(Action, "book"), (Compensate, "book")] {
            let result = fake.ask(operation(kind, xid, &key(), name)).await;
            assert_eq!(result.outcome(), Outcome::Done, "{}", result.error);
            seen.push(counter.take());
        }
        let (_, xid) = context();
        let result = fake.ask(operation(Deliver, xid, &key(), "sell")).await;
        assert_eq!(result.outcome(), Outcome::Done, "{}", result.error);
        seen.push(counter.take());
        if round == 0 {
            // Now every statement is prepared.
            continue;
        }
        for (name, first, last) in [
            ("try", "insert", "WITH; COMMIT"),
            ("confirm", "take", "SELECT; COMMIT"),
            ("try", "insert", "WITH; COMMIT"),
            ("cancel", "take", "SELECT; COMMIT"),
            ("action", "insert", "WITH; COMMIT"),
            ("compensate", "take", "SELECT; COMMIT"),
            ("deliver", "insert", "SELECT; COMMIT"),
        ] {
            // The hooks have one statement.
            assert_eq!(seen.remove(0), ["BEGIN; SET; SET", first, "UPDATE", last], "{name}");
        }
    }
    assert_eq!(stock(direct.pool()).await, (96, 0, 4));
    participant.shutdown().await;
}
